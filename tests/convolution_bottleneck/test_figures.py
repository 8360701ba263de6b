"""What the charts of the bottleneck hand to the page."""

import numpy as np
import pytest
from bottleneck_results import pair, result

from convscope.bottleneck import figures
from convscope.bottleneck.shown import Decoded, LayerMaps


@pytest.fixture
def drawn(monkeypatch):
    """What is handed to the chart of pictures."""
    calls = {}
    monkeypatch.setattr(figures, "pictures", lambda stack, **options: calls.update(stack=stack, **options))
    return calls


def test_the_untrained_network_stands_below_layer_by_layer(drawn):
    found = result()
    figures._variance(found)
    assert drawn["stack"].shape == (6, 1, figures.SIDE, figures.SIDE)
    assert drawn["columns"] == 3
    assert drawn["labels"] == ["no. 1", "no. 2", "no. 3"] * 2
    assert "Below: untrained twin." in drawn["caption"]
    for i, name in enumerate(found.maps):
        own = drawn["stack"][i, 0]
        assert own[0, 0] == found.maps[name].variance[0, 0]
        assert own[-1, -1] == found.maps[name].variance[-1, -1]
        assert drawn["stack"][3 + i, 0, 0, 0] == found.maps[name].untrained[0, 0]


def test_without_an_untrained_network_there_is_one_row(drawn):
    nothing = np.empty((0, 0))
    maps = {name: LayerMaps(m.variance, nothing, m.largest, m.kept) for name, m in result().maps.items()}
    figures._variance(result(maps=maps))
    assert len(drawn["stack"]) == 3
    assert "Below" not in drawn["caption"]


def test_a_layer_whose_untrained_map_is_missing_leaves_a_gap(drawn):
    maps = dict(result().maps)
    maps["conv2"] = LayerMaps(maps["conv2"].variance, np.empty((0, 0)), maps["conv2"].largest, maps["conv2"].kept)
    figures._variance(result(maps=maps))
    assert np.isnan(drawn["stack"][4]).all()
    assert np.isfinite(drawn["stack"][[0, 1, 2, 3, 5]]).all()


def test_maps_keep_their_cells():
    shown = np.arange(6.0).reshape(2, 3)
    large = figures._enlarged(shown)
    assert large.shape == (figures.SIDE, figures.SIDE)
    half, third = figures.SIDE // 2, figures.SIDE // 3
    assert np.array_equal(large[:half, :third], np.zeros((half, third)))
    assert np.array_equal(np.unique(large), np.arange(6.0))


def test_pictures_of_real_pairs_are_two_and_of_waves_four(drawn):
    found = result()
    figures._pairs(found)
    assert drawn["stack"].shape == (8, 3, 5, 5)
    assert drawn["labels"] == ["1: 0°", "1: 90°", "1: 180°", "1: 270°", "2: +", "2: −", "", ""]
    assert np.array_equal(drawn["stack"][:6], np.moveaxis(found.patterns, 3, 1) / 255)
    assert np.isnan(drawn["stack"][6:]).all()
    assert "2: the mean over space (20 % of the variance, 10 % of the outputs)." in drawn["caption"]


def test_one_pair_fills_one_row(drawn):
    figures._pairs(result(pairs=(pair(0, 1, 0.3),), patterns=result().patterns[:4]))
    assert drawn["columns"] == 4


def test_outputs_that_need_a_pair_are_named():
    chart = figures._answers(result())
    assert chart.data == {
        "row": ["pair 1", "pair 2"],
        "1": [30, 5],
        "4": [12.5, 125],
        "7": [None, 0],
    }
    assert chart.alt == "Output 4 changes most, by 125 %, without pair 2."
    silent = Decoded((0,), np.full((2, 1), np.nan))
    assert figures._answers(result(decoded=silent)).alt == "No output changes."


def test_changes_of_maps_are_pictures(drawn):
    changes = np.random.default_rng(0).integers(0, 255, (4, 6, 5, 3), np.uint8)
    found = result(decoded=Decoded(pictures=changes))
    assert "kept pairs in the outputs" in found.figures()
    assert drawn["labels"] == ["1: without", "1: doubled", "2: without", "2: doubled"]
    assert np.array_equal(drawn["stack"], np.moveaxis(changes, 3, 1) / 255)


def test_ranks_stand_beside_the_images_and_the_untrained_network():
    chart = figures._ranks(result())
    assert chart.data["layer"] == ["conv1", "conv2", "conv3"]
    assert chart.data["this network"] == [90, 40, 30]
    assert chart.data["untrained twin"] == [200] * 3
    assert chart.data["all there are"] == [288] * 3
    assert chart.data["the images, lower end"] == [60] * 3
    assert "after conv3; the images fill 60." in chart.alt


def test_weights_stand_beside_random_kernels():
    chart = figures._levels(result())
    assert chart.data["random kernels, lower end"] == [0.85] * 3
    assert chart.data["this network"] == [0.8] * 3


def test_without_activations_the_weights_come_first():
    nothing = np.empty((0, 0))
    maps = {name: LayerMaps(nothing, nothing, m.largest, m.kept) for name, m in result().maps.items()}
    found = result(maps=maps)
    rows = tuple(
        type(row)(row.layer, row.shape, row.stride, row.groups, row.size, row.confidence, (), {
            k: n for k, n in row.numbers.items() if k not in {"rank", "frequencies"}
        })
        for row in found.rows
    )  # fmt: skip
    assert next(iter(result(maps=maps, rows=rows, numbers={}).figures())) == "singular values by frequency"


def test_no_layers_no_figures():
    assert (
        result(rows=(), numbers={}, maps={}, pairs=(), patterns=result().patterns[:0], decoded=Decoded()).figures()
        == {}
    )
