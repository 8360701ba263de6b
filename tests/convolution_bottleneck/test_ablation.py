from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from bottleneck_networks import KEPT, SIZE, bumps, frequencies, low_pass, quarters
from oracles import bottleneck_patterns as oracle
from torch import nn

from convscope.bottleneck.ablation import ablate
from convscope.bottleneck.collect import SpectrumSums
from convscope.bottleneck.interventions import module_outputs
from convscope.bottleneck.latents import latents_of
from convscope.bottleneck.operators import ConvOperator
from convscope.bottleneck.pairs import activation_pairs, weight_pairs
from convscope.bottleneck.patterns import forward_patterns
from convscope.core.batches import Batch
from convscope.core.errors import ConvscopeError
from convscope.core.network import Network, following_norm
from convscope.inputs.networks import open_network
from convscope.papers.data import cifar10

DATA = Path(__file__).parents[3] / "shared" / "data"
WEIGHTS = DATA / "weights" / "resnet20_cifar10.safetensors"

WHERE = frequencies()[0].tolist()
PAIRS = weight_pairs(ConvOperator.of(low_pass().module[0], SIZE), torch.tensor([int(tuple(w) in KEPT) for w in WHERE]))


def place_of(w):
    return PAIRS.frequencies.tolist().index(list(w))


def test_only_the_pair_that_tells_the_class_matters():
    network = quarters()
    images, _ = bumps(200)
    labels = network.module(images).argmax(1)
    latents = latents_of(network, "0", images, PAIRS)
    found = ablate(network, "0", images, latents, labels)
    assert found.base_accuracy == 1
    tells, other, still = (found.each[place_of(w)] for w in ((0, 1), (1, 0), (0, 0)))
    assert tells.accuracy.value == pytest.approx(0.75, abs=0.1)
    assert tells.accuracy.decided
    assert tells.loss.value > 0.1
    assert 0 < tells.loss.spread < 0.05
    assert (other.accuracy.value, other.loss.value) == (0, pytest.approx(0, abs=1e-10))
    assert (still.accuracy.value, still.loss.value) == (0, pytest.approx(0, abs=1e-10))
    # Nothing else is in the maps, so that dropping the rest changes nothing; random pairs in their place do.
    assert found.rest.loss.value == pytest.approx(0, abs=1e-10)
    assert found.rest.loss.chance[1] > 0.1
    assert found.everything.accuracy.value == pytest.approx(tells.accuracy.value)


def test_losses_are_those_of_a_network_whose_maps_are_replaced_by_hand():
    torch.manual_seed(0)
    layers = [nn.Conv2d(2, 3, 3, padding=1), nn.ReLU(inplace=True), nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(64, 5)]
    module = nn.Sequential(*layers).double()
    images, labels = torch.randn(30, 2, 6, 6).double(), torch.randint(5, (30,))
    operator = ConvOperator.of(layers[0], 6)
    pairs = weight_pairs(operator, torch.ones(len(operator.half_plane[1]), dtype=torch.int64))
    network = Network("two", module)
    latents = latents_of(network, "0", images, pairs)
    found = ablate(network, "0", images, latents, labels, first=4, draws=2)
    free = ablate(network, "0", images, latents, first=4, draws=2)
    maps = layers[0](images).detach()

    def rest_of(changed):
        x = changed
        for layer in layers[1:]:
            x = layer(x.clone())
        return x.detach()

    base = rest_of(maps)
    assert found.base_loss == pytest.approx(float(F.cross_entropy(base, labels)))
    for j in range(4):
        direction = pairs.directions[j].numpy()
        changed = torch.from_numpy(oracle.without(maps, pairs.frequencies[j].tolist(), direction, [1, 1, 1]))
        after = rest_of(changed)
        rise = F.cross_entropy(after, labels, reduction="none") - F.cross_entropy(base, labels, reduction="none")
        assert found.each[j].loss.value == pytest.approx(float(rise.mean()), abs=1e-10)
        assert found.each[j].loss.spread == pytest.approx(float(rise.std()) / 30**0.5)
        falls = (base.argmax(1) == labels).double() - (after.argmax(1) == labels).double()
        assert found.each[j].accuracy.value == pytest.approx(float(falls.mean()), abs=1e-12)
        moved, size = (after - base).square().sum(1), (base - base.mean(0)).square().sum(1)
        assert free.each[j].loss.value == pytest.approx(float(moved.mean() / size.mean()))
        # The error of a ratio, beside its jackknife over images.
        without = torch.stack([
            moved[torch.arange(30) != i].sum() / size[torch.arange(30) != i].sum() for i in range(30)
        ])
        jackknife = float(((without - without.mean()).square().sum() * 29 / 30).sqrt())
        assert free.each[j].loss.spread == pytest.approx(jackknife, rel=0.1)
        assert free.each[j].accuracy is None
    assert free.everything.loss.value == pytest.approx(
        float((rest_of(maps.mean(0).expand_as(maps)) - base).square().sum() / (base - base.mean(0)).square().sum())
    )
    assert torch.isnan(torch.tensor(free.base_loss))


def test_scales_of_a_folded_norm_change_which_directions_but_not_what_all_of_them_hold():
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(1, 3, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(48, 2)).double()
    images = torch.randn(20, 1, 4, 4).double()
    scale = torch.tensor([2.0, -0.5, 0.0], dtype=torch.float64)
    operator = ConvOperator.of(module[0], 4)
    profile = torch.ones(len(operator.half_plane[1]), dtype=torch.int64)
    pairs = weight_pairs(operator, profile, scale)
    network = Network("scaled", module)
    latents = latents_of(network, "0", images, pairs)
    maps = module[0](images).detach()
    expected = pairs.directions.conj() @ torch.diag(scale).to(pairs.directions.dtype)
    spectrum = torch.fft.fft2(maps, norm="ortho").flatten(2)[:, :, pairs.places]
    torch.testing.assert_close(latents.values, torch.einsum("nkm,mk->nm", spectrum, expected))
    # A channel that nothing sees holds nothing, and is not moved.
    assert pairs.directions[:, 2].abs().max() < 1e-7
    assert pairs.maps(latents.values)[:, 2].abs().max() == 0
    assert float(latents.share.sum()) <= 1 + 1e-9


def test_what_cannot_be_ablated_says_so():
    network = quarters()
    images, _ = bumps(10)
    labels = network.module(images).argmax(1)
    latents = latents_of(network, "0", images, PAIRS)
    with pytest.raises(ValueError, match="at least 2"):
        ablate(network, "0", images, latents, labels, draws=1)
    with pytest.raises(ValueError, match="10 latents for 9 images"):
        ablate(network, "0", images[:9], latents, labels)
    with pytest.raises(ConvscopeError, match="no class scores"):
        ablate(network, "0", images, latents, labels + 4)
    with pytest.raises(ConvscopeError, match="no class scores"):
        ablate(low_pass(), "0", images, latents, labels)
    still = images[:1].expand(10, -1, -1, -1)
    latents = latents_of(network, "0", still, PAIRS)
    with pytest.raises(ConvscopeError, match="nothing to lose"):
        ablate(network, "0", still, latents)


@pytest.mark.slow
@pytest.mark.skipif(not WEIGHTS.exists(), reason="needs ResNet-20's weights and CIFAR-10 in ../shared/data")
def test_a_few_pairs_of_resnet20s_last_convolution_are_enough():
    network = open_network(f"convscope.training.networks:resnet20@{WEIGHTS}").network
    data = cifar10(DATA, 1000, "test")
    seen, rest = data.pixels[:600], data.pixels[600:]
    layer = "layer3.2.conv2"
    sums = SpectrumSums()
    for rows, maps in module_outputs(network, layer, seen):
        sums.update(maps, Batch.of(seen[rows], None, torch.arange(rows.start, rows.stop)))
    norm = following_norm(network.module, layer)
    scale = norm[0] / (norm[1] + norm[2]).sqrt()
    pairs = activation_pairs(sums.compute(), share=0.5, scale=scale)
    assert pairs.rank < 40  # of 4,096
    latents = latents_of(network, layer, rest, pairs)
    assert float(latents.share.sum()) == pytest.approx(0.5, abs=0.05)
    found = ablate(network, layer, rest, latents, data.labels[600:], first=2, draws=3)
    assert found.base_accuracy > 0.88
    assert found.rest.accuracy.value < 0.02
    assert found.rest.accuracy.chance[0] > 0.05
    assert found.everything.accuracy.value > 0.1
    patterns = forward_patterns(latents_of(network, layer, rest, pairs[:4]), rest)
    assert patterns.share[0].decided
    assert patterns.agreement[0].decided
