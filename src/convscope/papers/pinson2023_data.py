"""Images, structures and small networks that the experiments of Pinson et al. (2023) share."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from scipy.stats import spearmanr
from torch import Tensor, nn

from convscope.dynamics.collect import dataset_structure
from convscope.dynamics.structure import DatasetStructure
from convscope.papers.data import LabelledImages, cifar10, fingerprint, needed
from convscope.papers.kept import Scores, learn, once
from convscope.papers.registry import Setup
from convscope.training.linear import dense

View = Literal["gray", "colour"]
Kind = Literal["strides", "maxima", "dense"]
CLASSES = 10
BY_CHANCE = (-0.68, 0.68)  # central 95 % of rank correlations of nine modes in any order
_LUMINANCE = (0.299, 0.587, 0.114)
_WIDTHS = (32, 64, 64)
_UNITS = 256
_BATCH = 500


def digits(classes: tuple[int, ...] | None = None) -> tuple[Tensor, Tensor]:
    """Returns scikit-learn's 8 x 8 digits, float64 [n, 1, 8, 8] in [0, 1], and their labels.

    Args:
        classes: which digits, numbered anew in this order; None: all.

    Example:
        >>> images, labels = digits((3, 8))
        >>> images.shape, labels.unique().tolist()
        (torch.Size([357, 1, 8, 8]), [0, 1])
    """
    from sklearn.datasets import load_digits

    found = load_digits()
    images, labels = torch.from_numpy(found.images)[:, None] / 16, torch.from_numpy(found.target).long()
    if classes is None:
        return images, labels
    own = labels[:, None] == torch.tensor(classes)
    return images[own.any(1)], own[own.any(1)].long().argmax(1)


def cosines(side: int = 8) -> tuple[Tensor, Tensor]:
    """Returns five images, float64 [5, 1, side, side], one of each class: cosines of falling contrast.

    Args:
        side: in pixels, at least 8.
    """
    frequencies = torch.tensor([(1, 0), (0, 2), (1, 1), (2, 3), (3, 1)], dtype=torch.float64)
    place = torch.arange(side, dtype=torch.float64) / side
    angle = 2 * math.pi * (frequencies[:, :1, None] * place[:, None] + frequencies[:, 1:, None] * place)
    return 0.8 ** torch.arange(5, dtype=torch.float64).view(-1, 1, 1, 1) * angle.cos()[:, None], torch.arange(5)


def seen(pixels: Tensor, view: View, side: int) -> Tensor:
    """Returns images [n, 3, h, w] in colour or as their luminance, reduced by means over blocks to a side in pixels."""
    if view == "gray":
        pixels = (pixels * torch.tensor(_LUMINANCE)[:, None, None]).sum(1, keepdim=True)
    return F.avg_pool2d(pixels, pixels.shape[-1] // side)


def photographs(setup: Setup, n: int, view: View = "colour", side: int = 32) -> tuple[Tensor, Tensor]:
    """Returns the first training images of CIFAR-10, float32 [n, c, side, side] in [0, 1], and their labels.

    Args:
        setup: where the data lie.
        n: number of images.
        view: in colour, or their luminance.
        side: in pixels; 32, or what divides it.

    Raises:
        ConvscopeError: when CIFAR-10 is not at hand.
    """
    data = _training(needed("cifar10", setup.data), n)
    return seen(data.pixels, view, side), data.labels


def photographs_structure(setup: Setup, n: int, view: View, side: int) -> DatasetStructure:
    """Returns the structure of those images."""
    return _structure(needed("cifar10", setup.data), n, view, side)


@lru_cache(maxsize=2)
def _structure(folder: Path, n: int, view: View, side: int) -> DatasetStructure:
    data = _training(folder, n)

    def batches() -> Iterator[tuple[Tensor, Tensor]]:
        parts = zip(data.images.split(_BATCH), data.labels.split(_BATCH), strict=True)
        for images, labels in parts:
            yield seen(LabelledImages(images, labels, "").pixels.double(), view, side), labels

    return dataset_structure(batches())


@lru_cache(maxsize=1)
def _training(folder: Path, n: int) -> LabelledImages:
    return cifar10(folder, n)


def held_out(setup: Setup, n: int) -> LabelledImages:
    """Returns the first test images of CIFAR-10.

    Raises:
        ConvscopeError: when CIFAR-10 is not at hand.
    """
    return cifar10(needed("cifar10", setup.data), n, "test")


def small_network(kind: Kind) -> nn.Sequential:
    """Returns a classifier with ReLUs for RGB images of 32 x 32 pixels, ``normalised``.

    Args:
        kind: three convolutions and a linear layer, their maps halved by "strides" of 2 or by "maxima" over 2 x 2; or
            "dense", a hidden layer of ``_UNITS`` and a linear one.
    """
    if kind == "dense":
        return dense((3, 32, 32), CLASSES, (_UNITS,))
    layers: list[nn.Module] = []
    for c, k in zip((3, *_WIDTHS), _WIDTHS, strict=False):
        layers += [nn.Conv2d(c, k, 3, 2 if kind == "strides" else 1, 1), nn.ReLU()]
        layers += [nn.MaxPool2d(2)] if kind == "maxima" else []
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(_WIDTHS[-1] * 16, CLASSES))


def normalised(pixels: Tensor) -> Tensor:
    """Returns RGB images in [0, 1] as ``small_network`` takes them: each channel less 1/2, over 1/4."""
    return (pixels - 0.5) / 0.25


def untrained_network(kind: Kind, seed: int) -> nn.Sequential:
    """Returns ``small_network`` with the initial weights of a seed, in evaluation mode."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return small_network(kind).eval()


def trained_network(
    setup: Setup, kind: Kind, pixels: Tensor, labels: Tensor, test: LabelledImages, *, seed: int, epochs: int
) -> tuple[nn.Sequential, Scores]:
    """Returns a small network trained on images [n, 3, 32, 32] in [0, 1], in evaluation mode, and how well it learned.

    Args:
        setup: whose cache keeps it.
        kind: as for ``small_network``.
        pixels: to learn.
        labels: to learn.
        test: for the test accuracy.
        seed: of the initial weights and the order of images.
        epochs: number of times that every image is visited.

    Raises:
        KeyboardInterrupt: when the training is interrupted.
    """
    network = untrained_network(kind, seed)
    options: dict[str, Any] = {"epochs": epochs, "lr": 0.01, "momentum": 0.9, "batch_size": 64, "seed": seed}
    name = "small dense network" if kind == "dense" else f"small CNN, {kind}"
    data = [name, fingerprint(pixels.numpy(), labels.numpy()), test.fingerprint]
    trial = LabelledImages(normalised(test.pixels), test.labels, "")

    def training() -> tuple[dict[str, Tensor], Scores]:
        title = f"{kind}, seed {seed}" if setup.progress else False
        return learn(network, normalised(pixels), labels, trial, **options, progress=title)

    state, scores = once(setup.cache, data, options, training)
    network.load_state_dict(state)
    return network.cpu().eval(), scores


def ranks(a: Tensor, b: Tensor) -> float:
    """Returns Spearman's correlation of two sets of half-times, or of what should order them.

    Modes that were not learned (inf) come last; NaN where all are equal, or there is one alone.

    Example:
        >>> round(ranks(torch.tensor([1.0, 2.0, torch.inf]), torch.tensor([3.0, 5.0, 8.0])), 6)
        1.0
    """
    if len(a.unique()) < 2 or len(b.unique()) < 2:
        return math.nan
    return float(spearmanr(a.numpy(), b.numpy())[0])
