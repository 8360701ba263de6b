import json
import math

import numpy as np
import pytest
from page.fakes import Bare, FakeResult, report, strip

from convscope.core.errors import ConvscopeError
from convscope.core.results import LayerRow, Number, Skip
from convscope.page.report import Head, Report, read_report


@pytest.fixture
def saved(tmp_path):
    return report().save(tmp_path / "report.json")


def test_json_round_trip(saved):
    original, again = report(), read_report(saved)
    assert again.to_json() == original.to_json()
    assert again == original
    assert np.array_equal(again.head.strip, original.head.strip)
    assert again.html() == original.html()


def test_json_is_strict_and_says_its_schema(saved):
    data = json.loads(saved.read_text("utf-8"), parse_constant=pytest.fail)
    assert data["schema"] == 1
    assert data["findings"][0]["number"]["value"] == pytest.approx(0.9412)
    assert data["findings"][5]["number"]["value"] is None
    assert data["results"][0]["kind"] == "fake"


def test_names_that_are_no_utf8_survive(tmp_path):
    original = report(skipped=(Skip("photo\udcff.png", "truncated"),))
    again = read_report(original.save(tmp_path / "r.json"))
    assert again.head.skipped == original.head.skipped
    page = report(Bare()).save(tmp_path / "r.html").read_text("utf-8")
    assert "a\ufffd.png" in page


def test_no_strip(tmp_path):
    assert len(read_report(report(strip=strip(0)).save(tmp_path / "r.json")).head.strip) == 0


def test_findings_take_turns():
    a, b = FakeResult(sentences=("a1", "a2", "a3")), FakeResult(sentences=("b1",))
    assert [f.text for f in report(a, b).findings()] == ["a1", "b1", "a2", "a3"]


def test_skips_are_listed_once():
    assert [s.what for s in report(FakeResult(), FakeResult()).skipped()] == ["head.fc", "layer4.conv2"]


def test_save_replaces_and_leaves_nothing_behind(tmp_path):
    path = tmp_path / "report.html"
    path.write_text("old")
    report(Bare()).save(str(path))
    assert path.read_text("utf-8").startswith("<!doctype")
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]


def test_save_refuses_what_it_cannot_write(tmp_path):
    with pytest.raises(ValueError, match=r"\.html or \.json"):
        report().save(tmp_path / "report.pdf")
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "nowhere" / "r.json", tmp_path / "file" / "r.json", tmp_path / ("x" * 300 + ".json")):
        with pytest.raises(ConvscopeError, match="cannot write") as caught:
            report().save(path)
        assert "\n" not in str(caught.value)


def test_head_refuses_another_strip():
    with pytest.raises(ValueError, match="uint8"):
        Head("n", "d", strip=np.zeros((1, 2, 2, 3)))


def replaced(data, path, value):
    *steps, last = path
    for step in steps:
        data = data[step]
    if value is ...:
        del data[last]
    else:
        data[last] = value


HTML = "<script>alert(1)</script>"
FIELDS = [
    ("schema",),
    ("head",),
    ("head", "network"),
    ("head", "classes"),
    ("head", "classes", 0),
    ("head", "image_shape"),
    ("head", "image_shape", 0),
    ("head", "strip"),
    ("head", "strip", "shape"),
    ("head", "strip", "png"),
    ("head", "skipped"),
    ("head", "skipped", 0),
    ("results",),
    ("results", 0),
    ("results", 0, "kind"),
    ("results", 0, "name"),
    ("results", 0, "fit"),
    ("results", 0, "fit", "value"),
    ("results", 0, "fit", "spread"),
    ("results", 0, "fit", "chance"),
    ("results", 0, "fit", "definition"),
    ("results", 0, "seed"),
    ("results", 0, "skipped"),
    ("results", 0, "sentences", 0),
    ("coverage",),
    ("coverage", "images"),
    ("coverage", "complete"),
    ("coverage", "unreadable"),
    ("coverage", "seconds"),
    ("coverage", "seconds", "reading"),
    ("provenance",),
    ("provenance", "command"),
    ("provenance", "versions"),
    ("provenance", "seeds"),
    ("provenance", "date"),
    ("provenance", "seconds"),
]
VALUES = [..., None, True, -1, 10**400, 1e308, HTML, [], [HTML], {}, {HTML: HTML}, [[1, 2], 3]]


def check(path):
    """Reads a file: None after a one-line error, else a report that prints."""
    again, message = None, ""
    try:
        again = read_report(path)
        again.text()
    except ConvscopeError as error:
        message = str(error)
    assert "\n" not in message
    assert len(message) < 600
    return again


@pytest.mark.parametrize("path", FIELDS, ids=lambda p: ".".join(map(str, p)))
@pytest.mark.parametrize("value", VALUES, ids=lambda v: ascii(v)[:20])
def test_a_damaged_field_never_gives_a_traceback(saved, path, value):
    data = json.loads(saved.read_text("utf-8"))
    replaced(data, path, value)
    saved.write_text(json.dumps(data))
    check(saved)


def test_html_in_every_field_that_takes_text_stays_text(saved):
    pristine = saved.read_text("utf-8")
    accepted = []
    for path in FIELDS:
        data = json.loads(pristine)
        replaced(data, path, HTML)
        saved.write_text(json.dumps(data))
        if check(saved) is not None:
            accepted.append(path)
    assert len(accepted) >= 6
    data = json.loads(pristine)
    for path in accepted:
        replaced(data, path, HTML)
    saved.write_text(json.dumps(data))
    html = read_report(saved).html()
    assert "<script>alert" not in html
    assert "&lt;script&gt;alert" in html


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x00\xff",
        b"null",
        b"[]",
        b'"x"',
        b"{}",
        b"{" * 100_000,
        b"[" * 1_000_000,
        b'{"schema": 2}',
        b'{"schema": true}',
        b'{"schema": 1}',
        b'{"schema": NaN}',
        b'{"schema": ' + b"9" * 10_000 + b"}",
        b"<html></html>",
        b"PK\x03\x04",
        b"\x80\x04\x95cos\nsystem\n",
    ],
    ids=lambda c: ascii(c[:12]),
)
def test_other_files_are_refused_in_a_line(tmp_path, content):
    path = tmp_path / "<b>\nreport.json"
    path.write_bytes(content)
    with pytest.raises(ConvscopeError) as caught:
        read_report(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("share", [0.01, 0.3, 0.5, 0.9, 0.999])
def test_truncated_files_are_refused(saved, share):
    content = saved.read_bytes()
    saved.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(ConvscopeError, match="not a whole JSON file"):
        read_report(saved)


def test_a_missing_file_a_folder_and_a_huge_file_are_refused(tmp_path):
    with (tmp_path / "huge.json").open("wb") as file:
        file.truncate(2**27)
    for path in (tmp_path / "none.json", tmp_path, tmp_path / "huge.json", "nul\0byte", "/dev/zero"):
        with pytest.raises(ConvscopeError) as caught:
            read_report(path)
        assert "\n" not in str(caught.value)


def test_an_unknown_kind_asks_for_an_update(saved):
    data = json.loads(saved.read_text("utf-8"))
    data["results"][0]["kind"] = "os.system"
    saved.write_text(json.dumps(data))
    with pytest.raises(ConvscopeError, match="update convscope"):
        read_report(saved)


def test_another_schema_names_both(saved):
    saved.write_text(saved.read_text("utf-8").replace('"schema": 1', '"schema": 7'))
    with pytest.raises(ConvscopeError, match="schema 7, but this version reads schema 1"):
        read_report(saved)


def test_terminal_summary_fits_its_width():
    for width in (40, 80, 200):
        text = report(FakeResult(), FakeResult(name="conv2", seed=2)).text(width)
        assert max(map(len, text.splitlines())) <= width
    assert "0.941 ± 0.012, chance 0.1 to 0.5 (random filters): outside chance" in text
    assert "Skipped" in text
    assert "1,200 of 1,203 images read, 1 unreadable" in text


class ColumnsApart(FakeResult):
    """Two columns, too wide to stand side by side, each of another layer; and a layer without numbers."""

    def layers(self):
        return {
            "conv1": LayerRow({"fit of the formula": Number(0.5)}),
            "conv2": LayerRow({"fit of another one": Number(0.25)}),
            "conv3": LayerRow({}),
        }


def test_terminal_tables_leave_out_rows_without_numbers():
    narrow, wide = (report(ColumnsApart()).text(width) for width in (40, 80))
    assert f"layer  fit of the formula\nconv1{'0.5':>20}\n\n" in narrow
    assert f"layer  fit of another one\nconv2{'0.25':>20}\n\n" in narrow
    assert f"conv1{'0.5':>20}\nconv2{'0.25':>40}\n\n" in wide
    assert "conv3" not in narrow + wide


def test_terminal_summary_steers_no_terminal():
    name = "\x1b]0;owned\x07\x1b[2J\r\n\u202e"
    fake = FakeResult(name=name, fit=Number(0.9, None, (0.1, 0.5), "fit", name), sentences=(name,))
    text = report(fake, network=name, data=name, classes=(name,), notes=(name,), skipped=(Skip(name, name),)).text()
    assert not set(text) & set("\x1b\x07\r\u202e")


def test_terminal_of_an_interrupted_run():
    whole = report()
    coverage = type(whole.coverage)(300, 1000, complete=False)
    text = Report(whole.head, whole.results, coverage, whole.provenance).text()
    assert "interrupted" in text
    assert "300 of 1,000 images read" in text


def test_undefined_numbers_are_printed_as_such():
    text = report(FakeResult(fit=Number(math.nan, None, None, "fit"))).text()
    assert "undefined" in text
    assert "nan" not in text.replace("undefined", "")
