"""Used spectra: mean Jacobians are those of loops over images; of a linear network they are its map."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import linear_dynamics
from oracles import mode_strengths as oracle
from torch import nn

from convscope.core.errors import ConvscopeError
from convscope.core.fourier import partners
from convscope.dynamics.collect import dataset_structure
from convscope.dynamics.monitor import ModeMonitor
from convscope.dynamics.probes import Readout
from convscope.dynamics.used import used_spectra
from convscope.training.linear import ConvLinear


def data(n=40, c=1, h=5, w=4, outputs=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % outputs
    images = torch.randn(n, c, h, w, generator=generator)
    images[labels == 1, :, -1] += 1
    return images, labels


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 3), st.integers(3, 6), st.integers(3, 6), st.integers(1, 12), st.integers(1, 4))
def test_mean_jacobian_is_that_of_loops_over_images(c, h, w, n, modes):
    torch.manual_seed(n)
    net = nn.Sequential(
        nn.ReLU(inplace=True), nn.Conv2d(c, 3, 3), nn.Tanh(), nn.Flatten(), nn.Linear(3 * (h - 2) * (w - 2), 4)
    )
    images, directions = torch.randn(n, c, h, w), torch.randn(modes, 3).double()
    found = Readout(batch_size=5).mean_jacobian(net, images, directions)
    loop = nn.Sequential(nn.ReLU(), *net[1:])
    np.testing.assert_allclose(found, oracle.mean_jacobian(loop, images, directions), atol=1e-5)
    soft = Readout(outputs="probabilities", prepare=lambda x: 2 * x).mean_jacobian(net, images, directions)
    expected = oracle.mean_jacobian(lambda x: loop(2 * x).softmax(1), images, directions)
    np.testing.assert_allclose(soft, expected, atol=1e-5)


def test_mean_jacobian_of_a_linear_network_is_its_map():
    torch.manual_seed(0)
    net = ConvLinear((2, 5, 4), 3, filters=2, kernel_size=3).double()
    directions = torch.randn(2, 3).double()
    found = Readout().mean_jacobian(net, torch.randn(7, 2, 5, 4), directions)
    torch.testing.assert_close(found, torch.einsum("mo,ochw->mchw", directions, net.effective().detach()))


def test_spectra_are_those_of_the_maps_and_beside_the_modes():
    structure = dataset_structure([data(c=2)])
    maps = torch.randn(2, 2, 5, 4, generator=torch.Generator().manual_seed(0)).double()
    maps[1] = torch.nan
    used = used_spectra(structure, maps, torch.tensor([3.0, torch.nan]), top=2)
    energy = sum(np.abs(linear_dynamics.transform(channel.numpy())) ** 2 for channel in maps[0])
    energy /= energy.sum()
    np.testing.assert_allclose(used.spectra[0], np.sqrt(energy), atol=1e-12)
    assert float(used.participation_ratio[0]) == pytest.approx(1 / (energy**2).sum())
    of_mode = structure.spectra[0].numpy().ravel() ** 2
    other = partners(5, 4).numpy()
    both = {frozenset((i, j)) for i, j in enumerate(other)}
    best = sorted(both, key=lambda pair: -sum(of_mode[i] for i in pair))[:2]
    assert float(used.dominant_share[0]) == pytest.approx(sum(energy.ravel()[i] for pair in best for i in pair))
    assert float(used.mode_dominant_share[0]) == pytest.approx(sum(of_mode[i] for pair in best for i in pair))
    assert used.participation_ratio[1].isnan()
    assert used.dominant_share[1].isnan()


def test_all_pairs_hold_all_energy_and_too_many_are_no_error():
    structure = dataset_structure([data()])
    used = used_spectra(structure, structure.modes, torch.zeros(2), top=1000)
    torch.testing.assert_close(used.dominant_share, torch.ones(2).double())
    torch.testing.assert_close(used.spectra, structure.spectra)
    with pytest.raises(ValueError, match="top must be at least 1"):
        used_spectra(structure, structure.modes, torch.zeros(2), top=0)
    with pytest.raises(ValueError, match="the modes' shape"):
        used_spectra(structure, structure.modes[:1], torch.zeros(1))


def test_the_monitor_takes_a_mode_when_it_is_half_learned():
    images, labels = data()
    images = images.double()
    structure = dataset_structure([(images, labels)])
    net = ConvLinear((1, 5, 4), 3, std=1e-3).double()
    monitor = ModeMonitor(net, (images, labels), jacobian=True)
    start = net.effective().detach()
    assert monitor.used.steps.isnan().all()
    # The map of least squares, a share of it at a time, in the layers of a network without convolution.
    goal = (structure.cross.flatten(1) @ torch.linalg.pinv(structure.covariance)).detach()
    net.conv.weight.data.zero_()
    net.conv.weight.data[0, 0, 2, 1] = 1
    for step, share in ((5, 0.3), (9, 0.6), (12, 1.0)):
        net.linear.weight.data.copy_(share * goal)
        monitor(step)
    used = monitor.used
    assert used.steps.tolist() == [9, 9]
    expected = torch.einsum("mo,ochw->mchw", structure.class_vectors, (0.6 * goal).view_as(start) - start)
    torch.testing.assert_close(used.maps, expected)
    assert monitor.used_now().steps.tolist() == [12, 12]
    torch.testing.assert_close(monitor.used_now().maps, expected / 0.6, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(monitor.half_times, torch.full((2,), 5 + 4 * 0.2 / 0.3).double(), rtol=1e-2, atol=0)


def test_without_jacobians_or_gradients():
    monitor = ModeMonitor(nn.Sequential(nn.Flatten(), nn.Linear(20, 3)), data())
    with pytest.raises(ValueError, match="jacobian=True"):
        _ = monitor.used
    with pytest.raises(ValueError, match="jacobian=True"):
        monitor.used_now()

    class Detached(nn.Module):
        def forward(self, x):
            return x.detach().flatten(1)[:, :3]

    with pytest.raises(ConvscopeError, match="cannot be differentiated"):
        ModeMonitor(Detached(), data(), jacobian=True)
