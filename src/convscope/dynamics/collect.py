"""Sums over images from which the structure of a data set follows."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, ClassVar, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from convscope.core.accumulate import R, Sums
from convscope.core.batches import Batch
from convscope.core.errors import ConvscopeError
from convscope.core.fourier import unitary
from convscope.core.passes import Pass
from convscope.core.slots import Slot
from convscope.core.streams import Images
from convscope.dynamics.structure import DatasetStructure, decompose, mirrored, powers
from convscope.inputs.iterables import IterableSource

SIDE = 64  # pixels, to which larger images are brought
PER_CLASS = 2**21  # numbers in the sums of all classes' images: 16 MiB
LARGEST = 4096  # pixels times channels whose covariances are held: 128 MiB
_BATCH = 512  # images at once
_BLOCK = 256  # pixels whose products are computed at once


class ClassedSums(Sums[R]):
    """Sums some of which have a row for each class, whose number is not known beforehand.

    Attributes:
        per_class: their names.
    """

    per_class: ClassVar[frozenset[str]]

    def add(self, name: str, term: Tensor, *, copy: bool = True) -> None:
        """Adds a term; one for more classes than before makes room for them."""
        if name in self.per_class and name in self.sums:
            size = max(len(term), len(self.sums[name]))
            term = _longer(term, size)
            self.sums[name] = _longer(self.sums[name], size)
        super().add(name, term, copy=copy)


class ClassSums(ClassedSums["ClassSums"]):
    """Images of each class added up, and second moments of all.

    Images without a label are left out.

    Args:
        reference: float64 [c, h, w], taken off every image, so that sums lose no digits.
        covariance: whether products of all pixels with each other are summed; else those of the channels' Fourier
            coefficients at each frequency are, which the former hold: few numbers, small enough for folds.
    """

    per_class = frozenset({"counts", "images"})

    def __init__(self, reference: Tensor, covariance: bool = False) -> None:
        super().__init__()
        self.reference = reference
        self.covariance = covariance

    def update(self, x: Tensor, batch: Batch) -> None:
        """Adds the images of a batch.

        Raises:
            ConvscopeError: when images differ in size from those before.
        """
        x, labels = labelled(x, batch, self.reference)
        if not len(x):
            return
        classes = F.one_hot(labels).to(torch.float64)
        self.add("counts", classes.sum(0).long())
        self.add("images", (classes.T @ x.flatten(1)).unflatten(1, x.shape[1:]))
        if self.covariance:
            self._add_products(x.flatten(1))
            return
        spectra = torch.fft.rfft2(x, norm="ortho").flatten(2).permute(2, 1, 0)  # [f, c, n]
        self.add("power", spectra @ spectra.mH if x.shape[1] > 1 else _energies(spectra))

    def _add_products(self, flat: Tensor) -> None:
        size = flat.shape[1]
        if "products" not in self.sums:
            self.sums["products"] = flat.new_zeros(size, size)
        for start in range(0, size, _BLOCK):  # what lies above the diagonal's blocks is known from below
            end = min(start + _BLOCK, size)
            self.sums["products"][start:end, :end].addmm_(flat[:, start:end].T, flat[:, :end])

    def compute(self) -> Self:
        """Returns the sums themselves, which ``structure_of`` takes."""
        return self


def labelled(x: Tensor, batch: Batch, reference: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the labelled images in float64 with the reference taken off, and their labels.

    Raises:
        ConvscopeError: when images differ in size from the reference.
    """
    if x.shape[1:] != reference.shape:
        raise ConvscopeError(
            f"images differ in size: {_size(x[0])} after {_size(reference)} (channels x height x width): resize them "
            "to one size"
        )
    if batch.labels is None:
        return x[:0], batch.index[:0]
    known = batch.labels >= 0
    return x[known.to(x.device)].to("cpu", torch.float64) - reference, batch.labels[known].cpu().long()


def dataset_structure(
    batches: Iterable[Any], *, center: bool = True, covariance: bool | None = None, progress: bool = False
) -> DatasetStructure:
    """Returns the statistical structure of a labelled data set, from one pass over it.

    Args:
        batches: (images, labels) pairs, a ``DataLoader``, ...; images [n, c, h, w] of one size, used as they are.
        center: whether the mean image and the mean label are taken off, as a network with biases learns them; else the
            first mode is mostly the mean image.
        covariance: whether pixels' covariances with each other are wanted, which the exact method and the stages need;
            None: where images have at most ``LARGEST`` pixels times channels.
        progress: whether to show a progress bar.

    Returns:
        Sigma_yx, its singular value decomposition, and second moments of the images.

    Raises:
        ConvscopeError: when images have several sizes, no labels, or one class; or are all the same.

    Example:
        >>> images, labels = torch.rand(100, 1, 6, 6, generator=torch.Generator().manual_seed(0)), torch.arange(100) % 4
        >>> structure = dataset_structure([(images, labels)])
        >>> structure.modes.shape, structure.class_vectors.shape
        (torch.Size([3, 1, 6, 6]), torch.Size([3, 4]))
    """
    p = Pass(IterableSource(batches), batch_size=_BATCH, progress=progress)
    sums = feed_structure(p, Images(), covariance, folded=False)
    p.run()
    return structure_of(sums[-1].value(), center=center)


def size_within(p: Pass, side: int = SIDE) -> tuple[int, int] | None:
    """Returns the height and width to which images are brought so that sums of each class stay small; None: their own.

    Args:
        p: the pass.
        side: pixels that the longer side may have; fewer where there are very many classes.
    """
    c, h, w = p.pilot.images.shape[1:]
    labels = 0 if p.pilot.labels is None else int(p.pilot.labels.max()) + 1
    classes = max(len(p.source.classes or ()), labels, 1)
    scale = min(side / max(h, w), math.sqrt(PER_CLASS / (classes * c * h * w)))
    return None if scale >= 1 else (max(round(h * scale), 1), max(round(w * scale), 1))


def feed_structure(
    p: Pass, stream: Images, covariance: bool | None = None, folded: bool = True
) -> tuple[Slot[ClassSums], ...]:
    """Returns the slots of what the structure needs: sums by folds where wanted, then those with covariances.

    Args:
        p: the pass.
        stream: size and colours of the images.
        covariance: as for ``dataset_structure``.
        folded: whether sums are kept apart by folds, for error bars; those with covariances are too large for it.

    Returns:
        One slot or two; the last one has all that is to be known of the whole.
    """
    reference = stream(p.pilot.images).to("cpu", torch.float64).mean(0)
    wanted = reference.numel() <= LARGEST if covariance is None else covariance
    slots: list[Slot[ClassSums]] = []
    if folded or not wanted:
        slots.append(p.feed(stream, lambda: ClassSums(reference), folded=folded, label="class means and power spectra"))
    if wanted:
        slots.append(p.feed(stream, lambda: ClassSums(reference, True), folded=False, label="covariances of pixels"))
    return tuple(slots)


def structure_of(sums: ClassSums, *, center: bool = True) -> DatasetStructure:
    """Returns the structure from sums over images.

    Args:
        sums: over the labelled images.
        center: as for ``dataset_structure``.

    Raises:
        ConvscopeError: when no image has a label, only one class has images, or nothing varies.
    """
    if not sums.sums:
        raise ConvscopeError("no image has a label: the structure of a data set ties labels to pixels")
    counts, reference = sums.sums["counts"], sums.reference
    n = float(counts.sum())
    if center and int((counts > 0).sum()) < 2:
        raise ConvscopeError(
            f"all {int(n)} labelled images are of one class: at least two are needed to tell what sets them apart"
        )
    means, share = sums.sums["images"] / n, counts.double() / n  # of images with the reference off
    off = means.sum(0)
    mean = reference + off
    cross = means - share[:, None, None, None] * off
    # E[(x - a)(x - b)^T] with m the mean less the reference: centred ones are S - m m^T, raw ones S + r m^T + m r^T +
    # r r^T, which is S - m m^T + (m + r)(m + r)^T.
    parts = ((off, -1.0),) if center else ((off, -1.0), (mean, 1.0))
    if not center:
        cross = cross + share[:, None, None, None] * mean
    covariance = None
    if "products" in sums.sums:
        covariance = sums.sums["products"].tril() / n
        covariance += covariance.tril(-1).T
        for image, sign in parts:
            covariance.addr_(image.flatten(), image.flatten(), alpha=sign)
        power = powers(covariance, reference.shape)
    else:
        power = mirrored(sums.sums["power"].unflatten(0, (reference.shape[1], -1)) / n, reference.shape[2])
        for image, sign in parts:
            spectrum = unitary(image).permute(1, 2, 0)
            power = power + sign * spectrum[..., :, None] * spectrum[..., None, :].conj()
    return decompose(cross, power, covariance, mean, counts, center)


def _energies(spectra: Tensor) -> Tensor:
    return torch.view_as_real(spectra).square().sum((-2, -1))[..., None].to(spectra.dtype)


def _longer(x: Tensor, size: int) -> Tensor:
    return x if len(x) == size else torch.cat([x, x.new_zeros(size - len(x), *x.shape[1:])])


def _size(image: Tensor) -> str:
    return "x".join(map(str, image.shape))
