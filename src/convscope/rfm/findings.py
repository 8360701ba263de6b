"""Plain sentences about learned features, each resting on a number."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from convscope.core.results import Finding, Number
from convscope.core.sentences import collected, told

if TYPE_CHECKING:
    from convscope.rfm.result import RfmResult

MOST = 0.5  # share of a patch's square that names it
STRIPES = ("upright", "slanting (/)", "lying", "slanting (\\)")  # edges, by the angle of their gradient


def findings(result: RfmResult) -> list[Finding]:
    """Returns the findings, the most telling first; a sentence that would tell an undefined number is left out."""
    return collected(result, (_help, _patches, _held_out, _chance, _deep, _cnn, _leave_one_out))


def _help(result: RfmResult) -> list[Finding]:
    if result.is_fixed:
        return _kept(result)
    key, score = ("gain", "test") if "gain" in result.learned else ("gain_selection", "selection")
    if key not in result.learned:
        return []
    gain = result.learned[key]
    images = f"the {result.facts['test_images']:,.0f} test images" if key == "gain" else "held-out images"
    text = (
        f"{_percent(result.learned[score])} of {images} are right with the learned metric, "
        f"{_percent(result.fixed[score])} with the fixed kernel: "
    )
    if gain.value == gain.spread == 0:
        text += "feature learning did not help, the same images are right"
    elif not gain.decided:
        text += f"feature learning did not help beyond doubt ({_points(gain)} percentage points)"
    elif gain.value > 0:
        text += f"feature learning helped, by {_points(gain)} percentage points"
    else:
        text += f"feature learning did not help, it cost {_points(gain, -1)} percentage points"
    return [Finding(f"{text}.", gain)]


def _kept(result: RfmResult) -> list[Finding]:
    learned = [n["gain_selection"] for layer in result.stack for n in layer.iterations if "gain_selection" in n]
    if not learned:
        return []
    best = max(learned, key=lambda n: n.value)
    text = (
        "Feature learning did not help: the fixed kernel is the best on held-out images "
        f"({_percent(result.fixed['selection'])} right); the best learned metric differs by {_points(best)} "
        "percentage points."
    )
    return [Finding(text, best)]


def _patches(result: RfmResult) -> list[Finding]:
    shown, numbers = result.layer.pictures, result.layer.numbers
    if shown is None:
        return []
    share = numbers["share"]
    c, q, _ = result.layer.shape
    text = (
        f"Of the {c * q * q} directions of a patch the learned metric weighs {told(numbers['effective_rank'], '.1f')} "
        f"(effective rank); the leading one has {_percent(share)} of the weight"
    )
    if result.chosen == 0 and len(shown.channels) == c and (name := pattern(shown.patches[0])):
        text += f" and is {name}"
    return [Finding(f"{text}.", share)]


def pattern(patch: np.ndarray) -> str:
    """Returns in words what a patch mostly is: brightness, a colour, an edge; "" for something finer.

    Args:
        patch: float64 [c, q, q] of unit norm, all channels of an image.
    """
    c, q, _ = patch.shape
    flat = patch.mean((1, 2))
    grey = patch.mean(0)
    even = c * q * q * float(flat.mean() ** 2)  # shares of the patch's square
    colour = q * q * float(np.square(flat).sum()) - even
    ramp = np.arange(q) - (q - 1) / 2
    along = float(np.square(ramp).sum()) * q / c  # square of each ramp, as all channels share it
    down, across = float(ramp @ grey.sum(1)), float(ramp @ grey.sum(0))
    edge = (down**2 + across**2) / along if q > 1 else 0.0
    if even > MOST:
        return "the brightness of the whole patch"
    if colour > MOST:
        return "a colour of the whole patch against another"
    if edge > MOST:
        return f"an edge, {STRIPES[round(np.arctan2(down, across) / (np.pi / 4)) % 4]}"
    return ""


def _held_out(result: RfmResult) -> list[Finding]:
    if result.is_fixed or "selection" not in result.learned or "gain" not in result.learned:
        return []
    number = result.learned["selection"]
    text = (
        f"Iteration {result.layer.best} was chosen without the test images: of held-out training images it got "
        f"{_percent(number)} right, the fixed kernel {_percent(result.fixed['selection'])}."
    )
    return [Finding(text, number)]


def _chance(result: RfmResult) -> list[Finding]:
    key = "test" if "test" in result.learned else "selection"
    number = result.learned.get(key)
    if number is None or number.chance is None:
        return []
    images = "test" if key == "test" else "held-out"
    text = f"{_percent(number)} of the {images} images are right, where {number.chance_name} would reach "
    low, high = (told(100 * end, ".1f") for end in number.chance)
    return [Finding(f"{text}{low} %." if low == high else f"{text}{low} to {high} %.", number)]


def _deep(result: RfmResult) -> list[Finding]:
    if len(result.stack) < 2:
        return []
    best = [layer.iterations[layer.best].get("selection") for layer in result.stack]
    number = best[result.chosen]
    if number is None:
        return []
    told(number)
    others = [f"layer {i + 1} {_percent(n)}" for i, n in enumerate(best) if n is not None and i != result.chosen]
    text = (
        f"Of {len(result.stack)} layers of learned features, layer {result.chosen + 1} is the best on held-out images "
        f"({_percent(number)} right; {', '.join(others)})"
    )
    return [Finding(f"{text}{': depth did not help' if result.chosen == 0 else ''}.", number)]


def _cnn(result: RfmResult) -> list[Finding]:
    found = []
    if "metric_nfm" in result.numbers:
        number = result.numbers["metric_nfm"]
        text = (
            "The metric that the kernel learned and the first layer of a CNN trained on the same images agree to a "
            f"correlation of {told(number)} (its filters) and {told(result.numbers['metric_agop'])} (its gradients)"
        )
        if number.chance is not None:
            text += f"; before training its filters reach {told(number.chance[0])} to {told(number.chance[1])}"
        found.append(Finding(f"{text}.", number))
    if "cnn" in result.numbers:
        number = result.numbers["cnn"]
        text = f"A CNN of the same architecture, trained on the same images, gets {_percent(number)} of the test images"
        found.append(Finding(f"{text} right.", number))
    return found


def _leave_one_out(result: RfmResult) -> list[Finding]:
    loo, honest = result.learned.get("loo"), result.learned.get("selection")
    if result.is_fixed or loo is None or honest is None or loo.value - honest.value <= 2 * (honest.spread or 0.0):
        return []
    text = (
        f"Leave-one-out, whose metric has seen the label that is left out, promises {_percent(loo)}; with a metric "
        f"learned without it {_percent(honest)} of the images are right."
    )
    return [Finding(text, loo)]


def _percent(number: Number) -> str:
    return f"{told(100 * number.value, '.1f')} %"


def _points(gain: Number, sign: int = 1) -> str:
    value = told(sign * gain.value, "+.1f" if sign > 0 else ".1f")
    return value if gain.spread is None else f"{value} ± {told(gain.spread, '.1f')}"
