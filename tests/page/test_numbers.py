import math

import pytest

from convscope.core.results import Number
from convscope.page.gauge import Scale, describe, gauge, scale_of
from convscope.page.terminal import ascii_gauge
from convscope.page.wording import chance, day, duration, plain, rounded, value_and_spread, verdict


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (Number(0.94, 0.02, (0.1, 0.5)), "0.94 ± 0.02, chance 0.1 to 0.5"),
        (Number(0.9412, None, (0.1, 0.5), "", "noise"), "0.941, spread not computed, chance 0.1 to 0.5 (noise)"),
        (Number(4300.0, 310.0), "4,300 ± 310, chance not computed"),
        (Number(math.nan), "undefined, chance not computed"),
        (Number(-0.5, 0.0, (-0.1, 0.1), "", "non-trained"), "−0.5 ± 0, chance −0.1 to 0.1 (non-trained)"),
        (Number(3.2e-7, 1.1e-8, (0.0, 1e-9)), "3.2×10⁻⁷ ± 1.1×10⁻⁸, chance 0 to 10⁻⁹"),
    ],
)
def test_numbers_read_plainly(number, text):
    assert plain(number) == text


@pytest.mark.parametrize(
    ("value", "spread", "where"),
    [(0.9, 0.01, "outside chance"), (0.3, 0.01, "inside chance"), (0.55, 0.1, "not decided"), (math.nan, None, "")],
)
def test_verdicts(value, spread, where):
    assert verdict(Number(value, spread, (0.1, 0.5))) == where
    assert not verdict(Number(value, spread))


@pytest.mark.parametrize(
    ("numbers", "scale"),
    [
        ([Number(0.9, 0.2, (0.1, 0.5))], Scale(0, 2)),
        ([Number(0.97, 0.03)], Scale(0, 1)),
        ([Number(0.3, 0.2)], Scale(0, 1)),
        ([Number(0.3, 0.2, (0.0, 0.0))], Scale(-1, 1)),
        ([Number(-0.2)], Scale(-1, 1)),
        ([Number(4300.0, 310.0)], Scale(0, 5000)),
        ([Number(-30.0)], Scale(-50, 0)),
        ([Number(10.0), Number(44000.0)], Scale(10, 1e5, log=True)),
        ([Number(math.nan)], Scale(0, 1)),
        ([], Scale(0, 1)),
    ],
)
def test_scales_have_round_ends(numbers, scale):
    assert scale_of(numbers) == scale


@pytest.mark.parametrize("value", [0.0, -1e308, 1.7e308, 5e-324, math.inf, math.nan, 0.3])
@pytest.mark.parametrize("spread", [None, 0.0, 1e308, math.nan, math.inf])
@pytest.mark.parametrize("band", [None, (0.1, 0.5), (math.nan, 1.0), (-1e308, 1e308), (0.5, 0.1), (1e-300, 1e300)])
def test_gauges_survive_any_number(value, spread, band):
    number = Number(value, spread, band)
    drawn = gauge(number)
    assert "nan" not in drawn.split('aria-label="')[0]
    assert ("<svg" in drawn) == math.isfinite(value)
    assert "o" in ascii_gauge(number) or not math.isfinite(value)
    for text in (plain(number), describe(number, scale_of([number]))):
        assert "nan" not in text.replace("chance nan", "")


def test_gauge_says_what_it_shows():
    text = gauge(Number(0.9, 0.02, (0.1, 0.5)))
    assert 'role="img"' in text
    assert 'aria-label="0.90 ± 0.02, chance 0.1 to 0.5: outside chance. Scale 0 to 1."' in text


def test_gauge_places_value_and_band():
    scale = Scale(0, 1)
    assert [scale.place(x) for x in (-1, 0, 0.5, 2)] == [0, 0, 0.5, 1]
    log = Scale(1, 100, log=True)
    assert log.place(10) == pytest.approx(0.5)
    assert log.place(-1) == 0


def test_hostile_chance_name_is_escaped():
    assert "<b>" not in gauge(Number(0.9, 0.02, (0.1, 0.5), "", '"><b>'))


def test_times_and_dates():
    assert [duration(s) for s in (0.0, 9.9, 119.0, 121.0, 7260.0)] == ["0.0 s", "9.9 s", "119 s", "2 min", "2 h 1 min"]
    assert day("2025-11-21T03:06:00+01:00") == "21 November 2025, 02:06 UTC"
    assert day("<yesterday>") == "<yesterday>"
    assert day("0001-01-01T00:00:00+23:00") == "0001-01-01T00:00:00+23:00"


def test_rounding():
    assert value_and_spread(Number(0.9, 0.0999)) == "0.90 ± 0.10"
    assert rounded(-math.inf) == "−infinite"
    assert chance(Number(1.0)) == "chance not computed"
