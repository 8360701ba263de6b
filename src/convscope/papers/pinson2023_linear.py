"""Predicted learning of linear CNNs against their exact dynamics: when modes are learned, and in which order."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from torch import Tensor

from convscope.core.results import finite
from convscope.dynamics.collect import dataset_structure
from convscope.dynamics.predict import predict_dynamics
from convscope.dynamics.structure import DatasetStructure
from convscope.papers.pinson2023_data import BY_CHANCE, cosines, digits, photographs_structure, ranks
from convscope.papers.registry import Outcome, Row, Scale, Setup, summary

_METHODS = ("stages", "closed-form", "independent")
_NAMES = {
    "stages": "stages",
    "closed-form": "closed form",
    "independent": "modes each by itself (the paper's equation)",
}


@dataclass(frozen=True)
class Size:
    """Sizes of one scale.

    Attributes:
        digits: draws of initial weights for all digits.
        photographs: standard deviation of the initial weights for photographs to the number of draws.
        images: number of photographs.
        side: of the photographs, in pixels.
    """

    digits: int
    photographs: Mapping[float, int]
    images: int
    side: int


SIZES: dict[Scale, Size] = {
    "smoke": Size(1, {1e-8: 1}, 60, 4),
    "cpu": Size(5, {1e-4: 3, 1e-8: 5}, 50_000, 32),
    "paper": Size(20, {1e-4: 20, 1e-8: 20}, 50_000, 32),
}


@dataclass(frozen=True)
class _Case:
    """Data and initial weights, with what was measured before: error and rank correlation of each method.

    Weights of a case with a gate are small enough for the limit; modes that are alone share no frequencies.
    """

    name: str
    init_std: float
    draws: int
    reference: Mapping[str, tuple[float, float]]
    gate: bool
    alone: bool
    structure: Callable[[], DatasetStructure]


def _reference(independent: tuple[float, float], stages: tuple[float, float], closed: tuple[float, float]) -> dict:
    return {"stages": stages, "closed-form": closed, "independent": independent}


def _cases(setup: Setup, size: Size) -> list[_Case]:
    def of_digits(center: bool) -> Callable[[], DatasetStructure]:
        return lambda: dataset_structure([digits()], center=center)

    def of_photographs() -> DatasetStructure:
        return photographs_structure(setup, size.images, "gray", size.side)

    known = {
        1e-4: _reference((1.48, 0.967), (0.124, 0.975), (0.098, 0.971)),
        1e-8: _reference((1.65, 0.929), (0.045, 0.979), (0.159, 0.946)),
    }
    found = [
        _Case(
            "five cosines",
            1e-6,
            size.digits,
            _reference((0.0, 1.0), (0.003, 1.0), (0.028, 1.0)),
            False,
            True,
            lambda: dataset_structure([cosines()], center=False),
        )
    ]
    found += [
        _Case(f"digits{what}", init_std, size.digits, _reference(*values), gate, False, of_digits(not what))
        for what, init_std, gate, values in (
            ("", 1e-3, False, ((0.94, 0.98), (0.116, 0.89), (0.097, 0.967))),
            ("", 1e-6, False, ((0.92, 0.967), (0.114, 0.90), (0.039, 0.983))),
            ("", 1e-10, True, ((0.94, 0.967), (0.047, 0.979), (0.048, 0.983))),
            (", mean not taken off", 1e-10, False, ((1.15, 0.988), (0.017, 0.985), (0.101, 0.90))),
        )
    ]
    return found + [
        _Case("CIFAR-10, gray", init_std, draws, known[init_std], init_std < 1e-6, False, of_photographs)
        for init_std, draws in size.photographs.items()
    ]


def times(setup: Setup) -> Outcome:
    """Returns how far predicted half-times of modes are from those of the exact dynamics."""
    size = SIZES[setup.scale]
    rows: list[Row] = []
    table: list[dict[str, Any]] = []
    for case in _cases(setup, size):
        structure = case.structure()
        found: dict[str, list[tuple[float, float]]] = {name: [] for name in _METHODS}
        order: list[tuple[float, float]] = []
        for seed in range(case.draws):
            exact = _half_times(structure, "exact", case.init_std, seed)
            order.append((
                ranks(exact, 1 / structure.effective_singular_values),
                ranks(exact, 1 / structure.singular_values),
            ))
            for name in _METHODS:
                predicted = _half_times(structure, name, case.init_std, seed)
                error = float(((predicted - exact).abs() / exact).median())
                found[name].append((error, ranks(predicted, exact)))
        rows += _rows(case, found)
        if case.name.startswith("CIFAR"):
            rows.append(_order(case, order))
        table += [_line(case, name, values) for name, values in found.items()]
    settings = {
        "network": "one convolution with one kernel as large as the image, circular padding, and a linear layer; "
        "Gaussian weights of the standard deviation named; gradient flow on the squared error",
        "five cosines": "one image of a class, 8x8 pixels, of different frequencies and falling contrast; means stay",
        "digits": "scikit-learn's, 8x8 pixels",
        "CIFAR-10": f"the first {size.images:,} training images, luminance, {size.side}x{size.side}",
        "error": "median over modes of |predicted − exact half-time| / exact; half-time: when a mode has half its "
        "singular value",
        "exact": "the gradient flow integrated numerically (method exact)",
    }
    return Outcome(tuple(rows), settings, {"half-times_by_method": table})


def _half_times(structure: DatasetStructure, method: Any, init_std: float, seed: int) -> Tensor:
    return predict_dynamics(structure, method=method, init_std=init_std, seed=seed).half_times


def _rows(case: _Case, found: Mapping[str, list[tuple[float, float]]]) -> list[Row]:
    at = f"{case.name}, initial weights of {case.init_std:.0e}"
    error, rank = case.reference["stages"]
    others = {_NAMES[name]: values for name, values in found.items() if name != "stages"}
    rows = []
    if case.gate:
        rows.append(
            Row(
                f"{at}: rank correlation with exact half-times, {_NAMES['independent']}",
                f"ordered: high (theory); reference {case.reference['independent'][1]:g}",
                (0.8, 1.0),
                summary((r for _, r in found["independent"]), BY_CHANCE, "modes in any order"),
                case.draws,
                note=f"times are wrong: relative error {fmean(e for e, _ in found['independent']):.2f}",
            )
        )
    if case.alone:
        rows.append(
            Row(
                f"{at}: relative error of half-times, {_NAMES['independent']}",
                f"0: modes share no frequency (theory); reference {case.reference['independent'][0]:g}",
                (0.0, 0.02),
                summary(e for e, _ in found["independent"]),
                case.draws,
                {_NAMES["closed-form"]: fmean(e for e, _ in found["closed-form"])},
                better="lower",
            )
        )
    return [
        *rows,
        Row(
            f"{at}: relative error of half-times, stages",
            f"tends to 0 with the initial weights (theory); reference {error:g}",
            (0.0, 0.1) if case.gate else None,
            summary(e for e, _ in found["stages"]),
            case.draws,
            {name: fmean(e for e, _ in values) for name, values in others.items()},
            better="lower",
        ),
        Row(
            f"{at}: rank correlation with exact half-times, stages",
            f"1 (theory); reference {rank:g}",
            (0.9, 1.0) if case.gate else None,
            summary((r for _, r in found["stages"]), None if case.alone else BY_CHANCE, "modes in any order"),
            case.draws,
            {name: fmean(r for _, r in values) for name, values in others.items()},
            better="higher",
        ),
    ]


def _order(case: _Case, order: list[tuple[float, float]]) -> Row:
    return Row(
        f"{case.name}, initial weights of {case.init_std:.0e}: rank correlation of exact half-times with "
        "1 / (s sqrt(N) phi_max)",
        "high (theory); reference 0.93",
        (0.8, 1.0),
        summary((effective for effective, _ in order), BY_CHANCE, "modes in any order"),
        case.draws,
        {"1 / s, a dense network's order": fmean(plain for _, plain in order)},
        better="higher",
    )


def _line(case: _Case, name: str, values: list[tuple[float, float]]) -> dict[str, Any]:
    errors, correlations = summary(e for e, _ in values), summary(r for _, r in values)
    return {
        "data": case.name,
        "initial weights": f"{case.init_std:.0e}",
        "method": _NAMES[name],
        "error": errors.value,
        "± over draws": errors.spread,
        "reference": case.reference[name][0],
        "rank correlation": finite(correlations.value),
        "its reference": case.reference[name][1],
        "draws": case.draws,
    }
