"""The geometry of a two-dimensional convolution: which patches it sees."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

PaddingMode = Literal["zeros", "reflect", "replicate", "circular"]


@dataclass(frozen=True)
class ConvGeometry:
    """What decides which patches a convolution sees, and how they are flattened.

    Attributes:
        channels: c, input channels.
        kernel: (q, r), in pixels before dilation.
        stride: (vertical, horizontal).
        padding: (top, bottom, left, right), in pixels.
        dilation: (vertical, horizontal).
        groups: number of groups; each sees ``channels // groups`` channels.
        padding_mode: how the border is filled.
    """

    channels: int
    kernel: tuple[int, int]
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1
    padding_mode: PaddingMode = "zeros"

    def __post_init__(self) -> None:
        if min(self.channels, *self.kernel, *self.stride, *self.dilation, self.groups) < 1:
            raise ValueError(f"channels, kernel, stride, dilation and groups must be at least 1, got {self}")
        if min(self.padding) < 0:
            raise ValueError(f"padding must not be negative, got {self.padding}")
        if self.channels % self.groups:
            raise ValueError(f"channels ({self.channels}) must be a multiple of groups ({self.groups})")

    @classmethod
    def of(cls, conv: nn.Module) -> ConvGeometry:
        """Returns the geometry of an ``nn.Conv2d`` (string paddings "same" and "valid" included).

        Raises:
            TypeError: when ``conv`` is not an ``nn.Conv2d``.
        """
        if not isinstance(conv, nn.Conv2d):
            raise TypeError(f"expected an nn.Conv2d, got {type(conv).__name__}: hand in the convolution itself")
        return cls.of_call(conv.weight.shape, conv.stride, conv.padding, conv.dilation, conv.groups, conv.padding_mode)

    @classmethod
    def of_call(
        cls,
        weight_shape: tuple[int, ...],
        stride: int | tuple[int, ...] = 1,
        padding: str | int | tuple[int, ...] = 0,
        dilation: int | tuple[int, ...] = 1,
        groups: int = 1,
        padding_mode: str = "zeros",
    ) -> ConvGeometry:
        """Returns the geometry of ``torch.nn.functional.conv2d`` called with these arguments.

        Args:
            weight_shape: [k, c / groups, q, r].
            stride: as conv2d takes it.
            padding: as conv2d takes it, "same" and "valid" included.
            dilation: as conv2d takes it.
            groups: as conv2d takes it.
            padding_mode: as ``nn.Conv2d`` takes it.
        """
        _, c, q, r = weight_shape
        d = _pair(dilation)
        if isinstance(padding, str):
            # "same" puts the odd pixel at the bottom and at the right, as PyTorch does.
            total = [d[0] * (q - 1), d[1] * (r - 1)] if padding == "same" else [0, 0]
            sides = (total[0] // 2, total[0] - total[0] // 2, total[1] // 2, total[1] - total[1] // 2)
        else:
            v, h = _pair(padding)
            sides = (v, v, h, h)
        return cls(c * groups, (q, r), _pair(stride), sides, d, groups, padding_mode)  # type: ignore[arg-type]

    @property
    def patch_dim(self) -> int:
        """d, the number of entries of one group's patch: ``channels // groups * q * r``."""
        return self.channels // self.groups * self.kernel[0] * self.kernel[1]

    @property
    def extent(self) -> tuple[int, int]:
        """Height and width in pixels that one patch spans, dilation included."""
        return (
            self.dilation[0] * (self.kernel[0] - 1) + 1,
            self.dilation[1] * (self.kernel[1] - 1) + 1,
        )

    def output_size(self, height: int, width: int) -> tuple[int, int]:
        """Returns the number of patch positions (rows, columns) in an image of this size; 0 where none fits."""
        top, bottom, left, right = self.padding
        return self.positions(height + top + bottom, width + left + right)

    def positions(self, height: int, width: int) -> tuple[int, int]:
        """Returns the number of patch positions (rows, columns) in an image of this size that is padded already."""
        rows = (height - self.extent[0]) // self.stride[0] + 1
        columns = (width - self.extent[1]) // self.stride[1] + 1
        return max(rows, 0), max(columns, 0)

    def covered(self, rows: int, columns: int) -> tuple[int, int]:
        """Returns height and width in pixels that this many patch positions span in the padded image."""
        return (rows - 1) * self.stride[0] + self.extent[0], (columns - 1) * self.stride[1] + self.extent[1]

    def pad(self, images: Tensor) -> Tensor:
        """Returns the images [n, c, h, w] with their border filled as the convolution fills it."""
        top, bottom, left, right = self.padding
        if not any(self.padding):
            return images
        mode = "constant" if self.padding_mode == "zeros" else self.padding_mode
        return F.pad(images, (left, right, top, bottom), mode=mode)


def _pair(x: int | tuple[int, ...]) -> tuple[int, int]:
    if isinstance(x, int):
        return (x, x)
    return (int(x[0]), int(x[-1]))
