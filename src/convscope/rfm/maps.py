"""First-layer maps: images in a form whose products are the first layer's covariances."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from hashlib import blake2b

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from convscope.rfm.architecture import Architecture, as_double, box_sum

Features = Callable[[Tensor], Tensor]

_FEW = 64  # images at once, so that what is in between takes little memory


@dataclass(frozen=True, eq=False)
class Filters:
    """A metric on first-layer patches, as filters: the metric is ``weight^T weight``.

    Attributes:
        weight: float64 [m, c * q * q], of decreasing norm, orthogonal to each other; None for the identity.
    """

    weight: Tensor | None = None

    @classmethod
    def of(cls, metric_root: Tensor | None, tolerance: float = 0.0) -> Filters:
        """Returns the fewest filters that hold a metric.

        Args:
            metric_root: [m, d], A with metric A^T A (symmetric or not); None for the identity.
            tolerance: share of the metric's trace that may be left out, in [0, 1).

        Raises:
            ValueError: when the root is not finite, zero, or no matrix, or the tolerance is out of range.
        """
        if not 0 <= tolerance < 1:
            raise ValueError(f"the tolerance of the metric's rank must be in [0, 1), got {tolerance}")
        if metric_root is None:
            return cls()
        root = as_double(metric_root)
        if root.ndim != 2 or not root.isfinite().all() or not root.any():
            raise ValueError(f"metric_root must be a matrix [m, d], finite and not zero, got shape {list(root.shape)}")
        _, values, vectors = torch.linalg.svd(root, full_matrices=False)
        share = values.square() / values.square().sum()
        floor = torch.finfo(torch.float64).eps * max(root.shape)  # of the largest value: what is below is rounding
        rank = max(int(((1 - share.cumsum(0)) > tolerance).sum()) + 1 if tolerance else len(values), 1)
        rank = min(rank, int((values > floor * values[0]).sum()))
        return cls(values[:rank, None] * vectors[:rank])

    def check(self, channels: int, patch_size: int) -> None:
        """Checks that the filters fit patches.

        Args:
            channels: c, of the images.
            patch_size: q, in pixels.

        Raises:
            ValueError: when they do not.
        """
        d = channels * patch_size**2
        if self.weight is not None and self.weight.shape[1] != d:
            raise ValueError(
                f"metric_root must have a column for each of the {d} entries of a patch ({channels} channels x "
                f"{patch_size} x {patch_size} pixels), got {self.weight.shape[1]}"
            )


@dataclass(frozen=True, eq=False)
class Maps:
    """Images [n, c, h, w] as the kernel sees them.

    Attributes:
        values: [n, m, h', w']. With ``boxed`` the padded images over sqrt(c), whose products at a pixel are still to be
            summed over patches; else the filters' responses over sqrt(c), whose products are covariances.
        boxed: see ``values``; where the metric is the identity.
        norms: [n, h1, w1], covariance of each patch with itself.
        identity: int64 [n], equal for images that are equal in every pixel.
    """

    values: Tensor
    boxed: bool
    norms: Tensor
    identity: Tensor

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, rows: slice | Tensor) -> Maps:
        return Maps(self.values[rows], self.boxed, self.norms[rows], self.identity[rows])


@dataclass(frozen=True, eq=False)
class Filtered:
    """Images and the metric through which a kernel sees them: their maps are made when they are needed.

    Attributes:
        images: floating point [n, c, h, w].
        filters: the metric.
        architecture: the network.
        identity: int64 [n], equal for images that are equal in every pixel.
        features: gives what the network sees of images [n, c, h, w]: others, [n, c', h', w']; None: the images.
    """

    images: Tensor
    filters: Filters
    architecture: Architecture
    identity: Tensor
    features: Features | None = None

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, rows: slice | Tensor) -> Filtered:
        here = rows.to(self.images.device) if isinstance(rows, Tensor) else rows
        return replace(self, images=self.images[here], identity=self.identity[rows])

    @property
    def bytes_of_image(self) -> int:
        """The bytes that the maps of an image take."""
        c, *size = seen(self.images[:1], self.features).shape[1:]
        geometry = self.architecture.first(c)
        positions = math.prod(geometry.output_size(*size))
        top, bottom, left, right = geometry.padding
        pixels = c * (size[0] + top + bottom) * (size[1] + left + right)
        values = pixels if self.filters.weight is None else len(self.filters.weight) * positions
        return (values + positions) * self.images.element_size()

    def maps(self) -> Maps:
        """Returns the images as the kernel sees them."""
        parts = self.images.split(_FEW)
        first = seen(self.images[:1], self.features)
        c = first.shape[1]
        geometry = self.architecture.first(c)
        boxed = self.filters.weight is None
        weight = None if self.filters.weight is None else self.filters.weight.unflatten(1, (c, *geometry.kernel))

        def filtered(x: Tensor) -> tuple[Tensor, Tensor]:
            x = geometry.pad(x) / c**0.5
            if weight is None:
                return x, box_sum(x.square().sum(1), self.architecture.within_padded)
            x = F.conv2d(x, weight.to(x), None, geometry.stride)
            return x, x.square().sum(1)

        whole = [first.new_empty(len(self), *x.shape[1:]) for x in filtered(first)]
        for few, *places in zip(parts, *(x.split(_FEW) for x in whole), strict=True):
            for place, found in zip(places, filtered(seen(few, self.features)), strict=True):
                place.copy_(found)
        return Maps(whole[0], boxed, whole[1], self.identity)


class Parts:
    """Maps of images, so many at a time as memory allows: of all, they are made once; else each time anew.

    Attributes:
        slices: of the images.
        bytes: that the maps of one slice take.
    """

    def __init__(self, images: Filtered, max_memory: int):
        """Makes the maps of all images where they fit.

        Args:
            images: n of them.
            max_memory: bytes that the maps of a slice may take; those of one image may take more.
        """
        self._images, of_image = images, images.bytes_of_image
        size = min(max(max_memory // of_image, 1), len(images))
        self.slices = [slice(start, min(start + size, len(images))) for start in range(0, len(images), size)]
        self.bytes = size * of_image
        self._kept = images.maps() if len(self.slices) == 1 else None

    def __getitem__(self, part: slice) -> Maps:
        return self._images[part].maps() if self._kept is None else self._kept


def seen(images: Tensor, features: Features | None) -> Tensor:
    """Returns the features of images, or these themselves."""
    return images if features is None else features(images)


def identities(*images: Tensor) -> list[Tensor]:
    """Returns for each set of images [n, c, h, w] an int64 [n]: equal where images are equal in every pixel."""
    known: dict[bytes, int] = {}
    return [
        torch.tensor([known.setdefault(blake2b(x.tobytes(), digest_size=16).digest(), len(known)) for x in _rows(few)])
        for few in images
    ]


def _rows(images: Tensor) -> Iterator[np.ndarray]:
    for few in images.split(_FEW):
        yield from (few + 0).flatten(1).cpu().numpy()  # adding 0 turns -0 into 0, its equal
