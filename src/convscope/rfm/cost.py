"""What a kernel matrix will cost: measured on a few pairs of images before a long run."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass

import torch

from convscope.rfm.architecture import Architecture
from convscope.rfm.kernels import path_of
from convscope.rfm.maps import Filtered, Filters, Maps

_LONG_ENOUGH = 0.3  # seconds that a measurement takes, so that what comes once does not count


@dataclass(frozen=True)
class Cost:
    """What a computation takes.

    Attributes:
        seconds: of wall time.
        bytes: of memory: maps, the result, and what is in between.
    """

    seconds: float
    bytes: int

    def __str__(self) -> str:
        unit, size = ("h", 3600) if self.seconds >= 3600 else ("min", 60) if self.seconds >= 60 else ("s", 1)
        return f"about {self.seconds / size:.2g} {unit} and {self.bytes / 2**30:.2g} GiB"


def estimate(
    n1: int,
    n2: int | None,
    architecture: Architecture,
    maps_rank: int,
    size: tuple[int, int],
    dtype: torch.dtype = torch.float32,
    *,
    metric: bool = False,
    method: str = "auto",
    device: torch.device | str = "cpu",
    max_memory: int = 2**31,
) -> Cost:
    """Returns what the kernel of n1 with n2 images takes, by doing it for a few; what is compiled first does not count.

    Args:
        n1: number of images on the left.
        n2: on the right; None: the kernel of n1 images with themselves.
        architecture: the network.
        maps_rank: m, rank of the metric; without one, channels of the images.
        size: (height, width) of the images.
        dtype: of the maps.
        metric: whether there is one.
        method: as for ``conv_kernel``.
        device: where it will be computed.
        max_memory: bytes, as for ``conv_kernel``.
    """
    columns = n1 if n2 is None else n2
    pairs = n1 * (n1 + 1) / 2 if n2 is None else n1 * columns
    few = min(n1, 2 if architecture.pooling else 32)
    while True:
        maps = _random(few, architecture, maps_rank, size, dtype, metric, device)
        path = path_of(maps, architecture, n1, columns, max_memory, method)
        done, seconds = few * (few + 1) / 2, []
        for _ in range(3):
            start = time.perf_counter()
            path.fill(maps.values.new_empty(few, few), maps, maps, True, lambda _: None)
            seconds.append(time.perf_counter() - start)
        if seconds[-1] > _LONG_ENOUGH or few >= n1 or few >= 1024:
            break
        few = min(2 * few, n1)
    item, sides = maps.values.element_size(), (n1,) if n2 is None else (n1, n2)
    of_image = (maps.values[0].numel() + maps.norms[0].numel()) * item
    needed = n1 * columns * item + sum(min(n * of_image, max_memory // 4) for n in sides) + path.bytes
    return Cost(statistics.median(seconds) / done * pairs, needed)


def _random(
    n: int,
    architecture: Architecture,
    m: int,
    size: tuple[int, int],
    dtype: torch.dtype,
    metric: bool,
    device: torch.device | str,
) -> Maps:
    """Returns maps of random images."""
    generator = torch.Generator().manual_seed(0)
    if not metric:
        images = torch.randn(n, m, *size, generator=generator, dtype=dtype)
        return Filtered(images.to(device), Filters(), architecture, torch.arange(n)).maps()
    values = torch.randn(n, m, *architecture.sizes(*size)[0], generator=generator, dtype=dtype).to(device)
    return Maps(values, False, values.square().sum(1), torch.arange(n))
