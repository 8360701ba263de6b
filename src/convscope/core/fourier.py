"""Fourier conventions: the unitary transform, frequencies in cycles per image, and pairs of conjugate ones."""

from __future__ import annotations

import torch
from torch import Tensor


def unitary(images: Tensor) -> Tensor:
    """Returns the unitary discrete Fourier transform of images [..., h, w], complex [..., h, w].

    Entry (a, b) is sum over pixels (y, x) of image(y, x) exp(-2 pi i (a y / h + b x / w)) / sqrt(h w), so that energy
    is kept.

    Example:
        >>> image = torch.ones(2, 3, dtype=torch.float64)
        >>> round(unitary(image).abs().square().sum().item(), 6)
        6.0
    """
    return torch.fft.fft2(images, norm="ortho")


def signed_frequencies(h: int, w: int) -> Tensor:
    """Returns (ky, kx) in cycles per image, int64 [h * w, 2], in the transform's order, rows first.

    Frequencies beyond half a cycle per pixel are counted as negative ones; the one at half a cycle as positive.

    Example:
        >>> signed_frequencies(1, 4)[:, 1].tolist()
        [0, 1, 2, -1]
    """
    return torch.cartesian_prod(_signed(h), _signed(w))


def partners(h: int, w: int) -> Tensor:
    """Returns the place of each frequency's conjugate, int64 [h * w]: a real image's transform is conjugate there.

    Example:
        >>> partners(1, 4).tolist()
        [0, 3, 2, 1]
    """
    ky, kx = torch.arange(h), torch.arange(w)
    return ((-ky % h)[:, None] * w + -kx % w).flatten()


def pairs(h: int, w: int) -> tuple[Tensor, Tensor]:
    """Returns one frequency of each conjugate pair, int64 [f], and how many it stands for, int64 [f]: 2, or 1 alone.

    Of a pair, the one with positive ky is taken, or with positive kx where ky is 0 or half a cycle per pixel.

    Example:
        >>> places, multiplicity = pairs(2, 4)
        >>> signed_frequencies(2, 4)[places].tolist(), multiplicity.tolist()
        ([[0, 0], [0, 1], [0, 2], [1, 0], [1, 1], [1, 2]], [1, 2, 1, 1, 2, 1])
    """
    ky, kx = signed_frequencies(h, w).unbind(1)
    order, other = ky * (2 * w) + kx, partners(h, w)
    places = torch.nonzero(order >= order[other])[:, 0]
    return places, 1 + (other[places] != places).long()


def _signed(size: int) -> Tensor:
    k = torch.arange(size)
    return torch.where(2 * k <= size, k, k - size)
