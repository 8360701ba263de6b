"""`convscope rfm` as a user types it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from convscope.analyse import read_report
from convscope.cli import main
from convscope.cli import rfm as command
from convscope.rfm.estimators import ConvRFMClassifier
from convscope.rfm.tasks import star

SMALL = ("--patch-size", 3, "--depth", 1, "--iterations", 1, "-q")
TESTS = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with labelled images in several forms."""
    folder = tmp_path_factory.mktemp("home")
    task = star(90, size=9, side=5)
    x = (task.images.clip(-1, 1) * 127 + 128).astype(np.uint8).transpose(0, 2, 3, 1)
    np.savez(folder / "train.npz", images=x[:40], labels=task.labels[:40])
    np.savez(folder / "test.npz", images=x[40:], labels=task.labels[40:])
    np.savez(folder / "small.npz", images=x[40:, :7, :7], labels=task.labels[40:])
    np.savez(folder / "third.npz", images=x[40:], labels=task.labels[40:] + 1)
    np.savez(folder / "one.npz", images=x[:40], labels=np.zeros(40, int))
    np.savez(folder / "bare.npz", images=x[:40])
    from PIL import Image

    for split, part in (("folder", slice(0, 40)), ("other", slice(40, 60))):
        for i, (image, label) in enumerate(zip(x[part], task.labels[part], strict=True)):
            place = folder / split / task.classes[label]
            place.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(place / f"{i}.png")
    (folder / "rfm_images.py").write_text(
        "import torch\nimages = torch.rand(3000, 1, 5, 5, generator=torch.Generator().manual_seed(0))\n"
        "def batches():\n    return ((images[i : i + 100], torch.arange(100) % 2) for i in range(0, 3000, 100))\n"
    )
    return folder


@pytest.fixture
def go(home, monkeypatch, tmp_path):
    """Runs the command in the folder, with output in a folder of its own."""
    monkeypatch.chdir(home)
    monkeypatch.setattr(sys, "path", list(sys.path))

    def run(*words, status=0):
        done = CliRunner().invoke(main, ["rfm", *map(str, words), "-o", str(run.out)], prog_name="convscope")
        assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
        assert done.exit_code == status, done.output
        assert "Traceback" not in done.output
        return done

    run.out = tmp_path / "out.html"
    return run


def test_help_answers_without_torch():
    code = (
        "import sys\nfrom convscope.cli import main\n"
        "try:\n    main(['rfm', '-h'], prog_name='convscope')\nexcept SystemExit as stop:\n    assert not stop.code\n"
        "heavy = {'torch', 'numpy', 'pandas', 'matplotlib', 'scipy', 'sklearn', 'numba'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    env = {**os.environ, "PYTHONPATH": str(TESTS.parent / "src")}
    child = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False)
    assert child.returncode == 0, child.stderr
    assert "--deep" in child.stdout


def test_accuracy_by_iteration_stands_beside_the_fixed_kernel(go, tmp_path):
    kept, arrays = tmp_path / "clf.safetensors", tmp_path / "arrays.npz"
    done = go("train.npz", "--test", "test.npz", "--save", kept, "--arrays", arrays, *SMALL)
    report = read_report(go.out.with_suffix(".json"))
    (result,) = report.results
    machine = ConvRFMClassifier.load(kept)
    with np.load("test.npz") as file:
        x, y = file["images"].transpose(0, 3, 1, 2), file["labels"]
    scores = [float((said == y).mean()) for said in machine.staged_predict(x)]
    found = [numbers["test"].value for numbers in result.layer.iterations]
    assert found == pytest.approx(scores)
    assert found[machine.best_iteration_] == pytest.approx(machine.score(x, y))
    assert [n["selection"].value for n in result.layer.iterations] == pytest.approx([
        step["selection_score"] for step in machine.history_
    ])
    assert "fixed kernel" in done.stdout
    assert "iteration 1" in done.stdout
    assert done.stdout.strip().splitlines()[-1] == str(go.out)
    assert report.coverage.images == 90
    assert any("50 of these are test images" in note for note in report.coverage.notes)
    with np.load(arrays) as file:
        assert np.allclose(file["rfm/metric of layer 1"], machine.metric_)
    assert "Does learning which patches matter help a kernel?" in go.out.read_text(encoding="utf-8")


def test_json_is_printed_and_the_page_can_be_rebuilt(go):
    done = go("train.npz", "--json", *SMALL)
    data = json.loads(done.stdout)
    assert data["results"][0]["kind"] == "rfm"
    again = go.out.with_name("again.html")
    assert CliRunner().invoke(main, ["render", str(go.out.with_suffix(".json")), "-o", str(again)]).exit_code == 0
    assert again.read_text(encoding="utf-8") == go.out.read_text(encoding="utf-8")


def test_folders_give_names_to_classes_which_the_classifier_learns(go, tmp_path):
    kept = tmp_path / "clf.safetensors"
    go("folder", "--test", "other", "--save", kept, *SMALL)
    assert ConvRFMClassifier.load(kept).classes_.tolist() == ["noise", "star"]
    assert read_report(go.out.with_suffix(".json")).head.classes == ("noise", "star")


def test_a_limit_is_kept_and_told(go):
    go("train.npz", "--test", "test.npz", "--limit", 30, "--test-limit", 20, *SMALL)
    report = read_report(go.out.with_suffix(".json"))
    assert report.results[0].facts == {"images": 30, "test_images": 20}
    assert "30 of 40 images, chosen at random" in report.coverage.notes
    assert "20 of 50 images, chosen at random" in report.coverage.notes


def test_without_a_limit_so_many_are_taken_as_the_default_says(go, monkeypatch):
    monkeypatch.setattr(command, "LIMIT", 32)
    go("train.npz", *SMALL)
    assert read_report(go.out.with_suffix(".json")).results[0].facts["images"] == 32
    go("rfm_images:batches", "--iterations", 0, *SMALL[:4], "-q")
    report = read_report(go.out.with_suffix(".json"))
    assert report.results[0].facts["images"] == 32
    assert "32 of 3000 images, chosen at random" in report.coverage.notes


def test_permuted_labels_are_the_chance_of_held_out_images(go):
    go("train.npz", "--permuted", *SMALL)
    (result,) = read_report(go.out.with_suffix(".json")).results
    number = result.learned["selection"]
    assert number.chance_name == "permuted labels"
    assert number.chance[0] < 0.5 < number.chance[1]


def test_a_cnn_of_the_same_architecture_is_compared(go):
    go("train.npz", "--test", "test.npz", "--cnn", "--padding", "first", *SMALL)
    (result,) = read_report(go.out.with_suffix(".json")).results
    if result.layer.best:
        assert -1 <= result.numbers["metric_nfm"].value <= 1
        assert "metric and CNN" in result.figures()
    assert set(result.cnn) == {"NFM", "AGOP"}


def test_brightness_is_taken_off_where_asked(go, tmp_path):
    means = []
    for word in ((), ("--centre",)):
        kept = tmp_path / f"{len(word)}.safetensors"
        go("train.npz", "--save", kept, *word, *SMALL)
        means.append(float(ConvRFMClassifier.load(kept).mean_[0]))
    assert means[0] == 0
    assert 0.4 < means[1] < 0.6


@pytest.mark.parametrize("padding", ["valid", "first", "same"])
def test_the_cnn_has_the_maps_of_the_kernels_network(padding):
    from convscope.rfm.architecture import Architecture

    architecture = Architecture(2, 4, padding)
    images = torch.rand(2, 3, 9, 11)
    network = command._network(images, 5, architecture, 0)
    sizes = []
    for module in network:
        images = module(images)
        if isinstance(module, torch.nn.Conv2d):
            sizes.append(tuple(images.shape[2:]))
    assert sizes == architecture.sizes(9, 11)
    assert images.shape == (2, 5)


def test_deep(go, tmp_path):
    done = go("train.npz", "--test", "test.npz", "--deep", "--depth", 2, "--iterations", 1, "--patch-size", 2, "-q")
    (result,) = read_report(go.out.with_suffix(".json")).results
    assert len(result.stack) == 2
    assert all("test" in numbers for layer in result.stack for numbers in layer.iterations)
    assert "layer 2, iteration 1" in done.stdout
    assert "Deep ConvRFM" in done.stdout


class Interrupted(ConvRFMClassifier):
    """A classifier that is interrupted while it learns, or before."""

    early = False

    def fit(self, X, y):
        if not self.early:
            asked, self.n_iters = self.n_iters, 0
            super().fit(X, y)
            self.n_iters = asked
        raise KeyboardInterrupt


def test_an_interruption_leaves_a_page_of_what_was_learned(go, monkeypatch):
    monkeypatch.setattr("convscope.rfm.estimators.ConvRFMClassifier", Interrupted)
    done = go("train.npz", "--test", "test.npz", *SMALL, status=3)
    assert "Interrupted: the page holds what was done until then." in done.stdout
    assert len(read_report(go.out.with_suffix(".json")).results[0].stack[0].iterations) == 1


def test_an_interruption_before_anything_was_learned_leaves_no_page(go, monkeypatch):
    monkeypatch.setattr("convscope.rfm.estimators.ConvRFMClassifier", Interrupted)
    monkeypatch.setattr(Interrupted, "early", True)
    done = go("train.npz", *SMALL, status=3)
    assert "before anything was learned" in done.stderr
    assert not go.out.exists()


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        (["bare.npz"], 1, "no labels"),
        (["one.npz"], 1, "2 classes"),
        (["nowhere.npz"], 1, "does not exist"),
        (["train.npz", "--test", "small.npz"], 1, "3×7×7"),
        (["train.npz", "--test", "third.npz"], 1, "have a class 2 that no image"),
        (["train.npz", "--test", "bare.npz"], 1, "no labels"),
        (["train.npz", "--patch-size", 12], 1, "does not fit"),
        (["train.npz", "--max-memory", "0.00001"], 1, "--max-memory is 1e-05"),
        (["train.npz", "--save", "clf.pt"], 2, "must end in .safetensors"),
        (["train.npz", "--save", "nowhere/clf.safetensors"], 2, "lies in none"),
        (["train.npz", "--ridge", "many"], 2, "neither loo nor a positive number"),
        (["train.npz", "--ridge", "-1"], 2, "neither loo nor a positive number"),
        (["train.npz", "--limit", 1], 2, "limit"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_sentence(go, words, status, message):
    done = go(*words, "-q", status=status)
    assert message in done.stderr
    assert not go.out.exists()
