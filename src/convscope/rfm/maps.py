"""First-layer maps: images in a form whose products are the first layer's covariances."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from convscope.rfm.architecture import Architecture, as_double, box_sum

_FEW = 256  # images at once, so that what is in between takes little memory


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


def maps_of(images: Tensor, filters: Filters, architecture: Architecture, identity: Tensor | None = None) -> Maps:
    """Returns images as the kernel sees them.

    Args:
        images: floating point [n, c, h, w].
        filters: the metric.
        architecture: the network.
        identity: int64 [n], of ``identities``; None: among these images alone.
    """
    c = images.shape[1]
    geometry = architecture.first(c)
    identity = identities(images)[0] if identity is None else identity
    if filters.weight is None:
        values = geometry.pad(images) / c**0.5
        norms = torch.cat([box_sum(x.square().sum(1), architecture.within_padded) for x in values.split(_FEW)])
        return Maps(values, True, norms, identity)
    weight = (filters.weight / c**0.5).to(images).unflatten(1, (c, *geometry.kernel))
    values = images.new_empty(len(images), len(weight), *geometry.output_size(*images.shape[2:]))
    norms = images.new_empty(len(images), *values.shape[2:])
    for few, part, norm in zip(images.split(_FEW), values.split(_FEW), norms.split(_FEW), strict=True):
        part.copy_(F.conv2d(geometry.pad(few), weight, None, geometry.stride))
        norm.copy_(part.square().sum(1))
    return Maps(values, False, norms, identity)


def bytes_of_maps(images: Tensor, filters: Filters, architecture: Architecture) -> int:
    """Returns the bytes that ``maps_of`` takes for images [n, c, h, w]."""
    n, c, *size = images.shape
    geometry = architecture.first(c)
    positions = math.prod(geometry.output_size(*size))
    top, bottom, left, right = geometry.padding
    pixels = c * (size[0] + top + bottom) * (size[1] + left + right)
    values = pixels if filters.weight is None else len(filters.weight) * positions
    return n * (values + positions) * images.element_size()


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
