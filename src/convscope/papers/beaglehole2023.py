"""Experiments of Beaglehole et al., "Mechanism of feature learning in convolutional neural networks" (2023)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from convscope.ansatz.limit import Activation, LimitPoint, limit_point
from convscope.papers.beaglehole2023_architectures import architectures
from convscope.papers.beaglehole2023_convrfm import convrfm_cifar10, convrfm_fashion, convrfm_local, convrfm_noisy
from convscope.papers.beaglehole2023_edges import edges
from convscope.papers.beaglehole2023_myrtle import myrtle
from convscope.papers.beaglehole2023_networks import pretrained, trajectory
from convscope.papers.registry import Experiment, Outcome, Row, Scale, Setup, summary

TITLE = "Beaglehole et al., “Mechanism of feature learning in convolutional neural networks” (arXiv 2309.00570)"
CLAIM = (
    "Abstract: the covariance of a convolution's filters, W^T W (NFM), is proportional to the average gradient outer "
    "product over its input's patches (AGOP): a correlation of 1."
)
CONVRFM_CLAIM = (
    "Abstract: Deep ConvRFM adapts to local signals in images, which fixed convolutional kernels cannot, and improves "
    "on their performance. Tables of accuracies were not read; the outputs in the authors' notebooks were."
)
_FILTERS, _CHANNELS, _KERNEL = 32, 3, 3
_RANK = 8
_BELOW = "below 1 in the limit (derived here)"


@dataclass(frozen=True)
class Size:
    """Sizes of one scale: positions for each filter, readouts drawn, images for ReLU."""

    ratios: tuple[int, ...]
    seeds: int
    images: int


SIZES: dict[Scale, Size] = {
    "smoke": Size((1, 8), 2, 4),
    "cpu": Size((1, 4, 16, 64, 256), 30, 16),
    "paper": Size((1, 4, 16, 64, 256, 1024), 100, 16),
}


@dataclass(frozen=True)
class _Case:
    """A kind of filters, patches and activation; ``tends`` says whether the correlation tends to 1."""

    name: str
    low_rank: bool
    activation: Activation
    brightness: float
    tends: bool


_CASES = (
    _Case("linear, random filters", False, "linear", 0.0, True),
    _Case(f"linear, filters of rank {_RANK}", True, "linear", 0.0, True),
    _Case("ReLU, patches symmetric about 0", False, "relu", 0.0, True),
    _Case("ReLU, bright patches", False, "relu", 1.0, False),
)


def _filters(low_rank: bool) -> Tensor:
    """Returns filters [k, c, q, q]; with low rank, of singular values 1, 1/2, 1/3, ... as training tends to leave."""
    generator = torch.Generator().manual_seed(0)
    w = torch.randn(_FILTERS, _CHANNELS * _KERNEL**2, dtype=torch.float64, generator=generator)
    if low_rank:
        u, _, v = torch.linalg.svd(w, full_matrices=False)
        w = (u[:, :_RANK] / torch.arange(1, _RANK + 1)) @ v[:_RANK]
    return w.view(_FILTERS, _CHANNELS, _KERNEL, _KERNEL)


def _points(case: _Case, positions: int, size: Size) -> list[LimitPoint]:
    generator = torch.Generator().manual_seed(1)
    shape = (size.images if case.activation == "relu" else 1, _CHANNELS, positions + _KERNEL - 1, _KERNEL)
    images = torch.randn(shape, dtype=torch.float64, generator=generator) + case.brightness
    weight = _filters(case.low_rank)
    seeds = range(positions * 1_000, positions * 1_000 + size.seeds)  # no readout twice
    return [limit_point(weight, images, case.activation, seed=seed) for seed in seeds]


def _limit(setup: Setup) -> Outcome:
    size = SIZES[setup.scale]
    rows: list[Row] = []
    table: list[dict[str, Any]] = []
    for case in _CASES:
        found = {ratio: _points(case, ratio * _FILTERS, size) for ratio in size.ratios}
        rows += _limit_rows(case, found)
        table += [_limit_line(case, ratio, points) for ratio, points in found.items()]
    settings = {
        "network": f"sum over P positions of a^T phi(W u): one convolution of {_FILTERS} filters, "
        f"{_CHANNELS}x{_KERNEL}x{_KERNEL}, and a normal readout a of its own at each position",
        "images": "normal noise, for bright patches plus 1; a strip of P positions",
        "filters": f"normal, or of rank {_RANK} with singular values 1, 1/2, 1/3, ...",
        "predicted": "for linear phi, to leading order in 1/P; for ReLU it is printed for comparison",
    }
    return Outcome(tuple(rows), settings, {"positions": table})


def _limit_rows(case: _Case, found: Mapping[int, Sequence[LimitPoint]]) -> list[Row]:
    ratio = max(found)
    points = found[ratio]
    at = f"{case.name}, {ratio} positions a filter"
    rows = [
        Row(
            f"{at}: correlation of NFM and AGOP",
            "1 in the limit (derived here)" if case.tends else _BELOW,
            (0.99, 1.0) if case.tends and ratio >= 64 else None,
            summary(p.correlation for p in points),
            len(points),
            {"predicted for linear phi": fmean(p.predicted_correlation for p in points)},
        )
    ]
    if case.activation == "linear":
        squares = [(p.deviation / p.predicted_deviation) ** 2 for every in found.values() for p in every]
        losses = [(1 - p.correlation) / (1 - p.predicted_correlation) for every in found.values() for p in every]
        rows += [
            Row(
                f"{case.name}: squared distance of S from a multiple of I, over (k + 1) / P",
                "1 (derived here)",
                (0.8, 1.2),
                summary(squares),
                len(squares),
                note="all P and all readouts",
            ),
            Row(
                f"{case.name}: 1 − correlation, over what the rate predicts",
                "1 (derived here)",
                (0.8, 1.2),
                summary(losses),
                len(losses),
                note="all P and all readouts",
            ),
        ]
    return rows


def _limit_line(case: _Case, ratio: int, points: Sequence[LimitPoint]) -> dict[str, Any]:
    losses = summary(ratio * (1 - p.correlation) for p in points)
    return {
        "network": case.name,
        "positions a filter, P / k": ratio,
        "1 − correlation, times P / k": losses.value,
        "its standard deviation over readouts": losses.spread,
        "predicted for linear phi": ratio * (1 - points[0].predicted_correlation),
        "distance of S from the predicted multiple of I (root mean square)": math.sqrt(
            fmean(p.deviation**2 for p in points)
        ),
        "predicted distance for linear phi": points[0].predicted_deviation,
    }


EXPERIMENTS = (
    Experiment(
        "beaglehole2023",
        "limit",
        "In a network where the proportionality can be derived, does the correlation tend to 1 at the derived rate?",
        "The paper offers “supporting theoretical evidence” (abstract; its theorems were not read). Derived here: with "
        "a random readout at each of P positions, k filters and no non-linearity, 1 − correlation falls as k / P.",
        (),
        {
            "smoke": "seconds",
            "cpu": "under a minute on one core",
            "paper": "minutes on one core; the paper has no such experiment",
        },
        _limit,
    ),
    Experiment(
        "beaglehole2023",
        "pretrained",
        "In networks that others trained, do filters and gradients agree more than in untrained ones, or by chance?",
        CLAIM,
        ("weights", "cifar10", "imagenet"),
        {
            "smoke": "under 15 seconds on one core",
            "cpu": "about 2 minutes on one core; no training",
            "paper": "hours on one core; no training",
        },
        pretrained,
    ),
    Experiment(
        "beaglehole2023",
        "trajectory",
        "Does the agreement grow along the training of a network?",
        CLAIM,
        ("weights", "cifar10"),
        {
            "smoke": "under 15 seconds on one core",
            "cpu": "under a minute on one core; no training",
            "paper": "an hour on one core; no training",
        },
        trajectory,
    ),
    Experiment(
        "beaglehole2023",
        "myrtle",
        "How much of the agreement is there before training, and how much is in what training changed?",
        CLAIM,
        ("cifar10",),
        {
            "smoke": "under 15 seconds on one core",
            "cpu": "about 6 minutes on one core (3 networks)",
            "paper": "a day on one core (3 networks, 1,000 epochs on 2,000 images as in the authors' code)",
        },
        myrtle,
    ),
    Experiment(
        "beaglehole2023",
        "architectures",
        "Do filters and gradients agree in other kinds of networks and after other optimisers, and more than before?",
        CLAIM,
        ("cifar10",),
        {
            "smoke": "seconds",
            "cpu": "about 8 minutes on one core (18 networks)",
            "paper": "days on one core (18 networks)",
        },
        architectures,
    ),
    Experiment(
        "beaglehole2023",
        "edges",
        "Is what gradients and learned metrics see in an image its edges?",
        "The paper shows images through the AGOP of first layers and of ConvRFM as edge detectors (the pictures that "
        "its code makes; its text was not read).",
        ("weights", "cifar10", "imagenet", "fashion-mnist"),
        {
            "smoke": "seconds",
            "cpu": "about 3 minutes on one core; no network is trained",
            "paper": "hours on one core",
        },
        edges,
    ),
    Experiment(
        "beaglehole2023",
        "convrfm-local",
        "Where a small part of the image says the class, does a kernel machine gain by learning which patches matter?",
        CONVRFM_CLAIM,
        (),
        {
            "smoke": "seconds",
            "cpu": "about 6 minutes on one core",
            "paper": "about 10 minutes on one core; n as in the authors' notebook of stars",
        },
        convrfm_local,
    ),
    Experiment(
        "beaglehole2023",
        "convrfm-noisy",
        "With noise around the object, does a kernel machine gain by learning which patches matter?",
        CONVRFM_CLAIM,
        ("fashion-mnist",),
        {
            "smoke": "seconds",
            "cpu": "about 7 minutes on one core",
            "paper": "hours on two cores; n as in the authors' notebook of noisy MNIST",
        },
        convrfm_noisy,
    ),
    Experiment(
        "beaglehole2023",
        "convrfm-fashion",
        "On pictures of single objects, does a kernel machine gain by learning which patches matter?",
        CONVRFM_CLAIM,
        ("fashion-mnist",),
        {
            "smoke": "seconds",
            "cpu": "about 5 minutes on one core",
            "paper": "hours on two cores",
        },
        convrfm_fashion,
    ),
    Experiment(
        "beaglehole2023",
        "convrfm-cifar10",
        "On photographs of objects, does a kernel machine gain by learning which patches matter?",
        CONVRFM_CLAIM,
        ("cifar10",),
        {
            "smoke": "seconds",
            "cpu": "about 7 minutes on one core",
            "paper": "hours on two cores",
        },
        convrfm_cifar10,
    ),
)
