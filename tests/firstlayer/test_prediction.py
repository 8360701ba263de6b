import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles.profiles import predicted_loops

from convscope.core.similarity import pearson
from convscope.firstlayer.linear_cnn import linear_cnn_change
from convscope.firstlayer.prediction import (
    PEAK,
    discrete_growth,
    predict_discrete,
    predict_energy_profile,
    predict_from_matrix,
    predict_with_heads,
    tau_at_peak,
    tau_of_sgd,
    whitened_dimension,
)

SETTINGS = settings(max_examples=40, deadline=None, derandomize=True)
SPECTRA = st.lists(st.floats(1e-9, 1e3), min_size=1, max_size=8).map(lambda v: sorted(v, reverse=True))


@SETTINGS
@given(SPECTRA, st.floats(0, 1e6), st.sampled_from([0.0, 0.3]))
def test_equals_the_formula(eigenvalues, tau, weight_decay):
    lam2 = torch.tensor(eigenvalues, dtype=torch.float64)
    expected = torch.tensor(predicted_loops(eigenvalues, tau, weight_decay), dtype=torch.float64)
    result = predict_energy_profile(lam2, tau, weight_decay=weight_decay)
    torch.testing.assert_close(result, expected, rtol=1e-12, atol=0)


@SETTINGS
@given(SPECTRA, st.floats(1e-3, 1e3), st.floats(1e-2, 1e2))
def test_only_tau_times_variance_matters(eigenvalues, tau, unit):
    lam2 = torch.tensor(eigenvalues, dtype=torch.float64)
    scaled = predict_energy_profile(lam2 * unit, tau / unit) * math.sqrt(unit)
    torch.testing.assert_close(scaled, predict_energy_profile(lam2, tau), rtol=1e-10, atol=0)


def test_limits_and_directions_without_variance():
    lam2 = torch.tensor([4.0, 1.0, 0.0, -1e-12], dtype=torch.float64)
    whitening = predict_energy_profile(lam2, math.inf)
    torch.testing.assert_close(whitening, torch.tensor([0.5, 1.0, 0.0, 0.0], dtype=torch.float64))
    early = predict_energy_profile(lam2, 1e-9) / 1e-9
    torch.testing.assert_close(early, lam2.clamp(min=0).sqrt(), rtol=1e-8, atol=0)
    assert not predict_energy_profile(lam2, 0.0).any()
    assert torch.equal(predict_energy_profile(lam2, 1.0, weight_decay=0.5)[2:], torch.zeros(2, dtype=torch.float64))


def test_broadcasts_over_tau():
    lam2 = torch.rand(3, 5, dtype=torch.float64)
    taus = torch.tensor([0.1, 1.0])
    stacked = predict_energy_profile(lam2, taus[:, None])
    assert stacked.shape == (2, 3, 5)
    torch.testing.assert_close(stacked[1], predict_energy_profile(lam2, 1.0))


@SETTINGS
@given(st.integers(1, 5), st.floats(1e-2, 1e2), st.integers(0, 99))
def test_matrix_variant_reduces_to_the_formula_in_its_own_basis(d, tau, seed):
    generator = torch.Generator().manual_seed(seed)
    root = torch.randn(d, d, dtype=torch.float64, generator=generator)
    matrix = root @ root.T
    mu, q = torch.linalg.eigh(matrix)
    torch.testing.assert_close(
        predict_from_matrix(matrix, q, tau), predict_energy_profile(mu, tau), rtol=1e-6, atol=1e-8 * (1 + tau)
    )
    # In any basis the energy is the same in total.
    total = predict_from_matrix(matrix, torch.eye(d), torch.tensor([tau, 2 * tau], dtype=torch.float64))
    assert total.shape == (2, d)
    torch.testing.assert_close((total[0] ** 2).sum(), (predict_energy_profile(mu, tau) ** 2).sum(), rtol=1e-9, atol=0)


def test_matrix_variant_over_groups_and_times():
    root = torch.randn(3, 4, 4, dtype=torch.float64)
    matrix, basis = root @ root.mT, torch.linalg.qr(torch.randn(3, 4, 4, dtype=torch.float64))[0]
    stacked = predict_from_matrix(matrix, basis, torch.tensor([0.5, 2.0]))
    assert stacked.shape == (2, 3, 4)
    for g in range(3):
        torch.testing.assert_close(stacked[1, g], predict_from_matrix(matrix[g], basis[g], 2.0))


def test_average_patch_prediction_is_exact_for_average_pooling():
    """Averaged over random labels, the closed-form dynamics have exactly the profile of the matrix variant."""
    generator = torch.Generator().manual_seed(0)
    averages = torch.randn(60, 6, dtype=torch.float64, generator=generator) * torch.logspace(0, -1.5, 6)
    averages = averages @ torch.linalg.qr(torch.randn(6, 6, dtype=torch.float64, generator=generator))[0]
    second = averages.T @ averages / 60
    start, head = torch.zeros(1, 6, dtype=torch.float64), torch.ones(1, 1)
    # White labels: the energies of one label at a time add up.
    changes = [linear_cnn_change(second, row[None] / 60, head, start, 1e-4, 200_000) for row in averages]
    energy = torch.cat(changes).square().sum(0)
    ratio = energy.sqrt() / predict_from_matrix(second, torch.eye(6), 20.0)
    assert float(ratio.max() / ratio.min()) < 1.001


@SETTINGS
@given(st.floats(0.01, 0.9))
def test_discrete_steps_approach_the_continuous_form(x):
    lam2 = torch.logspace(0, -4, 20, dtype=torch.float64)
    discrete, continuous = predict_discrete(lam2, x, 20), predict_energy_profile(lam2, x * 20)
    assert float(pearson(discrete, continuous)) > 0.999
    if x < 0.02:
        torch.testing.assert_close(discrete, continuous, rtol=0.02, atol=0)


@SETTINGS
@given(st.floats(0, 1.99), st.integers(1, 300))
def test_discrete_growth_is_the_geometric_sum(x, steps):
    expected = math.fsum((1 - x) ** n for n in range(steps))
    assert float(discrete_growth(torch.tensor(x, dtype=torch.float64), steps)) == pytest.approx(expected, rel=1e-9)


def test_heads_of_equal_gain_only_change_the_time():
    lam2 = torch.tensor([3.0, 1.0, 0.1], dtype=torch.float64)
    many = predict_with_heads(lam2, 0.5, torch.full((4,), 3.0))
    assert float(pearson(many, predict_energy_profile(lam2, 1.5))) == pytest.approx(1, abs=1e-12)
    mixed = predict_with_heads(lam2, torch.tensor([0.5, 1.0]), torch.tensor([3.0, 0.0]), weight_decay=0.1)
    assert mixed.shape == (2, 3)


def test_several_outputs_match_the_closed_form_on_average():
    generator = torch.Generator().manual_seed(0)
    lam2 = torch.tensor([2.0, 0.5, 0.05], dtype=torch.float64)
    head = torch.randn(5, 2, dtype=torch.float64, generator=generator)
    gains = torch.linalg.eigvalsh(head.T @ head)
    energy = torch.zeros(3, dtype=torch.float64)
    for drive in torch.eye(6, dtype=torch.float64).reshape(6, 2, 3) * lam2.sqrt():
        init = torch.zeros(5, 3, dtype=torch.float64)
        energy += linear_cnn_change(torch.diag(lam2), drive, head, init, 1e-4, 20_000, weight_decay=0.2).square().sum(0)
    ratio = energy.sqrt() / predict_with_heads(lam2, 2.0, gains, weight_decay=0.2)
    assert float(ratio.max() / ratio.min()) < 1.001


def test_times():
    assert tau_of_sgd(0.01, 500, head_gain=2.0) == pytest.approx(10)
    assert tau_of_sgd(0.01, 500, momentum=0.9) == pytest.approx(50)
    lam2 = torch.logspace(1, -3, 2000, dtype=torch.float64)
    assert tau_at_peak(predict_energy_profile(lam2, 5.0), lam2) == pytest.approx(5, rel=0.01)
    assert math.isnan(tau_at_peak(torch.zeros(3), torch.ones(3)))
    assert whitened_dimension(torch.tensor([1.0, 1.0]), math.inf) == 2
    assert float(predict_energy_profile(torch.tensor([PEAK]), 1.0)) == pytest.approx(0.63817, abs=1e-5)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: predict_energy_profile(torch.tensor([1.0]), -1.0), "tau must not be negative"),
        (lambda: predict_energy_profile(torch.tensor([1.0]), math.nan), "tau must not be negative or NaN"),
        (lambda: predict_energy_profile(torch.tensor([1.0, -0.5]), 1.0), "must be variances"),
        (lambda: predict_energy_profile(torch.tensor([math.nan]), 1.0), "must be finite"),
        (lambda: predict_energy_profile(torch.tensor([1.0]), 1.0, weight_decay=-1.0), "weight_decay must not be"),
        (lambda: predict_energy_profile(torch.tensor(1.0), 1.0), "at least one component"),
        (lambda: predict_from_matrix(-torch.eye(2), torch.eye(2), 1.0), "positive semi-definite"),
        (lambda: predict_discrete(torch.ones(2), 0.0, 3), "must be positive"),
        (lambda: tau_of_sgd(0.1, 10, momentum=1.0), "momentum must lie in"),
        (lambda: tau_at_peak(torch.tensor([0.0, 1.0]), torch.tensor([1.0, 0.0])), "without variance"),
    ],
)
def test_wrong_arguments(call, message):
    with pytest.raises(ValueError, match=message):
        call()
