"""Charts of the order in which a data set is learned."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from convscope.core.results import Number
from convscope.dynamics.figures_trained import ROW, middle_part, rising, trained_figures, use_figure
from convscope.dynamics.wording import classes_in_words, decimal, steps_in_words
from convscope.page.charts import COLOURS, Band, Chart, Curve, lines, matrix, pictures, points, style
from convscope.page.wording import rounded

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from convscope.dynamics.result import DynamicsResult

CURVES = 5  # modes whose learning is drawn
MOST_ROWS = 40  # modes in a chart of singular values
REACH = 8  # cycles per image that the map of growth rates reaches
STEPS = "steps of SGD"


def figures(result: DynamicsResult) -> dict[str, Figure]:
    """Returns the charts by name, the main one first."""
    if not result.modes:
        return {}
    found: dict[str, Figure] = {"learning": _learning(result), "modes": _modes(result), "spectra": _spectra(result)}
    found["half-times"] = _half_times(result)
    found["singular values"] = _singular_values(result)
    found["growth"] = _growth(result)
    found["classes"] = _classes(result)
    if "pairs" in result.shown:
        found["pairs"] = _pairs(result)
    if result.trained is not None:
        found |= trained_figures(result.trained)
    if result.use is not None:
        found["frequency use"] = use_figure(result.use)
    return found


def _learning(result: DynamicsResult) -> Chart:
    shown, facts = result.shown, result.facts
    count = min(CURVES, shown["strengths"].shape[1])
    curves = [
        Curve(shown["strengths"][:, i], "" if i else "linear CNN, predicted", "theory", x=shown["steps"])
        for i in range(count)
    ]
    if "dense_steps" in shown:
        curves += [
            Curve(shown["dense_strengths"][:, i], "" if i else "fully connected", "chance", x=shown["dense_steps"])
            for i in range(count)
        ]
    chart = lines(
        curves,
        xlabel=STEPS,
        ylabel="share of the mode that is learned",
        xlog=True,
        ylim=(-0.03, 1.15),
        caption=f"How much of each of the first {count} modes is learned. {_setting(result)}",
        alt=_alt(result),
        how_to_read="A mode is a difference between classes, shown below. Numbers mark when each is half learned. "
        "Steps, not slopes: little happens to a mode for long, and then much at once.",
    )
    with style():
        axes = chart.axes[0]
        for key, role in (("steps", "theory"), ("dense_steps", "chance")):
            for i in range(count):
                number = result.modes[i].numbers.get(key)
                if number is None or not np.isfinite(number.value) or number.value <= 0:
                    continue
                axes.plot([number.value], [0.5], "o", color=COLOURS[role], markersize=5, zorder=6)
                # Above to the left and below to the right in turn: half-times may lie close together.
                place, side = ((4, -13), "left") if i % 2 else ((-3, 5), "right")
                axes.annotate(
                    str(i + 1), (number.value, 0.5), place, textcoords="offset points", ha=side, color=COLOURS[role],
                    size=10.5,
                )  # fmt: skip
    chart.data = {}
    for prefix, name in (("", "linear CNN"), ("dense_", "fully connected")):
        if f"{prefix}steps" in shown:
            chart.data[f"{STEPS}, {name}"] = shown[f"{prefix}steps"].tolist()
            for i in range(count):
                chart.data[f"mode {i + 1}, {name}"] = shown[f"{prefix}strengths"][:, i].tolist()
    if facts["method"] == "stages":
        chart.caption += " In the limit of small weights that this method takes, strengths jump."
    return chart


def _alt(result: DynamicsResult) -> str:
    known = [(i + 1, n.value) for i, mode in enumerate(result.modes) if np.isfinite((n := mode.numbers["steps"]).value)]
    told = ", ".join(f"mode {i} after {steps_in_words(v)}" for i, v in sorted(known, key=lambda pair: pair[1])[:CURVES])
    return f"Half learned: {told} steps." if known else "No mode is half learned in the time looked at."


def _setting(result: DynamicsResult) -> str:
    """Returns the network, its training and the images in words."""
    facts = result.facts
    filters = int(float(facts["filters"]))
    images = f"{rounded(float(facts['images']))} images of {facts['size']} pixels, in the units in which they are read"
    if facts["brought"]:
        images += f" (brought to this size from {facts['brought']})"
    if facts["gray"]:
        images += ", their channels averaged"
    if not facts["centred"]:
        images += ", not centred"
    network = f"{filters} kernel{'s' * (filters > 1)} {facts['kernel']}"
    if str(facts["kernel"])[0].isdecimal():
        network = f"{filters} kernel{'s' * (filters > 1)} of {facts['kernel']} pixels"
    if facts["layers"] != 2:
        network += f" in each of {int(float(facts['layers'])) - 1} convolutions"
    padding = "circular" if facts["padding"] == "circular" else "zero"
    chosen = " (chosen so small that its steps follow the theory)" if facts["lr_chosen"] else ""
    init_std, lr, momentum = (decimal(float(facts[key])) for key in ("init_std", "lr", "momentum"))
    return (
        f"Network: {network}, {padding} padding, then a linear layer; initial weights of spread {init_std}; "
        f"SGD with learning rate {lr}{chosen} and momentum {momentum} on half the squared error. Data: {images}. "
        f"Method: {facts['method']}, because {facts['why']}."
    )


def _sides(result: DynamicsResult, i: int) -> str:
    mode = result.modes[i]
    return f"{i + 1}: {classes_in_words(mode.high)}" + (f" against {classes_in_words(mode.low)}" if mode.low else "")


def _modes(result: DynamicsResult) -> Chart:
    modes = result.shown["modes"]
    count, channels = modes.shape[:2]
    sides = "; ".join(_sides(result, i) for i in range(count))
    return pictures(
        modes,
        unit="entry of an image of norm 1",
        labels=[f"mode {i + 1}" for i in range(count)] if channels in {1, 3} else None,
        columns=min(ROW, count) if channels in {1, 3} else None,
        caption=f"The first {count} modes: patterns in which the classes' mean images differ. {sides}.",
        alt=f"Mode 1 sets {_sides(result, 0).removeprefix('1: ')}.",
        how_to_read="Images of the classes named first have more of a pattern, those after “against” less of it (what "
        "is light in the pattern is then dark). The sign of a pattern is a convention.",
    )


def _spectra(result: DynamicsResult) -> Chart:
    spectra, part = middle_part(np.nan_to_num(result.shown["spectra"]))
    count = len(spectra)
    largest = float(spectra.max()) / 2 or 1.0  # later modes are faint beside the first
    top = ", ".join(f"{ky} by {kx}".replace("-", "−") for ky, kx in result.modes[0].frequencies)
    return pictures(
        spectra[:, None] / largest,
        kind="images",
        labels=[f"mode {i + 1}" for i in range(count)],
        columns=min(ROW, count),
        caption=f"Their spectra |F φ|: {part}. Black is 0, white {rounded(largest)} or more; frequency 0 is in the "
        "middle, up and down are waves from top to bottom, left and right waves across.",
        alt=f"Mode 1 is strongest at {top} cycles per image.",
        how_to_read="Few bright spots: the mode is made of few waves, which a CNN learns soon. Spread: a CNN uses the "
        "brightest of them first.",
    )


def _half_times(result: DynamicsResult) -> Chart:
    count = len(result.shown["modes"])
    rows = {f"mode {i + 1}": mode.numbers["steps"] for i, mode in enumerate(result.modes[:count])}
    late = sum(bool(n.decided) and n.chance is not None and n.value < n.chance[0] for n in rows.values())
    return points(
        rows,
        xlabel=f"{STEPS} until the mode is half learned",
        log=True,
        caption="When each mode is half learned (two standard errors each way), and when modes of that rank would be "
        "if labels were permuted (grey).",
        alt=f"{late} of {count} modes are learned earlier than with permuted labels.",
        how_to_read="Left of the grey: the network learns something of the classes. In the grey: what is learned by "
        "then could be noise of these images.",
        roles=dict.fromkeys(rows, "theory"),
    )


def _singular_values(result: DynamicsResult) -> Chart:
    modes = result.modes[:MOST_ROWS]
    numbers = [mode.numbers["singular_value"] for mode in modes]
    ends = [n.chance or (np.nan, np.nan) for n in numbers]
    return lines(
        [Curve([n.value for n in numbers], "this data", "network", spread=[_or_nan(n) for n in numbers])],
        band=Band([low for low, _ in ends], [high for _, high in ends], "permuted labels"),
        xlabel="mode",
        ylabel="singular value",
        ylog=True,
        caption="Singular values of the correlation of classes with pixels, with their standard errors.",
        alt=f"{int(result.numbers['beyond'].value)} of {len(result.modes)} lie above what permuted labels give.",
        how_to_read="Above the grey: classes differ in that way. In it: no more than in a sample without any "
        "difference.",
    )


def _or_nan(number: Number) -> float:
    return np.nan if number.spread is None else number.spread


def _growth(result: DynamicsResult) -> Chart:
    growth = result.shown["growth"]
    h, w = growth.shape
    ky, kx = rising(h), rising(w)
    rows, columns = np.abs(ky) <= REACH, np.abs(kx) <= REACH
    part, ky, kx = growth[np.ix_(rows, columns)], ky[rows], kx[columns]
    best = np.unravel_index(np.nanargmax(np.nan_to_num(part)), part.shape)
    with np.errstate(divide="ignore"):
        values = np.where(part > 0, np.log10(part), np.nan)
    top = np.nanmax(values) if np.isfinite(values).any() else 0.0
    fastest = rounded(float(part[best]))
    return matrix(
        values,
        unit="log₁₀ of e-folds per step",
        rows=[str(k).replace("-", "−") for k in ky],
        columns=[str(k).replace("-", "−") for k in kx],
        limits=(top - 2, top),
        caption="How fast small weights of a linear CNN with kernels as large as the images take each frequency up "
        "(rows from top to bottom, columns from left to right, in cycles per image): √N times how much the classes' "
        "mean images differ there.",
        alt=f"The fastest grows by {fastest} e-folds a step, at {ky[best[0]]} by {kx[best[1]]} cycles per image.",
        how_to_read="One unit brighter is ten times faster. What is a hundred times slower than the fastest is "
        "darkest.",
    )


def _classes(result: DynamicsResult) -> Chart:
    vectors = result.shown["class_vectors"].T
    counts = ", ".join(f"{n:,} of {name}" for name, n in zip(result.classes, result.counts, strict=True))
    if len(set(result.counts)) == 1:
        counts = f"{result.counts[0]:,} of each class"
    return matrix(
        vectors[:MOST_ROWS],
        unit="entry of a unit vector",
        rows=list(result.classes[:MOST_ROWS]),
        columns=[str(i + 1) for i in range(vectors.shape[1])],
        diverging=True,
        caption="Which classes each mode (column) sets apart: those with entries of one sign from those of the other. "
        + (f"Images: {counts}." if len(result.classes) <= MOST_ROWS else f"The first {MOST_ROWS} classes."),
        alt=f"Mode 1 sets {_sides(result, 0).removeprefix('1: ')}.",
    )


def _pairs(result: DynamicsResult) -> Chart:
    return matrix(
        result.shown["pairs"],
        unit="effective singular value",
        rows=list(result.classes),
        columns=list(result.classes),
        caption="How soon a linear CNN would tell each pair of classes apart, if it saw these two alone: the effective "
        "singular value of their difference, to which the speed of learning is proportional.",
        alt=f"Soonest: {result.facts['easiest']}; last: {result.facts['hardest']}.",
    )
