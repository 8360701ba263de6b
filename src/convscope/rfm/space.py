"""Where the kernels of many images lie, in memory or in files, and which of several processes computes them."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor

from convscope.core import processes
from convscope.core.errors import ConvscopeError
from convscope.rfm.kernels import kernel_matrix
from convscope.rfm.maps import Filtered
from convscope.rfm.settings import Settings

T = TypeVar("T")
# Makes room for a kernel of so many rows, or says None where memory has it.
Space = Callable[[int], Tensor | None]
_OF_SOLVER = 16  # bytes for each entry of a kernel: a float64 copy and its factor


def is_dense(n: int, images: Tensor, settings: Settings) -> bool:
    """Returns whether the kernel of n images is kept in memory and factorised.

    Args:
        n: number of images.
        images: any tensor of their precision.
        settings: solver and memory.

    Raises:
        ConvscopeError: when it should be, and memory does not suffice.
    """
    if settings.solver == "cg":
        return False
    need = n * n * (2 * images.element_size() + _OF_SOLVER)
    if need > settings.max_memory and settings.solver == "cholesky":
        raise ConvscopeError(
            f"solver='cholesky' needs {need:.1e} bytes for {n} images, max_memory is {settings.max_memory:.1e}: give "
            "more memory or fewer images, or use solver='cg'"
        )
    return need <= settings.max_memory


def bytes_of_kernels(n: int, images: Tensor, settings: Settings) -> int:
    """Returns the memory that kernels of n images and the solution take: two kernels, of all images and of a split."""
    return n * n * (2 * images.element_size() + _OF_SOLVER) if is_dense(n, images, settings) else settings.max_memory


@contextmanager
def room(n: int, images: Tensor, settings: Settings) -> Generator[Space]:
    """Gives what makes room for kernels with n columns: None where they are kept in memory, else a tensor in a file."""
    if is_dense(n, images, settings):
        yield lambda _: None
        return
    with tempfile.TemporaryDirectory(prefix="convscope_kernel_") as folder:
        count = itertools.count()

        def space(rows: int) -> Tensor:
            file = str(Path(folder) / str(next(count)))
            return torch.from_file(file, shared=True, size=rows * n, dtype=images.dtype).view(rows, n)

        yield space


@dataclass(frozen=True)
class Share:
    """What one of several processes does of a machine's work.

    Attributes:
        rank: of the process.
        world: number of processes that share the work; 1 where each does all of it.
    """

    rank: int
    world: int

    @property
    def all(self) -> bool:
        """Whether this process does everything."""
        return self.world == 1

    def of(self, n: int) -> slice:
        """Returns which of n this process treats."""
        return slice(n * self.rank // self.world, n * (self.rank + 1) // self.world)

    def gather(self, part: T) -> list[T]:
        """Returns the parts of all processes, in their order."""
        return [part] if self.all else processes.gather(part)

    def agreed(self, thing: T) -> T:
        """Returns what the first process has, so that rounding never sends two processes different ways."""
        return thing if self.all else processes.broadcast(thing)

    def kernel(self, known: Filtered, settings: Settings, space: Space) -> Tensor:
        """Returns this process's rows of the kernel of images with themselves."""
        if self.all:
            return kernel_of(known, None, settings, space(len(known)))
        own = known[self.of(len(known))]
        return kernel_of(own, known, settings, space(len(own)))


def share_of(n: int, images: Tensor, settings: Settings) -> Share:
    """Returns this process's share: all of it where the kernel of n images is kept in memory."""
    return Share(0, 1) if is_dense(n, images, settings) else Share(*processes.rank_and_world())


def kernel_of(left: Filtered, right: Filtered | None, settings: Settings, out: Tensor | None = None) -> Tensor:
    """Returns the kernel of two sets of images, [n1, n2]; of one with itself, where there is no other."""
    return kernel_matrix(
        left,
        right,
        max_memory=settings.max_memory // 2,  # beside it are other kernels, kept in memory up to a third of it
        method=settings.method,
        progress=settings.verbose,
        out=out,
    )


def times(kernel: Tensor, alpha: Tensor) -> Tensor:
    """Returns K alpha in float64, a block of rows at a time."""
    alpha = alpha.to(kernel.device)
    return torch.cat([rows.double() @ alpha for rows in kernel.split(1024)]).cpu()


def submatrix(kernel: Tensor, rows: Tensor, columns: Tensor, out: Tensor | None = None) -> Tensor:
    """Returns these rows and columns of a kernel, written to ``out`` where there is one."""
    out = kernel.new_empty(len(rows), len(columns)) if out is None else out
    for target, part in zip(out.split(256), rows.split(256), strict=True):
        target.copy_(kernel[part][:, columns])
    return out
