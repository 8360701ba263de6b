"""Small data sets in which only a few patches of an image matter, for demonstrations of feature learning."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

_ORDER = 0x0E  # sets the draw that orders images apart from those that make them
_STAR_RATIO = (3 - math.sqrt(5)) / 2  # inner over outer radius of a pentagram


@dataclass(frozen=True, eq=False)
class Task:
    """Labelled images that were made from a seed.

    Attributes:
        name: what the data is called.
        images: float32 [n, c, h, w].
        labels: int64 [n], classes from 0, as even as the images that there are allow.
        classes: names of the classes.
        offsets: int64 [n, 2], row and column of the upper left corner of what the label belongs to; (-1, -1) where
            an image holds nothing but noise.
    """

    name: str
    images: NDArray[np.float32]
    labels: NDArray[np.int64]
    classes: tuple[str, ...]
    offsets: NDArray[np.int64] = field(repr=False)

    def __len__(self) -> int:
        return len(self.labels)


def noisy_digits(
    images: ArrayLike | Any | None = None,
    labels: ArrayLike | Any | None = None,
    n: int = 1000,
    *,
    sigma: float = 1.0,
    frame: int | None = None,
    seed: int = 0,
) -> Task:
    """Returns images at random places in a larger frame, under Gaussian noise.

    Beaglehole et al. 2023 (arXiv:2309.00570), the noisy MNIST notebook: digits of 28 pixels in a frame of 42, noise of
    standard deviation 0.5 sqrt(sigma). Here every place in the frame is as likely as any other (the notebook leaves out
    the last row and column).

    One image of each class after the other is taken, in an order that depends on the seed: fewer images are the first
    of more. Noise and place belong to a seed and an image. For training and test images that have no digit in common,
    make one task and cut it in two.

    Args:
        images: [m, h, w] or [m, c, h, w], bytes or floating point; default: the 1,797 digits of scikit-learn, 8 x 8.
        labels: whole numbers [m], the class of each image.
        n: how many to take, at most m; the classes as even as that allows.
        sigma: strength of the noise; 0 for none.
        frame: side in pixels of the square to put them in; default: half again as large as the images' longer side.
        seed: of places, noise and order.

    Raises:
        ValueError: when images and labels do not fit, there are too few of them, or the frame is too small.

    Example:
        >>> task = noisy_digits(n=20)
        >>> task.images.shape, task.labels[:10].tolist()
        ((20, 1, 12, 12), [0, 1, 2, 3, 4, 5, 6, 7, 8, 9])
    """
    if (images is None) != (labels is None):
        raise ValueError("give images and labels together, or neither for the digits of scikit-learn")
    x, y = _digits() if images is None else _given(images, labels)
    if not 1 <= n <= len(x):
        raise ValueError(f"n must be from 1 to the {len(x)} images there are, got {n}: hand in more images")
    if not (math.isfinite(sigma) and sigma >= 0):
        raise ValueError(f"sigma must be at least 0 and finite, got {sigma}")
    h, w = x.shape[2:]
    side = math.ceil(1.5 * max(h, w)) if frame is None else frame
    if side < max(h, w):
        raise ValueError(f"frame must be at least as large as the images, {h}x{w} pixels, got {side}")
    kept = _balanced(y, n, seed)
    made = np.empty((n, x.shape[1], side, side), np.float32)
    offsets = np.empty((n, 2), np.int64)
    for i, source in enumerate(kept):
        random = np.random.default_rng([seed, int(source)])
        row, column = offsets[i] = random.integers([side - h + 1, side - w + 1])
        made[i] = 0.5 * math.sqrt(sigma) * random.standard_normal(made.shape[1:])
        made[i, :, row : row + h, column : column + w] += x[source]
    classes = tuple(str(c) for c in range(int(y.max()) + 1))
    return Task("noisy digits", made, y[kept], classes, offsets)


def star(n: int = 50, seed: int = 0, *, size: int = 32, side: int = 11, noise: float = 0.3) -> Task:
    """Returns images of noise, of which every other one holds a small yellow star.

    Beaglehole et al. 2023 (arXiv:2309.00570), the star notebook: 32 x 32 pixels, three channels of N(0, 0.3^2), and in
    one class a star at a random place, 1 in two of the channels; patches of 11 pixels. The star is our own drawing: a
    five-pointed one in a square of as many pixels. Image i depends on the seed and on i alone.

    Args:
        n: number of images.
        seed: of noise and places.
        size: side of the images in pixels.
        side: side of the square that holds the star, in pixels.
        noise: standard deviation of each pixel.

    Raises:
        ValueError: when the star does not fit, or a number is out of range.

    Example:
        >>> star(4).labels.tolist()
        [0, 1, 0, 1]
    """
    _check_count(n, noise, "noise")
    if not 3 <= side <= size:
        raise ValueError(f"side must be from 3 pixels to the images' {size}, got {side}")
    shape = _star_shape(side)
    images = np.empty((n, 3, size, size), np.float32)
    offsets = np.full((n, 2), -1)
    for i in range(n):
        random = np.random.default_rng([seed, i])
        images[i] = noise * random.standard_normal((3, size, size))
        if i % 2:
            row, column = offsets[i] = random.integers(size - side + 1, size=2)
            images[i, :2, row : row + side, column : column + side][:, shape] = 1
    return Task("star", images, np.arange(n) % 2, ("noise", "star"), offsets)


def local_signal(n: int = 500, seed: int = 0, *, rows: int = 16, columns: int = 32, sigma: float = 1.0) -> Task:
    """Returns images of rows of noise with one row that says the class: all its pixels have the same value.

    Karp, Winston, Li & Singh 2021 (local signal adaptivity), as in the code of Beaglehole et al. 2023
    (arXiv:2309.00570): one channel, d = 32 columns, one of 16 rows is +1/sqrt(d) or -1/sqrt(d) throughout, the pixels
    of the others are N(0, sigma/d). Image i depends on the seed and on i alone.

    Args:
        n: number of images.
        seed: of noise and places.
        rows: number of rows.
        columns: d, number of columns.
        sigma: variance of the noise in units of the signal's square.

    Raises:
        ValueError: when a number is out of range.

    Example:
        >>> local_signal(3).labels.tolist()
        [0, 1, 0]
    """
    _check_count(n, sigma, "sigma")
    if rows < 1 or columns < 1:
        raise ValueError(f"rows and columns must be at least 1, got {rows} and {columns}")
    images = np.empty((n, 1, rows, columns), np.float32)
    offsets = np.zeros((n, 2), np.int64)
    for i in range(n):
        random = np.random.default_rng([seed, i])
        images[i] = math.sqrt(sigma / columns) * random.standard_normal((1, rows, columns))
        offsets[i, 0] = row = random.integers(rows)
        images[i, 0, row] = (1 if i % 2 else -1) / math.sqrt(columns)
    return Task("local signal", images, np.arange(n) % 2, ("minus", "plus"), offsets)


def _check_count(n: int, strength: float, name: str) -> None:
    if n < 1 or not (math.isfinite(strength) and strength >= 0):
        raise ValueError(f"need at least one image and {name} of at least 0 and finite, got n={n} and {strength}")


def _digits() -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    from sklearn.datasets import load_digits

    found = load_digits()
    return (found.images[:, None] / 16).astype(np.float32), found.target.astype(np.int64)


def _given(images: ArrayLike | Any, labels: ArrayLike | Any) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    x, y = np.asarray(images), np.asarray(labels)
    if x.ndim not in {3, 4} or 0 in x.shape:
        raise ValueError(f"images must have shape [m, h, w] or [m, c, h, w] with no empty side, got {list(x.shape)}")
    if y.shape != x.shape[:1] or not np.issubdtype(y.dtype, np.integer) or y.min() < 0:
        raise ValueError(
            f"labels must be whole numbers of at least 0, one for each of the {len(x)} images, got {y.dtype} "
            f"{list(y.shape)}"
        )
    scale = 255 if x.dtype == np.uint8 else 1
    pixels = np.asarray((x if x.ndim == 4 else x[:, None]) / scale, dtype=np.float32)
    if not np.isfinite(pixels).all():
        raise ValueError("images hold NaN or infinite pixels: clean them")
    return pixels, y.astype(np.int64)


def _balanced(labels: NDArray[np.int64], n: int, seed: int) -> NDArray[np.int64]:
    """Returns the numbers of n images: one of each class in turn, until the smaller classes have no more.

    Args:
        labels: [m].
        n: at most m.
        seed: of the order within a class.
    """
    order = np.random.default_rng([seed, len(labels), _ORDER]).permutation(len(labels))
    turn = np.empty(len(labels), np.int64)
    for c in np.unique(labels):
        mine = order[labels[order] == c]
        turn[mine] = np.arange(len(mine))
    return np.lexsort((labels, turn))[:n]


def _star_shape(side: int) -> NDArray[np.bool_]:
    """Returns which pixels of a square are inside an upright five-pointed star, bool [side, side]."""
    y, x = np.mgrid[:side, :side] - (side - 1) / 2
    radius, angle = np.hypot(x, y) / (side / 2), np.arctan2(x, -y)
    # Folded to the tenth between a tip (angle 0, radius 1) and the notch beside it, whose join is the border.
    part = 2 * math.pi / 5
    folded = np.abs((angle + part / 2) % part - part / 2)
    notch = np.array([math.sin(part / 2), math.cos(part / 2)]) * _STAR_RATIO
    across, along = radius * np.sin(folded), radius * np.cos(folded)
    return across * (1 - notch[1]) <= (1 - along) * notch[0]
