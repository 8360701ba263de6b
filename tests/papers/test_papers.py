"""The papers' experiments on a tiny stand-in for CIFAR-10: they run, are kept, and are printed honestly."""

import json
import math
import threading
from dataclasses import replace

import joblib
import numpy as np
import pytest
from click.testing import CliRunner

from convscope.cli.papers import papers
from convscope.core.errors import ConvscopeError
from convscope.core.results import Number
from convscope.papers import laboratory, record, registry, table
from convscope.papers.data import cifar10, image_file, locate
from convscope.papers.page import html
from convscope.papers.registry import SCALES, Experiment, Outcome, Row, Setup, chosen, experiments


def test_data_are_found_and_refused(folder, tmp_path, monkeypatch):
    monkeypatch.delenv("CONVSCOPE_DATA", raising=False)
    assert locate("cifar10", {}) is None
    assert locate("cifar10", {"cifar10": folder}) == folder
    with pytest.raises(ConvscopeError, match="no such path"):
        locate("cifar10", {"cifar10": tmp_path / "none"})
    monkeypatch.setenv("CONVSCOPE_DATA", str(folder))
    assert locate("cifar10", {}) == folder
    monkeypatch.setenv("CONVSCOPE_DATA", str(tmp_path))
    assert locate("cifar10", {}) is None
    (tmp_path / "cifar10").mkdir()
    assert locate("cifar10", {}) == tmp_path / "cifar10"
    with pytest.raises(ConvscopeError, match="holds no train images"):
        cifar10(tmp_path / "cifar10", 10)
    np.savez(tmp_path / "cifar10" / "train.npz", x_train=np.zeros((3, 8, 8)), y_train=np.zeros(3))
    with pytest.raises(ConvscopeError, match="x_train float64"):
        cifar10(tmp_path / "cifar10", 10)
    (tmp_path / "cifar10" / "train.npz").write_bytes(b"PK nothing")
    with pytest.raises(ConvscopeError, match=r"train.npz cannot be read"):
        cifar10(tmp_path / "cifar10", 10)


def test_missing_data_are_named_with_what_to_do(tmp_path, monkeypatch):
    monkeypatch.delenv("CONVSCOPE_DATA", raising=False)
    with pytest.raises(ConvscopeError, match=r"cifar10 is needed, but .*--data cifar10=PATH, a folder with CIFAR-10"):
        laboratory.laboratory(Setup())
    for name in ("cifar10", "imagenet"):
        with pytest.raises(ConvscopeError, match=f"--data {name}=PATH"):
            image_file(name, {})
        with pytest.raises(ConvscopeError, match=rf"holds no {name}.*npz.*; expected a folder with"):
            image_file(name, {name: tmp_path})


def test_images_to_draw_from_are_found_in_every_form_of_the_data(tmp_path):
    def found(name):
        return image_file(name, {name: tmp_path}).name

    for file in ("data_batch_1", "test_batch", "x_test.npz", "cifar10_test.npz"):
        (tmp_path / file).touch()
        if file != "data_batch_1":
            assert found("cifar10") == file
    for file in ("imagenet_b.npz", "imagenet_a.npz"):
        (tmp_path / file).touch()
        assert found("imagenet") == file
    assert image_file("imagenet", {"imagenet": tmp_path / "imagenet_b.npz"}).name == "imagenet_b.npz"


def test_images_are_normalised_and_in_order(folder):
    data = cifar10(folder, 30)
    with np.load(folder / "cifar10_train.npz") as arrays:
        pixel = arrays["x_train"][29, 4, 5, 1] / 255
    assert data.images.shape == (30, 3, 32, 32)
    assert abs(float(data.images[29, 1, 4, 5]) - (pixel - 0.4822) / 0.2435) < 1e-6
    assert data.labels.tolist() == [i % 10 for i in range(30)]
    assert data.fingerprint != cifar10(folder, 31).fingerprint
    assert len(cifar10(folder, 1000).labels) == 80


def test_verdicts():
    row = Row("q", "0.9", (0.8, 1.0), Number(0.85), 3, {"a": 0.7, "b": 0.849}, "", "higher", reason="few images")
    assert (row.verdict, row.rivals) == ("claim holds", "b does as well")
    assert row.judgement == "claim holds (no printed number)"
    assert replace(row, printed=True).judgement == "reproduced"
    lower = replace(row, ours=Number(0.7), baselines={"a": 0.9})
    assert (lower.verdict, lower.rivals) == ("claim fails", "a does better")
    assert lower.judgement == "claim fails: few images"
    assert replace(lower, printed=True, reason="").judgement == "not reproduced: no reason found"
    assert replace(row, baselines={"a": 0.2}).rivals == "ahead of the rest"
    assert replace(row, baselines={"a": 0.2}, better="lower").rivals == "a does better"
    beside = replace(row, expected=None, better="")
    assert (beside.verdict, beside.judgement, beside.rivals) == ("", "no claim", "")
    assert replace(row, ours=Number(float("nan"))).verdict == "claim fails"


def test_verdicts_are_counted():
    rows = [Row("q", "1", (0.0, 2.0), Number(v), 1, printed=p).to_json() for v, p in ((1, True), (3, True), (1, False))]
    run = {"paper": "chowers2023", "status": record.DONE, "rows": rows}
    records = {"chowers2023/a": run, "chowers2023/b": run | {"status": record.MISSING, "rows": []}}
    assert "| 2 | 1 | 1 | 1 | 0 | 1 |" in table.summary(records)


def test_an_interval_may_be_open_above():
    row = Row("q", "above 0", (0.0, math.inf), Number(1e9, None, (1.0, 1.0), "", "one"), 1)
    data = json.loads(json.dumps(row.to_json(), allow_nan=False))
    assert Row.from_json(data) == row
    assert row.verdict == "claim holds"
    assert table.stated(row) == "above 0 (agreement: above 0.00)"
    record_of = {"paper": "chowers2023", "status": record.DONE, "scale": "cpu", "rows": [data]}
    assert "chance 1.00 (one)" in table.overview({"chowers2023/seeds": record_of}, "r.json", "r")


def test_pages_say_that_the_published_sizes_were_not_run():
    missing = {"paper": "chowers2023", "status": record.MISSING, "scale": "cpu", "shows": "?", "why": ["a"]}
    assert "published sizes (`--scale paper`" in table.overview({"chowers2023/seeds": missing}, "r.json", "r")
    assert "published sizes" not in table.overview({"chowers2023/seeds": missing | {"scale": "paper"}}, "r.json", "r")


def test_missing_data_is_a_row_and_replaces_nothing(tmp_path, monkeypatch):
    monkeypatch.delenv("CONVSCOPE_DATA", raising=False)
    ((experiment, missing),) = record.run_all(chosen(["chowers2023/seeds"]), Setup("cpu"), "convscope papers NAME")
    assert missing["status"] == record.MISSING
    assert "cifar10=PATH" in missing["why"][0]
    assert "not run (data missing)" in table.text(experiment.key, missing)
    records = {experiment.key: missing}
    for page in (table.overview(records, "r.json", "r"), table.of_paper("chowers2023", records), html(records)):
        assert "not run (data missing)" in page
        assert "cifar10=PATH" in page
    path = tmp_path / "r.json"
    record.add(path, "x", {"status": record.DONE, "rows": [1]})
    record.add(path, "x", missing)
    assert record.read(path)["x"]["status"] == record.DONE
    path.write_text('{"schema": 99}')
    with pytest.raises(ConvscopeError, match="schema 2"):
        record.add(path, "x", missing)


def test_unknown_experiment():
    with pytest.raises(ConvscopeError, match="chowers2023/seeds"):
        chosen(["chowers2023/other"])


def test_command(folder, tiny, tmp_path, monkeypatch):
    monkeypatch.delenv("CONVSCOPE_DATA", raising=False)
    monkeypatch.chdir(tmp_path)
    run = CliRunner().invoke
    listed = run(papers, [])
    assert listed.exit_code == 0
    assert all(key in listed.output for key in experiments())
    path, page = tmp_path / "r.json", tmp_path / "page.md"
    done = run(papers, ["chowers2023/labels", "--scale", "smoke", "--data", f"cifar10={folder}", "-o", str(path)])
    assert done.exit_code == 0, done.output
    assert "paper around 0; ours" in done.output
    shown = run(papers, [str(path)])
    assert shown.output in done.output
    assert path.with_suffix(".html").read_text() == html(record.read(path))
    assert run(papers, [str(path), "-o", str(page)]).exit_code == 0
    own = (tmp_path / "page" / "chowers2023.md").read_text()
    assert f"convscope papers chowers2023/labels --scale smoke --data cifar10={folder}" in own
    assert "not run (data missing)" in run(papers, ["chowers2023/seeds"]).output
    assert record.read(tmp_path / "papers.json")["chowers2023/seeds"]["status"] == record.MISSING
    assert "not run (data missing)" in (tmp_path / "papers.html").read_text()
    for wrong in (
        ["chowers2023/none"],
        ["chowers2023", "--data", "cifar10"],
        ["chowers2023", "--data", "svhn=."],
        ["chowers2023", "--data", "cifar10=/nowhere/at/all"],
        ["chowers2023", "-o", "x.md"],
        [str(path), "chowers2023"],
        [str(tmp_path / "none.json")],
        [str(path), "-o", str(tmp_path / "other.json")],
        ["chowers2023/labels", "-o", str(path)],  # of another scale
    ):
        assert isinstance(run(papers, wrong).exception, ConvscopeError), wrong


def test_everything_goes_on_where_it_was_interrupted(tmp_path, monkeypatch):
    ran = []

    def experiment(name, stop=None):
        def run(_setup):
            ran.append(name)
            if stop is not None and ran.count(name) == 1:
                raise stop
            return Outcome((Row("q", "1", (0.9, 1.1), Number(1.0), 1),), {})

        return Experiment("chowers2023", name, f"{name}?", "it is.", (), dict.fromkeys(SCALES, "seconds"), run)

    known = [
        experiment("one"),
        experiment("two", ConvscopeError("too few")),
        experiment("fault", ZeroDivisionError("ours")),
        experiment("three", KeyboardInterrupt()),
    ]
    monkeypatch.setattr(registry, "experiments", lambda: {e.key: e for e in known})
    monkeypatch.setattr(table, "experiments", registry.experiments)
    monkeypatch.chdir(tmp_path)
    run = CliRunner().invoke
    first = run(papers, ["--all", "--scale", "smoke"])
    assert first.exit_code == 3
    assert "papers.json holds what was done" in first.output
    assert "not run (it stopped)\n  too few" in first.output
    assert "a fault in convscope: ZeroDivisionError: ours" in first.output
    assert "Traceback" in first.output
    assert run(papers, ["--all", "--scale", "smoke"]).exit_code == 0
    assert ran == ["one", "two", "fault", "three", "two", "fault", "three"]
    assert {r["status"] for r in record.read(tmp_path / "papers.json").values()} == {record.DONE}
    last = run(papers, ["--all", "--scale", "smoke"])
    assert "4 of 4 experiments stand in papers.json already" in last.output
    before = (tmp_path / "papers.json").read_text()
    assert "name another file" in str(run(papers, ["--all"]).exception)  # another scale would replace what is done
    assert (tmp_path / "papers.json").read_text() == before
    assert run(papers, ["--all", "-o", "other.json"]).exit_code == 0
    assert len(ran) == 11
    assert isinstance(run(papers, ["--all", "-o", "page.md"]).exception, ConvscopeError)
    assert run(papers, ["--all", "chowers2023"]).exit_code == 2
    assert len(ran) == 11


def test_undefined_values_survive_the_file(tmp_path):
    lines = [{"half-time": math.inf, "ratio": math.nan, "rise": 1.5, "of": "mode 1"}]
    row = Row("q", "1", (0.9, 1.1), Number(math.nan), 1)
    experiment = Experiment(
        "chowers2023", "a", "?", "", (), {"cpu": "seconds"}, lambda _: Outcome((row,), {}, {"m": lines})
    )
    record.add(tmp_path / "r.json", experiment.key, record.run_one(experiment, Setup(), "convscope papers NAME"))
    kept = record.read(tmp_path / "r.json")[experiment.key]
    assert kept["details"]["m"] == [{"half-time": None, "ratio": None, "rise": 1.5, "of": "mode 1"}]
    assert table.rows_of(kept)[0].verdict == "claim fails"


def test_experiments_run_at_once(monkeypatch):
    both = threading.Barrier(2, timeout=60)

    def run(setup):
        both.wait()
        return Outcome((), {"cache": str(setup.cache)})

    known = {
        e.key: e for e in (Experiment("p", n, "?", "", (), dict.fromkeys(SCALES, "seconds"), run) for n in ("a", "b"))
    }
    monkeypatch.setattr(record, "experiments", lambda: known)
    with joblib.parallel_config(backend="threading"):
        done = record.run_all(list(known.values()), Setup("smoke"), "convscope papers NAME", jobs=2)
        found = {e.key: r for e, r in done}
    assert set(found) == {"p/a", "p/b"}
    assert len({r["settings"]["cache"] for r in found.values()}) == 1  # a folder that both share
    assert all(r["status"] == record.DONE for r in found.values())
