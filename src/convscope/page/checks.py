"""Checks of what a saved report holds: its writer may be a stranger."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, NoReturn, TypeVar

from convscope.core.coverage import Coverage
from convscope.core.errors import ConvscopeError
from convscope.core.results import Definition, Finding, Number, Result, Skip

T = TypeVar("T")


def reject(where: str, expected: str, got: object) -> NoReturn:
    """Raises the error for a field of the wrong kind.

    Args:
        where: the field's path in the JSON.
        expected: what belongs there.
        got: what was found.

    Raises:
        ConvscopeError: always.
    """
    shown = ascii(got)
    shown = shown if len(shown) <= 60 else shown[:57] + "..."
    raise ConvscopeError(
        f"not a usable report: {where} should be {expected}, got {shown}: write it again with convscope report"
    )


def entry(data: object, key: str, where: str) -> Any:
    """Returns ``data[key]``.

    Raises:
        ConvscopeError: when data is no JSON object or lacks the key.
    """
    if not isinstance(data, Mapping):
        reject(where, "an object", data)
    if key not in data:
        raise ConvscopeError(f"not a usable report: {where} has no {key!r} (truncated or of another version?)")
    return data[key]


def text(value: object, where: str) -> str:
    """Returns a string, or raises ConvscopeError."""
    if not isinstance(value, str):
        reject(where, "text", value)
    return value


def whole(value: object, where: str, *, least: int = 0) -> int:
    """Returns an integer that is at least ``least``, or raises ConvscopeError."""
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value < 2**53:
        reject(where, f"a whole number from {least}", value)
    return value


def real(value: object, where: str) -> float:
    """Returns a finite float, or raises ConvscopeError."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        reject(where, "a number", value)
    if abs(value) > 1e300 or not math.isfinite(value):
        reject(where, "a finite number", value)
    return float(value)


def sequence(value: object, where: str, item: Callable[[Any, str], T]) -> tuple[T, ...]:
    """Returns a JSON list with each item checked, or raises ConvscopeError."""
    if not isinstance(value, list):
        reject(where, "a list", value)
    return tuple(item(v, f"{where}[{i}]") for i, v in enumerate(value))


def table(value: object, where: str, item: Callable[[Any, str], T]) -> dict[str, T]:
    """Returns a JSON object with each value checked, or raises ConvscopeError."""
    if not isinstance(value, Mapping):
        reject(where, "an object", value)
    return {key: item(v, f"{where}.{key}") for key, v in value.items()}


def skip(value: object, where: str) -> Skip:
    """Returns the Skip that a pair [what, reason] describes, or raises ConvscopeError."""
    pair = sequence(value, where, text)
    if len(pair) != 2:
        reject(where, "a pair [what, reason]", value)
    return Skip(*pair)


def coverage(data: object) -> Coverage:
    """Returns the coverage in a report's JSON, or raises ConvscopeError."""
    where = "coverage"
    expected = entry(data, "expected", where)
    complete = entry(data, "complete", where)
    if not isinstance(complete, bool):
        reject("coverage.complete", "true or false", complete)
    return Coverage(
        images=whole(entry(data, "images", where), "coverage.images"),
        expected=None if expected is None else whole(expected, "coverage.expected"),
        complete=complete,
        unreadable=sequence(entry(data, "unreadable", where), "coverage.unreadable", skip),
        processes=whole(entry(data, "processes", where), "coverage.processes"),
        folds=whole(entry(data, "folds", where), "coverage.folds"),
        resumed=whole(entry(data, "resumed", where), "coverage.resumed"),
        seconds=table(entry(data, "seconds", where), "coverage.seconds", real),
        notes=sequence(entry(data, "notes", where), "coverage.notes", text),
    )


def result(value: Result, where: str) -> Result:
    """Returns a result read from JSON after checking all that the page prints of it.

    Args:
        value: the result.
        where: its path in the JSON.

    Raises:
        ConvscopeError: when a sentence is no text or a number is no number.
    """
    for finding in value.findings():
        if not isinstance(finding, Finding) or not isinstance(finding.text, str):
            reject(f"{where}: a finding", "a sentence with its number", finding)
        _number(finding.number, where)
    for layer, row in value.layers().items():
        text(layer, f"{where}: a layer's name")
        text(row.shape, f"{where}: a layer's shape")
        for column, number in row.numbers.items():
            text(column, f"{where}: a column's name")
            _number(number, where)
    for key, definition in value.definitions().items():
        if not isinstance(definition, Definition):
            reject(f"{where}: definition of {key}", "a definition", definition)
        for part in (key, definition.name, definition.formula, definition.source, definition.note):
            text(part, f"{where}: a definition")
    value.to_frame()
    for item in value.skipped:
        if not isinstance(item, Skip):
            reject(f"{where}.skipped", "pairs of what and why", item)
        text(item.what, f"{where}.skipped")
        text(item.reason, f"{where}.skipped")
    return value


def _number(number: object, where: str) -> None:
    if not isinstance(number, Number):
        reject(where, "a number with its spread and chance", number)
    ends = (number.value, number.spread if number.spread is not None else 0.0, *(number.chance or (0.0, 0.0)))
    if len(ends) != 4 or not all(isinstance(x, int | float) and not isinstance(x, bool) for x in ends):
        reject(where, "a value, a spread or null, and two ends of chance or null", number)
    for x in ends:
        float(x)  # a whole number of a thousand digits overflows here, not in the middle of the page
    text(number.definition, f"{where}: a number's definition")
    text(number.chance_name, f"{where}: a number's chance")
