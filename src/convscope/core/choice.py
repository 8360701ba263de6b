"""The measured rule that picks the fastest path for patch products."""

from __future__ import annotations

import math
from operator import mul

from convscope.core.geometry import ConvGeometry
from convscope.core.lines import axes, strip_pixels
from convscope.core.spectra import fft_size
from convscope.core.strips import row_classes, strip_length

# Nanoseconds for each term of ``work``, by path and bytes of a number. Non-negative least squares of relative errors
# over kernels 3 ... 16, strides 1 ... 16, 32 and 224 pixels, 3 channels, one thread of a Xeon of 2.5 GHz with AVX-512:
# benchmarks/patch_moments.py --grid prints this table for another machine.
COSTS: dict[tuple[str, int], tuple[float, ...]] = {
    ("unfold", 4): (4.16, 0.0139, 13.3, 3.52e5),
    ("strips", 4): (1.08, 1.99, 0, 0, 6.29, 17, 5.18e5),
    ("fft", 4): (0.441, 0, 0.587, 0.0119, 13.4, 0, 1.33e6),
    ("unfold", 8): (6.09, 0.0333, 12.2, 4.07e5),
    ("strips", 8): (1.97, 3.72, 0, 0.00316, 3.36, 19.6, 6.63e5),
    ("fft", 8): (1.09, 0, 0.368, 0.0128, 0, 28.4, 1.15e6),
}


def work(method: str, geometry: ConvGeometry, height: int, width: int, images: float) -> tuple[float, ...]:
    """Returns what a path does for the images of one fold, each kind of work as a number of elementary steps.

    Args:
        method: "unfold", "strips" or "fft".
        geometry: of the convolution.
        height: of the padded images.
        width: of the padded images.
        images: number of images.
    """
    rows, columns = axes(geometry, height, width)
    g, c, d = geometry.groups, geometry.channels // geometry.groups, geometry.patch_dim
    positions = rows.positions * columns.positions
    if method == "unfold":
        return images * g * d * positions, images * g * d * d * positions, g * d * d, 1.0
    border = 2 * g * (c * rows.border) ** 2
    if method == "strips":
        length = strip_length(columns)
        pixels = strip_pixels(columns, length)[0]
        strips = images * math.ceil(columns.positions / length)
        classes, f = len(row_classes(rows, symmetric=True)[0]), c * pixels
        taken = strips * rows.positions * g * f
        return (
            taken,
            taken * classes,
            taken * classes * f,
            images * columns.positions * border * (columns.kernel + 3) ** 2,
            border * columns.kernel**2,
            g * d * d,
            1.0,
        )
    size = fft_size(height + rows.border) * fft_size(width + columns.border)
    side = 2 * g * (c * columns.border) ** 2
    return (
        images * g * c * size * math.log2(size),
        images * g * c * (c + 1) / 2 * size,
        g * c * (c + 1) / 2 * size * rows.kernel,
        images * (border * width * columns.kernel + side * height * rows.kernel**2),
        border * columns.kernel + side * rows.kernel**2,
        g * d * d,
        1.0,
    )


def expected(geometry: ConvGeometry, height: int, width: int, element_size: int, images: float) -> dict[str, float]:
    """Returns the time that each path ("unfold", "strips", "fft") is expected to take, in nanoseconds.

    Args:
        geometry: of the convolution.
        height: of the padded images.
        width: of the padded images.
        element_size: bytes of a number, 4 or 8.
        images: about how many images a fold has.
    """
    methods = ("unfold", "strips", "fft") if geometry.stride == (1, 1) else ("unfold", "strips")
    terms = {m: work(m, geometry, height, width, images) for m in methods}
    return {m: sum(map(mul, COSTS[m, element_size], terms[m])) for m in methods}
