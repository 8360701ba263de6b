"""The bottleneck experiments: their tasks are what they say, their measures exact, and all of them run."""

import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from convscope.bottleneck.ablation import Cost
from convscope.bottleneck.compress import compress
from convscope.bottleneck.interpretation import whole_spectrum
from convscope.bottleneck.latents import latents_of
from convscope.bottleneck.pairs import activation_pairs
from convscope.core.errors import ConvscopeError
from convscope.core.network import Network
from convscope.core.results import Number
from convscope.papers import record, table, wen2024_networks
from convscope.papers import wen2024_digits as digits_of_paper
from convscope.papers import wen2024_known as known
from convscope.papers import wen2024_parts as parts
from convscope.papers import wen2024_pretrained as published
from convscope.papers import wen2024_runs as runs
from convscope.papers import wen2024_sampling as sampling
from convscope.papers import wen2024_stability as stability
from convscope.papers import wen2024_tasks as tasks
from convscope.papers.data import mnist
from convscope.papers.registry import SCALES, Row, Setup, chosen
from convscope.papers.wen2024_controls import classifier
from convscope.papers.wen2024_measures import measure
from convscope.training.networks import CifarResNet

TINY = runs.Size(0.003, 1, 16, 7, 64)


@pytest.fixture
def tiny(monkeypatch):
    monkeypatch.setattr(runs, "SIZES", dict.fromkeys(SCALES, TINY))
    for name in ("known", "digits", "controls", "sampling"):
        monkeypatch.setattr(f"convscope.papers.wen2024_{name}.SIZES", dict.fromkeys(SCALES, TINY))
    monkeypatch.setattr(digits_of_paper, "_IMAGES", 1)
    monkeypatch.setattr(wen2024_networks, "_memory", {})


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """A stand-in for MNIST as idx files: rings of several widths, labelled 0, among noise."""
    folder = tmp_path_factory.mktemp("mnist")
    random = np.random.default_rng(0)
    labels = (np.arange(60) % 3).astype(np.uint8)
    away = np.hypot(*np.mgrid[-13.5:14.5, -13.5:14.5])
    rings = 255 * np.exp(-(((away - random.uniform(5, 9, (60, 1, 1))) / 2) ** 2))
    images = np.where(labels[:, None, None] == 0, rings, random.uniform(0, 255, (60, 28, 28))).astype(np.uint8)
    for name, kind, array in (("images-idx3", 3, images), ("labels-idx1", 1, labels)):
        header = bytes([0, 0, 8, kind]) + b"".join(size.to_bytes(4, "big") for size in array.shape)
        (folder / f"train-{name}-ubyte").write_bytes(header + array.tobytes())
    return folder


def projection(frequency, depth=4, side=8):
    """A network whose layers all are one orthogonal projection onto a frequency and the mean."""
    y, x = torch.meshgrid(*(2 * math.pi * torch.arange(side) / side for _ in range(2)), indexing="ij")
    alone = all(2 * k % side == 0 for k in frequency)  # its own conjugate
    wave = (1 if alone else 2) * (frequency[0] * y + frequency[1] * x).cos()
    kernel = torch.ones(side, side) + (wave if any(frequency) else 0)
    layers = []
    for _ in range(depth):
        conv = nn.Conv2d(1, 1, side, padding="same", padding_mode="circular")
        with torch.no_grad():
            at = ((side - 1) // 2, (side - 1) // 2)
            conv.weight.copy_((kernel / side**2).roll(at, (0, 1)))
            conv.bias.zero_()
        layers += [conv, nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def test_a_projection_is_measured_exactly():
    images = 1 + torch.rand(12, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    for frequency, kept in (((0, 0), {0: 1}), ((1, 0), {0: 1, 1: 2}), ((4, 4), {0: 1, 8: 1})):
        found = measure(projection(frequency).double(), images.double())
        rank = sum(kept.values())
        assert [found.degrees(i) for i in range(4)] == [kept] * 4
        assert found.per_layer == pytest.approx(rank)
        assert found.over_bound == pytest.approx(1)
        assert found.cost.balance == pytest.approx(0, abs=1e-6)
        assert found.activations == (rank,) * 4
        assert len(found.lines(network="a")) == 4
        json.dumps([found.lines(network="a"), found.line(network="a")], allow_nan=False)


def test_the_projections_are_what_they_say():
    task = tasks.low_pass(5)
    spectrum = torch.fft.fft2(task.images.double())
    expected = torch.zeros_like(spectrum)
    for where in ((0, 0), (1, 0), (-1, 0), (0, 1), (0, -1)):
        expected[..., where[0], where[1]] = spectrum[..., where[0], where[1]]
    torch.testing.assert_close(task.targets, torch.fft.ifft2(expected).real.float(), atol=1e-6, rtol=0)
    even = tasks.mean(5)
    assert torch.equal(even.images, task.images)
    torch.testing.assert_close(even.targets[:, :, 3, 5], even.images.mean((2, 3)))
    assert task.fingerprint != even.fingerprint == tasks.mean(5).fingerprint


def test_products_hold_shape_and_sign():
    task = tasks.shape_times_pattern(40)
    assert float(task.images.min()) >= 0
    assert {*task.factors["sign"].tolist()} == {-1.0, 1.0}
    spectrum = torch.fft.fft2(task.images.double())[:, 0] / 64
    torch.testing.assert_close(spectrum[:, 1, 0], task.factors["shape down"] / 4, atol=1e-6, rtol=0)
    torch.testing.assert_close(spectrum[:, 0, 1], task.factors["shape across"] / 4, atol=1e-6, rtol=0)
    torch.testing.assert_close(spectrum[:, 4, 4].real, task.factors["sign"] / 2, atol=1e-6, rtol=0)
    for name, where in (("shape down", (3, 4)), ("shape across", (4, 3))):
        torch.testing.assert_close(
            spectrum[slice(None), *where], task.factors[f"{name} times sign"] / 4, atol=1e-6, rtol=0
        )
    assert int((spectrum.abs() > 1e-6).any(0).sum()) == 10
    # Where s is 1 the image lives on one colour of the checkerboard, and is the shape there.
    on = task.factors["sign"] > 0
    assert float(task.images[on][:, :, 0, 1::2].abs().max()) < 1e-6


def test_bumps_move_steadily():
    task = tasks.moving_bump(30)
    assert task.images.shape == (30, 2, 8, 8)
    first, second, third = (task.factors[f"position {i}"] for i in (1, 2, 3))
    torch.testing.assert_close(second - first, third - second)
    assert float((second - first).abs().max()) <= 1.5 / 8
    for frame, position in ((task.images[:, 0], first), (task.images[:, 1], second), (task.targets[:, 0], third)):
        spectrum = torch.fft.fft2(frame.double())
        expected = torch.polar(torch.ones(30).double(), -2 * math.pi * position[:, 0])
        torch.testing.assert_close(spectrum[:, 1, 0] / spectrum[:, 1, 0].abs(), expected, atol=1e-3, rtol=0)


def test_a_classifier_is_tested_on_other_digits():
    task = tasks.classes()
    images, labels = task.test
    assert len(images) + len(task.images) == 1797
    assert len(images) == 450
    assert {*labels.tolist()} == {*range(10)}
    seen = {image.numpy().tobytes() for image in task.images}
    assert sum(image.numpy().tobytes() in seen for image in images) < 3


def test_digits_of_a_user(digits):
    data = mnist(digits, 60)
    task = tasks.of_digits(data, 0, 15, 7)
    assert task.images.shape == (15, 1, 7, 7)
    assert float(task.images[3, 0, 2, 4]) == pytest.approx(float(data.images[9, 0, 8:12, 16:20].mean()))
    with pytest.raises(ConvscopeError, match="none of the 60 images is labelled 7"):
        tasks.of_digits(data, 7, 15, 7)
    with pytest.raises(ConvscopeError, match="is no folder; expected a folder with MNIST"):
        mnist(digits / "train-images-idx3-ubyte", 60)


def test_the_digit_autoencoder_takes_a_users_digits(digits, tiny, tmp_path):
    setup = Setup("smoke", {"mnist": digits}, tmp_path / "cache", progress=False)
    ((_, result),) = record.run_all(chosen(["wen2024/digit-autoencoder"]), setup, "convscope papers NAME")
    assert result["settings"]["images"] == "16 images of the digit 0, 7x7"
    counts = [row for row in result["rows"] if "(paper, digit 0 of MNIST)" in row["paper"]]
    assert [row["paper"][0] for row in counts] == ["3", "4", "1"]
    assert [row["expected"] for row in counts] == [[2.5, 3.5], [3.5, 4.5], [0.5, 1.5]]
    assert all(row["printed"] and row["verdict"] in {"reproduced", "not reproduced"} for row in counts)
    # Trained once: a second run reads the file, and finds the same.
    wen2024_networks._memory.clear()
    (kept,) = (tmp_path / "cache").glob("*.safetensors")
    before = kept.stat().st_mtime_ns
    ((_, again),) = record.run_all(chosen(["wen2024/digit-autoencoder"]), setup, "convscope papers NAME")
    assert again["rows"] == result["rows"]
    assert kept.stat().st_mtime_ns == before


def test_recipes_differ_by_their_seed_alone():
    found = runs.seeded(tasks.PRODUCT, runs.Size(0.5, 3, 10, 7, 64))
    assert [recipe.seed for recipe in found] == [0, 1, 2]
    assert {recipe.steps for recipe in found} == {1250}
    assert len({wen2024_networks.begin(tasks.mean(2), recipe)(torch.ones(1, 1, 8, 8)).sum() for recipe in found}) == 3


def test_inner_layers_on_as_few_pixels_as_they_need():
    images = 1 + torch.rand(12, 1, 8, 8, generator=torch.Generator().manual_seed(0)).double()
    for frequency, side in (((0, 0), 1), ((1, 0), 3), ((0, 2), 5), ((4, 4), 8)):
        network = projection(frequency).double()
        trained = wen2024_networks.Trained(tasks.MEAN, network, None, None)
        run = runs.Run(tasks.Task("", images, images), trained, measure(network, images))
        assert sampling.inner(run) == ["2", "4"]
        assert sampling.smallest_side(run) == side
        if side < 8:
            enough = sampling.on_fewer_pixels(run, (side, side))
            assert max(enough.median, enough.error) < 1e-6
            assert enough.same == 1
            assert enough.growth == pytest.approx(64 / side**2)
        if side > 1:
            too_few = sampling.on_fewer_pixels(run, (side - 1, side - 1))
            assert min(too_few.median, too_few.error) > 1e-3
            assert too_few.same < 0.5


def test_blocks_whose_gates_never_change_are_linear_maps():
    torch.manual_seed(0)
    module = CifarResNet(2, width=4).eval()
    blocks = parts.identity_blocks(module)
    assert blocks == {
        "layer1.0": "bn1", "layer1.1": "layer1.0", "layer2.1": "layer2.0", "layer3.1": "layer3.0"
    }  # fmt: skip
    for name, layer in module.named_modules():
        if isinstance(layer, nn.Conv2d) and name != "conv1":  # no map is read beyond its border
            layer.weight.data *= 5 * torch.eye(3)[1][:, None] * torch.eye(3)[1]
        elif isinstance(layer, nn.BatchNorm2d):
            layer.bias.data += 100
    network, images = Network("open", module), torch.rand(40, 3, 16, 16)
    layers = parts.convolutions(network, images[:1])
    for block, before in blocks.items():
        found = parts.of_block(network, layers, block, before, images[:20], images[20:])
        assert found.explained["gates at their mean rates"] == pytest.approx(1, abs=1e-4)
        assert found.explained["identity alone"] < 0.99
        assert 0 <= found.near["branch alone"] <= found.near["gates at their mean rates"] <= 1
    # The head only sees the mean over positions.
    pairs = activation_pairs(whole_spectrum(network, "layer3.1.conv2", images[:20]))
    pairs = pairs[(pairs.frequencies == 0).all(1)][:2]
    latents = latents_of(network, "layer3.1.conv2", images[20:], pairs)
    for correlation, ratio in parts.answers(network, "layer3.1.conv2", images[20:], latents):
        assert (correlation, ratio) == pytest.approx((1, 1), abs=1e-3)


def test_a_kernel_trace_is_that_of_the_jacobian():
    images = 1 + torch.rand(5, 1, 4, 4, generator=torch.Generator().manual_seed(0)).double()
    network = projection((1, 0), depth=3, side=4).double()
    split = measure(network, images).kernel(images[0])
    for (total, kept), conv in zip(split, network[::2], strict=True):
        outputs = network(images[:1]).flatten()
        lines = [torch.autograd.grad(value, conv.weight, retain_graph=True)[0] for value in outputs]
        assert total == pytest.approx(float(torch.stack(lines).square().sum()))
        assert kept == pytest.approx(total)  # no gradient passes at any other frequency


def test_networks_of_all_learning_rates_train_for_the_same_time():
    size = stability.Size(3, 2, 6, 0.5, 2)
    for rate in stability.RATES.values():
        found = stability.recipes(size, rate)
        assert [recipe.seed for recipe in found] == [0, 1]
        assert all(recipe.rate * recipe.steps == pytest.approx(0.5, rel=0.01) for recipe in found)


def learned(network, task):
    recipe = tasks.Plain(depth=4, width=1, steps=1, penalty=0.3, rate=1e-4)
    reached = wen2024_networks.MinimumNorm(0.0, 0.0, 0.3, 1.0, 1, 1.0, True)
    trained = wen2024_networks.Trained(recipe, network, reached, None)
    return runs.Run(task, trained, measure(network, task.images))


def test_narrow_networks_are_told_from_wide_ones(monkeypatch):
    """The claim on large steps holds for a network of projections, and fails for one that keeps everything."""
    task = tasks.low_pass(40)
    planted, null = projection((1, 0)), wen2024_networks.begin(task, tasks.MEAN).ordinary()
    monkeypatch.setattr(stability, "_NEAR", (2.5, 3.5))  # what this projection keeps
    before = [measure(null, task.images)]
    for network, verdict in ((planted, "claim holds"), (null, "claim fails")):
        judged = stability._rows("large", stability.RATES["large"], [learned(network, task)], before)
        assert [row.verdict for row in judged[:2]] == [verdict] * 2
        others = stability._rows("small", stability.RATES["small"], [learned(network, task)], before)
        assert not any(row.verdict for row in others)
    left = stability._rows("large", 1.0, [learned(planted, task)], before)[2]
    assert left.ours.value < 1e-6 < 0.9 < left.baselines["outside as many random directions"]


def test_reasons_are_given_where_they_were_measured():
    task = tasks.low_pass(40)
    cheap = learned(projection((1, 0)), task)
    assert "3.00 would be enough" in known._shrunk([cheap], 3.0, 5).replace(" 3 would", " 3.00 would")
    assert known._shrunk([cheap], 3.0, 3) == ""
    assert digits_of_paper._faint([]) == ""
    assert "1 of the networks" in digits_of_paper._faint([(cheap.measured, [0, 1])])
    lost = Cost(Number(0.0), Number(0.3, 0.02))
    other = {17: SimpleNamespace(rest=Cost(Number(0.0), Number(0.006, 0.005)))}
    assert "does not need this layer" in parts._unneeded(0.002, lost.accuracy, other)
    assert parts._unneeded(0.5, lost.accuracy, other) == "so few pairs are not enough: 17 lose 0.006"
    assert parts._unneeded(0.5, lost.accuracy, {}) == ""


@pytest.mark.parametrize(("side", "size"), [(3, 8), (3, 16), (5, 16)])
def test_no_kernel_has_its_energy_on_fewer_frequencies(side, size):
    def spread(weight):
        gains = torch.fft.fft2(weight, (size, size)).abs().square()
        return float(gains.sum() / gains.max())

    box = torch.full((side, side), side**-2.0).double()
    assert spread(box) == pytest.approx(size**2 / side**2)
    random = torch.randn(50, side, side, generator=torch.Generator().manual_seed(0)).double()
    assert min(spread(weight) for weight in random) > size**2 / side**2
    gains = torch.fft.fft2(box, (size, size)).abs().flatten().sort(descending=True).values
    fits = gains.cumsum(0).square() / torch.arange(1, size**2 + 1)
    found = published.narrowest_kernel(side, (size, size))
    assert (found.rank, found.align) == (
        int(fits.argmax()) + 1,
        pytest.approx(float(fits.max() / gains.square().sum())),
    )


def test_random_channels_lose_what_chosen_ones_keep():
    torch.manual_seed(0)
    conv = nn.Conv2d(3, 32, 3)
    conv.weight.data[2:] = torch.einsum("ij,jcqr->icqr", torch.randn(30, 2), conv.weight.data[:2])
    network, images = Network("planted", nn.Sequential(conv)), torch.randn(64, 3, 8, 8)
    found = compress(network, images, tolerance=1e-6)
    assert found.loss.value < 1e-6
    assert 0.5 < published.at_random(network, found.layers, images, None) < 1.1
    assert published.at_random(network, {}, images, None) is None


NAMES = (
    *("known-rank", "digit-autoencoder", "shape-and-pattern", "moving-bump", "classifier", "depth", "learning-rate"),
    *("controls", "down-sampling", "pretrained", "interpretation", "compression"),
)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_every_experiment_runs_and_survives_its_file(name, tiny, tmp_path):
    setup = Setup("smoke", {}, tmp_path / "cache", progress=False)
    ((experiment, result),) = record.run_all(chosen([f"wen2024/{name}"]), setup, "convscope papers NAME")
    assert result["status"] == record.DONE
    assert set(experiment.costs) == set(SCALES)
    assert any(line["expected"] for line in result["rows"])
    assert any(line["baselines"] or line["ours"]["chance"] for line in result["rows"])
    path = tmp_path / "results.json"
    record.add(path, experiment.key, result)
    (read,) = record.read(path).values()
    page = table.of_paper(experiment.paper, {experiment.key: read})
    assert "only the three counts of the digit autoencoder are the paper's" in page
    for line in read["rows"]:
        assert line["quantity"].replace("|", "\\|") in page
        assert json.loads(json.dumps(Row.from_json(line).to_json(), allow_nan=False)) == line


@pytest.mark.slow
def test_a_projection_is_learned_with_its_rank_and_cost(tmp_path):
    """The cheapest of the tasks at full effort: 5 numbers in each of 3 layers, at a cost of 5 to 5.7."""
    task = tasks.low_pass(128)
    plan = {"low-pass": (task, runs.seeded(tasks.LOW_PASS[3], runs.Size(1.0, 1, 128, 7, 64)))}
    (run,) = runs.runs(Setup("cpu", {}, None, progress=False), plan)["low-pass"]
    assert [run.measured.degrees(i) for i in range(3)] == [{0: 1, 1: 4}] * 3
    assert 5 < run.measured.per_layer < 5.7
    assert 1 <= run.measured.over_bound < 1.3
    assert run.measured.cost.converged


@pytest.mark.slow
def test_a_classifier_can_be_had(tiny, tmp_path):
    setup = Setup("smoke", {}, tmp_path, progress=False)
    task, trained = classifier(setup, seed=1)
    assert trained.recipe.seed == 1
    assert trained.network(task.images[:3]).shape == (3, 10)
    assert 0 <= trained.scores.test_accuracy <= 1
    wen2024_networks._memory.clear()
    again = classifier(setup, seed=1)[1]
    assert torch.equal(again.network[0].weight, trained.network[0].weight)
    assert again.run == trained.run
