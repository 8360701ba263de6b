"""The exact checks of the first-layer theory: whitening, the back-propagated signal, label dependence."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from oracles.crops import photograph_crops
from torch import nn

from convscope.core.batches import Batch
from convscope.core.moments import patch_moments
from convscope.firstlayer.labels import average_variances, f_ratio, first_order, patch_energies, permutation_null, ranks
from convscope.firstlayer.labels import second_order as second
from convscope.firstlayer.profile import bank_gram, energy_profile
from convscope.firstlayer.signal import SignalAutocorrelation, agreement, signal_matrix, signal_profile
from convscope.firstlayer.whitening import (
    autocorrelation,
    lagged_covariances,
    raw_pixels_gram,
    whiteness,
    whitening_curves,
    whitening_gram,
)

DISTANCES = (0, 1, 2, 3, 5, 10, 20)
LAGS = [(delta, 0) for delta in DISTANCES] + [(0, delta) for delta in DISTANCES]


@pytest.fixture(scope="module")
def natural():
    images, labels = photograph_crops(480, 32)
    conv = nn.Conv2d(3, 64, 3, dtype=torch.float64)
    return images, labels, conv, patch_moments([(images, labels)], conv, lags=LAGS, classes=6)


def test_a9_trace_identity_equals_convolving():
    images = photograph_crops(40, 24)[0]
    conv = nn.Conv2d(3, 8, 3, bias=False, dtype=torch.float64)
    moments = patch_moments(images, conv, lags=[(0, 4), (4, 0)])
    response = F.conv2d(images, conv.weight.detach())
    response = response - response.mean((0, 2, 3), keepdim=True)
    across = (response[..., 4:] * response[..., :-4]).sum(1).mean()
    down = (response[:, :, 4:] * response[:, :, :-4]).sum(1).mean()
    direct = (across + down) / 2 / (response**2).sum(1).mean()
    traced = autocorrelation(bank_gram(conv.weight, moments), moments.covariance, lagged_covariances(moments, [4]))
    assert float(traced[0]) == pytest.approx(float(direct), rel=1e-10)


def test_a10_random_filters_leave_the_autocorrelation_of_pixels(natural):
    *_, conv, moments = natural
    lagged = lagged_covariances(moments, DISTANCES)
    raw = autocorrelation(raw_pixels_gram(moments), moments.covariance, lagged)
    banks = torch.randn(100, 64, 3, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    curves = [autocorrelation(bank_gram(w, moments), moments.covariance, lagged) for w in banks]
    assert float((torch.stack(curves).mean(0) - raw).abs().max()) < 0.01
    result = whitening_curves(conv.weight, moments, DISTANCES, tau=100 / float(moments.eigenvalues[0]))
    assert float((result.random - raw).abs().max()) < 0.01
    assert bool(
        (result.random_low <= result.random + 1e-9).all() and (result.random <= result.random_high + 1e-9).all()
    )
    # Whitening lowers the curve, but small patches of photographs stay correlated.
    assert float(result.perfect[5]) < 0.4 * float(raw[5])
    assert float(result.perfect[5]) > 0


def test_a11_whiteness(natural):
    *_, moments = natural
    assert whiteness(torch.linalg.inv(moments.covariance), moments.covariance) == pytest.approx(1, abs=1e-9)
    assert whiteness(whitening_gram(moments), moments.covariance) == pytest.approx(1, abs=1e-9)
    banks = torch.randn(20, 64, 3, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    random = torch.tensor([whiteness(bank_gram(w, moments), moments.covariance) for w in banks])
    assert 0.045 < float(random.mean()) < 0.065
    assert 1 / 27 < whiteness(torch.eye(27), moments.covariance) < 0.065


def network(name: str) -> nn.Sequential:
    conv = nn.Conv2d(3, 24, 3, bias=False)
    if name == "linear GAP":
        return nn.Sequential(conv, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(24, 10)).double()
    if name == "linear flatten":
        return nn.Sequential(conv, nn.Flatten(), nn.Linear(24 * 14 * 14, 10)).double()
    head = nn.Sequential(nn.BatchNorm2d(24), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(24, 32, 3, bias=False))
    tail = nn.Sequential(nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(32 * 4, 10))
    return nn.Sequential(conv, head, tail).double()


SEEDS = pytest.mark.parametrize("seeds", [3, pytest.param(6, marks=pytest.mark.slow)])


def gradient_at_init(name: str, seeds: int):
    """Returns the measured gradient RMS by component and the three predictions, for random labels."""
    images = photograph_crops(400, 16)[0]
    energies, signal = [], SignalAutocorrelation()
    moments = patch_moments(images, nn.Conv2d(3, 24, 3))
    for seed in range(seeds):
        torch.manual_seed(seed)
        net = network(name)
        labels = torch.randint(10, (400,))
        response = F.conv2d(images, net[0].weight)
        loss = F.cross_entropy(net[1:](response), labels, reduction="sum")
        delta, gradient = torch.autograd.grad(loss, [response, net[0].weight])
        signal.update(delta, Batch.of(images, labels, torch.arange(400)))
        energies.append(energy_profile(gradient, moments).values ** 2)
    matrix = signal_matrix(images, moments.geometry, signal.compute().kappa)
    general = signal_profile(400 * matrix, moments.eigenvectors)
    measured = torch.stack(energies).mean(0).sqrt()
    return measured, moments.eigenvalues.sqrt(), average_variances(moments).sqrt(), general


@SEEDS
def test_a13_decorrelated_signal_gives_the_patch_eigenvalues(seeds):
    measured, lam, _, general = gradient_at_init("conv BN pool", seeds)
    assert 0.9 < agreement(measured, lam).slope < 1.2
    assert agreement(measured, lam).log_correlation > 0.98
    assert agreement(measured, general).log_correlation > 0.98


@SEEDS
def test_a13_average_pooling_gives_the_average_patch(seeds):
    measured, lam, average, general = gradient_at_init("linear GAP", seeds)
    assert agreement(measured, average).log_correlation > 0.99
    assert agreement(measured, lam).slope == pytest.approx(agreement(average, lam).slope, abs=0.1)
    # With a constant signal the general formula is the average-patch covariance exactly.
    assert agreement(general, average).log_correlation > 0.99


@SEEDS
def test_a13_flattening_gives_the_patch_eigenvalues(seeds):
    measured, lam, _, general = gradient_at_init("linear flatten", seeds)
    assert 0.9 < agreement(measured, lam).slope < 1.2
    assert agreement(measured, general).log_correlation > 0.99


def test_a14_permuted_labels_have_f_of_one(natural):
    images, labels, _, moments = natural
    averages, energies = patch_energies(images, moments.geometry, moments)
    for values in (averages, ranks(energies)):
        assert 0.9 < float(permutation_null(values, labels, 50).mean()) < 1.1


@pytest.mark.parametrize("component", [0, 3, 10, 15, 20, 26])
def test_a14_energy_labels_name_their_component(natural, component):
    images, _, _, moments = natural
    _, energies = patch_energies(images, moments.geometry, moments)
    deciles = (ranks(energies)[:, component] * 10 / len(images)).long()
    result = second(energies, deciles, permutations=20)
    assert result.component == component
    assert component in result.alert


@pytest.mark.slow
def test_a14_on_cifar10():
    path = Path(__file__).parents[2] / "../shared/data/cifar10_test.npz"
    if not path.exists():
        pytest.skip("needs ../shared/data/cifar10_test.npz")
    data = np.load(path)
    key = next(name for name in data if data[name].ndim == 4)
    pixels = torch.from_numpy(data[key][:1500]).double() / 255
    images = pixels.permute(0, 3, 1, 2) if pixels.shape[-1] == 3 else pixels
    images = (images - images.mean((0, 2, 3), keepdim=True)) / images.std((0, 2, 3), keepdim=True)
    moments = patch_moments(images, nn.Conv2d(3, 64, 3))
    _, energies = patch_energies(images, moments.geometry, moments)
    for component in (0, 3, 10, 15, 20, 26):
        deciles = (ranks(energies)[:, component] * 10 / len(images)).long()
        assert second(energies, deciles, permutations=5).component == component


def test_a14_class_sums_give_the_f_of_single_images(natural):
    images, labels, _, moments = natural
    averages, _ = patch_energies(images, moments.geometry, moments)
    result = first_order(moments)
    torch.testing.assert_close(result.f, f_ratio(averages, labels), rtol=1e-8, atol=1e-8)
