"""The shortcut audit by loops over images, frequencies and pixels, in float64."""

import cmath
import math
from statistics import median

import numpy as np


def jumps(image):
    """Moisan 2011: what the image jumps by between opposite borders, as an image."""
    h, w = image.shape
    v = np.zeros((h, w))
    for x in range(w):
        v[0, x] += image[h - 1, x] - image[0, x]
        v[h - 1, x] += image[0, x] - image[h - 1, x]
    for y in range(h):
        v[y, 0] += image[y, w - 1] - image[y, 0]
        v[y, w - 1] += image[y, 0] - image[y, w - 1]
    return v


def periodic(image):
    """The image less its smooth part, which solves the periodic Poisson equation of the jumps and has mean 0."""
    h, w = image.shape
    laplacian = np.zeros((h * w, h * w))
    for y in range(h):
        for x in range(w):
            for dy, dx in ((0, 1), (0, -1), (1, 0), (-1, 0)):
                laplacian[y * w + x, (y + dy) % h * w + (x + dx) % w] += 1
                laplacian[y * w + x, y * w + x] -= 1
    smooth = np.linalg.lstsq(laplacian, jumps(image).ravel(), rcond=None)[0]
    return image - (smooth - smooth.mean()).reshape(h, w)


def coefficient(image, ky, kx):
    """The unitary Fourier coefficient, by its sum."""
    h, w = image.shape
    return sum(
        image[y, x] * cmath.exp(-2j * math.pi * (ky * y / h + kx * x / w)) for y in range(h) for x in range(w)
    ) / math.sqrt(h * w)


def log_f(values, labels):
    """log F of values [n][c] between classes, by the textbook, parts added up."""
    classes = sorted(set(labels))
    n, p = len(values), len(classes)
    between = within = 0.0
    for part in range(len(values[0])):
        column = [v[part] for v in values]
        mean = sum(column) / n
        for label in classes:
            own = [v for v, k in zip(column, labels, strict=True) if k == label]
            centre = sum(own) / len(own)
            between += len(own) * abs(centre - mean) ** 2
            within += sum(abs(v - centre) ** 2 for v in own)
    return math.log((between / (p - 1)) / (within / (n - p)))


def robust_z(value, others):
    middle = median(others)
    return (value - middle) / (1.4826 * median(abs(v - middle) for v in others))


def frequency_statistics(images, labels, frequencies):
    """(coherent, power) log F at each (ky, kx), of images [n, c, h, w]."""
    parts = [[periodic(channel) for channel in image] for image in images]
    found = []
    for ky, kx in frequencies:
        values = [[coefficient(channel, ky, kx) for channel in image] for image in parts]
        energies = [[math.log(sum(abs(v) ** 2 for v in value))] for value in values]
        found.append((log_f(values, labels), log_f(energies, labels)))
    return found


def off_axis_z(values, frequencies, lowest, reach, fewest):
    """z of values at frequencies off the axes, NaN elsewhere; ``values`` without numbers are left out."""
    found = []
    for i, (ky, kx) in enumerate(frequencies):
        radius = math.hypot(ky, kx)
        others = [
            values[j]
            for j, (a, b) in enumerate(frequencies)
            if j != i
            and a
            and b
            and math.hypot(a, b) >= lowest
            and abs(math.hypot(a, b) - radius) <= reach
            and not math.isnan(values[j])
        ]
        tested = ky and kx and radius >= lowest and len(others) >= fewest and not math.isnan(values[i])
        found.append(robust_z(values[i], others) if tested else math.nan)
    return found


def axis_z(line, lowest, side, fewest):
    """z on an axis of values at 0, 1, ... cycles per image of ``side`` pixels, by wave number from ``lowest`` on."""
    around = {}
    for k, value in enumerate(line):
        around[k % side] = around[-k % side] = value
    excess = {k: line[k] - (around[(k - 1) % side] + around[(k + 1) % side]) / 2 for k in range(lowest, len(line))}
    excess = {k: v for k, v in excess.items() if not math.isnan(v)}
    if len(excess) - 1 < fewest:
        return {}
    return {k: robust_z(v, [u for j, u in excess.items() if j != k]) for k, v in excess.items()}


def high_passed(channel):
    h, w = channel.shape
    out = np.zeros((h, w))
    for y in range(h):
        for x in range(w):
            around = [channel[min(max(y + dy, 0), h - 1), min(max(x + dx, 0), w - 1)] for dy, dx in _STEPS]
            out[y, x] = channel[y, x] - sum(around) / 4
    return out


def pixel_statistic(images, labels):
    parts = np.array([[high_passed(channel) for channel in image] for image in images])
    h, w = parts.shape[2:]
    return np.array([[log_f(parts[:, :, y, x].tolist(), labels) for x in range(w)] for y in range(h)])


def pixel_z(statistic, reach, reach_on_border, fewest):
    h, w = statistic.shape

    def border(y, x):
        return y in {0, h - 1} or x in {0, w - 1}

    z = np.full((h, w), math.nan)
    for y in range(h):
        for x in range(w):
            far = reach_on_border if border(y, x) else reach
            others = [
                statistic[a, b]
                for a in range(max(0, y - far), min(h, y + far + 1))
                for b in range(max(0, x - far), min(w, x + far + 1))
                if (a, b) != (y, x) and border(a, b) == border(y, x)
            ]
            if len(others) >= fewest:
                z[y, x] = robust_z(statistic[y, x], others)
    return z


_STEPS = ((0, 1), (0, -1), (1, 0), (-1, 0))
