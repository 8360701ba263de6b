import math
from types import SimpleNamespace

import pytest
import torch
from oracles.crops import photograph_crops
from torch import nn

from convscope.core.errors import ConvscopeError
from convscope.core.moments import patch_moments
from convscope.core.similarity import pearson
from convscope.firstlayer.baselines import (
    baseline_curves,
    baseline_scores,
    fit_bump,
    permuted_profiles,
    random_profiles,
)
from convscope.firstlayer.components import degenerate_groups, group_energy, kept
from convscope.firstlayer.fit import fit_energy_profile
from convscope.firstlayer.heldout import held_out_components, scale_patches, score_patch_scaling
from convscope.firstlayer.prediction import predict_energy_profile, predict_from_matrix
from convscope.firstlayer.profile import energy_profile

# Read off the published figure of VGG11 on CIFAR-10: the measured profile, and the variances behind the curve.
MEASURED = [
    float(v)
    for v in [
        ".21",
        ".42",
        ".61",
        ".67",
        ".60",
        ".77",
        ".99",
        ".77",
        ".60",
        ".67",
        ".60",
        ".52",
        ".36",
        ".20",
        ".16",
        ".11",
        ".28",
        ".10",
        ".07",
        ".10",
        ".07",
        ".05",
        ".04",
        ".02",
        ".02",
        ".02",
        ".01",
    ]
]
VARIANCES = [
    float(v)
    for v in [
        "20.5",
        "2.1",
        "1.6",
        "1.2",
        ".38",
        ".32",
        ".27",
        ".22",
        ".080",
        ".077",
        ".074",
        ".061",
        ".023",
        ".020",
        ".016",
        ".012",
        ".010",
        ".008",
        ".0036",
        ".0028",
        ".0024",
        ".0024",
        ".0021",
        ".0008",
        ".0008",
        ".0006",
        ".0002",
    ]
]


@pytest.fixture(scope="module")
def moments():
    return patch_moments(photograph_crops(300, 24)[0], nn.Conv2d(3, 64, 3))


def diagonal_moments(lam2):
    lam2 = torch.tensor(lam2, dtype=torch.float64)
    return SimpleNamespace(eigenvalues=lam2, covariance=torch.diag(lam2), eigenvectors=torch.eye(len(lam2)))


def test_the_published_curve_gives_the_published_numbers():
    fit = fit_energy_profile(torch.tensor(MEASURED), diagonal_moments(VARIANCES))
    assert fit.correlation == pytest.approx(0.963, abs=0.005)
    assert fit.age == pytest.approx(68, rel=0.05)
    # A bump in the index that knows no theory does as well; the reader must see that.
    assert fit.baselines["index bump"][0] == pytest.approx(0.969, abs=0.005)
    assert fit.tau_identified
    assert fit.tau / 2 < fit.tau_peak < fit.tau * 2


@pytest.mark.parametrize("covariance", ["patch", "average"])
def test_planted_profiles_come_back(moments, covariance):
    matrix = moments.covariance if covariance == "patch" else moments.average_patch_covariance
    tau = 200 / float(torch.linalg.eigvalsh(matrix)[-1])
    planted = 3 * predict_from_matrix(matrix, moments.eigenvectors, tau)
    fit = fit_energy_profile(planted, moments, covariance=covariance)
    assert fit.age == pytest.approx(200, rel=1e-3)
    assert fit.tau_identified
    assert fit.relative_rmse < 1e-4
    torch.testing.assert_close(fit.curve, planted, rtol=1e-3, atol=1e-6)
    assert fit.log_correlation == pytest.approx(1, abs=1e-6)
    given = fit_energy_profile(planted, moments, covariance=matrix)
    assert given.correlation == pytest.approx(fit.correlation, abs=1e-9)
    assert given.covariance == "matrix"


def test_bare_eigenvalue_curves_do_not_identify_tau(moments):
    for values in (moments.eigenvalues.sqrt(), moments.eigenvalues.rsqrt()):
        fit = fit_energy_profile(values, moments)
        assert fit.correlation > 0.9999
        assert not fit.tau_identified
        assert fit_energy_profile(values, moments).baselines["flat"][0] != 0


def test_flat_profiles_have_no_correlation(moments):
    fit = fit_energy_profile(torch.ones(27), moments)
    for value in (fit.tau, fit.age, fit.correlation, fit.log_correlation, fit.relative_rmse, fit.whitened_dimension):
        assert math.isnan(value)
    assert not fit.tau_identified
    assert not fit.at_edge
    assert all(math.isnan(r) for r, _ in fit.baselines.values())


def test_random_banks_score_within_their_null(moments):
    weight = torch.randn(64, 3, 3, 3, generator=torch.Generator().manual_seed(1))
    fit = fit_energy_profile(energy_profile(weight, moments), moments)
    null = fit.nulls["random filters"]
    assert null.mean == pytest.approx(0.27, abs=0.08)
    assert null.low < fit.correlation < null.largest
    assert "random filters" not in fit_energy_profile(torch.rand(27), moments).nulls


def test_directions_without_variance_are_left_out():
    gray = photograph_crops(60, 16)[0][:, :1].expand(-1, 3, -1, -1)  # gray images in three equal channels
    moments = patch_moments(gray, nn.Conv2d(3, 8, 3))
    assert int(kept(moments.eigenvalues).sum()) == 9
    planted = predict_energy_profile(moments.eigenvalues, 100 / moments.eigenvalues[0])
    planted[9:] = 5.0  # whatever the filters do there
    fit = fit_energy_profile(planted, moments)
    assert fit.components == 9
    assert fit.age == pytest.approx(100, rel=0.01)


def test_scatter_counts_the_outputs(moments):
    curve = predict_energy_profile(moments.eigenvalues, 100 / moments.eigenvalues[0])
    counts = [fit_energy_profile(curve * s, moments).independent_outputs for s in random_profiles(50, 27, 40)]
    assert 35 < float(torch.tensor(counts).median()) < 75


def test_near_degenerate_components_are_averaged(moments):
    lam2 = torch.tensor([9.0, 4.0, 3.99, 1.0, 0.5, 0.2], dtype=torch.float64)
    planted = predict_energy_profile(lam2, 1.0)
    turned = planted.clone()
    turned[1], turned[2] = planted[1] * 1.5**0.5, planted[2] * 0.5**0.5  # the same energy in their span
    fit = fit_energy_profile(turned, diagonal_moments(lam2.tolist()))
    assert fit.grouped_correlation > 0.99 > 0.95 > fit.correlation
    assert degenerate_groups(lam2).tolist() == [0, 1, 1, 2, 3, 4]
    assert float(group_energy(turned, degenerate_groups(lam2))[1]) == pytest.approx(float(planted[1]), rel=1e-2)


def test_wrong_input_is_refused(moments):
    with pytest.raises(TypeError, match="expected an EnergyProfile or a tensor, got list"):
        fit_energy_profile([1.0] * 27, moments)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"profile has shape \(26,\)"):
        fit_energy_profile(torch.ones(26), moments)
    with pytest.raises(ConvscopeError, match="NaN, infinite or negative"):
        fit_energy_profile(torch.full((27,), torch.nan), moments)
    with pytest.raises(ValueError, match="covariance must be 'patch', 'average' or a matrix, got 'mean'"):
        fit_energy_profile(torch.rand(27), moments, covariance="mean")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="covariance has shape"):
        fit_energy_profile(torch.rand(27), moments, covariance=torch.eye(9))
    with pytest.raises(ConvscopeError, match="no variance"):
        fit_energy_profile(torch.rand(9), patch_moments(torch.zeros(2, 1, 5, 5), nn.Conv2d(1, 1, 3)))


def test_one_component_has_no_correlation():
    moments = patch_moments(torch.randn(5, 1, 4, 4), nn.Conv2d(1, 2, 1))
    fit = fit_energy_profile(energy_profile(torch.randn(2, 1, 1, 1), moments), moments)
    assert math.isnan(fit.correlation)
    assert math.isnan(held_out_components(torch.ones(1), moments).scores["formula"][0])


def test_baselines():
    lam2 = torch.tensor(VARIANCES, dtype=torch.float64)
    scores = baseline_scores(lam2.rsqrt(), lam2)
    assert scores["inverse eigenvalue curve"] == (pytest.approx(1), pytest.approx(1))
    assert scores["eigenvalue curve"][1] == pytest.approx(-1)
    ramp = torch.arange(27, 0, -1.0)
    assert baseline_scores(ramp, lam2)["linear ramp"][0] == pytest.approx(1)
    bump = fit_bump(torch.exp(-((torch.arange(27.0) - 20.3) ** 2) / 8))
    assert (bump.centre, bump.width) == (pytest.approx(20.3, abs=0.01), pytest.approx(2, abs=0.01))
    assert baseline_curves(ramp, lam2)["index bump"].shape == (27,)
    permuted = permuted_profiles(ramp, 20)
    torch.testing.assert_close(permuted.sort(1).values, ramp.double().sort().values.expand(20, -1))


def test_correlation_is_exact_and_bounded():
    from oracles.profiles import pearson_loops

    a, b = torch.rand(9, dtype=torch.float64), torch.rand(9, dtype=torch.float64)
    assert float(pearson(a, b)) == pytest.approx(pearson_loops(a.tolist(), b.tolist()), rel=1e-12)
    assert float(pearson(1e9 + a, 1e9 + a)) <= 1
    assert math.isnan(pearson(torch.full((5,), 0.1), b[:5]))


def test_held_out_components_tell_theory_from_bump(moments):
    planted = predict_energy_profile(moments.eigenvalues, 30 / moments.eigenvalues[0])
    result = held_out_components(planted, moments)
    assert result.scores["formula"][0] > 0.9999 > 0.99 > result.scores["index bump"][0]
    assert result.swapped["formula"][0] > 0.9999
    assert set(result.scores) == set(result.swapped)
    assert result.tau * float(moments.eigenvalues[0]) == pytest.approx(30, rel=0.01)


def test_scaled_patches_have_the_scaled_spectrum():
    images = photograph_crops(60, 16)[0]
    conv = nn.Conv2d(3, 8, 3, stride=2, padding=1)
    moments = patch_moments(images, conv)
    u = moments.eigenvectors[:, 7]
    tiled, geometry = scale_patches(images, moments.geometry, u, 3.0)
    scaled = patch_moments(tiled, geometry)
    assert scaled.n_patches == moments.n_patches
    t = torch.eye(27) + 2 * torch.outer(u, u)
    torch.testing.assert_close(scaled.covariance, t @ moments.covariance @ t, rtol=1e-9, atol=1e-9)
    variance = float(u @ scaled.covariance @ u)
    assert variance == pytest.approx(9 * float(moments.eigenvalues[7]), rel=1e-9)


def test_patch_scaling_tells_new_from_old_eigenvalues(moments):
    scaled = moments.eigenvalues.clone()
    scaled[12] *= 9
    profile = predict_energy_profile(scaled, 100 / scaled[0])
    result = score_patch_scaling(profile, moments, 12, 3.0)
    assert result.new[0] > 0.9999
    assert result.new[0] > max(result.old[0], result.bump[0])
    assert abs(result.residual_new) < 1e-3 < abs(result.residual_old)
    assert math.isnan(score_patch_scaling(torch.ones(27), moments, 12, 3.0).new[0])


def test_patch_scaling_refuses_what_it_cannot_do(moments):
    with pytest.raises(ValueError, match="component must lie in 0"):
        score_patch_scaling(torch.ones(27), moments, 27, 3.0)
    with pytest.raises(ValueError, match="direction has shape"):
        scale_patches(torch.zeros(1, 3, 8, 8), moments.geometry, torch.ones(9), 3.0)
    with pytest.raises(ConvscopeError, match="hold no patch"):
        scale_patches(torch.zeros(1, 3, 2, 2), moments.geometry, torch.ones(27), 3.0)
