"""Charts of what a network keeps."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from convscope.bottleneck.wording import frequency_in_words
from convscope.core.results import Number
from convscope.page.charts import Band, Chart, Curve, lines, matrix, pictures
from convscope.page.wording import rounded

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from convscope.bottleneck.result import BottleneckResult
    from convscope.bottleneck.shown import LayerMaps

ORDER = "convolution, in the order in which they run"
SIDE = 48  # pixels of a map over frequencies on the page
CLIP = 2.0  # decades of variance at full colour
NOTHING = Number(math.nan)


def figures(result: BottleneckResult) -> dict[str, Figure]:
    """Returns the charts by name, the main one first."""
    if not result.rows:
        return {}
    found: dict[str, Figure] = {}
    if any(shown.variance.size for shown in result.maps.values()):
        found["variance by frequency"] = _variance(result)
    if any("rank" in row.numbers for row in result.rows):
        found["directions by depth"] = _ranks(result)
        found["frequencies by depth"] = _frequencies(result)
    if any(shown.largest.size for shown in result.maps.values()):
        found["singular values by frequency"] = _singular(result)
    if any("align" in row.numbers for row in result.rows):
        found["two levels in the weights"] = _levels(result)
        found["directions kept by the weights"] = _shares(result)
    if len(result.patterns):
        found["kept pairs"] = _pairs(result)
    if result.decoded.outputs:
        found["kept pairs in the outputs"] = _answers(result)
    if len(result.decoded.pictures):
        found["kept pairs in the outputs"] = _decoded(result)
    return found


def _untrained_name(result: BottleneckResult) -> str:
    return {"init": "before training", "twin": "untrained twin"}.get(str(result.facts["untrained_is"]), "")


def _depth(result: BottleneckResult, key: str) -> tuple[list[Number], list[float], list[float], list[float]]:
    """Returns a number of each layer, its errors, and what chance gives from and to."""
    numbers = [row.numbers.get(key, NOTHING) for row in result.rows]
    spread = [math.nan if n.spread is None else n.spread for n in numbers]
    chance = [n.chance or (math.nan, math.nan) for n in numbers]
    return numbers, spread, [low for low, _ in chance], [high for _, high in chance]


def _named(chart: Chart, result: BottleneckResult) -> Chart:
    chart.data = {"layer": [row.layer for row in result.rows], **chart.data}
    return chart


def _ranks(result: BottleneckResult) -> Chart:
    numbers, spread, _, untrained = _depth(result, "rank")
    curves = [Curve([n.value for n in numbers], "this network", spread=spread)]
    if np.isfinite(untrained).any():
        curves.append(Curve(untrained, _untrained_name(result), "initialisation"))
    room = [float(math.prod(row.size) * row.shape[0]) for row in result.rows]
    curves.append(Curve(room, "all there are", "theory"))
    images = result.numbers.get("input_rank")
    band = None if images is None else Band([images.value] * len(numbers), [images.value] * len(numbers), "the images")
    layer = str(result.facts["narrowest"])
    alt = "No layer's maps vary."
    if layer:
        alt = f"The fewest directions, {rounded(result.numbers['narrowest'].value)}, are after {layer}"
        alt += f"; the images fill {rounded(images.value)}." if images is not None else "."
    return _named(
        lines(
            curves, band=band, ylog=True, xlabel=ORDER, ylabel="directions for 99 % of the variance",
            caption="How many directions (a frequency in one mixture of channels) hold 99 % of what differs between "
            f"images, after each convolution{_spoken(result)}.",
            alt=alt,
            how_to_read="A bottleneck is a stretch of layers well below the images' own line. A layer with smaller "
            "maps or fewer channels has fewer directions to begin with, so compare with the untrained network, not "
            "only with the layer before.",
        ),
        result,
    )  # fmt: skip


def _spoken(result: BottleneckResult) -> str:
    start, end = str(result.facts["start"]), str(result.facts["end"])
    if not start:
        return ""
    return f". Narrow from {start} to {end}" if start != end else f". Narrowest after {start}"


def _frequencies(result: BottleneckResult) -> Chart:
    numbers, spread, _, untrained = _depth(result, "frequencies")
    curves = [Curve([100 * n.value for n in numbers], "this network", spread=[100 * s for s in spread])]
    if np.isfinite(untrained).any():
        curves.append(Curve([100 * u for u in untrained], _untrained_name(result), "initialisation"))
    known = [100 * n.value for n in numbers if not math.isnan(n.value)]
    alt = f"From {rounded(known[0], 0)} % of the frequencies to {rounded(known[-1], 0)} %." if known else ""
    return _named(
        lines(
            curves, xlabel=ORDER, ylabel="frequencies that hold 99 % of the variance, %", ylim=(0.0, 105.0),
            caption="Share of the frequencies of each convolution's maps that hold 99 % of what differs between "
            "images. Maps of one pixel have one frequency.",
            alt=alt or "No layer's maps vary.",
        ),
        result,
    )  # fmt: skip


def _variance(result: BottleneckResult) -> Chart:
    known = {layer: shown for layer, shown in result.maps.items() if shown.variance.size}
    stack = [_enlarged(shown.variance) for shown in known.values()]
    labels, beside = _labels(result, known), ""
    if any(shown.untrained.size for shown in known.values()):
        stack += [_enlarged(shown.untrained) for shown in known.values()]
        labels, beside = [*labels, *labels], f" Below: {_untrained_name(result)}."
    return pictures(
        np.stack(stack)[:, None], labels=labels, columns=len(known) if beside else None,
        unit="log₁₀ of variance over an even share", scale=CLIP,
        caption="At which frequencies the maps of each convolution vary between images. In the middle of each square "
        f"the mean over space, at its rim the finest waves.{beside} {_legend(result, known)}.",
        alt=_concentrated(result, known),
        how_to_read="Red: more than an even share of the variance; blue: less. A small red spot in blue: only low "
        "frequencies survive.",
    )  # fmt: skip


def _singular(result: BottleneckResult) -> Chart:
    known = {layer: shown for layer, shown in result.maps.items() if shown.largest.size}
    largest = [_enlarged(shown.largest) for shown in known.values()]
    # Same colours for both halves: all kept at full strength, none white.
    kept = [_enlarged(shown.kept) for shown in known.values()]
    labels = _labels(result, known)
    return pictures(
        np.stack([*largest, *kept])[:, None], labels=[*labels, *labels], columns=len(known),
        unit="log₁₀ of gain over its mean; share kept", scale=1.0,
        caption="Upper row: how much each convolution amplifies each frequency at most (largest singular value over "
        "its root mean square, log₁₀). Lower row: share of its directions that its weights keep there. In the middle "
        f"of each square the mean over space, at its rim the finest waves. {_legend(result, known)}.",
        alt=_most_gained(known),
        how_to_read="A convolution that lets only some frequencies through is red there and blue or white elsewhere.",
    )  # fmt: skip


def _levels(result: BottleneckResult) -> Chart:
    numbers, spread, low, high = _depth(result, "align")
    median = result.numbers.get("median_align")
    return _named(
        lines(
            [Curve([n.value for n in numbers], "this network", spread=spread)],
            band=Band(low, high, "random kernels"), xlabel=ORDER, ylabel="split into two levels (1: complete)",
            caption="How far the singular values of each convolution fall into two levels, kept and dropped, and what "
            "Gaussian kernels of the same shape give (grey, ± 2 standard deviations).",
            alt="" if median is None else f"The median is {rounded(median.value, 2)}.",
            how_to_read="Near 1 with few directions kept: the weights select. At or below the grey: the weights alone "
            "select nothing, whatever the activations do.",
        ),
        result,
    )  # fmt: skip


def _shares(result: BottleneckResult) -> Chart:
    numbers, spread, low, high = _depth(result, "cbn_share")
    known = [100 * n.value for n in numbers if not math.isnan(n.value)]
    return _named(
        lines(
            [Curve([100 * n.value for n in numbers], "this network", spread=[100 * s for s in spread])],
            band=Band([100 * x for x in low], [100 * x for x in high], "random kernels"), xlabel=ORDER,
            ylabel="directions kept by the weights, %", ylim=(0.0, 105.0),
            caption="Share of each convolution's singular values that the fit of two levels counts as kept, and the "
            "same of Gaussian kernels of the same shape (grey).",
            alt=f"Between {rounded(min(known), 0)} and {rounded(max(known), 0)} %." if known else "Nothing is kept.",
        ),
        result,
    )  # fmt: skip


def _pairs(result: BottleneckResult) -> Chart:
    rows, labels = [], []
    empty = np.full(result.patterns.shape[1:], np.nan)
    pictures_of = iter(result.patterns / 255)
    for i, pair in enumerate(result.pairs):
        own = [next(pictures_of) for _ in range(pair.pictures)]
        rows += [*own, *[empty] * (4 - len(own))]
        turns = ["0°", "90°", "180°", "270°"] if len(own) == 4 else ["+", "−", "", ""]
        labels += [f"{i + 1}: {turn}" if turn else "" for turn in turns]
    names = "; ".join(
        f"{i + 1}: {frequency_in_words(*pair.frequency)}{_told(pair.numbers)}" for i, pair in enumerate(result.pairs)
    )
    return pictures(
        np.moveaxis(np.stack(rows), 3, 1), kind="images", labels=labels, columns=8 if len(result.pairs) > 1 else 4,
        caption=f"What the images look like where one of the strongest directions that {result.facts['pairs']} keeps "
        "is active: a wave at four phases, a quarter of a turn apart; a mean over space with both signs. Grey is no "
        f"difference from the mean image. {names}.",
        alt=f"Patterns of {len(result.pairs)} kept directions.",
        how_to_read="A kept direction is a wave in one mixture of channels: as its phase turns, its pattern moves "
        "across the image.",
    )  # fmt: skip


def _answers(result: BottleneckResult) -> Chart:
    answers, outputs = 100 * result.decoded.answers, result.decoded.outputs
    names = "; ".join(f"{i + 1}: {frequency_in_words(*pair.frequency)}" for i, pair in enumerate(result.pairs))
    alt = "No output changes."
    if np.isfinite(answers).any():
        i, j = np.unravel_index(np.nanargmax(answers), answers.shape)
        alt = f"Output {outputs[j]} changes most, by {rounded(answers[i, j])} %, without pair {i + 1}."
    return matrix(
        answers, rows=[f"pair {i + 1}" for i in range(len(result.pairs))],
        columns=[str(output) for output in outputs], limits=(0.0, max(100.0, float(np.nanmax(answers, initial=0)))),
        unit="%",
        caption="How much the outputs that change most (numbered from 0) change when one of the kept pairs is held at "
        f"its mean ({names}): root mean square over images, in percent of the output's own standard deviation.",
        alt=alt,
        how_to_read="100 %: without the pair the output changes by as much as it differs between images. A row with "
        "one bright cell: a pair that one output alone needs.",
    )  # fmt: skip


def _decoded(result: BottleneckResult) -> Chart:
    names = [f"{i + 1}: {change}" for i in range(len(result.pairs)) for change in ("without", "doubled")]
    return pictures(
        np.moveaxis(result.decoded.pictures / 255, 3, 1), kind="images", labels=names, columns=6,
        caption="How the network's output changes when one of these pairs is held at its mean (without) and when its "
        "deviation from the mean is doubled, in the image in which it is most active. Grey is no change; all on one "
        "scale.",
        alt=f"Changes of the output by {len(result.pairs)} kept pairs.",
        how_to_read="Where the network takes a pair on linearly, the second picture is the first with light and dark "
        "exchanged.",
    )  # fmt: skip


def _told(numbers: Mapping[str, Number]) -> str:
    of = {"share": "of the variance", "importance": "of the outputs"}
    parts = [f"{rounded(100 * numbers[key].value)} % {what}" for key, what in of.items() if _known(numbers, key)]
    return f" ({', '.join(parts)})" if parts else ""


def _known(numbers: Mapping[str, Number], key: str) -> bool:
    return key in numbers and math.isfinite(numbers[key].value)


def _labels(result: BottleneckResult, known: dict[str, LayerMaps]) -> list[str]:
    order = {row.layer: f"no. {i + 1}" for i, row in enumerate(result.rows)}
    return [order[layer] for layer in known]


def _legend(result: BottleneckResult, known: dict[str, LayerMaps]) -> str:
    return ", ".join(
        f"{label.capitalize() if i == 0 else label} is {layer} ({'×'.join(map(str, row.size))})"
        for i, (label, layer) in enumerate(zip(_labels(result, known), known, strict=True))
        if (row := result.row(layer)) is not None
    )


def _concentrated(result: BottleneckResult, known: dict[str, LayerMaps]) -> str:
    """Returns how far the variance of the first and the last of some layers lies at low frequencies, in words."""
    rows = [row for row in result.rows if row.layer in known and _known(row.numbers, "radius")]
    if not rows:
        return f"Variance over frequencies of {len(known)} convolutions."
    first, last = rows[0], rows[-1]
    text = "The mean frequency of what varies is "
    text += f"{rounded(first.numbers['radius'].value, 2)} cycles per pixel after {first.layer}"
    return f"{text} and {rounded(last.numbers['radius'].value, 2)} after {last.layer}."


def _most_gained(known: dict[str, LayerMaps]) -> str:
    """Returns which of some layers tells frequencies apart most, in words."""
    span = {layer: float(np.ptp(shown.largest)) for layer, shown in known.items()}
    layer = max(span, key=lambda name: span[name])
    return f"{layer} tells frequencies apart most: its largest gain is {rounded(10 ** span[layer])} times its smallest."


def _enlarged(shown: np.ndarray) -> np.ndarray:
    """Returns a map over frequencies with pixels repeated until it has ``SIDE`` of them each way."""
    if not shown.size:
        return np.full((SIDE, SIDE), np.nan)
    rows, columns = (np.arange(SIDE) * n // SIDE for n in shown.shape)
    return shown[rows[:, None], columns]
