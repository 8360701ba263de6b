"""Whether modes are learned in stages: a wait that is long beside the rise."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import torch
from torch import Tensor, nn

from convscope.dynamics.collect import dataset_structure
from convscope.dynamics.exact import integrate
from convscope.dynamics.halves import crossings
from convscope.dynamics.linear import Dense, LinearCNN
from convscope.dynamics.monitor import ModeMonitor
from convscope.dynamics.structure import DatasetStructure
from convscope.dynamics.training import BATCH, FAST, SMOOTH
from convscope.papers.pinson2023_data import cosines, digits
from convscope.papers.registry import Outcome, Row, Scale, Setup, summary
from convscope.training.linear import ConvLinear, ReluCNN, scaled_
from convscope.training.loop import train
from convscope.training.stable import stable_lr


@dataclass(frozen=True)
class Size:
    """Sizes of one scale: draws of initial weights, and steps of the networks in training."""

    draws: int
    steps: int


SIZES: dict[Scale, Size] = {"smoke": Size(1, 300), "cpu": Size(3, 2_000), "paper": Size(20, 20_000)}
_SMALL, _LARGE = 1e-4, 1e-1  # standard deviations of initial weights
_UNITS = 64  # of the fully connected network
_POINTS = 500
_LATER = 8.0  # times the last half-time, until which curves are followed
_SOONER = 1 / 20  # of the first, from which
_SHARES = (0.1, 0.5, 0.9)  # of a mode's strength: when it begins to rise, is half learned, has risen
# Rise over half-time of 1 - exp(-t), which does not wait. A logistic from a0 has 4.4 / ln(s / a0), which vanishes with
# the initial weights.
RELAXING = math.log(9) / math.log(2)


def stages(setup: Setup) -> Outcome:
    """Returns how long modes take to rise, over how long they wait, from small and from large initial weights."""
    size = SIZES[setup.scale]
    rows: list[Row] = []
    table: list[dict[str, Any]] = []
    data: dict[str, Callable[[], DatasetStructure]] = {
        "five cosines": lambda: dataset_structure([cosines()], center=False),
        "digits": lambda: dataset_structure([digits()]),
    }
    for name, load in data.items():
        structure = load()
        found = {
            "CNN": [_cnn(structure, _SMALL, seed) for seed in range(size.draws)],
            "large": [_cnn(structure, _LARGE, seed) for seed in range(size.draws)],
            "dense": [_dense(structure, seed) for seed in range(size.draws)],
        }
        rows += _rows(name, found)
        table += [_line(name, kind, seed, curve) for kind, curves in found.items() for seed, curve in enumerate(curves)]
    rows += _in_training(setup, size, table)
    settings = {
        "five cosines": "one image of a class, 8x8 pixels, of different frequencies and falling contrast; means stay",
        "digits": "scikit-learn's, 8x8 pixels, less their mean",
        "networks": "CNN: one convolution with one kernel as large as the image, circular padding, and a linear layer; "
        f"fully connected: {_UNITS} linear units and a linear layer; with ReLUs: two convolutions with stride 2 and a "
        "linear layer",
        "exact dynamics": f"gradient flow, integrated, from weights of {_SMALL:.0e}; large ones are of {_LARGE:.0e}",
        "training": "gradient descent on the squared error; the network with ReLUs from PyTorch's weights times 0.3",
        "rise over wait": "time from 10 to 90 % of a mode's strength, over the time to 50 %; median over modes",
    }
    return Outcome(tuple(rows), settings, {"modes": table})


def _crossed(times: Tensor, strengths: Tensor, targets: Tensor) -> Tensor:
    """Returns when modes have each of ``_SHARES`` of their strength, [3, m]."""
    return torch.stack([crossings(times, strengths, share * targets) for share in _SHARES])


def _followed(structure: DatasetStructure, network: LinearCNN | Dense) -> Tensor:
    half = integrate(structure, network).half_times
    known = half[half.isfinite() & (half > 0)]
    ends = math.log10(_SOONER * float(known.min())), math.log10(_LATER * float(known.max()))
    times = torch.cat([torch.zeros(1), torch.logspace(*ends, _POINTS, dtype=torch.float64)])
    strengths = integrate(structure, network, times=times).mode_strengths
    return _crossed(times, strengths, structure.singular_values)


def _cnn(structure: DatasetStructure, std: float, seed: int) -> Tensor:
    return _followed(structure, LinearCNN.drawn(structure.image_shape, len(structure.counts), std, seed=seed))


def _dense(structure: DatasetStructure, seed: int) -> Tensor:
    shape, outputs = structure.image_shape, len(structure.counts)
    return _followed(structure, Dense.drawn(shape, outputs, _SMALL, hidden=_UNITS, seed=seed))


def sharpness(curve: Tensor) -> float:
    """Returns the median over modes of rise over half-time; modes that never end their rise count as slowest.

    Args:
        curve: when modes begin to rise, are half learned, and have risen, [3, m].

    Example:
        >>> sharpness(torch.tensor([[1.0, 2.0, 4.0], [2.0, 4.0, 5.0], [2.0, 4.0, torch.inf]]))
        0.5
    """
    begin, half, end = curve
    ratio = (end - begin) / half
    return float(ratio.where(ratio.isfinite(), torch.inf).median())


def at_once(curve: Tensor) -> float:
    """Returns how many modes are rising, on average from the beginning of the first rise to the end of the last.

    Args:
        curve: as for ``sharpness``; modes that never end their rise are left out.

    Example:
        >>> at_once(torch.tensor([[0.0, 2.0], [0.5, 2.5], [1.0, 3.0]]).double())
        0.6666666666666666
    """
    begin, _, end = curve[:, curve.isfinite().all(0)]
    return float((end - begin).sum() / (end.max() - begin.min()))


def _rows(name: str, found: dict[str, list[Tensor]]) -> list[Row]:
    first = [sharpness(curve[:, curve[1].argmin()][:, None]) for curve in found["CNN"]]
    nulls = {
        "CNN from large weights": fmean(map(sharpness, found["large"])),
        "no wait (an exponential)": RELAXING,
        "fully connected network": fmean(map(sharpness, found["dense"])),
    }
    crowd = fmean(map(at_once, found["large"]))
    own = fmean(map(sharpness, found["CNN"]))
    slow = own > 2 * fmean(first)
    steps = "; later ones rise in several steps, one for each of their frequencies" if slow else ""
    return [
        Row(
            f"{name}, linear CNN, exact dynamics: rise over wait of a mode",
            "below 1: the wait is longer than the rise (“stage-like”)",
            (0.0, 1.0),
            summary(map(sharpness, found["CNN"])),
            len(found["CNN"]),
            nulls,
            f"the first mode {fmean(first):.2f}" + steps,
            "lower",
        ),
        Row(
            f"{name}, linear CNN, exact dynamics: modes that rise at once, on average over all rises",
            "ordered stages: fewer than from large weights",
            (0.0, crowd),
            summary(map(at_once, found["CNN"])),
            len(found["CNN"]),
            {"CNN from large weights": crowd, "fully connected network": fmean(map(at_once, found["dense"]))},
            better="lower",
        ),
    ]


def _in_training(setup: Setup, size: Size, table: list[dict[str, Any]]) -> list[Row]:
    images, labels = digits()
    images = images - images.mean(0)
    structure = dataset_structure([(images, labels)], covariance=False)
    makers: dict[str, Callable[[], nn.Module]] = {
        "linear CNN": lambda: ConvLinear(structure.image_shape, len(structure.counts), std=_SMALL).double(),
        "CNN with ReLUs": lambda: _scaled(structure, 0.3),
        "large": lambda: _scaled(structure, 1.0),
    }
    found: dict[str, list[float]] = {}
    for name, make in makers.items():
        found[name] = []
        for seed in range(size.draws):
            with torch.random.fork_rng():
                torch.manual_seed(seed)
                network = make()
            curve = _trained(network, structure, images, labels, seed, size.steps, name if setup.progress else False)
            found[name].append(sharpness(curve))
            table.append(_line("digits, training", name, seed, curve))
    return [
        Row(
            f"digits, {name}, training: rise over wait of a mode",
            "below 1: the wait is longer than the rise (“stage-like”)" + carried,
            (0.0, 1.0),
            summary(found[name]),
            len(found[name]),
            {"no wait (an exponential)": RELAXING} | beside,
            better="lower",
        )
        for name, carried, beside in (
            ("linear CNN", "", {}),
            ("CNN with ReLUs", ", carried over", {"from PyTorch's own weights": fmean(found["large"])}),
        )
    ]


def _scaled(structure: DatasetStructure, factor: float) -> nn.Module:
    network = ReluCNN(structure.image_shape, len(structure.counts))
    scaled_(network, factor)
    return network


def _trained(
    network: nn.Module,
    structure: DatasetStructure,
    images: Tensor,
    labels: Tensor,
    seed: int,
    steps: int,
    progress: str | bool,
) -> Tensor:
    linear = isinstance(network, ConvLinear)
    x = images.to(next(network.parameters()).dtype)
    batch = len(x) if linear else BATCH
    lr = stable_lr(network, x, labels, float(structure.growth_rates.max()), SMOOTH if linear else FAST)
    monitor = ModeMonitor(network, (x, labels), structure=structure, batch_size=len(x))
    epochs = math.ceil(steps / (len(x) // batch))
    options: dict[str, Any] = {"epochs": epochs, "lr": lr, "batch_size": batch, "loss": "squared", "seed": seed}
    train(network, x, labels, progress=progress, callbacks=[monitor], **options)
    return _crossed(monitor.steps, monitor.mode_strengths, monitor.targets)


def _line(data: str, network: str, draw: int, curve: Tensor) -> dict[str, Any]:
    begin, half, end = curve
    return {
        "data": data,
        "network": network,
        "draw": draw,
        "half-times": [round(t, 3) for t in half.tolist() if math.isfinite(t)],
        "rise over wait": [round(t, 2) for t in ((end - begin) / half).tolist() if math.isfinite(t)],
    }
