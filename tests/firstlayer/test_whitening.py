import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles.crops import photograph_crops
from torch import nn

from convscope.core.errors import ConvscopeError
from convscope.core.moments import patch_moments
from convscope.firstlayer.profile import bank_gram, energy_profile
from convscope.firstlayer.whitening import (
    profile_gram,
    spectral_whiteness,
    whiteness,
    whitening_curves,
    whitening_gram,
)

LAGS = [(delta, 0) for delta in (1, 4)] + [(0, delta) for delta in (1, 4)]


@settings(max_examples=25, deadline=None, derandomize=True)
@given(st.integers(1, 6), st.integers(0, 999))
def test_whiteness_is_the_ratio_for_the_symmetric_root(d, seed):
    generator = torch.Generator().manual_seed(seed)
    a, b = torch.randn(2, d, 2 * d, dtype=torch.float64, generator=generator)
    sigma, gram = a @ a.T, b @ b.T
    values, vectors = torch.linalg.eigh(sigma)
    root = (vectors * values.clamp(min=0).sqrt()) @ vectors.T
    z = root @ gram @ root
    expected = float(z.trace() ** 2 / (d * (z @ z).trace()))
    assert whiteness(gram, sigma) == pytest.approx(expected, rel=1e-8)
    assert 1 / d - 1e-9 <= whiteness(gram, sigma) <= 1 + 1e-9
    # Neither side's scale matters, nor a rotation of both.
    q = torch.linalg.qr(torch.randn(d, d, dtype=torch.float64, generator=generator))[0]
    assert whiteness(3 * q @ gram @ q.T, q @ sigma @ q.T) == pytest.approx(expected, rel=1e-8)


def test_spectral_whiteness_sees_only_the_diagonal():
    lam2 = torch.tensor([4.0, 1.0, 0.25], dtype=torch.float64)
    assert spectral_whiteness(lam2.rsqrt(), lam2) == pytest.approx(1)
    assert spectral_whiteness(torch.tensor([1.0, 0.0, 0.0]), lam2) == pytest.approx(1 / 3)
    diagonal = profile_gram(torch.tensor([1.0, 2.0, 0.5]), torch.eye(3))
    expected = spectral_whiteness(torch.tensor([1.0, 2.0, 0.5]), lam2)
    assert whiteness(diagonal, torch.diag(lam2)) == pytest.approx(expected)
    rank_one = torch.outer(lam2.rsqrt(), lam2.rsqrt())  # a perfect profile, all filters along one line
    assert spectral_whiteness(rank_one.diagonal().sqrt(), lam2) == pytest.approx(1)
    assert whiteness(rank_one, torch.diag(lam2)) == pytest.approx(1 / 3)


def test_directions_without_variance_do_not_count():
    gray = photograph_crops(40, 12)[0][:, :1].expand(-1, 3, -1, -1)
    moments = patch_moments(gray, nn.Conv2d(3, 8, 3))
    assert whiteness(whitening_gram(moments), moments.covariance) == pytest.approx(1, abs=1e-6)
    assert bool(whitening_gram(moments).isfinite().all())


def test_regularised_whitening_lies_between_perfect_and_none():
    moments = patch_moments(photograph_crops(40, 16)[0], nn.Conv2d(3, 8, 3))
    scores = [whiteness(whitening_gram(moments, eps), moments.covariance) for eps in (0, 1e-4, 1e-2, 1e3)]
    assert scores == sorted(scores, reverse=True)
    assert scores[-1] == pytest.approx(whiteness(torch.eye(27), moments.covariance), rel=1e-2)
    with pytest.raises(ValueError, match="eps must not be negative"):
        whitening_gram(moments, -1.0)


@pytest.mark.parametrize("groups", [1, 3])
def test_curves(groups):
    images = photograph_crops(40, 16)[0]
    conv = nn.Conv2d(3, 12, 3, groups=groups)
    moments = patch_moments(images, conv, lags=LAGS)
    whitening = whitening_curves(conv.weight, moments, [0, 1, 4], tau=10.0, draws=10)
    for curve in (whitening.raw, whitening.random, whitening.bank, whitening.perfect, whitening.formula):
        assert curve is not None
        assert curve.shape == (3,)
        assert float(curve[0]) == pytest.approx(1)
    assert float(whitening.perfect[2]) < float(whitening.raw[2])
    assert 0 < whitening.whiteness < 1
    profile = energy_profile(conv.weight, moments)
    assert whitening.spectral_whiteness == pytest.approx(spectral_whiteness(profile.values, moments.eigenvalues))
    assert whitening_curves(conv.weight, moments, [1], draws=3).formula is None


def test_a_bank_of_zeros_is_undefined():
    images = photograph_crops(20, 12)[0]
    conv = nn.Conv2d(3, 4, 3)
    moments = patch_moments(images, conv, lags=LAGS)
    result = whitening_curves(conv.weight, moments, [0, 1], init=conv.weight, draws=3)
    assert bool(result.bank.isnan().all())
    assert result.whiteness != result.whiteness
    assert not bank_gram(conv.weight, moments, conv.weight).any()


def test_constant_images_and_missing_lags_are_refused():
    conv = nn.Conv2d(1, 2, 3)
    with pytest.raises(ConvscopeError, match="no variance"):
        whitening_curves(conv.weight, patch_moments(torch.zeros(2, 1, 6, 6), conv), [0], draws=2)
    moments = patch_moments(torch.randn(2, 1, 6, 6), conv, lags=LAGS)
    with pytest.raises((ConvscopeError, ValueError), match=r"lag|apart"):
        whitening_curves(conv.weight, moments, [3], draws=2)
