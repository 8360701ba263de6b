"""Energy profile: how much of a filter bank lies along each principal component of the patches it sees."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from convscope.core.errors import ConvscopeError

if TYPE_CHECKING:
    from convscope.core.moment_values import PatchMoments

# A filter that moved less than this share of a typical one was not trained.
DEAD_SHARE = 1e-3
# Norms below this share of the largest are left out when the typical norm is taken, so that a bank whose filters
# are mostly dead still has a typical norm.
NEGLIGIBLE = 1e-6


@dataclass(frozen=True)
class EnergyProfile:
    """The energy of a filter bank along each principal component of its patches.

    Attributes:
        values: float64 [d], or [g, d] with groups: root mean square over filters of their coefficient along each
            principal component, in weight units (or normalised), by descending patch variance.
        filters: k, number of filters.
        dead: indices of the filters that are (nearly) zero: their norm is below a thousandth of the median.
        off_diagonal: float64 [] or [g]: Frobenius norm of the off-diagonal part of the bank's Gram matrix in the
            principal basis over that of its diagonal; what the profile does not see. About
            sqrt((d - 1) k / (k^2 + 2 k)) for Gaussian filters.
        participation: float64 [] or [g]: participation ratio tr(M)^2 / tr(M^2) of the Gram matrix, the effective
            number of directions that the bank spans, from 1 to d.
        subtracted: whether initial weights were subtracted.
        zero: whether the bank is zero (a frozen layer after subtraction); correlations are then undefined.
    """

    values: Tensor
    filters: int
    dead: tuple[int, ...]
    off_diagonal: Tensor
    participation: Tensor
    subtracted: bool
    zero: bool

    @property
    def effective_filters(self) -> int:
        """Number of filters that are not dead."""
        return self.filters - len(self.dead)


def energy_profile(
    weight: Tensor,
    moments: PatchMoments,
    init: Tensor | None = None,
    *,
    bn: tuple[Tensor, Tensor, float] | None = None,
    normalise: Literal["max", "l2"] | None = None,
    per_filter: bool = False,
) -> EnergyProfile:
    """Returns the energy profile ``e_i = sqrt(mean_k (w_k . u_i)^2)`` of a filter bank.

    u_i are the eigenvectors of the centred patch covariance by descending eigenvalue, whether or not the
    convolution has a bias. Chowers & Weiss (2023), Definition 2.2; their code divides by the maximum
    (``normalise="max"``) and subtracts the initial weights, which matters while training has moved the filters
    less than their initial length.

    Args:
        weight: [k, c / groups, q, r], the filters.
        moments: statistics of the patches that this convolution sees.
        init: the weights before training, same shape; subtracted when given. They must be this network's own:
            another draw leaves a flat floor.
        bn: (gamma [k], running variance [k], eps) of a batch norm that follows, to fold into the filters.
        normalise: "max" or "l2" divides the profile by its maximum or its Euclidean norm (per group).
        per_filter: whether to scale every filter that is not dead to unit length first: under batch norm the length
            of a filter means nothing, and long filters dominate otherwise.

    Returns:
        The profile. Where all weights are zero (a frozen layer) its values are zero and ``zero`` is set.

    Raises:
        ValueError: when shapes do not fit.
        ConvscopeError: when a weight is NaN or infinite.

    Example:
        >>> from convscope.core.moments import patch_moments
        >>> conv = torch.nn.Conv2d(3, 8, 3)
        >>> moments = patch_moments(torch.randn(4, 3, 8, 8), conv)
        >>> profile = energy_profile(conv.weight, moments)
        >>> profile.values.shape, profile.effective_filters
        (torch.Size([27]), 8)
    """
    bank, dead = filter_bank(weight, moments, init, bn=bn, per_filter=per_filter)
    basis = moments.eigenvectors
    grouped = basis.ndim == 3
    basis = basis if grouped else basis[None]
    coefficients = bank @ basis  # [g, k / g, d]
    values = (coefficients**2).mean(1).sqrt()
    if normalise is not None:
        values = _normalised(values, normalise)
    gram = coefficients.transpose(1, 2) @ coefficients
    diagonal = gram.diagonal(dim1=1, dim2=2)
    off = (gram - torch.diag_embed(diagonal)).flatten(1).norm(dim=1) / diagonal.norm(dim=1)
    participation = diagonal.sum(1) ** 2 / (gram**2).sum((1, 2))
    return EnergyProfile(
        values=values if grouped else values[0],
        filters=weight.shape[0],
        dead=dead,
        off_diagonal=off if grouped else off[0],
        participation=participation if grouped else participation[0],
        subtracted=init is not None,
        zero=not bool(bank.any()),
    )


def filter_bank(
    weight: Tensor,
    moments: PatchMoments,
    init: Tensor | None = None,
    *,
    bn: tuple[Tensor, Tensor, float] | None = None,
    per_filter: bool = False,
) -> tuple[Tensor, tuple[int, ...]]:
    """Returns the flattened filters of each group and the indices of the dead ones.

    Args:
        weight: [k, c / groups, q, r].
        moments: statistics of the patches that this convolution sees.
        init: weights to subtract, same shape.
        bn: (gamma [k], running variance [k], eps) to fold.
        per_filter: whether to scale every live filter to unit length.

    Returns:
        float64 [g, k / g, d], one row a filter in the order of ``weight.flatten(1)``; and the dead filters.

    Raises:
        ValueError: when shapes do not fit.
        ConvscopeError: when a weight is NaN or infinite.
    """
    _check_shape("weight", weight, moments)
    bank = weight.detach().to("cpu", torch.float64).flatten(1)
    if init is not None:
        if init.shape != weight.shape:
            raise ValueError(
                f"init has shape {tuple(init.shape)}, weight {tuple(weight.shape)}: hand in the same layer untrained"
            )
        bank = bank - init.detach().to("cpu", torch.float64).flatten(1)
    if bn is not None:
        gamma, running_var, eps = bn
        if gamma.shape != weight.shape[:1] or running_var.shape != weight.shape[:1]:
            raise ValueError(
                f"bn must hold gamma and running_var of shape [{weight.shape[0]}], "
                f"got {tuple(gamma.shape)} and {tuple(running_var.shape)}"
            )
        scale = gamma.detach().to("cpu", torch.float64) / (running_var.detach().to("cpu", torch.float64) + eps).sqrt()
        bank = bank * scale[:, None]
    if not bool(bank.isfinite().all()):
        raise ConvscopeError(
            f"{int((~bank.isfinite()).any(1).sum())} of {len(bank)} filters hold NaN or infinite weights, "
            "finite ones are expected: the training has diverged or the file is damaged"
        )
    norms = bank.norm(dim=1)
    live = norms > NEGLIGIBLE * norms.max()
    typical = norms[live].median() if bool(live.any()) else norms.new_tensor(1.0)
    dead = norms <= DEAD_SHARE * typical
    if per_filter:
        bank = torch.where(dead[:, None], 0.0, bank / norms[:, None])
    groups = moments.geometry.groups
    return bank.reshape(groups, len(bank) // groups, -1), tuple(torch.nonzero(dead)[:, 0].tolist())


def bank_gram(weight: Tensor, moments: PatchMoments, init: Tensor | None = None, *, per_filter: bool = False) -> Tensor:
    """Returns the Gram matrix ``M = W^T W / k`` of a filter bank in pixel coordinates.

    Args:
        weight: [k, c / groups, q, r].
        moments: statistics of the patches that this convolution sees.
        init: weights to subtract, same shape.
        per_filter: whether to scale every live filter to unit length.

    Returns:
        float64 [d, d], or [g, d, d] with groups; entry (a, b) is the mean over filters of w_a w_b.

    Raises:
        ValueError: when shapes do not fit.
        ConvscopeError: when a weight is NaN or infinite.

    Example:
        >>> from convscope.core.moments import patch_moments
        >>> conv = torch.nn.Conv2d(1, 4, 3)
        >>> bank_gram(conv.weight, patch_moments(torch.randn(4, 1, 8, 8), conv)).shape
        torch.Size([9, 9])
    """
    bank, _ = filter_bank(weight, moments, init, per_filter=per_filter)
    gram = bank.transpose(1, 2) @ bank / bank.shape[1]
    return gram if moments.covariance.ndim == 3 else gram[0]


def _check_shape(name: str, weight: Tensor, moments: PatchMoments) -> None:
    geometry = moments.geometry
    expected = (geometry.channels // geometry.groups, *geometry.kernel)
    if weight.ndim != 4 or tuple(weight.shape[1:]) != expected:
        raise ValueError(
            f"{name} has shape {tuple(weight.shape)} but the moments are of patches of shape {expected} "
            f"(channels / groups, height, width): take the moments for this convolution"
        )
    if weight.shape[0] == 0 or weight.shape[0] % geometry.groups:
        raise ValueError(f"{name} has {weight.shape[0]} filters, expected a multiple of {geometry.groups} groups")


def _normalised(values: Tensor, how: str) -> Tensor:
    if how not in {"max", "l2"}:
        raise ValueError(f"normalise must be None, 'max' or 'l2', got {how!r}")
    size = values.amax(-1, keepdim=True) if how == "max" else values.norm(dim=-1, keepdim=True)
    # A bank of zeros stays zero (and is flagged): it has no shape to normalise.
    return torch.where(size > 0, values / size, values)
