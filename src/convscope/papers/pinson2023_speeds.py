"""How much faster a linear CNN learns a mode than a fully connected linear network does."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from convscope.core.errors import ConvscopeError
from convscope.dynamics.closed import closed_form
from convscope.dynamics.collect import dataset_structure
from convscope.dynamics.dense import dense_closed_form
from convscope.dynamics.exact import integrate
from convscope.dynamics.linear import Dense, LinearCNN
from convscope.dynamics.structure import DatasetStructure, alone, diagnostics
from convscope.dynamics.training import Kind, Measured, train_and_measure
from convscope.papers.pinson2023_data import digits, photographs
from convscope.papers.registry import Outcome, Row, Scale, Setup, summary


@dataclass(frozen=True)
class Size:
    """Sizes of one scale.

    Attributes:
        known: known images on which networks are trained; the exact dynamics are those of all.
        digits: draws of initial weights for known images and digits.
        photographs: draws for photographs.
        alone: modes that are tried each by itself.
        images: photographs.
        side: of the photographs, in pixels.
        steps: of training, at most.
    """

    known: int
    digits: int
    photographs: int
    alone: int
    images: int
    side: int
    steps: int


SIZES: dict[Scale, Size] = {
    "smoke": Size(1, 1, 1, 1, 30, 4, 300),
    "cpu": Size(4, 3, 1, 9, 2_000, 16, 20_000),
    "paper": Size(4, 10, 5, 9, 10_000, 16, 50_000),
}
_UNITS = 32  # of the fully connected network
_SMALL, _SMALLER = 1e-6, 1e-10  # standard deviations of initial weights, integrated
_TRAINED = 1e-4  # the same, in training
_SIDE = 8


def patterns(side: int = _SIDE) -> dict[str, Tensor]:
    """Returns images of norm 1, float64 [1, side, side], whose modes are learned from no to sqrt(N) times faster.

    Example:
        >>> {name: round(float(image.norm()), 6) for name, image in patterns(4).items()}
        {'one wave': 1.0, 'one pixel': 1.0, 'constant': 1.0, 'checkerboard': 1.0}
    """
    place = torch.arange(side, dtype=torch.float64)
    pixel, even = torch.zeros(1, side, side, dtype=torch.float64), torch.ones(1, side, side, dtype=torch.float64)
    pixel[0, 0, 0] = 1
    wave = (2 * math.pi * place / side).cos() * even
    images = {"one wave": wave, "one pixel": pixel, "constant": even, "checkerboard": (-1) ** (place[:, None] + place)}
    return {name: image.view_as(even) / image.norm() for name, image in images.items()}


def speeds(setup: Setup) -> Outcome:
    """Returns over how much time a linear CNN and a fully connected network learn the same modes."""
    size = SIZES[setup.scale]
    rows, table = _known(setup, size)
    data: dict[str, Callable[[], tuple[Tensor, Tensor]]] = {
        "digits": digits,
        "CIFAR-10, gray": lambda: photographs(setup, size.images, "gray", size.side),
    }
    for (name, load), draws in zip(data.items(), (size.digits, size.photographs), strict=True):
        images, labels = load()
        pairs = [_pair(setup, images, labels, seed, size.steps) for seed in range(draws)]
        rows += _alone(name, pairs[0][0].structure, size.alone, table)
        rows += _together(name, pairs, table)
    settings = {
        "known images": f"{_SIDE}x{_SIDE} pixels: the image in one class, its negative in the other; one mode",
        "digits": "scikit-learn's, 8x8 pixels, less their mean",
        "CIFAR-10": f"the first {size.images:,} training images, luminance, {size.side}x{size.side}, less their mean",
        "networks": "CNN: one convolution with one kernel as large as the image, circular padding, and a linear layer; "
        f"fully connected: {_UNITS} linear units and a linear layer; Gaussian weights of the same standard deviation",
        "exact dynamics": f"gradient flow, integrated; the rate at which a mode grows is ln({_SMALL / _SMALLER:.0e}) "
        f"over what its half-time gains when the initial weights fall from {_SMALL:.0e} to {_SMALLER:.0e}",
        "training": "gradient descent on all images at once, squared error, float64; PyTorch's automatic derivatives; "
        f"initial weights of {_TRAINED:.0e} (known images also of {_TRAINED / 100:.0e}, for the rates)",
        "distance": "median over modes of |ln(measured / predicted ratio)|",
    }
    return Outcome(tuple(rows), settings, {"ratios": table})


def gains(structure: DatasetStructure) -> Tensor:
    """Returns sqrt(N) max |F phi| of each mode, [m]: how much faster than a fully connected network a CNN learns it."""
    return structure.effective_singular_values / structure.singular_values


def growth(half_times: Callable[[float], Tensor], larger: float, smaller: float) -> Tensor:
    """Returns the rates [m] at which modes grow, from their half-times with two sizes of the same initial weights.

    A mode that grows as std^2 exp(2 v t) has its half ln(larger / smaller) / v later from the smaller weights.

    Example:
        >>> growth(lambda std: torch.tensor([-2 * math.log(std) / (2 * 3.0)]), 1e-4, 1e-6)
        tensor([3.])
    """
    return math.log(larger / smaller) / (half_times(smaller) - half_times(larger))


def _cnn(structure: DatasetStructure, seed: int) -> Callable[[float], Tensor]:
    drawn = LinearCNN.drawn
    shape, outputs = structure.image_shape, len(structure.counts)
    return lambda std: integrate(structure, drawn(shape, outputs, std, seed=seed)).half_times


def _dense(structure: DatasetStructure, seed: int) -> Callable[[float], Tensor]:
    drawn = Dense.drawn
    shape, outputs = structure.image_shape, len(structure.counts)
    return lambda std: integrate(structure, drawn(shape, outputs, std, hidden=_UNITS, seed=seed)).half_times


def _measured(setup: Setup, kind: Kind, images: Tensor, labels: Tensor, std: float, seed: int, steps: int) -> Measured:
    title = f"{kind}, seed {seed}" if setup.progress else False
    return train_and_measure(kind, images, labels, init_std=std, seed=seed, steps=steps, filters=1, progress=title)


def _known(setup: Setup, size: Size) -> tuple[list[Row], list[dict[str, Any]]]:
    rows, table = [], []
    trained: list[float] = []
    bare: list[float] = []
    for place, (name, image) in enumerate(patterns().items()):
        images, labels = torch.stack([image, -image]), torch.arange(2)
        structure = dataset_structure([(images, labels)])
        gain = float(gains(structure))

        def in_training(kind: Kind, seed: int, data: tuple[Tensor, Tensor] = (images, labels)) -> Tensor:
            def half(std: float) -> Tensor:
                return _measured(setup, kind, *data, std, seed, size.steps).half_times

            return growth(half, _TRAINED, _TRAINED / 100)

        found = []
        for seed in range(size.digits):
            rates = (growth(make(structure, seed), _SMALL, _SMALLER) for make in (_cnn, _dense))
            cnn, dense = map(float, rates)
            found.append(cnn / dense)
            table.append(_line(name, 1, gain, "exact dynamics", seed, found[-1]))
            if place < size.known:
                bare.append(float(in_training("linear-cnn", seed) / in_training("linear-mlp", seed)))
                trained.append(bare[-1] / gain)
                table.append(_line(name, 1, gain, "training", seed, bare[-1]))
        rows.append(
            Row(
                f"known image, {name}: rate of growth in the CNN over that in the fully connected network",
                f"sqrt(N) max |F phi| = {gain:.4g} (theory)",
                (0.98 * gain, 1.02 * gain),
                summary(found),
                len(found),
                {"no difference": 1.0, "sqrt(N)": float(_SIDE)},
            )
        )
    rows.append(
        Row(
            "known images, networks in training: rate of growth over that in the fully connected network, over the "
            "predicted ratio",
            "1 (theory)",
            (0.95, 1.05),
            summary(trained),
            len(trained),
            {"if there were no difference": fmean(bare), "if it were sqrt(N)": fmean(bare) / _SIDE},
            f"least {min(trained):.3f}, most {max(trained):.3f}",
        )
    )
    return rows, table


def _distances(ratio: Tensor, predicted: Mapping[str, Tensor]) -> dict[str, float]:
    """Returns median |ln(ratio / predicted)| over modes that were learned, for each prediction.

    Raises:
        ConvscopeError: when none was.
    """
    known = ratio.isfinite() & (ratio > 0)
    if not known.any():
        raise ConvscopeError("no mode was half learned by both networks: more steps of training are needed")
    return {
        name: float((ratio / value.expand_as(ratio))[known].log().abs().median()) for name, value in predicted.items()
    }


def _nulls(structure: DatasetStructure) -> dict[str, Tensor]:
    one = torch.ones((), dtype=torch.float64)
    return {"no difference": one, "sqrt(N)": one * math.sqrt(structure.pixels)}


def _alone(name: str, structure: DatasetStructure, modes: int, table: list[dict[str, Any]]) -> list[Row]:
    """Returns how far measured ratios of growth are from predicted ones where each mode is all the data."""
    predicted, found = gains(structure)[:modes], []
    for mode in range(len(predicted)):
        only = alone(structure, mode)
        found.append(float(growth(_cnn(only, 0), _SMALL, _SMALLER) / growth(_dense(only, 0), _SMALL, _SMALLER)))
        table.append(_line(name, mode + 1, float(predicted[mode]), "exact dynamics, alone", 0, found[-1]))
    distances = _distances(torch.tensor(found, dtype=torch.float64), {"": predicted, **_nulls(structure)})
    off = [abs(math.log(ratio / gain)) for ratio, gain in zip(found, predicted.tolist(), strict=True)]
    nulls = {rival: distances[rival] for rival in _nulls(structure)}
    return [
        Row(
            f"{name}, each mode alone, exact dynamics: |ln| of the ratio of rates over sqrt(N) max |F phi|",
            "0 in the limit of small weights (theory)",
            (0.0, 0.05),
            summary(off),
            len(off),
            nulls,
            f"ratios {min(found):.2f} to {max(found):.2f}, predicted {float(predicted.min()):.2f} to "
            f"{float(predicted.max()):.2f}; slower frequencies contribute while weights are not yet tiny",
            "lower",
        )
    ]


def _pair(setup: Setup, images: Tensor, labels: Tensor, seed: int, steps: int) -> tuple[Measured, Measured]:
    kinds: tuple[Kind, Kind] = ("linear-cnn", "linear-mlp")
    cnn, dense = (_measured(setup, kind, images, labels, _TRAINED, seed, steps) for kind in kinds)
    return cnn, dense


def _together(name: str, pairs: Sequence[tuple[Measured, Measured]], table: list[dict[str, Any]]) -> list[Row]:
    """Returns how far ratios of half-times are from predicted ones where a network learns all modes."""
    structure = pairs[0][0].structure
    predicted = gains(structure)
    start = LinearCNN.drawn(structure.image_shape, len(structure.counts), _TRAINED)
    shared = dense_closed_form(structure, _TRAINED, _UNITS).half_times / closed_form(structure, start).half_times
    known = {"alone": predicted, "shared": shared, **_nulls(structure)}
    found: list[dict[str, float]] = []
    exact: list[float] = []
    for seed, (cnn, dense) in enumerate(pairs):
        ratio = dense.half_times / cnn.half_times
        found.append(_distances(ratio, known))
        if cnn.predicted is not None and dense.predicted is not None:
            flow = dense.predicted.half_times / cnn.predicted.half_times
            exact.append(_distances(ratio, {"": flow})[""])
            table += [
                _line(name, mode + 1, gain, where, seed, float(values[mode]), float(shared[mode]))
                for mode, gain in enumerate(predicted.tolist())
                for where, values in (("exact dynamics", flow), ("training", ratio))
            ]
    first = pairs[0][1].half_times / pairs[0][0].half_times
    nulls = {rival: fmean(distances[rival] for distances in found) for rival in _nulls(structure)}
    by_frequency = fmean(distances["shared"] for distances in found)
    how = f"; exact dynamics against training: {fmean(exact):.3f}" if exact else ""
    return [
        Row(
            f"{name}, all modes in one network, training: distance of the ratio of half-times from sqrt(N) max |F phi|",
            "nearer than either null (the theory of modes each by itself, carried over)",
            (0.0, min(nulls.values())),
            summary(distances["alone"] for distances in found),
            len(found),
            nulls,
            f"modes {_listed(predicted)} times faster by the theory, {_listed(first)} in training{how}",
            "lower",
            reason="modes share frequencies in one network: a late mode finds those grown that earlier modes have "
            f"brought up, and is learned faster than by itself. Frequencies that learn each by itself account for "
            f"that: their distance is {by_frequency:.2f}",
        ),
        Row(
            f"{name}, all modes in one network, training: distance of the ratio of half-times from the closed form, "
            "where modes share frequencies",
            "nearer than either null (theory)",
            (0.0, min(nulls.values())),
            summary(distances["shared"] for distances in found),
            len(found),
            {"modes each by itself": fmean(distances["alone"] for distances in found), **nulls},
            better="lower",
            reason=f"frequencies are correlated, by {diagnostics(structure).frequency_coupling:.2f} of their "
            "covariance, which the closed form leaves out"
            + (f": the exact dynamics, which have it, are at {fmean(exact):.3f} from training" if exact else ""),
        ),
    ]


def _listed(values: Tensor) -> str:
    return ", ".join(f"{value:.1f}" for value in values.tolist())


def _line(
    data: str, mode: int, predicted: float, where: str, draw: int, measured: float, shared: float | None = None
) -> dict[str, Any]:
    return {
        "data": data,
        "mode": mode,
        "sqrt(N) max |F phi|": predicted,
        "closed form": shared,
        "measured in": where,
        "draw": draw,
        "ratio": measured,
    }
