"""What a changed network loses, with an interval: a drop in accuracy, or the error of its output."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
from scipy.stats import t as student
from torch import Tensor

from convscope.bottleneck.sensitivity import flat_output
from convscope.core.delivery import quick_layout, run_network
from convscope.core.errors import ConvscopeError
from convscope.core.network import Network
from convscope.core.results import Number
from convscope.core.taps import left_as_found, logits

Measure = Literal["accuracy", "output"]
_95 = 1.959964  # standard errors
_BATCH = 100  # images


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


class Judge:
    """Images, and what a network gives for them.

    Args:
        network: the network as it is.
        images: [n, c, h, w].
        labels: int64 [n], or None.

    Raises:
        ConvscopeError: when the network fails on the images, its output is not finite, or labels do not fit it.
    """

    def __init__(self, network: Network, images: Tensor, labels: Tensor | None) -> None:
        self.images, self.labels = images, labels
        with left_as_found([network.module]):
            self.layout = quick_layout(network, images[:1])
        self.own = self._answers(network)
        if labels is None:
            output_error(self.own, self.own)

    def judge(self, network: Network) -> tuple[Loss, tuple[float, float] | None]:
        """Returns the loss of another network, and both accuracies where there are labels."""
        answers = self._answers(network)
        if self.labels is None:
            return output_error(self.own, answers), None
        shares = float(self.own.double().mean()), float(answers.double().mean())
        return accuracy_drop(self.own, answers), shares

    def _answers(self, network: Network) -> Tensor:
        """Returns the outputs, float32 [n, o]; with labels, whether each is right, bool [n]."""
        found = []
        with left_as_found([network.module]), torch.no_grad():
            for rows in torch.arange(len(self.images)).split(_BATCH):
                _, output = run_network(network, self.images[rows], lambda _: None, layout=self.layout)
                found.append(self._answer(network, output, rows))
        return torch.cat(found)

    def _answer(self, network: Network, output: Any, rows: Tensor) -> Tensor:
        scores = (flat_output if self.labels is None else logits)(output, len(rows)).detach().cpu()
        if not bool(torch.isfinite(scores).all()):
            raise ConvscopeError(f"{network.name} gives NaN or infinite outputs for these images: check its weights")
        if self.labels is None:
            return scores.float()
        if int(self.labels.max()) >= scores.shape[1]:
            raise ConvscopeError(
                f"labels go up to {int(self.labels.max())}, but {network.name} has {scores.shape[1]} outputs: number "
                "the labels as the network's outputs"
            )
        return scores.argmax(1) == self.labels[rows].cpu()
