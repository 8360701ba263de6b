"""Principal components: which of them count, which cannot be told apart, and how two profiles over them compare."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from convscope.core.errors import ConvscopeError
from convscope.firstlayer.profile import EnergyProfile

if TYPE_CHECKING:
    from convscope.core.moment_values import PatchMoments

# Below this share of the largest variance an eigenvalue is rounding noise: 1 / lam diverges there.
NULL_SHARE = 1e-10
# Neighbours whose variances differ by less than this ratio mix freely between two sets of images.
DEGENERATE_RATIO = 0.9

Covariance = Literal["patch", "average"]


def variances(eigenvalues: Tensor) -> Tensor:
    """Returns eigenvalues as float64 with rounding errors below zero set to zero.

    Args:
        eigenvalues: [..., d], the patch variances lam^2.

    Raises:
        ValueError: when one is NaN or infinite, or negative beyond rounding.
    """
    lam2 = torch.as_tensor(eigenvalues).detach().to(torch.float64)
    if lam2.ndim == 0 or lam2.shape[-1] == 0:
        raise ValueError(f"eigenvalues must have at least one component, got shape {tuple(lam2.shape)}")
    if not bool(lam2.isfinite().all()):
        raise ValueError("eigenvalues must be finite variances, got NaN or infinity: check the images for such pixels")
    largest = float(lam2.abs().max())
    if float(lam2.min()) < -1e-8 * largest:
        raise ValueError(
            f"eigenvalues must be variances (not negative), got {float(lam2.min()):.3g}: hand in moments.eigenvalues"
        )
    return lam2.clamp(min=0.0)


def modes(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Returns eigenvalues [..., d], rounding below zero removed, and eigenvectors of a covariance, in float64.

    Raises:
        ValueError: when the matrix holds NaN, or is negative beyond the rounding of single precision.
    """
    if not bool(matrix.isfinite().all()):
        raise ValueError("expected a finite covariance, got NaN or infinity: check the images for such pixels")
    values, vectors = torch.linalg.eigh(matrix.detach().to(torch.float64))
    if float(values.min()) < -1e-4 * float(values.abs().max()):
        raise ValueError(
            f"expected a positive semi-definite matrix, got eigenvalues from {float(values.min()):.3g} to "
            f"{float(values.max()):.3g}: hand in a covariance"
        )
    return values.clamp(min=0.0), vectors


def kept(eigenvalues: Tensor) -> Tensor:
    """Returns bool [...d]: which components have variance above 1e-10 of the largest (over all groups).

    The others (constant border pixels, gray images in three equal channels) hold rounding noise only.
    """
    lam2 = variances(eigenvalues)
    return lam2 > NULL_SHARE * lam2.max()


def degenerate_groups(*eigenvalues: Tensor) -> Tensor:
    """Returns int64 [d], the group of each component: neighbours with nearly equal variance share one.

    Eigenvectors of nearly equal eigenvalues are arbitrary within their span, so only the energy of the span can be
    compared between two sets of images.

    Args:
        eigenvalues: one or several float tensors [d], descending; two neighbours are joined when
            ``lam2[i + 1] / lam2[i] > 0.9`` in any of them.

    Example:
        >>> degenerate_groups(torch.tensor([8.0, 4.0, 3.9, 1.0])).tolist()
        [0, 1, 1, 2]
    """
    joined = torch.zeros(eigenvalues[0].shape[-1] - 1, dtype=torch.bool)
    for values in eigenvalues:
        lam2 = variances(values)
        joined |= (lam2[1:] > DEGENERATE_RATIO * lam2[:-1]).cpu()
    return torch.cat([torch.zeros(1, dtype=torch.int64), (~joined).cumsum(0)])


def group_energy(values: Tensor, groups: Tensor) -> Tensor:
    """Returns the root mean square of a profile [..., d] inside each group, as [..., number of groups]."""
    energy = values.to(torch.float64) ** 2
    total = torch.zeros(*energy.shape[:-1], int(groups.max()) + 1, dtype=torch.float64)
    sizes = torch.bincount(groups).to(torch.float64)
    return (total.index_add(-1, groups, energy) / sizes).sqrt()


def checked_profile(profile: object, shape: torch.Size) -> Tensor:
    """Returns the values of an EnergyProfile or tensor as float64, of the shape that the moments' eigenvalues have.

    Raises:
        TypeError: when it is neither.
        ValueError: when the shape differs.
        ConvscopeError: when a value is NaN, infinite or negative.
    """
    values = profile.values if isinstance(profile, EnergyProfile) else profile
    if not isinstance(values, Tensor):
        raise TypeError(f"expected an EnergyProfile or a tensor, got {type(profile).__name__}: use energy_profile(...)")
    values = values.detach().to(torch.float64).cpu()
    if values.shape != shape:
        raise ValueError(
            f"the profile has shape {tuple(values.shape)} but the moments have {tuple(shape)} components: "
            "take both for the same convolution"
        )
    if not bool(values.isfinite().all()) or bool((values < 0).any()):
        raise ConvscopeError(
            "the energy profile holds NaN, infinite or negative values where finite root-mean-square energies are "
            "expected: check the weights"
        )
    return values


def covariance_of(moments: PatchMoments, covariance: Covariance | Tensor) -> Tensor:
    """Returns the matrix that drives learning, float64 [d, d] ([g, d, d] with groups).

    Args:
        moments: patch statistics.
        covariance: "patch" (all patches; right where the back-propagated signal is spatially decorrelated),
            "average" (of the average patch of each image; exact for a linear CNN with global average pooling),
            or a matrix of the caller's, such as ``signal_matrix(...)``.

    Raises:
        ValueError: for another name, or a matrix of another shape.
    """
    if isinstance(covariance, Tensor):
        if covariance.shape != moments.covariance.shape:
            raise ValueError(
                f"covariance has shape {tuple(covariance.shape)}, the moments {tuple(moments.covariance.shape)}"
            )
        return covariance.detach().to(torch.float64)
    if covariance == "patch":
        return moments.covariance
    if covariance == "average":
        return moments.average_patch_covariance
    raise ValueError(f"covariance must be 'patch', 'average' or a matrix, got {covariance!r}")
