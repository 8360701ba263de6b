"""Experiments of Chowers & Weiss, "What do CNNs Learn in the First Layer and Why?" (ICML 2023), on CIFAR-10."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import combinations, pairwise, product
from statistics import fmean
from typing import Any

from torch import Tensor

from convscope.core.results import Number
from convscope.core.similarity import pearson
from convscope.firstlayer.fit import ProfileFit, fit_energy_profile
from convscope.firstlayer.heldout import held_out_components
from convscope.firstlayer.profile import EnergyProfile, energy_profile
from convscope.papers.chowers2023_images import labels, more_images, whitening
from convscope.papers.chowers2023_networks import pretrained, trajectory
from convscope.papers.chowers2023_scaling import patch_scaling
from convscope.papers.laboratory import KINDS, Laboratory, laboratory
from convscope.papers.registry import SCALES, Experiment, Outcome, Row, Scale, Setup, summary
from convscope.papers.trained import TrainedLayer

TITLE = "Chowers & Weiss, “What do CNNs Learn in the First Layer and Why? A Linear Systems Perspective” (ICML 2023)"


def _correlations(pairs: Iterable[tuple[EnergyProfile, EnergyProfile]]) -> list[float]:
    return [float(pearson(a.values, b.values)) for a, b in pairs]


def _unrelated(d: int) -> tuple[float, float]:
    return (-1.96 / math.sqrt(d - 1), 1.96 / math.sqrt(d - 1))


def _seeds(setup: Setup) -> Outcome:
    lab = laboratory(setup)
    layers = lab.layers("true")
    learned, untrained = [lab.learned(x) for x in layers], [lab.untrained(x) for x in layers]
    raw = [energy_profile(x.final, lab.moments) for x in layers]
    curve = lab.moments.eigenvalues.sqrt()
    chance = _unrelated(len(curve))
    same = _correlations(combinations(learned, 2))
    start = _correlations(zip(learned, untrained, strict=True))
    rows = [
        Row(
            "profiles of two networks of other seeds, correlation",
            "0.99",
            (0.9, 1.0),
            summary(same, chance, "unrelated profiles"),
            len(same),
            {"eigenvalue curve against the networks": fmean(float(pearson(p.values, curve)) for p in learned)},
            "Table 1, CIFAR-10",
        ),
        Row(
            "the same without subtracting the initial weights",
            "not stated",
            None,
            summary(_correlations(combinations(raw, 2)), chance, "unrelated profiles"),
            len(same),
        ),
        Row(
            "profile of a trained network and of its initial weights, correlation",
            "−0.13 ± 0.18",
            (-0.5, 0.4),
            summary(start, chance, "unrelated profiles"),
            len(start),
            note="Table 1, CIFAR-10",
        ),
    ]
    return lab.outcome(rows, layers)


def _width(setup: Setup) -> Outcome:
    lab = laboratory(setup)
    narrow, wide = lab.layers("true"), lab.layers("true", wide=True)
    a, b = [lab.learned(x) for x in narrow], [lab.learned(x) for x in wide]
    chance = _unrelated(len(lab.moments.eigenvalues))
    across, within = _correlations(product(a, b)), _correlations(combinations(b, 2))
    rows = [
        Row(
            f"profiles of first layers with {a[0].filters} and with {b[0].filters} filters, correlation",
            "0.98",
            (0.9, 1.0),
            summary(across, chance, "unrelated profiles"),
            len(across),
            {f"{a[0].filters} against {a[0].filters}": fmean(_correlations(combinations(a, 2)))},
            "Table 1, CIFAR-10; every pair of a narrow and a wide network",
        ),
        Row(
            f"profiles of two networks of other seeds with {b[0].filters} filters, correlation",
            "0.99",
            (0.9, 1.0),
            summary(within, chance, "unrelated profiles"),
            len(within),
            note="Table 1, CIFAR-10; more filters, less sampling noise in a profile",
        ),
    ]
    return lab.outcome(rows, [*narrow, *wide])


def _random_labels(setup: Setup) -> Outcome:
    lab = laboratory(setup)
    true, permuted = lab.layers("true"), lab.layers("permuted")
    a, b = [lab.learned(x) for x in true], [lab.learned(x) for x in permuted]
    curve = lab.moments.eigenvalues.sqrt()
    chance = _unrelated(len(curve))
    across = _correlations(product(a, b))
    within = _correlations(combinations(b, 2))
    start = _correlations((p, lab.untrained(x)) for p, x in zip(b, permuted, strict=True))
    rows = [
        Row(
            "profiles after true and after permuted labels, correlation",
            "0.90 ± 0.02",
            (0.8, 1.0),
            summary(across, chance, "unrelated profiles"),
            len(across),
            {
                "true against true": fmean(_correlations(combinations(a, 2))),
                "eigenvalue curve against true": fmean(float(pearson(p.values, curve)) for p in a),
                "eigenvalue curve against permuted": fmean(float(pearson(p.values, curve)) for p in b),
            },
            "Table 2, CIFAR-10; every pair of a true-label and a permuted-label network",
        ),
        Row(
            "profiles of two networks with other permuted labels, correlation",
            "not stated",
            None,
            summary(within, chance, "unrelated profiles"),
            len(within),
        ),
        Row(
            "profile after permuted labels and of the initial weights, correlation",
            "0.03 ± 0.22",
            (-0.5, 0.4),
            summary(start, chance, "unrelated profiles"),
            len(start),
            note="Table 2, CIFAR-10",
        ),
    ]
    profiles = [
        {"labels": layer.recipe.labels, "seed": layer.recipe.seed, "profile / its maximum": _scaled(profile.values)}
        for layer, profile in zip([*true, *permuted], [*a, *b], strict=True)
    ]
    return lab.outcome(rows, [*true, *permuted], profiles=profiles)


def _scaled(values: Tensor) -> list[float]:
    return [round(v, 4) for v in (values / values.max()).tolist()]


_CURVES = ("eigenvalue curve", "inverse eigenvalue curve", "linear ramp", "index bump")


def _formula(setup: Setup) -> Outcome:
    lab = laboratory(setup)
    rows: list[Row] = []
    layers: list[TrainedLayer] = []
    trajectory: list[dict[str, Any]] = []
    stated = {"true": ("0.94 ± 0.01", (0.85, 1.0)), "permuted": ("not stated", None)}
    for kind in KINDS:
        runs = lab.layers(kind)
        layers += runs
        profiles = [lab.learned(x) for x in runs]
        fits = [fit_energy_profile(p, lab.moments) for p in profiles]
        held = [held_out_components(p, lab.moments) for p in profiles]
        null = fits[0].nulls["random filters"]
        paper, expected = stated[kind]
        rows += [
            Row(
                f"formula against {kind} labels, correlation",
                paper,
                expected,
                summary((f.correlation for f in fits), (null.low, null.high), "random filters, fitted alike"),
                len(fits),
                {name: fmean(f.baselines[name][0] for f in fits) for name in _CURVES},
                "Table 3, CIFAR-10" if kind == "true" else "",
                "higher",
            ),
            Row(
                f"formula against {kind} labels, correlation of logarithms",
                "not stated",
                None,
                summary(f.log_correlation for f in fits),
                len(fits),
                {name: fmean(f.baselines[name][1] for f in fits) for name in _CURVES},
                "the weak components count as much as the strong",
                "higher",
            ),
            Row(
                f"{kind} labels: fitted on every other component, correlation on the rest",
                "not stated",
                None,
                summary(s["formula"][0] for h in held for s in (h.scores, h.swapped)),
                2 * len(held),
                {name: fmean(s[name][0] for h in held for s in (h.scores, h.swapped)) for name in _CURVES},
                "both halves in turn",
                "higher",
            ),
            Row(
                f"{kind} labels: training time tau times largest eigenvalue",
                "about 68 (read off a figure)" if kind == "true" else "not stated",
                (34, 136) if kind == "true" else None,
                summary(f.age for f in fits),
                len(fits),
                note="grows with step size and steps; "
                f"identified in {sum(f.tau_identified for f in fits)} of {len(fits)} networks",
            ),
        ]
        trajectory += [_checkpoint(lab, x, epoch) for x in runs for epoch in sorted(x.weights) if epoch]
    start = [fit_energy_profile(lab.untrained(x), lab.moments) for x in layers]
    rows += [_untrained_row(start), _ageing_row(trajectory)]
    return lab.outcome(rows, layers, checkpoints=trajectory)


def _untrained_row(fits: Sequence[ProfileFit]) -> Row:
    null = fits[0].nulls["random filters"]
    return Row(
        "formula against initial weights, correlation",
        "0.10 ± 0.15",
        (-0.3, 0.5),
        summary((f.correlation for f in fits), (null.low, null.high), "random filters, fitted alike"),
        len(fits),
        {name: fmean(f.baselines[name][0] for f in fits) for name in _CURVES},
        "Table 3; the best over all tau, which is above 0 for any profile",
    )


def _ageing_row(checkpoints: Sequence[Mapping[str, Any]]) -> Row:
    steps = [
        later["tau times largest eigenvalue"] < earlier["tau times largest eigenvalue"]
        for earlier, later in pairwise(checkpoints)
        if (earlier["labels"], earlier["seed"]) == (later["labels"], later["seed"])
    ]
    return Row(
        "share of steps from one checkpoint to the next in which tau falls",
        "0 by the theory",
        (0.0, 0.0),
        Number(sum(steps) / len(steps)),
        len(steps),
        note="after 1, 2, 4, ... epochs; all networks above",
    )


def _checkpoint(lab: Laboratory, layer: TrainedLayer, epoch: int) -> dict[str, Any]:
    fit = fit_energy_profile(energy_profile(layer.weights[epoch], lab.moments, layer.initial), lab.moments)
    return {
        "labels": layer.recipe.labels,
        "seed": layer.recipe.seed,
        "epoch": epoch,
        "tau times largest eigenvalue": fit.age,
        "correlation": fit.correlation,
        "index bump": fit.baselines["index bump"][0],
    }


def _costs(cpu: str) -> Mapping[Scale, str]:
    return {
        "smoke": "under a minute on one core",
        "cpu": cpu,
        "paper": "hours on a GPU; a network of VGG's kind at the paper's width, images, step size and epochs",
    }


def _experiment(name: str, shows: str, claim: str, cpu: str, run: Callable[[Setup], Outcome]) -> Experiment:
    return Experiment("chowers2023", name, shows, claim, ("cifar10",), _costs(cpu), run)


_NO_TRAINING: Mapping[Scale, str] = dict.fromkeys(SCALES, "about a minute on one core; no training")

EXPERIMENTS = (
    _experiment(
        "seeds",
        "Do networks that differ only in their random start learn the same first-layer energy profile?",
        "Table 1: correlation 0.99 between seeds and −0.13 ± 0.18 with the initial profile (VGG11, CIFAR-10).",
        "about 5 minutes on one core (3 networks)",
        _seeds,
    ),
    _experiment(
        "width",
        "Does the profile depend on the number of filters?",
        "Table 1: correlation 0.98 between first layers of other width (VGG11, CIFAR-10).",
        "about 15 minutes on one core (6 networks, 3 of them shared with seeds)",
        _width,
    ),
    _experiment(
        "images",
        "Do more images bring the values closer to those of the paper, which trains on all 50,000?",
        "Tables 1 and 3, figure 6: 0.99 between seeds, 0.94 ± 0.01 for the formula, about 0.2 at 10 pixels.",
        "about 15 minutes on one core (6 networks, 3 of them shared with seeds)",
        more_images,
    ),
    _experiment(
        "random-labels",
        "Do networks trained on permuted labels learn the profile of those trained on the true ones?",
        "Table 2: correlation 0.90 ± 0.02 between true and permuted labels (VGG, CIFAR-10).",
        "about 10 minutes on one core (6 networks, shared with seeds)",
        _random_labels,
    ),
    _experiment(
        "formula",
        "Does a formula with one free number predict the profile from the images, better than trivial curves do?",
        "Table 3: correlation 0.94 ± 0.01 with trained, 0.10 ± 0.15 with initial profiles (VGG11, CIFAR-10).",
        "about 10 minutes on one core (6 networks, shared with random-labels)",
        _formula,
    ),
    _experiment(
        "patch-scaling",
        "When one component of every patch is scaled, does the profile follow the formula with the new eigenvalue?",
        "Appendix D.2, figures 8b and 18: the formula with the scaled eigenvalue fits such networks.",
        "about 20 minutes on one core (12 networks, 6 of them shared with random-labels)",
        patch_scaling,
    ),
    _experiment(
        "whitening",
        "Do the learned filters decorrelate distant responses, as random filters do not?",
        "Figure 6: at 10 pixels above 0.5 for pixels and random filters, about 0.2 for learned ones, 0 for whitening.",
        "about 5 minutes on one core (3 networks, shared with seeds)",
        whitening,
    ),
    _experiment(
        "labels",
        "Does a class label say how patches lie along the principal components?",
        "Figure 5: correlations of labels with the components are all around 0 (CIFAR-10).",
        "under a minute on one core",
        labels,
    ),
    Experiment(
        "chowers2023",
        "pretrained",
        "Does the formula follow networks that others trained, on their own data?",
        "Table 3: correlation 0.90 ± 0.01 with five networks trained on ImageNet.",
        ("weights", "cifar10", "imagenet"),
        _NO_TRAINING,
        pretrained,
    ),
    Experiment(
        "chowers2023",
        "trajectory",
        "Does the fitted training time grow along the training of a network?",
        "Theorem 4.2: tau is learning rate times steps, so it cannot fall (no number is printed).",
        ("weights", "cifar10"),
        _NO_TRAINING,
        trajectory,
    ),
)
