"""One row a number: value, spread and chance side by side, as points or as bars."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping

import numpy as np

from convscope.core.results import Number, finite
from convscope.page.canvas import Chart, Column, numbers, set_scale, style
from convscope.page.theme import BAND_OPACITY, COLOURS, INK, MUTED, Role, clean


def points(
    rows: Mapping[str, Number],
    *,
    xlabel: str,
    caption: str,
    alt: str,
    how_to_read: str = "",
    roles: Mapping[str, Role] | None = None,
    xlim: tuple[float, float] | None = None,
    log: bool = False,
) -> Chart:
    """Returns a chart of one row a number: the value as a dot, two errors each way as a line, chance as a grey band.

    Args:
        rows: label to number, from top to bottom.
        xlabel: quantity and unit.
        caption: what is drawn.
        alt: the finding, in words.
        how_to_read: how to read it, in a line.
        roles: label to role; "network" where not given.
        xlim: limits of the abscissa.
        log: logarithmic abscissa; the axis says so.

    Raises:
        ValueError: without rows.
    """
    return _rows(rows, xlabel, caption, alt, how_to_read, roles or {}, xlim, log=log, bars=False)


def bars(
    rows: Mapping[str, Number],
    *,
    xlabel: str,
    caption: str,
    alt: str,
    how_to_read: str = "",
    roles: Mapping[str, Role] | None = None,
    xlim: tuple[float, float] | None = None,
) -> Chart:
    """Returns a chart of one bar a number, from zero; spread and chance as in :func:`points`.

    Args:
        rows: label to number, from top to bottom.
        xlabel: quantity and unit.
        caption: what is drawn.
        alt: the finding, in words.
        how_to_read: how to read it, in a line.
        roles: label to role; "network" where not given.
        xlim: limits of the abscissa.

    Raises:
        ValueError: without rows.
    """
    return _rows(rows, xlabel, caption, alt, how_to_read, roles or {}, xlim, log=False, bars=True)


def _rows(
    rows: Mapping[str, Number],
    xlabel: str,
    caption: str,
    alt: str,
    how_to_read: str,
    roles: Mapping[str, Role],
    xlim: tuple[float, float] | None,
    *,
    log: bool,
    bars: bool,
) -> Chart:
    if not rows:
        raise ValueError("a chart of rows needs at least one number, got none")
    data: dict[str, Column] = {
        "row": [clean(label) for label in rows],
        clean(xlabel): numbers(np.array([n.value for n in rows.values()])),
        "error": [finite(n.spread) for n in rows.values()],
        "chance, lower end": [finite(n.chance[0]) if n.chance else None for n in rows.values()],
        "chance, upper end": [finite(n.chance[1]) if n.chance else None for n in rows.values()],
    }
    labels = [textwrap.fill(clean(label), 24, max_lines=2, placeholder=" …") for label in rows]
    chart = Chart(caption=caption, alt=alt, how_to_read=how_to_read, data=data, height=0.85 + 0.42 * len(rows))
    named: set[str] = set()
    with style():
        axes = chart.add_subplot()
        for place, (label, number) in enumerate(rows.items()):
            colour = COLOURS[roles.get(label, "network")]
            if number.chance is not None and np.all(np.isfinite(number.chance)):
                low, high = number.chance
                axes.barh(
                    place, high - low, left=low, height=0.62, color=COLOURS["chance"], alpha=BAND_OPACITY, linewidth=0
                )
                named.add(number.chance_name or "chance")
            if not np.isfinite(number.value):
                axes.annotate("undefined", (0.01, place), xycoords=("axes fraction", "data"), color=MUTED, va="center")
                continue
            if bars:
                axes.barh(place, number.value, height=0.34, color=colour, linewidth=0)
            if number.spread is not None:
                axes.hlines(
                    place,
                    number.value - 2 * number.spread,
                    number.value + 2 * number.spread,
                    color=INK if bars else colour,
                    linewidth=1.8,
                )
            if not bars:
                axes.plot([number.value], [place], marker="o", markersize=7, color=colour)
        axes.set_yticks(range(len(rows)), labels)
        axes.set_ylim(len(rows) - 0.5, -0.5)
        if xlim is not None:
            axes.set_xlim(*xlim)
        elif bars:
            axes.axvline(0, color=MUTED, linewidth=0.8)
        set_scale(axes, "x", xlabel, log=log)
        axes.grid(axis="x")
        axes.tick_params(length=3)
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        if named:
            note = f"grey: {', '.join(sorted(clean(name) for name in named))}"
            axes.set_title(textwrap.shorten(note, 70, placeholder=" …"), loc="right", color=MUTED, size=10)
    return chart
