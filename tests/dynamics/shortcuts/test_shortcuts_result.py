"""The audit's result: what it says, what it draws, and what is read back from a saved one."""

import copy
import json
from dataclasses import replace

import numpy as np
import pytest

from convscope.core.errors import ConvscopeError
from convscope.core.fourier import pairs, signed_frequencies
from convscope.core.results import Number, Skip, result_from_json
from convscope.dynamics.shortcuts.result import ShortcutsResult, Suspect

SIDE = 10


def tried(added, opposite=0.01, control=0.05, chance=(0.02, 0.1)):
    return {
        "unchanged": Number(0.04, 0.01, definition="unchanged"),
        "added": Number(added, 0.02, chance, "added", "the same pattern at other frequencies"),
        "opposite": Number(opposite, 0.01, chance, "opposite", "the same pattern at other frequencies"),
        "control": Number(control, 0.01, definition="control"),
    }


def made(z=22.0, share=0.5, *, power=2.0, pixel=3.0, colour=0.2, network="net", classes=("cat", "dog", "eel")):
    """A result whose strongest frequency, (4, 3), has this z."""
    places, _ = pairs(SIDE, SIDE)
    frequencies = signed_frequencies(SIDE, SIDE)[places].numpy()
    radius = np.hypot(*frequencies.T)
    rng = np.random.default_rng(0)
    curves = {name: np.where(radius < 3, np.nan, rng.normal(size=len(radius))) for name in ("coherent_z", "power_z")}
    at = int(np.flatnonzero((frequencies == (4, 3)).all(1))[0])
    curves["coherent_z"][at], curves["power_z"][at] = z, power
    curves["rank"] = 1.0 + np.arange(len(radius))
    null, largest = (1.0, 3.0), (0.3, 0.36)
    pattern = rng.normal(size=(3, SIDE, SIDE))
    name = "the strongest of all with permuted labels"
    suspects = [
        Suspect(
            "frequency", "the frequency (4, 3)", "stripes in one place", Number(z, 1.0, null, "coherent", name), z > 5,
            5.0, 1, (4, 3), 7, pattern if z > 5 else None, tried(share) if network and z > 5 else {},
        ),
        Suspect(
            "frequency", "the frequency (4, 3)", "stripes of varying place", Number(power, 1.0, null, "power", name),
            power > 5, 5.0, 1, (4, 3), 7,
        ),
        Suspect(
            "pixel", "the pixel (2, 0)", "one pixel", Number(pixel, 0.5, null, "pixel", name), pixel > 5, 5.0,
            2, (2, 0),
        ),
        Suspect("colour", "colours", "area of 0.97", Number(9.0, definition="colour_z"), True, 5.0, 0)
        if colour > 0.9 else
        Suspect("colour", "colours", "accuracy", Number(colour, 0.02, largest, "colour", "largest class"), False, 5.0),
    ]  # fmt: skip
    suspects.sort(key=lambda s: not s.alarm)
    shares = {name: Number(v, 0.02, largest, "colour", "largest class") for name, v in (("red", 0.3), ("all", colour))}
    return ShortcutsResult(
        suspects=tuple(suspects),
        numbers={
            "coherent": Number(z, 1.0, null, "coherent", name),
            "limit": Number(2 / 255, 0.001, definition="limit"),
            "network_accuracy": Number(0.8, 0.02, largest, "network_accuracy"),
        },
        facts={
            "images": 500.0, "threshold": 5.0, "frequencies": float(len(radius)), "bytes": True, "network": network,
            "draws": 20.0,
        },
        classes=classes,
        frequencies=frequencies,
        curves=curves,
        pixel_z=rng.normal(size=(SIDE, SIDE)),
        tables={"colour": shares},
        notes=("Frequencies below 3 cycles per image were not tested.",),
        unseen=("marks at random positions", "textures that move"),
        skipped=(Skip("file properties", "no files were given"),),
        arrays={"mean": np.zeros((3, SIDE, SIDE))},
    )  # fmt: skip


def sentences(result):
    return [finding.text for finding in result.findings()]


def test_an_alarm_is_told_first_then_what_the_network_makes_of_it_and_how_strong_it_is():
    first, then, rank, limit, *_ = sentences(made())
    assert first.startswith("Stripes of (4, 3) cycles per image (down, across), in the same place")
    assert "tell “dog” from the others" in first
    assert "(z 22.0; an alarm begins at 5)" in first
    assert "50.0 % of the images of other classes are taken for it (4.0 % as they are, 1.0 % with the opposite" in then
    assert then.endswith("the network uses them.")
    assert "ranks 7 of 52 frequencies" in rank
    assert "indicative only" in rank
    assert "about 2.0/255" in limit
    assert "marks at random positions; textures that move" in limit


@pytest.mark.parametrize(
    ("share", "verdict"),
    [(0.05, "nothing shows that the network uses this."), (0.12, "whether the network uses this is not decided.")],
)
def test_what_a_network_does_not_use_is_said(share, verdict):
    assert sentences(made(share=share))[1].endswith(verdict)
    assert not made(share=share).suspects[0].used


def test_without_an_alarm_the_strongest_frequency_is_told():
    first, limit, *_ = sentences(made(3.1))
    assert first.startswith("No frequency, pixel or mean colour betrays a class as far as this audit sees")
    assert "(4, 3) cycles per image (down, across), has z 3.1, and an alarm begins at 5." in first
    assert "does not see everything" in limit
    assert not made(3.1).alarms


def test_alarms_of_every_part_have_their_own_words():
    texts = " ".join(sentences(made(power=6.0, pixel=16.0, colour=0.95)))
    assert "are stronger or weaker by class, most so in “dog”" in texts
    assert "The pixel in row 2, column 0 (counted from 0) tells “eel” from the others" in texts
    assert "colours tell “cat” from the others (area of 0.97; z 9.0, an alarm begins at 5)" in texts


def test_colours_without_an_alarm_are_told_beside_the_largest_class():
    (text,) = [text for text in sentences(made(3.1)) if "colours of an image" in text]
    assert "tells the class of 20.0 % of the images; always naming the largest class is right for 33.0 %" in text


def test_classes_without_names_are_numbers():
    assert "tell class 1 from" in sentences(made(classes=()))[0]
    assert "tell class 1 from" in sentences(made(classes=("0", "1", "2")))[0]


def test_a_sentence_that_would_tell_an_undefined_number_is_left_out():
    result = made()
    undefined = replace(result.suspects[0], number=Number(float("nan"), definition="coherent"))
    assert not any("nan" in text for text in sentences(replace(result, suspects=(undefined, *result.suspects[1:]))))


@pytest.mark.parametrize("z", [22.0, 3.1])
def test_every_number_is_defined_and_every_figure_drawn(z):
    from convscope.page.svg import inline_svg

    result = made(z)
    definitions = result.definitions()
    assert {f.number.definition for f in result.findings()} <= set(definitions)
    drawn = result.figures()
    assert next(iter(drawn)) == "frequencies"
    assert ("confirmation" in drawn) == ("patterns" in drawn) == (z > 5)
    for name, chart in drawn.items():
        assert chart.caption, name
        assert chart.alt, name
        assert "<svg" in inline_svg(chart, "here", chart.alt)


def test_the_map_shows_both_frequencies_of_a_pair_in_their_place():
    chart = made().figures()["map, coherent_z"]
    data = chart.data
    rows = data["row"]
    assert data["3"][rows.index("4")] == pytest.approx(22)
    assert data["−3"][rows.index("−4")] == pytest.approx(22)
    assert data["0"][rows.index("0")] is None  # not tested


def test_the_table_has_a_row_a_suspect():
    result = made()
    frame = result.to_frame()
    assert list(frame["what"]) == [s.what for s in result.suspects]
    assert frame["value"][0] == pytest.approx(22)
    assert frame["others named so, added"][0] == pytest.approx(0.5)
    assert frame["class"][0] == "“dog”"
    assert "others named so, added" not in made(network="").to_frame()


def test_a_result_of_nothing_but_a_reason():
    nothing = ShortcutsResult(skipped=(Skip("the shortcut audit", "no labels"),))
    again = result_from_json(json.loads(json.dumps(nothing.to_json(), allow_nan=False)))
    assert again.skipped == nothing.skipped
    assert not again.findings()
    assert not again.figures()
    assert not again.layers()
    assert not len(again.to_frame())
    assert not again.definitions()


@pytest.mark.parametrize("make", [made, lambda: made(3.1), lambda: made(network=""), lambda: made(power=9, pixel=9)])
def test_what_is_read_back_says_the_same(make):
    result = make()
    text = json.dumps(result.to_json(), allow_nan=False)
    again = result_from_json(json.loads(text))
    assert sentences(again) == sentences(result)
    assert again.definitions() == result.definitions()
    assert again.skipped == result.skipped
    assert json.dumps(again.to_json(), allow_nan=False) == text
    assert again.to_frame().equals(result.to_frame())
    for name, chart in result.figures().items():
        other = again.figures()[name]
        assert (chart.caption, chart.alt, chart.how_to_read) == (other.caption, other.alt, other.how_to_read)


def removed(key):
    return lambda d: d.pop(key)


def replaced(value, *path):
    def damage(d):
        for key in path[:-1]:
            d = d[key]
        d[path[-1]] = value

    return damage


DAMAGE = {
    **{f"no {key}": removed(key) for key in made().to_json() if key != "kind"},
    "suspects is a number": replaced(3, "suspects"),
    "a suspect is null": replaced(None, "suspects", 0),
    "a suspect of another kind": replaced("ghost", "suspects", 0, "kind"),
    "a suspect without a number": replaced(None, "suspects", 0, "number"),
    "a value of words": replaced("high", "suspects", 0, "number", "value"),
    "a huge value": replaced(10**400, "suspects", 0, "number", "value"),
    "an alarm that is a number": replaced(1, "suspects", 0, "alarm"),
    "a class that is text": replaced("dog", "suspects", 0, "label"),
    "a class below 0": replaced(-1, "suspects", 0, "label"),
    "a threshold of words": replaced("five", "suspects", 0, "threshold"),
    "no threshold of a suspect": lambda d: d["suspects"][0].pop("threshold"),
    "a place of three": replaced([1, 2, 3], "suspects", 0, "place"),
    "a place of floats": replaced([1.5, 2.0], "suspects", 0, "place"),
    "a frequency without a place": replaced(None, "suspects", 0, "place"),
    "a colour with a place": replaced([1, 2], "suspects", 3, "place"),
    "a pattern of one axis": replaced([1.0], "suspects", 0, "pattern"),
    "a pattern of another size": replaced([[[1.0]]], "suspects", 1, "pattern"),
    "tried in part": lambda d: d["suspects"][0]["tried"].pop("added"),
    "tried without a class": replaced(None, "suspects", 0, "label"),
    "a fact is a list": replaced([], "facts", "images"),
    "no threshold": lambda d: d["facts"].pop("threshold"),
    "the threshold is a word": replaced("five", "facts", "threshold"),
    "the network is a number": replaced(3.0, "facts", "network"),
    "a class name that is none": replaced([1], "classes"),
    "frequencies of words": replaced([["a", "b"]], "frequencies"),
    "huge frequencies": replaced([[10**9, 1]] * 52, "frequencies"),
    "fewer frequencies": replaced([[1, 1]], "frequencies"),
    "a curve of two axes": replaced([[1.0]], "curves", "coherent_z"),
    "a shorter curve": replaced([1.0], "curves", "rank"),
    "no curve": lambda d: d["curves"].pop("power_z"),
    "no pixels": replaced([], "pixel_z"),
    "ragged pixels": replaced([[1.0], [1.0, 2.0]], "pixel_z"),
    "a table of a number": replaced(3, "tables", "colour"),
    "no table of colours": replaced({}, "tables"),
    "an unseen number": replaced([3], "unseen"),
    "notes of numbers": replaced([3], "notes"),
    "a skip of one part": replaced([["only"]], "skipped"),
    "nothing but numbers": replaced([], "suspects"),
}


@pytest.mark.parametrize("what", DAMAGE)
def test_a_damaged_result_ends_in_one_line(what):
    data = copy.deepcopy(json.loads(json.dumps(made().to_json())))
    DAMAGE[what](data)
    with pytest.raises(ConvscopeError, match="result in this file is damaged") as caught:
        result_from_json(data)
    assert "\n" not in str(caught.value)
