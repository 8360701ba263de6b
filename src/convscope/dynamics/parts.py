"""Parts of the result that rest on a trained network: frozen values, and their plain JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np

from convscope.core.plain import array_of, facts_from_json, facts_to_json, rounded_lists, text_of
from convscope.core.results import (
    Number,
    number_from_json,
    number_to_json,
    numbers_from_json,
    numbers_to_json,
)

Facts = Mapping[str, str | bool | float]

CURVES = {"steps": 1, "strengths": 2, "expected_steps": 1, "expected_strengths": 2, "spectra": 3, "used": 3}


@dataclass(frozen=True, eq=False)
class Trained:
    """What a network, trained on the spot, learned of its images' modes, beside what is predicted of it.

    Attributes:
        numbers: of all modes together, by definition key.
        modes: of each mode of these images, by definition key.
        facts: "kind" (of network, in words), "images", "scaled" (factor on predicted times; 1 where it is linear),
            "complete", "cost", "notes".
        curves: measured strengths over the labels' own [T, m] at steps [T]; predicted ones likewise; spectra of the
            modes and those that the network used [m, h, w], frequency 0 near the middle.
    """

    numbers: Mapping[str, Number]
    modes: tuple[Mapping[str, Number], ...]
    facts: Facts
    curves: Mapping[str, np.ndarray]

    def to_json(self) -> dict[str, Any]:
        """Returns plain JSON values."""
        return {
            "numbers": numbers_to_json(self.numbers),
            "modes": [numbers_to_json(mode) for mode in self.modes],
            "facts": facts_to_json(self.facts),
            "curves": {name: rounded_lists(array) for name, array in self.curves.items()},
        }

    @classmethod
    def of(cls, data: Mapping[str, Any]) -> Self:
        """Returns what ``to_json`` described.

        Raises:
            ValueError: when curves do not fit each other.
        """
        found = cls(
            numbers_from_json(data["numbers"]),
            tuple(map(numbers_from_json, data["modes"])),
            facts_from_json(data["facts"]),
            {name: array_of(values, CURVES[name]) for name, values in data["curves"].items()},
        )
        curves = found.curves
        columns = {curves[name].shape[1] for name in ("strengths", "expected_strengths") if name in curves}
        if "strengths" not in curves or len(columns) != 1 or not 1 <= columns.pop() <= len(found.modes):
            raise ValueError("its measured curves do not fit the modes")
        for steps in ("steps", "expected_steps"):
            strengths = steps.replace("steps", "strengths")
            if (steps in curves) != (strengths in curves) or len(curves.get(steps, ())) != len(
                curves.get(strengths, ())
            ):
                raise ValueError("its measured curves do not fit their steps")
        if curves["spectra"].shape != curves["used"].shape:
            raise ValueError("its spectra do not fit each other")
        return found


@dataclass(frozen=True, eq=False)
class FrequencyUse:
    """How right a trained network stays when images keep few frequencies, or other images' amplitudes.

    Attributes:
        numbers: "clean_accuracy", and where amplitudes and phases were swapped, by definition key.
        counts: how many frequencies are kept.
        kept: by ranking of frequencies, accuracy when only the first ones are kept; "random" among them.
        facts: "network" (its name), "images", "frequencies".
    """

    numbers: Mapping[str, Number]
    counts: tuple[int, ...]
    kept: Mapping[str, tuple[Number, ...]]
    facts: Facts = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Returns plain JSON values."""
        return {
            "numbers": numbers_to_json(self.numbers),
            "counts": list(self.counts),
            "kept": {name: [number_to_json(n) for n in curve] for name, curve in self.kept.items()},
            "facts": dict(self.facts),
        }

    @classmethod
    def of(cls, data: Mapping[str, Any]) -> Self:
        """Returns what ``to_json`` described.

        Raises:
            ValueError: when curves do not fit their counts.
        """
        found = cls(
            numbers_from_json(data["numbers"]),
            tuple(int(n) for n in data["counts"]),
            {text_of(name): tuple(map(number_from_json, curve)) for name, curve in data["kept"].items()},
            facts_from_json(data["facts"]),
        )
        if not found.counts or any(len(curve) != len(found.counts) for curve in found.kept.values()):
            raise ValueError("its filtered images do not fit their counts")
        return found
