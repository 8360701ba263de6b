"""The sentences of the feature ansatz."""

from dataclasses import replace

import pytest
from ansatz_runs import deep, run

from convscope.ansatz.collect import SentBack
from convscope.core.results import Number


@pytest.fixture(scope="module")
def found():
    return run(deep(), twin=deep(2), sent=SentBack(exact=True))[0]


def undefined(result, layers):
    """Returns the result with the alignment of some layers undefined."""
    rows = tuple(
        replace(row, numbers={**row.numbers, "correlation": Number(float("nan"))}) if row.layer in layers else row
        for row in result.rows
    )
    return replace(result, rows=rows)


def test_the_median_is_said_to_be_over_the_convolutions_that_have_an_alignment(found):
    assert "in the median of 4 convolutions (" in found.findings()[0].text
    assert "in the median of 3 convolutions (" in undefined(found, {"5"}).findings()[0].text
    text = undefined(found, {"0", "3", "5"}).findings()[0].text
    assert "in the only convolution where it is defined" in text


def test_one_convolution_is_no_median():
    text = run(deep(), layers=["3"])[0].findings()[0].text
    assert "in the only convolution looked at" in text


def test_an_undefined_median_leaves_out_the_sentence_that_would_tell_it(found):
    every = undefined(found, {"0", "3", "5", "7"})
    every = replace(every, numbers={**every.numbers, "correlation": Number(float("nan"))})
    texts = [f.text for f in every.findings()]
    assert texts
    assert not any(text.startswith("The image patterns that the filters weigh most") for text in texts)


@pytest.mark.parametrize(
    ("biases", "sentence"),
    [
        ((0.01, -0.01), None),
        ((0.1, -0.3), "40 images are few for 3: with very many its alignment would be about +0.30 different."),
        ((0.1, 0.01), "40 images are few for 0: with very many its alignment would be about −0.10 different."),
    ],
)
def test_images_are_few_where_the_bias_is_large(found, biases, sentence):
    rows = tuple(
        replace(row, numbers={**row.numbers, "bias": Number(bias, None, None, "bias")})
        for row, bias in zip(found.rows, biases, strict=False)
    )
    texts = [f.text for f in replace(found, rows=rows).findings() if "few" in f.text]
    assert texts == ([] if sentence is None else [sentence])


def test_classes_are_compared_and_one_alone_is_not():
    finding = run(deep(), sent=SentBack(exact=True, classes=(0, 2)))[0].findings()[4]
    assert finding.text.startswith("Of the 2 classes looked at, ")
    assert finding.number.chance == (0.5, 0.5)
    alone = run(deep(), sent=SentBack(exact=True, classes=(2,)))[0]
    assert alone.classes == ("2",)
    assert not any("classes looked at" in f.text for f in alone.findings())
