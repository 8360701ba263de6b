"""The kernel on the CPU by compiled loops over pairs of images, without an array of pairs times positions.

Maps are flat: element y W + x is column x of row y. A sum over patches is one over shifted slices then, so that every
loop runs over one long stretch and vectorises, whatever the patches. Columns and elements beyond a map hold finite
numbers that no patch of it sees and that the mean at the end leaves out. What a pair needs stays in the nearest caches.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from convscope.rfm.architecture import Architecture
from convscope.rfm.jit import angle, compiled
from convscope.rfm.maps import Maps
from convscope.rfm.plain import layer_norms, self_kernel

TILE = 8  # images on each side of a task: the maps of so many stay in the second cache
TASKS = 64  # done by one call
VECTOR = 32  # elements: what an unrolled loop takes at once. Stretches are multiples, lest a slow remainder be left

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, eq=False)
class Flat:
    """Images as the compiled loops read them.

    Attributes:
        values: [n, m, size], as in ``Maps``.
        roots: [n, sizes], square roots of the covariances of patches with themselves; one layer's map after the other.
        inverses: of ``roots``; 0 where a root is 0.
        own: [n], kernel of each image with itself.
        identity: [n], as in ``Maps``.
    """

    values: Array
    roots: Array
    inverses: Array
    own: Array
    identity: Array


@dataclass(frozen=True, eq=False)
class Plan:
    """Where the elements of maps of one size lie, in all layers.

    Attributes:
        architecture: without pooling.
        boxed: as in ``Maps``.
        rows: of the values of ``Maps``.
        width: W of these.
        inner: W of all layers.
        columns: of the first layer's map.
        heights: [L], rows of each layer's map.
        sizes: [L], elements of each layer's map, a multiple of ``VECTOR``.
        mean: [sizes[-1]], weights of the mean over the last layer's positions.
    """

    architecture: Architecture
    boxed: bool
    rows: int
    width: int
    inner: int
    columns: int
    heights: Array
    sizes: Array
    mean: Array

    @classmethod
    def of(cls, maps: Maps, architecture: Architecture) -> Plan:
        """Returns the plan for maps of this size and precision."""
        rows, columns = maps.values.shape[-2:]
        layers = layer_norms(maps.norms[:1], architecture)
        # Between the rows of maps that are padded lies the padding of both sides.
        gap = architecture.patch_size - 1 if architecture.padding == "same" else 0
        inner = columns if maps.boxed and architecture.stride == 1 else layers[0].shape[-1] + gap
        weights = torch.full_like(layers[-1], 1 / layers[-1].numel())
        return cls(
            architecture=architecture,
            boxed=maps.boxed,
            rows=rows,
            width=columns if maps.boxed else inner,
            inner=inner,
            columns=layers[0].shape[-1],
            heights=np.array([q.shape[-2] for q in layers]),
            sizes=np.array([_size(q, inner) for q in layers]),
            mean=_flat([weights], inner)[0].numpy(),
        )

    def bytes_of_image(self, m: int) -> int:
        """Returns the bytes that making and holding ``Flat`` takes for each image of m maps."""
        return self.mean.itemsize * (m * (self.rows * self.width + VECTOR) + 4 * int(self.sizes.sum()))

    def flat(self, maps: Maps) -> Flat:
        """Returns maps on the CPU in the compiled loops' form."""
        roots = _flat(layer_norms(maps.norms, self.architecture), self.inner).sqrt_()
        inverses = roots.reciprocal()
        inverses[roots == 0] = 0
        return Flat(
            values=_flat([maps.values], self.width).numpy(),
            roots=roots.numpy(),
            inverses=inverses.numpy(),
            own=self_kernel(maps.norms, self.architecture).numpy(),
            identity=maps.identity.numpy(),
        )

    def fill(self, out: Array, left: Flat, right: Flat, mirror: bool) -> Iterator[int]:
        """Writes the kernel and yields numbers of pairs as they are done.

        Args:
            out: [n1, n2], contiguous.
            left: n1 images.
            right: n2 images.
            mirror: whether these are the same; each pair of images is then made once.
        """
        a, (top, _, side, _) = self.architecture, self.architecture.deeper.padding
        tiles = [
            (i, j) for i in range(0, len(left.values), TILE) for j in range(i if mirror else 0, len(right.values), TILE)
        ]

        def fill(tasks: list[tuple[int, int]]) -> int:
            _tiles(
                out, left.values, left.roots, left.inverses, left.own, left.identity,
                right.values, right.roots, right.inverses, right.identity, np.array(tasks), mirror,
                self.heights, self.sizes, self.mean, (self.rows, self.width, self.inner, self.columns),
                (a.patch_size, a.stride, top * self.inner + side), (self.boxed, a.padding == "same", a.kind == "ntk"),
            )  # fmt: skip
            sizes = ((i == j, min(i + TILE, len(out)) - i, min(j + TILE, out.shape[1]) - j) for i, j in tasks)
            return sum(n * (n + 1) // 2 if mirror and diagonal else n * m for diagonal, n, m in sizes)

        with ThreadPoolExecutor(torch.get_num_threads()) as pool:
            yield from pool.map(fill, [tiles[k : k + TASKS] for k in range(0, len(tiles), TASKS)])


def _size(map_: Tensor, width: int) -> int:
    return -(-map_.shape[-2] * width // VECTOR) * VECTOR


def _flat(maps: list[Tensor], width: int) -> Tensor:
    """Returns [..., sizes] of maps [..., h, w], one after the other: rows of so many columns, and zeros."""
    sizes = [_size(x, width) for x in maps]
    flat = maps[0].new_zeros(*maps[0].shape[:-2], sum(sizes))
    for x, part in zip(maps, flat.split(sizes, -1), strict=True):
        h, w = x.shape[-2:]
        part[..., : h * width].unflatten(-1, (h, width))[..., :w] = x
    return flat


@compiled()
def _sum(out: Array, x: Array, q: int, step: int) -> None:
    """Writes out[e] = x[e] + x[e + step] + ..., q terms: by slices, since a computed index is checked, one by one."""
    if q == 1:
        for e in range(out.size):
            out[e] = x[e]
        return
    second = x[step:]
    if q == 2:
        for e in range(out.size):
            out[e] = x[e] + second[e]
        return
    third = x[2 * step :]
    for e in range(out.size):
        out[e] = x[e] + second[e] + third[e]
    for d in range(3, q):
        more = x[d * step :]
        for e in range(out.size):
            out[e] += more[e]


@compiled()
def _box(out: Array, across: Array, x: Array, q: int, width: int, size: int) -> None:
    """Writes ``size`` sums over q x q patches of a flat map; ``out`` may be ``x``."""
    _sum(across[: size + (q - 1) * width], x, q, 1)
    _sum(out[:size], across, q, width)


@compiled()
def _relu(after: Array, total: Array, k: Array, theta: Array, xr: Array, xi: Array, zr: Array, zi: Array) -> None:
    """Writes r kappa1(t), and the sum of this and theta kappa0(t)."""
    for e in range(k.size):
        kappa0, sine = angle(k[e] * (xi[e] * zi[e]))
        v = k[e] * kappa0 + (xr[e] * zr[e]) * sine
        after[e] = v
        total[e] = v + theta[e] * kappa0


@compiled()
def _close(x: Array, h: int, w: int, width: int) -> None:
    """Puts zeros between the rows of a flat map and behind it, as the next layer's padding."""
    for y in range(h):
        x[y * width + w : (y + 1) * width] = 0
    x[h * width :] = 0


@compiled()
def _layers(
    k: Array, theta: Array, across: Array, after: Array, total: Array, xr: Array, xi: Array, zr: Array, zi: Array,
    heights: Array, sizes: Array, mean: Array, inner: int, columns: int, q: int, offset: int, same: bool, ntk: bool,
) -> float:  # fmt: skip
    """Returns the kernel of a pair from the first layer's covariances k, which are lost."""
    start, depth = 0, len(sizes)
    for layer in range(depth):
        size = sizes[layer]
        stop = start + size
        _relu(
            after[offset:], total[offset:], k[:size], theta[:size] if layer else k[:size],
            xr[start:stop], xi[start:stop], zr[start:stop], zi[start:stop],
        )  # fmt: skip
        if layer < depth - 1:
            if same:
                _close(after[offset:], heights[layer], columns, inner)
                _close(total[offset:], heights[layer], columns, inner)
            _box(k, across, after, q, inner, sizes[layer + 1])
            if ntk:
                _box(theta, across, total, q, inner, sizes[layer + 1])
        start = stop
    return _dot(mean, total[offset:] if ntk else after[offset:])


@compiled()
def _dot(a: Array, b: Array) -> float:
    s = a[0] * 0
    for e in range(a.size):
        s += a[e] * b[e]
    return s


@compiled()
def _add_products(out: Array, x: Array, y: Array, z: Array, v: Array) -> None:
    """Adds to out[0 .. 3] the products of four maps of images x, y with those of z, v: each is loaded once for two."""
    o, p, s, t = out[0], out[1], out[2], out[3]
    x0, x1, x2, x3, y0, y1, y2, y3 = x[0], x[1], x[2], x[3], y[0], y[1], y[2], y[3]
    z0, z1, z2, z3, v0, v1, v2, v3 = z[0], z[1], z[2], z[3], v[0], v[1], v[2], v[3]
    for e in range(x0.size):
        o[e] += x0[e] * z0[e] + x1[e] * z1[e] + x2[e] * z2[e] + x3[e] * z3[e]
        p[e] += x0[e] * v0[e] + x1[e] * v1[e] + x2[e] * v2[e] + x3[e] * v3[e]
        s[e] += y0[e] * z0[e] + y1[e] * z1[e] + y2[e] * z2[e] + y3[e] * z3[e]
        t[e] += y0[e] * v0[e] + y1[e] * v1[e] + y2[e] * v2[e] + y3[e] * v3[e]


@compiled()
def _products(out: Array, x: Array, y: Array, z: Array, v: Array) -> None:
    """Writes sums over maps of the products x z, x v, y z, y v to out[0 .. 3]."""
    out[:] = 0
    m = len(x)
    for r in range(0, m - 3, 4):
        _add_products(out, x[r:], y[r:], z[r:], v[r:])
    for r in range(m - m % 4, m):
        for pair in range(4):
            o, a, b = out[pair], (x if pair < 2 else y)[r], (v if pair % 2 else z)[r]
            for e in range(a.size):
                o[e] += a[e] * b[e]


@compiled()
def _patch_sums(
    k: Array, across: Array, spare: Array, q: int, stride: int, rows: int, width: int, inner: int, height: int,
    columns: int, size: int,
) -> None:  # fmt: skip
    """Turns products of pixels into the first layer's covariances, in place."""
    if stride == 1:
        _box(k, across, k, q, width, size)
        return
    _box(spare, across, k, q, width, (rows - q + 1) * width)
    for y in range(height):
        for column in range(columns):
            k[y * inner + column] = spare[(y * width + column) * stride]


@compiled()
def _tiles(
    out: Array, xv: Array, xr: Array, xi: Array, own: Array, xid: Array, zv: Array, zr: Array, zi: Array, zid: Array,
    tasks: Array, mirror: bool, heights: Array, sizes: Array, mean: Array, extent: tuple[int, int, int, int],
    steps: tuple[int, int, int], flags: tuple[bool, bool, bool],
) -> None:  # fmt: skip
    """Writes the kernel of tiles of images, each task beginning at a row and a column of ``out``."""
    rows, width, inner, columns = extent
    q, stride, offset = steps
    boxed, same, ntk = flags
    n1, n2 = out.shape
    length = max(xv.shape[2], sizes[0]) + (q + 1) * max(inner, width) + VECTOR
    product, scratch = np.zeros((4, length), out.dtype), np.zeros((4, length), out.dtype)
    theta, across, after, total = scratch[0], scratch[1], scratch[2], scratch[3]
    side = TILE // 2
    for task in range(len(tasks)):
        for four in range(side * side):
            i, j = tasks[task, 0] + four // side * 2, tasks[task, 1] + four % side * 2
            if i >= n1 or j >= n2 or (mirror and j + 1 < i):
                continue
            _products(product, xv[i], xv[min(i + 1, n1 - 1)], zv[j], zv[min(j + 1, n2 - 1)])
            for pair in range(4):
                x, z = i + pair // 2, j + pair % 2
                if x >= n1 or z >= n2 or (mirror and z < x):
                    continue
                value = own[x]
                if xid[x] != zid[z]:
                    k = product[pair]
                    if boxed:
                        _patch_sums(k, across, theta, q, stride, rows, width, inner, heights[0], columns, sizes[0])
                    value = _layers(
                        k, theta, across, after, total, xr[x], xi[x], zr[z], zi[z], heights, sizes, mean, inner,
                        columns, q, offset, same, ntk,
                    )  # fmt: skip
                out[x, z] = value
                if mirror:
                    out[z, x] = value
