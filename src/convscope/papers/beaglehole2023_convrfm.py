"""ConvRFM and Deep ConvRFM beside the fixed kernel and a small CNN, each chosen without the test images."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import pairwise
from statistics import fmean, stdev
from typing import Any

import numpy as np
import torch
from scipy.stats import t as student
from torch import Tensor
from tqdm import tqdm

from convscope.papers.beaglehole2023_convrfm_images import (
    ACCURACY,
    CIFAR10,
    ERROR,
    FASHION,
    GAIN,
    LOCAL,
    NOISY,
    STAR,
    Case,
    Draw,
    Reported,
)
from convscope.papers.beaglehole2023_networks import NOT_READ
from convscope.papers.data import LabelledImages
from convscope.papers.kept import Scores, learn, once
from convscope.papers.registry import Outcome, Row, Scale, Setup, summary
from convscope.rfm.deep import DeepConvRFMClassifier
from convscope.rfm.estimators import ConvRFMClassifier
from convscope.training.loop import State
from convscope.training.networks import MyrtleMax

ITERATIONS = 2
DRAWS: dict[Scale, int] = {"smoke": 2, "cpu": 3, "paper": 3}
LAYERS, WIDTH = 2, 32  # of Deep ConvRFM
CNN = "a small CNN"
HELD_OUT = 1_000  # training images beyond which ConvRFM's iteration is selected on one held-out part, not on folds


@dataclass(frozen=True)
class Recipe:
    """Everything that decides a trained CNN, the images apart."""

    seed: int
    epochs: int
    width: int = 16
    batch_size: int = 25
    lr: float = 2e-3


@dataclass(frozen=True)
class Found:
    """What the machines made of one draw.

    Attributes:
        largest: share of the test images in their largest class.
        curve: of ConvRFM, for each iteration: test accuracy, mean squared error, and what the machine knew itself.
        selected: ConvRFM's iteration.
        deep: test accuracy of Deep ConvRFM; None where it did not learn.
        layers: of Deep ConvRFM, a line for each layer and iteration.
        network: how well the CNN learned.
        seconds: of ConvRFM and of Deep ConvRFM, learning and predicting.
    """

    largest: float
    curve: Sequence[Mapping[str, Any]]
    selected: int
    deep: float | None
    layers: Sequence[Mapping[str, Any]]
    network: Scores
    seconds: tuple[float, float]

    @property
    def fixed(self) -> float:
        """Test accuracy of the fixed kernel."""
        return float(self.curve[0][ACCURACY])

    @property
    def learned(self) -> float:
        """Test accuracy of ConvRFM at the selected iteration."""
        return float(self.curve[self.selected][ACCURACY])


def _run(cases: Sequence[Case], setup: Setup) -> Outcome:
    seeds = range(DRAWS[setup.scale])
    rows: list[Row] = []
    details: dict[str, list[dict[str, Any]]] = {"draws": [], "iterations": [], "layers": []}
    cells = [(case, n, m) for case in cases for n, m in case.sizes[setup.scale]]
    with tqdm(total=len(cells) * len(seeds), unit="draw", disable=not setup.progress) as bar:
        for case, n, m in cells:
            found = []
            for seed in seeds:
                bar.set_description(f"{case.name}, n = {n:,}")
                found.append(_machines(case, case.draw(setup, n, m, seed), seed, setup))
                bar.update()
            rows += _rows(case, n, found)
            for seed, one in zip(seeds, found, strict=True):
                where = {"data": case.name, "n": n, "draw": seed}
                details["draws"].append({**where, **_draw_line(one)})
                details["iterations"] += [{**where, **line} for line in one.curve]
                details["layers"] += [{**where, **line} for line in one.layers]
    return Outcome(tuple(rows), _settings(cases, setup.scale), details)


def _machines(case: Case, draw: Draw, seed: int, setup: Setup) -> Found:
    """Returns what the machines make of a draw, none of which sees the test images before it is judged by them."""
    train, test = draw.train, draw.test
    n = len(train.labels)
    known = {"n_splits": 3, "n_iters": ITERATIONS, "random_state": seed, **case.settings}
    begin = time.perf_counter()
    machine = ConvRFMClassifier(selection="cv" if n <= HELD_OUT else "holdout", **known)
    machine.fit(train.images.numpy(), train.labels.numpy())
    curve = _curve(machine, test)
    middle = time.perf_counter()
    deep: float | None = None
    layers: list[dict[str, Any]] = []
    if n <= case.deep:
        # The gradients of the second layer cost most: 20 images, as in the authors' code, and one held-out part.
        deeper = DeepConvRFMClassifier(selection="holdout", n_layers=LAYERS, width=WIDTH, agop_samples=20, **known)
        deeper.fit(train.images.numpy(), train.labels.numpy())
        deep = float(deeper.score(test.images.numpy(), test.labels.numpy()))
        layers = _layer_lines(deeper)
    end = time.perf_counter()
    return Found(
        float(np.bincount(test.labels.numpy()).max() / len(test.labels)),
        curve,
        machine.best_iteration_,
        deep,
        layers,
        _network(draw, Recipe(seed, 1 if setup.scale == "smoke" else case.epochs), setup),
        (middle - begin, end - middle),
    )


def _curve(machine: ConvRFMClassifier, test: LabelledImages) -> list[dict[str, Any]]:
    lines = []
    targets = torch.from_numpy((test.labels.numpy()[:, None] == machine.classes_).astype(np.float64))
    scores = machine.staged_outputs(test.images.numpy())
    for known, outputs in zip(machine.history_, scores, strict=True):
        named = torch.from_numpy(machine.classes_)[outputs.argmax(1)]
        lines.append({
            "iteration": known["iteration"],
            "selected": known["iteration"] == machine.best_iteration_,
            ACCURACY: float((named == test.labels).double().mean()),
            ERROR: float((outputs - targets).square().sum(1).mean()),
            "accuracy on held-out training images": known["selection_score"],
            "its standard error": known["selection_error"],
            "accuracy by leave-one-out": known["loo_score"],
            "ridge": known["ridge"],
            "rank": known["rank"],
        })
    return lines


def _layer_lines(machine: DeepConvRFMClassifier) -> list[dict[str, Any]]:
    return [
        {
            "layer": layer,
            "iteration": known["iteration"],
            "selected": layer == machine.best_layer_ and known["iteration"] == part.best_iteration_,
            "accuracy on held-out training images": known["selection_score"],
            "its standard error": known["selection_error"],
            "rank": known["rank"],
        }
        for layer, part in enumerate(machine.layers_)
        for known in part.history_
    ]


def _network(draw: Draw, recipe: Recipe, setup: Setup) -> Scores:
    """Returns how well a CNN learns, after a number of epochs that no image decides."""
    data = ["MyrtleMax", draw.train.fingerprint, draw.test.fingerprint]
    return once(setup.cache, data, asdict(recipe), partial(_train, draw, recipe))[1]


def _train(draw: Draw, recipe: Recipe) -> tuple[State, Scores]:
    train, test = draw.train, draw.test
    mean, std = train.images.mean(), train.images.std()

    def normalised(images: Tensor) -> Tensor:
        return (images - mean) / std

    classes = int(max(train.labels.max(), test.labels.max())) + 1
    with torch.random.fork_rng():
        torch.manual_seed(recipe.seed)
        network = MyrtleMax(classes, train.images.shape[1], recipe.width)
    return learn(
        network,
        normalised(train.images),
        train.labels,
        LabelledImages(normalised(test.images), test.labels, test.fingerprint),
        epochs=recipe.epochs,
        lr=recipe.lr,
        batch_size=recipe.batch_size,
        optimiser="adam",
        seed=recipe.seed,
        progress=False,
    )


def _rows(case: Case, n: int, found: Sequence[Found]) -> list[Row]:
    at = f"{case.name}, n = {n:,}"
    cnn, largest = [one.network.test_accuracy for one in found], {"largest class": fmean(o.largest for o in found)}
    machines = {"the fixed kernel": [one.fixed for one in found], "ConvRFM": [one.learned for one in found]}
    if deep := [one.deep for one in found if one.deep is not None]:
        machines["Deep ConvRFM"] = deep
    rivals = {CNN: fmean(cnn), **largest}
    rows = [
        Row(f"{at}: {ACCURACY} of {name}", NOT_READ, None, summary(values), len(values), rivals, "", "higher")
        for name, values in machines.items()
    ]
    rows.append(Row(f"{at}: {ACCURACY} of {CNN}", NOT_READ, None, summary(cnn), len(cnn), largest))
    rows += [
        _difference(f"{at}: {GAIN} of {after} over {before}", machines[after], machines[before])
        for before, after in pairwise(machines)
    ]
    for reported in (number for number in case.reported if number.n == n):
        values = [_value(one, reported) for one in found]
        what = f"{at}: {reported.quantity} at iteration {reported.iteration}"
        note = "whether it would be selected or not"
        if reported.quantity == GAIN:
            what, note = f"{what} over the fixed kernel", f"{note}; {_verdict(values)}"
        rows.append(Row(what, reported.paper, reported.expected, summary(values), len(values), note=note))
    return rows


def _value(found: Found, reported: Reported) -> float:
    line = found.curve[reported.iteration]
    return float(line[ACCURACY]) - found.fixed if reported.quantity == GAIN else float(line[reported.quantity])


def _difference(quantity: str, after: Sequence[float], before: Sequence[float]) -> Row:
    gains = [b - a for a, b in zip(before, after, strict=True)]
    return Row(quantity, NOT_READ, None, summary(gains), len(gains), note=_verdict(gains))


def _verdict(gains: Sequence[float]) -> str:
    """Returns whether what is learned more helps, as its spread over draws decides.

    Example:
        >>> _verdict([0.03, 0.02, 0.04])
        'it helps: 95 % interval over 3 draws +0.005 to +0.055'
        >>> _verdict([0.0, 0.0, 0.0])
        'it does not help: 95 % interval over 3 draws +0.000 to +0.000'
    """
    n = len(gains)
    half = float(student.ppf(0.975, n - 1)) * stdev(gains) / math.sqrt(n)
    low, high = fmean(gains) - half, fmean(gains) + half
    word = "helps" if low > 0 else "harms" if high < 0 else "does not help"
    return f"it {word}: 95 % interval over {n} draws {low:+.3f} to {high:+.3f}".replace("-", "−")


def _draw_line(found: Found) -> dict[str, Any]:
    return {
        "fixed kernel": found.fixed,
        "ConvRFM": found.learned,
        "its iteration": found.selected,
        "Deep ConvRFM": found.deep,
        "its layer and iteration": next(
            (f"{line['layer']}, {line['iteration']}" for line in found.layers if line["selected"]), None
        ),
        "CNN": found.network.test_accuracy,
        "CNN, training images": found.network.train_accuracy,
        "largest class": found.largest,
        "seconds of ConvRFM": found.seconds[0],
        "seconds of Deep ConvRFM": found.seconds[1] if found.deep is not None else None,
        "seconds of the CNN": found.network.seconds,
    }


def _settings(cases: Sequence[Case], scale: Scale) -> dict[str, str]:
    images = "; ".join(
        f"{case.name}: {' and '.join(f'{n:,} to learn and {m:,} to test' for n, m in case.sizes[scale])}"
        for case in cases
    )
    recipe = Recipe(0, 0)
    settings = {
        "images": f"{images}; each of {DRAWS[scale]} draws has images of its own (noisy digits: places, noise and "
        "order)",
        "fixed kernel": "iteration 0 of ConvRFM: neural tangent kernel of 3 convolutions of 3 x 3 pixels with ReLU, "
        "ridge by leave-one-out",
        "ConvRFM": f"{ITERATIONS} metrics, the AGOP at 64 training images; the iteration of the best accuracy on held-"
        f"out training images (3 folds; for more than {HELD_OUT:,} images the first of them), the metric learned "
        "without them",
        "Deep ConvRFM": f"{LAYERS} layers, {WIDTH} ReLU features between them, the AGOP at 20 training images; layer "
        "and iteration of the best accuracy on a held-out third",
        "CNN": f"{MyrtleMax.__name__}, 4 convolutions of {recipe.width} filters of 3 x 3 pixels, maxima for pooling, "
        f"also over what is left of space; Adam, step size {recipe.lr:g}, batches of {recipe.batch_size}, "
        f"{' or '.join(sorted({str(case.epochs) for case in cases}))} epochs, fixed beforehand",
    }
    if STAR in cases:
        settings["star"] = "one convolution of 11 x 11 pixels, ridge 1e-3, as in the authors' notebook"
    return settings


def convrfm_local(setup: Setup) -> Outcome:
    """Returns accuracies where the class is in a small part of the image: star, local signal, noisy digits."""
    return _run(LOCAL, setup)


def convrfm_noisy(setup: Setup) -> Outcome:
    """Returns accuracies on Fashion-MNIST at random places in a larger frame, under noise."""
    return _run(NOISY, setup)


def convrfm_fashion(setup: Setup) -> Outcome:
    """Returns accuracies on Fashion-MNIST."""
    return _run(FASHION, setup)


def convrfm_cifar10(setup: Setup) -> Outcome:
    """Returns accuracies on CIFAR-10."""
    return _run(CIFAR10, setup)
