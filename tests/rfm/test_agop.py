from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from oracles.conv_kernel_agop import agop_by_differences
from torch import Tensor

from convscope.core.errors import ConvscopeError
from convscope.rfm import kernels
from convscope.rfm.agop import _blocks, conv_kernel_agop, predictor_agop, sketched
from convscope.rfm.architecture import Architecture
from convscope.rfm.maps import Filtered, Filters, identities

REFERENCE = Path(__file__).parents[3] / "shared" / "data" / "convrfm_reference_digits500.npz"
PATHS = ["plain", pytest.param("fused", marks=pytest.mark.skipif(not kernels.AVAILABLE, reason="needs Numba"))]
NETWORKS = [
    {"depth": 1, "patch_size": 3},
    {"depth": 2, "patch_size": 2},
    {"depth": 3, "patch_size": 2, "kind": "nngp"},
    {"depth": 3, "patch_size": 3, "padding": "same"},
    {"depth": 3, "patch_size": 2, "padding": "same", "stride": 2},
    {"depth": 2, "patch_size": 4, "padding": "same", "kind": "nngp"},
    {"depth": 2, "patch_size": 3, "padding": "first"},
    {"depth": 2, "patch_size": 2, "padding": "first", "stride": 2},
    {"depth": 1, "patch_size": 4, "stride": 2},
    {"depth": 2, "patch_size": 1, "padding": "same"},
]


def images(n: int, c: int, h: int, w: int, seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(n, c, h, w, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def machine(dtype: torch.dtype = torch.float64, c: int = 2) -> tuple[Tensor, Tensor, Tensor]:
    """Images with zero patches among them, coefficients of three outputs, and images to look at."""
    X, Z = images(5, c, 7, 6, 0, dtype), images(3, c, 7, 6, 1, dtype)
    X[0, :, :5, :5] = 0
    X[1, :, 3:] = 0
    return X, images(5, 3, 1, 1, 2, dtype)[..., 0, 0], Z


def distance(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


def root_of(network: dict) -> Tensor:
    return images(1, 1, 4, 2 * network["patch_size"] ** 2, 3)[0, 0]


@cache
def by_differences(place: int, metric: bool) -> Tensor:
    """Of the network at this place, once for both paths."""
    X, alpha, Z = machine()
    network = NETWORKS[place]
    root = root_of(network) if metric else None
    return agop_by_differences(X, alpha, Z[:2], network["depth"], network["patch_size"], root, **_rest(network))


@pytest.mark.parametrize("method", PATHS)
@pytest.mark.parametrize("metric", [False, True], ids=["identity", "metric"])
@pytest.mark.parametrize("network", NETWORKS, ids=str)
def test_equals_finite_differences(network: dict, metric: bool, method: str) -> None:
    X, alpha, Z = machine()
    root = root_of(network) if metric else None
    found = conv_kernel_agop(X, alpha, Z[:2], metric_root=root, method=method, **network)
    assert distance(found, by_differences(NETWORKS.index(network), metric)) < 1e-6


@pytest.mark.parametrize("method", PATHS)
def test_a_zero_patch_of_z_has_half_the_slope_on_both_sides(method: str) -> None:
    X, alpha, Z = machine()
    Z[:, :, 2:5, 2:5] = 0
    expected = agop_by_differences(X, alpha, Z, 1, 3)
    assert distance(conv_kernel_agop(X, alpha, Z, depth=1, patch_size=3, method=method), expected) < 1e-6


@pytest.mark.skipif(not kernels.AVAILABLE, reason="needs Numba")
@pytest.mark.parametrize("network", NETWORKS, ids=str)
def test_fused_equals_plain_in_float64(network: dict) -> None:
    X, alpha, Z = machine(c=3)
    Z[0] = X[2]
    Z[1, :, :4] = X[3, :, :4]
    Z[2, :, :, :4] = 0
    plain, fused = (conv_kernel_agop(X, alpha, Z, method=m, **network) for m in ("plain", "fused"))
    assert distance(fused, plain) < 1e-10


@pytest.mark.parametrize("method", PATHS)
@pytest.mark.skipif(not REFERENCE.exists(), reason="needs the reference file of the official code's results")
@pytest.mark.parametrize("t", [0, 1])
def test_equals_the_official_code_on_digits_in_float32(t: int, method: str) -> None:
    data = np.load(REFERENCE)
    root = data[f"metric_root_{t}"] if t else None
    X = data["X"]
    found = conv_kernel_agop(X, data[f"dual_coef_{t}"], X[:20], depth=3, patch_size=3, metric_root=root, method=method)
    expected = data[f"agop_{t}"]
    assert np.linalg.norm(found - expected) < 1e-5 * np.linalg.norm(expected)


@pytest.mark.parametrize("method", PATHS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_an_image_with_itself_takes_the_value_without_rounding(dtype: torch.dtype, method: str) -> None:
    """K(x, x) is linear in the covariances: each position's derivative is the number of paths through it."""
    X = images(4, 1, 5, 5, 4, dtype)
    Z = torch.cat([X[2:3], X[2:3]])
    found = conv_kernel_agop(X[2:3], X.new_ones(1), Z, depth=1, patch_size=2, method=method)
    patches = torch.nn.functional.unfold(X[2:3].double(), 2)[0]
    assert distance(found, 4 * patches @ patches.T / 16**2) < (1e-6 if dtype == torch.float32 else 1e-14)


@pytest.mark.parametrize("method", PATHS)
def test_duplicates_among_the_training_images_share_their_coefficient(method: str) -> None:
    X, alpha, _ = machine()
    twice, halves = torch.cat([X, X]), torch.cat([alpha, alpha]) / 2
    options = {"depth": 3, "patch_size": 2, "method": method}
    assert distance(conv_kernel_agop(twice, halves, X, **options), conv_kernel_agop(X, alpha, X, **options)) < 1e-12


@pytest.mark.parametrize("method", PATHS)
def test_blocks_of_any_size_give_the_same(method: str) -> None:
    X, alpha, Z = images(40, 2, 7, 6, 5), images(40, 7, 1, 1, 6)[..., 0, 0], images(9, 2, 7, 6, 7)
    options = {"depth": 2, "patch_size": 3}
    whole = conv_kernel_agop(X, alpha, Z, method=method, **options)
    one = Filtered(X[:1], Filters(), Architecture(2, 3), torch.arange(1)).maps()
    for memory in (300_000, 100_000, 30_000):
        n, s, o = _blocks(one, 40, 9, 7, 18, 22, memory)
        assert n < 40 or s < 9
        assert distance(conv_kernel_agop(X, alpha, Z, max_memory=memory, method=method, **options), whole) < 1e-12
    assert o < 7


def test_weights_are_as_images_given_several_times() -> None:
    X, alpha, Z = machine()
    options = {"depth": 2, "patch_size": 3}
    weighted = conv_kernel_agop(X, alpha, Z, sample_weight=torch.tensor([2.0, 0.0, 1.0]), **options)
    assert distance(weighted, conv_kernel_agop(X, alpha, Z[[0, 0, 2]], **options)) < 1e-12


def test_outputs_of_low_rank_cost_no_exactness() -> None:
    X, alpha, Z = machine()
    many = alpha[:, :2] @ images(2, 30, 1, 1, 8)[..., 0, 0]
    options = {"depth": 2, "patch_size": 3}
    one_by_one = sum(conv_kernel_agop(X, column, Z, **options) for column in many.T)
    assert distance(conv_kernel_agop(X, many, Z, **options), one_by_one) < 1e-12


def test_the_sketch_is_right_on_average() -> None:
    alpha = images(6, 12, 1, 1, 9)[..., 0, 0]
    exact = alpha @ alpha.T
    draws = [sketched(alpha, 3, seed) for seed in range(4000)]
    assert all(a.shape == (6, 3) for a in draws)
    assert distance(sum(a @ a.T for a in draws) / len(draws), exact) < 0.03
    assert distance(draws[0] @ draws[0].T, exact) > 0.1


def test_scales_with_the_square_of_the_predictor() -> None:
    X, alpha, Z = machine()
    options = {"depth": 2, "patch_size": 3}
    assert distance(conv_kernel_agop(X, 3 * alpha, Z, **options), 9 * conv_kernel_agop(X, alpha, Z, **options)) < 1e-12


@pytest.mark.parametrize("method", PATHS)
def test_maps_are_made_anew_where_memory_does_not_hold_them(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    X, alpha, Z = images(40, 2, 7, 6, 5), images(40, 3, 1, 1, 6)[..., 0, 0], images(9, 2, 7, 6, 7)
    options = {"depth": 2, "patch_size": 3, "metric_root": images(1, 1, 18, 18, 10)[0, 0], "method": method}
    whole = conv_kernel_agop(X, alpha, Z, **options)
    made, maps = [], Filtered.maps
    monkeypatch.setattr(Filtered, "maps", lambda seen: made.append(len(seen)) or maps(seen))
    found = conv_kernel_agop(X, alpha, Z, max_memory=200_000, **options)
    assert max(made) == 200_000 // 4 // (8 * 19 * 20)
    assert distance(found, whole) < 1e-12
    # Gradients at many images are summed in one pass over the training images, so that few maps are made twice.
    assert sum(made) < 3 * 40


def test_features_are_what_the_kernel_sees() -> None:
    X, alpha, Z = machine()
    architecture, filters = Architecture(2, 3), Filters.of(images(1, 1, 5, 18, 10)[0, 0])

    def twice(x: torch.Tensor) -> torch.Tensor:
        return torch.cat([x, x], 1)[:, :2] * 2

    of_x, of_z = identities(X, Z)
    seen = Filtered(X, filters, architecture, of_x, twice), Filtered(Z, filters, architecture, of_z, twice)
    expected = conv_kernel_agop(twice(X), alpha, twice(Z), depth=2, patch_size=3, metric_root=filters.weight)
    assert distance(predictor_agop(seen[0], alpha, seen[1]), expected) < 1e-12


def test_returns_the_kind_of_array_it_got() -> None:
    X, alpha, Z = machine(torch.float32)
    tensor = conv_kernel_agop(X, alpha, Z, depth=2, patch_size=3)
    array = conv_kernel_agop(X.numpy(), alpha.numpy(), Z.numpy(), depth=2, patch_size=3)
    assert isinstance(array, np.ndarray)
    assert array.dtype == np.float64
    assert tensor.dtype == torch.float64
    assert np.array_equal(array, tensor.numpy())
    assert np.array_equal(array, array.T)


def test_whole_numbers_are_taken_as_they_are() -> None:
    X = (images(4, 1, 5, 5, 11) * 50).clamp(0, 255).to(torch.uint8)
    alpha = torch.ones(4)
    options = {"depth": 1, "patch_size": 2}
    assert (
        distance(conv_kernel_agop(X, alpha, X, **options), conv_kernel_agop(X.float(), alpha, X.float(), **options))
        == 0
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dual_coef": torch.ones(4, 3)}, r"a row for each of the 5 images of X, got shape \[4, 3\]"),
        ({"dual_coef": torch.full((5, 3), float("nan"))}, "not finite"),
        ({"Z": torch.ones(3, 2, 7, 7)}, r"images of one size, got \[2, 7, 6\] and \[2, 7, 7\]"),
        ({"Z": torch.ones(0, 2, 7, 6)}, "at least one"),
        ({"Z": torch.full((1, 2, 7, 6), float("nan"))}, "Z must be finite"),
        ({"X": torch.ones(5, 7, 6)}, r"X must be images \[n, c, h, w\]"),
        ({"patch_size": 8}, "does not fit"),
        ({"metric_root": torch.eye(9)}, "for each of the 18 entries"),
        ({"sample_weight": torch.zeros(3)}, "not all 0"),
        ({"sample_weight": torch.ones(2)}, "must hold 3 finite numbers"),
        ({"sample_weight": torch.tensor([1.0, -1.0, 1.0])}, "none negative"),
        ({"method": "fast"}, "method must be one of"),
        ({"padding": "full"}, "padding must be one of"),
    ],
    ids=str,
)
def test_says_what_is_wrong(change: dict, message: str) -> None:
    X, alpha, Z = machine()
    arguments = {"X": X, "dual_coef": alpha, "Z": Z, "depth": 2, "patch_size": 3, **change}
    with pytest.raises(ValueError, match=message):
        conv_kernel_agop(**arguments)


def test_says_that_memory_is_too_small() -> None:
    X, alpha, Z = machine()
    with pytest.raises(ConvscopeError, match=r"one pair of images takes .* max_memory leaves 0"):
        conv_kernel_agop(X, alpha, Z, depth=2, patch_size=3, max_memory=100)


def test_says_what_an_array_is() -> None:
    X, alpha, Z = machine()
    with pytest.raises(TypeError, match="X must be a NumPy array or a PyTorch tensor, got list"):
        conv_kernel_agop(X.tolist(), alpha, Z, depth=2, patch_size=3)


def test_refuses_a_network_that_pools() -> None:
    architecture = Architecture(2, 3, pooling=True)
    seen = Filtered(images(2, 1, 7, 7, 12), Filters(), architecture, torch.arange(2))
    with pytest.raises(ValueError, match="without pooling"):
        predictor_agop(seen, torch.ones(2), seen)


def test_says_that_numba_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    X, alpha, Z = machine()
    expected = conv_kernel_agop(X, alpha, Z, depth=2, patch_size=3)
    monkeypatch.setattr(kernels, "AVAILABLE", False)
    with pytest.raises(ValueError, match="numba cannot be imported"):
        conv_kernel_agop(X, alpha, Z, depth=2, patch_size=3, method="fused")
    assert distance(conv_kernel_agop(X, alpha, Z, depth=2, patch_size=3), expected) < 1e-12


def _rest(network: dict) -> dict:
    return {k: v for k, v in network.items() if k not in {"depth", "patch_size"}}
