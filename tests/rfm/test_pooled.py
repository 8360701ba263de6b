import numpy as np
import pytest
import torch
from oracles import conv_kernel as oracle

from convscope.core.errors import ConvscopeError
from convscope.core.geometry import ConvGeometry
from convscope.rfm.kernels import conv_kernel
from convscope.rfm.pooled import joint_box_sum


@pytest.mark.parametrize(
    "case",
    [
        {"depth": 2, "q": 3},
        {"depth": 2, "q": 3, "padding": "same"},
        {"depth": 2, "q": 2, "padding": "first", "stride": 2},
        {"depth": 1, "q": 3, "kind": "nngp"},
    ],
    ids=str,
)
@pytest.mark.parametrize("metric", [False, True])
def test_equals_loops_over_pairs_of_positions_at_8x8(case, metric):
    rng = np.random.default_rng(0)
    X, q = rng.normal(size=(2, 2, 8, 8)), case["q"]
    root = rng.normal(size=(3, 2 * q * q)) if metric else None
    expected = oracle.kernel(X, X, root=root, pooling=True, **case)
    rest = {k: v for k, v in case.items() if k != "q"}
    found = conv_kernel(X, patch_size=q, metric_root=root, pooling=True, **rest)
    np.testing.assert_allclose(found, expected, rtol=1e-8)
    np.testing.assert_allclose(conv_kernel(X[:1], X, patch_size=q, metric_root=root, pooling=True, **rest), found[:1])


def test_unchanged_by_shifts_that_stay_inside():
    rng = np.random.default_rng(0)
    X = np.zeros((2, 1, 16, 16))
    X[0, :, 6:10, 6:10] = rng.normal(size=(1, 4, 4))
    X[1, :, 6:10, 6:10] = rng.normal(size=(1, 4, 4))
    moved = np.roll(X[1:], 1, -1)
    case = {"depth": 2, "patch_size": 3, "dtype": "float64"}
    pooled, plain = (
        [float(conv_kernel(X[:1], z, pooling=pooling, **case)[0, 0]) for z in (X[1:], moved)]
        for pooling in (True, False)
    )
    assert pooled[1] == pytest.approx(pooled[0], rel=1e-12)
    assert plain[1] != pytest.approx(plain[0], rel=1e-3)


def test_joint_box_sum_adds_over_patches_that_move_together():
    x = torch.randn(5, 6, 5, 6, dtype=torch.float64)
    geometry = ConvGeometry(1, (2, 3), (2, 1), (1, 0, 1, 1))
    found = joint_box_sum(x, geometry)
    padded = torch.zeros(6, 8, 6, 8, dtype=torch.float64)
    padded[1:, 1:7, 1:, 1:7] = x
    for a in range(3):
        for b in range(6):
            for c in range(3):
                for d in range(6):
                    expected = sum(padded[2 * a + i, b + j, 2 * c + i, d + j] for i in range(2) for j in range(3))
                    assert found[a, b, c, d] == pytest.approx(float(expected), abs=1e-12)


def test_memory_bound_is_kept():
    X = np.zeros((2, 1, 32, 32))
    with pytest.raises(ConvscopeError, match="one pair of images"):
        conv_kernel(X, depth=1, patch_size=3, pooling=True, max_memory=2**24)
