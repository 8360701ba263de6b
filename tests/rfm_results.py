"""Small results of kernel machines for the tests, from machines that nobody fitted."""

from types import SimpleNamespace

import numpy as np
import torch

from convscope.rfm.architecture import Architecture
from convscope.rfm.conclude import Beside, Tested, conclude

LABELS = np.array([0, 1, 2, 1] * 15)  # half are 1
TRUE = np.array([0, 1, 0, 1, 1] * 20)  # of the test images, 0.6 are 1


def metric_of(d, seed=0):
    """Returns a random metric of trace 1, float64 [d, d]."""
    root = np.random.default_rng(seed).normal(size=(d, d)) * np.linspace(1, 0.1, d)
    metric = root.T @ root
    return metric / np.trace(metric)


def fitted(scores, *, best=None, d=27, error=0.02, **changes):
    """Returns a fitted machine with these selection scores by iteration."""
    history = [
        {
            "iteration": t, "train_score": 1.0, "loo_score": score + 0.2, "selection_score": score,
            "selection_error": error, "selection_gain_error": error / 2, "ridge": 1e-4, "rank": d - t, "seconds": 1.0,
        }
        for t, score in enumerate(scores)
    ]  # fmt: skip
    best = int(np.argmax(scores)) if best is None else best
    metric = metric_of(d) if best else np.eye(d) / d
    return SimpleNamespace(history_=history, best_iteration_=best, metric_=metric, **changes)


def right(count):
    """Returns predictions for the test images of which so many, the first ones, are right."""
    return np.where(np.arange(len(TRUE)) < count, TRUE, 1 - TRUE)


def result(*layers, chosen=0, correct=None, permuted=None, cnn=None, channels=3, side=6, q=3):
    """Returns the result of machines; correct: how many of 100 test images each iteration of each layer gets right."""
    layers = layers or (fitted([0.5, 0.6, 0.7]),)
    tested = None if correct is None else Tested(TRUE, [[right(count) for count in row] for row in correct])
    images = torch.rand(len(LABELS), channels, side, side, generator=torch.Generator().manual_seed(0))
    return conclude(layers, chosen, images, LABELS, Architecture(2, q), tested=tested, permuted=permuted, cnn=cnn)


def beside(d=27, accuracy=0.9):
    """Returns a CNN whose filters are the metric of ``fitted`` and whose gradients are another's."""
    metric, other, *starts = (torch.from_numpy(metric_of(d, seed)) for seed in range(5))
    return Beside(metric * 5, other, [(start, -start) for start in starts], accuracy)
