import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from convscope.core.errors import ConvscopeError
from convscope.firstlayer.baselines import random_profiles
from convscope.firstlayer.consistency import EIGENVALUE_CURVE, consistency_matrix
from convscope.firstlayer.prediction import predict_energy_profile
from convscope.firstlayer.profile import EnergyProfile

LAM2 = torch.logspace(1, -4, 27, dtype=torch.float64)


@settings(max_examples=20, deadline=None, derandomize=True)
@given(st.integers(2, 5), st.integers(0, 99))
def test_is_the_correlation_matrix(m, seed):
    profiles = torch.rand(m, 27, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) + 0.01
    result = consistency_matrix({str(i): p for i, p in enumerate(profiles)}, LAM2)
    rows = torch.cat([profiles, LAM2.sqrt()[None]])
    torch.testing.assert_close(result.matrix, torch.corrcoef(rows), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(result.log_matrix, torch.corrcoef(rows.log()), rtol=1e-10, atol=1e-10)
    assert result.common_basis
    assert result.components == 27


def test_rows_for_init_and_eigenvalue_curve():
    planted = predict_energy_profile(LAM2, 30.0)
    noise = random_profiles(64, 27, 4)
    networks = {"a": planted * noise[0], "b": planted * noise[1]}
    result = consistency_matrix(networks, LAM2, {"a": noise[2], "b": noise[3]})
    assert result.names == ("a", "b", "a (init)", "b (init)", EIGENVALUE_CURVE)
    mean, deviation, pairs = result.spread(["a", "b"])
    assert (mean > 0.95, deviation, pairs) == (True, None, 1)
    chance, deviation, pairs = result.spread(["a", "b"], ["a (init)", "b (init)"])
    assert abs(chance) < 3 * result.chance
    assert deviation is not None
    assert pairs == 4
    assert result.chance == pytest.approx(1 / math.sqrt(26))
    with pytest.raises(ValueError, match="no pair among"):
        result.spread(["a"])
    with pytest.raises(ValueError, match="no pair among"):
        result.spread(["a", "unknown"])


def test_own_bases_are_compared_after_grouping_near_degenerate_components():
    lam2 = torch.tensor([9.0, 4.0, 3.95, 1.0, 0.3], dtype=torch.float64)
    other = torch.tensor([7.0, 4.0, 2.0, 1.9, 0.3], dtype=torch.float64)
    a = torch.tensor([1.0, 2.0, 0.5, 3.0, 1.0])
    swapped = a[[0, 2, 1, 3, 4]]
    common = consistency_matrix({"a": a, "b": swapped}, lam2)
    own = consistency_matrix({"a": a, "b": swapped}, {"a": lam2, "b": lam2})
    assert float(common.matrix[0, 1]) < 0.9
    assert float(own.matrix[0, 1]) == pytest.approx(1)
    assert own.components == 4
    assert not own.common_basis
    assert consistency_matrix({"a": a, "b": swapped}, {"a": lam2, "b": other}).components == 3


def test_zero_profiles_are_undefined_not_perfect():
    zero = EnergyProfile(torch.zeros(27), 4, (0, 1, 2, 3), torch.tensor(0.0), torch.tensor(0.0), True, True)
    result = consistency_matrix({"frozen": zero, "again": zero, "a": LAM2}, LAM2)
    assert bool(result.matrix[:2].isnan().all())
    assert bool(result.log_matrix[0].isnan().all())
    assert float(result.matrix[2, 2]) == pytest.approx(1)


def test_wrong_input_is_refused():
    with pytest.raises(ValueError, match="at least one profile"):
        consistency_matrix({}, LAM2)
    with pytest.raises(ValueError, match=r"must all have one shape \[d\]"):
        consistency_matrix({"a": torch.ones(9)}, LAM2)
    with pytest.raises(ValueError, match=r"eigenvalues are missing for \['b'\]"):
        consistency_matrix({"a": LAM2, "b": LAM2}, {"a": LAM2})
    with pytest.raises(ConvscopeError, match="profile of 'a' holds NaN"):
        consistency_matrix({"a": torch.full((27,), torch.nan)}, LAM2)
