"""Circular filters as large as the image: function and norm of ordinary layers, in another parametrisation."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles.bottleneck_circular import slow_convolution

from convscope.bottleneck.singular import frequency_singular_values
from convscope.training.circular import CircularCNN, CircularConv, fourier_basis

SIDES = st.integers(1, 7)


@given(SIDES, SIDES)
@settings(max_examples=20, deadline=None)
def test_the_basis_is_orthonormal_and_the_unitary_transform(h, w):
    basis, multiplicity = fourier_basis((h, w))
    assert int(multiplicity.sum()) == h * w
    rows = basis.flatten(0, 1)
    torch.testing.assert_close(rows.T @ rows, torch.eye(h * w).double(), atol=1e-12, rtol=0)
    image = torch.randn(h, w, dtype=torch.float64)
    spectrum = torch.fft.fft2(image, norm="ortho").abs().flatten().sort().values
    found = (basis @ image.flatten()).norm(dim=1) / multiplicity.double().sqrt()
    torch.testing.assert_close(found.repeat_interleave(multiplicity).sort().values, spectrum, atol=1e-12, rtol=0)


@given(SIDES, SIDES, st.integers(1, 3), st.integers(1, 3), st.integers(1, 3), st.booleans(), st.integers(0, 99))
@settings(max_examples=30, deadline=None)
def test_ordinary_layers_compute_the_same_with_the_same_norm(h, w, channels, outputs, depth, pooled, seed):
    network = CircularCNN(channels, 3, outputs, depth, (h, w), pooled=pooled, noise=0.5, seed=seed)
    images = torch.randn(4, channels, h, w, generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        for conv in network.convolutions:
            conv.bias.normal_()
        for dtype, tolerance in ((torch.float32, 1e-5), (torch.float64, 1e-10)):
            own, x = network.to(dtype), images.to(dtype)
            ordinary = own.ordinary()
            expected = ordinary(x)
            scale = float(expected.abs().max()) + 1
            assert own(x).shape == (4, outputs, *(() if pooled else (h, w)))
            assert float((own(x) - expected).abs().max()) < tolerance * scale
            norms = [sum(float(p.double().square().sum()) for p in net.parameters()) for net in (own, ordinary)]
            assert norms[0] == pytest.approx(norms[1], rel=tolerance)


@given(SIDES, SIDES, st.integers(1, 3), st.integers(1, 3))
@settings(max_examples=20, deadline=None)
def test_a_convolution_is_its_taps(h, w, c, k):
    torch.manual_seed(0)
    conv = CircularConv(c, k, (h, w)).double()
    conv.delta_orthogonal_(0.7)
    torch.nn.init.normal_(conv.bias)
    maps = torch.randn(2, c, h, w, dtype=torch.float64)
    basis = fourier_basis((h, w))[0].flatten(0, 1)
    found = conv(maps.flatten(2).permute(2, 1, 0), basis).permute(2, 1, 0).unflatten(2, (h, w))
    torch.testing.assert_close(found, slow_convolution(conv, maps), atol=1e-10, rtol=0)


def test_gradients_are_those_of_the_taps():
    network = CircularCNN(2, 3, 1, 2, (4, 5), noise=0.5).double()
    ordinary = network.ordinary()
    images = torch.randn(3, 2, 4, 5, dtype=torch.float64)
    grads = []
    for net in (network, ordinary):
        parameters = [p for p in net.parameters() if p.ndim == 4]
        grads.append(torch.autograd.grad(net(images).square().sum(), parameters))
    for fourier, taps in zip(*grads, strict=True):
        assert float(fourier.norm()) == pytest.approx(float(taps.norm()), rel=1e-9)  # coordinates are orthonormal


def test_it_begins_with_every_frequency_at_the_same_gain():
    network = CircularCNN(3, 4, 3, 3, 6, noise=0.0)
    for conv in network.ordinary()[::2]:
        values = frequency_singular_values(conv, 6).values
        torch.testing.assert_close(values, torch.full_like(values, math.sqrt(2)), atol=1e-5, rtol=0)
    noisy = CircularCNN(50, 50, 50, 1, 6, noise=0.5).convolutions[0]
    plain = CircularCNN(50, 50, 50, 1, 6, noise=0.0).convolutions[0]
    added = noisy.coefficients.detach().square().sum() - plain.coefficients.detach().square().sum()
    assert float(added) == pytest.approx(0.25 * 2 * 50, rel=0.05)  # Kaiming's c N taps of variance 2 / (c N), k times
    assert torch.equal(
        CircularCNN(1, 2, 1, 2, 4, seed=3)(torch.ones(1, 1, 4, 4)),
        CircularCNN(1, 2, 1, 2, 4, seed=3)(torch.ones(1, 1, 4, 4)),
    )


def test_the_callers_random_numbers_are_left_alone():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    CircularCNN(1, 2, 3, 2, 4, pooled=True)
    assert torch.equal(torch.rand(3), expected)


def test_the_head_takes_the_mean_over_positions():
    network = CircularCNN(1, 3, 5, 2, 4, pooled=True)
    images = torch.randn(2, 1, 4, 4)
    maps = F.relu(network.ordinary()[:3](images))
    torch.testing.assert_close(network(images), network.head(maps.mean((2, 3))))


def test_a_network_has_a_layer():
    with pytest.raises(ValueError, match="at least one convolution, got depth 0"):
        CircularCNN(1, 2, 1, 0, 4)
