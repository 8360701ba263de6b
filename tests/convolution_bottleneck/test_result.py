"""What is saved of the bottleneck analysis, and what is read again."""

import json

import numpy as np
import pytest
from bottleneck_results import result
from result_checks import assert_every_number_stands, damaged

from convscope.core.coverage import Coverage
from convscope.core.errors import ConvscopeError
from convscope.core.png import png_from_bytes
from convscope.core.results import result_from_json
from convscope.page.charts import Chart
from convscope.page.report import Head, Provenance, Report


@pytest.fixture(scope="module")
def found():
    return result()


def page(one):
    made = Provenance("convscope bottleneck", {"convscope": "1"}, {}, "2026-01-01T00:00:00+00:00", "float64", 1.0)
    return Report(Head("net", "images"), (one,), Coverage(60, 60), made)


def test_the_result_says_the_same_after_json(found):
    again = result_from_json(json.loads(json.dumps(found.to_json(), allow_nan=False)))
    assert [f.text for f in again.findings()] == [f.text for f in found.findings()]
    assert again.to_frame().equals(found.to_frame())
    assert again.to_json() == found.to_json()
    assert np.array_equal(again.patterns, found.patterns)


def test_the_page_from_the_json_is_the_page_from_the_result(found, tmp_path):
    again = result_from_json(json.loads(json.dumps(found.to_json())))
    texts = [page(one).save(tmp_path / f"{i}.html").read_text() for i, one in enumerate((found, again))]
    assert texts[0] == texts[1]
    assert "could not be drawn" not in texts[0]
    assert found.question in texts[0]


def test_every_number_is_defined_and_every_figure_says_what_it_shows(found):
    tables = [found.numbers, *(row.numbers for row in found.rows), *(pair.numbers for pair in found.pairs)]
    assert {n.definition for table in tables for n in table.values()} == set(found.definitions())
    figures = found.figures()
    assert next(iter(figures)) == "variance by frequency"
    assert len(figures) == 8
    for figure in figures.values():
        assert isinstance(figure, Chart)
        assert figure.caption
        assert figure.alt


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("rows", 0, "shape"), [1, 2]),
        (("rows", 0, "numbers"), None),
        (("rows", 0, "notes"), [3]),
        (("rows", 0, "confidence"), 1),
        (("numbers", "narrowest"), {}),
        (("facts", "narrowest"), "nowhere"),
        (("facts",), {}),
        (("maps", "nowhere"), {"variance": [], "untrained": [], "largest": [], "kept": []}),
        (("maps", "conv1", "untrained"), [[1.0]]),
        (("maps", "conv1", "kept"), [1.0]),
        (("patterns", "png"), "no png"),
        (("pairs",), []),
        (("pairs", 0, "pictures"), 2),
        (("pairs", 0, "frequency"), [1]),
        (("decoded", "outputs"), [1, 2]),
        (("decoded", "answers"), [[1.0, 2.0, 3.0]]),
        (("decoded", "pictures"), {"shape": [1, 1, 1, 3], "png": png_from_bytes(np.zeros((1, 1, 1, 3), np.uint8))}),
        (("skipped",), ["x"]),
    ],
)
def test_a_damaged_result_ends_in_one_line(found, path, value):
    with pytest.raises(ConvscopeError, match=r"make the report again|usable report") as error:
        result_from_json(damaged(found, path, value))
    assert "\n" not in str(error.value)


def test_the_table_has_value_error_and_chance_of_every_number(found):
    frame = found.to_frame().set_index("layer")
    for row in found.rows:
        line = frame.loc[row.layer]
        assert line["maps"] == "6×6"
        assert_every_number_stands(line, row.numbers)


def test_the_layers_of_the_page_show_what_they_have(found):
    layers = found.layers()
    assert list(layers) == ["conv1", "conv2", "conv3"]
    assert list(layers["conv1"].numbers) == [
        "directions for 99 %", "frequencies for 99 %", "two levels in the weights", "largest gain",
    ]  # fmt: skip
    assert layers["conv1"].shape == "8×3×3×3"


def test_names_from_strangers_are_escaped(found, tmp_path):
    from dataclasses import replace

    bad = "<script>alert(1)</script>"
    rows = (replace(found.rows[0], layer=bad), *found.rows[1:])
    text = page(result(rows=rows, maps={})).save(tmp_path / "x.html").read_text()
    assert bad not in text
    assert "&lt;script&gt;" in text
