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

Kind = Literal["pearson", "cosine"]
NullKind = Literal["haar", "permuted"]

# Below this share of a block's largest eigenvalue an eigenvalue is zero: rounding leaves about 1e-15.
NULL_SHARE = 1e-12
# A matrix whose entries deviate from their mean by less than this share of their size is constant up to rounding.
FLAT = 1e-12
# Asymmetry and negative eigenvalues up to this share of the largest entry come from sums in single precision.
ROUNDING = 1e-4


def power_gram(weight: Tensor, gram: Tensor, power: float) -> Tensor:
    """Returns T with ``W^T T W = (W^T S W)^power``, so that a power of the AGOP is again k x k numbers.

    With ``X = S^{1/2} W`` the AGOP is ``X^T X``, and ``B = X X^T = S^{1/2} W W^T S^{1/2}`` has the same eigenvalues.
    From the singular vectors of X, ``(X^T X)^p = X^T B^{p-1} X``, hence ``T = S^{1/2} B^{p-1} S^{1/2}``. Any root R
    with ``R R^T = S`` gives the same T. Powers are pseudo-powers: eigenvalues of B below 1e-12 of the largest of
    their block are left out.

    Args:
        weight: [g, k, d], W: one filter a row.
        gram: [g, k, k], S, symmetric and positive semi-definite.
        power: p, positive; the paper compares with p = 1, later work by the same authors with p = 0.5.

    Returns:
        float64 [g, k, k], T; S itself for power 1.

    Raises:
        ValueError: when shapes do not fit, values are not finite, S is no Gram matrix, or the power is not positive.

    Example:
        >>> weight, gram = torch.eye(2)[None], torch.diag(torch.tensor([4.0, 9.0]))[None]
        >>> power_gram(weight, gram, 0.5)[0].diagonal()
        tensor([2., 3.], dtype=torch.float64)
    """
    w, s = _filters(weight), _checked_gram(gram, weight)
    _check_power(power)
    if power == 1:
        return s
    values, vectors = torch.linalg.eigh(s)
    root = vectors * values.clamp(min=0.0).sqrt()[:, None]
    x = root.mT @ w
    return root @ _matrix_power(x @ x.mT, power - 1) @ root.mT


def correlation(
    weight: Tensor, gram: Tensor, *, kind: Kind = "pearson", power: float = 1.0, change: Tensor | None = None
) -> float:
    """Returns the correlation of ``W^T W`` with ``(W^T S W)^power`` over the entries of their blocks.

    It is 1 for power 1 where S is a multiple of the identity, and high for random weights too: read it beside that
    of the untrained network and beside ``null_correlations``. Both published versions are here: with the mean of all
    entries removed ("pearson") and without ("cosine").

    Args:
        weight: [g, k, d], W: one filter a row.
        gram: [g, k, k], S, symmetric and positive semi-definite; its scale does not matter.
        kind: "pearson" or "cosine".
        power: exponent of the AGOP, positive (see ``power_gram``).
        change: [g, j, d], D, usually the change of W since initialisation: then ``D^T D`` takes the place of
            ``W^T W``. Its number of filters j is free.

    Returns:
        A number in [-1, 1]; NaN where a matrix is zero or, for "pearson", has equal entries.

    Raises:
        ValueError: when shapes do not fit, values are not finite, S is no Gram matrix, the power is not positive, or
            the kind is unknown.

    Example:
        >>> weight = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])
        >>> correlation(weight, torch.eye(2)[None])
        1.0
        >>> gram = torch.diag(torch.tensor([3.0, 4.0]))[None]
        >>> round(correlation(weight, gram, kind="cosine"), 6)  # 7 / (sqrt(2) * 5)
        0.989949
    """
    left, w, s = _prepared(weight, gram, kind, power, change)
    return float(_compared(left, w, s, kind, power))


def null_correlations(
    weight: Tensor,
    gram: Tensor,
    *,
    kind: Kind = "pearson",
    power: float = 1.0,
    change: Tensor | None = None,
    null: NullKind = "haar",
    draws: int = 100,
    seed: int = 0,
) -> Tensor:
    """Returns what ``correlation`` gives when the gradients' directions have nothing to do with the filters.

    S is replaced by ``Q S Q^T``, which keeps its eigenvalues: with a random rotation Q for each group ("haar"), or
    with a random permutation of each group's output channels ("permuted").

    Args:
        weight: [g, k, d], W: one filter a row.
        gram: [g, k, k], S, symmetric and positive semi-definite.
        kind: "pearson" or "cosine".
        power: exponent of the AGOP, positive; any but 1 costs an eigendecomposition for each draw.
        change: [g, j, d], as in ``correlation``.
        null: "haar" or "permuted".
        draws: number of random Q, at least 1.
        seed: of the random numbers, which are the function's own.

    Returns:
        float64 [draws], each in [-1, 1] or NaN.

    Raises:
        ValueError: as ``correlation``, and for an unknown null or fewer than one draw.

    Example:
        >>> weight = torch.tensor([[[1.0, 0.0], [0.0, 2.0]]])
        >>> null_correlations(weight, torch.eye(2)[None], draws=3).round(decimals=12)
        tensor([1., 1., 1.], dtype=torch.float64)
    """
    _check_choice("null", null, NullKind)
    if draws < 1:
        raise ValueError(f"draws must be at least 1, got {draws}")
    left, w, s = _prepared(weight, gram, kind, power, change)
    generator = torch.Generator().manual_seed(seed)
    # W^T (Q S Q^T) W is the AGOP of the filters Q^T W, whose NFM is that of W. With W = U R, U of orthonormal columns,
    # Q^T W is a random frame times R.
    turn, start = (_rotated, torch.linalg.qr(w, mode="r").R) if null == "haar" else (_permuted, w)
    filters = w.shape[1]
    turned = (turn(start, filters, generator) for _ in range(draws))
    return torch.stack([_compared(left, x, s, kind, power) for x in turned]).cpu()


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
    if r < 1:
        raise ValueError(f"r, the number of eigenvectors, must be at least 1, got {r}")
    w, s = _filters(weight), None if gram is None else _checked_gram(gram, weight)
    basis, coordinates = torch.linalg.qr(w.mT)
    values, inner = torch.linalg.eigh(_sandwich(coordinates.mT, s))
    values, vectors = values.flip(-1)[:, :r], basis @ inner.flip(-1)[..., :r]
    zero = values <= NULL_SHARE * values[:, :1]
    largest = vectors.gather(1, vectors.abs().argmax(1, keepdim=True))
    # "+ 0.0" turns the zeros that the sign made negative into plain ones.
    vectors = torch.where(zero[:, None], 0.0, vectors * largest.sign()) + 0.0
    return values.masked_fill(zero, 0.0), vectors


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
    x, y = _stack("a", a, "[g, d, r]"), _stack("b", b, "[g, d, r]")
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

    1 says that both span the same space. Chance gives r / d for spaces of random directions. Both lie in the span of
    the filters, though: with fewer filters than patch entries, r / k is the stricter comparison.

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
    values, vectors = top_eigenvectors(weight, None, r)
    others, directions = top_eigenvectors(weight, gram, r)
    overlap = principal_cosines(vectors, directions).square().mean(-1)
    return float(torch.where((values[:, 0] > 0) & (others[:, 0] > 0), overlap, torch.nan).nanmean())


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
    core = _core(weight, gram)
    return float((_trace(core) / torch.linalg.eigvalsh(core)[:, -1]).nanmean())


def participation_ratio(weight: Tensor, gram: Tensor | None) -> float:
    """Returns ``(tr M)^2 / tr(M^2)`` for M = ``W^T W``, or ``W^T S W`` where S is given.

    Args:
        weight: [g, k, d], W: one filter a row.
        gram: [g, k, k], S, symmetric and positive semi-definite; None for the neural feature matrix.

    Returns:
        A number from 1 to min(k, d): the mean over groups, each with the same weight. Groups whose matrix is zero are
        left out; NaN when none is left.

    Raises:
        ValueError: when shapes do not fit, values are not finite, or S is no Gram matrix.

    Example:
        >>> participation_ratio(torch.eye(3)[None], None)
        3.0
    """
    core = _core(weight, gram)
    return float((_trace(core).square() / core.square().sum((-2, -1))).nanmean())


def _prepared(
    weight: Tensor, gram: Tensor, kind: Kind, power: float, change: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Returns what all draws share: the standardised left matrix, and W and S for the right one.

    Columns are coordinates in an orthonormal basis of the span of (1, ..., 1), the filters and the change, in this
    order. So the mean of a block is in its entry [0, 0], and the AGOP in its leading block of size min(d, 1 + k).

    Returns:
        left: float64 [g, s, s], see ``_standardised``; the part of it that meets the AGOP.
        w: float64 [g, k, s].
        s: float64 [g, k, k].

    Raises:
        ValueError: as ``correlation``.
    """
    _check_choice("kind", kind, Kind)
    _check_power(power)
    w, s = _filters(weight), _checked_gram(gram, weight)
    g, k, d = w.shape
    rows = [w.new_full((g, 1, d), d**-0.5), w]
    if change is not None:
        rows.append(_stack("change", change, "[g, j, d]").to(w.device))
        if (rows[2].shape[0], rows[2].shape[2]) != (g, d):
            raise ValueError(
                f"change must have the groups and patch entries of weight, [{g}, j, {d}], got {tuple(change.shape)}"
            )
    coordinates = torch.linalg.qr(torch.cat(rows, 1).mT, mode="r").R.mT
    size = min(d, 1 + k)
    w = coordinates[:, 1 : k + 1, :size]
    f = w if change is None else coordinates[:, k + 1 :]
    return _standardised(f.mT @ f, kind)[:, :size, :size], w, s


def _compared(left: Tensor, w: Tensor, s: Tensor, kind: Kind, power: float) -> Tensor:
    """Returns the correlation of a standardised matrix with ``(W^T S W)^power``, a scalar."""
    right = _standardised(_matrix_power(_sandwich(w, s), power), kind)
    return (left * right).sum().clamp(-1.0, 1.0)


def _standardised(blocks: Tensor, kind: Kind) -> Tensor:
    """Returns blocks [g, s, s] in the basis of ``_prepared``, centred for "pearson", of norm 1; NaN where flat."""
    centred = blocks
    if kind == "pearson":
        centred = blocks.clone()
        centred[:, 0, 0] -= blocks[:, 0, 0].mean()
    norm = centred.norm()
    return torch.where(norm <= FLAT * blocks.norm(), torch.nan, centred / norm)


def _sandwich(w: Tensor, s: Tensor | None) -> Tensor:
    """Returns ``w^T s w``, or ``w^T w`` without s: [g, s, s] from [g, k, s] and [g, k, k]."""
    return w.mT @ (w if s is None else s @ w)


def _matrix_power(matrix: Tensor, power: float) -> Tensor:
    """Returns the pseudo-power of positive semi-definite matrices [g, n, n]; negative powers invert on the range."""
    if power == 1:
        return matrix
    values, vectors = torch.linalg.eigh(matrix)
    kept = values > NULL_SHARE * values[:, -1:].clamp(min=0.0)
    powers = torch.where(kept, torch.where(kept, values, 1.0) ** power, 0.0)
    return (vectors * powers[:, None]) @ vectors.mT


def _core(weight: Tensor, gram: Tensor | None) -> Tensor:
    """Returns a matrix [g, m, m], m = min(k, d), with the eigenvalues of the NFM or AGOP; those left out are zero."""
    w, s = _filters(weight), None if gram is None else _checked_gram(gram, weight)
    return _sandwich(torch.linalg.qr(w.mT, mode="r").R.mT, s)


def _trace(blocks: Tensor) -> Tensor:
    return blocks.diagonal(dim1=-2, dim2=-1).sum(-1)


def _rotated(r: Tensor, k: int, generator: torch.Generator) -> Tensor:
    """Returns ``Q r`` [g, k, s] for r [g, m, s], m <= k, with random orthonormal columns Q for each group."""
    g, m, _ = r.shape
    q, triangle = torch.linalg.qr(torch.randn(g, k, m, dtype=torch.float64, generator=generator))
    # A QR's signs are the algorithm's choice; with a positive diagonal of the triangle, Q follows the Haar measure.
    signs = torch.where(triangle.diagonal(dim1=-2, dim2=-1) < 0, -1.0, 1.0)
    return (q * signs[:, None]).to(r.device) @ r


def _permuted(w: Tensor, k: int, generator: torch.Generator) -> Tensor:
    """Returns filters [g, k, s] in a random order within each group."""
    order = torch.rand(len(w), k, dtype=torch.float64, generator=generator).argsort(-1)
    return w.take_along_dim(order.to(w.device)[..., None], 1)


def _stack(name: str, tensor: Tensor, shape: str) -> Tensor:
    """Returns a tensor with three axes as float64.

    Raises:
        ValueError: when it is not of floating-point numbers, has other axes, is empty, or not finite.
    """
    if not tensor.is_floating_point():
        raise ValueError(f"{name} must be a tensor of floating-point numbers, got {tensor.dtype}")
    if tensor.ndim != 3 or not tensor.numel():
        raise ValueError(
            f"{name} must have three axes {shape}, none of them empty, got shape {tuple(tensor.shape)}: "
            "a layer without groups has g = 1"
        )
    if not bool(tensor.isfinite().all()):
        raise ValueError(f"{name} must be finite, got NaN or infinity")
    return tensor.detach().to(torch.float64)


def _filters(weight: Tensor) -> Tensor:
    return _stack("weight", weight, "[g, k, d]")


def _checked_gram(gram: Tensor, weight: Tensor) -> Tensor:
    """Returns S as float64 on the device of the weight.

    Raises:
        ValueError: when its shape does not fit the weight, or it is not symmetric and positive semi-definite.
    """
    s = _stack("gram", gram, "[g, k, k]").to(weight.device)
    g, k = weight.shape[:2]
    if s.shape != (g, k, k):
        raise ValueError(f"gram must have shape {(g, k, k)} for weight {tuple(weight.shape)}, got {tuple(s.shape)}")
    scale = s.abs().max()
    if bool((s - s.mT).abs().max() > ROUNDING * scale):
        raise ValueError("gram must be symmetric, got a matrix that is not: hand in a sum of outer products g g^T")
    shift = torch.where(scale > 0, ROUNDING * scale, 1.0)
    if bool(torch.linalg.cholesky_ex(s + shift * torch.eye(k, dtype=s.dtype, device=s.device)).info.any()):
        raise ValueError("gram must be positive semi-definite, got negative eigenvalues: hand in a sum of g g^T")
    return s


def _check_power(power: float) -> None:
    if not 0 < power < math.inf:
        raise ValueError(f"power must be positive and finite, got {power}: 1 compares with the AGOP, 0.5 with its root")


def _check_choice(name: str, value: str, choices: object) -> None:
    if value not in get_args(choices):
        raise ValueError(f"{name} must be one of {get_args(choices)}, got {value!r}")
