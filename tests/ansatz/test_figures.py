"""What the charts of the feature ansatz hand to the page."""

import numpy as np
import pytest
from ansatz_runs import deep, run

from convscope.ansatz import figures
from convscope.ansatz.result import LayerPictures


def shown(count, channels):
    directions = np.arange(2.0 * count * channels * 4).reshape(2, count, channels, 2, 2)
    return LayerPictures(np.eye(4), np.eye(4), "", *directions, channels=tuple(range(1, channels + 1)))


@pytest.fixture
def drawn(monkeypatch):
    """What is handed to the chart of pictures."""
    calls = {}
    monkeypatch.setattr(figures, "pictures", lambda stack, **options: calls.update(stack=stack, **options))
    return calls


@pytest.mark.parametrize("channels", [1, 3])
def test_directions_of_grey_and_colour_are_two_rows_of_pictures(drawn, channels):
    few = shown(5, channels)
    figures._directions("conv", few, first=True)
    assert np.array_equal(drawn["stack"], np.concatenate([few.nfm_patches, few.agop_patches]))
    assert drawn["columns"] == 5
    assert drawn["labels"] == ["1", "2", "3", "4", "5"] * 2
    assert "of the filters (top row) and of the gradients (bottom row)." in drawn["caption"]


@pytest.mark.parametrize("channels", [2, 4, 8])
def test_directions_of_other_channels_are_a_row_each_and_a_column_a_channel(drawn, channels):
    few = shown(3, channels)
    figures._directions("conv", few, first=False)
    assert drawn["columns"] == channels
    assert drawn["stack"].shape == (2 * 3 * channels, 1, 2, 2)
    rows = drawn["stack"].reshape(2, 3, channels, 2, 2)
    assert np.array_equal(rows[0], few.nfm_patches)
    assert np.array_equal(rows[1], few.agop_patches)
    assert drawn["labels"] is None
    assert f"columns are input channels {', '.join(str(i + 1) for i in range(channels))}." in drawn["caption"]


def test_many_convolutions_are_curves_with_their_names_in_the_data(monkeypatch):
    monkeypatch.setattr(figures, "MOST_ROWS", 3)
    found, _ = run(deep(), twin=deep(2))
    chart = found.figures()["alignment"]
    assert chart.data["layer"] == ["0", "3", "5", "7"]
    values = [row.numbers["correlation"].value for row in found.rows]
    assert chart.data["this network"] == pytest.approx(values)
    assert "untrained twin" in chart.data
