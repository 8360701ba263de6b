"""Sums of outer products of the gradients at a convolution's output."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from convscope.core.accumulate import Sums
from convscope.core.batches import Batch
from convscope.core.errors import ConvscopeError

MAX_IMAGES = 64  # in one product: longer float32 sums would lose small eigenvalues


class GradientGram(Sums[Tensor]):
    """Sum over images, deliveries and positions of delta delta^T, within each group of output channels.

    delta is the gradient at one position of the convolution's output. With W the weight, W^T (sum) W is the sum of
    outer products of gradients with respect to patches, since the output depends on a patch through W alone.

    Args:
        groups: of the convolution.
    """

    def __init__(self, groups: int) -> None:
        super().__init__()
        self.groups = groups

    def update(self, x: Tensor, batch: Batch) -> None:
        """Adds gradients [n, k, h, w].

        Raises:
            ConvscopeError: when some are not finite; nothing is added then.
        """
        self.update_folds([self], x, batch, torch.zeros(len(x), dtype=torch.int64))

    def update_folds(self, parts: Sequence[GradientGram], x: Tensor, batch: Batch, fold: Tensor) -> None:
        """Adds the gradients of image i to ``parts[fold[i]]``.

        Args:
            parts: accumulators made like this one.
            x: as for ``update``.
            batch: as for ``update``.
            fold: int64 [n].

        Raises:
            ConvscopeError: as ``update``.
        """
        del batch
        x = x if x.dtype in {torch.float32, torch.float64} else x.float()
        terms = []
        for k in sorted(set(fold.tolist())):
            for where in (fold == k).nonzero().flatten().to(x.device).split(MAX_IMAGES):
                delta = x.index_select(0, where).flatten(2).unflatten(1, (self.groups, -1))
                delta = delta.permute(1, 2, 0, 3).flatten(2)  # [g, k / g, images * positions]
                terms.append((k, (delta @ delta.mT).cpu().double()))
        if not all(term.isfinite().all() for _, term in terms):
            raise ConvscopeError(
                "its gradients hold NaN or infinite values: check the network on these images, or their scale"
            )
        for k, term in terms:
            parts[k].add("second", term, copy=False)

    def compute(self) -> Tensor:
        """Returns the sum, float64 [g, k / g, k / g].

        Raises:
            ConvscopeError: when nothing was delivered.
        """
        if "second" not in self.sums:
            raise ConvscopeError("no gradient arrived: the outputs do not depend on this layer")
        return self.sums["second"]


class ImageCount(Sums[int]):
    """Number of images."""

    def update(self, x: Tensor, batch: Batch) -> None:
        """Counts the images of a batch."""
        del x
        self.add("images", torch.tensor(len(batch)))

    def compute(self) -> int:
        """Returns the number of images seen."""
        return int(self.sums.get("images", 0))
