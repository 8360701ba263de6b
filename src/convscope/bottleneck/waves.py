"""The Fourier transform of many small maps at once, frequency by frequency, as products of matrices."""

from __future__ import annotations

from functools import lru_cache
from math import pi, prod

import torch
from torch import Tensor

from convscope.core.fourier import pairs, signed_frequencies

_SMALL = 169  # pixels of a map, up to which one product with all waves is faster than rows and columns in turn


class Scratch:
    """Memory for what is soon forgotten, by name: fresh memory for every batch costs more than what is done in it."""

    def __init__(self) -> None:
        self._held: dict[tuple[str, torch.dtype, torch.device], Tensor] = {}

    def __call__(self, name: str, like: Tensor, *shape: int) -> Tensor:
        """Returns memory of a shape, in the dtype and on the device of ``like``; the next call of that name reuses it.

        Args:
            name: what it is for.
            like: any tensor.
            shape: wanted.
        """
        key, size = (name, like.dtype, like.device), prod(shape)
        if key not in self._held or self._held[key].numel() < size:
            self._held[key] = like.new_empty(size)
        return self._held[key][:size].view(shape)


class Waves:
    """The unitary transform of maps of one size, at one frequency of each conjugate pair.

    The maps of a network are small, and their sides are seldom powers of 2: products with matrices of cosines and
    sines are then as fast as a fast transform or faster, and give the frequencies first in memory, side by side for
    all images and channels, as products over images want them.

    Args:
        h: height of the maps.
        w: width of the maps.
        hann: whether maps are multiplied by a Hann window of mean square 1 that falls to 0 half a pixel outside of
            them: images do not continue at the opposite border, and without a window the jump there looks like a
            pattern along both axes.
        dtype: float32 or float64, of the arithmetic.
        device: of the maps.

    Attributes:
        places: int64 [f], the place in what a call returns of each frequency of ``core.fourier.pairs``.

    Example:
        >>> maps = torch.rand(5, 3, 6, 7, dtype=torch.float64)
        >>> waves = Waves(6, 7)
        >>> found = waves(maps)[waves.places]  # [f, (re, im), n, k]
        >>> wanted = torch.fft.fft2(maps, norm="ortho").flatten(2)[..., pairs(6, 7)[0]]
        >>> torch.allclose(torch.complex(found[:, 0], found[:, 1]), wanted.permute(2, 0, 1))
        True
    """

    def __init__(
        self,
        h: int,
        w: int,
        hann: bool = False,
        dtype: torch.dtype = torch.float64,
        device: torch.device | str = "cpu",
    ) -> None:
        # Columns of cosines alone (kx = 0, and half a cycle per pixel) come first: their ky need not be negative.
        alone = torch.arange(0, w // 2 + 1, w // 2 if w % 2 == 0 else w)
        both = torch.arange(1, (w + 1) // 2)
        self._alone, self._up = len(alone), h // 2 + 1
        c, s = _waves(w, hann)
        self._columns = torch.stack([c, s], 1)[torch.cat([alone, both])].flatten(0, 1).to(device, dtype)
        # (c + i s)(c' + i s') = (c c' - s s') + i (s c' + c s'): what cosines, and what sines, along x contribute.
        # Where ky is negative, the conjugate stands for the frequency with the other signs.
        c, s = _waves(h, hann)
        sign = torch.where(torch.arange(h) <= h // 2, 1.0, -1.0).double()[:, None]
        self._rows = torch.stack([torch.stack([c, sign * s], 1), torch.stack([-s, sign * c], 1)]).flatten(1, 2)
        self._rows = self._rows.to(device, dtype)
        self._all: Tensor | None = None
        if h * w <= _SMALL:
            pixels = torch.eye(h * w, dtype=dtype, device=device).view(h * w, 1, h, w)
            self._all = self._in_turn(pixels, Scratch()).view(-1, h * w)
        ky = torch.arange(h)
        others = torch.where(ky <= h // 2, ky * w + both[:, None], (h - ky) * w + w - both[:, None])
        own = torch.cat([(ky[: self._up] * w + alone[:, None]).flatten(), others.flatten()])
        self.places = torch.empty(h * w, dtype=torch.int64).scatter_(0, own, torch.arange(len(own)))[pairs(h, w)[0]]

    def __call__(self, maps: Tensor, scratch: Scratch | None = None) -> Tensor:
        """Returns the transform, [f, 2, n, k]: real and imaginary parts, frequency (0, 0) first.

        Args:
            maps: [n, k, h, w].
            scratch: for what is returned, which the next call with it overwrites; None: new memory.
        """
        scratch = scratch or Scratch()
        n, k, h, w = maps.shape
        if self._all is None:
            return self._in_turn(maps, scratch)
        found = scratch("transform", maps, len(self.places), 2, n, k)
        torch.mm(self._all, maps.reshape(n * k, h * w).mT, out=found.view(-1, n * k))
        return found

    def _in_turn(self, maps: Tensor, scratch: Scratch) -> Tensor:
        n, k, h, w = maps.shape
        across = scratch("across", maps, len(self._columns), n * k * h)
        torch.mm(self._columns, maps.reshape(-1, w).mT, out=across)
        across = across.view(-1, 2, n * k, h).mT
        alone, both = across[: self._alone, 0], across[self._alone :]
        found = scratch("transform", maps, self._alone * self._up + len(both) * h, 2, n, k)
        upper, all_rows = found.split([self._alone * self._up, len(both) * h])
        torch.matmul(self._rows[0, : 2 * self._up], alone, out=upper.view(self._alone, -1, n * k))
        if len(both):
            along = all_rows.view(len(both), -1, n * k)
            c, s = self._rows[:, None].expand(-1, len(both), -1, -1)
            torch.baddbmm(torch.bmm(c, both[:, 0], out=along), s, both[:, 1], out=along)
        return found


@lru_cache(maxsize=64)
def waves(h: int, w: int, hann: bool, dtype: torch.dtype, device: torch.device) -> Waves:
    """Returns the transform of maps of one size; arguments as for ``Waves``."""
    return Waves(h, w, hann, dtype, device)


def half_plane(h: int, w: int) -> tuple[Tensor, Tensor]:
    """Returns (ky, kx) in cycles per image of one frequency of each pair, int64 [f, 2], and its multiplicity [f].

    In the order of ``core.fourier.pairs``.
    """
    places, multiplicity = pairs(h, w)
    return signed_frequencies(h, w)[places], multiplicity


def _waves(size: int, hann: bool) -> Tensor:
    """Returns the waves of one axis at all frequencies, float64 [2, size, size]: cosines, then sines with a minus."""
    at = torch.arange(size)
    turns = 2 * pi / size * (at[:, None] * at % size).double()
    found = torch.stack([turns.cos(), -turns.sin()]) / size**0.5
    if hann:
        window = (pi * (at.double() + 0.5) / size).sin().square()
        found *= window / window.square().mean().sqrt()
    return found
