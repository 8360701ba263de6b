"""What the result tells and shows of one convolution, and of one kept pair."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from convscope.core.results import Number

LIMITED = "rank limited by the number of images"  # a note of a layer begins so


def no_pictures() -> np.ndarray:
    """Returns uint8 [0, 1, 1, 3]: no picture."""
    return np.zeros((0, 1, 1, 3), np.uint8)


@dataclass(frozen=True, eq=False)
class LayerKept:
    """What one convolution lets through.

    Attributes:
        layer: its name.
        shape: (k, c / groups, q, r) of its filters.
        stride: (vertical, horizontal).
        groups: number of groups.
        size: (h, w) of the maps that it returns, in pixels.
        confidence: how far its singular values fall into two levels: "high", "medium", "no plateau", "collapsed", or
            "" where that is not known.
        notes: what a reader of its numbers should know ("limited by 2,000 images").
        numbers: by definition key.
    """

    layer: str
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    groups: int
    size: tuple[int, ...]
    confidence: str
    notes: tuple[str, ...]
    numbers: Mapping[str, Number]


@dataclass(frozen=True, eq=False)
class LayerMaps:
    """Maps over the frequencies of one convolution, frequency 0 in the middle; empty [0, 0] where one is not known.

    Attributes:
        variance: float64 [h', w'], log10 of the variance of its maps at each frequency over an even share.
        untrained: the same without training.
        largest: log10 of its largest singular value over the root mean square of that over frequencies.
        kept: share of its singular values that are kept at each frequency.
    """

    variance: np.ndarray
    untrained: np.ndarray
    largest: np.ndarray
    kept: np.ndarray


@dataclass(frozen=True, eq=False)
class Decoded:
    """What the network's outputs make of m kept pairs: class scores, or pictures where it returns maps.

    Attributes:
        outputs: numbers of the j outputs that change most, from 0.
        answers: float64 [m, j], how much an output changes when a pair is held at its mean: root mean square over
            images, over the output's own standard deviation; NaN where it does not vary.
        pictures: uint8 [2 m, h, w, 3], mid-grey is 0: the change in the image in which a pair is most active when it is
            held at its mean, and when its deviation is doubled.
    """

    outputs: tuple[int, ...] = ()
    answers: np.ndarray = field(default_factory=lambda: np.zeros((0, 0)))
    pictures: np.ndarray = field(default_factory=no_pictures)


@dataclass(frozen=True, eq=False)
class KeptPair:
    """One kept pair of a frequency and a direction among the channels.

    Attributes:
        frequency: (ky, kx) in cycles per image of the layer's maps.
        order: its place among the kept directions at this frequency, from 1.
        pictures: how many there are of it: four phases, a quarter of a turn apart, or two signs where it is real; or 0.
        numbers: by definition key: its gain, its share of the variance, what its loss costs.
    """

    frequency: tuple[int, int]
    order: int
    pictures: int
    numbers: Mapping[str, Number]
