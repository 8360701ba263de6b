"""The kernel on the CPU by compiled loops over pairs of images, without an array of pairs times positions.

Maps are flat: element y W + x is column x of row y. A sum over patches is one over shifted slices then, so that every
loop runs over one long stretch and vectorises, whatever the patches. Columns and elements beyond a map hold finite
numbers that no patch of it sees and that the mean at the end leaves out. What a pair needs stays in the nearest caches.

Where maps are small, one image is paired with P others at a time, the lanes of a group: element (y W + x) P + p belongs
to lane p. A stretch is then P times as long, and what it costs to begin a loop is shared.
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

TILE = 8  # images on the left, groups on the right of a task: the maps of so many stay in the second cache
TASKS = 64  # done by one call; a quarter of it where they hold more pairs
LONG = 1024  # elements: as long as a stretch is made by pairing one image with several
VECTOR = 32  # elements: what an unrolled loop takes at once. Stretches are multiples, lest a slow remainder be left

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, eq=False)
class Flat:
    """Images as the compiled loops read them, in groups of P; zeros fill the last.

    Attributes:
        values: [groups, m, size], as in ``Maps``.
        roots: [groups, sizes], square roots of the covariances of patches with themselves, layer after layer.
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
        lanes: P, images of a group: a power of 2, at most ``VECTOR``.
        boxed: as in ``Maps``.
        rows: of the values of ``Maps``.
        width: W of these.
        inner: W of all layers.
        columns: of the first layer's map.
        heights: [L], rows of each layer's map.
        sizes: [L], elements of each layer's maps of a group, a multiple of ``VECTOR``.
        mean: [sizes[-1]], weights of the mean over the last layer's positions.
    """

    architecture: Architecture
    lanes: int
    boxed: bool
    rows: int
    width: int
    inner: int
    columns: int
    heights: Array
    sizes: Array
    mean: Array

    @classmethod
    def of(cls, maps: Maps, architecture: Architecture, n: int) -> Plan:
        """Returns the plan for maps of this size and precision.

        Args:
            maps: some of the images.
            architecture: without pooling.
            n: number of images on the right.
        """
        rows, columns = maps.values.shape[-2:]
        layers = layer_norms(maps.norms[:1], architecture)
        # Between the rows of maps that are padded lies the padding of both sides.
        gap = architecture.patch_size - 1 if architecture.padding == "same" else 0
        inner = columns if maps.boxed and architecture.stride == 1 else layers[0].shape[-1] + gap
        lanes = 1
        while lanes < min(n, VECTOR) and 2 * lanes * layers[0].shape[-2] * inner <= LONG:
            lanes *= 2
        weights = torch.full_like(layers[-1], 1 / layers[-1].numel())
        return cls(
            architecture=architecture,
            lanes=lanes,
            boxed=maps.boxed,
            rows=rows,
            width=columns if maps.boxed else inner,
            inner=inner,
            columns=layers[0].shape[-1],
            heights=np.array([q.shape[-2] for q in layers]),
            sizes=np.array([_size(q, inner, lanes) for q in layers]),
            mean=_flat([weights.expand(lanes, -1, -1)], inner, lanes)[0].numpy(),
        )

    def bytes_of_image(self, m: int) -> int:
        """Returns the bytes that making and holding ``Flat`` takes for each image of m maps."""
        of_group = m * (self.rows * self.width * self.lanes + VECTOR) + 4 * int(self.sizes.sum())
        return self.mean.itemsize * -(-of_group // self.lanes)

    def flat(self, maps: Maps) -> Flat:
        """Returns maps on the CPU in the compiled loops' form."""
        roots = _flat(layer_norms(maps.norms, self.architecture), self.inner, self.lanes).sqrt_()
        inverses = roots.reciprocal()
        inverses[roots == 0] = 0
        return Flat(
            values=_flat([maps.values], self.width, self.lanes).numpy(),
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
        (n1, n2), wide = out.shape, TILE * self.lanes
        tiles = [(i, j) for i in range(0, n1, TILE) for j in range(i // wide * wide if mirror else 0, n2, wide)]
        tasks = TASKS // min(self.lanes, 4)

        def fill(some: list[tuple[int, int]]) -> int:
            _tiles(
                out, left.values, left.roots, left.inverses, left.own, left.identity,
                right.values, right.roots, right.inverses, right.identity, np.array(some), mirror,
                self.heights, self.sizes, self.mean, (self.rows, self.width, self.inner, self.columns, self.lanes),
                (a.patch_size, a.stride, top * self.inner + side), (self.boxed, a.padding == "same", a.kind == "ntk"),
            )  # fmt: skip
            ends = ((row, min(j + wide, n2), j) for i, j in some for row in range(i, min(i + TILE, n1)))
            return sum(max(end - max(j, row if mirror else 0), 0) for row, end, j in ends)

        with ThreadPoolExecutor(torch.get_num_threads()) as pool:
            yield from pool.map(fill, [tiles[k : k + tasks] for k in range(0, len(tiles), tasks)])


def _size(map_: Tensor, width: int, lanes: int) -> int:
    return -(-map_.shape[-2] * width * lanes // VECTOR) * VECTOR


def _flat(maps: list[Tensor], width: int, lanes: int) -> Tensor:
    """Returns [groups, ..., sizes] of maps [n, ..., h, w], one after the other: rows of ``width`` columns, zeros."""
    sizes, groups = [_size(x, width, lanes) for x in maps], -(-len(maps[0]) // lanes)
    flat = maps[0].new_zeros(groups, *maps[0].shape[1:-2], sum(sizes))
    for x, part in zip(maps, flat.split(sizes, -1), strict=True):
        h, w = x.shape[-2:]
        place = part[..., : h * width * lanes].unflatten(-1, (h, width, lanes))[..., :w, :].movedim(-1, 1)
        whole = len(x) // lanes
        place[:whole] = x[: whole * lanes].unflatten(0, (whole, lanes))
        if len(x) > whole * lanes:
            place[whole, : len(x) - whole * lanes] = x[whole * lanes :]
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
def _box(out: Array, across: Array, x: Array, q: int, width: int, lanes: int, size: int) -> None:
    """Writes ``size`` sums over q x q patches of flat maps; ``out`` may be ``x``."""
    _sum(across[: size + (q - 1) * width * lanes], x, q, lanes)
    _sum(out[:size], across, q, width * lanes)


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
    """Puts zeros between h rows of w elements, ``width`` apart, and behind them, as the next layer's padding."""
    for y in range(h):
        x[y * width + w : (y + 1) * width] = 0
    x[h * width :] = 0


@compiled()
def _layers(
    k: Array, theta: Array, across: Array, after: Array, total: Array, xr: Array, xi: Array, zr: Array, zi: Array,
    heights: Array, sizes: Array, inner: int, columns: int, lanes: int, q: int, offset: int, same: bool, ntk: bool,
) -> Array:  # fmt: skip
    """Returns the last layer's map for each lane from the first layer's covariances k, which are lost."""
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
                _close(after[offset:], heights[layer], columns * lanes, inner * lanes)
                _close(total[offset:], heights[layer], columns * lanes, inner * lanes)
            _box(k, across, after, q, inner, lanes, sizes[layer + 1])
            if ntk:
                _box(theta, across, total, q, inner, lanes, sizes[layer + 1])
        start = stop
    return total[offset : offset + sizes[-1]] if ntk else after[offset : offset + sizes[-1]]


@compiled()
def _means(out: Array, some: Array, mean: Array, x: Array) -> None:
    """Writes the weighted mean of each lane; ``some`` [VECTOR] is for sums in between."""
    if len(out) == 1:
        s = out[0] * 0
        for e in range(x.size):
            s += mean[e] * x[e]
        out[0] = s
        return
    some[:] = 0
    for e in range(0, x.size, VECTOR):
        weights, here = mean[e : e + VECTOR], x[e : e + VECTOR]
        for p in range(VECTOR):
            some[p] += weights[p] * here[p]
    out[:] = 0
    for e in range(0, VECTOR, len(out)):
        for lane in range(len(out)):
            out[lane] += some[e + lane]


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
def _add_product(out: Array, x: Array, y: Array, z: Array, v: Array) -> None:
    o, p, s, t = out[0], out[1], out[2], out[3]
    for e in range(x.size):
        o[e] += x[e] * z[e]
        p[e] += x[e] * v[e]
        s[e] += y[e] * z[e]
        t[e] += y[e] * v[e]


@compiled()
def _products(out: Array, x: Array, y: Array, z: Array, v: Array) -> None:
    """Writes sums over maps of the products x z, x v, y z, y v to out[0 .. 3]."""
    out[:] = 0
    m = len(x)
    for r in range(0, m - 3, 4):
        _add_products(out, x[r:], y[r:], z[r:], v[r:])
    for r in range(m - m % 4, m):
        _add_product(out, x[r], y[r], z[r], v[r])


@compiled()
def _patch_sums(
    k: Array, across: Array, spare: Array, q: int, stride: int, rows: int, width: int, inner: int, height: int,
    columns: int, lanes: int, size: int,
) -> None:  # fmt: skip
    """Turns products of pixels into the first layer's covariances, in place."""
    if stride == 1:
        _box(k, across, k, q, width, lanes, size)
        return
    _box(spare, across, k, q, width, lanes, (rows - q + 1) * width * lanes)
    for y in range(height):
        for column in range(columns):
            to, of = (y * inner + column) * lanes, (y * width + column) * stride * lanes
            k[to : to + lanes] = spare[of : of + lanes]


@compiled()
def _alone(out: Array, x: Array, lane: int, lanes: int) -> None:
    """Writes to all lanes what one of a group holds."""
    if lanes == 1:
        out[:] = x
        return
    for e in range(0, x.size, lanes):
        value, here = x[e + lane], out[e : e + lanes]
        for p in range(lanes):
            here[p] = value


@compiled()
def _tiles(
    out: Array, xv: Array, xr: Array, xi: Array, own: Array, xid: Array, zv: Array, zr: Array, zi: Array, zid: Array,
    tasks: Array, mirror: bool, heights: Array, sizes: Array, mean: Array, extent: tuple[int, int, int, int, int],
    steps: tuple[int, int, int], flags: tuple[bool, bool, bool],
) -> None:  # fmt: skip
    """Writes the kernel of tiles of images, each task beginning at a row and a column of ``out``."""
    rows, width, inner, columns, lanes = extent
    q, stride, offset = steps
    boxed, same, ntk = flags
    (n1, n2), groups, side = out.shape, len(zv), TILE // 2
    length = max(xv.shape[2], sizes[0]) + (q + 1) * max(inner, width) * lanes + VECTOR
    product, scratch = np.zeros((4, length), out.dtype), np.zeros((4, length), out.dtype)
    theta, across, after, total = scratch[0], scratch[1], scratch[2], scratch[3]
    means, some = np.zeros(lanes, out.dtype), np.zeros(VECTOR, out.dtype)
    values = np.zeros((TILE, xv.shape[1], xv.shape[2]), out.dtype)
    roots, inverses = np.zeros((TILE, xr.shape[1]), out.dtype), np.zeros((TILE, xr.shape[1]), out.dtype)
    known = -1
    for task in range(len(tasks)):
        top, left = tasks[task, 0], tasks[task, 1] // lanes
        for t in range(0 if top == known else min(TILE, n1 - top)):
            group, lane = divmod(top + t, lanes)
            for r in range(xv.shape[1]):
                _alone(values[t, r], xv[group, r], lane, lanes)
            _alone(roots[t], xr[group], lane, lanes)
            _alone(inverses[t], xi[group], lane, lanes)
        known = top
        for four in range(side * side):
            i, j = four // side * 2, left + four % side * 2
            if top + i >= n1 or j >= groups or (mirror and (j + 2) * lanes <= top + i):
                continue
            _products(product, values[i], values[i + 1], zv[j], zv[min(j + 1, groups - 1)])
            for pair in range(4):
                t, group = i + pair // 2, j + pair % 2
                x, first, end = top + t, group * lanes, min((group + 1) * lanes, n2)
                if x >= n1 or group >= groups or (mirror and end <= x):
                    continue
                k = product[pair]
                if boxed:
                    _patch_sums(
                        k, across, theta, q, stride, rows, width, inner, heights[0], columns, lanes, sizes[0]
                    )  # fmt: skip
                last = _layers(
                    k, theta, across, after, total, roots[t], inverses[t], zr[group], zi[group], heights, sizes, inner,
                    columns, lanes, q, offset * lanes, same, ntk,
                )  # fmt: skip
                _means(means, some, mean, last)
                for z in range(max(first, x) if mirror else first, end):
                    value = own[x] if xid[x] == zid[z] else means[z - first]
                    out[x, z] = value
                    if mirror:
                        out[z, x] = value
