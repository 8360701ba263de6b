"""The experiments on learning dynamics, on a tiny stand-in for CIFAR-10: they run, are kept and printed."""

import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from convscope.dynamics.shortcuts.notch import amplitudes
from convscope.papers import pinson2023_data as data
from convscope.papers import pinson2023_linear as linear
from convscope.papers import pinson2023_overlap as overlap
from convscope.papers import pinson2023_relu as relu
from convscope.papers import pinson2023_shortcuts as shortcuts
from convscope.papers import pinson2023_speeds as speeds
from convscope.papers import pinson2023_stages as stages
from convscope.papers import pinson2023_swap as swap
from convscope.papers import pinson2023_training as training
from convscope.papers import pinson2023_transient as transient
from convscope.papers import record, table
from convscope.papers.registry import SCALES, Row, Setup, chosen

TINY = {
    linear: linear.Size(1, {1e-8: 1}, 60, 4),
    transient: transient.Size(2, 1, 2.0),
    training: training.Size(60, 40, 2, 1, 200, (3,)),
    relu: relu.Size(60, 20, 1, 40, 4, 1, 1),
    shortcuts: shortcuts.Size(60, 60, 40, 1),
    stages: stages.Size(1, 60),
    speeds: speeds.Size(1, 1, 1, 1, 60, 4, 2_000),
    overlap: overlap.Size(1, 1, 40, 2, 600),
    swap: swap.Size(60, 40, 40, 1),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("cifar")
    random = np.random.default_rng(0)
    for split, n in (("train", 60), ("test", 40)):
        smooth = F.avg_pool2d(torch.from_numpy(random.random((n, 3, 32, 32))), 5, 1, 2).permute(0, 2, 3, 1).numpy()
        labels = np.arange(n) % 3
        images = (255 * np.clip((smooth - 0.5) * 3 + 0.3 + labels[:, None, None, None] / 8, 0, 1)).astype(np.uint8)
        np.savez(path / f"cifar10_{split}.npz", **{f"x_{split}": images, f"y_{split}": labels})
    return path


@pytest.fixture
def setup(folder, tmp_path, monkeypatch):
    for module, size in TINY.items():
        monkeypatch.setattr(module, "SIZES", dict.fromkeys(SCALES, size))
    images, labels = data.digits((3, 8, 0))
    few = (F.avg_pool2d(images, 2), labels)
    for module in (linear, stages, speeds, overlap):
        monkeypatch.setattr(module, "digits", lambda: few)
    return Setup("smoke", {"cifar10": folder}, tmp_path / "cache", progress=False)


HOLDING = {
    "kernels": ("circular padding: rate of growth", "zeros padding: rate of growth"),
    "transient": ("class means alone",),
    "times": ("five cosines, initial weights of 1e-06: relative error of half-times, modes each",),
    "speeds": ("known image", "digits, each mode alone"),
    "overlap": ("digits: singular values", "digits: energy"),
    "stages": ("five cosines",),
}
SLOW = [
    pytest.param(name, marks=pytest.mark.slow)
    for name in ("times", "colours", "kernels", "shortcuts", "speeds", "stages")
]


@pytest.mark.parametrize("name", ["transient", "order", "spectra", "frequencies", "overlap", "swap", *SLOW])
def test_every_experiment_runs_and_survives_its_file(setup, name, tmp_path):
    ((experiment, result),) = record.run_all(chosen([f"pinson2023/{name}"]), setup, "convscope papers NAME")
    assert result["status"] == record.DONE
    assert set(experiment.costs) == set(SCALES)
    assert result["rows"]
    path = tmp_path / "results.json"
    record.add(path, experiment.key, result)
    (read,) = record.read(path).values()
    page = table.of_paper("pinson2023", {experiment.key: read})
    assert "no number here is the paper's" in page
    for line in read["rows"]:
        assert line["quantity"].replace("|", "\\|") in page
        assert json.loads(json.dumps(Row.from_json(line).to_json(), allow_nan=False)) == line
    assert any(line["expected"] for line in read["rows"])
    for prefix in HOLDING.get(name, ()):  # the theory itself, even at this size
        lines = [line for line in read["rows"] if line["quantity"].startswith(prefix)]
        assert lines
        assert {line["verdict"] for line in lines} == {"claim holds"}


def test_planted_cosines_are_those_of_one_class_in_bytes():
    pixels, labels = torch.full((30, 3, 32, 32), 0.5), torch.arange(30) % 3
    for random_phase in (False, True):
        marked = shortcuts.planted(pixels, labels, 8 / 255, random_phase)
        assert torch.equal(marked[labels > 0], (pixels[labels > 0] * 255).round() / 255)
        assert torch.allclose(marked * 255, (marked * 255).round(), atol=1e-4)
        found = amplitudes(marked[labels == 0], (9, 6))
        assert torch.allclose(found.norm(dim=-1) * 255, torch.full((10, 3), 8.0).double(), atol=0.3)
        mean = float(found.mean(0).norm(dim=-1).mean()) * 255
        assert mean < 6 if random_phase else mean == pytest.approx(8, abs=0.3)


def test_small_networks_are_trained_once(setup, folder):
    images, labels = data.photographs(setup, 40)
    test = data.held_out(setup, 20)
    how = {"seed": 1, "epochs": 1}
    first, scores = data.trained_network(setup, "strides", images, labels, test, **how)
    again, kept = data.trained_network(setup, "strides", images, labels, test, **how)
    assert scores == kept
    assert len(list(setup.cache.glob("*.safetensors"))) == 1
    for a, b in zip(first.parameters(), again.parameters(), strict=True):
        assert torch.equal(a, b)
    data.trained_network(setup, "maxima", images, labels, test, **how)
    data.trained_network(setup, "strides", images, labels.roll(1), test, **how)
    assert len(list(setup.cache.glob("*.safetensors"))) == 3


def test_images_are_seen_in_gray_and_smaller(setup):
    colour, _ = data.photographs(setup, 5)
    gray, _ = data.photographs(setup, 5, "gray", 16)
    assert gray.shape == (5, 1, 16, 16)
    weights = torch.tensor([0.299, 0.587, 0.114])
    assert float(gray[3, 0, 2, 5]) == pytest.approx(float((colour[3, :, 4:6, 10:12].mean((1, 2)) * weights).sum()))
