"""What a training measured, as a part of the result."""

from __future__ import annotations

import math

import numpy as np
from scipy.stats import spearmanr
from torch import Tensor

from convscope.core.plain import rounded
from convscope.core.results import Number
from convscope.dynamics.parts import Trained
from convscope.dynamics.pictures import MOST_PICTURES, centred_spectra, sampled
from convscope.dynamics.setting import Setting, predicted
from convscope.dynamics.training import Measured

KINDS = {
    "cnn": "CNN with ReLUs",
    "linear-cnn": "linear CNN",
    "mlp": "fully connected network with ReLUs",
    "linear-mlp": "fully connected linear network",
}


def trained_part(measured: Measured, setting: Setting) -> Trained:
    """Returns what a training measured, beside what is predicted.

    Args:
        measured: by ``train_and_measure``.
        setting: of the linear CNN that stands beside a network of which the theory says nothing; its times are then
            multiplied by a factor, so that the first mode to be half learned is so at the time that was measured.
    """
    structure, half = measured.structure, measured.half_times
    per_step = measured.lr / (1 - measured.momentum)
    expected, scaled = measured.predicted, 1.0
    if expected is None:
        expected = predicted(structure, setting).cnn
        scaled = _ratio(half, expected.half_times)
    times, strengths = sampled(expected, structure.singular_values)
    few = min(MOST_PICTURES, len(half))
    curves = {
        "steps": measured.steps.double().numpy(),
        "strengths": (measured.mode_strengths / measured.targets)[:, :few].numpy(),
        "spectra": centred_spectra(structure.spectra[:few]).numpy(),
        "used": centred_spectra(measured.used.spectra[:few]).numpy(),
    }
    if math.isfinite(scaled):
        curves["expected_steps"] = (times * scaled / per_step).numpy()
        curves["expected_strengths"] = strengths[:, :few].numpy()
    numbers = {
        "order_measured": _order(half, expected.half_times),
        "trained_accuracy": _accuracy(measured),
    }
    if measured.predicted is not None:
        numbers["times_measured"] = _times(half, expected.half_times)
    table = {
        "half_measured": half / per_step,
        "half_expected": expected.half_times * scaled / per_step,
        "used_participation_measured": measured.used.participation_ratio,
        "participation": measured.used.mode_participation_ratio,
        "used_energy_measured": measured.used.dominant_share,
        "dominant_energy": measured.used.mode_dominant_share,
    }
    return Trained(
        numbers=numbers,
        modes=tuple({key: Number(float(v[i]), None, None, key) for key, v in table.items()} for i in range(len(half))),
        facts={
            "kind": KINDS.get(measured.kind, measured.kind),
            "images": float(measured.images),
            "scaled": scaled,
            "complete": measured.complete,
            "cost": measured.cost,
            "loss": measured.loss,
            "lr": measured.lr,
            "momentum": measured.momentum,
            "batch": float(measured.batch_size),
            "notes": "; ".join(measured.notes),
        },
        curves={name: rounded(array) for name, array in curves.items()},
    )


def _ratio(measured: Tensor, expected: Tensor) -> float:
    """Returns the earliest measured half-time over the predicted one of the same mode; NaN where there is none."""
    place = int(measured.argmin())
    known = math.isfinite(measured[place]) and math.isfinite(expected[place]) and float(expected[place]) > 0
    return float(measured[place] / expected[place]) if known else math.nan


def _order(measured: Tensor, expected: Tensor) -> Number:
    known = measured.isfinite() & expected.isfinite()
    m = int(known.sum())
    if m < 3:
        return Number(math.nan, None, None, "order_measured")
    end = 1.96 / math.sqrt(m - 1)
    value = float(spearmanr(measured[known], expected[known]).statistic)
    return Number(value, None, (-end, end), "order_measured", "random order")


def _times(measured: Tensor, expected: Tensor) -> Number:
    known = measured.isfinite() & expected.isfinite() & (expected > 0)
    errors = (measured[known] / expected[known] - 1).abs()
    return Number(float(errors.median()) if len(errors) else math.nan, None, None, "times_measured")


def _accuracy(measured: Measured) -> Number:
    counts = measured.structure.counts
    largest = float(counts.max() / counts.sum())
    value, n = measured.accuracy, measured.images
    return Number(
        value,
        float(np.sqrt(value * (1 - value) / n)),
        (largest, largest),
        "trained_accuracy",
        "the most frequent class",
    )
