"""From sums to numbers: everything that the first-layer theory says about one convolution."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from convscope.core.accumulate import jackknife
from convscope.core.moments import PatchMoments
from convscope.core.results import Number
from convscope.firstlayer.baselines import random_profiles
from convscope.firstlayer.components import pearson
from convscope.firstlayer.consistency import consistency_matrix
from convscope.firstlayer.fit import ProfileFit, fit_energy_profile
from convscope.firstlayer.heldout import held_out_components
from convscope.firstlayer.notebook import (
    Notebook,
    Patches,
    average_patches,
    label_dependence,
    large_arrays,
    paired_lags,
    principal_patches,
)
from convscope.firstlayer.profile import EnergyProfile, energy_profile
from convscope.firstlayer.result import FirstLayerResult
from convscope.firstlayer.signal import Signal, signal_matrix
from convscope.firstlayer.whitening import WhiteningCurves, whitening_curves

SHOWN_FILTERS = 96
SIGNAL_BYTES = 48 * 2**20  # of kept images whose patches the signal is weighed with


@dataclass(frozen=True, eq=False)
class Evidence(Patches):
    """What the pass collected about one convolution of a network.

    Attributes:
        weight: [k, c / groups, q, r].
        init: its own weights before training, or None.
        twin: weights of the same layer freshly drawn, or None.
        norm: (gamma, running variance, eps) of a batch norm that follows, or None.
        signal: spatial autocorrelation of the back-propagated signal, or None.
        replicas: (name, labels, weight, init) of other training runs.
    """

    weight: Tensor
    init: Tensor | None
    twin: Tensor | None
    norm: tuple[Tensor, Tensor, float] | None
    signal: Signal | None
    replicas: tuple[tuple[str, str, Tensor, Tensor | None], ...]


def conclude(evidence: Evidence) -> FirstLayerResult:
    """Returns the result for one convolution.

    Raises:
        ConvscopeError: when the weights hold NaN or the images have no variance.
    """
    book = Notebook(evidence, skipped=list(evidence.skipped))
    moments = evidence.moments
    profile = energy_profile(evidence.weight, moments, evidence.init)
    fit = fit_energy_profile(profile, moments)
    tau = fit.tau if math.isfinite(fit.tau) else 1 / float(moments.eigenvalues.max())
    _profile(book, evidence, profile, fit)
    book.attempt("held-out components", lambda: _held_out(book, evidence))
    book.attempt("whitening", lambda: _whitening(book, evidence, fit))
    book.attempt("other covariances", lambda: _drives(book, evidence, profile, fit))
    book.attempt("dependence on the labels", lambda: label_dependence(book, tau))
    names, matrix = _replicas(book, evidence) if evidence.replicas else ((), torch.empty(0, 0))
    return FirstLayerResult(
        layer=evidence.layer,
        shape=tuple(evidence.weight.shape),
        stride=moments.geometry.stride,
        numbers=book.numbers,
        curves=book.flat_curves(),
        facts=book.facts,
        filters=evidence.weight[:SHOWN_FILTERS].double().cpu().numpy(),
        patches=principal_patches(moments),
        consistency_names=names,
        consistency=matrix.numpy(),
        skipped=tuple(book.skipped),
        arrays=large_arrays(moments),
    )


def _profile(book: Notebook, e: Evidence, profile: EnergyProfile, fit: ProfileFit) -> None:
    moments = e.moments
    null = fit.nulls.get("random filters")
    chance = None if null is None else (null.low, null.high)

    def refit(m: PatchMoments) -> ProfileFit:
        return fit_energy_profile(energy_profile(e.weight, m, e.init), m)

    fits = {id(moments): fit} | {id(m): refit(m) for _, m in e.without}
    name = "random filters, fitted alike"
    book.put("formula", lambda m: fits[id(m)].correlation, chance, name)
    book.put("formula_log", lambda m: fits[id(m)].log_correlation)
    rivals = {
        "bump": "index bump",
        "eigenvalue_curve": "eigenvalue curve",
        "inverse_curve": "inverse eigenvalue curve",
        "ramp": "linear ramp",
    }
    for key, rival in rivals.items():
        book.put(key, lambda m, rival=rival: fits[id(m)].baselines[rival][0])  # type: ignore[misc]
    book.put("margin", lambda m: fits[id(m)].correlation - _best_rival(fits[id(m)]))
    book.put("age", lambda m: fits[id(m)].age)
    book.put("whitened_dimension", lambda m: fits[id(m)].whitened_dimension)
    best = max(rivals.values(), key=lambda r: _or_low(fit.baselines[r][0]))
    book.facts |= {
        "tau": fit.tau,
        "tau_identified": fit.tau_identified,
        "at_edge": fit.at_edge,
        "best_rival": best,
        "subtracted": profile.subtracted,
        "dead_filters": float(len(profile.dead)),
        "off_diagonal": float(profile.off_diagonal.mean()),
        "participation": float(profile.participation.mean()),
        "images": float(moments.n_images),
        "patches": float(moments.n_patches),
        "zero": profile.zero,
    }
    spread = _profile_spread(e, profile)
    top = profile.values.max()
    random = random_profiles(e.weight.shape[0] // moments.geometry.groups, profile.values.numel())
    random *= (profile.values.square().mean().sqrt()) / top
    low, high = torch.quantile(random, torch.tensor([0.025, 0.975], dtype=torch.float64), dim=0)
    book.curves |= {
        "variance": moments.eigenvalues,
        "energy": profile.values / top,
        "prediction": fit.curve / top,
        "random_low": low,
        "random_high": high,
    }
    if spread is not None:
        book.curves["energy_spread"] = spread / top
    start, start_name = (e.init, "init") if e.init is not None else (e.twin, "twin")
    if start is not None:
        untrained = energy_profile(start, moments)
        band = 1.96 / math.sqrt(max(profile.values.numel() - 1, 1))
        book.curves["untrained"] = untrained.values / untrained.values.max() * profile.values.mean() / top
        book.facts["untrained_is"] = start_name
        book.put(
            "untrained",
            lambda m: float(
                pearson(energy_profile(e.weight, m, e.init).values.flatten(), energy_profile(start, m).values.flatten())
            ),
            (-band, band),
            "unrelated profiles",
        )
    views = {"per_filter": energy_profile(e.weight, moments, e.init, per_filter=True)}
    if e.norm is not None:
        views["norm_folded"] = energy_profile(e.weight, moments, e.init, bn=e.norm)
    for key, view in views.items():
        book.numbers[key] = Number(fit_energy_profile(view, moments).correlation, None, chance, key, name)


def _best_rival(fit: ProfileFit) -> float:
    return max(_or_low(r) for name, (r, _) in fit.baselines.items() if name != "flat")


def _or_low(r: float) -> float:
    return -math.inf if math.isnan(r) else r


def _profile_spread(e: Evidence, profile: EnergyProfile) -> Tensor | None:
    if len(e.without) < 2:
        return None
    # Eigenvectors turn between folds; energies of single components are compared by index, which shows that too.
    rows = [energy_profile(e.weight, m, e.init).values.flatten() for _, m in e.without]
    sizes = [float(n) for n, _ in e.without]
    whole = profile.values.flatten().tolist()
    found = [jackknife(whole[i], [float(row[i]) for row in rows], sizes) for i in range(len(whole))]
    return torch.tensor([math.nan if s is None else s for s in found], dtype=torch.float64)


def _held_out(book: Notebook, e: Evidence) -> None:
    scores = {id(m): held_out_components(energy_profile(e.weight, m, e.init), m) for m in e.all_moments}

    def both_ways(m: PatchMoments, name: str) -> float:
        return (scores[id(m)].scores[name][0] + scores[id(m)].swapped[name][0]) / 2

    band = 1.96 / math.sqrt(max(e.moments.eigenvalues.numel() // 2 - 1, 1))
    for key, name in {"held_out": "formula", "held_out_bump": "index bump"}.items():
        book.put(key, partial(both_ways, name=name), (-band, band), "unrelated profiles")


def _whitening(book: Notebook, e: Evidence, fit: ProfileFit) -> None:
    lags = paired_lags(e.moments)
    curves = {id(m): _curves(e, m, lags, fit) for m in e.all_moments}
    whole = curves[id(e.moments)]
    ten = min(range(len(lags)), key=lambda i: abs(lags[i] - 10))
    book.facts["response_lag"] = float(lags[ten])
    chance = float(whole.random_low[ten]), float(whole.random_high[ten])
    book.put("response", lambda m: float(curves[id(m)].bank[ten]), chance, "random filters")
    book.put("response_raw", lambda m: float(curves[id(m)].raw[ten]))
    book.put("response_perfect", lambda m: float(curves[id(m)].perfect[ten]))
    book.put("whiteness", lambda m: curves[id(m)].whiteness, whole.random_whiteness, "random filters")
    book.put("spectral_whiteness", lambda m: curves[id(m)].spectral_whiteness)
    book.curves |= {
        "lag": torch.tensor([0.0, *map(float, lags)]),
        "response_bank": _from_one(whole.bank),
        "response_raw": _from_one(whole.raw),
        "response_perfect": _from_one(whole.perfect),
        "response_low": _from_one(whole.random_low),
        "response_high": _from_one(whole.random_high),
    }
    if whole.formula is not None:
        book.curves["response_formula"] = _from_one(whole.formula)


def _curves(e: Evidence, moments: PatchMoments, lags: list[int], fit: ProfileFit) -> WhiteningCurves:
    tau = None if math.isnan(fit.tau) else fit.tau
    draws = 100 if moments is e.moments else 2
    return whitening_curves(e.weight, moments, lags, e.init, tau, draws)


def _from_one(curve: Tensor) -> Tensor:
    return torch.cat([torch.ones(1, dtype=torch.float64), curve.double()])


def _drives(book: Notebook, e: Evidence, profile: EnergyProfile, fit: ProfileFit) -> None:
    """Which covariance drives the layer: all patches, average patches, or patches weighed with the measured signal."""
    null = fit.nulls.get("random filters")
    chance = None if null is None else (null.low, null.high)
    name = "random filters, fitted alike"
    book.put(
        "formula_average",
        lambda m: fit_energy_profile(energy_profile(e.weight, m, e.init), m, covariance="average").correlation,
        chance,
        name,
    )
    average_patches(book)
    if e.signal is None:
        return
    x = e.kept.x
    x = x[: max(4, SIGNAL_BYTES // (x[0].numel() * 8 * math.prod(e.moments.geometry.kernel)))]
    driven = signal_matrix(x.double(), e.moments.geometry, e.signal.kappa)
    book.numbers["formula_signal"] = Number(
        fit_energy_profile(profile, e.moments, covariance=driven).correlation, None, chance, "formula_signal", name
    )
    h, w = e.moments.geometry.output_size(*x.shape[2:])
    book.numbers["coherent_positions"] = Number(
        e.signal.coherent_positions, None, (1.0, float(h * w)), "coherent_positions", "no coherence to full coherence"
    )


def _replicas(book: Notebook, e: Evidence) -> tuple[tuple[str, ...], Tensor]:
    subtract = e.init is not None and all(init is not None for *_, init in e.replicas)

    def profiles(m: PatchMoments) -> dict[str, EnergyProfile]:
        own = {"this network": energy_profile(e.weight, m, e.init if subtract else None)}
        others = {name: energy_profile(w, m, init if subtract else None) for name, _, w, init in e.replicas}
        return own | others

    true = ["this network", *(name for name, labels, *_ in e.replicas if labels == "true")]
    other = [name for name, labels, *_ in e.replicas if labels != "true"]
    starts = {"this network": e.init} | {name: init for name, _, _, init in e.replicas}
    inits = {name: energy_profile(w, e.moments) for name, w in starts.items() if w is not None}
    matrices = {id(m): consistency_matrix(profiles(m), m.eigenvalues) for m in e.all_moments}
    band = 1.96 / math.sqrt(max(e.moments.eigenvalues.numel() - 1, 1))
    pairs = {
        "seeds": (true, None, len(true) > 1),
        "permuted_seeds": (other, None, len(other) > 1),
        "labels": (true, other, bool(other)),
    }
    for key, (a, b, possible) in pairs.items():
        if possible:
            mean = lambda m, a=a, b=b: matrices[id(m)].spread(a, b)[0]  # ruff: ignore[lambda-assignment]
            book.put(key, mean, (-band, band), "unrelated profiles")
            book.facts[f"{key}_pairs"] = float(matrices[id(e.moments)].spread(a, b)[2])
    book.put("seeds_eigenvalue_curve", lambda m: matrices[id(m)].spread(true, ["eigenvalue curve"])[0])
    for name, labels, w, init in e.replicas:
        r = fit_energy_profile(energy_profile(w, e.moments, init if subtract else None), e.moments)
        book.numbers[f"formula: {name}"] = Number(
            r.correlation, None, book.numbers["formula"].chance, "formula", f"{labels} labels; random filters"
        )
        book.facts[f"rival: {name}"] = max(
            (f"{n} {v[0]:.2f}" for n, v in r.baselines.items() if n != "flat" and v[0] == _best_rival(r)), default=""
        )
    whole = consistency_matrix(profiles(e.moments), e.moments.eigenvalues, inits)
    return whole.names, whole.matrix
