"""Frequencies that a trained network needs for each class, and how far these alone bring an image into that class."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from convscope.core.errors import ConvscopeError
from convscope.core.fourier import pairs, partners, signed_frequencies
from convscope.core.network import Network
from convscope.core.results import Number
from convscope.dynamics.classified import batches, check_shape, classifying, share
from convscope.dynamics.filters import RANDOM, bands, first, random_ranking

PATCHES = 160  # at most, where the caller does not say how large they are


@dataclass(frozen=True, eq=False)
class DominantFrequencies:
    """How much the loss of each class grows when a patch of frequencies and its mirror are removed.

    Attributes:
        loss_increase: float64 [o, h, w], at each frequency, for images of each class: mean cross-entropy without the
            patch that it lies in, less that of the images as they are, in nats; NaN for a class without images.
        patch: side of a patch, in frequencies.
        patches: how many there are, a patch and its mirror counted once.
    """

    loss_increase: Tensor
    patch: int
    patches: int

    def maps(self, part: float) -> Tensor:
        """Returns the dominant frequency map of each class, bool [o, h, w]: frequencies whose removal hurts most.

        Whole patches are taken as long as they fit, at least one; a class without images has an empty map.

        Args:
            part: share of all frequencies to keep, above 0 and at most 1.

        Raises:
            ValueError: for another share.
        """
        if not 0 < part <= 1:
            raise ValueError(f"part must be above 0 and at most 1, got {part}")
        _, h, w = self.loss_increase.shape
        patch_of = _patches(h, w, self.patch).flatten()
        sizes = torch.bincount(patch_of, minlength=self.patches)
        somewhere = torch.zeros(self.patches, dtype=torch.int64).scatter_(0, patch_of, torch.arange(h * w))
        found = torch.zeros(len(self.loss_increase), h * w, dtype=torch.bool)
        for row, increase in zip(found, self.loss_increase.flatten(1)[:, somewhere], strict=True):
            if increase.isfinite().all():
                order = torch.argsort(increase, descending=True, stable=True)
                fit = max(int((sizes[order].cumsum(0) <= part * h * w).sum()), 1)
                row[torch.isin(patch_of, order[:fit])] = True
        return found.unflatten(1, (h, w))


@dataclass(frozen=True, eq=False)
class ClassRates:
    """How often images reduced to the dominant frequencies of a class are taken for that class.

    A high true positive rate says that these few frequencies are enough to recognise the class; a high false positive
    rate too, that they turn other images into it: a shortcut.
    Images with very few frequencies resemble the mean image: of the class that the network gives the mean image, chance
    is about 1 in both rates.

    Attributes:
        classes: int64 [m], the classes that have a map and images.
        frequencies: int64 [m], how many frequencies each map keeps.
        true_positive: TP / P of each class, share of its own filtered images given to it; standard error over images;
            chance: maps of as many random frequencies.
        false_positive: FP / N likewise, share of all other classes' filtered images given to it.
        clean_true_positive: TP / P of the images as they are.
        clean_false_positive: FP / N of the images as they are.
    """

    classes: Tensor
    frequencies: Tensor
    true_positive: tuple[Number, ...]
    false_positive: tuple[Number, ...]
    clean_true_positive: tuple[Number, ...]
    clean_false_positive: tuple[Number, ...]


def dominant_frequency_maps(
    network: Network,
    images: Tensor,
    labels: Tensor,
    mean: Tensor,
    *,
    patch: int | None = None,
    batch_size: int = 250,
    progress: bool = False,
) -> DominantFrequencies:
    """Returns which frequencies a trained network needs for each class, found by removing them patch by patch.

    After Wang et al. 2023, who remove a patch of frequencies and its mirror and rank patches by the loss of each
    class. What is removed here is the image's difference from the mean image. Every image is classified 1 + patches
    times, about 1 + h w / (2 patch^2): 146 times at 32x32 with patches of 2, 515 with single frequencies. A few
    hundred images are enough to rank the patches that matter.

    Args:
        network: trained; afterwards as it was found.
        images: [n, c, h, w], floating-point, as read.
        labels: int64 [n], their classes.
        mean: [c, h, w], the data set's mean image, as of ``DatasetStructure``.
        patch: side of a patch; 1 removes one conjugate pair at a time; None: the smallest with at most 160 patches.
        batch_size: images at a time.
        progress: whether to show a progress bar.

    Raises:
        ConvscopeError: when images lack labels or differ in shape from the mean image, or the network does not tell as
            many classes apart, fails on the images, or returns NaN.
        ValueError: for a patch or a batch_size below 1, or images and labels that do not fit each other.

    Example:
        >>> from torch import nn
        >>> labels = torch.arange(40) % 2
        >>> images = torch.rand(40, 1, 6, 6, generator=torch.Generator().manual_seed(0)) + labels.view(-1, 1, 1, 1)
        >>> bright = nn.Sequential(nn.Flatten(), nn.Linear(36, 2))
        >>> _ = nn.init.constant_(bright[1].weight[0], -1), nn.init.constant_(bright[1].weight[1], 1)
        >>> _ = nn.init.constant_(bright[1].bias[0], 36), nn.init.constant_(bright[1].bias[1], -36)
        >>> found = dominant_frequency_maps(Network("brightness", bright), images, labels, images.mean(0), patch=1)
        >>> found.maps(0.02)[0].nonzero().tolist()
        [[0, 0]]
    """
    check_shape(images, mean)
    h, w = images.shape[2:]
    side = _side(h, w) if patch is None else patch
    if side < 1 or batch_size < 1:
        raise ValueError(f"patch and batch_size must be at least 1, got {side} and {batch_size}")
    patch_of, labels = _patches(h, w, side), labels.cpu()
    patches = int(patch_of.max()) + 1
    masks = [patch_of == number for number in range(patches)]
    with classifying(network, images, labels) as scores:
        classes = int(labels.max()) + 1
        losses = torch.zeros(classes, 1 + patches, dtype=torch.float64)
        for rows in batches(len(images), batch_size, "patches of frequencies", progress):
            x, y = images[rows], labels[rows]
            losses[:, 0].index_add_(0, y, _loss(scores(x), y))
            for number, (_, removed) in enumerate(bands(x, masks, mean)):
                losses[:, 1 + number].index_add_(0, y, _loss(scores(removed), y))
    # Of a class without images, 0 / 0.
    losses /= torch.bincount(labels, minlength=classes)[:, None]
    return DominantFrequencies((losses[:, 1:] - losses[:, :1])[:, patch_of], side, patches)


def class_rates(
    network: Network,
    images: Tensor,
    labels: Tensor,
    mean: Tensor,
    maps: Tensor,
    *,
    draws: int = 5,
    seed: int = 0,
    batch_size: int = 250,
    progress: bool = False,
) -> ClassRates:
    """Returns true and false positive rates on images that keep only the dominant frequencies of each class.

    TP / P and FP / N of Wang et al. 2023: all images, of every class, are filtered with the map of one class. Every
    image is classified 1 + classes + ``draws`` x (distinct sizes of maps) times.

    Args:
        network: trained; afterwards as it was found.
        images: [n, c, h, w], floating-point, as read; other ones than the maps were found on, or the true positive
            rates are too high.
        labels: int64 [n], their classes.
        mean: [c, h, w], the data set's mean image, which stays in filtered images.
        maps: bool [o, h, w], of ``DominantFrequencies.maps``.
        draws: random maps of each size, that say what chance gives.
        seed: of random maps.
        batch_size: images at a time.
        progress: whether to show a progress bar.

    Raises:
        ConvscopeError: as of ``dominant_frequency_maps``; also when images of fewer than two classes with a map are
            there.
        ValueError: when maps do not fit the images, no draws or batches are asked for, or images and labels do not fit
            each other.

    Example:
        >>> from torch import nn
        >>> labels = torch.arange(40) % 2
        >>> images = torch.rand(40, 1, 6, 6, generator=torch.Generator().manual_seed(0)) + labels.view(-1, 1, 1, 1)
        >>> bright = nn.Sequential(nn.Flatten(), nn.Linear(36, 2))
        >>> _ = nn.init.constant_(bright[1].weight[0], -1), nn.init.constant_(bright[1].weight[1], 1)
        >>> _ = nn.init.constant_(bright[1].bias[0], 36), nn.init.constant_(bright[1].bias[1], -36)
        >>> from convscope.dynamics.filters import mask_of
        >>> constant = mask_of(torch.tensor([0]), 6, 6).expand(2, 6, 6)
        >>> rates = class_rates(Network("brightness", bright), images, labels, images.mean(0), constant)
        >>> rates.true_positive[1].value, rates.false_positive[1].value
        (1.0, 0.0)
    """
    check_shape(images, mean)
    h, w = images.shape[2:]
    if maps.shape[1:] != (h, w) or maps.dtype != torch.bool or draws < 1 or batch_size < 1:
        raise ValueError(
            f"maps must be bool [classes, {h}, {w}], draws and batch_size at least 1; "
            f"got {maps.dtype} {list(maps.shape)}, draws={draws}, batch_size={batch_size}"
        )
    labels = labels.cpu()
    sizes = maps.flatten(1).sum(1)
    classes = torch.tensor([c for c in labels.unique().tolist() if 0 <= c < len(maps) and sizes[c] > 0])
    if len(classes) < 2:
        raise ConvscopeError(
            f"images of {len(classes)} classes with a map of frequencies are there: at least two are needed, to tell "
            "those taken rightly for a class from those taken wrongly"
        )
    distinct = sizes[classes].unique()
    chance = [first(random_ranking(h, w, seed, draw), int(size), h, w) for size in distinct for draw in range(draws)]
    masks = [*maps[classes], *chance]
    guesses = []
    with classifying(network, images, labels) as scores:
        for rows in batches(len(images), batch_size, "dominant frequencies", progress):
            seen = [scores(kept).argmax(1) for kept, _ in bands(images[rows], masks, mean)]
            guesses.append(torch.stack([scores(images[rows]).argmax(1), *seen]))
    clean, *guess = torch.cat(guesses, 1)
    by_size = torch.stack(guess[len(classes) :]).unflatten(0, (len(distinct), draws))

    def rates(own: bool) -> tuple[Number, ...]:
        key = "true_positive_rate" if own else "false_positive_rate"
        found = []
        for place, c in enumerate(classes):
            rows = (labels == c) == own
            drawn = by_size[torch.searchsorted(distinct, sizes[c])][:, rows] == c
            found.append(share(guess[place][rows] == c, key, drawn.double().mean(1), RANDOM))
        return tuple(found)

    def clean_rates(own: bool) -> tuple[Number, ...]:
        key = "clean_true_positive_rate" if own else "clean_false_positive_rate"
        return tuple(share(clean[(labels == c) == own] == c, key) for c in classes)

    return ClassRates(classes, sizes[classes], rates(True), rates(False), clean_rates(True), clean_rates(False))


def _patches(h: int, w: int, side: int) -> Tensor:
    # The patch of each frequency, numbered from 0, int64 [h, w]; a frequency and its conjugate lie in one.
    places, _ = pairs(h, w)
    square = torch.div(signed_frequencies(h, w)[places], side, rounding_mode="floor")
    _, number = torch.unique(square, dim=0, return_inverse=True)
    patch_of = torch.empty(h * w, dtype=torch.int64)
    patch_of[places] = patch_of[partners(h, w)[places]] = number
    return patch_of.view(h, w)


def _side(h: int, w: int) -> int:
    return next(side for side in range(1, h + w) if int(_patches(h, w, side).max()) < PATCHES)


def _loss(scores: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(scores, labels, reduction="none")
