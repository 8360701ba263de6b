"""Slow twins of the convolutional kernel, with and without pooling: loops over pairs of positions, in float64."""

import math
from itertools import product

import numpy as np


def kernel(X, Z, depth, q, padding="valid", stride=1, root=None, kind="ntk", pooling=False):
    """Returns [n_x, n_z] of images [n, c, h, w], by covariances of every position of x with every position of z."""
    X, Z = np.asarray(X, np.float64), np.asarray(Z, np.float64)
    return np.array([[_pair(x, z, depth, q, padding, stride, root, kind, pooling) for z in Z] for x in X])


def _pair(x, z, depth, q, padding, stride, root, kind, pooling):
    px, pz = patches(x, q, padding, stride, root), patches(z, q, padding, stride, root)
    positions = list(px)
    k = {(a, b): px[a] @ pz[b] for a in positions for b in positions}
    qx = {a: px[a] @ px[a] for a in positions}
    qz = {a: pz[a] @ pz[a] for a in positions}
    theta = dict(k)
    for layer in range(depth):
        if layer:
            low, high = ((q - 1) // 2, q // 2) if padding == "same" else (0, 0)
            h, w = 1 + max(a[0] for a in positions), 1 + max(a[1] for a in positions)
            new = list(product(range(h + low + high - q + 1), range(w + low + high - q + 1)))
            moves = list(product(range(-low, q - low), repeat=2))
            both = {pair: k[pair] + theta[pair] for pair in k}
            theta = {(a, b): sum(both.get((_add(a, d), _add(b, d)), 0.0) for d in moves) for a in new for b in new}
            k = {(a, b): sum(k.get((_add(a, d), _add(b, d)), 0.0) for d in moves) for a in new for b in new}
            qx = {a: sum(qx.get(_add(a, d), 0.0) for d in moves) for a in new}
            qz = {a: sum(qz.get(_add(a, d), 0.0) for d in moves) for a in new}
            positions = new
        for a, b in k:
            r = math.sqrt(qx[a] * qz[b])
            t = min(max(k[a, b] / r, -1.0), 1.0) if r > 0 else 0.0
            t = math.copysign(1.0, t) if 1 - abs(t) < 1e-13 else t  # parallel up to rounding
            kappa0 = 1 - math.acos(t) / math.pi
            k[a, b] = r * (t * kappa0 + math.sqrt((1 - t) * (1 + t)) / math.pi)
            theta[a, b] *= kappa0
    of = {pair: k[pair] + theta[pair] if kind == "ntk" else k[pair] for pair in k}
    return float(np.mean([v for (a, b), v in of.items() if pooling or a == b]))


def patches(x, q, padding, stride, root):
    """Returns {(row, column): patch}, each multiplied by the root and divided by sqrt(c)."""
    low, high = {"valid": (0, 0), "first": (q // 2, q // 2), "same": ((q - 1) // 2, q // 2)}[padding]
    x = np.pad(x, ((0, 0), (low, high), (low, high)))
    found = {}
    for i, y in enumerate(range(0, x.shape[1] - q + 1, stride)):
        for j, column in enumerate(range(0, x.shape[2] - q + 1, stride)):
            patch = x[:, y : y + q, column : column + q].reshape(-1) / math.sqrt(len(x))
            found[i, j] = patch if root is None else root @ patch
    return found


def _add(a, d):
    return a[0] + d[0], a[1] + d[1]
