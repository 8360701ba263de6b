"""What the experiments on learning dynamics measure: planted effects are found, and what is not there is not."""

import math

import pytest
import torch

from convscope.core.errors import ConvscopeError
from convscope.core.network import Network
from convscope.dynamics.collect import dataset_structure
from convscope.dynamics.linear import LinearCNN
from convscope.dynamics.structure import alone
from convscope.dynamics.swap import swap_spectra
from convscope.papers import pinson2023_overlap as overlap
from convscope.papers import pinson2023_speeds as speeds
from convscope.papers import pinson2023_stages as stages
from convscope.papers import pinson2023_swap as swap
from convscope.papers.pinson2023_data import digits

SIDE = 8


def pair(image):
    return dataset_structure([(torch.stack([image, -image]), torch.arange(2))])


@pytest.mark.parametrize(
    ("name", "gain"), [("one pixel", 1.0), ("one wave", math.sqrt(32)), ("constant", 8.0), ("checkerboard", 8.0)]
)
def test_known_images_have_known_gains_and_exact_dynamics_agree(name, gain):
    structure = pair(speeds.patterns(SIDE)[name])
    assert float(speeds.gains(structure)) == pytest.approx(gain)
    cnn, dense = (speeds.growth(make(structure, 0), 1e-4, 1e-6) for make in (speeds._cnn, speeds._dense))
    assert float(cnn / dense) == pytest.approx(gain, rel=1e-3)


def test_a_mode_alone_is_the_only_one_and_keeps_its_numbers():
    structure = dataset_structure([digits((3, 8, 0))])
    only = alone(structure, 1)
    assert torch.equal(only.singular_values, structure.singular_values[1:])
    torch.testing.assert_close(only.modes[0], structure.modes[1])
    u, s, v = torch.linalg.svd(only.cross.flatten(1), full_matrices=False)
    assert float(s[0]) == pytest.approx(float(structure.singular_values[1]))
    assert float(s[1]) == pytest.approx(0, abs=1e-12)
    assert abs(float(v[0] @ structure.modes[1].flatten())) == pytest.approx(1)
    assert abs(float(u[:, 0] @ structure.class_vectors[1])) == pytest.approx(1)
    phi = structure.modes[1].flatten()
    assert float(phi @ only.covariance @ phi) == pytest.approx(float(phi @ structure.covariance @ phi))
    assert int(torch.linalg.matrix_rank(only.covariance)) == 1
    # The power spectrum is that of the covariance: the same energy in all.
    assert float(only.power.real.sum()) == pytest.approx(float(only.covariance.trace()))


def test_distances_are_zero_for_the_right_prediction_alone():
    ratio = torch.tensor([2.0, 4.0, math.inf], dtype=torch.float64)
    found = speeds._distances(ratio, {"right": torch.tensor([2.0, 4.0, 9.0]), "one": torch.ones(())})
    assert found["right"] == pytest.approx(0)
    assert found["one"] == pytest.approx(math.log(2))
    with pytest.raises(ConvscopeError, match="no mode was half learned"):
        speeds._distances(torch.full((2,), torch.inf), {"one": torch.ones(())})


def test_a_logistic_is_a_stage_and_a_relaxation_is_none():
    times = torch.linspace(0, 100, 100_001, dtype=torch.float64)
    rates = torch.tensor([2.0, 1.0, 0.5], dtype=torch.float64)
    ones = torch.ones(3, dtype=torch.float64)
    logistic = 1 / (1 + (1e8 - 1) * (-rates * times[:, None]).exp())
    relaxing = 1 - (-rates * times[:, None]).exp()
    sharp, flat = (stages._crossed(times, curve, ones) for curve in (logistic, relaxing))
    assert stages.sharpness(sharp) == pytest.approx(2 * math.log(9) / math.log(1e8 - 1), rel=1e-3)
    assert stages.sharpness(flat) == pytest.approx(stages.RELAXING, rel=1e-3)
    assert stages.at_once(sharp) < 0.6 < 1.2 < stages.at_once(flat)


def test_a_circular_convolution_has_the_fourier_basis_and_a_padded_one_has_not():
    structure = dataset_structure([digits((3, 8))])
    network = LinearCNN.drawn((1, SIDE, SIDE), 2, 1.0)
    padded = LinearCNN(network.kernels, network.head, "zeros", network.before)
    error, purity = overlap._decomposed(structure, network)
    assert error < 1e-12
    assert purity == pytest.approx(1)
    error, purity = overlap._decomposed(structure, padded)
    assert error > 0.1
    assert purity < 0.9


class Amplitudes(torch.nn.Module):
    """Tells rows from columns by their energy, whatever the phases."""

    def forward(self, x):
        power = torch.fft.fft2(x).abs().square().sum(1)
        return torch.stack([power[:, 0, 1:].sum(1), power[:, 1:, 0].sum(1)], 1)


class Phases(torch.nn.Module):
    """Tells whether a wave is up or down at the first column, whatever its amplitude."""

    def forward(self, x):
        wave = torch.fft.fft2(x)[:, 0]
        sign = wave[:, 1, 0].real + wave[:, 0, 1].real
        return torch.stack([sign, -sign], 1)


def verdicts(module, images, labels):
    dominant = torch.zeros(SIDE, SIDE, dtype=torch.bool)
    dominant[0, 1:] = dominant[1:, 0] = True
    masks = {"all": None, "dominant": dominant, "others": ~dominant}
    found = {which: swap_spectra(Network("it", module), images, labels, mask=mask) for which, mask in masks.items()}
    rows = swap._rows({"CNN with strides": [found], "untrained CNN": [found]})
    return [row.verdict for row in rows]


def test_who_reads_amplitudes_is_said_to_go_by_texture_and_who_reads_phases_is_not():
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(60) % 2
    other = labels.view(-1, 1, 1, 1)
    lines = torch.randn(60, 1, 1, SIDE, generator=generator).expand(60, 1, SIDE, SIDE)
    stripes = torch.where(other == 0, lines, lines.mT) + 0.01 * torch.randn(60, 1, SIDE, SIDE, generator=generator)
    assert verdicts(Amplitudes(), stripes, labels) == ["claim holds", "", *["claim holds"] * 3]
    wave = torch.cos(2 * torch.pi * torch.arange(SIDE) / SIDE)
    size = 1 + torch.rand(60, 1, 1, 1, generator=generator)
    shapes = size * (wave[:, None] + wave) * (1 - 2 * other) + 0.01 * torch.randn(
        60, 1, SIDE, SIDE, generator=generator
    )
    assert verdicts(Phases(), shapes, labels) == ["claim fails", "", *["claim fails"] * 3]
