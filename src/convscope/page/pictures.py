"""Filters, patches and maps as pictures, each chart with one stated scale for all of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from numpy.typing import ArrayLike, NDArray

from convscope.page.canvas import Chart, numbers, plain_tick, style
from convscope.page.theme import DIVERGING, MUTED, SEQUENTIAL, WIDTH, clean

_MOST_CELLS_WITH_VALUES = 13  # columns of a matrix whose values still fit into its cells
_GAP = 0.1  # between pictures, in units of a picture's width
_TALLEST = 5.0  # inches that the pictures of one chart may take together
_NOTE, _BAR = 0.26, 0.62  # inches below them: for a line of notes, for a colour bar


def pictures(
    stack: ArrayLike | Any,
    *,
    caption: str,
    alt: str,
    how_to_read: str = "",
    kind: Literal["weights", "images"] = "weights",
    unit: str = "weight",
    scale: float | None = None,
    labels: Sequence[str] | None = None,
    columns: int | None = None,
    most: int = 96,
) -> Chart:
    """Returns a chart of small pictures, all on one scale that the chart states; never normalised one by one.

    Weights: three channels are shown as 0.5 + w / (2 scale), so that mid-grey is 0; one channel in a diverging map
    centred at 0; any other number of channels as one row of single-channel pictures per filter.
    Images: values from 0 to 1, as grey or RGB.

    Args:
        stack: [k, c, q, r], one picture each; NaN is left transparent.
        caption: what is drawn.
        alt: the finding, in words.
        how_to_read: how to read it, in a line.
        kind: signed weights, or images.
        unit: what a value is, written beside the scale.
        scale: the weight drawn at full strength; None: the largest magnitude in the stack.
        labels: k short names, written below the pictures.
        columns: pictures in a row; None: what suits their number.
        most: pictures beyond this many are left out, and the chart says so.

    Raises:
        ValueError: for another shape, an empty stack, an unknown kind or too few labels.

    Example:
        >>> chart = pictures([[[[1.0, -1.0]]]], caption="One filter.", alt="Left minus right.")
        >>> chart.caption
        'One filter.'
    """
    array = np.asarray(stack.detach().cpu() if hasattr(stack, "detach") else stack, dtype=np.float64)
    if array.ndim != 4 or 0 in array.shape:
        raise ValueError(f"pictures expects a stack [k, c, q, r] with no empty side, got shape {array.shape}")
    if kind not in {"weights", "images"}:
        raise ValueError(f"kind must be 'weights' or 'images', got {kind!r}")
    if labels is not None and len(labels) != len(array):
        raise ValueError(f"{len(array)} pictures but {len(labels)} labels")
    notes: list[str] = []
    if array.shape[1] not in {1, 3}:
        channels = array.shape[1]
        columns = min(columns or channels, 16)
        notes.append(f"one row a filter, its {channels} input channels from left to right")
        labels = None if labels is None else [f"{name}.{c + 1}" for name in labels for c in range(channels)]
        array = array.reshape(-1, 1, *array.shape[2:])
    total = len(array)
    if total > most:
        notes.append(f"the first {most} of {total}")
        array, labels = array[:most], None if labels is None else labels[:most]
    scale = _scale(array, scale) if kind == "weights" else 1.0
    signed_map = kind == "weights" and array.shape[1] == 1
    if kind == "weights" and not signed_map:
        notes.append(f"grey is 0, full colour ±{plain_tick(float(f'{scale:.2g}'))} ({clean(unit)})")

    count, _, q, r = array.shape
    columns = columns or _columns(count)
    rows, tall = math.ceil(count / columns), q / r
    step_y = tall + _GAP + (0.0 if labels is None else 0.34)
    across = columns * (1 + _GAP) - _GAP
    inches = min(WIDTH / across, 1.25, _TALLEST / (rows * step_y))
    height = inches * (rows * step_y - _GAP) + 0.12 + _NOTE * len(notes) + (_BAR if signed_map else 0.0)
    chart = Chart(caption=caption, alt=alt, how_to_read=how_to_read, height=height)
    with style():
        chart.set_layout_engine("none")
        foot = (_NOTE * len(notes) + (_BAR if signed_map else 0.0)) / height
        axes = chart.add_axes((0.0, foot, min(1.0, across * inches / WIDTH), 1 - foot))
        axes.set_axis_off()
        for i, picture in enumerate(array):
            left, top = (i % columns) * (1 + _GAP), (i // columns) * step_y
            _show(axes, _rgba(picture, kind, scale), (left, left + 1, top + tall, top))
            if labels is not None:
                axes.text(left + 0.5, top + tall + 0.06, clean(labels[i])[:14], ha="center", va="top", size=9.5)
        axes.set(xlim=(0, across), ylim=(rows * step_y - _GAP, 0), aspect="auto")
        if signed_map:
            box = (0.045, (_NOTE * len(notes) + 0.45) / height, 0.42, 0.13 / height)
            _colour_bar(chart.add_axes(box), DIVERGING, -scale, scale, unit)
        for line, note in enumerate(reversed(notes)):
            chart.text(0.0, (0.06 + _NOTE * line) / height, note, size=10, color=MUTED, va="bottom", ha="left")
    return chart


def matrix(
    values: ArrayLike | Any,
    *,
    unit: str,
    caption: str,
    alt: str,
    how_to_read: str = "",
    rows: Sequence[str],
    columns: Sequence[str],
    limits: tuple[float, float] | None = None,
    diverging: bool = False,
) -> Chart:
    """Returns a heat map with its labels; values are written into the cells where they fit.

    Args:
        values: [rows, columns]; NaN cells stay empty and read "–".
        unit: what a value is, written at the colour bar.
        caption: what is drawn.
        alt: the finding, in words.
        how_to_read: how to read it, in a line.
        rows: label of each row; too many to print are thinned out.
        columns: label of each column.
        limits: values at the ends of the colour map; None: the smallest and largest (symmetric about 0 if diverging).
        diverging: whether the map is centred at 0.

    Raises:
        ValueError: when the shape and the labels do not agree, or the matrix is empty.
    """
    array = np.asarray(values.detach().cpu() if hasattr(values, "detach") else values, dtype=np.float64)
    if array.ndim != 2 or 0 in array.shape or array.shape != (len(rows), len(columns)):
        raise ValueError(f"matrix of shape {array.shape} with {len(rows)} row and {len(columns)} column labels")
    low, high = limits or _limits(array, diverging=diverging)
    name = DIVERGING if diverging else SEQUENTIAL
    shade = mpl.colormaps[name]((array - low) / (high - low if high > low else 1.0))
    shade[~np.isfinite(array)] = 0
    many_rows, many_columns = array.shape
    width, longest = max(len(str(row)) for row in rows[:60]), max(len(str(c)) for c in columns[:60])
    cell = min(0.62, (WIDTH - 0.2 - min(width, 22) * 0.085) / many_columns)
    flat = longest * 0.085 < cell
    height = cell * min(many_rows, many_columns * 2) + (0.3 if flat else min(longest, 22) * 0.075) + 0.85
    chart = Chart(caption=caption, alt=alt, how_to_read=how_to_read, height=min(max(height, 1.4), 7.5))
    chart.data = {"row": [clean(r) for r in rows]} | {
        clean(c): numbers(column) for c, column in zip(columns, array.T, strict=True)
    }
    with style():
        axes = chart.add_subplot()
        _show(axes, (shade * 255).round().astype(np.uint8), (-0.5, many_columns - 0.5, many_rows - 0.5, -0.5))
        axes.set_aspect("equal" if many_rows <= 2 * many_columns else "auto", anchor="NW")
        axes.spines[:].set_visible(False)
        axes.tick_params(length=0, pad=4)
        axes.xaxis.tick_top()
        _name_cells(axes, "y", rows, every=math.ceil(0.17 / cell))
        _name_cells(axes, "x", columns, every=1 if flat else math.ceil(0.24 / cell))
        if not flat:
            for text in axes.get_xticklabels():
                text.set(rotation=40, ha="left", rotation_mode="anchor")
        if many_columns <= _MOST_CELLS_WITH_VALUES and cell >= 0.36:
            _write_values(axes, array, shade)
        tall = cell * many_rows
        _colour_bar(axes.inset_axes((0.02, -0.29 / tall, 0.55, 0.13 / tall)), name, low, high, unit)
    return chart


def _scale(array: NDArray[np.float64], scale: float | None) -> float:
    if scale is None:
        finite = np.abs(array[np.isfinite(array)])
        scale = float(finite.max()) if finite.size else 0.0
    return scale if scale > 0 and math.isfinite(scale) else 1.0


def _limits(array: NDArray[np.float64], *, diverging: bool) -> tuple[float, float]:
    finite = array[np.isfinite(array)]
    if not finite.size:
        return (-1.0, 1.0) if diverging else (0.0, 1.0)
    if diverging:
        return -_scale(array, None), _scale(array, None)
    return float(finite.min()), float(finite.max())


def _columns(count: int) -> int:
    """Returns how many pictures stand in a row: the last row full where that can be, and pictures not too small."""
    if count <= 8:
        return count
    usual = 8 if count <= 32 else 12
    return min(range(min(count, 16), 5, -1), key=lambda c: (-count % c, abs(c - usual)))


def _rgba(picture: NDArray[np.float64], kind: str, scale: float) -> NDArray[np.uint8]:
    """Returns a picture [c, q, r] as bytes [q, r, 4]; NaN is transparent."""
    undefined = ~np.isfinite(picture).all(axis=0)
    unit = np.nan_to_num(picture if kind == "images" else 0.5 + picture / (2 * scale))
    if kind == "weights" and len(picture) == 1:
        rgba = mpl.colormaps[DIVERGING](np.clip(unit[0], 0, 1))
    else:
        rgb = np.moveaxis(np.broadcast_to(np.clip(unit, 0, 1), (3, *picture.shape[1:])), 0, -1)
        rgba = np.concatenate([rgb, np.ones((*rgb.shape[:2], 1))], axis=-1)
    rgba[undefined] = 0
    return np.asarray((rgba * 255).round(), dtype=np.uint8)


def _show(axes: Axes, rgba: NDArray[np.uint8], extent: tuple[float, float, float, float]) -> None:
    axes.imshow(rgba, extent=extent, interpolation="none", aspect="auto", origin="upper")


def _colour_bar(axes: Axes, name: str, low: float, high: float, unit: str) -> None:
    ramp = (mpl.colormaps[name](np.linspace(0, 1, 64))[None] * 255).round().astype(np.uint8)
    _show(axes, ramp, (0.0, 1.0, 0.0, 1.0))
    axes.set_yticks([])
    ticks = [plain_tick(float(f"{v:.2g}")) for v in (low, (low + high) / 2, high)]
    axes.set_xticks([0.0, 0.5, 1.0], ticks, size=10)
    axes.tick_params(length=2, pad=2)
    axes.spines[:].set_visible(False)
    axes.text(1.09, 0.5, clean(unit), transform=axes.transAxes, va="center", ha="left", size=10.5)


def _name_cells(axes: Axes, which: Literal["x", "y"], names: Sequence[str], *, every: int) -> None:
    places = range(0, len(names), every)
    texts = [name if len(name := clean(names[i])) <= 24 else name[:23] + "…" for i in places]
    (axes.set_xticks if which == "x" else axes.set_yticks)(list(places), texts)


def _write_values(axes: Axes, array: NDArray[np.float64], shade: NDArray[np.float64]) -> None:
    for (i, j), value in np.ndenumerate(array):
        if not math.isfinite(value):
            axes.text(j, i, "–", ha="center", va="center", size=10)
            continue
        light = float(shade[i, j, :3] @ np.array([0.2126, 0.7152, 0.0722])) > 0.45
        text = f"{value:.2f}" if abs(value) < 10 else f"{value:.3g}"
        axes.text(
            j, i, text.replace("-", "−"), ha="center", va="center", size=10, color="#0a0a0a" if light else "#ffffff"
        )
