"""Experiments of Chowers & Weiss, "What do CNNs Learn in the First Layer and Why?" (ICML 2023), on CIFAR-10."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import combinations, pairwise, product
from typing import Any

import torch
from torch import Tensor, nn

from convscope.core.results import Number
from convscope.firstlayer.components import pearson
from convscope.firstlayer.fit import ProfileFit, fit_energy_profile
from convscope.firstlayer.heldout import held_out_components, score_patch_scaling
from convscope.firstlayer.labels import patch_energies
from convscope.firstlayer.profile import EnergyProfile, energy_profile
from convscope.firstlayer.whitening import whitening_curves
from convscope.papers.laboratory import FACTOR, LAG, Laboratory, laboratory
from convscope.papers.registry import Experiment, Outcome, Row, Scale, Setup
from convscope.papers.trained import TrainedLayer
from convscope.training.loop import LabelKind, relabel

TITLE = "Chowers & Weiss, “What do CNNs Learn in the First Layer and Why? A Linear Systems Perspective” (ICML 2023)"


def summary(values: Iterable[float], chance: tuple[float, float] | None = None, chance_name: str = "") -> Number:
    """Returns mean and standard deviation (N - 1; None for one value) as a Number."""
    values = list(values)
    spread = statistics.stdev(values) if len(values) > 1 else None
    return Number(statistics.fmean(values), spread, chance, "", chance_name)


def _correlations(pairs: Iterable[tuple[EnergyProfile, EnergyProfile]]) -> list[float]:
    return [float(pearson(a.values, b.values)) for a, b in pairs]


def _unrelated(d: int) -> tuple[float, float]:
    return (-1.96 / math.sqrt(d - 1), 1.96 / math.sqrt(d - 1))


def _mean(values: Iterable[float]) -> float:
    return statistics.fmean(values)


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
            {"eigenvalue curve against the networks": _mean(float(pearson(p.values, curve)) for p in learned)},
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
                "true against true": _mean(_correlations(combinations(a, 2))),
                "eigenvalue curve against true": _mean(float(pearson(p.values, curve)) for p in a),
                "eigenvalue curve against permuted": _mean(float(pearson(p.values, curve)) for p in b),
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
    labels: tuple[LabelKind, ...] = ("true", "permuted")
    for kind in labels:
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
                {name: _mean(f.baselines[name][0] for f in fits) for name in _CURVES},
                "Table 3, CIFAR-10" if kind == "true" else "",
                "higher",
            ),
            Row(
                f"formula against {kind} labels, correlation of logarithms",
                "not stated",
                None,
                summary(f.log_correlation for f in fits),
                len(fits),
                {name: _mean(f.baselines[name][1] for f in fits) for name in _CURVES},
                "the weak components count as much as the strong",
                "higher",
            ),
            Row(
                f"{kind} labels: fitted on every other component, correlation on the rest",
                "not stated",
                None,
                summary(s["formula"][0] for h in held for s in (h.scores, h.swapped)),
                2 * len(held),
                {name: _mean(s[name][0] for h in held for s in (h.scores, h.swapped)) for name in _CURVES},
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
        {name: _mean(f.baselines[name][0] for f in fits) for name in _CURVES},
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


def _patch_scaling(setup: Setup) -> Outcome:
    lab = laboratory(setup)
    rows: list[Row] = []
    layers: list[TrainedLayer] = []
    each: list[dict[str, Any]] = []
    labels: tuple[LabelKind, ...] = ("true", "permuted")
    for kind in labels:
        runs = [lab.layer(kind, 0, t) for t in lab.size.components]
        layers += runs
        scores = [
            score_patch_scaling(lab.learned(x), lab.moments, t, FACTOR)
            for x, t in zip(runs, lab.size.components, strict=True)
        ]
        each += [
            {
                "labels": kind,
                "component": s.component,
                "formula, new eigenvalue": s.new[0],
                "formula, old eigenvalue": s.old[0],
                "index bump": s.bump[0],
                "residual, new": s.residual_new,
                "residual, old": s.residual_old,
                "residual, bump": s.residual_bump,
            }
            for s in scores
        ]
        rows += [
            Row(
                f"patches scaled, {kind} labels: formula with the new eigenvalue, correlation",
                "fits (Fig. 8b, 18; no number)",
                None,
                summary(s.new[0] for s in scores),
                len(scores),
                {
                    "formula with the old eigenvalue": _mean(s.old[0] for s in scores),
                    "index bump": _mean(s.bump[0] for s in scores),
                },
                f"appendix D.2, alpha = {FACTOR:g}; one network for each of components "
                f"{', '.join(str(t + 1) for t in lab.size.components)}, counted from 1",
                "higher",
            ),
            Row(
                f"patches scaled, {kind} labels: size of the logarithmic error at the scaled component",
                "not stated",
                None,
                summary(abs(s.residual_new) for s in scores),
                len(scores),
                {
                    "formula with the old eigenvalue": _mean(abs(s.residual_old) for s in scores),
                    "index bump": _mean(abs(s.residual_bump) for s in scores),
                },
                "|log(measured / curve)|: 0.69 is a factor of two",
                "lower",
            ),
        ]
    return lab.outcome(rows, layers, networks_with_scaled_patches=each)


def _whitening(setup: Setup) -> Outcome:
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
        Row(f"{name}: the pixels themselves", "above 0.5", (0.5, 1.0), Number(raw), 1, note="Figure 6"),
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
                "formula": _mean(float(w.formula) for w in change if w.formula is not None),
                "trained weights as they are": _mean(float(w.bank) for w in whole),
            },
            "Figure 6, 64 learned filters",
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


def _labels(setup: Setup) -> Outcome:
    lab = laboratory(setup)
    images, labels = lab.trainer.train.images.double(), lab.trainer.train.labels
    averages, energies = patch_energies(images, lab.moments.geometry, lab.moments)
    rows = [
        _label_row("coefficient of the average patch along a component", averages, labels),
        _label_row("mean energy of the patches along a component", energies, labels),
    ]
    return lab.outcome(rows, [])


def _label_row(what: str, values: Tensor, labels: Tensor) -> Row:
    sizes = _label_correlations(values, labels).abs()
    draws = [_label_correlations(values, relabel(labels, "permuted", seed)).abs().mean() for seed in range(100)]
    low, high = torch.quantile(torch.stack(draws), torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return Row(
        f"mean size of the correlation between one class against the rest and the {what}",
        "around 0",
        (0.0, 0.1),
        Number(float(sizes.mean()), None, (low, high), "", "permuted labels"),
        sizes.numel(),
        {"largest of all": float(sizes.max())},
        "Figure 5, whose text speaks of coefficients and whose caption of energies",
    )


def _label_correlations(values: Tensor, labels: Tensor) -> Tensor:
    return pearson(nn.functional.one_hot(labels).T[:, None], values.T[None])


def _costs(cpu: str) -> Mapping[Scale, str]:
    return {
        "smoke": "under a minute on one core",
        "cpu": cpu,
        "paper": "hours on a GPU; a network of VGG's kind at the paper's width, images, step size and epochs",
    }


def _experiment(name: str, shows: str, claim: str, cpu: str, run: Callable[[Setup], Outcome]) -> Experiment:
    return Experiment("chowers2023", name, shows, claim, ("cifar10",), _costs(cpu), run)


EXPERIMENTS = (
    _experiment(
        "seeds",
        "Networks that differ in their random start learn the same first-layer energy profile, unlike the start's.",
        "Table 1: correlation 0.99 between seeds and −0.13 ± 0.18 with the initial profile (VGG11, CIFAR-10).",
        "about 5 minutes on one core (3 networks)",
        _seeds,
    ),
    _experiment(
        "random-labels",
        "Networks trained on permuted labels learn nearly the profile of those trained on the true ones.",
        "Table 2: correlation 0.90 ± 0.02 between true and permuted labels (VGG, CIFAR-10).",
        "about 10 minutes on one core (6 networks, shared with seeds)",
        _random_labels,
    ),
    _experiment(
        "formula",
        "A formula with one free number predicts the profile from the images; trivial curves stand beside it.",
        "Table 3: correlation 0.94 ± 0.01 with trained, 0.10 ± 0.15 with initial profiles (VGG11, CIFAR-10).",
        "about 10 minutes on one core (6 networks, shared with random-labels)",
        _formula,
    ),
    _experiment(
        "patch-scaling",
        "When one component of every patch is scaled, the profile follows the formula with the new eigenvalue.",
        "Appendix D.2, figures 8b and 18: the formula with the scaled eigenvalue fits such networks.",
        "about 10 minutes on one core (6 networks)",
        _patch_scaling,
    ),
    _experiment(
        "whitening",
        "The learned filters decorrelate distant responses; random filters do not.",
        "Figure 6: at 10 pixels above 0.5 for pixels and random filters, about 0.2 for learned ones, 0 for whitening.",
        "about 5 minutes on one core (3 networks, shared with seeds)",
        _whitening,
    ),
    _experiment(
        "labels",
        "A class label says little about how patches lie along the principal components.",
        "Figure 5: correlations of labels with the components are all around 0 (CIFAR-10).",
        "under a minute on one core",
        _labels,
    ),
)
