"""The chart: a matplotlib figure that carries its caption, its finding in words and its numbers."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Literal

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator
from numpy.typing import ArrayLike, NDArray

from convscope.page.theme import STYLE, WIDTH, clean

Column = Sequence[float | str | None]

_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


class Chart(Figure):
    """A figure that says what it shows.

    Attributes:
        caption: what is drawn, in a sentence or two.
        alt: what a reader who cannot see it must know: the finding.
        how_to_read: how to read it, in a line; empty where the caption says enough.
        data: name to the drawn values, offered on the page under "the numbers".
    """

    def __init__(
        self,
        *,
        caption: str,
        alt: str,
        how_to_read: str = "",
        data: Mapping[str, Column] | None = None,
        width: float = WIDTH,
        height: float = 3.3,
    ) -> None:
        """Makes an empty chart.

        Args:
            caption: what is drawn.
            alt: the finding, in words.
            how_to_read: how to read it, in a line.
            data: name to the drawn values.
            width: inches.
            height: inches.
        """
        with style():
            super().__init__(figsize=(width, height), layout="constrained")
        self.caption = clean(caption)
        self.alt = clean(alt)
        self.how_to_read = clean(how_to_read)
        self.data: dict[str, Column] = {clean(name): list(column) for name, column in (data or {}).items()}


def style() -> AbstractContextManager[None]:
    """Returns the context in which every chart is drawn; it leaves the caller's matplotlib settings alone.

    Code that draws on a chart's axes by itself does so inside ``with style():``.
    """
    return mpl.rc_context(dict(STYLE))


def vector(values: ArrayLike | Any, name: str) -> NDArray[np.float64]:
    """Returns values (list, array or tensor) as a float64 vector.

    Args:
        values: n values, None counting as NaN.
        name: what they are, for the error.

    Raises:
        ValueError: when they are not one-dimensional.
    """
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1:
        raise ValueError(f"{name} must be one-dimensional, got shape {array.shape}")
    return array


def numbers(values: NDArray[np.float64]) -> list[float | None]:
    """Returns a vector as a list for ``Chart.data``; what is not finite becomes None."""
    return [float(v) if math.isfinite(v) else None for v in values]


def plain_tick(value: float) -> str:
    """Returns a tick's label without mathtext: 0.01, 20, 10⁻⁴, 3×10⁵.

    >>> plain_tick(0.0001), plain_tick(20.0), plain_tick(3e5)
    ('10⁻⁴', '20', '3×10⁵')
    """
    if value == 0 or 1e-3 < abs(value) < 1e5:
        return f"{value:g}".replace("-", "−")
    digits, _, exponent = f"{value:.2e}".partition("e")
    mantissa = f"{float(digits):g}".replace("-", "−")
    power = "10" + str(int(exponent)).translate(_SUPERSCRIPT)
    return power if mantissa == "1" else f"{mantissa}×{power}"


def set_scale(
    axes: Axes,
    which: Literal["x", "y"],
    label: str,
    *,
    log: bool,
    whole: bool = False,
    most_ticks: int = 6,
) -> None:
    """Labels one axis and sets its scale; a logarithmic axis says so.

    The y label stands upright above the axis: sideways text is hard to read on a phone.

    Args:
        axes: the axes.
        which: the axis.
        label: quantity and unit.
        log: whether the scale is logarithmic; its limits must be set already.
        whole: whether ticks stand at whole numbers only.
        most_ticks: at most this many ticks, about.
    """
    label = clean(label) + (" (log scale)" if log else "")
    if which == "x":
        axes.set_xlabel(label)
    else:
        axes.set_title(label, loc="left", pad=9)
    axis: Axis = axes.xaxis if which == "x" else axes.yaxis
    if log:
        low, high = sorted(axis.get_view_interval())
        (axes.set_xscale if which == "x" else axes.set_yscale)("log")
        decades = math.log10(high) - math.log10(low) if low > 0 else 6.0
        axis.set_major_locator(LogLocator(subs=(1.0,) if decades > 3 else (1.0, 2.0, 5.0), numticks=most_ticks + 2))
        axis.set_minor_locator(NullLocator())
        axis.set_major_formatter(FuncFormatter(lambda value, _: plain_tick(value)))
    else:
        axis.set_major_locator(MaxNLocator(most_ticks, integer=whole, min_n_ticks=2, steps=[1, 2, 2.5, 5, 10]))
        axis.set_major_formatter(FuncFormatter(_even_labels(axis)))


def _even_labels(axis: Axis) -> Callable[[float, int], str]:
    """Returns a formatter that gives all ticks of one axis as many decimals as their step needs."""

    def label(value: float, _: int) -> str:
        ticks = np.asarray(axis.get_majorticklocs())
        step = float(np.min(np.diff(ticks))) if len(ticks) > 1 else abs(value)
        largest = float(np.max(np.abs(ticks))) if len(ticks) else abs(value)
        if step <= 0 or not math.isfinite(step) or largest >= 1e5 or step < 1e-4:
            return plain_tick(float(f"{value:.6g}"))
        decimals = max(0, -math.floor(math.log10(step) + 1e-9))
        if round(step, decimals) != round(step, decimals + 1):
            decimals += 1  # steps such as 0.25
        text = f"{value:.{decimals}f}"
        return ("0" if not float(text) else text).replace("-", "−")

    return label


def spread_apart(wanted: Iterable[float], gaps: Sequence[float], low: float, high: float) -> list[float]:
    """Returns positions near the wanted ones that keep their order and do not overlap.

    Args:
        wanted: positions, ascending.
        gaps: the extent of each item, centred on its position; same unit.
        low: lower end of the room.
        high: upper end; exceeded only when the items do not fit.

    >>> spread_apart([0.5, 0.5], [0.1, 0.1], 0.0, 1.0)
    [0.45, 0.55]
    """
    if not gaps:
        return []
    # Pool-adjacent-violators: items that touch move as one block, centred where its members wished to be on average;
    # clipping that solution to constant bounds keeps it the nearest one (isotonic regression).
    offsets = np.concatenate([[0.0], np.cumsum([(a + b) / 2 for a, b in itertools.pairwise(gaps)])])
    blocks: list[tuple[float, int]] = []
    for target in (w - o for w, o in zip(wanted, offsets, strict=True)):
        mean, count = target, 1
        while blocks and blocks[-1][0] > mean:
            before, members = blocks.pop()
            mean, count = (mean * count + before * members) / (count + members), count + members
        blocks.append((mean, count))
    first, last = low + gaps[0] / 2, high - gaps[-1] / 2 - offsets[-1]
    starts = np.array([mean for mean, count in blocks for _ in range(count)])
    return [round(float(p), 6) for p in np.maximum(np.minimum(starts, last), first) + offsets]
