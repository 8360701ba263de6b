"""Activation spectra of all convolutions: what a batch costs beside the forward pass, one thread.

    python benchmarks/bottleneck_spectra.py [--repeats 7] [--without-moments]

CPU seconds for each image of a batch of 64, as shares of the forward pass that delivers the maps; what is compared
takes turns in one run, medians of the repetitions. Weights and images are random: neither changes the cost. Updates are
those of a pass with the default budget, folds included. Beside them, what a fast Fourier transform of all maps costs
alone, and second moments of all channels by complex64 products of it, one fold and not centred.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from convscope.bottleneck.collect import BUDGET, SpectrumSums, kept_columns
from convscope.bottleneck.waves import Scratch
from convscope.core.accumulate import Folded
from convscope.core.batches import FEWEST_FOLDS, Batch
from convscope.core.taps import tapped
from convscope.training.networks import resnet20, squeezenet1_1

IMAGES = 64


def seconds(run: Callable[[], object]) -> float:
    begin = time.process_time()
    run()
    return time.process_time() - begin


def transforms(maps: dict[str, Tensor]) -> None:
    for x in maps.values():
        torch.fft.rfft2(x, norm="ortho")


def moments(maps: dict[str, Tensor], sums: dict[str, Tensor]) -> None:
    for name, x in maps.items():
        z = torch.fft.rfft2(x, norm="ortho").flatten(2).permute(2, 1, 0).contiguous()
        product = z @ z.mH
        sums[name] = sums[name].add_(product) if name in sums else product


def update(maps: dict[str, Tensor], sums: dict[str, Folded], batch: Batch) -> None:
    for name, x in maps.items():
        sums[name].update(x, batch)


def compare(network: torch.nn.Module, pixels: int, bar: float, repeats: int, with_moments: bool) -> None:
    network.eval()
    images = torch.rand(IMAGES, 3, pixels, pixels)
    maps: dict[str, Tensor] = {}
    with torch.no_grad(), tapped(network, lambda call: maps.__setitem__(call.name, call.output.contiguous())):
        network(images)
    columns = kept_columns({name: tuple(x.shape[1:]) for name, x in maps.items()}, BUDGET, FEWEST_FOLDS)
    scratch = Scratch()
    sums = {name: Folded(partial(SpectrumSums, columns[name], scratch=scratch), FEWEST_FOLDS) for name in maps}
    naive: dict[str, Tensor] = {}
    batch = Batch.of(images, None, torch.arange(IMAGES))
    candidates: dict[str, Callable[[], object]] = {
        "forward": lambda: network(images),
        "update": lambda: update(maps, sums, batch),
        "FFT alone": lambda: transforms(maps),
    }
    if with_moments:
        candidates["complex64 moments"] = lambda: moments(maps, naive)
    times: dict[str, list[float]] = {name: [] for name in candidates}
    with torch.no_grad():
        for turn in range(repeats + 1):
            for name, run in candidates.items():
                took = seconds(run)
                if turn:  # the first one makes room
                    times[name].append(took)
    forward = times.pop("forward")
    print(f"{type(network).__name__} at {pixels}x{pixels}: forward {1e3 * statistics.median(forward) / IMAGES:.2f} ms")
    for name, took in times.items():
        share = statistics.median(a / b for a, b in zip(took, forward, strict=True))
        print(f"  {name:18s} {share:6.0%}" + (f"  (at most {bar:.0%})" if name == "update" else ""))
    wide = {name: c for name, c in columns.items() if c is not None and 2 * c < maps[name].shape[1]}
    state = sum(t.numel() * t.element_size() for s in sums.values() for t in s.state_dict().values())
    print(
        f"  {len(columns) - len(wide)} of {len(columns)} layers in full, {sum(map(bool, wide.values()))} sketched; "
        f"sums take {state / 2**20:.0f} of {BUDGET / 2**20:.0f} MiB"
    )
    took = seconds(lambda: [s.compute().rank(0.99) for s in sums.values()])
    print(f"  compute, ranks included: {took:.1f} s, once", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--without-moments", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    for network, pixels, bar in ((resnet20(), 32, 1.5), (squeezenet1_1(), 224, 3.0)):
        compare(network, pixels, bar, arguments.repeats, not arguments.without_moments)


if __name__ == "__main__":
    main()
