import math

import numpy as np
import pytest
import torch
from filters import LAYERS, assert_same_distribution, layer, null_overlaps, overlap, turned
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles.agop_dense import agop_blocks, nfm_blocks, overlap_of_blocks

from convscope.ansatz.compare import Comparison
from convscope.ansatz.subspaces import (
    principal_cosines,
    top_eigenvectors,
)

SETTINGS = settings(max_examples=80, deadline=None, derandomize=True)


@pytest.mark.parametrize("d", [6, 3])
def test_chance_of_overlaps_agrees_with_rotations_of_another_library(d):
    weight, gram = layer(2, 4, d)
    expected = torch.tensor([
        overlap_of_blocks(nfm_blocks(weight), agop_blocks(weight, s), 2) for s in turned(gram, 500)
    ])
    assert_same_distribution(null_overlaps(weight, gram, 2, draws=500), expected)


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
    assert overlap(weight, gram, r) == pytest.approx(expected, abs=1e-8)
    assert overlap(weight, torch.eye(k).expand_as(gram), r) == pytest.approx(1)
    cosines = principal_cosines(top_eigenvectors(weight, None, r)[1], top_eigenvectors(weight, gram, r)[1])
    assert float(cosines.square().mean()) == pytest.approx(expected, abs=1e-8)


def test_principal_cosines_of_unrelated_spaces():
    # Mean squared cosine of random spaces of r dimensions in d: r / d.
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
    comparison = Comparison(weight)
    ranks = [np.trace(m) / np.linalg.eigvalsh(m)[-1] for m in blocks]
    matrices = comparison.nfm if nfm else comparison.agop(gram)
    assert float(matrices.effective_ranks()) == pytest.approx(np.mean(ranks), rel=1e-8)


def test_groups_whose_matrix_is_zero_are_left_out():
    weight, gram = layer(2, 3, 5)
    alone = weight[:1], gram[:1]
    dead = weight, torch.stack([gram[0], torch.zeros(3, 3)])
    rank_of = [float(Comparison(w).agop(s).effective_ranks()) for w, s in (dead, alone)]
    assert rank_of[0] == pytest.approx(rank_of[1])
    assert Comparison(weight).agop(torch.zeros_like(gram)).effective_ranks().isnan()
    assert overlap(*dead, 2) == pytest.approx(overlap(*alone, 2))
    assert math.isnan(overlap(weight, torch.zeros_like(gram), 2))
    assert null_overlaps(weight, torch.zeros_like(gram), 2, draws=2).isnan().all()


W, S = layer(1, 2, 3)
BAD = [
    (lambda: null_overlaps(W, S, 1, draws=0), "draws must be at least 1"),
    (lambda: overlap(W, S, 0), "at least 1, got 0"),
    (lambda: top_eigenvectors(W, S, 0), "at least 1, got 0"),
    (lambda: principal_cosines(W, W[..., :2]), "the same shape"),
    (lambda: principal_cosines(W, W), "columns of a must be orthonormal"),
    (lambda: top_eigenvectors(W, S[0], 1), r"three axes \[g, k, k\]"),
]


@pytest.mark.parametrize(("call", "message"), BAD)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
