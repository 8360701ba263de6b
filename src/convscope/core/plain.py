"""Arrays and texts as plain JSON values, and back with checks: a file may come from a stranger."""

from __future__ import annotations

import math
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np

from convscope.core.errors import ConvscopeError

_DAMAGE = (KeyError, TypeError, ValueError, IndexError, AttributeError, OverflowError)


@contextmanager
def reading(kind: str) -> Generator[None]:
    """Turns what goes wrong inside into one sentence: a field is missing, or of the wrong kind.

    Args:
        kind: of the result that is read.

    Raises:
        ConvscopeError: when something goes wrong.
    """
    try:
        yield
    except _DAMAGE as error:
        raise ConvscopeError(
            f"the {kind} result in this file is damaged ({str(error)[:200]}): make the report again"
        ) from error


def rounded(array: np.ndarray) -> np.ndarray:
    """Returns an array with values of six significant digits, as JSON will hold them.

    That is more than a picture shows, and keeps the file small.

    Example:
        >>> rounded(np.array([1 / 3, np.nan]))
        array([0.333333,      nan])
    """
    if not array.size:
        return array
    return np.vectorize(lambda value: float(f"{value:.6g}"), otypes=[np.float64])(array)


def rounded_lists(array: np.ndarray) -> list[Any]:
    """Returns nested lists of values as ``rounded`` leaves them; a NaN or infinity becomes None.

    Example:
        >>> rounded_lists(np.array([[1 / 3, np.nan]]))
        [[0.333333, None]]
    """
    if not array.size:
        return []
    values = rounded(array).astype(object)
    values[~np.isfinite(array)] = None
    return values.tolist()


def array_of(values: Any, ndim: int) -> np.ndarray:
    """Returns the float64 array that nested lists hold; None is NaN.

    Raises:
        ValueError: when they have another number of axes, or are no numbers.
    """
    array = np.array(values, dtype=np.float64)
    if array.ndim != ndim:
        raise ValueError(f"expected an array of {ndim} axes, got {array.ndim}")
    return array


def text_of(value: Any) -> str:
    """Returns a text.

    Raises:
        TypeError: when it is none.
    """
    if not isinstance(value, str):
        raise TypeError(f"expected text, got {type(value).__name__}")
    return value


def fact_of(value: Any) -> str | bool | float:
    """Returns a text, a truth value or a number; None is NaN.

    Raises:
        TypeError: when it is something else.
    """
    if value is None:
        return float("nan")
    if not isinstance(value, str | bool | int | float):
        raise TypeError(f"expected text or a number, got {type(value).__name__}")
    return value


def facts_to_json(facts: Mapping[str, str | bool | float]) -> dict[str, Any]:
    """Returns facts as plain JSON values; NaN and infinities become None."""
    return {name: None if isinstance(v, float) and not math.isfinite(v) else v for name, v in facts.items()}


def facts_from_json(data: Mapping[str, Any]) -> dict[str, str | bool | float]:
    """Returns the facts that ``facts_to_json`` described; errors as ``fact_of``."""
    return {text_of(name): fact_of(value) for name, value in data.items()}
