from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import conv_kernel as oracle

from convscope.core.errors import ConvscopeError
from convscope.rfm import kernels
from convscope.rfm.architecture import Architecture
from convscope.rfm.cost import estimate
from convscope.rfm.jit import AVAILABLE
from convscope.rfm.kernels import conv_kernel, kernel_matrix
from convscope.rfm.maps import Filtered, Filters

REFERENCE = Path(__file__).parents[3] / "shared/data/convrfm_reference_digits500.npz"
PATHS = ["plain", pytest.param("fused", marks=pytest.mark.skipif(not AVAILABLE, reason="numba cannot be imported"))]


def images(n, c=2, h=8, w=7, seed=0, dtype=np.float64):
    return np.random.default_rng(seed).normal(size=(n, c, h, w)).astype(dtype)


def filtered(x, architecture):
    return Filtered(torch.from_numpy(x), Filters(), architecture, torch.arange(len(x)))


def root_of(m, d, seed=1):
    return np.random.default_rng(seed).normal(size=(m, d))


def off_diagonal(k):
    return k[~np.eye(len(k), dtype=bool)]


CASES = [
    {"depth": 1, "patch_size": 1},
    {"depth": 1, "patch_size": 3},
    {"depth": 3, "patch_size": 2},
    {"depth": 3, "patch_size": 3},
    {"depth": 2, "patch_size": 3, "padding": "first"},
    {"depth": 3, "patch_size": 3, "padding": "same"},
    {"depth": 3, "patch_size": 2, "padding": "same"},
    {"depth": 2, "patch_size": 4, "padding": "first"},
    {"depth": 2, "patch_size": 2, "stride": 2},
    {"depth": 2, "patch_size": 3, "padding": "same", "stride": 2},
    {"depth": 2, "patch_size": 4, "padding": "same", "stride": 3},
    {"depth": 2, "patch_size": 3, "kind": "nngp"},
    {"depth": 2, "patch_size": 3, "padding": "same", "kind": "nngp"},
]


@pytest.mark.parametrize("method", PATHS)
@pytest.mark.parametrize("metric", [False, True])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_equals_loops_over_positions(case, metric, method):
    X, Z = images(3), images(2, seed=5)
    root = root_of(5, 2 * case["patch_size"] ** 2) if metric else None
    q, rest = case["patch_size"], {k: v for k, v in case.items() if k not in {"depth", "patch_size"}}
    expected = oracle.kernel(X, Z, case["depth"], q, root=root, **rest)
    np.testing.assert_allclose(conv_kernel(X, Z, metric_root=root, method=method, **case), expected, rtol=1e-10)
    found = conv_kernel(X, metric_root=root, method=method, **case)
    np.testing.assert_allclose(found, oracle.kernel(X, X, case["depth"], q, root=root, **rest), rtol=1e-10)


@pytest.mark.skipif(not AVAILABLE, reason="numba cannot be imported")
@settings(max_examples=60, deadline=None)
@given(st.data())
def test_fused_equals_plain_in_both_precisions(data):
    draw = data.draw
    q, depth = draw(st.integers(1, 5)), draw(st.integers(1, 4))
    case = {
        "depth": depth,
        "patch_size": q,
        "padding": draw(st.sampled_from(["valid", "first", "same"])),
        "stride": draw(st.integers(1, 3)),
        "kind": draw(st.sampled_from(["ntk", "nngp"])),
    }
    least = case["stride"] * (depth * (q - 1)) + q
    c, h, w = draw(st.integers(1, 5)), least + draw(st.integers(0, 9)), least + draw(st.integers(0, 9))
    n1, n2, seed = draw(st.integers(1, 20)), draw(st.integers(1, 40)), draw(st.integers(0, 99))
    X, Z = images(n1, c, h, w, seed), images(n2, c, h, w, seed + 1)
    X[0, :, : h // 2] = 0
    root = root_of(draw(st.integers(1, 9)), c * q * q) if draw(st.booleans()) else None
    for args in ((X, Z), (X,)):
        for dtype, tolerance in (("float64", 1e-10), ("float32", 2e-4)):
            common = {"metric_root": root, "dtype": dtype, **case}
            plain, fused = (conv_kernel(*args, method=method, **common) for method in ("plain", "fused"))
            scale = np.abs(plain).max()
            np.testing.assert_allclose(fused, plain, rtol=tolerance, atol=tolerance * scale)


@pytest.mark.parametrize("method", PATHS)
def test_float32_is_right_to_single_precision(method):
    X = images(20, 3, 16, 16)
    case = {"depth": 3, "patch_size": 3, "method": method}
    exact, found = conv_kernel(X, **case), conv_kernel(X, dtype="float32", **case)
    np.testing.assert_allclose(found, exact, rtol=3e-6)


@pytest.mark.parametrize("method", PATHS)
def test_equals_neural_tangents_saved_kernels(method):
    if not REFERENCE.exists():
        pytest.skip(f"{REFERENCE} is not at hand")
    with np.load(REFERENCE) as saved:
        X, Z = saved["X"].astype(np.float32), saved["X_test200"].astype(np.float32)
        for t in range(3):
            case = {"depth": 3, "patch_size": 3, "metric_root": saved[f"metric_root_{t}"] if t else None}
            found, expected = conv_kernel(X, method=method, **case), saved[f"K_train_{t}"]
            error = np.abs(found - expected) / np.abs(expected)
            assert off_diagonal(error).max() <= 5e-6
            assert error.diagonal().max() <= 3e-4  # the reference's own error
            found, expected = conv_kernel(Z, X, method=method, **case), saved[f"K_test200_{t}"]
            assert (np.abs(found - expected) / np.abs(expected)).max() <= 5e-6


@pytest.mark.parametrize("method", PATHS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_identical_images_get_their_exact_value_wherever_they_occur(method, dtype):
    X = images(40, 1, 9, 9)
    X[7] = X[30]
    X[3] = 0.0
    X[35] = -0.0
    case = {"depth": 3, "patch_size": 3, "method": method, "dtype": dtype, "metric_root": root_of(4, 9)}
    k, own = conv_kernel(X, **case), conv_kernel(X, **case).diagonal()
    np.testing.assert_array_equal(k[7, 30], own[7])
    np.testing.assert_allclose(k[:, 7], k[:, 30], rtol=1e-6 if dtype == "float32" else 1e-14)
    np.testing.assert_array_equal(k[3], np.zeros(40))
    np.testing.assert_array_equal(conv_kernel(X[[30, 2]], X, **case)[0, [7, 30]], own[[7, 30]])
    np.testing.assert_array_equal(conv_kernel(X[:1].repeat(3, 0), X[:1], **case), own[[0, 0, 0], None])


@pytest.mark.parametrize("method", PATHS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_one_homogeneous_in_each_image(method, dtype):
    X = images(6, 1, 8, 8)
    case = {"depth": 3, "patch_size": 3, "method": method, "dtype": dtype}
    tolerance = 1e-5 if dtype == "float32" else 1e-12
    k = conv_kernel(X, **case)
    np.testing.assert_allclose(conv_kernel(3 * X, X, **case), 3 * k, rtol=tolerance)
    np.testing.assert_allclose(conv_kernel(0.1 * X, 7 * X, **case), 0.7 * k, rtol=tolerance)


@pytest.mark.parametrize("method", PATHS)
def test_parallel_patches_do_not_hang_on_rounding(method):
    X = images(12, 1, 6, 6)  # one pixel a patch: all are parallel or opposite
    case = {"depth": 1, "patch_size": 1, "method": method}
    expected = np.maximum(X[:, None, 0] * X[None, :, 0], 0).mean((-2, -1)) * 2
    np.testing.assert_allclose(conv_kernel(X, **case), expected, rtol=1e-14, atol=1e-15)
    np.testing.assert_allclose(conv_kernel(X, dtype="float32", **case), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("method", PATHS)
@pytest.mark.parametrize("kind", ["ntk", "nngp"])
def test_positive_semidefinite_and_symmetric(kind, method):
    X = images(40, 3, 8, 8)
    k = conv_kernel(X, depth=2, patch_size=3, kind=kind, method=method)
    np.testing.assert_array_equal(k, k.T)
    assert np.linalg.eigvalsh(k).min() > 0


@pytest.mark.parametrize("method", PATHS)
def test_blocks_make_the_same_matrix(method, monkeypatch):
    X, Z = images(21, 1), images(10, 1, seed=3)
    case = {"depth": 2, "patch_size": 3, "method": method}
    whole, across = conv_kernel(X, **case), conv_kernel(X, Z, **case)
    monkeypatch.setattr(kernels, "_LARGEST", 4)
    monkeypatch.setattr(kernels, "_CACHED", 40_000)
    np.testing.assert_allclose(conv_kernel(X, **case), whole, rtol=1e-13)
    np.testing.assert_allclose(conv_kernel(X, Z, **case), across, rtol=1e-13)


@pytest.mark.parametrize("method", PATHS)
@pytest.mark.parametrize("symmetric", [True, False])
def test_memory_mapped_output_is_filled_in_its_own_precision(method, symmetric, tmp_path, monkeypatch):
    monkeypatch.setattr(kernels, "_LARGEST", 8)
    seen = filtered(images(20), Architecture(2, 3))
    out = np.lib.format.open_memmap(tmp_path / "k.npy", "w+", np.float32, (20, 20))
    right = None if symmetric else seen[torch.arange(19, -1, -1)]
    found = kernel_matrix(seen, right, method=method, out=out)
    assert found.dtype == torch.float32
    out.flush()
    expected = kernel_matrix(seen, right, method="plain").float().numpy()
    np.testing.assert_allclose(np.load(tmp_path / "k.npy"), expected, rtol=1e-6)


def test_output_of_wrong_shape_is_refused():
    with pytest.raises(ValueError, match=r"out must have shape \[4, 4\]"):
        kernel_matrix(filtered(images(4), Architecture(1, 3)), None, out=torch.empty(4, 5))


@pytest.mark.parametrize("method", PATHS)
def test_rank_truncation_changes_the_kernel_by_the_trace_it_leaves_out(method):
    X = images(6, 3, 8, 8)
    root = np.diag(np.r_[np.ones(3), np.full(24, 1e-3)])
    case = {"depth": 2, "patch_size": 3, "metric_root": root, "method": method}
    full, cut = conv_kernel(X, **case), conv_kernel(X, rank_tol=1e-4, **case)
    assert Filters.of(torch.from_numpy(root), 1e-4).weight.shape[0] == 3
    assert 0 < np.abs(full - cut).max() < 1e-3 * full.max()


def test_gives_back_the_array_kind_it_got():
    X = images(3)
    case = {"depth": 1, "patch_size": 3}
    assert isinstance(conv_kernel(X, **case), np.ndarray)
    assert isinstance(conv_kernel(torch.from_numpy(X), X, **case), torch.Tensor)
    assert isinstance(conv_kernel(X, torch.from_numpy(X), **case), np.ndarray)


@pytest.mark.parametrize(
    ("given_as", "dtype", "expected"),
    [
        (np.uint8, None, np.float32),
        (np.int64, None, np.float32),
        (np.float16, None, np.float32),
        (np.float32, None, np.float32),
        (np.float64, None, np.float64),
        (np.float32, "float64", np.float64),
        (np.float64, np.float32, np.float32),
        (np.float64, torch.float32, np.float32),
        (np.uint8, np.dtype("float64"), np.float64),
    ],
)
def test_precision(given_as, dtype, expected):
    X = (10 * np.abs(images(3))).astype(given_as)
    k = conv_kernel(X, depth=2, patch_size=3, dtype=dtype)
    assert k.dtype == expected
    np.testing.assert_allclose(k, conv_kernel(X.astype(float), depth=2, patch_size=3), rtol=1e-5)


@pytest.mark.parametrize("bad", ["float16", torch.bfloat16, "nonsense", int])
def test_other_precisions_are_refused(bad):
    with pytest.raises(ValueError, match="dtype must be float32 or float64"):
        conv_kernel(images(2), depth=1, patch_size=3, dtype=bad)


def test_one_image_works():
    X = images(1)
    np.testing.assert_allclose(conv_kernel(X, depth=2, patch_size=3), oracle.kernel(X, X, 2, 3), rtol=1e-12)


@pytest.mark.parametrize(
    ("X", "Z", "case", "error", "match"),
    [
        (images(2)[0], None, {}, ValueError, r"X must be images \[n, c, h, w\]"),
        (images(0), None, {}, ValueError, "at least one"),
        (images(2), images(0), {}, ValueError, "Z must be images"),
        (np.full((1, 1, 5, 5), np.nan), None, {}, ValueError, "X must be finite"),
        (images(2), np.full((1, 2, 8, 7), np.inf), {}, ValueError, "Z must be finite"),
        (images(2), images(2, 3), {}, ValueError, r"images of one size .* \[2, 8, 7\] and \[3, 8, 7\]"),
        (images(2), None, {"patch_size": 9}, ValueError, "9x9 patch of layer 1 does not fit into 8x7 pixels"),
        (images(2), None, {"depth": 4}, ValueError, "3x3 patch of layer 4 does not fit into 2x1"),
        (images(2), None, {"metric_root": np.eye(5)}, ValueError, "each of the 18 entries"),
        (images(2), None, {"metric_root": np.zeros((2, 18))}, ValueError, "not zero"),
        (images(2), None, {"metric_root": np.full((2, 18), np.nan)}, ValueError, "finite"),
        (images(2), None, {"rank_tol": 1.0}, ValueError, "tolerance"),
        (images(2), None, {"padding": "full"}, ValueError, "padding must be one of"),
        (images(2), None, {"kind": "rbf"}, ValueError, "kind must be one of"),
        (images(2), None, {"depth": 0}, ValueError, "depth must be a whole number"),
        (images(2), None, {"stride": 1.5}, ValueError, "stride must be a whole number"),
        (images(2), None, {"method": "fast"}, ValueError, "method must be one of auto, fused, plain"),
        (images(2), None, {"pooling": True, "method": "fused"}, ValueError, "no fused path"),
        (images(2).tolist(), None, {}, TypeError, "X must be a NumPy array or a PyTorch tensor, got list"),
        (images(2), None, {"max_memory": 100}, ConvscopeError, "max_memory"),
        (images(40, 1, 4, 4), None, {"max_memory": 8_000}, ConvscopeError, "the 40 x 40 kernel matrix"),
        (images(2), None, {"max_memory": 3_000}, ConvscopeError, "one pair of images"),
    ],
)
def test_bad_input_is_said(X, Z, case, error, match):
    with pytest.raises(error, match=match):
        conv_kernel(X, Z, **{"depth": 1, "patch_size": 3, **case})


@pytest.mark.parametrize("method", PATHS)
def test_blocks_shrink_to_the_memory(method):
    X = images(40, 1, 12, 12)
    case = {"depth": 2, "patch_size": 3, "method": method}
    architecture = Architecture(2, 3)
    maps = filtered(X, architecture).maps()
    path = kernels.path_of(maps, architecture, 40, 40, 60_000, method)
    assert path.bytes <= 60_000
    assert path.size < 40
    np.testing.assert_allclose(conv_kernel(X, max_memory=160_000, **case), conv_kernel(X, **case), rtol=1e-12)


@pytest.mark.parametrize("method", PATHS)
@pytest.mark.parametrize("root", [None, np.eye(18)], ids=["identity", "metric"])
def test_maps_are_made_of_so_many_images_as_memory_allows(method, root, monkeypatch):
    X, Z = images(30), images(11, seed=1)
    case = {"depth": 2, "patch_size": 3, "metric_root": root, "method": method}
    whole, across = conv_kernel(X, **case), conv_kernel(X, Z, **case)
    made, maps = [], Filtered.maps
    monkeypatch.setattr(Filtered, "maps", lambda seen: made.append(len(seen)) or maps(seen))
    memory = 200_000
    np.testing.assert_allclose(conv_kernel(X, max_memory=memory, **case), whole, rtol=1e-12)
    np.testing.assert_allclose(conv_kernel(X, Z, max_memory=memory, **case), across, rtol=1e-12)
    of_image = Filtered(
        torch.from_numpy(X),
        Filters.of(None if root is None else torch.from_numpy(root)),
        Architecture(2, 3),
        torch.arange(30),
    ).bytes_of_image
    assert max(made) == min((memory - 30 * 30 * 8) // 4 // of_image, 30)
    assert max(made) < 30 or root is None


def test_few_images_are_not_worth_compiling_and_many_are():
    values = torch.zeros(1)
    assert not kernels.is_fused("auto", values, 1e4)
    assert kernels.is_fused("auto", values, 1e9) == AVAILABLE
    assert not kernels.is_fused("plain", values)
    assert not kernels.is_fused("auto", values.half())


def test_works_without_numba(monkeypatch):
    monkeypatch.setattr(kernels, "AVAILABLE", False)
    assert not kernels.is_fused("auto", torch.zeros(1), 1e12)
    with pytest.raises(ValueError, match="numba cannot be imported"):
        conv_kernel(images(2), depth=1, patch_size=3, method="fused")


@pytest.mark.parametrize("method", PATHS)
@pytest.mark.parametrize("symmetric", [True, False])
def test_progress_counts_every_pair_once(method, symmetric, monkeypatch):
    counted = []

    class Bar:
        def __init__(self, total, **_):
            self.total, self.n = total, 0
            counted.append(self)

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def update(self, n):
            self.n += n

    monkeypatch.setattr(kernels, "tqdm", Bar)
    monkeypatch.setattr(kernels, "_LARGEST", 16)
    X = images(37, 1)
    conv_kernel(X, None if symmetric else X[:9], depth=1, patch_size=3, method=method, progress=True)
    assert counted[0].n == counted[0].total == (37 * 38 // 2 if symmetric else 37 * 9)


def test_estimate_counts_maps_result_and_blocks():
    cost = estimate(1000, 500, Architecture(1, 3), 4, (8, 8), metric=True)
    assert cost.seconds > 0
    maps, result = 1500 * (4 * 36 + 36) * 4, 1000 * 500 * 4
    assert maps + result < cost.bytes < maps + result + 2**27
    assert "GiB" in str(cost)


@pytest.mark.parametrize("pooling", [False, True])
def test_cost_of_a_long_run_is_said_before_it(pooling, monkeypatch, caplog):
    monkeypatch.setattr(kernels, "_WORTH_SAYING", 1e4)
    X = images(20, 1)
    with caplog.at_level("INFO", "convscope"):
        conv_kernel(X[:1], depth=1, patch_size=3, pooling=pooling)
        assert not caplog.messages
        conv_kernel(X, depth=1, patch_size=3, pooling=pooling)
    assert len(caplog.messages) == 1
    assert "GiB" in caplog.messages[0]
