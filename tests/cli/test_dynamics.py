"""`convscope dynamics` as a user types it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from dynamics_runs import waves

from convscope.analyse import read_report
from convscope.cli import main
from convscope.core.passes import Pass
from convscope.dynamics.result import DynamicsResult
from convscope.dynamics.training import train_and_measure

TESTS = Path(__file__).parents[1]
QUICK = ("--method", "closed-form", "-q")


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with images in several forms."""
    folder = tmp_path_factory.mktemp("home")
    images, labels = waves(150, noise=0.1)
    pixels = ((images + 1) * 80).clamp(0, 255).byte().permute(0, 2, 3, 1).numpy()
    labels = labels.numpy()
    np.savez(folder / "data.npz", images=pixels, labels=labels)
    np.savez(folder / "bare.npz", images=pixels)
    np.savez(folder / "one.npz", images=pixels, labels=np.zeros(len(labels), int))
    np.savez(folder / "flat.npz", images=np.full_like(pixels, 9), labels=labels)
    colour, of = waves(60, size=40, channels=3)
    np.savez(folder / "large.npz", images=((colour + 1) * 80).byte().permute(0, 2, 3, 1).numpy(), labels=of.numpy())
    from PIL import Image

    for i, (image, label) in enumerate(zip(pixels[:60, :, :, 0], labels[:60], strict=True)):
        place = folder / "sizes" / "abc"[label]
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image[: 8 - i % 2]).save(place / f"{i}.png")
    return folder


@pytest.fixture
def go(home, monkeypatch, tmp_path):
    """Runs the command in the folder, with output in a folder of its own."""
    monkeypatch.chdir(home)
    for name, few in (("DRAWS", 8), ("FEW_DRAWS", 4)):
        monkeypatch.setattr(f"convscope.dynamics.conclude.{name}", few)

    def run(*words, status=0):
        done = CliRunner().invoke(main, ["dynamics", *map(str, words), "-o", str(run.out)], prog_name="convscope")
        assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
        assert done.exit_code == status, done.output
        assert "Traceback" not in done.output
        return done

    run.out = tmp_path / "out.html"
    return run


def result(path) -> DynamicsResult:
    (found,) = read_report(path.with_suffix(".json")).results
    assert isinstance(found, DynamicsResult)
    return found


def test_help_answers_without_torch():
    code = (
        "import sys\nfrom convscope.cli.dynamics import dynamics\n"
        "try:\n    dynamics(['--help'])\nexcept SystemExit as stop:\n    assert not stop.code\n"
        "heavy = {'torch', 'numpy', 'pandas', 'matplotlib', 'scipy', 'sklearn'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    env = {**os.environ, "PYTHONPATH": str(TESTS.parent / "src")}
    child = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False)
    assert child.returncode == 0, child.stderr
    assert "--kernel-size" in child.stdout


def test_page_json_and_summary(go):
    done = go("data.npz", "-q", "--arrays", go.out.with_name("arrays.npz"))
    assert done.stdout.strip().splitlines()[-1] == str(go.out)
    assert "The first thing that a linear CNN learns" in done.stdout
    page = go.out.read_text()
    assert "In which order would a network learn this data?" in page
    assert "could not be drawn" not in page
    found = result(go.out)
    assert found.facts["method"] == "exact"
    with np.load(go.out.with_name("arrays.npz")) as arrays:
        assert arrays["dynamics/modes"].shape == (2, 1, 8, 8)


def test_json_on_standard_output(go):
    done = go("data.npz", *QUICK, "--json")
    assert json.loads(done.stdout)["results"][0]["kind"] == "dynamics"


def test_what_is_asked_for_is_told(go):
    go("data.npz", "-q", "--kernel-size", 3, "--channels", 2, "--padding", "zeros", "--lr", 0.1, "--momentum", 0)
    found = result(go.out)
    assert (found.facts["kernel"], found.facts["filters"], found.facts["padding"]) == ("3×3", 2, "zeros")
    slow = found.modes[0].numbers["steps"].value
    go("data.npz", "-q", "--kernel-size", 3, "--channels", 2, "--padding", "zeros", "--lr", 0.1, "--momentum", 0.5)
    assert result(go.out).modes[0].numbers["steps"].value == pytest.approx(slow / 2)


def test_gray_small_uncentred_and_few(go):
    go("large.npz", *QUICK, "--gray", "--size", 16, "--uncentred", "--limit", 40)
    found = result(go.out)
    assert found.facts["gray"]
    assert not found.facts["centred"]
    assert found.facts["size"] == "16×16"
    assert found.facts["images"] == 40
    assert found.shown["modes"].shape[1] == 1


@pytest.mark.parametrize("kind", ["linear-cnn", "mlp"])
def test_a_training_is_measured(go, kind):
    go("data.npz", *QUICK, "--train", kind, "--train-images", 100, "--steps", 30)
    found = result(go.out)
    assert found.trained is not None
    assert found.trained.facts["images"] == 100
    assert found.trained.curves["steps"].max() <= 30
    assert "training" in found.figures()


def test_an_interrupted_training_still_gives_a_page(go, monkeypatch):
    from dataclasses import replace

    def stopped(*args, **options):
        return replace(train_and_measure(*args, **{**options, "steps": 5}), complete=False)

    monkeypatch.setattr("convscope.dynamics.training.train_and_measure", stopped)
    done = go("data.npz", *QUICK, "--train", "cnn", status=3)
    assert "not trained to its end" in done.stderr
    assert result(go.out).trained is not None


def test_an_interrupted_reading_still_gives_a_page(go, monkeypatch):
    import signal

    original = Pass._batches

    def batches(self, done):
        for i, item in enumerate(original(self, done)):
            yield item
            if i == 0:
                signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(Pass, "_batches", batches)
    go("data.npz", *QUICK, "--batch-size", 50, status=3)
    report = read_report(go.out.with_suffix(".json"))
    assert not report.coverage.complete
    assert report.coverage.images < 150
    assert report.results[0].modes
    monkeypatch.setattr(Pass, "_batches", original)
    go("data.npz", *QUICK, "--batch-size", 50, "--resume")
    assert result(go.out).facts["images"] == 150


@pytest.mark.parametrize(
    ("words", "status", "text"),
    [
        (("bare.npz",), 1, "have no labels"),
        (("one.npz",), 1, "at least two are needed"),
        (("flat.npz",), 1, "must not be constant"),
        (("nowhere.npz",), 1, "does not exist"),
        (("large.npz", "--method", "exact"), 1, "make them gray or smaller"),
        (("large.npz", "--kernel-size", 5), 1, "make them gray or smaller"),
        (("data.npz", "--kernel-size", 9), 1, "larger than the images"),
        (("data.npz", "--kernel-size", 3, "--method", "stages"), 1, "leave the method out"),
        (("data.npz", "--depth", 3, "--padding", "zeros"), 1, "use circular padding"),
        (("data.npz", "--kernel-size", "wide"), 2, "neither full nor a number"),
        (("data.npz", "--depth", 1), 2, "--depth"),
        (("data.npz", "--momentum", 1), 2, "--momentum"),
        (("data.npz", "--depth", 3, "--train", "linear-cnn"), 2, "two layers"),
    ],
)
def test_what_cannot_be_done_is_said(go, words, status, text):
    done = go(*words, "-q", status=status)
    assert text in " ".join(done.output.split())
    assert not go.out.exists()


def test_images_of_several_sizes_are_brought_to_one(go):
    done = go("sizes", *QUICK)
    assert "several sizes" in done.output
    assert result(go.out).facts["size"] == "7×7"
    go("sizes", *QUICK, "--size", 8)
    found = result(go.out)
    assert found.classes == ("a", "b", "c")
    assert found.facts["images"] == 60
