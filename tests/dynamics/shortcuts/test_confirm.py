"""Whether a network uses what betrays a class: networks of which that is known."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from convscope.core.errors import ConvscopeError
from convscope.core.network import Network
from convscope.core.taps import left_as_found
from convscope.dynamics.shortcuts import confirm as module
from convscope.dynamics.shortcuts.confirm import accuracy, confirm, resized
from convscope.dynamics.shortcuts.notch import pattern, waves


class Reader(nn.Module):
    """Scores class 0 by how much of one image each image holds; the others have the score 0."""

    def __init__(self, read, bias=-1.0, outputs=3):
        super().__init__()
        self.read = nn.Parameter(read.float()[None])
        self.bias, self.outputs = bias, outputs

    def forward(self, x):
        first = nn.functional.conv2d(x.float(), self.read)[:, 0, 0, 0] + self.bias
        return torch.stack([first, *[torch.zeros_like(first)] * (self.outputs - 1)], 1)


def data(n=90, side=12, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return 0.1 * torch.randn(n, 1, side, side, generator=generator), torch.arange(n) % 3


def stripes(factor=0.2, frequency=(4, 3), side=12):
    return pattern(torch.tensor([[factor, factor]], dtype=torch.float64), frequency, side, side)


def test_a_network_that_reads_the_stripes_takes_other_classes_for_the_one_that_bears_them():
    images, labels = data()
    own = stripes()
    network = Network("reader", Reader(own, bias=-float(own.square().sum()) / 2))
    found = confirm(network, images, labels, (4, 3), 0, own)
    assert found.images == 60
    assert torch.allclose(found.pattern, own)
    assert found.added.value > 0.9
    assert max(found.unchanged.value, found.opposite.value, found.control.value) < 0.2
    assert found.used
    assert len(found.controls) == module.CONTROLS
    assert all(abs(math.hypot(*f) - 5) < 1 for f in found.controls)
    assert not {(4, 3), (-4, -3)} & set(found.controls)


def test_a_network_that_reads_another_frequency_does_not_use_it():
    images, labels = data()
    other = stripes(frequency=(3, 4))
    network = Network("reader", Reader(other, bias=-float(other.square().sum()) / 2))
    found = confirm(network, images, labels, (4, 3), 0, stripes(), avoid=[(3, 4)])
    assert not found.used
    assert (3, 4) not in found.controls
    assert found.added.value == pytest.approx(found.unchanged.value, abs=0.1)


def test_controls_on_an_axis_stay_on_axes():
    found = confirm(Network("reader", Reader(stripes())), *data(), (0, 4), 1, stripes(frequency=(0, 4)))
    assert all(0 in f for f in found.controls)


@pytest.mark.parametrize("place", [(0, 0), (5, 6), (11, 3), (2, 9)])
def test_a_mark_at_a_pixel_is_added_there_and_mirrored_elsewhere(place):
    images, labels = data()
    difference = torch.full((1, 12, 12), 0.03, dtype=torch.float64)
    difference[0, place[0], place[1]] += 2.0
    read = torch.zeros(1, 12, 12)
    read[0, place[0], place[1]] = 1.0
    found = confirm(Network("reader", Reader(read)), images, labels, place, 0, difference, kind="pixel")
    assert found.pattern[0, place[0], place[1]] == pytest.approx(2.0)
    assert found.pattern.abs().sum() == pytest.approx(2.0)  # the level around is not part of the mark
    assert found.added.value == 1
    assert found.control.value == 0
    assert found.controls
    assert found.used


def test_a_constant_difference_is_no_mark():
    found = confirm(
        Network("reader", Reader(stripes())), *data(), (3, 3), 0, torch.full((1, 12, 12), 0.4), kind="pixel"
    )
    assert found.pattern.abs().max() == 0


def test_a_pattern_that_is_no_wave_cannot_be_moved_and_has_no_controls_nor_verdict():
    found = confirm(Network("reader", Reader(stripes())), *data(), (6, 6), 0, stripes(frequency=(6, 6)))
    assert found.controls
    small = torch.rand(40, 1, 2, 2)
    alone = confirm(Network("r", Reader(torch.ones(1, 2, 2))), small, torch.arange(40) % 2, (1, 1), 0, small[0])
    assert not alone.controls
    assert alone.added.chance is None
    assert math.isnan(alone.control.value)
    assert not alone.used


def test_the_network_is_left_as_it_was():
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Dropout(), nn.Flatten(), nn.Linear(400, 3)).train()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    state = torch.get_rng_state()
    confirm(Network("net", net), *data(), (4, 3), 0, stripes())
    assert net.training
    assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())
    assert all(p.grad is None for p in net.parameters())
    assert torch.equal(torch.get_rng_state(), state)
    with left_as_found([net]):
        assert not net.training


def test_the_networks_own_preparation_is_applied_after_the_pattern():
    own = stripes()
    seen = []

    def prepare(images):
        seen.append(images)
        return images - 0.5

    images, labels = data()
    confirm(Network("reader", Reader(own), prepare), images, labels, (4, 3), 0, own)
    assert torch.allclose(seen[1] - seen[0], own.float().expand_as(seen[0]), atol=1e-6)


def test_accuracy_against_the_most_frequent_class():
    images, labels = data()
    images[labels == 0] += stripes(1.0).float()
    own = stripes(1.0)
    found = accuracy(Network("reader", Reader(own, -float(own.square().sum()) / 2, 2)), images, (labels > 0).long())
    assert found.value == 1
    assert found.decided
    assert found.chance[0] < 2 / 3 < found.chance[1]


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda n, x, y: confirm(n, x, y, (4, 3), 0, x[0, :, :4]), "difference has the shape"),
        (lambda n, x, y: confirm(n, x, y, (4, 3), 0, x[0], kind="colour"), "kind must be"),
        (lambda n, x, y: confirm(n, x, y, (12, 3), 0, x[0], kind="pixel"), "outside images of 12x12"),
        (lambda n, x, y: confirm(n, x, y, (9, 3), 0, x[0]), "beyond half a cycle"),
    ],
)
def test_wrong_arguments(act, message):
    with pytest.raises(ValueError, match=message):
        act(Network("reader", Reader(stripes())), *data())


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda n, x, y: confirm(n, x, y * 0, (4, 3), 0, x[0]), "0 images of other classes are too few"),
        (lambda n, x, y: confirm(n, x, y, (4, 3), 7, x[0]), "has 3 outputs: there is no output 7"),
        (lambda n, x, y: accuracy(n, x, y + 5), "labels go up to 7, but reader has 3 outputs"),
        (lambda n, x, y: confirm(Network("m", nn.Conv2d(1, 1, 3)), x, y, (4, 3), 0, x[0]), "no .images, classes. tens"),
        (lambda n, x, y: accuracy(Network("m", Reader(stripes() * math.nan)), x, y), "NaN or infinite scores"),
        (lambda n, x, y: accuracy(n, x[:, :, :4], y), "reader fails on images of shape 1x4x12"),
    ],
)
def test_what_cannot_be_tried_is_said(act, message):
    with pytest.raises(ConvscopeError, match=message):
        act(Network("reader", Reader(stripes())), *data())


@settings(max_examples=60, deadline=None)
@given(n=st.integers(1, 400), k=st.integers(0, 400), errors=st.floats(0.5, 3))
def test_ends_of_the_wilson_interval_are_that_many_errors_from_the_share(n, k, errors):
    share = min(k, n) / n
    for end in module._interval(share, n, errors):
        if 1e-9 < end < 1 - 1e-9:
            assert abs(share - end) == pytest.approx(errors * math.sqrt(end * (1 - end) / n), abs=1e-9)
    low, high = module._interval(share, n, errors)
    assert 0 <= low <= share + 1e-12
    assert share - 1e-12 <= high <= 1


def test_resized_stripes_have_their_amplitude():
    grown = resized(waves((3, 2), 16, 16)[:1], (48, 40), (3, 2))
    assert torch.allclose(grown, waves((3, 2), 48, 40)[:1])
    assert resized(torch.ones(2, 4, 4), (8, 8), None).shape == (2, 8, 8)
