"""Plain sentences about filters and gradients, each resting on a number."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from convscope.core.results import Finding, Number
from convscope.page.wording import rounded

if TYPE_CHECKING:
    from convscope.ansatz.result import AnsatzResult, LayerAlignment

FEW = 0.02  # a small-sample bias worth a sentence
NAMED = 3  # layers that a sentence names


def findings(result: AnsatzResult) -> list[Finding]:
    """Returns the findings, the most telling first; a sentence that would tell an undefined number is left out."""
    parts = (_alignment, _untrained, _change, _root, _overlap, _ranks, _classes, _few)
    found = [finding for part in parts if (finding := part(result)) is not None]
    return [finding for finding in found if math.isfinite(finding.number.value)]


def _alignment(result: AnsatzResult) -> Finding | None:
    number = result.numbers.get("correlation")
    if number is None:
        return None
    values = [row.numbers["correlation"].value for row in result.rows]
    values = [v for v in values if not math.isnan(v)]
    if len(result.rows) == 1:
        where = "the only convolution looked at"
        extent = ""
    else:
        where = f"the median of {len(result.rows)} convolutions"
        extent = f" ({rounded(min(values, default=math.nan), 2)} to {rounded(max(values, default=math.nan), 2)})"
    text = (
        f"The image patterns that the filters weigh most and those that move the outputs most agree to a correlation "
        f"of {rounded(number.value, 2)} in {where}{extent}"
    )
    if number.chance is not None:
        low, high = (rounded(end, 2) for end in number.chance)
        text += f"; gradients in random directions would give {low} to {high}"
    return Finding(f"{text}. {_verdicts(result)}".strip(), number)


def _verdicts(result: AnsatzResult) -> str:
    """Returns in how many layers the ansatz holds beyond chance, and where it fails."""
    by = {v: [row for row in result.rows if row.verdict == v] for v in ("above", "inside", "below")}
    known = sum(map(len, by.values()))
    if not known or len(result.rows) == 1:
        return ""
    if len(by["above"]) == known:
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


def _untrained(result: AnsatzResult) -> Finding | None:
    gain, before = result.numbers.get("gain"), result.numbers.get("untrained")
    if gain is None or before is None or math.isnan(before.value):
        return None
    who = "the same network before training" if result.facts["untrained_is"] == "init" else "an untrained twin"
    text = f"A high agreement alone says little: {who} reaches {rounded(before.value, 2)} (median)"
    rows = [n for row in result.rows if (n := row.numbers.get("gain")) is not None]
    more = sum(bool(n.decided) and n.value > 0 for n in rows)
    less = sum(bool(n.decided) and n.value < 0 for n in rows)
    text += f", and training raised it in {more} and lowered it in {less} of {len(rows)} convolutions"
    change = result.numbers.get("change")
    if change is not None and not math.isnan(change.value):
        text += f". What training changed in the filters agrees to {rounded(change.value, 2)}"
    return Finding(f"{text}.", gain)


def _change(result: AnsatzResult) -> Finding | None:
    number = result.numbers.get("change")
    if number is None:
        return None
    text = (
        "What training changed in the filters agrees with the patterns that move the outputs to a correlation of "
        f"{rounded(number.value, 2)} (median), more than chance in {_above(result, 'change')} convolutions."
    )
    return Finding(text, number)


def _overlap(result: AnsatzResult) -> Finding | None:
    number = result.numbers.get("overlap")
    if number is None:
        return None
    chance = "" if number.chance is None else f"; random directions would share {rounded(number.chance[1], 2)} at most"
    return Finding(
        f"The leading directions of filters and of gradients share {rounded(number.value, 2)} of their space{chance}.",
        number,
    )


def _ranks(result: AnsatzResult) -> Finding | None:
    filters, gradients = result.numbers.get("nfm_rank"), result.numbers.get("agop_rank")
    if filters is None or gradients is None:
        return None
    return Finding(
        f"The outputs hang on few patterns: in the median convolution {rounded(gradients.value, 1)} directions "
        f"(effective rank) carry the gradients, while the filters use {rounded(filters.value, 1)}.",
        gradients,
    )


def _root(result: AnsatzResult) -> Finding | None:
    number = result.numbers.get("root")
    if number is None:
        return None
    plain = result.numbers["correlation"]
    return Finding(
        f"With the square root of the gradients' matrix, which later work compares with, the median alignment is "
        f"{rounded(number.value, 2)} instead of {rounded(plain.value, 2)}, more than chance in "
        f"{_above(result, 'root')} convolutions.",
        number,
    )


def _above(result: AnsatzResult, key: str) -> str:
    """Returns in how many convolutions a number lies above what chance gives: "3 of 19"."""
    known = [n for row in result.rows if (n := row.numbers.get(key)) is not None and n.decided is not None]
    above = sum(bool(n.decided) and n.chance is not None and n.value > n.chance[1] for n in known)
    return f"{above} of {len(known)}"


def _classes(result: AnsatzResult) -> Finding | None:
    if not result.classes:
        return None
    share, name = max(zip(result.class_numbers, result.classes, strict=True), key=lambda pair: pair[0].value)
    return Finding(
        f"Of the {len(result.classes)} classes looked at, {name} moves most with the patches of the first layer: "
        f"it has {share.value:.0%} of the gradients.",
        Number(share.value, share.spread, (1 / len(result.classes),) * 2, share.definition, "equal shares"),
    )


def _few(result: AnsatzResult) -> Finding | None:
    known = [(row.layer, n) for row in result.rows if (n := row.numbers.get("bias")) and math.isfinite(n.value)]
    if not known:
        return None
    layer, worst = max(known, key=lambda pair: abs(pair[1].value))
    if abs(worst.value) < FEW:
        return None
    return Finding(
        f"{float(result.facts['images']):,.0f} images are few for {layer}: with very many its alignment would be about "
        f"{-worst.value:+.2f} different.".replace("-", "−"),
        worst,
    )
