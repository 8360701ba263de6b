"""Predictions of the learning of linear CNNs against training: stages of colour images, and kernels of all sizes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from convscope.dynamics.collect import dataset_structure
from convscope.dynamics.exact import escape_rate
from convscope.dynamics.flow import flow_of
from convscope.dynamics.linear import LinearCNN, Padding
from convscope.dynamics.predict import predict_dynamics
from convscope.dynamics.stages import stages
from convscope.dynamics.structure import DatasetStructure
from convscope.dynamics.training import train_and_measure
from convscope.papers.pinson2023_data import photographs, photographs_structure, ranks
from convscope.papers.registry import Outcome, Row, Scale, Setup, summary
from convscope.training.linear import ConvLinear
from convscope.training.loop import squared_error


@dataclass(frozen=True)
class Size:
    """Sizes of one scale: images for moments and for training, their side, draws, steps, kernels."""

    images: int
    trained: int
    side: int
    draws: int
    steps: int
    kernels: tuple[int, ...]


SIZES: dict[Scale, Size] = {
    "smoke": Size(15, 15, 4, 1, 200, (1, 3)),
    "cpu": Size(50_000, 2_000, 16, 2, 20_000, (1, 3, 5, 7, 11, 15, 31)),
    "paper": Size(50_000, 10_000, 16, 5, 50_000, (1, 3, 5, 7, 11, 15, 31)),
}
_FILTERS = 3
_SMALL, _LARGE = 1e-6, 1e-3


def colours(setup: Setup) -> Outcome:
    """Returns how far predicted stages of colour images are from the exact dynamics, and from a network's training."""
    size = SIZES[setup.scale]
    structure = photographs_structure(setup, size.images, "colour", size.side)
    rows: list[Row] = []
    table: list[dict[str, Any]] = []
    for init_std, draws, reference in ((_SMALL, size.draws, "0.06, one draw"), (_LARGE, 1, "0.27, one draw")):
        options = {"init_std": init_std, "channels": _FILTERS}
        found: dict[str, list[tuple[float, float]]] = {"stages": [], "closed-form": []}
        for seed in range(draws):
            exact = predict_dynamics(structure, seed=seed, **options).half_times  # type: ignore[arg-type]
            for name, values in found.items():
                half = predict_dynamics(structure, method=name, seed=seed, **options).half_times  # type: ignore[arg-type]
                values.append(_error(half, exact))
                table.append(_line(f"{init_std:.0e}", seed, name, "exact dynamics", half, exact))
        rows.append(
            Row(
                f"initial weights of {init_std:.0e}: relative error of half-times, stages against the exact dynamics",
                f"tends to 0 with the initial weights (theory); reference {reference}",
                (0.0, 0.1) if init_std == _SMALL else None,
                summary(error for error, _ in found["stages"]),
                draws,
                {"closed form": fmean(error for error, _ in found["closed-form"])},
                f"rank correlation {fmean(rank for _, rank in found['stages']):.2f}",
                "lower",
            )
        )
    rows += _against_training(setup, size, table)
    settings = {
        "images": f"CIFAR-10, {size.side}x{size.side} (means over blocks): {size.images:,} for the exact dynamics, the "
        f"first {size.trained:,} for training",
        "network": f"one convolution with {_FILTERS} kernels as large as the image, circular padding, and a linear "
        "layer; Gaussian weights",
        "training": "gradient descent on all images at once, squared error, float64; PyTorch's automatic derivatives",
        "error": "median over modes of |predicted − half-time| / half-time",
    }
    return Outcome(tuple(rows), settings, {"half-times": table})


def _against_training(setup: Setup, size: Size, table: list[dict[str, Any]]) -> list[Row]:
    images, labels = photographs(setup, size.trained, "colour", size.side)
    structure = dataset_structure([(images, labels)])
    found: dict[str, list[tuple[float, float]]] = {"stages": [], "exact": []}
    of_flow: list[float] = []
    late: list[float] = []
    for seed in range(size.draws):
        network = _drawn(structure, seed, _SMALL, filters=_FILTERS)
        start = LinearCNN.of(network.conv, network.linear, structure.image_shape)
        measured = train_and_measure(
            network, images.double(), labels, steps=size.steps, progress="stages" if setup.progress else False
        )
        if measured.predicted is None:
            raise AssertionError("a linear CNN of small images has an exact prediction")
        staged, exact = stages(structure, start).half_times, measured.predicted.half_times
        of_flow.append(_error(staged, exact)[0])
        late.append(float(measured.half_times[0] / exact[0] - 1))
        for name, half in (("stages", staged), ("exact", exact)):
            found[name].append(_error(half, measured.half_times))
            table.append(_line(f"{_SMALL:.0e}", seed, name, "training", half, measured.half_times))
    reasons = {
        "stages": f"two errors add. Against the exact dynamics of the same images stages err by {fmean(of_flow):.3f}: "
        "with these weights a stage is not learned at once, and modes that wait near half their strength between two "
        "stages cross it at another stage. Against these, gradient descent with its finite step learns the first mode "
        f"{fmean(late):.1%} late"
    }
    return [
        Row(
            f"initial weights of {_SMALL:.0e}: relative error of half-times, {name} against a network in training",
            wanted,
            (0.0, limit),
            summary(error for error, _ in values),
            size.draws,
            note=f"rank correlation {fmean(rank for _, rank in values):.2f}",
            reason=reasons.get(name, ""),
        )
        for (name, values), wanted, limit in zip(
            found.items(),
            ("tends to 0 with the initial weights (theory); reference none", "tends to 0 with the step (theory)"),
            (0.1, 0.05),
            strict=True,
        )
    ]


def _error(found: Tensor, true: Tensor) -> tuple[float, float]:
    """Returns the median relative error and the rank correlation of half-times, of modes that were learned."""
    known = true.isfinite()
    return float(((found - true).abs() / true)[known].median()), ranks(found[known], true[known])


def _line(weights: str, seed: int, method: str, against: str, found: Tensor, true: Tensor) -> dict[str, Any]:
    return {
        "initial weights": weights,
        "draw": seed,
        "method": method,
        "against": against,
        "predicted": [round(t, 3) for t in found.tolist() if t != float("inf")],
        "true": [round(t, 3) for t in true.tolist() if t != float("inf")],
    }


def _drawn(structure: DatasetStructure, seed: int, std: float, **options: Any) -> ConvLinear:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = ConvLinear(structure.image_shape, len(structure.counts), **options).double()
        with torch.no_grad():
            for weight in network.parameters():
                weight.copy_(std * torch.randn(weight.shape, dtype=torch.float64))
    return network


_IMAGES = 500
_TINY = 1e-45  # standard deviation of weights that are to grow for long before anything is learned
# Learning rate times rate. Weights that are far from having learned anything obey linear equations, whose steps grow by
# 1 + learning rate times rate, whatever the step.
_STEP = 0.5
_STEPS = 200
_LAST = 50  # steps over which growth is measured
# Rates on all of CIFAR-10, gray, that were measured before, by kernel size.
_REFERENCE = {1: 0.553, 3: 1.609, 5: 2.593, 7: 3.491, 11: 5.03, 15: 6.27}
_FULL = 10.28
_PADDINGS: tuple[Padding, ...] = ("circular", "zeros")


def kernels(setup: Setup) -> Outcome:
    """Returns how fast small weights grow in training, over what the data's patches say, by size of the kernel."""
    size = SIZES[setup.scale]
    side = 32 if setup.scale != "smoke" else 8
    images, labels = photographs(setup, _IMAGES, "gray", side)
    images = (images - images.mean(0)).double()
    few = dataset_structure([(images, labels)])
    every = photographs_structure(setup, size.images, "gray", side)
    table: list[dict[str, Any]] = []
    ratios: dict[str, list[float]] = {padding: [] for padding in _PADDINGS}
    beside: dict[str, dict[str, list[float]]] = {padding: {} for padding in _PADDINGS}
    full, dense = float(few.growth_rates.max()), float(few.singular_values[0])
    for kernel in size.kernels:
        for padding in _PADDINGS:
            network = _drawn(few, 0, _TINY, kernel_size=kernel, padding=padding)
            predicted = _rate(network, few)
            measured = _growth(network, images, labels, _STEP / predicted)
            ratios[padding].append(measured / predicted)
            for name, rate in (("a kernel as large as the image", full), ("a dense network", dense)):
                beside[padding].setdefault(name, []).append(measured / rate)
            table.append({
                "kernel": kernel,
                "padding": padding,
                "predicted": predicted,
                "in training": measured,
                "predicted, all images": _rate(network, every),
                "reference, all images": _REFERENCE.get(kernel) if padding == "circular" else None,
            })
    rows = [
        Row(
            f"{padding} padding: rate of growth in training, over the predicted one",
            "1 (theory); reference " + ("1, digits" if padding == "circular" else "0.997, 3x3 kernels"),
            (0.99, 1.01),
            summary(values),
            len(values),
            {f"over the rate of {name}": fmean(found) for name, found in beside[padding].items()},
            f"kernels of {', '.join(str(k) for k in size.kernels)} pixels; least {min(values):.4f}, "
            f"most {max(values):.4f}",
        )
        for padding, values in ratios.items()
    ]
    if side == 32:
        rows += _at_scale(table, every, size.kernels)
    settings = {
        "images": f"CIFAR-10, luminance, {side}x{side}, less their mean: the first {_IMAGES} in training; "
        f"{size.images:,} for the rates of all images",
        "network": "one convolution with one kernel, padding that keeps the size (“same”), and a linear layer",
        "training": f"gradient descent on all images at once from weights of {_TINY:g}, so that nothing is learned "
        f"meanwhile; {_STEPS:,} steps of {_STEP:g} / rate",
        "rate in training": f"(growth a step − 1) / learning rate, over the last {_LAST} steps, of the kernel's norm",
    }
    return Outcome(tuple(rows), settings, {"rates": table})


def _at_scale(table: Sequence[dict[str, Any]], every: DatasetStructure, sizes: Sequence[int]) -> list[Row]:
    known = [line for line in table if line["reference, all images"] is not None]
    found = [line["predicted, all images"] / line["reference, all images"] for line in known]
    full = float(every.growth_rates.max())
    dense = float(every.singular_values[0])
    return [
        Row(
            "circular padding, all images: predicted rate, over the reference's",
            "1",
            (0.99, 1.01),
            summary(found),
            len(found),
            note=f"kernels of {', '.join(str(line['kernel']) for line in known)} pixels",
        ),
        Row(
            "kernel as large as the image, all images: predicted rate",
            f"sqrt(N) max ||sigma_j|| (theory); reference {_FULL}",
            (0.99 * _FULL, 1.01 * _FULL),
            summary([full]),
            1,
            {"dense network": dense, f"kernel of {sizes[0]} pixel": known[0]["predicted, all images"]},
        ),
    ]


def _rate(network: ConvLinear, structure: DatasetStructure) -> float:
    shape = structure.image_shape
    start = LinearCNN.of(network.conv, network.linear, shape)
    return escape_rate(flow_of(start, shape), [w.shape for w in start.weights], structure.cross, iterations=500)


def _growth(network: ConvLinear, images: Tensor, labels: Tensor, lr: float) -> float:
    """Returns the rate at which the kernel of a network in training grows, per unit of time."""
    rule = torch.optim.SGD(network.parameters(), lr)
    before = 0.0
    for step in range(_STEPS):
        if step == _STEPS - _LAST:
            before = float(network.conv.weight.detach().norm())
        rule.zero_grad()
        torch.autograd.backward(squared_error(network(images), labels))
        rule.step()
    grown = float(network.conv.weight.detach().norm()) / before
    return (grown ** (1 / _LAST) - 1) / lr
