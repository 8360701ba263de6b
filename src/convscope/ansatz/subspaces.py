"""Leading directions of the neural feature matrix ``W^T W`` and of the patch AGOP ``W^T S W``, in patches.

Both matrices live in the span of the k filters, so a small eigenproblem there says all there is.
"""

from __future__ import annotations

import torch
from torch import Tensor

from convscope.ansatz.forms import ROUNDING, filters_of, leading, sandwich, small_agop, stack_of


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
    w = coordinates.mT
    matrix = sandwich(w, None) if gram is None else small_agop(w, gram)[0]
    every = torch.linalg.eigh(matrix)
    values, inner = leading(every.eigenvalues, every.eigenvectors, r)
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
