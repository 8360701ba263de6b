"""The two-level fit of singular values: the nearest multiple of a partial isometry."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

SILENT = 1e-12  # sum of squares below which an operator is zero


@dataclass(frozen=True)
class TwoLevel:
    """The multiple of a partial isometry that is nearest to an operator.

    Attributes:
        rank: k, number of singular values on the upper level; 0 for a zero operator.
        level: their mean; NaN for a zero operator.
        align: (sum of the upper ones)^2 / (k sum of all squares), in (0, 1]: the squared cosine between operator and
            partial isometry; NaN for a zero operator.
    """

    rank: int
    level: float
    align: float


def two_level(values: Tensor, counts: Tensor) -> TwoLevel:
    """Returns the k that maximises q(k) = (s_1 + ... + s_k)^2 / k over the largest singular values, and its level.

    With k and level free, the distance of an operator to level times a partial isometry is sum s^2 - q(k). Along a run
    of equal values q is a square over a linear function, so convex: its maximum lies at an end of the run, and the two
    values of a conjugate pair are kept or dropped together. At the maximum the kept values are those above half the
    level.

    Args:
        values: float64 [n], not negative, in any order.
        counts: int64 [n], how many singular values each stands for.

    Example:
        >>> import torch
        >>> fit = two_level(torch.tensor([3.0, 0.1, 2.7]), torch.tensor([1, 2, 2]))
        >>> fit.rank, round(fit.level, 3)
        (3, 2.8)
    """
    s, order = values.sort(descending=True)
    number = counts[order].double()
    squares = float((number * s.square()).sum())
    if not squares >= SILENT:
        return TwoLevel(0, math.nan, math.nan)
    total, kept = (number * s).cumsum(0), number.cumsum(0)
    q = total.square() / kept
    best = int(q.argmax())
    return TwoLevel(int(kept[best]), float(total[best] / kept[best]), min(float(q[best]) / squares, 1.0))
