"""Frozen result of the feature ansatz."""

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
    conv_shape,
    number_from_json,
    number_to_json,
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
class LayerAlignment:
    """What the ansatz says about one convolution.

    Attributes:
        layer: its name.
        shape: (k, c / groups, q, r) of its filters.
        stride: (vertical, horizontal).
        groups: number of groups.
        numbers: by definition key.
    """

    layer: str
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    groups: int
    numbers: Mapping[str, Number]

    @property
    def verdict(self) -> str:
        """Where the alignment lies beside what chance gives: "above", "inside", "below", or "" where unknown."""
        number = self.numbers["correlation"]
        if number.decided is None or number.chance is None:
            return ""
        return ("above" if number.value > number.chance[1] else "below") if number.decided else "inside"


@dataclass(frozen=True, eq=False)
class LayerPictures:
    """What the page shows of one convolution.

    Attributes:
        nfm: float64 [m, m], the neural feature matrix or a part of it, over its largest entry.
        agop: the same of the AGOP.
        part: which part of the matrices is shown, in words; "" for all.
        nfm_patches: float64 [r, c', q, r'], leading eigenvectors of the neural feature matrix, of unit norm.
        agop_patches: the same of the AGOP.
        channels: numbers, from 1, of the c' channels that are shown.
    """

    nfm: np.ndarray
    agop: np.ndarray
    part: str
    nfm_patches: np.ndarray
    agop_patches: np.ndarray
    channels: tuple[int, ...]


_ARRAYS = {"nfm": 2, "agop": 2, "nfm_patches": 4, "agop_patches": 4}


@register
@dataclass(frozen=True, eq=False, kw_only=True)
class AnsatzResult:
    """Filter covariances beside average gradient outer products (Beaglehole et al. 2023).

    Attributes:
        rows: one for each convolution, in the order in which they run.
        numbers: medians over the convolutions, by definition key.
        facts: what the sentences need beside the numbers: "untrained_is" ("init", "twin" or ""), "sent" (what was
            sent back, in words), "images" (their number).
        pictures: by layer, of at most 12.
        views: uint8 [images * (1 + layers), h, w, 3], each image followed by what the leading direction of some layers
            sees in it.
        view_layers: names of those layers.
        classes: name of each output that was asked for.
        class_numbers: share of the gradients of each of them.
        class_patches: float64 [2 * classes, c, q, r], the leading direction of each, then of each against all.
        skipped: what could not be computed, and why.
        arrays: large matrices by name, in no JSON: weight and S of each layer.
    """

    kind: ClassVar[str] = "ansatz"
    question: ClassVar[str] = "Which patches drive the outputs?"

    rows: tuple[LayerAlignment, ...]
    numbers: Mapping[str, Number]
    facts: Mapping[str, str | bool | float]
    pictures: Mapping[str, LayerPictures]
    views: np.ndarray
    view_layers: tuple[str, ...]
    classes: tuple[str, ...] = ()
    class_numbers: tuple[Number, ...] = ()
    class_patches: np.ndarray = field(default_factory=lambda: np.empty((0, 1, 1, 1)))
    skipped: tuple[Skip, ...] = ()
    arrays: Mapping[str, np.ndarray] = field(default_factory=dict)

    def to_frame(self) -> pd.DataFrame:
        """Returns one row per convolution: every number, its error (``Number.spread``) and what chance gives."""
        import pandas as pd

        return pd.DataFrame([_flat(row) for row in self.rows])

    def figures(self) -> dict[str, Figure]:
        """Returns the charts, alignment by layer first."""
        from convscope.ansatz.figures import figures

        return figures(self)

    def findings(self) -> list[Finding]:
        """Returns the findings, the most telling first."""
        from convscope.ansatz.findings import findings

        return findings(self)

    def definitions(self) -> dict[str, Definition]:
        """Returns how each number is computed."""
        from convscope.ansatz.definitions import DEFINITIONS

        known = [*self.numbers.values(), *self.class_numbers, *(n for row in self.rows for n in row.numbers.values())]
        used = {number.definition for number in known}
        return {key: definition for key, definition in DEFINITIONS.items() if key in used}

    def layers(self) -> dict[str, LayerRow]:
        """Returns the headline numbers of each convolution."""
        headings = {
            "correlation": "filters and gradients",
            "turned": "turned at random",
            "untrained": "before training",
            "change": "change of weights",
        }
        return {
            row.layer: LayerRow(
                {heading: row.numbers[key] for key, heading in headings.items() if key in row.numbers},
                conv_shape(row.shape, row.stride, row.groups),
            )
            for row in self.rows
        }

    def to_json(self) -> dict[str, Any]:
        """Returns plain JSON values."""
        return {
            "kind": self.kind,
            "rows": [
                {
                    "layer": row.layer,
                    "shape": list(row.shape),
                    "stride": list(row.stride),
                    "groups": row.groups,
                    "numbers": numbers_to_json(row.numbers),
                }
                for row in self.rows
            ],
            "numbers": numbers_to_json(self.numbers),
            "facts": facts_to_json(self.facts),
            "pictures": {
                layer: {name: rounded_lists(getattr(p, name)) for name in _ARRAYS}
                | {"part": p.part, "channels": list(p.channels)}
                for layer, p in self.pictures.items()
            },
            "views": {**pictures_to_json(self.views), "layers": list(self.view_layers)},
            "classes": [
                {"name": name, "share": number_to_json(n)}
                for name, n in zip(self.classes, self.class_numbers, strict=True)
            ],
            "class_patches": rounded_lists(self.class_patches),
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
        if any("correlation" not in row.numbers or len(row.shape) != 4 or len(row.stride) != 2 for row in self.rows):
            raise ValueError("a layer lacks its correlation or its shape")
        if self.rows and "correlation" not in self.numbers:
            raise ValueError("it lacks the median correlation")
        if unknown := set(self.pictures) - {row.layer for row in self.rows}:
            raise ValueError(f"it has pictures of {min(unknown)!r}, which is no layer")
        for p in self.pictures.values():
            if p.nfm.shape != p.agop.shape or p.nfm_patches.shape != p.agop_patches.shape:
                raise ValueError("its pictures do not fit each other")
            if p.nfm.shape[0] != p.nfm.shape[1] or len(p.channels) != p.nfm_patches.shape[1]:
                raise ValueError("its pictures do not fit their names")
        if len(self.views) % (1 + len(self.view_layers)):
            raise ValueError("its views do not fit the layers")
        if len(self.class_patches) != 2 * len(self.classes) * bool(len(self.class_patches)):
            raise ValueError("its patches do not fit the classes")
        self.findings()  # finds the numbers and facts that sentences need, or fails


def _flat(row: LayerAlignment) -> dict[str, Any]:
    shape = conv_shape(row.shape, row.stride, row.groups)
    return {"layer": row.layer, "shape": shape, **columns_of(row.numbers)}


def _fields(data: Mapping[str, Any]) -> dict[str, Any]:
    patches = data["class_patches"]
    return {
        "rows": tuple(
            LayerAlignment(
                text_of(row["layer"]),
                tuple(int(n) for n in row["shape"]),
                tuple(int(n) for n in row["stride"]),
                int(row["groups"]),
                numbers_from_json(row["numbers"]),
            )
            for row in data["rows"]
        ),
        "numbers": numbers_from_json(data["numbers"]),
        "facts": facts_from_json(data["facts"]),
        "pictures": {
            text_of(layer): LayerPictures(
                **{name: array_of(p[name], ndim) for name, ndim in _ARRAYS.items()},
                part=text_of(p["part"]),
                channels=tuple(int(n) for n in p["channels"]),
            )
            for layer, p in data["pictures"].items()
        },
        "views": pictures_from_json(data["views"]),
        "view_layers": tuple(text_of(name) for name in data["views"]["layers"]),
        "classes": tuple(text_of(c["name"]) for c in data["classes"]),
        "class_numbers": tuple(number_from_json(c["share"]) for c in data["classes"]),
        "class_patches": array_of(patches, 4) if patches else np.empty((0, 1, 1, 1)),
        "skipped": skips_from_json(data["skipped"]),
    }
