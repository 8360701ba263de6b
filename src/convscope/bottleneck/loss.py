"""What a changed network loses, with an interval: a drop in accuracy, or the error of its output."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from scipy.stats import t as student
from torch import Tensor

from convscope.core.errors import ConvscopeError
from convscope.core.results import Number

Measure = Literal["accuracy", "output"]
_95 = 1.959964  # standard errors


@dataclass(frozen=True)
class Loss:
    """What a network lost, on some images.

    Attributes:
        measure: "accuracy": share of images classified correctly before less that after; "output": relative output
            error |f - f'|^2 / |f - mean f|^2, sums over images and outputs.
        value: the loss.
        low: lower end of its 95 % interval.
        high: upper end.
        images: number of them.
    """

    measure: Measure
    value: float
    low: float
    high: float
    images: int

    def number(self) -> Number:
        """Returns the loss with one standard error, a quarter of the interval's width."""
        return Number(self.value, (self.high - self.low) / (2 * _95), None, f"loss_{self.measure}")

    def within(self, tolerance: float, widths: float = 0.0) -> bool:
        """Returns whether the interval's upper end, and some half widths more, is within a tolerance."""
        return self.high + widths * (self.high - self.low) / 2 <= tolerance

    def __str__(self) -> str:
        if self.measure == "accuracy":
            return (
                f"{100 * self.value:.2f} points of accuracy (95 % interval {100 * self.low:.2f} to "
                f"{100 * self.high:.2f}, {self.images} images)"
            )
        return (
            f"{self.value:.3g} of the output's variance (95 % interval {self.low:.3g} to {self.high:.3g}, "
            f"{self.images} images)"
        )


def accuracy_drop(before: Tensor, after: Tensor) -> Loss:
    """Returns by how much the share of correct answers fell, from two answers for each image.

    The interval is the adjusted Wald interval of Bonett & Price (2012) for a difference of paired proportions: one
    image is added to those that only the one, and one to those that only the other network gets right, so that it is
    honest also where no answer changed: (b + 1 - c - 1) / (n + 2) +- 1.96 sqrt((p + q - (p - q)^2) / (n + 2)).

    Args:
        before: bool [n], whether the answer was right.
        after: bool [n], whether it is now.

    Raises:
        ConvscopeError: when there is no image.

    Example:
        >>> import torch
        >>> right = torch.ones(400, dtype=torch.bool)
        >>> loss = accuracy_drop(right, right)
        >>> loss.value, round(loss.high, 4)
        (0.0, 0.0069)
    """
    n = len(before)
    if not n:
        raise ConvscopeError("a loss of accuracy needs at least one image with a label: give labelled images")
    lost, won = int((before & ~after).sum()), int((after & ~before).sum())
    p, q = (lost + 1) / (n + 2), (won + 1) / (n + 2)
    half = _95 * math.sqrt((p + q - (p - q) ** 2) / (n + 2))
    return Loss("accuracy", (lost - won) / n, max(p - q - half, -1.0), min(p - q + half, 1.0), n)


def output_error(before: Tensor, after: Tensor) -> Loss:
    """Returns the relative output error |f - f'|^2 / |f - mean f|^2, sums over images and outputs.

    The interval is that of a ratio of sums over images, by linearisation (the infinitesimal jackknife) and Student's
    t with n - 1 degrees of freedom; its lower end is at least 0.

    Args:
        before: f, [n, o].
        after: f', [n, o].

    Raises:
        ConvscopeError: when there are fewer than two images, or the output is the same for all.

    Example:
        >>> import torch
        >>> f = torch.tensor([[0.0], [2.0], [4.0]])
        >>> output_error(f, f + 1).value
        0.375
    """
    n = len(before)
    if n < 2:
        raise ConvscopeError(f"a relative output error needs at least two images, got {n}: give more images")
    f = before.double()
    error = (f - after.double()).square().sum(1)
    variance = (f - f.mean(0)).square().sum(1)
    # Rounding of single precision is no variance.
    if not float(variance.mean()) > 1e-10 * float(f.square().sum(1).mean()):
        raise ConvscopeError(
            "the network gives the same output for all images, so that nothing tells what it may lose: check its "
            "weights and the images"
        )
    ratio = float(error.sum() / variance.sum())
    deviation = float((error - ratio * variance).std(correction=1) / variance.mean())
    half = float(student.ppf(0.975, n - 1)) * deviation / math.sqrt(n)
    return Loss("output", ratio, max(ratio - half, 0.0), ratio + half, n)
