"""Frozen result of the shortcut audit."""

from __future__ import annotations

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
    finite,
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

KINDS = ("frequency", "pixel", "colour", "file")
TRIED = ("unchanged", "added", "opposite", "control")
_FACTS = ("images", "threshold", "frequencies", "bytes", "network", "draws")
_ROWS = {"coherent_z": 1, "power_z": 1, "rank": 1}  # one entry a frequency


@dataclass(frozen=True, eq=False)
class Suspect:
    """What stands out most in one part of the audit.

    Attributes:
        kind: "frequency", "pixel", "colour" or "file".
        what: it, in words.
        statistic: what stands out, in words.
        number: its z, or an accuracy.
        alarm: whether it lies above the threshold.
        threshold: of z, from which an alarm is raised there: more on axes with few frequencies.
        label: the class that stands out there; None where no single one does.
        place: (ky, kx) of a frequency, (row, column) of a pixel; None for others.
        rank: that of the frequency's strength, from 1; None for others.
        pattern: float64 [c, h, w], what the class bears, in units of the images; None where that was not looked at.
        tried: what a network makes of images with the pattern, by "unchanged", "added", "opposite" and "control";
            empty where none was asked.
    """

    kind: str
    what: str
    statistic: str
    number: Number
    alarm: bool
    threshold: float
    label: int | None = None
    place: tuple[int, int] | None = None
    rank: int | None = None
    pattern: np.ndarray | None = None
    tried: Mapping[str, Number] = field(default_factory=dict)

    @property
    def used(self) -> bool:
        """Whether a network uses it: more images become the class's than with the same pattern elsewhere."""
        added = self.tried.get("added")
        return bool(added and added.decided and added.chance and added.value > added.chance[1])


@register
@dataclass(frozen=True, eq=False, kw_only=True)
class ShortcutsResult:
    """What betrays a class without being its object (after Pinson et al. 2023), as far as an audit can tell.

    Attributes:
        suspects: alarms, strongest first; then the strongest of each part that raised none.
        numbers: by definition key: the strongest of each part ("coherent", "power", "pixel"), the faintest stripes
            that would be noticed ("limit"), and the accuracy of a network ("network_accuracy").
        facts: what sentences need beside: "images" (their number), "threshold", "frequencies" (their number), "bytes"
            (whether images lie in [0, 1]), "network" (its name, or ""), "draws" (permutations of the labels).
        classes: names of the classes; empty where they have none.
        frequencies: int64 [f, 2], (ky, kx) in cycles per image, one of each conjugate pair.
        curves: by name, float64 [f]: "coherent_z", "power_z", "rank" (by strength, from 1); NaN where not tested.
        pixel_z: float64 [h, w], NaN where not tested.
        tables: "colour" and, where files were read, "files": accuracy from each property alone, and from "all".
        notes: how the parts were calibrated and what was not tested.
        unseen: what no part of the audit can see.
        skipped: what could not be done, and why.
        arrays: in no JSON: "mean", float64 [c, h, w], the mean of all images, for ``notched``.
    """

    kind: ClassVar[str] = "shortcuts"
    question: ClassVar[str] = "What betrays a class without being its object?"

    suspects: tuple[Suspect, ...] = ()
    numbers: Mapping[str, Number] = field(default_factory=dict)
    facts: Mapping[str, str | bool | float] = field(default_factory=dict)
    classes: tuple[str, ...] = ()
    frequencies: np.ndarray = field(default_factory=lambda: np.zeros((0, 2), np.int64))
    curves: Mapping[str, np.ndarray] = field(default_factory=dict)
    pixel_z: np.ndarray = field(default_factory=lambda: np.zeros((0, 0)))
    tables: Mapping[str, Mapping[str, Number]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    unseen: tuple[str, ...] = ()
    skipped: tuple[Skip, ...] = ()
    arrays: Mapping[str, np.ndarray] = field(default_factory=dict)

    @property
    def alarms(self) -> tuple[Suspect, ...]:
        """The suspects above the threshold, strongest first."""
        return tuple(suspect for suspect in self.suspects if suspect.alarm)

    def class_name(self, label: int) -> str:
        """Returns how sentences call a class."""
        named = label < len(self.classes) and self.classes[label] != str(label)
        return f"“{self.classes[label]}”" if named else f"class {label}"

    def to_frame(self) -> pd.DataFrame:
        """Returns one row a suspect: number, error (``Number.spread``), chance, class, rank and what a network does."""
        import pandas as pd

        return pd.DataFrame([self._flat(suspect) for suspect in self.suspects])

    def figures(self) -> dict[str, Figure]:
        """Returns the charts, frequencies first."""
        from convscope.dynamics.shortcuts.figures import figures

        return figures(self)

    def findings(self) -> list[Finding]:
        """Returns the findings, the most telling first."""
        from convscope.dynamics.shortcuts.findings import findings

        return findings(self)

    def definitions(self) -> dict[str, Definition]:
        """Returns how each number is computed."""
        from convscope.dynamics.shortcuts.definitions import DEFINITIONS

        known = [*self.numbers.values(), *(s.number for s in self.suspects)]
        known += [n for s in self.suspects for n in s.tried.values()]
        known += [n for table in self.tables.values() for n in table.values()]
        known += [finding.number for finding in self.findings()]
        used = {number.definition for number in known}
        return {key: definition for key, definition in DEFINITIONS.items() if key in used}

    def layers(self) -> dict[str, LayerRow]:
        """Returns nothing: the audit knows no layer."""
        return {}

    def to_json(self) -> dict[str, Any]:
        """Returns plain JSON values."""
        return {
            "kind": self.kind,
            "suspects": [
                {
                    "kind": s.kind,
                    "what": s.what,
                    "statistic": s.statistic,
                    "number": number_to_json(s.number),
                    "alarm": s.alarm,
                    "threshold": finite(s.threshold),
                    "label": s.label,
                    "place": None if s.place is None else list(s.place),
                    "rank": s.rank,
                    "pattern": None if s.pattern is None else rounded_lists(s.pattern),
                    "tried": numbers_to_json(s.tried),
                }
                for s in self.suspects
            ],
            "numbers": numbers_to_json(self.numbers),
            "facts": facts_to_json(self.facts),
            "classes": list(self.classes),
            "frequencies": self.frequencies.tolist(),
            "curves": {name: rounded_lists(values) for name, values in self.curves.items()},
            "pixel_z": rounded_lists(self.pixel_z),
            "tables": {name: numbers_to_json(table) for name, table in self.tables.items()},
            "notes": list(self.notes),
            "unseen": list(self.unseen),
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
        if not self.suspects:
            if self.numbers or self.facts or len(self.frequencies) or self.tables:
                raise ValueError("it has numbers but no suspect")
            return
        if missing := [name for name in _FACTS if name not in self.facts]:
            raise ValueError(f"it lacks the fact {missing[0]!r}")
        words = {"network"}
        for name in _FACTS:
            if isinstance(self.facts[name], str) != (name in words):
                raise TypeError(f"the fact {name!r} is of the wrong kind")
        if any(len(self.curves[name]) != len(self.frequencies) for name in _ROWS):
            raise ValueError("its curves do not fit its frequencies")
        if self.frequencies.size and np.abs(self.frequencies).max() > 2**15:
            raise ValueError("a frequency is no frequency of an image")
        if not self.pixel_z.size or len({s.pattern.shape for s in self.suspects if s.pattern is not None}) > 1:
            raise ValueError("its pixels or patterns are of no one size")
        for s in self.suspects:
            if s.kind not in KINDS:
                raise ValueError(f"{s.kind!r} is no kind of suspect")
            if s.tried and set(s.tried) != set(TRIED):
                raise ValueError("a suspect was tried in part")
            if (s.kind in {"frequency", "pixel"}) != (s.place is not None):
                raise ValueError("a suspect lacks its place")
            if s.tried and s.label is None:
                raise ValueError("a suspect that was tried lacks its class")
        self.findings()  # finds the numbers and facts that sentences need, or fails

    def _flat(self, suspect: Suspect) -> dict[str, Any]:
        row: dict[str, Any] = {"what": suspect.what, "statistic": suspect.statistic, "value": suspect.number.value}
        row["error"] = np.nan if suspect.number.spread is None else suspect.number.spread
        row["chance from"], row["chance to"] = suspect.number.chance or (np.nan, np.nan)
        row["alarm"] = suspect.alarm
        row["class"] = "" if suspect.label is None else self.class_name(suspect.label)
        row["rank of strength"] = np.nan if suspect.rank is None else float(suspect.rank)
        for name in TRIED:
            if any(s.tried for s in self.suspects):
                row[f"others named so, {name}"] = suspect.tried[name].value if suspect.tried else np.nan
        return row


def _fields(data: Mapping[str, Any]) -> dict[str, Any]:
    frequencies = data["frequencies"]
    return {
        "suspects": tuple(_suspect(s) for s in data["suspects"]),
        "numbers": numbers_from_json(data["numbers"]),
        "facts": facts_from_json(data["facts"]),
        "classes": tuple(text_of(name) for name in data["classes"]),
        "frequencies": np.array([_place(f) for f in frequencies], np.int64).reshape(-1, 2),
        "curves": {text_of(name): array_of(values, 1) for name, values in data["curves"].items()},
        "pixel_z": array_of(data["pixel_z"], 2) if data["pixel_z"] else np.zeros((0, 0)),
        "tables": {text_of(name): numbers_from_json(table) for name, table in data["tables"].items()},
        "notes": tuple(text_of(note) for note in data["notes"]),
        "unseen": tuple(text_of(thing) for thing in data["unseen"]),
        "skipped": skips_from_json(data["skipped"]),
    }


def _suspect(s: Mapping[str, Any]) -> Suspect:
    if not isinstance(s["alarm"], bool):
        raise TypeError("whether a suspect raised an alarm is neither true nor false")
    return Suspect(
        kind=text_of(s["kind"]),
        what=text_of(s["what"]),
        statistic=text_of(s["statistic"]),
        number=number_from_json(s["number"]),
        alarm=s["alarm"],
        threshold=_real(s["threshold"]),
        label=None if s["label"] is None else _whole(s["label"]),
        place=None if s["place"] is None else _place(s["place"]),
        rank=None if s["rank"] is None else _whole(s["rank"]),
        pattern=None if s["pattern"] is None else array_of(s["pattern"], 3),
        tried=numbers_from_json(s["tried"]),
    )


def _place(value: Any) -> tuple[int, int]:
    first, second = value
    return _whole(first, -(2**15)), _whole(second, -(2**15))


def _real(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"expected a number, got {value!r:.40}")
    return float(value)


def _whole(value: Any, least: int = 0) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value < 2**31:
        raise TypeError(f"expected a whole number, got {value!r:.40}")
    return value
