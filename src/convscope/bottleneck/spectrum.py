"""How the maps of a layer vary over images, frequency by frequency."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from math import isnan, nan

import torch
from torch import Tensor

from convscope.bottleneck.waves import half_plane
from convscope.core.threads import in_parallel

RANK = 0.99  # share of the energy at which a rank is checked for its dependence on the number of images
ENOUGH = 4  # images for each channel, below which a rank is said to be limited by their number
CHANGE = 0.05  # of the rank between half and all of the images, above which it is said so too
UNSEEN = 1e-3  # share of the variance, up to which a sketch is taken to have seen all of it
_BLOCK = 1 << 16  # entries of the matrices whose eigenvalues a thread computes at once


@dataclass(frozen=True, eq=False)
class Sketch:
    """What is left of positive semidefinite matrices M [k, k] of which only r combinations of columns are kept.

    They are approximated by M T (T^* M T)^+ (M T)^* (Nystroem), which is never larger than M, and equal to it where
    the rank of M is at most r.

    Attributes:
        columns: complex128 [f, k, r], M T for a fixed random T with orthonormal columns.
        core: complex128 [f, r, r], T^* M T.
    """

    columns: Tensor
    core: Tensor

    def eigenvalues(self, trace: Tensor) -> Tensor:
        """Returns about the eigenvalues of M, float64 [f, k], descending.

        Those of the approximation, where they add up to the trace. Elsewhere only its largest quarter, which is about
        right, and then a geometric sequence that goes on from there and adds up to what is left of the trace. Ranks at
        99 % of SqueezeNet 1.1 and ResNet-20 are within a fifth of the exact ones with 16 columns or more for at most
        eight times as many channels; with 8 columns for 64 channels they were 40 % too low to 20 % too high.

        Args:
            trace: float64 [f], of M.
        """
        values, vectors = torch.linalg.eigh((self.core + self.core.mH) / 2)
        # What is below the rounding errors of float32 products would be divided by itself.
        floor = 1e-7 * values[:, -1:].clamp(min=0)
        root = torch.where(values > floor, values.clamp(min=torch.finfo(values.dtype).tiny).rsqrt(), 0.0)
        half = self.columns @ (vectors * root[:, None])
        seen = torch.linalg.eigvalsh(half.mH @ half).flip(-1).clamp(min=0)
        k, r = half.shape[1:]
        few = max(r // 4, 1)
        complete = trace - seen.sum(1) <= UNSEEN * trace
        return torch.where(complete[:, None], _continued(seen, trace, k), _continued(seen[:, :few], trace, k))


@dataclass(frozen=True, eq=False)
class ActivationSpectrum:
    """Variances and covariances over images of the unitary Fourier transform of a layer's maps.

    z_i(w) is the transform of channel i's map at frequency w, m(w) its mean over images, and
    M_w / n = (1/n) sum over images of (z(w) - m(w)) (z(w) - m(w))^*, divided by n, not n - 1. Maps are real, so that
    one frequency of each conjugate pair is enough; it counts twice, as a cosine and a sine. Everything is in units of
    the maps squared. Seen so, maps are treated as periodic and as if their statistics were the same everywhere:
    covariances between different frequencies are not looked at.

    Attributes:
        n: number of images.
        size: (h, w) of the maps.
        power: float64 [f, k], diagonals of M_w / n: the variance of each channel at each frequency.
        mean: complex128 [f, k], m(w).
        packed: float64 [f, k, k], real part (symmetric) plus imaginary part (antisymmetric) of M_w / n; None where
            only a sketch or only the diagonal was kept.
        sketch: of M_w / n, where that was kept in its place.
        half: the same from about half of the images, to see how far ranks depend on their number; None: not known.
    """

    n: int
    size: tuple[int, int]
    power: Tensor
    mean: Tensor
    packed: Tensor | None = None
    sketch: Sketch | None = None
    half: ActivationSpectrum | None = None

    @property
    def channels(self) -> int:
        """k, the number of channels."""
        return self.power.shape[1]

    @cached_property
    def frequencies(self) -> Tensor:
        """(ky, kx) in cycles per image of one frequency of each pair, int64 [f, 2], as in ``core.fourier.pairs``."""
        return half_plane(*self.size)[0]

    @cached_property
    def multiplicity(self) -> Tensor:
        """How many frequencies each stands for, int64 [f]: 2, or 1 for one that is its own conjugate; sums to h w."""
        return half_plane(*self.size)[1]

    @cached_property
    def variance(self) -> Tensor:
        """Variance over images at each frequency, both of a pair, all channels: float64 [f], adds up to the maps'."""
        return self.multiplicity * self.power.sum(1)

    @cached_property
    def mean_power(self) -> Tensor:
        """Power of the mean map at each frequency, both of a pair, all channels: float64 [f]."""
        return self.multiplicity * self.mean.abs().square().sum(1)

    @property
    def exact(self) -> bool:
        """Whether the covariances are there in full; else eigenvalues and ranks are approximate, or NaN."""
        return self.packed is not None

    @property
    def moments(self) -> Tensor | None:
        """M_w / n, complex128 [f, k, k]; None where it was not kept in full."""
        return None if self.packed is None else _unpacked(self.packed)

    @cached_property
    def eigenvalues(self) -> Tensor:
        """Those of M_w / n, descending, float64 [f, k]; approximate from a sketch, NaN without one."""
        if self.packed is not None:
            step = max(_BLOCK // self.channels**2, 1)
            found = in_parallel(lambda part: torch.linalg.eigvalsh(_unpacked(part)), self.packed.split(step))
            return torch.cat(found).flip(-1).clamp(min=0)
        return torch.full_like(self.power, nan) if self.sketch is None else self.sketch.eigenvalues(self.power.sum(1))

    def rank(self, share: float = RANK) -> float:
        """Returns the smallest number of real dimensions that hold a share of the variance.

        Eigenvalues of all frequencies are pooled, those of a pair counted twice (cosine and sine). Approximate where
        only a sketch is known, NaN where not even that is, 0 where nothing varies.

        Args:
            share: above 0 and at most 1.

        Raises:
            ValueError: for any other share.
        """
        _check(share)
        if not bool(self.variance.any()):
            return 0
        return _fewest(self.eigenvalues.repeat_interleave(self.multiplicity, 0).flatten(), share)

    def frequency_count(self, share: float = RANK) -> float:
        """Returns the smallest number of frequencies, a pair counted once, that hold a share of the variance.

        Args:
            share: above 0 and at most 1.

        Raises:
            ValueError: for any other share.
        """
        _check(share)
        return _fewest(self.variance, share)

    @property
    def participation(self) -> float:
        """(sum V)^2 / sum V^2 over frequencies, a pair counted once: over how many the variance V is spread."""
        return float(self.variance.sum().square() / self.variance.square().sum())

    @property
    def dc_share(self) -> float:
        """Share of the variance at frequency (0, 0): of the maps' means over space; NaN where nothing varies."""
        return float(self.variance[0] / self.variance.sum())

    @property
    def mean_radius(self) -> float:
        """Mean over the variance of hypot(ky / h, kx / w), in cycles per pixel; NaN where nothing varies."""
        radius = (self.frequencies / torch.tensor(self.size, dtype=torch.float64)).square().sum(1).sqrt()
        return float((self.variance * radius).sum() / self.variance.sum())

    @property
    def images_limit(self) -> str:
        """Why the rank says as much about the number of images as about the layer; "" where nothing speaks for it.

        A rank grows with the number of images until there are many more than channels. It is said to be limited with
        fewer than 4 images for each channel, and where about half of them give a rank that differs by more than 5 %,
        and by more than one pair of conjugate frequencies.
        """
        if self.n < ENOUGH * self.channels:
            return f"{self.n} images for {self.channels} channels are fewer than {ENOUGH} each"
        if self.half is None or isnan(whole := self.rank(RANK)):
            return ""
        half = self.half.rank(RANK)
        if abs(whole - half) > max(CHANGE * whole, 2):
            return f"{self.half.n} of the images give a rank of {half}, all {self.n} one of {whole}"
        return ""

    def scaled(self, factor: Tensor) -> ActivationSpectrum:
        """Returns the spectrum of the maps times a factor for each channel, as of a batch norm folded in.

        Args:
            factor: [k]; a constant that is added as well changes only the mean at frequency (0, 0), and is left out.
        """
        by = factor.detach().to("cpu", torch.float64)
        sketch = self.sketch
        return replace(
            self,
            power=self.power * by.square(),
            mean=self.mean * by,
            packed=None if self.packed is None else self.packed * by[:, None] * by,
            sketch=None if sketch is None else replace(sketch, columns=sketch.columns * by[:, None]),
            half=None if self.half is None else self.half.scaled(by),
        )


def _unpacked(packed: Tensor) -> Tensor:
    return torch.complex(packed + packed.mT, packed - packed.mT) / 2


def _continued(values: Tensor, total: Tensor, k: int) -> Tensor:
    """Returns k values that begin with those given [f, r], go on as a geometric sequence and add up to a total [f]."""
    m, last = k - values.shape[1], values[:, -1]
    rest = (total - values.sum(1)).clamp(min=0)
    low, high = torch.zeros_like(rest), torch.ones_like(rest)
    for _ in range(50):
        ratio = (low + high) / 2
        above = last * ratio * (1 - ratio**m) > rest * (1 - ratio)
        low, high = torch.where(above, low, ratio), torch.where(above, ratio, high)
    terms = high[:, None] ** torch.arange(m)
    return torch.cat([values, terms * (rest / terms.sum(1))[:, None]], 1)


def _fewest(values: Tensor, share: float) -> float:
    """Returns how many of these, largest first, add up to a share of all; 0 when all are 0, NaN when one is."""
    energy = values.sort(descending=True).values.cumsum(0)
    total = float(energy[-1])
    if not total > 0:
        return nan if isnan(total) else 0
    # Rounding errors of the sum are no reason to count one more.
    return int((energy < share * total * (1 - 1e-12)).sum()) + 1


def _check(share: float) -> None:
    if not 0 < share <= 1:
        raise ValueError(f"share must be above 0 and at most 1, got {share}: 0.99 for 99 % of the variance")
