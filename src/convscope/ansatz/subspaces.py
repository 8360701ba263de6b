"""Leading directions of the neural feature matrix ``W^T W`` and of the patch AGOP ``W^T S W``, and how many there are.

Both matrices live in the span of the k filters, so a small eigenproblem there says all there is.
"""

from __future__ import annotations

import torch
from torch import Tensor

from convscope.ansatz.forms import NULL_SHARE, ROUNDING, filters_of, sandwich, small_agop, stack_of, turned_agops


def top_eigenvectors(weight: Tensor, gram: Tensor | None, r: int) -> tuple[Tensor, Tensor]:
    """Returns the leading eigenvalues and eigenvectors of ``W^T W``, or of ``W^T S W`` where S is given.

    With ``W^T = Q R`` the matrix is ``Q (R S R^T) Q^T``, so a small eigenproblem of size min(k, d) is enough.

    Args:
        weight: [g, k, d], W: one filter a row.
        gram: [g, k, k], S, symmetric and positive semi-definite; None for the neural feature matrix.
        r: number of eigenvectors, cut to the largest possible rank min(k, d).

    Returns:
        values: float64 [g, r], descending in each group; zero below 1e-12 of the largest.
        vectors: float64 [g, d, r], unit columns whose entry of largest magnitude is positive; a column is zero where
            its eigenvalue is zero.

    Raises:
        ValueError: when shapes do not fit, values are not finite, S is no Gram matrix, or r is below 1.

    Example:
        >>> values, vectors = top_eigenvectors(torch.tensor([[[0.0, -3.0], [1.0, 0.0]]]), None, 1)
        >>> values, vectors[0, :, 0]
        (tensor([[9.]], dtype=torch.float64), tensor([0., 1.], dtype=torch.float64))
    """
    basis, coordinates = torch.linalg.qr(filters_of(weight).mT)
    values, inner = _leading(_core(coordinates.mT, gram), r)
    vectors = basis @ inner
    largest = vectors.gather(1, vectors.abs().argmax(1, keepdim=True))
    # "+ 0.0" turns the zeros that the sign made negative into plain ones.
    return values, vectors * largest.sign() + 0.0


def principal_cosines(a: Tensor, b: Tensor) -> Tensor:
    """Returns the cosines of the principal angles between the column spans of two bases.

    Args:
        a: [g, d, r], orthonormal columns, such as those of ``top_eigenvectors``; columns of zeros are allowed.
        b: same shape.

    Returns:
        float64 [g, r], in [0, 1], descending; a zero column counts as a right angle.

    Raises:
        ValueError: when the shapes differ, values are not finite, or columns are neither orthonormal nor zero.

    Example:
        >>> a = torch.eye(3)[None, :, :2]
        >>> principal_cosines(a, torch.eye(3)[None, :, 1:])
        tensor([[1., 0.]], dtype=torch.float64)
    """
    x, y = stack_of("a", a, "[g, d, r]"), stack_of("b", b, "[g, d, r]")
    if x.shape != y.shape:
        raise ValueError(f"both bases must have the same shape, got {tuple(x.shape)} and {tuple(y.shape)}")
    for name, basis in (("a", x), ("b", y)):
        products = basis.mT @ basis
        expected = torch.diag_embed((products.diagonal(dim1=-2, dim2=-1) > 0.5).to(torch.float64))
        if float((products - expected).abs().max()) > ROUNDING:
            raise ValueError(f"the columns of {name} must be orthonormal (or zero): hand in a basis, such as a QR's Q")
    return torch.linalg.svdvals(x.mT @ y).clamp(0.0, 1.0)


def subspace_overlap(weight: Tensor, gram: Tensor, r: int) -> float:
    """Returns the mean squared principal cosine between the leading r eigenvectors of the NFM and of the AGOP.

    1 says that both span the same space. Both lie in the span of the filters: ``null_overlaps`` is what chance gives.

    Args:
        weight: [g, k, d], W: one filter a row.
        gram: [g, k, k], S, symmetric and positive semi-definite.
        r: number of eigenvectors, cut to min(k, d). Those that a matrix of lower rank lacks count as right angles.

    Returns:
        A number in [0, 1]: the mean over groups, each with the same weight. Groups in which a matrix is zero are left
        out; NaN when none is left.

    Raises:
        ValueError: when shapes do not fit, values are not finite, S is no Gram matrix, or r is below 1.

    Example:
        >>> gram = torch.diag(torch.tensor([1.0, 9.0]))[None]
        >>> subspace_overlap(torch.diag(torch.tensor([2.0, 1.0]))[None], gram, 1)  # 4 > 1, but 4 < 9
        0.0
    """
    w = _coordinates(weight)
    agop, _ = small_agop(w, gram)
    return float(_overlaps(sandwich(w, None), agop[None], r))


def null_overlaps(weight: Tensor, gram: Tensor, r: int, *, draws: int = 100, seed: int = 0) -> Tensor:
    """Returns what ``subspace_overlap`` gives when the gradients' directions have nothing to do with the filters.

    S is replaced by ``Q S Q^T`` with a random rotation Q for each group.

    Args:
        weight: [g, k, d], W: one filter a row.
        gram: [g, k, k], S, symmetric and positive semi-definite.
        r: number of eigenvectors, as for ``subspace_overlap``.
        draws: number of random Q, at least 1; each costs an eigendecomposition.
        seed: of the random numbers, which are the function's own.

    Returns:
        float64 [draws], on the CPU, each in [0, 1] or NaN.

    Raises:
        ValueError: as ``subspace_overlap``, and for fewer than one draw.

    Example:
        >>> null_overlaps(torch.diag(torch.tensor([2.0, 1.0]))[None], torch.eye(2)[None], 1, draws=2)
        tensor([1., 1.], dtype=torch.float64)
    """
    w = _coordinates(weight)
    nfm = sandwich(w, None)
    return torch.cat([_overlaps(nfm, agops, r).cpu() for agops in turned_agops(w, gram, "haar", draws, seed)])


def effective_rank(weight: Tensor, gram: Tensor | None) -> float:
    """Returns trace / largest eigenvalue of ``W^T W``, or of ``W^T S W`` where S is given.

    Args:
        weight: [g, k, d], W: one filter a row.
        gram: [g, k, k], S, symmetric and positive semi-definite; None for the neural feature matrix.

    Returns:
        A number from 1 to min(k, d): the mean over groups, each with the same weight. Groups whose matrix is zero are
        left out; NaN when none is left.

    Raises:
        ValueError: when shapes do not fit, values are not finite, or S is no Gram matrix.

    Example:
        >>> effective_rank(torch.diag(torch.tensor([2.0, 1.0]))[None], None)  # (4 + 1) / 4
        1.25
    """
    core = _core(_coordinates(weight), gram)
    return float((_trace(core) / torch.linalg.eigvalsh(core)[:, -1]).nanmean())


def _coordinates(weight: Tensor) -> Tensor:
    """Returns W as float64 [g, k, m] in an orthonormal basis of m = min(k, d) vectors that holds its span."""
    return torch.linalg.qr(filters_of(weight).mT, mode="r").R.mT


def _core(w: Tensor, gram: Tensor | None) -> Tensor:
    """Returns the NFM, or the AGOP where S is given, in the coordinates of the filters: [g, s, s] from [g, k, s]."""
    return sandwich(w, None) if gram is None else small_agop(w, gram)[0]


def _leading(blocks: Tensor, r: int) -> tuple[Tensor, Tensor]:
    """Returns the leading eigenvalues [..., r] and eigenvectors [..., s, r] of matrices [..., s, s].

    Both are zero where the eigenvalue is below 1e-12 of the largest.

    Raises:
        ValueError: when r is below 1.
    """
    if r < 1:
        raise ValueError(f"r, the number of eigenvectors, must be at least 1, got {r}")
    values, vectors = torch.linalg.eigh(blocks)
    values, vectors = values.flip(-1)[..., :r], vectors.flip(-1)[..., :r]
    zero = values <= NULL_SHARE * values[..., :1]
    return values.masked_fill(zero, 0.0), vectors.masked_fill(zero[..., None, :], 0.0)


def _overlaps(nfm: Tensor, agops: Tensor, r: int) -> Tensor:
    """Returns the overlaps [n] of ``subspace_overlap`` for matrices [g, s, s] and [n, g, s, s] in one basis."""
    values, vectors = _leading(nfm, r)
    others, directions = _leading(agops, r)
    overlap = (vectors.mT @ directions).square().sum((-2, -1)) / vectors.shape[-1]
    return torch.where((values[:, 0] > 0) & (others[..., 0] > 0), overlap.clamp(max=1.0), torch.nan).nanmean(-1)


def _trace(blocks: Tensor) -> Tensor:
    return blocks.diagonal(dim1=-2, dim2=-1).sum(-1)
