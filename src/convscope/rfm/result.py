"""Frozen result of convolutional kernel machines that learn features."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np

from convscope.core.plain import array_of, facts_from_json, facts_to_json, reading, rounded_lists, text_of
from convscope.core.png import pictures_from_json, pictures_to_json
from convscope.core.results import (
    Definition,
    Finding,
    LayerRow,
    Number,
    Skip,
    columns_of,
    numbers_from_json,
    numbers_to_json,
    register,
    skips_from_json,
    skips_to_json,
)

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure


@dataclass(frozen=True, eq=False)
class MetricPictures:
    """What the page shows of a metric on patches, or of a matrix like it.

    Attributes:
        matrix: float64 [m, m], the matrix or a part of it, over its largest entry.
        part: which part of it is shown, in words; "" for all.
        patches: float64 [r, c', q, q], its leading eigenvectors, of unit norm.
        shares: share of the trace of each of them.
        channels: numbers, from 1, of the c' channels that are shown.
    """

    matrix: np.ndarray
    part: str
    patches: np.ndarray
    shares: tuple[float, ...]
    channels: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class FeatureLayer:
    """One layer of feature learning: a kernel machine, and the metrics that it learned one after the other.

    Attributes:
        shape: (c, q, q) of its patches.
        iterations: numbers by definition key of each iteration, from 0, the kernel whose metric is the identity.
        best: the iteration that was selected.
        numbers: of the metric of that iteration, by definition key; none for iteration 0.
        pictures: of that metric; None for iteration 0.
    """

    shape: tuple[int, int, int]
    iterations: tuple[Mapping[str, Number], ...]
    best: int
    numbers: Mapping[str, Number]
    pictures: MetricPictures | None


@register
@dataclass(frozen=True, eq=False, kw_only=True)
class RfmResult:
    """A kernel machine that learned which patches matter, beside the one that did not (Beaglehole et al. 2023).

    Attributes:
        stack: one layer of ConvRFM; several of Deep ConvRFM, each on random features of the one before.
        chosen: which of them predicts, from 0.
        numbers: of the comparison with a CNN, by definition key; empty without one.
        facts: what the sentences need beside the numbers: "images", "test_images" (their number; 0 for none).
        cnn: pictures of a CNN's first layer on the same images by name ("NFM", "AGOP"); empty without one.
        views: uint8 [images * (1 + directions), h, w, 3], each image followed by how its patches answer.
        view_names: what each of those answers is to.
        skipped: what could not be computed, and why.
        arrays: large matrices by name, in no JSON: the metric of each layer.
    """

    kind: ClassVar[str] = "rfm"
    question: ClassVar[str] = "Does learning which patches matter help a kernel?"

    stack: tuple[FeatureLayer, ...]
    chosen: int
    numbers: Mapping[str, Number] = field(default_factory=dict)
    facts: Mapping[str, str | bool | float]
    cnn: Mapping[str, MetricPictures] = field(default_factory=dict)
    views: np.ndarray = field(default_factory=lambda: np.zeros((0, 1, 1, 3), np.uint8))
    view_names: tuple[str, ...] = ()
    skipped: tuple[Skip, ...] = ()
    arrays: Mapping[str, np.ndarray] = field(default_factory=dict)

    @property
    def layer(self) -> FeatureLayer:
        """The layer that predicts."""
        return self.stack[self.chosen]

    @property
    def fixed(self) -> Mapping[str, Number]:
        """Numbers of the kernel that learned no features."""
        return self.stack[0].iterations[0]

    @property
    def learned(self) -> Mapping[str, Number]:
        """Numbers of the selected iteration of the selected layer; those of ``fixed`` where that one was selected."""
        return self.layer.iterations[self.layer.best]

    @property
    def is_fixed(self) -> bool:
        """Whether the kernel that learned no features was selected."""
        return self.chosen == 0 and self.layer.best == 0

    def name_of(self, layer: int, iteration: int) -> str:
        """Returns how the tables call an iteration of a layer.

        Args:
            layer: from 0.
            iteration: from 0.
        """
        name = "fixed kernel" if layer == iteration == 0 else f"iteration {iteration}"
        name = f"layer {layer + 1}, {name}" if len(self.stack) > 1 else name
        return f"{name} (chosen)" if layer == self.chosen and iteration == self.layer.best else name

    def to_frame(self) -> pd.DataFrame:
        """Returns one row per layer and iteration: each number, its error (``Number.spread``) and chance."""
        import pandas as pd

        rows: list[dict[str, Any]] = []
        for i, layer in enumerate(self.stack):
            for iteration, numbers in enumerate(layer.iterations):
                row: dict[str, Any] = {"layer": i + 1, "iteration": iteration}
                row["chosen"] = i == self.chosen and iteration == layer.best
                rows.append(row | columns_of(numbers))
        return pd.DataFrame(rows)

    def figures(self) -> dict[str, Figure]:
        """Returns the charts, the gain by iteration first."""
        from convscope.rfm.figures import figures

        return figures(self)

    def findings(self) -> list[Finding]:
        """Returns the findings, the most telling first."""
        from convscope.rfm.findings import findings

        return findings(self)

    def definitions(self) -> dict[str, Definition]:
        """Returns how each number is computed."""
        from convscope.rfm.definitions import DEFINITIONS

        tables = [self.numbers, *(t for layer in self.stack for t in (layer.numbers, *layer.iterations))]
        used = {number.definition for table in tables for number in table.values()}
        return {key: definition for key, definition in DEFINITIONS.items() if key in used}

    def layers(self) -> dict[str, LayerRow]:
        """Returns the headline numbers of every iteration by its name."""
        headings = {
            "test": "test images",
            "gain": "gain (points)",
            "selection": "held out",
            "loo": "leave-one-out",
        }
        return {
            self.name_of(i, iteration): LayerRow(
                {heading: numbers[key] for key, heading in headings.items() if key in numbers},
                "×".join(map(str, layer.shape)),
            )
            for i, layer in enumerate(self.stack)
            for iteration, numbers in enumerate(layer.iterations)
        }

    def to_json(self) -> dict[str, Any]:
        """Returns plain JSON values."""
        return {
            "kind": self.kind,
            "stack": [
                {
                    "shape": list(layer.shape),
                    "iterations": [numbers_to_json(numbers) for numbers in layer.iterations],
                    "best": layer.best,
                    "numbers": numbers_to_json(layer.numbers),
                    "pictures": None if layer.pictures is None else _plain_pictures(layer.pictures),
                }
                for layer in self.stack
            ],
            "chosen": self.chosen,
            "numbers": numbers_to_json(self.numbers),
            "facts": facts_to_json(self.facts),
            "cnn": {name: _plain_pictures(shown) for name, shown in self.cnn.items()},
            "views": {**pictures_to_json(self.views), "names": list(self.view_names)},
            "skipped": skips_to_json(self.skipped),
        }  # fmt: skip

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Returns the result that ``to_json`` described.

        Raises:
            ConvscopeError: when fields are missing or of the wrong kind.
        """
        with reading(cls.kind):
            result = cls(**_fields(data))
            result._check()
        return result

    def _check(self) -> None:
        if not 0 <= self.chosen < len(self.stack):
            raise ValueError(f"it has {len(self.stack)} layers, and chose layer {self.chosen + 1}")
        for layer in self.stack:
            if not 0 <= layer.best < len(layer.iterations) or len(layer.shape) != 3:
                raise ValueError("a layer lacks its iterations or its shape")
        for shown in (*(layer.pictures for layer in self.stack), *self.cnn.values()):
            if shown is not None and (
                shown.matrix.shape[0] != shown.matrix.shape[1]
                or shown.patches.shape[:2] != (len(shown.shares), len(shown.channels))
            ):
                raise ValueError("its pictures do not fit their names")
        if len(self.views) % (1 + len(self.view_names)):
            raise ValueError("its views do not fit their names")
        self.findings()  # finds the numbers and facts that sentences need, or fails


def _plain_pictures(shown: MetricPictures) -> dict[str, Any]:
    return {
        "matrix": rounded_lists(shown.matrix),
        "part": shown.part,
        "patches": rounded_lists(shown.patches),
        "shares": list(shown.shares),
        "channels": list(shown.channels),
    }


def _fields(data: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "stack": tuple(_layer(layer) for layer in data["stack"]),
        "chosen": int(data["chosen"]),
        "numbers": numbers_from_json(data["numbers"]),
        "facts": facts_from_json(data["facts"]),
        "cnn": {text_of(name): _pictures(shown) for name, shown in data["cnn"].items()},
        "views": pictures_from_json(data["views"]),
        "view_names": tuple(text_of(name) for name in data["views"]["names"]),
        "skipped": skips_from_json(data["skipped"]),
    }


def _layer(data: Mapping[str, Any]) -> FeatureLayer:
    c, q, r = (int(side) for side in data["shape"])
    return FeatureLayer(
        (c, q, r),
        tuple(numbers_from_json(numbers) for numbers in data["iterations"]),
        int(data["best"]),
        numbers_from_json(data["numbers"]),
        None if data["pictures"] is None else _pictures(data["pictures"]),
    )


def _pictures(data: Mapping[str, Any]) -> MetricPictures:
    return MetricPictures(
        array_of(data["matrix"], 2),
        text_of(data["part"]),
        array_of(data["patches"], 4),
        tuple(float(share) for share in data["shares"]),
        tuple(int(n) for n in data["channels"]),
    )
