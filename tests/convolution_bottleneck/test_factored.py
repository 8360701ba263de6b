"""Convolutions in factors: against loops, and what they cost."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import bottleneck_factored as oracle
from torch import nn

from convscope.bottleneck.factored import (
    ChannelForm,
    FrequencyForm,
    alone,
    channel_cost,
    dense_cost,
    frequency_cost,
    with_layers,
)
from convscope.bottleneck.forms import Candidate, LayerMoments, channel_option, frequency_option
from convscope.bottleneck.sensitivity import layer_moments
from convscope.core.batches import Batch
from convscope.core.errors import ConvscopeError
from convscope.core.fourier import pairs, signed_frequencies
from convscope.core.network import Network
from convscope.core.streams import Probes


def random_form(seed, c, k, size, count):
    generator = torch.Generator().manual_seed(seed)
    places, _ = pairs(*size)
    at = places[torch.randint(len(places), (count,), generator=generator)]
    frequencies = signed_frequencies(*size)[at]
    left, right = (torch.complex(*torch.randn(2, count, n, dtype=torch.float64, generator=generator)) for n in (k, c))
    real = alone(frequencies, size)
    left[real], right[real] = left[real].real.to(left.dtype), right[real].real.to(right.dtype)
    return frequencies, left, right, torch.randn(k, dtype=torch.float64, generator=generator)


@settings(max_examples=25, deadline=None)
@given(
    st.integers(0, 999), st.integers(1, 3), st.integers(1, 3), st.integers(1, 5), st.integers(1, 5), st.integers(1, 6)
)
def test_the_frequency_form_is_the_sum_over_its_pairs(seed, c, k, h, w, count):
    frequencies, left, right, bias = random_form(seed, c, k, (h, w), count)
    conv = nn.Conv2d(c, k, 1).double()
    form = FrequencyForm.of(conv, (h, w), frequencies, left, right, bias)
    x = torch.randn(2, c, h, w, dtype=torch.float64)
    for image, found in zip(x, form(x), strict=True):
        wanted = oracle.frequency_form(image.numpy(), frequencies.numpy(), left.numpy(), right.numpy(), bias.numpy())
        np.testing.assert_allclose(found.detach().numpy(), wanted, atol=1e-10)
    numbers, _ = frequency_cost(c, k, (h, w), torch.tensor(form.pairs), torch.tensor(form.twofold))
    assert sum(t.numel() for t in form.state_dict().values()) == int(numbers)


def test_a_frequency_with_all_its_directions_is_that_of_the_convolution():
    torch.manual_seed(0)
    conv = nn.Conv2d(3, 2, (4, 6), padding="same", padding_mode="circular").double()
    eye, mean = torch.eye(2, dtype=torch.float64), torch.randn(2, dtype=torch.float64)
    by_frequency = torch.eye(2, dtype=torch.complex128).expand(2, 14, 2, 2)
    option = frequency_option(conv, LayerMoments((4, 6), 24, mean, eye, eye, by_frequency))
    assert int(option.kept[-1]) < option.of == 48  # more would take more numbers than the convolution
    form = option.build(len(option.kept) - 1)
    x = torch.randn(5, 3, 4, 6).double()
    found, wanted = (torch.fft.fft2(f(x).detach()) for f in (form, conv))
    whole = 0
    for ky, kx in form.frequencies.unique(dim=0).tolist():
        if int((form.frequencies == torch.tensor([ky, kx])).all(1).sum()) == 2:
            whole += 1
            for sign in (1, -1):
                at = (..., sign * ky % 4, sign * kx % 6)
                torch.testing.assert_close(found[at], wanted[at])
    assert whole > 3


def test_another_map_size_is_refused_and_half_precision_taken():
    conv = nn.Conv2d(1, 1, 1)
    form = FrequencyForm.of(
        conv, (4, 4), torch.zeros(1, 2, dtype=torch.int64), torch.ones(1, 1) + 0j, torch.ones(1, 1) + 0j, torch.zeros(1)
    )
    with pytest.raises(ConvscopeError, match="4x4, got 5x4"):
        form(torch.zeros(1, 1, 5, 4))
    half = form.half()(torch.ones(1, 1, 4, 4, dtype=torch.float16))
    assert half.dtype == torch.float16
    assert torch.allclose(half, torch.ones_like(half))


@settings(max_examples=15, deadline=None)
@given(
    st.integers(0, 99), st.integers(1, 3), st.integers(2, 4), st.sampled_from(["zeros", "circular", "reflect"]),
    st.integers(1, 2), st.integers(1, 2), st.booleans(),
)  # fmt: skip
def test_the_channel_form_replaces_what_it_drops_by_the_mean(seed, c, k, mode, stride, dilation, bias):
    torch.manual_seed(seed)
    conv = nn.Conv2d(c, k, 3, stride, 1, dilation, bias=bias, padding_mode=mode).double()
    x = torch.randn(3, c, 7, 8, dtype=torch.float64)
    z = conv(x).detach()
    mean, encode, decode = z.mean((0, 2, 3)), torch.randn(2, k).double(), torch.randn(k, 2).double()
    found = ChannelForm.of(conv, encode, decode, mean)(x)
    wanted = torch.empty_like(z)
    for i in range(3):
        for y in range(z.shape[2]):
            for j in range(z.shape[3]):
                wanted[i, :, y, j] = mean + decode @ (encode @ (z[i, :, y, j] - mean))
    torch.testing.assert_close(found, wanted)
    assert sum(t.numel() for t in ChannelForm(conv, 2).parameters()) == channel_cost(conv, 1, torch.tensor(2))[0]
    assert dense_cost(conv, 56).multiply_adds == 9 * c * k * 56


def test_costs_by_hand():
    conv = nn.Conv2d(4, 8, 8, padding="same", padding_mode="circular")
    numbers, adds = channel_cost(conv, 64, torch.tensor([1, 3]))
    assert numbers.tolist() == [256 + 8 + 8, 3 * (256 + 8) + 8]
    assert adds.tolist() == [64 * 264, 64 * 3 * 264]
    # 3 pairs, 2 of them twofold: 5 real dimensions; transforms of 12 maps of 64 points.
    numbers, adds = frequency_cost(4, 8, (8, 8), torch.tensor(3), torch.tensor(2))
    assert (float(numbers), float(adds)) == (5 * 12 + 6 + 8, 12 * 1.25 * 64 * 6 + 12 * 9)


def chain(padding_mode="circular", seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(2, 3, 3, padding=1, padding_mode=padding_mode), nn.ReLU(inplace=True), nn.Conv2d(3, 2, 1)
    ).double()


def test_moments_are_those_of_loops():
    module, x = chain(), torch.randn(40, 2, 4, 5, dtype=torch.float64)
    network = Network("chain", module)
    index = torch.arange(len(x)) + 7
    convs = {"0": module[0], "2": module[2]}
    found, variance, skipped, notes = layer_moments(network, x, index, convs)
    assert (skipped, notes) == ([], [])
    z = module[0](x).detach()
    f = module(x).detach().flatten(1)
    assert variance == pytest.approx(float((f - f.mean(0)).square().sum() / len(f)))
    # The gradient at the first layer: of signs, which batches and their sizes do not change.
    leaf = module[0](x).detach().requires_grad_()
    out = module[2](leaf.relu()).flatten(1)
    signs = next(Probes().vectors(out, Batch.of(x, None, index)))
    (gradient,) = torch.autograd.grad(out, leaf, signs)
    mean, covariance, products, by_frequency = oracle.moments(z.numpy(), gradient.numpy())
    even = np.eye(3) * np.trace(products) / 3
    own = found["0"]
    assert (own.size, own.positions) == ((4, 5), 20)
    np.testing.assert_allclose(own.mean, mean, atol=1e-12)
    np.testing.assert_allclose(own.covariance, covariance, atol=1e-12)
    np.testing.assert_allclose(own.gradient, (40 * products + even) / 41, atol=1e-12)
    places, multiplicity = pairs(4, 5)
    assert multiplicity.sum() == 20
    for f, (ky, kx) in enumerate(signed_frequencies(4, 5)[places].tolist()):
        second, gradients = by_frequency[ky % 4, kx % 5]
        np.testing.assert_allclose(own.by_frequency[0, f], second, atol=1e-11)
        np.testing.assert_allclose(own.by_frequency[1, f], (40 * gradients + even / 20) / 41, atol=1e-11)
    # The last layer's output is the network's own: its gradients' products are near the identity.
    error = channel_option(module[2], found["2"])
    change = (with_layers(module, {"2": error.build(0)})(x) - module(x)).detach().square().sum() / len(x)
    assert float(change) == pytest.approx(float(error.error[0]), rel=0.1)


@pytest.mark.parametrize(("kernel", "tried"), [((1, 1), False), ((1, 3), True)])
def test_filters_of_one_pixel_get_no_frequency_form(kernel, tried):
    """A channel form of as many numbers holds the directions of all frequencies."""
    module = nn.Sequential(nn.Conv2d(2, 3, kernel, padding="same", padding_mode="circular"))
    found, *_ = layer_moments(Network("conv", module), torch.rand(8, 2, 4, 5), torch.arange(8), {"0": module[0]})
    assert (found["0"].by_frequency is not None) == tried


def test_expected_errors_are_errors_of_the_last_layer():
    module, x = nn.Sequential(chain()[0]), torch.randn(60, 2, 4, 5, dtype=torch.float64)
    found, _, _, _ = layer_moments(Network("conv", module), x, torch.arange(60), {"0": module[0]})
    own, eye = found["0"], torch.eye(3, dtype=torch.float64)
    spectral = torch.stack([own.by_frequency[0], eye.to(torch.complex128).expand(own.by_frequency.shape[1:])])
    exact = replace(own, gradient=20 * eye, by_frequency=spectral)
    for option in (channel_option(module[0], exact), frequency_option(module[0], exact)):
        assert bool((option.error.diff() <= 1e-9).all())
        for size in range(len(option.kept)):
            changed = with_layers(module, {"0": option.build(size)})
            change = float((changed(x) - module(x)).detach().square().sum() / 60)
            assert change == pytest.approx(float(option.error[size]), rel=1e-9, abs=1e-12)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 99), st.floats(-9, 2))
def test_the_choice_is_the_cheapest_of_all(seed, logarithm):
    torch.manual_seed(seed)
    conv = nn.Conv2d(6, 6, 4, padding="same", padding_mode="circular").double()
    module = nn.Sequential(conv, nn.ReLU())
    mix = torch.randn(6, 6, dtype=torch.float64) * torch.logspace(0, -3, 6, dtype=torch.float64)
    conv.weight.data = torch.einsum("ij,jcqr->icqr", mix, conv.weight.data)
    moments, variance, _, _ = layer_moments(
        Network("n", module), torch.randn(30, 6, 4, 4, dtype=torch.float64), torch.arange(30), {"0": conv}
    )
    layer, price = Candidate.of(conv, moments["0"]), 10**logarithm * variance / 582
    options = {
        o.form: list(zip(o.error.tolist(), o.numbers.tolist(), o.multiply_adds.tolist(), strict=True))
        for o in layer.options
    }
    wanted = oracle.cheapest(options, price, (layer.dense.numbers, layer.dense.multiply_adds))
    found = layer.choose(price)
    assert (None if found is None else (found.option.form, found.size)) == wanted


def test_the_copy_leaves_the_network_alone():
    module = nn.Sequential(nn.Sequential(nn.Conv2d(1, 1, 1)), nn.ReLU()).train()
    changed = with_layers(module, {"0.0": nn.Identity()})
    assert isinstance(module[0][0], nn.Conv2d)
    assert isinstance(changed[0][0], nn.Identity)
    assert changed[0][0].training

    class Uncopyable(nn.Module):
        def __deepcopy__(self, memo):
            raise RuntimeError("no")

    with pytest.raises(ConvscopeError, match="cannot be copied"):
        with_layers(Uncopyable(), {})
