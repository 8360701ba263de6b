"""From the gradients' second moments to the result: numbers of each convolution, and medians over them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from statistics import fmean
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from convscope.ansatz.compare import Matrices
from convscope.ansatz.measured import Measured, median
from convscope.ansatz.result import LayerAlignment
from convscope.core.results import Number

if TYPE_CHECKING:
    from convscope.ansatz.agop import PatchAgop

TURNED = "gradients turned at random"
EXCHANGED = "output channels exchanged at random"
DRAWS = 100  # of a null; fewer for layers with more than WIDE filters, since their draws differ less
FEWEST_DRAWS = 12
WIDE = 256
AGAINST_CHANCE = ("correlation", "root", "overlap", "change")
CHANCE_NAMES = {"turned": TURNED, "permuted": EXCHANGED, "gain": "no change"} | dict.fromkeys(AGAINST_CHANCE, TURNED)
MEDIANS = ("correlation", "untrained", "gain", "change", "root", "overlap", "nfm_rank", "agop_rank")
MOST_DIRECTIONS = 16  # compared as leading eigenvectors

Measures = dict[str, Measured]


def measures(result: PatchAgop, untrained: PatchAgop | None) -> Measures:
    """Returns the numbers of one convolution by definition key, each with its folds and what chance gives.

    Args:
        result: of the network.
        untrained: of the network before training or of its twin, from the same images.
    """
    comparison, draws = result.comparison, _draws(result)
    # Each S once in the coordinates of the filters, for everything that is asked of it.
    agops = [comparison.agop(gram) for gram in (result.gram, *(gram for _, gram in result.without))]
    sizes = tuple(n for n, _ in result.without)

    def measured(f: Callable[[Matrices], Tensor]) -> Measured:
        value, *without = (float(f(agop)) for agop in agops)
        return Measured(value, tuple(without), sizes)

    asked: dict[str, Callable[[Matrices], Tensor]] = {
        "correlation": lambda agop: agop.correlations(),
        "root": lambda agop: agop.correlations(power=0.5),
        "cosine": lambda agop: agop.correlations("cosine"),
        "agop_rank": lambda agop: agop.effective_ranks(),
    }
    nfm_rank = float(comparison.nfm.effective_ranks())
    if math.isfinite(nfm_rank):
        r = min(math.ceil(nfm_rank), MOST_DIRECTIONS)
        asked["overlap"] = lambda agop: agop.overlaps(r)
    if result.init is not None:
        change = result.place(change=True)
        asked["change"] = lambda agop: agop.correlations(of=change)
    if result.norm is not None:
        folded = result.place(folded=True)
        asked["folded"] = lambda agop: agop.correlations(of=folded)
    found: Measures = {key: measured(f) for key, f in asked.items()} | {"nfm_rank": Measured(nfm_rank)}
    if result.weight.shape[1] > 1:  # with one filter a group there is nothing to turn
        turned: dict[str, list[float]] = {key: [] for key in AGAINST_CHANCE if key in asked}
        for some in comparison.turned(result.gram, draws=draws):
            for key, values in turned.items():
                values.extend(asked[key](some).tolist())
        for key, values in turned.items():
            found[key] = replace(found[key], draws=_defined(values))
        exchanged = comparison.turned(result.gram, "permuted", draws=draws)
        permuted = [x for some in exchanged for x in asked["correlation"](some).tolist()]
        for key, values in (("turned", turned["correlation"]), ("permuted", permuted)):
            if known := _defined(values):
                found[key] = Measured(fmean(known), draws=known)
    if untrained is not None:
        found["untrained"] = untrained.measured(untrained.comparison.correlation)
        found["gain"] = found["correlation"] - found["untrained"]
    return found


def _defined(values: Sequence[float]) -> tuple[float, ...]:
    return tuple(x for x in values if not math.isnan(x))


def _draws(result: PatchAgop) -> int:
    return min(max(DRAWS * WIDE // result.weight.shape[1], FEWEST_DRAWS), DRAWS)


def alignment(result: PatchAgop, found: Measures) -> LayerAlignment:
    """Returns the row of one convolution.

    Args:
        result: of the network.
        found: its numbers, of ``measures``.
    """
    numbers = {key: _number(key, value) for key, value in found.items()}
    bias = found["correlation"].bias
    if bias is not None:
        numbers["bias"] = Number(bias, None, None, "bias")
    return LayerAlignment(result.layer, result.shape, result.geometry.stride, result.geometry.groups, numbers)


def medians(layers: Sequence[Measures]) -> Mapping[str, Number]:
    """Returns the median of each number over the convolutions that have it.

    Chance is that of the median: one turn at random in every layer gives one draw of it.

    Args:
        layers: of ``measures``.
    """
    found: dict[str, Number] = {}
    for key in MEDIANS:
        known = [layer[key] for layer in layers if key in layer]
        if known:
            found[key] = _number(key, median(_all_with_draws(known)))
    return found


def _all_with_draws(layers: Sequence[Measured]) -> list[Measured]:
    """Returns the layers, those without draws with their own value as each draw if others have draws."""
    # One filter a group leaves nothing to turn: a rotation of a 1x1 matrix does not change it.
    most = max(len(m.draws) for m in layers)
    return [m if m.draws else replace(m, draws=(m.value,) * most) for m in layers]


def _number(key: str, value: Measured) -> Number:
    return value.number(key, CHANCE_NAMES.get(key, ""), (0.0, 0.0) if key == "gain" else None)


def class_shares(result: PatchAgop) -> list[Number]:
    """Returns the share of each asked-for output in the sum of their AGOPs' traces.

    Args:
        result: with ``of_output``.
    """
    traces = [_trace(result.weight, gram) for gram in result.of_output.values()]
    total = sum(traces)
    return [Number(t / total if total else math.nan, None, None, "class_share") for t in traces]


def class_patches(result: PatchAgop) -> Tensor:
    """Returns the leading direction of each asked-for output's AGOP, then that of what sets it apart from the sum.

    The latter is the eigenvector of the largest eigenvalue of AGOP_o / tr(AGOP_o) - AGOP / tr(AGOP), for one group.

    Args:
        result: with ``of_output``.

    Returns:
        float64 [2 m, c, q, r], unit norm; the entry of largest magnitude is positive.
    """
    whole = _per_trace(result.weight, result.gram)
    own, apart = [], []
    for gram in result.of_output.values():
        own.append(result.eigenvectors(1, of=gram)[1][0, 0])
        difference = result.weight[0].mT @ (_per_trace(result.weight, gram) - whole)[0] @ result.weight[0]
        vector = torch.linalg.eigh(difference)[1][:, -1]
        vector = vector * vector[vector.abs().argmax()].sign()
        apart.append(vector.unflatten(0, (-1, *result.geometry.kernel)))
    return torch.stack([*own, *apart])


def _per_trace(weight: Tensor, gram: Tensor) -> Tensor:
    trace = _trace(weight, gram)
    return gram / trace if trace else gram


def _trace(weight: Tensor, gram: Tensor) -> float:
    return float((weight * (gram @ weight)).sum())
