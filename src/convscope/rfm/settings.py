"""How a ConvRFM learns."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from convscope.rfm.architecture import Architecture

SOLVERS = ("auto", "cholesky", "cg")


@dataclass(frozen=True)
class Settings:
    """How a machine learns.

    Attributes:
        architecture: the infinitely wide network.
        n_iters: number of metrics that are learned, one after the other; 0: the fixed kernel.
        ridge: a number, in units of the kernel's largest entry, or "loo": the best by leave-one-out at each metric.
        agop_samples: number of training images, drawn at random, at which gradients are taken; or the numbers of the
            images themselves.
        metric_power: M is proportional to AGOP^metric_power; 1 in the paper's notebooks, 2 in its script.
        threshold: share of the metric's eigenvalues, the smallest ones, that are set to 0.
        rank_tol: share of the metric's trace that may be left out to save time.
        solver: "cholesky"; "cg": conjugate gradients on a kernel that lies in a file; "auto": by what memory allows.
        max_memory: bytes that learning and predicting may take, beside the images and the libraries.
        method: how kernels are computed, as ``conv_kernel`` takes it.
        centre_targets: whether the mean of the targets is taken off first.
        seed: of the draw of images for the gradients.
        verbose: whether to show an estimate of time and memory, and progress.

    Raises:
        ValueError: when a setting is out of range.
    """

    architecture: Architecture
    n_iters: int = 5
    ridge: float | Literal["loo"] = "loo"
    agop_samples: int | tuple[int, ...] = 64
    metric_power: float = 1.0
    threshold: float = 0.0
    rank_tol: float = 1e-4
    solver: str = "auto"
    max_memory: int = 2**31
    method: str = "auto"
    centre_targets: bool = False
    seed: int = 0
    verbose: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.n_iters, int) or self.n_iters < 0:
            raise ValueError(f"n_iters must be a whole number of at least 0, got {self.n_iters!r}")
        if self.ridge != "loo" and not (isinstance(self.ridge, int | float) and 0 < self.ridge < math.inf):
            raise ValueError(f'ridge must be "loo" or a positive number, in units of max(K), got {self.ridge!r}')
        if isinstance(self.agop_samples, int) and self.agop_samples < 1:
            raise ValueError(f"agop_samples must be at least 1, or numbers of images, got {self.agop_samples!r}")
        if not 0 < self.metric_power < math.inf:
            raise ValueError(f"metric_power must be positive, got {self.metric_power!r}")
        for name in ("threshold", "rank_tol"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must be in [0, 1), got {getattr(self, name)!r}")
        if self.solver not in SOLVERS:
            raise ValueError(f"solver must be one of {', '.join(SOLVERS)}, got {self.solver!r}")
