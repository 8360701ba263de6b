"""What every theory hands to the page: numbers with spread and chance, findings, and the Result protocol."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, Self, TypeVar, runtime_checkable

from convscope.core.errors import ConvscopeError
from convscope.core.plain import text_of

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Number:
    """A headline value with the three things that it owes its reader.

    Attributes:
        value: the value; NaN where it is undefined (never 0 in its place).
        spread: one error: the standard error (jackknife over image folds), with the small-sample bias where that is
            known, or the standard deviation over seeds; None: not computed, also where it is NaN or infinite.
        chance: (low, high), the central 95 % of what chance gives, or None: not computed, also where an end is NaN.
        definition: key into the result's ``definitions()``.
        chance_name: what chance is here, in words ("random filters", "permuted labels").
    """

    value: float
    spread: float | None = None
    chance: tuple[float, float] | None = None
    definition: str = ""
    chance_name: str = ""

    def __post_init__(self) -> None:
        if self.spread is not None and not math.isfinite(self.spread):
            object.__setattr__(self, "spread", None)
        if self.chance is not None and any(map(math.isnan, self.chance)):
            object.__setattr__(self, "chance", None)

    def __str__(self) -> str:
        text = f"{self.value:.3g}"
        if self.spread is not None:
            text += f" ± {self.spread:.2g}"
        if self.chance is not None:
            text += f" (chance {self.chance[0]:.2g} to {self.chance[1]:.2g})"
        return text

    @property
    def decided(self) -> bool | None:
        """Whether the value, two errors included, lies outside the chance band; None where that is unknown.

        Without a spread the bare value decides, and the page says beside it that the spread is missing.
        """
        if self.chance is None or math.isnan(self.value):
            return None
        slack = 2 * (self.spread or 0.0)
        return self.value - slack > self.chance[1] or self.value + slack < self.chance[0]


@dataclass(frozen=True)
class Finding:
    """A plain sentence about this network that needs no paper, and the number that it rests on."""

    text: str
    number: Number


@dataclass(frozen=True)
class Skip:
    """Something that could not be analysed.

    Attributes:
        what: the layer, image or analysis.
        reason: why, and what to do about it.
    """

    what: str
    reason: str


@dataclass(frozen=True)
class Definition:
    """How a number is computed.

    Attributes:
        name: the number's name as the page prints it.
        formula: plain text or simple Unicode mathematics.
        source: paper and equation.
        note: our convention, or how we deviate from the paper.
    """

    name: str
    formula: str
    source: str
    note: str = ""


@dataclass(frozen=True)
class LayerRow:
    """What one layer contributes to the page's table of layers.

    Attributes:
        numbers: column heading to number.
        shape: the layer's geometry in a few words ("64x3x7x7, stride 2"); "" where there is none.
    """

    numbers: Mapping[str, Number]
    shape: str = ""


def conv_shape(shape: Sequence[int], stride: Sequence[int], groups: int = 1) -> str:
    """Returns a convolution's geometry in a few words.

    Args:
        shape: (k, c / groups, q, r) of its filters.
        stride: (vertical, horizontal).
        groups: number of groups.

    Example:
        >>> conv_shape((64, 3, 7, 7), (2, 2))
        '64×3×7×7, stride 2'
    """
    text = "×".join(map(str, shape))
    if tuple(stride) != (1, 1):
        text += f", stride {'×'.join(map(str, dict.fromkeys(stride)))}"
    return text if groups == 1 else f"{text}, {groups} groups"


@runtime_checkable
class Result(Protocol):
    """What the page, the terminal, the JSON, ``compare`` and ``render`` know of a theory's result."""

    kind: ClassVar[str]  # name in the JSON and in the registry, e.g. "firstlayer"
    question: ClassVar[str]  # the section's heading: a question

    @property
    def skipped(self) -> tuple[Skip, ...]:
        """What could not be computed, and why."""
        ...

    def to_frame(self) -> pd.DataFrame:
        """Returns the result's main table, one row per layer or component."""
        ...

    def to_json(self) -> dict[str, Any]:
        """Returns plain JSON values (NaN as None) from which ``from_json`` rebuilds the result."""
        ...

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Returns the result that ``to_json`` described.

        Raises:
            ConvscopeError: when fields are missing or of the wrong kind.
        """
        ...

    def figures(self) -> dict[str, Figure]:
        """Returns name to figure, the main one first; see ``convscope.page.charts.Chart`` for captions."""
        ...

    def findings(self) -> list[Finding]:
        """Returns the findings, the most telling first."""
        ...

    def definitions(self) -> dict[str, Definition]:
        """Returns key to definition, for every ``Number.definition`` in this result."""
        ...

    def layers(self) -> dict[str, LayerRow]:
        """Returns layer name to its row in the page's per-layer table."""
        ...


R = TypeVar("R")
_REGISTRY: dict[str, type[Result]] = {}


def register(cls: type[R]) -> type[R]:
    """Class decorator: makes a Result known by its ``kind``, so that a saved page can be rebuilt."""
    _REGISTRY[cls.kind] = cls  # type: ignore[attr-defined,assignment]
    return cls


def result_from_json(data: Mapping[str, Any]) -> Result:
    """Returns the result whose ``kind`` and fields a JSON object holds.

    Raises:
        ConvscopeError: for an unknown kind (a file of a newer version, or not one of ours).
    """
    kind = data.get("kind") if isinstance(data, Mapping) else None
    if not isinstance(kind, str) or kind not in _REGISTRY:
        known = ", ".join(sorted(_REGISTRY)) or "none"
        raise ConvscopeError(
            f"this file holds a result of kind {kind!r}, but this version knows {known}: update convscope"
        )
    return _REGISTRY[kind].from_json(data)


def number_to_json(number: Number) -> dict[str, Any]:
    """Returns a Number as plain JSON values; NaN and infinities become None."""
    return {
        "value": finite(number.value),
        "spread": finite(number.spread),
        "chance": None if number.chance is None else [finite(c) for c in number.chance],
        "definition": number.definition,
        "chance_name": number.chance_name,
    }


def number_from_json(data: Mapping[str, Any]) -> Number:
    """Returns the Number that ``number_to_json`` described; a null value is NaN.

    Raises:
        KeyError: when a field is missing.
        TypeError: when a field is of the wrong kind.
        ValueError: when chance has not two ends.
    """
    chance, texts = data["chance"], (data["definition"], data.get("chance_name", ""))
    if not all(isinstance(text, str) for text in texts):
        raise TypeError("a number's definition is no text")
    low_high = None
    if chance is not None:
        low, high = chance
        low_high = _or_nan(low), _or_nan(high)
    spread = None if data["spread"] is None else _or_nan(data["spread"])
    return Number(_or_nan(data["value"]), spread, low_high, *texts)


def numbers_to_json(numbers: Mapping[str, Number]) -> dict[str, Any]:
    """Returns Numbers by name as plain JSON values."""
    return {name: number_to_json(number) for name, number in numbers.items()}


def numbers_from_json(data: Mapping[str, Any]) -> dict[str, Number]:
    """Returns the Numbers that ``numbers_to_json`` described; errors as ``number_from_json``."""
    return {str(name): number_from_json(number) for name, number in data.items()}


def skips_to_json(skips: Iterable[Skip]) -> list[list[str]]:
    """Returns what was skipped, and why, as plain JSON values."""
    return [[skip.what, skip.reason] for skip in skips]


def skips_from_json(data: Iterable[Any]) -> tuple[Skip, ...]:
    """Returns what ``skips_to_json`` described.

    Raises:
        TypeError: when a field is no text.
        ValueError: when an entry has not two of them.
    """
    return tuple(Skip(text_of(what), text_of(reason)) for what, reason in data)


def columns_of(numbers: Mapping[str, Number]) -> dict[str, float]:
    """Returns Numbers as the cells of a table's row: each value, its error and what chance gives, where known.

    Example:
        >>> columns_of({"r": Number(0.5, 0.1)})
        {'r': 0.5, 'r, error': 0.1}
    """
    found: dict[str, float] = {}
    for key, number in numbers.items():
        found[key] = number.value
        if number.spread is not None:
            found[f"{key}, error"] = number.spread
        if number.chance is not None:
            found[f"{key}, chance from"], found[f"{key}, chance to"] = number.chance
    return found


def finite(x: float | None) -> float | None:
    """Returns ``x`` as JSON can hold it: None where it is None, NaN or infinite."""
    return float(x) if x is not None and math.isfinite(x) else None


def finite_list(values: Iterable[float]) -> list[float | None]:
    """Returns a list that JSON can hold, with None where a value is NaN or infinite."""
    return [finite(v) for v in values]


def _or_nan(x: Any) -> float:
    if x is None:
        return math.nan
    if isinstance(x, bool) or not isinstance(x, int | float):
        raise TypeError(f"expected a number, got {type(x).__name__}")
    return float(x)
