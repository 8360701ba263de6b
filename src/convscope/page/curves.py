"""Curves: what the network does, beside theory, initialisation and chance."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.text import Text
from numpy.typing import ArrayLike, NDArray

from convscope.page.canvas import Chart, Column, numbers, set_scale, spread_apart, style, vector
from convscope.page.theme import BAND_OPACITY, COLOURS, DASHES, Role, clean

_Drawn = tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64] | None]  # abscissae, values, spread
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
        spread: n errors drawn as bars (as a ribbon where they would touch), or None: not computed.
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
    peaks: list[tuple[float, float, str, Role]] = []
    with style():
        axes = chart.add_subplot()
        drawn = [_prepare(curve) for curve in curves]
        # An axis without a positive value cannot be logarithmic.
        xlog = xlog and any(bool(np.any((x > 0) & np.isfinite(y))) for x, y, _ in drawn)
        ylog = ylog and any(bool(np.any((y > 0) & np.isfinite(x))) for x, y, _ in drawn)
        families = _families(curves, drawn)
        # A band that reaches down to nothing must not squeeze the curves.
        floor = _smallest_positive([y for _, y, _ in drawn]) / 3 if ylog else 0.0
        if band is not None:
            ends += _draw_band(axes, band, drawn[0][0], chart.data, xlabel, floor)
        for order, (curve, (x, y, spread)) in enumerate(zip(curves, drawn, strict=True)):
            _record(chart.data, xlabel, curve.label or f"{curves[0].label} ({order + 1})", x, y, spread)
            kept = np.isfinite(x) & np.isfinite(y) & ~((xlog & (x <= 0)) | (ylog & (y <= 0)))
            lost += int(np.sum(np.isfinite(x) & np.isfinite(y) & ~kept))
            visible = np.where(kept, y, np.nan)
            _draw_curve(axes, curve.role, x, visible, spread, layer=3 + (len(curves) - order) / len(curves), ylog=ylog)
            if not curve.label or not kept.any():
                continue
            if curve.role in families:
                peak = int(np.nanargmax(visible))
                peaks.append((float(x[peak]), float(y[peak]), curve.label, curve.role))
            else:
                ends.append((float(y[kept][-1]), curve.label, curve.role))
        if ylog:
            axes.set_yscale("log")
        if ylim is not None:
            axes.set_ylim(*ylim)
        elif floor and band is not None:
            axes.set_ylim(bottom=max(axes.get_ylim()[0], floor))
        whole = all(bool(np.all(x[np.isfinite(x)] == np.round(x[np.isfinite(x)]))) for x, _, _ in drawn)
        axes.margins(x=0.02)
        set_scale(axes, "x", xlabel, log=xlog, whole=whole)
        set_scale(axes, "y", ylabel, log=ylog)
        axes.grid(axis="y")
        axes.tick_params(length=3)
        _label_ends(chart, axes, ends)
        _label_peaks(chart, axes, peaks, ylog=ylog)
    if lost:
        chart.caption += f" {lost} value{'s' * (lost > 1)} at or below 0 cannot stand on the logarithmic axis."
    return chart


def _prepare(curve: Curve) -> _Drawn:
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
        data[f"{name}, error"] = numbers(spread)


def _draw_band(
    axes: Axes, band: Band, first: NDArray[np.float64], data: dict[str, Column], xlabel: str, floor: float
) -> list[tuple[float, str, Role]]:
    x = first if band.x is None else vector(band.x, "x of the band")
    low, high = (np.broadcast_to(np.asarray(end, dtype=np.float64), x.shape).copy() for end in (band.low, band.high))
    _record(data, xlabel, f"{band.label}, lower end", x, low, None)
    _record(data, xlabel, f"{band.label}, upper end", x, high, None)
    if floor:
        high = np.where(high > 0, high, np.nan)
        low = np.fmin(np.fmax(low, floor), high)
    if np.array_equal(low, high, equal_nan=True):  # chance without a spread is a line: a band would not be seen
        axes.plot(x, low, color=COLOURS["chance"], linestyle=DASHES["chance"], linewidth=1.2, zorder=1)
    else:
        axes.fill_between(x, low, high, color=COLOURS["chance"], alpha=BAND_OPACITY, linewidth=0, zorder=1)
    kept = np.isfinite(low) & np.isfinite(high)
    if not band.label or not kept.any():
        return []
    middle = float(np.sqrt(low[kept][-1] * high[kept][-1]) if floor else (low[kept][-1] + high[kept][-1]) / 2)
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


def _smallest_positive(values: Sequence[NDArray[np.float64]]) -> float:
    return min(float(np.min(y[np.isfinite(y) & (y > 0)], initial=np.inf)) for y in values)


def _families(curves: Sequence[Curve], drawn: Sequence[_Drawn]) -> set[Role]:
    """Returns the roles whose curves are told apart by their peaks: several with a label, each peaking elsewhere."""
    peaks: dict[Role, list[float]] = {}
    for curve, (x, y, _) in zip(curves, drawn, strict=True):
        if curve.label and np.isfinite(y).any():
            peaks.setdefault(curve.role, []).append(float(x[np.nanargmax(y)]))
    return {role for role, places in peaks.items() if len(places) > 2 and len(set(places)) == len(places)}


def _label_peaks(chart: Chart, axes: Axes, peaks: Sequence[tuple[float, float, str, Role]], *, ylog: bool) -> None:
    """Writes each label above its curve's highest point, moved aside as little as keeps them apart."""
    if not peaks:
        return
    low, high = axes.get_ylim()
    axes.set_ylim(low, high * (high / low) ** 0.09 if ylog else high + 0.09 * (high - low))
    peaks = sorted(peaks)
    texts = [
        axes.annotate(
            clean(label), (x, y), (0, 4), textcoords="offset points", color=COLOURS[role], size=_LABEL_SIZE, ha="center"
        )
        for x, y, label, role in peaks
    ]
    chart.draw_without_rendering()
    point = 72 / chart.dpi
    widths = [text.get_window_extent().width * point + _LABEL_SIZE / 2 for text in texts]
    wanted = [float(axes.transData.transform((x, y))[0]) * point for x, y, _, _ in peaks]
    box = axes.get_window_extent()
    for text, at, placed in zip(
        texts, wanted, spread_apart(wanted, widths, box.x0 * point, box.x1 * point), strict=True
    ):
        text.set_position((placed - at, 4))


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
