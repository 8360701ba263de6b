"""How much classes differ, and how far one value stands out from those around it."""

from __future__ import annotations

import torch
from torch import Tensor

FEWEST = 12  # values around one, below which it is not compared
ROUNDING = 1e-12  # of a sum of squares in float64: what is smaller may be nothing


def log_ratio(counts: Tensor, sums: Tensor, squares: Tensor) -> Tensor:
    """Returns log F of an analysis of variance between classes, of values with several parts.

    F = [sum_c n_c |m_c - m|^2 / (p - 1)] / [sum |x - m_c|^2 / (n - p)], for p classes and n images, numerator and
    denominator added up over parts.

    Args:
        counts: int64 [o], images of each class; classes without images are left out.
        sums: [o, c, ...], sum over each class of a real or complex value with c parts.
        squares: float64 [...], sum of its squared modulus over parts and all images.

    Returns:
        float64 [...]; infinite where classes differ and nothing varies within them, NaN where nothing varies at all.

    Example:
        >>> values = torch.tensor([1.0, 3.0, 5.0, 7.0], dtype=torch.float64)  # the first two of one class
        >>> sums = torch.stack([values[:2].sum(), values[2:].sum()])[:, None]
        >>> log_ratio(torch.tensor([2, 2]), sums, values.square().sum()).exp()  # (16 / 1) / (4 / 2)
        tensor(8.0000, dtype=torch.float64)
    """
    present = counts > 0
    n = counts[present].double().view(-1, *[1] * (sums.ndim - 1))
    sums, p, images = sums[present], len(n), float(n.sum())
    classes = (sums.abs().square() / n).sum((0, 1))
    between = classes - (sums.sum(0).abs().square() / images).sum(0)
    within = squares - classes
    between, within = (torch.where(x > ROUNDING * squares, x, 0) for x in (between, within))
    return (between / (p - 1)).log() - (within / (images - p)).log()


def effects(counts: Tensor, sums: Tensor) -> tuple[Tensor, Tensor]:
    """Returns how far the mean of each class lies from the mean over classes, and which class stands out.

    Of two classes, whose distances are always the same, the one with the larger mean stands out.

    Args:
        counts: int64 [o], images of each class.
        sums: [o, c, ...], sum over each class of a value with c parts.

    Returns:
        [o, c, ...] the differences, NaN for classes without images; int64 [...] the class whose n_c |difference|^2,
        added up over parts, is largest.
    """
    present = counts > 0
    n = counts.double().view(-1, *[1] * (sums.ndim - 1))
    means = sums / n.clamp(min=1)
    off = means - means[present].mean(0)
    weight = means.abs().square() if int(present.sum()) == 2 else n * off.abs().square()
    off[~present] = torch.nan
    return off, weight.nan_to_num().sum(1).argmax(0)


def robust_z(values: Tensor, places: Tensor, around: Tensor, fewest: int = FEWEST) -> Tensor:
    """Returns how far values stand out: (v - median) / (1.4826 MAD), median and MAD of other values around each.

    Args:
        values: float64 [m], any of them infinite or NaN.
        places: int64 [k], of the values asked for.
        around: int64 [k, w], the places of those that each is compared with, -1 for none.
        fewest: how many there must be.

    Returns:
        float64 [k]; NaN where fewer than ``fewest`` are around, or more than half of them are alike.

    Example:
        >>> values = torch.tensor([9.0, *range(13)], dtype=torch.float64)
        >>> z = robust_z(values, torch.tensor([0]), torch.arange(1, 14)[None])
        >>> round(z.item() * 1.4826, 6)  # their median is 6, the median deviation from it 3
        1.0
    """
    own = values[places]
    x = values[around.clamp(min=0)].masked_fill(around < 0, torch.nan)
    middle, count = _median(x)
    deviation, _ = _median((x - middle[:, None]).abs())
    known = (count >= fewest) & (deviation > ROUNDING * middle.abs())
    return torch.where(known, (own - middle) / (1.4826 * deviation), torch.nan)


def _median(x: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the median of the numbers in each row, and how many there are."""
    if not x.shape[1]:
        return x.new_full((len(x),), torch.nan), torch.zeros(len(x), dtype=torch.int64)
    missing = x.isnan()
    count = (~missing).sum(1)
    ordered = x.masked_fill(missing, torch.inf).sort(1).values
    low, high = (count - 1).clamp(min=0) // 2, (count // 2).clamp(max=x.shape[1] - 1)
    middle = (ordered.gather(1, low[:, None]) + ordered.gather(1, high[:, None]))[:, 0] / 2
    return middle.masked_fill(count == 0, torch.nan), count
