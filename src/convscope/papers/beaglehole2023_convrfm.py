"""ConvRFM and Deep ConvRFM beside the fixed kernel and a small CNN, each chosen without the test images."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from convscope.papers.beaglehole2023_convrfm_images import (
    ACCURACY,
    CIFAR10,
    ERROR,
    FASHION,
    LOCAL,
    NOISY,
    STAR,
    Case,
    Draw,
)
from convscope.papers.beaglehole2023_convrfm_rows import Found, rows_of
from convscope.papers.data import LabelledImages
from convscope.papers.kept import Scores, learn, once
from convscope.papers.registry import Outcome, Row, Scale, Setup
from convscope.rfm.deep import DeepConvRFMClassifier
from convscope.rfm.estimators import ConvRFMClassifier
from convscope.rfm.suppressed import suppressed_energy
from convscope.training.loop import State
from convscope.training.networks import MyrtleMax

ITERATIONS = 2
DRAWS: dict[Scale, int] = {"smoke": 2, "cpu": 4, "paper": 5}
LAYERS = 2  # of Deep ConvRFM
WIDTHS: dict[Scale, int] = {"smoke": 4, "cpu": 32, "paper": 32}
GRADIENTS = 20  # training images at which the AGOP is taken, as in the authors' code
_FEW = 100  # images whose patches' energy is measured
#: Training images up to which iterations are selected by folds, not by one held-out part.
FOLDS: dict[Scale, int] = {"smoke": 20, "cpu": 100, "paper": 100}


@dataclass(frozen=True)
class Recipe:
    """Everything that decides a trained CNN, the images apart."""

    seed: int
    epochs: int
    width: int = 16
    batch_size: int = 25
    lr: float = 2e-3


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
            rows += rows_of(case, n, m, found)
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
    known = {
        "n_splits": 3,
        "n_iters": ITERATIONS,
        "agop_samples": GRADIENTS,
        "random_state": seed,
        "selection": "cv" if n <= FOLDS[setup.scale] else "holdout",
        **case.settings,
    }
    begin = time.perf_counter()
    machine = ConvRFMClassifier(**known)
    machine.fit(train.images.numpy(), train.labels.numpy())
    curve = _curve(machine, test)
    middle = time.perf_counter()
    deep: float | None = None
    layers: list[dict[str, Any]] = []
    if n <= case.deep:
        deeper = DeepConvRFMClassifier(n_layers=LAYERS, width=WIDTHS[setup.scale], **known)
        deeper.fit(train.images.numpy(), train.labels.numpy())
        deep = float(deeper.score(test.images.numpy(), test.labels.numpy()))
        layers = _layer_lines(deeper)
    end = time.perf_counter()
    metric = torch.from_numpy(machine.stages_[1].metric_root)
    return Found(
        float(np.bincount(test.labels.numpy()).max() / len(test.labels)),
        curve,
        machine.best_iteration_,
        deep,
        layers,
        _network(draw, Recipe(seed, 1 if setup.scale == "smoke" else case.epochs), setup),
        suppressed_energy(train.images[:_FEW], metric.T @ metric),
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
        "energy given up": found.suppressed,
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
        "ConvRFM": f"{ITERATIONS} metrics, the AGOP at {GRADIENTS} training images as in the authors' code; the "
        f"iteration of the best accuracy on a held-out third of the training images (up to {FOLDS[scale]} images: on "
        "three thirds in turn), the metric learned without them",
        "Deep ConvRFM": f"{LAYERS} layers, {WIDTHS[scale]} ReLU features between them; layer and iteration selected "
        "likewise",
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
