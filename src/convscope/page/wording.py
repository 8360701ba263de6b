"""Numbers, sizes and dates in words that need no manual."""

from __future__ import annotations

import math
from datetime import UTC, datetime

from convscope.core.results import Number
from convscope.page.canvas import plain_tick


def rounded(value: float, decimals: int | None = None) -> str:
    """Returns a number with the given decimals, or three significant digits; very large and small as powers of ten.

    >>> rounded(0.9412), rounded(-0.5, 2), rounded(123456.0), rounded(12.0)
    ('0.941', '−0.50', '1.23×10⁵', '12')
    """
    if not math.isfinite(value):
        return "undefined" if math.isnan(value) else "infinite" if value > 0 else "−infinite"
    if value and not 1e-4 <= abs(value) < 1e5:
        return plain_tick(value)
    text = f"{float(f'{value:.3g}'):,g}" if decimals is None else f"{value:,.{decimals}f}"
    return text.replace("-", "−")


def value_and_spread(number: Number) -> str:
    """Returns value and error, rounded alike: the error to one digit, two where it begins with 1.

    >>> value_and_spread(Number(0.9412, 0.0123)), value_and_spread(Number(4312.0, 310.0))
    ('0.941 ± 0.012', '4,312 ± 310')
    """
    spread = number.spread
    if spread is None or not math.isfinite(spread) or not math.isfinite(number.value):
        return rounded(number.value)
    if spread <= 0 or not 1e-4 <= max(abs(number.value), spread) < 1e5:
        return f"{rounded(number.value)} ± {rounded(spread)}"
    digits = 2 if f"{spread:e}"[0] == "1" else 1
    decimals = min(max(0, digits - 1 - math.floor(math.log10(spread))), 6)
    return f"{rounded(number.value, decimals)} ± {rounded(spread, decimals)}"


def chance(number: Number) -> str:
    """Returns what chance gives, or that nobody computed it.

    >>> chance(Number(0.9, chance=(0.1, 0.5), chance_name="random filters")), chance(Number(1.0, chance=(34.5, 128.0)))
    ('chance 0.1 to 0.5 (random filters)', 'chance 34 to 130')
    """
    if number.chance is None:
        return "chance not computed"
    low, high = (f"{float(f'{end:.2g}'):,g}" if 1e-4 <= abs(end) < 1e5 else rounded(end) for end in number.chance)
    name = f" ({number.chance_name})" if number.chance_name else ""
    return (f"chance {low}" if low == high else f"chance {low} to {high}").replace("-", "−") + name


def plain(number: Number) -> str:
    """Returns the number with the three things that it owes its reader.

    >>> plain(Number(0.94, 0.02, (0.1, 0.5)))
    '0.94 ± 0.02, chance 0.1 to 0.5'
    """
    missing = "" if number.spread is not None or math.isnan(number.value) else ", spread not computed"
    return f"{value_and_spread(number)}{missing}, {chance(number)}"


def verdict(number: Number) -> str:
    """Returns where the value lies: "outside chance", "inside chance", "not decided", or "" where that is unknown."""
    decided = number.decided
    if decided is None or number.chance is None:
        return ""
    if decided:
        return "outside chance"
    return "inside chance" if number.chance[0] <= number.value <= number.chance[1] else "not decided"


def duration(seconds: float) -> str:
    """Returns a time as a person says it.

    >>> duration(0.32), duration(82.4), duration(4000.0)
    ('0.3 s', '82 s', '1 h 7 min')
    """
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def count(n: int, one: str, many: str) -> str:
    """Returns a count with its noun.

    >>> count(1, "class", "classes"), count(1200, "image", "images")
    ('1 class', '1,200 images')
    """
    return f"{n:,} {one if n == 1 else many}"


def day(date: str) -> str:
    """Returns an ISO date in words; as it came where it is none.

    >>> day("2025-11-21T03:06:00+00:00")
    '21 November 2025, 03:06 UTC'
    """
    try:
        moment = datetime.fromisoformat(date)
        moment = moment if moment.tzinfo is None else moment.astimezone(UTC)
    except (ValueError, OverflowError):
        return date
    return f"{moment.day} {moment:%B %Y, %H:%M} UTC"
