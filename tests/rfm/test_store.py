import json
import struct

import numpy as np
import pytest
from rfm.machines import images

from convscope.core.errors import ConvscopeError
from convscope.rfm.estimators import ConvRFMClassifier, ConvRFMRegressor


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    file = tmp_path_factory.mktemp("machines") / "clf.safetensors"
    x, y = images()
    clf = ConvRFMClassifier(depth=2, n_iters=1, agop_samples=range(20)).fit(x, np.array(["ä", "b", "cc"])[y])
    clf.save(file)
    return clf, file


def edited(file, tmp_path, edit):
    """Returns a copy whose JSON text was changed by a function."""
    content = file.read_bytes()
    (size,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + size])
    header["__metadata__"]["convscope"] = edit(header["__metadata__"]["convscope"])
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    found = tmp_path / "edited.safetensors"
    found.write_bytes(struct.pack("<Q", len(text)) + text + content[8 + size :])
    return found


def test_a_machine_comes_back_as_it_was(saved):
    clf, file = saved
    again = ConvRFMClassifier.load(file)
    x, _ = images(20, seed=1)
    assert np.array_equal(again.predict_proba(x), clf.predict_proba(x))
    assert np.array_equal(again.predict(x), clf.predict(x))
    assert again.history_ == clf.history_
    assert np.array_equal(again.filters_, clf.filters_)
    parameters = {k: list(v) if isinstance(v, range) else v for k, v in clf.get_params().items()}
    assert again.get_params() == parameters
    assert all((a == b).all() for a, b in zip(again.staged_predict(x), clf.staged_predict(x), strict=True))


@pytest.mark.parametrize("labels", [np.array([3, 5, 7]), np.array([1.0, 2.0, 0.0]), np.array(["a", "b", "c"], object)])
def test_labels_come_back_with_their_kind(labels, tmp_path):
    x, y = images()
    clf = ConvRFMClassifier(depth=1, n_iters=0).fit(x, labels[y])
    clf.save(tmp_path / "clf")
    again = ConvRFMClassifier.load(tmp_path / "clf")
    assert again.classes_.dtype == clf.classes_.dtype
    assert (again.predict(x) == clf.predict(x)).all()


def test_a_regressor_comes_back(tmp_path):
    x, y = images()
    reg = ConvRFMRegressor(depth=1, n_iters=1).fit(x, np.stack([y, -y], 1))
    reg.save(tmp_path / "reg")
    assert np.array_equal(ConvRFMRegressor.load(tmp_path / "reg").predict(x), reg.predict(x))


@pytest.mark.parametrize("keep", [0, 4, 100, 3000, -1, -500])
def test_a_file_that_is_cut_is_refused(saved, tmp_path, keep):
    file = tmp_path / "cut.safetensors"
    file.write_bytes(saved[1].read_bytes()[:keep])
    with pytest.raises(ConvscopeError, match=r"cut\.safetensors cannot be read"):
        ConvRFMClassifier.load(file)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"ConvRFMClassifier"', '"ConvRFMRegressor"'),
        ('"record": "Settings"', '"record": "Popen"'),
        ('"record": "Stage"', '"record": "Form"'),
        ('["depth", 2]', '["depth", 1000000000]'),
        ('["depth", 2]', '["depth", "two"]'),
        ('["patch_size", 3]', '["patch_size", 2]'),
        ('["best_iteration_", ', '["best_iteration_", 7'),
        ('"temperature_"', '"other_"'),
        ('["X_fit_", {"array": ', '["X_fit_", {"array": "nothing" , "x": '),
        ('"cc"', '"cc", "d"'),
        ('["scale", ', '["scale", -'),
        ("{", "["),
        ("{", '{"dict":' * 100_000),
        ('["parameters", {"dict": [', '["parameters", {"dict": [["colour", "red"], '),
    ],
)
def test_a_file_that_was_tampered_with_is_refused(saved, tmp_path, old, new):
    def edit(text):
        assert old in text
        return text.replace(old, new)

    with pytest.raises(ConvscopeError):
        ConvRFMClassifier.load(edited(saved[1], tmp_path, edit))


def test_names_in_a_file_cannot_replace_methods(saved, tmp_path):
    file = edited(saved[1], tmp_path, lambda text: text.replace('"n_features_in_"', '"predict"'))
    assert callable(ConvRFMClassifier.load(file).predict)


def test_other_files_are_refused(tmp_path):
    with pytest.raises(ConvscopeError, match="does not exist"):
        ConvRFMClassifier.load(tmp_path / "nothing")
    with pytest.raises(ConvscopeError, match="folder"):
        ConvRFMClassifier.load(tmp_path)
    (tmp_path / "pickle").write_bytes(b"\x80\x04K\x01.")
    with pytest.raises(ConvscopeError, match="cannot be read"):
        ConvRFMClassifier.load(tmp_path / "pickle")


def test_what_a_file_cannot_hold_is_said(tmp_path):
    clf = ConvRFMClassifier(depth=1, n_iters=0, random_state=np.random.RandomState(0)).fit(*images())
    with pytest.raises(ConvscopeError, match="random_state is a RandomState, which a file cannot hold"):
        clf.save(tmp_path / "clf")
    with pytest.raises(ConvscopeError, match="cannot be written"):
        ConvRFMClassifier(depth=1, n_iters=0).fit(*images()).save(tmp_path / "nowhere" / "clf")
