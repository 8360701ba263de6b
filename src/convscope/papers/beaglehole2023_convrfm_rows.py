"""What ConvRFM and Deep ConvRFM gain on the fixed kernel, as rows: beyond the spread over draws, or not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from convscope.papers.beaglehole2023_claims import gained, in_words, without_gain
from convscope.papers.beaglehole2023_convrfm_images import ACCURACY, ERROR, GAIN, Case, Reported
from convscope.papers.beaglehole2023_networks import NOT_READ
from convscope.papers.kept import Scores
from convscope.papers.registry import Row, summary

CNN, FIXED, CONVRFM, DEEP = "a small CNN", "the fixed kernel", "ConvRFM", "Deep ConvRFM"


@dataclass(frozen=True)
class Found:
    """What the machines made of one draw.

    Attributes:
        largest: share of the test images in their largest class.
        curve: of ConvRFM, for each iteration: test accuracy, mean squared error, and what the machine knew itself.
        selected: ConvRFM's iteration.
        deep: test accuracy of Deep ConvRFM; None where it did not learn.
        layers: of Deep ConvRFM, a line for each layer and iteration.
        network: how well the CNN learned.
        suppressed: share of the training patches' energy in the directions that the first metric gives up.
        seconds: of ConvRFM and of Deep ConvRFM, learning and predicting.
    """

    largest: float
    curve: Sequence[Mapping[str, Any]]
    selected: int
    deep: float | None
    layers: Sequence[Mapping[str, Any]]
    network: Scores
    suppressed: float
    seconds: tuple[float, float]

    @property
    def fixed(self) -> float:
        """Test accuracy of the fixed kernel."""
        return float(self.curve[0][ACCURACY])

    @property
    def learned(self) -> float:
        """Test accuracy of ConvRFM at the selected iteration."""
        return float(self.curve[self.selected][ACCURACY])

    @property
    def fall(self) -> float:
        """By what share of the fixed kernel's mean squared error ConvRFM's is smaller, at the selected iteration."""
        return 1 - float(self.curve[self.selected][ERROR]) / float(self.curve[0][ERROR])


def rows_of(case: Case, n: int, m: int, found: Sequence[Found]) -> list[Row]:
    """Returns the rows of one size of a case.

    Args:
        case: the data.
        n: number of training images.
        m: number of test images.
        found: of each draw.
    """
    at = f"{case.name}, n = {n:,}"
    cnn, largest = [one.network.test_accuracy for one in found], {"largest class": fmean(o.largest for o in found)}
    machines = {FIXED: [one.fixed for one in found], CONVRFM: [one.learned for one in found]}
    if deep := [one.deep for one in found if one.deep is not None]:
        machines[DEEP] = deep
    rivals = {CNN: fmean(cnn), **largest}
    rows = [
        Row(f"{at}: {ACCURACY} of {name}", NOT_READ, None, summary(values), len(values), rivals, "", "higher")
        for name, values in machines.items()
    ]
    rows.append(Row(f"{at}: {ACCURACY} of {CNN}", NOT_READ, None, summary(cnn), len(cnn), largest))
    why = _why(found)
    rows += [
        gained(f"{at}: {GAIN} of {name} over {FIXED}", _differences(machines[FIXED], values), 1 / m, why)
        for name, values in machines.items()
        if name != FIXED
    ]
    fall = f"{at}: fall of the mean squared error from {FIXED}'s by {CONVRFM}, as a share of it"
    rows.append(gained(fall, [one.fall for one in found], reason=why))
    given_up = [one.suppressed for one in found]
    what = f"{at}: share of the patches' energy in the directions that hold the last tenth of the first metric"
    rows.append(Row(what, NOT_READ, None, summary(given_up), len(given_up)))
    if deep:
        gains = _differences(machines[CONVRFM], deep)
        what = f"{at}: {GAIN} of {DEEP} over {CONVRFM}"
        rows.append(Row(what, NOT_READ, None, summary(gains, without_gain(gains)), len(gains), note=in_words(gains)))
    rows += [_reported(at, number, found, why) for number in case.reported if number.n == n]
    return rows


def _differences(before: Sequence[float], after: Sequence[float]) -> list[float]:
    return [b - a for a, b in zip(before, after, strict=True)]


def _why(found: Sequence[Found]) -> str:
    """Returns in words what kept a gain from being seen: how the metric was chosen, and what there was to suppress."""
    kept = sum(one.selected == 0 for one in found)
    last = fmean(float(one.curve[-1][ACCURACY]) - one.fixed for one in found)
    text = (
        f"held-out training images chose the fixed kernel in {kept} of {len(found)} draws; the last metric, chosen or "
        f"not, changes test accuracy by {last:+.3f}. The directions that hold the last tenth of the metric have "
        f"{fmean(one.suppressed for one in found):.1%} of the patches' energy: so much noise a metric could suppress"
    )
    return text.replace("-0", "−0").replace("%", " %")


def _reported(at: str, reported: Reported, found: Sequence[Found], why: str) -> Row:
    values = [_value(one, reported) for one in found]
    what, note = f"{at}: {reported.quantity} at iteration {reported.iteration}", "whether it would be selected or not"
    reason = f"our draws range from {min(values):.3f} to {max(values):.3f}; the notebook has one draw, of another star"
    if reported.quantity == GAIN:
        reason = why
        what, note = f"{what} over {FIXED}", f"{note}; {in_words(values)}"
    return Row(
        what,
        reported.paper,
        reported.expected,
        summary(values, without_gain(values) if reported.quantity == GAIN else None),
        len(values),
        note=f"{note}; {reported.tolerance}",
        printed=reported.printed,
        reason=reason,
    )


def _value(found: Found, reported: Reported) -> float:
    line = found.curve[reported.iteration]
    return float(line[ACCURACY]) - found.fixed if reported.quantity == GAIN else float(line[reported.quantity])
