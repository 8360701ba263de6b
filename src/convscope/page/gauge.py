"""The gauge: a number at a glance. Value as a dot, two errors each way as a line, chance as a grey band."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from markupsafe import Markup

from convscope.core.results import Number
from convscope.page.wording import plain, rounded, verdict

_DECADES = 300  # what lies beyond stands at the end of its scale
_LARGEST = 10.0**_DECADES
_LENGTH, _HEIGHT, _MARGIN = 120.0, 16.0, 6.0


@dataclass(frozen=True)
class Scale:
    """The scale of one or more gauges.

    Attributes:
        low: its left end.
        high: its right end.
        log: whether it is logarithmic.
    """

    low: float
    high: float
    log: bool = False

    def place(self, value: float) -> float:
        """Returns where a value stands, 0 (left end) to 1 (right end); values beyond an end stand at it."""
        if self.log:
            if value <= 0:
                return 0.0
            share = (math.log(value) - math.log(self.low)) / (math.log(self.high) - math.log(self.low))
        else:
            share = (value / 2 - self.low / 2) / (self.high / 2 - self.low / 2)  # halves cannot overflow
        return min(max(share, 0.0), 1.0)

    def __str__(self) -> str:
        return f"{rounded(self.low)} to {rounded(self.high)}" + (", logarithmic" if self.log else "")


def scale_of(numbers: Iterable[Number]) -> Scale:
    """Returns a scale with round ends that holds the numbers, their spreads and their chance bands.

    0 to 1 or −1 to 1 where that suffices; logarithmic where positive values span more than three decades.

    Args:
        numbers: those that share the scale.
    """
    reach: list[float] = []
    for n in numbers:
        spread = 2 * n.spread if n.spread is not None and math.isfinite(n.spread) else 0.0
        reach += [x for x in (n.value, *(n.chance or ())) if math.isfinite(x)]
        if math.isfinite(n.value):
            reach.append(n.value + spread)
            # What is never negative keeps its scale from 0; a difference, which by chance would be 0, may be negative.
            if n.value - spread > 0 or n.value <= 0 or n.chance == (0, 0):
                reach.append(n.value - spread)
    reach = [x for x in reach if abs(x) <= _LARGEST]
    low, high = min(reach, default=0.0), max(reach, default=1.0)
    if low > 0 and high > 1000 * low:
        first = max(math.floor(math.log10(low)), -_DECADES)
        return Scale(10.0**first, 10.0 ** math.ceil(math.log10(high)), log=True)
    # A correlation of 0.99 ± 0.01 belongs on a scale to 1.
    if max(abs(low), abs(high)) <= 1.05:
        return Scale(0.0 if low >= 0 else -1.0, 1.0)
    top = _round_up(max(abs(low), abs(high)))
    return Scale(0.0 if low >= 0 else -top, top if high > 0 else 0.0)


def describe(number: Number, scale: Scale) -> str:
    """Returns the gauge in words, for those who cannot see it."""
    where = verdict(number)
    return f"{plain(number)}{': ' + where if where else ''}. Scale {scale}."


def gauge(number: Number, scale: Scale | None = None) -> Markup:
    """Returns an inline SVG gauge, 120 by 16 units; empty for a number that is undefined.

    Args:
        number: the number.
        scale: shared by the gauges of one column; None: the number's own.
    """
    if not math.isfinite(number.value):
        return Markup("")
    scale = scale or scale_of([number])

    def x(value: float) -> float:
        return round(_MARGIN + scale.place(value) * (_LENGTH - 2 * _MARGIN), 1)

    middle = _HEIGHT / 2
    parts = [Markup('<path class="axis" d="M{0} {1}H{2}M{0} {3}v6M{2} {3}v6"/>').format(
        _MARGIN, middle, _LENGTH - _MARGIN, middle - 3
    )]  # fmt: skip
    if number.chance is not None and all(map(math.isfinite, number.chance)):
        low, high = sorted(map(x, number.chance))
        parts.append(
            Markup('<rect class="band" x="{}" y="1.5" width="{}" height="13" rx="1.5"/>').format(
                low, round(max(high - low, 1.5), 1)
            )
        )
    if number.spread is not None and math.isfinite(number.spread) and number.spread > 0:
        left, right = x(number.value - 2 * number.spread), x(number.value + 2 * number.spread)
        parts.append(Markup('<path class="spread" d="M{} {}H{}"/>').format(left, middle, right))
    parts.append(Markup('<circle class="dot" cx="{}" cy="{}" r="4"/>').format(x(number.value), middle))
    return Markup(
        '<svg class="gauge" viewBox="0 0 {} {}" role="img" aria-label="{}" focusable="false">{}</svg>'
    ).format(int(_LENGTH), int(_HEIGHT), describe(number, scale), Markup("").join(parts))


def _round_up(value: float) -> float:
    decade = 10.0 ** math.floor(math.log10(value))
    return next(step * decade for step in (1.0, 2.0, 5.0, 10.0) if step * decade >= value * (1 - 1e-9))
