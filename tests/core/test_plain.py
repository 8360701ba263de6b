"""Values that come back from a file: they may be damaged, or hostile."""

import json
import math

import numpy as np
import pytest

from convscope.core.errors import ConvscopeError
from convscope.core.plain import array_of, fact_of, reading, rounded_lists, text_of


@pytest.mark.parametrize(
    "damage",
    [
        lambda: {}["rows"],
        [].pop,
        lambda: None.rows,
        lambda: int("x"),
        lambda: int(math.inf),
        lambda: len(3),
    ],
    ids=["KeyError", "IndexError", "AttributeError", "ValueError", "OverflowError", "TypeError"],
)
def test_damage_is_one_sentence_that_names_the_kind_of_result(damage):
    with (
        pytest.raises(ConvscopeError, match=r"^the ansatz result in this file is damaged \(.+\): make the"),
        reading("ansatz"),
    ):
        damage()


def test_a_long_message_is_cut():
    with pytest.raises(ConvscopeError) as error, reading("ansatz"):
        raise ValueError("x" * 10_000)
    assert len(str(error.value)) < 300


@pytest.mark.parametrize("error", [ConvscopeError("its own words"), RuntimeError("a bug"), KeyboardInterrupt()])
def test_what_is_no_damage_passes(error):
    with pytest.raises(type(error)) as caught, reading("ansatz"):
        raise error
    assert caught.value is error


def test_reading_lets_good_values_through():
    with reading("ansatz"):
        value = text_of("x")
    assert value == "x"


def test_arrays_survive_json_to_six_digits_and_undefined_entries_as_nan():
    array = np.array([[1 / 3, np.nan], [-1e-30, np.inf]])
    again = array_of(json.loads(json.dumps(rounded_lists(array), allow_nan=False)), 2)
    assert again.dtype == np.float64
    assert np.array_equal(again, [[0.333333, np.nan], [-1e-30, np.nan]], equal_nan=True)
    assert rounded_lists(np.empty((0, 3))) == []


@pytest.mark.parametrize(
    ("values", "ndim", "says"),
    [
        ([1.0, 2.0], 2, "expected an array of 2 axes, got 1"),
        (3.0, 1, "expected an array of 1 axes, got 0"),
        ([[1.0], [1.0, 2.0]], 2, "inhomogeneous"),
        (["x"], 1, "could not convert"),
    ],
)
def test_what_is_no_array_of_these_axes_is_refused(values, ndim, says):
    with pytest.raises(ValueError, match=says):
        array_of(values, ndim)


@pytest.mark.parametrize("value", [None, 3, True, ["x"], {"x": 1}, b"x"])
def test_what_is_no_text_is_refused(value):
    with pytest.raises(TypeError, match=f"expected text, got {type(value).__name__}"):
        text_of(value)


@pytest.mark.parametrize("value", ["words", "", True, False, 3, -0.5])
def test_facts_are_texts_truth_values_and_numbers(value):
    found = fact_of(value)
    assert found == value
    assert type(found) is type(value)


def test_a_fact_that_is_null_is_nan():
    assert math.isnan(fact_of(None))


@pytest.mark.parametrize("value", [[1], {"x": 1}, b"x"])
def test_what_is_no_fact_is_refused(value):
    with pytest.raises(TypeError, match=f"expected text or a number, got {type(value).__name__}"):
        fact_of(value)
