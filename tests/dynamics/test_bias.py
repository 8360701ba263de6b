import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import filtered as oracle
from torch import nn

from convscope.core.errors import ConvscopeError
from convscope.core.fourier import pairs, partners
from convscope.core.network import Network
from convscope.dynamics.bias import dominant_frequency_bias
from convscope.dynamics.classwise import class_rates, dominant_frequency_maps
from convscope.dynamics.collect import dataset_structure
from convscope.dynamics.filters import f_ratio, filtered, first, mask_of, random_ranking, rankings

SIDE = 8
WAVES = [(1, 0), (0, 2), (2, 1)]  # (ky, kx) that the network reads, one a class


def wave(ky, kx, h=SIDE, w=SIDE, phase=0.3):
    y, x = torch.meshgrid(torch.arange(h).double(), torch.arange(w).double(), indexing="ij")
    return torch.cos(2 * math.pi * (ky * y / h + kx * x / w) + phase)


def data(n=90, strength=0.5, seed=0):
    """Noise around 1/2, with the wave of its class in each image; one much stronger wave tells nothing."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % 3
    images = 0.5 + 0.02 * torch.randn(n, 1, SIDE, SIDE, generator=generator, dtype=torch.float64)
    images += strength * torch.stack([wave(*k) for k in WAVES])[labels][:, None]
    images += 5 * torch.randn(n, 1, 1, 1, generator=generator, dtype=torch.float64) * wave(3, 3)
    return images.float(), labels


def reader(channels=1):
    """A network that gives each class the strength of its wave."""
    linear = nn.Linear(channels * SIDE * SIDE, 3, bias=False)
    with torch.no_grad():
        linear.weight.copy_(torch.stack([wave(*k) for k in WAVES]).flatten(1).repeat(1, channels))
    return Network("reader", nn.Sequential(nn.BatchNorm2d(channels), nn.Flatten(), nn.Dropout(0.9), linear))


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_filter_is_a_sum_of_waves(given):
    draw = given.draw
    c, h, w = (draw(st.integers(*ends)) for ends in ((1, 3), (1, 6), (1, 7)))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 99)))
    images = torch.rand(3, c, h, w, generator=generator, dtype=torch.float64)
    mean = torch.rand(c, h, w, generator=generator, dtype=torch.float64)
    places = draw(st.lists(st.integers(0, h * w - 1), unique=True))
    mask = mask_of(torch.tensor(places, dtype=torch.int64), h, w)
    expected = oracle.filtered(images.numpy(), [divmod(place, w) for place in places], mean.numpy())
    np.testing.assert_allclose(filtered(images, mask, mean), expected, atol=1e-12)
    parts = filtered(images, mask, mean) + filtered(images, ~mask, mean)
    torch.testing.assert_close(parts, images + mean, atol=1e-12, rtol=0)


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_f_ratio_is_that_of_loops_over_images(given):
    draw = given.draw
    c, h, w, outputs = (draw(st.integers(*ends)) for ends in ((1, 3), (1, 5), (2, 5), (2, 4)))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 99)))
    labels = torch.cat([torch.arange(outputs), torch.randint(outputs, (20,), generator=generator)])
    images = 3 + torch.randn(len(labels), c, h, w, generator=generator, dtype=torch.float64)
    labels = torch.where(labels == 1, 5, labels)  # classes without images between
    structure = dataset_structure([(images, labels)], center=draw(st.booleans()))
    np.testing.assert_allclose(f_ratio(structure), oracle.f_ratio(images, labels), rtol=1e-8)


def test_f_ratio_where_nothing_varies():
    constant, flat = torch.tensor([1.0, 2.0, 1.0, 2.0]).view(4, 1, 1, 1).expand(4, 1, 4, 4), torch.arange(4) % 2
    ratio = f_ratio(dataset_structure([(constant, flat)]))
    assert ratio[0, 0] == math.inf
    assert not ratio.flatten()[1:].any()


def test_rankings_put_first_what_they_say():
    images, labels = data()
    found = rankings(dataset_structure([(images, labels)]))
    places = {SIDE * ky + kx for ky, kx in WAVES}
    assert set(found["f-ratio"][:3].tolist()) == places
    assert set(found["strength"][:4].tolist()) >= places
    assert found["power"][0] == 3 * SIDE + 3
    for order in (*found.values(), random_ranking(SIDE, SIDE, 0, 0)):
        assert sorted(order.tolist()) == sorted(pairs(SIDE, SIDE)[0].tolist())


@pytest.mark.parametrize(("h", "w"), [(4, 4), (5, 3), (1, 6)])
def test_first_frequencies_are_whole_pairs(h, w):
    order = random_ranking(h, w, 1, 0)
    for count in range(1, h * w + 1):
        mask = first(order, count, h, w).flatten()
        assert torch.equal(mask, mask[partners(h, w)])
        assert max(count - 1, 1) <= int(mask.sum()) <= max(count, 2)


def test_random_rankings_differ_by_draw_and_not_by_call():
    again = [random_ranking(6, 6, 3, draw) for draw in (0, 1, 0)]
    assert torch.equal(again[0], again[2])
    assert not torch.equal(again[0], again[1])


def test_network_that_reads_three_waves_needs_these_alone():
    images, labels = data()
    bias = dominant_frequency_bias(reader(), images, labels, dataset_structure([(images, labels)]), counts=[6, 8])
    assert bias.clean.value == 1
    assert [n.value for n in bias.kept["f-ratio"]] == [1, 1]
    assert bias.removed["f-ratio"][0].value < 0.6
    # The strongest wave by far says nothing on the class, and keeps no place from those that do.
    assert bias.kept["strength"][1].value == 1
    assert bias.margin["f-ratio"][0].decided
    assert bias.kept["f-ratio"][0].value > bias.random_kept[0].value
    assert bias.kept["f-ratio"][0].chance[0] <= bias.random_kept[0].value <= bias.kept["f-ratio"][0].chance[1]
    assert bias.frequencies == SIDE * SIDE
    assert bias.images == 90


def test_accuracies_are_those_of_filtered_images():
    images, labels = data(strength=0.02)
    structure, network = dataset_structure([(images, labels)]), reader()
    bias = dominant_frequency_bias(network, images, labels, structure, counts=[4, 9, 40], draws=2, seed=5)
    orders = {**rankings(structure), "random": random_ranking(SIDE, SIDE, 5, 0)}
    again = random_ranking(SIDE, SIDE, 5, 1)
    network.module.eval()

    def accuracy(mask):
        x = filtered(images, mask, structure.mean).float()
        return float((network.module(x).argmax(1) == labels).double().mean())

    frame = bias.to_frame().set_index(["ranking", "frequencies"])
    for count in bias.counts:
        for name in ("strength", "f-ratio", "power"):
            mask = first(orders[name], count, SIDE, SIDE)
            assert frame.loc[(name, count), "kept"] == accuracy(mask)
            assert frame.loc[(name, count), "removed"] == accuracy(~mask)
        masks = [first(order, count, SIDE, SIDE) for order in (orders["random"], again)]
        assert frame.loc[("random", count), "kept"] == pytest.approx(sum(map(accuracy, masks)) / 2)
        place = bias.counts.index(count)
        ends = torch.tensor([[accuracy(mask), accuracy(~mask)] for mask in masks], dtype=torch.float64)
        for found, drawn in (
            (bias.kept, ends[:, 0]),
            (bias.removed, ends[:, 1]),
            (bias.margin, ends[:, 0] - ends[:, 1]),
        ):
            low, high = float(drawn.min()), float(drawn.max())
            inner = low + 0.025 * (high - low), high - 0.025 * (high - low)
            assert found["power"][place].chance == pytest.approx(inner)
    for kept, removed, margin in zip(bias.kept["power"], bias.removed["power"], bias.margin["power"], strict=True):
        assert margin.value == pytest.approx(kept.value - removed.value)


def test_counts_are_shares_of_the_frequencies():
    images, labels = data(12)
    small = dominant_frequency_bias(reader(), images, labels, dataset_structure([(images, labels)]), draws=1)
    assert small.counts == (1, 2, 5, 12)  # of 64, as 9, 25, 81 and 200 of 1024


def test_batches_do_not_matter_and_the_network_is_left_alone():
    images, labels = data(strength=0.02)
    structure, network = dataset_structure([(images, labels)]), reader()
    network.module.train()
    network.module[2].eval()
    before = {k: v.clone() for k, v in network.module.state_dict().items()}
    state = torch.random.get_rng_state()
    one, other = (
        dominant_frequency_bias(network, images, labels, structure, counts=[5], batch_size=size) for size in (7, 90)
    )
    assert one.to_frame().equals(other.to_frame())
    assert network.module[0].training
    assert not network.module[2].training
    assert all(torch.equal(v, before[k]) for k, v in network.module.state_dict().items())
    assert all(p.grad is None and p.requires_grad for p in network.module.parameters())
    assert torch.equal(torch.random.get_rng_state(), state)


def test_filters_come_before_the_networks_own_preparation():
    images, labels = data(strength=0.02)
    structure, network = dataset_structure([(images, labels)]), reader()
    # Gray images to a network of three channels, standardised: only the order of the steps makes this work.
    seen = []

    def prepare(x):
        seen.append(x.dtype)
        return ((x - 0.5) / 0.2).expand(-1, 3, -1, -1)

    colour = Network("colour", reader(3).module.double(), prepare)
    images = images.double()
    for one, other in zip(
        *(dominant_frequency_bias(n, images, labels, structure, draws=1).kept["power"] for n in (network, colour)),
        strict=True,
    ):
        assert one.value == other.value
    assert set(seen) == {torch.float64}  # that of the images


def test_networks_that_need_rows_in_memory_work_too():
    class Viewed(nn.Module):
        def __init__(self):
            super().__init__()
            self.reader = reader(2).module

        def forward(self, x):
            return self.reader(x.view(len(x), 2 * SIDE * SIDE).view(-1, 2, SIDE, SIDE))

    images, labels = data()
    images = torch.cat([images, images], 1)
    bias = dominant_frequency_bias(
        Network("viewed", Viewed()), images, labels, dataset_structure([(images, labels)]), counts=[6], draws=1
    )
    assert bias.kept["f-ratio"][0].value == 1


def test_maps_find_the_wave_of_each_class_and_rates_say_that_it_suffices():
    images, labels = data()
    structure, network = dataset_structure([(images, labels)]), reader()
    found = dominant_frequency_maps(network, images, labels, structure.mean, patch=1)
    assert found.patches == len(pairs(SIDE, SIDE)[0])
    maps = found.maps(2 / 64)
    expected = torch.stack([mask_of(torch.tensor([SIDE * ky + kx]), SIDE, SIDE) for ky, kx in WAVES])
    assert torch.equal(maps, expected)
    held, theirs = data(seed=1)
    rates = class_rates(network, held, theirs, structure.mean, maps)
    assert [n.value for n in rates.true_positive] == [1, 1, 1]
    assert rates.frequencies.tolist() == [2, 2, 2]
    assert [n.value for n in rates.clean_false_positive] == [0, 0, 0]
    # The mean image holds all waves alike: what lacks a class's wave is taken for any of the others.
    assert all(n.value == 0 for n in rates.false_positive)
    # Random frequencies leave the mean image, which can be taken for one class only.
    assert sum(n.chance[1] > 0.5 for n in rates.true_positive) <= 1


def test_losses_and_rates_are_those_of_one_image_at_a_time():
    images, labels = data(30, strength=0.02)
    labels[labels == 1] = 2
    structure, network = dataset_structure([(images, labels)]), reader()
    found = dominant_frequency_maps(network, images, labels, structure.mean, patch=3, batch_size=4)
    maps = found.maps(0.3)
    larger = found.maps(0.7)
    rates = class_rates(network, images, labels, structure.mean, larger, draws=1, seed=1, batch_size=11)
    network.module.eval()

    def scores(image, mask):
        return network.module(filtered(image[None], mask, structure.mean).float())[0].detach().double()

    def loss(image, mask, label):
        return float(-torch.log_softmax(scores(image, mask), 0)[label])

    everything = torch.ones(SIDE, SIDE, dtype=torch.bool)
    assert found.loss_increase[1].isnan().all()
    assert not maps[1].any()
    for c in (0, 2):
        own = images[labels == c]
        for value in found.loss_increase[c].unique():
            patch = found.loss_increase[c] == value
            assert torch.equal(patch.flatten(), patch.flatten()[partners(SIDE, SIDE)])
            rise = np.mean([loss(x, ~patch, c) - loss(x, everything, c) for x in own])
            assert float(value) == pytest.approx(rise, abs=1e-5)
        worst = found.loss_increase[c].max()
        assert maps[c][found.loss_increase[c] == worst].all()
        assert int(maps[c].sum()) <= 0.3 * SIDE * SIDE
    assert rates.classes.tolist() == [0, 2]
    for place, c in enumerate((0, 2)):
        for number, mask in enumerate((
            larger[c],
            first(random_ranking(SIDE, SIDE, 1, 0), int(larger[c].sum()), SIDE, SIDE),
            everything,
        )):
            guess = torch.tensor([int(scores(x, mask).argmax()) for x in images]) == c
            true, false = (float(guess[rows].double().mean()) for rows in (labels == c, labels != c))
            if number == 0:
                assert (rates.true_positive[place].value, rates.false_positive[place].value) == (true, false)
            elif number == 1:
                assert true != false
                assert rates.true_positive[place].chance == (true, true)
                assert rates.false_positive[place].chance == (false, false)
            else:
                assert rates.clean_true_positive[place].value == true
                assert rates.clean_false_positive[place].value == false


def test_patches_are_few_where_no_size_is_given():
    images, labels = torch.rand(4, 1, 32, 32), torch.tensor([0, 1, 0, 1])
    network = Network("mean", nn.Sequential(nn.Flatten(), nn.Linear(1024, 2)))
    found = dominant_frequency_maps(network, images, labels, images.double().mean(0))
    assert (found.patch, found.patches) == (2, 145)


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"counts": [0]}, ValueError, "between 1 and 64"),
        ({"counts": []}, ValueError, "between 1 and 64"),
        ({"draws": 0}, ValueError, "draws"),
        ({"labels": torch.arange(90) % 3 - 1}, ConvscopeError, "30 of 90 images have no label"),
        ({"labels": torch.arange(90) % 4}, ConvscopeError, "tells 3 classes apart, but the labels name 4"),
        ({"labels": torch.zeros(5)}, ValueError, "labels"),
        ({"images": torch.zeros(90, 1, SIDE, SIDE, dtype=torch.uint8)}, ValueError, "floating-point"),
        ({"images": torch.zeros(90, 3, SIDE, SIDE)}, ConvscopeError, "3x8x8"),
        ({"network": Network("conv", nn.Conv2d(1, 3, 3))}, ConvscopeError, "class scores"),
        ({"network": Network("other", nn.Sequential(nn.Flatten(), nn.Linear(9, 3)))}, ConvscopeError, "other fails"),
        ({"images": torch.full((90, 1, SIDE, SIDE), math.nan)}, ConvscopeError, "returns NaN"),
    ],
)
def test_bad_input_is_said(change, error, match):
    images, labels = data()
    given = {"network": reader(), "images": images, "labels": labels, **change}
    structure = dataset_structure([(images, labels)])
    given = given | {"structure": structure}
    with pytest.raises(error, match=match):
        dominant_frequency_bias(**given)


def test_bad_masks_and_maps_are_said():
    images, labels = data(9)
    mean = images.double().mean(0)
    alone = torch.zeros(SIDE, SIDE, dtype=torch.bool)
    alone[1, 2] = True
    with pytest.raises(ValueError, match="conjugate"):
        filtered(images, alone, mean)
    with pytest.raises(ValueError, match="bool"):
        filtered(images, alone[:4], mean)
    with pytest.raises(ValueError, match="part"):
        dominant_frequency_maps(reader(), images, labels, mean, patch=4).maps(0)
    with pytest.raises(ValueError, match="patch"):
        dominant_frequency_maps(reader(), images, labels, mean, patch=0)
    with pytest.raises(ValueError, match="maps"):
        class_rates(reader(), images, labels, mean, alone)
    with pytest.raises(ConvscopeError, match="of 0 classes"):
        class_rates(reader(), images, labels, mean, torch.zeros(3, SIDE, SIDE, dtype=torch.bool))
