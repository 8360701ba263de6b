"""The experiments of Chowers & Weiss (2023) on labels: what they know of patches, and when the profile needs them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import product
from statistics import fmean
from typing import Any

import numpy as np
import torch
from scipy.stats import permutation_test, spearmanr
from torch import Tensor, nn

from convscope.core.results import Number
from convscope.core.similarity import pearson
from convscope.firstlayer.fit import fit_energy_profile
from convscope.firstlayer.labels import f_ratio, first_order, linear_dependence, patch_energies, permutation_null, ranks
from convscope.papers.chowers2023_data import fits, laboratory_of, pair_laboratories
from convscope.papers.chowers2023_tables import CURVES, correlations, moved, unrelated
from convscope.papers.data import LabelledImages, fingerprint
from convscope.papers.laboratory import Laboratory, assembled, described, laboratory, training_in_words
from convscope.papers.registry import Outcome, Row, Setup, summary
from convscope.papers.trained import TrainedLayer
from convscope.training.loop import relabel

#: Components (from 0) whose energy gives the labels of appendix D.1, which shows the last.
ENERGY = (2, 9, 14)
_BAND = torch.tensor([0.025, 0.975], dtype=torch.float64)


def labels(setup: Setup) -> Outcome:
    """Returns how strongly classes correlate with the principal components of an image's patches."""
    lab = laboratory(setup)
    images, classes = lab.trainer.train.images, lab.trainer.train.labels
    averages, energies = patch_energies(images, lab.moments.geometry, lab.moments)
    rows = [
        _label_row("coefficient of the average patch along a component", averages, classes),
        _label_row("mean energy of the patches along a component", energies, classes),
    ]
    return lab.outcome(rows, [])


def _label_row(what: str, values: Tensor, labels: Tensor) -> Row:
    sizes = _label_correlations(values, labels).abs()
    draws = [_label_correlations(values, relabel(labels, "permuted", seed)).abs().mean() for seed in range(100)]
    low, high = torch.quantile(torch.stack(draws), _BAND).tolist()
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


def energy_laboratories(setup: Setup) -> Mapping[int, Laboratory]:
    """Returns the laboratories of CIFAR-10 with labels made from the energy along a component, by that component.

    Chowers & Weiss (2023), appendix D.1: the label is the decile of an image's patch energy along one component.
    Permuted, these labels are like permuted classes, ten of nearly equal size; so networks that learned the latter
    serve for both.

    Raises:
        ConvscopeError: when CIFAR-10 is not at hand.
    """
    return _energies(laboratory(setup))


# Laboratories are equal when they are the same object; the latest stays, with all that it trained.
@lru_cache(maxsize=1)
def _energies(lab: Laboratory) -> Mapping[int, Laboratory]:
    trainer, m = lab.trainer, lab.moments
    setup = Setup(cache=trainer.folder, progress=trainer.progress)
    parts = [(data, patch_energies(data.images, m.geometry, m)[1]) for data in (trainer.train, trainer.test)]
    deciles = torch.arange(1, 10, dtype=torch.float64) / 10
    made = {}
    for t in ENERGY:
        edges = torch.quantile(parts[0][1][:, t], deciles)
        train, test = (
            _relabelled(data, torch.bucketize(energies[:, t].contiguous(), edges)) for data, energies in parts
        )
        made[t] = assembled(f"{lab.name}, labelled by energy", lab.size, train, test, setup)
    return made


def _relabelled(data: LabelledImages, labels: Tensor) -> LabelledImages:
    return LabelledImages(data.images, labels, fingerprint(data.images.numpy(), labels.numpy()))


def energy_labels(setup: Setup) -> Outcome:
    """Returns how profiles and formula change where labels are made from the energy along one component."""
    lab, labs = laboratory(setup), energy_laboratories(setup)
    classes, permuted = lab.layers("true"), lab.layers("permuted")
    layers = {t: labs[t].layers("true", 1) for t in ENERGY}
    across = {t: correlations(product(_learned(lab, layers[t]), _learned(lab, permuted))) for t in ENERGY}
    usual = correlations(product(_learned(lab, classes), _learned(lab, permuted)))
    rows = [_energy_row(lab, t, across[t], fmean(usual)) for t in ENERGY]
    first, last = ENERGY[0], ENERGY[-1]
    height = {t: fmean(float(p.values[t] / p.values.max()) for p in _learned(lab, permuted)) for t in ENERGY}
    rows += [
        Row(
            f"fall for labels by component {last + 1} minus fall for labels by component {first + 1}",
            "above 0: larger for components that random labels do not teach (appendix D.1)",
            (0.0, 2.0),
            summary(a - b for a, b in zip(across[first], across[last], strict=True)),
            len(across[last]),
            {f"energy of component {t + 1} after permuted labels / the largest": h for t, h in height.items()},
        )
    ]
    usual_fits = fits(lab, classes)
    for t in ENERGY:
        found = fits(lab, layers[t])
        rows.append(
            Row(
                f"labels by the energy of component {t + 1}: formula, correlation",
                "not stated",
                None,
                summary(f.correlation for f in found),
                len(found),
                {"classes": fmean(f.correlation for f in usual_fits)}
                | {name: fmean(f.baselines[name][0] for f in found) for name in CURVES},
                better="higher",
            )
        )
    train = lab.trainer.train
    averages, energies = patch_energies(train.images, lab.moments.geometry, lab.moments)
    for words, values in (("first-order, F1", averages), ("second-order, F2", ranks(energies))):
        rows += [_f_row(words, values, labs[t].trainer.train.labels, train.labels, t) for t in ENERGY]
    table = [described(x, "classes") for x in [*classes, *permuted]]
    table += [described(x, f"energy of component {t + 1}") for t in ENERGY for x in layers[t]]
    settings = {"images": lab.name, **training_in_words(lab.size)}
    return Outcome(tuple(rows), settings, {"networks": table})


def _learned(lab: Laboratory, layers: Sequence[TrainedLayer]) -> list:
    return [lab.learned(x) for x in layers]


def _energy_row(lab: Laboratory, t: int, values: Sequence[float], usual: float) -> Row:
    chance = unrelated(lab)
    shown = t == ENERGY[-1]
    return Row(
        f"profiles after labels by the energy of component {t + 1} and after permuted labels, correlation",
        "falls to about 0 (appendix D.1)" if shown else "falls, against class labels (appendix D.1)",
        chance if shown else (-1.0, usual),
        summary(values, chance, "unrelated profiles"),
        len(values),
        {"class labels against permuted": usual},
        "components are counted from 1; one network with these labels, each with permuted ones",
    )


def _f_row(words: str, values: Tensor, labels: Tensor, classes: Tensor, t: int) -> Row:
    null = permutation_null(values[:, t : t + 1], labels)[:, 0]
    low, high = torch.quantile(null, _BAND).tolist()
    return Row(
        f"labels by the energy of component {t + 1}: {words} dependence on that component",
        "not stated",
        None,
        Number(float(f_ratio(values, labels)[t]), None, (low, high), "", "permuted labels"),
        1,
        {"class labels": float(f_ratio(values, classes)[t]), "all components, median": _median(values, labels)},
        "between-class share of variance over its expectation by chance: 1 where labels know nothing",
    )


def _median(values: Tensor, labels: Tensor) -> float:
    return float(f_ratio(values, labels).nanmedian())


@dataclass(frozen=True)
class _Case:
    """Networks that learned some labels, and others that learned permuted ones."""

    name: str
    lab: Laboratory
    true: Sequence[TrainedLayer]
    permuted: Sequence[TrainedLayer]

    def described(self) -> dict[str, Any]:
        """Returns predicted and measured dependence of the profile on the labels, and what goes with them."""
        a, b = _learned(self.lab, self.true), _learned(self.lab, self.permuted)
        tau = fmean(f.tau for f in (fit_energy_profile(p, self.lab.moments) for p in b))
        linear = linear_dependence(self.lab.moments, tau)
        first = first_order(self.lab.moments)
        data = self.lab.trainer.train
        _, energies = patch_energies(data.images, self.lab.moments.geometry, self.lab.moments)
        return {
            "labels": self.name,
            "predicted dependence": linear.index,
            "chance, up to": linear.chance[1],
            "measured dependence": 1 - fmean(correlations(product(a, b))),
            "F1, median": float(first.f.nanmedian()),
            "F2, median": _median(ranks(energies), data.labels),
            "mean size of the average patch's correlation": float(first.correlation.abs().nanmean()),
            "change of first layer, permuted over true": moved(self.permuted) / moved(self.true),
            "images": len(data.labels),
        }


def _cases(setup: Setup) -> list[_Case]:
    lab, fashion = laboratory(setup), laboratory_of("fashion-mnist", setup)
    shared = lab.layers("permuted")
    return [
        _Case("CIFAR-10, classes", lab, lab.layers("true"), shared),
        *(
            _Case(f"CIFAR-10, {name}", pair, pair.layers("true"), pair.layers("permuted", 1))
            for name, pair in pair_laboratories(setup).items()
        ),
        *(
            _Case(f"CIFAR-10, energy of component {t + 1}", each, each.layers("true", 1), shared)
            for t, each in energy_laboratories(setup).items()
        ),
        _Case("Fashion-MNIST, classes", fashion, fashion.layers("true"), fashion.layers("permuted")),
    ]


def average_patch(setup: Setup) -> Outcome:
    """Returns whether the average patch's dependence on the labels predicts how far the profile depends on them."""
    cases = _cases(setup)
    table = [case.described() for case in cases]
    measured = [line["measured dependence"] for line in table]
    predicted = [line["predicted dependence"] for line in table]
    test = permutation_test(
        (np.array(predicted),),
        lambda x: spearmanr(x, measured).statistic,
        permutation_type="pairings",
        n_resamples=999,
        random_state=0,
    )
    low, high = np.quantile(test.null_distribution, _BAND.numpy()).tolist()
    rivals = {
        f"median {name} of {what}": _rank_correlation([line[f"{name}, median"] for line in table], measured)
        for name, what in (("F1", "the average patch"), ("F2", "the patches' energies"))
    }
    rows = [
        Row(
            "predicted against measured dependence of the profile on the labels, rank correlation over cases",
            "the average patch predicts when labels matter (2022 version)",
            (high, 1.0),
            Number(float(test.statistic), _jackknife(predicted, measured), (low, high), "", "cases permuted"),
            len(cases),
            rivals,
            "predicted: 1 - correlation of the profiles that a linear network learns from these and from permuted "
            "labels, at the time fitted to the latter; measured: 1 - correlation of true and permuted",
            "higher",
            reason=_beyond_the_average(table),
        )
    ]
    for case in (cases[0], cases[-1]):
        data = case.lab.trainer.train
        averages, _ = patch_energies(data.images, case.lab.moments.geometry, case.lab.moments)
        row = _label_row("coefficient of the average patch along a component", averages, data.labels)
        f = float(first_order(case.lab.moments).f.nanmedian())
        rows.append(
            replace(
                row,
                quantity=f"{case.name}: {row.quantity}",
                paper="very low in common data sets",
                note="",
                reason=f"These classes differ in the average patch itself, {f:.0f} times more than by chance (F1, "
                "median over components).",
            )
        )
    return Outcome(tuple(rows), training_in_words(cases[0].lab.size), {"cases": table})


def _beyond_the_average(table: Sequence[Mapping[str, Any]]) -> str:
    silent = sum(line["predicted dependence"] <= line["chance, up to"] for line in table)
    most = sorted(table, key=lambda line: -line["measured dependence"])[:2]
    words = " and ".join(
        f"{line['labels']} (F1 {line['F1, median']:.0f}, F2 {line['F2, median']:.0f}, first layer moved "
        f"{line['change of first layer, permuted over true']:.1f} times as far by permuted labels)"
        for line in most
    )
    return (
        f"In {silent} of {len(table)} cases the prediction lies within what labels without information give. The "
        f"profile depends most on {words}. The prediction sees neither the patches' energies nor how far training "
        "moves the layer."
    )


def _rank_correlation(a: Sequence[float], b: Sequence[float]) -> float:
    return float(spearmanr(a, b).statistic)


def _jackknife(a: Sequence[float], b: Sequence[float]) -> float:
    """Returns the standard error of the rank correlation, each case left out in turn."""
    n = len(a)
    each = [_rank_correlation([*a[:i], *a[i + 1 :]], [*b[:i], *b[i + 1 :]]) for i in range(n)]
    return float(((n - 1) * np.var(each)) ** 0.5)
