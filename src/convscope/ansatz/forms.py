"""Matrices ``W^T S W`` in coordinates of the span of the filters W, and with S turned at random.

W is [g, k, d]: g groups, k filters in each, d entries of a patch. S is [g, k, k].
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Literal, get_args

import torch
from torch import Tensor

NullKind = Literal["haar", "permuted"]

# Below this share of a block's largest eigenvalue an eigenvalue is zero: rounding leaves about 1e-15.
NULL_SHARE = 1e-12
# Asymmetry and negative eigenvalues up to this share of the largest entry come from sums in single precision.
ROUNDING = 1e-4
# What the random draws of a null may take at once; a single one takes what it needs.
CHUNK_BYTES = 64 * 2**20


def small_agop(w: Tensor, gram: Tensor) -> tuple[Tensor, Tensor]:
    """Returns ``w^T S w`` [g, s, s] for filters [g, k, s], and S as float64 on their device.

    Raises:
        ValueError: when S does not fit the filters, is not finite or not symmetric, or has negative eigenvalues in
            the span of the filters.
    """
    s = stack_of("gram", gram, "[g, k, k]").to(w.device)
    g, k, size = w.shape
    if s.shape != (g, k, k):
        raise ValueError(f"gram must have shape {(g, k, k)} for {g} groups of {k} filters, got {tuple(s.shape)}")
    scale = torch.linalg.vector_norm(s, math.inf)
    # Products with a vector show asymmetry as well as s - s.mT does, which reads a large matrix against its order.
    probe = torch.arange(k, dtype=s.dtype, device=s.device).cos()
    if bool((s @ probe - probe @ s).abs().max() > ROUNDING * scale * k):
        raise ValueError("gram must be symmetric, got a matrix that is not: hand in a sum of outer products g g^T")
    agop = sandwich(w, s)
    # Adding c to all eigenvalues of S adds c w^T w here, which is at most c |w|^2. The AGOP is often smaller than S.
    shift = ROUNDING * scale * w.square().sum((-2, -1))
    shifted = agop + torch.diag_embed(torch.where(shift > 0, shift, 1.0)[:, None].expand(g, size))
    if bool(torch.linalg.cholesky_ex(shifted).info.any()):
        raise ValueError("gram must be positive semi-definite, got negative eigenvalues: hand in a sum of g g^T")
    return agop, s


def turned_agops(w: Tensor, gram: Tensor, null: NullKind, draws: int, seed: int) -> Iterator[Tensor]:
    """Yields ``w^T (Q S Q^T) w`` [n, g, s, s] for n random Q at a time, draws in all, for filters [g, k, s].

    Raises:
        ValueError: as ``small_agop``, and for fewer than one draw.
    """
    if draws < 1:
        raise ValueError(f"draws must be at least 1, got {draws}")
    _, s = small_agop(w, gram)
    g, k, size = w.shape
    generator = torch.Generator().manual_seed(seed)
    if null == "haar":
        # A rotation of S may begin with the one that makes it diagonal. With w = U r, U of orthonormal columns, Q^T w
        # is a random frame times r.
        values, r = torch.linalg.eigvalsh(s)[..., None], torch.linalg.qr(w, mode="r").R
    # Random numbers, frames, filters and their products; then the results and their eigenvectors.
    chunk = max(CHUNK_BYTES // (8 * g * size * (5 * k + 4 * size)), 1)
    for first in range(0, draws, chunk):
        n = min(chunk, draws - first)
        if null == "haar":
            x = random_frames(n, g, k, r.shape[1], generator).to(w.device) @ r
            yield x.mT @ (values * x)
        else:
            # Each draw has its own call, so that it does not depend on how many there are.
            numbers = [torch.rand(g, k, dtype=torch.float64, generator=generator) for _ in range(n)]
            x = w[torch.arange(g)[:, None], torch.stack(numbers).argsort(-1).to(w.device)]
            yield x.mT @ (s @ x)


def random_frames(n: int, g: int, k: int, m: int, generator: torch.Generator) -> Tensor:
    """Returns random orthonormal columns, float64 [n, g, k, m] with m <= k, by the Haar measure."""
    # Single precision is enough for a random direction, and drawn several times as fast.
    numbers = torch.stack([torch.randn(g, k, m, generator=generator) for _ in range(n)]).double()
    if k >= 2 * m:
        # So long a Gaussian matrix is well conditioned, and Cholesky's factor is that of its QR, at half the cost.
        triangle = torch.linalg.cholesky(numbers.mT @ numbers, upper=True)
        return torch.linalg.solve_triangular(triangle, numbers, upper=True, left=False)
    q, triangle = torch.linalg.qr(numbers)
    # A QR's signs are the algorithm's choice; with a positive diagonal of the triangle, Q follows the Haar measure.
    return q.mul_(torch.where(triangle.diagonal(dim1=-2, dim2=-1) < 0, -1.0, 1.0)[..., None, :])


def sandwich(w: Tensor, s: Tensor | None) -> Tensor:
    """Returns ``w^T s w``, or ``w^T w`` without s: [g, s, s] from [g, k, s] and [g, k, k]."""
    return w.mT @ (w if s is None else s @ w)


def leading(values: Tensor, vectors: Tensor, r: int) -> tuple[Tensor, Tensor]:
    """Returns the leading eigenvalues [..., r] and eigenvectors [..., s, r]; zero below 1e-12 of the largest.

    Args:
        values: [..., s], ascending, as ``torch.linalg.eigh`` gives them.
        vectors: [..., s, s].
        r: how many, cut to s.

    Raises:
        ValueError: when r is below 1.
    """
    if r < 1:
        raise ValueError(f"r, the number of eigenvectors, must be at least 1, got {r}")
    values, vectors = values.flip(-1)[..., :r], vectors.flip(-1)[..., :r]
    zero = values <= NULL_SHARE * values[..., :1]
    return values.masked_fill(zero, 0.0), vectors.masked_fill(zero[..., None, :], 0.0)


def stack_of(name: str, tensor: Tensor, shape: str) -> Tensor:
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
    low, high = tensor.detach().aminmax()
    if not (low.isfinite() and high.isfinite()):
        raise ValueError(f"{name} must be finite, got NaN or infinity")
    return tensor.detach().to(torch.float64)


def filters_of(weight: Tensor) -> Tensor:
    """Returns filters [g, k, d] as float64; see ``stack_of``."""
    return stack_of("weight", weight, "[g, k, d]")


def check_choice(name: str, value: str, choices: object) -> None:
    """Checks that a value is one of a ``Literal``'s.

    Raises:
        ValueError: when it is not.
    """
    if value not in get_args(choices):
        raise ValueError(f"{name} must be one of {get_args(choices)}, got {value!r}")
