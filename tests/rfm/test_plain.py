import math

import numpy as np
import pytest
import torch

from convscope.rfm import plain
from convscope.rfm.jit import AVAILABLE, PARALLEL_32, PARALLEL_64, angle, compiled
from convscope.rfm.plain import relu


@compiled()
def angles(t, kappa0, s):
    for e in range(t.size):
        kappa0[e], s[e] = angle(t[e])


@pytest.mark.skipif(not AVAILABLE, reason="numba cannot be imported")
@pytest.mark.parametrize(("dtype", "tolerance", "parallel"), [("f4", 2e-7, PARALLEL_32), ("f8", 1e-15, PARALLEL_64)])
def test_compiled_angle_is_right_over_its_whole_range(dtype, tolerance, parallel):
    t = np.concatenate([np.linspace(-1, 1, 20001), 1 - np.geomspace(2 * parallel, 1, 1000)]).astype(dtype)
    t = t[(1 - np.abs(t) > parallel) | (np.abs(t) == 1)]
    kappa0, s = np.empty_like(t), np.empty_like(t)
    angles(t, kappa0, s)
    exact = t.astype(np.longdouble)
    assert np.abs(kappa0 - (1 - np.arccos(exact) / math.pi)).max() < tolerance
    assert np.abs(s - np.sqrt((1 - exact) * (1 + exact)) / math.pi).max() < tolerance


@pytest.mark.skipif(not AVAILABLE, reason="numba cannot be imported")
@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_compiled_angle_of_parallel_patches_is_none(dtype):
    t = np.array([1, -1], dtype)
    t = np.concatenate([t, np.nextafter(t, 0), np.nextafter(t, 2 * t)])
    kappa0, s = np.empty_like(t), np.empty_like(t)
    angles(t, kappa0, s)
    np.testing.assert_array_equal(kappa0, [1, 0, 1, 0, 1, 0])
    np.testing.assert_array_equal(s, 0)


@pytest.mark.parametrize("t", [-0.9, -0.3, 0.0, 0.5, 0.8])
def test_relu_of_gaussians(t):
    """Of Gaussians u, v of covariance t: 2 E[relu(u) relu(v)] = kappa1(t) and 2 P(u > 0, v > 0) = kappa0(t)."""
    grid = np.linspace(-8, 8, 4000)  # no point at 0
    density = np.exp(-(grid**2) / 2) / np.exp(-(grid**2) / 2).sum()
    u, weight = grid[:, None], density[:, None] * density
    v = t * u + math.sqrt(1 - t * t) * grid
    r = torch.tensor([3.0], dtype=torch.float64)
    cosine, s, kappa0, after = relu(t * r, r)
    assert float(cosine) == pytest.approx(t)
    assert float(s) == pytest.approx(math.sqrt(1 - t * t))
    assert float(after) == pytest.approx(3 * 2 * (weight * np.maximum(u, 0) * np.maximum(v, 0)).sum(), rel=1e-4)
    assert float(kappa0) == pytest.approx(2 * (weight * (u > 0) * (v > 0)).sum(), abs=2e-3)


def test_relu_of_nothing_is_nothing():
    zero = torch.zeros(1)
    t, s, kappa0, after = relu(zero, zero)
    assert (float(t), float(s), float(kappa0), float(after)) == (0, 1, 0.5, 0)


def test_compiler_that_is_missing_is_done_without(monkeypatch):
    def missing(*_, **__):
        raise RuntimeError("no compiler")

    monkeypatch.setattr(torch, "compile", missing)
    assert plain._compiled_activation.__wrapped__(torch.device("cpu")) is plain._activation
