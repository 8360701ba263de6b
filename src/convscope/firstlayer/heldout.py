"""Tests of the prediction that a smooth bump in the component's index cannot pass by its shape alone."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from convscope.core.errors import ConvscopeError
from convscope.core.geometry import ConvGeometry
from convscope.firstlayer.baselines import fit_bump, score
from convscope.firstlayer.components import Covariance, checked_profile, kept, variances
from convscope.firstlayer.fit import GRID, best_tau, curve_family
from convscope.firstlayer.prediction import predict_energy_profile
from convscope.firstlayer.profile import EnergyProfile

if TYPE_CHECKING:
    from convscope.core.moment_values import PatchMoments


@dataclass(frozen=True)
class HeldOut:
    """Correlations on components that the fit has not seen.

    Attributes:
        scores: name ("formula", "index bump", "eigenvalue curve", "inverse eigenvalue curve", "linear ramp") to
            (correlation, correlation of logarithms): fitted on the odd components (1st, 3rd, ...), scored on the even.
        swapped: the same, fitted on the even components and scored on the odd.
        tau: fitted on the odd components; NaN where they are flat.
    """

    scores: Mapping[str, tuple[float, float]]
    swapped: Mapping[str, tuple[float, float]]
    tau: float


def held_out_components(
    profile: EnergyProfile | Tensor, moments: PatchMoments, *, covariance: Covariance | Tensor = "patch"
) -> HeldOut:
    """Returns how prediction and baselines score on components that they were not fitted to.

    tau, and the bump's centre and width, are fitted on every other component and scored on the rest.

    Args:
        profile: measured energies, [d] or [g, d].
        moments: statistics of the patches that the convolution sees.
        covariance: what the prediction is made from, as in ``fit_energy_profile``.

    Returns:
        The correlations; NaN where fewer than two components are left or the profile is flat.

    Raises:
        TypeError: when the profile is neither an EnergyProfile nor a tensor.
        ValueError: when shapes do not fit or ``covariance`` is unknown.
        ConvscopeError: when the profile holds NaN.

    Example:
        >>> from convscope.core.moments import patch_moments
        >>> moments = patch_moments(torch.randn(16, 3, 12, 12).cumsum(2).cumsum(3), torch.nn.Conv2d(3, 8, 3))
        >>> planted = predict_energy_profile(moments.eigenvalues, 50 / moments.eigenvalues[0])
        >>> round(held_out_components(planted, moments).scores["formula"][0], 6)
        1.0
    """
    eigenvalues = variances(moments.eigenvalues)
    values = checked_profile(profile, eigenvalues.shape)
    index = torch.arange(eigenvalues.shape[-1]).expand(eigenvalues.shape)
    odd = (index % 2 == 0) & kept(eigenvalues)  # components are counted from 1
    even = (index % 2 == 1) & kept(eigenvalues)
    scores, tau = _transfer(values, moments, covariance, odd, even)
    swapped, _ = _transfer(values, moments, covariance, even, odd)
    return HeldOut(scores, swapped, tau)


@dataclass(frozen=True)
class PatchScaling:
    """Which spectrum explains a network that was trained on patches with one component scaled.

    Attributes:
        component: index of the scaled component, from 0.
        factor: alpha.
        new: (correlation, log correlation) of the formula with the scaled eigenvalue.
        old: of the formula with the original eigenvalue.
        bump: of the best Gaussian bump in index.
        residual_new: natural logarithm of measured energy over fitted curve at the scaled component.
        residual_old: the same for the formula with the original eigenvalue.
        residual_bump: the same for the bump.
        tau: fitted with the scaled eigenvalue.
    """

    component: int
    factor: float
    new: tuple[float, float]
    old: tuple[float, float]
    bump: tuple[float, float]
    residual_new: float
    residual_old: float
    residual_bump: float
    tau: float


def score_patch_scaling(
    profile: EnergyProfile | Tensor, moments: PatchMoments, component: int, factor: float
) -> PatchScaling:
    """Returns how well the formula with new and old eigenvalues, and a bump, fit a network trained on scaled patches.

    Chowers & Weiss (2023), appendix D.2: multiplying the coefficient of every patch along u_t by alpha makes
    lam_t into alpha lam_t (variance times alpha^2) and leaves the other eigenvalues and all eigenvectors.
    Each curve has its own best fit.

    Args:
        profile: energies [d] of the network trained on scaled patches, in the basis of the *original* moments.
        moments: statistics of the original patches (one group).
        component: t, from 0.
        factor: alpha.

    Returns:
        Scores over all components and residuals at the scaled one; NaN where the profile is flat.

    Raises:
        TypeError: when the profile is neither an EnergyProfile nor a tensor.
        ValueError: when shapes do not fit, the convolution has groups, or there is no such component.
        ConvscopeError: when the profile holds NaN.

    Example:
        >>> from convscope.core.moments import patch_moments
        >>> moments = patch_moments(torch.randn(16, 3, 12, 12).cumsum(2).cumsum(3), torch.nn.Conv2d(3, 8, 3))
        >>> scaled = moments.eigenvalues.clone()
        >>> scaled[9] *= 9.0
        >>> result = score_patch_scaling(predict_energy_profile(scaled, 50 / scaled[0]), moments, 9, 3.0)
        >>> round(result.new[0], 6), result.new[0] > result.old[0]
        (1.0, True)
    """
    old = variances(moments.eigenvalues)
    if old.ndim != 1:
        raise ValueError("patch scaling is defined for a convolution with one group, got moments of several")
    if not 0 <= component < len(old):
        raise ValueError(f"component must lie in 0 .. {len(old) - 1}, got {component}")
    values = checked_profile(profile, old.shape)
    new = old.clone()
    new[component] *= factor**2
    keep = kept(old)
    if not bool(keep[component]):
        raise ValueError(f"component {component} has no variance: scale another")
    energies = values[keep]
    at = int(keep[:component].sum())

    def fitted(lam2: Tensor) -> tuple[float, Tensor]:
        tau, _ = best_tau(energies, lambda t: predict_energy_profile(lam2[keep], t), GRID / float(lam2.max()))
        if math.isnan(tau):
            return tau, torch.full_like(energies, torch.nan)
        return tau, predict_energy_profile(lam2[keep], tau).log()

    tau, curve_new = fitted(new)
    _, curve_old = fitted(old)
    index = torch.arange(len(old))[keep]
    curve_bump = fit_bump(energies, index).log_values(index)
    return PatchScaling(
        component=component,
        factor=factor,
        new=score(energies, curve_new),
        old=score(energies, curve_old),
        bump=score(energies, curve_bump),
        residual_new=_residual(energies, curve_new, at),
        residual_old=_residual(energies, curve_old, at),
        residual_bump=_residual(energies, curve_bump, at),
        tau=tau,
    )


def scale_patches(
    images: Tensor, geometry: ConvGeometry, direction: Tensor, factor: float
) -> tuple[Tensor, ConvGeometry]:
    """Returns images made of the patches ``p + (alpha - 1) (u . p) u`` side by side, and the geometry that reads them.

    Overlapping patches cannot be scaled one by one inside an image, so each is laid out as its own tile and the
    convolution gets a stride equal to its kernel. Chowers & Weiss (2023), appendix D.2.

    Args:
        images: [n, c, h, w] as the convolution sees them before its padding.
        geometry: the convolution, with one group.
        direction: [d], u, of unit length, in the order of ``weight.flatten(1)``.
        factor: alpha.

    Returns:
        Images [n, c, q h', r w'] of the same dtype, and the geometry with stride = kernel, no padding or dilation.

    Raises:
        ValueError: when the convolution has groups or shapes do not fit.
        ConvscopeError: when the images are smaller than the kernel.

    Example:
        >>> u = torch.eye(9)[0]
        >>> tiled, geometry = scale_patches(torch.randn(2, 1, 6, 6), ConvGeometry(1, (3, 3)), u, 3.0)
        >>> tiled.shape, geometry.stride
        (torch.Size([2, 1, 12, 12]), (3, 3))
    """
    if geometry.groups != 1:
        raise ValueError(f"patch scaling is defined for a convolution with one group, got {geometry.groups}")
    if direction.shape != (geometry.patch_dim,):
        raise ValueError(f"direction has shape {tuple(direction.shape)}, expected ({geometry.patch_dim},)")
    (q, r), (rows, columns) = geometry.kernel, geometry.output_size(*images.shape[2:])
    if min(rows, columns) < 1:
        raise ConvscopeError(
            f"images of {images.shape[2]} x {images.shape[3]} pixels hold no patch: hand in larger images"
        )
    u = direction.to(images)
    patches = F.unfold(geometry.pad(images), (q, r), dilation=geometry.dilation, stride=geometry.stride)
    patches = patches + (factor - 1) * u[:, None] * torch.einsum("d,ndp->np", u, patches)[:, None]
    tiled = F.fold(patches, (q * rows, r * columns), (q, r), stride=(q, r))
    return tiled, ConvGeometry(geometry.channels, (q, r), stride=(q, r))


def _transfer(
    values: Tensor, moments: PatchMoments, covariance: Covariance | Tensor, seen: Tensor, unseen: Tensor
) -> tuple[dict[str, tuple[float, float]], float]:
    nan = math.nan, math.nan
    if int(seen.sum()) < 2 or int(unseen.sum()) < 2:
        names = ("formula", "index bump", "eigenvalue curve", "inverse eigenvalue curve", "linear ramp")
        return dict.fromkeys(names, nan), math.nan
    family, largest = curve_family(moments, covariance)
    tau, _ = best_tau(values[seen], lambda t: family(t)[:, seen], GRID / largest)
    lam2 = variances(moments.eigenvalues)[unseen]
    index = torch.arange(values.shape[-1], dtype=torch.float64).expand(values.shape)
    bump = fit_bump(values[seen], index[seen])
    curves = {
        "index bump": bump.log_values(index[unseen]),
        "eigenvalue curve": lam2.log() / 2,
        "inverse eigenvalue curve": -lam2.log() / 2,
        "linear ramp": (values.shape[-1] - index[unseen]).log(),
    }
    formula = nan
    if not math.isnan(tau):
        formula = score(values[unseen], family(torch.tensor([tau], dtype=torch.float64))[0][unseen].log())
    return {"formula": formula} | {name: score(values[unseen], curve) for name, curve in curves.items()}, tau


def _residual(energies: Tensor, log_curve: Tensor, at: int) -> float:
    curve = log_curve.exp()
    scale = (energies @ curve) / (curve @ curve)
    return float((energies[at] / scale).log() - log_curve[at])
