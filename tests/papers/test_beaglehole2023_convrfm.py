"""The experiments on ConvRFM: complete rows, machines chosen without the test images, and verdicts by the spread."""

import json
import math
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from convscope.core.errors import ConvscopeError
from convscope.papers import beaglehole2023_convrfm as convrfm
from convscope.papers import record, table
from convscope.papers.beaglehole2023_claims import gained, in_words
from convscope.papers.beaglehole2023_convrfm_images import ACCURACY, CIFAR10, ERROR, FASHION, LOCAL, NOISY
from convscope.papers.beaglehole2023_convrfm_rows import CNN, FIXED, Found, rows_of
from convscope.papers.data import LabelledImages, fashion_mnist
from convscope.papers.kept import Scores
from convscope.papers.registry import SCALES, Row, Setup, chosen
from convscope.rfm.estimators import ConvRFMClassifier

STAR, SIGNAL, *_ = LOCAL
DATA = Path(__file__).parents[3] / "shared" / "data"


def sized(case, n, m, **changes):
    return replace(case, sizes=dict.fromkeys(SCALES, ((n, m),)), **changes)


def setup(**changes):
    return replace(Setup("smoke", progress=False), **changes)


def idx(path, array):
    header = bytes([0, 0, 8, array.ndim]) + b"".join(size.to_bytes(4, "big") for size in array.shape)
    path.write_bytes(header + array.astype(np.uint8).tobytes())


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Stand-ins for Fashion-MNIST and CIFAR-10, no image twice."""
    clothes, photographs = tmp_path_factory.mktemp("clothes"), tmp_path_factory.mktemp("photographs")
    random = np.random.default_rng(0)
    for name, split, n in (("train", "train", 120), ("t10k", "test", 60)):
        idx(clothes / f"{name}-images-idx3-ubyte", random.integers(0, 256, (n, 28, 28)))
        idx(clothes / f"{name}-labels-idx1-ubyte", np.arange(n) % 10)
        images = random.integers(0, 256, (n, 32, 32, 3), dtype=np.uint8)
        np.savez(photographs / f"cifar10_{split}.npz", **{f"x_{split}": images, f"y_{split}": np.arange(n) % 10})
    return {"fashion-mnist": clothes, "cifar10": photographs}


def ran(name, given):
    ((experiment, result),) = record.run_all(chosen([f"beaglehole2023/{name}"]), given, "convscope papers NAME")
    assert result["status"] == record.DONE
    json.dumps(result, allow_nan=False)
    rows = [Row.from_json(row) for row in result["rows"]]
    page = table.of_paper(experiment.paper, {experiment.key: result})
    assert all(row.quantity in page and row.note in page for row in rows)
    return {row.quantity: row for row in rows}, result["details"]


def test_every_machine_has_its_row_beside_the_cnn_and_the_largest_class(monkeypatch):
    reported = tuple(replace(number, n=16) for number in STAR.reported)
    small = sized(STAR, 16, 20, settings={**STAR.settings, "patch_size": 3}, reported=reported)
    monkeypatch.setattr(convrfm, "LOCAL", (small, sized(SIGNAL, 24, 20, reported=STAR.reported)))
    rows, details = ran("convrfm-local", setup())
    for at, machines in (
        ("star, n = 16", ["the fixed kernel", "ConvRFM"]),
        ("local signal, n = 24", ["the fixed kernel", "ConvRFM", "Deep ConvRFM"]),
    ):
        for name in machines:
            assert set(rows.pop(f"{at}: {ACCURACY} of {name}").baselines) == {CNN, "largest class"}
        assert rows.pop(f"{at}: {ACCURACY} of {CNN}").baselines == {"largest class": 0.5}
        for before, after in {(FIXED, machine) for machine in machines[1:]} | set(pairwise(machines)):
            gain = rows.pop(f"{at}: gain in test accuracy of {after} over {before}")
            assert gain.n == 2
            assert bool(gain.verdict) == (before == FIXED)
            assert "95 % interval over 2 runs" in gain.note
        assert 0 <= rows.pop(next(q for q in rows if q.startswith(at) and "energy" in q)).ours.value <= 1
        assert rows.pop(f"{at}: fall of the mean squared error from {FIXED}'s by ConvRFM, as a share of it").verdict
    assert len(rows) == len(STAR.reported)
    assert all(row.expected and "notebook" in row.paper for row in rows.values())
    iterations = convrfm.ITERATIONS + 1
    assert len(details["draws"]) == 2 * 2
    assert len(details["iterations"]) == 2 * 2 * iterations
    assert len(details["layers"]) == 2 * convrfm.LAYERS * iterations
    assert sum(line["selected"] for line in details["layers"]) == 2


@pytest.mark.parametrize(("name", "cases"), [("noisy", NOISY), ("fashion", FASHION), ("cifar10", CIFAR10)])
def test_experiments_on_given_images_run(name, cases, data, monkeypatch):
    monkeypatch.setattr(convrfm, name.upper(), tuple(sized(case, 20, 10, deep=0) for case in cases))
    rows, details = ran(f"convrfm-{name}", setup(data=data))
    assert all(math.isfinite(row.ours.value) for row in rows.values())
    assert {line["data"] for line in details["draws"]} == {case.name for case in cases}


@pytest.mark.slow
def test_smoke_scale_runs_on_embedded_images():
    rows, _ = ran("convrfm-local", setup())
    assert {quantity.split(",")[0] for quantity in rows} == {case.name for case in LOCAL}


def test_iteration_0_is_the_fixed_kernel():
    draw = SIGNAL.draw(setup(), 30, 40, 3)
    found = convrfm._machines(replace(SIGNAL, deep=0), draw, 3, setup())
    fixed = ConvRFMClassifier(n_iters=0).fit(draw.train.images.numpy(), draw.train.labels.numpy())
    scores = fixed.decision_function(draw.test.images.numpy())
    assert found.fixed == fixed.score(draw.test.images.numpy(), draw.test.labels.numpy())
    # The errors a and b of two outputs have a^2 + b^2 >= (a - b)^2 / 2, and scores are differences of outputs.
    signs = 2 * draw.test.labels.numpy() - 1
    assert found.curve[0]["mean squared error"] >= ((scores - signs) ** 2).mean() / 2


def test_test_images_have_no_part_in_what_is_selected():
    draw = SIGNAL.draw(setup(), 30, 20, 0)
    wrong = LabelledImages(draw.test.images, 1 - draw.test.labels, "other")
    first = convrfm._machines(SIGNAL, draw, 0, setup())
    other = convrfm._machines(SIGNAL, replace(draw, test=wrong), 0, setup())
    assert other.selected == first.selected
    assert other.layers == first.layers
    assert math.isclose(other.learned, 1 - first.learned)


@pytest.mark.parametrize("case", [*FASHION, *CIFAR10])
def test_draws_of_given_images_share_none(case, data):
    draws = [case.draw(setup(data=data), 30, 20, seed) for seed in range(3)]
    images = torch.cat([part.images for draw in draws for part in (draw.train, draw.test)]).flatten(1)
    assert len(images) == 3 * (30 + 20)
    assert len(images.unique(dim=0)) == len(images)
    assert 0 <= images.min() < 0.1 < 0.9 < images.max() <= 1


@pytest.mark.parametrize("case", [*LOCAL, *NOISY])
def test_drawn_images_differ_between_draws_and_between_training_and_test(case, data):
    draws = [case.draw(setup(data=data), 20, 10, seed) for seed in range(2)]
    images = torch.cat([part.images for draw in draws for part in (draw.train, draw.test)]).flatten(1)
    assert len(images) == len(images.unique(dim=0)) == 2 * 30
    again = case.draw(setup(data=data), 20, 10, 1)
    assert again.train.fingerprint == draws[1].train.fingerprint != draws[0].train.fingerprint


@pytest.mark.parametrize(
    ("gains", "word"),
    [
        ([0.03, 0.02, 0.04], "a gain:"),
        ([-0.03, -0.02, -0.04], "a loss:"),
        ([0.05, -0.01, 0.04], "no gain to be seen:"),
        ([0.0, 0.0, 0.0], "no gain to be seen:"),
    ],
)
def test_the_spread_over_draws_decides_whether_learning_helps(gains, word):
    assert in_words(gains).startswith(word)
    row = gained("gain", gains, reason="none")
    assert row.verdict == ("claim holds" if word == "a gain:" else "claim fails")


def found(gains, errors):
    scores = Scores(0.9, 0.6, 1.0)
    curves = [
        [{ACCURACY: 0.5, ERROR: 0.8}, {ACCURACY: 0.5 + gain, ERROR: error}]
        for gain, error in zip(gains, errors, strict=True)
    ]
    return [Found(0.1, curve, 1, curve[1][ACCURACY], [], scores, 0.02, (1.0, 1.0)) for curve in curves]


def test_a_planted_gain_is_found_and_its_absence_too():
    some = rows_of(SIGNAL, 500, 100, found([0.05, 0.06, 0.055], [0.7, 0.71, 0.69]))
    assert [row.verdict for row in some if row.verdict] == ["claim holds"] * 3
    none = rows_of(SIGNAL, 500, 100, found([0.05, -0.06, 0.0], [0.8, 0.8, 0.8]))
    assert [row.verdict for row in none if row.verdict] == ["claim fails"] * 3
    assert all(
        "fixed kernel in 0 of 3 draws" in row.reason and "2.0 % of the patches" in row.reason
        for row in none
        if row.verdict
    )


def test_sizes_are_those_of_the_digits():
    case = LOCAL[-1]
    draw = case.draw(setup(), 30, 20, 0)
    assert draw.train.images.shape == (30, 1, 8, 8)
    assert draw.train.images.max() == 1


def test_a_trained_cnn_is_read_back(tmp_path, monkeypatch):
    draw = STAR.draw(setup(), 30, 20, 0)
    first = convrfm._network(draw, convrfm.Recipe(0, 1), setup(cache=tmp_path))
    monkeypatch.setattr(convrfm, "learn", None)
    assert convrfm._network(draw, convrfm.Recipe(0, 1), setup(cache=tmp_path)) == first


def test_missing_data_are_named(tmp_path, monkeypatch, data):
    monkeypatch.delenv("CONVSCOPE_DATA", raising=False)
    results = record.run_all(chosen(["beaglehole2023/convrfm-fashion"]), setup(scale="cpu"), "convscope papers NAME")
    ((_, missing),) = results
    assert missing["status"] == record.MISSING
    assert "--data fashion-mnist=PATH" in missing["why"][0]
    assert "train-images-idx3-ubyte" in missing["why"][0]
    with pytest.raises(ConvscopeError, match="holds no train images of Fashion-MNIST; expected a folder"):
        fashion_mnist(tmp_path, 5)
    idx(tmp_path / "train-images-idx3-ubyte", np.zeros((3, 28, 28)))
    with pytest.raises(ConvscopeError, match="1x28x28 and 0 labels"):
        fashion_mnist(tmp_path, 5)
    assert len(fashion_mnist(data["fashion-mnist"], 500, "test").labels) == 60


@pytest.mark.skipif(not (DATA / "fashion-mnist").is_dir(), reason="needs the data in ../shared/data")
def test_fashion_mnist_is_in_its_original_order():
    found = fashion_mnist(DATA / "fashion-mnist", 10)
    assert found.images.shape == (10, 1, 28, 28)
    assert found.labels.tolist() == [9, 0, 0, 3, 0, 2, 7, 2, 5, 5]
    assert math.isclose(float(found.images.max()), 1)
