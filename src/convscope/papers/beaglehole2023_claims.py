"""Rows that judge a claim: something is gained, or grows, by more than the runs differ; the power of the AGOP."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from statistics import fmean, stdev

from scipy.stats import t as student

from convscope.papers.registry import Row, summary


def claimed_at(power: float, row: Row) -> Row:
    """Returns a row on the AGOP to a power; with its claim only for power 1, which the paper compares."""
    return row if power == 1 else replace(row, paper="claimed for power 1", expected=None, reason="")


def without_gain(gains: Sequence[float]) -> tuple[float, float]:
    """Returns where the mean would lie in 95 % of experiments with as many runs if nothing were gained.

    Args:
        gains: at least 2, one of each run.
    """
    half = float(student.ppf(0.975, len(gains) - 1)) * stdev(gains) / math.sqrt(len(gains))
    return -half, half


def in_words(gains: Sequence[float]) -> str:
    """Returns whether something is gained or lost, as its spread over runs decides.

    Example:
        >>> in_words([0.03, 0.02, 0.04])
        'a gain: 95 % interval over 3 runs +0.005 to +0.055'
        >>> in_words([0.0, 0.0, 0.0])
        'no gain to be seen: 95 % interval over 3 runs +0.000 to +0.000'
    """
    low, high = (fmean(gains) + edge for edge in without_gain(gains))
    word = "a gain" if low > 0 else "a loss" if high < 0 else "no gain to be seen"
    return f"{word}: 95 % interval over {len(gains)} runs {low:+.3f} to {high:+.3f}".replace("-", "−")


def gained(quantity: str, gains: Sequence[float], least: float = 1e-3, reason: str = "") -> Row:
    """Returns a row whose claim is that something is gained, by more than its spread over runs.

    Args:
        quantity: what it is.
        gains: one of each run, on a scale on which 1 cannot be passed.
        least: the smallest gain that counts, where the runs agree.
        reason: why it is not gained, where it is not.
    """
    low, high = without_gain(gains)
    number = summary(gains, (low, high), "95 % without any gain")
    claim = "a gain beyond its spread (95 %, by t over the runs)"
    return Row(quantity, claim, (max(high, least), 1.0), number, len(gains), note=in_words(gains), reason=reason)
