"""When modes are half learned, or to any other share, from records of their strengths."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def half_times(steps: Tensor, strengths: Tensor, targets: Tensor) -> Tensor:
    """Returns when each mode first has half its target, float64 [m], by straight lines between records.

    Args:
        steps: [T], rising.
        strengths: [T, m]; NaN where nothing is known.
        targets: [m]; a mode whose target is not positive has no half-time.

    Returns:
        In the unit of steps; inf where it was not reached.

    Example:
        >>> half_times(torch.tensor([0, 10]), torch.tensor([[0.0, 0.0], [1.0, 0.1]]), torch.ones(2)).tolist()
        [5.0, inf]
    """
    return crossings(steps, strengths, targets / 2)


def crossings(steps: Tensor, strengths: Tensor, levels: Tensor) -> Tensor:
    """Returns when each mode first has a level, float64 [m], by straight lines between records.

    Args:
        steps: as for ``half_times``.
        strengths: likewise.
        levels: [m]; one that is not positive is never crossed.

    Returns:
        In the unit of steps; inf where it was not reached.

    Example:
        >>> crossings(torch.tensor([0, 10]), torch.tensor([[0.0], [1.0]]), torch.tensor([0.25])).tolist()
        [2.5]
    """
    found = torch.full((len(levels),), math.inf, dtype=torch.float64)
    for mode, level in enumerate(levels.tolist()):
        known = strengths[:, mode].isfinite()
        a, t = strengths[known, mode].double(), steps[known].double()
        above = torch.nonzero(a >= level)[:, 0]
        if level <= 0 or not len(above):
            continue
        i = int(above[0])
        found[mode] = t[0] if i == 0 else t[i - 1] + (level - a[i - 1]) / (a[i] - a[i - 1]) * (t[i] - t[i - 1])
    return found
