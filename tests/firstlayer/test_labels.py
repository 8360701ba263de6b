import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles.crops import photograph_crops
from oracles.linear_cnn import average_patch_moments, gradient_descent
from oracles.profiles import f_ratio_loops
from torch import nn

from convscope.core.errors import ConvscopeError
from convscope.core.moments import patch_moments
from convscope.core.similarity import pearson
from convscope.firstlayer.labels import (
    average_patch_ratio,
    f_ratio,
    first_order,
    linear_dependence,
    patch_energies,
    permutation_null,
    ranks,
    second_order,
)


@pytest.fixture(scope="module")
def crops():
    images, labels = photograph_crops(240, 16)
    return images, labels, patch_moments([(images, labels)], nn.Conv2d(3, 8, 3), classes=6)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(st.integers(2, 4), st.integers(6, 20), st.integers(0, 999))
def test_f_ratio_equals_loops(classes, n, seed):
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(n, 2, dtype=torch.float64, generator=generator)
    labels = torch.cat([torch.arange(classes), torch.randint(classes, (n - classes,), generator=generator)])
    expected = [f_ratio_loops(column.tolist(), labels.tolist()) for column in values.T]
    assert f_ratio(values, labels).tolist() == pytest.approx(expected, rel=1e-10)
    assert f_ratio(7 * values - 3, labels * 5 + 1).tolist() == pytest.approx(expected, rel=1e-9)


def test_ranks_are_the_order_with_ties_shared():
    values = torch.tensor([[3.0, 1.0], [1.0, 1.0], [2.0, 1.0], [3.0, 0.0]])
    assert ranks(values).T.tolist() == [[2.5, 0.0, 1.0, 2.5], [2.0, 2.0, 2.0, 0.0]]


@pytest.mark.parametrize("chunk", [1, 64 << 20])
def test_patch_energies_equal_their_definition(crops, chunk, monkeypatch):
    images, _, moments = crops
    monkeypatch.setattr("convscope.firstlayer.labels._CHUNK_BYTES", chunk)
    averages, energies = patch_energies(images[:9], moments.geometry, moments)
    coefficients = moments.eigenvectors.T @ (F.unfold(images[:9], 3) - moments.mean[:, None])
    torch.testing.assert_close(averages, coefficients.mean(2))
    torch.testing.assert_close(energies, coefficients.square().mean(2))


def test_first_order_from_class_sums_equals_single_images(crops):
    images, labels, moments = crops
    result = first_order(moments)
    averages, _ = patch_energies(images, moments.geometry, moments)
    torch.testing.assert_close(result.f, f_ratio(averages, labels), rtol=1e-8, atol=1e-8)
    indicator = F.one_hot(labels).double()
    r1 = pearson(indicator.T[:, None], averages.T[None])
    torch.testing.assert_close(result.correlation, r1, rtol=1e-8, atol=1e-8)
    cross = (indicator - indicator.mean(0)).T @ averages / len(images)
    torch.testing.assert_close(result.cross, cross, rtol=1e-8, atol=1e-10)
    assert (result.images, result.classes) == (240, 6)
    # The covariance is standard deviations times correlation, exactly.
    spread = (indicator.var(0, correction=0).sqrt()[:, None]) * result.average_variance.sqrt()
    torch.testing.assert_close(result.cross, spread * result.correlation, rtol=1e-8, atol=1e-10)


def test_empty_classes_are_left_out(crops):
    images, labels, moments = crops
    wider = patch_moments([(images, labels)], nn.Conv2d(3, 8, 3), classes=9)
    torch.testing.assert_close(first_order(wider).f, first_order(moments).f)


def test_second_order_finds_what_the_first_cannot(crops):
    images, _, moments = crops
    averages, energies = patch_energies(images, moments.geometry, moments)
    labels = (ranks(energies)[:, 20] * 4 / len(images)).long()
    result = second_order(energies, labels, permutations=50)
    assert result.component == result.alert[0] == 20
    assert float(f_ratio(averages, labels)[20]) < float(result.f[20]) / 5
    noise = torch.randint(4, (240,), generator=torch.Generator().manual_seed(3))
    assert len(second_order(energies, noise, permutations=50).alert) < 5


def test_permuted_labels_have_an_f_of_one(crops):
    images, labels, moments = crops
    averages, energies = patch_energies(images, moments.geometry, moments)
    for values in (averages, ranks(energies)):
        null = permutation_null(values, labels, 100)
        assert float(null.mean()) == pytest.approx(1, abs=0.1)
        assert float(null.std(0).mean()) == pytest.approx(math.sqrt(2 / 5), abs=0.15)


def test_linear_dependence_predicts_the_linear_network(crops):
    images, labels, moments = crops
    tau = 20 / float(torch.linalg.eigvalsh(moments.average_patch_covariance)[-1])
    result = linear_dependence(moments, tau, covariance="average")
    targets = F.one_hot(labels).double()
    second, cross = average_patch_moments(images, targets - targets.mean(0), 3)
    centred = second - torch.outer(moments.mean, moments.mean)
    # One filter for each output, an identity head: gradient descent follows the predicted drive.
    trained = gradient_descent(
        images, targets - targets.mean(0), torch.eye(6).double(), torch.zeros(6, 27).double(), tau / 200, 200
    )
    profile = (trained @ moments.eigenvectors).square().sum(0).sqrt()
    assert float(pearson(profile, result.true)) > 0.999
    assert float((centred - moments.average_patch_covariance).norm()) < 1e-9
    assert cross.shape == (6, 27)


def test_uninformative_labels_lie_in_the_chance_band(crops):
    images, labels, _ = crops
    inside = 0
    for seed in range(20):
        permuted = labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))]
        moments = patch_moments([(images, permuted)], nn.Conv2d(3, 8, 3), classes=6)
        result = linear_dependence(moments, 10.0, draws=200)
        inside += result.chance[0] <= result.index <= result.chance[1]
        scale = float((result.true**2).sum() / (result.null**2).sum())
        assert 0.1 < scale < 10
    assert inside >= 16


def test_assumed_ratio_is_one_only_for_uncorrelated_patches(crops):
    noise = torch.randn(400, 2, 9, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    ratio = average_patch_ratio(patch_moments(noise, nn.Conv2d(2, 4, 3, stride=3)))
    assert float(ratio.mean()) == pytest.approx(1, abs=0.1)
    natural = average_patch_ratio(crops[2])
    assert float(natural.max()) > 50
    assert float(natural.min()) < 1


def test_unusable_labels_are_refused(crops):
    images, _, moments = crops
    conv = nn.Conv2d(3, 8, 3)
    with pytest.raises(ConvscopeError, match="no labels"):
        first_order(patch_moments(images[:9], conv))
    with pytest.raises(ConvscopeError, match="at least two classes, got 1"):
        first_order(patch_moments([(images[:9], torch.zeros(9).long())], conv, classes=1))
    with pytest.raises(ConvscopeError, match="at least two classes, got 1"):
        second_order(torch.rand(9, 2), torch.zeros(9).long())
    grouped = patch_moments([(images[:9], torch.arange(9) % 2)], nn.Conv2d(3, 6, 3, groups=3), classes=2)
    with pytest.raises(ValueError, match="one group"):
        first_order(grouped)
    with pytest.raises(ValueError, match="one group"):
        patch_energies(images[:9], grouped.geometry, moments)
