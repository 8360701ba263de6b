"""The infinitely wide network whose kernel ConvRFM uses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from convscope.core.geometry import ConvGeometry

Padding = Literal["valid", "first", "same"]
Kind = Literal["ntk", "nngp"]
DEEPEST = 1000  # convolutions


@dataclass(frozen=True)
class Architecture:
    """Convolution and ReLU ``depth`` times, without pooling or bias, then one linear layer, all infinitely wide.

    Attributes:
        depth: L, number of convolutions, each with its ReLU.
        patch_size: q, side of every convolution's patches, in pixels.
        padding: "valid": none; "first": zeros around the images only (the official code's flag); "same": zeros in every
            layer, so that maps keep their size.
        stride: of the first convolution; the others have stride 1.
        kind: "ntk": neural tangent kernel; "nngp": covariance of the outputs of the untrained network.
        pooling: whether the mean over positions is taken before the linear layer; the cost grows with the square of
            the number of positions then.

    Raises:
        ValueError: for numbers below 1, a depth above 1,000, and unknown words.
    """

    depth: int
    patch_size: int
    padding: Padding = "valid"
    stride: int = 1
    kind: Kind = "ntk"
    pooling: bool = False

    def __post_init__(self) -> None:
        for name in ("depth", "patch_size", "stride"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} must be a whole number of at least 1, got {value!r}")
        if self.depth > DEEPEST:
            raise ValueError(f"depth must be at most {DEEPEST:,}, got {self.depth:,}")
        for name, words in (("padding", get_args(Padding)), ("kind", get_args(Kind))):
            if getattr(self, name) not in words:
                raise ValueError(f"{name} must be one of {', '.join(words)}, got {getattr(self, name)!r}")

    def first(self, channels: int) -> ConvGeometry:
        """Returns the geometry of the first convolution, on images of so many channels."""
        return ConvGeometry(channels, (self.patch_size,) * 2, (self.stride,) * 2, self._border(self.padding))

    @property
    def within_padded(self) -> ConvGeometry:
        """The geometry of the first convolution, on one map of products of images that are padded already."""
        return ConvGeometry(1, (self.patch_size,) * 2, (self.stride,) * 2)

    @property
    def deeper(self) -> ConvGeometry:
        """The geometry of every later convolution, on one covariance map."""
        border = self._border("same" if self.padding == "same" else "valid")
        return ConvGeometry(1, (self.patch_size,) * 2, padding=border)

    def sizes(self, height: int, width: int) -> list[tuple[int, int]]:
        """Returns the (height, width) of each layer's output map for images of this size.

        Raises:
            ValueError: when a layer's patch does not fit into its input.
        """
        found = self.after(self.first(1).output_size(height, width))
        for layer, size in enumerate(found, 1):
            if min(size) < 1:
                side = "x".join(map(str, (height, width) if layer == 1 else found[layer - 2]))
                raise ValueError(
                    f"a {self.patch_size}x{self.patch_size} patch of layer {layer} does not fit into {side} pixels: "
                    'use smaller patches, a smaller depth, larger images, or padding="same"'
                )
        return found

    def after(self, first: tuple[int, int]) -> list[tuple[int, int]]:
        """Returns the (height, width) of each layer's output map, given that of the first."""
        found = [first]
        for _ in range(1, self.depth):
            found.append(self.deeper.output_size(*found[-1]))
        return found

    def _border(self, padding: Padding) -> tuple[int, int, int, int]:
        low, high = self.patch_size // 2, (self.patch_size - 1) // 2
        # As PyTorch's "same": of an even patch, the odd pixel lies at the bottom and at the right.
        return {"first": (low,) * 4, "same": (high, low, high, low)}.get(padding, (0, 0, 0, 0))


def box_sum(maps: Tensor, geometry: ConvGeometry) -> Tensor:
    """Returns sums over patches, [..., h', w'], of maps [..., h, w] (the geometry's channels are left apart).

    Args:
        maps: any leading dimensions.
        geometry: its kernel, stride and padding with zeros.
    """
    top, bottom, left, right = geometry.padding
    x = F.pad(maps, (left, right, top, bottom)) if any(geometry.padding) else maps
    rows, columns = geometry.positions(*x.shape[-2:])
    (q, r), (down, across) = geometry.kernel, geometry.stride
    x = total([x[..., part] for part in shifts(r, across, columns)])
    return total([x[..., part, :] for part in shifts(q, down, rows)])


def shifts(q: int, stride: int, n: int) -> list[slice]:
    """Returns where the first, second, ... of q pixels of all n patches lie."""
    return [slice(d, d + stride * (n - 1) + 1, stride) for d in range(q)]


def total(parts: list[Tensor]) -> Tensor:
    """Returns the sum of tensors of one shape, a new tensor."""
    found = parts[0] + parts[1] if len(parts) > 1 else parts[0].clone()
    for part in parts[2:]:
        found += part
    return found


def spread_sum(maps: Tensor, geometry: ConvGeometry, size: tuple[int, int]) -> Tensor:
    """Returns the adjoint of ``box_sum``: each pixel of maps of ``size`` gets the sum over the patches it is in.

    Args:
        maps: [..., h', w'].
        geometry: as for ``box_sum``; of stride 1.
        size: (h, w).
    """
    (q, r), (top, _, left, _) = geometry.kernel, geometry.padding
    h, w = size
    # Patch position p covers the padded pixels p ... p + q - 1: a box sum again, over q - 1 zeros around.
    x = F.pad(maps, (r - 1, r - 1, q - 1, q - 1))
    return box_sum(x, ConvGeometry(1, (q, r)))[..., top : top + h, left : left + w]


def as_double(x: Tensor) -> Tensor:
    """Returns float64 on the CPU, detached."""
    return x.detach().to("cpu", torch.float64)
