"""Sums of outer products of the gradients at a convolution's output."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from convscope.core.accumulate import Sums
from convscope.core.batches import Batch
from convscope.core.errors import ConvscopeError

MAX_IMAGES = 64  # in one product: longer float32 sums would lose small eigenvalues


@dataclass(frozen=True, eq=False)
class GradientMoment:
    """What the gradients at a convolution's output add up to.

    Attributes:
        images: n, number of images; one that several cotangent vectors or calls of the layer concern counts once.
        total: float64 [g, k / g, k / g], sum over images, vectors, calls and positions of delta delta^T, with delta the
            gradient at one position of the output: not divided by anything.
    """

    images: int
    total: Tensor


class GradientGram(Sums[GradientMoment]):
    """Sum over images, deliveries and positions of delta delta^T, within each group of output channels.

    delta is the gradient at one position of the convolution's output. With W the weight, W^T (sum) W is the sum of
    outer products of gradients with respect to patches, since the output depends on a patch through W alone.

    All deliveries for one batch (several cotangent vectors, several calls of a layer) hand in the same batch object,
    one after the other: by that its images are counted once.

    Args:
        groups: of the convolution.
    """

    def __init__(self, groups: int) -> None:
        super().__init__()
        self.groups = groups
        self._counted: weakref.ref[Batch] | None = None  # weak, so that no images are kept alive

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
        x = x if x.dtype in {torch.float32, torch.float64} else x.float()
        delta = x.flatten(2).unflatten(1, (self.groups, -1))  # [n, g, k / g, positions]
        if self.groups > 1:
            delta = delta.contiguous()  # products of many small matrices are slow when the channels are last
        members = {k: (fold == k).nonzero().flatten() for k in sorted(set(fold.tolist()))}
        terms = [(k, _gram(delta, few.tolist())) for k, rows in members.items() for few in rows.split(MAX_IMAGES)]
        # A sum of squares is finite only where all its terms are, and it bounds what lies off the diagonal.
        if not torch.stack([term.diagonal(dim1=1, dim2=2) for _, term in terms]).isfinite().all():
            raise ConvscopeError(
                "its gradients hold NaN or infinite values: check the network on these images, or their scale"
            )
        for k, term in terms:
            parts[k].add("second", term.cpu().double(), copy=False)
        if self._counted is None or self._counted() is not batch:
            self._counted = weakref.ref(batch)
            for k, rows in members.items():
                parts[k].add("images", torch.tensor(len(rows)), copy=False)

    def compute(self) -> GradientMoment:
        """Returns the number of images and the sum.

        Raises:
            ConvscopeError: when nothing was delivered.
        """
        if "second" not in self.sums:
            raise ConvscopeError("no gradient arrived: the outputs do not depend on this layer")
        return GradientMoment(int(self.sums["images"]), self.sums["second"])


def _gram(delta: Tensor, rows: Sequence[int]) -> Tensor:
    """Returns sum over the images ``rows`` of delta delta^T, [g, k / g, k / g], for delta [n, g, k / g, positions].

    Image by image: a product of several at once would need a copy with the channels in front.
    """
    if delta.shape[2] == 1:  # depthwise: no product of matrices
        return sum((delta[i].square().sum(-1, keepdim=True) for i in rows), delta.new_zeros(delta.shape[1], 1, 1))
    total = delta.new_zeros(delta.shape[1], delta.shape[2], delta.shape[2])
    for i in rows:
        total.baddbmm_(delta[i], delta[i].mT)
    return total
