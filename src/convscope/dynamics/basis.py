"""Fourier coefficients of real images as real coordinates: an orthonormal basis of cosines and sines."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from convscope.core.fourier import pairs, unitary


@dataclass(frozen=True, eq=False)
class RealBasis:
    """Cosines and sines of one frequency of each conjugate pair.

    A real image's coordinates are sqrt(2) times the real and imaginary parts of its unitary coefficients, or the real
    coefficient where a frequency is its own conjugate, so that norms are kept. Coordinates of one pair, all channels'
    real parts and then their imaginary parts, lie side by side.

    Attributes:
        shape: (c, h, w) of the images.
        places: int64 [f], of the pairs among all frequencies.
        alone: bool [f], frequencies that are their own conjugate.
        start: int64 [f], first coordinate of each pair.
    """

    shape: tuple[int, int, int]
    places: Tensor
    alone: Tensor
    start: Tensor

    @classmethod
    def of(cls, shape: tuple[int, int, int]) -> RealBasis:
        """Returns the basis for images of this shape."""
        c, h, w = shape
        places, multiplicity = pairs(h, w)
        size = c * multiplicity
        return cls(shape, places, multiplicity == 1, size.cumsum(0) - size)

    def coordinates(self, images: Tensor) -> Tensor:
        """Returns the coordinates, float64 [..., c h w], of images [..., c, h, w]."""
        found = unitary(images).flatten(-2)[..., self.places].transpose(-1, -2)  # [..., f, c]
        both = torch.stack([found.real, found.imag], -2) * math.sqrt(2)
        both[..., self.alone, 0, :] /= math.sqrt(2)
        kept = torch.ones(len(self.places), 2, dtype=torch.bool)
        kept[self.alone, 1] = False
        return both[..., kept, :].flatten(-2)

    def coefficients(self, coordinates: Tensor) -> Tensor:
        """Returns the unitary coefficients of the pairs, complex128 [f, ..., c], of coordinates [..., c h w]."""
        c = self.shape[0]
        real = self.start[:, None] + torch.arange(c)
        imag = torch.where(self.alone[:, None], real, real + c)
        a, b = coordinates[..., real], coordinates[..., imag]  # [..., f, c]
        alone = self.alone[:, None]
        scale = 1 / math.sqrt(2)
        found = torch.complex(torch.where(alone, a, a * scale), torch.where(alone, torch.zeros_like(b), b * scale))
        return found.movedim(-2, 0)

    def transformed(self, matrix: Tensor) -> Tensor:
        """Returns a symmetric matrix of all pixels [c h w, c h w] in these coordinates."""
        half = self.coordinates(matrix.unflatten(1, self.shape))
        return self.coordinates(half.T.unflatten(1, self.shape))
