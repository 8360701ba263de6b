"""The table of the feature ansatz."""

import math

import pytest
from ansatz_runs import deep, run
from result_checks import assert_every_number_stands

from convscope.ansatz.collect import SentBack
from convscope.ansatz.measure import patch_agop


@pytest.fixture(scope="module")
def found():
    return run(deep(), twin=deep(2), sent=SentBack(exact=True))[0]


def test_the_table_has_value_error_and_chance_of_every_number(found):
    frame = found.to_frame().set_index("layer")
    for row in found.rows:
        assert_every_number_stands(frame.loc[row.layer], row.numbers)
    assert not any("standard error" in column for column in frame.columns)


def test_the_error_is_the_root_of_the_sum_of_squares_of_standard_error_and_bias(found):
    from firstlayer_runs import images

    direct = patch_agop(deep(), images(40), exact=True)["3"]
    measured = direct.measured(direct.comparison.correlation)
    assert measured.bias != 0
    frame = found.to_frame().set_index("layer")
    assert frame.loc["3", "correlation, error"] == pytest.approx(
        math.hypot(measured.standard_error, measured.bias), rel=1e-3
    )
    assert frame.loc["3", "bias"] == pytest.approx(measured.bias, rel=1e-3)


def test_the_layers_of_the_page_show_what_they_have(found):
    layers = found.layers()
    assert list(layers) == ["0", "3", "5", "7"]
    assert list(layers["0"].numbers) == ["filters and gradients", "turned at random", "before training"]
    assert list(layers["5"].numbers) == ["filters and gradients", "before training"]  # nothing to turn
    assert layers["3"].shape == "6×4×3×3, 2 groups"
