import math
from itertools import permutations
from typing import get_args

import pytest
import torch
from filters import LAYERS, assert_same_distribution, layer, null_overlaps, turned
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles.agop_dense import agop_blocks, block_correlation, nfm_blocks

from convscope.ansatz import forms
from convscope.ansatz.compare import Comparison, Kind
from convscope.ansatz.forms import NullKind, random_frames

SETTINGS = settings(max_examples=80, deadline=None, derandomize=True)
KINDS = st.sampled_from(get_args(Kind))
NULLS = st.sampled_from(get_args(NullKind))
POWERS = st.sampled_from([1.0, 0.5, 2.0])


@SETTINGS
@given(LAYERS, KINDS, POWERS, st.integers(0, 9))
def test_correlation_equals_the_dense_one(pair, kind, power, filters):
    weight, gram = pair
    other = layer(len(weight), filters, weight.shape[2], seed=7)[0] if filters else None
    left = nfm_blocks(weight if other is None else other)
    comparison, of = (Comparison(weight), 0) if other is None else (Comparison(weight, weight, other), 2)
    # A prepared comparison serves any number of S.
    for s in (gram, layer(*weight.shape, seed=9)[1], gram):
        expected = block_correlation(left, agop_blocks(weight, s, power), kind)
        assert comparison.correlation(s, kind, power, of) == pytest.approx(expected, abs=1e-8, nan_ok=True)


def test_a_gram_and_filters_are_left_as_they_were():
    weight, gram = layer(2, 3, 5)
    before = weight.clone(), gram.clone()
    comparison = Comparison(weight, weight)
    for kind in get_args(Kind):
        assert comparison.correlation(gram, kind) == comparison.correlation(gram, kind)
        for null in get_args(NullKind):
            comparison.null(gram, kind=kind, null=null, draws=2)
    comparison.agop(gram).overlaps(2)
    assert torch.equal(weight, before[0])
    assert torch.equal(gram, before[1])


@SETTINGS
@given(LAYERS, KINDS, st.floats(1e-6, 1e6))
def test_isotropic_gradients_give_one_and_so_does_their_null(pair, kind, scale):
    weight, gram = pair
    isotropic = scale * torch.eye(gram.shape[1]).expand_as(gram)
    one = pytest.approx(math.nan if weight.shape[::2] == (1, 1) and kind == "pearson" else 1.0, nan_ok=True, abs=1e-12)
    comparison = Comparison(weight)
    assert comparison.correlation(isotropic, kind) == one
    for null in get_args(NullKind):
        assert comparison.null(isotropic, kind=kind, null=null, draws=3).tolist() == [one] * 3


@SETTINGS
@given(LAYERS, KINDS, NULLS, POWERS, st.floats(1e-4, 1e4))
def test_scales_do_not_matter(pair, kind, null, power, scale):
    weight, gram = pair
    change = weight.flip(1) + 0.1
    for own, other in ((weight, weight), (change, -scale * change)):
        options = {"kind": kind, "null": null, "power": power, "draws": 2}
        first = Comparison(weight, own).null(gram, of=1, **options)
        second = Comparison(weight / scale, other).null(gram * scale**3, of=1, **options)
        torch.testing.assert_close(first, second, rtol=0, atol=1e-8, equal_nan=True)


def test_agop_of_an_unrelated_change_is_not_correlated():
    weight = torch.eye(4)[None, :2]
    change = torch.eye(4)[None, 2:]
    comparison = Comparison(weight, change)
    assert comparison.correlation(torch.eye(2)[None], "cosine", of=1) == pytest.approx(0)
    assert comparison.correlation(torch.eye(2)[None], of=1) < 0


def test_constant_and_zero_matrices_have_no_correlation():
    weight, gram = layer(2, 3, 5)
    constant = Comparison(torch.full((2, 3, 5), 0.1))
    assert math.isnan(constant.correlation(torch.eye(3).expand(2, 3, 3)))
    assert constant.correlation(torch.eye(3).expand(2, 3, 3), "cosine") == pytest.approx(1)
    for kind in get_args(Kind):
        assert math.isnan(Comparison(weight).correlation(torch.zeros_like(gram), kind))
        assert math.isnan(Comparison(weight, torch.zeros_like(weight)).correlation(gram, kind, 0.5, of=1))
        assert Comparison(weight).null(0 * gram, kind=kind, draws=2).isnan().all()
    # Filters that differ, weighted so that the AGOP is constant.
    steps = torch.tensor([[[1.0, 2.0, 3.0], [2.0, 1.0, 0.0]]])
    assert math.isnan(Comparison(steps).correlation(torch.ones(1, 2, 2)))


def test_a_large_mean_costs_no_digits():
    weight, gram = layer(1, 4, 6)
    weight += 1e4
    expected = block_correlation(nfm_blocks(weight), agop_blocks(weight, gram), "pearson")
    assert Comparison(weight).correlation(gram) == pytest.approx(expected, abs=1e-6)


def test_null_repeats_and_leaves_the_global_numbers_alone():
    weight, gram = layer(2, 4, 9)
    torch.manual_seed(3)
    state = torch.get_rng_state()
    comparison = Comparison(weight)
    for null in get_args(NullKind):
        first, again, other = (comparison.null(gram, null=null, draws=4, seed=s) for s in (1, 1, 2))
        assert first.shape == (4,)
        assert first.dtype == torch.float64
        assert torch.equal(first, again)
        assert not torch.equal(first, other)
        # More draws begin with the same ones.
        torch.testing.assert_close(comparison.null(gram, null=null, draws=2, seed=1), first[:2], rtol=0, atol=1e-12)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("null", get_args(NullKind))
@pytest.mark.parametrize(("g", "k", "d", "power"), [(1, 6, 20, 1.0), (2, 9, 4, 1.0), (2, 5, 5, 0.5)])
def test_draws_do_not_depend_on_how_many_are_taken_at_once(monkeypatch, null, g, k, d, power):
    weight, gram = layer(g, k, d)
    together = Comparison(weight).null(gram, null=null, power=power, draws=7)
    overlaps = null_overlaps(weight, gram, 2, draws=7)
    monkeypatch.setattr(forms, "CHUNK_BYTES", 3 * 8 * g * min(d, 1 + k) * (5 * k + 4 * min(d, 1 + k)))
    torch.testing.assert_close(
        Comparison(weight).null(gram, null=null, power=power, draws=7), together, rtol=0, atol=1e-12
    )
    monkeypatch.setattr(forms, "CHUNK_BYTES", 1)
    torch.testing.assert_close(
        Comparison(weight).null(gram, null=null, power=power, draws=7), together, rtol=0, atol=1e-12
    )
    torch.testing.assert_close(null_overlaps(weight, gram, 2, draws=7), overlaps, rtol=0, atol=1e-12)


@pytest.mark.parametrize("power", [1.0, 0.5])
def test_permuted_null_takes_every_order_equally_often(power):
    weight, gram = layer(1, 3, 5)
    orders = [torch.tensor(order) for order in permutations(range(3))]
    permuted = [gram[:, order][:, :, order] for order in orders]
    comparison = Comparison(weight)
    possible = torch.tensor([comparison.correlation(s, power=power) for s in permuted], dtype=torch.float64)
    draws = comparison.null(gram, power=power, null="permuted", draws=600)
    distance, nearest = (draws[:, None] - possible).abs().min(1)
    assert float(distance.max()) < 1e-8
    # Expected 100 each, standard deviation 9.
    assert int((torch.bincount(nearest, minlength=6) - 100).abs().max()) < 45


@pytest.mark.parametrize(("k", "m"), [(3, 3), (3, 2), (4, 2), (7, 1)])
def test_random_frames_are_orthonormal_and_have_no_preferred_sign(k, m):
    n = 4000
    frames = random_frames(n, 1, k, m, torch.Generator().manual_seed(0))[:, 0]
    identity = torch.eye(m, dtype=torch.float64).expand(n, m, m)
    torch.testing.assert_close(frames.mT @ frames, identity, rtol=0, atol=1e-9)
    # An entry has mean 0 and variance 1 / k; 5 standard errors.
    assert float(frames.mean(0).abs().max()) < 5 / math.sqrt(k * n)
    assert float((frames.square().mean(0) - 1 / k).abs().max()) < 5 * math.sqrt(2 / n) / k


@pytest.mark.parametrize(("d", "change", "power"), [(5, False, 1.0), (5, True, 1.0), (2, False, 1.0), (5, False, 0.5)])
def test_haar_null_agrees_with_rotations_of_another_library(d, change, power):
    weight, gram = layer(2, 4, d, rank=2)
    other = layer(2, 4, d, seed=5)[0] if change else None
    left = nfm_blocks(weight if other is None else other)
    expected = torch.tensor([
        block_correlation(left, agop_blocks(weight, s, power), "pearson") for s in turned(gram, 500)
    ])
    assert_same_distribution(
        Comparison(weight, weight if other is None else other).null(gram, power=power, of=1, draws=500), expected
    )


def test_rounding_and_tiny_filters_with_large_gradients_are_no_reason_to_refuse():
    # As under batch norm: the smaller a filter, the larger its gradients. S itself is far from what is compared.
    weight, gram = layer(1, 4, 9)
    scale = torch.tensor([1e-6, 1.0, 1.0, 1.0], dtype=torch.float64)
    expected = block_correlation(nfm_blocks(scale[:, None] * weight), agop_blocks(weight, gram), "pearson")
    single = (gram / scale / scale[:, None]).float()
    assert Comparison(scale[:, None] * weight).correlation(single) == pytest.approx(expected, abs=1e-5)
    one = torch.ones(1, 4, 4)
    one[0, 0, 0] -= 1e-6
    assert math.isfinite(Comparison(weight).correlation(one))


W, S = layer(1, 2, 3)
BAD = [
    (lambda: Comparison(W[0]), r"three axes \[g, k, d\].*got shape \(2, 3\)"),
    (lambda: Comparison(W.long()), "weight must be a tensor of floating-point numbers, got torch.int64"),
    (lambda: Comparison(W * math.nan), "weight must be finite"),
    (lambda: Comparison(W).correlation(S / 0), "gram must be finite"),
    (lambda: Comparison(W[:, :0]), "none of them empty"),
    (lambda: Comparison(W).correlation(torch.eye(3)[None]), r"gram must have shape \(1, 2, 2\)"),
    (lambda: Comparison(W).correlation(torch.tensor([[[1.0, 0.5], [0.0, 1.0]]])), "gram must be symmetric"),
    (lambda: Comparison(W).correlation(-torch.eye(2)[None]), "positive semi-definite"),
    (lambda: Comparison(W).null(-torch.eye(2)[None]), "positive semi-definite"),
    (lambda: Comparison(W).correlation(torch.tensor([[[1.0, 2.0], [2.0, 1.0]]])), "positive semi-definite"),
    (lambda: Comparison(W, W[..., 1:]), r"other must have .* \[1, j, 3\], got \(1, 2, 2\)"),
    (lambda: Comparison(W, S / 0), "other must be finite"),
    (lambda: Comparison(W).correlation(S, "spearman"), "kind must be one of"),
    (lambda: Comparison(W).correlation(S, power=0), "power must be positive"),
    (lambda: Comparison(W).null(S, power=math.nan), "power must be positive"),
    (lambda: Comparison(W).null(S, null="none"), "null must be one of"),
    (lambda: Comparison(W).null(S, draws=0), "draws must be at least 1"),
]


@pytest.mark.parametrize(("call", "message"), BAD)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
