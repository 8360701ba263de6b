"""Class against class: the one mode that tells two groups of images apart, and how fast it is learned."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from convscope.core.fourier import unitary
from convscope.dynamics.structure import DatasetStructure


@dataclass(frozen=True, eq=False)
class Contrasts:
    """Structures of data sets of two classes each: their images have one mode, the difference of two means.

    Attributes:
        classes: int64 [q, 2], the two classes of each; -1 stands for all others.
        singular_values: float64 [q], of Sigma_yx over the images of both classes alone, centred.
        modes: float64 [q, c, h, w], mean of the first class less that of the second, of norm 1; zero where they agree.
        effective_singular_values: float64 [q], s sqrt(N) max |F phi|, in whose order linear CNNs learn them.
    """

    classes: Tensor
    singular_values: Tensor
    modes: Tensor
    effective_singular_values: Tensor


def one_versus_rest(structure: DatasetStructure) -> Contrasts:
    """Returns each class against all others; classes without images are left out.

    Args:
        structure: of the data set.

    Example:
        >>> from convscope.dynamics.collect import dataset_structure
        >>> images, labels = torch.rand(60, 1, 5, 5), torch.arange(60) % 3
        >>> one_versus_rest(dataset_structure([(images, labels)])).classes.tolist()
        [[0, -1], [1, -1], [2, -1]]
    """
    means, classes = _means(structure), torch.nonzero(structure.counts)[:, 0]
    share = structure.counts[classes].double() / structure.counts.sum()
    # The mean of the others follows from that of all.
    rest = (structure.mean - share[:, None, None, None] * means[classes]) / (1 - share)[:, None, None, None]
    pairs = torch.stack([classes, torch.full_like(classes, -1)], 1)
    return _contrasts(pairs, means[classes] - rest, share)


def pairwise(structure: DatasetStructure) -> Contrasts:
    """Returns each class against each later one, over the images of both alone.

    Args:
        structure: of the data set.

    Example:
        >>> from convscope.dynamics.collect import dataset_structure
        >>> images, labels = torch.rand(60, 1, 5, 5), torch.arange(60) % 3
        >>> pairwise(dataset_structure([(images, labels)])).classes.tolist()
        [[0, 1], [0, 2], [1, 2]]
    """
    means, pairs = _means(structure), torch.combinations(torch.nonzero(structure.counts)[:, 0])
    counts = structure.counts[pairs].double()
    return _contrasts(pairs, means[pairs[:, 0]] - means[pairs[:, 1]], counts[:, 0] / counts.sum(1))


def _means(structure: DatasetStructure) -> Tensor:
    """Returns the mean image of each class, float64 [o, c, h, w]; NaN for one without images."""
    share = (structure.counts.double() / structure.counts.sum())[:, None, None, None]
    return structure.cross / share + (structure.mean if structure.centred else 0)


def _contrasts(classes: Tensor, differences: Tensor, share: Tensor) -> Contrasts:
    # With a share q of images in the first class, both rows of Sigma_yx are q (1 - q) times the difference.
    norms = differences.flatten(1).norm(dim=1)
    modes = differences / norms.clamp(min=torch.finfo(torch.float64).tiny)[:, None, None, None]
    s = math.sqrt(2) * share * (1 - share) * norms
    largest = unitary(modes).abs().square().sum(1).sqrt().flatten(1).amax(1)
    return Contrasts(classes, s, modes, s * math.sqrt(modes.shape[2] * modes.shape[3]) * largest)
