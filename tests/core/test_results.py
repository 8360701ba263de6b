import json
import math
from dataclasses import dataclass
from typing import ClassVar

import pytest

from convscope.core.coverage import Coverage
from convscope.core.errors import ConvscopeError
from convscope.core.results import (
    Number,
    Skip,
    finite,
    finite_list,
    number_from_json,
    number_to_json,
    register,
    result_from_json,
)
from convscope.page import checks


@pytest.mark.parametrize(
    "number",
    [
        Number(0.5),
        Number(0.5, 0.1, (0.0, 0.2), "key", "random filters"),
        Number(-3.0, 0.0, (-1.0, -1.0), "key"),
        Number(7, 1),
    ],
)
def test_numbers_survive_json(number):
    text = json.dumps(number_to_json(number), allow_nan=False)
    assert number_from_json(json.loads(text)) == number


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_undefined_values_are_null_and_come_back_as_nan(value):
    data = json.loads(json.dumps(number_to_json(Number(value, 0.1, (0.0, math.inf))), allow_nan=False))
    assert data["value"] is None
    again = number_from_json(data)
    assert math.isnan(again.value)
    assert again.spread == pytest.approx(0.1)
    assert again.chance is None  # an end that JSON cannot hold


def test_a_spread_or_chance_that_is_no_number_was_not_computed():
    assert Number(1.0, math.nan).spread is None
    assert Number(1.0, math.inf).spread is None
    assert Number(1.0, 0.1, (math.nan, 1.0)).chance is None
    assert Number(1.0, 0.1, (-math.inf, 1.0)).chance == (-math.inf, 1.0)
    assert str(Number(0.5, math.nan, (math.nan, math.nan))) == "0.5"
    assert str(Number(0.5, 0.25, (0, 0.1))) == "0.5 ± 0.25 (chance 0 to 0.1)"


@pytest.mark.parametrize(
    ("number", "decided"),
    [
        (Number(0.9, 0.1, (0.0, 0.5)), True),
        (Number(0.9, 0.3, (0.0, 0.5)), False),
        (Number(-0.9, 0.1, (0.0, 0.5)), True),
        (Number(0.3, 0.0, (0.0, 0.5)), False),
        (Number(0.6, None, (0.0, 0.5)), True),
        (Number(0.5, None, (0.0, 0.5)), False),
        (Number(0.9, 0.1), None),
        (Number(math.nan, 0.1, (0.0, 0.5)), None),
        (Number(0.9, 0.1, (math.nan, 0.5)), None),
    ],
)
def test_decided(number, decided):
    assert number.decided is decided


GOOD = number_to_json(Number(0.5, 0.1, (0.0, 0.2), "key", "name"))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("value", "0.5"), ("value", True), ("value", [1]), ("spread", "x"), ("spread", {}), ("chance", 3),
        ("chance", [1]), ("chance", [1, 2, 3]), ("chance", ["a", "b"]), ("definition", 5), ("definition", None),
        ("chance_name", []),
    ],
)  # fmt: skip
def test_damaged_numbers_are_refused(key, value):
    with pytest.raises((TypeError, ValueError)):
        number_from_json({**GOOD, key: value})
    without = {k: v for k, v in GOOD.items() if k != key}
    if key != "chance_name":
        with pytest.raises(KeyError):
            number_from_json(without)


def test_lists_that_json_can_hold():
    assert finite_list([1.0, math.nan, -math.inf, 2]) == [1.0, None, None, 2.0]
    assert finite(None) is None


@register
@dataclass
class Plain:
    kind: ClassVar[str] = "plain result of these tests"
    value: int

    @classmethod
    def from_json(cls, data):
        return cls(data["value"])


def test_a_result_is_found_by_its_kind():
    assert result_from_json({"kind": Plain.kind, "value": 3}) == Plain(3)


@pytest.mark.parametrize("data", [{}, {"kind": "of tomorrow"}, {"kind": None}, {"kind": []}, {"kind": {}}, [], None, 3])
def test_unknown_kinds_are_refused_in_one_line(data):
    with pytest.raises(ConvscopeError, match="update convscope") as error:
        result_from_json(data)
    assert "\n" not in str(error.value)


def test_coverage_survives_json():
    coverage = Coverage(
        images=10, expected=None, complete=False, unreadable=(Skip("a", "b"),), seconds={"reading": 0.5}, notes=("x",)
    )
    assert checks.coverage(json.loads(json.dumps(coverage.to_json(), allow_nan=False))) == coverage
