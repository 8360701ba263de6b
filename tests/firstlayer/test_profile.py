import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles.profiles import energy_profile_loops
from torch import nn

from convscope.core.errors import ConvscopeError
from convscope.core.moments import patch_moments
from convscope.firstlayer.fit import fit_energy_profile
from convscope.firstlayer.profile import bank_gram, energy_profile

SETTINGS = settings(max_examples=15, deadline=None, derandomize=True)


def example(channels=2, kernel=3, groups=1, filters=6, seed=0):
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(6, channels, 9, 9, dtype=torch.float64, generator=generator).cumsum(2)
    conv = nn.Conv2d(channels, filters, kernel, groups=groups)
    weight = torch.randn(conv.weight.shape, dtype=torch.float64, generator=generator)
    return weight, patch_moments(images, conv)


@SETTINGS
@given(st.integers(1, 3), st.integers(1, 3), st.integers(1, 9), st.integers(0, 99))
def test_equals_loops(channels, kernel, filters, seed):
    weight, moments = example(channels, kernel, 1, filters, seed)
    expected = energy_profile_loops(weight, moments.eigenvectors)
    torch.testing.assert_close(energy_profile(weight, moments).values, expected, rtol=1e-12, atol=1e-12)


@SETTINGS
@given(st.floats(1e-3, 1e3), st.integers(0, 99))
def test_invariances(scale, seed):
    weight, moments = example(seed=seed)
    generator = torch.Generator().manual_seed(seed)
    values = energy_profile(weight, moments).values
    rotation = torch.linalg.qr(torch.randn(6, 6, dtype=torch.float64, generator=generator))[0]
    mixed = (rotation @ weight.flatten(1)).reshape(weight.shape)
    torch.testing.assert_close(energy_profile(scale * mixed, moments).values, scale * values, rtol=1e-11, atol=1e-11)
    norm = (energy_profile(weight, moments).values ** 2).sum()
    torch.testing.assert_close(norm, (weight**2).sum() / 6, rtol=1e-12, atol=0)


def test_groups_have_their_own_bases():
    weight, moments = example(channels=4, groups=2)
    profile = energy_profile(weight, moments)
    assert profile.values.shape == (2, 18)
    for g in range(2):
        expected = energy_profile_loops(weight[3 * g : 3 * g + 3], moments.eigenvectors[g])
        torch.testing.assert_close(profile.values[g], expected, rtol=1e-12, atol=1e-12)
    assert profile.off_diagonal.shape == profile.participation.shape == (2,)
    assert bank_gram(weight, moments).shape == (2, 18, 18)
    fit = fit_energy_profile(profile, moments)
    assert fit.curve.shape == (2, 18)
    assert fit.components == 36


def test_initial_weights_are_subtracted():
    weight, moments = example()
    start = torch.randn_like(weight)
    profile = energy_profile(weight + start, moments, start)
    assert profile.subtracted
    torch.testing.assert_close(profile.values, energy_profile(weight, moments).values, rtol=1e-10, atol=1e-10)


def test_a_frozen_layer_is_zero_and_its_correlation_undefined():
    weight, moments = example()
    profile = energy_profile(weight, moments, weight)
    assert profile.zero
    assert not profile.values.any()
    assert profile.effective_filters == 0
    assert profile.off_diagonal.isnan()
    fit = fit_energy_profile(profile, moments)
    assert fit.correlation != fit.correlation
    assert fit.tau != fit.tau
    assert not fit.tau_identified
    assert not energy_profile(weight, moments, weight, normalise="max").values.any()


def test_batch_norm_folds_into_the_filters():
    weight, moments = example()
    norm = nn.BatchNorm2d(6).double()
    norm.weight.data.uniform_(0.5, 2)
    norm.running_var.uniform_(0.5, 2)
    scaled = weight * (norm.weight / (norm.running_var + norm.eps).sqrt()).detach()[:, None, None, None]
    folded = energy_profile(weight, moments, bn=(norm.weight, norm.running_var, norm.eps))
    torch.testing.assert_close(folded.values, energy_profile(scaled, moments).values, rtol=1e-12, atol=1e-12)
    with pytest.raises(ValueError, match="bn must hold gamma and running_var of shape"):
        energy_profile(weight, moments, bn=(norm.weight[:2], norm.running_var, norm.eps))


def test_dead_filters_are_listed_and_left_out_of_the_unit_length_view():
    weight, moments = example()
    weight[[1, 2, 3, 4]] *= 1e-9  # most filters dead: the typical norm is that of the living
    profile = energy_profile(weight, moments)
    assert profile.dead == (1, 2, 3, 4)
    assert profile.effective_filters == 2
    unit = energy_profile(weight, moments, per_filter=True)
    assert float((unit.values**2).sum()) == pytest.approx(2 / 6)
    huge = weight.clone()
    huge[0] *= 1e4
    torch.testing.assert_close(energy_profile(huge, moments, per_filter=True).values, unit.values)


def test_normalised_views():
    weight, moments = example()
    assert energy_profile(weight, moments, normalise="max").values.max() == 1
    assert float(energy_profile(weight, moments, normalise="l2").values.norm()) == pytest.approx(1)
    with pytest.raises(ValueError, match="normalise must be None, 'max' or 'l2', got 'min'"):
        energy_profile(weight, moments, normalise="min")  # type: ignore[arg-type]


def test_participation_counts_directions():
    weight, moments = example(filters=1)
    assert float(energy_profile(weight, moments).participation) == pytest.approx(1)
    whole = torch.eye(18, dtype=torch.float64).reshape(18, 2, 3, 3)
    assert float(energy_profile(whole, moments).participation) == pytest.approx(18)
    assert float(energy_profile(whole, moments).off_diagonal) == pytest.approx(0, abs=1e-12)


def test_errors_say_what_to_do():
    weight, moments = example()
    with pytest.raises(ValueError, match=r"weight has shape \(6, 3, 3, 3\) but the moments are of patches of shape"):
        energy_profile(torch.zeros(6, 3, 3, 3), moments)
    with pytest.raises(ValueError, match=r"weight has shape \(6, 3, 2, 3\)"):
        energy_profile(weight.transpose(1, 2), moments)  # the same number of entries in another order
    with pytest.raises(ValueError, match="init has shape"):
        energy_profile(weight, moments, weight[:2])
    weight[2, 0, 0, 0] = torch.nan
    with pytest.raises(ConvscopeError, match="1 of 6 filters hold NaN"):
        energy_profile(weight, moments)
    _, grouped = example(channels=4, groups=2)
    with pytest.raises(ValueError, match="expected a multiple of 2 groups"):
        energy_profile(torch.zeros(3, 2, 3, 3), grouped)
