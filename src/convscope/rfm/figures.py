"""Charts of learned features."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from convscope.core.results import Number
from convscope.page.charts import Band, Chart, Curve, Role, lines, pictures, points

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from convscope.rfm.result import FeatureLayer, MetricPictures, RfmResult

ITERATION = "iteration (0: the fixed kernel)"
ONE_PICTURE = {1, 3}  # numbers of channels that are one picture, in grey or in colour
NOTHING = Number(np.nan)


def figures(result: RfmResult) -> dict[str, Figure]:
    """Returns the charts by name, the main one first."""
    found: dict[str, Figure] = {}
    if len(result.layer.iterations) > 1:
        found["gain"] = _gain(result)
    if len(result.stack) > 1:
        found["layers"] = _layers(result)
    for i, layer in enumerate(result.stack):
        if layer.pictures is not None:
            found[f"patches of layer {i + 1}"] = _patches(_place(result, i), layer.pictures, first=i == 0)
    if len(result.views):
        found["views"] = _views(result)
    if len(result.layer.iterations) > 1:
        found["accuracy"] = _accuracy(result)
    for i, layer in enumerate(result.stack):
        if layer.pictures is not None:
            found[f"metric of layer {i + 1}"] = _matrices(_place(result, i), {"metric": layer.pictures})
    metric = result.stack[0].pictures
    if result.cnn and metric is not None:
        found["metric and CNN"] = _matrices("The kernel and the first layer of a CNN", {"metric": metric, **result.cnn})
        for name, shown in result.cnn.items():
            found[f"patches of the CNN's {name}"] = _patches(f"{name} of the CNN", shown, first=False)
    return found


def _place(result: RfmResult, layer: int) -> str:
    return f"Layer {layer + 1}" if len(result.stack) > 1 else "The learned metric"


def _gain(result: RfmResult) -> Chart:
    learned = result.learned.get("gain", result.learned.get("gain_selection", NOTHING))
    where = "" if len(result.stack) == 1 else f" at layer {result.chosen + 1}, the chosen one"
    return lines(
        _curves(result.layer, {"gain": "test images", "gain_selection": "held out"}, 1, Number(0.0)),
        band=Band(0.0, 0.0, "fixed kernel"),
        xlabel=ITERATION,
        ylabel="gain over the fixed kernel (percentage points)",
        caption=f"How many percentage points more images are right after each metric that was learned{where}. Held "
        f"out: training images that neither the machine nor its metric saw. Iteration {result.layer.best} was chosen "
        "by them, and never by the test images.",
        alt="The gain is not known."
        if np.isnan(learned.value)
        else f"The chosen iteration {result.layer.best} gains {learned.value:+.1f} percentage points.",
        how_to_read="Above 0: learning which patches matter helps. Bars are one standard error; a gain of less than "
        "two is not decided.",
    )


def _accuracy(result: RfmResult) -> Chart:
    layer = result.layer
    chances = [n.get("test", n.get("selection", NOTHING)) for n in layer.iterations]
    known = [n.chance for n in chances if n.chance is not None]
    band = None
    if len(known) == len(chances):
        band = Band([100 * low for low, _ in known], [100 * high for _, high in known], chances[0].chance_name)
    return lines(
        _curves(layer, {"test": "test images", "selection": "held out"}, 100),
        band=band,
        xlabel=ITERATION,
        ylabel="images that are right (%)",
        caption="Accuracy by iteration. Held out: training images that neither the machine nor its metric saw.",
        alt="Accuracy on test images and on held-out images at each iteration.",
    )


def _curves(layer: FeatureLayer, kinds: dict[str, str], unit: float, missing: Number = NOTHING) -> list[Curve]:
    """Returns a curve for each of these keys that any iteration has, the first as the network's.

    Args:
        layer: whose iterations.
        kinds: key to the curve's name.
        unit: what values are multiplied by.
        missing: for an iteration that has no such number.
    """
    x = list(range(len(layer.iterations)))
    roles: list[Role] = ["theory", "network"]
    curves: list[Curve] = []
    for key, name in kinds.items():
        if not any(key in numbers for numbers in layer.iterations):
            continue
        numbers = [table.get(key, missing) for table in layer.iterations]
        spread = [np.nan if n.spread is None else unit * n.spread for n in numbers]
        curves.append(Curve([unit * n.value for n in numbers], name, roles.pop(), x, spread))
    return curves


def _layers(result: RfmResult) -> Chart:
    key = "test" if "test" in result.learned else "selection"
    rows, roles = {"fixed kernel": result.fixed.get(key, NOTHING)}, {"fixed kernel": "initialisation"}
    for i, layer in enumerate(result.stack):
        rows[f"layer {i + 1}, iteration {layer.best}"] = layer.iterations[layer.best].get(key, NOTHING)
    images = "test" if key == "test" else "held-out"
    return points(
        rows,
        roles=roles,  # type: ignore[arg-type]
        xlabel=f"share of {images} images that are right",
        caption=f"The best iteration of each layer of learned features. Layer {result.chosen + 1} was chosen by "
        "held-out images.",
        alt=f"Layer {result.chosen + 1} of {len(result.stack)} was chosen.",
        how_to_read="Each layer learns on random features that the metric of the layer before shaped; depth is chosen, "
        "not assumed to help.",
    )


def _patches(place: str, shown: MetricPictures, *, first: bool) -> Chart:
    count, channels = shown.patches.shape[:2]
    stack, columns = shown.patches, count
    labels: list[str] | None = [f"{100 * share:.1f} %" for share in shown.shares]
    where = ""
    if channels not in ONE_PICTURE:
        stack, columns, labels = stack.reshape(-1, 1, *stack.shape[2:]), channels, None
        where = f"; a row each ({', '.join(f'{100 * share:.1f} %' for share in shown.shares)}), columns are channels "
        where += ", ".join(map(str, shown.channels))
    return pictures(
        stack,
        unit="entry of a unit vector",
        labels=labels,
        columns=columns,
        caption=f"{place}: its leading patches (eigenvectors) and their shares of its trace{where}. The sign of a "
        "patch is a convention.",
        alt=f"{place}: {count} patches; the first has {100 * shown.shares[0]:.0f} % of the trace.",
        how_to_read="What the kernel looks at: a change of an image along the first patches changes the prediction "
        "most." if first else "",
    )  # fmt: skip


def _views(result: RfmResult) -> Chart:
    columns = 1 + len(result.view_names)
    return pictures(
        np.moveaxis(result.views, 3, 1) / 255,
        kind="images",
        labels=["image", *result.view_names] * (len(result.views) // columns),
        columns=columns,
        caption="Images, and how strongly each place of them answers to the learned metric (all) and to its leading "
        "patches. Black is no answer, white the strongest over these images, column by column.",
        alt=f"Answers of {len(result.views) // columns} images to the learned metric.",
    )


def _matrices(place: str, shown: dict[str, MetricPictures]) -> Chart:
    parts = {p.part for p in shown.values()} - {""}
    return pictures(
        np.stack([p.matrix for p in shown.values()])[:, None],
        unit="share of its largest entry",
        scale=1.0,
        labels=list(shown) if len(shown) > 1 else None,
        columns=max(len(shown), 2),
        caption=f"{place}, as a matrix on the entries of a patch: {', '.join(shown)}, each over its largest entry."
        + (f" Shown: {'; '.join(sorted(parts))}." if parts else ""),
        alt=f"{place}: {len(shown)} {'matrix' if len(shown) == 1 else 'matrices'} on patches.",
    )  # fmt: skip
