"""Images changed in the Fourier domain, and ratios of variances, by the slow and obvious way: sums over waves."""

import numpy as np


def waves(h, w):
    """Unitary Fourier basis, complex [h, w, h, w]: frequency first, then pixel."""
    y, x = np.arange(h), np.arange(w)
    rows, columns = (np.exp(2j * np.pi * np.outer(k, k) / len(k)) / np.sqrt(len(k)) for k in (y, x))
    return np.einsum("ay,bx->abyx", rows, columns)


def coefficients(images):
    """Fourier coefficients [..., h, w] of images [..., h, w]."""
    return np.einsum("abyx,...yx->...ab", waves(*images.shape[-2:]).conj(), images)


def image_of(spectrum):
    """Real images of Fourier coefficients; fails where they are not real."""
    images = np.einsum("abyx,...ab->...yx", waves(*spectrum.shape[-2:]), spectrum)
    assert abs(images.imag).max() < 1e-10
    return images.real


def filtered(images, frequencies, mean):
    """Mean image plus the waves (a, b) in ``frequencies``, and their conjugates, of the rest of each image."""
    h, w = mean.shape[-2:]
    found = coefficients(images - mean)
    out = np.zeros_like(found)
    for a, b in {*frequencies, *((-a % h, -b % w) for a, b in frequencies)}:
        out[..., a, b] = found[..., a, b]
    return mean + image_of(out)


def combined(phases, amplitudes):
    """One image [c, h, w] with the phases of one and the amplitudes of another."""
    first, second = coefficients(phases), coefficients(amplitudes)
    return image_of(abs(second) * np.exp(1j * np.angle(first)))


def f_ratio(images, labels):
    """Ratio of variances between and within classes at each frequency, [h, w], by loops over images."""
    x = coefficients(np.asarray(images))
    labels, mean = np.asarray(labels), x.mean(0)
    classes = np.unique(labels)
    between = within = 0
    for c in classes:
        own = x[labels == c]
        between = between + len(own) * (abs(own.mean(0) - mean) ** 2).sum(0)
        for one in own:
            within = within + (abs(one - own.mean(0)) ** 2).sum(0)
    return between / (len(classes) - 1) / (within / (len(x) - len(classes)))
