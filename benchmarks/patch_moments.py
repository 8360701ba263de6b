"""Patch moments against torch.nn.functional.unfold and a matrix product: one thread, all four attributes, ten folds.

    python benchmarks/patch_moments.py            # the table of speeds
    python benchmarks/patch_moments.py --grid     # does the rule pick well? its constants, refitted

A time is the minimum of several repetitions of CPU time (the process has one thread, so other programs on the
machine matter less than for wall time). The candidates of a row take turns, so that all see the same machine.
The baseline multiplies unfolded images in two ways, at the same precision and with the same bound on memory: a
batched product of each image with itself, and one product of all images laid side by side (a copy more). A ratio
counts as reached against the faster of the two; like ours they add in float64 across images.
"""

import argparse
import time
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from scipy.optimize import nnls
from torch import Tensor

from convscope.core.accumulate import Folded
from convscope.core.batches import Batch
from convscope.core.choice import expected, work
from convscope.core.correlation import CHUNK_BYTES
from convscope.core.geometry import ConvGeometry
from convscope.core.moments import PatchMomentsAccumulator

FOLDS = 10
# images, pixels, kernel, stride, the least ratio wanted
ROWS = [
    (32, 224, 7, 1, 25.0),
    (32, 224, 3, 1, 4.5),
    (128, 32, 5, 1, 4.5),
    (128, 32, 3, 1, 1.5),
    (32, 224, 7, 2, 3.0),
]


def baseline(x: Tensor, batch: Batch, geometry: ConvGeometry, *, flat: bool) -> list[Tensor]:
    """Unfold, multiply, average; per fold, in chunks."""
    d = geometry.patch_dim
    rows, columns = geometry.output_size(*x.shape[2:])
    step = max(1, min(64, CHUNK_BYTES // (d * rows * columns * x.element_size())))
    first = torch.zeros(FOLDS, d, dtype=torch.float64)
    second = torch.zeros(FOLDS, d, d, dtype=torch.float64)
    average = torch.zeros(FOLDS, d, d, dtype=torch.float64)
    images = torch.zeros(FOLDS, dtype=torch.int64)
    folds = batch.fold % FOLDS
    for k in range(FOLDS):
        rows_of_fold = (folds == k).nonzero().flatten()
        images[k] = len(rows_of_fold)
        for where in rows_of_fold.split(step):
            if not len(where):
                continue
            p = F.unfold(x[where], geometry.kernel, geometry.dilation, geometry.padding[0], geometry.stride)
            means = p.mean(-1).double()
            first[k] += means.sum(0)
            average[k] += means.T @ means
            if flat:
                p = p.transpose(0, 1).reshape(d, -1)
                second[k] += p @ p.T
            else:
                second[k] += torch.bmm(p, p.transpose(1, 2)).sum(0)
    n = images.sum()
    mean = first.sum(0) / n
    moment = second.sum(0) / (n * rows * columns)
    outer = mean[:, None] * mean
    return [mean, moment - outer, moment, average.sum(0) / n - outer]


def ours(x: Tensor, batch: Batch, geometry: ConvGeometry, method: str = "auto") -> list[Tensor]:
    folded = Folded(lambda: PatchMomentsAccumulator(geometry, method=method), FOLDS)
    folded.update(x, batch)
    moments = folded.compute()
    return [moments.mean, moments.covariance, moments.second_moment, moments.average_patch_covariance]


def times(candidates: dict[str, Callable[[], object]], repeats: int, seconds: float = 1e9) -> dict[str, float]:
    """Minimum CPU time of each candidate in milliseconds, taken in turns; at least twice, then until time is up."""
    best = dict.fromkeys(candidates, float("inf"))
    end = time.perf_counter() + seconds
    for k in range(repeats):
        if k > 1 and time.perf_counter() > end:
            break
        for name, run in candidates.items():
            start = time.process_time()
            run()
            best[name] = min(best[name], 1e3 * (time.process_time() - start))
    return best


def setting(n: int, size: int, kernel: int, stride: int, dtype: torch.dtype) -> tuple[Tensor, Batch, ConvGeometry]:
    torch.manual_seed(0)
    padding = kernel // 2 if stride < kernel else 0
    x = torch.randn(n, 3, size, size, dtype=dtype)
    geometry = ConvGeometry(3, (kernel, kernel), (stride, stride), (padding,) * 4)
    return x, Batch.of(x, None, torch.arange(n)), geometry


def speeds(repeats: int) -> None:
    """Prints each wanted ratio beside the one measured."""
    print(" images pixels   k  s    dtype   batched      flat   ours ms  to batched  to flat  wanted")
    for n, size, kernel, stride, wanted in ROWS:
        for dtype in (torch.float32, torch.float64):
            x, batch, geometry = setting(n, size, kernel, stride, dtype)
            exact = baseline(x.double(), batch, geometry, flat=True)
            pairs = zip(ours(x, batch, geometry)[1:3], exact[1:3], strict=True)
            error = max(float((a - b).norm() / b.norm()) for a, b in pairs)
            best = times(
                {
                    "ours": partial(ours, x, batch, geometry),
                    "bmm": partial(baseline, x, batch, geometry, flat=False),
                    "ours again": partial(ours, x, batch, geometry),
                    "flat": partial(baseline, x, batch, geometry, flat=True),
                },
                repeats,
            )
            fast = min(best["ours"], best["ours again"])
            ratio = best["bmm"] / fast, best["flat"] / fast
            print(
                f"{n:7} {size:6} {kernel:3} {stride:2} {str(dtype)[6:]:>8}"
                f" {best['bmm']:9.1f} {best['flat']:9.1f} {fast:9.1f} {ratio[0]:10.1f}x {ratio[1]:7.1f}x {wanted:6}x  "
                f"{'' if min(ratio) >= wanted else 'missed' if max(ratio) < wanted else 'by the batched one'}"
                f"  error {error:.1e}",
                flush=True,
            )


def cases() -> list[tuple[int, int, int, int]]:
    """Images, pixels, kernel, stride."""
    return [
        (128 if size == 32 else 32 if kernel < 11 or stride > 2 else 4, size, kernel, stride)
        for size in (32, 224)
        for kernel in (3, 5, 7, 11, 16)
        for stride in dict.fromkeys((1, 2, 4, kernel))
    ]


def grid(repeats: int, dtype: torch.dtype) -> None:
    """Prints the time of every path and the rule's pick; then constants of the rule that fit these times best."""
    hits, worst, count = 0, float("inf"), 0
    samples: dict[str, list[tuple[tuple[float, ...], float]]] = {}
    print("pixels   k  s     base   unfold   strips      fft  picks    over best  over base")
    for n, size, kernel, stride in cases():
        x, batch, geometry = setting(n, size, kernel, stride, dtype)
        methods = ["unfold", "strips"] + (["fft"] if stride == 1 else [])
        run: dict[str, Callable[[], object]] = {m: partial(ours, x, batch, geometry, m) for m in methods}
        run |= {f: partial(baseline, x, batch, geometry, flat=f == "flat") for f in ("bmm", "flat")}
        best = times(run, repeats, 4.0)
        padded = geometry.covered(*geometry.output_size(size, size))
        folds = len((batch.fold % FOLDS).unique())
        for m in methods:
            samples.setdefault(m, []).append((work(m, geometry, *padded, n / folds), 1e6 * best[m] / folds))
        costs = expected(geometry, *padded, dtype.itemsize, n / folds)
        picked = min(costs, key=costs.__getitem__)
        least = min(best[m] for m in methods)
        base = min(best["bmm"], best["flat"])
        hits, count = hits + (best[picked] <= 1.1 * least), count + 1
        worst = min(worst, base / best[picked])
        print(
            f"{size:6} {kernel:3} {stride:2} {base:8.1f} "
            + " ".join(f"{best.get(m, float('nan')):8.1f}" for m in ("unfold", "strips", "fft"))
            + f"  {picked:8} {best[picked] / least:9.2f}x {base / best[picked]:9.2f}x",
            flush=True,
        )
    print(f"{dtype}: within 10 % of the fastest path in {hits} of {count} cases; at worst {worst:.2f}x the baseline")
    for m, rows in samples.items():
        matrix = np.array([[w / t for w in terms] for terms, t in rows])
        print(f'    ("{m}", {dtype.itemsize}): ({", ".join(f"{v:.3g}" for v in nnls(matrix, np.ones(len(rows)))[0])}),')


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--grid", action="store_true")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.grid:
        for dtype in (torch.float32, torch.float64):
            grid(options.repeats, dtype)
    else:
        speeds(options.repeats)
