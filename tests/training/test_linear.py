"""Networks for the theory: ConvLinear is a convolution and a linear layer, whatever its kernels."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from convscope.dynamics.linear import LinearCNN
from convscope.training.linear import ConvLinear, ReluCNN, dense, scaled_


def layers(network, images):
    return network.linear(network.conv(images).flatten(1))


@given(
    st.integers(1, 7),
    st.integers(1, 7),
    st.integers(1, 3),
    st.integers(1, 3),
    st.integers(1, 7),
    st.sampled_from(["circular", "zeros"]),
)
@settings(max_examples=40, deadline=None)
def test_is_what_its_two_layers_are(h, w, c, filters, size, padding):
    torch.manual_seed(0)
    size = min(size, h, w)
    for dtype, tolerance in ((torch.float64, 1e-12), (torch.float32, 1e-6)):
        network = ConvLinear((c, h, w), 4, filters=filters, kernel_size=size, padding=padding, std=0.3).to(dtype)
        images = torch.randn(5, c, h, w, dtype=dtype)
        expected, found = layers(network, images), network(images)
        scale = float(expected.detach().abs().max()) + 1
        assert float((expected - found).detach().abs().max()) < tolerance * scale * 10
        gradients = [
            torch.autograd.grad(y.square().sum(), list(network.parameters())) for y in (expected, network(images))
        ]
        for slow, fast in zip(*gradients, strict=True):
            torch.testing.assert_close(fast, slow, rtol=100 * tolerance, atol=100 * tolerance * scale**2)


def test_full_kernels_by_default_and_the_theory_reads_its_layers():
    torch.manual_seed(0)
    network = ConvLinear((3, 6, 8), 5, filters=2, std=1e-3)
    assert network.conv.weight.shape == (2, 3, 6, 8)
    read = LinearCNN.of(network.conv, network.linear, (3, 6, 8))
    assert read.padding == "circular"
    assert read.before == (2, 3)
    assert 0.5e-3 < float(network.linear.weight.detach().std()) < 2e-3


def test_kernels_larger_than_images_are_refused():
    with pytest.raises(ValueError, match="larger than the images of 4x5"):
        ConvLinear((1, 4, 5), 3, kernel_size=5)


@pytest.mark.parametrize(("shape", "size"), [((1, 28, 28), 5), ((3, 32, 32), 3), ((2, 9, 7), 5)])
def test_convolutions_with_stride_fit_any_size(shape, size):
    assert ReluCNN(shape, 7, (4, 5, 6), size)(torch.zeros(2, *shape)).shape == (2, 7)


def test_dense_networks():
    torch.manual_seed(0)
    x = torch.randn(3, 2, 4, 4)
    linear = dense((2, 4, 4), 3, (5, 6), linear=True)
    torch.testing.assert_close(linear(2 * x), 2 * linear(x))
    bent = dense((2, 4, 4), 3, (5,))
    assert not torch.allclose(bent(2 * x), 2 * bent(x))
    before = [p.detach().clone() for p in bent.parameters()]
    scaled_(bent, 0.3)
    assert all(torch.equal(p, 0.3 * q) for p, q in zip(bent.parameters(), before, strict=True))
