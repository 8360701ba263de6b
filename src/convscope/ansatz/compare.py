"""How alike the neural feature matrix ``W^T W`` and the patch AGOP ``W^T S W`` are, without a matrix of size d x d.

Beaglehole et al. (2023), arXiv 2309.00570. The filters of a convolution are ``weight`` [g, k, d]: g groups, k filters
in each, d entries of a patch; g = 1 without groups. ``gram`` [g, k, k] is S, the second moment of the gradients at
the convolution's output. With groups both matrices are block diagonal, and only the g * d * d entries of the blocks
count.

Both matrices live in the span of the k filters, so coordinates in that span (a QR factorisation) say all there is.
"""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch
from torch import Tensor

from convscope.ansatz.forms import (
    NULL_SHARE,
    NullKind,
    check_choice,
    filters_of,
    sandwich,
    small_agop,
    stack_of,
    turned_agops,
)

Kind = Literal["pearson", "cosine"]

# A matrix whose entries deviate from their mean by less than this share of their size is constant up to rounding.
FLAT = 1e-12


class Comparison:
    """The filters of one convolution, prepared to be compared with any number of Gram matrices S.

    Args:
        weight: [g, k, d], W: one filter a row.
        other: [g, j, d], what takes the place of W in ``W^T W``, such as the change of W since initialisation. Its
            number of filters j is free; None for W itself.

    Attributes:
        filters: float64 [g, k, s], W in coordinates of an orthonormal basis, s at most k + 1, whose first vector is
            constant. Eigenvalues, ranks and overlaps from it are those of W, and cost less where d is large.

    Raises:
        ValueError: when shapes do not fit or values are not finite.

    Example:
        >>> comparison = Comparison(torch.tensor([[[1.0, 0.0], [0.0, 1.0]]]))
        >>> gram = torch.diag(torch.tensor([3.0, 4.0]))[None]
        >>> round(comparison.correlation(gram, "cosine"), 6)  # 7 / (sqrt(2) * 5)
        0.989949
    """

    def __init__(self, weight: Tensor, other: Tensor | None = None) -> None:
        w = filters_of(weight)
        g, k, d = w.shape
        rows = [w.new_full((g, 1, d), d**-0.5), w]
        if other is not None:
            rows.append(stack_of("other", other, "[g, j, d]").to(w.device))
            if (rows[2].shape[0], rows[2].shape[2]) != (g, d):
                raise ValueError(
                    f"other must have the groups and patch entries of weight, [{g}, j, {d}], got {tuple(other.shape)}"
                )
        # A basis of the span of (1, ..., 1), the filters and the others, in this order: so the mean of a block is in
        # its entry [0, 0], and the AGOP in its leading block of size s = min(d, 1 + k).
        coordinates = torch.linalg.qr(torch.cat(rows, 1).mT, mode="r").R.mT
        size = min(d, 1 + k)
        self.filters = coordinates[:, 1 : k + 1, :size].contiguous()
        nfm = sandwich(self.filters if other is None else coordinates[:, k + 1 :], None)
        self._left = {
            kind: _standardise_(nfm.clone()[None], kind)[0, :, :size, :size].contiguous() for kind in get_args(Kind)
        }

    def correlation(self, gram: Tensor, kind: Kind = "pearson", power: float = 1.0) -> float:
        """Returns the correlation of ``W^T W`` with ``(W^T S W)^power`` over the entries of their blocks.

        It is 1 for power 1 where S is a multiple of the identity, and high for random weights too: read it beside
        that of the untrained network and beside ``null``. Both published versions are here: with the mean of all
        entries removed ("pearson") and without ("cosine").

        Args:
            gram: [g, k, k], S, symmetric and positive semi-definite; its scale does not matter.
            kind: "pearson" or "cosine".
            power: exponent of the AGOP, positive; the paper compares with 1, later work by the same authors with 0.5.
                Eigenvalues below 1e-12 of the largest of their block are left out, except for power 1.

        Returns:
            A number in [-1, 1]; NaN where a matrix is zero or, for "pearson", has equal entries.

        Raises:
            ValueError: when S does not fit the filters, is not finite or no Gram matrix, the power is not positive,
                or the kind is unknown.
        """
        check_choice("kind", kind, Kind)
        _check_power(power)
        agop, _ = small_agop(self.filters, gram)
        return float(self._compared(agop[None], kind, power))

    def null(
        self,
        gram: Tensor,
        *,
        kind: Kind = "pearson",
        power: float = 1.0,
        null: NullKind = "haar",
        draws: int = 100,
        seed: int = 0,
    ) -> Tensor:
        """Returns what ``correlation`` gives when the gradients' directions have nothing to do with the filters.

        S is replaced by ``Q S Q^T``, which keeps its eigenvalues: with a random rotation Q for each group ("haar"),
        or with a random permutation of each group's output channels ("permuted"). The more filters, the less the
        draws differ: their standard deviation falls like 1 / k, so that wide layers need few draws.

        Args:
            gram: [g, k, k], S, symmetric and positive semi-definite.
            kind: "pearson" or "cosine".
            power: exponent of the AGOP, positive; any but 1 costs an eigendecomposition for each draw.
            null: "haar" or "permuted".
            draws: number of random Q, at least 1; more draws begin with the same ones.
            seed: of the random numbers, which are the method's own.

        Returns:
            float64 [draws], on the CPU, each in [-1, 1] or NaN.

        Raises:
            ValueError: as ``correlation``, and for an unknown null or fewer than one draw.

        Example:
            >>> comparison = Comparison(torch.tensor([[[1.0, 0.0], [0.0, 2.0]]]))
            >>> comparison.null(torch.eye(2)[None], draws=3).round(decimals=12)
            tensor([1., 1., 1.], dtype=torch.float64)
        """
        check_choice("kind", kind, Kind)
        _check_power(power)
        check_choice("null", null, NullKind)
        turned = turned_agops(self.filters, gram, null, draws, seed)
        return torch.cat([self._compared(agops, kind, power).cpu() for agops in turned])

    def _compared(self, agops: Tensor, kind: Kind, power: float) -> Tensor:
        """Returns the correlations [n] with powers of the matrices [n, g, s, s], which are overwritten."""
        right = _standardise_(_matrix_power(agops, power), kind)
        return (right.flatten(1) @ self._left[kind].flatten()).clamp(-1.0, 1.0)


def _standardise_(blocks: Tensor, kind: Kind) -> Tensor:
    """Returns matrices [n, g, s, s], n times over: centred for "pearson", of norm 1; NaN where flat. In place.

    In coordinates whose first vector is constant.
    """
    length = torch.linalg.vector_norm(blocks, dim=(1, 2, 3), keepdim=True)
    if kind == "pearson":
        blocks[..., 0, 0] -= blocks[..., 0, 0].mean(-1, keepdim=True)
    norm = torch.linalg.vector_norm(blocks, dim=(1, 2, 3), keepdim=True)
    return blocks.div_(torch.where(norm <= FLAT * length, torch.nan, norm))


def _matrix_power(matrix: Tensor, power: float) -> Tensor:
    """Returns the pseudo-power of positive semi-definite matrices [..., n, n]; the matrix itself for power 1."""
    if power == 1:
        return matrix
    values, vectors = torch.linalg.eigh(matrix)
    kept = values > NULL_SHARE * values[..., -1:].clamp(min=0.0)
    powers = torch.where(kept, torch.where(kept, values, 1.0) ** power, 0.0)
    return (vectors * powers[..., None, :]) @ vectors.mT


def _check_power(power: float) -> None:
    if not 0 < power < math.inf:
        raise ValueError(f"power must be positive and finite, got {power}: 1 compares with the AGOP, 0.5 with its root")
