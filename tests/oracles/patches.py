"""Patches and their moments by loops over images, positions and pixels, in float64."""

import numpy as np

from convscope.core.geometry import ConvGeometry


def pixel(image: np.ndarray, c: int, y: int, x: int, mode: str) -> float:
    """The pixel at a position that may lie outside the image."""
    height, width = image.shape[1:]
    if mode == "zeros" and not (0 <= y < height and 0 <= x < width):
        return 0.0
    return float(image[c, _inside(y, height, mode), _inside(x, width, mode)])


def _inside(i: int, size: int, mode: str) -> int:
    if mode == "replicate":
        return min(max(i, 0), size - 1)
    if mode == "circular":
        return i % size
    if mode == "reflect" and i < 0:
        return -i
    if mode == "reflect" and i >= size:
        return 2 * (size - 1) - i
    return i


def patches(image: np.ndarray, geometry: ConvGeometry) -> np.ndarray:
    """The patches of one image [c, h, w]: [groups, rows, columns, d], d in the order channel, row, column."""
    top, bottom, left, right = geometry.padding
    (q, r), (sy, sx), (dy, dx) = geometry.kernel, geometry.stride, geometry.dilation
    rows, columns = 0, 0
    while rows * sy + dy * (q - 1) < image.shape[1] + top + bottom:
        rows += 1
    while columns * sx + dx * (r - 1) < image.shape[2] + left + right:
        columns += 1
    out = np.zeros((geometry.groups, rows, columns, geometry.patch_dim))
    per_group = geometry.channels // geometry.groups
    for g in range(geometry.groups):
        for a in range(rows):
            for b in range(columns):
                entry = 0
                for c in range(per_group):
                    for i in range(q):
                        for j in range(r):
                            y, x = a * sy + i * dy - top, b * sx + j * dx - left
                            out[g, a, b, entry] = pixel(image, g * per_group + c, y, x, geometry.padding_mode)
                            entry += 1
    return out


def moments(images: list[np.ndarray], geometry: ConvGeometry, lags: list[tuple[int, int]] = ()) -> dict:
    """All moments, with a leading group axis throughout; lags give the centred Sigma_delta, None without pairs."""
    seen = [patches(image.astype(np.float64), geometry) for image in images]
    groups = range(geometry.groups)
    every = [np.concatenate([p[g].reshape(-1, p.shape[-1]) for p in seen]) for g in groups]
    averages = [np.array([p[g].reshape(-1, p.shape[-1]).mean(0) for p in seen]) for g in groups]
    mean = [e.mean(0) for e in every]
    result = {
        "n_patches": len(every[0]),
        "mean": np.array(mean),
        "second_moment": np.array([sum(np.outer(p, p) for p in e) / len(e) for e in every]),
        "covariance": np.array([
            sum(np.outer(p - m, p - m) for p in e) / len(e) for e, m in zip(every, mean, strict=True)
        ]),
        "average_patch_second_moment": np.array([sum(np.outer(p, p) for p in a) / len(a) for a in averages]),
        "average_patch_covariance": np.array([
            sum(np.outer(p - m, p - m) for p in a) / len(a) for a, m in zip(averages, mean, strict=True)
        ]),
        "averages": np.array(averages),
        "lags": {},
    }
    for dy, dx in lags:
        ty, tx = dy // geometry.stride[0], dx // geometry.stride[1]
        total, count = np.zeros_like(result["covariance"]), 0
        for p in seen:
            for a in range(p.shape[1]):
                for b in range(p.shape[2]):
                    if 0 <= a + ty < p.shape[1] and 0 <= b + tx < p.shape[2]:
                        count += 1
                        for g in groups:
                            total[g] += np.outer(p[g, a, b] - mean[g], p[g, a + ty, b + tx] - mean[g])
        result["lags"][dy, dx] = total / count if count else None
    return result
