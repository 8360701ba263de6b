"""Latents, pictures and ablations of kept pairs, by the slow and obvious way: loops and sums over pixels, float64."""

import cmath
import math

import numpy as np


def wave(frequency, size):
    """exp(-2 pi i w x) / sqrt(h w) at every position."""
    (ky, kx), (h, w) = frequency, size
    found = np.zeros(size, dtype=np.complex128)
    for y in range(h):
        for x in range(w):
            found[y, x] = cmath.exp(-2j * math.pi * (ky * y / h + kx * x / w)) / math.sqrt(h * w)
    return found


def latents(maps, frequencies, directions, scale):
    """u^H (scale z^(w)), image by image and pair by pair."""
    maps = np.asarray(maps, dtype=np.float64)
    found = np.zeros((len(maps), len(frequencies)), dtype=np.complex128)
    for i, image in enumerate(maps):
        for j, frequency in enumerate(frequencies):
            ripple = wave(frequency, image.shape[1:])
            for k, channel in enumerate(image):
                found[i, j] += np.conj(directions[j][k]) * scale[k] * (channel * ripple).sum()
    return found


def without(maps, frequency, direction, scale):
    """Maps in which a pair, and its conjugate, is the mean over images: changed in the whole transform, then back."""
    maps = np.asarray(maps, dtype=np.float64)
    (ky, kx), (h, w) = frequency, maps.shape[2:]
    spectrum = np.fft.fft2(maps * np.asarray(scale)[:, None, None], norm="ortho")
    places = {(ky % h, kx % w): np.asarray(direction), (-ky % h, -kx % w): np.conj(direction)}
    for place, u in places.items():
        held = np.array([np.conj(u) @ image[:, place[0], place[1]] for image in spectrum])
        for i in range(len(maps)):
            spectrum[i, :, place[0], place[1]] -= (held[i] - held.mean()) * u
    back = np.fft.ifft2(spectrum, norm="ortho")
    assert np.abs(back.imag).max() < 1e-9
    return back.real / np.asarray(scale)[:, None, None]


def picture(c, images, multiplicity):
    """Multiplicity times cov(pixel, conj c) / sd c, pixel by pixel."""
    images = np.asarray(images, dtype=np.float64)
    c = c - c.mean()
    found = np.zeros(images.shape[1:], dtype=np.complex128)
    for place in np.ndindex(*found.shape):
        found[place] = multiplicity * np.mean((images[:, *place] - images[:, *place].mean()) * np.conj(c))
    return found / math.sqrt(np.mean(np.abs(c) ** 2))


def share(c, images):
    """Share of the images' variance that least squares on the latent's real parts explains, pixel by pixel."""
    images = np.asarray(images, dtype=np.float64).reshape(len(c), -1)
    known = np.stack([np.ones(len(c)), c.real, c.imag], 1)
    explained = total = 0.0
    for pixel in images.T:
        fit = known @ np.linalg.lstsq(known, pixel, rcond=None)[0]
        explained += ((fit - pixel.mean()) ** 2).sum()
        total += ((pixel - pixel.mean()) ** 2).sum()
    return explained / total


def multiple_correlation(c, factor):
    """R of a complex factor with complex latents, by least squares with a constant."""
    known = np.concatenate([np.ones((len(c), 1)), c], 1)
    fit = known @ np.linalg.lstsq(known, factor, rcond=None)[0]
    centred = factor - factor.mean()
    return math.sqrt((np.abs(fit - factor.mean()) ** 2).sum() / (np.abs(centred) ** 2).sum())


def circular_matrix(weight, size):
    """The matrix of a circular convolution with an odd kernel, [k h w, c h w], entry by entry."""
    k, c, q, r = weight.shape
    h, w = size
    found = np.zeros((k, h, w, c, h, w))
    for o, i, a, b, y, x in np.ndindex(k, c, q, r, h, w):
        found[o, y, x, i, (y + a - q // 2) % h, (x + b - r // 2) % w] += weight[o, i, a, b]
    return found.reshape(k * h * w, c * h * w)
