"""First layers trained on a data set and the statistics of the patches that they saw, shared by experiments."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import nn

from convscope.core.moment_values import PatchMoments
from convscope.core.moments import patch_moments
from convscope.firstlayer.profile import EnergyProfile, energy_profile
from convscope.papers.data import LabelledImages, cifar10, needed
from convscope.papers.registry import Outcome, Row, Scale, Setup
from convscope.papers.trained import Recipe, TrainedLayer, Trainer
from convscope.training.loop import LabelKind

#: Distance in pixels at which autocorrelations are compared.
LAG = 10
#: By how much the coefficient of a scaled component grows (alpha of appendix D.2).
FACTOR = 3.0
#: Which labels networks learn.
KINDS: tuple[LabelKind, ...] = ("true", "permuted")


@dataclass(frozen=True)
class Size:
    """Sizes of one scale.

    Attributes:
        images: training images.
        test_images: test images.
        epochs: number of times that every image is visited.
        seeds: networks of each kind.
        few: the same where networks are many or costly.
        widths: filters of each stage.
        resnet: filters of a residual network's first layer.
        lr: SGD's step size.
        batch_size: images a step.
        components: indices of those along which patches are scaled: one at the peak, one learned late.
    """

    images: int
    test_images: int
    epochs: int
    seeds: int
    few: int
    widths: tuple[int, ...]
    resnet: int
    lr: float
    batch_size: int
    components: tuple[int, ...]


SIZES: dict[Scale, Size] = {
    "smoke": Size(300, 100, 2, 2, 2, (8, 12), 4, 0.05, 25, (2,)),
    "cpu": Size(5_000, 2_000, 20, 3, 2, (32, 48, 96), 16, 0.05, 50, (7, 14)),
    "paper": Size(50_000, 10_000, 100, 3, 3, (64, 128, 256, 512), 64, 0.01, 256, (2, 7, 14)),
}


@dataclass(frozen=True, eq=False)
class Laboratory:
    """Data, their statistics and the networks trained on them.

    Attributes:
        name: what the images are, in words.
        size: sizes of the scale.
        trainer: trains networks, each once.
        moments: of the patches that the first layer sees in the training images, with the sums of each class.
    """

    name: str
    size: Size
    trainer: Trainer
    moments: PatchMoments

    def layer(self, labels: LabelKind, seed: int, **changes: Any) -> TrainedLayer:
        """Returns a trained first layer.

        Args:
            labels: which labels the network learned.
            seed: its seed.
            **changes: of its recipe, against that of the scale.
        """
        s = self.size
        return self.trainer(replace(Recipe(labels, seed, s.epochs, s.widths, s.lr, s.batch_size), **changes))

    def layers(self, labels: LabelKind, seeds: int | None = None, **changes: Any) -> list[TrainedLayer]:
        """Returns one trained first layer for each seed: as many as the scale says, or ``seeds``."""
        return [self.layer(labels, seed, **changes) for seed in range(seeds or self.size.seeds)]

    def learned(self, layer: TrainedLayer) -> EnergyProfile:
        """Returns the energy profile of the weights' change during training."""
        return energy_profile(layer.final, self.moments, layer.initial)

    def untrained(self, layer: TrainedLayer) -> EnergyProfile:
        """Returns the energy profile of the initial weights."""
        return energy_profile(layer.initial, self.moments)

    def outcome(self, rows: Sequence[Row], layers: Iterable[TrainedLayer], **details: Any) -> Outcome:
        """Returns the outcome of an experiment on these layers, with the settings in words and the networks' table."""
        settings = {"images": self.name, **training_in_words(self.size)}
        return Outcome(tuple(rows), settings, {"networks": [described(layer) for layer in layers], **details})


def training_in_words(size: Size) -> dict[str, str]:
    """Returns how networks of a size are made, trained and measured, for an experiment's settings."""
    return {
        "network": f"{len(size.widths)} stages of conv 3x3 - maxpool - batch norm - ReLU with "
        f"{', '.join(map(str, size.widths))} filters, one linear layer",
        "training": f"SGD, step size {size.lr}, no momentum, no weight decay, no augmentation, "
        f"batches of {size.batch_size}, {size.epochs} epochs",
        "profiles": "of the weights' change during training, over the principal components of all patches that "
        "the first layer sees (zero padding included)",
    }


def described(layer: TrainedLayer, images: str = "") -> dict[str, Any]:
    """Returns a network's line in an experiment's table, after the name of its images where they differ."""
    r = layer.recipe
    return ({"images": images} if images else {}) | {
        "network": r.network if r.network == "resnet" else f"{len(r.widths)} stages",
        "labels": r.labels,
        "seed": r.seed,
        "filters": r.widths[0],
        "scaled component, from 1": None if r.component is None else r.component + 1,
        "training accuracy": layer.scores.train_accuracy,
        "test accuracy": layer.scores.test_accuracy,
        "change of first layer / its initial norm": layer.change,
        "training seconds": layer.scores.seconds,
    }


def assembled(
    name: str, size: Size, train: LabelledImages, test: LabelledImages, setup: Setup, lags: Sequence[int] = ()
) -> Laboratory:
    """Returns a laboratory for images that are at hand.

    Args:
        name: what the images are, in words.
        size: sizes of the scale.
        train: images to learn.
        test: images for the test accuracy.
        setup: cache and progress.
        lags: distances in pixels whose patch covariances are wanted.
    """
    conv = nn.Conv2d(train.images.shape[1], size.widths[0], 3, padding=1)
    pieces = zip(torch.split(train.images, 500), torch.split(train.labels, 500), strict=True)
    batches = ((images.double(), labels) for images, labels in pieces)
    both = [shift for lag in lags for shift in ((lag, 0), (0, lag))]
    moments = patch_moments(batches, conv, lags=both, classes=int(train.labels.max()) + 1)
    return Laboratory(name, size, Trainer(train, test, moments.eigenvectors, setup.cache, setup.progress), moments)


# The laboratory of CIFAR-10 and that with more images stay, with all that they trained.
@lru_cache(maxsize=2)
def _prepared(size: Size, folder: Path, cache: Path | None, progress: bool) -> Laboratory:
    train, test = cifar10(folder, size.images), cifar10(folder, size.test_images, "test")
    name = f"the first {len(train.images):,} training images of CIFAR-10, normalised as in the paper's code"
    return assembled(name, size, train, test, Setup(cache=cache, progress=progress), [LAG])


def laboratory(setup: Setup, *, larger: bool = False) -> Laboratory:
    """Returns the laboratory of CIFAR-10 for a scale and a place of the data.

    Args:
        setup: scale, data and cache.
        larger: whether to take four times as many images (and half as many epochs).

    Raises:
        ConvscopeError: when CIFAR-10 is not at hand.
    """
    size = SIZES[setup.scale]
    if larger:
        size = replace(size, images=4 * size.images, epochs=size.epochs // 2, seeds=size.few)
    return _prepared(size, needed("cifar10", setup.data), setup.cache, setup.progress)
