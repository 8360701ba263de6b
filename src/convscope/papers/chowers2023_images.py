"""The experiments of Chowers & Weiss (2023) on decorrelation: by more images, and against perfect whitening."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations
from statistics import fmean
from typing import Any

from convscope.core.results import Number
from convscope.core.similarity import pearson
from convscope.firstlayer.fit import fit_energy_profile
from convscope.firstlayer.whitening import autocorrelation, raw_pixels_gram, whitening_curves
from convscope.papers.laboratory import LAG, Laboratory, laboratory
from convscope.papers.registry import Outcome, Row, Setup, summary


def more_images(setup: Setup) -> Outcome:
    """Returns how seed-to-seed correlation, fit and decorrelation change with four times as many images."""
    few, many = laboratory(setup), laboratory(setup, larger=True)
    layers = many.layers("true")
    before, after = _headlines(few), _headlines(many)
    n = len(few.trainer.train.images)
    chance = (-1.96 / len(few.moments.eigenvalues) ** 0.5, 1.96 / len(few.moments.eigenvalues) ** 0.5)

    def row(name: str, quantity: str, paper: str, expected: tuple[float, float], **more: Any) -> Row:
        values = after[name]
        note = f"with {n:,} images {fmean(before[name]):.2f}"
        return Row(quantity, paper, expected, summary(values), len(values), note=note, **more)

    rows = [
        replace(
            row("seeds", "profiles of two networks of other seeds, correlation", "0.99", (0.9, 1.0)),
            ours=summary(after["seeds"], chance, "unrelated profiles"),
        ),
        row(
            "formula",
            "formula against true labels, correlation",
            "0.94 ± 0.01",
            (0.85, 1.0),
            baselines={"index bump": fmean(after["bump"])},
            better="higher",
        ),
        row(
            "age",
            "training time tau times largest eigenvalue",
            "about 68 (read off a figure)",
            (34, 136),
        ),
        row("distant", f"correlation of learned responses {LAG} pixels apart", "about 0.2", (0.1, 0.3)),
    ]
    return many.outcome(rows, layers)


def _headlines(lab: Laboratory) -> dict[str, list[float]]:
    layers = lab.layers("true")
    profiles = [lab.learned(x) for x in layers]
    fits = [fit_energy_profile(p, lab.moments) for p in profiles]
    distant = [whitening_curves(x.final, lab.moments, [LAG], x.initial, draws=1).bank for x in layers]
    return {
        "seeds": [float(pearson(a.values, b.values)) for a, b in combinations(profiles, 2)],
        "formula": [f.correlation for f in fits],
        "bump": [f.baselines["index bump"][0] for f in fits],
        "age": [f.age for f in fits],
        "distant": [float(curve) for curve in distant],
    }


def whitening(setup: Setup) -> Outcome:
    """Returns how far responses of pixels, random, learned and whitening filters correlate at a distance."""
    lab = laboratory(setup)
    layers = lab.layers("true")
    fits = [fit_energy_profile(lab.learned(x), lab.moments) for x in layers]
    change = [
        whitening_curves(x.final, lab.moments, [LAG], x.initial, f.tau) for x, f in zip(layers, fits, strict=True)
    ]
    whole = [whitening_curves(x.final, lab.moments, [LAG]) for x in layers]
    first = change[0]
    raw, random = float(first.raw), float(first.random)
    name = f"correlation of responses {LAG} pixels apart"
    perfect = float(first.perfect)
    rows = [
        Row(
            f"{name}: the pixels themselves",
            "above 0.5",
            (0.5, 1.0),
            Number(raw),
            1,
            _pixel_variants(lab),
            "Figure 6, which does not say whether the mean was subtracted; ours is the mean of a horizontal and a "
            "vertical shift after normalisation",
        ),
        Row(
            f"{name}: random filters",
            "like the pixels",
            (raw - 0.02, raw + 0.02),
            Number(random, None, (float(first.random_low), float(first.random_high)), "", "100 random banks"),
            1,
            note="Figure 6; our value is the expectation, which is that of the pixels up to borders",
        ),
        Row(
            f"{name}: what the network learned",
            "about 0.2",
            (0.1, 0.3),
            summary(
                (float(w.bank) for w in change), (float(first.random_low), float(first.random_high)), "random filters"
            ),
            len(change),
            {
                "formula": fmean(float(w.formula) for w in change if w.formula is not None),
                "trained weights as they are": fmean(float(w.bank) for w in whole),
            },
            "Figure 6, 64 learned filters; closer with more images (chowers2023/images)",
        ),
        Row(
            f"{name}: perfect whitening of 3 x 3 patches",
            "0",
            (-0.02, 0.02),
            Number(perfect),
            1,
            note="small patches decorrelate only the scales that they see",
        ),
    ]
    return lab.outcome(rows, layers)


def _pixel_variants(lab: Laboratory) -> dict[str, float]:
    gram, covariance = raw_pixels_gram(lab.moments), lab.moments.covariance
    shifts = {"horizontal only": (0, LAG), "vertical only": (LAG, 0)}
    variants = {
        name: float(autocorrelation(gram, covariance, lab.moments.lag_covariance(*shift)[None]))
        for name, shift in shifts.items()
    }
    x = lab.trainer.train.pixels.double()
    products = (x[..., LAG:] * x[..., :-LAG]).mean() / 2 + (x[:, :, LAG:] * x[:, :, :-LAG]).mean() / 2
    return variants | {"mean not subtracted": float(products / x.square().mean())}
