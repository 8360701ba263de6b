"""How alike the neural feature matrix ``W^T W`` and the patch AGOP ``W^T S W`` are, without a matrix of size d x d.

Beaglehole et al. (2023), arXiv 2309.00570. The filters of a convolution are ``weight`` [g, k, d]: g groups, k filters
in each, d entries of a patch; g = 1 without groups. ``gram`` [g, k, k] is S, the second moment of the gradients at
the convolution's output. With groups both matrices are block diagonal, and only the g * d * d entries of the blocks
count.

Both matrices live in the span of the k filters, so coordinates in that span (a QR factorisation) say all there is.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import cached_property
from typing import Literal, get_args

import torch
from torch import Tensor

from convscope.ansatz.forms import (
    NULL_SHARE,
    NullKind,
    check_choice,
    filters_of,
    leading,
    sandwich,
    small_agop,
    stack_of,
    turned_agops,
)
from convscope.core.similarity import FLAT

Kind = Literal["pearson", "cosine"]


class Comparison:
    """The filters of one convolution, prepared to be compared with any number of Gram matrices S.

    Args:
        weight: [g, k, d], W: one filter a row.
        others: each [g, j, d], what may take the place of W in ``W^T W``, such as the change of W since
            initialisation. The number of filters j is free.

    Attributes:
        filters: float64 [g, k, s], W in coordinates of an orthonormal basis, s at most k + 1, whose first vector is
            constant.
        nfm: ``W^T W`` in these coordinates.
        left: for W and then for each of the others, by kind of correlation: float64 [g, s, s], its ``W^T W`` in these
            coordinates, centred for "pearson" and divided by its norm over all groups; NaN where it is flat.

    Raises:
        ValueError: when shapes do not fit or values are not finite.

    Example:
        >>> comparison = Comparison(torch.tensor([[[1.0, 0.0], [0.0, 1.0]]]))
        >>> gram = torch.diag(torch.tensor([3.0, 4.0]))[None]
        >>> round(comparison.correlation(gram, "cosine"), 6)  # 7 / (sqrt(2) * 5)
        0.989949
    """

    def __init__(self, weight: Tensor, *others: Tensor) -> None:
        w = filters_of(weight)
        g, k, d = w.shape
        rows = [w.new_full((g, 1, d), d**-0.5), w]
        for other in others:
            rows.append(stack_of("other", other, "[g, j, d]").to(w.device))
            if (rows[-1].shape[0], rows[-1].shape[2]) != (g, d):
                raise ValueError(
                    f"other must have the groups and patch entries of weight, [{g}, j, {d}], got {tuple(other.shape)}"
                )
        # A basis of the span of (1, ..., 1), the filters and the others, in this order: so the mean of a block is in
        # its entry [0, 0], and the AGOP in its leading block of size s = min(d, 1 + k).
        coordinates = torch.linalg.qr(torch.cat(rows, 1).mT, mode="r").R.mT
        _, *parts = coordinates.split([len(row[0]) for row in rows], 1)
        size = min(d, 1 + k)
        self.filters = parts[0][..., :size].contiguous()
        self.nfm = Matrices(self, sandwich(self.filters, None)[None])
        self.left = [
            {
                kind: _standardise_(sandwich(part, None)[None], kind)[0, :, :size, :size].contiguous()
                for kind in get_args(Kind)
            }
            for part in parts
        ]

    def agop(self, gram: Tensor) -> Matrices:
        """Returns ``W^T S W``, in coordinates.

        Args:
            gram: [g, k, k], S, symmetric and positive semi-definite.

        Raises:
            ValueError: when S does not fit the filters, is not finite or no Gram matrix.
        """
        return Matrices(self, small_agop(self.filters, gram)[0][None])

    def turned(self, gram: Tensor, null: NullKind = "haar", *, draws: int = 100, seed: int = 0) -> Iterator[Matrices]:
        """Yields ``W^T Q S Q^T W``, some draws of Q at a time: the gradients' directions are lost.

        S keeps its eigenvalues. The more filters, the less the draws differ: the standard deviation of their
        correlations falls like 1 / k, so that wide layers need few draws.

        Args:
            gram: [g, k, k], S, symmetric and positive semi-definite.
            null: a random rotation Q for each group ("haar"), or a random permutation of each group's output channels
                ("permuted").
            draws: number of random Q, at least 1; more draws begin with the same ones.
            seed: of the random numbers, which are the method's own.

        Raises:
            ValueError: as ``agop``, and for an unknown null or fewer than one draw.
        """
        check_choice("null", null, NullKind)
        for blocks in turned_agops(self.filters, gram, null, draws, seed):
            yield Matrices(self, blocks)

    def correlation(self, gram: Tensor, kind: Kind = "pearson", power: float = 1.0, of: int = 0) -> float:
        """Returns the correlation of ``W^T W`` with ``(W^T S W)^power``; see ``Matrices.correlations``.

        Args:
            gram: as for ``agop``.
            kind: "pearson" or "cosine".
            power: exponent of the AGOP, positive.
            of: number of the other that takes the place of W; 0 for W itself.
        """
        return float(self.agop(gram).correlations(kind, power, of))

    def null(
        self,
        gram: Tensor,
        *,
        kind: Kind = "pearson",
        power: float = 1.0,
        of: int = 0,
        null: NullKind = "haar",
        draws: int = 100,
        seed: int = 0,
    ) -> Tensor:
        """Returns what ``correlation`` gives when the gradients' directions have nothing to do with the filters.

        Args:
            gram: as for ``agop``.
            kind: as for ``correlation``.
            power: as for ``correlation``.
            of: as for ``correlation``.
            null: as for ``turned``.
            draws: as for ``turned``.
            seed: as for ``turned``.

        Returns:
            float64 [draws], on the CPU, each in [-1, 1] or NaN.

        Example:
            >>> comparison = Comparison(torch.tensor([[[1.0, 0.0], [0.0, 2.0]]]))
            >>> comparison.null(torch.eye(2)[None], draws=3).round(decimals=12)
            tensor([1., 1., 1.], dtype=torch.float64)
        """
        turned = self.turned(gram, null, draws=draws, seed=seed)
        return torch.cat([matrices.correlations(kind, power, of).cpu() for matrices in turned])


class Matrices:
    """Positive semi-definite matrices in the coordinates of a ``Comparison``: the NFM, or AGOPs.

    Args:
        comparison: whose coordinates.
        blocks: float64 [n, g, s, s].
    """

    def __init__(self, comparison: Comparison, blocks: Tensor) -> None:
        self.comparison = comparison
        self.blocks = blocks

    @cached_property
    def _eigen(self) -> tuple[Tensor, Tensor]:
        values, vectors = torch.linalg.eigh(self.blocks)
        return values, vectors

    def correlations(self, kind: Kind = "pearson", power: float = 1.0, of: int = 0) -> Tensor:
        """Returns the correlations of ``W^T W`` with a power of these matrices, over the entries of their blocks.

        It is 1 for power 1 where S is a multiple of the identity, and high for random weights too: read it beside
        that of the untrained network and beside that of ``turned`` gradients. Both published versions are here: with
        the mean of all entries removed ("pearson") and without ("cosine").

        Args:
            kind: "pearson" or "cosine".
            power: positive; the paper compares with 1, later work by the same authors with 0.5. Eigenvalues below
                1e-12 of the largest of their block are left out, except for power 1.
            of: number of the other that takes the place of W; 0 for W itself.

        Returns:
            float64 [n], each in [-1, 1]; NaN where a matrix is zero or, for "pearson", has equal entries.

        Raises:
            ValueError: when the power is not positive, or the kind is unknown.
        """
        check_choice("kind", kind, Kind)
        if not 0 < power < math.inf:
            raise ValueError(
                f"power must be positive and finite, got {power}: 1 compares with the AGOP, 0.5 with its root"
            )
        right = _standardise_(self._power(power), kind)
        return (right.flatten(1) @ self.comparison.left[of][kind].flatten()).clamp(-1.0, 1.0)

    def overlaps(self, r: int) -> Tensor:
        """Returns the mean squared principal cosine between the leading r eigenvectors of the NFM and of these.

        1 says that both span the same space. Both lie in the span of the filters: ``turned`` gradients say what
        chance gives.

        Args:
            r: number of eigenvectors, cut to the size of the matrices. Those that a matrix of lower rank lacks count
                as right angles.

        Returns:
            float64 [n], each in [0, 1]: the mean over groups, each with the same weight. Groups in which a matrix is
            zero are left out; NaN when none is left.

        Raises:
            ValueError: when r is below 1.

        Example:
            >>> gram = torch.diag(torch.tensor([1.0, 9.0]))[None]
            >>> overlap = Comparison(torch.diag(torch.tensor([2.0, 1.0]))[None]).agop(gram).overlaps(1)
            >>> round(float(overlap), 9)  # 4 > 1, but 4 < 9
            0.0
        """
        r = min(r, self.comparison.filters.shape[1])
        (values, vectors), (others, directions) = (leading(*m._eigen, r) for m in (self.comparison.nfm, self))
        overlap = (vectors.mT @ directions).square().sum((-2, -1)) / vectors.shape[-1]
        return torch.where((values[..., 0] > 0) & (others[..., 0] > 0), overlap.clamp(max=1.0), torch.nan).nanmean(-1)

    def effective_ranks(self) -> Tensor:
        """Returns trace / largest eigenvalue.

        Returns:
            float64 [n], each from 1 to min(k, d): the mean over groups, each with the same weight. Groups whose matrix
            is zero are left out; NaN when none is left.

        Example:
            >>> float(Comparison(torch.diag(torch.tensor([2.0, 1.0]))[None]).nfm.effective_ranks())  # (4 + 1) / 4
            1.25
        """
        values = self._eigen[0]
        return (values.sum(-1) / values[..., -1]).nanmean(-1)

    def _power(self, power: float) -> Tensor:
        """Returns the pseudo-power, a tensor of its own."""
        if power == 1:
            return self.blocks.clone()
        values, vectors = self._eigen
        kept = values > NULL_SHARE * values[..., -1:].clamp(min=0.0)
        powers = torch.where(kept, torch.where(kept, values, 1.0) ** power, 0.0)
        return (vectors * powers[..., None, :]) @ vectors.mT


def _standardise_(blocks: Tensor, kind: Kind) -> Tensor:
    """Returns matrices [n, g, s, s], n times over: centred for "pearson", of norm 1; NaN where flat. In place.

    In coordinates whose first vector is constant.
    """
    length = torch.linalg.vector_norm(blocks, dim=(1, 2, 3), keepdim=True)
    if kind == "pearson":
        blocks[..., 0, 0] -= blocks[..., 0, 0].mean(-1, keepdim=True)
    norm = torch.linalg.vector_norm(blocks, dim=(1, 2, 3), keepdim=True)
    return blocks.div_(torch.where(norm <= FLAT * length, torch.nan, norm))
