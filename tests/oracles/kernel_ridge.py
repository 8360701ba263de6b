"""Slow twins of kernel ridge regression and its scores: explicit inverses, one refit for each image."""

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def dual_coefficients(kernel: Array, targets: Array, ridge: float, weights: Array) -> Array:
    """Returns (K + ridge diag(1/w))^-1 Y."""
    return np.linalg.inv(kernel + ridge * np.diag(1 / weights)) @ targets


def refitted(kernel: Array, targets: Array, ridge: float, weights: Array) -> Array:
    """Returns what a machine fitted without an image predicts for it, one fit for each image."""
    found = np.empty_like(targets)
    for i in range(len(kernel)):
        rest = np.arange(len(kernel)) != i
        alpha = dual_coefficients(kernel[np.ix_(rest, rest)], targets[rest], ridge, weights[rest])
        found[i] = kernel[i, rest] @ alpha
    return found


def jackknife_error(score, *arrays: Array) -> float:
    """Returns the jackknife's standard error of score(*arrays), leaving out one image at a time."""
    n = len(arrays[0])
    each = np.array([score(*(np.delete(a, i, axis=0) for a in arrays)) for i in range(n)])
    return float(np.sqrt((n - 1) / n * ((each - each.mean()) ** 2).sum()))
