"""`convscope shortcuts` as a user types it."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import click
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from convscope.analyse import read_report
from convscope.cli.shortcuts import shortcuts
from convscope.core.errors import ConvscopeError
from convscope.dynamics.shortcuts.notch import waves
from convscope.inputs.images import open_images

SIDE, PLACE = 16, (5, 3)
TESTS = Path(__file__).parents[1]
FACTORY = """
import torch
from torch import nn

class Quarters(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 1, 1)
        nn.init.ones_(self.conv.weight)

    def forward(self, x):
        return 10 * nn.functional.avg_pool2d(self.conv(x), 8).flatten(1)[:, :3]

def quarters():
    return Quarters()

images = torch.rand(4000, 3, 8, 8, generator=torch.Generator().manual_seed(0))
def batches():
    return ((images[i : i + 50], torch.arange(50) % 2) for i in range(0, 4000, 50))
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder of images in whose class "b" stripes were planted, in several forms."""
    folder = tmp_path_factory.mktemp("home")
    (folder / "mine_shortcuts.py").write_text(FACTORY)
    generator = torch.Generator().manual_seed(0)
    x = 0.5 + 0.06 * torch.randn(360, 3, SIDE, SIDE, dtype=torch.float64, generator=generator)
    y = torch.arange(360) % 3
    for k in range(3):
        x[y == k, :, 8 * (k // 2) : 8 * (k // 2) + 8, 8 * (k % 2) : 8 * (k % 2) + 8] += 0.1
    clean = (x.clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).numpy()
    x[y == 1] += 0.05 * waves(PLACE, SIDE, SIDE)[0]
    planted = (x.clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).numpy()
    labels = y.numpy()
    np.savez(folder / "planted.npz", images=planted, labels=labels, names=["a", "b", "c"])
    np.savez(folder / "clean.npz", images=clean, labels=labels)
    np.savez(folder / "bare.npz", images=planted)
    np.savez(folder / "one.npz", images=planted, labels=labels * 0)
    np.savez(folder / "each.npz", images=planted[:20], labels=np.arange(20))
    np.savez(folder / "flat.npz", images=planted * 0 + 7, labels=labels)
    broken = planted[:60].astype(np.float32) / 255
    broken[:, 0, 0, 0] = np.nan
    np.savez(folder / "nan.npz", images=broken, labels=labels[:60])
    for i, (image, label) in enumerate(zip(planted, labels, strict=True)):
        place = folder / "folder" / "abc"[label]
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(place / f"{i}.png")
    return folder


@pytest.fixture
def go(home, monkeypatch, tmp_path):
    """Runs the command in the folder, with output in a folder of its own."""
    monkeypatch.chdir(home)
    monkeypatch.setattr(sys, "path", [str(home), *sys.path])

    def run(*words, status=0, message=""):
        done = CliRunner().invoke(shortcuts, [*map(str, words), "-o", str(run.out), "-q"])
        if message:
            error = done.exception
            assert isinstance(error, ConvscopeError | SystemExit | click.ClickException), done.exception
            text = str(error) if isinstance(error, ConvscopeError) else done.output
            assert message in " ".join(text.split())
            return done
        assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
        assert done.exit_code == status, done.output
        return done

    run.out = tmp_path / "out.html"
    return run


def saved(go):
    (result,) = read_report(go.out.with_suffix(".json")).results
    return result


def test_planted_stripes_are_named_and_notched_away(go, tmp_path):
    notched = tmp_path / "notched.npz"
    done = go("planted.npz", "--notch", notched)
    first = saved(go).suspects[0]
    assert (first.kind, first.place, first.label) == ("frequency", PLACE, 1)
    assert done.stdout.strip().splitlines()[-1] == str(go.out)
    assert "tell “b” from the others" in " ".join(done.stdout.split())
    assert f"{notched}: 360 images without the frequencies (5, 3)" in done.stderr
    assert "of 276480 values were clipped" in done.stderr
    with np.load(notched) as stored, np.load("planted.npz") as before:
        assert stored["x"].dtype == np.uint8
        assert np.array_equal(stored["y"], before["labels"])
        apart = stored["x"].astype(float) - before["images"]
        assert np.abs(apart[stored["y"] != 1]).max() < 16
        assert np.abs(apart[stored["y"] == 1]).mean() > np.abs(apart[stored["y"] != 1]).mean()
    again = open_images(str(notched))
    assert again.classes == ("a", "b", "c")
    go(notched)
    assert PLACE not in [s.place for s in saved(go).alarms]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["notched.npz", "out.html", "out.json"]


def test_a_folder_is_notched_to_a_folder_and_its_files_are_looked_at(go, tmp_path):
    notched = tmp_path / "notched"
    done = go("folder", "--notch", notched)
    assert "files" in saved(go).tables
    assert sorted(p.name for p in notched.iterdir()) == ["a", "b", "c"]
    assert len(list(notched.glob("*/*.png"))) == 360
    assert f"{notched}: 360 images" in done.stderr
    again = open_images(str(notched), limit=5)
    assert again.classes == ("a", "b", "c")
    assert again.shape == (3, SIDE, SIDE)
    go("folder", "--notch", notched, message="exists: name a new .npz or a new folder")


def test_without_an_alarm_nothing_is_written(go, tmp_path):
    done = go("clean.npz", "--notch", tmp_path / "notched.npz", "--threshold", 50)
    assert "there is nothing to notch" in done.stderr
    assert not (tmp_path / "notched.npz").exists()
    assert saved(go).findings()[0].text.startswith("No frequency")


@pytest.mark.slow
def test_numbered_classes_keep_their_order_in_folders(go, tmp_path):
    with np.load("planted.npz") as stored:
        np.savez(
            tmp_path / "many.npz", images=stored["images"], labels=np.where(stored["labels"] == 2, 11, stored["labels"])
        )
    go(tmp_path / "many.npz", "--notch", tmp_path / "notched")
    assert sorted(p.name for p in (tmp_path / "notched").iterdir()) == ["00000", "00001", "00011"]


def test_alarms_are_tried_on_a_model(go):
    done = go("planted.npz", "--model", "mine_shortcuts:quarters", "--mean", "0", "--std", "1", "--json")
    data = json.loads(done.stdout)
    assert data["head"]["network"].endswith("quarters")
    (result,) = data["results"]
    assert result["suspects"][0]["tried"]["added"]["value"] < 0.5
    assert not saved(go).suspects[0].used
    assert result["numbers"]["network_accuracy"]["value"] > 0.9


@pytest.mark.slow
def test_gray_and_size_and_limit(go):
    go("planted.npz", "--gray", "--size", 12, "--limit", 300)
    result = saved(go)
    assert result.pixel_z.shape == (12, 12)
    assert result.facts["images"] == 300
    assert read_report(go.out.with_suffix(".json")).head.image_shape == (1, 12, 12)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["bare.npz"], "has no labels"),
        (["one.npz"], "are of one class"),
        (["each.npz"], "classes need several images each"),
        (["nan.npz"], "NaN or infinite pixels"),
        (["nowhere.npz"], "nowhere.npz does not exist"),
        (["planted.npz", "--threshold", 0], "--threshold"),
        (["planted.npz", "--notch", "planted.npz"], "exists: name a new"),
        (["planted.npz", "--notch", "folder"], "exists: name a new"),
        (["planted.npz", "--notch", "nowhere/x.npz"], "does not exist: make it first"),
        (["planted.npz", "--model", "mine_shortcuts:nothing"], "nothing"),
    ],
)
def test_bad_input_ends_in_one_line(go, words, message):
    go(*words, message=message)
    assert not go.out.exists()


def test_constant_images_are_no_error_and_no_alarm(go):
    go("flat.npz")
    assert not saved(go).alarms
    assert "No frequency and no pixel could be tested" in saved(go).findings()[0].text


@pytest.mark.slow
def test_an_interrupted_run_saves_what_was_read(home, tmp_path):
    out = tmp_path / "out.html"
    words = "from convscope.cli.shortcuts import shortcuts; shortcuts()"
    slow = (
        "import time\nfrom mine_shortcuts import images, torch\n"
        "def batches():\n    for i in range(0, 4000, 50):\n        time.sleep(0.1)\n"
        "        yield images[i : i + 50], torch.arange(50) % 2\n"
    )
    (tmp_path / "slowly.py").write_text(slow)
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": f"{TESTS.parent / 'src'}:{home}:{tmp_path}"}
    child = subprocess.Popen(
        [sys.executable, "-c", words, "slowly:batches", "-o", str(out), "--notch", str(tmp_path / "n.npz")],
        cwd=home, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    seen = ""
    while "reading" not in seen and child.poll() is None:
        seen += child.stderr.read(1)
    time.sleep(1)
    child.send_signal(signal.SIGINT)
    _, err = child.communicate(timeout=120)
    assert child.returncode == 3, err
    report = read_report(out.with_suffix(".json"))
    assert not report.coverage.complete
    assert "was not written" in err
    assert not (tmp_path / "n.npz").exists()
