"""Slow twins of the rank and of kept spaces, by dense matrices; and networks whose bottleneck is known exactly."""

import itertools

import torch
from torch import Tensor, nn


def best_rank(values: list[float]) -> tuple[int, float, float]:
    """Rank, level and alignment by trying every k; values one by one, with their multiplicity."""
    s = sorted(values, reverse=True)
    fits = [(sum(s[:k]) ** 2 / k, k) for k in range(1, len(s) + 1)]
    q, k = max(fits, key=lambda fit: fit[0])
    return k, sum(s[:k]) / k, q / sum(x * x for x in s)


def distance_to_isometry(matrix: Tensor, k: int) -> float:
    """Squared distance of a matrix to the nearest multiple of a partial isometry of rank k, by building it."""
    u, s, v = torch.linalg.svd(matrix, full_matrices=False)
    isometry = u[:, :k] @ v[:k]
    level = (matrix * isometry).sum() / k
    assert torch.isclose(level, s[:k].mean())
    return float((matrix - level * isometry).square().sum())


def dense_chain(left: Tensor, above_left: float, right: Tensor, above_right: float) -> float:
    """Chain of two dense operators, from their singular vectors with values above a threshold each."""
    u, s, _ = torch.linalg.svd(left, full_matrices=False)
    _, t, v = torch.linalg.svd(right, full_matrices=False)
    kept, taken = u[:, s > above_left], v[t > above_right].T
    return float((kept.T @ taken).square().sum()) / min(kept.shape[1], taken.shape[1])


def filters_of(transfer: Tensor) -> Tensor:
    """Full-size filters [k, c, h, w] of a circular convolution with transfer matrices [h, w, k, c], offset 0 first."""
    h, w = transfer.shape[:2]
    return torch.fft.fft2(transfer.permute(2, 3, 0, 1)) / (h * w)


def conv_of(transfer: Tensor) -> nn.Conv2d:
    """An ordinary circular convolution with these transfer matrices, in float64."""
    filters = filters_of(transfer)
    assert float(filters.imag.abs().max()) < 1e-12
    h, w = transfer.shape[:2]
    conv = nn.Conv2d(transfer.shape[3], transfer.shape[2], (h, w), padding="same", padding_mode="circular").double()
    with torch.no_grad():
        conv.bias.zero_()
        conv.weight.copy_(filters.real.roll(((h - 1) // 2, (w - 1) // 2), (2, 3)))
    return conv


def known_bottleneck(
    size: int, depth: int, channels: int, kept: list[tuple[int, int]], seed: int = 0
) -> list[nn.Conv2d]:
    """Convolutions that keep one channel direction at each frequency of ``kept`` and its conjugate, and nothing else.

    The image and the output have one channel; between two layers the direction is random and the same on both sides.
    """
    generator = torch.Generator().manual_seed(seed)
    widths = [1, *[channels] * (depth - 1), 1]
    directions = []
    for c in widths:
        found = torch.zeros(size, size, c, dtype=torch.complex128)
        for ky, kx in kept:
            v = torch.randn(c, dtype=torch.complex128, generator=generator)
            if (2 * ky % size, 2 * kx % size) == (0, 0):
                v = v.real.to(torch.complex128)
            v = v / v.norm()
            found[-ky % size, -kx % size], found[ky % size, kx % size] = v.conj(), v
        directions.append(found)
    return [
        conv_of(after[..., :, None] * before[..., None, :].conj()) for before, after in itertools.pairwise(directions)
    ]
