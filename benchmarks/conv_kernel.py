"""The convolutional kernel: against the closed form in eager PyTorch, neural-tangents, and stated bounds.

    python benchmarks/conv_kernel.py [--neural-tangents PYTHON]

Training kernels of CIFAR-10 images (noise where these are not at hand), 3 layers of 3 x 3 patches, float32. Times are
the least CPU seconds of a few runs, of all threads, after one that compiles; the candidates take turns, so that all see
the same machine. PYTHON is an interpreter that has neural-tangents:
    pip install jax==0.4.30 jaxlib==0.4.30 neural-tangents==0.6.5 tf2jax==0.3.6 "numpy<2.1" "scipy<1.15"
"""

import argparse
import json
import math
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from convscope.rfm.architecture import Architecture
from convscope.rfm.cost import estimate
from convscope.rfm.kernels import conv_kernel

CIFAR = Path(__file__).parents[2] / "shared/data/cifar10_test.npz"
DEPTH, PATCH = 3, 3
ROWS = 50  # of the eager kernel at once: all would take 10 GB

NEURAL_TANGENTS = """
import json, sys, time
import numpy as np
import neural_tangents as nt
from neural_tangents import stax
layers = [stax.Conv(1, (3, 3), padding="VALID", W_std=3.0, b_std=None), stax.ABRelu(0, 2**0.5)] * 3
_, _, kernel = stax.serial(*layers, stax.Flatten(), stax.Dense(1, W_std=1.0, b_std=None))
kernel = nt.batch(kernel, batch_size=50)
x = np.load(sys.argv[1]).transpose(0, 2, 3, 1)
kernel(x[:100], None, "ntk").block_until_ready()
start = time.process_time()
found = np.asarray(kernel(x, None, "ntk"))
print(json.dumps({"seconds": time.process_time() - start, "kernel": found[:20, :20].tolist()}))
"""


def images(n: int) -> Tensor:
    if not CIFAR.exists():
        return torch.rand(n, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with np.load(CIFAR) as saved:
        x = torch.from_numpy(saved["x_test"][:n]).float() / 255
    return x if x.shape[1] == 3 else x.permute(0, 3, 1, 2).contiguous()


def eager(x: Tensor) -> Tensor:
    """The closed form as one writes it down: every pair, one operation after the other."""
    ones = torch.ones(1, 1, PATCH, PATCH)

    def box(maps: Tensor) -> Tensor:
        return F.conv2d(maps.flatten(0, -3)[:, None], ones)[:, 0].unflatten(0, maps.shape[:-2])

    def of(rows: Tensor) -> Tensor:
        k = box((torch.einsum("ichw,jchw->ijhw", rows, x) / x.shape[1]).contiguous())
        theta, qx, qz = k, box(rows.square().mean(1)), box(x.square().mean(1))
        for layer in range(DEPTH):
            if layer:
                k, theta, qx, qz = box(k), box(k + theta), box(qx), box(qz)
            r = (qx[:, None] * qz[None]).sqrt()
            t = (k / r).clamp(-1, 1)
            kappa0 = 1 - t.acos() / math.pi
            k, theta = r * (t * kappa0 + (1 - t * t).sqrt() / math.pi), theta * kappa0
        return (k + theta).mean((-2, -1))

    return torch.cat([of(rows) for rows in x.split(ROWS)])


def least(candidates: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Least CPU seconds of each candidate, taken in turns, after one run that does not count; eager runs once."""
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    for k in range(repeats + 1):
        for name, run in candidates.items():
            if name == "eager" and k != 1:  # a minute, and nothing to compile
                continue
            start = time.process_time()
            run()
            if k:
                seconds[name].append(time.process_time() - start)
    return {name: min(s) for name, s in seconds.items()}


def row(what: str, ours: str, other: str, ratio: str, wanted: str, reached: str) -> None:
    print(f"{what:58} {ours:>9} {other:>9} {ratio:>6}  {wanted:12} {reached}", flush=True)


def bound(what: str, value: float, unit: str, limit: float) -> None:
    row(what, f"{value:.3g} {unit}", "", "", f"<= {limit:g} {unit}", verdict(value <= limit))


def faster(what: str, ours: float, other: float, least_ratio: float) -> None:
    ratio = other / ours
    wanted = f">= {least_ratio:g}x"
    row(what, f"{ours:.2f} s", f"{other:.2f} s", f"{ratio:.1f}x", wanted, verdict(ratio >= least_ratio))


def verdict(reached: bool) -> str:
    return "yes" if reached else "MISSED"


def by_neural_tangents(python: str | None, x: Tensor) -> dict | None:
    if python is None:
        return None
    with tempfile.TemporaryDirectory() as folder:
        np.save(f"{folder}/x.npy", x.numpy())
        command = [python, "-c", NEURAL_TANGENTS, f"{folder}/x.npy"]
        done = subprocess.run(command, check=False, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1]) if done.returncode == 0 else None


def peak_child(n: int) -> None:
    conv_kernel(images(n), depth=DEPTH, patch_size=PATCH, method="fused")
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)


def peak(n: int) -> float:
    command = [sys.executable, __file__, "--peak", "--n", str(n)]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout) / 2**30


def against_others(x: Tensor, python: str | None, repeats: int) -> None:
    n = len(x)
    pairs = n * (n + 1) / 2
    root = torch.randn(27, 27, generator=torch.Generator().manual_seed(0))
    fused = partial(conv_kernel, x, depth=DEPTH, patch_size=PATCH, method="fused")
    plain = partial(conv_kernel, x, depth=DEPTH, patch_size=PATCH, method="plain")
    taken = least(
        {
            "fused": fused,
            "metric": partial(fused, metric_root=root),
            "double": partial(fused, dtype="float64"),
            "plain": plain,
            "eager": partial(eager, x),
        },
        repeats,
    )
    what = f"{n} images"
    bound(f"{what}, fused: CPU time", taken["fused"], "s", 1.1 * pairs / 125250)
    bound(f"{what}, fused: CPU time a pair", taken["fused"] / pairs * 1e6, "us", 9)
    bound(f"{what}, fused, metric of rank 27: CPU time a pair", taken["metric"] / pairs * 1e6, "us", 16)
    row(f"{what}, fused, float64: CPU time", f"{taken['double']:.2f} s", "", "", "", "")
    faster(f"{what}, fused / eager", taken["fused"], taken["eager"], 12)
    faster(f"{what}, plain / eager", taken["plain"], taken["eager"], 2)
    exact = conv_kernel(x[:100], depth=DEPTH, patch_size=PATCH, dtype="float64", method="plain")
    error = ((fused()[:100, :100] - exact) / exact).abs().max()
    bound(f"{what}, fused: largest relative error", float(error), "", 1e-5)
    other = by_neural_tangents(python, x)
    if other is None:
        row(f"{what}, fused / neural-tangents", f"{taken['fused']:.2f} s", "", "", ">= 20x", "not installed")
        return
    faster(f"{what}, fused / neural-tangents", taken["fused"], other["seconds"], 20)
    theirs = torch.tensor(other["kernel"], dtype=torch.float64)
    off = ~torch.eye(len(theirs), dtype=torch.bool)
    away = ((theirs - exact[: len(theirs), : len(theirs)]) / theirs).abs()[off].max()
    bound("    neural-tangents' kernel: largest relative difference", float(away), "", 5e-6)


def estimates(n: int) -> None:
    """How far the estimate before a long run is from what that takes, in wall time."""
    cost = estimate(n, None, Architecture(DEPTH, PATCH), 3, (32, 32))
    x = images(n)
    start = time.perf_counter()
    conv_kernel(x, depth=DEPTH, patch_size=PATCH, method="fused")
    taken = time.perf_counter() - start
    away = cost.seconds / taken - 1
    what = f"{n} images: estimate / wall time"
    row(what, f"{cost.seconds:.2f} s", f"{taken:.2f} s", f"{away:+.0%}", "within 30%", verdict(abs(away) <= 0.3))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--n", type=int, default=500, help="images")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--neural-tangents", metavar="PYTHON", help="an interpreter that has it")
    parser.add_argument("--peak", action="store_true", help="only the peak of the memory of this process")
    options = parser.parse_args()
    if options.peak:
        peak_child(options.n)
    else:
        row("what", "ours", "other", "ratio", "wanted", "reached")
        # First, since a child's peak starts at what its parent has taken.
        bound(f"{options.n} images: peak RSS of a process, imports included", peak(options.n), "GiB", 0.7)
        against_others(images(options.n), options.neural_tangents, options.repeats)
        for n in (1000, 2000):
            estimates(n)
