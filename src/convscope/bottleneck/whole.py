"""What is told of the network as a whole: where it is narrowest, and what its chain of layers amounts to."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from statistics import median

from torch import Tensor

from convscope.bottleneck.conclude import KERNELS, Activations, Weights
from convscope.bottleneck.cost import norm_cost
from convscope.bottleneck.location import Location, bottleneck_run, scores
from convscope.bottleneck.shown import LIMITED
from convscope.bottleneck.spaces import KeptSpace, chain, kept_spaces
from convscope.bottleneck.steps import Chain
from convscope.core.accumulate import jackknife
from convscope.core.errors import ConvscopeError
from convscope.core.results import Number, Skip


@dataclass
class Whole:
    """What is told of the network as a whole.

    Attributes:
        numbers: by definition key.
        facts: "narrowest", "start", "end", "location", "score", "chain" and "folded" of the result.
        chains: agreement of a convolution with the next, by its name.
        skipped: what could not be computed, and why.
    """

    numbers: dict[str, Number] = field(default_factory=dict)
    facts: dict[str, str | bool | float] = field(default_factory=dict)
    chains: dict[str, Number] = field(default_factory=dict)
    skipped: list[Skip] = field(default_factory=list)


def conclude_whole(
    weights: Sequence[Weights],
    activations: dict[str, Activations],
    source: Activations | None,
    wired: Chain | str,
    images: Tensor | None,
) -> Whole:
    """Returns what is told of the network as a whole.

    Args:
        weights: of each convolution, in the order in which they run.
        activations: of each convolution by name, where known.
        source: of what the first convolution sees; None where that is not known.
        wired: the network as a chain of layers, or why it is none.
        images: prepared images on which costs are computed; None for none.
    """
    whole = Whole(
        facts={"narrowest": "", "start": "", "end": "", "location": "", "score": "", "chain": "", "folded": False}
    )
    known = {
        w.layer.name: a for w in weights if (a := activations.get(w.layer.name)) and a.varies and a.values["rank"] > 0
    }
    if known:
        _narrowest(whole, known, source if source is not None and source.varies else None)
    aligned = [w for w in weights if w.cbn.rank]
    if aligned:
        _median_align(whole, aligned)
    links = _links(whole, weights, wired)
    _location(whole, weights, activations, links, wired)
    if isinstance(wired, str):
        whole.facts["chain"] = wired
        whole.skipped.append(Skip("chain of layers, structure, cost and balance", f"no plain chain: {wired}"))
        return whole
    balance = math.nan if images is None else _cost(whole, wired, images)
    _score(whole, weights, activations, links, balance)
    return whole


def _narrowest(whole: Whole, known: dict[str, Activations], source: Activations | None) -> None:
    ranks = {name: a.estimate("rank") for name, a in known.items()}
    name = min(ranks, key=lambda layer: ranks[layer].value)
    number = ranks[name]
    whole.facts["narrowest"] = name
    whole.numbers["narrowest"] = Number(number.value, number.spread, number.chance, "narrowest", number.chance_name)
    if source is None:
        return
    images = source.estimate("rank")
    whole.numbers["input_rank"] = Number(images.value, images.spread, None, "input_rank")
    layer, spread = known[name], None
    if layer.sizes == source.sizes:  # the same folds
        ratios = [one["rank"] / other["rank"] for one, other in zip(layer.without, source.without, strict=True)]
        spread = jackknife(number.value / images.value, ratios, list(layer.sizes))
    chance = None if number.chance is None else (number.chance[0] / images.value,) * 2
    whole.numbers["narrowing"] = Number(
        number.value / images.value, spread, chance, "narrowing", number.chance_name if chance else ""
    )


def _median_align(whole: Whole, weights: Sequence[Weights]) -> None:
    numbers = [w.numbers()["align"] for w in weights]
    bands = [n.chance for n in numbers if n.chance is not None]
    chance = (median(low for low, _ in bands), median(high for _, high in bands)) if bands else None
    whole.numbers["median_align"] = Number(
        median(n.value for n in numbers), None, chance, "median_align", KERNELS if chance else ""
    )


def _links(whole: Whole, weights: Sequence[Weights], wired: Chain | str) -> list[float]:
    """Returns the agreement of each convolution with the next, NaN where it is not known."""
    if isinstance(wired, str) or not all(w.cbn.rank for w in weights):
        return [math.nan] * (len(weights) - 1)
    links: list[float] = []
    before: KeptSpace | None = None
    for i, one in enumerate(weights):
        taken: KeptSpace | None = None
        given: KeptSpace | None = None
        try:
            taken, given = kept_spaces(one.layer.operator, one.cbn)
        except ConvscopeError as error:
            whole.skipped.append(Skip(f"agreement of {one.layer.name} with its neighbours", str(error)))
        if i:
            links.append(math.nan if before is None or taken is None else chain(before, taken))
        before = given
    for one, link in zip(weights, links, strict=False):
        if not math.isnan(link):
            whole.chains[one.layer.name] = Number(link, definition="chain")
    return links


def _location(
    whole: Whole,
    weights: Sequence[Weights],
    activations: dict[str, Activations],
    links: list[float],
    wired: Chain | str,
) -> None:
    if not weights or "narrowing" not in whole.numbers:
        return
    if any(note.startswith(LIMITED) for note in activations[str(whole.facts["narrowest"])].notes):
        return  # the number of images decides where it looks narrow
    some = [
        (i, w)
        for i, w in enumerate(weights)
        if (known := activations.get(w.layer.name))
        and not math.isnan(known.values["rank"])
        # Beside a dead branch, something else may pass.
        and (known.varies or not isinstance(wired, str))
    ]
    names = [w.layer.name for _, w in some]
    ranks = [activations[name].values["rank"] for name in names]
    consecutive = [links[i] if j == i + 1 else math.nan for (i, _), (j, _) in pairwise(some)]
    found: Location = bottleneck_run(
        names,
        whole.numbers["input_rank"].value,
        activations=ranks,
        weights=[float(w.cbn.rank) for _, w in some] if all(w.layer.whole for w in weights) else None,
        chains=consecutive,
    )
    whole.facts["location"] = found.kind
    if found.kind == "collapsed":
        whole.facts["start"] = names[ranks.index(0)] if 0 in ranks else ""
    elif found.start is not None and found.end is not None:
        whole.facts["start"], whole.facts["end"] = names[found.start], names[found.end]


def _cost(whole: Whole, wired: Chain, images: Tensor) -> float:
    """Returns the balance residual, and tells what the norm costs."""
    try:
        found = norm_cost(wired, images)
    except ConvscopeError as error:
        whole.skipped.append(Skip("cost of the norm", str(error)))
        return math.nan
    known = {
        "cost": found.actual,
        "bound": found.lower_bound,
        "ideal": found.ideal,
        "efficiency": found.efficiency,
        "regularity": found.regularity,
        "balance": found.balance,
    }
    whole.numbers |= {key: Number(value, definition=key) for key, value in known.items() if math.isfinite(value)}
    whole.facts["folded"] = wired.folded
    return found.balance


def _score(
    whole: Whole, weights: Sequence[Weights], activations: dict[str, Activations], links: list[float], balance: float
) -> None:
    if "input_rank" not in whole.numbers or not all(w.cbn.rank for w in weights):
        return
    names = [w.layer.name for w in weights]
    reasons = []
    if any(w.layer.raw.boundary != "circular" for w in weights):
        reasons.append("borders that are not circular")
    if any(w.layer.raw.geometry.extent < w.layer.raw.size for w in weights):
        reasons.append("filters smaller than the maps")
    found = scores(
        [w.cbn for w in weights],
        links,
        whole.numbers["input_rank"].value,
        activations=[activations[n].values["rank"] for n in names] if set(names) <= set(activations) else None,
        balance=balance,
        ordinary=" and ".join(reasons),
    )
    plain = {"structure": found.structure, "compression": found.compression, "score": found.score}
    whole.numbers |= {key: Number(value, definition=key) for key, value in plain.items() if not math.isnan(value)}
    whole.facts["score"] = "; ".join(found.words)
