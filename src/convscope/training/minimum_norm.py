"""Training for the least parameter norm at a given loss: the recipe with which a bottleneck emerges."""

from __future__ import annotations

import math
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

Loss = Literal["squared", "cross-entropy"]

_CLIP = 5.0  # largest norm of a step's gradient
_DECAY = 0.6  # share of the steps after which the learning rate falls
_FALL = 100.0  # by how much it falls until the last step
_FROZEN = 0.75  # share of the steps after which the penalty no longer moves
_CONTROL = 0.004  # how fast it moves
_MEMORY = 0.95  # of the running mean of the loss that it follows


@dataclass(frozen=True)
class MinimumNorm:
    """What ``minimise_norm`` reached.

    Attributes:
        loss: mean over all images, at the end: squared error summed over an image's outputs, or cross-entropy in nats.
        share: loss over that of the best constant output: the targets' variance, or the entropy of the labels; NaN
            where that is 0.
        penalty: lambda, the last factor on the squared norm.
        norm: ||theta||^2, sum of squares of all weights and biases.
        steps: optimiser steps taken.
        seconds: wall-clock seconds.
        complete: False when Ctrl-C ended the training early.
    """

    loss: float
    share: float
    penalty: float
    norm: float
    steps: int
    seconds: float
    complete: bool


def minimise_norm(
    network: nn.Module,
    images: Tensor,
    targets: Tensor,
    *,
    penalty: float,
    steps: int,
    tau: float | None = None,
    loss: Loss = "squared",
    lr: float = 2e-3,
    plain: bool = False,
    batch_size: int | None = None,
    seed: int = 0,
    progress: bool | str = True,
) -> MinimumNorm:
    """Trains a network in place for a small parameter norm: at the loss tau, or at a fixed penalty.

    Adam descends loss + lambda ||theta||^2. With tau, lambda rises while a running mean of the loss is below tau and
    falls while it is above (dual ascent on the constraint loss <= tau), until three quarters of the steps are done:
    what is left is the least norm at that loss, the representation cost of Wen & Jacot (2024, arXiv 2402.08010).
    Gradients are clipped at a norm of 5, and the learning rate falls a hundredfold over the last two fifths; neither
    where steps are plain.

    Training without these fails. From Kaiming's initial weights on full-size filters the network stays at a constant
    output; Adam on the taps of such filters instead of their Fourier coefficients kills every unit; a large fixed
    penalty, or one raised on a schedule, ends in the zero network; and a small fixed one takes far too long to reach
    its optimum. Start from ``CircularCNN``, and from a penalty near the expected one.

    Args:
        network: the network, initialised.
        images: [n, c, h, w], on the network's device.
        targets: [n, ...], as the network's outputs; for cross-entropy int64 [n], classes from 0.
        penalty: lambda at the start; with tau None, throughout.
        steps: of the optimiser.
        tau: the loss to hold, in the units of ``MinimumNorm.loss``; None fixes the penalty.
        loss: "squared", the squared error summed over outputs; or "cross-entropy". Either is a mean over images.
        lr: learning rate.
        plain: whether to take steps of plain gradient descent in place of Adam's, all of one learning rate and along
            gradients as they are: for what the learning rate itself selects.
        batch_size: images a step, drawn anew for each; None: all.
        seed: of the batches.
        progress: whether to show a progress bar; a string is its title.

    Raises:
        ValueError: when images and targets do not fit each other, or a number is out of range.

    Example:
        >>> x = torch.randn(50, 1, 1, 1, generator=torch.Generator().manual_seed(0))
        >>> _ = torch.manual_seed(0)
        >>> net = nn.Conv2d(1, 1, 1)
        >>> run = minimise_norm(net, x, 2 * x, penalty=0.4, steps=600, tau=0.1, lr=0.03, progress=False)
        >>> abs(run.loss - 0.1) < 0.02
        True
    """
    if loss not in get_args(Loss):
        raise ValueError(f"loss must be 'squared' or 'cross-entropy', got {loss!r}")
    if len(images) != len(targets) or not len(images):
        raise ValueError(f"need one target for each of at least one image, got {len(images)} and {len(targets)}")
    held = tau is not None and not (tau > 0 and penalty > 0)
    if steps < 1 or not penalty >= 0 or not lr > 0 or held or (batch_size is not None and batch_size < 1):
        raise ValueError(
            "need at least one step and one image a step, a positive lr, a penalty of at least 0 and, with tau, a "
            f"positive tau and penalty, got steps={steps}, batch_size={batch_size}, lr={lr}, penalty={penalty}, "
            f"tau={tau}"
        )
    batches = torch.Generator().manual_seed(seed)
    descent = _Descent(network, loss, tau, penalty, lr, steps, plain)
    title = progress if isinstance(progress, str) else "least norm"
    begin, complete = time.perf_counter(), True
    with _tiny_is_zero(), tqdm(total=steps, desc=title, unit="step", disable=not progress, leave=False) as bar:
        try:
            for _ in range(steps):
                chosen: Tensor | slice = slice(None)
                if batch_size is not None and batch_size < len(images):
                    chosen = torch.randint(len(images), (batch_size,), generator=batches).to(images.device)
                descent.step(images[chosen], targets[chosen])
                bar.update()
        except KeyboardInterrupt:
            complete = False
        finally:
            descent.rule.zero_grad()
    with torch.no_grad():
        reached = float(_loss(network(images), targets, loss))
    return MinimumNorm(
        reached,
        reached / (_constant(targets, loss) or math.nan),
        descent.penalty,
        sum(float(p.detach().double().square().sum()) for p in network.parameters()),
        descent.done,
        time.perf_counter() - begin,
        complete,
    )


@contextmanager
def _tiny_is_zero() -> Generator[None]:
    """Lets the CPU take denormal numbers for 0: what the penalty empties decays to them, and they are slow."""
    before = not torch.tensor(1e-40) * 1
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(before)


class _Descent:
    """A training under way."""

    def __init__(
        self, network: nn.Module, loss: Loss, tau: float | None, penalty: float, lr: float, steps: int, plain: bool
    ) -> None:
        self.network, self.loss, self.tau, self.penalty, self.lr, self.steps = network, loss, tau, penalty, lr, steps
        self.parameters, self.plain = [p for p in network.parameters() if p.requires_grad], plain
        rule = torch.optim.SGD if plain else torch.optim.Adam
        self.rule = rule(self.parameters, lr, fused=True)
        self.smooth, self.done = math.nan, 0

    def step(self, images: Tensor, targets: Tensor) -> None:
        share = self.done / self.steps
        if not self.plain:
            self.rule.param_groups[0]["lr"] = self.lr * _FALL ** -max(0.0, (share - _DECAY) / (1 - _DECAY))
        self.rule.zero_grad()
        value = _loss(self.network(images), targets, self.loss)
        torch.autograd.backward(value)
        # The penalty's own gradient needs no graph.
        gradients = [p.grad for p in self.parameters if p.grad is not None]
        torch._foreach_add_(
            gradients, [p.detach() for p in self.parameters if p.grad is not None], alpha=2 * self.penalty
        )
        if not self.plain:
            nn.utils.clip_grad_norm_(self.parameters, _CLIP)
        self.rule.step()
        self.done += 1
        current = float(value.detach())
        self.smooth = current if math.isnan(self.smooth) else _MEMORY * self.smooth + (1 - _MEMORY) * current
        if self.tau is not None and share < _FROZEN:
            self.penalty *= math.exp(_CONTROL * min(max(2 * (self.tau - self.smooth) / self.tau, -3.0), 1.0))


def _loss(outputs: Tensor, targets: Tensor, kind: Loss) -> Tensor:
    if kind == "cross-entropy":
        return F.cross_entropy(outputs, targets)
    if outputs.shape != targets.shape:
        raise ValueError(f"outputs of shape {list(outputs.shape)} cannot meet targets of {list(targets.shape)}")
    return (outputs - targets).square().sum() / len(outputs)


def _constant(targets: Tensor, kind: Loss) -> float:
    """Returns the loss of the best constant output."""
    if kind == "cross-entropy":
        shares = targets.bincount().double() / len(targets)
        return float(-torch.special.xlogy(shares, shares).sum())
    return float((targets.double() - targets.double().mean(0)).square().sum() / len(targets))
