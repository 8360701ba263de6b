"""Error bars of modes: those of the images without one fold are matched to those of all."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from convscope.core.accumulate import jackknife
from convscope.dynamics.structure import DatasetStructure

Fold = tuple[int, DatasetStructure]  # number of images left out, and the structure of the others


def matched(whole: DatasetStructure, part: DatasetStructure) -> Tensor:
    """Returns which mode of a part is each mode of the whole, int64 [m]; -1 where there is none.

    Modes are paired so that the sum of |<u, u'>| |<phi, phi'>| is largest.

    Args:
        whole: structure of all images.
        part: of some of them, with the same classes.

    Example:
        >>> from convscope.dynamics.collect import dataset_structure
        >>> images, labels = torch.rand(60, 1, 5, 5, generator=torch.Generator().manual_seed(0)), torch.arange(60) % 4
        >>> structure = dataset_structure([(images, labels)])
        >>> matched(structure, structure).tolist()
        [0, 1, 2]
    """
    modes = (whole.modes.flatten(1) @ part.modes.flatten(1).T).abs()
    overlap = (whole.class_vectors @ part.class_vectors.T).abs() * modes
    found = torch.full((len(whole.singular_values),), -1)
    rows, columns = linear_sum_assignment(overlap.numpy(), maximize=True)
    found[torch.from_numpy(rows)] = torch.from_numpy(columns)
    return found


def keep_classes(whole: DatasetStructure, folds: Sequence[Fold]) -> bool:
    """Returns whether no fold takes a whole class away when it is left out."""
    return all(torch.equal(part.counts > 0, whole.counts > 0) for _, part in folds)


def spreads(whole: DatasetStructure, folds: Sequence[Fold], f: Callable[[DatasetStructure], Tensor]) -> list[float]:
    """Returns the jackknife standard error of a number of each mode; NaN where it is not defined.

    Args:
        whole: structure of all images.
        folds: as its type says, all with the classes of the whole.
        f: the number, float64 [m], of the modes of a structure.
    """
    every = f(whole)
    without = torch.full((len(folds), len(every)), torch.nan, dtype=torch.float64)
    for row, (_, part) in zip(without, folds, strict=True):
        place = matched(whole, part)
        row[place >= 0] = f(part)[place[place >= 0]]
    sizes = [float(n) for n, _ in folds]
    found = (jackknife(float(value), column.tolist(), sizes) for value, column in zip(every, without.T, strict=True))
    return [math.nan if x is None else x for x in found]
