"""Networks whose learning is set against the theory's: linear ones, and small ones with ReLUs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn


class ConvLinear(nn.Module):
    """A convolution that keeps the images' size and a linear layer on its output, both without bias.

    It returns what ``linear(conv(images).flatten(1))`` returns, but computes the linear map that both layers make
    first, by Fourier transforms: the cost does not depend on the size and number of the kernels, and kernels as large
    as the image are no slower than others.

    Args:
        image_shape: (c, h, w).
        outputs: o.
        filters: k, of the convolution.
        kernel_size: side of the kernels in pixels; None: as large as the images.
        padding: "circular" or "zeros".
        std: standard deviation of all weights, which are normal; None: PyTorch's own.

    Attributes:
        conv: the convolution, with ``padding="same"``.
        linear: the linear layer, on its flattened output.

    Raises:
        ValueError: for kernels that are larger than the images.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        outputs: int,
        *,
        filters: int = 1,
        kernel_size: int | None = None,
        padding: Literal["circular", "zeros"] = "circular",
        std: float | None = None,
    ) -> None:
        super().__init__()
        c, h, w = image_shape
        q, r = (h, w) if kernel_size is None else (kernel_size, kernel_size)
        if q > h or r > w:
            raise ValueError(f"kernels of {q}x{r} pixels are larger than the images of {h}x{w}")
        self.conv = nn.Conv2d(c, filters, (q, r), padding="same", padding_mode=padding, bias=False)
        self.linear = nn.Linear(filters * h * w, outputs, bias=False)
        self._image = (h, w)
        # Zero padding is a circular convolution on a larger canvas.
        self._canvas = (h, w) if padding == "circular" else (h + q - 1, w + r - 1)
        if std is not None:
            normal_(self, std)

    def effective(self) -> Tensor:
        """Returns the map from images to outputs that both layers make, [o, c, h, w]."""
        h, w = self._image
        q, r = self.conv.kernel_size
        kernel = torch.fft.rfft2(self.conv.weight, s=self._canvas)
        head = torch.fft.rfft2(self.linear.weight.unflatten(1, (-1, h, w)), s=self._canvas)
        product = torch.einsum("okhw,kchw->ochw", head, kernel)
        # Kernels begin (size - 1) // 2 pixels above and to the left of the pixel that they belong to.
        whole = torch.fft.irfft2(product, s=self._canvas).roll((-((q - 1) // 2), -((r - 1) // 2)), (2, 3))
        return whole[..., :h, :w]

    def forward(self, images: Tensor) -> Tensor:
        """Returns outputs [n, o] for images [n, c, h, w]."""
        return images.flatten(1) @ self.effective().flatten(1).T


class ReluCNN(nn.Module):
    """Convolutions with stride 2 and ReLUs, and a linear layer on the last map.

    Args:
        image_shape: (c, h, w).
        outputs: o.
        widths: filters of each convolution.
        kernel_size: side of the kernels in pixels.
    """

    def __init__(
        self, image_shape: tuple[int, int, int], outputs: int, widths: Sequence[int] = (16, 32), kernel_size: int = 5
    ) -> None:
        super().__init__()
        c, h, w = image_shape
        layers: list[nn.Module] = []
        for before, width in zip((c, *widths), widths, strict=False):
            layers += [nn.Conv2d(before, width, kernel_size, stride=2, padding=kernel_size // 2), nn.ReLU()]
            h, w = ((side + 2 * (kernel_size // 2) - kernel_size) // 2 + 1 for side in (h, w))
        self.features = nn.Sequential(*layers)
        self.linear = nn.Linear(widths[-1] * h * w, outputs)

    def forward(self, images: Tensor) -> Tensor:
        """Returns outputs [n, o] for images [n, c, h, w]."""
        return self.linear(self.features(images).flatten(1))


def dense(
    image_shape: tuple[int, int, int], outputs: int, hidden: Sequence[int] = (256,), *, linear: bool = False
) -> nn.Sequential:
    """Returns a network of dense layers.

    Args:
        image_shape: (c, h, w).
        outputs: o.
        hidden: units of each layer before the last.
        linear: whether it is to have neither ReLUs nor biases.

    Example:
        >>> dense((1, 4, 4), 3)(torch.zeros(2, 1, 4, 4)).shape
        torch.Size([2, 3])
    """
    layers: list[nn.Module] = [nn.Flatten()]
    for before, units in zip((math.prod(image_shape), *hidden), hidden, strict=False):
        layers += [nn.Linear(before, units, bias=not linear)] + ([] if linear else [nn.ReLU()])
    return nn.Sequential(*layers, nn.Linear(hidden[-1], outputs, bias=not linear))


@torch.no_grad()
def normal_(network: nn.Module, std: float) -> None:
    """Draws all weights of a network from a normal distribution of this standard deviation, in place."""
    for weight in network.parameters():
        weight.normal_(std=std)


@torch.no_grad()
def scaled_(network: nn.Module, factor: float) -> None:
    """Multiplies all weights and biases of a network by a factor, in place."""
    for weight in network.parameters():
        weight.mul_(factor)
