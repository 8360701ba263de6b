import itertools
import json
import math
from xml.etree import ElementTree

import matplotlib as mpl
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.figure import Figure

from convscope.core.results import Number
from convscope.page.canvas import plain_tick, spread_apart
from convscope.page.charts import Band, Chart, Curve, bars, lines, matrix, pictures, points
from convscope.page.svg import inline_svg
from convscope.page.theme import clean

WORDS = {"caption": "A caption.", "alt": "A finding."}


def draw(chart):
    return str(inline_svg(chart, "f1", getattr(chart, "alt", "")))


def curve_chart(**kwargs):
    y = np.exp(-np.arange(10) / 3)
    curves = [Curve(y, "network", spread=y / 10), Curve(y**2, "formula", "theory")]
    return lines(curves, xlabel="component", ylabel="energy", **(WORDS | kwargs))


def test_chart_carries_words_and_numbers():
    chart = curve_chart(how_to_read="Look.", band=Band(0.1, 0.2, "random filters"))
    assert isinstance(chart, Figure)
    assert (chart.caption, chart.alt, chart.how_to_read) == ("A caption.", "A finding.", "Look.")
    assert list(chart.data) == [
        "component",
        "random filters, lower end",
        "random filters, upper end",
        "network",
        "network, error",
        "formula",
    ]
    assert chart.data["component"] == list(range(1, 11))


def test_curves_with_their_own_abscissae_keep_them():
    curves = [Curve([1, 2], "a", x=[0, 1]), Curve([1, 2, 3], "b", "theory", x=[0, 0.5, 1])]
    chart = lines(curves, xlabel="x", ylabel="y", **WORDS)
    assert chart.data["x"] == [0, 1]
    assert chart.data["x, b"] == [0, 0.5, 1]


def test_log_axes_say_so_and_count_what_they_cannot_show():
    chart = lines([Curve([0.0, -1.0, 1.0, 10.0], "a")], xlabel="component", ylabel="energy", ylog=True, **WORDS)
    assert chart.axes[0].get_title("left") == "energy (log scale)"
    assert "2 values at or below 0" in chart.caption
    assert "10" in draw(chart)


ODD = [[math.nan] * 4, [], [0.0, 0.0], [1.0], [1.0, math.nan, 2.0], [1e-200, 1e200], [math.inf, 1]]


@pytest.mark.parametrize("y", ODD)
@pytest.mark.parametrize("log", [False, True])
def test_lines_survive_odd_values(y, log):
    chart = lines([Curve(y, "a", spread=np.abs(y))], xlabel="x", ylabel="y", xlog=log, ylog=log, **WORDS)
    json.dumps(chart.data, allow_nan=False)
    draw(chart)


def test_a_family_of_curves_is_labelled_at_its_peaks():
    x = np.arange(20)
    family = [Curve(np.exp(-((x - p) ** 2) / 9), f"age {p}", "theory") for p in (3, 9, 15)]
    chart = lines(family, xlabel="x", ylabel="y", **WORDS)
    assert [(t.get_text(), t.xy[0]) for t in chart.axes[0].texts] == [("age 3", 4), ("age 9", 10), ("age 15", 16)]


def test_chance_without_a_spread_is_a_line():
    assert len(curve_chart(band=Band(0.2, 0.2)).axes[0].get_lines()) == len(curve_chart().axes[0].get_lines()) + 1


def test_a_band_to_zero_does_not_squeeze_a_log_axis():
    chart = curve_chart(band=Band(0.0, 0.4), ylog=True)
    low = np.exp(-np.arange(10) / 3).min() ** 2
    assert low / 4 < chart.axes[0].get_ylim()[0] < low


def test_lines_accept_tensors():
    chart = lines([Curve(torch.arange(3.0), "a")], xlabel="x", ylabel="y", **WORDS)
    assert chart.data["a"] == [0, 1, 2]


@pytest.mark.parametrize(
    ("curves", "message"),
    [
        ([], "at least one curve"),
        ([Curve([1, 2], "a", x=[1])], "x of 'a' has 1 entries, but y has 2"),
        ([Curve([1, 2], "a", spread=[1, 2, 3])], "spread of 'a'"),
        ([Curve([[1]], "a")], r"one-dimensional, got shape \(1, 1\)"),
        ([Curve([1], "a", "colour")], "unknown role 'colour'"),
    ],
)
def test_wrong_curves_are_refused(curves, message):
    with pytest.raises(ValueError, match=message):
        lines(curves, xlabel="x", ylabel="y", **WORDS)


def test_roles_differ_by_colour_and_by_dash():
    roles = ["network", "theory", "initialisation", "chance"]
    chart = lines([Curve([i, i], r, r) for i, r in enumerate(roles)], xlabel="x", ylabel="y", **WORDS)
    drawn = chart.axes[0].get_lines()
    assert len({line.get_color() for line in drawn}) == len({str(line._dash_pattern) for line in drawn}) == 4


def test_charts_leave_the_callers_matplotlib_alone():
    before = dict(mpl.rcParams)
    draw(curve_chart())
    assert dict(mpl.rcParams) == before


def test_the_callers_matplotlib_settings_change_nothing():
    expected = draw(curve_chart())
    with mpl.rc_context({"font.size": 30, "axes.facecolor": "red", "svg.fonttype": "path", "text.parse_math": True}):
        assert draw(curve_chart()) == expected


NUMBERS = {
    "a": Number(0.9, 0.05, (0.1, 0.5), chance_name="random filters"),
    "b": Number(math.nan),
    "c": Number(-0.2),
    "d": Number(0.1, math.nan, (math.nan, 0.4)),
}


@pytest.mark.parametrize("make", [points, bars])
def test_rows_draw_every_number_and_name_the_band(make):
    chart = make(NUMBERS, xlabel="correlation", **WORDS)
    assert "grey: chance, random filters" in draw(chart) or "grey: random filters" in draw(chart)
    assert "undefined" in draw(chart)
    json.dumps(chart.data, allow_nan=False)
    with pytest.raises(ValueError, match="at least one number"):
        make({}, xlabel="x", **WORDS)


def test_pictures_share_one_stated_scale():
    weights = np.zeros((2, 3, 2, 2))
    weights[0, :, 0, 0], weights[1, :, 0, 0] = 0.5, 0.25
    chart = pictures(weights, **WORDS)
    first, second = (image.get_array() for image in chart.axes[0].get_images())
    assert first[0, 0].tolist() == [255, 255, 255, 255]
    assert second[0, 0].tolist() == [191, 191, 191, 255]  # 0.5 + 0.25 / (2 * 0.5)
    assert first[1, 1].tolist() == [128, 128, 128, 255]
    assert "±0.5" in draw(chart)


def test_single_channel_weights_are_centred_at_zero():
    chart = pictures(np.array([[[[0.0, 1.0, -1.0, math.nan]]]]), **WORDS)
    zero, high, low, undefined = chart.axes[0].get_images()[0].get_array()[0]
    assert np.ptp(zero[:3].astype(int)) <= 2
    assert high[0] > high[2]
    assert low[2] > low[0]
    assert undefined[3] == 0


def test_pictures_beyond_the_limit_are_announced():
    assert "the first 10 of 12" in draw(pictures(np.ones((12, 3, 2, 2)), most=10, **WORDS))
    assert "4 input channels" in draw(pictures(np.ones((2, 4, 2, 2)), **WORDS))


@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (1, 3, 11, 11), (5, 1, 3, 7), (33, 3, 2, 2), (3, 20, 3, 3)])
@pytest.mark.parametrize("kind", ["weights", "images"])
def test_pictures_of_any_shape(shape, kind):
    draw(pictures(np.zeros(shape), kind=kind, labels=[f"n{i}" for i in range(shape[0])], **WORDS))


@pytest.mark.parametrize("shape", [(1,), (0, 3, 2, 2), (3, 2, 2)])
def test_wrong_pictures_are_refused(shape):
    with pytest.raises(ValueError, match="expects a stack"):
        pictures(np.ones(shape), **WORDS)
    with pytest.raises(ValueError, match="2 pictures but 1 labels"):
        pictures(np.ones((2, 1, 2, 2)), labels=["a"], **WORDS)
    with pytest.raises(ValueError, match="kind must be"):
        pictures(np.ones((2, 1, 2, 2)), kind="maps", **WORDS)


def test_matrix_writes_its_values():
    chart = matrix([[1.0, math.nan], [-0.25, 0.5]], unit="correlation", rows=["a", "b"], columns=["c", "d"], **WORDS)
    svg = draw(chart)
    assert all(text in svg for text in ("1.00", "−0.25", "–", "correlation"))
    assert chart.data == {"row": ["a", "b"], "c": [1.0, -0.25], "d": [None, 0.5]}
    with pytest.raises(ValueError, match="1 row and 2 column"):
        matrix([[1.0]], unit="", rows=["a"], columns=["b", "c"], **WORDS)


@pytest.mark.parametrize(("shape", "diverging"), [((1, 1), True), ((1, 40), False), ((60, 2), True), ((40, 40), False)])
def test_matrix_of_any_shape(shape, diverging):
    values = np.full(shape, math.nan) if shape == (1, 1) else np.arange(math.prod(shape)).reshape(shape)
    names = [f"features.{i}.conv" for i in range(60)]
    draw(matrix(values, unit="u", rows=names[: shape[0]], columns=names[: shape[1]], diverging=diverging, **WORDS))


def test_svg_belongs_to_the_page():
    svg = draw(curve_chart(band=Band(0.1, 0.3)))
    root = ElementTree.fromstring(svg)
    assert root.attrib["role"] == "img"
    assert root.attrib["aria-label"] == "A finding."
    assert {"currentColor", "var(--network)", "var(--theory)", "var(--chance)"} <= {
        e.get(a) for e in root.iter() for a in ("fill", "stroke")
    }
    for element in root.iter():
        assert element.tag not in {"style", "metadata", "script"}
        assert "style" not in element.attrib
        assert element.get("id", "f1-").startswith("f1-")
    texts = [e.text for e in root.iter("text")]
    assert {"component", "network", "formula"} <= set(texts)
    assert draw(curve_chart(band=Band(0.1, 0.3))) == svg


def test_svg_of_a_bare_figure_and_of_hatches():
    figure = Figure()
    figure.add_subplot().bar([0], [1], hatch="/", color="white", edgecolor="black")
    svg = str(inline_svg(figure, "p", "alt"))
    assert "url(#p-" in svg


def test_hostile_labels_stay_text():
    name = '</text><script>alert(1)</script> $\\frac{1}{0}$ \x1b[2J \ud800 "'
    chart = lines([Curve([1, 2], name)], xlabel=name, ylabel=name, caption=name, alt=name)
    svg = draw(chart)
    assert "<script" not in svg
    assert "\x1b" not in chart.caption
    ElementTree.fromstring(svg)


def test_clean_keeps_languages():
    assert clean("Größe 猫 می‌خواهم") == "Größe 猫 می‌خواهم"
    assert clean("a\nb\u202ec") == "a b�c"


@pytest.mark.parametrize(
    ("value", "text"), [(0.0, "0"), (1e-4, "10⁻⁴"), (2e-7, "2×10⁻⁷"), (0.5, "0.5"), (1e5, "10⁵"), (-3.0, "−3")]
)
def test_ticks_are_plain(value, text):
    assert plain_tick(value) == text


@given(
    wanted=st.lists(st.floats(0, 1), max_size=8).map(sorted),
    gap=st.floats(0.01, 0.12),
)
@settings(deadline=None, max_examples=60, derandomize=True)
def test_labels_never_overlap(wanted, gap):
    placed = spread_apart(wanted, [gap] * len(wanted), 0.0, 1.0)
    assert all(b - a >= gap - 1e-5 for a, b in itertools.pairwise(placed))
    assert all(p - gap / 2 >= -1e-5 and p + gap / 2 <= 1 + 1e-5 for p in placed)


def test_chart_is_a_chart():
    assert isinstance(curve_chart(), Chart)
