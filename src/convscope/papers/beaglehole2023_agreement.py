"""Rows on how filters and gradients agree, judged against gradients turned at random and against no training."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache, partial
from statistics import fmean, median
from typing import Any

from convscope.ansatz.agop import PatchAgop
from convscope.ansatz.evenness import evenness, strongest_filter_share
from convscope.core.results import finite
from convscope.papers.beaglehole2023_claims import gained
from convscope.papers.beaglehole2023_networks import ABOVE, NOT_READ, POWERS, TURNED, beyond
from convscope.papers.beaglehole2023_reasons import concentration
from convscope.papers.beaglehole2023_training import BeforeAndAfter
from convscope.papers.registry import Row, summary

NULL_DRAWS = 100
_SAME = 0.02  # values that differ by less are called the same


def judged(row: Row, results: Sequence[PatchAgop]) -> Row:
    """Returns a row on the agreement in these convolutions with its claim: it is above that with S turned at random."""
    return replace(row, paper=ABOVE, expected=beyond(row.ours.chance), reason=concentration(results))


def null_of_mean(draws: Sequence[Sequence[float]]) -> tuple[float, ...]:
    """Returns what chance gives for the mean over networks, from as many draws of each."""
    return tuple(map(fmean, zip(*draws, strict=True)))


def growth(name: str, found: Sequence[BeforeAndAfter], power: float) -> list[Row]:
    """Returns by how much the agreement grows in training, itself and as what it has above chance.

    Args:
        name: of the networks.
        found: networks that differ in their seed.
        power: of the AGOP.
    """
    changes = [_median(one, lambda a: a.correlation(power=power)) for one in found]
    chances = [_median(one, partial(turned, power=power)) for one in found]
    even = [_median(one, lambda a: evenness(a.gram)) for one in found]
    (start, end), (start_chance, end_chance), (start_even, end_even) = (
        [fmean(values) for values in zip(*pairs, strict=True)] for pairs in (changes, chances, even)
    )
    reason = f"{TURNED} gives {start_chance:.3f} before and {end_chance:.3f} after, S itself {start:.3f} and {end:.3f}"
    if abs(start - start_chance) < _SAME:
        reason += ": before training it follows from W alone"
    if end_even < start_even - _SAME:
        reason += f"; training makes S less even (tr(S)² over k tr(S²) {start_even:.2f}, then {end_even:.2f})"
    excess = [(b - turned_b) - (a - turned_a) for (a, b), (turned_a, turned_b) in zip(changes, chances, strict=True)]
    what = f"{name}: by how much training raises the correlation of NFM and AGOP, {POWERS[power]}, median over layers"
    excess_what = (
        f"{name}: by how much training raises what the correlation, {POWERS[power]}, has above that with {TURNED}"
    )
    return [
        gained(what, [b - a for a, b in changes], reason=reason),
        Row(excess_what, NOT_READ, None, summary(excess), len(excess), {"itself": end - start}),
    ]


def tables(found: Sequence[BeforeAndAfter]) -> dict[str, list[dict[str, Any]]]:
    """Returns a table of all convolutions and one of all networks."""
    lines = [_line(one, layer) for one in found for layer in one.after]
    return {"convolutions": lines, "networks": [_named(one) | _learned(one) for one in found]}


@lru_cache(maxsize=1_024)
def turned(result: PatchAgop, power: float) -> float:
    """Returns the mean correlation with S turned at random.

    Args:
        result: of one convolution.
        power: of the AGOP.
    """
    return fmean(result.chance("haar", power=power, draws=NULL_DRAWS).tolist())


def _median(one: BeforeAndAfter, f: Callable[[PatchAgop], float]) -> tuple[float, float]:
    return median(map(f, one.before.values())), median(map(f, one.after.values()))


def _named(one: BeforeAndAfter) -> dict[str, Any]:
    return {"network": one.recipe.network, "optimiser": one.recipe.optimiser, "seed": one.recipe.seed}


def _learned(one: BeforeAndAfter) -> dict[str, Any]:
    return {
        "training accuracy": one.scores.train_accuracy,
        "test accuracy": one.scores.test_accuracy,
        "training seconds": one.scores.seconds,
    }


def _line(one: BeforeAndAfter, layer: str) -> dict[str, Any]:
    line: dict[str, Any] = {**_named(one), "convolution": layer}
    for when, result in (("before", one.before[layer]), ("after", one.after[layer])):
        for power, name in POWERS.items():
            found = result.measured(partial(result.comparison.correlation, power=power))
            line |= {
                f"{when}, {name}": finite(found.value),
                f"{when}, {name}, standard error": finite(found.standard_error),
                f"{when}, {name}, bias": finite(found.bias),
                f"{when}, {name}, {TURNED}": finite(turned(result, power=power)),
            }
        line[f"{when}, evenness of S"] = finite(evenness(result.gram))
        line[f"{when}, gradients along the strongest filters"] = finite(
            strongest_filter_share(result.weight, result.gram)
        )
    return line | {"NFM of the change": finite(one.after[layer].correlation(change=True))}
