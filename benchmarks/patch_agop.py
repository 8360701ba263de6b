"""The patch AGOP of every convolution: against training's passes, the published method, and stated bounds.

    python benchmarks/patch_agop.py

Sums over images, ten folds kept, of outer products of gradients at the outputs of all convolutions; the [d, d]
matrices follow from them once, at the end. Times are medians of CPU seconds with one thread, in evaluation mode, where
nothing else is said; the candidates of a row take turns, so that all see the same machine.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from convscope import patch_agop
from convscope.ansatz.gram import GradientGram
from convscope.core.batches import FOLDS, Batch
from convscope.core.delivery import Delivery, Stopwatch
from convscope.core.network import Network
from convscope.core.passes import Pass
from convscope.core.slots import Slot
from convscope.core.streams import Cotangent, EachOutput, Gradient, Probes
from convscope.core.taps import left_as_found
from convscope.inputs.iterables import IterableSource
from convscope.inputs.photographs import photographs
from convscope.training.networks import MyrtleMax

CHUNK = 8  # images whose Jacobian is held at once: 190 MB for the largest layer
DRAWS = 20  # of the probes, each compared with the exact value


class Residual(nn.Module):
    def __init__(self, c: int, k: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(c, k, 3, stride, 1, bias=False),
            nn.BatchNorm2d(k),
            nn.ReLU(inplace=True),
            nn.Conv2d(k, k, 3, 1, 1, bias=False),
            nn.BatchNorm2d(k),
        )
        self.shortcut = nn.Sequential()
        if c != k:
            self.shortcut = nn.Sequential(nn.Conv2d(c, k, 1, stride, bias=False), nn.BatchNorm2d(k))

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.body(x) + self.shortcut(x), inplace=True)


def resnet18(pixels: int, outputs: int) -> nn.Sequential:
    """He et al. 2016; small images get a 3 x 3 first convolution and no pooling."""
    first = [nn.Conv2d(3, 64, 3, 1, 1, bias=False), nn.BatchNorm2d(64), nn.ReLU(inplace=True)]
    if pixels > 64:
        first = [nn.Conv2d(3, 64, 7, 2, 3, bias=False), *first[1:], nn.MaxPool2d(3, 2, 1)]
    widths = (64, 64, 128, 256, 512)
    blocks = [b for c, k in pairwise(widths) for b in (Residual(c, k, 1 if c == k else 2), Residual(k, k, 1))]
    return nn.Sequential(*first, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, outputs)).eval()


def vgg11(outputs: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    c = 3
    for k in (64, 0, 128, 0, 256, 256, 0, 512, 512, 0, 512, 512, 0):
        layers += [nn.Conv2d(c, k, 3, padding=1), nn.ReLU(inplace=True)] if k else [nn.MaxPool2d(2)]
        c = k or c
    for c, k in ((512 * 49, 4096), (4096, 4096)):
        layers += [nn.Flatten(), nn.Linear(c, k), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers, nn.Linear(4096, outputs)).eval()


def myrtle(dtype: torch.dtype = torch.float32) -> MyrtleMax:
    torch.manual_seed(0)
    return MyrtleMax(classes=10, width=64).to(dtype).eval()


def sums(module: nn.Module, x: Tensor, cotangent: Cotangent) -> Callable[[], list[Slot]]:
    """Returns what sums the gradients of a batch at all convolutions, as a pass does for each of its batches."""
    network = Network("network", module)
    batch = Batch.of(x, None, torch.arange(len(x)))
    slots = [
        Slot(Gradient(network, call.name, cotangent), partial(GradientGram, call.geometry.groups), True, "gram")
        for call in Pass(IterableSource([x[:1]])).convs(network)
    ]
    deliver = Delivery(slots, batch, None, Stopwatch())

    def run() -> list[Slot]:
        for slot in slots:
            slot.spread_over(FOLDS)
        with left_as_found([module]):
            deliver(batch)
        return slots

    return run


def training_passes(module: nn.Module, x: Tensor, labels: Tensor) -> None:
    """One forward and one backward pass with the gradients of all weights."""
    module.zero_grad()
    F.cross_entropy(module(x), labels).backward()


def by_jacobian(module: MyrtleMax, x: Tensor) -> list[Tensor]:
    """The published method: for one layer after the other, the Jacobian of the outputs with respect to its patches.

    Each patch is an input of its own to the rest of the network, whose first convolution is a matrix product then.
    """
    weights = [conv.weight.detach() for conv in (module.conv1, module.conv2, module.conv3, module.conv4)]
    head = module.linear.weight.detach()

    def after(h: Tensor, layer: int) -> Tensor:
        h = h.relu()
        return F.max_pool2d(h, 2) if layer in {1, 2} else h.amax((2, 3)) @ head.T if layer == 3 else h

    def outputs(patches: Tensor, layer: int) -> Tensor:
        side = round(len(patches) ** 0.5)
        h = (patches @ weights[layer].flatten(1).T).T.reshape(1, -1, side, side)
        for k, w in enumerate(weights[layer + 1 :], layer + 1):
            h = F.conv2d(after(h, k - 1), w, padding=1)
        return after(h, 3)[0]

    agops = []
    for layer, w in enumerate(weights):
        d = w[0].numel()
        total = torch.zeros(d, d, dtype=x.dtype)
        for few in x.split(CHUNK):
            patches = F.unfold(few, 3, padding=1).mT  # [n, p, d]
            jacobian = torch.func.vmap(torch.func.jacrev(partial(outputs, layer=layer)))(patches)
            rows = jacobian.flatten(0, 2)  # [n * o * p, d]
            total += rows.T @ rows
        agops.append(total / len(x))
        x = after(F.conv2d(x, w, padding=1), layer)
    return agops


def medians(candidates: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Median CPU seconds of each candidate, taken in turns, after one run that does not count."""
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    for k in range(repeats + 1):
        for name, run in candidates.items():
            start = time.process_time()
            run()
            if k:
                seconds[name].append(time.process_time() - start)
    return {name: statistics.median(s) for name, s in seconds.items()}


def row(what: str, ours: str, other: str, ratio: str, wanted: str, reached: str) -> None:
    print(f"{what:54} {ours:>9} {other:>9} {ratio:>6}  {wanted:10} {reached}", flush=True)


def verdict(reached: bool) -> str:
    return "yes" if reached else "MISSED"


def against_training(repeats: int) -> None:
    for n, pixels, outputs in ((64, 32, 10), (8, 224, 1000)):
        torch.manual_seed(0)
        module, x, labels = resnet18(pixels, outputs), torch.randn(n, 3, pixels, pixels), torch.randint(outputs, (n,))
        taken = medians(
            {"ours": sums(module, x, Probes(1)), "training": partial(training_passes, module, x, labels)}, repeats
        )
        ratio = taken["ours"] / taken["training"]
        what = f"ResNet-18, {n} images of {pixels} px, 1 probe / training"
        numbers = f"{taken['ours']:.3f} s", f"{taken['training']:.3f} s", f"{ratio:.2f}x"
        row(what, *numbers, "<= 0.95x", verdict(ratio <= 0.95))


def accuracy(x: Tensor, images: str, bounds: dict[torch.dtype, float | None]) -> None:
    """How far ours and the published method are from Jacobians in float64, as relative Frobenius norms."""
    exact = by_jacobian(myrtle(torch.float64), x.double())

    def error(agops: list[Tensor]) -> float:
        return max(float((a - b).norm() / b.norm()) for a, b in zip(agops, exact, strict=True))

    for dtype, bound in bounds.items():
        module = myrtle(dtype)
        ours = error([result.agop for result in patch_agop(module, x.to(dtype), exact=True).values()])
        other = error([agop.double() for agop in by_jacobian(module, x.to(dtype))])
        what = f"MyrtleMax, {images}, {str(dtype)[6:]}: error / Jacobians"
        wanted, reached = ("", "") if bound is None else (f"<= {bound:.0e}", verdict(ours <= bound))
        row(what, f"{ours:.1e}", f"{other:.1e}", "", wanted, reached)


def against_jacobians(repeats: int) -> None:
    torch.manual_seed(0)
    x = torch.randn(32, 3, 32, 32)
    accuracy(x, "noise", {torch.float32: 1e-5, torch.float64: 1e-9})
    # Flat areas make ties: rounding decides which of two equal entries is the maximum that gradients go through.
    accuracy(photographs(32).images, "photographs", {torch.float32: None, torch.float64: None})
    module = myrtle()
    taken = medians(
        {
            "1 probe": sums(module, x, Probes(1)),
            "exact": sums(module, x, EachOutput()),
            "jacobian": partial(by_jacobian, module, x),
        },
        repeats,
    )
    for name, wanted in (("exact", 8), ("1 probe", 50)):
        ratio = taken["jacobian"] / taken[name]
        numbers = f"{taken[name]:.3f} s", f"{taken['jacobian']:.3f} s", f"{ratio:.0f}x"
        row(f"MyrtleMax, 32 images, {name} / Jacobians", *numbers, f">= {wanted}x", verdict(ratio >= wanted))


def probes_against_exact() -> None:
    """One probe an image, many times: how far off the correlation is, and whether its standard error says so."""
    x = photographs(256).images
    module = myrtle()
    exact = patch_agop(module, x, exact=True)
    draws = [patch_agop(module, x, probes=1, seed=seed) for seed in range(DRAWS)]
    for name, result in exact.items():
        errors = [abs(draw[name].correlation() - result.correlation()) for draw in draws]
        bars = [draw[name].number().spread or 0.0 for draw in draws]
        size, largest = statistics.fmean(e * e for e in errors) ** 0.5, max(errors)
        what = f"MyrtleMax, 256 photographs, {name}, 1 probe"
        row(f"{what}: r.m.s. error", f"{size:.4f}", "", "", "<= 0.01", verdict(size <= 0.01))
        row(f"    largest of {DRAWS}", f"{largest:.4f}", "", "", "<= 0.01", verdict(largest <= 0.01))
        covered = sum(e <= 2 * bar for e, bar in zip(errors, bars, strict=True)) / DRAWS
        typical = f"{statistics.median(bars):.4f}"
        row("    within 2 error bars, size of one", f"{covered:.0%}", typical, "", ">= 90%", verdict(covered >= 0.9))


def vgg11_child(repeats: int) -> None:
    """Prints seconds of wall time for an image and a probe, and the peak of the memory of this process in bytes."""
    torch.set_num_threads(2)
    torch.manual_seed(0)
    run = sums(vgg11(1000), torch.randn(1, 3, 224, 224), Probes(1))
    seconds = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        slots = run()
        seconds.append(time.perf_counter() - start)
    assert len(slots) == 8
    assert all(slot.failure is None for slot in slots)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"seconds": statistics.median(seconds[1:]), "peak": peak}))


def vgg11_alone(repeats: int) -> None:
    command = [sys.executable, __file__, "--vgg11", "--repeats", str(repeats)]
    found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    what = "VGG11, 224 px, 1 image, 1 probe"
    seconds, peak = found["seconds"], found["peak"] / 2**30
    row(f"{what}: wall, 2 threads", f"{seconds:.2f} s", "", "", "<= 0.6 s", verdict(seconds <= 0.6))
    row(f"{what}: peak RSS", f"{peak:.2f} GiB", "", "", "<= 1.2 GiB", verdict(peak <= 1.2))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--vgg11", action="store_true", help="only that network, in this process")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.vgg11:
        vgg11_child(options.repeats)
    else:
        row("what", "ours", "other", "ratio", "wanted", "reached")
        vgg11_alone(options.repeats)  # first, since a child's peak starts at what its parent has taken
        against_training(options.repeats)
        against_jacobians(options.repeats)
        probes_against_exact()
