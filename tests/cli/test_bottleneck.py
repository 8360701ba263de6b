"""`convscope bottleneck` as a user types it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from firstlayer_runs import images
from safetensors.torch import load_file, save_file
from torch import nn

from convscope import load_compressed
from convscope.analyse import read_report
from convscope.bottleneck.result import BottleneckResult
from convscope.cli import main

FACTORY = """
import torch
from torch import nn

def small():
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 6, 3, padding=1),
        nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 3),
    )

def spare():
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 3),
    )

def dense():
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 64, 3))
"""
TESTS = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with images, networks' factories, and weights."""
    folder = tmp_path_factory.mktemp("home")
    (folder / "mine.py").write_text(FACTORY)
    x = images(120, side=8)
    x = ((x - x.min()) / 20).clamp(0, 1)
    pixels = (x * 255).to(torch.uint8).permute(0, 2, 3, 1).numpy()
    np.savez(folder / "images.npz", images=pixels[:60], labels=np.arange(60) % 3)
    np.savez(folder / "bare.npz", images=pixels)
    np.savez(folder / "two.npz", images=pixels[:2])
    space: dict = {}
    exec(FACTORY, space)
    torch.manual_seed(7)
    save_file(space["small"]().state_dict(), str(folder / "small.safetensors"))
    spare = space["spare"]()
    with torch.no_grad():  # what 32 channels return lies in two directions
        spare[2].weight[2:] = torch.einsum("ij,jcqr->icqr", torch.randn(30, 2) / 2, spare[2].weight[:2])
        spare[2].bias[2:] = 0
    save_file(spare.state_dict(), str(folder / "spare.safetensors"))
    broken = space["small"]().state_dict()
    broken["3.weight"][0] = float("nan")
    save_file(broken, str(folder / "broken.safetensors"))
    save_file({"fc.weight": torch.ones(3, 4)}, str(folder / "flat.safetensors"))
    return folder


@pytest.fixture
def go(home, monkeypatch, tmp_path):
    """Runs the command in the folder, with output in a folder of its own."""
    monkeypatch.chdir(home)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "mine", raising=False)

    def run(*words, status=0, out=None):
        words = ["bottleneck", *map(str, words), "-o", str(out or run.out), "-q"]
        done = CliRunner().invoke(main, words, prog_name="convscope")
        assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
        assert done.exit_code == status, done.output
        assert "Traceback" not in done.output
        return done

    run.out = tmp_path / "out.html"
    return run


def result(path) -> BottleneckResult:
    (found,) = read_report(Path(path).with_suffix(".json")).results
    assert isinstance(found, BottleneckResult)
    return found


def test_help_answers_without_torch():
    code = (
        "import sys\nfrom convscope.cli.bottleneck import bottleneck\n"
        "try:\n    bottleneck(['--help'])\nexcept SystemExit as stop:\n    assert not stop.code\n"
        "heavy = {'torch', 'numpy', 'pandas', 'matplotlib', 'scipy', 'sklearn'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    env = {**os.environ, "PYTHONPATH": str(TESTS.parent / "src")}
    child = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False)
    assert child.returncode == 0, child.stderr
    assert "--compress" in child.stdout


def test_page_json_arrays_and_summary(go):
    arrays = go.out.with_name("arrays.npz")
    done = go("mine:small@small.safetensors", "--data", "images.npz", "--arrays", arrays)
    assert done.stdout.strip().splitlines()[-1] == str(go.out)
    assert "99 % of what differs between images" in " ".join(done.stdout.split())
    page = go.out.read_text()
    assert "Which frequencies survive to the middle?" in page
    assert "could not be drawn" not in page
    found = result(go.out)
    assert [row.layer for row in found.rows] == ["0", "3"]
    assert found.facts["images"] == 60
    assert found.rows[0].numbers["rank"].chance is not None
    with np.load(arrays) as stored:
        assert stored["bottleneck/0/singular values"].shape == (34, 3)
        assert stored["bottleneck/3/variance"].shape == (34,)


def test_json_on_standard_output(go):
    done = go("mine:small@small.safetensors", "--data", "images.npz", "--json")
    assert json.loads(done.stdout)["results"][0]["kind"] == "bottleneck"


def test_what_is_asked_for_is_looked_at(go):
    go("mine:small@small.safetensors", "--data", "images.npz", "--layer", "3", "--images", 20)
    found = result(go.out)
    assert [row.layer for row in found.rows] == ["3"]
    assert found.facts["images"] < 45


def test_weights_before_training_are_what_chance_gives(go):
    go("mine:small@small.safetensors", "--data", "images.npz", "--init", "small.safetensors")
    found = result(go.out)
    assert found.facts["untrained_is"] == "init"
    for row in found.rows:
        assert row.numbers["rank"].value == row.numbers["rank"].chance[0]


def test_a_network_without_images_is_looked_at_by_its_weights(go):
    go("mine:small@small.safetensors", "--size", 10)
    found = result(go.out)
    assert [row.size for row in found.rows] == [(10, 10), (10, 10)]
    assert "rank" not in found.rows[0].numbers
    assert any("10×10 pixels (as asked for)" in note for note in read_report(go.out.with_suffix(".json")).head.notes)
    go("mine:small@small.safetensors")
    assert result(go.out).rows[0].size == (32, 32)


def test_a_weights_file_alone_is_looked_at_on_one_grid(go):
    done = go("small.safetensors", "--grid", "6x5")
    found = result(go.out)
    assert [row.layer for row in found.rows] == ["0", "3"]
    assert [row.size for row in found.rows] == [(6, 5), (6, 5)]
    assert "stride 1, one group and a circular border assumed" in " ".join(done.stdout.split())
    weights = load_file("small.safetensors")
    factor = weights["1.weight"] / (weights["1.running_var"] + 1e-5).sqrt()
    from convscope.bottleneck.singular import frequency_singular_values

    conv = nn.Conv2d(3, 6, 3, padding=1, padding_mode="circular", bias=False)
    with torch.no_grad():
        conv.weight.copy_(weights["0.weight"] * factor[:, None, None, None])
    expected = frequency_singular_values(conv, (6, 5)).norm
    assert found.rows[0].numbers["norm"].value == pytest.approx(expected, rel=1e-6)
    go("small.safetensors", "--layer", "3.weight")
    assert [row.size for row in result(go.out).rows] == [(32, 32)]


def test_what_can_be_left_out_is_left_out(go):

    saved = go.out.with_name("less.safetensors")
    done = go("mine:spare@spare.safetensors", "--data", "bare.npz", "--compress", "--tolerance", 0.05, out=saved)
    assert saved.exists()
    found = result(saved)
    assert found.numbers["stored"].value < 0.9
    assert found.numbers["work"].value < 1
    assert found.numbers["lost"].value < 0.05
    assert saved.with_suffix(".html").exists()
    assert done.stdout.strip().splitlines()[-1] == str(saved.with_suffix(".html"))
    assert "Saved as less.safetensors" in found.findings()[0].text
    space: dict = {}
    exec(FACTORY, space)
    module = space["spare"]()
    module.load_state_dict(load_file("spare.safetensors"))
    small, x = load_compressed(module, saved), images(20, side=8)
    with torch.no_grad():
        whole, less = module.eval()(x), small.eval()(x)
    error = (whole - less).square().sum() / (whole - whole.mean(0)).square().sum()
    assert float(error) < 0.5  # other images than those on which it was chosen


def test_what_would_lose_too_much_is_refused(go):
    saved = go.out.with_name("less.safetensors")
    done = go(
        "mine:small@small.safetensors", "--data", "bare.npz", "--compress", "--tolerance", 1e-9, status=4, out=saved
    )
    assert not saved.exists()
    assert "Refused" in result(saved).findings()[0].text
    assert "was not written" in done.stderr


def test_too_few_images_are_refused_and_the_page_remains(go):
    saved = go.out.with_name("less.safetensors")
    go("mine:small@small.safetensors", "--data", "two.npz", "--compress", status=4, out=saved)
    assert "too few" in result(saved).findings()[0].text


def test_labels_that_the_network_does_not_tell_are_not_used(go):
    saved = go.out.with_name("less.safetensors")
    # Labels 0, 1, 2 have nothing to do with these images.
    words = ["bottleneck", "mine:spare@spare.safetensors", "--data", "images.npz", "--compress", "-q", "-o", str(saved)]
    done = CliRunner().invoke(main, words)
    assert done.exit_code in {0, 4}
    assert "no better than chance" in result(saved).findings()[0].text


@pytest.mark.parametrize(
    ("words", "out", "message"),
    [
        (("mine:small", "--compress"), "x.safetensors", "--compress needs --data"),
        (("mine:small", "--data", "images.npz", "--compress"), "x.html", "must end in .safetensors"),
        (("mine:small", "--data", "images.npz"), "x.safetensors", "only with --compress"),
        (("mine:small", "--data", "images.npz"), "x.txt", "must end in .html"),
        (("mine:small", "--data", "images.npz", "--compress"), "nowhere/x.safetensors", "does not exist"),
        (("mine:small", "--data", "images.npz", "--grid", "8x8"), "x.html", "--grid is for a weights file alone"),
        (("mine:small", "--grid", "8x8"), "x.html", "--grid is for a weights file alone"),
        (("mine:small", "--init", "small.safetensors"), "x.html", "--init needs --data"),
        (("small.safetensors", "--grid", "0x8"), "x.html", "write it like 32x32"),
        (("small.safetensors", "--grid", "axb"), "x.html", "write it like 32x32"),
        (("mine:small", "--data", "images.npz", "--tolerance", "0"), "x.html", "Invalid value for '--tolerance'"),
        (("mine:small", "--data", "images.npz", "--images", "0"), "x.html", "Invalid value for '--images'"),
    ],
)
def test_wrong_usage_says_what_is_right(go, tmp_path, words, out, message):
    done = go(*words, status=2, out=tmp_path / out)
    assert message in done.output


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("nowhere.safetensors",), "does not exist"),
        (("flat.safetensors",), "no convolution over images was found"),
        (("small.safetensors", "--data", "images.npz"), "activations need the network"),
        (("small.safetensors", "--layer", "x"), "has no convolution 'x': choose one of 0, 3"),
        (("mine:small", "--data", "images.npz", "--layer", "x"), "has no convolution 'x': choose one of 0, 3"),
        (("mine:small", "--layer", "x"), "has no convolution 'x': choose one of 0, 3"),
        (("mine:dense", "--data", "images.npz"), "no two-dimensional convolution"),
        (("mine:dense",), "no two-dimensional convolution"),
    ],
)
def test_what_cannot_be_analysed_ends_in_one_line(go, words, message):
    done = go(*words, status=1)
    assert message in " ".join(done.output.split())


def test_weights_that_are_not_finite_are_stated(go):
    go("broken.safetensors")
    found = result(go.out)
    assert [row.layer for row in found.rows] == ["0"]
    assert any(s.what == "3" and "NaN" in s.reason for s in found.skipped)
