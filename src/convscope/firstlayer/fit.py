"""Fit of the predicted energy profile to a measured one, over the single parameter tau."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from convscope.core.errors import ConvscopeError
from convscope.core.similarity import pearson, standardised
from convscope.firstlayer.baselines import (
    Null,
    baseline_scores,
    fitted_null,
    permuted_profiles,
    random_profiles,
    score,
)
from convscope.firstlayer.components import (
    Covariance,
    checked_profile,
    covariance_of,
    degenerate_groups,
    group_energy,
    kept,
    variances,
)
from convscope.firstlayer.prediction import (
    matrix_modes,
    predict_energy_profile,
    predict_from_modes,
    tau_at_peak,
    whitened_dimension,
)
from convscope.firstlayer.profile import EnergyProfile

if TYPE_CHECKING:
    from convscope.core.moment_values import PatchMoments

# A profile that a bare eigenvalue curve fits within this correlation says nothing about tau.
IDENTIFIED_MARGIN = 0.02
# tau * lam_1^2 from 1e-2 (nothing learned but lam) to 1e6 (all components of a usual spectrum whitened).
GRID = torch.logspace(-2, 6, 600, dtype=torch.float64)


@dataclass(frozen=True)
class ProfileFit:
    """The best prediction for a measured energy profile, and how much that means.

    Attributes:
        tau: fitted training time, in units of 1 / lam^2; NaN where the profile is flat.
        age: tau times the largest eigenvalue: the same without units.
        tau_identified: False at the grid's edge, and where the bare eigenvalue curve or its inverse correlates as
            well within 0.02; tau then means nothing.
        at_edge: whether tau lies at an end of the grid (age 0.01 or 1e6).
        correlation: Pearson correlation of profile and prediction over the components that have variance; NaN for
            a flat profile.
        log_correlation: the same of their logarithms, which the weak components also decide.
        grouped_correlation: correlation after averaging energies among components of nearly equal variance, whose
            eigenvectors are arbitrary; NaN with groups of channels.
        relative_rmse: root mean square deviation of the scaled prediction over that of the profile from zero.
        curve: float64 [d] or [g, d], the prediction scaled to the profile by least squares.
        baselines: name to (correlation, log correlation) of curves that know nothing of the theory.
        nulls: "random filters" (banks of as many filters; only where that number is known) and "permuted
            components": the correlation that the same fit gives them.
        whitened_dimension: number of components that are whitened at tau.
        tau_peak: fit-free estimate 1.25643 / lam^2 at the largest energy.
        independent_outputs: nu = 2 / var(e^2 / fit^2), the number of independent outputs that would scatter the
            profile about the curve as much as it does.
        covariance: "patch", "average" or "matrix": what the prediction was made from.
        components: number of components that entered.
    """

    tau: float
    age: float
    tau_identified: bool
    at_edge: bool
    correlation: float
    log_correlation: float
    grouped_correlation: float
    relative_rmse: float
    curve: Tensor
    baselines: Mapping[str, tuple[float, float]]
    nulls: Mapping[str, Null]
    whitened_dimension: float
    tau_peak: float
    independent_outputs: float
    covariance: str
    components: int


def fit_energy_profile(
    profile: EnergyProfile | Tensor, moments: PatchMoments, *, covariance: Covariance | Tensor = "patch"
) -> ProfileFit:
    """Returns the prediction of Chowers & Weiss (2023), Theorem 4.2, that correlates best with a measured profile.

    tau is searched on 600 values of tau lam_1^2 from 1e-2 to 1e6 and refined. Components with variance below 1e-10
    of the largest are left out. A correlation of 0.9 is weak evidence: compare it with ``baselines`` and ``nulls``.
    With groups of channels one tau and one scale serve all groups.

    Args:
        profile: measured energies, [d] or [g, d], in the basis of ``moments.eigenvectors``.
        moments: statistics of the patches that the convolution sees.
        covariance: "patch" predicts from the eigenvalues; "average" from the average-patch covariance, right for
            shallow networks with global average pooling; a matrix [d, d] such as ``signal_matrix(...)`` from itself.

    Returns:
        The fit.

    Raises:
        TypeError: when the profile is neither an EnergyProfile nor a tensor.
        ValueError: when shapes do not fit or ``covariance`` is unknown.
        ConvscopeError: when the profile holds NaN or the images have no variance.

    Example:
        >>> from convscope.core.moments import patch_moments
        >>> images = torch.randn(16, 3, 12, 12).cumsum(2).cumsum(3)  # smooth, so that variances differ
        >>> moments = patch_moments(images, torch.nn.Conv2d(3, 8, 3))
        >>> planted = predict_energy_profile(moments.eigenvalues, 50 / moments.eigenvalues[0])
        >>> fit = fit_energy_profile(planted, moments)
        >>> round(fit.age, 3), round(fit.correlation, 6)
        (50.0, 1.0)
    """
    eigenvalues = variances(moments.eigenvalues)
    values = checked_profile(profile, eigenvalues.shape)
    keep = kept(eigenvalues)
    if not bool(keep.any()):
        raise ConvscopeError(
            "the patches have no variance: every image is constant where varied images are expected; hand in others"
        )
    energies, lam2 = values[keep], eigenvalues[keep]
    family, scale = curve_family(moments, covariance)
    grid = GRID / scale
    curves = family(grid)[:, keep]
    tau, at_edge = best_tau(energies, lambda t: family(t)[:, keep], grid)
    flat = math.isnan(tau)
    shape = torch.full_like(values, torch.nan) if flat else family(torch.tensor([tau], dtype=torch.float64))[0]
    curve = shape * (energies @ shape[keep]) / (shape[keep] @ shape[keep])
    r, log_r = score(energies, shape[keep].log())
    baselines = baseline_scores(values, eigenvalues)
    limits = [baselines["eigenvalue curve"][0], baselines["inverse eigenvalue curve"][0]]
    if isinstance(covariance, Tensor) or covariance != "patch":
        limits += pearson(curves[[0, -1]], energies).tolist()
    nulls = {"permuted components": fitted_null(permuted_profiles(energies), curves)}
    if isinstance(profile, EnergyProfile):
        nulls["random filters"] = fitted_null(
            random_profiles(profile.filters // moments.geometry.groups, len(energies)), curves
        )
    ratio = energies**2 / curve[keep] ** 2
    return ProfileFit(
        tau=tau,
        age=tau * scale,
        tau_identified=not (flat or at_edge) and r - max(limits) >= IDENTIFIED_MARGIN,
        at_edge=at_edge,
        correlation=r,
        log_correlation=log_r,
        grouped_correlation=_grouped(energies, shape[keep], lam2) if values.ndim == 1 else math.nan,
        relative_rmse=float((energies - curve[keep]).norm() / energies.norm()),
        curve=curve,
        baselines=baselines,
        nulls=nulls,
        whitened_dimension=whitened_dimension(lam2, tau),
        tau_peak=math.nan if flat else tau_at_peak(energies, lam2),
        independent_outputs=float(2 * ratio.mean() ** 2 / ratio.var(correction=0)),
        covariance=covariance if isinstance(covariance, str) else "matrix",
        components=len(energies),
    )


def curve_family(moments: PatchMoments, covariance: Covariance | Tensor) -> tuple[Callable[[Tensor], Tensor], float]:
    """Returns the predictions as a function of tau, [..., d] or [..., g, d] for tau [...], and the largest eigenvalue.

    Raises:
        ValueError: for an unknown covariance, or one without variance.
    """
    matrix = covariance_of(moments, covariance)
    grouped = matrix.ndim == 3
    if isinstance(covariance, str) and covariance == "patch":
        lam2 = variances(moments.eigenvalues)
        scale = float(lam2.max())
        if grouped:
            return lambda tau: predict_energy_profile(lam2, tau[..., None]), scale
        return lambda tau: predict_energy_profile(lam2, tau), scale
    mu, overlap = matrix_modes(matrix, moments.eigenvectors)
    return lambda tau: predict_from_modes(mu, overlap, tau), float(mu.max())


def best_tau(energies: Tensor, family: Callable[[Tensor], Tensor], grid: Tensor) -> tuple[float, bool]:
    """Returns the tau whose curve correlates best with energies [n], and whether it lies at the grid's edge.

    Args:
        energies: [n].
        family: maps tau [t] to curves [t, n].
        grid: [t], ascending values of tau to search; the best is refined between its neighbours.

    Returns:
        (tau, at edge); (NaN, False) where the energies are flat.
    """
    if bool(standardised(energies).isnan().any()):
        return math.nan, False
    top = _argmax(family, energies, grid)
    at_edge = top in {0, len(grid) - 1}
    for _ in range(4):
        ends = grid[max(top - 1, 0)], grid[min(top + 1, len(grid) - 1)]
        grid = torch.logspace(float(ends[0].log10()), float(ends[1].log10()), 33, dtype=torch.float64)
        top = _argmax(family, energies, grid)
    return float(grid[top]), at_edge


def _argmax(family: Callable[[Tensor], Tensor], energies: Tensor, grid: Tensor) -> int:
    # A curve that is flat over the components has no correlation and cannot be the best.
    return int(pearson(family(grid), energies).nan_to_num(nan=-2.0).argmax())


def _grouped(energies: Tensor, curve: Tensor, lam2: Tensor) -> float:
    groups = degenerate_groups(lam2)
    return float(pearson(group_energy(energies, groups), group_energy(curve, groups)))
