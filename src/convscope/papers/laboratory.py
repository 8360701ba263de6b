"""First layers trained on CIFAR-10 and the statistics of the patches that they saw, shared by experiments."""

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
from convscope.papers.data import cifar10, needed
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
    """Sizes of one scale."""

    images: int
    test_images: int
    epochs: int
    seeds: int
    widths: tuple[int, ...]
    lr: float
    batch_size: int
    components: tuple[int, ...]  # along which patches are scaled: one learned early, one at the peak, one late


SIZES: dict[Scale, Size] = {
    "smoke": Size(300, 100, 2, 2, (8, 12), 0.05, 25, (2,)),
    "cpu": Size(5_000, 2_000, 20, 3, (32, 48, 96), 0.05, 50, (2, 7, 14)),
    "paper": Size(50_000, 10_000, 100, 3, (64, 128, 256, 512), 0.01, 256, (2, 7, 14)),
}


@dataclass(frozen=True)
class Laboratory:
    """Data, their statistics and the networks trained on them.

    Attributes:
        size: sizes of the scale.
        trainer: trains networks, each once.
        moments: of the patches that the first layer sees in the training images, with lags of ``LAG`` pixels.
    """

    size: Size
    trainer: Trainer
    moments: PatchMoments

    def layer(self, labels: LabelKind, seed: int, component: int | None = None, *, wide: bool = False) -> TrainedLayer:
        """Returns a trained first layer.

        Args:
            labels: which labels the network learned.
            seed: its seed.
            component: along which its patches were scaled, or None.
            wide: whether its first layer has twice as many filters.
        """
        s = self.size
        widths = (2 * s.widths[0], *s.widths[1:]) if wide else s.widths
        factor = 1.0 if component is None else FACTOR
        return self.trainer(Recipe(labels, seed, s.epochs, widths, s.lr, s.batch_size, component, factor))

    def layers(self, labels: LabelKind, *, wide: bool = False) -> list[TrainedLayer]:
        """Returns one trained first layer for each seed."""
        return [self.layer(labels, seed, wide=wide) for seed in range(self.size.seeds)]

    def learned(self, layer: TrainedLayer) -> EnergyProfile:
        """Returns the energy profile of the weights' change during training."""
        return energy_profile(layer.final, self.moments, layer.initial)

    def untrained(self, layer: TrainedLayer) -> EnergyProfile:
        """Returns the energy profile of the initial weights."""
        return energy_profile(layer.initial, self.moments)

    def outcome(self, rows: Sequence[Row], layers: Iterable[TrainedLayer], **details: Any) -> Outcome:
        """Returns the outcome of an experiment on these layers, with the settings in words and the networks' table."""
        s = self.size
        settings = {
            "images": f"the first {len(self.trainer.train.images):,} training images of CIFAR-10, normalised as in the "
            "paper's code",
            "network": f"{len(s.widths)} stages of conv 3x3 - maxpool - batch norm - ReLU with "
            f"{', '.join(map(str, s.widths))} filters, one linear layer",
            "training": f"SGD, step size {s.lr}, no momentum, no weight decay, no augmentation, "
            f"batches of {s.batch_size}, {s.epochs} epochs",
            "profiles": "of the weights' change during training, over the principal components of all patches that "
            "the first layer sees (zero padding included)",
        }
        return Outcome(tuple(rows), settings, {"networks": [_described(layer) for layer in layers], **details})


def _described(layer: TrainedLayer) -> dict[str, Any]:
    r = layer.recipe
    return {
        "labels": r.labels,
        "seed": r.seed,
        "filters": r.widths[0],
        "scaled component, from 1": None if r.component is None else r.component + 1,
        "training accuracy": layer.scores.train_accuracy,
        "test accuracy": layer.scores.test_accuracy,
        "change of first layer / its initial norm": float((layer.final - layer.initial).norm() / layer.initial.norm()),
        "training seconds": layer.scores.seconds,
    }


@lru_cache(maxsize=2)
def _prepared(size: Size, folder: Path, cache: Path | None, progress: bool) -> Laboratory:
    train = cifar10(folder, size.images)
    test = cifar10(folder, size.test_images, "test")
    conv = nn.Conv2d(3, size.widths[0], 3, padding=1)
    batches = (images.double() for images in torch.split(train.images, 500))
    moments = patch_moments(batches, conv, lags=[(LAG, 0), (0, LAG)])
    return Laboratory(size, Trainer(train, test, moments.eigenvectors, cache, progress), moments)


def laboratory(setup: Setup, *, larger: bool = False) -> Laboratory:
    """Returns the laboratory for a scale and a place of the data; the latest two are kept, with all that they trained.

    Args:
        setup: scale, data and cache.
        larger: whether to take four times as many images (and half as many epochs).

    Raises:
        ConvscopeError: when CIFAR-10 is not at hand.
    """
    size = SIZES[setup.scale]
    if larger:
        size = replace(size, images=4 * size.images, epochs=size.epochs // 2)
    return _prepared(size, needed("cifar10", setup.data), setup.cache, setup.progress)
