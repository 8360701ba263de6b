"""Networks trained on the spot while their modes are measured, beside what the theory predicts of them."""

from __future__ import annotations

import math
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from convscope.core.batches import mix
from convscope.core.errors import ConvscopeError
from convscope.dynamics.closed import closed_form
from convscope.dynamics.collect import dataset_structure
from convscope.dynamics.exact import escape_rate, integrate
from convscope.dynamics.flow import flow_of
from convscope.dynamics.linear import Dense, LinearCNN, Padding
from convscope.dynamics.monitor import ModeMonitor
from convscope.dynamics.predict import EXACT, INIT_STD
from convscope.dynamics.structure import DatasetStructure
from convscope.dynamics.trajectory import Trajectory
from convscope.dynamics.used import UsedSpectra
from convscope.training.linear import ConvLinear, ReluCNN, dense, normal_, scaled_
from convscope.training.loop import Loss, Moment, accuracy, train
from convscope.training.stable import stable_lr

Kind = Literal["cnn", "linear-cnn", "mlp", "linear-mlp"]
PROBES = 5000  # images on which networks with ReLUs are measured; linear ones are on all
BATCH = 128  # images a step of networks with ReLUs
SMOOTH = 0.1  # learning rate times the fastest rate of growth: gradient descent then follows gradient flow
FAST = 0.5  # the same, for networks with ReLUs, which are not held against gradient flow
BEYOND = 1.1  # times the last half-time, when training ends
_HIDDEN = {"mlp": 256, "linear-mlp": 32}  # units


@dataclass(frozen=True, eq=False)
class Measured:
    """What a training learned of each mode, and when.

    Attributes:
        kind: of the network: "cnn", "linear-cnn", "mlp", "linear-mlp", or the name of its class.
        structure: of the images, whose modes were measured.
        steps: int64 [T], of training before each record.
        times: float64 [T], those steps as times t = lr steps / (1 - momentum), the time of ``Trajectory``; for the
            cross-entropy, it is that near the start only.
        mode_strengths: float64 [T, m], in the unit of singular values.
        targets: float64 [m], mode strengths of the labels themselves on the images that were measured.
        off_diagonal: float64 [T], norm of what the modes mix.
        half_times: float64 [m], time until each mode had half its target; inf where it had not.
        used: spectra used for each mode when it had half its target.
        used_finally: those after training.
        predicted: from the initial weights and the moments of these images; None where the theory has nothing to say.
        lr: learning rate.
        momentum: of SGD.
        loss: "squared" or "cross-entropy".
        batch_size: images a step.
        images: number of images trained on.
        accuracy: share of them classified as labelled after training.
        complete: False when Ctrl-C ended the training early.
        cost: what measuring took, as a sentence.
        notes: what a reader should know.
    """

    kind: str
    structure: DatasetStructure
    steps: Tensor
    times: Tensor
    mode_strengths: Tensor
    targets: Tensor
    off_diagonal: Tensor
    half_times: Tensor
    used: UsedSpectra
    used_finally: UsedSpectra
    predicted: Trajectory | None
    lr: float
    momentum: float
    loss: Loss
    batch_size: int
    images: int
    accuracy: float
    complete: bool
    cost: str
    notes: tuple[str, ...]


def train_and_measure(
    network: Kind | nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    steps: int = 3000,
    lr: float | None = None,
    momentum: float = 0.0,
    loss: Loss = "squared",
    batch_size: int | None = None,
    filters: int | None = None,
    kernel_size: int | None = None,
    padding: Padding = "circular",
    init_std: float = INIT_STD,
    init_scale: float = 0.3,
    seed: int = 0,
    progress: bool | str = True,
) -> Measured:
    """Trains a network by SGD on images less their mean, and records how far it has learned each of their modes.

    Training ends somewhat after the last mode is half learned. Ctrl-C ends it before, and what was measured stays.

    Args:
        network: "linear-cnn", a convolution and a linear layer; "linear-mlp", two linear layers; "cnn", two
            convolutions with stride 2, ReLUs and a linear layer; "mlp", a layer of 256 ReLUs and a linear one; or any
            classifier, which is trained in place from the weights that it has.
        images: [n, c, h, w], in any unit: the learning rate fits it where it is not given.
        labels: int64 [n], classes from 0; images with a label below 0 are left out.
        steps: at most.
        lr: learning rate; None: a stable one (see ``stable_lr``), small enough for linear networks to follow gradient
            flow within a few percent.
        momentum: of SGD.
        loss: "squared" is the theory's; "cross-entropy" the usual one, whose modes are those of probabilities.
        batch_size: images a step; None: all for linear networks, which then follow the prediction, else ``BATCH``.
        filters: of "linear-cnn"; None: as many as the images have channels.
        kernel_size: of "linear-cnn", in pixels; None: as large as the images.
        padding: of "linear-cnn".
        init_std: standard deviation of all weights of linear networks.
        init_scale: factor on PyTorch's own initial weights of "cnn" and "mlp".
        seed: of weights and of the order of images.
        progress: whether to show a progress bar; a string is its title.

    Returns:
        Curves, half-times and spectra, beside the prediction for linear networks: exact for images of at most
        ``EXACT`` pixels times channels, else the closed form where it applies.

    Raises:
        ConvscopeError: when images do not differ between classes, or the network does not fit them.
        ValueError: for an unknown network, labels that do not fit the images, and numbers out of range.

    Example:
        >>> images, labels = torch.rand(60, 1, 6, 6, generator=torch.Generator().manual_seed(0)), torch.arange(60) % 3
        >>> measured = train_and_measure("linear-cnn", images, labels, steps=5, progress=False)
        >>> measured.mode_strengths.shape
        torch.Size([6, 2])
    """
    if images.ndim != 4 or labels.shape != (len(images),):
        raise ValueError(
            f"images must be [n, c, h, w] and labels [n], got {list(images.shape)} and {list(labels.shape)}"
        )
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}")
    images, labels = images[labels >= 0], labels[labels >= 0]
    if not len(images):
        raise ConvscopeError("no image has a label: there is nothing to train on")
    shape = (images.shape[1], images.shape[2], images.shape[3])
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        if isinstance(network, nn.Module):
            model, kind = network, type(network).__name__
        else:
            size = {"filters": filters or shape[0], "kernel_size": kernel_size, "padding": padding}
            model, kind = _made(network, shape, int(labels.max()) + 1, size, init_std, init_scale), network
    theirs = _frozen(model, shape)
    linear = theirs is not None
    x = (images.double() - images.double().mean(0)).to(next(model.parameters()).dtype)
    structure = dataset_structure([(x, labels)], covariance=None if linear else False)
    batch_size = min(batch_size or (len(x) if linear else BATCH), len(x))
    drawn = mix(0, torch.arange(len(x))).argsort()[: len(x) if linear else PROBES]
    monitor = ModeMonitor(
        model,
        (x[drawn], labels[drawn]),
        structure=structure,
        outputs="logits" if loss == "squared" else "probabilities",
        jacobian=True,
        batch_size=1024 if linear else 256,
    )
    rate, predicted = float(structure.growth_rates.max()), None
    notes: list[str] = []
    if theirs is not None:
        rate = escape_rate(flow_of(theirs, shape), [weight.shape for weight in theirs.weights], structure.cross)
        predicted, notes = _prediction(structure, theirs)
    if lr is None:
        lr = stable_lr(model, x, labels, rate, SMOOTH if linear else FAST, momentum, loss)
        notes.append(f"the learning rate is {lr:.3g}, chosen from the rate at which modes grow")
    end = _End(monitor, steps)
    training = train(
        model,
        x,
        labels,
        epochs=math.ceil(steps / max(len(x) // batch_size, 1)),
        lr=lr,
        momentum=momentum,
        batch_size=batch_size,
        loss=loss,
        seed=seed,
        progress=progress,
        callbacks=[monitor, end],
    )
    monitor.record(training.steps)
    per_step = lr / (1 - momentum)
    return Measured(
        kind=kind,
        structure=structure,
        steps=monitor.steps,
        times=monitor.steps * per_step,
        mode_strengths=monitor.mode_strengths,
        targets=monitor.targets,
        off_diagonal=monitor.off_diagonal,
        half_times=monitor.half_times * per_step,
        used=monitor.used,
        used_finally=monitor.used_now(),
        predicted=predicted,
        lr=lr,
        momentum=momentum,
        loss=loss,
        batch_size=batch_size,
        images=len(x),
        accuracy=accuracy(model, x, labels),
        complete=training.complete or end.reached,
        cost=monitor.cost,
        notes=(*notes, *monitor.notes),
    )


class _End:
    """A callback that ends a training when it has lasted long enough."""

    def __init__(self, monitor: ModeMonitor, steps: int) -> None:
        self.monitor, self.steps, self.reached = monitor, steps, False

    def started(self, moment: Moment) -> None:
        """Waits."""

    def stepped(self, moment: Moment) -> None:
        """Ends the training after the last step, or when all modes have been half learned for a while.

        Raises:
            KeyboardInterrupt: to end it, which ``train`` catches.
        """
        fresh = int(self.monitor.steps[-1]) == moment.step
        enough = fresh and moment.step >= BEYOND * float(self.monitor.half_times.max())
        if enough or moment.step >= self.steps:
            self.reached = True
            raise KeyboardInterrupt

    def finished_epoch(self, moment: Moment) -> None:
        """Waits."""


def _made(
    kind: str, shape: tuple[int, int, int], outputs: int, size: dict, init_std: float, init_scale: float
) -> nn.Module:
    if kind == "linear-cnn":
        return ConvLinear(shape, outputs, **size, std=init_std).double()
    if kind == "linear-mlp":
        model: nn.Module = dense(shape, outputs, (_HIDDEN[kind],), linear=True)
        normal_(model, init_std)
        return model.double()
    if kind not in get_args(Kind):
        raise ValueError(f"network must be one of {', '.join(get_args(Kind))}, or a module, got {kind!r}")
    model = ReluCNN(shape, outputs) if kind == "cnn" else dense(shape, outputs, (_HIDDEN[kind],))
    scaled_(model, init_scale)
    return model


def _frozen(model: nn.Module, shape: tuple[int, int, int]) -> LinearCNN | Dense | None:
    """Returns a linear network's weights as the theory takes them; None for others."""
    if isinstance(model, ConvLinear):
        return LinearCNN.of(model.conv, model.linear, shape)
    layers = list(model) if isinstance(model, nn.Sequential) else []
    if [type(layer) for layer in layers] != [nn.Flatten, nn.Linear, nn.Linear] or layers[1].bias is not None:
        return None
    first, second = (layer.weight.detach().to("cpu", torch.float64, copy=True) for layer in layers[1:])
    return Dense(first, second)


def _prediction(structure: DatasetStructure, network: LinearCNN | Dense) -> tuple[Trajectory | None, list[str]]:
    """Returns what the theory says of a network from its start, and notes on that."""
    pixels = math.prod(structure.image_shape)
    if structure.covariance is not None and pixels <= EXACT:
        return integrate(structure, network), []
    if isinstance(network, LinearCNN):
        with suppress(ValueError):
            return closed_form(structure, network), [f"with {pixels:,} pixels the prediction is the closed form"]
    return None, [f"with {pixels:,} pixels there is no quick prediction for this network"]
