"""The exact checks of the first-layer theory: geometry, dynamics, prediction and fit."""

import math

import pytest
import torch
import torch.nn.functional as F
from oracles.crops import photograph_crops
from oracles.linear_cnn import average_patch_moments, gradient_descent
from torch import nn

from convscope.core.batches import Batch
from convscope.core.geometry import ConvGeometry
from convscope.core.moments import PatchMomentsAccumulator, patch_moments
from convscope.core.similarity import pearson
from convscope.firstlayer.baselines import fitted_null, random_profiles
from convscope.firstlayer.fit import GRID, best_tau, fit_energy_profile
from convscope.firstlayer.linear_cnn import linear_cnn_change
from convscope.firstlayer.prediction import PEAK, predict_energy_profile
from convscope.firstlayer.profile import bank_gram, energy_profile
from convscope.firstlayer.signal import _patches


@pytest.fixture(scope="module")
def moments():
    return patch_moments(photograph_crops(400, 32)[0], nn.Conv2d(3, 64, 3, padding=1))


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(
    "geometry",
    [ConvGeometry(3, (3, 3)), ConvGeometry(4, (2, 3), (2, 1), (1, 1, 0, 2), (1, 2), 2)],
    ids=["plain", "strided, dilated, padded, grouped"],
)
def test_a1_patches_are_in_the_order_of_the_flattened_weight(geometry):
    images = torch.randn(2, geometry.channels, 9, 8, dtype=torch.float64, generator=rng())
    d, groups = geometry.patch_dim, geometry.groups
    pick = torch.eye(d, dtype=torch.float64).reshape(d, -1, *geometry.kernel).repeat(groups, 1, 1, 1)
    seen = F.conv2d(geometry.pad(images), pick, None, geometry.stride, 0, geometry.dilation, groups)
    assert torch.equal(_patches(images, geometry), seen.reshape(2, groups, d, -1))  # bit for bit


def test_a1_the_mean_of_a_single_patch_is_the_flattened_image():
    image = torch.randn(1, 3, 3, 3, dtype=torch.float64, generator=rng())
    mean = patch_moments(image, nn.Conv2d(3, 1, 3)).mean
    torch.testing.assert_close(mean, image.flatten(), rtol=0, atol=1e-14)


def test_a2_profile_invariances(moments):
    weight = torch.randn(32, 3, 3, 3, dtype=torch.float64, generator=rng())
    values = energy_profile(weight, moments).values
    mixing = torch.linalg.qr(torch.randn(32, 32, dtype=torch.float64, generator=rng(1)))[0]
    mixed = (mixing @ weight.flatten(1)).reshape(weight.shape)
    for other in (weight[torch.randperm(32, generator=rng())], mixed, 7.5 * weight):
        assert float(pearson(values, energy_profile(other, moments).values)) == pytest.approx(1, abs=1e-12)
    assert float((values**2).sum()) == pytest.approx(float((weight**2).sum() / 32), rel=1e-12)


def test_a3_streamed_covariance_equals_the_direct_one_and_parts_merge():
    images = photograph_crops(60, 16)[0]
    geometry = ConvGeometry(3, (3, 3), padding=(1, 1, 1, 1))
    patches = _patches(images, geometry)[:, 0].transpose(1, 2).reshape(-1, 27)
    direct = torch.cov(patches.T, correction=0)
    parts = [PatchMomentsAccumulator(geometry) for _ in range(2)]
    for i, rows in enumerate(torch.arange(60).split(7)):
        parts[i % 2].update(images[rows], Batch.of(images[rows], None, rows))
    parts[0].merge(parts[1])
    merged = parts[0].compute().covariance
    assert float((merged - direct).norm() / direct.norm()) < 1e-10
    assert float((merged - patch_moments(images, geometry).covariance).norm() / direct.norm()) < 1e-10


def test_a4_linear_cnn_with_average_pooling_follows_the_closed_form():
    images = photograph_crops(24, 8)[0]
    targets = torch.randn(24, 1, dtype=torch.float64, generator=rng())
    init = 0.01 * torch.randn(6, 27, dtype=torch.float64, generator=rng(1))
    head = torch.ones(6, 1, dtype=torch.float64)
    second, cross = average_patch_moments(images, targets, 3)
    lr = 0.5 / (6 * float(torch.linalg.eigvalsh(second)[-1]))
    exact = gradient_descent(images, targets, head, init, lr, 200)
    change = linear_cnn_change(second, cross, head, init, lr, 200)
    assert float((change - exact).norm() / exact.norm()) < 1e-8
    singular = torch.linalg.svdvals(change)
    assert float(singular[1] / singular[0]) < 1e-10


@pytest.mark.parametrize("weight_decay", [0.0, 0.3])
def test_a5_several_outputs_follow_the_closed_form(weight_decay):
    images = photograph_crops(24, 8)[0]
    targets = torch.randn(24, 5, dtype=torch.float64, generator=rng())
    head = torch.randn(7, 5, dtype=torch.float64, generator=rng(1))
    init = torch.randn(7, 27, dtype=torch.float64, generator=rng(2))  # weights of order one, not small
    second, cross = average_patch_moments(images, targets, 3)
    lr = 0.5 / float(torch.linalg.eigvalsh(second)[-1] * torch.linalg.eigvalsh(head.T @ head)[-1] + weight_decay)
    exact = gradient_descent(images, targets, head, init, lr, 200, weight_decay)
    change = linear_cnn_change(second, cross, head, init, lr, 200, weight_decay=weight_decay)
    assert float((change - exact).norm() / exact.norm()) < 1e-9


def test_a6_covariance_with_random_labels_is_folded_gaussian():
    draws, n, j, d = 400, 40, 9, 27
    lam = torch.logspace(1, -2, d, dtype=torch.float64)
    generator = rng()
    average = torch.stack([
        torch.randn(n, j, d, dtype=torch.float64, generator=generator).mean(1) * lam for _ in range(draws)
    ])
    labels = torch.randint(2, (draws, n), generator=generator) * 2.0 - 1
    b = torch.einsum("rnd,rn->rd", average, labels.double()).abs() / n
    ratio = b / (math.sqrt(2 / math.pi) * lam / math.sqrt(j * n))
    assert float(ratio.mean()) == pytest.approx(1, abs=0.02)
    assert float(ratio.std() / ratio.mean()) == pytest.approx(math.sqrt(math.pi / 2 - 1), abs=0.02)


@pytest.mark.parametrize(("outputs", "low", "high"), [(1, 0.5, 0.8), (10, 0.89, 0.98), (1000, 0.995, 1.0)])
def test_a7_agreement_needs_many_outputs(moments, outputs, low, high):
    lam2 = moments.eigenvalues
    curves = predict_energy_profile(lam2, GRID / lam2[0])
    scatter = random_profiles(outputs, 27, draws=500)
    means = [
        fitted_null(predict_energy_profile(lam2, age / float(lam2[0])) * scatter, curves).mean
        for age in (10, 100, 1e3, 1e4)
    ]
    assert low < sum(means) / 4 < high


def test_a8_fit_recovers_the_planted_tau(moments):
    lam2 = moments.eigenvalues
    for age in (30.0, 300.0, 3000.0):
        planted = predict_energy_profile(lam2, age / float(lam2[0]))
        fit = fit_energy_profile(planted, moments)
        assert fit.age == pytest.approx(age, rel=0.01)
        assert fit.correlation > 1 - 1e-6
        noise = torch.randn(100, 27, dtype=torch.float64, generator=rng(int(age)))
        errors = [
            abs(best_tau(e, lambda t: predict_energy_profile(lam2, t), GRID / lam2[0])[0] * float(lam2[0]) / age - 1)
            for e in planted * (1 + 0.1 * noise)
        ]
        assert float(torch.tensor(errors).median()) < 0.1


def test_a8_the_curve_peaks_where_two_x_is_exp_x_minus_one():
    lam2 = torch.logspace(2, -2, 200_001, dtype=torch.float64)
    for tau in (0.3, 1.0, 7.0):
        assert tau * float(lam2[predict_energy_profile(lam2, tau).argmax()]) == pytest.approx(1.25643, abs=1e-4)
    assert pytest.approx(math.exp(PEAK) - 1, rel=1e-14) == 2 * PEAK


def test_a12_profiles_of_random_banks_are_uncorrelated(moments):
    a, b = random_profiles(64, 27, 200, seed=1), random_profiles(64, 27, 200, seed=2)
    r = pearson(a, b)
    assert float(r.mean()) == pytest.approx(0, abs=0.05)
    assert float(r.std()) == pytest.approx(0.19, abs=0.04)
    # The shortcut by chi-squared variables has the distribution of real Gaussian banks.
    weights = torch.randn(200, 64, 3, 3, 3, dtype=torch.float64, generator=rng())
    banks = torch.stack([energy_profile(w, moments).values for w in weights])
    assert float(banks.mean()) == pytest.approx(float(a.mean()), rel=0.01)
    assert float(banks.std(0).mean()) == pytest.approx(float(a.std(0).mean()), rel=0.05)


def test_off_diagonal_of_gaussian_filters_has_its_expected_size(moments):
    k, d = 32, 27
    weights = torch.randn(30, k, 3, 3, 3, dtype=torch.float64, generator=rng())
    mean = torch.stack([energy_profile(w, moments).off_diagonal for w in weights]).mean()
    assert float(mean) == pytest.approx(math.sqrt((d - 1) * k / (k**2 + 2 * k)), abs=0.03)
    assert bank_gram(weights[0], moments).trace() == pytest.approx(float((weights[0] ** 2).sum() / k))
