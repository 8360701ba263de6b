"""Plain sentences about what a trained network learned of a data set's modes."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from convscope.core.results import Finding
from convscope.core.sentences import told

if TYPE_CHECKING:
    from convscope.dynamics.result import DynamicsResult


def measured(result: DynamicsResult) -> list[Finding]:
    """Returns what a training on the spot showed."""
    if result.trained is None:
        return []
    trained, numbers = result.trained, result.trained.numbers
    kind, order = trained.facts["kind"], numbers["order_measured"]
    reached = sum(math.isfinite(mode["half_measured"].value) for mode in trained.modes)
    found = []
    if reached > 2:
        text = (
            f"Trained on {float(trained.facts['images']):,.0f} of the images, a {kind} half learned {reached} "
            f"of {len(trained.modes)} modes, in the predicted order to a rank correlation of {told(order)}"
        )
        if "times_measured" in numbers:
            text += f"; the times are off by {told(100 * numbers['times_measured'].value, '.1f')} % (median)"
        found.append(Finding(f"{text}.", order))
    else:
        accuracy = numbers["trained_accuracy"]
        text = (
            f"A {kind}, trained on {float(trained.facts['images']):,.0f} of the images, half learned "
            f"{reached} of {len(trained.modes)} modes within the steps that it was given, and is right in "
            f"{told(100 * accuracy.value, '.0f')} % of these images."
        )
        found.append(Finding(text, accuracy))
    return found


def used(result: DynamicsResult) -> list[Finding]:
    """Returns which frequencies a trained network goes by, and whether by phases or by amplitudes."""
    if result.use is None:
        return []
    use = result.use
    name, images = use.facts["network"], f"{float(use.facts['images']):,.0f}"
    place = len(use.counts) - 1
    kept, random = use.kept["strength"][place], use.kept["random"][place]
    share = 100 * use.counts[place] / float(use.facts["frequencies"])
    text = (
        f"With only the {told(share, '.0f')} % of frequencies in which the classes' mean images differ most, {name} is "
        f"right in {told(100 * kept.value, '.0f')} % of {images} images, with as many random ones in "
        f"{told(100 * random.value, '.0f')} %; with all, in {told(100 * use.numbers['clean_accuracy'].value, '.0f')} %."
    )
    found = [Finding(text, kept)]
    if "phase_preference" in use.numbers:
        number = use.numbers["phase_preference"]
        followed = use.numbers["follows_phase"].value + use.numbers["follows_amplitude"].value
        text = (
            "Shown one image's phases with another's amplitudes, it follows the phases, which hold the shape, in "
            f"{told(100 * number.value, '.0f')} % of the cases in which it follows one of the two "
            f"({told(100 * followed, '.0f')} % of all)."
        )
        found.append(Finding(text, number))
    return found
