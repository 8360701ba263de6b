"""The subspaces that a convolution keeps at each frequency, and how those of neighbouring layers join."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from convscope.bottleneck.operators import ConvOperator
from convscope.bottleneck.rank import CbnRank
from convscope.core.errors import ConvscopeError

_BUDGET = 2**30  # bytes of one basis
_CHUNK = 2**26  # bytes of the blocks that are decomposed at once
STEADY = 0.05  # coefficient of variation below which a latent carries an offset
FAINT = 1e-3  # of the largest kept pair's variance, below which it does so


@dataclass(frozen=True, eq=False)
class KeptSpace:
    """Orthonormal bases of what an operator keeps of its input, or of its output, at each frequency.

    Attributes:
        basis: complex128 [f, a, c, r], one kept vector a column: a value for each of the a aliases that a strided
            convolution mixes, and each channel; columns beyond the number kept are zero.
        frequencies: int64 [f, a, 2], (ky, kx) of each alias, in cycles per image, up to multiples of the grid.
        multiplicity: int64 [f], real dimensions that a column stands for.
        grid: (h, w) on which these frequencies live.
    """

    basis: Tensor
    frequencies: Tensor
    multiplicity: Tensor
    grid: tuple[int, int]

    @property
    def rank(self) -> int:
        """Number of kept vectors, with multiplicity."""
        return int((self.widths * self.multiplicity).sum())

    @property
    def widths(self) -> Tensor:
        """Number of kept vectors at each frequency, int64 [f]; they come first."""
        return self.basis.abs().sum((1, 2)).gt(0).sum(1)


def kept_spaces(operator: ConvOperator, cbn: CbnRank) -> tuple[KeptSpace, KeptSpace]:
    """Returns the kept input space and the kept output space of a convolution.

    They are spanned by the singular vectors whose value exceeds half the level.

    Args:
        operator: the convolution.
        cbn: its rank.

    Raises:
        ValueError: when the rank is that of another operator.
        ConvscopeError: when the bases would take more than 1 GiB each.
    """
    frequencies, multiplicity = operator.half_plane
    if len(cbn.profile) != len(frequencies):
        raise ValueError(
            f"the rank has {len(cbn.profile)} frequencies, the operator {len(frequencies)}: hand in the rank of this "
            "operator's singular values"
        )
    r = int(cbn.profile.max())
    outputs, inputs = operator.block_shape
    largest = 16 * len(frequencies) * r * operator.groups * max(outputs, inputs)
    if largest > _BUDGET:
        raise ConvscopeError(
            f"the spaces that this layer keeps would take {largest / 2**30:.1f} GiB: analyse smaller images"
        )
    step = max(1, _CHUNK // (16 * operator.groups * outputs * inputs))
    parts = zip(frequencies.split(step), cbn.profile.split(step), strict=True)
    found = [_kept(operator.blocks(some), profile, r) for some, profile in parts]
    right, left = (torch.cat(part) for part in zip(*found, strict=True))  # [f, r, g, inputs], [f, r, g, outputs]
    rows, columns = operator.coarse
    s, t = operator.geometry.stride
    alias = torch.cartesian_prod(torch.arange(s) * rows, torch.arange(t) * columns).view(-1, 2)
    fine = frequencies[:, None] + alias
    # The operator's own input has the aliases, or the output of a transposed one.
    sides = []
    for basis, mixed in ((right, not operator.transposed), (left, operator.transposed)):
        places, grid = (fine, operator.grid) if mixed else (frequencies[:, None], operator.coarse)
        channels = basis.unflatten(3, (places.shape[1], -1)).permute(0, 3, 2, 4, 1).flatten(2, 3)
        sides.append(KeptSpace(channels.contiguous(), places, multiplicity, grid))
    return sides[0], sides[1]


def _kept(blocks: Tensor, profile: Tensor, r: int) -> tuple[Tensor, Tensor]:
    """Returns right and left kept vectors over all groups, complex128 [f, r, g, inputs] and [f, r, g, outputs]."""
    u, s, v = torch.linalg.svd(blocks, full_matrices=False)
    m = s.shape[2]
    order = s.flatten(1).argsort(descending=True)[:, :r]
    kept = torch.arange(r) < profile[:, None]
    frequency, group = torch.arange(len(s))[:, None], order // m
    sides = []
    for vectors in (v.conj(), u.mT):  # [f, g, m, side]; v holds the right vectors conjugated, in rows
        found = torch.zeros(len(s), r, s.shape[1], vectors.shape[3], dtype=vectors.dtype)
        found[frequency, torch.arange(r), group] = vectors[frequency, group, order % m] * kept[:, :, None]
        sides.append(found)
    return sides[0], sides[1]


def chain(left: KeptSpace, right: KeptSpace) -> float:
    """Returns how much of what one layer keeps of its output the next keeps of its input, or conversely; in [0, 1].

    Sum over frequencies of |V_out^* V_in|_F^2 with multiplicity, over the smaller of the two ranks: 1 where one space
    contains the other. A strided layer's input space is compared with that of all aliases. Where something between the
    layers changes the size of the maps, only frequencies below half a cycle per pixel of both are compared, and only
    those are counted. NaN where either space is empty, or where two layers mix different aliases.

    Args:
        left: kept output space of a layer.
        right: kept input space of the next.

    Raises:
        ValueError: when the channels differ.
    """
    if left.basis.shape[2] != right.basis.shape[2]:
        raise ValueError(
            f"the first space has {left.basis.shape[2]} channels, the second {right.basis.shape[2]}: hand in the "
            "output space of a layer and the input space of the one that takes its output"
        )
    if left.grid != right.grid:
        if max(left.basis.shape[1], right.basis.shape[1]) > 1:
            return math.nan
        limit = torch.tensor([min(a, b) for a, b in zip(left.grid, right.grid, strict=True)])
        left, right = (_where(s, (2 * s.frequencies[:, 0].abs() < limit).all(1)) for s in (left, right))
    smaller = min(left.rank, right.rank)
    if not smaller:
        return math.nan
    one, other = (left, right) if left.basis.shape[1] == 1 else (right, left)
    if one.basis.shape[1] == 1:
        inner = torch.einsum("facr,facs->fars", _lookup(one, other.frequencies).conj(), other.basis).flatten(1)
    elif torch.equal(one.frequencies, other.frequencies):
        inner = torch.einsum("facr,facs->frs", one.basis.conj(), other.basis).flatten(1)
    else:
        return math.nan
    return min(float((inner.abs().square().sum(1) * other.multiplicity).sum()) / smaller, 1.0)


def _where(space: KeptSpace, chosen: Tensor) -> KeptSpace:
    return replace(
        space,
        basis=space.basis[chosen],
        frequencies=space.frequencies[chosen],
        multiplicity=space.multiplicity[chosen],
    )


def _lookup(space: KeptSpace, frequencies: Tensor) -> Tensor:
    """Returns the basis of a space without aliases at any frequencies [f, a, 2], complex128 [f, a, c, r]."""
    h, w = space.grid
    size = torch.tensor([h, w])

    def place(frequency: Tensor) -> Tensor:
        return (frequency % size * torch.tensor([w, 1])).sum(-1)

    own = space.frequencies[:, 0]
    table, number = torch.full((h * w,), -1), torch.arange(len(own))
    # Of a conjugate pair only one is stored; the other's vectors are the conjugate ones.
    table[place(-own)] = number
    conjugate = torch.ones(h * w, dtype=torch.bool)
    table[place(own)] = number
    conjugate[place(own)] = False
    wanted = place(frequencies)
    found = space.basis[table[wanted], 0]
    return torch.where(conjugate[wanted][..., None, None], found.conj(), found)


def outside(space: KeptSpace, moments: Tensor) -> float:
    """Returns the share of a representation's centred energy that lies outside a kept output space; NaN without energy.

    Near 0 where the bottleneck of the weights is one of the activations too.

    Args:
        space: kept output space of the layer, without aliases.
        moments: complex128 [f, k, k], covariance of the pre-activation's coefficients at each frequency, in order.

    Raises:
        ValueError: when shapes do not fit.
    """
    basis = _plain_basis(space, moments)
    inside = torch.einsum("fkr,fkl,flr->f", basis.conj(), moments, basis).real
    total = moments.diagonal(dim1=1, dim2=2).sum(1).real
    whole = float((total * space.multiplicity).sum())
    return max(1 - float((inside * space.multiplicity).sum()) / whole, 0.0) if whole > 0 else math.nan


def offset_carriers(space: KeptSpace, moments: Tensor, mean: Tensor) -> int:
    """Returns how many kept pairs of frequency 0 say nothing about the image: they carry an offset.

    A ReLU passes only what is positive, so that a varying pair may need a constant beside it. A pair carries such an
    offset where its latent's standard deviation is below 5 % of its mean, or its variance below 1e-3 of the largest
    kept one's. Of several pairs at frequency 0, the combinations whose latents are uncorrelated are tested, for
    singular vectors of nearly equal values are arbitrary. The rank less these is the informative rank (ours).

    Args:
        space: kept output space of the layer, without aliases.
        moments: complex128 [f, k, k], covariance of the pre-activation's coefficients at each frequency, in order.
        mean: [f, k], their mean.

    Raises:
        ValueError: when shapes do not fit.
    """
    basis = _plain_basis(space, moments)
    if mean.shape != moments.shape[:2]:
        raise ValueError(f"expected a mean of shape {list(moments.shape[:2])}, got {list(mean.shape)}")
    largest = float(torch.linalg.eigvalsh(basis.mH @ moments @ basis).max()) if basis.shape[2] else 0.0
    zero = int((space.frequencies[:, 0] == 0).all(1).nonzero()[0, 0])
    own = basis[zero][:, : int(space.widths[zero])]  # kept columns come first
    variance, axes = torch.linalg.eigh(own.mH @ moments[zero] @ own)
    at = (axes.mH @ own.mH @ mean[zero].to(own.dtype)).abs()
    variance = variance.clamp(min=0)
    return int(((variance.sqrt() < STEADY * at) | (variance < FAINT * largest)).sum())


def _plain_basis(space: KeptSpace, moments: Tensor) -> Tensor:
    f, a, c, _ = space.basis.shape
    if a != 1 or moments.shape != (f, c, c):
        raise ValueError(
            f"expected moments of shape {[f, c, c]} of a layer whose output has no aliases, got "
            f"{list(moments.shape)} and {a} aliases"
        )
    return space.basis[:, 0]
