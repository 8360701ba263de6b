"""Charts of the first-layer result."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from convscope.core.results import Number
from convscope.page.charts import Band, Chart, Curve, Role, lines, matrix, pictures, points
from convscope.page.wording import rounded

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from convscope.firstlayer.data import DataResult
    from convscope.firstlayer.result import FirstLayerResult, PatchResult

COMPONENT = "principal component of the patches, by falling variance"


def figures(result: FirstLayerResult) -> dict[str, Figure]:
    """Returns the charts by name, the main one first."""
    found: dict[str, Figure] = {
        "energy profile": _profile(result),
        "fits": _fits(result),
        "filters": _filters(result),
        "principal patches": _patches(result),
    }
    if "lag" in result.curves:
        found["whitening"] = _whitening(result)
    if "label_first" in result.curves:
        found["labels"] = _labels(result, "label_first", "average")
        found["labels, contrast"] = _labels(result, "label_second", "contrast")
    if len(result.consistency_names):
        found["consistency"] = _consistency(result)
    if "average_patch_ratio" in result.curves:
        found["average patches"] = _ratio(result)
    return found


def data_figures(result: DataResult) -> dict[str, Figure]:
    """Returns the charts of images alone, the predicted profiles first."""
    found: dict[str, Figure] = {
        "predicted profiles": _predicted(result),
        "spectrum": _spectrum(result),
        "principal patches": _patches(result),
    }
    if "label_first" in result.curves:
        found["labels"] = _labels(result, "label_first", "average")
        found["labels, contrast"] = _labels(result, "label_second", "contrast")
    if "lag" in result.curves:
        found["pixels"] = _pixels(result)
    if "average_patch_ratio" in result.curves:
        found["average patches"] = _ratio(result)
    return found


def _predicted(result: DataResult) -> Chart:
    ages = sorted(int(name.removeprefix("age_")) for name in result.curves if name.startswith("age_"))
    return lines(
        [Curve(result.curves[f"age_{age}"], f"age {age}", "theory") for age in ages],
        xlabel=COMPONENT,
        ylabel="predicted energy (share of the largest)",
        caption="What the formula predicts for a first layer after short and long training (age: learning rate × steps "
        "× variance of the strongest direction).",
        alt=f"The predicted energy is largest at component {_top(result.curves[f'age_{ages[0]}'])} at age {ages[0]} "
        f"and at component {_top(result.curves[f'age_{ages[-1]}'])} at age {ages[-1]}.",
        how_to_read="Left: the coarse, strong directions of the patches; right: the fine, faint ones.",
        ylim=(0.0, 1.05),
    )


def _spectrum(result: DataResult) -> Chart:
    variance = result.curves["variance"]
    return lines(
        [Curve(variance / variance.sum(), "these images")],
        band=Band(1 / len(variance), 1 / len(variance), "white noise"),
        xlabel=COMPONENT,
        ylabel="share of the patches' variance",
        ylog=True,
        caption="Spectrum of the patch covariance.",
        alt=f"The first of {len(variance)} components carries {variance[0] / variance.sum():.0%} of the variance.",
    )


def _pixels(result: DataResult) -> Chart:
    c = result.curves
    return lines(
        [
            Curve(c["response_raw"], "pixels", "initialisation", x=c["lag"]),
            Curve(c["response_perfect"], "perfect whitening", "chance", x=c["lag"]),
        ],
        xlabel="distance (pixels)",
        ylabel="correlation",
        caption="Correlation of pixels by their distance, and after perfect whitening by filters of this size.",
        alt=f"Pixels correlate {rounded(c['response_raw'][-1], 2)} at {c['lag'][-1]:.0f} pixels.",
    )


def _profile(result: FirstLayerResult) -> Chart:
    c, n = result.curves, result.numbers
    curves = [
        Curve(c["energy"], "this network", spread=c.get("energy_spread")),
        Curve(c["prediction"], "formula", "theory"),
    ]
    if "untrained" in c:
        own = result.facts.get("untrained_is") == "init"
        curves.append(Curve(c["untrained"], "before training" if own else "untrained twin", "initialisation"))
    return lines(
        curves,
        band=Band(c["random_low"], c["random_high"], "random filters"),
        xlabel=COMPONENT,
        ylabel="energy of the filters (share of the largest)",
        caption=f"Energy profile of {result.layer}, the formula fitted to it, and what random filters of the same "
        f"number and energy give (grey, central 95 %).{_untrained_note(result)}{_groups_note(result)}",
        alt=f"The measured energy profile and the fitted formula correlate {rounded(n['formula'].value, 2)}; "
        f"a plain bump correlates {rounded(n['bump'].value, 2)}.",
        how_to_read="Left: the coarse, strong directions of the image patches; right: the fine, faint ones. A high "
        "point says that the filters respond much to that direction. A network that learned nothing stays in the grey.",
    )


def _fits(result: FirstLayerResult) -> Chart:
    names = {
        "formula": "formula",
        "bump": "plain bump",
        "eigenvalue_curve": "eigenvalue curve",
        "inverse_curve": "inverse curve",
        "ramp": "straight ramp",
        "held_out": "formula, unseen half",
        "held_out_bump": "bump, unseen half",
        "formula_average": "formula, average patches",
        "formula_signal": "formula, measured signal",
        "per_filter": "formula, equal filters",
        "norm_folded": "formula, norm folded",
    }
    rows: dict[str, Number] = {name: result.numbers[key] for key, name in names.items() if key in result.numbers}
    roles: dict[str, Role] = {name: "theory" if "formula" in name else "chance" for name in rows}
    return points(
        rows,
        roles=roles,
        xlabel="correlation with the energy profile",
        caption="How well the formula and curves that know nothing of training follow the energy profile; grey: random "
        "filters fitted alike, or unrelated profiles on the unseen half.",
        alt="; ".join(f"{name}: {rounded(number.value, 2)}" for name, number in rows.items()) + ".",
        how_to_read="Dots: correlation; lines: two standard errors each way. The formula says something "
        "only where its dot lies right of the plain curves' dots.",
    )


def _filters(result: FirstLayerResult) -> Chart:
    k = result.shape[0]
    shown = len(result.filters)
    return pictures(
        result.filters,
        caption=f"{'The' if shown == k else f'The first {shown} of'} {k} filters of {result.layer}, all on one scale.",
        alt=f"{shown} filters of {result.shape[2]} by {result.shape[3]} pixels.",
        how_to_read="Mid-grey is weight zero.",
    )


def _patches(result: PatchResult) -> Chart:
    shown = len(result.patches)
    return pictures(
        result.patches,
        unit="entry of a unit vector",
        labels=[str(i + 1) for i in range(shown)],
        caption=f"The {shown} strongest principal components of the patches that {result.layer} sees."
        f"{_groups_note(result)}",
        alt=f"{shown} pictures of {result.patches.shape[2]} by {result.patches.shape[3]} pixels, by falling variance.",
        how_to_read="Number 1 varies most over the images; the numbers are those of the energy profile's axis.",
    )


def _whitening(result: FirstLayerResult) -> Chart:
    c, n = result.curves, result.numbers
    curves = [Curve(c["response_bank"], "this network", x=c["lag"])]
    if "response_formula" in c:
        curves.append(Curve(c["response_formula"], "formula", "theory", x=c["lag"]))
    curves += [
        Curve(c["response_raw"], "pixels", "initialisation", x=c["lag"]),
        Curve(c["response_perfect"], "perfect whitening", "chance", x=c["lag"]),
    ]
    return lines(
        curves,
        band=Band(c["response_low"], c["response_high"], "random filters", x=c["lag"]),
        xlabel="distance (pixels)",
        ylabel="correlation of responses",
        caption="Correlation between the layer's responses at two places, by their distance; grey: random filters.",
        alt=f"At the distance nearest ten pixels the responses correlate {rounded(n['response'].value, 2)}, "
        f"the pixels {rounded(n['response_raw'].value, 2)}.",
        how_to_read="The lower the curve, the less the layer repeats itself over the image. Random filters follow the "
        "pixels; perfect whitening with patches of this size is not zero.",
    )


def _labels(result: PatchResult, key: str, what: str) -> Chart:
    return lines(
        [Curve(result.curves[key], f"{what} of patches")],
        band=Band(np.full_like(result.curves[key], 1e-2), result.curves[f"{key}_high"], "permuted labels"),
        xlabel=COMPONENT,
        ylabel="F ratio between classes",
        ylog=True,
        caption=f"How well the {what} of an image's patches along each component tells its label; "
        "grey: permuted labels.",
        alt=f"F ratios reach {rounded(result.numbers[key].value)}; permuted labels give about 1.",
        how_to_read="1 is what labels without information give. High values warn that the first layer may depend on "
        "the labels.",
    )


def _consistency(result: FirstLayerResult) -> Chart:
    names = list(result.consistency_names)
    return matrix(
        result.consistency,
        rows=names,
        columns=names,
        unit="correlation of energy profiles",
        limits=(-1.0, 1.0),
        diverging=True,
        caption="Correlations between the energy profiles of training runs, their untrained weights, and the bare "
        "eigenvalue curve.",
        alt="; ".join(
            f"{names[0]} and {name}: {rounded(r, 2)}"
            for name, r in zip(names[1:], result.consistency[0, 1:].tolist(), strict=True)
        )
        + ".",
        how_to_read="Agreement between runs counts only where it exceeds their agreement with the eigenvalue curve.",
    )


def _ratio(result: PatchResult) -> Chart:
    ratio = result.curves["average_patch_ratio"]
    return lines(
        [Curve(ratio, "these images"), Curve(np.ones_like(ratio), "assumed", "theory")],
        xlabel=COMPONENT,
        ylabel="variance of average patches × patches / variance of patches",
        ylog=True,
        caption="The assumption that patches of one image are uncorrelated would make this ratio 1.",
        alt=f"The ratio lies between {rounded(float(result.facts.get('ratio_low', np.nan)))} and "
        f"{rounded(float(result.facts.get('ratio_high', np.nan)))} where the proof assumes 1.",
    )


def _top(curve: np.ndarray) -> int:
    return int(curve.argmax()) + 1


def _groups_note(result: PatchResult) -> str:
    d, shown = len(result.curves["variance"]), int(np.prod(result.patches.shape[1:]))
    if d == shown:
        return ""
    return f" The layer has {d // shown} groups of channels: their components follow each other; pictures: the first."


def _untrained_note(result: FirstLayerResult) -> str:
    return " Untrained filters are drawn at the same energy." if "untrained" in result.curves else ""
