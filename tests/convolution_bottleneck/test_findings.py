"""The sentences about what a network keeps."""

from dataclasses import replace

import pytest
from bottleneck_results import TWIN, result, row

from convscope.bottleneck.shown import Decoded
from convscope.core.results import Number


def texts(found):
    return [f.text for f in found.findings()]


def test_the_narrowest_layer_comes_first():
    first = result().findings()[0]
    assert first.text == (
        "Where the network is narrowest, after conv3 (convolution 3 of 3), 99 % of what differs between images lies in "
        "30 directions (a frequency in one mixture of channels) of 288; in an untrained twin it takes 200 there, and "
        "the images themselves fill 60."
    )
    assert first.number.value == 30


def test_an_ordinary_network_is_said_to_have_a_bottleneck_of_the_activations_only():
    (text,) = (t for t in texts(result()) if "two levels" in t)
    assert text.startswith("The bottleneck is one of the activations only")
    assert "On a scale to 1 the median split is 0.80; random kernels of these shapes give 0.85 to 0.89." in text
    assert not any("no structure" in t for t in texts(result()))


def test_without_a_bottleneck_there_is_no_word_of_one():
    numbers = {**result().numbers, "narrowing": Number(1.5, None, None, "narrowing")}
    found = result(numbers=numbers, facts={**result().facts, "location": "none", "start": "", "end": ""})
    assert any(t.startswith("The weights of no convolution") for t in texts(found))
    assert any(t.startswith("No stretch of layers keeps clearly fewer") for t in texts(found))


@pytest.mark.parametrize(
    ("levels", "words"),
    [
        (["high", "high", "high"], "all 3 convolutions the singular values"),
        (["high", "medium", "no plateau"], "2 of 3 convolutions (conv1, conv2) the singular"),
    ],
)
def test_layers_whose_weights_select_are_counted(levels, words):
    rows = tuple(row(i + 1, 30.0, level) for i, level in enumerate(levels))
    assert any(words in t for t in texts(result(rows=rows)))


def test_a_rank_that_the_images_limit_leaves_the_place_undecided():
    rows = (*result().rows[:2], row(3, 30.0, notes=["rank limited by the number of images: too few"]))
    found = texts(result(rows=rows))
    assert any("60 images are too few for 1 of 3 convolutions (conv3)" in t and "not decided" in t for t in found)
    assert not any("runs from" in t for t in found)
    assert not any("activations only" in t for t in found)


def test_borders_are_mentioned_where_they_matter():
    assert not any("borders" in t for t in texts(result()))
    leaky = row(1, 90.0, leak=Number(0.17, None, None, "leak"))
    found = texts(result(rows=(leaky, *result().rows[1:])))
    assert any("in 1 of 3 convolutions: up to 17 % of what a convolution does (conv1)" in t for t in found)


def test_costs_are_told_with_what_they_rest_on():
    numbers = {
        "efficiency": Number(0.8, None, None, "efficiency"), "cost": Number(10.0, None, None, "cost"),
        "bound": Number(8.0, None, None, "bound"), "balance": Number(0.05, None, None, "balance"),
    }  # fmt: skip
    assert any("sum to 1.25 times the least" in t for t in texts(result(numbers=numbers)))
    assert not any("not converged" in t for t in texts(result(numbers=numbers)))
    loose = result(numbers={**numbers, "balance": Number(1.2, None, None, "balance")})
    assert any("residual 1.20, above 0.1" in t and "has not converged" in t for t in texts(loose))
    folded = result(numbers=numbers, facts={**result().facts, "folded": True})
    assert any("parameters, batch norms folded in, sum" in t for t in texts(folded))


def test_the_three_numbers_stand_together():
    numbers = {
        "structure": Number(0.96, None, None, "structure"), "compression": Number(0.27, None, None, "compression"),
        "balance": Number(0.002, None, None, "balance"),
    }  # fmt: skip
    found = texts(result(numbers=numbers, facts={**result().facts, "score": "CBN structure"}))
    assert (
        "Three numbers for the chain of layers: structure 0.96 of 1, 0.27 of the images' directions kept, balance "
        "residual 0.00: CBN structure."
    ) in found


def test_what_compression_saved_comes_first():
    numbers = {**result().numbers, "stored": Number(0.9, None, None, "stored"), "lost": Number(0.0, 0.1, None, "lost")}
    found = result(numbers=numbers, facts={**result().facts, "factorised": "Nine tenths are left."})
    assert texts(found)[0] == "Nine tenths are left."
    assert found.findings()[0].number.definition == "lost"


def test_what_is_not_defined_is_not_told():
    nan = Number(float("nan"), None, None, "narrowest", TWIN)
    assert not any("narrowest, after" in t for t in texts(result(numbers={**result().numbers, "narrowest": nan})))


def test_the_pair_that_matters_most_is_named():
    text = next(t for t in texts(result()) if "matters most" in t)
    assert "Of the 2 strongest directions that conv3 keeps, one at frequency (0, 1) matters most" in text
    assert "30.0 % of their variance." in text


def test_a_single_layer_is_not_called_the_narrowest():
    one = replace(
        result(), rows=result().rows[2:], maps={}, pairs=(), patterns=result().patterns[:0], decoded=Decoded()
    )
    assert texts(one)[0].startswith("99 % of what differs between images lies in 30 directions")


def test_maps_that_need_few_pixels_are_named():
    rows = list(result().rows)
    rows[1] = row(2, 40.0, grid=Number(3.0, 0.0, (6.0, 6.0), "grid", TWIN))
    (text,) = (t for t in texts(result(rows=tuple(rows))) if "down-sample" in t)
    assert text == (
        "The maps of conv2 have 6×6 pixels, yet 3×3 would hold the frequencies of 99 % of what differs between images "
        "(in an untrained twin: 6×6): a place to down-sample earlier, to be tried by training."
    )
    rows[1] = row(2, 40.0, grid=Number(4.0, 0.0, (6.0, 6.0), "grid", TWIN))
    assert not any("down-sample" in t for t in texts(result(rows=tuple(rows))))
