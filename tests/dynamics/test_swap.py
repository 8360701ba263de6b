import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import filtered as oracle
from torch import nn

from convscope.core.errors import ConvscopeError
from convscope.core.network import Network
from convscope.dynamics.filters import mask_of
from convscope.dynamics.swap import combined, partners_by_class, swap_spectra

SIDE = 8


class Amplitudes(nn.Module):
    """Tells whether an image has more energy along rows or along columns: texture alone, which no shift changes."""

    def forward(self, x):
        power = torch.fft.fft2(x).abs().square().sum(1)
        return torch.stack([power[:, 0, 1:].sum(1), power[:, 1:, 0].sum(1)], 1)


class Phases(nn.Module):
    """Tells whether a wave is up or down at the first column, whatever its amplitude."""

    def forward(self, x):
        wave = torch.fft.fft2(x)[:, 0]
        sign = wave[:, 1, 0].real + wave[:, 0, 1].real
        return torch.stack([sign, -sign], 1)


def textures(n=60, seed=0):
    """Stripes along one axis, at random phase."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % 2
    lines = torch.randn(n, 1, 1, SIDE, generator=generator).expand(n, 1, SIDE, SIDE)
    noise = 0.01 * torch.randn(n, 1, SIDE, SIDE, generator=generator)
    return torch.where(labels.view(-1, 1, 1, 1) == 0, lines, lines.mT) + noise, labels


def positions(n=60, seed=0):
    """The same wave, shifted by half a period in one class."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % 2
    wave = torch.cos(2 * torch.pi * torch.arange(SIDE) / SIDE)
    image = wave[:, None] + wave
    size = 1 + torch.rand(n, 1, 1, 1, generator=generator)
    noise = 0.01 * torch.randn(n, 1, SIDE, SIDE, generator=generator)
    return size * image * (1 - 2 * labels).view(-1, 1, 1, 1) + noise, labels


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_combined_image_is_the_sum_of_waves(given):
    draw = given.draw
    c, h, w = (draw(st.integers(*ends)) for ends in ((1, 3), (1, 6), (1, 7)))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 99)))
    phases, amplitudes = (torch.rand(2, c, h, w, generator=generator, dtype=torch.float64) for _ in range(2))
    found = combined(phases, amplitudes)
    for i in range(2):
        np.testing.assert_allclose(found[i], oracle.combined(phases[i].numpy(), amplitudes[i].numpy()), atol=1e-11)
    spectrum = torch.fft.fft2(found)
    torch.testing.assert_close(spectrum.abs(), torch.fft.fft2(amplitudes).abs())
    torch.testing.assert_close(spectrum / spectrum.abs(), torch.fft.fft2(phases) / torch.fft.fft2(phases).abs())


def test_amplitudes_are_swapped_at_some_frequencies_only():
    generator = torch.Generator().manual_seed(0)
    phases, amplitudes = (torch.rand(2, 2, 5, 6, generator=generator, dtype=torch.float64) for _ in range(2))
    mask = mask_of(torch.tensor([0, 7, 9]), 5, 6)
    found = torch.fft.fft2(combined(phases, amplitudes, mask))
    whole = torch.fft.fft2(combined(phases, amplitudes))
    torch.testing.assert_close(found, torch.where(mask, whole, torch.fft.fft2(phases)))


def test_network_that_reads_amplitudes_misses_those_that_are_not_swapped():
    images, labels = textures()
    network = Network("amplitudes", Amplitudes())
    lines = torch.zeros(SIDE, SIDE, dtype=torch.bool)
    lines[0, 1:] = lines[1:, 0] = True
    read = swap_spectra(network, images, labels, mask=lines)
    unread = swap_spectra(network, images, labels, mask=~lines)
    assert read.follows_amplitude.value == 1
    assert unread.follows_amplitude.value == 0
    assert unread.follows_phase.value == 1


def test_image_without_some_frequencies_gets_real_amplitudes_there():
    stripes = torch.cos(2 * torch.pi * torch.arange(SIDE).double() / SIDE).expand(1, 1, SIDE, SIDE)
    other = torch.rand(1, 1, SIDE, SIDE, dtype=torch.float64)
    found = combined(stripes, other)
    torch.testing.assert_close(torch.fft.fft2(found).abs(), torch.fft.fft2(other).abs())


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 4), min_size=2, max_size=40), st.integers(0, 9))
def test_partners_are_of_another_class_and_of_the_same(classes, seed):
    labels = torch.tensor(classes)
    if len(set(classes)) < 2:
        with pytest.raises(ConvscopeError, match="of one class"):
            partners_by_class(labels, seed)
        return
    other, same = partners_by_class(labels, seed)
    assert (labels[other] != labels).all()
    assert (labels[same] == labels).all()
    alone = torch.bincount(labels)[labels] == 1
    assert torch.equal(same == torch.arange(len(labels)), alone)


def test_partners_are_drawn_evenly():
    labels = torch.tensor([0, 1, 2, 0, 1, 2, 1])
    drawn = [partners_by_class(labels, seed) for seed in range(600)]
    for pick, expected in ((0, {1, 2, 4, 5, 6}), (1, {3})):
        found = torch.bincount(torch.stack([pair[pick][0] for pair in drawn]), minlength=7)
        assert set(found.nonzero()[:, 0].tolist()) == expected
        assert float((found[found > 0] / 600 - 1 / len(expected)).abs().max()) < 0.08


def test_network_that_reads_amplitudes_follows_them():
    images, labels = textures()
    found = swap_spectra(Network("amplitudes", Amplitudes()), images, labels)
    assert found.clean.value == found.follows_amplitude.value == found.same_class.value == 1
    assert found.follows_phase.value == found.neither.value == found.preference.value == 0
    assert found.follows_amplitude.decided
    assert found.preference.decided
    assert found.preference.chance[0] < 0.5 < found.preference.chance[1]
    assert found.pairs == 60
    assert 0 < found.outside < 1


def test_network_that_reads_phases_follows_them():
    images, labels = positions()
    found = swap_spectra(Network("phases", Phases()), images, labels)
    assert found.clean.value == found.follows_phase.value == found.preference.value == 1
    assert found.same_class.value == 1
    assert found.follows_amplitude.value == 0


def test_shares_are_those_of_one_pair_at_a_time():
    images, labels = torch.rand(40, 3, 6, 5), torch.arange(40) % 3
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(96, 5))
    network = Network("random", module, lambda x: (x - 0.4) / 0.3)
    found = swap_spectra(network, images, labels, seed=4, batch_size=7)
    other, same = partners_by_class(labels, 4)

    def guess(i, j):
        image = oracle.combined(images[i].double().numpy(), images[j].double().numpy())
        return int(module(network.prepare(torch.from_numpy(image)).float()[None]).argmax())

    guesses = [guess(i, int(other[i])) for i in range(40)]
    by_phase = np.array([guesses[i] == labels[i] for i in range(40)])
    by_amplitude = np.array([guesses[i] == labels[other[i]] for i in range(40)])
    assert found.follows_phase.value == pytest.approx(by_phase.mean())
    assert found.follows_amplitude.value == pytest.approx(by_amplitude.mean())
    assert found.neither.value == pytest.approx((~(by_phase | by_amplitude)).mean())
    assert found.preference.value == pytest.approx(by_phase.sum() / (by_phase | by_amplitude).sum())
    assert found.preference.chance[0] < 1 / 2 < found.preference.chance[1]
    assert found.same_class.value == pytest.approx(np.mean([guess(i, int(same[i])) == labels[i] for i in range(40)]))
    again = swap_spectra(network, images, labels, seed=4, batch_size=40)
    assert (again.follows_phase, again.outside) == (found.follows_phase, pytest.approx(found.outside))


def test_the_only_image_of_a_class_has_no_partner_there():
    images, labels = textures(20)
    images, labels = images[1:4], labels[1:4]  # classes 1, 0, 1
    found = swap_spectra(Network("amplitudes", Amplitudes()), images, labels)
    assert found.same_class.value == 1
    assert found.same_class.spread == pytest.approx((3 / 4 * 1 / 4 / 2) ** 0.5)  # of two images, not three


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"labels": torch.zeros(60).long()}, ConvscopeError, "all 60 images are of one class"),
        ({"labels": torch.arange(60) % 3}, ConvscopeError, "tells 2 classes apart"),
        ({"labels": torch.arange(60) % 2 - 1}, ConvscopeError, "no label"),
        ({"batch_size": 0}, ValueError, "batch_size"),
    ],
)
def test_bad_input_is_said(change, error, match):
    images, labels = textures()
    given = {"images": images, "labels": labels, **change}
    with pytest.raises(error, match=match):
        swap_spectra(Network("amplitudes", Amplitudes()), **given)
