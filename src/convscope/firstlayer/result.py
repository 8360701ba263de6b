"""Frozen results of the first-layer theory."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np

from convscope.core.plain import array_of, facts_from_json, facts_to_json, reading, rounded_lists, text_of
from convscope.core.results import (
    Definition,
    Finding,
    LayerRow,
    Number,
    Skip,
    conv_shape,
    finite_list,
    numbers_from_json,
    numbers_to_json,
    register,
    skips_from_json,
    skips_to_json,
)

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure


@dataclass(frozen=True, eq=False, kw_only=True)
class PatchResult(ABC):
    """What is known along the principal components of the patches that one convolution sees.

    Attributes:
        layer: the convolution's name.
        numbers: headline numbers by definition key.
        curves: float64 arrays by name; those over components have as many entries as "variance".
        facts: what the sentences need beside the numbers.
        patches: float64 [m, c / groups, q, r], the leading principal components, of unit norm.
        skipped: what could not be computed, and why.
        arrays: large matrices by name, in no JSON: patch mean, covariances, principal patches.
    """

    kind: ClassVar[str]
    per_component: ClassVar[tuple[str, ...]] = ("variance",)
    required: ClassVar[tuple[str, ...]] = ()

    layer: str
    numbers: Mapping[str, Number]
    curves: Mapping[str, np.ndarray]
    facts: Mapping[str, str | bool | float]
    patches: np.ndarray
    skipped: tuple[Skip, ...]
    arrays: Mapping[str, np.ndarray] = field(default_factory=dict)

    def to_frame(self) -> pd.DataFrame:
        """Returns one row per principal component: share of variance, and every curve over components."""
        import pandas as pd

        variance = self.curves["variance"]
        d = len(variance)
        columns = {"component": np.arange(1, d + 1), "share of variance": variance / variance.sum()}
        columns |= {name: curve for name, curve in self.curves.items() if name != "variance" and len(curve) == d}
        return pd.DataFrame(columns)

    def definitions(self) -> dict[str, Definition]:
        """Returns how each number is computed."""
        from convscope.firstlayer.definitions import DEFINITIONS

        used = {number.definition for number in self.numbers.values()}
        return {key: definition for key, definition in DEFINITIONS.items() if key in used}

    def to_json(self) -> dict[str, Any]:
        """Returns plain JSON values."""
        return {
            "kind": self.kind,
            "layer": self.layer,
            "numbers": numbers_to_json(self.numbers),
            "curves": {name: finite_list(curve.tolist()) for name, curve in self.curves.items()},
            "facts": facts_to_json(self.facts),
            "patches": rounded_lists(self.patches),
            "skipped": skips_to_json(self.skipped),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Returns the result that ``to_json`` described.

        Raises:
            ConvscopeError: when fields are missing or of the wrong kind.
        """
        with reading(cls.kind):
            result = cls(**cls._fields(data))
            result._check()
        return result

    @classmethod
    def _fields(cls, data: Mapping[str, Any]) -> dict[str, Any]:
        return {
            "layer": text_of(data["layer"]),
            "numbers": numbers_from_json(data["numbers"]),
            "curves": {text_of(name): array_of(curve, 1) for name, curve in data["curves"].items()},
            "facts": facts_from_json(data["facts"]),
            "patches": array_of(data["patches"], 4),
            "skipped": skips_from_json(data["skipped"]),
        }

    def _check(self) -> None:
        if len({len(self.curves[name]) for name in self.per_component}) != 1:
            raise ValueError("its curves are of different lengths")
        if missing := [key for key in self.required if key not in self.numbers]:
            raise ValueError(f"it lacks {', '.join(missing)}")
        self.findings()  # finds the numbers and facts that sentences need, or fails

    @abstractmethod
    def findings(self) -> list[Finding]:
        """Returns the findings, the most telling first."""


@register
@dataclass(frozen=True, eq=False, kw_only=True)
class FirstLayerResult(PatchResult):
    """What the first-layer theory says about one convolution (Chowers & Weiss, 2023).

    Attributes:
        shape: (k, c / groups, q, r) of its filters.
        stride: (vertical, horizontal).
        filters: float64 [m, c / groups, q, r], the first filters, in weight units.
        consistency_names: names of the rows of ``consistency``; empty without other training runs.
        consistency: float64 [m, m], correlations between energy profiles.
    """

    kind: ClassVar[str] = "firstlayer"
    question: ClassVar[str] = "Which directions of image space does the first layer listen to?"
    per_component: ClassVar[tuple[str, ...]] = ("variance", "energy", "prediction", "random_low", "random_high")
    required: ClassVar[tuple[str, ...]] = ("formula", "bump", "eigenvalue_curve", "inverse_curve", "ramp", "margin")

    shape: tuple[int, ...]
    stride: tuple[int, int]
    filters: np.ndarray
    consistency_names: tuple[str, ...] = ()
    consistency: np.ndarray = field(default_factory=lambda: np.empty((0, 0)))

    def figures(self) -> dict[str, Figure]:
        """Returns the charts, the energy profile first."""
        from convscope.firstlayer.figures import figures

        return figures(self)

    def findings(self) -> list[Finding]:
        """Returns the findings, the most telling first."""
        from convscope.firstlayer.findings import findings

        return findings(self)

    def layers(self) -> dict[str, LayerRow]:
        """Returns the convolution's headline numbers."""
        headings = {
            "formula": "formula fit",
            "bump": "plain bump",
            "held_out": "held-out fit",
            "response": "response correlation",
        }
        numbers = {heading: self.numbers[k] for k, heading in headings.items() if k in self.numbers}
        return {self.layer: LayerRow(numbers, conv_shape(self.shape, self.stride))}

    def to_json(self) -> dict[str, Any]:
        """Returns plain JSON values."""
        return super().to_json() | {
            "shape": list(self.shape),
            "stride": list(self.stride),
            "filters": rounded_lists(self.filters),
            "consistency_names": list(self.consistency_names),
            "consistency": [finite_list(row) for row in self.consistency.tolist()],
        }

    @classmethod
    def _fields(cls, data: Mapping[str, Any]) -> dict[str, Any]:
        return super()._fields(data) | {
            "shape": tuple(int(n) for n in data["shape"]),
            "stride": (int(data["stride"][0]), int(data["stride"][1])),
            "filters": array_of(data["filters"], 4),
            "consistency_names": tuple(text_of(name) for name in data["consistency_names"]),
            "consistency": array_of(data["consistency"], 2) if data["consistency"] else np.empty((0, 0)),
        }

    def _check(self) -> None:
        super()._check()
        if len(self.shape) != 4:
            raise ValueError("its filters have no shape (k, c, q, r)")
        if {self.filters.shape[1:], self.patches.shape[1:]} != {self.shape[1:]} or len(self.filters) > self.shape[0]:
            raise ValueError("its filters and patches are not of its shape")
        if self.consistency.shape != (len(self.consistency_names),) * 2:
            raise ValueError("its consistency matrix does not fit its names")
        if self.facts.get("best_rival") not in {
            "index bump",
            "eigenvalue curve",
            "inverse eigenvalue curve",
            "linear ramp",
        }:
            raise ValueError("it names no baseline")
