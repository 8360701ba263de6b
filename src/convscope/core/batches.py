"""Batches of images, and the identity that every image keeps in any batching and process."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

FOLDS = 10  # of images, in each sum
FEWEST_FOLDS = 4  # in sums that take much memory

_MASK = (1 << 63) - 1


def mix(*values: Tensor | int) -> Tensor:
    """Returns a 63-bit hash of integers, elementwise over tensors that broadcast.

    Random numbers in convscope belong to an image and a seed, never to a batch or a process:
    they are made from ``mix(seed, index, draw)``. The mixing function is SplitMix64's finaliser.

    Args:
        values: int64 tensors or ints; their order matters.

    Returns:
        int64 tensor of the broadcast shape, each entry in ``[0, 2**63)``.

    Example:
        >>> mix(0, torch.arange(3)).shape
        torch.Size([3])
    """
    state = torch.zeros((), dtype=torch.int64)
    for value in values:
        v = value if isinstance(value, Tensor) else torch.tensor(value, dtype=torch.int64)
        state = _splitmix64(state.to(v.device) ^ v.to(torch.int64))
    return state & _MASK


def _splitmix64(x: Tensor) -> Tensor:
    # int64 arithmetic wraps around, so it is arithmetic modulo 2**64; right shifts must be made logical.
    x = x + -7046029254386353131  # 0x9E3779B97F4A7C15
    x = (x ^ _shift(x, 30)) * -4658895280553007687  # 0xBF58476D1CE4E5B9
    x = (x ^ _shift(x, 27)) * -7723592293110705685  # 0x94D049BB133111EB
    return x ^ _shift(x, 31)


def _shift(x: Tensor, bits: int) -> Tensor:
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def fold_hash(group: Tensor) -> Tensor:
    """Returns int64 [n]: what decides, modulo the number of folds, to which fold the images of a group belong.

    Args:
        group: int64 [n].
    """
    return mix(1, group)


@dataclass(frozen=True)
class Batch:
    """A few images with what is known of each.

    Attributes:
        images: [n, c, h, w]; from the command line in [0, 1] as read, from Python as the caller's loader gives them.
        labels: int64 [n], the class of each image (-1: an unlabelled one among labelled ones), or None.
        index: int64 [n], the identity of each image: the same in every process and for every batch size.
        fold: int64 [n], the hash of each image's *group* (its source photograph, else itself);
            an image belongs to fold ``fold % number_of_folds``.
    """

    images: Tensor
    labels: Tensor | None
    index: Tensor
    fold: Tensor

    @classmethod
    def of(cls, images: Tensor, labels: Tensor | None, index: Tensor, group: Tensor | None = None) -> "Batch":
        """Returns a batch whose folds are hashed from ``group`` (int64 [n]; default: each image its own group)."""
        return cls(images, labels, index, fold_hash(index if group is None else group))

    @classmethod
    def joined(cls, parts: Sequence["Batch"]) -> "Batch":
        """Returns the images of several batches, of one size and all with labels or all without."""
        labels = [part.labels for part in parts if part.labels is not None]
        return cls(
            torch.cat([part.images for part in parts]),
            torch.cat(labels) if labels else None,
            torch.cat([part.index for part in parts]),
            torch.cat([part.fold for part in parts]),
        )

    def fits(self, other: "Batch") -> bool:
        """Returns whether two batches can be joined."""
        same = self.images.shape[1:] == other.images.shape[1:] and self.images.dtype == other.images.dtype
        return same and (self.labels is None) == (other.labels is None)

    def __len__(self) -> int:
        return int(self.index.shape[0])

    def __getitem__(self, where: Tensor) -> "Batch":
        """Returns the images that an index or boolean tensor selects."""
        labels = None if self.labels is None else self.labels[where]
        return Batch(self.images[where], labels, self.index[where], self.fold[where])
