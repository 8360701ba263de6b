"""The experiments of Chowers & Weiss (2023) on decorrelation: by more images, and against perfect whitening."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations
from statistics import fmean
from typing import Any

from convscope.core.results import Number
from convscope.firstlayer.fit import fit_energy_profile
from convscope.firstlayer.whitening import autocorrelation, lagged_covariances, raw_pixels_gram, whitening_curves
from convscope.papers.chowers2023_tables import CURVES, PRINTED, correlations, printed, unrelated
from convscope.papers.laboratory import LAG, Laboratory, laboratory
from convscope.papers.registry import Outcome, Row, Setup, summary
from convscope.papers.trained import TrainedLayer

# Components that make up most of the responses of an untrained layer.
_COARSE = 3
_UNCENTRED = "mean not subtracted"


def more_images(setup: Setup) -> Outcome:
    """Returns how seed-to-seed correlation, fit and decorrelation change with four times as many images."""
    few, many = laboratory(setup), laboratory(setup, larger=True)
    layers = many.layers("true")
    before, after = _headlines(few), _headlines(many)
    numbers = PRINTED["CIFAR-10"]
    null = after["fits"][0].nulls["random filters"]

    def row(name: str, quantity: str, chance: tuple[float, float] | None = None, chance_name: str = "") -> Row:
        note = f"with {len(few.trainer.train.images):,} images {fmean(before[name]):.2f}"
        ours = summary(after[name], chance, chance_name)
        return Row(quantity, "not stated", None, ours, len(after[name]), note=note)

    rows = [
        replace(
            row("seeds", "profiles of two networks of other seeds, correlation", unrelated(many), "unrelated profiles"),
            **printed(numbers["seeds"]),
        ),
        replace(
            row(
                "formula",
                "formula against true labels, correlation",
                (null.low, null.high),
                "random filters, fitted alike",
            ),
            baselines={name: fmean(f.baselines[name][0] for f in after["fits"]) for name in CURVES},
            better="higher",
            **printed(numbers["formula"]),
        ),
        replace(
            row("age", "training time tau times largest eigenvalue"),
            paper="about 68 (read off a figure)",
            expected=(34, 136),
        ),
        replace(
            row("distant", f"correlation of learned responses {LAG} pixels apart"),
            paper="about 0.2",
            expected=(0.1, 0.3),
            printed=True,
            baselines={"the pixels themselves": after["pixels"][0]},
        ),
    ]
    return many.outcome(rows, layers)


def _headlines(lab: Laboratory) -> dict[str, list[Any]]:
    layers = lab.layers("true")
    profiles = [lab.learned(x) for x in layers]
    fits = [fit_energy_profile(p, lab.moments) for p in profiles]
    curves = [whitening_curves(x.final, lab.moments, [LAG], x.initial, draws=1) for x in layers]
    return {
        "seeds": correlations(combinations(profiles, 2)),
        "formula": [f.correlation for f in fits],
        "fits": fits,
        "age": [f.age for f in fits],
        "distant": [float(curve.bank) for curve in curves],
        "pixels": [float(curve.raw) for curve in curves],
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
    chance = (float(first.random_low), float(first.random_high))
    variants = _pixel_variants(lab)
    name = f"correlation of responses {LAG} pixels apart"
    rows = [
        Row(
            f"{name}: the pixels themselves",
            "above 0.5",
            (0.5, 1.0),
            Number(raw),
            1,
            variants,
            "Figure 6, which does not say whether the mean was subtracted; ours is the mean of a horizontal and a "
            "vertical shift after normalisation",
            printed=True,
            reason=f"It hangs on the mean, of which the paper does not speak: {variants[_UNCENTRED]:.2f} without "
            f"subtracting it, {raw:.2f} with.",
        ),
        Row(
            f"{name}: random filters",
            "like the pixels",
            (raw - 0.02, raw + 0.02),
            Number(random, None, chance, "", "100 random banks"),
            1,
            note="Figure 6; our value is the expectation, which is that of the pixels up to borders",
        ),
        Row(
            f"{name}: what the network learned",
            "about 0.2",
            (0.1, 0.3),
            summary((float(w.bank) for w in change), chance, "random filters"),
            len(change),
            {
                "formula": fmean(float(w.formula) for w in change if w.formula is not None),
                "trained weights as they are": fmean(float(w.bank) for w in whole),
            },
            "Figure 6, 64 learned filters; closer with more images (chowers2023/images)",
            printed=True,
            reason=_too_little_learned(lab, layers),
        ),
        Row(
            f"{name}: perfect whitening of 3 x 3 patches",
            "0",
            (-0.02, 0.02),
            Number(float(first.perfect), None, chance, "", "random filters"),
            1,
            note="Figure 6",
            printed=True,
            reason=_small_patches(lab),
        ),
    ]
    return lab.outcome(rows, layers)


def _too_little_learned(lab: Laboratory, layers: Sequence[TrainedLayer]) -> str:
    lam2 = lab.moments.eigenvalues
    power = [lab.learned(x).values ** 2 * lam2 for x in layers]
    share = fmean(float(p[:_COARSE].sum() / p.sum()) for p in power)
    epochs = sorted(layers[0].weights)[1:]
    first, last = (
        fmean(float(whitening_curves(x.weights[e], lab.moments, [LAG], x.initial, draws=1).bank) for x in layers)
        for e in (epochs[0], epochs[-1])
    )
    return (
        f"Training was short: {share:.0%} of what the filters respond with still lies along the {_COARSE} coarsest "
        f"components, where whitening leaves {_COARSE / len(lam2):.0%}. The value is {first:.2f} after epoch "
        f"{epochs[0]} and {last:.2f} after epoch {epochs[-1]}."
    )


def _small_patches(lab: Laboratory) -> str:
    m = lab.moments
    lagged = lagged_covariances(m, [LAG])[0]
    own = ((lagged @ m.eigenvectors) * m.eigenvectors).sum(0) / m.eigenvalues
    return (
        "The theorem takes filters as large as the image. Whitened 3 x 3 patches have the mean over components of each "
        f"one's own correlation at this distance, which is {float(own[0]):.2f} and {float(own[1]):.2f} for the first "
        f"two and above 0.1 for {int((own > 0.1).sum())} of {len(own)}: no bank of such filters can split them further."
    )


def _pixel_variants(lab: Laboratory) -> dict[str, float]:
    gram, covariance = raw_pixels_gram(lab.moments), lab.moments.covariance
    shifts = {"horizontal only": (0, LAG), "vertical only": (LAG, 0)}
    variants = {
        name: float(autocorrelation(gram, covariance, lab.moments.lag_covariance(*shift)[None]))
        for name, shift in shifts.items()
    }
    x = lab.trainer.train.pixels.double()
    products = (x[..., LAG:] * x[..., :-LAG]).mean() / 2 + (x[:, :, LAG:] * x[:, :, :-LAG]).mean() / 2
    return variants | {_UNCENTRED: float(products / x.square().mean())}
