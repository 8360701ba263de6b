"""Rows of Tables 1 to 3 of Chowers & Weiss (2023): what profiles of networks have in common, on any data set."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations, product
from statistics import fmean
from typing import Any

from convscope.core.similarity import pearson
from convscope.firstlayer.fit import ProfileFit
from convscope.firstlayer.profile import EnergyProfile, energy_profile
from convscope.papers.laboratory import Laboratory
from convscope.papers.registry import Row, summary
from convscope.papers.trained import TrainedLayer
from convscope.training.loop import LabelKind

#: By how much our correlation may differ from a printed one: our networks are smaller and see a tenth of the images.
TOLERANCE = 0.08
# Two profiles of 27 components that have nothing in common correlate by 0 with a deviation of 0.2; around the
# printed values, which lie between -0.18 and 0.14, that makes this.
_NOTHING_IN_COMMON = (-0.5, 0.4)
_ACROSS = "true against permuted"
CURVES = ("eigenvalue curve", "inverse eigenvalue curve", "linear ramp", "index bump")

#: Correlations that the paper prints in Tables 1 to 3, as it prints them, by data set and quantity.
PRINTED: Mapping[str, Mapping[str, str]] = {
    "CIFAR-10": {
        "seeds": "0.99",
        "width": "0.98",
        "initial": "−0.13 ± 0.18",
        "architecture": "0.87",
        "permuted": "0.90 ± 0.02",
        "permuted, initial": "0.03 ± 0.22",
        "formula": "0.94 ± 0.01",
    },
    "CIFAR-100": {
        "seeds": "0.97",
        "width": "0.98",
        "initial": "−0.04 ± 0.04",
        "architecture": "0.80",
        "permuted": "0.91 ± 0.01",
        "permuted, initial": "0.14 ± 0.13",
        "formula": "0.93 (at least; figure 16)",
    },
    "CelebA": {
        "seeds": "0.99",
        "width": "0.98",
        "initial": "−0.18 ± 0.13",
        "architecture": "0.92",
        "permuted": "0.96 ± 0.03",
        "permuted, initial": "0.08 ± 0.07",
        "formula": "0.96 ± 0.01",
    },
}


def printed(value: str) -> dict[str, Any]:
    """Returns a row's fields for a printed correlation, which ours may differ from by ``TOLERANCE``.

    Example:
        >>> printed("0.94 ± 0.01")["expected"]
        (0.86, 1.0)
    """
    centre = float(value.split(maxsplit=1)[0].replace("−", "-"))
    low, high = round(centre - TOLERANCE, 4), round(min(centre + TOLERANCE, 1.0), 4)
    return {"paper": value, "expected": (low, high), "printed": True}


def claimed(data: str, quantity: str, words: str, above: float) -> dict[str, Any]:
    """Returns a row's fields: the printed correlation of a data set, or where none is printed what the claim implies.

    Args:
        data: the data set's name.
        quantity: a key of ``PRINTED``'s tables.
        words: the claim in words.
        above: what a correlation must exceed for the claim to hold.
    """
    value = PRINTED.get(data, {}).get(quantity)
    return {"paper": words, "expected": (above, 1.0)} if value is None else printed(value)


def correlations(pairs: Iterable[tuple[EnergyProfile, EnergyProfile]]) -> list[float]:
    """Returns the correlation of each pair of profiles."""
    return [float(pearson(a.values, b.values)) for a, b in pairs]


def unrelated(lab: Laboratory) -> tuple[float, float]:
    """Returns the central 95 % of the correlation of two profiles that have nothing in common."""
    d = len(lab.moments.eigenvalues)
    return (-1.96 / math.sqrt(d - 1), 1.96 / math.sqrt(d - 1))


def _unlike(lab: Laboratory, data: str, quantity: str) -> dict[str, Any]:
    value = PRINTED.get(data, {}).get(quantity)
    if value is None:
        return {"paper": "unrelated", "expected": unrelated(lab)}
    return {"paper": value, "expected": _NOTHING_IN_COMMON, "printed": True}


def _against_curve(lab: Laboratory, profiles: Iterable[EnergyProfile]) -> float:
    curve = lab.moments.eigenvalues.sqrt()
    return fmean(float(pearson(p.values, curve)) for p in profiles)


def seeds_rows(lab: Laboratory, data: str, layers: Sequence[TrainedLayer]) -> list[Row]:
    """Returns the first and third column of Table 1: networks of other seeds, and their initial weights."""
    learned = [lab.learned(x) for x in layers]
    chance = unrelated(lab)
    same = correlations(combinations(learned, 2))
    start = correlations((p, lab.untrained(x)) for p, x in zip(learned, layers, strict=True))
    note = f"Table 1; {len(lab.moments.eigenvalues)} components, so that unrelated profiles give up to {chance[1]:.2f}"
    return [
        Row(
            "profiles of two networks of other seeds, correlation",
            ours=summary(same, chance, "unrelated profiles"),
            n=len(same),
            baselines={"eigenvalue curve against the networks": _against_curve(lab, learned)},
            note=note,
            **claimed(data, "seeds", "alike", chance[1]),
        ),
        Row(
            "profile of a trained network and of its initial weights, correlation",
            ours=summary(start, chance, "unrelated profiles"),
            n=len(start),
            note=note,
            **_unlike(lab, data, "initial"),
        ),
    ]


def width_rows(lab: Laboratory, data: str, narrow: Sequence[TrainedLayer], wide: Sequence[TrainedLayer]) -> list[Row]:
    """Returns the second column of Table 1: first layers with more filters."""
    a, b = [lab.learned(x) for x in narrow], [lab.learned(x) for x in wide]
    across, within = correlations(product(a, b)), correlations(combinations(b, 2))
    chance = unrelated(lab)
    return [
        Row(
            f"profiles of first layers with {a[0].filters} and with {b[0].filters} filters, correlation",
            ours=summary(across, chance, "unrelated profiles"),
            n=len(across),
            baselines={f"{a[0].filters} against {a[0].filters}": fmean(correlations(combinations(a, 2)))},
            note="Table 1; every pair of a narrow and a wide network",
            **claimed(data, "width", "alike", chance[1]),
        ),
        Row(
            f"profiles of two networks of other seeds with {b[0].filters} filters, correlation",
            ours=summary(within, chance, "unrelated profiles"),
            n=len(within),
            note="Table 1; more filters, less sampling noise in a profile",
            **claimed(data, "seeds", "alike", chance[1]),
        ),
    ]


def architecture_row(lab: Laboratory, data: str, vgg: Sequence[TrainedLayer], resnet: Sequence[TrainedLayer]) -> Row:
    """Returns the last column of Table 1: networks of VGG's kind against residual ones."""
    a, b = [lab.learned(x) for x in vgg], [lab.learned(x) for x in resnet]
    across, within = correlations(product(a, b)), correlations(combinations(b, 2))
    return Row(
        "profiles of a network of VGG's kind and of a residual one, correlation",
        ours=summary(across, unrelated(lab), "unrelated profiles"),
        n=len(across),
        baselines={
            "two of VGG's kind": fmean(correlations(combinations(a, 2))),
            "two residual ones": fmean(within),
            "eigenvalue curve against the residual ones": _against_curve(lab, b),
        },
        note=f"Table 1, VGG11 and ResNet18; ours have {a[0].filters} and {b[0].filters} first-layer filters",
        **claimed(data, "architecture", "alike", unrelated(lab)[1]),
    )


def permuted_rows(
    lab: Laboratory, data: str, true: Sequence[TrainedLayer], permuted: Sequence[TrainedLayer]
) -> list[Row]:
    """Returns Table 2: networks that learned permuted labels, against those of true labels and initial weights."""
    a, b = [lab.learned(x) for x in true], [lab.learned(x) for x in permuted]
    across, chance = correlations(product(a, b)), unrelated(lab)
    start = correlations((p, lab.untrained(x)) for p, x in zip(b, permuted, strict=True))
    return [
        Row(
            "profiles after true and after permuted labels, correlation",
            ours=summary(across, chance, "unrelated profiles"),
            n=len(across),
            baselines={
                "true against true": fmean(correlations(combinations(a, 2))),
                "permuted against permuted": fmean(correlations(combinations(b, 2))),
                "eigenvalue curve against true": _against_curve(lab, a),
                "eigenvalue curve against permuted": _against_curve(lab, b),
            },
            note="Table 2; every pair of a true-label and a permuted-label network",
            reason=_parted(lab, true, permuted),
            **claimed(data, "permuted", "alike", chance[1]),
        ),
        Row(
            "profile after permuted labels and of the initial weights, correlation",
            ours=summary(start, chance, "unrelated profiles"),
            n=len(start),
            note="Table 2",
            **_unlike(lab, data, "permuted, initial"),
        ),
    ]


def by_epoch(lab: Laboratory, true: Sequence[TrainedLayer], permuted: Sequence[TrainedLayer]) -> list[dict[str, float]]:
    """Returns the mean correlation of profiles after true and after permuted labels, both after the same epochs."""

    def agreement(epoch: int) -> float:
        a, b = ([profile_after(lab, x, epoch) for x in layers] for layers in (true, permuted))
        return fmean(correlations(product(a, b)))

    return [{"epoch": epoch, _ACROSS: agreement(epoch)} for epoch in sorted(true[0].weights) if epoch]


def profile_after(lab: Laboratory, layer: TrainedLayer, epoch: int) -> EnergyProfile:
    """Returns the energy profile of the weights' change until an epoch that the training kept."""
    return energy_profile(layer.weights[epoch], lab.moments, layer.initial)


def _parted(lab: Laboratory, true: Sequence[TrainedLayer], permuted: Sequence[TrainedLayer]) -> str:
    best = max(by_epoch(lab, true, permuted), key=lambda line: line[_ACROSS])
    return (
        f"The two part on the way: they correlate by {best[_ACROSS]:.2f} after epoch {best['epoch']}. In the end true "
        f"labels have moved the first layer by {moved(true):.2f} of its initial norm, permuted ones by "
        f"{moved(permuted):.2f}."
    )


def moved(layers: Sequence[TrainedLayer]) -> float:
    """Returns how far training moved first layers: the norm of their change over that of the initial weights, mean."""
    return fmean(layer.change for layer in layers)


def fit_row(kind: LabelKind, fits: Sequence[ProfileFit], claim: Mapping[str, Any] | None = None, name: str = "") -> Row:
    """Returns Table 3: the formula against profiles of networks that learned one kind of labels.

    Args:
        kind: of labels.
        fits: of the networks' profiles.
        claim: what the paper prints, as ``printed`` gives it; by default that random filters fit less well.
        name: of the images, where the table holds several.
    """
    null = fits[0].nulls["random filters"]
    return Row(
        f"{name + ': ' if name else ''}formula against {kind} labels, correlation",
        ours=summary((f.correlation for f in fits), (null.low, null.high), "random filters, fitted alike"),
        n=len(fits),
        baselines={curve: fmean(f.baselines[curve][0] for f in fits) for curve in CURVES},
        note="Table 3",
        better="higher",
        **(claim or {"paper": "fits better than random filters", "expected": (null.high, 1.0)}),
    )


def log_row(what: str, fits: Sequence[ProfileFit]) -> Row:
    """Returns the correlation of the logarithms of formula and profiles, which the paper does not state."""
    return Row(
        f"{what}, correlation of logarithms",
        "not stated",
        None,
        summary(f.log_correlation for f in fits),
        len(fits),
        {name: fmean(f.baselines[name][1] for f in fits) for name in CURVES},
        "the weak components count as much as the strong",
        "higher",
    )


def start_row(data: str, fits: Sequence[ProfileFit]) -> Row:
    """Returns the row of Table 3 for initial weights."""
    null = fits[0].nulls["random filters"]
    known = data in PRINTED
    return Row(
        "formula against initial weights, correlation",
        "0.10 ± 0.15" if known else "as with random filters",
        (-0.3, 0.5) if known else (null.low, null.high),
        summary((f.correlation for f in fits), (null.low, null.high), "random filters, fitted alike"),
        len(fits),
        {name: fmean(f.baselines[name][0] for f in fits) for name in CURVES},
        "Table 3; the best over all tau, which is above 0 for any profile",
        printed=known,
    )


def wider(lab: Laboratory) -> list[TrainedLayer]:
    """Returns first layers with twice as many filters."""
    first, *others = lab.size.widths
    return lab.layers("true", lab.size.few, widths=(2 * first, *others))


def residual(lab: Laboratory) -> list[TrainedLayer]:
    """Returns first layers of residual networks."""
    return lab.layers("true", lab.size.few, widths=(lab.size.resnet,), network="resnet")


def no_drift(steps: int) -> tuple[float, float]:
    """Returns the central 95 % of the share of falls among steps of a walk without drift."""
    return (max(0.0, 0.5 - 0.98 / math.sqrt(steps)), min(1.0, 0.5 + 0.98 / math.sqrt(steps)))
