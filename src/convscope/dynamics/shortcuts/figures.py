"""Charts of the shortcut audit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from convscope.core.results import Number
from convscope.page.canvas import style
from convscope.page.charts import COLOURS, Band, Chart, Curve, Role, lines, matrix, pictures, points
from convscope.page.wording import rounded

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from convscope.dynamics.shortcuts.result import ShortcutsResult, Suspect

Z = "z: how far it stands out from its neighbours"
LARGEST_TABLE = 64  # columns of a map whose numbers the page offers
MOST_LABELS = 4
ONE_PICTURE = {1, 3}  # numbers of channels that are one picture, in grey or in colour


def figures(result: ShortcutsResult) -> dict[str, Figure]:
    """Returns the charts by name, the main one first."""
    if not result.suspects:
        return {}
    found: dict[str, Figure] = {"frequencies": _by_radius(result)}
    if any(s.tried for s in result.suspects):
        found["confirmation"] = _confirmation(result)
    if any(s.pattern is not None for s in result.suspects):
        found["patterns"] = _patterns(result)
    found |= {f"map, {name}": _map(result, name) for name in ("coherent_z", "power_z")}
    found["pixels"] = _pixels(result)
    if any(result.tables.values()):
        found["colour and files"] = _tables(result)
    return found


def _by_radius(result: ShortcutsResult) -> Chart:
    threshold = float(result.facts["threshold"])
    radius = np.hypot(*result.frequencies.T)
    bins = np.arange(np.floor(radius.min(initial=0)), np.ceil(radius.max(initial=1)) + 1)
    strongest = {name: _highest(result.curves[name], radius, bins) for name in ("coherent_z", "power_z")}
    curves = [
        Curve(strongest["coherent_z"], "stripes in one place", "network", x=bins),
        Curve(strongest["power_z"], "stripes of varying place", "theory", x=bins),
    ]
    lowest = min((float(np.nanmin(v)) for v in strongest.values() if np.isfinite(v).any()), default=0.0)
    raised = [s for s in result.alarms if s.kind == "frequency"]
    first = next((s for s in result.suspects if s.kind == "frequency"), None)
    alt = "No frequency was tested."
    if raised:
        names = ", ".join(_short(s) for s in raised[:MOST_LABELS])
        alt = f"{len(raised)} alarm{'s' * (len(raised) > 1)}: {names}; the strongest has z {_z(raised[0])}."
    elif first is not None:
        alt = f"No frequency raises an alarm; the strongest, {_short(first)}, has z {_z(first)}."
    chart = lines(
        curves,
        band=Band(min(lowest, 0.0), threshold, "no alarm"),
        xlabel="frequency in cycles per image, |(ky, kx)|",
        ylabel=Z,
        caption="The most suspicious frequency at each radius: how far the classes' difference there stands out from "
        f"that at like frequencies. The grey ends where an alarm begins, at {rounded(threshold)}. "
        + " ".join(result.notes),
        alt=alt,
        how_to_read="A peak above the grey is one frequency at which classes differ far more than at its neighbours: "
        "a watermark, a camera's pattern, an artefact of compression. What belongs to the objects spreads over many "
        "frequencies, and stays in the grey.",
    )
    axes = chart.axes[0]
    with style():
        marked: list[tuple[float, float]] = []
        for suspect in (raised or [s for s in (first,) if s])[:MOST_LABELS]:
            if suspect.place is None or not np.isfinite(suspect.number.value):
                continue
            own: Role = "theory" if suspect.number.definition == "power" else "network"
            at = (float(np.floor(np.hypot(*suspect.place))), suspect.number.value)
            axes.plot(*at, marker="o", markersize=6, color=COLOURS[own])
            if any(abs(at[0] - x) < 0.2 * bins[-1] and abs(at[1] - y) < 0.15 * marked[0][1] for x, y in marked):
                continue  # its label would lie on another
            marked.append(at)
            axes.annotate(
                _short(suspect), at, (7, 2), textcoords="offset points", color=COLOURS[own], size=10.5, va="center"
            )
    return chart


def _highest(z: NDArray[np.float64], radius: NDArray[np.float64], bins: NDArray[np.float64]) -> NDArray[np.float64]:
    """Returns the largest z among the frequencies from each radius up to one more; NaN where none was tested."""
    found = np.full(len(bins), np.nan)
    for i, low in enumerate(bins):
        inside = z[(np.floor(radius) == low) & np.isfinite(z)]
        if inside.size:
            found[i] = inside.max()
    return found


def _confirmation(result: ShortcutsResult) -> Chart:
    rows: dict[str, Number] = {}
    roles: dict[str, Role] = {}
    names: dict[str, tuple[str, Role]] = {
        "added": ("with its own", "network"),
        "opposite": ("with the opposite", "theory"),
        "control": ("with the same elsewhere", "chance"),
        "unchanged": ("unchanged", "initialisation"),
    }
    tried = [s for s in result.suspects if s.tried and s.label is not None]
    for suspect in tried:
        for key, (name, role) in names.items():
            label = f"{_short(suspect)}, {name}"
            rows[label], roles[label] = suspect.tried[key], role
    used = sum(s.used for s in tried)
    top = max([0.1, *(n.value + 3 * (n.spread or 0) for n in rows.values() if np.isfinite(n.value))])
    return points(
        rows,
        xlabel="share of images of other classes taken for the class",
        caption=f"What {result.facts['network']} makes of images of other classes to which the class's own pattern is "
        "added, the opposite of it, and the same at other frequencies or places.",
        alt=f"The network uses {used} of {len(tried)} suspected patterns.",
        how_to_read="With its own pattern far to the right of the grey, and the opposite not: the network takes the "
        "pattern for the class.",
        roles=roles,
        xlim=(-0.02 * top, min(top, 1.02)),
    )


def _patterns(result: ShortcutsResult) -> Chart:
    shown = [(s, s.pattern) for s in result.suspects if s.pattern is not None]
    stack = np.stack([p for _, p in shown])
    labels = [_short(s) for s, _ in shown]
    return pictures(
        stack if stack.shape[1] in ONE_PICTURE else stack.mean(1, keepdims=True),
        unit="in units of the images",
        labels=labels,
        caption="What sets the mean image of the class apart at each suspected frequency or pixel: "
        + "; ".join(f"{_short(s)}, {result.class_name(s.label)}" for s, _ in shown if s.label is not None)
        + ".",
        alt=f"The patterns of {len(shown)} suspects.",
        how_to_read="The pattern is often too faint to be seen in an image; here it is drawn alone, strengthened.",
    )


def _map(result: ShortcutsResult, name: str) -> Chart:
    h, w = result.pixel_z.shape
    rows, columns = range(-((h - 1) // 2), h // 2 + 1), range(-((w - 1) // 2), w // 2 + 1)
    grid = np.full((len(rows), len(columns)), np.nan)
    for (ky, kx), z in zip(result.frequencies.tolist(), result.curves[name], strict=True):
        for a, b in ((ky, kx), (-ky, -kx)):
            # At half a cycle per pixel, both signs are one frequency.
            a_row, b_column = (h // 2 if 2 * a == -h else a), (w // 2 if 2 * b == -w else b)
            if a_row in rows and b_column in columns:
                grid[a_row - rows[0], b_column - columns[0]] = z
    what = "in one place" if name == "coherent_z" else "of varying place"
    return _matrix(
        grid,
        result,
        [str(k).replace("-", "−") for k in rows],
        [str(k).replace("-", "−") for k in columns],
        caption=f"z of stripes {what}, by frequency in cycles per image: ky downwards, kx to the right. A frequency "
        "and its opposite are one pair. What was not tested is left empty.",
        alt=f"The largest is {rounded(_most(grid), 2)}.",
    )


def _pixels(result: ShortcutsResult) -> Chart:
    h, w = result.pixel_z.shape
    return _matrix(
        result.pixel_z,
        result,
        [str(i) for i in range(h)],
        [str(i) for i in range(w)],
        caption="z of each pixel after taking off the mean of its neighbours, by row and column. Border pixels are "
        "compared with border pixels.",
        alt=f"The largest is {rounded(_most(result.pixel_z), 2)}.",
    )


def _matrix(
    grid: NDArray[np.float64],
    result: ShortcutsResult,
    rows: Sequence[str],
    columns: Sequence[str],
    *,
    caption: str,
    alt: str,
) -> Chart:
    reach = max(float(result.facts["threshold"]), _most(np.abs(grid)))
    chart = matrix(
        grid, unit="z", caption=caption, alt=alt, rows=rows, columns=columns, limits=(-reach, reach), diverging=True
    )
    if max(grid.shape) > LARGEST_TABLE:
        chart.data = {}
    return chart


def _tables(result: ShortcutsResult) -> Chart:
    names = {"colour": "mean colour", "files": "file"}
    rows = {
        f"{names.get(table, table)}: {'all together' if name == 'all' else name}": number
        for table, numbers in result.tables.items()
        for name, number in numbers.items()
    }
    return points(
        rows,
        xlabel="share of images whose class it tells",
        caption="How well the class of an image is told without looking at its content, by cross-validation.",
        alt=f"The best tells {rounded(100 * max(n.value for n in rows.values()), 1)} %.",
        how_to_read="Inside the grey: no better than always naming the largest class.",
        xlim=(0.0, 1.0),
    )


def _short(suspect: Suspect) -> str:
    if suspect.place is None:
        return suspect.what
    first, second = (str(k).replace("-", "−") for k in suspect.place)
    return f"({first}, {second})" if suspect.kind == "frequency" else f"pixel {first}, {second}"


def _z(suspect: Suspect) -> str:
    return rounded(suspect.number.value, 1)


def _most(grid: NDArray[np.float64]) -> float:
    return float(np.nanmax(grid)) if np.isfinite(grid).any() else float("nan")
