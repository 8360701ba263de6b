"""The acceptance checks of the theory that need no training, and the three predictions against the exact dynamics."""

import math

import numpy as np
import pytest
import torch
from scipy.optimize import brentq
from scipy.stats import spearmanr
from sklearn.datasets import load_digits

from convscope.core.fourier import unitary
from convscope.dynamics.basis import RealBasis
from convscope.dynamics.closed import closed_form, independent, logistic
from convscope.dynamics.collect import dataset_structure
from convscope.dynamics.exact import escape_rate, integrate
from convscope.dynamics.flow import flow_of, pull
from convscope.dynamics.linear import Dense, LinearCNN
from convscope.dynamics.lone import lone_mode
from convscope.dynamics.stages import stages
from convscope.dynamics.start import Start


def digits():
    data = load_digits()
    return torch.from_numpy(data.images)[:, None] / 16, torch.from_numpy(data.target)


def lone(image):
    """One mode: an image for one class, its negative for the other."""
    return dataset_structure([(torch.stack([image, -image])[:, None].double(), torch.arange(2))], center=False)


def three_against_eight():
    x, y = digits()
    return lone((x[y == 3].mean(0) - x[y == 8].mean(0))[0])


def cosines(h=8, w=8):
    """A class for each of five frequencies, of falling contrast."""
    y, x = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
    waves = [torch.cos(2 * math.pi * (a * y / h + b * x / w)) for a, b in ((1, 0), (0, 2), (1, 1), (2, 3), (3, 1))]
    images = torch.stack([wave * 0.8**k for k, wave in enumerate(waves)])[:, None].double()
    return dataset_structure([(images, torch.arange(5))], center=False)


def drawn(structure, init_std, channels=1, seed=0):
    return LinearCNN.drawn(structure.image_shape, len(structure.counts), init_std, channels=channels, seed=seed)


def ending(structure, network, dominant):
    """Share of the energy in some frequencies once a lone mode is learned: |b_j| = sqrt(N) q_j exp(phi_j Theta)."""
    phi, u = unitary(structure.modes[0, 0]).flatten(), structure.class_vectors[0].to(torch.complex128)
    v = (phi.conj() / phi.abs())[:, None, None]
    q = Start.of(network).growing(torch.arange(64), u[None, :, None].expand(64, -1, 1), v)[:, 0]
    lam = float(structure.modes[0].flatten() @ structure.covariance @ structure.modes[0].flatten())
    goal = float(structure.singular_values[0])
    theta = brentq(lambda x: lam * 8 * float((phi.abs() * q * (phi.abs() * x).exp()).sum()) - goal, 0, 400)
    energy = (q * (phi.abs() * theta).exp()).square()
    return float(energy[dominant].sum() / energy.sum())


def errors(found, exact):
    """Median relative error of half-times, and the correlation of their ranks."""
    error = ((found.half_times - exact.half_times).abs() / exact.half_times).median()
    return float(error), float(spearmanr(found.half_times, exact.half_times)[0])


@pytest.mark.parametrize("shape", [(1, 4, 4), (3, 5, 4), (2, 3, 6), (1, 1, 1)])
def test_real_coordinates_keep_norms_and_come_back(shape):
    basis, images = RealBasis.of(shape), torch.randn(5, *shape, dtype=torch.float64)
    found = basis.coordinates(images)
    torch.testing.assert_close(found @ found.T, images.flatten(1) @ images.flatten(1).T)
    spectra = unitary(images).flatten(2)[..., basis.places].permute(2, 0, 1)
    torch.testing.assert_close(basis.coefficients(found), spectra)
    matrix = images.flatten(1).T @ images.flatten(1)
    torch.testing.assert_close(basis.transformed(matrix), found.T @ found)


def test_the_papers_mode_equation_with_its_constant():
    """d|r_j|^2 / dt = 2 sqrt(N) |r_j|^2 |phi_j| (s - a) from aligned weights."""
    structure = three_against_eight()
    phi, u, s = structure.modes[0, 0], structure.class_vectors[0], float(structure.singular_values[0])
    spectrum = unitary(phi)
    size = 0.02 * (1 + torch.rand(8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64))
    size = (size + size.flip(0, 1).roll((1, 1), (0, 1))) / 2
    kernel = torch.fft.ifft2(size.to(spectrum), norm="ortho").real
    head = torch.fft.ifft2(size * spectrum / spectrum.abs(), norm="ortho").real
    weights = (kernel[None, None], (u[:, None, None] * head)[:, None])
    flow = flow_of(LinearCNN((weights[0],), weights[1]), (1, 8, 8))
    effective = flow.effective(weights)
    moved = flow.velocity(weights, pull(structure, effective))[0][0, 0]
    a = float(u @ (effective.flatten(1) @ structure.covariance) @ phi.flatten())
    before = unitary(kernel)
    found = 2 * (before.conj() * unitary(moved)).real
    expected = 2 * 8 * before.abs().square() * spectrum.abs() * (s - a)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-8)


@pytest.mark.parametrize("init_std", [1e-4, 1e-6])
def test_a_lone_mode_is_learned_as_the_mode_equation_says(init_std):
    structure = three_against_eight()
    network = drawn(structure, init_std)
    predicted = independent(structure, network)
    exact = integrate(structure, network, times=predicted.times)
    error = (predicted.mode_strengths - exact.mode_strengths).abs().max() / structure.singular_values[0]
    assert float(error) < 1e-4
    torch.testing.assert_close(predicted.half_times, exact.half_times, rtol=1e-4, atol=0)


def test_small_weights_leave_the_dominant_pair_alone():
    structure = three_against_eight()
    phi = structure.spectra[0].flatten()
    dominant = torch.isclose(phi, phi.max())
    energies = []
    for init_std in (1e-2, 1e-4, 1e-6, 1e-8, 1e-10):
        network = drawn(structure, init_std, seed=1)
        half = float(independent(structure, network).half_times[0])
        exact = integrate(structure, network, end=4 * half)
        assert float(exact.mode_strengths[-1, 0]) == pytest.approx(float(structure.singular_values[0]), rel=1e-4)
        energy = unitary(exact.final).abs().square().sum((0, 1)).flatten()
        energies.append(float(energy[dominant].sum() / energy.sum()))
        assert energies[-1] == pytest.approx(ending(structure, network, dominant), abs=0.005)
    assert energies == sorted(energies)
    assert energies[-1] > 0.9


@pytest.mark.parametrize("depth", [2, 3, 4])
def test_deeper_networks_learn_a_lone_mode_in_closed_form(depth):
    structure = three_against_eight()
    spectrum, u = unitary(structure.modes[0, 0]), structure.class_vectors[0]
    phi = spectrum.abs()
    size = {2: 1e-4, 3: 1e-2, 4: 3e-2}[depth] * (
        1 + torch.rand(8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    )
    size = (size + size.flip(0, 1).roll((1, 1), (0, 1))) / 2  # of a real image
    kernel = torch.fft.ifft2(size.to(spectrum), norm="ortho").real[None, None]
    head = torch.fft.ifft2(size * spectrum / phi, norm="ortho").real
    network = LinearCNN((kernel,) * (depth - 1), (u[:, None, None] * head)[:, None])
    s, v = float(structure.singular_values[0]), structure.modes[0].flatten()
    times, found = lone_mode(s, float(v @ structure.covariance @ v), phi.flatten(), size.flatten(), 64, depth)
    shown = torch.searchsorted(found, torch.linspace(float(found[0]), 0.99 * s, 20, dtype=torch.float64))
    exact = integrate(structure, network, times=times[shown])
    assert float((exact.mode_strengths[:, 0] - found[shown]).abs().max()) < 1e-4 * s


@pytest.mark.parametrize("size", range(1, 9))
def test_small_kernels_grow_as_fast_as_the_patches_moment_says(size):
    structure = dataset_structure([digits()])
    network = LinearCNN.drawn((1, 8, 8), 10, 1e-60, kernel_size=size)
    pad = (network.before[1], size - 1 - network.before[1], network.before[0], size - 1 - network.before[0])
    patches = torch.nn.functional.unfold(torch.nn.functional.pad(structure.cross, pad, mode="circular"), size)
    rate = math.sqrt(float(torch.linalg.eigvalsh(torch.einsum("opx,oqx->pq", patches, patches))[-1]))
    times = torch.tensor([70.0, 100.0]) / rate
    found = integrate(structure, network, times=times).mode_strengths
    slope = float((found[1].abs().max() / found[0].abs().max()).log() / (times[1] - times[0])) / 2
    assert slope == pytest.approx(rate, rel=1e-3)


@pytest.mark.parametrize(
    ("image", "ratio"),
    [
        (torch.eye(64)[27].view(8, 8), 1),
        (torch.cos(2 * math.pi * torch.arange(8) / 8).expand(8, 8), math.sqrt(32)),
        (torch.ones(8, 8), 8),
        (torch.ones(8, 8) * (-1.0) ** torch.arange(8), 8),
    ],
    ids=["delta", "cosine", "constant", "Nyquist"],
)
def test_how_much_faster_than_a_dense_network(image, ratio):
    structure = lone(image)
    rates = []
    for network in (drawn(structure, 1e-6), Dense.drawn((1, 8, 8), 2, 1e-6, hidden=8)):
        early = (
            0.3
            * math.log(1e6)
            / escape_rate(flow_of(network, (1, 8, 8)), [w.shape for w in network.weights], structure.cross, 200)
        )
        found = integrate(structure, network, times=torch.tensor([early, 1.5 * early]))
        rates.append(float((found.mode_strengths[1, 0] / found.mode_strengths[0, 0]).log() / early))
    assert rates[0] / rates[1] == pytest.approx(ratio, rel=0.01)
    assert float(structure.effective_singular_values[0] / structure.singular_values[0]) == pytest.approx(ratio)


@pytest.mark.parametrize(("init_std", "channels"), [(1e-3, 1), (1e-6, 8), (1e-10, 1)])
def test_cosines_are_learned_along_logistics(init_std, channels):
    structure = cosines()
    network = drawn(structure, init_std, channels)
    exact = integrate(structure, network)
    for found in (independent(structure, network), closed_form(structure, network), stages(structure, network)):
        assert errors(found, exact)[1] == pytest.approx(1)
    torch.testing.assert_close(independent(structure, network).half_times, exact.half_times, rtol=0.02, atol=0)
    at = logistic(structure, network, exact.half_times).diagonal()
    torch.testing.assert_close(at, structure.singular_values / 2, rtol=0.05, atol=0)


def test_closed_form_and_stages_on_digits():
    structure = dataset_structure([digits()])
    found = {"closed": [], "stages": [], "independent": []}
    for seed in range(5):
        network = drawn(structure, 1e-6, seed=seed)
        exact = integrate(structure, network)
        assert exact.half_times.isfinite().all()
        for name, predict in (("closed", closed_form), ("stages", stages), ("independent", independent)):
            found[name].append(errors(predict(structure, network), exact))
    mean = {name: np.mean(values, 0) for name, values in found.items()}
    assert mean["closed"][0] < 0.10
    assert mean["closed"][1] > 0.85
    assert mean["stages"][0] < 0.15
    assert mean["independent"][1] > 0.9  # the order is right, the times are too long
    assert mean["independent"][0] > 0.5


def test_closed_form_of_large_weights_unlearns_what_is_too_much():
    structure = cosines()
    network = drawn(structure, 0.5)
    found = closed_form(structure, network, torch.linspace(0, 40, 50, dtype=torch.float64))
    assert found.mode_strengths.isfinite().all()
    torch.testing.assert_close(found.mode_strengths[-1], structure.singular_values, rtol=1e-3, atol=0)
    with pytest.raises(ValueError, match="take smaller ones"):
        independent(structure, network)


def test_colours_have_an_event_for_each_direction():
    generator = torch.Generator().manual_seed(0)
    images, labels = torch.rand(200, 3, 6, 6, generator=generator, dtype=torch.float64), torch.arange(200) % 4
    images += torch.randn(4, 3, 6, 6, generator=generator)[labels] * 0.3
    structure = dataset_structure([(images, labels)])
    network = drawn(structure, 1e-8, channels=4)
    exact, found = integrate(structure, network), stages(structure, network, math.inf)
    assert errors(found, exact)[0] < 0.15
    torch.testing.assert_close(found.mode_strengths[-1], structure.singular_values, rtol=1e-3, atol=0)
    assert errors(closed_form(structure, network), exact)[0] < 0.5  # frequencies of these images are correlated


@pytest.mark.parametrize(
    ("change", "match"),
    [({"start": torch.zeros(2).double()}, "nothing grows"), ({"start": torch.ones(2).double()}, "from the start")],
)
def test_a_mode_that_cannot_grow_is_refused(change, match):
    with pytest.raises(ValueError, match=match):
        lone_mode(**({"s": 1.0, "variance": 1.0, "phi": torch.tensor([0.6, 0.8]).double(), "pixels": 2} | change))


@pytest.mark.parametrize("predict", [closed_form, independent, stages])
@pytest.mark.parametrize("change", [{"kernel_size": 3}, {"padding": "zeros"}, {"depth": 3}])
def test_other_networks_are_refused(predict, change):
    structure = cosines()
    network = LinearCNN.drawn((1, 8, 8), 5, 1e-3, **change)
    with pytest.raises(ValueError, match='use method="exact"'):
        predict(structure, network)


def test_large_images_have_a_closed_form():
    images, labels = torch.rand(40, 3, 70, 64, generator=torch.Generator().manual_seed(0)), torch.arange(40) % 2
    structure = dataset_structure([(images, labels)])
    assert structure.covariance is None
    found = closed_form(structure, LinearCNN.drawn((3, 70, 64), 2, 1e-6, channels=2))
    assert found.half_times.isfinite().all()
    assert independent(structure, LinearCNN.drawn((3, 70, 64), 2, 1e-6)).half_times.isfinite().all()
