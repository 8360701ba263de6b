"""Plain sentences about the order in which a data set is learned, each resting on a number."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from convscope.core.results import Finding
from convscope.core.sentences import collected, told
from convscope.dynamics.findings_trained import measured, used
from convscope.dynamics.setting import FOLLOWED
from convscope.dynamics.wording import classes_in_words, decimal, frequency_in_words, joined, steps_in_words

if TYPE_CHECKING:
    from convscope.dynamics.result import DynamicsResult, Mode

NAMED = 8  # modes that a sentence names
COARSE = 0.3  # e-folds a step, from which on gradient descent does not follow the flow
UNEQUAL = 1.5  # times as many images in the largest class: worth a sentence
NOTABLE = 0.1  # energy more than the mode's own: worth a sentence


def findings(result: DynamicsResult) -> list[Finding]:
    """Returns the findings, the most telling first; a sentence that would tell an undefined number is left out."""
    parts = (_first, _stages, _beyond, _dominant, _speed, _pairs, _order, _coarse, _mixed, _assumptions, _classes)
    return collected(result, (parts[0], measured, used, *parts[1:])) if result.modes else []


def _first(result: DynamicsResult) -> list[Finding]:
    mode, facts = result.modes[0], result.facts
    steps = mode.numbers["steps"]
    (ky, kx), energy = mode.frequencies[0], mode.energies[0]
    when = f"after about {steps_in_words(steps)} steps" if steps.value >= 1 else "within the first step"
    told(steps)
    network = "linear CNN" if facts["layers"] == 2 else f"linear CNN of {told(float(facts['layers']), '.0f')} layers"
    text = (
        f"The first thing that a {network} learns of this data is {_apart(mode)}: a pattern made mostly of "
        f"{frequency_in_words(ky, kx)} ({told(100 * energy, '.0f')} % of its energy). It is half learned "
        f"{when} of SGD (learning rate {decimal(float(facts['lr']))}, momentum "
        f"{decimal(float(facts['momentum']))}, initial weights of {decimal(float(facts['init_std']))})."
    )
    return [Finding(text, steps)]


def _apart(mode: Mode) -> str:
    if not mode.low:
        return f"what {classes_in_words(mode.high)} have in common"
    return f"what sets {classes_in_words(mode.high)} apart from {classes_in_words(mode.low)}"


def _stages(result: DynamicsResult) -> list[Finding]:
    known = [(i + 1, n) for i, mode in enumerate(result.modes) if math.isfinite((n := mode.numbers["steps"]).value)]
    if len(known) < 2:
        return []
    known.sort(key=lambda pair: pair[1].value)
    (_, first), (mode, last) = known[0], known[-1]
    times = told(last.value / first.value, ".1f" if last.value < 10 * first.value else ".0f")
    if len(known) == 2:
        text = (
            f"The two modes are learned one after the other: the second is half learned at {steps_in_words(last)} "
            f"steps, {times} times later than the first."
        )
        return [Finding(text, last)]
    between = joined([steps_in_words(n) for _, n in known[1:4]])
    text = (
        f"The {len(known)} modes are learned in stages: after the first, others are half learned at {between} steps"
        if len(known) > 4
        else f"The {len(known)} modes are learned in stages, the second at {steps_in_words(known[1][1])} steps"
    )
    text += f"; the last, mode {mode}, at {steps_in_words(last)}, {times} times later."
    return [Finding(text, last)]


def _beyond(result: DynamicsResult) -> list[Finding]:
    number, total = result.numbers["beyond"], len(result.modes)
    ways = {1: "The one way in which the classes' mean images differ is", 2: "Both ways in which classes differ are"}
    if number.value == total:
        text = f"{ways.get(total, f'All {total} ways in which classes differ in their mean images are')} stronger than "
        text += "permuted labels give."
    else:
        text = (
            f"Of the {total} ways in which classes differ in their mean images, {told(number, '.0f')} are stronger "
            "than permuted labels would give; the others could be noise of this sample."
        )
    return [Finding(text, number)]


def _speed(result: DynamicsResult) -> list[Finding]:
    if "speed_up" not in result.numbers:
        return []
    number, most = result.numbers["speed_up"], math.sqrt(float(result.facts["pixels"]))
    text = (
        f"A fully connected linear network would need {told(number, '.1f')} times as many steps to half learn the "
        f"first mode: sharing weights speeds up what is made of few frequencies (at most about {told(most, '.0f')} "
        "times here)"
    )
    text += "." if number.decided else "; permuted labels give as much, for it is the images' doing, not the classes'."
    return [Finding(text, number)]


def _dominant(result: DynamicsResult) -> list[Finding]:
    known = [
        (mode.numbers["used_energy"].value - mode.numbers["dominant_energy"].value, i)
        for i, mode in enumerate(result.modes)
        if "used_energy" in mode.numbers and math.isfinite(mode.numbers["used_energy"].value)
    ]
    if not known or max(known)[0] < NOTABLE:
        return []
    _, place = max(known)
    numbers = result.modes[place].numbers
    text = (
        f"The network goes by dominant frequencies: when it has half learned mode {place + 1}, "
        f"{told(100 * numbers['used_energy'].value, '.0f')} % of what it uses lies in the mode's five strongest pairs "
        f"of frequencies, which hold {told(100 * numbers['dominant_energy'].value, '.0f')} % of the mode itself."
    )
    return [Finding(text, numbers["used_energy"])]


def _pairs(result: DynamicsResult) -> list[Finding]:
    if "hardest_pair" not in result.numbers:
        return []
    hardest, easiest = result.numbers["hardest_pair"], result.numbers["easiest_pair"]
    text = (
        f"Of all pairs, {result.facts['easiest']} are told apart soonest, {result.facts['hardest']} last: "
        f"on their own, about {told(easiest.value / hardest.value, '.0f')} times later."
    )
    return [Finding(text, hardest)]


def _order(result: DynamicsResult) -> list[Finding]:
    if "order" not in result.numbers:
        return []
    number, effective = result.numbers["order"], result.numbers["order_effective"]
    text = (
        "The order of learning follows the strength of the modes to a rank correlation of "
        f"{told(number)} (with their strength as a convolution sees it: {told(effective)})."
    )
    return [Finding(text, number)]


def _coarse(result: DynamicsResult) -> list[Finding]:
    number = result.numbers["fastest"]
    if not number.value > COARSE:
        return []
    slower = float(f"{float(result.facts['lr']) * FOLLOWED / number.value:.1g}")
    text = (
        f"At this learning rate the fastest frequency grows by {told(number, '.1f')} e-folds a step, which steps of "
        "SGD follow roughly at best: the order stands, but for times in steps a learning rate of at most "
        f"{decimal(slower)} is needed."
    )
    return [Finding(text, number)]


def _mixed(result: DynamicsResult) -> list[Finding]:
    mixed = [str(i + 1) for i, mode in enumerate(result.modes) if mode.mixed]
    if not mixed:
        return []
    number = result.modes[int(mixed[0]) - 1].numbers["singular_value"]
    told(number)
    if len(mixed) > NAMED:
        mixed[NAMED - 1 :] = [f"{len(mixed) - NAMED + 1} more"]
    text = (
        f"Modes {joined(mixed)} are each hardly weaker or stronger than a neighbour: with other images of the same "
        "kind their pictures may mix, and only what neighbours span together is certain."
    )
    return [Finding(text, number)]


def _assumptions(result: DynamicsResult) -> list[Finding]:
    if "frequency_coupling" not in result.numbers:
        return []
    n = result.numbers
    rests = (
        "which the exact method takes into account"
        if result.facts["method"] == "exact"
        else "which this method leaves out"
    )
    text = (
        "The simplest equations take modes and frequencies of the images to be uncorrelated; here "
        f"{told(100 * n['off_diagonal'].value, '.0f')} % of the modes' and "
        f"{told(100 * n['frequency_coupling'].value, '.0f')} % of the frequencies' covariance (in norm) lies between "
        f"different ones, {rests}."
    )
    return [Finding(text, n["frequency_coupling"])]


def _classes(result: DynamicsResult) -> list[Finding]:
    number, empty = result.numbers["imbalance"], str(result.facts["empty"])
    if number.value < UNEQUAL and not empty:
        return []
    text = (
        f"Classes have unequal numbers of images: {classes_in_words([str(result.facts['largest'])])} has "
        f"{told(number, '.1f')} times as many as {classes_in_words([str(result.facts['smallest'])])}, and what sets a "
        "large class apart is learned first."
    )
    if empty:
        more = f" and {told(float(result.facts['more_empty']), ',.0f')} more" if result.facts["more_empty"] else ""
        text += f" Without any image: {classes_in_words(empty.split(', '))}{more}."
    return [Finding(text, number)]
