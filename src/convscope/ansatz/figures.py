"""Charts of the feature ansatz."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from convscope.core.results import Number
from convscope.page.charts import Band, Chart, Curve, Role, lines, pictures, points
from convscope.page.wording import rounded

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from convscope.ansatz.result import AnsatzResult, LayerAlignment, LayerPictures

MOST_ROWS = 8  # convolutions that are named one by one
ORDER = "convolution, in the order in which they run"
CORRELATION = "correlation of filter covariance and AGOP"
ONE_PICTURE = {1, 3}  # numbers of channels that are one picture, in grey or in colour


def figures(result: AnsatzResult) -> dict[str, Figure]:
    """Returns the charts by name, the main one first."""
    if not result.rows:
        return {}
    found: dict[str, Figure] = {"alignment": _alignment(result)}
    if any("change" in row.numbers for row in result.rows):
        found["change of the weights"] = _change(result)
    if len(result.class_patches):
        found["classes"] = _classes(result)
    if len(result.views):
        found["views"] = _views(result)
    for i, (layer, shown) in enumerate(result.pictures.items()):
        found[f"directions of {layer}"] = _directions(layer, shown, first=i == 0)
        found[f"matrices of {layer}"] = _matrices(layer, shown)
    return found


def _untrained_name(result: AnsatzResult) -> str:
    """Returns how the page calls the network without training; "" where there is none."""
    return {"init": "before training", "twin": "untrained twin"}.get(str(result.facts["untrained_is"]), "")


def _alignment(result: AnsatzResult) -> Chart:
    known = [n for row in result.rows if not np.isnan((n := row.numbers["correlation"]).value)]
    extremes = ""
    if known:
        low, high = min(known, key=lambda n: n.value), max(known, key=lambda n: n.value)
        extremes = f"The alignment lies between {rounded(low.value, 2)} and {rounded(high.value, 2)}"
        above = sum(row.verdict == "above" for row in result.rows)
        extremes += f"; it is above chance in {above} of {len(result.rows)} convolutions."
    return _by_layer(
        result.rows,
        [("correlation", "this network", "network"), ("untrained", _untrained_name(result), "initialisation")],
        caption="Correlation of each convolution's filter covariance with the average gradient outer product over its "
        f"patches ({result.facts['sent']}), and what gradients of the same strengths in random directions give (grey, "
        "central 95 %).",
        alt=extremes or "No alignment is defined.",
        how_to_read="High: the patterns that the filters weigh most are those that move the outputs most. Above the "
        "grey: more so than random directions would. Above the untrained network: training made it so.",
    )


def _change(result: AnsatzResult) -> Chart:
    median = result.numbers.get("change")
    return _by_layer(
        result.rows,
        [("change", "change of the weights", "network")],
        caption="The same for what training changed in the filters, (W − W₀)ᵀ(W − W₀): the alignment that random "
        "weights have from the start is taken away.",
        alt="" if median is None else f"The median over convolutions is {rounded(median.value, 2)}.",
        how_to_read="Above the grey: training moved the filters along the patterns that drive the outputs.",
    )


def _by_layer(
    rows: Sequence[LayerAlignment], kinds: list[tuple[str, str, Role]], *, caption: str, alt: str, how_to_read: str
) -> Chart:
    kinds = [kind for kind in kinds if any(kind[0] in row.numbers for row in rows)]
    if len(rows) <= MOST_ROWS:
        named: dict[str, Number] = {}
        roles: dict[str, Role] = {}
        for row in rows:
            for i, (key, name, role) in enumerate(kinds):
                if key in row.numbers:
                    label = f"{row.layer}, {name}" if i else row.layer
                    named[label], roles[label] = row.numbers[key], role
        return points(named, xlabel=CORRELATION, caption=caption, alt=alt, how_to_read=how_to_read, roles=roles)
    nothing = Number(np.nan)
    curves = []
    for key, name, role in kinds:
        numbers = [row.numbers.get(key, nothing) for row in rows]
        spread = [np.nan if n.spread is None else n.spread for n in numbers]
        curves.append(Curve([n.value for n in numbers], name, role, spread=spread))
    chance = [row.numbers.get(kinds[0][0], nothing).chance or (np.nan, np.nan) for row in rows]
    band = Band([low for low, _ in chance], [high for _, high in chance], "random directions")
    chart = lines(
        curves, band=band, xlabel=ORDER, ylabel=CORRELATION, caption=caption, alt=alt, how_to_read=how_to_read
    )
    chart.data = {"layer": [row.layer for row in rows], **chart.data}
    return chart


def _classes(result: AnsatzResult) -> Chart:
    shares = ", ".join(
        f"{name} {n.value:.0%}"
        for name, n in zip(result.classes, result.class_numbers, strict=True)
        if not np.isnan(n.value)
    )
    return pictures(
        result.class_patches,
        unit="entry of a unit vector",
        labels=[*result.classes, *(f"{name} − all" for name in result.classes)],
        columns=min(len(result.classes), 10) if result.class_patches.shape[1] in ONE_PICTURE else None,
        caption="The pattern of the first analysed layer's patches that drives each class most, then the pattern that "
        "drives it more than it drives all classes together."
        + (f" Shares of the gradients: {shares}." if shares else " The classes have no gradients."),
        alt=f"The leading patterns of {len(result.classes)} classes.",
    )


def _views(result: AnsatzResult) -> Chart:
    layers = len(result.view_layers)
    order = {row.layer: f"no. {i + 1}" for i, row in enumerate(result.rows)}
    numbers = [order.get(layer, "") for layer in result.view_layers]
    names = ", ".join(f"{number} is {layer}" for number, layer in zip(numbers, result.view_layers, strict=True))
    return pictures(
        np.moveaxis(result.views, 3, 1) / 255,
        kind="images",
        labels=["image", *numbers] * (len(result.views) // (1 + layers)),
        columns=1 + layers,
        caption="Images, and how strongly each place of them answers to the leading direction of the average gradient "
        "outer product: at the first layer the paper's edge detector. Black is no answer, white the layer's strongest "
        f"over these images. Convolutions by their order: {names}.",
        alt=f"Answers of {layers} layers to {len(result.views) // (1 + layers)} images.",
    )


def _directions(layer: str, shown: LayerPictures, *, first: bool) -> Chart:
    count, channels = shown.nfm_patches.shape[:2]
    stack = np.concatenate([shown.nfm_patches, shown.agop_patches])
    labels: list[str] | None
    if channels in ONE_PICTURE:
        columns, labels = count, [str(i + 1) for i in range(count)] * 2
        where = "of the filters (top row) and of the gradients (bottom row)"
    else:
        stack, columns, labels = stack.reshape(-1, 1, *stack.shape[2:]), channels, None
        where = "a row each, of the filters (upper half) and of the gradients (lower half); columns are input channels "
        where += ", ".join(map(str, shown.channels))
    return pictures(
        stack,
        unit="entry of a unit vector",
        labels=labels,
        columns=columns,
        caption=f"{layer}: leading directions of its patches, {where}. The sign of a direction is a convention.",
        alt=f"The leading directions of filters and of gradients at {layer}.",
        how_to_read="Where the ansatz holds, both show the same patterns in the same order." if first else "",
    )


def _matrices(layer: str, shown: LayerPictures) -> Chart:
    part = f" Shown: {shown.part}." if shown.part else ""
    return pictures(
        np.stack([shown.nfm, shown.agop])[:, None],
        unit="share of its largest entry",
        scale=1.0,
        labels=["filters", "gradients"],
        columns=2,
        caption=f"{layer}: filter covariance WᵀW and average gradient outer product, each over its largest "
        f"entry.{part}",
        alt=f"The two matrices of {layer} side by side.",
    )
