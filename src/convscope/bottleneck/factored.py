"""Convolutions in factors: through few channels, or through few frequency and channel pairs; and what they cost."""

from __future__ import annotations

import copy
import math
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from convscope.core.errors import ConvscopeError


@dataclass(frozen=True)
class Cost:
    """What a layer takes.

    Attributes:
        numbers: stored entries of all its tensors.
        multiply_adds: for one image.
    """

    numbers: float
    multiply_adds: float


class ChannelForm(nn.Sequential):
    """A convolution to few channels, ``down``, then one of 1 x 1 to all, ``up``.

    Args:
        conv: whose place it takes, with one group; only its geometry, device and dtype are used.
        rank: number of channels between the two.
    """

    def __init__(self, conv: nn.Conv2d, rank: int) -> None:
        like: dict[str, Any] = {"device": conv.weight.device, "dtype": conv.weight.dtype}
        kernel, stride, dilation = (_pair(x) for x in (conv.kernel_size, conv.stride, conv.dilation))
        down = nn.utils.skip_init(
            nn.Conv2d,
            conv.in_channels,
            rank,
            kernel,
            stride,
            conv.padding if isinstance(conv.padding, str) else _pair(conv.padding),
            dilation,
            bias=False,
            padding_mode=conv.padding_mode,
            **like,
        )
        up = nn.utils.skip_init(nn.Conv2d, rank, conv.out_channels, 1, **like)
        super().__init__(OrderedDict(down=down, up=up))

    @staticmethod
    def of(conv: nn.Conv2d, encode: Tensor, decode: Tensor, mean: Tensor) -> ChannelForm:
        """Returns the form that gives m + P Q (z - m) where the convolution gives z.

        Args:
            conv: the convolution, with one group.
            encode: Q, float64 [r, k].
            decode: P, float64 [k, r].
            mean: m, float64 [k].
        """
        form = ChannelForm(conv, len(encode))
        with torch.no_grad():
            down, up = form[0], form[1]
            assert isinstance(down, nn.Conv2d)
            assert isinstance(up, nn.Conv2d)
            assert up.bias is not None
            taps = torch.einsum("rk,kcij->rcij", encode, conv.weight.detach().to("cpu", torch.float64))
            down.weight.copy_(taps)
            up.weight.copy_(decode[:, :, None, None])
            up.bias.copy_(folded_bias(conv, encode, decode, mean))
        return form


class FrequencyForm(nn.Module):
    """A circular convolution that keeps few pairs of a frequency and a direction among channels.

    With the unitary transform, z^(w) = sum over the pairs at w of left (right^T a^(w)), and z^(w) = 0 where none is
    kept, for maps of one size alone. A conjugate pair of frequencies is stored once, in complex vectors; a frequency
    that is its own conjugate takes real ones: in all k + c real numbers for each real dimension.

    Args:
        channels: c.
        outputs: k.
        size: (h, w) of the maps.
        pairs: p, how many pairs are kept.
        twofold: how many of them, the first ones, lie at frequencies that stand for two.
        dtype: of the factors.
        device: of the factors.

    Attributes:
        frequencies: int64 [p, 2], (ky, kx) in cycles per image, as ``core.fourier.pairs`` chooses them.
        left: [p + twofold, k]: real parts of all pairs, then imaginary parts of the twofold ones.
        right: [p + twofold, c], likewise.
        bias: [k].
    """

    frequencies: Tensor

    def __init__(
        self,
        channels: int,
        outputs: int,
        size: tuple[int, int],
        pairs: int,
        twofold: int,
        dtype: torch.dtype = torch.float32,
        device: torch.device | None = None,
    ) -> None:
        super().__init__()
        self.size, self.pairs, self.twofold = size, pairs, twofold
        like: dict[str, Any] = {"dtype": dtype, "device": device}
        self.register_buffer("frequencies", torch.zeros(pairs, 2, dtype=torch.int64, device=device))
        self.left = nn.Parameter(torch.zeros(pairs + twofold, outputs, **like))
        self.right = nn.Parameter(torch.zeros(pairs + twofold, channels, **like))
        self.bias = nn.Parameter(torch.zeros(outputs, **like))

    @staticmethod
    def of(
        conv: nn.Conv2d, size: tuple[int, int], frequencies: Tensor, left: Tensor, right: Tensor, bias: Tensor
    ) -> FrequencyForm:
        """Returns the form with the dtype and device of a convolution.

        Args:
            conv: whose place it takes.
            size: of its maps.
            frequencies: int64 [p, 2].
            left: complex128 [p, k], real where a frequency is its own conjugate.
            right: complex128 [p, c], likewise.
            bias: float64 [k].
        """
        twofold = ~alone(frequencies, size)
        order = torch.argsort((~twofold).long(), stable=True)
        frequencies, left, right, twofold = frequencies[order], left[order], right[order], twofold[order]
        form = FrequencyForm(
            right.shape[1], left.shape[1], size, len(left), int(twofold.sum()), conv.weight.dtype, conv.weight.device
        )
        with torch.no_grad():
            form.frequencies.copy_(frequencies)
            form.left.copy_(torch.cat([left.real, left.imag[twofold]]))
            form.right.copy_(torch.cat([right.real, right.imag[twofold]]))
            form.bias.copy_(bias)
        return form

    def forward(self, maps: Tensor) -> Tensor:
        """Returns [n, k, h, w] for maps [n, c, h, w].

        Raises:
            ConvscopeError: when the maps are of another size than the factors were made for.
        """
        h, w = self.size
        if tuple(maps.shape[-2:]) != self.size:
            raise ConvscopeError(
                f"a layer in frequency form takes maps of {h}x{w}, got {maps.shape[-2]}x{maps.shape[-1]}: "
                "give images of the size that the network was compressed for"
            )
        x = maps if maps.dtype in {torch.float32, torch.float64} else maps.float()
        # Rows are halved, so that ky >= 0 as in ``core.fourier.pairs``.
        spectrum = torch.fft.rfftn(x, dim=(-1, -2), norm="ortho").flatten(-2)
        ky, kx = self.frequencies.unbind(1)
        at = ky * w + kx % w
        inner = torch.einsum("...cp,pc->...p", spectrum[..., at], self._complex(self.right, x.dtype))
        terms = inner[..., None, :] * self._complex(self.left, x.dtype).T
        found = spectrum.new_zeros(*spectrum.shape[:-2], len(self.bias), spectrum.shape[-1])
        found = found.index_add(-1, at, terms)
        # Rows 0 and h / 2 hold both frequencies of a pair.
        both = (torch.arange(self.pairs, device=at.device) < self.twofold) & (2 * ky % h == 0)
        found = found.index_add(-1, (ky * w + -kx % w)[both], terms[..., both].conj())
        z = torch.fft.irfftn(found.unflatten(-1, (h // 2 + 1, w)), s=(w, h), dim=(-1, -2), norm="ortho")
        return (z + self.bias.to(z.dtype)[:, None, None]).to(maps.dtype)

    def extra_repr(self) -> str:
        """Returns the form's shape in words."""
        c, k, (h, w) = self.right.shape[1], self.left.shape[1], self.size
        return f"{c}, {k}, size={h}x{w}, pairs={self.pairs}, dimensions={self.pairs + self.twofold}"

    def _complex(self, rows: Tensor, dtype: torch.dtype) -> Tensor:
        real, imaginary = rows.to(dtype).split([self.pairs, self.twofold])
        rest = imaginary.new_zeros(self.pairs - self.twofold, imaginary.shape[1])
        return torch.complex(real, torch.cat([imaginary, rest]))


def alone(frequencies: Tensor, size: tuple[int, int]) -> Tensor:
    """Returns which frequencies are their own conjugates on a grid, bool [p].

    Args:
        frequencies: int64 [p, 2].
        size: (h, w) of the grid.

    Example:
        >>> alone(torch.tensor([[0, 0], [0, 1], [2, 0]]), (4, 4)).tolist()
        [True, False, True]
    """
    return (2 * frequencies % torch.tensor(size, device=frequencies.device) == 0).all(1)


def with_layers(module: nn.Module, layers: Mapping[str, nn.Module]) -> nn.Module:
    """Returns a deep copy of a module with other layers in the place of some, in the modes that those had.

    Args:
        module: left as it is.
        layers: what to put in the place of each layer, by name.

    Raises:
        ConvscopeError: when the module cannot be copied.
    """
    try:
        whole = copy.deepcopy(module)
    except Exception as error:
        raise ConvscopeError(
            f"the network cannot be copied ({type(error).__name__}: {str(error)[:200]}): hand in one that "
            "copy.deepcopy takes"
        ) from error
    for name, layer in layers.items():
        parent, _, own = name.rpartition(".")
        setattr(whole.get_submodule(parent), own, layer.train(whole.get_submodule(name).training))
    return whole


def dense_cost(conv: nn.Conv2d, positions: int) -> Cost:
    """Returns what a convolution takes as it is.

    Args:
        conv: the convolution.
        positions: number of its output's pixels.

    Example:
        >>> dense_cost(nn.Conv2d(3, 16, 3), 100)
        Cost(numbers=448, multiply_adds=43200)
    """
    bias = 0 if conv.bias is None else conv.bias.numel()
    return Cost(conv.weight.numel() + bias, conv.weight.numel() * positions)


def channel_cost(conv: nn.Conv2d, positions: int, rank: Tensor) -> tuple[Tensor, Tensor]:
    """Returns stored numbers and multiply-adds of channel forms of some ranks, float64 as ``rank``.

    Args:
        conv: in whose place they would stand.
        positions: number of its output's pixels.
        rank: int64 [...].
    """
    each = conv.weight[0].numel() + conv.out_channels
    return rank.double() * each + conv.out_channels, rank.double() * each * positions


def frequency_cost(
    channels: int, outputs: int, size: tuple[int, int], pairs: Tensor, twofold: Tensor
) -> tuple[Tensor, Tensor]:
    """Returns stored numbers and multiply-adds of frequency forms, float64 as ``pairs``.

    A pair stores c + k numbers for each real dimension and the two of its frequency. One multiply-add is two floating
    point operations: a real fast transform of N points takes 2.5 N log2 N of them, one for each channel in and out;
    the product of a pair's vectors c + k multiply-adds at a frequency that is its own conjugate and 4 (c + k) else.

    Args:
        channels: c.
        outputs: k.
        size: (h, w) of the maps, N = h w.
        pairs: int64 [...], kept pairs.
        twofold: int64 [...], those of them at frequencies that stand for two.
    """
    n, both = math.prod(size), channels + outputs
    transforms = 1.25 * n * math.log2(n) * both
    numbers = (pairs + twofold).double() * both + 2 * pairs + outputs
    return numbers, transforms + (pairs + 3 * twofold).double() * both


def folded_bias(conv: nn.Conv2d, encode: Tensor, decode: Tensor, mean: Tensor) -> Tensor:
    """Returns the bias with which P Q (w * a) + bias is m + P Q (z - m), float64 [k].

    Args:
        conv: z = w * a + its own bias.
        encode: Q, float64 [r, k].
        decode: P, float64 [k, r].
        mean: m, float64 [k].
    """
    own = torch.zeros_like(mean) if conv.bias is None else conv.bias.detach().to("cpu", torch.float64)
    return mean + decode @ (encode @ (own - mean))


def _pair(x: tuple[int, ...]) -> tuple[int, int]:
    return (int(x[0]), int(x[-1]))
