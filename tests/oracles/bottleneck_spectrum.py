"""Activation spectra by the slow and obvious way: covariances of pixels, and sums over waves, image by image."""

import numpy as np


def stationary_covariance(maps):
    """Covariance over images of all pixels of all channels [k h w, k h w], averaged over all cyclic translations."""
    n, k, h, w = maps.shape
    centred = maps - maps.mean(0)
    total = np.zeros((k * h * w, k * h * w))
    for down in range(h):
        for right in range(w):
            moved = np.roll(centred, (down, right), (2, 3)).reshape(n, -1)
            total += moved.T @ moved / n
    return total / (h * w)


def directions(h, w, ky, kx):
    """Real unit vectors of one frequency, [1 or 2, h, w]: the cosine and, unless it is 0 everywhere, the sine."""
    y, x = np.mgrid[:h, :w]
    turns = 2 * np.pi * (ky * y / h + kx * x / w)
    found = [np.cos(turns), np.sin(turns)]
    return np.array([v / np.linalg.norm(v) for v in found if np.linalg.norm(v) > 1e-6])


def variance(maps, ky, kx):
    """Variance of the maps along the directions of one frequency, all channels, from the covariance of the pixels."""
    n, k, h, w = maps.shape
    flat = (maps - maps.mean(0)).reshape(n, -1)
    covariance = flat.T @ flat / n
    total = 0.0
    for direction in directions(h, w, ky, kx):
        for i in range(k):
            along = np.zeros((k, h, w))
            along[i] = direction
            total += along.ravel() @ covariance @ along.ravel()
    return total


def moments(maps, ky, kx):
    """Covariance over images of the unitary transform at one frequency, complex [k, k], two passes over the images."""
    n, _, h, w = maps.shape
    y, x = np.mgrid[:h, :w]
    wave = np.exp(-2j * np.pi * (ky * y / h + kx * x / w)) / np.sqrt(h * w)
    z = np.array([[(channel * wave).sum() for channel in image] for image in maps])
    mean = z.mean(0)
    return sum(np.outer(one - mean, (one - mean).conj()) for one in z) / n


def rank(eigenvalues, share):
    """How many eigenvalues, largest first, add up to a share of all."""
    total, target = 0.0, share * sum(eigenvalues) * (1 - 1e-9)
    for count, value in enumerate(sorted(eigenvalues, reverse=True), 1):
        total += value
        if total >= target:
            return count
    return len(eigenvalues)
