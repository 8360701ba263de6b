import math
from itertools import permutations
from typing import get_args

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles.agop_dense import agop_blocks, block_correlation, nfm_blocks, overlap_of_blocks
from scipy.stats import ortho_group

from convscope.ansatz.compare import (
    Kind,
    NullKind,
    correlation,
    effective_rank,
    null_correlations,
    participation_ratio,
    power_gram,
    principal_cosines,
    subspace_overlap,
    top_eigenvectors,
)
from convscope.core.accumulate import jackknife, jackknife_bias

SETTINGS = settings(max_examples=80, deadline=None, derandomize=True)
KINDS = st.sampled_from(get_args(Kind))
NULLS = st.sampled_from(get_args(NullKind))
POWERS = st.sampled_from([1.0, 0.5, 2.0])


def layer(g, k, d, rank=None, seed=0):
    """Returns random filters [g, k, d] and a Gram matrix [g, k, k] of a rank."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(g, k, d, dtype=torch.float64, generator=generator)
    root = torch.randn(g, k, k if rank is None else rank, dtype=torch.float64, generator=generator)
    return weight, root @ root.mT


LAYERS = st.builds(
    layer, st.integers(1, 3), st.integers(1, 7), st.integers(1, 9), st.integers(1, 9), st.integers(0, 99)
)


def assert_blocks(actual, expected):
    stacked = torch.from_numpy(np.stack(expected))
    torch.testing.assert_close(actual, stacked, rtol=0, atol=1e-8 * float(stacked.abs().max()))


@SETTINGS
@given(LAYERS, POWERS)
def test_power_of_the_agop(pair, power):
    weight, gram = pair
    result = weight.mT @ power_gram(weight, gram, power) @ weight
    assert_blocks(result, agop_blocks(weight, gram, power))


@SETTINGS
@given(LAYERS, KINDS, POWERS, st.integers(0, 9))
def test_correlation_equals_the_dense_one(pair, kind, power, filters):
    weight, gram = pair
    change = layer(len(weight), filters, weight.shape[2], seed=7)[0] if filters else None
    left = nfm_blocks(weight if change is None else change)
    expected = block_correlation(left, agop_blocks(weight, gram, power), kind)
    result = correlation(weight, gram, kind=kind, power=power, change=change)
    assert result == pytest.approx(expected, abs=1e-8, nan_ok=True)


@SETTINGS
@given(LAYERS, KINDS, st.floats(1e-6, 1e6))
def test_isotropic_gradients_give_one_and_so_does_their_null(pair, kind, scale):
    weight, gram = pair
    isotropic = scale * torch.eye(gram.shape[1]).expand_as(gram)
    one = pytest.approx(math.nan if weight.shape[::2] == (1, 1) and kind == "pearson" else 1.0, nan_ok=True, abs=1e-12)
    assert correlation(weight, isotropic, kind=kind) == one
    for null in get_args(NullKind):
        assert null_correlations(weight, isotropic, kind=kind, null=null, draws=3).tolist() == [one] * 3


@SETTINGS
@given(LAYERS, KINDS, NULLS, POWERS, st.floats(1e-4, 1e4))
def test_scales_do_not_matter(pair, kind, null, power, scale):
    weight, gram = pair
    change = weight.flip(1) + 0.1
    for own, other in ((None, None), (change, -scale * change)):
        first = null_correlations(weight, gram, kind=kind, null=null, power=power, change=own, draws=2)
        args = weight / scale, gram * scale**3
        second = null_correlations(*args, kind=kind, null=null, power=power, change=other, draws=2)
        torch.testing.assert_close(first, second, rtol=0, atol=1e-8, equal_nan=True)


def test_agop_of_an_unrelated_change_is_not_correlated():
    weight = torch.eye(4)[None, :2]
    change = torch.eye(4)[None, 2:]
    assert correlation(weight, torch.eye(2)[None], change=change, kind="cosine") == pytest.approx(0)
    assert correlation(weight, torch.eye(2)[None], change=change) < 0


def test_constant_and_zero_matrices_have_no_correlation():
    weight, gram = layer(2, 3, 5)
    constant = torch.full((2, 3, 5), 0.1)
    assert math.isnan(correlation(constant, torch.eye(3).expand(2, 3, 3)))
    assert correlation(constant, torch.eye(3).expand(2, 3, 3), kind="cosine") == pytest.approx(1)
    for kind in get_args(Kind):
        assert math.isnan(correlation(weight, torch.zeros_like(gram), kind=kind))
        assert math.isnan(correlation(weight, gram, kind=kind, power=0.5, change=torch.zeros_like(weight)))
        assert null_correlations(weight, 0 * gram, kind=kind, draws=2).isnan().all()


def test_a_large_mean_costs_no_digits():
    weight, gram = layer(1, 4, 6)
    weight += 1e4
    expected = block_correlation(nfm_blocks(weight), agop_blocks(weight, gram), "pearson")
    assert correlation(weight, gram) == pytest.approx(expected, abs=1e-6)


def test_null_repeats_and_leaves_the_global_numbers_alone():
    weight, gram = layer(2, 4, 9)
    torch.manual_seed(3)
    state = torch.get_rng_state()
    for null in get_args(NullKind):
        first, again, other = (null_correlations(weight, gram, null=null, draws=4, seed=s) for s in (1, 1, 2))
        assert first.shape == (4,)
        assert first.dtype == torch.float64
        assert torch.equal(first, again)
        assert not torch.equal(first, other)
        # More draws begin with the same ones.
        assert torch.equal(null_correlations(weight, gram, null=null, draws=2, seed=1), first[:2])
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("power", [1.0, 0.5])
def test_permuted_null_takes_every_order_equally_often(power):
    weight, gram = layer(1, 3, 5)
    orders = [torch.tensor(order) for order in permutations(range(3))]
    permuted = [gram[:, order][:, :, order] for order in orders]
    possible = torch.tensor([correlation(weight, s, power=power) for s in permuted], dtype=torch.float64)
    draws = null_correlations(weight, gram, power=power, null="permuted", draws=600)
    distance, nearest = (draws[:, None] - possible).abs().min(1)
    assert float(distance.max()) < 1e-8
    # Expected 100 each, standard deviation 9.
    assert int((torch.bincount(nearest, minlength=6) - 100).abs().max()) < 45


@pytest.mark.parametrize(("d", "change"), [(5, False), (5, True), (2, False)])
def test_haar_null_agrees_with_rotations_of_another_library(d, change):
    weight, gram = layer(2, 3, d, rank=2)
    other = layer(2, 4, d, seed=5)[0] if change else None
    rotations = ortho_group.rvs(3, size=1000, random_state=0).reshape(500, 2, 3, 3)
    left = nfm_blocks(weight if other is None else other)
    expected = torch.tensor([
        block_correlation(left, agop_blocks(weight, torch.from_numpy(q) @ gram @ torch.from_numpy(q).mT), "pearson")
        for q in rotations
    ])
    draws = null_correlations(weight, gram, change=other, draws=500)
    error = math.hypot(float(draws.std()), float(expected.std())) / math.sqrt(500)
    assert abs(float(draws.mean() - expected.mean())) < 4 * error
    assert float(draws.std() / expected.std()) == pytest.approx(1, abs=0.2)


@SETTINGS
@given(LAYERS, st.booleans(), st.integers(1, 9))
def test_leading_eigenpairs(pair, nfm, r):
    weight, gram = pair
    blocks = nfm_blocks(weight) if nfm else agop_blocks(weight, gram)
    values, vectors = top_eigenvectors(weight, None if nfm else gram, r)
    bound = min(r, *weight.shape[1:])
    assert values.shape == (len(weight), bound)
    assert vectors.shape == (len(weight), weight.shape[2], bound)
    for block, value, vector in zip(blocks, values, vectors, strict=True):
        expected = np.linalg.eigvalsh(block)[::-1]
        np.testing.assert_allclose(value, expected[:bound], rtol=0, atol=1e-10 * expected[0])
        np.testing.assert_allclose(block @ vector.numpy(), value * vector, rtol=0, atol=1e-10 * expected[0])
        present = (value > 0).double()
        torch.testing.assert_close(vector.mT @ vector, present.diag(), rtol=0, atol=1e-10)
        assert (vector.gather(0, vector.abs().argmax(0, keepdim=True))[0] * present >= 0).all()
        assert not vector[:, value == 0].any()


@SETTINGS
@given(st.integers(1, 3), st.integers(1, 6), st.integers(6, 9), st.integers(1, 9), st.integers(0, 99))
def test_overlap_of_leading_eigenvectors(g, k, d, r, seed):
    weight, gram = layer(g, k, d, seed=seed)
    expected = overlap_of_blocks(nfm_blocks(weight), agop_blocks(weight, gram), min(r, k))
    assert subspace_overlap(weight, gram, r) == pytest.approx(expected, abs=1e-8)
    assert subspace_overlap(weight, torch.eye(k).expand_as(gram), r) == pytest.approx(1)


def test_overlap_by_chance():
    # Unrelated random spaces of two dimensions: the chance that the docstring states.
    d, r = 10, 2
    a, b = torch.linalg.qr(torch.randn(2, 400, d, r, dtype=torch.float64, generator=torch.Generator().manual_seed(0)))[
        0
    ]
    cosines = principal_cosines(a, b)
    assert cosines.shape == (400, r)
    assert (cosines[:, 0] >= cosines[:, 1]).all()
    assert float(cosines.square().mean()) == pytest.approx(r / d, abs=0.02)
    torch.testing.assert_close(principal_cosines(a, a), torch.ones(400, r, dtype=torch.float64))


@SETTINGS
@given(LAYERS, st.booleans())
def test_ranks(pair, nfm):
    weight, gram = pair
    blocks = nfm_blocks(weight) if nfm else agop_blocks(weight, gram)
    args = weight, None if nfm else gram
    ranks = [np.trace(m) / np.linalg.eigvalsh(m)[-1] for m in blocks]
    assert effective_rank(*args) == pytest.approx(np.mean(ranks), rel=1e-8)
    ratios = [np.trace(m) ** 2 / np.trace(m @ m) for m in blocks]
    assert participation_ratio(*args) == pytest.approx(np.mean(ratios), rel=1e-8)


def test_groups_whose_matrix_is_zero_are_left_out():
    weight, gram = layer(2, 3, 5)
    alone = weight[:1], gram[:1]
    dead = weight, torch.stack([gram[0], torch.zeros(3, 3)])
    for measure in (effective_rank, participation_ratio):
        assert measure(*dead) == pytest.approx(measure(*alone))
        assert math.isnan(measure(weight, torch.zeros_like(gram)))
    assert subspace_overlap(*dead, 2) == pytest.approx(subspace_overlap(*alone, 2))
    assert math.isnan(subspace_overlap(weight, torch.zeros_like(gram), 2))


@SETTINGS
@given(st.lists(st.tuples(st.floats(-5, 5), st.integers(1, 9)), min_size=2, max_size=8), st.floats(-5, 5))
def test_bias_is_the_distance_to_the_centre_of_the_jackknife(groups, whole):
    without, sizes = [t for t, _ in groups], [m for _, m in groups]
    n = sum(sizes)
    pseudo = [n / m * whole - (n / m - 1) * theta for theta, m in groups]
    centre = sum(m / n * p for p, m in zip(pseudo, sizes, strict=True))  # the weighted mean of pseudo-values
    bias = jackknife_bias(whole, without, sizes)
    assert bias == pytest.approx(whole - centre, abs=1e-9)
    # The standard error is the spread of the same pseudo-values around the same centre.
    spread = math.sqrt(
        sum((p - whole + bias) ** 2 / (n / m - 1) for p, m in zip(pseudo, sizes, strict=True)) / len(sizes)
    )
    assert jackknife(whole, without, sizes) == pytest.approx(spread, abs=1e-9)


def test_bias_needs_two_groups():
    assert jackknife_bias(1.0, [1.0], [3]) is None
    assert jackknife_bias(1.0, [1.0, 1.0], [3, 2]) == 0
    assert math.isnan(jackknife_bias(1.0, [math.nan, 1.0], [1, 1]))


W, S = layer(1, 2, 3)
BAD = [
    (lambda: correlation(W[0], S), r"three axes \[g, k, d\].*got shape \(2, 3\)"),
    (lambda: correlation(W.long(), S), "weight must be a tensor of floating-point numbers, got torch.int64"),
    (lambda: correlation(W * math.nan, S), "weight must be finite"),
    (lambda: correlation(W, S / 0), "gram must be finite"),
    (lambda: correlation(W[:, :0], S[:, :0, :0]), "none of them empty"),
    (lambda: correlation(W, torch.eye(3)[None]), r"gram must have shape \(1, 2, 2\)"),
    (lambda: correlation(W, torch.tensor([[[1.0, 0.5], [0.0, 1.0]]])), "gram must be symmetric"),
    (lambda: correlation(W, -torch.eye(2)[None]), "positive semi-definite"),
    (lambda: correlation(W, S, change=W[..., 1:]), r"change must have .* \[1, j, 3\], got \(1, 2, 2\)"),
    (lambda: correlation(W, S, kind="spearman"), "kind must be one of"),
    (lambda: correlation(W, S, power=0), "power must be positive"),
    (lambda: power_gram(W, S, math.nan), "power must be positive"),
    (lambda: null_correlations(W, S, null="none"), "null must be one of"),
    (lambda: null_correlations(W, S, draws=0), "draws must be at least 1"),
    (lambda: top_eigenvectors(W, S, 0), "at least 1, got 0"),
    (lambda: principal_cosines(W, W[..., :2]), "the same shape"),
    (lambda: principal_cosines(W, W), "columns of a must be orthonormal"),
    (lambda: effective_rank(W, S[0]), r"three axes \[g, k, k\]"),
    (lambda: jackknife_bias(1.0, [1.0, 2.0], [1]), "got 1 sizes for 2 groups"),
    (lambda: jackknife_bias(1.0, [1.0, 2.0], [1, 0]), "must be positive"),
]


@pytest.mark.parametrize(("call", "message"), BAD)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
