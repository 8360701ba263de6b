"""The experiments on first layers run at tiny sizes, train each network once, and find what is planted."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from markupsafe import escape
from torch import nn

from convscope.core.errors import ConvscopeError
from convscope.core.geometry import ConvGeometry
from convscope.firstlayer.heldout import scale_patches
from convscope.papers import chowers2023_architectures, chowers2023_labels, record, table
from convscope.papers.chowers2023_architectures import FrozenRecipe, frozen_scores
from convscope.papers.chowers2023_data import celeba, cifar100, pair_laboratories
from convscope.papers.chowers2023_labels import ENERGY, average_patch, energy_labels, energy_laboratories
from convscope.papers.chowers2023_tables import PRINTED, claimed, printed
from convscope.papers.data import cifar10
from convscope.papers.laboratory import laboratory
from convscope.papers.page import html
from convscope.papers.registry import SCALES, Row, Setup, chosen, experiments
from convscope.papers.trained import Recipe, ScaledPatches, Trainer


def test_every_experiment_runs_and_survives_its_file(folder, published, others, tiny, tmp_path):
    data = {"cifar10": folder, "weights": published, "imagenet": published}
    data |= {name: others / name for name in ("fashion-mnist", "cifar100", "celeba")}
    setup = Setup("cpu", data, tmp_path / "cache", progress=False)
    path = tmp_path / "results" / "chowers.json"
    for experiment, result in record.run_all(chosen(["chowers2023"]), setup, "convscope papers NAME"):
        assert result["status"] == record.DONE, result
        assert any(row["verdict"] for row in result["rows"])
        assert result["command"] == f"convscope papers {experiment.key}"
        assert set(experiment.costs) == set(SCALES)
        for data in result["rows"]:
            row = Row.from_json(data)
            assert json.loads(json.dumps(row.to_json(), allow_nan=False)) == json.loads(json.dumps(data))
            assert row.n >= 1
        record.add(path, experiment.key, result)
    records = record.read(path)
    assert list(records) == [key for key in experiments() if key.startswith("chowers2023/")]
    table.write_pages(records, "results.json", tmp_path / "page.md")
    whole, own, web = (tmp_path / "page.md").read_text(), (tmp_path / "page/chowers2023.md").read_text(), html(records)
    for data in (row for result in records.values() for row in result["rows"]):
        assert data["quantity"] in own
        assert (data["quantity"] in whole) == bool(data["verdict"])
        assert str(escape(data["quantity"])) in web
    # Each network was trained once: of two kinds of labels with two seeds; wide ones; with more images; of two scaled
    # components of each kind; residual ones and two other depths; of five pairs, two with true and one with permuted
    # labels; of three energies; on Fashion-MNIST; on CIFAR-100 and CelebA with wide and residual ones; of two depths
    # with three frozen parts and two seeds.
    networks = 4 + 2 + 2 + 4 + (2 + 2) + 5 * (2 + 1) + 3 + 4 + 2 * (4 + 2 + 2) + 2 * 3 * 2
    assert len(list((tmp_path / "cache").glob("*.safetensors"))) == networks


def test_trained_layers_are_kept_and_equal(folder, tmp_path):
    data, test = cifar10(folder, 40), cifar10(folder, 20, "test")
    recipe = Recipe("permuted", 1, 2, (4, 4), 0.05, 20, 3, 2.0)
    trainer = Trainer(data, test, torch.eye(27).double(), tmp_path, progress=False)
    first = trainer(recipe)
    assert trainer(recipe) is first
    again = Trainer(data, test, torch.eye(27).double(), tmp_path, progress=False)(recipe)
    fresh = Trainer(data, test, torch.eye(27).double(), None, progress=False)(recipe)
    for other in (again, fresh):
        assert other.weights.keys() == first.weights.keys() == {0, 1, 2}
        assert all(torch.equal(other.weights[k], first.weights[k]) for k in first.weights)
        assert other.scores.test_accuracy == first.scores.test_accuracy
    assert torch.equal(first.final, first.weights[2])
    plain = trainer(replace(recipe, component=None, factor=1.0))
    neutral = trainer(replace(recipe, factor=1.0))
    assert torch.allclose(plain.final, neutral.final, atol=1e-6)
    assert not torch.allclose(plain.final, first.final, atol=1e-3)


def test_scaled_patches_equal_tiles():
    conv = nn.Conv2d(3, 4, 3, padding=1, bias=False).double()
    u = F.normalize(torch.randn(27, dtype=torch.float64), dim=0)
    images = torch.randn(2, 3, 7, 6, dtype=torch.float64)
    tiles, geometry = scale_patches(images, ConvGeometry.of(conv), u, 3.0)
    weight = conv.weight.detach().clone().requires_grad_()
    tiled = F.conv2d(tiles, weight, stride=geometry.stride)
    ours = ScaledPatches(conv, u, 3.0).double()(images)
    assert torch.allclose(ours, tiled, atol=1e-12)
    direction = torch.randn_like(tiled)
    (by_tiles,) = torch.autograd.grad((tiled * direction).sum(), weight)
    (by_ours,) = torch.autograd.grad((ours * direction).sum(), conv.weight)
    assert torch.allclose(by_ours, by_tiles, atol=1e-10)


def test_printed_correlations_are_judged_by_one_tolerance():
    assert printed("−0.13 ± 0.18")["expected"] == (-0.21, -0.05)
    assert claimed("CIFAR-10", "seeds", "alike", 0.4) == {"paper": "0.99", "expected": (0.91, 1.0), "printed": True}
    assert claimed("Fashion-MNIST", "seeds", "alike", 0.4) == {"paper": "alike", "expected": (0.4, 1.0)}
    assert PRINTED["CIFAR-10"].keys() == PRINTED["CIFAR-100"].keys() == PRINTED["CelebA"].keys()


def test_data_sets_are_read(others, tmp_path):
    hundred, test = cifar100(others / "cifar100", 30), cifar100(others / "cifar100", 30, "test")
    assert hundred.images.shape == (30, 3, 32, 32)
    assert hundred.labels.tolist() == [i % 10 for i in range(30)]
    assert len(test.labels) == 20
    assert test.fingerprint != hundred.fingerprint
    faces, unseen = celeba(others / "celeba", 1000), celeba(others / "celeba", 1000, "test")
    assert (len(faces.labels), len(unseen.labels)) == (48, 12)
    assert faces.images.shape[1:] == (3, 32, 32)
    assert len(celeba(others / "celeba", 5).labels) == 5
    both = torch.cat([faces.images, unseen.images])
    assert len(both.flatten(1).unique(dim=0)) == 60  # no picture twice
    # Pictures of class 0 ("grave") are the brighter ones.
    assert faces.images[faces.labels == 0].mean() > faces.images[faces.labels == 1].mean()
    with pytest.raises(ConvscopeError, match="no test images of CIFAR-100; expected a folder with CIFAR-100"):
        cifar100(tmp_path, 10, "test")
    with pytest.raises(ConvscopeError, match="no labelled images; expected a folder with one sub-folder"):
        celeba(others / "celeba" / "smiling", 10)


def test_pairs_hold_two_classes_of_the_same_images(folder, tiny):
    setup = Setup("cpu", {"cifar10": folder}, progress=False)
    labs = pair_laboratories(setup)
    everything = cifar10(folder, 2 * tiny.images)
    for name, classes in (("car-truck", (1, 9)), ("dog-cat", (5, 3))):
        data = labs[name].trainer.train
        expected = [everything.images[i] for i, y in enumerate(everything.labels.tolist()) if y in classes]
        assert torch.equal(data.images, torch.stack(expected))
        assert data.labels.tolist() == [classes.index(y) for y in everything.labels.tolist() if y in classes]
    assert len({lab.trainer.train.fingerprint for lab in labs.values()}) == 5


def test_energy_labels_are_deciles_of_one_component(folder, tiny):
    setup = Setup("cpu", {"cifar10": folder}, progress=False)
    lab, labs = laboratory(setup), energy_laboratories(setup)
    for t in ENERGY:
        images, labels = labs[t].trainer.train.images.double(), labs[t].trainer.train.labels
        patches = F.unfold(images, 3, padding=1) - lab.moments.mean[:, None]
        energy = torch.einsum("d,ndp->np", lab.moments.eigenvectors[:, t], patches).square().mean(1)
        assert labels[energy.argsort()].tolist() == sorted(labels.tolist())
        assert torch.bincount(labels).tolist() == [4] * 10
    assert labs[ENERGY[0]].moments.class_counts.tolist() == [4] * 10


def test_labels_made_from_an_energy_show_in_its_second_order_alone(folder, tiny):
    rows = energy_labels(Setup("cpu", {"cifar10": folder}, progress=False)).rows
    second = [row for row in rows if "F2" in row.quantity]
    assert len(second) == len(ENERGY)
    for row in second:
        assert row.ours.value > 2 * row.ours.chance[1]
        assert row.ours.value > row.baselines["all components, median"]


class _Planted:
    """A case whose dependence on the labels is given."""

    def __init__(self, lab, predicted, measured):
        self.name, self.lab, self._both = "planted", lab, (predicted, measured)

    def described(self):
        predicted, measured = self._both
        return {
            "labels": "planted",
            "predicted dependence": predicted,
            "chance, up to": 0.25,
            "measured dependence": measured,
            "F1, median": -predicted,
            "F2, median": measured,
            "change of first layer, permuted over true": 1.0,
        }


@pytest.mark.parametrize(
    ("measured", "verdict"),
    [([0.1, 0.2, 0.3, 0.5, 0.6, 0.9, 1.0], "claim holds"), ([0.5, 0.1, 0.9, 0.3, 1.0, 0.2, 0.6], "claim fails")],
)
def test_a_dependence_that_the_average_patch_foretells_is_found(folder, tiny, measured, verdict, monkeypatch):
    setup = Setup("cpu", {"cifar10": folder}, progress=False)
    cases = [_Planted(laboratory(setup), i / 10, value) for i, value in enumerate(measured)]
    monkeypatch.setattr(chowers2023_labels, "_cases", lambda _: cases)
    row, *others = average_patch(setup).rows
    assert row.verdict == verdict
    assert row.ours.chance[0] < 0 < row.ours.chance[1]
    assert row.baselines["median F1 of the average patch"] == pytest.approx(-row.ours.value)
    assert row.baselines["median F2 of the patches' energies"] == pytest.approx(1)
    assert row.reason.startswith("In 3 of 7 cases the prediction lies within what labels without information give.")
    assert all(other.expected == (0.0, 0.1) for other in others)


@pytest.mark.parametrize(("part", "learned"), [("nothing", 8), ("first layer", 7), ("features", 2)])
def test_what_is_frozen_stays(folder, part, learned, monkeypatch):
    train, test = cifar10(folder, 40), cifar10(folder, 20, "test")
    seen = {}

    def learn(network, *args, **options):
        before = {name: p.detach().clone() for name, p in network.named_parameters()}
        result = real(network, *args, **options)
        seen["changed"] = sum(not torch.equal(p, before[name]) for name, p in network.named_parameters())
        seen["network"] = network
        return result

    real = chowers2023_architectures.learn
    monkeypatch.setattr(chowers2023_architectures, "learn", learn)
    recipe = FrozenRecipe(part, Recipe("true", 0, 2, (4, 4), 0.05, 20))
    scores = frozen_scores(recipe, train, test, Setup(progress=False))
    assert seen["changed"] == learned  # two convolutions, two normalisations of two each, and the linear layer's two
    logits = seen["network"].eval()(test.images).detach()
    assert scores[2] == pytest.approx(float((logits.argmax(1) == test.labels).double().mean()))
    assert scores[3] == pytest.approx(float(F.cross_entropy(logits, test.labels)), rel=1e-5)


def test_frozen_networks_are_kept_and_named_apart(folder, tmp_path):
    train, test = cifar10(folder, 40), cifar10(folder, 20, "test")
    setup = Setup(cache=tmp_path, progress=False)
    training = Recipe("true", 0, 1, (4,), 0.05, 20)
    first = [frozen_scores(FrozenRecipe(part, training), train, test, setup) for part in ("nothing", "first layer")]
    again = [frozen_scores(FrozenRecipe(part, training), train, test, setup) for part in ("nothing", "first layer")]
    assert first == again
    assert first[0] != first[1]
    assert len(list(tmp_path.glob("*.safetensors"))) == 2


def test_only_residual_networks_name_their_kind():
    recipe = Recipe("true", 0, 1, (4,))
    assert "network" not in recipe.to_json()
    assert replace(recipe, network="resnet").to_json()["network"] == "resnet"


def test_a_residual_network_gives_its_first_layer(folder):
    data, test = cifar10(folder, 40), cifar10(folder, 20, "test")
    trainer = Trainer(data, test, torch.eye(27).double(), progress=False)
    layer = trainer(Recipe("true", 0, 1, (4,), 0.05, 20, network="resnet"))
    assert layer.final.shape == (4, 3, 3, 3)
    assert not torch.equal(layer.final, layer.initial)
    assert np.isfinite(layer.scores.test_accuracy)
