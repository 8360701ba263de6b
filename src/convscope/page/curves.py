"""Curves, points and bars: what the network does, beside theory, initialisation and chance."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.text import Text
from numpy.typing import ArrayLike, NDArray

from convscope.core.results import Number, finite
from convscope.page.canvas import Chart, Column, numbers, set_scale, spread_apart, style, vector
from convscope.page.theme import BAND_OPACITY, COLOURS, DASHES, INK, MUTED, Role, clean

_LABEL_SIZE = 10.5
_LABEL_COLUMNS = 17  # characters of a direct label before it wraps
_LABEL_LINE = 1.22  # height of a line of it, in units of its size


@dataclass(frozen=True)
class Curve:
    """One curve of a chart.

    Attributes:
        y: n values; NaN leaves a gap.
        label: written at the curve's end; empty for the second and later curves of a kind (seeds, say).
        role: whose curve it is: colour and dash follow.
        x: n abscissae; None: 1, 2, ..., n.
        spread: n standard errors drawn as bars (as a ribbon where they would touch), or None: not computed.
    """

    y: ArrayLike | Any
    label: str
    role: Role = "network"
    x: ArrayLike | Any | None = None
    spread: ArrayLike | Any | None = None


@dataclass(frozen=True)
class Band:
    """What chance gives along the curves: the grey band.

    Attributes:
        low: n lower ends, or one.
        high: n upper ends, or one.
        label: what chance is here ("random filters").
        x: n abscissae; None: those of the first curve.
    """

    low: ArrayLike | Any
    high: ArrayLike | Any
    label: str = "chance"
    x: ArrayLike | Any | None = None


def lines(
    curves: Sequence[Curve],
    *,
    xlabel: str,
    ylabel: str,
    caption: str,
    alt: str,
    how_to_read: str = "",
    band: Band | None = None,
    xlog: bool = False,
    ylog: bool = False,
    ylim: tuple[float, float] | None = None,
    height: float = 3.4,
) -> Chart:
    """Returns a chart of curves, each labelled at its end; no legend.

    Args:
        curves: at least one; drawn in this order, the first on top.
        xlabel: quantity and unit.
        ylabel: quantity and unit.
        caption: what is drawn.
        alt: the finding, in words.
        how_to_read: how to read it, in a line.
        band: what chance gives.
        xlog: logarithmic abscissa (the axis says so); values at or below 0 are left out and the caption says how many.
        ylog: the same for the ordinate.
        ylim: limits of the ordinate; None: what the values need.
        height: inches.

    Raises:
        ValueError: without curves, for an unknown role, or when lengths do not agree.

    Example:
        >>> chart = lines(
        ...     [Curve([0.5, 0.3, 0.2], "network"), Curve([0.6, 0.3, 0.1], "formula", "theory")],
        ...     xlabel="component", ylabel="energy", caption="Energy.", alt="Both fall.",
        ... )
        >>> chart.data["formula"]
        [0.6, 0.3, 0.1]
    """
    if not curves:
        raise ValueError("lines needs at least one curve, got none")
    chart = Chart(caption=caption, alt=alt, how_to_read=how_to_read, height=height)
    lost = 0
    ends: list[tuple[float, str, Role]] = []
    with style():
        axes = chart.add_subplot()
        drawn = [_prepare(curve) for curve in curves]
        # An axis without a positive value cannot be logarithmic.
        xlog = xlog and any(bool(np.any((x > 0) & np.isfinite(y))) for x, y, _ in drawn)
        ylog = ylog and any(bool(np.any((y > 0) & np.isfinite(x))) for x, y, _ in drawn)
        if band is not None:
            ends += _draw_band(axes, band, drawn[0][0], chart.data, xlabel, ylog=ylog)
        for order, (curve, (x, y, spread)) in enumerate(zip(curves, drawn, strict=True)):
            _record(chart.data, xlabel, curve.label or f"{curves[0].label} ({order + 1})", x, y, spread)
            kept = np.isfinite(x) & np.isfinite(y) & ~((xlog & (x <= 0)) | (ylog & (y <= 0)))
            lost += int(np.sum(np.isfinite(x) & np.isfinite(y) & ~kept))
            visible = np.where(kept, y, np.nan)
            _draw_curve(axes, curve.role, x, visible, spread, layer=3 + (len(curves) - order) / len(curves), ylog=ylog)
            if curve.label and kept.any():
                ends.append((float(y[kept][-1]), curve.label, curve.role))
        if ylim is not None:
            axes.set_ylim(*ylim)
        whole = all(bool(np.all(x[np.isfinite(x)] == np.round(x[np.isfinite(x)]))) for x, _, _ in drawn)
        axes.margins(x=0.02)
        set_scale(axes, "x", xlabel, log=xlog, whole=whole)
        set_scale(axes, "y", ylabel, log=ylog)
        axes.grid(axis="y")
        axes.tick_params(length=3)
        _label_ends(chart, axes, ends)
    if lost:
        chart.caption += f" {lost} value{'s' * (lost > 1)} at or below 0 cannot stand on the logarithmic axis."
    return chart


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
    """Returns a chart of one row a number: the value as a dot, two standard errors as a line, chance as a grey band.

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


def _prepare(curve: Curve) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64] | None]:
    y = vector(curve.y, f"y of {curve.label!r}")
    x = np.arange(1.0, len(y) + 1) if curve.x is None else vector(curve.x, f"x of {curve.label!r}")
    spread = None if curve.spread is None else vector(curve.spread, f"spread of {curve.label!r}")
    if curve.role not in COLOURS:
        raise ValueError(f"unknown role {curve.role!r} of {curve.label!r}: expected one of {', '.join(COLOURS)}")
    for name, other in (("x", x), ("spread", spread)):
        if other is not None and len(other) != len(y):
            raise ValueError(f"{name} of {curve.label!r} has {len(other)} entries, but y has {len(y)}")
    return x, y, spread


def _record(
    data: dict[str, Column],
    xlabel: str,
    name: str,
    x: NDArray[np.float64],
    y: NDArray[np.float64],
    spread: NDArray[np.float64] | None,
) -> None:
    """Adds a curve to the numbers offered with the chart; the abscissa is repeated only where it differs."""
    name = clean(name)
    if clean(xlabel) not in data:
        data[clean(xlabel)] = numbers(x)
    elif data[clean(xlabel)] != numbers(x):
        data[f"{clean(xlabel)}, {name}"] = numbers(x)
    data[name] = numbers(y)
    if spread is not None:
        data[f"{name}, standard error"] = numbers(spread)


def _draw_band(
    axes: Axes, band: Band, first: NDArray[np.float64], data: dict[str, Column], xlabel: str, *, ylog: bool
) -> list[tuple[float, str, Role]]:
    x = first if band.x is None else vector(band.x, "x of the band")
    low, high = (np.broadcast_to(np.asarray(end, dtype=np.float64), x.shape).copy() for end in (band.low, band.high))
    _record(data, xlabel, f"{band.label}, lower end", x, low, None)
    _record(data, xlabel, f"{band.label}, upper end", x, high, None)
    if ylog:
        high = np.where(high > 0, high, np.nan)
        smallest = np.nanmin(np.where(low > 0, low, np.nan), initial=np.inf)
        low = np.where(low > 0, low, min(smallest, float(np.nanmin(high, initial=np.inf))))
    if np.array_equal(low, high, equal_nan=True):  # chance without a spread is a line: a band would not be seen
        axes.plot(x, low, color=COLOURS["chance"], linestyle=DASHES["chance"], linewidth=1.2, zorder=1)
    else:
        axes.fill_between(x, low, high, color=COLOURS["chance"], alpha=BAND_OPACITY, linewidth=0, zorder=1)
    kept = np.isfinite(low) & np.isfinite(high)
    if not band.label or not kept.any():
        return []
    middle = float(np.sqrt(low[kept][-1] * high[kept][-1]) if ylog else (low[kept][-1] + high[kept][-1]) / 2)
    return [(middle, band.label, "chance")]


def _draw_curve(
    axes: Axes,
    role: Role,
    x: NDArray[np.float64],
    y: NDArray[np.float64],
    spread: NDArray[np.float64] | None,
    *,
    layer: float,
    ylog: bool,
) -> None:
    colour, few = COLOURS[role], len(y) <= 40
    # An isolated value between gaps has no line to be seen by.
    lonely = bool(np.any(np.isfinite(y) & ~np.isfinite(np.roll(y, 1)) & ~np.isfinite(np.roll(y, -1)))) or len(y) == 1
    marker = "o" if lonely or (few and role == "network") else ""
    axes.plot(x, y, color=colour, linestyle=DASHES[role], marker=marker, zorder=layer, solid_capstyle="round")
    if spread is None:
        return
    bottom, top = y - spread, y + spread
    if ylog:
        bottom = np.where(bottom > 0, bottom, y / 10)
    if few:
        axes.vlines(x, bottom, top, color=colour, linewidth=1.1, alpha=0.75, zorder=layer)
    else:
        axes.fill_between(x, bottom, top, color=colour, alpha=0.22, linewidth=0, zorder=layer)


def _label_ends(chart: Chart, axes: Axes, ends: Sequence[tuple[float, str, Role]]) -> None:
    """Writes each label to the right of its curve's end, moved up or down as little as keeps them apart."""
    texts: list[Text] = []
    for _, label, role in ends:
        wrapped = "\n".join(textwrap.wrap(clean(label), _LABEL_COLUMNS, max_lines=3, placeholder=" …"))
        texts.append(
            axes.text(
                1.02,
                0.5,
                wrapped,
                transform=axes.transAxes,
                color=COLOURS[role],
                size=_LABEL_SIZE,
                va="center",
                ha="left",
                linespacing=_LABEL_LINE,
            )
        )
    chart.draw_without_rendering()
    room = axes.get_window_extent().height / chart.dpi * 72
    heights = [(text.get_text().count("\n") + 1) * _LABEL_SIZE * _LABEL_LINE / room for text in texts]
    inverse = axes.transAxes.inverted()
    wanted = [float(inverse.transform(axes.transData.transform((1.0, y)))[1]) for y, _, _ in ends]
    wanted = [min(max(w, 0.0), 1.0) for w in wanted]
    order = sorted(range(len(texts)), key=wanted.__getitem__)
    placed = spread_apart([wanted[i] for i in order], [heights[i] for i in order], -0.05, 1.05)
    for i, position in zip(order, placed, strict=True):
        texts[i].set_y(position)


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
        "standard error": [finite(n.spread) for n in rows.values()],
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
