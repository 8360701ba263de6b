import pickle
from collections import Counter

import numpy as np
import pytest
import torch
from rfm.machines import images, reference
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import check_estimator

from convscope.core.errors import ConvscopeError
from convscope.rfm import base
from convscope.rfm.estimators import ConvRFMClassifier, ConvRFMRegressor

BOTH = [ConvRFMClassifier, ConvRFMRegressor]
SMALL = {"depth": 2, "n_iters": 1}
WEIGHTS = {"check_sample_weight_equivalence_on_dense_data": "leave-one-out tells repeated images from weights"}


def fitted(cls=ConvRFMClassifier, n=40, channels=1, **changes):
    x, y = images(n, channels)
    return cls(**(SMALL | changes)).fit(x, y)


def checked(estimator):
    found = check_estimator(estimator, expected_failed_checks=WEIGHTS, on_skip=None)
    status = Counter(result["status"] for result in found)
    skipped = {result["check_name"] for result in found if result["status"] == "skipped"}
    assert skipped <= {"check_array_api_input"}
    assert status["xfail"] == 1
    assert status["passed"] + status["xfail"] >= 55


@pytest.mark.slow
@pytest.mark.parametrize("n_iters", [0, 5])
@pytest.mark.parametrize("cls", BOTH)
def test_scikit_learn_finds_nothing_wrong(cls, n_iters):
    checked(cls(n_iters=n_iters))


def test_the_authors_notebook_is_reproduced_on_digits():
    d = reference()
    clf = ConvRFMClassifier.official("notebook", n_iters=2).fit(d["X"], d["y"])
    truth = np.eye(10)[d["y_test200"]]
    found = [scores.numpy() for scores in clf.staged_outputs(d["X_test200"])]
    accuracies = [(scores.argmax(1) == d["y_test200"]).mean() for scores in found]
    errors = [((scores - truth) ** 2).sum(1).mean() for scores in found]
    assert accuracies == pytest.approx([0.965, 0.97, 0.97], abs=1e-9)
    assert errors == pytest.approx([0.1063, 0.1030, 0.1005], abs=2e-4)
    assert clf.stages_[0].metric_root is None
    for t in (1, 2):
        assert np.abs(clf.stages_[t].metric_root - d[f"metric_root_{t}"]).max() < 1e-4


def test_fitted_attributes_have_the_shapes_that_they_say():
    clf = fitted(channels=2)
    assert clf.metric_.shape == (18, 18)
    assert clf.metric_.trace() == pytest.approx(1)
    assert clf.filters_.shape[1:] == (2, 3, 3)
    assert np.allclose((clf.filters_**2).sum((1, 2, 3)), 1)
    assert clf.dual_coef_.shape == (40, 3)
    assert clf.X_fit_.shape == (40, 2, 6, 6)
    assert [entry["iteration"] for entry in clf.history_] == [0, 1]
    assert set(clf.history_[0]) == {
        "iteration", "train_score", "loo_score", "selection_score", "selection_error", "selection_gain_error", "ridge",
        "rank", "seconds",
    }  # fmt: skip
    best = clf.history_[clf.best_iteration_]
    assert (clf.selection_score_, clf.selection_error_, clf.loo_score_) == (
        best["selection_score"], best["selection_error"], best["loo_score"]
    )  # fmt: skip


def test_the_leading_filter_is_the_leading_eigenvector():
    clf = fitted(selection=None)
    v = clf.filters_[0].ravel()
    assert v @ clf.metric_ @ v == pytest.approx(np.linalg.eigvalsh(clf.metric_)[-1])


def test_the_best_iteration_is_the_first_of_the_best_selection_scores():
    clf = fitted(n_iters=3)
    scores = [entry["selection_score"] for entry in clf.history_]
    assert clf.best_iteration_ == scores.index(max(scores))


def test_without_selection_the_last_iteration_is_used_and_no_score_is_claimed():
    clf = fitted(selection=None, n_iters=2)
    assert clf.best_iteration_ == 2
    assert clf.selection_score_ is None
    assert clf.history_[0]["selection_error"] is None
    assert clf.predict_proba(images()[0]).sum(1) == pytest.approx(1)


def test_training_images_are_predicted_as_they_were_fitted_also_among_others():
    x, y = images()
    clf = ConvRFMClassifier(**SMALL, ridge=1e-8).fit(x, y)
    assert (clf.predict(x) == y).all()
    others = np.concatenate([images(7, seed=1)[0], x[5:9]])
    assert np.allclose(clf.decision_function(others)[-4:], clf.decision_function(x)[5:9], atol=1e-9)
    assert np.abs(clf.decision_function(x) - np.eye(3)[y]).max() < 1e-4


def test_staged_predictions_end_with_the_last_iteration_and_hold_the_best():
    clf = fitted(n_iters=2)
    x, _ = images(20, seed=1)
    stages = list(clf.staged_predict(x))
    assert len(stages) == 3
    assert (stages[clf.best_iteration_] == clf.predict(x)).all()


# What each parameter is set to, and what it must change.
EFFECTS = {
    "patch_size": 2, "depth": 1, "n_iters": 0, "ridge": 10.0, "padding": "same", "stride": 2, "kind": "nngp",
    "agop_samples": 2, "metric_power": 2.0, "threshold": 0.8, "rank_tol": 0.6, "random_state": 1,
}  # fmt: skip


@pytest.mark.parametrize("name", EFFECTS)
@pytest.mark.parametrize("cls", BOTH)
def test_each_parameter_of_the_machine_changes_predictions(cls, name):
    # Without selection, so that the last metric predicts; few samples, so that the draw counts.
    common = {"selection": None, "agop_samples": 10, "depth": 2 if name != "stride" else 1}
    new, _ = images(20, seed=1)
    before = fitted(cls, **common)._scores(new)
    after = fitted(cls, **(common | {name: EFFECTS[name]}))._scores(new)
    assert (before - after).abs().max() > 1e-3


@pytest.mark.parametrize("cls", BOTH)
def test_centred_machines_do_not_see_how_bright_images_are(cls):
    x, y = images(channels=2)
    new, _ = images(20, channels=2, seed=1)
    bright = np.array([3.0, -2.0])[:, None, None]
    plain, shifted = (cls(**SMALL, centre=True).fit(x + shift, y) for shift in (0 * bright, bright))
    assert np.allclose(shifted.mean_ - plain.mean_, [3.0, -2.0])
    assert torch.allclose(plain._scores(new), shifted._scores(new + bright), atol=1e-8)
    other = cls(**SMALL).fit(x + bright, y)
    assert not other.mean_.any()
    assert (other._scores(new + bright) - shifted._scores(new + bright)).abs().max() > 1e-3


def test_the_mean_counts_images_by_their_weights():
    x, y = images(channels=2)
    weights = np.arange(40) % 3
    clf = ConvRFMClassifier(**SMALL, centre=True).fit(x, y, weights)
    assert np.allclose(clf.mean_, np.average(x.mean((2, 3)), axis=0, weights=weights))


def test_selection_decides_which_images_are_held_out():
    x, _ = images(60)
    y = np.random.default_rng(0).integers(0, 2, 60)
    cv, fewer, holdout = (
        ConvRFMClassifier(**SMALL, selection=selection, n_splits=k).fit(x, y)
        for selection, k in [("cv", 5), ("cv", 2), ("holdout", 5)]
    )
    assert holdout.selection_error_ > 1.5 * cv.selection_error_
    assert [h["selection_score"] for h in fewer.history_] != [h["selection_score"] for h in cv.history_]


def test_many_images_hold_out_one_fold_alone(monkeypatch):
    monkeypatch.setattr("convscope.rfm.learned.LARGE", 39)
    assert fitted().selection_score_ == fitted(selection="holdout").selection_score_


def test_channels_and_image_shape_say_how_images_lie():
    x, y = images(channels=2)
    plain = ConvRFMClassifier(**SMALL).fit(x, y).decision_function(x)
    for other, changes in [
        (x.transpose(0, 2, 3, 1), {"channels": "last"}),
        (x.transpose(0, 2, 3, 1), {}),
        (x.reshape(len(x), -1), {"image_shape": (2, 6, 6)}),
        (x.transpose(0, 2, 3, 1).reshape(len(x), -1), {"image_shape": (6, 6, 2), "channels": "last"}),
        (torch.from_numpy(x), {}),
    ]:
        clf = ConvRFMClassifier(**SMALL, **changes).fit(other, y)
        assert np.allclose(clf.decision_function(other), plain)
        assert clf.form_.shape == (2, 6, 6)


def test_rows_without_a_shape_are_images_of_one_pixel():
    x, y = images()
    rows = x.reshape(len(x), -1)
    a = ConvRFMClassifier(**SMALL).fit(rows, y)
    b = ConvRFMClassifier(**SMALL, patch_size=1, channels="first").fit(rows[:, :, None, None], y)
    assert np.allclose(a.decision_function(rows), b.decision_function(rows[:, :, None, None]))


def test_whole_numbers_of_eight_bits_are_numbers_over_255():
    x, y = images()
    x = np.clip(x * 40 + 128, 0, 255).astype(np.uint8)
    a, b = ConvRFMClassifier(**SMALL).fit(x, y), ConvRFMClassifier(**SMALL).fit(x.astype(np.float32) / 255, y)
    assert np.allclose(a.decision_function(x), b.decision_function(x), atol=1e-5)
    assert np.allclose(a.predict_proba(x.astype(np.float32) / 255), a.predict_proba(x))


def test_images_without_channels_have_one():
    x, y = images()
    a, b = ConvRFMClassifier(**SMALL).fit(x[:, 0], y), ConvRFMClassifier(**SMALL).fit(x, y)
    assert np.allclose(a.decision_function(x[:, 0]), b.decision_function(x))


@pytest.mark.parametrize("names", [["a", "bb", "c"], [-1.0, 0.0, 7.0], [True, False, False]])
def test_labels_of_any_kind_come_back(names):
    x, y = images()
    labels = np.array(names)[y]
    clf = ConvRFMClassifier(**SMALL, ridge=1e-6).fit(x, labels)
    assert (clf.predict(x) == labels).all()
    assert clf.predict(x).dtype == labels.dtype


def test_two_classes_have_one_score_and_its_sign_is_the_class():
    x, y = images()
    clf = ConvRFMClassifier(**SMALL).fit(x, y > 0)
    scores = clf.decision_function(x)
    assert scores.shape == (40,)
    assert (clf.predict(x) == (scores > 0)).all()
    assert ((clf.predict_proba(x)[:, 1] > 0.5) == (scores > 0)).all()


def test_probabilities_are_a_softmax_that_tells_how_sure_held_out_images_are():
    x, y = images(150)
    noisy = np.where(np.random.default_rng(0).random(150) < 0.4, (y + 1) % 3, y)
    sure = ConvRFMClassifier(**SMALL).fit(x, y).predict_proba(images(60, seed=1)[0]).max(1).mean()
    unsure = ConvRFMClassifier(**SMALL).fit(x, noisy).predict_proba(images(60, seed=1)[0]).max(1).mean()
    assert unsure + 0.15 < sure


def test_images_of_weight_zero_are_left_out_first():
    x, y = images()
    weights = np.ones(40)
    weights[::4] = 0
    y = np.where(weights == 0, 9, y)  # a class of its own
    a, b = (ConvRFMClassifier(**SMALL, selection=None) for _ in range(2))
    a.fit(x, y, sample_weight=weights)
    b.fit(x[weights > 0], y[weights > 0])
    assert a.classes_.tolist() == [0, 1, 2]
    assert np.allclose(a.decision_function(x), b.decision_function(x))


def test_a_numeric_ridge_takes_weights_for_repeated_images():
    x, y = images()
    weights = np.random.default_rng(0).integers(0, 3, 40)
    for cls in BOTH:
        a, b = (cls(**SMALL, ridge=1e-3, selection=None, agop_samples=1000, rank_tol=0.0) for _ in range(2))
        a.fit(x, y, sample_weight=weights)
        b.fit(np.repeat(x, weights, 0), np.repeat(y, weights))
        assert np.allclose(a._scores(x), b._scores(x), atol=1e-6)


def test_equal_images_are_never_on_both_sides_of_a_fold():
    x, _ = images(20)
    y = np.random.default_rng(0).integers(0, 2, 20)
    twice = ConvRFMClassifier(**SMALL).fit(np.repeat(x, 2, 0), np.repeat(y, 2))
    assert twice.loo_score_ > 0.9  # for the twin of the image that is left out is there
    assert twice.selection_score_ < 0.8


def test_the_regressor_takes_off_the_mean_of_each_output():
    x, y = images()
    reg = ConvRFMRegressor(**SMALL).fit(x, y)
    moved = ConvRFMRegressor(**SMALL).fit(x, np.stack([y + 1000.0, -y], 1))
    assert np.allclose(moved.predict(x)[:, 0], reg.predict(x) + 1000, atol=1e-2)
    assert moved.predict(x).shape == (40, 2)
    assert reg.selection_score_ > 0.1
    assert reg.predict(x).shape == (40,)


def test_copies_predict_the_same():
    x, _ = images()
    for cls in BOTH:
        clf = fitted(cls, agop_samples=range(10))
        assert (pickle.loads(pickle.dumps(clf)).predict(x) == clf.predict(x)).all()
        again = clone(clf).fit(*images())
        assert (again.predict(x) == clf.predict(x)).all()
        assert not hasattr(clone(clf), "X_fit_")


def test_it_works_in_pipelines_and_searches():
    x, y = images()
    rows = x.reshape(40, -1)
    machine = ConvRFMClassifier(**SMALL, image_shape=(6, 6), selection=None)
    search = GridSearchCV(make_pipeline(StandardScaler(), machine), {"convrfmclassifier__ridge": [1e-4, 1.0]}, cv=2)
    search.fit(rows, y)
    assert search.best_estimator_.predict(rows).shape == (40,)
    assert make_pipeline(machine, LogisticRegression()) is not None


@pytest.mark.parametrize(
    ("changes", "x", "y", "message"),
    [
        ({}, None, np.zeros(40, int), "at least 2 classes, got one class"),
        ({}, "nan", None, "NaN"),
        ({}, np.ones((40, 1, 6, 6)), None, "all 40 images are equal"),
        ({}, np.ones((40, 1, 6, 6)) * np.arange(40)[:, None, None, None], None, "each of the 40 images is constant"),
        ({"patch_size": 7}, None, None, "a 7x7 patch of layer 1 does not fit into 6x6 pixels"),
        ({}, np.ones((1, 1, 6, 6)), np.zeros(1), "1 sample"),
        ({"solver": "cholesky", "max_memory": 2**10}, None, None, "max_memory"),
        ({}, np.random.default_rng(0).normal(size=(40, 3, 8, 3)), None, "channels first .3. or last .3."),
        ({"channels": "middle"}, None, None, "channels must be one of auto, first, last"),
        ({"image_shape": (5, 5)}, np.eye(40), None, "25 entries, but rows have 40 features"),
        ({"image_shape": (6, 6)}, None, None, "image_shape is for images as rows"),
        ({"selection": "loo"}, None, None, "selection must be one of"),
        ({"n_splits": 1}, None, None, "n_splits must be a whole number"),
        ({"method": "magic"}, None, None, "method must be one of"),
        ({"depth": 0}, None, None, "depth must be a whole number"),
    ],
)
def test_what_cannot_be_learned_from_is_said_clearly(changes, x, y, message):
    good, labels = images()
    if isinstance(x, str):
        x = good.copy()
        x[3, 0, 2, 2] = np.nan
    x = good if x is None else x
    y = labels[: len(x)] if y is None else y
    clf = ConvRFMClassifier(**({"depth": 1, "n_iters": 1} | changes))
    with pytest.raises((ValueError, ConvscopeError), match=message):
        clf.fit(x, y)
    with pytest.raises(NotFittedError):
        clf.predict(good)


@pytest.mark.parametrize("weights", [-np.ones(40), np.eye(40)[0], np.ones(3)])
def test_weights_that_cannot_be_are_refused(weights):
    with pytest.raises(ValueError, match="sample_weight"):
        ConvRFMClassifier(**SMALL).fit(*images(), sample_weight=weights)


def test_test_images_of_another_size_are_refused():
    with pytest.raises(ValueError, match=r"images must have the shape \(1, 6, 6\).*got \(1, 7, 7\)"):
        fitted().predict(np.ones((2, 1, 7, 7)))


def test_an_unknown_device_is_refused():
    with pytest.raises((RuntimeError, ValueError)):
        fitted(device="nowhere")


def test_verbose_shows_what_it_will_take(capsys):
    fitted(verbose=False)
    assert not capsys.readouterr().err
    fitted(verbose=True)
    said = capsys.readouterr().err
    assert "GiB" in said
    assert "iteration" in said


def test_an_interruption_leaves_the_iterations_that_were_done(monkeypatch):
    def interrupted(*args, **kwargs):
        rounds = relearn(*args, **kwargs)
        yield next(rounds)
        raise KeyboardInterrupt

    relearn = base.relearn
    monkeypatch.setattr(base, "relearn", interrupted)
    x, y = images()
    clf = ConvRFMClassifier(**SMALL)
    with pytest.raises(KeyboardInterrupt):
        clf.fit(x, y)
    assert len(clf.history_) == 1
    assert clf.predict_proba(x).shape == (40, 3)


def test_the_names_of_the_authors_settings_are_known():
    assert ConvRFMClassifier.official("script").get_params()["depth"] == 5
    assert ConvRFMClassifier.official(depth=1).depth == 1
    with pytest.raises(ValueError, match="code must be one of notebook, script"):
        ConvRFMClassifier.official("paper")


@pytest.mark.slow
def test_permuted_labels_are_predicted_at_chance_at_every_iteration():
    x, y = load_digits(return_X_y=True)
    rng = np.random.default_rng(0)
    rows = rng.permutation(len(x))[:200]
    clf = ConvRFMClassifier(n_iters=3).fit(x[rows].reshape(-1, 1, 8, 8), rng.permutation(y[rows]))
    for entry in clf.history_:
        assert abs(entry["selection_score"] - 0.1) < 2 * max(entry["selection_error"], (0.1 * 0.9 / 200) ** 0.5)


def test_permuted_labels_are_predicted_at_chance_though_leave_one_out_says_otherwise():
    # Rows of noise: the metric has a direction for each image.
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(48, 1, 9, 9)), np.repeat([0, 1], 24)
    clf = ConvRFMClassifier(patch_size=9, depth=1, n_iters=3, ridge=1e-3).fit(x, y)
    for entry in clf.history_:
        assert abs(entry["selection_score"] - 0.5) < 2 * (0.25 / 48) ** 0.5
    assert clf.history_[-1]["loo_score"] > 0.8
