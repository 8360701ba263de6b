"""Frequencies and names of layers in words."""

from __future__ import annotations

from collections.abc import Sequence

NAMED = 3  # layers that a sentence names


def frequency_in_words(ky: int, kx: int) -> str:
    """Returns what a frequency is called.

    Args:
        ky: cycles per image from top to bottom.
        kx: cycles per image from left to right.

    Example:
        >>> frequency_in_words(0, 0), frequency_in_words(0, 1), frequency_in_words(2, -1)
        ('the mean over space', 'frequency (0, 1)', 'frequency (2, −1)')
    """
    return f"frequency ({ky}, {kx})".replace("-", "−") if ky or kx else "the mean over space"


def names_in_words(names: Sequence[str]) -> str:
    """Returns names for a bracket after their number.

    Example:
        >>> names_in_words(["a", "b", "c", "d"]), names_in_words(["a"])
        (' (a, b, c, …)', ' (a)')
    """
    return f" ({', '.join(names[:NAMED])}{', …' if len(names) > NAMED else ''})" if names else ""


def counted(count: int, of: int, what: str = "convolutions") -> str:
    """Returns how many of some things.

    Example:
        >>> counted(3, 19), counted(0, 19), counted(19, 19), counted(1, 1)
        ('3 of 19 convolutions', 'none of 19 convolutions', 'all 19 convolutions', 'the only convolution')
    """
    if of == 1 == count:
        return f"the only {what.removesuffix('s')}"
    return f"all {of} {what}" if count == of else f"{count or 'none'} of {of} {what}"
