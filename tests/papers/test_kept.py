"""Trainings that a folder keeps: each is done once, and what the folder holds is what was trained."""

import json
from dataclasses import asdict
from functools import partial

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from convscope.core.errors import ConvscopeError
from convscope.papers import beaglehole2023_training, trained
from convscope.papers.data import LabelledImages
from convscope.papers.kept import Scores, learn, once
from convscope.training.loop import Training

SCORES = Scores(0.75, 0.5, 12.25)


def labelled(n, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return LabelledImages(torch.randn(n, 3, 32, 32, generator=generator), torch.arange(n) % 10, f"images {seed}")


def first_layer(folder):
    """Returns weights and scores of a first layer, by a trainer that remembers nothing."""
    recipe = trained.Recipe("true", 0, 1, (4, 4), 0.05, 20)
    layer = trained.Trainer(labelled(40), labelled(20, 1), torch.eye(27).double(), folder, progress=False)(recipe)
    return [layer.weights[epoch] for epoch in sorted(layer.weights)], layer.scores


def myrtle(folder):
    """Returns weights and scores of a network of four convolutions."""
    recipe = beaglehole2023_training.Recipe("four convolutions", 0, 1, 4, 20)
    network = beaglehole2023_training.trained(recipe, labelled(40), labelled(20, 1), folder, False)
    return [*network.initial.state_dict().values(), *network.final.state_dict().values()], network.scores


def forbidden(*_args, **_options):
    raise AssertionError("trained again")


@pytest.mark.parametrize("network", [first_layer, myrtle])
def test_a_kept_training_is_read_back_and_not_repeated(network, tmp_path, monkeypatch):
    weights, scores = network(tmp_path)
    (file,) = tmp_path.iterdir()
    monkeypatch.setattr("convscope.papers.kept.train", forbidden)
    again, again_scores = network(tmp_path)
    assert again_scores == scores
    assert len(again) == len(weights) > 1
    assert all(torch.equal(a, b) for a, b in zip(again, weights, strict=True))
    assert not torch.equal(weights[0], weights[-1])
    with pytest.raises(AssertionError, match="trained again"):
        network(None)
    file.unlink()
    with pytest.raises(AssertionError, match="trained again"):
        network(tmp_path)


# The names of files that users keep: where one changes, what took hours is trained anew.
@pytest.mark.parametrize(("network", "name"), [(first_layer, "6a565ac1a610205c"), (myrtle, "2d6146cfdc5759f3")])
def test_names_of_kept_trainings_stay_as_they_are(network, name, tmp_path):
    network(tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == [f"{name}.safetensors"]


def test_a_kept_file_says_how_it_was_trained(tmp_path):
    recipe = {"seed": 3, "widths": (4, 4)}
    once(tmp_path / "new" / "folder", ["data"], recipe, lambda: ({"w": torch.ones(2)}, SCORES))
    (file,) = (tmp_path / "new" / "folder").iterdir()
    with safe_open(file, "pt") as content:
        told = {name: json.loads(text) for name, text in content.metadata().items()}
    assert told == {"numbers": asdict(SCORES), "recipe": {"seed": 3, "widths": [4, 4]}}


def test_other_images_or_another_recipe_are_another_training(tmp_path):
    def kept(data, recipe, value):
        return int(once(tmp_path, data, recipe, lambda: ({"w": torch.tensor(value)}, SCORES))[0]["w"])

    assert kept(["a", "b"], {"seed": 0}, 1) == 1
    assert kept(["a", "b"], {"seed": 1}, 2) == 2
    assert kept(["b", "a"], {"seed": 0}, 3) == 3
    assert kept(["kind", "a", "b"], {"seed": 0}, 4) == 4
    assert kept(["a", "b"], {"seed": 0}, 5) == 1


@pytest.mark.parametrize("damage", ["cut short", "no safetensors", "without scores", "a folder"])
def test_a_damaged_file_is_refused_by_name(damage, tmp_path):
    keep = partial(once, tmp_path, ["data"], {"seed": 0})
    keep(lambda: ({"w": torch.ones(100)}, SCORES))
    (file,) = tmp_path.iterdir()
    content = file.read_bytes()
    file.unlink()
    if damage == "cut short":
        file.write_bytes(content[:-8])
    elif damage == "no safetensors":
        file.write_bytes(b"nothing")
    elif damage == "without scores":
        save_file({"w": torch.ones(100)}, file, {"recipe": "{}"})
    else:
        file.mkdir()
    with pytest.raises(ConvscopeError, match=f"{file.name} cannot be read .* remove it"):
        keep(forbidden)


def test_a_place_that_is_no_folder_is_refused_before_training(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ConvscopeError, match="name another folder with --cache"):
        once(tmp_path / "file" / "cache", ["data"], {}, forbidden)


@pytest.mark.parametrize("network", [first_layer, myrtle])
def test_an_interrupted_training_is_not_kept(network, tmp_path, monkeypatch):
    monkeypatch.setattr("convscope.papers.kept.train", lambda *_, **__: Training({}, {}, (), 1, False))
    with pytest.raises(KeyboardInterrupt):
        network(tmp_path)
    assert not list(tmp_path.iterdir())


def test_scores_are_those_of_the_network_afterwards():
    images, test = labelled(40), labelled(30, 1)
    network = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 10))
    state, scores = learn(network, images.images, images.labels, test, epochs=3, lr=0.01, batch_size=20, progress=False)
    network.cpu()
    assert all(torch.equal(state[name], value) for name, value in network.state_dict().items())
    right = int((network(test.images).argmax(1) == test.labels).sum())
    assert round(30 * scores.test_accuracy, 9) == right
    assert 0 <= scores.train_accuracy <= 1
    assert scores.seconds > 0
