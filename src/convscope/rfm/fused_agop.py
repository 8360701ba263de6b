"""The kernel's derivatives by compiled loops: one pair of images at a time, its maps never leaving the cache.

The same formulas as ``plain.derivatives``. All maps of a pair lie in one frame of equal row length, flat, so that every
loop runs over one contiguous stretch: a box sum is then a sum of shifted stretches, its adjoint a sum into them. What
wraps around the end of a row lands where no patch is; masks and roots are 0 there, which takes it out again.
Each loop writes one array and reads few: with more, the compiler gives up proving that they do not overlap.
"""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from convscope.rfm.architecture import Architecture
from convscope.rfm.jit import angle, compiled
from convscope.rfm.maps import Maps
from convscope.rfm.plain import SAME, layer_norms

GROUP = 16  # images x whose results are written out together: a cache line of float32


@compiled()
def _gather(x, out, length, step, q):  # type: ignore[no-untyped-def]
    """out[p] = sum over d < q of x[p + d step], for p < length."""
    o = out[:length]
    first, second = x[:length], x[step : step + length]
    for p in range(length):
        o[p] = first[p] + second[p]
    for d in range(2, q):
        more = x[d * step : d * step + length]
        for p in range(length):
            o[p] += more[p]


@compiled()
def _scatter(x, out, length, step, q):  # type: ignore[no-untyped-def]
    """out[p + d step] += x[p] for d < q and p < length, of an ``out`` of zeros: the adjoint of ``_gather``."""
    for p in range(len(out)):
        out[p] = 0
    for d in range(q):
        o = out[d * step : d * step + length]
        for p in range(length):
            o[p] += x[p]


@compiled()
def _box(x, out, beside, pitch, offset, q):  # type: ignore[no-untyped-def]
    """Sums over patches of the map x; ``beside`` is for intermediate values."""
    if q == 1:  # maps of deeper layers are summed in place: nothing to do
        return
    length = len(x) - (q - 1)
    _gather(x, beside, length, 1, q)
    length -= (q - 1) * pitch
    _gather(beside, out[offset:], length, pitch, q)


@compiled()
def _spread(x, beside, pitch, offset, q):  # type: ignore[no-untyped-def]
    """The adjoint of ``_box``, in place."""
    if q == 1:
        return
    length = len(x) - (q - 1)
    _scatter(x[offset:], beside, length - (q - 1) * pitch, pitch, q)
    _scatter(beside, x, length, 1, q)


@compiled()
def _products(x, z, pixels, beside, k, boxed, q, stride, pitch_in, sides, pitch, start):  # type: ignore[no-untyped-def]
    """First-layer covariances of x and z [m, pixels], into the frame k."""
    first, other = x[0], z[0]
    for p in range(len(pixels)):
        pixels[p] = first[p] * other[p]
    for r in range(1, len(x)):
        a, b = x[r], z[r]
        for p in range(len(pixels)):
            pixels[p] += a[p] * b[p]
    if boxed:
        _box(pixels, pixels, beside, pitch_in, 0, q)
    rows, columns = sides
    for y in range(rows):
        target = k[start + y * pitch : start + y * pitch + columns]
        source = pixels[y * stride * pitch_in :]
        for column in range(columns):
            target[column] = source[column * stride]


@compiled()
def _relu(k, theta, rx, rz, mask, numbers, t, s, kappa0, over):  # type: ignore[no-untyped-def]
    """A layer's ReLU on k and theta, in place; t, s / pi, kappa0 and over = d(theta kappa0) / dk are kept."""
    same, zero = numbers[0], numbers[1]
    n = len(k)
    for p in range(n):
        r = rx[p] * rz[p]
        t[p] = k[p] / r if r > zero else zero
    for p in range(n):
        kappa0[p], s[p] = angle(t[p])
    for p in range(n):
        r = rx[p] * rz[p]
        k[p] = r * (t[p] * kappa0[p] + s[p])
    for p in range(n):
        r = rx[p] * rz[p] * s[p]
        over[p] = numbers[2] * theta[p] / r if r > zero and s[p] > same else zero
    for p in range(n):
        kappa0[p] *= mask[p]
    for p in range(n):
        theta[p] *= kappa0[p]


@compiled()
def _back(of_k, of_theta, of_norm, rx, half_iz, mask, t, s, kappa0, over, beside):  # type: ignore[no-untyped-def]
    """The derivatives before a layer's ReLU from those after it, in place."""
    n = len(of_k)
    for p in range(n):
        beside[p] = of_k[p] * s[p] - of_theta[p] * over[p] * t[p]
    for p in range(n):
        of_norm[p] = of_norm[p] * mask[p] + beside[p] * rx[p] * half_iz[p]
    for p in range(n):
        of_k[p] = of_k[p] * kappa0[p] + of_theta[p] * over[p]
    for p in range(n):
        of_theta[p] *= kappa0[p]


@compiled()
def _write(found, out, j, first, sides, pitch, start):  # type: ignore[no-untyped-def]
    """Copies frames [i, n] of successive images, of which the first is given, to out[:, j], out being [p, z, i]."""
    rows, columns = sides
    for y in range(rows):
        for column in range(columns):
            p = start + y * pitch + column
            row = out[y * columns + column, j]
            for g in range(len(found)):
                row[first + g] = found[g, p]


@compiled()
def _pairs(xs, roots_x, z, roots_z, half_iz, mask, numbers, geometry, flags, out, j):  # type: ignore[no-untyped-def]
    """Fills out[:, :, j], [2, positions, i], with the derivatives for one z and each of xs."""
    q, stride, pitch_in, rows, columns, pitch, start, offset = geometry
    boxed, ntk = flags
    depth, n = mask.shape
    pixels, wide = np.zeros_like(z[0]), np.zeros_like(z[0])
    k, theta, of_norm, beside = (
        np.zeros_like(mask[0]),
        np.zeros_like(mask[0]),
        np.zeros_like(mask[0]),
        np.zeros_like(mask[0]),
    )
    t, s, kappa0, over = np.zeros_like(mask), np.zeros_like(mask), np.zeros_like(mask), np.zeros_like(mask)
    upper = mask[depth - 1] / mask[depth - 1].sum()
    found = np.zeros((2, GROUP, n), mask.dtype)
    for i in range(len(xs)):
        _products(xs[i], z, pixels, wide, k, boxed, q, stride, pitch_in, (rows, columns), pitch, start)
        for p in range(n):
            theta[p] = k[p]
        for layer in range(depth):
            if layer:
                for p in range(n):
                    theta[p] += k[p]
                _box(theta, theta, beside, pitch, offset, q)
                _box(k, k, beside, pitch, offset, q)
            _relu(
                k, theta, roots_x[i, layer], roots_z[layer], mask[layer], numbers,
                t[layer], s[layer], kappa0[layer], over[layer],
            )  # fmt: skip
        of_k, of_theta = k, theta
        for p in range(n):
            of_k[p] = upper[p]
        for p in range(n):
            of_theta[p] = upper[p] if ntk else numbers[1]
        for p in range(n):
            of_norm[p] = 0
        for layer in range(depth - 1, -1, -1):
            _back(
                of_k, of_theta, of_norm, roots_x[i, layer], half_iz[layer], mask[layer],
                t[layer], s[layer], kappa0[layer], over[layer], beside,
            )  # fmt: skip
            if layer:
                for p in range(n):
                    of_k[p] += of_theta[p]
                _spread(of_k, beside, pitch, offset, q)
                _spread(of_theta, beside, pitch, offset, q)
                _spread(of_norm, beside, pitch, offset, q)
        group = i % GROUP
        of_product, norm = found[0, group], found[1, group]
        for p in range(n):
            of_product[p] = of_k[p] + of_theta[p]
        for p in range(n):
            norm[p] = of_norm[p]
        if group == GROUP - 1 or i == len(xs) - 1:
            for kind in range(2):
                _write(found[kind, : group + 1], out[kind], j, i - group, (rows, columns), pitch, start)


def derivatives(left: Maps, right: Maps, architecture: Architecture) -> Tensor:
    """Returns what ``plain.derivatives`` does, as one tensor [2, positions, n2, n1]: of_product and of_norm.

    Args:
        left: n1 images x, float32 or float64 on the CPU.
        right: n2 images z, in the same form.
        architecture: without pooling.
    """
    dtype = left.values.dtype
    rows, columns = left.norms.shape[-2:]
    (top, _, edge, _), q = architecture.deeper.padding, architecture.patch_size
    roots, sizes = _roots(left.norms, architecture)
    roots_z, _ = _roots(right.norms, architecture)
    frame = roots.shape[-2:]
    mask = torch.zeros(architecture.depth, *frame, dtype=dtype)
    for layer, (h, w) in enumerate(sizes):
        mask[layer, top : top + h, edge : edge + w] = 1
    half_iz = torch.where(roots_z > 0, 0.5 / roots_z, 0)
    start = top * frame[1] + edge
    geometry = (q, architecture.stride, left.values.shape[-1], rows, columns, frame[1], start, start)
    if not left.boxed:
        geometry = (q, 1, columns, *geometry[3:])
    out = torch.empty(2, rows * columns, len(right), len(left), dtype=dtype)
    xs, zs = left.values.flatten(2).contiguous().numpy(), right.values.flatten(2).contiguous().numpy()
    numbers = np.array([SAME / math.pi, 0, 1 / math.pi**2], xs.dtype)
    arrays = [x.flatten(-2).contiguous().numpy() for x in (roots, roots_z, half_iz, mask)]

    def fill(j: int) -> None:
        _pairs(
            xs, arrays[0], zs[j], arrays[1][j], arrays[2][j], arrays[3], numbers, geometry,
            (left.boxed, architecture.kind == "ntk"), out.numpy(), j,
        )  # fmt: skip

    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        list(pool.map(fill, range(len(right))))
    return out


def _roots(norms: Tensor, architecture: Architecture) -> tuple[Tensor, list[tuple[int, int]]]:
    """Returns sqrt(q) of each layer in its frame, [n, depth, rows, columns], 0 where no patch is, and sizes of maps."""
    top, bottom, left, right = architecture.deeper.padding
    h, w = norms.shape[-2:]
    layers, sizes = [], []
    for of_layer in layer_norms(norms, architecture):
        rows, columns = of_layer.shape[-2:]
        sizes.append((rows, columns))
        layers.append(F.pad(of_layer.sqrt(), (left, right + w - columns, top, bottom + h - rows)))
    return torch.stack(layers, 1), sizes
