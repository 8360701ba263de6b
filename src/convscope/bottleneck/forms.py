"""What each convolution could be replaced by, and what that would change in the network's output."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from convscope.bottleneck.factored import (
    ChannelForm,
    Cost,
    FrequencyForm,
    channel_cost,
    dense_cost,
    folded_bias,
    frequency_cost,
)
from convscope.bottleneck.operators import ConvOperator
from convscope.core.fourier import pairs, signed_frequencies
from convscope.core.geometry import ConvGeometry

FormName = Literal["channel", "frequency"]


@dataclass(frozen=True, eq=False)
class LayerMoments:
    """Second moments of a convolution's output and of the gradient there, over images.

    Attributes:
        size: (h, w) of the maps that it takes.
        positions: number of pixels of its output.
        mean: float64 [k], over images and positions.
        covariance: float64 [k, k], over images and positions.
        gradient: float64 [k, k], products of gradients of random signs times the outputs: summed over positions, mean
            over images and one more, whose gradients have no direction.
        by_frequency: complex128 [2, f, k, k] at the frequencies of ``core.fourier.pairs``: the output's second moments
            (centred at frequency 0 alone) and those of the gradient, likewise; None where it has no such form.
    """

    size: tuple[int, int]
    positions: int
    mean: Tensor
    covariance: Tensor
    gradient: Tensor
    by_frequency: Tensor | None = None


@dataclass(frozen=True, eq=False)
class Option:
    """All sizes of one form of a layer, from the smallest to the largest.

    Attributes:
        form: its name.
        error: float64 [s], squared change of the network's output that is expected, of an image.
        numbers: float64 [s], stored.
        multiply_adds: float64 [s], for one image.
        kept: int64 [s], kept dimensions: channels, or real dimensions of (frequency, direction) pairs.
        of: how many there are.
        build: makes the layer of a size.
    """

    form: FormName
    error: Tensor
    numbers: Tensor
    multiply_adds: Tensor
    kept: Tensor
    of: int
    build: Callable[[int], nn.Module]


@dataclass(frozen=True, eq=False)
class Choice:
    """A size of a form, in the place of a layer.

    Attributes:
        conv: the layer.
        option: the form.
        size: which of its sizes.
        dense: what the layer takes as it is.
    """

    conv: nn.Conv2d
    option: Option
    size: int
    dense: Cost

    @property
    def cost(self) -> Cost:
        """What it takes."""
        return Cost(float(self.option.numbers[self.size]), float(self.option.multiply_adds[self.size]))

    @property
    def kept(self) -> int:
        """Kept dimensions, of ``option.of``."""
        return int(self.option.kept[self.size])

    def build(self) -> nn.Module:
        """Returns the layer."""
        return self.option.build(self.size)


@dataclass(frozen=True, eq=False)
class Candidate:
    """A convolution that could be replaced, by which forms.

    Attributes:
        conv: the convolution.
        dense: what it takes.
        options: its forms.
    """

    conv: nn.Conv2d
    dense: Cost
    options: tuple[Option, ...]

    @staticmethod
    def of(conv: nn.Conv2d, moments: LayerMoments) -> Candidate:
        """Returns the forms of a convolution.

        Args:
            conv: with one group and finite weights.
            moments: of its output.
        """
        options = [channel_option(conv, moments)]
        if moments.by_frequency is not None:
            options.append(frequency_option(conv, moments))
        return Candidate(conv, dense_cost(conv, moments.positions), tuple(options))

    def choose(self, price: float) -> Choice | None:
        """Returns the form and size of smallest error + price x stored numbers, or None: as it is.

        Only what takes fewer stored numbers and fewer multiply-adds than the layer as it is comes into question.

        Args:
            price: of a stored number, in units of the error.
        """
        best, found = price * self.dense.numbers, None
        for option in self.options:
            fits = (option.numbers < self.dense.numbers) & (option.multiply_adds < self.dense.multiply_adds)
            total = torch.where(fits, option.error + price * option.numbers, math.inf)
            size = int(total.argmin())
            if float(total[size]) < best:
                best, found = float(total[size]), Choice(self.conv, option, size, self.dense)
        return found


def has_frequency_form(conv: nn.Conv2d, size: tuple[int, int]) -> bool:
    """Returns whether a convolution is a map on the torus of its own input: circular, stride 1, one group.

    Args:
        conv: the convolution.
        size: (h, w) of the maps that it takes.
    """
    geometry = ConvGeometry.of(conv)
    circular = geometry.padding_mode == "circular" or (geometry.extent == (1, 1) and not any(geometry.padding))
    return circular and conv.groups == 1 and geometry.stride == (1, 1) and (geometry.output_size(*size) == tuple(size))


def channel_option(conv: nn.Conv2d, moments: LayerMoments) -> Option:
    """Returns the channel forms of a convolution.

    An output z is replaced by m + P Q (z - m). Where a gradient g arrives, that changes the network's output by about
    g^T (1 - P Q)(z - m). With the gradients' second moments G = M M^T, M symmetric, the mean square of that is
    smallest for the r leading eigenvectors V of M C M, C the covariance: Q = V^T M, P = M^-1 V; then it is the sum of
    the other eigenvalues, if gradients at different positions add up independently of each other and of z.

    Args:
        conv: with one group.
        moments: of its output.
    """
    root, inverse = _roots(moments.gradient)
    values, vectors = torch.linalg.eigh(root @ moments.covariance @ root)
    values, vectors = values.flip(0).clamp(min=0), vectors.flip(1)
    encode, decode = vectors.T @ root, inverse @ vectors
    rank = torch.arange(1, len(values) + 1)
    numbers, multiply_adds = channel_cost(conv, moments.positions, rank)

    def build(size: int) -> nn.Module:
        return ChannelForm.of(conv, encode[: size + 1], decode[:, : size + 1], moments.mean)

    return Option("channel", _tails(values)[1:], numbers, multiply_adds, rank, len(values), build)


def frequency_option(conv: nn.Conv2d, moments: LayerMoments) -> Option:
    """Returns the frequency forms of a circular convolution.

    As ``channel_option`` at each frequency, with the output's second moments there: what is dropped at frequency 0 is
    replaced by its mean, which goes into the bias, and elsewhere by 0. Directions are taken in the order of what they
    are worth by the number that they take to store.

    Args:
        conv: circular, of stride 1, with one group.
        moments: of its output, with ``by_frequency``.
    """
    assert moments.by_frequency is not None
    size, k, c = moments.size, conv.out_channels, conv.in_channels
    places, multiplicity = pairs(*size)
    frequencies = signed_frequencies(*size)[places]
    second, gradient = moments.by_frequency
    values = torch.empty(len(second), k, dtype=torch.float64)
    encode, decode = torch.empty_like(second), torch.empty_like(second)
    for real in (True, False):
        where = (multiplicity == 1) == real
        m, g = (x[where].real if real else x[where] for x in (second, gradient))
        root, inverse = _roots(g)
        found = torch.linalg.eigh(root @ m @ root)
        values[where] = found.eigenvalues.clamp(min=0)
        encode[where] = (found.eigenvectors.mH @ root).to(encode.dtype)
        decode[where] = (inverse @ found.eigenvectors).to(decode.dtype)
    gains = (values * multiplicity[:, None]).flatten()
    order = torch.argsort(gains / (multiplicity * (k + c) + 2).repeat_interleave(k), descending=True, stable=True)
    at, direction = order // k, order % k
    count = torch.arange(1, len(order) + 1)
    twofold = (multiplicity[at] == 2).cumsum(0)
    numbers, multiply_adds = frequency_cost(c, k, size, count, twofold)
    fitting = max(int((numbers < dense_cost(conv, moments.positions).numbers).sum()), 1)
    right = (encode @ ConvOperator.of(conv, size).transfer(frequencies))[at[:fitting], direction[:fitting]]
    left = decode[at[:fitting], :, direction[:fitting]]

    def build(number: int) -> nn.Module:
        own = at[: number + 1]
        still = direction[: number + 1][(frequencies[own] == 0).all(1)]
        zero = int(torch.nonzero((frequencies == 0).all(1)))
        bias = folded_bias(conv, encode[zero, still].real, decode[zero][:, still].real, moments.mean)
        return FrequencyForm.of(conv, size, frequencies[own], left[: number + 1], right[: number + 1], bias)

    return Option(
        "frequency",
        _tails(gains[order])[1 : fitting + 1],
        numbers[:fitting],
        multiply_adds[:fitting],
        (count + twofold)[:fitting],
        math.prod(size) * k,
        build,
    )


def chosen(layers: Mapping[str, Candidate], price: float) -> dict[str, Choice]:
    """Returns what each layer is replaced by at a price; layers that stay as they are have no entry.

    One price for all means that the last number stored in each layer buys as much output as in any other.

    Args:
        layers: by name.
        price: of a stored number, in units of the error.
    """
    found = {name: layer.choose(price) for name, layer in layers.items()}
    return {name: choice for name, choice in found.items() if choice is not None}


def _tails(values: Tensor) -> Tensor:
    """Returns sums of all values from each place on, float64 [s + 1], the last one 0."""
    return torch.cat([values.flip(0).cumsum(0).flip(0), values.new_zeros(1)])


def _roots(moments: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the roots of positive definite matrices [..., k, k], and their inverses; identities where all are 0."""
    values, vectors = torch.linalg.eigh(moments)
    if not bool((values > 0).any()):
        values = torch.ones_like(values)
    least = torch.finfo(values.dtype).eps * values.amax(-1, keepdim=True)  # below, only rounding errors are left
    lengths = values.maximum(least).sqrt()[..., None, :].to(vectors.dtype)
    return vectors * lengths @ vectors.mH, vectors / lengths @ vectors.mH
