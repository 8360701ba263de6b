"""Plain sentences about one network's first layer, each resting on a number."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from convscope.core.results import Finding
from convscope.core.sentences import collected, told

if TYPE_CHECKING:
    from convscope.firstlayer.result import FirstLayerResult, PatchResult

RIVALS = {
    "index bump": "a plain bump",
    "eigenvalue curve": "the bare curve of pixel contrasts",
    "inverse eigenvalue curve": "the inverse curve of pixel contrasts",
    "linear ramp": "a straight ramp",
}
RIVAL_KEYS = {
    "index bump": "bump",
    "eigenvalue curve": "eigenvalue_curve",
    "inverse eigenvalue curve": "inverse_curve",
    "linear ramp": "ramp",
}
WORDS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")


def findings(result: FirstLayerResult) -> list[Finding]:
    """Returns the findings, the most telling first; a sentence that would tell an undefined number is left out."""
    if result.facts.get("zero"):
        text = (
            "The first layer's filters did not move from their initial weights: there is nothing learned to explain."
            if result.facts.get("subtracted")
            else "The first layer's filters are all zero: there is nothing to explain."
        )
        return [Finding(text, result.numbers["formula"])]
    parts = (_formula, _labels, _seeds, _held_out, _whitening, label_findings, _age, _untrained, _drive)
    return collected(result, parts)


def distance(result: PatchResult) -> str:
    """Returns the distance at which responses are compared: "Ten pixels"."""
    return count(int(float(result.facts["response_lag"])), "pixel").capitalize()


def _formula(result: FirstLayerResult) -> list[Finding]:
    n, margin = result.numbers, result.numbers["margin"]
    rival = str(result.facts["best_rival"])
    name, other = RIVALS[rival], told(n[RIVAL_KEYS[rival]])
    if margin.spread is None:
        verdict = f"; {name}, which knows nothing of training, comes to {other} (without error bars, neither wins)"
    elif margin.value > 2 * margin.spread:
        verdict = f", closer than the best curve that knows nothing of training ({name}, {other})"
    elif margin.value < -2 * margin.spread:
        verdict = f", but {name}, which knows nothing of training, comes closer ({other})"
    else:
        verdict = f"; {name}, which knows nothing of training, comes to {other}: too close to tell which is better"
    text = (
        "How strongly the first layer listens to each direction of image space follows a formula made from the images "
        f"alone to a correlation of {told(n['formula'])}{verdict}."
    )
    return [Finding(text, n["formula"])]


def _labels(result: FirstLayerResult) -> list[Finding]:
    n = result.numbers
    if "labels" not in n:
        return []
    text = (
        f"Trained on {result.facts['other_labels']} labels instead of the true ones, the first layer's profile over "
        f"directions of image space correlates {told(n['labels'])} with what the true labels give "
        f"({_pairs(result, 'labels')})"
    )
    if "seeds" in n:
        text += f"; trainings on the true labels correlate {told(n['seeds'])} among each other"
    return [Finding(f"{text}.", n["labels"])]


def _seeds(result: FirstLayerResult) -> list[Finding]:
    n = result.numbers
    if "seeds" not in n:
        return []
    text = (
        f"From different random starts, trainings on the true labels lead to profiles that correlate "
        f"{told(n['seeds'])} ({_pairs(result, 'seeds')}); the formula, without any network, comes to "
        f"{told(n['formula'])}, the bare curve of pixel contrasts to {told(n['seeds_eigenvalue_curve'])}."
    )
    return [Finding(text, n["seeds"])]


def _pairs(result: FirstLayerResult, key: str) -> str:
    pairs = int(float(result.facts[f"{key}_pairs"]))
    return "one pair of networks" if pairs == 1 else f"mean of {count(pairs, 'pair')} of networks"


def _held_out(result: FirstLayerResult) -> list[Finding]:
    n = result.numbers
    if "held_out" not in n:
        return []
    formula, bump = n["held_out"], n["held_out_bump"]
    gap = formula.value - bump.value
    if formula.spread is None or bump.spread is None:
        verdict = f"a plain bump to {told(bump)}"
    else:
        slack = 2 * math.hypot(formula.spread, bump.spread)
        relation = "better than" if gap > slack else "worse than" if gap < -slack else "not clearly differently from"
        verdict = f"{relation} a plain bump ({told(bump)})"
    text = (
        f"Fitted on every other direction, the formula foretells the remaining ones to {told(formula)} (mean of both "
        f"halves), {verdict}."
    )
    return [Finding(text, formula)]


def _whitening(result: FirstLayerResult) -> list[Finding]:
    n = result.numbers
    if "response" not in n:
        return []
    response = n["response"]
    verdict = ""
    if response.chance is not None:
        low, high = response.chance
        verdict = (
            ", less alike than random filters make them"
            if response.decided and response.value < low
            else ", more alike than random filters make them"
            if response.decided
            else ", as random filters also make them"
            if low <= response.value <= high
            else ", not clearly different from what random filters give"
        )
    text = (
        f"{distance(result)} apart, the layer's responses correlate {told(response)}{verdict}; the pixels themselves "
        f"correlate {told(n['response_raw'])}, perfect whitening would leave {told(n['response_perfect'])}."
    )
    return [Finding(text, response)]


def label_findings(result: PatchResult) -> list[Finding]:
    """Returns what the labels have to do with the patches; nothing where there are no labels."""
    kinds = {"average": result.numbers.get("label_first"), "contrast": result.numbers.get("label_second")}
    known = {name: n for name, n in kinds.items() if n is not None and n.chance is not None and math.isfinite(n.value)}
    if not known:
        return []
    high = {name: (n.chance or (0.0, 0.0))[1] for name, n in known.items()}
    above = {name: n for name, n in known.items() if n.value > high[name]}
    beyond = {name: n for name, n in above.items() if n.decided}
    shown = beyond or above or known
    ratios = " and ".join(
        f"{told(n, '.3g')} for the {name}, where shuffled labels reach {told(high[name], '.3g')}"
        for name, n in shown.items()
    )
    what = " and the ".join(shown)
    if beyond:
        text = f"The {what} of an image's patches tell its label (F ratio {ratios}): the first layer may depend on it."
    elif above:
        text = f"Whether the {what} of an image's patches tell its label is not decided (F ratio {ratios})."
    else:
        text = f"The {what} of an image's patches do not tell its label beyond chance (F ratio {ratios})."
    if len(shown) == 1:
        text = text.replace(" tell its", " tells its").replace(" do not tell", " does not tell")
    return [Finding(text, max(shown.values(), key=lambda n: n.value))]


def _age(result: FirstLayerResult) -> list[Finding]:
    if not result.facts.get("tau_identified"):
        return []
    age, d = result.numbers["age"], len(result.curves["energy"])
    text = (
        f"The formula fits best at a training age of {told(age, '.3g')} (learning rate × steps × variance of the "
        f"strongest direction); by it, training has equalised about "
        f"{told(result.numbers['whitened_dimension'], '.0f')} of {d} directions."
    )
    return [Finding(text, age)]


def _untrained(result: FirstLayerResult) -> list[Finding]:
    n = result.numbers.get("untrained")
    if n is None or n.chance is None:
        return []
    own = "its own untrained weights" if result.facts.get("untrained_is") == "init" else "freshly drawn weights"
    relation = (
        ("resembles" if n.value > 0 else "runs against")
        if n.decided
        else "shows no resemblance to"
        if n.chance[0] <= n.value <= n.chance[1]
        else "is not clearly related to"
    )
    text = f"What the first layer listens to {relation} the profile of {own} (correlation {told(n)})."
    return [Finding(text, n)]


def _drive(result: FirstLayerResult) -> list[Finding]:
    n = result.numbers
    if "coherent_positions" not in n:
        return []
    text = (
        f"Before training, the signal sent back for random labels adds up over about "
        f"{told(n['coherent_positions'], '.2g')} positions (1 is what the formula assumes; global average pooling "
        f"alone would give {told(float(result.facts['positions']), '.0f')}); allowing for that, the fit is "
        f"{told(n['formula_signal'])}."
    )
    return [Finding(text, n["coherent_positions"])]


def count(n: int, noun: str) -> str:
    """Returns a number with its noun, in words up to ten: "two pixels"."""
    return f"{WORDS[n] if 0 <= n < len(WORDS) else n} {noun}{'' if n == 1 else 's'}"
