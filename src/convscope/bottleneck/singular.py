"""Singular values of any convolution, frequency by frequency."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from math import ceil, pi, prod

import torch
from torch import Tensor, nn

from convscope.bottleneck.operators import ConvOperator, Forced, Size
from convscope.core.threads import in_parallel

_CHUNK = 2**20  # bytes of matrices that a thread looks at together
_FEW_DIGITS = 1e-5  # below this share of the largest one, the root of an eigenvalue has lost too many digits


@dataclass(frozen=True, eq=False)
class FrequencySingularValues:
    """Singular values of a convolution's operator, by the frequency at which they act.

    Attributes:
        values: float64 [f, m], descending at each frequency, those of all groups together. m is min(k, c) for one
            group and stride 1; else the sum over groups of the smaller side of its blocks.
        operator: the convolution on a torus.
    """

    values: Tensor
    operator: ConvOperator

    @property
    def frequencies(self) -> Tensor:
        """(ky, kx) in cycles per image, int64 [f, 2]: one of each conjugate pair on the grid of the output.

        For a transposed convolution, on the grid of its input.
        """
        return self.operator.half_plane[0]

    @property
    def multiplicity(self) -> Tensor:
        """For how many frequencies each stands, int64 [f]: 2, or 1 alone; sums to the number of positions."""
        return self.operator.half_plane[1]

    @property
    def grid(self) -> tuple[int, int]:
        """(rows, columns) of that grid."""
        return self.operator.coarse

    @property
    def shape(self) -> tuple[int, ...]:
        """(k, c / groups, q, r) of the weight."""
        return tuple(self.operator.kernel.shape)

    @property
    def leak(self) -> float:
        """Share of the operator's squared entries that the circulant in its place cannot hold; 0 for circular."""
        return self.operator.leak

    @property
    def notes(self) -> tuple[str, ...]:
        """Where the operator deviates from the convolution, in words."""
        return self.operator.notes

    def full(self) -> Tensor:
        """Returns every singular value of the operator, over all groups, descending, float64 [m * positions]."""
        return self.values.repeat_interleave(self.multiplicity, 0).flatten().sort(descending=True).values

    @property
    def norm(self) -> float:
        """The largest singular value: the operator norm itself for circular padding, else that of the circulant."""
        return float(self.values.max())

    @cached_property
    def norm_bound(self) -> float:
        """What the operator norm never exceeds; for circular padding the norm itself.

        With zeros around it, a map is part of a map on a larger torus, on which no tap wraps back into it: the
        operator cuts rows and columns out of the raw circulant there. NaN for reflected and replicated borders.
        """
        if self.operator.boundary in {"reflect", "replicate"}:
            return float("nan")
        return (
            self.norm if self.operator.boundary == "circular" else float(_values(_on_larger_torus(self.operator)).max())
        )

    @property
    def frobenius(self) -> float:
        """Root of the sum of all squared singular values; squared, N times the squared norm of the wrapped weight."""
        return float((self.values.square().sum(1) * self.multiplicity).sum()) ** 0.5

    @property
    def stable_rank(self) -> float:
        """Squared Frobenius norm over squared operator norm: from 1 to m N; NaN for zero weights."""
        return (self.frobenius / self.norm) ** 2 if self.norm else float("nan")


def frequency_singular_values(conv: nn.Module, size: Size, boundary: Forced | None = None) -> FrequencySingularValues:
    """Returns the singular values of a convolution as a linear operator, at each frequency of its output grid.

    For circular padding they are exact (Sedghi, Gupta & Long, ICLR 2019; here also under strides, groups and dilation,
    and for kernels larger than the map, which wrap). Zero padding has no frequencies of its own: the closest circulant
    stands in, and ``leak`` says what share of the operator it misses. Reflected and replicated borders are taken for
    circular ones. Under a stride, one frequency of the output mixes those of the input that are folded onto it. The
    singular values of a transposed convolution are those of the convolution whose adjoint it is.

    Args:
        conv: an ``nn.Conv2d`` or ``nn.ConvTranspose2d``; its bias plays no part.
        size: height and width of its input in pixels, or one number for both.
        boundary: None: as the convolution pads; "circular": its raw weights on the torus, whatever its padding;
            "zeros": as if it padded with zeros.

    Raises:
        TypeError: for another module.
        ValueError: for a size or boundary that means nothing.
        ConvscopeError: when the weights are not finite numbers.

    Example:
        >>> conv = nn.Conv2d(3, 4, 3, padding="same", padding_mode="circular")
        >>> found = frequency_singular_values(conv, 8)
        >>> found.values.shape, int(found.multiplicity.sum()), found.full().shape
        (torch.Size([34, 3]), 64, torch.Size([192]))
    """
    return singular_values(ConvOperator.of(conv, size, boundary))


def singular_values(operator: ConvOperator) -> FrequencySingularValues:
    """Returns the singular values of an operator at each of its frequencies.

    Eigenvalues of T T^H or T^H T, whichever is smaller, come from the autocorrelation of the kernel, a short
    trigonometric polynomial in the frequency. Where their roots have lost digits, the blocks themselves are
    decomposed: a value is within 1e-9 of the largest one, and right to five digits however small it is.

    Args:
        operator: the convolution's.
    """
    return FrequencySingularValues(_values(operator), operator)


def _values(operator: ConvOperator) -> Tensor:
    """Returns the singular values, float64 [f, m]."""
    plain = replace(operator, transposed=False)
    outputs, inputs = plain.block_shape
    m = min(outputs, inputs)
    frequencies, _ = plain.half_plane
    if prod(plain.geometry.kernel) == 1:  # the same at every frequency, and aliases add nothing
        only = plain.taps[1].view(plain.groups, outputs, -1)
        found = torch.linalg.svdvals(only).flatten().sort(descending=True).values
        alike = torch.zeros(len(frequencies), plain.groups * m, dtype=torch.float64)
        alike[:, : len(found)] = found
        return alike
    gram = _gram_of(plain)
    size = max(_CHUNK // (16 * plain.groups * outputs * inputs), 1)

    def look(part: Tensor) -> Tensor:
        return torch.linalg.eigvalsh(gram(part)).clamp(min=0).sqrt()  # [f', g, m]

    found = torch.cat(in_parallel(look, frequencies.split(size)))
    largest = found.amax()
    doubtful = torch.nonzero((found.amin(2) < _FEW_DIGITS * largest).any(1))[:, 0]
    if len(doubtful) and largest > 0:
        exact = in_parallel(lambda part: torch.linalg.svdvals(plain.blocks(frequencies[part])), doubtful.split(size))
        found[doubtful] = torch.cat(exact)
    return found.flatten(1).sort(1, descending=True).values


def _gram_of(operator: ConvOperator) -> Callable[[Tensor], Tensor]:
    """Returns what maps frequencies [f, 2] to T T^H or T^H T, the smaller one, complex128 [f, g, m, m]."""
    outputs, inputs = operator.block_shape
    by_outputs = outputs <= inputs
    (h, w), (s, t) = operator.geometry.kernel, operator.geometry.stride
    m, other = min(outputs, inputs), max(outputs, inputs)
    lags = (2 * h - 1) * (2 * w - 1) / 2 / (s * t)
    direct = h * w * other + 2 * other * m
    if (not by_outputs and s * t > 1) or lags * m > direct:
        return lambda part: _product(operator.blocks(part), by_outputs)
    return _Autocorrelation(operator, by_outputs)


def _product(blocks: Tensor, by_outputs: bool) -> Tensor:
    return blocks @ blocks.mH if by_outputs else blocks.mH @ blocks


class _Autocorrelation:
    """T T^H as a polynomial in the frequency: sum over lags d of G(d) exp(2 pi i w d), G(-d) = G(d)^T.

    Under a stride, the mean over aliases leaves the lags that are multiples of it.

    Args:
        operator: of stride 1, or seen from its outputs.
        by_outputs: whether T T^H is wanted, else T^H T.
    """

    def __init__(self, operator: ConvOperator, by_outputs: bool) -> None:
        q, r = operator.geometry.kernel
        taps = operator.kernel.unflatten(0, (operator.groups, -1)).permute(3, 4, 0, 1, 2)
        if not by_outputs:
            taps = taps.mT  # T^H has the transposed taps at the opposite offsets, and its square the opposite lags
        sign = 1 if by_outputs else -1

        def tap(y: int, x: int) -> Tensor:
            return taps[y, x].double() * operator.inside[y, x]

        (dy, dx), (s, t) = operator.geometry.dilation, operator.geometry.stride
        lags = [(i, j) for i in range(q) for j in range(-r + 1, r) if (i or j >= 0) and not (i * dy % s or j * dx % t)]
        scale = torch.tensor([sign * dy / operator.grid[0], sign * dx / operator.grid[1]], dtype=torch.float64)
        self.lags = torch.tensor(lags, dtype=torch.float64) * scale
        m = taps.shape[3]
        self.gram = torch.zeros(len(lags), operator.groups, m, m, dtype=torch.float64)
        for g, (i, j) in zip(self.gram, lags, strict=True):
            for y in range(i, q):
                for x in range(max(j, 0), r + min(j, 0)):
                    g.baddbmm_(tap(y, x), tap(y - i, x - j).mT)
        self.gram[0] /= 2  # lag 0 comes first, and is its own opposite

    def __call__(self, frequencies: Tensor) -> Tensor:
        turns = 2 * pi * frequencies.double() @ self.lags.T
        found = torch.empty(len(frequencies), *self.gram.shape[1:], dtype=torch.complex128)
        half = (turns.cos() @ self.gram.flatten(1)).view(found.shape)
        found.real.copy_(half).add_(half.mT)
        half = (turns.sin() @ self.gram.flatten(1)).view(found.shape)
        found.imag.copy_(half).sub_(half.mT)
        return found


def _on_larger_torus(operator: ConvOperator) -> ConvOperator:
    """Returns the raw circulant on the smallest torus on which no tap reaches round into the map."""
    g = operator.geometry
    pads = (g.padding[0], g.padding[2])
    grid = [
        ceil(max(size + pad, (n - 1) * s - pad + extent) / s) * s
        for size, pad, n, s, extent in zip(
            operator.size, pads, g.output_size(*operator.size), g.stride, g.extent, strict=True
        )
    ]
    return ConvOperator.of_weight(operator.weight, g, (grid[0], grid[1]), "circular")
