"""The system of kernel ridge regression as its solvers see it: rows of the kernel, from memory or a file."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from convscope.core import processes

Kernel = Tensor | np.ndarray
BLOCK = 2**24  # bytes of the rows that are float64 at one time


class Rows:
    """The system (K + ridge W^-1) alpha = Y in its symmetric form (K~ + ridge I) beta = W^(1/2) Y.

    K~ = W^(1/2) K W^(1/2) and alpha = W^(1/2) beta: no weight, however small, spoils its condition. It minimises
    sum_i w_i |y_i - f(x_i)|^2 + ridge |f|^2 for f(z) = sum_i alpha_i K(x_i, z). All products are float64, whatever the
    kernel's own precision.

    Attributes:
        n: number of images.
        root: float64 [n, 1], square root of each image's weight.
        rhs: float64 [n, o], W^(1/2) Y.
        first: this process's first row.
        last: the row after its last.
    """

    def __init__(
        self, kernel: Kernel, targets: Tensor | np.ndarray, weights: Tensor | np.ndarray | None, shared: bool = False
    ):
        """Checks that all sizes fit.

        Args:
            kernel: [n, n], symmetric, any floating precision; a tensor, an array or a memory-mapped array. With
                ``shared`` it may hold rows n r // p to n (r + 1) // p alone, in process r of p.
            targets: [n, o], one column for each output.
            weights: [n], positive; None for 1.
            shared: whether each process of the group multiplies its own rows, all of them calling in step.

        Raises:
            ValueError: when the sizes do not fit, or weights or targets are not as above.
        """
        if kernel.ndim != 2:
            raise ValueError(f"the kernel must be a matrix, got shape {list(kernel.shape)}")
        self.n = kernel.shape[1]
        rank, self._world = processes.rank_and_world() if shared else (0, 1)
        self.first, self.last = self.n * rank // self._world, self.n * (rank + 1) // self._world
        if kernel.shape[0] == self.n:
            kernel = kernel[self.first : self.last]
        if kernel.shape[0] != self.last - self.first or not self.n:
            raise ValueError(
                f"the kernel must be square and not empty, or hold rows {self.first} to {self.last} of {self.n}, "
                f"got shape {list(kernel.shape)}"
            )
        self._kernel = kernel
        self.device = kernel.device if isinstance(kernel, Tensor) else torch.device("cpu")
        y = torch.as_tensor(targets, dtype=torch.float64, device=self.device)
        if y.ndim != 2 or len(y) != self.n or not y.isfinite().all():
            raise ValueError(
                f"targets must be finite, one row for each of the {self.n} images and one column for each output, "
                f"got shape {list(y.shape)}" + ("" if y.isfinite().all() else " with NaN or infinity")
            )
        self.root = torch.ones(self.n, 1, dtype=torch.float64, device=self.device)
        if weights is not None:
            w = torch.as_tensor(weights, dtype=torch.float64, device=self.device)
            if w.shape != (self.n,) or not (w.isfinite() & (w > 0)).all():
                raise ValueError(
                    f"weights must be {self.n} positive finite numbers, got shape {list(w.shape)}"
                    + (f" with smallest {float(w.min()):g}" if w.numel() else "")
                    + ": leave out images of weight zero"
                )
            self.root = w.sqrt()[:, None]
        self.rhs = self.root * y

    def times(self, x: Tensor, ridge: float) -> Tensor:
        """Returns (K~ + ridge I) x, float64 [n, o], whole in every process."""
        scaled = self.root * x
        product = torch.zeros_like(x)
        for start, block in self._blocks():
            product[start : start + len(block)] = block @ scaled
        return self.root * self._sum(product) + ridge * x

    def column(self, i: int) -> Tensor:
        """Returns column i of K~, float64 [n]."""
        found = torch.zeros(self.n, dtype=torch.float64, device=self.device)
        if self.first <= i < self.last:
            found = self._read(i - self.first, i - self.first + 1)[0]
        return self._sum(found) * self.root[:, 0] * self.root[i]

    def diagonal(self) -> Tensor:
        """Returns the diagonal of K~, float64 [n]."""
        found = torch.zeros(self.n, dtype=torch.float64, device=self.device)
        found[self.first : self.last] = _double(self._kernel.diagonal(self.first))
        return self._sum(found) * self.root[:, 0].square()

    def dense(self, ridge: float, dtype: torch.dtype = torch.float64) -> Tensor:
        """Returns K~ + ridge I, [n, n].

        Raises:
            ValueError: when the kernel holds a NaN or an infinity.
        """
        matrix = torch.empty(self.n, self.n, dtype=dtype, device=self.device)
        for start, block in self._blocks():
            if not block.isfinite().all():
                raise ValueError("the kernel holds NaN or infinity")
            matrix[start : start + len(block)] = block * self.root[start : start + len(block)] * self.root[:, 0]
        matrix.diagonal().add_(ridge)
        return matrix

    def agreed(self, values: Tensor) -> Tensor:
        """Returns what process 0 holds, so that rounding never sends two processes different ways."""
        return self._together(values, lambda shared: dist.broadcast(shared, src=0))

    def _blocks(self) -> Iterator[tuple[int, Tensor]]:
        size = max(BLOCK // (8 * self.n), 1)
        for start in range(0, self.last - self.first, size):
            yield self.first + start, self._read(start, min(start + size, self.last - self.first))

    def _read(self, start: int, stop: int) -> Tensor:
        return _double(self._kernel[start:stop])

    def _sum(self, part: Tensor) -> Tensor:
        total = self._together(part, dist.all_reduce)
        if not total.isfinite().all():
            raise ValueError("the kernel holds NaN or infinity")
        return total

    def _together(self, values: Tensor, operation: Callable[[Tensor], Any]) -> Tensor:
        if self._world == 1:
            return values
        shared = values.cuda() if dist.get_backend() == "nccl" else values.clone()
        operation(shared)
        return shared.to(values.device)


def _double(values: Any) -> Tensor:
    # A copy, since PyTorch warns of arrays that cannot be written to.
    return (values if isinstance(values, Tensor) else torch.from_numpy(np.array(values))).double()


def check_ridge(ridge: float) -> None:
    """Refuses a ridge that is none.

    Raises:
        ValueError: unless it is finite and not negative.
    """
    if not (math.isfinite(ridge) and ridge >= 0):
        raise ValueError(f"the ridge must be finite and not negative, got {ridge}")


def indefinite(ridge: float, smallest: float, largest: float) -> str:
    """Returns what is wrong with a system that is not positive definite in float64, and what to do.

    Args:
        ridge: of the system.
        smallest: (an estimate of) the smallest eigenvalue of K~.
        largest: entry on the diagonal of K~.
    """
    return (
        f"the kernel with a ridge of {ridge:.2g} is not positive definite: the kernel's smallest eigenvalue is about "
        f"{smallest:.2g} (its largest diagonal entry is {largest:.3g}), as happens with equal images or a kernel in "
        f"low precision: raise the ridge to {max(-10 * smallest, 1e-8 * largest, 10 * ridge):.1g} or more"
    )
