"""The neural feature ansatz before and after a training on CIFAR-10, in a network of four convolutions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from convscope.ansatz.agop import PatchAgop
from convscope.ansatz.compare import Comparison
from convscope.ansatz.measured import Measured
from convscope.papers.beaglehole2023_agreement import NULL_DRAWS, growth, judged, null_of_mean, tables
from convscope.papers.beaglehole2023_claims import claimed_at
from convscope.papers.beaglehole2023_networks import NOT_READ, POWERS, TURNED
from convscope.papers.beaglehole2023_training import BeforeAndAfter, Recipe, measured
from convscope.papers.data import cifar10, needed
from convscope.papers.registry import Outcome, Row, Scale, Setup, summary

PLAIN = "four convolutions"
LAYERS = ("conv1", "conv2", "conv3", "conv4")
#: What an earlier prototype of this library measured once, with 46.5 % test accuracy; not the paper's values.
PROTOTYPE = {
    "before, power 1": (0.992, 0.926, 0.882, 0.920),
    "after, power 1": (0.955, 0.864, 0.744, 0.923),
    "before, power 1/2": (0.972, 0.960, 0.926, 0.962),
    "after, power 1/2": (0.977, 0.912, 0.835, 0.962),
    "start": (0.997, 0.901, 0.900, 0.847),
    "change": (0.540, 0.273, 0.211, 0.235),
}


@dataclass(frozen=True)
class Size:
    """Sizes of one scale."""

    images: int
    test_images: int
    epochs: int
    width: int
    batch_size: int
    seeds: int
    agop_images: int  # the first so many training images


SIZES: dict[Scale, Size] = {
    "smoke": Size(128, 50, 1, 8, 32, 2, 32),
    "cpu": Size(2_000, 1_000, 10, 64, 64, 3, 300),
    "paper": Size(2_000, 10_000, 1_000, 64, 128, 3, 2_000),
}


def myrtle(setup: Setup) -> Outcome:
    """Returns how filters and gradients agree before and after training, for each convolution and several seeds."""
    size = SIZES[setup.scale]
    folder = needed("cifar10", setup.data)
    images, test = cifar10(folder, size.images), cifar10(folder, size.test_images, "test")
    recipes = [Recipe(PLAIN, seed, size.epochs, size.width, size.batch_size) for seed in range(size.seeds)]
    found = measured(recipes, images, test, size.agop_images, setup.cache, setup.progress)
    rows = [row for i in range(len(LAYERS)) for row in _rows(i, found)]
    rows += [claimed_at(power, row) for power in POWERS for row in growth("all convolutions", found, power)]
    settings = {
        "images": f"the first {len(images.images):,} training images of CIFAR-10, each channel less its mean over its "
        f"standard deviation; the AGOP over the first {size.agop_images:,} of them, of each logit in turn",
        "network": f"conv-ReLU-conv-ReLU-maxpool-conv-ReLU-maxpool-conv-ReLU-maximum-linear, {size.width} filters of "
        "3 x 3 pixels each, no bias; initial weights normal of variance 2 / fan-in",
        "training": f"Adam, step size {recipes[0].lr:g}, batches of {size.batch_size}, {size.epochs} epochs, "
        f"{size.seeds} seeds",
        "earlier prototype": "another program's values for this network and kind of training (one seed, 46.5 % test "
        "accuracy); they are not the paper's, whose tables were not read",
    }
    return Outcome(tuple(rows), settings, tables(found))


def _rows(i: int, found: Sequence[BeforeAndAfter]) -> list[Row]:
    layer = LAYERS[i]
    before, after = [one.before[layer] for one in found], [one.after[layer] for one in found]
    rows = []
    for power, name in POWERS.items():
        start = [a.correlation(power=power) for a in before]
        rows += [
            _row(
                f"{layer} before training: correlation of NFM and AGOP, {name}",
                start,
                PROTOTYPE[f"before, {name}"][i],
                _turned(before, power=power),
            ),
            claimed_at(
                power,
                judged(
                    _row(
                        f"{layer} after training: correlation of NFM and AGOP, {name}",
                        [a.correlation(power=power) for a in after],
                        PROTOTYPE[f"after, {name}"][i],
                        _turned(after, power=power),
                        {"before training": fmean(start)},
                    ),
                    after,
                ),
            ),
        ]
    rows += [
        _row(
            f"{layer}: correlation of the AGOP after training with the NFM of the weights' change",
            [a.correlation(change=True) for a in after],
            PROTOTYPE["change"][i],
            _turned(after, change=True),
            {},
        ),
        _row(
            f"{layer}: correlation of the NFM before and after training",
            [_of_start(a, torch.eye(a.gram.shape[1], dtype=torch.float64)[None]) for a in after],
            PROTOTYPE["start"][i],
        ),
    ]
    return rows


def _turned(results: Sequence[PatchAgop], **what: Any) -> tuple[float, ...]:
    """Returns the correlations with S turned at random, mean over results."""
    return null_of_mean([a.chance("haar", draws=NULL_DRAWS, seed=i, **what).tolist() for i, a in enumerate(results)])


def _row(
    quantity: str,
    values: Sequence[float],
    prototype: float,
    turned: tuple[float, ...] = (),
    rivals: Mapping[str, float] | None = None,
) -> Row:
    beside = {} if rivals is None else {**rivals, TURNED: fmean(turned)}
    return Row(
        quantity,
        NOT_READ,
        None,
        summary(values, Measured(fmean(values), draws=turned).band, TURNED if turned else ""),
        len(values),
        beside,
        f"an earlier prototype gave {prototype:.3f}",
        "higher" if beside else "",
    )


def _of_start(result: PatchAgop, gram: Tensor) -> float:
    """Returns the correlation of the NFM before training with ``W^T S W`` for the weights after training."""
    assert result.init is not None
    return Comparison(result.weight, result.init).correlation(gram, of=1)
