"""Frozen result of the bottleneck analysis."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np

from convscope.bottleneck.shown import Decoded, KeptPair, LayerKept, LayerMaps, no_pictures
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
    numbers_from_json,
    numbers_to_json,
    register,
    skips_from_json,
    skips_to_json,
)

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

MAPS = ("variance", "untrained", "largest", "kept")
_FACTS = (
    "data",
    "images",
    "untrained_is",
    "narrowest",
    "start",
    "end",
    "location",
    "score",
    "chain",
    "folded",
    "grid",
    "pairs",
)


@register
@dataclass(frozen=True, eq=False, kw_only=True)
class BottleneckResult:
    """Which frequencies and channels a network keeps (Wen & Jacot 2024).

    Attributes:
        rows: one for each convolution, in the order in which they run.
        numbers: of the whole network, by definition key.
        facts: what the sentences need beside the numbers: "data" (whether activations were measured), "images" (their
            number), "untrained_is" ("init", "twin" or ""), "narrowest" (layer), "start" and "end" (of the bottleneck;
            "" for none), "location" and "score" (in words), "chain" (why the layers are no plain chain; ""), "folded"
            (whether costs have batch norms folded in), "grid" (that was assumed; ""), "pairs" (layer of the kept pairs;
            "").
        maps: by layer, of at most 8.
        pairs: kept pairs of one layer, the strongest first.
        patterns: uint8 [m, h, w, 3], what the images look like where a pair is active: the pictures of all pairs, one
            pair after the other.
        decoded: what the network's outputs make of the pairs.
        skipped: what could not be computed, and why.
        arrays: large matrices by name, in no JSON: singular values and variances of each layer.
    """

    kind: ClassVar[str] = "bottleneck"
    question: ClassVar[str] = "Which frequencies survive to the middle?"

    rows: tuple[LayerKept, ...]
    numbers: Mapping[str, Number]
    facts: Mapping[str, str | bool | float]
    maps: Mapping[str, LayerMaps] = field(default_factory=dict)
    pairs: tuple[KeptPair, ...] = ()
    patterns: np.ndarray = field(default_factory=no_pictures)
    decoded: Decoded = field(default_factory=Decoded)
    skipped: tuple[Skip, ...] = ()
    arrays: Mapping[str, np.ndarray] = field(default_factory=dict)

    def row(self, layer: str) -> LayerKept | None:
        """Returns the row of a layer; None where there is none."""
        return next((row for row in self.rows if row.layer == layer), None)

    def to_frame(self) -> pd.DataFrame:
        """Returns one row per convolution: every number, its error (``Number.spread``) and what chance gives."""
        import pandas as pd

        return pd.DataFrame([_flat(row) for row in self.rows])

    def figures(self) -> dict[str, Figure]:
        """Returns the charts, what the layers keep by depth first."""
        from convscope.bottleneck.figures import figures

        return figures(self)

    def findings(self) -> list[Finding]:
        """Returns the findings, the most telling first."""
        from convscope.bottleneck.findings import findings

        return findings(self)

    def definitions(self) -> dict[str, Definition]:
        """Returns how each number is computed."""
        from convscope.bottleneck.definitions import DEFINITIONS

        tables = [self.numbers, *(row.numbers for row in self.rows), *(pair.numbers for pair in self.pairs)]
        used = {number.definition for table in tables for number in table.values()}
        return {key: definition for key, definition in DEFINITIONS.items() if key in used}

    def layers(self) -> dict[str, LayerRow]:
        """Returns the headline numbers of each convolution."""
        headings = {
            "rank": "directions for 99 %",
            "frequencies": "frequencies for 99 %",
            "align": "two levels in the weights",
            "norm_bound": "largest gain",
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
                    "size": list(row.size),
                    "confidence": row.confidence,
                    "notes": list(row.notes),
                    "numbers": numbers_to_json(row.numbers),
                }
                for row in self.rows
            ],
            "numbers": numbers_to_json(self.numbers),
            "facts": facts_to_json(self.facts),
            "maps": {
                layer: {name: rounded_lists(getattr(shown, name)) for name in MAPS}
                for layer, shown in self.maps.items()
            },
            "pairs": [
                {
                    "frequency": list(pair.frequency),
                    "order": pair.order,
                    "pictures": pair.pictures,
                    "numbers": numbers_to_json(pair.numbers),
                }
                for pair in self.pairs
            ],
            "patterns": pictures_to_json(self.patterns),
            "decoded": {
                "outputs": list(self.decoded.outputs),
                "answers": rounded_lists(self.decoded.answers),
                "pictures": pictures_to_json(self.decoded.pictures),
            },
            "skipped": skips_to_json(self.skipped),
        }

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
        if missing := [name for name in _FACTS if name not in self.facts]:
            raise ValueError(f"it lacks {missing[0]!r}")
        if any(len(row.shape) != 4 or len(row.stride) != 2 or len(row.size) != 2 for row in self.rows):
            raise ValueError("a layer lacks its shape")
        if unknown := set(self.maps) - {row.layer for row in self.rows}:
            raise ValueError(f"it has maps of {min(unknown)!r}, which is no layer")
        for shown in self.maps.values():
            if shown.untrained.size and shown.untrained.shape != shown.variance.shape:
                raise ValueError("its maps do not fit each other")
        if any(pair.pictures not in {0, 2, 4} for pair in self.pairs) or len(self.patterns) != sum(
            pair.pictures for pair in self.pairs
        ):
            raise ValueError("its pictures do not fit the kept pairs")
        decoded, m = self.decoded, len(self.pairs)
        if decoded.answers.shape != (m if decoded.outputs else 0, len(decoded.outputs)) or len(
            decoded.pictures
        ) not in {
            0,
            2 * m,
        }:
            raise ValueError("the outputs' answers do not fit the kept pairs")
        self.findings()  # finds the numbers and facts that sentences need, or fails


def _flat(row: LayerKept) -> dict[str, Any]:
    return {
        "layer": row.layer,
        "shape": conv_shape(row.shape, row.stride, row.groups),
        "maps": "×".join(map(str, row.size)),
        **columns_of(row.numbers),
        "confidence": row.confidence,
        "notes": "; ".join(row.notes),
    }


def _fields(data: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "rows": tuple(
            LayerKept(
                text_of(row["layer"]),
                tuple(int(n) for n in row["shape"]),
                tuple(int(n) for n in row["stride"]),
                int(row["groups"]),
                tuple(int(n) for n in row["size"]),
                text_of(row["confidence"]),
                tuple(map(text_of, row["notes"])),
                numbers_from_json(row["numbers"]),
            )
            for row in data["rows"]
        ),
        "numbers": numbers_from_json(data["numbers"]),
        "facts": facts_from_json(data["facts"]),
        "maps": {
            text_of(layer): LayerMaps(**{name: _map_of(shown[name]) for name in MAPS})
            for layer, shown in data["maps"].items()
        },
        "pairs": tuple(
            KeptPair(
                (int(pair["frequency"][0]), int(pair["frequency"][1])),
                int(pair["order"]),
                int(pair["pictures"]),
                numbers_from_json(pair["numbers"]),
            )
            for pair in data["pairs"]
        ),
        "patterns": pictures_from_json(data["patterns"]),
        "decoded": Decoded(
            tuple(int(n) for n in data["decoded"]["outputs"]),
            _map_of(data["decoded"]["answers"]),
            pictures_from_json(data["decoded"]["pictures"]),
        ),
        "skipped": skips_from_json(data["skipped"]),
    }


def _map_of(values: Any) -> np.ndarray:
    return array_of(values, 2) if values else np.empty((0, 0))
