"""What Gaussian kernels of the same shape give: the chance level of a layer's alignment and of its rank."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.fft import dct

from convscope.bottleneck.fit import two_level
from convscope.bottleneck.operators import Boundary, ConvOperator
from convscope.core.geometry import ConvGeometry

LARGE = 16  # channels on the smaller side, from which on the limit of many channels is taken
SMALLEST_SHARE = (
    0.63  # share of singular values that Gaussian kernels keep where both sides are equal; others keep more
)
DRAWS = 20
_FREQUENCIES = 64  # frequencies of a draw are at most this, or 4 for each tap of the kernel: they then hold all of it
_GRID = 1 << 14  # points of the integrals over the spectrum


@dataclass(frozen=True)
class NullAlign:
    """Alignment and share of kept singular values of Gaussian kernels, mean and standard deviation over kernels.

    Attributes:
        align: mean alignment.
        align_sd: its standard deviation.
        share: mean of rank / number of singular values.
        share_sd: its standard deviation.
    """

    align: float
    align_sd: float
    share: float
    share_sd: float


def gaussian_null(operator: ConvOperator, draws: int = DRAWS, seed: int = 0) -> NullAlign:
    """Returns what the two-level fit gives for kernels of independent normal entries in the place of a convolution's.

    With at least 16 channels on the smaller side and stride 1, singular values follow the Marchenko-Pastur law at every
    frequency and nothing is drawn. Else kernels are drawn; of wide strided layers narrower ones of the same
    proportions, for the law depends on these alone and its standard deviation falls as one over the channels.

    Args:
        operator: the convolution; only its shape matters.
        draws: number of kernels, where they are drawn; at least 2.
        seed: of the draws.

    Raises:
        ValueError: for fewer than two draws.

    Example:
        >>> from torch import nn
        >>> found = gaussian_null(ConvOperator.of(nn.Conv2d(32, 32, 3, padding=1, padding_mode="circular"), 8))
        >>> round(found.align, 4), round(found.share, 2)
        (0.8704, 0.63)
    """
    if draws < 2:
        raise ValueError(f"draws must be at least 2, got {draws}: one kernel has no standard deviation")
    outputs, inputs = operator.block_shape
    if operator.geometry.stride == (1, 1) and min(outputs, inputs) >= LARGE:
        return _limit(min(outputs, inputs), max(outputs, inputs), operator)
    factor = max(1, min(outputs, inputs) // LARGE)
    k, c, q, r = operator.weight.shape
    shape = (max(1, k // operator.groups // factor) * operator.groups, max(1, c // factor), q, r)
    geometry = replace(operator.geometry, channels=shape[1] * operator.groups)
    found = _drawn(shape, geometry, operator.size, operator.grid, operator.boundary, draws, seed)
    return replace(found, align_sd=found.align_sd / factor, share_sd=found.share_sd / factor)


def marchenko_pastur(aspect: float) -> tuple[float, float]:
    """Returns alignment and share of kept values of a large Gaussian matrix, the limit of many channels.

    Args:
        aspect: smaller over larger side, in (0, 1].

    Raises:
        ValueError: for another aspect.

    Example:
        >>> [round(marchenko_pastur(aspect)[0], 4) for aspect in (1, 1 / 2, 1 / 16)]
        [0.8704, 0.8898, 0.9843]
    """
    if not 0 < aspect <= 1:
        raise ValueError(f"aspect must lie in (0, 1], got {aspect}: it is the smaller side over the larger")
    law = _Law.of(aspect)
    return law.align, law.share


@dataclass(frozen=True, eq=False)
class _Law:
    """The two-level fit of the Marchenko-Pastur law, and how it follows fluctuations of the spectrum.

    Attributes:
        align: of the law.
        share: of the law.
        of_align: [k], cosine coefficients over theta, k = 1, 2, ..., of the function whose mean over singular values
            the alignment follows to first order.
        of_share: [k], the same for the share.
    """

    align: float
    share: float
    of_align: NDArray[np.float64]
    of_share: NDArray[np.float64]

    @classmethod
    @lru_cache(maxsize=64)
    def of(cls, aspect: float) -> _Law:
        # Eigenvalues are 1 + c + 2 sqrt(c) cos(theta), of density 2 sin^2(theta) / (pi eigenvalue) over theta.
        theta = (np.arange(_GRID) + 0.5) * np.pi / _GRID
        eigenvalue = 1 + aspect + 2 * np.sqrt(aspect) * np.cos(theta)
        s, weight = np.sqrt(eigenvalue), 2 * np.sin(theta) ** 2 / eigenvalue / _GRID
        kept, total = np.cumsum(weight), np.cumsum(weight * s)
        best = int(np.argmax(total**2 / kept))
        share, upper, cut = float(kept[best]), float(total[best]), float(s[best])
        above = s >= cut
        # The cut is a maximum, so that the alignment does not follow it: d log align = 2 dA / A - dK / K - d sum s^2.
        of_align = above * (2 * s / upper - 1 / share) - eigenvalue
        # The share follows it. At the maximum A = 2 t K at the cut t, from which dt; the density of s at t is p.
        p = 2 * np.sin(theta[best]) / (np.pi * cut * np.sqrt(aspect)) if best < _GRID - 1 else 0.0
        of_share = above * (1 - p * (s - 2 * cut) / (2 * share - cut * p))
        coefficients = [dct(f)[1:] / _GRID for f in (of_align, of_share)]
        return cls(upper**2 / share, min(share, 1.0), *coefficients)


def _limit(smaller: int, larger: int, operator: ConvOperator) -> NullAlign:
    """Returns the null of many channels.

    For f(eigenvalue) = sum_k a_k cos(k theta), the sum of f over the eigenvalues of a real Gaussian matrix has variance
    sum_k k a_k^2 / 2. Blocks at frequencies v and w are correlated by rho(v - w), the transform of the squared shares
    of the taps, and also their conjugates: term k of the mean over frequencies is that times the mean of |rho|^(2 k).
    """
    law = _Law.of(smaller / larger)
    envelope = operator.inside.square()
    plain = replace(operator, kernel=envelope[None, None], boundary="circular")
    rho = torch.fft.fft2(plain.wrapped).abs() / envelope.sum()
    k = np.arange(1, min(smaller, _GRID - 1) + 1)
    squared = rho.square().flatten().clamp(max=1).numpy()
    term, power = np.empty(len(k)), np.ones_like(squared)
    for i in range(len(k)):
        power *= squared
        term[i] = power.mean()

    def deviation(a: NDArray[np.float64]) -> float:
        return float(np.sqrt((k * a[: len(k)] ** 2 / 2 * term).sum() / operator.groups)) / smaller

    return NullAlign(law.align, law.align * deviation(law.of_align), law.share, deviation(law.of_share))


@lru_cache(maxsize=256)
def _drawn(
    shape: tuple[int, int, int, int],
    geometry: ConvGeometry,
    size: tuple[int, int],
    grid: tuple[int, int],
    boundary: Boundary,
    draws: int,
    seed: int,
) -> NullAlign:
    generator = torch.Generator().manual_seed(seed)
    found = []
    for _ in range(draws):
        kernel = torch.randn(shape, dtype=torch.float64, generator=generator)
        operator = ConvOperator(kernel, geometry, size, grid, boundary)
        frequencies, multiplicity = operator.half_plane
        few = torch.randperm(len(frequencies), generator=generator)[: max(_FREQUENCIES, 4 * shape[2] * shape[3])]
        values = torch.linalg.svdvals(operator.blocks(frequencies[few])).flatten(1)
        fit = two_level(values.flatten(), multiplicity[few].repeat_interleave(values.shape[1]))
        found.append((fit.align, fit.rank / (int(multiplicity[few].sum()) * values.shape[1])))
    mean, sd = np.mean(found, 0), np.std(found, 0, ddof=1)
    return NullAlign(float(mean[0]), float(sd[0]), float(mean[1]), float(sd[1]))
