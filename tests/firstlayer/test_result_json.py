"""Saved results: what is read back says the same, and what is damaged ends in one line."""

import copy
import json

import numpy as np
import pytest
import torch
from firstlayer_runs import analysed, images, net, source_of
from torch import nn

from convscope.analyse import analyse
from convscope.core.errors import ConvscopeError
from convscope.core.network import Network
from convscope.core.passes import Pass
from convscope.core.results import result_from_json
from convscope.firstlayer.comparison import Comparison, ComparisonResult, compare_profiles
from convscope.firstlayer.data import Data, DataResult
from convscope.firstlayer.result import FirstLayerResult
from convscope.firstlayer.theory import Replica


def first_layer():
    replicas = [Replica(kind, kind, net(seed=s)[0].weight.detach()) for kind, s in (("true", 5), ("permuted", 6))]
    return analysed(net(), labels=3, replicas=replicas)


def frozen():
    module = net()
    return analysed(module, init=module)


def data():
    p = Pass(source_of(images(), torch.arange(48) // 4 % 2), {"model": Network("patches", nn.Conv2d(3, 1, 3))})
    (result,), _ = analyse(p, [Data()])
    return result


def comparison():
    p = Pass(source_of(images()), {name: Network(name, net(seed=s)) for name, s in (("a", 1), ("b", 2))})
    plan = Comparison().plan(p)
    p.run()
    return compare_profiles(plan())


@pytest.fixture(scope="module")
def results():
    return {make.__name__: make() for make in (first_layer, frozen, data, comparison)}


KINDS = ["first_layer", "frozen", "data", "comparison"]


def told(result):
    return [(f.text, f.number.spread, f.number.chance, f.number.definition) for f in result.findings()]


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_read_back_says_the_same(results, kind):
    result = results[kind]
    text = json.dumps(result.to_json(), allow_nan=False)
    again = result_from_json(json.loads(text))
    assert type(again) is type(result)
    assert told(again) == told(result)
    assert again.definitions() == result.definitions()
    assert again.skipped == result.skipped
    assert json.dumps(again.to_json(), allow_nan=False) == text
    assert {k: (list(v.numbers), v.shape) for k, v in again.layers().items()} == {
        k: (list(v.numbers), v.shape) for k, v in result.layers().items()
    }
    assert np.allclose(again.to_frame().to_numpy(float), result.to_frame().to_numpy(float), equal_nan=True)


@pytest.mark.parametrize("kind", ["first_layer", "data", "comparison"])
def test_figures_are_the_same(results, kind):
    result = results[kind]
    again = result_from_json(json.loads(json.dumps(result.to_json())))
    ours, theirs = result.figures(), again.figures()
    assert list(ours) == list(theirs)
    for name, chart in ours.items():
        assert (chart.caption, chart.alt, chart.how_to_read) == (
            theirs[name].caption, theirs[name].alt, theirs[name].how_to_read,
        )  # fmt: skip


def removed(key):
    return lambda d: d.pop(key)


def replaced(value, *path):
    def damage(d):
        for key in path[:-1]:
            d = d[key]
        d[path[-1]] = value

    return damage


PATCHES = {
    "no layer": removed("layer"),
    "no numbers": removed("numbers"),
    "no curves": removed("curves"),
    "no facts": removed("facts"),
    "no patches": removed("patches"),
    "no skipped": removed("skipped"),
    "layer is a list": replaced([], "layer"),
    "numbers is a list": replaced([], "numbers"),
    "numbers is null": replaced(None, "numbers"),
    "a number is text": replaced("0.9", "numbers", "label_first", "value"),
    "a number is a list": replaced([1, 2], "numbers", "label_first"),
    "a number without spread": replaced({"value": 1, "chance": None, "definition": ""}, "numbers", "label_first"),
    "a chance of three ends": replaced([1, 2, 3], "numbers", "label_first", "chance"),
    "a spread of words": replaced("wide", "numbers", "label_first", "spread"),
    "a number too large": replaced(10**400, "numbers", "label_first", "value"),
    "a definition that is no text": replaced(7, "numbers", "label_first", "definition"),
    "curves of words": replaced(["a", "b"], "curves", "variance"),
    "a curve of two axes": replaced([[1.0], [2.0]], "curves", "variance"),
    "a ragged curve": replaced([1.0, [2.0]], "curves", "variance"),
    "a shorter curve": replaced([1.0, 2.0], "curves", "variance"),
    "a curve is an object": replaced({}, "curves", "variance"),
    "no variance": lambda d: d["curves"].pop("variance"),
    "a fact is a list": replaced([], "facts", "response_lag"),
    "no lag": lambda d: d["facts"].pop("response_lag"),
    "the lag is a word": replaced("far", "facts", "response_lag"),
    "patches of one axis": replaced([1.0, 2.0], "patches"),
    "patches are null": replaced(None, "patches"),
    "skipped is a number": replaced(3, "skipped"),
    "a skip of one part": replaced([["only"]], "skipped"),
    "a skip of numbers": replaced([[1, 2]], "skipped"),
}
LAYER = {
    "no shape": removed("shape"),
    "a shape of three": replaced([1, 2, 3], "shape"),
    "a shape of words": replaced(["a", "b", "c", "d"], "shape"),
    "a shape that does not fit": replaced([8, 3, 5, 5], "shape"),
    "no filters": removed("filters"),
    "filters of one axis": replaced([1.0], "filters"),
    "a stride of one": replaced([1], "stride"),
    "stride null": replaced(None, "stride"),
    "names without a matrix": replaced([], "consistency"),
    "a matrix without names": replaced([], "consistency_names"),
    "a ragged matrix": replaced([[1.0], [1.0, 2.0]], "consistency"),
    "no baseline": lambda d: d["facts"].pop("best_rival"),
    "an unknown baseline": replaced("nobody", "facts", "best_rival"),
    "no margin": lambda d: d["numbers"].pop("margin"),
    "no bump": lambda d: d["numbers"].pop("bump"),
    "seeds without pairs": lambda d: d["facts"].pop("seeds_pairs"),
    "a profile without bump on unseen components": lambda d: d["numbers"].pop("held_out_bump"),
}
COMPARISON = {
    "no names": removed("names"),
    "names null": replaced(None, "names"),
    "one name": replaced(["a"], "names"),
    "no matrix": removed("matrix"),
    "a matrix of words": replaced([["a"]], "matrix"),
    "a smaller matrix": replaced([[1.0]], "matrix"),
    "a ragged matrix": replaced([[1.0], [1.0, 2.0]], "log_matrix"),
    "no spread": removed("spread"),
    "no chance": removed("chance"),
    "chance is a number": replaced(0.3, "chance"),
    "notes are null": replaced(None, "notes"),
    "a skip of one part": replaced([["only"]], "skipped"),
    "a huge entry": replaced([[10**400] * 3] * 3, "matrix"),
}
DAMAGES = (
    [("first_layer", FirstLayerResult, name, damage) for name, damage in (PATCHES | LAYER).items()]
    + [("data", DataResult, name, damage) for name, damage in PATCHES.items()]
    + [("comparison", ComparisonResult, name, damage) for name, damage in COMPARISON.items()]
)


@pytest.mark.parametrize(("kind", "cls", "name", "damage"), DAMAGES, ids=[f"{d[0]}: {d[2]}" for d in DAMAGES])
def test_damaged_files_end_in_one_line(results, kind, cls, name, damage):
    data = copy.deepcopy(json.loads(json.dumps(results[kind].to_json())))
    damage(data)
    with pytest.raises(ConvscopeError) as error:
        cls.from_json(data)
    assert "damaged" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("cls", [FirstLayerResult, DataResult, ComparisonResult])
@pytest.mark.parametrize("data", [None, [], 3, "text", {}, {"kind": "firstlayer"}])
def test_what_is_no_result_ends_in_one_line(cls, data):
    with pytest.raises(ConvscopeError):
        cls.from_json(data)
