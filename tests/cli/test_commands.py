"""The commands as a user types them: what they print, what they write, and how they end."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from firstlayer_runs import images
from safetensors.torch import save_file
from torch import nn

from convscope.cli import main

FACTORY = """
import torch
from torch import nn

def small(classes=3):
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, bias=False), nn.BatchNorm2d(6), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(6, classes),
    )

def other():
    return nn.Sequential(nn.Conv2d(3, 5, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, 3))

def broken():
    raise RuntimeError()
"""
TESTS = Path(__file__).parents[1]
COMMANDS = ("report", "ansatz", "rfm", "data", "compare", "render", "papers")


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with images, a network's factory, and weights before and after some training."""
    folder = tmp_path_factory.mktemp("home")
    (folder / "mine.py").write_text(FACTORY)
    x = (images(40, side=8) - images(40, side=8).min()) / 20
    x = (x.clamp(0, 1) * 255).to(torch.uint8).permute(0, 2, 3, 1).numpy()
    np.savez(folder / "images.npz", images=x, labels=np.arange(40) % 3)
    np.savez(folder / "others.npz", images=x[:, ::-1].copy())
    np.savez(folder / "two.npz", images=x[:2])
    np.savez(folder / "many.npz", images=np.concatenate([x, x[:, ::-1], x[:10, :, ::-1]]))
    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Conv2d(3, 6, 3, bias=False), nn.BatchNorm2d(6), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(6, 3),
    )  # fmt: skip
    save_file(module.state_dict(), str(folder / "before.safetensors"))
    with torch.no_grad():
        module[0].weight += 0.3 * torch.randn(6, 3, 3, 3)
    save_file(module.state_dict(), str(folder / "after.safetensors"))
    return folder


@pytest.fixture
def go(home, monkeypatch, tmp_path):
    """Runs the command line in the folder, with output in a folder of its own."""
    monkeypatch.chdir(home)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "mine", raising=False)

    def run(*words, status=0):
        result = CliRunner().invoke(main, [str(w) for w in words], prog_name="convscope")
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        assert result.exit_code == status, result.output
        assert "Traceback" not in result.output
        return result

    run.out = tmp_path / "out.html"
    return run


def saved(go):
    return json.loads(go.out.with_suffix(".json").read_text())


def skipped(data):
    return dict(data["results"][0]["skipped"])


def apart(*words, cwd, **kwargs):
    env = {**os.environ, "PYTHONPATH": str(TESTS.parent / "src"), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, *map(str, words)],
        cwd=cwd, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **kwargs,
    )  # fmt: skip


@pytest.mark.parametrize("words", [["--help"], ["-h"], ["--version"], *([c, "--help"] for c in COMMANDS)])
def test_help_answers_without_torch(words):
    code = (
        "import sys\nfrom convscope.cli import main\n"
        f"try:\n    main({words!r}, prog_name='convscope')\nexcept SystemExit as stop:\n    assert not stop.code\n"
        "heavy = {'torch', 'numpy', 'pandas', 'matplotlib', 'scipy'} & set(sys.modules)\nassert not heavy, heavy\n"
    )
    child = apart("-c", code, cwd=TESTS)
    out, err = child.communicate(timeout=60)
    assert child.returncode == 0, err
    assert "convscope" in out
    if words in (["--help"], ["-h"]):
        assert all(command in out for command in COMMANDS)


def test_report_on_a_factory_with_weights(go):
    result = go("report", "mine:small@after.safetensors", "--data", "images.npz", "-o", go.out, "-q")
    assert result.stdout.strip().splitlines()[-1] == str(go.out)
    data = saved(go)
    assert data["coverage"]["images"] == 40
    assert data["head"]["network"].endswith("small@after.safetensors")
    numbers = data["results"][0]["numbers"]
    assert {"formula", "untrained", "label_first", "norm_folded", "formula_signal"} <= set(numbers)
    assert data["results"][0]["facts"]["untrained_is"] == "twin"
    assert data["head"]["network"] in go.out.read_text(encoding="utf-8")
    assert sorted(p.name for p in go.out.parent.iterdir()) == ["out.html", "out.json"]  # no checkpoint is left
    assert "normalisation" in result.stderr


def test_report_with_initial_weights_and_arrays(go):
    arrays = go.out.with_suffix(".npz")
    go(
        "report", "mine:small@after.safetensors", "--data", "images.npz", "--init", "before.safetensors", "-o", go.out,
        "--arrays", arrays, "-q",
    )  # fmt: skip
    assert saved(go)["results"][0]["facts"]["untrained_is"] == "init"
    assert saved(go)["results"][0]["facts"]["subtracted"] is True
    assert np.load(arrays)["firstlayer/patch_covariance"].shape == (27, 27)


@pytest.mark.parametrize("layer", [[], pytest.param(["--layer", "0"], marks=pytest.mark.slow), ["--layer", "0.weight"]])
def test_report_on_weights_alone(go, layer):
    go("report", "after.safetensors", "--data", "images.npz", "-o", go.out, "-q", *layer)
    reasons = " ".join(reason for _, reason in saved(go)["head"]["skipped"]) + str(skipped(saved(go)))
    assert "needs the network" in reasons
    assert "untrained" not in saved(go)["results"][0]["numbers"]
    assert any("assumed" in note for note in saved(go)["head"]["notes"])


def test_weights_alone_with_initial_weights(go):
    go("report", "after.safetensors", "--data", "images.npz", "--init", "before.safetensors", "-o", go.out, "-q")
    assert "untrained" in saved(go)["results"][0]["numbers"]


def test_ansatz_before_and_after_training(go):
    arrays = go.out.with_suffix(".npz")
    go(
        "ansatz", "mine:small@after.safetensors", "--data", "images.npz", "--init", "before.safetensors", "--exact",
        "--centred", "--class", "1", "-o", go.out, "--arrays", arrays, "-q",
    )  # fmt: skip
    (result,) = saved(go)["results"]
    assert result["kind"] == "ansatz"
    (row,) = result["rows"]
    assert {"correlation", "untrained", "change", "folded", "bias"} <= set(row["numbers"])
    assert result["facts"] == {
        "untrained_is": "init", "sent": "each of the logits in turn, less the mean over images", "images": 40.0
    }  # fmt: skip
    assert [c["name"] for c in result["classes"]] == ["1"]
    with np.load(arrays) as stored:
        assert stored["ansatz/0/weight"].shape == (1, 6, 27)
        assert stored["ansatz/0/gram"].shape == (1, 6, 6)


@pytest.mark.parametrize(
    ("words", "sent"),
    [
        ([], "random signs for all logits, "),
        (["--probes", "3"], "random signs for all logits, 3 for each image"),
        (["--outputs", "loss"], "the gradient of the loss"),
        (["--outputs", "probabilities", "--exact"], "each of the probabilities in turn"),
    ],
)
def test_ansatz_says_what_was_sent_back(go, words, sent):
    go("ansatz", "mine:small@after.safetensors", "--data", "images.npz", "-o", go.out, "-q", *words)
    (result,) = saved(go)["results"]
    assert result["facts"]["sent"].startswith(sent)
    assert result["facts"]["untrained_is"] == "twin"


def test_a_report_on_a_network_speaks_of_its_patches_and_one_on_weights_does_not(go):
    go("report", "mine:small@after.safetensors", "--data", "images.npz", "-o", go.out, "-q")
    assert [r["kind"] for r in saved(go)["results"]] == ["firstlayer", "ansatz", "bottleneck", "dynamics", "shortcuts"]
    go("report", "after.safetensors", "--data", "images.npz", "-o", go.out, "-q")
    assert [r["kind"] for r in saved(go)["results"]] == ["firstlayer", "dynamics", "shortcuts"]


def test_data(go):
    go("data", "images.npz", "-o", go.out, "-q", "--kernel", 2, "--padding", 0)
    result = saved(go)["results"][0]
    assert result["kind"] == "data"
    assert len(result["curves"]["variance"]) == 12


def test_compare_networks_then_reports_then_render(go):
    models = ["mine:small@after.safetensors", "mine:small@before.safetensors"]
    result = go("compare", *models, "--data", "images.npz", "-o", go.out, "-q")
    table = saved(go)["results"][0]
    assert [name.split("@")[-1] for name in table["names"]] == [
        "after.safetensors", "before.safetensors", "eigenvalue curve",
    ]  # fmt: skip
    assert 0 < table["matrix"][0][1] < 1
    assert table["spread"][0][1] is not None
    assert str(go.out) in result.stdout

    page = go.out.read_text(encoding="utf-8")
    go.out.unlink()
    go("render", go.out.with_suffix(".json"))
    assert go.out.read_text(encoding="utf-8") == page


def test_compare_two_sets_of_images(go):
    go(
        "compare", "mine:small@after.safetensors", "--data", "images.npz", "--data", "others.npz", "-o", go.out, "-q",
        "--limit", 20,
    )  # fmt: skip
    assert [name.split("@")[-1] for name in saved(go)["results"][0]["names"][:2]] == [
        "after.safetensors, images.npz", "after.safetensors, others.npz",
    ]  # fmt: skip
    assert saved(go)["coverage"]["images"] == 40


def test_compare_saved_reports(go):
    folder = go.out.parent
    for name in ("after", "before"):
        go("report", f"{name}.safetensors", "--data", "two.npz", "-o", folder / f"{name}.html", "-q")
    go("compare", folder / "after.json", folder / "before.json", "-o", go.out, "-q")
    assert len(saved(go)["results"][0]["names"]) == 3
    assert saved(go)["coverage"]["images"] == 0
    go("compare", folder / "after.json", "mine:small@before.safetensors", "--data", "two.npz", "-o", go.out, "-q")
    assert len(saved(go)["results"][0]["names"]) == 3


def test_render_says_the_same_and_elsewhere(go):
    go("report", "after.safetensors", "--data", "two.npz", "-o", go.out, "-q")
    elsewhere = go.out.with_name("again.html")
    result = go("render", go.out.with_suffix(".json"), "-o", elsewhere)
    assert result.stdout.strip() == str(elsewhere)
    assert elsewhere.read_text(encoding="utf-8") == go.out.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "words",
    [
        ["report", "mine:small@after.safetensors", "--data", "two.npz"],
        ["data", "two.npz"],
        ["compare", "mine:small@after.safetensors", "mine:other", "--data", "two.npz"],
    ],
)
def test_json_is_all_that_is_printed(go, words):
    result = go(*words, "-o", go.out, "--json")
    assert json.loads(result.stdout) == saved(go)


def test_limit(go):
    go("report", "after.safetensors", "--data", "images.npz", "-o", go.out, "-q", "--limit", 7)
    assert saved(go)["coverage"]["images"] == 7


def test_normalisation_and_geometry_as_given(go):
    go(
        "report", "after.safetensors", "--data", "two.npz", "-o", go.out, "-q", "--mean", "0.5", "--std",
        "0.2,0.2,0.2", "--stride", 2, "--padding", 0,
    )  # fmt: skip
    assert saved(go)["results"][0]["stride"] == [2, 2]
    assert "mean 0.5, standard deviation 0.2, 0.2, 0.2 (as given)" in " ".join(saved(go)["head"]["notes"])


USAGE = [
    (("ansatz", "mine:small"), "Missing option '--data'"),
    (("ansatz", "mine:small", "--data", "images.npz", "--exact", "--probes", "2"), "give one of the two"),
    (("ansatz", "mine:small", "--data", "images.npz", "--centred"), "--centred needs --exact"),
    (("ansatz", "mine:small", "--data", "images.npz", "--outputs", "loss", "--class", "1"), "need --outputs logits"),
    (("ansatz", "mine:small", "--data", "images.npz", "--outputs", "all"), "Invalid value for '--outputs'"),
    (("ansatz", "mine:small", "--data", "images.npz", "--probes", "0"), "Invalid value for '--probes'"),
    (("ansatz", "mine:small", "--data", "images.npz", "--class", "cow"), "'cow' is no class: choose from 0, 1, 2"),
    (("ansatz", "mine:small", "--data", "others.npz", "--class", "all"), "choose from the numbers of the outputs"),
    (["report", "mine:small"], "--data IMAGES is missing"),
    (["report", "--data", "images.npz"], "MODEL is missing"),
    (["report", "mine:small", "--data", "images.npz", "-o", "x.pdf"], "must end in .html"),
    (["report", "mine:small", "--data", "images.npz", "-o", "nowhere/x.html"], "does not exist"),
    (["report", "mine:small", "--data", "images.npz", "--arrays", "nowhere/x.npz"], "does not exist"),
    (["report", "mine:small", "--data", "images.npz", "--arrays", "x.txt"], "must end in .npz"),
    (["report", "mine:small", "--data", "images.npz", "--device", "abacus"], "cannot be used"),
    (["report", "mine:small", "--data", "images.npz", "--device", "meta"], "cannot be used"),
    (["report", "mine:small", "--data", "images.npz", "--mean", "red"], "no list of numbers"),
    (["report", "mine:small", "--data", "images.npz", "--limit", "0"], "--limit"),
    (["report", "mine:small", "--data", "images.npz", "--max-memory", "0"], "--max-memory"),
    (["compare", "mine:small"], "--data IMAGES is missing"),
    (["compare", "mine:small", "--data", "images.npz"], "two energy profiles"),
    (["compare", "a.json", "b.json", "--data", "images.npz"], "no network"),
    (["compare", "a.json"], "two energy profiles"),
    (["compare"], "MODEL"),
    (["data"], "IMAGES"),
    (["data", "images.npz", "-o", "."], "must end in .html"),
    (["render"], "REPORT.JSON"),
    (["render", "a.json", "-o", "a.json"], "must end in .html"),
    (["paint"], "No such command"),
]


@pytest.mark.parametrize(("words", "says"), USAGE, ids=[" ".join(w) for w, _ in USAGE])
def test_wrong_usage_ends_in_2(go, words, says):
    result = go(*words, status=2)
    assert says in " ".join(result.stderr.split())
    assert not result.stdout


FAILURES = [
    (("ansatz", "after.safetensors", "--data", "images.npz"), "gradients need the network"),
    (("ansatz", "mine:small", "--data", "others.npz", "--outputs", "loss"), "needs a label for every image"),
    (("ansatz", "mine:small", "--data", "images.npz", "--layer", "x"), "has no convolution 'x': choose one of 0"),
    (("ansatz", "mine:broken", "--data", "images.npz"), "RuntimeError"),
    (["report", "mine:nothing", "--data", "two.npz"], "nothing"),
    (["report", "mine:broken", "--data", "two.npz"], "mine:broken"),
    (["report", "nowhere:net", "--data", "two.npz"], "nowhere"),
    (["report", "nowhere.pt", "--data", "two.npz"], "does not exist"),
    (["report", "mine:small", "--data", "nowhere.npz"], "nowhere.npz"),
    (["report", "mine:small", "--data", "two.npz", "--layer", "7"], "7"),
    (["report", "mine:small", "--data", "two.npz", "--layer", "5"], "no convolution"),
    (["report", "mine:other@after.safetensors", "--data", "two.npz"], "after.safetensors"),
    (["report", "mine:small", "--data", "two.npz", "--mean", "1,2"], "mean"),
    (["render", "images.npz", "-o", "x.html"], "JSON"),
    (["compare", "nowhere.json", "other.json"], "no file"),
]


@pytest.mark.parametrize(("words", "says"), FAILURES, ids=[" ".join(w) for w, _ in FAILURES])
def test_what_cannot_be_analysed_ends_in_1_and_one_line(go, words, says):
    words = [*words, "-o", str(go.out)] if "-o" not in words else words
    result = go(*words, status=1)
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("Error")]
    assert says in line
    assert not result.stdout
    assert not go.out.exists()


@pytest.mark.parametrize(
    ("content", "says"),
    [(None, "not installed"), ("raise RuntimeError('operator torchvision::nms does not exist')", "cannot be imported")],
)
def test_torchvision_absent_or_broken(go, monkeypatch, tmp_path, content, says):
    for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
        monkeypatch.delitem(sys.modules, name)
    if content is None:
        monkeypatch.setitem(sys.modules, "torchvision", None)
        monkeypatch.setitem(sys.modules, "torchvision.models", None)
    else:
        (tmp_path / "torchvision").mkdir()
        (tmp_path / "torchvision" / "__init__.py").write_text(content)
        monkeypatch.syspath_prepend(str(tmp_path))
    result = go("report", "torchvision:resnet18", "--data", "two.npz", "-o", go.out, status=1)
    assert "torchvision is" in result.stderr
    assert says in result.stderr or content is None
    go("report", "mine:small", "--data", "two.npz", "-o", go.out, "-q")


SLOW_IMAGES = """
import os, time
import numpy as np
import convscope.inputs.stores as stores
plain = stores.StoredSource.batches

def slow(self, batch_size, **kwargs):
    for item in plain(self, batch_size, **kwargs):
        yield item
        if os.environ.get("PAUSE"):
            open("reading", "a").write(".")
            time.sleep(0.2)

stores.StoredSource.batches = slow
from convscope.cli import main
main(prog_name="convscope")
"""


def test_ctrl_c_keeps_what_was_read_and_resume_completes(home, tmp_path, monkeypatch):
    words = ["report", "mine:small@after.safetensors", "--data", home / "many.npz", "-q", "--batch-size", "3"]
    for name in ("mine.py", "after.safetensors"):
        (tmp_path / name).write_bytes((home / name).read_bytes())

    def run(output, *more):
        return apart("-c", SLOW_IMAGES, *words, "-o", output, *more, cwd=tmp_path)

    whole = run("whole.html")
    _, err = whole.communicate(timeout=300)
    assert whole.returncode == 0, err

    monkeypatch.setenv("PAUSE", "1")
    child, trace = run("out.html"), tmp_path / "reading"
    deadline = time.monotonic() + 120
    # The pilot is one batch of 64; after five batches the pass itself is under way.
    while (not trace.exists() or trace.stat().st_size < 5) and child.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    assert trace.stat().st_size >= 5
    child.send_signal(signal.SIGINT)
    _, err = child.communicate(timeout=120)
    assert child.returncode == 3, err
    assert "Traceback" not in err
    assert "--resume" in err
    broken = json.loads((tmp_path / "out.json").read_text())
    assert 0 < broken["coverage"]["images"] < 90
    assert broken["coverage"]["complete"] is False
    assert "nterrupted" in (tmp_path / "out.html").read_text(encoding="utf-8")
    assert (tmp_path / "out.checkpoint").exists()

    monkeypatch.delenv("PAUSE")
    child = run("out.html", "--resume")
    _, err = child.communicate(timeout=300)
    assert child.returncode == 0, err
    assert not (tmp_path / "out.checkpoint").exists()
    resumed, plain = (json.loads((tmp_path / name).read_text()) for name in ("out.json", "whole.json"))
    assert resumed["coverage"]["images"] == 90
    assert resumed["coverage"]["resumed"] == broken["coverage"]["images"]
    ours, theirs = (data["results"][0]["numbers"] for data in (resumed, plain))
    assert ours.keys() == theirs.keys()
    for key, number in ours.items():
        for part in ("value", "spread"):
            expected = theirs[key][part]
            assert number[part] == (expected if expected is None else pytest.approx(expected, rel=1e-4, abs=1e-6)), key


def test_resume_with_another_run_is_refused(go, home):
    (go.out.with_suffix(".checkpoint")).write_bytes(b"not a checkpoint")
    result = go("report", "after.safetensors", "--data", "two.npz", "-o", go.out, "-q", "--resume", status=1)
    assert "cannot be read" in result.stderr


def test_python_m_convscope(home):
    child = apart("-m", "convscope", "--version", cwd=home)
    out, _ = child.communicate(timeout=60)
    assert child.returncode == 0
    assert "convscope" in out
