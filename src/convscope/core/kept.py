"""Kept images: a small random sample of the data, for what cannot be a sum."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from convscope.core.batches import Batch, mix
from convscope.core.errors import ConvscopeError


@dataclass(frozen=True)
class KeptImages:
    """A uniform sample of what a stream delivered, in the order of identities.

    Attributes:
        x: [K, ...], what the stream delivered for each image.
        labels: int64 [K], -1 for an unlabelled image among labelled ones; None where none has a label.
        index: int64 [K], the images' identities.
    """

    x: Tensor
    labels: Tensor | None
    index: Tensor

    def labelled(self) -> tuple[Tensor, Tensor]:
        """Returns the images that have a label, and int64 [m] their labels; m may be 0."""
        labels = torch.full_like(self.index, -1) if self.labels is None else self.labels
        return self.x[labels >= 0], labels[labels >= 0]


class Kept:
    """Accumulator that keeps the images whose identity hashes smallest: the same ones in any batching and process.

    Args:
        k: how many to keep.
        max_bytes: keep fewer where k would need more memory than this.
    """

    def __init__(self, k: int = 512, max_bytes: int = 256 * 2**20) -> None:
        self.k = k
        self.max_bytes = max_bytes
        self.x: Tensor | None = None
        self.labels = torch.empty(0, dtype=torch.int64)
        self.index = torch.empty(0, dtype=torch.int64)

    def update(self, x: Tensor, batch: Batch) -> None:
        """Offers the images of a batch.

        Raises:
            ConvscopeError: when they are of another size than those before.
        """
        labels = torch.full_like(batch.index, -1) if batch.labels is None else batch.labels
        self._offer(x.detach().cpu(), labels.cpu(), batch.index.cpu())

    def _offer(self, x: Tensor, labels: Tensor, index: Tensor) -> None:
        if not len(index):
            return
        if self.x is not None and x.shape[1:] != self.x.shape[1:]:
            raise ConvscopeError(
                f"images of different sizes ({_size(x)} and {_size(self.x)}) cannot be kept side by side: "
                "resize them to one"
            )
        room = min(self.k, max(1, self.max_bytes // max(1, x[0].numel() * x.element_size())))
        if self.x is not None:
            if len(self.index) >= room:
                # Most images of a long run do not get in; the kept ones need not be moved for them.
                better = mix(5, index) < mix(5, self.index).max()
                x, labels, index = x[better], labels[better], index[better]
                if not len(index):
                    return
            x = torch.cat([self.x, x])
            labels = torch.cat([self.labels, labels])
            index = torch.cat([self.index, index])
        best = torch.argsort(mix(5, index), stable=True)[:room]
        best = best[torch.argsort(index[best], stable=True)]
        self.x, self.labels, self.index = x[best], labels[best], index[best]

    def merge(self, other: Self) -> None:
        """Offers what another kept."""
        if other.x is not None:
            self._offer(other.x, other.labels, other.index)

    def state_dict(self) -> dict[str, Tensor]:
        """Returns the kept images; empty before the first."""
        return {} if self.x is None else {"x": self.x, "labels": self.labels, "index": self.index}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Replaces the kept images."""
        none = torch.empty(0, dtype=torch.int64)
        self.x = state.get("x")
        self.labels, self.index = state.get("labels", none), state.get("index", none)

    def compute(self) -> KeptImages:
        """Returns the kept images.

        Raises:
            ValueError: before the first image.
        """
        if self.x is None:
            raise ValueError("no image has been seen yet")
        return KeptImages(self.x, None if (self.labels < 0).all() else self.labels, self.index)


def _size(x: Tensor) -> str:
    return "x".join(map(str, x.shape[1:]))
