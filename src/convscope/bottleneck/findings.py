"""Plain sentences about what a network keeps, each resting on a number."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from convscope.bottleneck.downsample import grid_of
from convscope.bottleneck.shown import LIMITED
from convscope.bottleneck.wording import counted, frequency_in_words, names_in_words
from convscope.core.results import Finding, Number
from convscope.core.sentences import collected, told

if TYPE_CHECKING:
    from convscope.bottleneck.result import BottleneckResult
from convscope.bottleneck.shown import LayerKept

LEAK = 0.1  # of the operator outside of any circulant: worth a sentence
QUARTER = 0.25  # of the pixels: as many as a stride of 2 leaves
UNBALANCED = 0.1  # balance residual beyond which costs say little


def findings(result: BottleneckResult) -> list[Finding]:
    """Returns the findings, the most telling first; a sentence that would tell an undefined number is left out."""
    parts = (_saved, _narrowest, _frequencies, _location, _sums, _smaller, _weights, _score, _cost, _pairs, _gain)
    return collected(result, (*parts, _limited, _leak, _collapsed))


def _untrained(result: BottleneckResult) -> str:
    """Returns how sentences call the network without training."""
    return "before training" if result.facts["untrained_is"] == "init" else "in an untrained twin"


def _narrowest(result: BottleneckResult) -> list[Finding]:
    if "narrowest" not in result.numbers:
        return []
    number, layer = result.numbers["narrowest"], str(result.facts["narrowest"])
    place = [row.layer for row in result.rows].index(layer)
    text = "99 % of what differs between images lies in "
    if len(result.rows) > 1:
        few = f", as far as {told(float(result.facts['images']), ',.0f')} images tell" if _is_limited(result) else ""
        where = f"after {layer} (convolution {place + 1} of {len(result.rows)})"
        text = f"Where the network is narrowest{few}, {where}, {text}"
    text += f"{told(number, ',.0f')} directions (a frequency in one mixture of channels)"
    row = result.rows[place]
    text += f" of {math.prod(row.size) * row.shape[0]:,}"
    others = []
    if number.chance is not None:
        others.append(f"{_untrained(result)} it takes {told(number.chance[1], ',.0f')} there")
    if "input_rank" in result.numbers:
        others.append(f"the images themselves fill {told(result.numbers['input_rank'], ',.0f')}")
    return [Finding(f"{text}{'; ' * bool(others)}{', and '.join(others)}.", number)]


def _frequencies(result: BottleneckResult) -> list[Finding]:
    known = [
        (row, n) for row in result.rows if (n := row.numbers.get("frequencies")) is not None and math.prod(row.size) > 1
    ]
    if not known:
        return []
    (first, one), (last, two) = known[0], known[-1]
    text = f"After {last.layer}, {_percent(two)} of the frequencies hold 99 % of what differs between images"
    if first is not last:
        text += f"; after {first.layer} it takes {_percent(one)}"
    if one.chance is not None and two.chance is not None:
        before = _percent(two.chance[1])
        text += f". {_untrained(result).capitalize()} it is {before}"
        if first is not last:
            text += f" and {_percent(one.chance[1])}"
    return [Finding(f"{text}.", two)]


def _percent(x: Number | float) -> str:
    value = x.value if isinstance(x, Number) else x
    return f"{told(100 * value, '.0f' if value >= 0.1 else '.1f')} %"


def _is_limited(result: BottleneckResult) -> bool:
    """Returns whether the narrowest layer's rank says as much about the number of images as about the layer."""
    row = result.row(str(result.facts["narrowest"]))
    return row is not None and any(note.startswith(LIMITED) for note in row.notes)


def _location(result: BottleneckResult) -> list[Finding]:
    if "narrowing" not in result.numbers or not result.facts["location"] or _is_limited(result):
        return []
    number = result.numbers["narrowing"]
    start, end = str(result.facts["start"]), str(result.facts["end"])
    text = {
        "bottleneck": f"The bottleneck runs from {start} to {end}: these convolutions keep about as few directions as "
        "the narrowest one",
        "funnel": f"No stretch of layers keeps the same few directions: it is a funnel, narrowest after {start}",
        "none": "No stretch of layers keeps clearly fewer directions than the images fill",
        "collapsed": f"{start} passes nothing on that differs between images",
    }[str(result.facts["location"])]
    text += f". Its narrowest layer keeps {told(number)} times the directions that the images fill"
    if number.chance is not None:
        text += f" ({_untrained(result)}: {told(number.chance[1])})"
    return [Finding(f"{text}.", number)]


def _sums(result: BottleneckResult) -> list[Finding]:
    known = [(row, n) for row in result.rows if (n := row.numbers.get("sum")) and "rank" in row.numbers]
    if not known:
        return []
    row, number = min(known, key=lambda item: item[1].value)
    text = (
        f"Between its blocks, where branches are added, the network is narrowest before {row.layer}: "
        f"{told(number, ',.0f')} directions, where that convolution itself returns {told(row.numbers['rank'], ',.0f')}."
    )
    return [Finding(text, number)]


def _smaller(result: BottleneckResult) -> list[Finding]:
    """Returns the layer whose maps could have the fewest pixels, if a quarter or less would do."""
    known = [
        (row, n, grid_of(round(n.value), (row.size[0], row.size[1])))
        for row in result.rows
        if (n := row.numbers.get("grid")) is not None and math.prod(row.size) > 1
    ]
    if not known:
        return []
    row, number, (h, w) = min(known, key=lambda item: math.prod(item[2]) / math.prod(item[0].size))
    if math.prod((h, w)) > QUARTER * math.prod(row.size):
        return []
    text = (
        f"The maps of {row.layer} have {row.size[0]}×{row.size[1]} pixels, yet {h}×{w} would hold the frequencies of "
        "99 % of what differs between images"
    )
    if number.chance is not None:
        own = grid_of(round(number.chance[1]), (row.size[0], row.size[1]))
        text += f" ({_untrained(result)}: {own[0]}×{own[1]})"
    return [Finding(f"{text}: a place to down-sample earlier, to be tried by training.", number)]


def _weights(result: BottleneckResult) -> list[Finding]:
    known = [row for row in result.rows if row.confidence in {"high", "medium", "no plateau"}]
    if "median_align" not in result.numbers or not known:
        return []
    number = result.numbers["median_align"]
    split = [row for row in known if row.confidence != "no plateau"]
    if split:
        text = (
            f"In the weights of {counted(len(split), len(known))}{_if_few(split, known)} the singular values fall into "
            "two levels, kept and dropped"
        )
    elif "narrowing" in result.numbers and result.numbers["narrowing"].value < 1 and not _is_limited(result):
        text = (
            "The bottleneck is one of the activations only: the weights of no convolution split its singular values "
            "into two levels, kept and dropped"
        )
    else:
        text = "The weights of no convolution split its singular values into two levels, kept and dropped"
    text += f". On a scale to 1 the median split is {told(number)}"
    if number.chance is not None:
        low, high = map(told, number.chance)
        text += f"; random kernels of these shapes give {low if low == high else f'{low} to {high}'}"
    return [Finding(f"{text}.", number)]


def _if_few(rows: list[LayerKept], of: list[LayerKept]) -> str:
    return names_in_words([row.layer for row in rows]) if len(rows) < len(of) else ""


def _score(result: BottleneckResult) -> list[Finding]:
    if "structure" not in result.numbers:
        return []
    number = result.numbers["structure"]
    text = f"Three numbers for the chain of layers: structure {told(number)} of 1"
    if "compression" in result.numbers:
        text += f", {told(result.numbers['compression'])} of the images' directions kept"
    if "balance" in result.numbers:
        text += f", balance residual {told(result.numbers['balance'])}"
    words = str(result.facts["score"])
    return [Finding(f"{text}{': ' * bool(words)}{words}.", number)]


def _cost(result: BottleneckResult) -> list[Finding]:
    if "efficiency" not in result.numbers or not result.numbers["efficiency"].value > 0:
        return []
    number = result.numbers["efficiency"]
    ratio = told(1 / number.value, ".3g")
    text = f"The squares of all parameters{', batch norms folded in,' * bool(result.facts['folded'])} sum to {ratio} "
    text += "times the least that any network of this depth with the same Jacobian needs"
    balance = result.numbers.get("balance")
    if balance is not None and balance.value > UNBALANCED:
        text += (
            f". Their norm is not balanced between the layers (residual {told(balance)}, above {UNBALANCED}): the "
            "training has not converged to a small norm, and costs say little"
        )
    return [Finding(f"{text}.", number)]


def _pairs(result: BottleneckResult) -> list[Finding]:
    known = [(pair, n) for pair in result.pairs if (n := pair.numbers.get("importance")) and math.isfinite(n.value)]
    if not known:
        return []
    pair, number = max(known, key=lambda item: item[1].value)
    which = frequency_in_words(*pair.frequency)
    text = (
        f"Of the {len(known)} strongest directions that {result.facts['pairs']} keeps, one at {which} matters most: "
        f"held at its mean, it changes the outputs by {told(100 * number.value, '.1f')} % of their variance"
    )
    if number.chance is not None:
        text += f"; as large a change elsewhere costs {told(100 * number.chance[1], '.1f')} % at most"
    return [Finding(f"{text}.", number)]


def _saved(result: BottleneckResult) -> list[Finding]:
    if "stored" not in result.numbers:
        return []
    return [Finding(str(result.facts["factorised"]), result.numbers.get("lost", result.numbers["stored"]))]


def _gain(result: BottleneckResult) -> list[Finding]:
    known = [(row, n) for row in result.rows if (n := row.numbers.get("norm_bound")) is not None]
    if not known:
        return []
    row, number = max(known, key=lambda item: item[1].value)
    text = f"{row.layer} can amplify most: a pattern that suits it grows at most {told(number, '.3g')}-fold there."
    return [Finding(text, number)]


def _limited(result: BottleneckResult) -> list[Finding]:
    rows = [row for row in result.rows if "rank" in row.numbers and any(n.startswith(LIMITED) for n in row.notes)]
    if not rows:
        return []
    images, where = told(float(result.facts["images"]), ",.0f"), counted(len(rows), len(result.rows))
    text = (
        f"{images} images are too few for {where}{_if_few(rows, list(result.rows))}: their numbers of directions would "
        f"grow with more images{', and where it is narrowest is not decided' * _is_limited(result)}."
    )
    return [Finding(text, rows[0].numbers["rank"])]


def _leak(result: BottleneckResult) -> list[Finding]:
    known = [(row, n) for row in result.rows if (n := row.numbers.get("leak")) is not None and n.value > LEAK]
    if not known:
        return []
    row, number = max(known, key=lambda item: item[1].value)
    text = (
        f"The borders matter in {counted(len(known), len(result.rows))}: up to {told(100 * number.value, '.0f')} % of "
        f"what a convolution does ({row.layer}) lies outside of frequencies, and its singular values here are those of "
        "the closest map without borders."
    )
    return [Finding(text, number)]


def _collapsed(result: BottleneckResult) -> list[Finding]:
    rows = [row for row in result.rows if row.confidence == "collapsed"]
    if not rows:
        return []
    text = f"{counted(len(rows), len(result.rows)).capitalize()}{names_in_words([row.layer for row in rows])} "
    text += f"{'has' if len(rows) == 1 else 'have'} no weight other than 0."
    return [Finding(text, rows[0].numbers["cbn_rank"])]
