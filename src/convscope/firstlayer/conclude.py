"""From sums to numbers: everything that the first-layer theory says about one convolution."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from convscope.core.accumulate import jackknife
from convscope.core.errors import ConvscopeError
from convscope.core.moment_values import PatchMoments
from convscope.core.results import Number
from convscope.core.similarity import pearson
from convscope.firstlayer.baselines import random_profiles
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
from convscope.firstlayer.whitening import LAG, WhiteningCurves, whitening_curves

SHOWN_FILTERS = 96
CHANCE = "random filters, fitted alike"
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
        signal_without: for each fold, its number of images and the autocorrelation from the others.
        replicas: (name, labels, weight, init) of other training runs.
    """

    weight: Tensor
    init: Tensor | None
    twin: Tensor | None
    norm: tuple[Tensor, Tensor, float] | None
    signal: Signal | None
    signal_without: tuple[tuple[int, Signal], ...]
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
    null = fit.nulls.get("random filters")
    chance = None if null is None else (null.low, null.high)
    _profile(book, evidence, profile, fit, chance)
    book.attempt("held-out components", lambda: _held_out(book, evidence))
    book.attempt("whitening", lambda: _whitening(book.on_pairs(), evidence, fit))
    book.attempt("fit from average patches", lambda: _average(book, evidence, chance))
    book.attempt("fit with the back-propagated signal", lambda: _signal(book, evidence, profile, chance))
    book.attempt("dependence on the labels", lambda: label_dependence(book, tau))
    names: tuple[str, ...] = ()
    matrix = torch.empty(0, 0)
    if evidence.replicas:
        names, matrix = _replicas(book, evidence)
    return FirstLayerResult(
        layer=evidence.layer,
        shape=tuple(evidence.weight.shape),
        stride=moments.geometry.stride,
        numbers=book.numbers,
        curves=book.flat_curves(),
        facts=book.facts,
        filters=evidence.weight[:SHOWN_FILTERS].cpu().double().numpy(),
        patches=principal_patches(moments),
        consistency_names=names,
        consistency=matrix.numpy(),
        skipped=tuple(book.skipped),
        arrays=large_arrays(moments),
    )


def _profile(
    book: Notebook, e: Evidence, profile: EnergyProfile, fit: ProfileFit, chance: tuple[float, float] | None
) -> None:
    moments = e.moments

    def refit(m: PatchMoments) -> ProfileFit:
        return fit_energy_profile(energy_profile(e.weight, m, e.init), m)

    fits = {id(moments): fit} | {id(m): refit(m) for _, m in e.without}
    book.put("formula", lambda m: fits[id(m)].correlation, chance, CHANCE)
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
        size = profile.values.square().mean().sqrt() / untrained.values.square().mean().sqrt()
        book.curves["untrained"] = untrained.values * size / top
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
        book.numbers[key] = Number(fit_energy_profile(view, moments).correlation, None, chance, key, CHANCE)


def _best_rival(fit: ProfileFit) -> float:
    defined = [r for name, (r, _) in fit.baselines.items() if name != "flat" and not math.isnan(r)]
    return max(defined, default=math.nan)


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
    pairs = book.patches
    lags = paired_lags(pairs.moments)
    curves = {id(m): _curves(e, m, lags, fit) for m in pairs.all_moments}
    whole = curves[id(pairs.moments)]
    ten = min(range(len(lags)), key=lambda i: abs(lags[i] - LAG))
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
    draws = 100 if moments is e.pairs[0] else 2
    return whitening_curves(e.weight, moments, lags, e.init, tau, draws)


def _from_one(curve: Tensor) -> Tensor:
    return torch.cat([torch.ones(1, dtype=torch.float64), curve.double()])


def _average(book: Notebook, e: Evidence, chance: tuple[float, float] | None) -> None:
    """The fit where the covariance of average patches drives the layer."""
    book.put(
        "formula_average",
        lambda m: fit_energy_profile(energy_profile(e.weight, m, e.init), m, covariance="average").correlation,
        chance,
        CHANCE,
    )
    average_patches(book)


def _signal(book: Notebook, e: Evidence, profile: EnergyProfile, chance: tuple[float, float] | None) -> None:
    """The fit where patches weighed with the measured signal drive the layer.

    Raises:
        ConvscopeError: when no images were kept.
    """
    if e.signal is None:
        return
    positions, rest = e.signal.coherent_positions, [(n, s.coherent_positions) for n, s in e.signal_without]
    spread = jackknife(positions, [v for _, v in rest], [float(n) for n, _ in rest])
    book.numbers["coherent_positions"] = Number(positions, spread, None, "coherent_positions")
    book.facts["positions"] = float(math.prod((side + 1) // 2 for side in e.signal.kappa.shape))
    if e.kept is None:
        raise ConvscopeError("needs images of one size: resize them")
    x = e.kept.x
    x = x[: max(4, SIGNAL_BYTES // (x[0].numel() * 8 * math.prod(e.moments.geometry.kernel)))]
    driven = signal_matrix(x.double(), e.moments.geometry, e.signal.kappa)
    book.numbers["formula_signal"] = Number(
        fit_energy_profile(profile, e.moments, covariance=driven).correlation, None, chance, "formula_signal", CHANCE
    )


def _replicas(book: Notebook, e: Evidence) -> tuple[tuple[str, ...], Tensor]:
    subtract = e.init is not None and all(init is not None for *_, init in e.replicas)

    def flat(weight: Tensor, m: PatchMoments, init: Tensor | None = None) -> Tensor:
        return energy_profile(weight, m, init if subtract else None).values.flatten()

    def profiles(m: PatchMoments) -> dict[str, Tensor]:
        return {"this network": flat(e.weight, m, e.init)} | {n: flat(w, m, init) for n, _, w, init in e.replicas}

    true = ["this network", *(name for name, labels, *_ in e.replicas if labels == "true")]
    other = [name for name, labels, *_ in e.replicas if labels != "true"]
    starts = {"this network": e.init} | {name: init for name, _, _, init in e.replicas}
    inits = {name: flat(w, e.moments) for name, w in starts.items() if w is not None}
    matrices = {id(m): consistency_matrix(profiles(m), m.eigenvalues.flatten()) for m in e.all_moments}
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
    kinds = sorted({labels for _, labels, *_ in e.replicas if labels != "true"})
    book.facts["other_labels"] = " or ".join({"permuted": "shuffled"}.get(kind, kind) for kind in kinds)
    book.put("seeds_eigenvalue_curve", lambda m: matrices[id(m)].spread(true, ["eigenvalue curve"])[0])
    for name, labels, w, init in e.replicas:
        r = fit_energy_profile(energy_profile(w, e.moments, init if subtract else None), e.moments)
        book.numbers[f"formula: {name}"] = Number(
            r.correlation, None, book.numbers["formula"].chance, "formula", f"{labels} labels; random filters"
        )
        book.facts[f"rival: {name}"] = max(
            (f"{n} {v[0]:.2f}" for n, v in r.baselines.items() if n != "flat" and v[0] == _best_rival(r)), default=""
        )
    whole = consistency_matrix(profiles(e.moments), e.moments.eigenvalues.flatten(), inits)
    return whole.names, whole.matrix
