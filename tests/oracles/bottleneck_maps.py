"""A map over frequencies, entry by entry."""

import numpy as np


def slow_map(values, frequencies, h, w):
    """Returns the value at each (ky, kx), both ascending, the last being half a cycle per pixel where that exists."""
    known = {tuple(k): v for k, v in zip(frequencies, values, strict=True)}
    found = np.full((h, w), np.nan)
    for i, ky in enumerate(range(-((h - 1) // 2), h // 2 + 1)):
        for j, kx in enumerate(range(-((w - 1) // 2), w // 2 + 1)):
            # The conjugate, with half a cycle per pixel counted as positive.
            other = (-ky if 2 * ky != h else ky, -kx if 2 * kx != w else kx)
            found[i, j] = known.get((ky, kx), known.get(other))
    return found
