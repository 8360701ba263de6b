import pickle

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from rfm.machines import images
from sklearn.base import clone

from convscope.rfm import base
from convscope.rfm.deep import DeepConvRFMClassifier
from convscope.rfm.estimators import ConvRFMClassifier

SMALL = {"depth": 2, "n_layers": 2, "n_iters": 1, "width": 8}


def fitted(n=40, side=8, **changes):
    x, y = images(n, side=side)
    return DeepConvRFMClassifier(**(SMALL | changes)).fit(x, y)


def test_the_first_layer_is_convrfm():
    x, y = images(side=8)
    deep, one = fitted(), ConvRFMClassifier(depth=2, n_iters=1).fit(x, y)
    assert [h["selection_score"] for h in deep.layers_[0].history_] == [h["selection_score"] for h in one.history_]
    assert np.allclose(deep.layers_[0].metric_, one.metric_)


@pytest.mark.parametrize("feature_map", ["linear", "relu"])
def test_the_second_layer_is_convrfm_on_a_convolution_of_the_images(feature_map):
    x, y = images(side=8)
    deep = fitted(feature_map=feature_map, selection=None)
    features = F.conv2d(torch.from_numpy(x), torch.from_numpy(deep.convolutions_[0]))
    features = features.relu() if feature_map == "relu" else features
    one = ConvRFMClassifier(depth=1, n_iters=1, selection=None, channels="first").fit(features.numpy(), y)
    assert deep.best_layer_ == 1
    assert np.allclose(deep.layers_[1].metric_, one.metric_, atol=1e-8)
    assert np.allclose(deep.decision_function(x), one.decision_function(features), atol=1e-6)


def test_filters_between_layers_have_the_covariance_of_the_metric():
    deep = fitted(selection=None)
    x, metric = torch.from_numpy(deep.X_fit_), torch.from_numpy(deep.layers_[0].metric_)
    deep.width = 4000
    for root, wanted in [(deep.layers_[0].stages_[1].metric_root, metric), (None, torch.eye(9) / 9)]:
        rows = deep._drawn(None if root is None else torch.from_numpy(root), 1, x).flatten(1)
        assert (rows.T @ rows / 4000 - wanted).abs().max() < 0.03


def test_the_best_layer_and_iteration_are_the_first_of_the_best_selection_scores():
    deep = fitted(120)
    scores = [part.selection_score_ for part in deep.layers_]
    assert deep.best_layer_ == scores.index(max(scores))
    assert deep.selection_score_ == max(h["selection_score"] for part in deep.layers_ for h in part.history_)


def test_held_out_images_have_no_part_in_any_layer():
    # Noise seen whole: every metric learned from an image would know its class.
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(48, 1, 9, 9)), np.repeat([0, 1], 24)
    deep = DeepConvRFMClassifier(
        patch_size=5, depth=2, n_layers=2, n_iters=1, width=16, ridge=1e-3, feature_map="linear"
    ).fit(x, y)
    for part in deep.layers_:
        for entry in part.history_:
            assert abs(entry["selection_score"] - 0.5) < 2 * (0.25 / 48) ** 0.5
    assert deep.layers_[1].history_[-1]["loo_score"] > 0.7


def test_training_images_are_predicted_as_they_were_fitted_in_every_layer():
    x, y = images(side=8)
    deep = fitted(ridge=1e-8, selection=None)
    assert np.abs(deep.decision_function(x) - np.eye(3)[y]).max() < 1e-3
    assert [stage.shape for stage in deep.staged_predict(x)] == [(40,)] * 4


@pytest.mark.parametrize(
    ("name", "value"),
    [("width", 4), ("n_layers", 1), ("feature_map", "relu"), ("random_state", 1), ("padding", "same")],
)
def test_each_parameter_of_the_layers_changes_predictions(name, value):
    new, _ = images(20, side=8, seed=1)
    common = {"selection": None, "feature_map": "linear"}
    before, after = fitted(**common), fitted(**(common | {name: value}))
    assert np.abs(before.decision_function(new) - after.decision_function(new)).max() > 1e-3


def test_gains_of_every_layer_are_over_the_fixed_kernel_of_the_first(monkeypatch):
    judged, judge = [], base.accuracy
    monkeypatch.setattr(base, "accuracy", lambda *args: judged.append(args[-1]) or judge(*args))
    deep = fitted()
    assert deep.layers_[0].history_[0]["selection_gain_error"] == 0
    compared = [before for before in judged if before is not None]
    assert len(compared) == sum(len(part.history_) for part in deep.layers_)
    assert all(before is compared[0] for before in compared)


def test_stride_is_taken_once():
    deep = fitted(side=12, stride=2, selection=None)
    assert deep._features(1)(torch.from_numpy(deep.X_fit_)).shape[-1] == 5
    assert deep._settings_of(1).architecture.stride == 1
    padded = fitted(padding="same", side=4, channels="first")
    assert padded._features(1)(torch.zeros(1, 1, 4, 4).double()).shape[-1] == 4


def test_copies_and_files_predict_the_same(tmp_path):
    x, _ = images(20, side=8, seed=1)
    deep = fitted(selection=None)
    deep.save(tmp_path / "deep.safetensors")
    again = DeepConvRFMClassifier.load(tmp_path / "deep.safetensors")
    for copy in (again, pickle.loads(pickle.dumps(deep)), clone(deep).fit(*images(side=8))):
        assert np.array_equal(copy.predict_proba(x), deep.predict_proba(x))
    assert again.get_params() == deep.get_params()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n_layers": 3}, r"n_layers must be at most depth \(2\)"),
        ({"n_layers": 0}, "n_layers must be a whole number"),
        ({"width": 0}, "width must be a whole number"),
        ({"feature_map": "tanh"}, "feature_map must be one of linear, relu"),
    ],
)
def test_layers_that_cannot_be_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        fitted(**changes)


def test_the_authors_script_has_five_linear_layers_and_no_selection():
    found = DeepConvRFMClassifier.official().get_params()
    assert (found["depth"], found["n_layers"], found["width"], found["feature_map"]) == (5, 5, 64, "linear")
    assert DeepConvRFMClassifier.official(depth=2, n_layers=2).fit(*images(side=8)).predict(images(side=8)[0]).shape


def test_an_interruption_leaves_the_layers_that_were_done(monkeypatch):
    from convscope.rfm import base

    relearn, calls = base.relearn, []

    def interrupted(*args, **kwargs):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        yield from relearn(*args, **kwargs)

    monkeypatch.setattr(base, "relearn", interrupted)
    x, y = images(side=8)
    deep = DeepConvRFMClassifier(**SMALL)
    with pytest.raises(KeyboardInterrupt):
        deep.fit(x, y)
    assert len(deep.layers_) == 1
    assert deep.predict(x).shape == (40,)
