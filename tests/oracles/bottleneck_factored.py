"""Slow twins of convolutions in factors, of resampling and of the choice of sizes: loops in float64."""

import cmath
import math

import numpy as np


def partner(frequency, size):
    return tuple(-k % s for k, s in zip(frequency, size, strict=True))


def coefficient(image, frequency):
    """Unitary Fourier coefficient of one channel."""
    h, w = image.shape
    total = 0j
    for y in range(h):
        for x in range(w):
            total += image[y, x] * cmath.exp(-2j * math.pi * (frequency[0] * y / h + frequency[1] * x / w))
    return total / math.sqrt(h * w)


def frequency_form(image, frequencies, left, right, bias):
    """[k, h, w] from [c, h, w]: at each kept frequency and at its conjugate, left (right^T a)."""
    c, h, w = image.shape
    k = len(bias)
    found = np.zeros((k, h, w), dtype=complex)
    for frequency, u, v in zip(frequencies, left, right, strict=True):
        kept = {tuple(f % s for f, s in zip(frequency, (h, w), strict=True)): (u, v)}
        kept.setdefault(partner(frequency, (h, w)), (u.conj(), v.conj()))
        for f, (a, b) in kept.items():
            inner = sum(b[i] * coefficient(image[i], f) for i in range(c))
            for y in range(h):
                for x in range(w):
                    wave = cmath.exp(2j * math.pi * (f[0] * y / h + f[1] * x / w)) / math.sqrt(h * w)
                    found[:, y, x] += a * inner * wave
    assert np.abs(found.imag).max() < 1e-9
    return found.real + bias[:, None, None]


def resampled(image, size):
    """[h', w'] from [h, w]: the sum of the waves that both grids hold, at the new grid's points."""
    (h, w), (rows, columns) = image.shape, size
    found = np.zeros(size, dtype=complex)
    for ky in range(-(h // 2), h // 2 + 1):
        for kx in range(-(w // 2), w // 2 + 1):
            if 2 * abs(ky) < min(h, rows) and 2 * abs(kx) < min(w, columns):
                amplitude = coefficient(image, (ky, kx)) / math.sqrt(h * w)
                for y in range(rows):
                    for x in range(columns):
                        found[y, x] += amplitude * cmath.exp(2j * math.pi * (ky * y / rows + kx * x / columns))
    return found.real


def moments(outputs, gradients):
    """Mean, covariance [k, k] over images and positions; gradients' products summed over positions, mean over images.

    And both by frequency of the full grid: dictionaries of [k, k], the first centred at frequency 0 alone.
    """
    n, k, h, w = outputs.shape
    columns = [outputs[i, :, y, x] for i in range(n) for y in range(h) for x in range(w)]
    mean = sum(columns) / len(columns)
    covariance = sum(np.outer(z - mean, z - mean) for z in columns) / len(columns)
    gradient = np.zeros((k, k))
    for i in range(n):
        for y in range(h):
            for x in range(w):
                gradient += np.outer(gradients[i, :, y, x], gradients[i, :, y, x]) / n
    found = {}
    for ky in range(h):
        for kx in range(w):
            both = []
            for values in (outputs, gradients):
                spectrum = [np.array([coefficient(v, (ky, kx)) for v in image]) for image in values]
                both.append(sum(np.outer(z, z.conj()) for z in spectrum) / n)
            if ky == kx == 0:
                both[0] = both[0] - h * w * np.outer(mean, mean)
            found[ky, kx] = both
    return mean, covariance, gradient, found


def cheapest(options, price, dense):
    """(form, size) of least error + price x numbers among those that save both, or None: by trying all."""
    best = (price * dense[0], None)
    for form, sizes in options.items():
        for size, (error, numbers, multiply_adds) in enumerate(sizes):
            if numbers < dense[0] and multiply_adds < dense[1] and error + price * numbers < best[0]:
                best = (error + price * numbers, (form, size))
    return best[1]
