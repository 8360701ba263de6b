"""What learning will take, measured on a few images before a long run."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch

from convscope.rfm.agop import predictor_agop
from convscope.rfm.cost import Cost, estimate
from convscope.rfm.machine import LEFT_OUT, OUTPUTS, Data, Split, learn
from convscope.rfm.maps import Filters
from convscope.rfm.settings import Settings
from convscope.rfm.solve import RIDGES, best_ridge, solve
from convscope.rfm.space import bytes_of_kernels

_FEW, _AT = 256, 16  # images, and images at which gradients are taken
_SOLVED = 500  # images in a linear system


def forecast(data: Data, settings: Settings, splits: Sequence[Split], shared: bool = True) -> Cost:
    """Returns the time and memory of a layer, of all iterations and splits.

    Args:
        data: all images, as the machine of all images sees them.
        settings: how it will learn.
        splits: numbers of the images to train on, and of those held out.
        shared: whether the splits share the kernel of the fixed metric.
    """
    n, x = len(data), data.example

    def kernel(m: int, metric: bool) -> Cost:
        return estimate(
            n,
            None,
            settings.architecture,
            m,
            (x.shape[2], x.shape[3]),
            x.dtype,
            metric=metric,
            method=settings.method,
            device=x.device,
            max_memory=settings.max_memory // 2,
        )

    ranks = _ranks(data, settings)
    fixed, learned = kernel(x.shape[1], False), {rank: kernel(rank, True) for rank in set(ranks)}
    trained = [len(train) for train, _ in splits]
    # Kernels in units of that of all images with themselves.
    kernels = 1 + sum(m * (m + 2 * (n - m)) / n**2 for m in trained)
    images = n + sum(trained)
    seconds = fixed.seconds * (1 if shared else kernels) + sum(learned[rank].seconds for rank in ranks) * kernels
    seconds += sum(_seconds_of_gradients(data, settings, rank) for rank in (0, *ranks)[: settings.n_iters]) * images
    seconds += sum(_seconds_of_solution(m, data.targets.shape[1]) for m in (n, *trained)) * (settings.n_iters + 1)
    beside = max(cost.bytes for cost in (fixed, *learned.values())) - n * n * x.element_size()
    return Cost(seconds, data.images.nbytes + beside + bytes_of_kernels(n, x, settings))


def _ranks(data: Data, settings: Settings) -> list[int]:
    """Returns the rank of each learned metric, as a machine of few images finds it."""
    generator = torch.Generator().manual_seed(settings.seed)
    few = torch.randperm(len(data), generator=generator)[: min(max(len(data) // 8, 32), _FEW)]
    quiet = replace(settings, agop_samples=_AT, verbose=False)
    return [step.rank for step in learn(data[few], quiet)][1:]


def _seconds_of_gradients(data: Data, settings: Settings, rank: int) -> float:
    """Returns what the gradients take for each training image at a metric of a rank; 0: at the fixed one."""
    wanted = settings.agop_samples
    at = min(wanted if isinstance(wanted, int) else len(wanted), len(data))
    few = data[torch.arange(min(_FEW, len(data)))]
    d = settings.architecture.first(few.example.shape[1]).patch_dim
    filters = Filters.of(torch.eye(d, dtype=torch.float64)[:rank]) if rank else Filters()
    known = few.through(filters, settings.architecture)
    alpha = torch.randn(len(few), min(few.targets.shape[1], OUTPUTS), dtype=torch.float64)
    m = min(_AT, at)

    def once() -> None:
        predictor_agop(known, alpha, known[:m], method=settings.method)

    return _seconds(once) / (len(few) * m) * at


def _seconds_of_solution(n: int, outputs: int) -> float:
    """Returns what the choice of a ridge and the solution take for n images, whose cost grows as n^3."""
    m = min(n, _SOLVED)
    x = torch.randn(m, m, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    kernel, targets = x @ x.T / m + torch.eye(m), x[:, :1].expand(m, outputs)
    choice = _seconds(lambda: best_ridge(kernel, targets, RIDGES[-1:])) * (min(n, LEFT_OUT) / m) ** 3
    return choice + _seconds(lambda: solve(kernel, targets, 1.0)) * (n / m) ** 3


def _seconds(work: Callable[[], object]) -> float:
    work()  # what comes once does not count
    start = time.perf_counter()
    work()
    return time.perf_counter() - start
