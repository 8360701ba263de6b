"""Plain sentences about one network's first layer, each resting on a number."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from convscope.core.results import Finding, Number

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


def findings(result: FirstLayerResult) -> list[Finding]:
    """Returns the findings, the most telling first; numbers that could not be computed give none."""
    n = result.numbers
    if result.facts.get("zero"):
        text = "The first layer's filters did not move from their initial weights: there is nothing learned to explain."
        return [Finding(text, n["formula"])]
    found = [_formula(result)]
    for part in (_replicas, _held_out, _whitening, label_findings, _age, _untrained, _drive):
        found += part(result)
    return [f for f in found if not math.isnan(f.number.value)]


def _formula(result: FirstLayerResult) -> Finding:
    n, margin = result.numbers, result.numbers["margin"]
    rival = str(result.facts["best_rival"])
    other = n[RIVAL_KEYS[rival]]
    slack = 2 * (margin.spread or 0.0)
    if margin.value > slack:
        verdict = f"closer than the best curve that knows nothing of training ({RIVALS[rival]}, {other.value:.2f})"
    elif margin.value < -slack:
        verdict = f"but {RIVALS[rival]}, which knows nothing of training, comes closer ({other.value:.2f})"
    else:
        verdict = f"but so does {RIVALS[rival]} that knows nothing of training ({other.value:.2f}): not decided"
    text = (
        "How strongly the first layer listens to each direction of image space follows a formula made from the images "
        f"alone to a correlation of {n['formula'].value:.2f}, {verdict}."
    )
    return Finding(text, n["formula"])


def _replicas(result: FirstLayerResult) -> list[Finding]:
    n, found = result.numbers, []
    if "labels" in n and "seeds" in n:
        pairs = int(float(result.facts["labels_pairs"]))
        text = (
            f"Trained on shuffled labels, the network's first layer learns a similar profile: correlation "
            f"{n['labels'].value:.2f} with training on the true labels (mean of {count(pairs, 'pair')}), where two "
            f"trainings on the true labels agree to {n['seeds'].value:.2f}."
        )
        if n["labels"].value < 0.5:
            text = text.replace("learns a similar profile", "learns another profile")
        found.append(Finding(text, n["labels"]))
        text = (
            f"Another random start on the true labels leads to the same profile to {n['seeds'].value:.2f}; the formula, "
            f"without any network, comes to {n['formula'].value:.2f}, the images' bare eigenvalue curve to "
            f"{n['seeds_eigenvalue_curve'].value:.2f}."
        )
        found.append(Finding(text, n["seeds"]))
    return found


def _held_out(result: FirstLayerResult) -> list[Finding]:
    n = result.numbers
    if "held_out" not in n:
        return []
    formula, bump = n["held_out"], n["held_out_bump"]
    gap = formula.value - bump.value
    slack = 2 * math.hypot(formula.spread or 0.0, bump.spread or 0.0)
    verdict = "better than" if gap > slack else "worse than" if gap < -slack else "no differently from"
    text = (
        f"Fitted on every other direction, the formula foretells the remaining ones to {formula.value:.2f} (mean of both "
        f"halves), {verdict} a plain bump ({bump.value:.2f})."
    )
    return [Finding(text, formula)]


def _whitening(result: FirstLayerResult) -> list[Finding]:
    n = result.numbers
    if "response" not in n:
        return []
    lag = int(float(result.facts["response_lag"]))
    response, raw = n["response"], n["response_raw"]
    outside = response.decided
    verdict = (
        "less alike than random filters make them"
        if outside and response.value < raw.value
        else "more alike than random filters make them"
        if outside
        else "no less alike than random filters make them"
    )
    text = (
        f"{count(lag, 'pixel').capitalize()} apart, the layer's responses correlate {response.value:.2f}, {verdict}; "
        f"the pixels themselves correlate {raw.value:.2f}, perfect whitening would leave "
        f"{n['response_perfect'].value:.2f}."
    )
    return [Finding(text, response)]


def label_findings(result: PatchResult) -> list[Finding]:
    """Returns what the labels have to do with the patches; nothing where there are no labels."""
    n = result.numbers
    if "label_second" not in n:
        return []
    first, second = n["label_first"], n["label_second"]
    beyond = [name for name, x in (("average colour and shading", first), ("contrast", second)) if x.decided]
    if beyond:
        text = (
            f"The labels can be told from the {' and the '.join(beyond)} of patches (F up to "
            f"{max(first.value, second.value):.0f}; shuffled labels reach {(second.chance or (0, 0))[1]:.1f}), "
            "so the first layer may depend on them."
        )
    else:
        text = (
            "Neither average nor contrast of patches tells the labels apart "
            f"(F at most {max(first.value, second.value):.1f}, no more than shuffled labels reach), "
            "so the first layer should not depend on them."
        )
    return [Finding(text, second if second.value >= first.value else first)]


def _age(result: FirstLayerResult) -> list[Finding]:
    if not result.facts.get("tau_identified"):
        return []
    age, d = result.numbers["age"], len(result.curves["energy"])
    text = (
        f"Its training age in units of the strongest direction is {age.value:.0f}: about "
        f"{result.numbers['whitened_dimension'].value:.0f} of {d} directions have been equalised."
    )
    return [Finding(text, age)]


def _untrained(result: FirstLayerResult) -> list[Finding]:
    n = result.numbers.get("untrained")
    if n is None:
        return []
    own = "its own untrained weights" if result.facts.get("untrained_is") == "init" else "freshly drawn weights"
    relation = "resembles" if n.decided and n.value > 0 else "does not resemble"
    return [Finding(f"What it listens to {relation} the profile of {own} (correlation {n.value:.2f}).", n)]


def _drive(result: FirstLayerResult) -> list[Finding]:
    n = result.numbers
    if "coherent_positions" not in n:
        return []
    positions: Number = n["coherent_positions"]
    text = (
        f"Before training, the signal sent back for random labels adds up over about {positions.value:.0f} positions "
        f"(1 is what the formula assumes; global average pooling would give {(positions.chance or (0, 0))[1]:.0f}); "
        f"allowing for that, the fit is {n['formula_signal'].value:.2f}."
    )
    return [Finding(text, positions)]


def count(n: int, noun: str) -> str:
    """Returns a number with its noun, in words up to ten: "two pixels"."""
    words = {
        1: "one",
        2: "two",
        3: "three",
        4: "four",
        5: "five",
        6: "six",
        7: "seven",
        8: "eight",
        9: "nine",
        10: "ten",
    }
    return f"{words.get(n, n)} {noun}{'' if n == 1 else 's'}"
