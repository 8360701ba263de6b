"""What sentences share: numbers as they tell them, and no sentence that would tell an undefined one."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TypeVar

from convscope.core.results import Finding, Number

P = TypeVar("P")


class Undefined(Exception):
    """A sentence would have to tell a number that is not defined."""


def collected(result: P, parts: Sequence[Callable[[P], list[Finding]]]) -> list[Finding]:
    """Returns the findings of all parts but those that would tell an undefined number."""
    found: list[Finding] = []
    for part in parts:
        with suppress(Undefined):
            found += part(result)
    return found


def told(x: Number | float, form: str = ".2f") -> str:
    """Returns a number as sentences tell it.

    Args:
        x: the number.
        form: its format.

    Raises:
        Undefined: when it is NaN or infinite.

    Example:
        >>> told(-0.001), told(-12345.6, ",.0f")
        ('0.00', '−12,346')
    """
    value = x.value if isinstance(x, Number) else x
    if not math.isfinite(value):
        raise Undefined
    text = f"{value:{form}}"
    return text.lstrip("-") if not float(text.replace(",", "")) else text.replace("-", "−")
