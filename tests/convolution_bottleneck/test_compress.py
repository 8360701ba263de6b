"""Compression end to end: exact low rank, random networks, intervals, refusals and skips."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import zoo
from bottleneck_compressed import low_pass_network, low_rank_conv, low_rank_network
from torch import nn

from convscope.bottleneck.compress import compress, network_cost
from convscope.bottleneck.factored import FrequencyForm, folded_bias, with_layers
from convscope.bottleneck.loss import accuracy_drop, output_error
from convscope.bottleneck.operators import ConvOperator
from convscope.bottleneck.rank import cbn_rank
from convscope.core.errors import ConvscopeError
from convscope.core.network import Network
from convscope.inputs.images import open_images
from convscope.inputs.networks import open_network
from convscope.papers.registry import Setup
from convscope.papers.wen2024_networks import trained
from convscope.papers.wen2024_tasks import CLASSES, classes

DATA = Path(__file__).parents[3] / "shared" / "data"


def saved_state(module):
    return {key: t.clone() for key, t in module.state_dict().items()}


def test_exact_low_rank_is_found_and_costs_nothing():
    module, x = low_rank_network(), torch.randn(200, 3, 12, 12)
    labels = module(x).argmax(1)
    module.train()  # modes are the user's
    before = saved_state(module)
    found = compress(Network("net", module), x, labels=None, tolerance=1e-5)
    assert found.refusal == ""
    assert {name: (c.option.form, c.kept, c.option.of) for name, c in found.layers.items()} == {
        "0": ("channel", 2, 16),
        "3": ("channel", 3, 12),
    }
    assert found.loss.value < 1e-9
    assert found.loss.images == 100
    # Numbers by hand: two channels in, and a bias that the second had not.
    assert found.before.numbers - found.after.numbers == (448 - (2 * 43 + 16)) + (1728 - (3 * 156 + 12))
    assert found.after.numbers == sum(t.numel() for t in found.network.module.state_dict().values())
    assert network_cost(found.network, x[:1]) == found.after
    # The network is as it was, and so is its mode.
    assert module.training
    assert all(torch.equal(before[key], t) for key, t in module.state_dict().items())
    assert found.network.module.training
    # With labels: no answer changes, but 100 images cannot show less than 2.7 points, and 50 as little as that twice.
    with_labels = compress(Network("net", module), x, labels, tolerance=0.11)
    assert with_labels.refusal == ""
    assert with_labels.accuracy[0] == 1
    assert 0.027 < with_labels.loss.high <= 0.11
    assert "convolutions replaced (" in with_labels.sentences()[0]


def test_few_images_cannot_show_a_small_loss():
    module, x = low_rank_network(), torch.randn(200, 3, 12, 12)
    found = compress(Network("net", module), x, module(x).argmax(1), tolerance=0.01)
    assert "the tolerance is 0.01" in found.refusal
    assert found.loss.high > 0.02
    assert found.sentences()[-1].startswith("Refused: ")
    with pytest.raises(ConvscopeError, match="nothing to save"):
        found.save("never.safetensors")


def test_a_random_network_is_refused():
    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1), nn.Flatten(), nn.Linear(1024, 4)
    )
    found = compress(Network("net", module), torch.randn(200, 3, 8, 8), tolerance=1e-3)
    assert found.refusal
    assert found.loss is None or found.loss.high > 1e-3


def test_the_frequency_form_where_a_convolution_is_circular():
    module, x = low_pass_network(), torch.rand(300, 1, 8, 8)
    found = compress(Network("net", module), x, tolerance=1e-3)
    assert found.refusal == ""
    assert [c.option.form for c in found.layers.values()] == ["frequency"] * 3
    assert found.layers["2"].kept <= 10
    assert found.after.numbers < 0.2 * found.before.numbers
    assert found.after.multiply_adds < 0.5 * found.before.multiply_adds
    assert found.loss.high <= 1e-3
    error = output_error(module(x).detach().flatten(1), found.network.module(x).detach().flatten(1))
    assert error.value < 1e-3
    # The map says what the factors hold: kept frequencies are those that the filters keep.
    low = found.network.module[2].frequencies
    assert low.abs().sum(1).max() <= 1


def test_halves_follow_identities_and_not_order():
    module, x = low_rank_network(), torch.randn(60, 3, 12, 12)
    index = torch.arange(60) * 3 + 1
    first = compress(Network("net", module), x, index=index, tolerance=1e-4)
    order = torch.randperm(60, generator=torch.Generator().manual_seed(0))
    second = compress(Network("net", module), x[order], index=index[order], tolerance=1e-4)
    assert first.layers.keys() == second.layers.keys()
    assert second.loss.value == pytest.approx(first.loss.value, rel=1e-3, abs=1e-10)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.slow] if name == "exported" else [])
        for name in zoo.ZOO
        if name != "compiled"
    ],
)
def test_awkward_networks(name):
    module, x = zoo.build(name), torch.randn(24, 3, 12, 12)
    before = saved_state(module)
    found = compress(Network(name, module), x, tolerance=0.5)
    reasons = {skip.what: skip.reason for skip in found.skipped}
    wanted = {
        "residual": {"conv2": "2 groups"},
        "functional": {"kernel": "not those of an nn.Conv2d"},
        "standardised": {"0": "not those of an nn.Conv2d"},
        "parametrised": {"0": "not those of an nn.Conv2d"},
        "shared": {"block": "several places"},
        "frozen": {"conv2": "2 groups"},
        "exported": {"0": "not those of an nn.Conv2d", "2": "not those of an nn.Conv2d"},
        "auxiliary": {"body.conv2": "2 groups"},
    }.get(name, {})
    assert reasons.keys() == wanted.keys()
    assert all(words in reasons[what] for what, words in wanted.items())
    assert all(torch.equal(before[key], t) for key, t in module.state_dict().items())


@pytest.mark.slow  # importing the compiler takes seconds
def test_a_compiled_network_is_unwrapped():
    module = low_rank_network()
    found = compress(Network("net", torch.compile(module)), torch.randn(40, 3, 12, 12), tolerance=1e-4)
    assert found.refusal == ""
    assert type(found.network.module) is nn.Sequential


def test_layers_that_cannot_be_replaced_are_named():
    class Reads(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Conv2d(1, 8, 3)
            self.b = nn.Conv2d(8, 8, 3, padding=1)
            self.c = nn.Conv2d(8, 8, 3, padding=1)
            self.c.weight = self.b.weight
            self.d = nn.Conv2d(8, 8, 3)
            self.d.register_forward_hook(lambda *_: None)
            self.e = nn.Conv2d(8, 8, 1)

        def forward(self, x):
            x = F.conv2d(x, self.a.weight, self.a.bias)
            return self.e(self.d(self.c(self.b(x)))).mean((2, 3))

    module = Reads()
    found = compress(Network("net", module), torch.randn(40, 1, 9, 9), tolerance=0.1)
    reasons = {skip.what: skip.reason for skip in found.skipped}
    assert "without calling it" in reasons["a"]
    assert "several places" in reasons["b"]
    assert "hooks" in reasons["d"]
    assert set(found.layers) <= {"e"}


def test_a_network_that_is_one_convolution_has_no_place_for_another():
    found = compress(Network("conv", low_rank_conv(3, 16, 2)), torch.randn(40, 3, 8, 8), tolerance=1e-4)
    assert "no convolution can be replaced" in found.refusal
    assert [skip.what for skip in found.skipped] == ["weight"]


def test_dead_layers_and_maps_of_one_pixel():
    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 5), nn.ReLU(), nn.Conv2d(8, 8, 1), nn.Flatten()
    )
    module[0].weight.data.zero_()
    module[0].bias.data.fill_(-1)  # dead: every output of the network is the same
    x = torch.randn(40, 3, 5, 5)
    with pytest.raises(ConvscopeError, match="same output for all images"):
        compress(Network("net", module), x)

    class Around(nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner = inner

        def forward(self, x):
            return self.inner(x) + x.mean((2, 3)) @ torch.ones(3, 8)

    found = compress(Network("net", Around(module)), x, tolerance=1e-6)
    assert found.refusal == ""
    assert {c.kept for c in found.layers.values()} == {1}  # all of it constant
    assert found.loss.value < 1e-9


def test_bad_input():
    module, x = low_rank_network(), torch.randn(30, 3, 12, 12)
    net = Network("net", module)
    with pytest.raises(ConvscopeError, match="2 images are too few"):
        compress(net, x[:2])
    with pytest.raises(ValueError, match="positive"):
        compress(net, x, tolerance=0)
    with pytest.raises(ValueError, match="for each of 30 images"):
        compress(net, x, torch.zeros(29, dtype=torch.int64))
    with pytest.raises(ConvscopeError, match="5 outputs"):
        compress(net, x, torch.full((30,), 7))
    with pytest.raises(ConvscopeError, match="fails on images"):
        compress(net, torch.randn(30, 4, 12, 12))
    labels = torch.zeros(30, dtype=torch.int64)
    labels[:10] = -1
    found = compress(net, x, labels, tolerance=0.3)
    assert "images without a label were left out" in found.notes
    assert found.loss.images == 10
    module[3].weight.data[0] = math.nan
    with pytest.raises(ConvscopeError, match="NaN or infinite outputs"):
        compress(net, x)


def test_a_damaged_layer_that_the_output_does_not_see_is_skipped():
    class Unused(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = low_rank_conv(3, 16, 2), nn.Conv2d(3, 4, 3)
            self.b.weight.data.fill_(math.nan)

        def forward(self, x):
            self.b(x)
            return self.a(x)

    torch.manual_seed(0)
    found = compress(Network("net", Unused()), torch.randn(40, 3, 9, 9), tolerance=1e-4)
    assert [(s.what, "NaN or infinite weights" in s.reason) for s in found.skipped] == [("b", True)]
    assert set(found.layers) == {"a"}


def test_a_network_without_gradients_counts_each_layers_own_variance():
    class Detached(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = low_rank_network()

        def forward(self, x):
            with torch.no_grad():
                return self.inner(x)

    found = compress(Network("net", Detached()), torch.randn(60, 3, 12, 12), tolerance=1e-4)
    assert found.refusal == ""
    assert any("gives no gradients" in note for note in found.notes)
    assert [c.kept for c in found.layers.values()] == [2, 3]


def test_the_interval_of_a_paired_drop_covers_as_it_says():
    random = np.random.default_rng(0)
    n, p, q, draws = 300, 0.04, 0.015, 2000
    kinds = random.choice(4, (draws, n), p=[p, q, 0.8, 1 - 0.8 - p - q])
    covered = 0
    for kind in torch.from_numpy(kinds):
        loss = accuracy_drop((kind == 0) | (kind == 2), (kind == 1) | (kind == 2))
        covered += loss.low <= p - q <= loss.high
    assert 0.935 < covered / draws < 0.975


def test_the_interval_of_the_output_error_covers_as_it_says():
    torch.manual_seed(0)
    covered, draws = 0, 400
    for _ in range(draws):
        f = torch.randn(200, 3)
        loss = output_error(f, f + 0.1 * torch.randn(200, 3) * (1 + f.abs()))
        # E (1 + |f|)^2 = 2 + 2 sqrt(2 / pi)
        covered += loss.low <= 0.01 * (2 + 2 * math.sqrt(2 / math.pi)) <= loss.high
    assert 0.91 < covered / draws < 0.985
    with pytest.raises(ConvscopeError, match="at least two images"):
        output_error(torch.zeros(1, 2), torch.zeros(1, 2))
    with pytest.raises(ConvscopeError, match="at least one image"):
        accuracy_drop(torch.zeros(0, dtype=torch.bool), torch.zeros(0, dtype=torch.bool))


def by_weights(module, images, share, seed=None):
    """Keeps the pairs of each T(w) above a share of the layer's level, or as many drawn at random; data-free but means.

    Returns the network and the share of the convolutions' numbers that it stores.
    """
    layers, stored, dense = {}, 0, 0
    x = images
    for name, part in module.named_children():
        y = part(x)
        if isinstance(part, nn.Conv2d):
            operator = ConvOperator.of(part, images.shape[2:])
            frequencies, multiplicity = operator.half_plane
            found = torch.linalg.svd(operator.blocks(frequencies)[:, 0], full_matrices=False)
            level = cbn_rank(found.S, multiplicity, part.weight.shape).level
            kept = share * level < found.S
            if seed is not None:
                order = torch.randperm(kept.numel(), generator=torch.Generator().manual_seed(seed))
                kept = kept.flatten()[order].view(kept.shape)
            at, direction = torch.nonzero(kept).unbind(1)
            left, right = found.U[at, :, direction], found.S[at, direction, None] * found.Vh[at, direction]
            zero = left[(frequencies[at] == 0).all(1)].real.T
            bias = folded_bias(part, zero.T, zero, y.detach().double().mean((0, 2, 3)))
            layers[name] = FrequencyForm.of(part, images.shape[2:], frequencies[at], left, right, bias)
            stored += sum(t.numel() for t in layers[name].state_dict().values())
            dense += sum(t.numel() for t in part.parameters())
        x = y
    return with_layers(module, layers), stored / dense


@pytest.mark.slow
def test_a_trained_circular_classifier():
    """Keeping what lies above a quarter of the level costs at most 2 points; as many random pairs leave chance."""
    task = classes()
    module = trained(Setup(progress=False), [(task, CLASSES)])[0].network
    x, labels = task.test

    def accuracy(network):
        return float((network(x).argmax(1) == labels).double().mean())

    whole = accuracy(module)
    assert whole > 0.94
    small, share = by_weights(module, task.images, 0.25)
    assert share < 0.12
    assert accuracy(small) >= whole - 0.02
    for seed in range(3):
        shuffled, _ = by_weights(module, task.images, 0.25, seed)
        assert accuracy(shuffled) < 0.25
    # Chosen on labelled images, by what the output depends on: smaller at a like loss.
    everything = torch.cat([task.images, x]), torch.cat([task.targets, labels])
    found = compress(Network("digits", module), *everything, tolerance=0.02)
    assert found.refusal == ""
    assert all(choice.option.form == "frequency" for choice in found.layers.values())
    assert found.after.numbers < 0.08 * found.before.numbers
    assert accuracy(found.network.module) >= whole - 0.02


@pytest.mark.slow
@pytest.mark.skipif(not (DATA / "weights").is_dir(), reason="needs the weights and CIFAR-10 in ../shared/data")
def test_a_published_residual_network():
    file = DATA / "weights" / "resnet20_cifar10.safetensors"
    _, batch = next(open_images(str(DATA / "cifar10_test.npz"), limit=1500).batches(1500))
    network = open_network(f"convscope.training.networks:resnet20@{file}").bound(batch.images[:64]).network
    found = compress(network, batch.images, index=batch.index, tolerance=0.01)
    assert found.refusal == ""
    assert found.after.numbers < 0.9 * found.before.numbers
    assert {choice.option.form for choice in found.layers.values()} == {"channel"}
    refused = compress(network, batch.images[:400], batch.labels[:400], index=batch.index[:400])
    assert refused.refusal
