"""Stripe patterns in images: what an image holds at a frequency, and the images without what tells classes apart there.

An alarm is raised on the images' periodic component, since a border's jump would look like a frequency. What a network
sees is the image as it is: so it is the whole image's coefficient that is replaced, which changes the image by nothing
but a faint stripe pattern and leaves no class a mean of its own there.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

Frequency = tuple[int, int]


def waves(frequency: Frequency, h: int, w: int) -> Tensor:
    """Returns cosine and sine of a frequency, float64 [2, h, w], with the phase 0 at the image's upper left corner.

    The corner is that of the first pixel, not its centre: so a pattern keeps its place where an image is resized.

    Args:
        frequency: (ky, kx) in cycles per image, either one of a conjugate pair.
        h: rows.
        w: columns.

    Raises:
        ValueError: for a frequency beyond half a cycle per pixel.

    Example:
        >>> waves((0, 1), 1, 4)[0].round(decimals=2).tolist()
        [[0.71, -0.71, -0.71, 0.71]]
    """
    ky, kx = frequency
    if 2 * abs(ky) > h or 2 * abs(kx) > w:
        raise ValueError(
            f"the frequency ({ky}, {kx}) is beyond half a cycle per pixel of images of {h}x{w} pixels: expected ky "
            f"from {-(h // 2)} to {h // 2} and kx from {-(w // 2)} to {w // 2}"
        )
    y, x = (torch.arange(size, dtype=torch.float64) + 0.5 for size in (h, w))
    angle = 2 * math.pi * (ky * y[:, None] / h + kx * x / w)
    return torch.stack([angle.cos(), angle.sin()])


def amplitudes(images: Tensor, frequency: Frequency) -> Tensor:
    """Returns how much of a frequency images hold, float64 [..., 2]: the factors of its two ``waves``.

    A factor is in units of the images: 1/255 is one step of a byte where images lie in [0, 1].

    Args:
        images: [..., h, w].
        frequency: (ky, kx) in cycles per image.

    Raises:
        ValueError: for a frequency beyond half a cycle per pixel.

    Example:
        >>> amplitudes(0.5 + 0.1 * waves((2, 1), 8, 8)[0], (2, 1)).round(decimals=6).tolist()
        [0.1, 0.0]
    """
    basis = waves(frequency, *images.shape[-2:]).flatten(1).to(images.device)
    size = basis.square().sum(1)
    # At 0 and at half a cycle per pixel one of the two vanishes, but for rounding; else each has the size h w / 2.
    factors = images.to(torch.float64).flatten(-2) @ basis.T
    return torch.where(size > 1e-9 * basis.shape[1], factors / size.clamp(min=1e-300), 0.0)


def pattern(factors: Tensor, frequency: Frequency, h: int, w: int) -> Tensor:
    """Returns the stripes that ``amplitudes`` describes, float64 [..., h, w].

    Args:
        factors: [..., 2].
        frequency: (ky, kx) in cycles per image.
        h: rows.
        w: columns.

    Raises:
        ValueError: for a frequency beyond half a cycle per pixel.
    """
    return torch.einsum("...b,bhw->...hw", factors, waves(frequency, h, w).to(factors.device))


def notched(images: Tensor, frequencies: Sequence[Frequency], mean: Tensor) -> Tensor:
    """Returns images whose coefficients at some frequencies are those of the data set's mean image.

    No mean over a class differs from another there any more, nor does an image's energy; at all other frequencies the
    images are as before. Values may leave the range of the images by the amplitude that was taken off: nothing is
    clipped.

    Args:
        images: [n, c, h, w], real.
        frequencies: (ky, kx) in cycles per image; of a conjugate pair either one stands for both.
        mean: [c, h, w], mean of all images of the data set.

    Returns:
        [n, c, h, w], of the images' dtype (float32 for integers).

    Raises:
        ValueError: for a mean of another shape, or a frequency beyond half a cycle per pixel.

    Example:
        >>> stripes = 0.1 * waves((1, 1), 4, 4)[0].expand(1, 1, 4, 4)
        >>> notched(0.5 + stripes, [(1, 1)], torch.full((1, 4, 4), 0.5)).round(decimals=6).unique().tolist()
        [0.5]
    """
    if images.ndim != 4 or mean.shape != images.shape[1:]:
        raise ValueError(
            f"notched expects images [n, c, h, w] and their mean [c, h, w], got the shapes {list(images.shape)} and "
            f"{list(mean.shape)}"
        )
    h, w = images.shape[2:]
    found = images.to(torch.float64)
    apart = found - mean.to(found)
    for frequency in dict.fromkeys(_one_of_pair(f, h, w) for f in frequencies):
        found = found - pattern(amplitudes(apart, frequency), frequency, h, w)
    return found.to(images.dtype if images.is_floating_point() else torch.float32)


def _one_of_pair(frequency: Frequency, h: int, w: int) -> Frequency:
    """Returns the same frequency for both of a conjugate pair, and for both signs of half a cycle per pixel."""

    def signed(ky: int, kx: int) -> Frequency:
        return (ky if 2 * ky != -h else -ky), (kx if 2 * kx != -w else -kx)

    ky, kx = frequency
    return max(signed(ky, kx), signed(-ky, -kx))
