"""Every experiment runs, and is judged, without any data from outside."""

import pytest
import torch

from convscope.core.results import number_from_json
from convscope.inputs.images import open_images
from convscope.inputs.networks import open_network
from convscope.papers import record
from convscope.papers.data import WANTED, cifar10, fashion_mnist, image_file
from convscope.papers.registry import SCALES, Row, Setup, experiments
from convscope.papers.stand_ins import stand_in


def test_every_experiment_says_what_it_needs_and_costs():
    for key, experiment in experiments().items():
        assert set(experiment.costs) == set(SCALES), key
        assert set(experiment.data) <= set(WANTED), key
        assert experiment.shows.endswith("?"), key
        assert experiment.claim, key


@pytest.mark.slow
def test_every_experiment_runs_on_what_ships_with_dependencies(monkeypatch):
    monkeypatch.delenv("CONVSCOPE_DATA", raising=False)
    setup = Setup("smoke", progress=False)
    failed, every = {}, list(experiments().values())
    for experiment, result in record.run_all(every, setup, "convscope papers NAME", jobs=2):
        if result["status"] != record.DONE:
            failed[experiment.key] = result["why"]
            continue
        rows = [Row.from_json(row) for row in result["rows"]]
        judged = [row for row in rows if row.verdict]
        null = [row for row in rows if row.baselines or number_from_json(row.to_json()["ours"]).chance]
        if not judged or not null:
            failed[experiment.key] = f"{len(judged)} judged rows, {len(null)} beside a baseline"
    assert not failed


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stand-ins")
    return {name: stand_in(name, folder) for name in WANTED}


@pytest.mark.slow
def test_stand_ins_read_as_the_real_ones(made):
    train, test = cifar10(made["cifar10"], 10**6), cifar10(made["cifar10"], 10**6, "test")
    assert train.images.shape == (2_000, 3, 32, 32)
    for data in (train, test):
        assert data.labels.unique().tolist() == list(range(10))
        assert 0 <= float(data.pixels.min()) < float(data.pixels.max()) <= 1 + 1e-6
    assert not torch.equal(train.images[:100], test.images[:100])
    for name in ("mnist", "fashion-mnist"):
        digits = fashion_mnist(made[name], 10**6)
        assert digits.images.shape == (1_397, 1, 28, 28)
        assert len(fashion_mnist(made[name], 10**6, "test").labels) == 400
    for name in ("cifar10", "imagenet"):
        assert open_images(str(image_file(name, made))).n > 10
    assert open_images(str(made["celeba"])).classes == ("even", "odd")
    assert open_images(str(made["cifar100"])).n == 2_000
    for name in ("resnet20", "resnet56"):
        opened = open_network(f"convscope.training.networks:{name}@{made['weights'] / f'{name}_cifar10.safetensors'}")
        assert sum(p.numel() for p in opened.network.module.parameters()) > 200_000
