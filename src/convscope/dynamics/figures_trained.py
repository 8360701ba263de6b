"""Charts of what a trained network learned of a data set's modes, and of the frequencies that it uses."""

from __future__ import annotations

import math

import numpy as np

from convscope.core.fourier import signed_frequencies
from convscope.core.results import Number
from convscope.dynamics.parts import FrequencyUse, Trained
from convscope.page.charts import Band, Chart, Curve, Role, lines, pictures, points
from convscope.page.wording import rounded

CURVES = 5  # modes whose learning is drawn
ROW = 6  # modes of a row of pictures
NEAR = 0.9  # of the energy that a spectrum's middle must hold to be shown alone
NAMES = {"strength": "by how much classes differ", "f-ratio": "by F ratio", "power": "by power"}
STEPS = "steps of this training"


def trained_figures(trained: Trained) -> dict[str, Chart]:
    """Returns the charts of a training: curves, half-times, and the frequencies that were used."""
    found = {"training": _curves(trained), "measured half-times": _half_times(trained)}
    if np.isfinite(trained.curves["used"]).any():
        found["used spectra"] = _used(trained)
    return found


def _curves(trained: Trained) -> Chart:
    curves, facts = trained.curves, trained.facts
    count = min(CURVES, curves["strengths"].shape[1])
    begin = curves["expected_steps"][0] if "expected_steps" in curves else 1
    late = curves["steps"] >= begin
    drawn = [
        Curve(curves["strengths"][late, i], "" if i else "measured", "network", x=curves["steps"][late])
        for i in range(count)
    ]
    linear = facts["scaled"] == 1
    if "expected_steps" in curves:
        drawn = [
            Curve(
                curves["expected_strengths"][:, i],
                "" if i else "predicted" if linear else "linear CNN, predicted",
                "theory",
                x=curves["expected_steps"],
            )
            for i in range(count)
        ] + drawn
    beside = ""
    if "expected_steps" in curves and linear:
        beside = " beside what the theory predicts from its initial weights and these images"
    elif "expected_steps" in curves:
        factor = rounded(float(facts["scaled"]))
        beside = (
            f" beside the prediction for a linear CNN, with times multiplied by {factor} so that the first modes agree"
        )
    return lines(
        drawn,
        xlabel=STEPS,
        ylabel="share of the mode that is learned",
        xlog=True,
        ylim=(-0.1, 1.6),
        caption=f"A {facts['kind']} trained on {rounded(float(facts['images']))} of the images (less their mean, "
        f"{facts['loss']} loss, learning rate {rounded(float(facts['lr']))}, batches of "
        f"{rounded(float(facts['batch']))}): how much it has learned of each of the first {count} modes of these "
        f"images{beside}. Measuring: {facts['cost']}.",
        alt="Measured strengths rise in the order that is predicted, or not: the rank correlation of half-times is "
        f"{rounded(trained.numbers['order_measured'].value, 2)}.",
        how_to_read="1: as much as a network has that gives each image its label. Solid and dashed curves of one mode "
        "start to rise together where the theory holds.",
    )


def _half_times(trained: Trained) -> Chart:
    rows: dict[str, Number] = {}
    roles: dict[str, Role] = {}
    for i, mode in enumerate(trained.modes[: trained.curves["strengths"].shape[1]]):
        for key, name, role in (("half_measured", "measured", "network"), ("half_expected", "predicted", "theory")):
            if math.isfinite(mode[key].value):
                label = f"mode {i + 1}, {name}"
                rows[label], roles[label] = mode[key], role  # type: ignore[assignment]
    return points(
        rows or {"no mode was half learned": Number(math.nan)},
        xlabel=f"{STEPS} until a mode is half learned",
        log=True,
        roles=roles,
        caption="When each mode of these images was half learned, and when it should be."
        + ("" if trained.facts["scaled"] == 1 else " Predicted times are those of a linear CNN, scaled as above."),
        alt=f"{sum('measured' in label for label in rows)} modes were half learned.",
    )


def _used(trained: Trained) -> Chart:
    used, own = trained.curves["used"], trained.curves["spectra"]
    known = [i for i in range(len(used)) if np.isfinite(used[i]).all()][:ROW]
    both, part = middle_part(np.concatenate([own[known], used[known]]))
    largest = float(both.max()) / 2 or 1.0
    return pictures(
        both[:, None] / largest,
        kind="images",
        labels=[f"mode {i + 1}" for i in known] + [f"used for {i + 1}" for i in known],
        columns=len(known),
        caption="Spectra of the modes (above) and of what the network used for each when it had half learned it "
        f"(below; {part}): its mean input Jacobian less that at the start, along the mode's class vector. Frequency 0 "
        f"is near the middle; black is 0, white {rounded(largest)} or more, of norm 1 each.",
        alt="The network's spectra beside those of the modes.",
        how_to_read="Brighter in fewer places below than above: the network goes by the mode's dominant frequencies.",
    )


def middle_part(spectra: np.ndarray) -> tuple[np.ndarray, str]:
    """Returns the middle of spectra [m, h, w], and in words what it is; all where energy lies outside.

    Args:
        spectra: in rising order of signed frequencies.
    """
    h, w = spectra.shape[1:]
    rows, columns = (np.abs(rising(size)) <= size // 4 for size in (h, w))
    middle = spectra[:, rows][:, :, columns]
    energy = np.square(spectra).sum((1, 2))
    inside = np.square(middle).sum((1, 2)) / np.where(energy > 0, energy, 1)
    if min(h, w) < 8 or inside.min() < NEAR:
        return spectra, "all frequencies"
    return middle, f"frequencies up to {h // 4} by {w // 4} cycles per image, which hold {inside.min():.0%} or more"


def rising(size: int) -> np.ndarray:
    """Returns the signed frequencies of a side in rising order."""
    return np.sort(signed_frequencies(1, size)[:, 1].numpy())


def use_figure(use: FrequencyUse) -> Chart:
    """Returns the accuracy of a network on images that keep few frequencies, by how these are chosen."""
    roles: dict[str, Role] = {"strength": "theory"}
    random = use.kept["random"]
    spread = [n.spread or 0.0 for n in random]
    clean = use.numbers["clean_accuracy"]
    first = use.kept["strength"][0]
    return lines(
        [
            Curve(
                [n.value for n in curve],
                NAMES.get(name, name),
                roles.get(name, "network" if name == "f-ratio" else "initialisation"),
                x=list(use.counts),
                spread=[math.nan if n.spread is None else n.spread for n in curve],
            )
            for name, curve in use.kept.items()
            if name != "random"
        ],
        band=Band(
            [max(n.value - 2 * s, 0.0) for n, s in zip(random, spread, strict=True)],
            [min(n.value + 2 * s, 1.0) for n, s in zip(random, spread, strict=True)],
            "random frequencies",
            x=list(use.counts),
        ),
        xlabel=f"frequencies kept, of {rounded(float(use.facts['frequencies']))}",
        ylabel="share of images classified as labelled",
        xlog=True,
        ylim=(0, 1.05),
        caption=f"{use.facts['network']} on {rounded(float(use.facts['images']))} of the images, of whose difference "
        "from the mean image only some frequencies are kept: those in which classes' mean images differ most, those "
        f"with the largest F ratio, those with most power. On whole images it is right in {clean.value:.0%}.",
        alt=f"With {use.counts[0]} frequencies kept, those in which classes differ most, it is right in "
        f"{first.value:.0%}.",
        how_to_read="The sooner a curve rises, the more the network rests on the frequencies that come first in that "
        "order.",
    )
