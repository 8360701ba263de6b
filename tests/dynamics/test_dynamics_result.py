"""The result of the theory of learning dynamics: tables, figures, JSON."""

import json
import math

import numpy as np
import pytest
import torch
from dynamics_runs import QUICK, run, waves
from result_checks import assert_every_number_stands, changed
from torch import nn

from convscope.core.errors import ConvscopeError
from convscope.core.network import Network
from convscope.core.results import result_from_json
from convscope.dynamics.result import DynamicsResult
from convscope.dynamics.trained import trained_part
from convscope.dynamics.training import train_and_measure
from convscope.dynamics.wording import classes_in_words, frequency_in_words, steps_in_words

IMAGES, LABELS = waves()


def use(kind):
    def train(x, y):
        return trained_part(train_and_measure(kind, x, y, steps=400, init_std=1e-2, progress=False), QUICK)

    return train


@pytest.fixture(scope="module")
def trained():
    return run(IMAGES, LABELS, train=use("linear-cnn"))


@pytest.fixture(scope="module")
def full(trained):
    """A result with every part."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    with torch.no_grad():
        net[1].weight.copy_(torch.stack([IMAGES[k == LABELS].mean(0).flatten() for k in range(3)]))
        net[1].bias.copy_(-net[1].weight.square().sum(1) / 2)
    whole = run(IMAGES, LABELS, networks={"model": Network("nearest mean", net)})
    return DynamicsResult(**{**whole.__dict__, "trained": trained.trained})


def test_json_comes_back(full):
    text = json.dumps(full.to_json(), allow_nan=False)
    again = result_from_json(json.loads(text))
    assert isinstance(again, DynamicsResult)
    assert json.dumps(again.to_json(), allow_nan=False) == text
    assert [f.text for f in again.findings()] == [f.text for f in full.findings()]
    assert list(again.figures()) == list(full.figures())
    assert again.definitions() == full.definitions()
    assert again.to_frame().equals(full.to_frame())


def test_every_number_is_defined(full):
    known = full.definitions()
    tables = [full.numbers, *(mode.numbers for mode in full.modes), full.trained.numbers, *full.trained.modes]
    numbers = [n for table in tables for n in table.values()]
    numbers += [*full.use.numbers.values(), *(n for curve in full.use.kept.values() for n in curve)]
    assert {n.definition for n in numbers} <= set(known)
    assert "" not in known
    assert all(d.formula and d.source for d in known.values())


def test_the_table_has_value_error_and_chance(full):
    frame = full.to_frame()
    assert list(frame["mode"]) == [1, 2]
    for row, mode in zip(frame.to_dict("records"), full.modes, strict=True):
        assert_every_number_stands(row, mode.numbers)
    assert frame["frequencies"][0].startswith("(0, 0)")
    assert full.layers() == {}


def test_figures_say_what_they_show(full):
    found = full.figures()
    assert next(iter(found)) == "learning"
    assert {"modes", "spectra", "growth", "classes", "pairs", "training", "used spectra", "frequency use"} <= set(found)
    assert all(chart.caption and chart.alt for chart in found.values())
    drawn = found["learning"].data
    steps = np.array(drawn["steps of SGD, linear CNN"])
    share = np.array(drawn["mode 1, linear CNN"])
    half = full.modes[0].numbers["steps"].value
    assert np.interp(half, steps, share) == pytest.approx(0.5, abs=0.03)
    dense = np.interp(
        full.modes[0].numbers["dense_steps"].value,
        drawn["steps of SGD, fully connected"],
        drawn["mode 1, fully connected"],
    )
    assert dense == pytest.approx(0.5, abs=0.03)


def test_growth_is_largest_where_the_first_mode_is(full):
    growth = full.shown["growth"]
    y, x = np.unravel_index(growth.argmax(), growth.shape)
    assert (y, x) == (3, 3)  # frequency 0 of 8: from -3 to 4
    assert full.numbers["fastest"].value == pytest.approx(growth.max(), rel=1e-5)


def test_a_linear_network_is_measured_beside_its_prediction(trained):
    part = trained.trained
    assert part.facts["scaled"] == 1
    first = part.modes[0]
    assert first["half_measured"].value == pytest.approx(first["half_expected"].value, rel=0.05)
    assert part.numbers["times_measured"].value < 0.05
    assert "linear CNN" in trained.figures()["training"].caption


def test_a_relu_network_stands_beside_the_scaled_prediction():
    found = run(IMAGES, LABELS, train=use("mlp"))
    part = found.trained
    assert part.facts["scaled"] != 1
    halves = [(mode["half_measured"].value, mode["half_expected"].value) for mode in part.modes]
    measured, expected = min(halves)
    assert math.isfinite(measured)
    assert measured == pytest.approx(expected)
    assert "multiplied by" in found.figures()["training"].caption
    assert any("ReLUs" in finding.text for finding in found.findings())


def damaged(data):
    """Ways in which a file may be wrong."""
    for key in data:
        if key != "kind":
            yield {k: v for k, v in data.items() if k != key}
            yield {**data, key: 7}
    for path, value in (
        (("modes", 0, "frequencies"), []),
        (("modes", 0, "frequencies"), [[0, 0, 0]] * 3),
        (("modes", 0, "high"), [3]),
        (("modes", 0, "numbers", "steps"), {"value": "fast"}),
        (("modes", 0, "numbers"), {}),
        (("numbers",), {}),
        (("facts",), {}),
        (("facts", "images"), [1]),
        (("counts",), [1]),
        (("shown", "modes"), [[1.0]]),
        (("shown", "spectra"), [[[1.0]]]),
        (("shown", "growth"), [[1.0]]),
        (("shown", "steps"), [1.0]),
        (("shown", "class_vectors"), [[1.0]]),
        (("shown", "pairs"), [[1.0]]),
        (("shown", "unknown"), [[1.0]]),
        (("trained", "curves", "steps"), [1.0]),
        (("trained", "curves", "used"), [[[1.0]]]),
        (("trained", "modes"), []),
        (("trained", "numbers"), {}),
        (("use", "counts"), []),
        (("use", "kept", "strength"), []),
        (("use", "kept"), {}),
        (("use", "numbers"), {}),
    ):
        yield changed(data, path, value)


def test_damaged_files_are_refused(full):
    whole = json.loads(json.dumps(full.to_json()))
    for i, wrong in enumerate(damaged(whole)):
        with pytest.raises(ConvscopeError, match="damaged"):
            print(i, result_from_json(wrong).kind)


def test_words():
    assert classes_in_words([]) == ""
    assert classes_in_words(["3"]) == "class 3"
    assert frequency_in_words(3, 0) == "3 waves from top to bottom"
    assert steps_in_words(99.96) == "100"
    assert steps_in_words(1234.0) == "1,230"
