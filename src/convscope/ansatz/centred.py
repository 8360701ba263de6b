"""Sums of outer products of gradients less their mean over images, for each position."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from convscope.ansatz.gram import GradientGram, GradientMoment
from convscope.core.batches import Batch
from convscope.core.errors import ConvscopeError

# Gradients that vary between images by less than this share of their second moment are constant up to rounding, as
# they are after the last non-linearity: there the centred sum is zero.
CONSTANT = 1e-10


class CentredGram(GradientGram):
    """As ``GradientGram``, for gradients of one output less their mean over images at each position.

    With m = sum over images of delta at a position, the sum of centred outer products is
    sum delta delta^T - sum over positions of m m^T / n.
    """

    def update_folds(self, parts: Sequence[GradientGram], x: Tensor, batch: Batch, fold: Tensor) -> None:
        """Adds the gradients of image i to ``parts[fold[i]]``.

        Args:
            parts: accumulators made like this one.
            x: [n, k, h, w], gradients of one output.
            batch: the images.
            fold: int64 [n].

        Raises:
            ConvscopeError: when gradients are not finite, or the layer is called several times, or images differ in
                size.
        """
        if self._counted is not None and self._counted() is batch:
            raise ConvscopeError(
                "it is called several times for each image, and centring needs one call: leave centring out for it"
            )
        x = x.double()  # what is left after the mean is taken off can be small
        super().update_folds(parts, x, batch, fold)
        flat = x.flatten(1).cpu()
        for k in fold.unique().tolist():
            term = flat[fold == k].sum(0)
            if "first" in parts[k].sums and parts[k].sums["first"].shape != term.shape:
                raise ConvscopeError("its output changes its size between images, so that positions have no mean")
            parts[k].add("first", term, copy=False)

    def compute(self) -> GradientMoment:
        """Returns the number of images and the sum of centred outer products.

        Raises:
            ConvscopeError: when nothing was delivered.
        """
        moment = super().compute()
        g, k = moment.total.shape[:2]
        first = self.sums["first"].view(g, k, -1)
        centred = moment.total - first @ first.mT / moment.images
        if float(_trace(centred)) <= CONSTANT * float(_trace(moment.total)):
            centred = torch.zeros_like(centred)
        return GradientMoment(moment.images, centred)


def _trace(blocks: Tensor) -> Tensor:
    return blocks.diagonal(dim1=1, dim2=2).sum()
