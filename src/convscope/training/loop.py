"""A plain training loop that remembers where it started from."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

State = dict[str, Tensor]
Optimiser = Literal["sgd", "adam"]
LabelKind = Literal["true", "permuted", "random"]
Loss = Literal["cross-entropy", "squared"]


@dataclass(frozen=True)
class Moment:
    """Where a training stands.

    Attributes:
        network: the network, in training mode; a callback may read it, not change it.
        step: optimiser steps taken so far; 0 before the first.
        epoch: epochs completed so far.
        loss: the training's loss, mean over the latest batch (after an epoch: over the epoch); NaN before the first.
    """

    network: nn.Module
    step: int
    epoch: int
    loss: float


class Callback(Protocol):
    """Follows a training. What it draws at random does not disturb the training."""

    def started(self, moment: Moment) -> None:
        """Is called once, before the first step."""
        ...

    def stepped(self, moment: Moment) -> None:
        """Is called after every optimiser step."""
        ...

    def finished_epoch(self, moment: Moment) -> None:
        """Is called after every epoch."""
        ...


@dataclass(frozen=True)
class Epoch:
    """One epoch in a training's history.

    Attributes:
        loss: the training's loss, mean over the epoch's images while the weights moved.
        accuracy: share of the epoch's images classified as labelled, likewise.
        seconds: wall-clock seconds.
    """

    loss: float
    accuracy: float
    seconds: float


@dataclass(frozen=True)
class Training:
    """What a training did.

    Attributes:
        initial: copy of the network's state before the first step.
        final: copy of its state after the last.
        history: one entry per completed epoch.
        steps: optimiser steps taken.
        complete: False when Ctrl-C ended the training early.
    """

    initial: State
    final: State
    history: tuple[Epoch, ...]
    steps: int
    complete: bool


def train(
    network: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    epochs: int,
    lr: float = 0.05,
    momentum: float = 0.0,
    weight_decay: float = 0.0,
    batch_size: int = 64,
    optimiser: Optimiser = "sgd",
    loss: Loss = "cross-entropy",
    seed: int = 0,
    progress: bool | str = True,
    callbacks: Sequence[Callback] = (),
) -> Training:
    """Trains a network in place by minibatch descent on a loss, with a constant step size.

    Each epoch visits the images in a new order and leaves out the last, smaller batch (a batch of one has no batch
    statistics). The order and everything random inside the network follow from ``seed``; the caller's random state
    and the network's mode are afterwards as before. Ctrl-C ends the training and returns what was reached.

    Args:
        network: the network, initialised; on the device on which to train.
        images: [n, c, h, w], as the network takes them.
        labels: int64 [n], classes from 0.
        epochs: number of times that every image is visited.
        lr: step size of the optimiser.
        momentum: SGD's momentum, or Adam's first decay rate (where 0 stands for Adam's usual 0.9).
        weight_decay: added to the gradient as ``weight_decay * weight``.
        batch_size: images a step; at most n. With n images, every step is one of gradient descent on all of them.
        optimiser: "sgd" or "adam".
        loss: "cross-entropy", in nats; or "squared", half the squared error against one-hot labels, summed over
            outputs. Either is a mean over a step's images.
        seed: decides the order of the images and the network's own random draws.
        progress: whether to show a progress bar; a string is its title.
        callbacks: told of the start, of every step and of every epoch.

    Raises:
        ValueError: when images and labels do not fit each other, or a number is out of range.

    Example:
        >>> net = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
        >>> x = torch.randn(64, 1, 2, 2, generator=torch.Generator().manual_seed(0))
        >>> run = train(net, x, (x.mean((1, 2, 3)) > 0).long(), epochs=20, lr=0.5, progress=False)
        >>> run.history[-1].accuracy > 0.8
        True
    """
    n = len(images)
    if labels.shape != (n,):
        raise ValueError(f"labels must have shape [{n}] like the images, got {list(labels.shape)}")
    if n < 1 or epochs < 0 or lr <= 0 or batch_size < 1:
        raise ValueError(
            "need at least one image, epochs of at least 0, a positive lr and a batch_size of at least 1, "
            f"got n={n}, epochs={epochs}, lr={lr}, batch_size={batch_size}"
        )
    size = min(batch_size, n)
    device = next(network.parameters()).device
    was_training = network.training
    initial = _copy(network)
    rule = _optimiser(network, optimiser, lr, momentum, weight_decay)
    if loss not in get_args(Loss):
        raise ValueError(f"loss must be 'cross-entropy' or 'squared', got {loss!r}")
    # On a CPU this memory layout makes convolution, pooling and batch normalisation up to twice as fast.
    layout = torch.channels_last if images.ndim == 4 else torch.contiguous_format
    network.to(memory_format=layout)  # type: ignore[call-overload]
    bar = tqdm(
        total=epochs * (n // size),
        desc=progress if isinstance(progress, str) else "training",
        unit="step",
        disable=not progress,
        leave=False,
    )
    descent = _Descent(network, images, labels, rule, loss, tuple(callbacks), layout, bar)
    order = torch.Generator().manual_seed(seed)
    complete = True
    with torch.random.fork_rng([device] if device.type == "cuda" else []), bar:
        torch.manual_seed(seed)
        network.train()
        try:
            descent.tell("started", float("nan"))
            for _ in range(epochs):
                descent.epoch(torch.randperm(n, generator=order)[: n - n % size].view(-1, size))
        except KeyboardInterrupt:
            complete = False
        finally:
            rule.zero_grad()
            network.train(was_training)
            network.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    return Training(initial, _copy(network), tuple(descent.history), descent.steps, complete)


def squared_error(outputs: Tensor, labels: Tensor) -> Tensor:
    """Returns half the squared error of outputs against one-hot labels, summed over outputs, mean over images.

    Args:
        outputs: [n, o].
        labels: int64 [n], below o.

    Example:
        >>> squared_error(torch.tensor([[0.0, 2.0]]), torch.tensor([0]))
        tensor(2.5000)
    """
    return (outputs - F.one_hot(labels, outputs.shape[1])).square().sum() / (2 * len(outputs))


@dataclass
class _Descent:
    """A training under way."""

    network: nn.Module
    images: Tensor
    labels: Tensor
    rule: torch.optim.Optimizer
    loss: Loss
    callbacks: tuple[Callback, ...]
    layout: torch.memory_format
    bar: tqdm
    history: list[Epoch] = field(default_factory=list)
    steps: int = 0

    def epoch(self, batches: Tensor) -> None:
        begin = time.perf_counter()
        loss_sum, right, seen = 0.0, 0, 0
        for rows in batches:
            loss, correct = self.step(rows)
            loss_sum += loss
            right += correct
            seen += len(rows)
            self.bar.update()
            self.tell("stepped", loss)
        mean = loss_sum / len(batches)
        self.history.append(Epoch(mean, right / seen, time.perf_counter() - begin))
        self.bar.set_postfix(loss=f"{mean:.2f}", accuracy=f"{right / seen:.2f}")
        self.tell("finished_epoch", mean)

    def step(self, rows: Tensor) -> tuple[float, int]:
        device = next(self.network.parameters()).device
        x = self.images[rows].to(device, memory_format=self.layout)
        y = self.labels[rows].to(device)
        logits = self.network(x)
        loss = F.cross_entropy(logits, y) if self.loss == "cross-entropy" else squared_error(logits, y)
        self.rule.zero_grad()
        torch.autograd.backward(loss)
        self.rule.step()
        self.steps += 1
        return float(loss.detach()), int((logits.argmax(1) == y).sum())

    def tell(self, event: Literal["started", "stepped", "finished_epoch"], loss: float) -> None:
        moment = Moment(self.network, self.steps, len(self.history), loss)
        device = next(self.network.parameters()).device
        for callback in self.callbacks:
            with torch.random.fork_rng([device] if device.type == "cuda" else []):
                getattr(callback, event)(moment)


class Snapshots:
    """A callback that keeps copies of some tensors of the network: before training and after each of some epochs.

    Args:
        names: which entries of the state dictionary to keep.
        epochs: after how many epochs; 0 is before the first step.

    Attributes:
        kept: {epochs completed: {name: copy}}.
    """

    def __init__(self, names: Sequence[str], epochs: Sequence[int]) -> None:
        self.names = tuple(names)
        self.epochs = frozenset(epochs)
        self.kept: dict[int, State] = {}

    def started(self, moment: Moment) -> None:
        """Keeps the initial tensors, if asked for."""
        self._keep(moment)

    def stepped(self, moment: Moment) -> None:
        """Keeps nothing."""

    def finished_epoch(self, moment: Moment) -> None:
        """Keeps the tensors, if this epoch is asked for."""
        self._keep(moment)

    def _keep(self, moment: Moment) -> None:
        if moment.epoch in self.epochs:
            state = moment.network.state_dict()
            self.kept[moment.epoch] = {name: state[name].detach().cpu().clone() for name in self.names}


def relabel(labels: Tensor, kind: LabelKind, seed: int = 0) -> Tensor:
    """Returns the labels, a permutation of them, or uniformly random ones.

    Args:
        labels: int64 [n], classes 0 to o - 1, each of which occurs.
        kind: "true" returns the labels themselves; "permuted" gives them to other images, so that every class keeps
            its number of images (as Chowers & Weiss 2023 do); "random" draws each class with probability 1/o.
        seed: decides the permutation or the draws.

    Raises:
        ValueError: for another kind.

    Example:
        >>> sorted(relabel(torch.tensor([0, 0, 1, 2]), "permuted").tolist())
        [0, 0, 1, 2]
    """
    generator = torch.Generator().manual_seed(seed)
    if kind == "true":
        return labels.clone()
    if kind == "permuted":
        return labels[torch.randperm(len(labels), generator=generator).to(labels.device)]
    if kind == "random":
        return torch.randint(int(labels.max()) + 1, labels.shape, generator=generator).to(labels.device)
    raise ValueError(f"kind must be 'true', 'permuted' or 'random', got {kind!r}")


def accuracy(network: nn.Module, images: Tensor, labels: Tensor, batch_size: int = 256) -> float:
    """Returns the share of images classified as labelled, in evaluation mode; NaN without images.

    Args:
        network: the network; its mode is afterwards as before.
        images: [n, c, h, w], as the network takes them.
        labels: int64 [n].
        batch_size: images at a time.
    """
    if not len(images):
        return float("nan")
    device = next(network.parameters()).device
    was_training = network.training
    network.eval()
    right = 0
    try:
        with torch.no_grad():
            for i in range(0, len(images), batch_size):
                guess = network(images[i : i + batch_size].to(device)).argmax(1)
                right += int((guess.cpu() == labels[i : i + batch_size].cpu()).sum())
    finally:
        network.train(was_training)
    return right / len(images)


def _optimiser(network: nn.Module, name: str, lr: float, momentum: float, weight_decay: float) -> torch.optim.Optimizer:
    parameters = [p for p in network.parameters() if p.requires_grad]
    if name == "sgd":
        return torch.optim.SGD(parameters, lr, momentum, weight_decay=weight_decay)
    if name == "adam":
        return torch.optim.Adam(parameters, lr, (momentum or 0.9, 0.999), weight_decay=weight_decay)
    raise ValueError(f"optimiser must be 'sgd' or 'adam', got {name!r}")


def _copy(network: nn.Module) -> State:
    return {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, tensor in network.state_dict().items()
    }
