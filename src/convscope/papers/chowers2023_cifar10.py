"""Tables 1 to 3 of Chowers & Weiss (2023) on CIFAR-10, and the formula's age along a training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import combinations, pairwise
from statistics import fmean
from typing import Any

from torch import Tensor

from convscope.core.results import Number
from convscope.firstlayer.fit import fit_energy_profile
from convscope.firstlayer.heldout import held_out_components
from convscope.firstlayer.profile import energy_profile
from convscope.papers.chowers2023_tables import (
    CURVES,
    PRINTED,
    by_epoch,
    correlations,
    fit_row,
    log_row,
    no_drift,
    permuted_rows,
    printed,
    profile_after,
    seeds_rows,
    start_row,
    wider,
    width_rows,
)
from convscope.papers.laboratory import KINDS, Laboratory, laboratory
from convscope.papers.registry import Outcome, Row, Setup, summary
from convscope.papers.trained import TrainedLayer


def seeds(setup: Setup) -> Outcome:
    """Returns how alike profiles of networks of other seeds are on CIFAR-10."""
    lab = laboratory(setup)
    layers = lab.layers("true")
    same, start = seeds_rows(lab, "CIFAR-10", layers)
    raw = correlations(combinations([energy_profile(x.final, lab.moments) for x in layers], 2))
    whole = replace(
        same,
        quantity=f"{same.quantity}, initial weights not subtracted",
        paper="not stated",
        expected=None,
        printed=False,
        ours=summary(raw, same.ours.chance, "unrelated profiles"),
        baselines={},
    )
    return lab.outcome([same, whole, start], layers)


def width(setup: Setup) -> Outcome:
    """Returns how alike profiles of first layers of other width are on CIFAR-10."""
    lab = laboratory(setup)
    narrow, wide = lab.layers("true"), wider(lab)
    return lab.outcome(width_rows(lab, "CIFAR-10", narrow, wide), [*narrow, *wide])


def random_labels(setup: Setup) -> Outcome:
    """Returns how alike profiles after true and after permuted labels are on CIFAR-10."""
    lab = laboratory(setup)
    true, permuted = lab.layers("true"), lab.layers("permuted")
    profiles = [
        {"labels": x.recipe.labels, "seed": x.recipe.seed, "profile / its maximum": _scaled(lab.learned(x).values)}
        for x in [*true, *permuted]
    ]
    rows = permuted_rows(lab, "CIFAR-10", true, permuted)
    return lab.outcome(rows, [*true, *permuted], profiles=profiles, by_epoch=by_epoch(lab, true, permuted))


def _scaled(values: Tensor) -> list[float]:
    return [round(v, 4) for v in (values / values.max()).tolist()]


def formula(setup: Setup) -> Outcome:
    """Returns how well formula and trivial curves follow the profiles of networks on CIFAR-10."""
    lab = laboratory(setup)
    rows: list[Row] = []
    layers: list[TrainedLayer] = []
    checkpoints: list[dict[str, Any]] = []
    for kind in KINDS:
        runs = lab.layers(kind)
        layers += runs
        profiles = [lab.learned(x) for x in runs]
        fits = [fit_energy_profile(p, lab.moments) for p in profiles]
        held = [held_out_components(p, lab.moments) for p in profiles]
        rows += [
            fit_row(kind, fits, printed(PRINTED["CIFAR-10"]["formula"]) if kind == "true" else None),
            log_row(f"formula against {kind} labels", fits),
            Row(
                f"{kind} labels: fitted on every other component, correlation on the rest",
                "not stated",
                None,
                summary(s["formula"][0] for h in held for s in (h.scores, h.swapped)),
                2 * len(held),
                {name: fmean(s[name][0] for h in held for s in (h.scores, h.swapped)) for name in CURVES},
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
        checkpoints += [_checkpoint(lab, x, epoch) for x in runs for epoch in sorted(x.weights) if epoch]
    start = [fit_energy_profile(lab.untrained(x), lab.moments) for x in layers]
    rows += [start_row("CIFAR-10", start), _ageing_row(checkpoints)]
    return lab.outcome(rows, layers, checkpoints=checkpoints)


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
        Number(sum(steps) / len(steps), None, no_drift(len(steps)), "", "a walk without drift"),
        len(steps),
        note="after 1, 2, 4, ... epochs; all networks above",
    )


def _checkpoint(lab: Laboratory, layer: TrainedLayer, epoch: int) -> dict[str, Any]:
    fit = fit_energy_profile(profile_after(lab, layer, epoch), lab.moments)
    return {
        "labels": layer.recipe.labels,
        "seed": layer.recipe.seed,
        "epoch": epoch,
        "tau times largest eigenvalue": fit.age,
        "correlation": fit.correlation,
        "index bump": fit.baselines["index bump"][0],
    }
