"""The experiments on the neural feature ansatz: what they compute, and that they run on real networks."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from convscope.ansatz.agop import PatchAgop
from convscope.ansatz.measure import patch_agop
from convscope.core.errors import ConvscopeError
from convscope.core.network import Network
from convscope.core.results import Number
from convscope.papers import beaglehole2023, beaglehole2023_myrtle, record, table
from convscope.papers.beaglehole2023_agreement import growth, judged, tables
from convscope.papers.beaglehole2023_networks import (
    POWERS,
    Beside,
    Size,
    agops,
    beyond,
    compared,
    twins_of,
    untrained_twins,
)
from convscope.papers.beaglehole2023_reasons import concentration
from convscope.papers.beaglehole2023_training import NETWORKS, Recipe, measured, trained, untrained
from convscope.papers.data import LabelledImages, needed, pictures, snapshots
from convscope.papers.registry import SCALES, Row, Setup, chosen, experiments
from convscope.training.networks import small_resnet

DATA = Path(__file__).parents[3] / "shared" / "data"
needs_data = pytest.mark.skipif(not (DATA / "weights").is_dir(), reason="needs the data in ../shared/data")


def labelled(n, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return LabelledImages(torch.randn(n, 3, 32, 32, generator=generator), torch.arange(n) % 10, str(seed))


def finite(rows):
    return all(math.isfinite(row.ours.value) for row in rows) and len(rows) > 0


def ran(name, data, cache=None):
    ((experiment, result),) = record.run_all(
        chosen([f"beaglehole2023/{name}"]), Setup("smoke", data, cache, progress=False), "convscope papers NAME"
    )
    assert result["status"] == record.DONE
    json.dumps(result, allow_nan=False)
    rows = [Row.from_json(row) for row in result["rows"]]
    assert finite(rows)
    page = table.of_paper(experiment.paper, {experiment.key: result})
    assert all(row.quantity in page for row in rows)
    return rows, result["details"]


def test_registry_knows_the_experiments():
    mine = [experiment for key, experiment in experiments().items() if key.startswith("beaglehole2023/")]
    machines = [f"convrfm-{name}" for name in ("local", "noisy", "fashion", "cifar10")]
    trained = ["myrtle", "architectures"]
    assert [e.name for e in mine] == ["limit", "pretrained", "trajectory", *trained, "edges", *machines]
    assert all(set(experiment.costs) == set(SCALES) for experiment in mine)


def test_limit_approaches_one_where_it_should_and_only_there(monkeypatch):
    size = beaglehole2023.Size((2, 64), 6, 16)
    monkeypatch.setattr(beaglehole2023, "SIZES", dict.fromkeys(SCALES, size))
    rows, details = ran("limit", {})
    assert len(details["positions"]) == 2 * 4
    found = {row.quantity: row for row in rows}
    correlations = {name: row.ours.value for name, row in found.items() if name.endswith("NFM and AGOP")}
    bright = correlations.pop("ReLU, bright patches, 64 positions a filter: correlation of NFM and AGOP")
    assert bright < 0.95 < 0.99 < min(correlations.values())
    distances = [row for name, row in found.items() if "squared distance" in name]
    assert len(distances) == 2
    assert all(row.verdict == "claim holds" for row in distances)


def test_layers_stand_beside_their_twins_and_chance():
    network = Network("small", small_resnet().eval())
    images = torch.rand(24, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    size = Size(24, 2, 20, 0)
    results = agops(network.module, images, False)
    found = Beside(results, compared(results, size), untrained_twins(network, images, size, False))
    assert list(found.results) == list(patch_agop(network.module, images[:2], exact=True))
    for layer, result in found.results.items():
        for power in POWERS:
            values = found.trained[layer][power]
            assert values["haar"].value == values["permuted"].value == result.correlation(power=power)
            assert values["haar"].draws != values["permuted"].draws
    for row in found.rows("small"):
        assert row.n == len(found.results)
    medians = [row for row in found.rows("small") if "median" in row.quantity]
    values = sorted(result.correlation() for result in found.results.values())
    assert math.isclose(medians[0].ours.value, values[len(values) // 2])
    assert medians[0].ours.spread > 0
    other = patch_agop(twins_of(network, images, 2)[1], images, exact=True)
    line = found.lines()[2]
    assert math.isclose(line["power 1, twins"][1], other[line["convolution"]].correlation(), rel_tol=1e-6)
    assert line["filters"] == "16 of 16x3x3"


def test_twins_have_other_weights_and_calibrated_norms():
    network = Network("small", small_resnet().eval())
    images = torch.rand(16, 3, 32, 32)
    first, second = twins_of(network, images, 2)
    assert not torch.equal(first.conv1.weight, second.conv1.weight)
    assert not torch.equal(first.conv1.weight, network.module.conv1.weight)
    responses = first.conv1(images)
    assert torch.allclose(first.bn1.running_mean, responses.mean((0, 2, 3)), atol=1e-5)
    with pytest.raises(ConvscopeError, match="untrained twin"):
        twins_of(replace(network, module=Opaque()), images, 1)


class Opaque(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(2, 3, 3, 3))


def test_a_seed_decides_a_network_and_its_training():
    images, test, recipe = labelled(40), labelled(20, 1), Recipe("four convolutions", 1, 2, 4, 20)
    first = trained(recipe, images, test, None, False)
    again = trained(recipe, images, test, None, False)
    for name, tensor in first.final.state_dict().items():
        assert torch.equal(again.final.state_dict()[name], tensor)
    assert torch.equal(first.initial.conv1.weight, untrained(recipe).conv1.weight)
    assert not torch.equal(first.initial.conv1.weight, first.final.conv1.weight)
    assert not torch.equal(untrained(replace(recipe, seed=2)).conv1.weight, first.initial.conv1.weight)


@pytest.mark.parametrize("network", NETWORKS)
def test_agreement_before_and_after_training(network):
    recipes = [Recipe(network, seed, 3, 8, 10, "sgd", 1e-3, 0.9) for seed in range(2)]
    found = measured(recipes, labelled(40), labelled(20, 1), 20, None, False)
    for recipe, one in zip(recipes, found, strict=True):
        assert one.recipe == recipe
        assert list(one.before) == list(one.after) == list(patch_agop(untrained(recipe), labelled(2).images))
        for layer, result in one.after.items():
            assert torch.equal(result.init, one.before[layer].weight)
            assert not torch.equal(result.weight, result.init)
    raised, above = growth(network, found, 1.0)
    expected = [
        np.median([a.correlation() for a in one.after.values()])
        - np.median([a.correlation() for a in one.before.values()])
        for one in found
    ]
    assert math.isclose(raised.ours.value, np.mean(expected))
    assert raised.verdict in {"claim holds", "claim fails"}
    assert above.verdict == ""
    made = tables(found)
    assert len(made["networks"]) == 2
    assert len(made["convolutions"]) == 2 * len(found[0].after)
    json.dumps(made, allow_nan=False)


def test_agreement_is_judged_by_what_chance_gives():
    images = torch.randn(8, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    conv = torch.nn.Conv2d(3, 6, 3, bias=False)
    result = patch_agop(torch.nn.Sequential(conv, torch.nn.Flatten()), images, exact=True)["0"]
    assert math.isclose(result.correlation(), 1)  # the outputs are the convolution's: S is a multiple of the identity
    row = Row("agreement", "", None, Number(1.0, None, (0.8, 0.9)), 1)
    assert judged(row, [result]).verdict == "claim holds"
    inside = judged(replace(row, ours=Number(0.9, None, (0.8, 0.9))), [result])
    assert inside.verdict == "claim fails"
    assert "1.00 times their mean energy" in inside.reason
    weight = torch.diag(torch.tensor([2.0, 1.0, 1.0], dtype=torch.float64))[None]
    for energy, word in (((9.0, 1.0, 1.0), "more than in proportion"), ((1.0, 9.0, 1.0), "do not prefer it")):
        gram = torch.diag(torch.tensor(energy, dtype=torch.float64))[None]
        assert word in concentration([PatchAgop("a", result.geometry, weight, gram, 1)])
    assert beyond(None) is None


def test_prototype_has_a_value_for_each_convolution():
    assert {len(values) for values in beaglehole2023_myrtle.PROTOTYPE.values()} == {len(beaglehole2023_myrtle.LAYERS)}


def test_missing_data_are_named(tmp_path, monkeypatch):
    monkeypatch.delenv("CONVSCOPE_DATA", raising=False)
    with pytest.raises(ConvscopeError, match="--data weights=PATH"):
        needed("weights", {})
    with pytest.raises(ConvscopeError, match="holds no imagenet"):
        pictures("imagenet", {"imagenet": tmp_path}, 3)
    (tmp_path / "w.safetensors").write_bytes(b"nothing")
    with pytest.raises(ConvscopeError, match="cannot be read"):
        snapshots(tmp_path / "w.safetensors")


def test_snapshots_are_in_the_order_of_their_iterations(tmp_path):
    file, weight = tmp_path / "w.safetensors", torch.zeros(1)
    save_file({f"iter_{k}.conv{i}.weight": weight.clone() for k in (1000, 200, 30) for i in (1, 2)}, file)
    assert list(snapshots(file).items()) == [(30, "iter_30"), (200, "iter_200"), (1000, "iter_1000")]
    save_file({"conv1.weight": weight, "last.weight": weight.clone()}, file)
    with pytest.raises(ConvscopeError, match="named last, without an iteration"):
        snapshots(file)


def test_pictures_are_read_in_zero_to_one(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (7, 8, 8, 3), dtype=np.uint8)
    np.savez(tmp_path / "imagenet_few.npz", images=pixels)
    images = pictures("imagenet", {"imagenet": tmp_path}, 5)
    assert images.shape == (5, 3, 8, 8)
    expected = {tuple(image.transpose(2, 0, 1).ravel()) for image in pixels}
    assert {tuple((255 * image).round().to(torch.uint8).flatten().tolist()) for image in images} <= expected


@needs_data
def test_myrtle_runs(tmp_path):
    rows, details = ran("myrtle", {"cifar10": DATA}, tmp_path)
    of_layers, whole = rows[: 6 * 4], rows[6 * 4 :]
    assert all(row.n == 2 and "prototype" in row.note for row in of_layers)
    assert [bool(row.verdict) for row in whole] == [True, False, False, False]  # power 1 alone is claimed
    assert sum(bool(row.verdict) for row in of_layers) == 4
    assert len(details["convolutions"]) == 2 * 4
    assert len(list(tmp_path.glob("*.safetensors"))) == 2


@needs_data
@pytest.mark.parametrize("name", [pytest.param("pretrained", marks=pytest.mark.slow), "trajectory"])
def test_published_networks_run(name):
    rows, details = ran(name, {"cifar10": DATA, "weights": DATA / "weights", "imagenet": DATA})
    assert any(row.verdict for row in rows)
    if name == "trajectory":
        assert len(details["snapshots"]) == 8 * 3
        assert {row.n for row in rows} == {1}
    else:
        assert [len(lines) for lines in details.values()] == [26, 19]
        assert {row.n for row in rows} == {26, 19}
