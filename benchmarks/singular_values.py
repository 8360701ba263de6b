"""Singular values of all convolutions of a ResNet-18 at every frequency: cost against NumPy's transform and SVD.

    python benchmarks/singular_values.py [--size 224] [--threads 1]

The convolutions have ResNet-18's shapes and strides and random weights, on the torus. NumPy: `fft2` of the kernel on
the whole grid in complex128, aliases of strided layers side by side, `svd` of every block. One run at so many threads
for both sides; each layer is done by both in turn. Extra memory is the growth of the process's peak over what it held
before, in a process of its own that runs ours alone: once with an allocator that gives blocks of 128 kB and more back
as soon as they are free, so that the peak is what was held at once (glibc's, by an environment variable), once with the
allocator as it comes, which keeps what was freed for later.
"""

import argparse
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable


def layers(size: int) -> list[tuple[int, int, int, int, int]]:
    """Returns (channels out, channels in, kernel, stride, size of the input) of each convolution of a ResNet-18."""
    half = size // 4
    found = [(64, 3, 7, 2, size)] + [(64, 64, 3, 1, half)] * 4
    for width in (128, 256, 512):
        found += [(width, width // 2, 3, 2, half), (width, width // 2, 1, 2, half)]
        half //= 2
        found += [(width, width, 3, 1, half)] * 3
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--memory", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if not arguments.memory:
        # Thread counts are read when NumPy and PyTorch are loaded.
        count = str(arguments.threads)
        os.environ |= {"OMP_NUM_THREADS": count, "OPENBLAS_NUM_THREADS": count, "MKL_NUM_THREADS": count}
        command = [sys.executable, __file__, "--memory", "--size", str(arguments.size), "--threads", count]
        held, kept = (
            subprocess.run(command, env=os.environ | extra, check=True, capture_output=True, text=True).stdout.strip()
            for extra in ({"MALLOC_MMAP_THRESHOLD_": str(2**17)}, {})
        )
        compare(arguments.size, arguments.threads)
        print(f"extra memory: {held} MB held at once, {kept} MB with what the allocator keeps")
    else:
        memory(arguments.size)


def convolutions(size: int) -> list:
    import torch
    from torch import nn

    torch.manual_seed(0)
    return [(nn.Conv2d(c, k, q, stride=s, padding=q // 2, bias=False), side) for k, c, q, s, side in layers(size)]


def plainly(conv, side: int):
    """Returns the singular values at every frequency of the whole grid, [h, w, m]."""
    import numpy as np

    weight, s = conv.weight.detach().double().numpy(), conv.stride[0]
    blocks = np.fft.fft2(weight, (side, side)).transpose(2, 3, 0, 1)  # [h, w, k, c]
    if s > 1:
        n = side // s
        k, c = weight.shape[:2]
        blocks = blocks.reshape(s, n, s, n, k, c).transpose(1, 3, 4, 0, 2, 5).reshape(n, n, k, s * s * c) / s
    return np.linalg.svd(blocks, compute_uv=False)


def timed(run: Callable, *what):
    cpu, wall = time.process_time(), time.perf_counter()
    found = run(*what)
    return found, time.process_time() - cpu, time.perf_counter() - wall


def compare(size: int, threads: int) -> None:
    import numpy as np
    import torch

    from convscope import frequency_singular_values

    torch.set_num_threads(threads)
    frequency_singular_values(torch.nn.Conv2d(64, 64, 3), 8)  # loads what is loaded at first use
    total, worst, seen = np.zeros(4), 0.0, {}
    print(
        f"{'convolution':>22} {'NumPy CPU s':>12} {'ours':>7} {'ratio':>6} {'wall':>7} {'ours':>7} {'ratio':>6}  error"
    )
    for conv, side in convolutions(size):
        theirs, *cost = timed(plainly, conv, side)
        ours, *own = timed(frequency_singular_values, conv, side, "circular")
        cost = np.array([cost[0], own[0], cost[1], own[1]])
        places = tuple(ours.frequencies.T.numpy())
        error = float(np.abs(theirs[places] - ours.values.numpy()).max() / theirs.max())
        worst, total = max(worst, error), total + cost
        name = "x".join(map(str, conv.weight.shape)) + f" /{conv.stride[0]} @{side}"
        seen.setdefault(name, [np.zeros(4), 0.0])
        seen[name] = [seen[name][0] + cost, max(seen[name][1], error)]
    for name, (cost, error) in [*seen.items(), ("all together", (total, worst))]:
        a, b, c, d = cost
        print(f"{name:>22} {a:12.2f} {b:7.2f} {a / b:6.1f} {c:7.2f} {d:7.2f} {c / d:6.1f}  {error:.1e}")


def memory(size: int) -> None:
    import torch

    from convscope import frequency_singular_values

    frequency_singular_values(torch.nn.Conv2d(64, 64, 3), 8)
    work = convolutions(size)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for conv, side in work:
        frequency_singular_values(conv, side, "circular")
    print(round((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024))


if __name__ == "__main__":
    main()
