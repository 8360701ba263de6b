"""Linear networks whose learning is predicted: convolutions and one linear layer, or two linear layers."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

Padding = Literal["circular", "zeros"]


@dataclass(frozen=True, eq=False)
class LinearCNN:
    """A linear CNN: convolutions, and a linear layer on all that the last returns; no biases.

    Attributes:
        kernels: float64 [k, c, q, r] of each convolution, the first first.
        head: float64 [o, k, h', w'], the linear layer's weights, by filter and position.
        padding: "circular", so that maps keep their size; or "zeros", for one convolution alone.
        before: pixels of padding above and to the left of each convolution's input.
    """

    kernels: tuple[Tensor, ...]
    head: Tensor
    padding: Padding = "circular"
    before: tuple[int, int] = (0, 0)

    @property
    def weights(self) -> tuple[Tensor, ...]:
        """All weights, the first layer's first."""
        return (*self.kernels, self.head)

    @classmethod
    def of(cls, conv: nn.Conv2d, head: nn.Linear, image_shape: tuple[int, int, int]) -> LinearCNN:
        """Returns the linear CNN that two PyTorch layers make, with copies of their weights.

        Args:
            conv: the convolution, on images of ``image_shape``.
            head: on its flattened output.
            image_shape: (c, h, w).

        Raises:
            ValueError: for biases, strides, dilation, groups, sizes that do not fit, and padding other than zeros and
                circular padding that keeps the size.
        """
        c, h, w = image_shape
        (q, r), out = conv.weight.shape[2:], conv.out_channels
        if conv.bias is not None or head.bias is not None:
            raise ValueError("the theory is for layers without bias: make them with bias=False, and centre the images")
        for name, value in (("stride", conv.stride), ("dilation", conv.dilation), ("groups", conv.groups)):
            if value not in {1, (1, 1)}:
                raise ValueError(f"the convolution must have {name} 1, got {value}")
        if conv.in_channels != c:
            raise ValueError(f"the convolution takes {conv.in_channels} channels, but images have {c}")
        if conv.padding_mode not in {"zeros", "circular"}:
            raise ValueError(f"padding_mode must be zeros or circular, got {conv.padding_mode}")
        total = (q - 1, r - 1) if conv.padding == "same" else (0, 0)
        before, after = (total[0] // 2, total[1] // 2), (total[0] - total[0] // 2, total[1] - total[1] // 2)
        if not isinstance(conv.padding, str):
            before = after = (int(conv.padding[0]), int(conv.padding[1]))
        rows, columns = h + before[0] + after[0] - q + 1, w + before[1] + after[1] - r + 1
        circular = conv.padding_mode == "circular" and (before, after) != ((0, 0), (0, 0))
        if circular and (rows, columns) != (h, w):
            raise ValueError(
                f"circular padding must keep the images' size {h}x{w}, got maps of {rows}x{columns}: use padding='same'"
            )
        if rows < 1 or columns < 1:
            raise ValueError(f"the {q}x{r} kernel does not fit images of {h}x{w} with this padding")
        if head.in_features != out * rows * columns:
            raise ValueError(
                f"the linear layer takes {head.in_features} numbers, but the convolution returns {out}x{rows}x{columns}"
            )
        weights = (x.weight.detach().to("cpu", torch.float64, copy=True) for x in (conv, head))
        kernel, rest = weights
        return cls((kernel,), rest.unflatten(1, (out, rows, columns)), "circular" if circular else "zeros", before)

    @classmethod
    def drawn(
        cls,
        image_shape: tuple[int, int, int],
        outputs: int,
        init_std: float,
        *,
        channels: int = 1,
        kernel_size: int | None = None,
        padding: Padding = "circular",
        depth: int = 2,
        seed: int = 0,
    ) -> LinearCNN:
        """Returns a network of Gaussian weights, anchored as PyTorch's ``padding="same"`` does.

        Args:
            image_shape: (c, h, w).
            outputs: o.
            init_std: standard deviation of all weights.
            channels: k, filters of each convolution.
            kernel_size: side of the kernels in pixels; None: as large as the images.
            padding: as the attribute.
            depth: number of layers, the linear one included.
            seed: of the draws.

        Raises:
            ValueError: when numbers are too small, kernels larger than the images, or zero padding is to be had with
                more than one convolution.
        """
        c, h, w = image_shape
        q, r = (h, w) if kernel_size is None else (kernel_size, kernel_size)
        for name, value, least in (("channels", channels, 1), ("kernel_size", min(q, r), 1), ("depth", depth, 2)):
            if value < least:
                raise ValueError(f"{name} must be at least {least}, got {value}")
        if q > h or r > w:
            raise ValueError(f"kernels of {q}x{r} pixels are larger than the images of {h}x{w}")
        if padding not in {"circular", "zeros"}:
            raise ValueError(f'padding must be "circular" or "zeros", got {padding!r}')
        if padding == "zeros" and depth > 2:
            raise ValueError(f"zero padding is for one convolution, got depth {depth}: use circular padding")
        if not (init_std > 0 and math.isfinite(init_std)):
            raise ValueError(f"init_std must be positive, got {init_std}")
        generator = torch.Generator().manual_seed(seed)

        def draw(*shape: int) -> Tensor:
            return init_std * torch.randn(*shape, generator=generator, dtype=torch.float64)

        kernels = tuple(draw(channels, c if layer == 0 else channels, q, r) for layer in range(depth - 1))
        return cls(kernels, draw(outputs, channels, h, w), padding, ((q - 1) // 2, (r - 1) // 2))


@dataclass(frozen=True, eq=False)
class Dense:
    """Two linear layers on the flattened image, without biases.

    Attributes:
        first: float64 [k, c h w].
        second: float64 [o, k].
    """

    first: Tensor
    second: Tensor

    @property
    def weights(self) -> tuple[Tensor, ...]:
        """All weights, the first layer's first."""
        return self.first, self.second

    @classmethod
    def drawn(
        cls, image_shape: tuple[int, int, int], outputs: int, init_std: float, *, hidden: int, seed: int = 0
    ) -> Dense:
        """Returns a network of Gaussian weights.

        Args:
            image_shape: (c, h, w).
            outputs: o.
            init_std: standard deviation of all weights.
            hidden: k, units of the first layer.
            seed: of the draws.
        """
        generator = torch.Generator().manual_seed(seed)
        first = torch.randn(hidden, math.prod(image_shape), generator=generator, dtype=torch.float64)
        second = torch.randn(outputs, hidden, generator=generator, dtype=torch.float64)
        return cls(init_std * first, init_std * second)
