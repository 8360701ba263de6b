"""The experiment of Chowers & Weiss (2023), appendix D.2: one component of every patch is scaled."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from convscope.firstlayer.fit import fit_energy_profile
from convscope.firstlayer.heldout import PatchScaling, score_patch_scaling
from convscope.firstlayer.prediction import predict_energy_profile
from convscope.firstlayer.profile import EnergyProfile
from convscope.papers.laboratory import FACTOR, KINDS, Laboratory, laboratory
from convscope.papers.registry import Outcome, Row, Setup, summary
from convscope.papers.trained import TrainedLayer


def patch_scaling(setup: Setup) -> Outcome:
    """Returns how the formula and its rivals follow a component whose coefficient was scaled in every patch."""
    lab = laboratory(setup)
    rows: list[Row] = []
    layers: list[TrainedLayer] = []
    each: list[dict[str, Any]] = []
    for kind in KINDS:
        runs = [lab.layer(kind, 0, component=t, factor=FACTOR) for t in lab.size.components]
        plain = lab.layers(kind)
        layers += [*plain, *runs]
        scaled = [lab.learned(x) for x in runs]
        scores = [
            score_patch_scaling(p, lab.moments, t, FACTOR) for p, t in zip(scaled, lab.size.components, strict=True)
        ]
        controls = [lab.learned(x) for x in plain]
        shifts = [_shift(lab, p, s, controls) for p, s in zip(scaled, scores, strict=True)]
        each += [
            {
                "labels": kind,
                "component, from 1": s.component + 1,
                "formula, new eigenvalue": s.new[0],
                "formula, old eigenvalue": s.old[0],
                "index bump": s.bump[0],
                "log error, new": s.residual_new,
                "log error, old": s.residual_old,
                "log error, bump": s.residual_bump,
                "measured shift": shift.measured,
                "predicted shift": shift.predicted,
                "predicted shift, tau of unscaled": shift.unfitted,
            }
            for s, shift in zip(scores, shifts, strict=True)
        ]
        where = f"one network for each of components {', '.join(str(t + 1) for t in lab.size.components)}, from 1"
        rows += [
            Row(
                f"patches scaled, {kind} labels: formula with the new eigenvalue, correlation",
                "fits, better than with the old one (figures 8b, 18)",
                (fmean(s.old[0] for s in scores), 1.0),
                summary(s.new[0] for s in scores),
                len(scores),
                {
                    "formula with the old eigenvalue": fmean(s.old[0] for s in scores),
                    "index bump": fmean(s.bump[0] for s in scores),
                },
                f"appendix D.2, alpha = {FACTOR:g}; {where}",
                "higher",
            ),
            Row(
                f"patches scaled, {kind} labels: size of the logarithmic error at the scaled component",
                "not stated",
                None,
                summary(abs(s.residual_new) for s in scores),
                len(scores),
                {
                    "formula with the old eigenvalue": fmean(abs(s.residual_old) for s in scores),
                    "index bump": fmean(abs(s.residual_bump) for s in scores),
                },
                "|log(measured / curve)|: 0.69 is a factor of two",
                "lower",
            ),
            Row(
                f"patches scaled, {kind} labels: error of the predicted shift of the scaled component's log energy",
                "not stated",
                None,
                summary(abs(x.measured - x.predicted) for x in shifts),
                len(shifts),
                {
                    "no shift, as of any curve in the index": fmean(abs(x.measured) for x in shifts),
                    "formula at the unscaled networks' tau": fmean(abs(x.measured - x.unfitted) for x in shifts),
                },
                "relative to the other components, against networks trained on unscaled patches",
                "lower",
            ),
        ]
    return lab.outcome(rows, layers, networks_with_scaled_patches=each)


@dataclass(frozen=True)
class _Shift:
    """By how much the log energy of a scaled component differs from that in unscaled networks."""

    measured: float
    predicted: float  # at the taus fitted to the scaled and to the unscaled networks
    unfitted: float  # at the tau fitted to the unscaled networks alone


def _shift(lab: Laboratory, profile: EnergyProfile, score: PatchScaling, controls: Sequence[EnergyProfile]) -> _Shift:
    old = lab.moments.eigenvalues
    new = old.clone()
    new[score.component] *= FACTOR**2

    def height(values: Tensor) -> float:
        others = torch.arange(len(values)) != score.component
        return float((values[score.component] / values[others].norm()).log())

    tau = fmean(fit_energy_profile(c, lab.moments).tau for c in controls)
    before = height(predict_energy_profile(old, tau))
    return _Shift(
        height(profile.values) - fmean(height(c.values) for c in controls),
        height(predict_energy_profile(new, score.tau)) - before,
        height(predict_energy_profile(new, tau)) - before,
    )
