"""Dominant-frequency bias of a trained network: how right it stays when it sees few frequencies of the images."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from convscope.core.network import Network
from convscope.core.results import Number
from convscope.dynamics.classified import PERMUTED, band, batches, check_shape, classifying, permuted, share
from convscope.dynamics.filters import RANDOM, RANKINGS, Ranking, bands, first, random_ranking, rankings
from convscope.dynamics.structure import DatasetStructure

if TYPE_CHECKING:
    import pandas as pd

# 3x3, 5x5, 9x9 and about 14x14 of the 32x32 frequencies of CIFAR-10's images.
SHARES = tuple(count / 1024 for count in (9, 25, 81, 200))


@dataclass(frozen=True, eq=False)
class FrequencyBias:
    """Accuracy of a network on images that keep, or lack, the frequencies that come first in a ranking.

    A frequency and its conjugate count as two. What is removed is that part of an image's difference from the mean
    image; the mean image itself always stays.

    Attributes:
        counts: how many frequencies are kept, or removed.
        frequencies: N, how many there are.
        images: how many images were classified.
        clean: accuracy on the images as they are; chance: permuted labels.
        kept: by ranking, accuracy for each count when only the first frequencies are kept; standard error over images;
            chance: as many random frequencies.
        removed: likewise, when these are removed.
        margin: likewise, kept less removed accuracy of the same images: positive where the network rests on the
            ranking's first frequencies more than on all others together.
        random_kept: as ``kept``, mean and standard deviation over random rankings.
        random_removed: as ``removed``, likewise.
    """

    counts: tuple[int, ...]
    frequencies: int
    images: int
    clean: Number
    kept: Mapping[Ranking, tuple[Number, ...]]
    removed: Mapping[Ranking, tuple[Number, ...]]
    margin: Mapping[Ranking, tuple[Number, ...]]
    random_kept: tuple[Number, ...]
    random_removed: tuple[Number, ...]

    def to_frame(self) -> pd.DataFrame:
        """Returns one row per ranking ("random" too) and count, with accuracies and their errors."""
        import pandas as pd

        curves = [(name, self.kept[name], self.removed[name]) for name in RANKINGS]
        rows = [
            {
                "ranking": name,
                "frequencies": count,
                "kept": keep.value,
                "kept error": keep.spread,
                "removed": remove.value,
                "removed error": remove.spread,
            }
            for name, kept, removed in [*curves, ("random", self.random_kept, self.random_removed)]
            for count, keep, remove in zip(self.counts, kept, removed, strict=True)
        ]
        return pd.DataFrame(rows)


def dominant_frequency_bias(
    network: Network,
    images: Tensor,
    labels: Tensor,
    structure: DatasetStructure,
    *,
    counts: Sequence[int] | None = None,
    draws: int = 5,
    seed: int = 0,
    batch_size: int = 250,
    progress: bool = False,
) -> FrequencyBias:
    """Returns how right a trained network stays when images keep, or lack, the data set's dominant frequencies.

    Rankings of frequencies come from the data set alone: see ``dynamics.filters.rankings``. The theory (Pinson et al.
    2023) says that a CNN rests on those of large ||sigma_j||. Filters act on the images as read, before the network's
    own normalisation; filtered values may leave the images' range. Every image is classified 1 + 2 r (3 + ``draws``)
    times for r counts.

    Args:
        network: trained; afterwards as it was found.
        images: [n, c, h, w], floating-point, as read; not those it was trained on.
        labels: int64 [n], their classes.
        structure: of the training images, as read.
        counts: how many frequencies to keep or remove, of the h w, conjugates counted; None: the shares that 9, 25, 81
            and 200 are of 32 x 32.
        draws: random rankings, that say what chance gives.
        seed: of random rankings and of permuted labels.
        batch_size: images at a time; float64 copies of a few batches are held.
        progress: whether to show a progress bar.

    Raises:
        ConvscopeError: when images lack labels or differ in shape from the structure's, or the network does not tell
            as many classes apart, fails on the images, or returns NaN.
        ValueError: for counts outside 1 to h w, no draws, or images and labels that do not fit each other.

    Example:
        >>> from torch import nn
        >>> from convscope.dynamics.collect import dataset_structure
        >>> labels = torch.arange(40) % 2
        >>> images = torch.rand(40, 1, 6, 6, generator=torch.Generator().manual_seed(0)) + labels.view(-1, 1, 1, 1)
        >>> bright = nn.Sequential(nn.Flatten(), nn.Linear(36, 2))
        >>> _ = nn.init.constant_(bright[1].weight[0], -1), nn.init.constant_(bright[1].weight[1], 1)
        >>> _ = nn.init.constant_(bright[1].bias[0], 36), nn.init.constant_(bright[1].bias[1], -36)
        >>> network, structure = Network("brightness", bright), dataset_structure([(images, labels)])
        >>> bias = dominant_frequency_bias(network, images, labels, structure, counts=[1])
        >>> bias.clean.value, bias.kept["strength"][0].value, bias.removed["strength"][0].value
        (1.0, 1.0, 0.5)
    """
    check_shape(images, structure.mean)
    h, w = images.shape[2:]
    sizes = tuple(max(round(part * h * w), 1) for part in SHARES) if counts is None else tuple(counts)
    if not sizes or draws < 1 or batch_size < 1 or not all(1 <= size <= h * w for size in sizes):
        raise ValueError(
            f"counts must lie between 1 and {h * w}, draws and batch_size be at least 1; "
            f"got counts={sizes}, draws={draws}, batch_size={batch_size}"
        )
    orders = [*rankings(structure).values(), *(random_ranking(h, w, seed, draw) for draw in range(draws))]
    masks = [first(order, size, h, w) for order in orders for size in sizes]
    labels = labels.cpu()
    guesses, kept, removed = [], [], []
    with classifying(network, images, labels) as scores:
        for rows in batches(len(images), batch_size, "frequencies", progress):
            x, y = images[rows], labels[rows]
            guesses.append(scores(x).argmax(1))
            # Right or not, [2, masks, n].
            seen = [[scores(part).argmax(1) == y for part in pair] for pair in bands(x, masks, structure.mean)]
            kept.append(torch.stack([keep for keep, _ in seen]))
            removed.append(torch.stack([remove for _, remove in seen]))
    guess = torch.cat(guesses)
    return _concluded(
        sizes,
        h * w,
        share(guess == labels, "clean_accuracy", permuted(guess, labels, seed), PERMUTED),
        torch.cat(kept, 1).unflatten(0, (len(orders), len(sizes))),
        torch.cat(removed, 1).unflatten(0, (len(orders), len(sizes))),
    )


def _concluded(
    counts: tuple[int, ...], frequencies: int, clean: Number, kept: Tensor, removed: Tensor
) -> FrequencyBias:
    # Right or not, bool [rankings and draws, counts, n].
    known = len(RANKINGS)
    margin = kept.double() - removed.double()

    def curves(right: Tensor, key: str) -> dict[Ranking, tuple[Number, ...]]:
        chance = right[known:].double().mean(2)
        return {
            name: tuple(share(one, key, chance[:, place], RANDOM) for place, one in enumerate(right[row]))
            for row, name in enumerate(RANKINGS)
        }

    return FrequencyBias(
        counts,
        frequencies,
        kept.shape[2],
        clean,
        curves(kept, "kept_accuracy"),
        curves(removed, "removed_accuracy"),
        {
            name: tuple(_margin(one, margin[known:, place].mean(1)) for place, one in enumerate(margin[row]))
            for row, name in enumerate(RANKINGS)
        },
        tuple(_over_draws(one, "kept_accuracy") for one in kept[known:].double().mean(2).T),
        tuple(_over_draws(one, "removed_accuracy") for one in removed[known:].double().mean(2).T),
    )


def _margin(differences: Tensor, chance: Tensor) -> Number:
    # Both accuracies are of the same images: the error is that of their differences.
    spread = float(differences.std()) / math.sqrt(len(differences))
    return Number(float(differences.mean()), spread, band(chance), "kept_less_removed", RANDOM)


def _over_draws(accuracies: Tensor, key: str) -> Number:
    return Number(float(accuracies.mean()), float(accuracies.std()) if len(accuracies) > 1 else None, None, key)
