"""Plain sentences about filters and gradients, each resting on a number."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from convscope.core.results import Finding, Number
from convscope.core.sentences import collected, told

if TYPE_CHECKING:
    from convscope.ansatz.result import AnsatzResult, LayerAlignment

FEW = 0.02  # a small-sample bias worth a sentence
NAMED = 3  # layers that a sentence names


def findings(result: AnsatzResult) -> list[Finding]:
    """Returns the findings, the most telling first; a sentence that would tell an undefined number is left out."""
    return collected(result, (_alignment, _untrained, _change, _root, _overlap, _ranks, _classes, _few))


def _alignment(result: AnsatzResult) -> list[Finding]:
    if "correlation" not in result.numbers:
        return []
    number = result.numbers["correlation"]
    text = (
        "The image patterns that the filters weigh most and those that move the outputs most agree to a correlation "
        f"of {told(number)} in "
    )
    values = [v for row in result.rows if not math.isnan(v := row.numbers["correlation"].value)]
    if len(values) > 1:
        text += f"the median of {len(values)} convolutions ({told(min(values))} to {told(max(values))})"
    else:
        text += "the only convolution " + ("looked at" if len(result.rows) == 1 else "where it is defined")
    if number.chance is not None:
        low, high = map(told, number.chance)
        text += f"; gradients in random directions would give {low} to {high}"
    return [Finding(f"{text}. {_verdicts(result)}".strip(), number)]


def _verdicts(result: AnsatzResult) -> str:
    """Returns in how many layers the ansatz holds beyond chance, and where it fails."""
    by = {v: [row for row in result.rows if row.verdict == v] for v in ("above", "inside", "below")}
    known = sum(map(len, by.values()))
    if not known or len(result.rows) == 1:
        return ""
    if len(by["above"]) == len(result.rows):
        return "It is more than chance in all of them."
    text = f"It is more than chance in {len(by['above']) or 'none'} of them"
    if by["inside"]:
        text += f", not decided in {len(by['inside'])}{_names(by['inside'])}"
    if by["below"]:
        text += f", less than chance in {len(by['below'])}{_names(by['below'])}"
    return f"{text}."


def _names(rows: list[LayerAlignment]) -> str:
    names = [row.layer for row in rows[:NAMED]]
    return f" ({', '.join(names)}{', …' if len(rows) > NAMED else ''})"


def _untrained(result: AnsatzResult) -> list[Finding]:
    if "gain" not in result.numbers:
        return []
    gain, before = result.numbers["gain"], told(result.numbers["untrained"])
    who = "the same network before training" if result.facts["untrained_is"] == "init" else "an untrained twin"
    rows = [row.numbers["gain"] for row in result.rows if "gain" in row.numbers]
    more = sum(bool(n.decided) and n.value > 0 for n in rows)
    less = sum(bool(n.decided) and n.value < 0 for n in rows)
    text = (
        f"A high agreement alone says little: {who} reaches {before} (median), and training raised it in {more} and "
        f"lowered it in {less} of {len(rows)} convolutions"
    )
    if "change" in result.numbers:
        text += f". What training changed in the filters agrees to {told(result.numbers['change'])}"
    told(gain)  # it stands beside the sentence, and must be defined
    return [Finding(f"{text}.", gain)]


def _change(result: AnsatzResult) -> list[Finding]:
    if "change" not in result.numbers:
        return []
    number = result.numbers["change"]
    text = (
        "What training changed in the filters agrees with the patterns that move the outputs to a correlation of "
        f"{told(number)} (median), more than chance in {_above(result, 'change')} convolutions."
    )
    return [Finding(text, number)]


def _root(result: AnsatzResult) -> list[Finding]:
    if "root" not in result.numbers:
        return []
    number = result.numbers["root"]
    text = (
        f"With the square root of the gradients' matrix, which later work compares with, the median alignment is "
        f"{told(number)} instead of {told(result.numbers['correlation'])}, more than chance in "
        f"{_above(result, 'root')} convolutions."
    )
    return [Finding(text, number)]


def _above(result: AnsatzResult, key: str) -> str:
    """Returns in how many convolutions a number lies above what chance gives: "3 of 19"."""
    known = [n for row in result.rows if (n := row.numbers.get(key)) is not None and n.decided is not None]
    above = sum(bool(n.decided) and n.chance is not None and n.value > n.chance[1] for n in known)
    return f"{above} of {len(known)}"


def _overlap(result: AnsatzResult) -> list[Finding]:
    if "overlap" not in result.numbers:
        return []
    number = result.numbers["overlap"]
    chance = "" if number.chance is None else f"; random directions would share {told(number.chance[1])} at most"
    text = f"The leading directions of filters and of gradients share {told(number)} of their space{chance}."
    return [Finding(text, number)]


def _ranks(result: AnsatzResult) -> list[Finding]:
    if "agop_rank" not in result.numbers:
        return []
    number = result.numbers["agop_rank"]
    text = (
        f"In the median convolution {told(number, '.1f')} directions (effective rank) carry the gradients, while the "
        f"filters use {told(result.numbers['nfm_rank'], '.1f')}."
    )
    return [Finding(text, number)]


def _classes(result: AnsatzResult) -> list[Finding]:
    if len(result.classes) < 2:
        return []
    share, name = max(zip(result.class_numbers, result.classes, strict=True), key=lambda pair: pair[0].value)
    text = (
        f"Of the {len(result.classes)} classes looked at, {name} moves most with the patches of the first layer: it "
        f"has {told(100 * share.value, '.0f')} % of the gradients."
    )
    equal = (1 / len(result.classes),) * 2
    return [Finding(text, Number(share.value, share.spread, equal, share.definition, "equal shares"))]


def _few(result: AnsatzResult) -> list[Finding]:
    known = [(row.layer, n) for row in result.rows if (n := row.numbers.get("bias")) and abs(n.value) >= FEW]
    if not known:
        return []
    layer, worst = max(known, key=lambda pair: abs(pair[1].value))
    text = (
        f"{told(float(result.facts['images']), ',.0f')} images are few for {layer}: with very many its alignment would "
        f"be about {told(-worst.value, '+.2f')} different."
    )
    return [Finding(text, worst)]
