"""Where the bottleneck of a network starts and ends, and the three numbers that say whether there is one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, median
from typing import Literal

from convscope.bottleneck.rank import CbnRank

Kind = Literal["bottleneck", "funnel", "none", "collapsed"]

SLACK = 1.25  # ranks up to this times the smallest, plus 1, belong to the bottleneck
LINKED = 0.7  # chain of subspaces from which on two layers are linked
COMPRESSED = 0.9  # of the input's rank; above it nothing is compressed
NO_STRUCTURE = "no CBN structure (weights)"
CONVERGED = 0.1  # largest balance residual of a network whose penalised training has converged


@dataclass(frozen=True)
class Location:
    """Where a network's bottleneck lies.

    Attributes:
        kind: "bottleneck" for a run of layers, "funnel" for a single narrowest one, "none" without compression,
            "collapsed" where a layer passes nothing on.
        start: place of the first layer of the run, from 0; of the narrowest one of a funnel; None without.
        end: place of the last layer, included; None without.
        rank: median rank of these layers; NaN without.
        words: the same in a sentence.
    """

    kind: Kind
    start: int | None
    end: int | None
    rank: float
    words: str


def bottleneck_run(
    names: Sequence[str],
    input_rank: float,
    *,
    activations: Sequence[float] | None = None,
    weights: Sequence[float] | None = None,
    chains: Sequence[float] | None = None,
    reference: str = "the input",
) -> Location:
    """Returns the longest run of layers of nearly the smallest rank whose kept subspaces join.

    A layer belongs to it where its ranks, of activations and of weights as far as given, are at most 1.25 times the
    smallest of all layers plus 1; two neighbours are linked where their chain is at least 0.7. Of runs of one length
    the narrowest is taken. A run whose median rank exceeds 0.9 of the input's compresses nothing.

    Args:
        names: of the layers, in order.
        input_rank: rank of the images, by the same estimate as that of the activations. Without images, what the rank
            of weights is to be compared with instead, such as that of Gaussian kernels.
        activations: rank of each layer's activations; these come first in judging what is narrow.
        weights: CBN rank of each layer. None for kernels smaller than the map: they cannot single out frequencies.
        chains: of each layer and the next, one fewer; NaN where undefined does not break a run.
        reference: what the input's rank is of, in words.

    Raises:
        ValueError: when lengths do not fit, there is no layer, neither kind of rank is given, or one is NaN.

    Example:
        >>> found = bottleneck_run(["a", "b", "c", "d"], 20, activations=[19, 5, 5, 5], chains=[0.9, 1, 1])
        >>> found.kind, found.start, found.end, found.words
        ('bottleneck', 1, 3, 'The bottleneck spans b to d (3 layers), at rank 5 against 20 of the input.')
    """
    n = len(names)
    if not n or (activations is None and weights is None):
        raise ValueError("expected at least one layer and its rank, of activations or of weights")
    given = [list(r) for r in (activations, weights) if r is not None]
    if any(len(r) != n for r in given) or (chains is not None and len(chains) != n - 1):
        raise ValueError(
            f"expected one rank for each of {n} layers and one chain for each of {n - 1} neighbours, got "
            f"{[len(r) for r in given]} and {None if chains is None else len(chains)}"
        )
    if any(math.isnan(x) for r in given for x in r) or not input_rank > 0:
        raise ValueError(f"ranks must be numbers, and that of the input positive, got {given} and {input_rank}")
    for i, name in enumerate(names):
        if any(r[i] == 0 for r in given):
            return Location("collapsed", None, None, math.nan, f"Layer {name} passes nothing on: the network is dead.")
    narrow = [all(r[i] <= SLACK * min(r) + 1 for r in given) for i in range(n)]
    # For the weights decide what is compressed, where both are known.
    judged, runs = given[-1], _runs(narrow, chains)
    narrowest = min(range(n), key=given[0].__getitem__)
    runs = runs or [(narrowest, narrowest)]  # activations and weights are narrow in different layers
    start, end = min(runs, key=lambda run: (run[0] - run[1], median(judged[run[0] : run[1] + 1])))
    rank = median(judged[start : end + 1])
    if rank > COMPRESSED * input_rank:
        words = f"No bottleneck (no compression): the narrowest layers have rank {rank:.3g}"
        return Location("none", None, None, math.nan, f"{words} against {input_rank:.3g} of {reference}.")
    if start == end:
        rank = given[0][narrowest]
        words = f"A funnel: no two layers share one bottleneck; {names[narrowest]} is the narrowest, at rank {rank:.3g}"
        return Location("funnel", narrowest, narrowest, rank, f"{words} against {input_rank:.3g} of {reference}.")
    words = f"The bottleneck spans {names[start]} to {names[end]} ({end - start + 1} layers), at rank {rank:.3g}"
    return Location("bottleneck", start, end, rank, f"{words} against {input_rank:.3g} of {reference}.")


def _runs(narrow: Sequence[bool], chains: Sequence[float] | None) -> list[tuple[int, int]]:
    """Returns first and last layer of each run of narrow layers that are linked."""
    runs: list[tuple[int, int]] = []
    for i, good in enumerate(narrow):
        if not good:
            continue
        # "not below" keeps runs together where a chain is undefined.
        if runs and runs[-1][1] == i - 1 and not (chains is not None and chains[i - 1] < LINKED):
            runs[-1] = (runs[-1][0], i)
        else:
            runs.append((i, i))
    return runs


@dataclass(frozen=True)
class Score:
    """The three numbers that tell a convolution bottleneck, and the words that go with them; one alone misleads.

    A network that keeps every frequency in every layer is perfectly structured, and one whose first and last layers
    are narrow by shape looks compressed.

    Attributes:
        structure: S, in [0, 1]: how close the middle layers are to partial isometries of low rank that join. NaN with
            fewer than three layers.
        compression: kappa, rank of the middle layers over that of the input: below 1 the network compresses.
        balance: residual of the balance of norms between layers, 0 at the end of penalised training; NaN: unknown.
        score: S (1 - min(1, kappa)).
        z: mean over the middle layers of how far their alignment stands above that of Gaussian kernels, in standard
            deviations; NaN where unknown.
        words: what the three amount to, for weights, then for activations.
    """

    structure: float
    compression: float
    balance: float
    score: float
    z: float
    words: tuple[str, ...]


def scores(
    ranks: Sequence[CbnRank],
    chains: Sequence[float],
    input_rank: float,
    *,
    activations: Sequence[float] | None = None,
    balance: float = math.nan,
    ordinary: str = "",
) -> Score:
    """Returns structure, compression and balance of a network, and what they amount to.

    The middle is every layer but the first and the last, whose ranks are limited by the images' and outputs' channels.
    S = mean align (1 - mean share) mean chain of each middle layer and the next; kappa = max(smallest CBN rank,
    smallest activation rank) / rank of the input (ours).

    Args:
        ranks: of each layer, in order.
        chains: of each layer and the next, one fewer; NaN where undefined is left out.
        input_rank: rank of the images, by the same estimate as that of the activations.
        activations: rank of each layer's activations; None without images.
        balance: residual of the balance of norms.
        ordinary: why no bottleneck of the weights is to be expected, in words ("zero padding, kernels smaller than the
            map"); "" where it is.

    Raises:
        ValueError: when lengths do not fit.
    """
    n = len(ranks)
    if len(chains) != max(n - 1, 0) or (activations is not None and len(activations) != n):
        raise ValueError(
            f"expected one chain for each of {max(n - 1, 0)} neighbours and one activation rank for each of {n} "
            f"layers, got {len(chains)} and {None if activations is None else len(activations)}"
        )
    middle = range(1, n - 1)
    structure = compression = score = z = math.nan
    if middle:
        linked = [chains[i] for i in middle if not math.isnan(chains[i])]
        share = fmean(ranks[i].share for i in middle)
        structure = fmean(ranks[i].align for i in middle) * (1 - share) * (fmean(linked) if linked else math.nan)
        narrowest = max(min(r[i] for i in middle) for r in ([r.rank for r in ranks], activations) if r is not None)
        compression = narrowest / input_rank if input_rank > 0 else math.nan
        score = structure * (1 - min(1.0, compression))
        z = fmean(ranks[i].z for i in middle)
    weights = _of_weights(structure, compression, score, balance)
    words = [] if ordinary else [weights]
    if activations is not None and middle:
        smallest = min(activations[i] for i in middle)
        words.append(_of_activations(smallest, input_rank, bool(ordinary) or weights == NO_STRUCTURE))
    if ordinary:
        words.append(f"of the weights no bottleneck is to be expected ({ordinary})")
    if balance > CONVERGED:
        words.append(f"not converged (balance residual {balance:.2g}, above {CONVERGED}): cost numbers are unreliable")
    return Score(structure, compression, balance, score, z, tuple(words))


def _of_weights(structure: float, compression: float, score: float, balance: float) -> str:
    if math.isnan(score):
        return "too few layers, or a dead one, to speak of structure"
    if score >= 0.2 and structure >= 0.8 and not balance > CONVERGED:
        return "CBN structure"
    return "partial CBN structure, or a funnel" if structure >= 0.6 and compression < 1 else NO_STRUCTURE


def _of_activations(smallest: float, input_rank: float, alone: bool) -> str:
    beside = f"rank {smallest:.3g} in the narrowest middle layer, against {input_rank:.3g} of the input"
    if not smallest <= COMPRESSED * input_rank:
        return f"no compression of the activations: {beside}"
    return f"activation bottleneck only: {beside}" if alone else f"activation bottleneck: {beside}"
