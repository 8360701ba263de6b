"""From the gradients' second moments to the result: numbers of each convolution, and medians over them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from statistics import fmean
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from convscope.ansatz.forms import NullKind
from convscope.ansatz.measured import Measured, median
from convscope.ansatz.result import LayerAlignment
from convscope.ansatz.subspaces import effective_rank, null_overlaps, subspace_overlap
from convscope.core.results import Number

if TYPE_CHECKING:
    from convscope.ansatz.agop import PatchAgop

TURNED = "gradients turned at random"
EXCHANGED = "output channels exchanged at random"
DRAWS = 100  # of a null
WIDE_DRAWS = 20  # of layers with more filters than WIDE, whose draws differ less
WIDE = 256
MOST_DIRECTIONS = 16  # compared as leading eigenvectors

Measures = dict[str, Measured]


def measures(result: PatchAgop, untrained: PatchAgop | None) -> Measures:
    """Returns the numbers of one convolution by definition key, each with its folds and what chance gives.

    Args:
        result: of the network.
        untrained: of the network before training or of its twin, from the same images.
    """
    of_weight = result.comparison()
    found: Measures = {
        "correlation": _with_chance(result, result.measured(of_weight.correlation), "haar"),
        "root": _with_chance(
            result, result.measured(lambda gram: of_weight.correlation(gram, power=0.5)), "haar", power=0.5
        ),
        "cosine": result.measured(lambda gram: of_weight.correlation(gram, kind="cosine")),
    }
    permuted = _with_chance(result, found["correlation"], "permuted")
    for key, turns in (("turned", found["correlation"].draws), ("permuted", permuted.draws)):
        if turns:
            found[key] = Measured(fmean(turns), draws=turns)
    if untrained is not None:
        found["untrained"] = untrained.measured(untrained.comparison().correlation)
        found["gain"] = found["correlation"] - found["untrained"]
    if result.init is not None:
        of_change = result.comparison(change=True)
        found["change"] = _with_chance(result, result.measured(of_change.correlation), "haar", change=True)
    if result.norm is not None:
        found["folded"] = result.measured(result.comparison(folded=True).correlation)
    filters = of_weight.filters  # few coordinates, the same ranks and overlaps
    nfm_rank = effective_rank(filters, None)
    found["nfm_rank"] = Measured(nfm_rank)
    found["agop_rank"] = result.measured(lambda gram: effective_rank(filters, gram))
    if math.isfinite(nfm_rank):
        r = min(math.ceil(nfm_rank), MOST_DIRECTIONS)
        overlap = result.measured(lambda gram: subspace_overlap(filters, gram, r))
        draws = null_overlaps(filters, result.gram, r, draws=_draws(result)).tolist() if _turns(result) else ()
        found["overlap"] = replace(overlap, draws=tuple(draws))
    return found


def _with_chance(
    result: PatchAgop, measured: Measured, null: NullKind, *, power: float = 1.0, change: bool = False
) -> Measured:
    if not _turns(result):
        return measured
    draws = result.chance(null, power=power, change=change, draws=_draws(result)).tolist()
    return replace(measured, draws=tuple(x for x in draws if not math.isnan(x)))


def _turns(result: PatchAgop) -> bool:
    # With one filter a group there is nothing to turn.
    return result.weight.shape[1] > 1


def _draws(result: PatchAgop) -> int:
    return WIDE_DRAWS if result.weight.shape[1] > WIDE else DRAWS


def alignment(result: PatchAgop, found: Measures) -> LayerAlignment:
    """Returns the row of one convolution.

    Args:
        result: of the network.
        found: its numbers, of ``measures``.
    """
    g = result.geometry
    names = dict.fromkeys(("correlation", "turned", "root", "change", "overlap"), TURNED)
    names |= {"permuted": EXCHANGED, "gain": "no change"}
    numbers = {
        key: value.number(key, names.get(key, ""), (0.0, 0.0) if key == "gain" else None)
        for key, value in found.items()
    }
    bias = found["correlation"].bias
    if bias is not None:
        numbers["bias"] = Number(bias, None, None, "bias")
    shape = (result.weight.shape[0] * result.weight.shape[1], g.channels // g.groups, *g.kernel)
    return LayerAlignment(result.layer, shape, g.stride, g.groups, numbers)


def medians(layers: Sequence[Measures]) -> Mapping[str, Number]:
    """Returns the median over convolutions of each number that all of them have.

    Chance is that of the median: one turn at random in every layer gives one draw of it.

    Args:
        layers: of ``measures``.
    """
    wanted = {"correlation": TURNED, "untrained": "", "gain": "no change", "change": TURNED, "root": TURNED,
              "overlap": TURNED, "nfm_rank": "", "agop_rank": ""}  # fmt: skip
    found: dict[str, Number] = {}
    for key, chance_name in wanted.items():
        known = [layer[key] for layer in layers if key in layer]
        turned = [m for m in known if m.draws] if chance_name == TURNED else known
        if known:
            found[key] = median(turned or known).number(key, chance_name, (0.0, 0.0) if key == "gain" else None)
    return found


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
    whole = result.gram / _trace(result.weight, result.gram)
    own, apart = [], []
    for gram in result.of_output.values():
        own.append(result.eigenvectors(1, of=gram)[1][0, 0])
        difference = result.weight[0].mT @ (gram / _trace(result.weight, gram) - whole)[0] @ result.weight[0]
        vector = torch.linalg.eigh(difference)[1][:, -1]
        vector = vector * vector[vector.abs().argmax()].sign()
        apart.append(vector.unflatten(0, (-1, *result.geometry.kernel)))
    return torch.stack([*own, *apart])


def _trace(weight: Tensor, gram: Tensor) -> float:
    return float((weight * (gram @ weight)).sum())
