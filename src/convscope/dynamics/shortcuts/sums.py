"""Sums over images from which the audit of frequencies and pixels follows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from convscope.core.batches import Batch
from convscope.core.errors import ConvscopeError
from convscope.core.periodic import periodic_spectrum
from convscope.dynamics.collect import ClassedSums, labelled

ROUNDING = 1e-12  # of an image's size: what varies less is an image of one colour
LEAST = 1e-10  # of an image's mean energy per frequency: smaller energies are rounding, and count as that much
MOST_CLASSES = 100_000


@dataclass(frozen=True, eq=False)
class Moments:
    """What the audit needs of labelled images, added up; x is an image less the reference.

    Attributes:
        reference: float64 [c, h, w], taken off every image, so that sums lose no digits.
        counts: int64 [o], images of each class.
        images: float64 [o, c, h, w], sum of x over each class.
        energies: float64 [h, w // 2 + 1], sum over images and channels of |F p|^2, half plane of frequencies, with p
            the periodic component of the image itself.
        logged: int64 [o], images of each class that have any energy besides their mean, which the next two are over.
        logs: float64 [o, h, w // 2 + 1], sum of log |F p|^2, the energies of all channels together.
        log_squares: float64 [h, w // 2 + 1], sum of its square over all images.
        roughness: float64 [h, w], sum of squares of the high-passed x over images and channels.
    """

    reference: Tensor
    counts: Tensor
    images: Tensor
    energies: Tensor
    logged: Tensor
    logs: Tensor
    log_squares: Tensor
    roughness: Tensor


class AuditSums(ClassedSums[Moments]):
    """Class means and variances of images, of their coefficients' energies, and of high-passed pixels.

    The periodic component and the high-pass are linear, so class means of both follow from the mean images of classes,
    and only what is squared is added up apart. Images without a label are left out.

    Args:
        reference: float64 [c, h, w], taken off every image, so that sums lose no digits.
    """

    per_class = frozenset({"counts", "images", "logged", "logs"})

    def __init__(self, reference: Tensor) -> None:
        super().__init__()
        self.reference = reference

    def update(self, x: Tensor, batch: Batch) -> None:
        """Adds the images of a batch.

        Raises:
            ConvscopeError: when images differ in size from those before, or a label is no plausible class number.
        """
        self.update_folds([self], x, batch, torch.zeros_like(batch.index))

    def update_folds(self, parts: Sequence[Self], x: Tensor, batch: Batch, fold: Tensor) -> None:
        """Adds image i to ``parts[fold[i]]``; the transforms are those of the whole batch.

        Raises:
            ConvscopeError: as of ``update``.
        """
        x, labels = labelled(x, batch, self.reference)
        if not len(x):
            return
        if int(labels.max()) >= MOST_CLASSES:
            raise ConvscopeError(
                f"a label is {int(labels.max())}: labels are class numbers from 0, below {MOST_CLASSES:,}"
            )
        if batch.labels is not None:
            fold = fold[batch.labels >= 0].cpu()
        energies = _energies(periodic_spectrum(x + self.reference))
        total = energies.sum((1, 2)) - energies[:, 0, 0]
        # An image of one colour has no energy besides its mean; what rounding leaves of it is not counted.
        varies = total > ROUNDING**2 * energies[:, 0, 0]
        least = LEAST * total / energies[0].numel()
        logs = torch.where(varies[:, None, None], torch.maximum(energies, least[:, None, None]), 1).log_()
        terms = {
            "energies": energies,
            "log_squares": logs.square(),
            "roughness": high_passed(x).square().sum(1),
        }
        classes = {"counts": torch.ones_like(labels), "images": x, "logged": varies.long(), "logs": logs}
        for k, part in enumerate(parts):
            rows = slice(None) if len(parts) == 1 else torch.nonzero(fold == k)[:, 0]
            own_labels = labels[rows]
            if not len(own_labels):
                continue
            size = int(own_labels.max()) + 1
            for name, term in classes.items():
                shape = (size, *term.shape[1:])
                part.add(name, term.new_zeros(shape).index_add_(0, own_labels, term[rows]), copy=False)
            for name, term in terms.items():
                part.add(name, term[rows].sum(0), copy=False)

    def compute(self) -> Moments:
        """Returns the sums.

        Raises:
            ConvscopeError: when no image has a label.
        """
        if not self.sums:
            raise ConvscopeError("no image has a label: shortcuts are what ties labels to something else than objects")
        return Moments(self.reference, **self.sums)


def high_passed(images: Tensor) -> Tensor:
    """Returns images [..., c, h, w] less the mean of each pixel's four neighbours; those outside repeat the border.

    Example:
        >>> high_passed(torch.tensor([[[0.0, 0, 0], [0, 4, 0], [0, 0, 0]]])).tolist()
        [[[0.0, -1.0, 0.0], [-1.0, 4.0, -1.0], [0.0, -1.0, 0.0]]]
    """
    out = images.clone()
    for dim in (-2, -1):
        size = images.shape[dim]
        for to, of in ((1, 0), (0, 1)):
            out.narrow(dim, to, size - 1).sub_(images.narrow(dim, of, size - 1), alpha=0.25)
        for border in (0, size - 1):
            out.narrow(dim, border, 1).sub_(images.narrow(dim, border, 1), alpha=0.25)
    return out


def _energies(spectra: Tensor) -> Tensor:
    return (spectra.real.square() + spectra.imag.square()).sum(1)
