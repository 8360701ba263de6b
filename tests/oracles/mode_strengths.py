"""Mode strengths, half-times and mean Jacobians, by the slow and obvious way: loops, float64."""

import numpy as np
import torch


def mode_matrix(outputs, images, class_vectors, modes, center=True):
    """U^T E[(yhat - E yhat)(x - E x)^T] V, entry by entry."""
    y = np.asarray(outputs, dtype=np.float64)[:, : class_vectors.shape[1]]
    x = np.asarray(images, dtype=np.float64).reshape(len(y), -1)
    if center:
        y, x = y - y.mean(0), x - x.mean(0)
    u, v = np.asarray(class_vectors), np.asarray(modes).reshape(len(modes), -1)
    found = np.zeros((len(u), len(v)))
    for a in range(len(u)):
        for b in range(len(v)):
            found[a, b] = np.mean([(u[a] @ y[i]) * (x[i] @ v[b]) for i in range(len(y))])
    return found


def first_half(steps, strengths, target):
    """When a curve of straight lines first reaches half the target."""
    for i, a in enumerate(strengths):
        if a >= target / 2:
            if i == 0:
                return float(steps[0])
            share = (target / 2 - strengths[i - 1]) / (a - strengths[i - 1])
            return float(steps[i - 1] + share * (steps[i] - steps[i - 1]))
    return np.inf


def mean_jacobian(model, images, directions):
    """Mean over images of the gradient of each combination of outputs, one image at a time."""
    found = torch.zeros(len(directions), *images.shape[1:], dtype=torch.float64)
    for image in images:
        whole = torch.autograd.functional.jacobian(lambda x: model(x[None])[0], image).double()  # [o, c, h, w]
        found += torch.einsum("mo,ochw->mchw", directions.double(), whole[: directions.shape[1]]) / len(images)
    return found
