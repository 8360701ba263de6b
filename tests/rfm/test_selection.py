import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles.kernel_ridge import jackknife_error

from convscope.core.errors import ConvscopeError
from convscope.rfm.selection import accuracy, folds, holdout, r_squared, temperature


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 4), min_size=2, max_size=40), st.integers(2, 7), st.integers(0, 9))
def test_every_image_is_left_out_once_unless_its_class_has_no_other(labels, n_splits, seed):
    labels = np.array(labels)
    members = np.bincount(labels)
    if members.max() < 2:
        with pytest.raises(ConvscopeError, match="every class has a single image"):
            folds(len(labels), n_splits, seed, labels=labels)
        return
    found = folds(len(labels), n_splits, seed, labels=labels)
    assert len(found) == min(n_splits, members.max())
    assert sorted(np.concatenate([left for _, left in found])) == np.flatnonzero(members[labels] > 1).tolist()
    for training, left in found:
        assert not set(training) & set(left)
        assert set(labels[left]) <= set(labels[training])
        for name in np.unique(labels):
            assert abs((labels[left] == name).sum() - members[name] / len(found)) <= 1


def test_folds_of_a_regression_cover_all_images_and_depend_on_the_seed():
    found = folds(13, 5, 0)
    assert sorted(np.concatenate([left for _, left in found])) == list(range(13))
    assert all(len(training) + len(left) == 13 for training, left in found)
    assert all(np.array_equal(a[1], b[1]) for a, b in zip(found, folds(13, 5, 0), strict=True))
    assert not all(np.array_equal(a[1], b[1]) for a, b in zip(found, folds(13, 5, 1), strict=True))
    assert len(folds(3, 5, 0)) == 3


@pytest.mark.parametrize("labelled", [False, True])
def test_a_group_is_left_out_as_a_whole(labelled):
    groups = np.repeat(np.arange(12), 4)
    labels = np.random.default_rng(0).integers(0, 3, 48)
    found = folds(48, 4, 0, labels=labels if labelled else None, groups=groups)
    assert len(found) == 4
    assert sorted(np.concatenate([left for _, left in found])) == list(range(48))
    for training, left in found:
        assert not set(groups[training]) & set(groups[left])
    assert len(folds(48, 20, 0, groups=groups)) == 12


def test_a_class_within_one_group_is_not_scored():
    labels = np.array(list("aabbaabbcc"))
    groups = np.array([0, 0, 0, 0, 1, 1, 1, 1, 2, 2])
    found = folds(10, 3, 0, labels=labels, groups=groups)
    assert sorted(np.concatenate([left for _, left in found])) == list(range(8))


def test_what_cannot_be_left_out_is_refused():
    with pytest.raises(ConvscopeError, match=r"1 image\(s\) in 1 group"):
        folds(1, 5, 0)
    with pytest.raises(ConvscopeError, match=r"4 image\(s\) in 1 group"):
        folds(4, 5, 0, groups=np.zeros(4))
    with pytest.raises(ConvscopeError, match="every class lies within one group"):
        folds(4, 2, 0, labels=np.array([0, 0, 1, 1]), groups=np.array([0, 0, 1, 1]))
    with pytest.raises(ValueError, match="n_splits must be at least 2, got 1"):
        folds(4, 1, 0)
    with pytest.raises(ValueError, match="labels must have one entry for each of the 4 images, got 3"):
        folds(4, 2, 0, labels=np.zeros(3))
    for share in (0.0, 0.6, math.nan):
        with pytest.raises(ValueError, match=r"above 0 and at most 0\.5"):
            holdout(4, share, 0)


def test_the_holdout_has_its_share_of_every_class():
    labels = np.repeat([0, 1, 2], [100, 50, 10])
    training, left = holdout(160, 0.2, 0, labels=labels)
    assert np.bincount(labels[left]).tolist() == [20, 10, 2]
    assert sorted([*training, *left]) == list(range(160))


def sampled(n, true, seed=0, classes=4):
    g = torch.Generator().manual_seed(seed)
    scores = 3 * torch.randn(n, classes, generator=g, dtype=torch.float64)
    return scores, torch.multinomial((scores / true).softmax(1), 1, generator=g)[:, 0]


@pytest.mark.parametrize("true", [0.3, 1.0, 4.0])
def test_the_temperature_that_made_the_labels_is_found(true):
    assert temperature(*sampled(40_000, true)) == pytest.approx(true, rel=0.05)


def test_the_temperature_has_the_unit_of_the_scores():
    scores, labels = sampled(500, 1.0)
    assert temperature(1000 * scores + 7, labels) == pytest.approx(1000 * temperature(scores, labels), rel=1e-4)


def test_the_temperature_is_the_likeliest():
    scores, labels = sampled(100, 2.0)
    best = temperature(scores, labels)

    def likelihood(t):  # of the images and of one that is every image and every class at once
        logs = (scores / t).log_softmax(1)
        return float(logs[torch.arange(100), labels].sum() + logs.mean())

    assert likelihood(best) > max(likelihood(best * f) for f in (0.8, 0.95, 1.05, 1.25))


def test_images_that_are_all_right_give_no_certainty():
    labels = torch.arange(20) % 2
    scores = torch.nn.functional.one_hot(labels, 2).double()
    right = float((scores[0] / temperature(scores, labels)).softmax(0)[0])
    assert right == pytest.approx((20 + 0.5) / 21, rel=1e-4)  # one image more, of both classes at once


def test_scores_worse_than_chance_give_equal_probabilities():
    labels = torch.arange(20) % 2
    scores = torch.nn.functional.one_hot(1 - labels, 2).double()
    p = (scores / temperature(scores, labels)).softmax(1)
    assert torch.allclose(p, torch.full_like(p, 0.5), atol=1e-3)
    assert temperature(torch.ones(5, 3), torch.zeros(5, dtype=torch.long)) == 1


def test_a_weight_counts_as_so_many_images():
    scores, labels = sampled(300, 1.5)
    weights = torch.ones(300)
    weights[:100] = 2
    index = torch.cat([torch.arange(300), torch.arange(100)])
    # The image that is counted in weighs 1 / 300 of the others in one and 1 / 400 in the other.
    assert temperature(scores, labels, weights) == pytest.approx(temperature(scores[index], labels[index]), rel=0.02)
    assert accuracy(scores, labels, weights).mean == pytest.approx(accuracy(scores[index], labels[index]).mean)
    y = scores[:, :2] + 1
    assert r_squared(scores[:, :2], y, weights).mean == pytest.approx(r_squared(scores[:, :2][index], y[index]).mean)


def test_bad_scores_are_refused():
    labels = torch.zeros(3, dtype=torch.long)
    for scores in (torch.ones(2, 2), torch.ones(3), torch.full((3, 2), torch.nan)):
        with pytest.raises(ValueError, match="scores must be finite, one row for each of the 3 labels"):
            temperature(scores, labels)


def test_accuracy_and_its_standard_error_are_the_textbooks():
    scores, labels = sampled(200, 1.0)
    right = (scores.argmax(1) == labels).double()
    found = accuracy(scores, labels)
    assert found.mean == pytest.approx(float(right.mean()))
    assert found.error == pytest.approx(float(right.std()) / math.sqrt(200))


def test_r_squared_is_the_textbooks_and_its_error_the_jackknifes():
    from sklearn.metrics import r2_score

    g = np.random.default_rng(0)
    y = g.normal(size=(300, 2)) * [1, 3]
    f = y + g.normal(size=(300, 2))
    found = r_squared(torch.tensor(f), torch.tensor(y))
    assert found.mean == pytest.approx(r2_score(y, f, multioutput="variance_weighted"))

    def score(f, y):
        return r2_score(y, f, multioutput="variance_weighted")

    assert found.error == pytest.approx(jackknife_error(score, f, y), rel=0.05)


def test_a_gain_is_the_difference_of_scores_and_its_error_paired():
    (scores, labels), (others, _) = sampled(200, 1.0), sampled(200, 0.5)
    gained = (scores.argmax(1) == labels).double() - (others.argmax(1) == labels).double()
    found = accuracy(scores, labels, None, others)
    assert found.mean == pytest.approx(float(gained.mean()))
    assert found.error == pytest.approx(float(gained.std()) / math.sqrt(200))
    weights = torch.linspace(0.5, 2, 200)
    apart = accuracy(scores, labels, weights).mean - accuracy(others, labels, weights).mean
    assert accuracy(scores, labels, weights, others).mean == pytest.approx(apart)
    assert accuracy(scores, labels, weights, scores) == (0, 0)

    g = np.random.default_rng(1)
    y = g.normal(size=(300, 2))
    noise = g.normal(size=(300, 2))
    first, second = y + noise, y + 0.9 * noise

    def gain(first, second, y):
        return r_squared(*map(torch.from_numpy, (second, y))).mean - r_squared(*map(torch.from_numpy, (first, y))).mean

    found = r_squared(*map(torch.from_numpy, (second, y)), before=torch.from_numpy(first))
    assert found.mean == pytest.approx(gain(first, second, y))
    assert found.error == pytest.approx(jackknife_error(gain, first, second, y), rel=0.05)


def test_scores_that_cannot_be_are_nan_not_zero():
    assert math.isnan(r_squared(torch.ones(3, 1), torch.ones(3, 1)).mean)
    assert math.isnan(accuracy(torch.ones(1, 2), torch.zeros(1, dtype=torch.long)).error)
