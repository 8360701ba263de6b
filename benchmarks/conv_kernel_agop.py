"""The AGOP of a kernel machine in closed form, against the published method: automatic differentiation for each class.

    python benchmarks/conv_kernel_agop.py [--neural-tangents PYTHON]

500 training images of 32 x 32 colour pixels (300 of 42 x 42 grey ones, 500 digits), ten outputs, gradients at 20 of
them; depth 3, patches of 3 x 3, float32. The published method takes the kernel of images expanded into patches, and
for each class its value and gradient at each image: here by PyTorch's automatic differentiation, and by
neural-tangents in an interpreter that has it. It runs at few of the 20 images and its time is scaled up, as each costs
the same. Times are the best of some runs; peak memory is that of a fresh process, imports included.
"""

import argparse
import json
import math
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from convscope.rfm.agop import conv_kernel_agop

SAMPLES, FEW, OUTPUTS, DEPTH, PATCH = 20, 2, 10, 3, 3

NEURAL_TANGENTS = """
import json, sys, time
import jax, jax.numpy as jnp, numpy as np
from neural_tangents import stax
data = np.load(sys.argv[1])
X, alpha, Z, q, depth = data["X"], data["alpha"], data["Z"], int(data["q"]), int(data["depth"])
layers = [stax.Conv(1, (q, q), (q, q), "VALID", W_std=q, b_std=None), stax.ABRelu(0, 2 ** .5)]
for _ in range(depth - 1):
    layers += [stax.Conv(1, (q, q), (1, 1), "VALID", W_std=q, b_std=None), stax.ABRelu(0, 2 ** .5)]
kernel = stax.serial(*layers, stax.Flatten(), stax.Dense(1, W_std=1, b_std=None))[2]
expand = lambda x: np.asarray(x, np.float32)
X, Z = expand(X), expand(Z)
halves = np.array_split(np.arange(len(X)), max(len(X) // 250, 1))
def f(z, x, a):
    return jnp.vdot(a, kernel(x, z[None], "ntk")[:, 0])
gradient = jax.jit(jax.vmap(jax.grad(f), (0, None, None)))
def run():
    gram = 0
    for o in range(alpha.shape[1]):
        g = sum(np.nan_to_num(gradient(Z, X[h], alpha[h, o])) for h in halves)
        n, H, W, c = g.shape
        g = g.reshape(n, H // q, q, W // q, q, c).transpose(0, 1, 3, 5, 2, 4).reshape(-1, c * q * q)
        gram = gram + g.T.astype(float) @ g
    return gram / len(Z)
run()
wall, cpu = time.perf_counter(), time.process_time()
gram = run()
print(json.dumps([time.perf_counter() - wall, time.process_time() - cpu, gram.tolist()]))
"""


def digits() -> Tensor:
    from sklearn.datasets import load_digits

    return torch.from_numpy(load_digits().images[:500, None] / 16).float()


def colour() -> Tensor:
    from convscope.inputs.photographs import photographs

    return torch.as_tensor(photographs(500, 32).images).float()


def noisy() -> Tensor:
    from convscope.inputs.photographs import photographs

    grey = F.pad(torch.as_tensor(photographs(300, 28).images).float().mean(1, keepdim=True), (7, 7, 7, 7))
    return grey + torch.randn(grey.shape, generator=torch.Generator().manual_seed(0)) / 2


SETS = {"digits": digits, "colour": colour, "noisy": noisy}
SHAPES = {"digits": (500, 1, 8, 8), "colour": (500, 3, 32, 32), "noisy": (300, 1, 42, 42)}


def coefficients(n: int) -> Tensor:
    return torch.randn(n, OUTPUTS, generator=torch.Generator().manual_seed(1)) / n


def ours(x: Tensor, z: Tensor, method: str) -> Tensor:
    return conv_kernel_agop(x, coefficients(len(x)), z, depth=DEPTH, patch_size=PATCH, method=method)


def published(x: Tensor, z: Tensor) -> Tensor:
    """Forward and reverse through the kernel on expanded patches, once for each class and image."""
    alpha = coefficients(len(x))
    c, side = x.shape[1], (x.shape[-2] - PATCH + 1, x.shape[-1] - PATCH + 1)
    train, at = F.unfold(x, PATCH), F.unfold(z, PATCH)
    total = torch.zeros(train.shape[1], train.shape[1], dtype=torch.float64)
    ones = torch.ones(1, 1, PATCH, PATCH)

    def kernel(patches: Tensor) -> Tensor:
        k = (train * patches).sum(1).unflatten(1, side)[:, None] / c
        qx, qz = (u.square().sum(-2).reshape(-1, 1, *side) / c for u in (train, patches))
        theta = k
        for layer in range(DEPTH):
            if layer:
                k, theta, qx, qz = (F.conv2d(u, ones) for u in (k, k + theta, qx, qz))
            r = (qx * qz).clamp(min=1e-20).sqrt()
            t = k / r
            t = torch.where(1 - t * t < 1e-6, t.sign().detach(), t)  # else the gradient at an image itself is NaN
            kappa0 = 1 - torch.acos(t) / math.pi
            k, theta = r * (t * kappa0 + (1 - t * t).sqrt() / math.pi), theta * kappa0
        return (k + theta).mean((1, 2, 3))

    for o in range(OUTPUTS):
        for one in at:
            patches = one.clone().requires_grad_()
            (gradient,) = torch.autograd.grad(kernel(patches) @ alpha[:, o], patches)
            gradient = gradient.double()
            total += gradient @ gradient.T
    return total / len(z)


def by_neural_tangents(python: str, x: Tensor, z: Tensor) -> tuple[float, float, Tensor]:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "data.npz"
        expanded = {name: _expanded(u).numpy() for name, u in (("X", x), ("Z", z))}
        np.savez(file, **expanded, alpha=coefficients(len(x)).numpy(), q=PATCH, depth=DEPTH)
        command = [python, "-c", NEURAL_TANGENTS, str(file)]
        wall, cpu, gram = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return wall, cpu, torch.tensor(gram)


def _expanded(x: Tensor) -> Tensor:
    """Returns images [n, rows * q, columns * q, c] whose patches, of stride q, are the patches of x."""
    patches = x.unfold(2, PATCH, 1).unfold(3, PATCH, 1)  # [n, c, rows, columns, q, q]
    return patches.permute(0, 2, 4, 3, 5, 1).flatten(3, 4).flatten(1, 2)


def best(run: Callable[[], Tensor], repeats: int) -> tuple[float, float, Tensor]:
    """Wall and CPU seconds of the fastest run, and what it gave."""
    seconds = []
    for _ in range(repeats):
        wall, cpu = time.perf_counter(), time.process_time()
        found = run()
        seconds.append((time.perf_counter() - wall, time.process_time() - cpu))
    return (*map(min, zip(*seconds, strict=True)), found)  # type: ignore[return-value]


def peak(name: str) -> float:
    """GiB of a fresh process that computes one AGOP."""
    command = [sys.executable, __file__, "--peak", name]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--neural-tangents", metavar="PYTHON", help="an interpreter that has neural-tangents")
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--peak", choices=SHAPES, help="only compute one set's AGOP and print the peak memory, GiB")
    arguments = parser.parse_args()
    if arguments.peak:
        x = torch.rand(SHAPES[arguments.peak], generator=torch.Generator().manual_seed(0))
        ours(x, x[:SAMPLES], "auto")
        # Not ru_maxrss: a process begins with that of its parent, which has computed a lot before.
        status = Path("/proc/self/status").read_text(encoding="utf-8")
        print(int(status.split("VmHWM:")[1].split()[0]) / 2**20)
        return
    print(f"{torch.get_num_threads()} threads; seconds wall (CPU) for {SAMPLES} images; times: its CPU over fused's")
    for name in arguments.sets:
        compare(name, SETS[name](), arguments.neural_tangents, arguments.repeats)


def compare(name: str, x: Tensor, python: str | None, repeats: int) -> None:
    z, few = x[:SAMPLES], x[:FEW]
    ours(x, few, "fused")  # compiles
    wall, cpu, fused = best(lambda: ours(x, z, "fused"), repeats)
    print(f"{name} {list(x.shape)}: fused {wall:.3f} ({cpu:.3f}), peak memory {peak(name):.2f} GiB", flush=True)
    rivals = {
        "plain": (SAMPLES, lambda: best(lambda: ours(x, z, "plain"), 2)),
        "autograd": (FEW, lambda: best(lambda: published(x, few), 1)),
    }
    if python:
        rivals["neural-tangents"] = (FEW, lambda: by_neural_tangents(python, x, few))
    for rival, (images, run) in rivals.items():
        wall, busy, found = (u * SAMPLES / images if isinstance(u, float) else u for u in run())
        expected = fused if images == SAMPLES else ours(x, few, "fused")
        error = float((found - expected).norm() / expected.norm())
        print(f"    {rival}: {wall:.2f} ({busy:.2f}), {busy / cpu:.0f} times, differs by {error:.0e}", flush=True)


if __name__ == "__main__":
    main()
