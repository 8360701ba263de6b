"""Classes, frequencies and steps in words."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal

from convscope.core.results import Number
from convscope.core.sentences import told


def joined(words: Sequence[str]) -> str:
    """Returns words as a list in a sentence.

    Example:
        >>> joined(["ship", "car", "frog"])
        'ship, car and frog'
    """
    return f"{', '.join(words[:-1])} and {words[-1]}" if len(words) > 1 else "".join(words)


def classes_in_words(names: Sequence[str]) -> str:
    """Returns names of classes as a sentence has them; numbers are called so.

    Example:
        >>> classes_in_words(["0", "8"]), classes_in_words(["cat"])
        ('classes 0 and 8', 'cat')
    """
    if names and all(name.isdecimal() for name in names):
        return f"{'classes' if len(names) > 1 else 'class'} {joined(names)}"
    return joined(names)


def frequency_in_words(ky: int, kx: int) -> str:
    """Returns what a frequency looks like.

    Example:
        >>> frequency_in_words(0, 0), frequency_in_words(0, 1), frequency_in_words(2, -1)
        ('overall brightness', 'one wave from left to right', 'slanting waves, 2 by −1')
    """
    if ky == kx == 0:
        return "overall brightness"
    if ky and kx:
        return f"slanting waves, {ky} by {kx}".replace("-", "−")
    count, way = (kx, "left to right") if kx else (ky, "top to bottom")
    return f"{'one wave' if count == 1 else f'{count} waves'} from {way}"


def steps_in_words(steps: Number | float) -> str:
    """Returns a number of steps, rounded as suits its size.

    Raises:
        Undefined: when it is NaN or infinite.

    Example:
        >>> steps_in_words(4.68), steps_in_words(12345.6)
        ('4.7', '12,300')
    """
    value = steps.value if isinstance(steps, Number) else steps
    text = told(value, ".1f")
    return text if value < 9.95 else f"{float(f'{value:.3g}'):,.0f}"


def decimal(value: float) -> str:
    """Returns a small number without powers of ten.

    Example:
        >>> decimal(2e-05), decimal(0.9), decimal(1.0)
        ('0.00002', '0.9', '1')
    """
    return f"{Decimal(f'{value:g}'):f}"
