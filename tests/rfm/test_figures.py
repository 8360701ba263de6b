"""What the charts of learned features hand to the page."""

import numpy as np
import pytest
from rfm_results import beside, fitted, result

from convscope.rfm import figures


@pytest.fixture
def drawn(monkeypatch):
    """What is handed to the chart of pictures."""
    calls = {}
    monkeypatch.setattr(figures, "pictures", lambda stack, **options: calls.update(stack=stack, **options))
    return calls


def test_the_main_chart_is_the_gain_in_percentage_points_over_the_fixed_kernel():
    made = result(fitted([0.5, 0.6, 0.7]), correct=[[60, 70, 80]])
    name, chart = next(iter(made.figures().items()))
    assert name == "gain"
    assert chart.data[figures.ITERATION] == [0, 1, 2]
    assert chart.data["test images"] == [0, pytest.approx(10), pytest.approx(20)]
    assert chart.data["held out"] == [0, pytest.approx(10), pytest.approx(20)]
    errors = [n["gain"].spread for n in made.layer.iterations[1:]]
    assert chart.data["test images, error"][1:] == pytest.approx(errors)
    assert "iteration 2 gains +20.0 percentage points" in chart.alt


def test_accuracy_is_drawn_with_its_chance():
    chart = result(fitted([0.5, 0.6, 0.7]), correct=[[60, 70, 80]]).figures()["accuracy"]
    assert chart.data["test images"] == [60, 70, 80]
    assert chart.data["held out"] == pytest.approx([50, 60, 70])
    assert chart.data["always saying the most frequent class, upper end"] == [60, 60, 60]


def test_the_first_curve_is_the_networks_with_and_without_test_images():
    both = result(correct=[[60, 70, 80]])
    kinds = {"test": "test images", "selection": "held out"}
    assert [(c.label, c.role) for c in figures._curves(both.layer, kinds, 100)] == [
        ("test images", "network"), ("held out", "theory"),
    ]  # fmt: skip
    assert [(c.label, c.role) for c in figures._curves(result().layer, kinds, 100)] == [("held out", "network")]


def test_charts_are_of_what_there_is():
    assert list(result(fitted([0.7])).figures()) == []
    assert list(result(fitted([0.7, 0.6])).figures()) == ["gain", "accuracy"]
    one = ["gain", "patches of layer 1", "views", "accuracy", "metric of layer 1"]
    assert list(result().figures()) == one
    cnn = ["metric and CNN", "patches of the CNN's NFM", "patches of the CNN's AGOP"]
    assert list(result(cnn=beside()).figures()) == one + cnn


def test_layers_are_rows_of_their_best_iteration():
    made = result(fitted([0.5, 0.7]), fitted([0.5, 0.6, 0.8], d=36), chosen=1)
    chart = made.figures()["layers"]
    assert chart.data["row"] == ["fixed kernel", "layer 1, iteration 1", "layer 2, iteration 2"]
    assert chart.data["share of held-out images that are right"] == [0.5, 0.7, 0.8]


@pytest.mark.parametrize("channels", [1, 3])
def test_patches_of_grey_and_colour_are_pictures_with_their_shares(drawn, channels):
    shown = result(fitted([0.5, 0.7], d=9 * channels), channels=channels).layer.pictures
    figures._patches("The metric", shown, first=True)
    assert np.array_equal(drawn["stack"], shown.patches)
    assert drawn["labels"] == [f"{100 * share:.1f} %" for share in shown.shares]


def test_patches_of_other_channels_are_a_row_each_and_a_column_a_channel(drawn):
    shown = result(fitted([0.5, 0.7], d=36), channels=4).layer.pictures
    figures._patches("The metric", shown, first=False)
    assert drawn["columns"] == 4
    assert drawn["stack"].shape == (8 * 4, 1, 3, 3)
    assert np.array_equal(drawn["stack"].reshape(8, 4, 3, 3), shown.patches)
    assert drawn["labels"] is None
    assert f"{100 * shown.shares[0]:.1f} %" in drawn["caption"]


def test_views_are_a_row_an_image(drawn):
    made = result()
    figures._views(made)
    assert drawn["columns"] == 5
    assert drawn["labels"][:6] == ["image", "all", "patch 1", "patch 2", "patch 3", "image"]
    assert len(drawn["stack"]) == len(drawn["labels"]) == len(made.views)


def test_matrices_of_kernel_and_cnn_stand_side_by_side(drawn):
    made = result(cnn=beside())
    figures._matrices("Both", {"metric": made.stack[0].pictures, **made.cnn})
    assert drawn["labels"] == ["metric", "NFM", "AGOP"]
    assert np.array_equal(drawn["stack"][1, 0], made.cnn["NFM"].matrix)
    assert drawn["columns"] == 3
