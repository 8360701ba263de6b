"""Structure of a data set and predicted dynamics: cost against one product of the images, and seconds.

    python benchmarks/dynamics.py [--images 10000] [--repeats 5]

CIFAR-10 where $CONVSCOPE_DATA names a folder that holds it, else photographs that ship with scikit-image. A structure
from images in memory is compared with one float64 product x.T @ x of them in the same run, in turn; minimum of the
repetitions, wall clock. Predictions are for images in grey, means over channels, from weights of one draw.
"""

import argparse
import math
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from convscope.dynamics.closed import closed_form
from convscope.dynamics.collect import dataset_structure
from convscope.dynamics.exact import integrate
from convscope.dynamics.linear import LinearCNN
from convscope.dynamics.stages import stages
from convscope.dynamics.structure import DatasetStructure
from convscope.inputs.photographs import photographs
from convscope.papers.data import cifar10, locate

TIMES, LARGE, FEW = 1000, 224, 200


def seconds(run: Callable[..., object], *what: object) -> float:
    begin = time.perf_counter()
    run(*what)
    return time.perf_counter() - begin


def product(flat: Tensor) -> Tensor:
    return flat.T @ flat


def pictures(n: int) -> tuple[Tensor, Tensor]:
    folder = locate("cifar10", {})
    if folder is None:
        found = photographs(n)
        return found.images, found.labels
    images = cifar10(folder, n)
    return images.pixels, images.labels


def network(structure: DatasetStructure, init_std: float) -> LinearCNN:
    return LinearCNN.drawn(structure.image_shape, len(structure.counts), init_std)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    colour, labels = pictures(arguments.images)
    grey = colour.mean(1, keepdim=True)
    print(f"{torch.get_num_threads()} threads, {len(colour)} images of {tuple(colour.shape[1:])}")
    for name, images in (("grey", grey), ("colour", colour)):
        flat = images.double().flatten(1)
        pairs = [
            (seconds(product, flat), seconds(dataset_structure, [(images, labels)])) for _ in range(arguments.repeats)
        ]
        one, ours = (min(times) for times in zip(*pairs, strict=True))
        print(f"structure, {name}: {ours:.2f} s, one product {one:.2f} s: {ours / one:.2f}x (2.5x)", flush=True)
    structure = dataset_structure([(grey, labels)])
    for name, end in (("until all modes are half learned", None), ("until nothing is left", math.inf)):
        small = network(structure, 1e-8)
        took = min(seconds(stages, structure, small, end) for _ in range(arguments.repeats))
        print(f"stages {name}: {took:.2f} s (1 s)", flush=True)
    times = torch.linspace(0, 100, TIMES, dtype=torch.float64)
    large = F.interpolate(grey[:FEW], LARGE, mode="bilinear")
    for found, wanted in ((structure, 0.1), (dataset_structure([(large, labels[:FEW])]), 2.0)):
        start = network(found, 1e-6)
        took = min(seconds(closed_form, found, start, times) for _ in range(arguments.repeats))
        print(f"closed form at {TIMES} times, {found.image_shape}: {took:.3f} s ({wanted} s)", flush=True)
    for init_std, most in ((1e-4, 30), (1e-8, 60)):
        start = network(structure, init_std)
        took = seconds(integrate, structure, start)
        print(f"exact from {init_std:g} until all modes are half learned: {took:.1f} s ({most} s)", flush=True)


if __name__ == "__main__":
    main()
