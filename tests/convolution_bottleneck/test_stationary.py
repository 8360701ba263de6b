import math
from itertools import pairwise

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from oracles.bottleneck_cost import near_isometries
from oracles.bottleneck_rank import conv_of, known_bottleneck
from torch import nn

from convscope.bottleneck.operators import ConvOperator
from convscope.bottleneck.singular import singular_values
from convscope.bottleneck.stationary import ntk_by_frequency, theorem_c
from convscope.bottleneck.wiring import plain_chain
from convscope.core.errors import ConvscopeError
from convscope.core.fourier import pairs, unitary

LOW = [(0, 0), (0, 1), (1, 0)]


def network(size, widths, kernel=None, gate=nn.ReLU, seed=0, **options):
    """Circular convolutions with gates between them; filters as large as the map unless a kernel is given."""
    torch.manual_seed(seed)
    how = {"padding": "same", "padding_mode": "circular"} | options
    convs = [nn.Conv2d(c, k, kernel or size, **how) for c, k in pairwise(widths)]
    parts = [part for conv in convs for part in (conv, gate())]
    return nn.Sequential(*parts[:-1]).double()


def chain_of(module, c, size):
    return plain_chain(module, torch.zeros(1, c, *size))


@settings(max_examples=6, deadline=None)
@given(
    st.integers(0, 2**31), st.sampled_from([(3, 4), (3, 3)]), st.sampled_from([None, 3, 5]), st.sampled_from([0.5, 2.0])
)
def test_layers_are_as_near_to_partial_isometries_as_their_norm_says(seed, size, kernel, scale):
    module = network(size, [2, 3, 3, 1], kernel, seed=seed)
    with torch.no_grad():
        for p in module.parameters():
            p.mul_(scale)
    image = torch.randn(2, *size, dtype=torch.float64)
    assume(bool(module(image[None]).std() > 1e-9))  # else no path of the network is active
    found = theorem_c(chain_of(module, 2, size), image)
    assert found.found <= found.allowed * (1 + 1e-9)
    distances, biases, allowed, k = near_isometries([m for m in module if isinstance(m, nn.Conv2d)], image)
    assert found.rank == k
    assert found.distances.tolist() == pytest.approx(distances, rel=1e-6)
    assert (found.biases, found.allowed) == (pytest.approx(biases), pytest.approx(allowed, rel=1e-6))


def test_it_holds_through_strides_zeros_pooling_and_heads():
    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Conv2d(2, 3, 3, padding=1, stride=2), nn.ReLU(), nn.Conv2d(3, 4, 3, padding=1), nn.ReLU6(),
        nn.AvgPool2d(2), nn.Conv2d(4, 4, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3),
    ).double()  # fmt: skip
    chain = chain_of(module, 2, (8, 8))
    for image in torch.randn(3, 2, 8, 8, dtype=torch.float64):
        found = theorem_c(chain, image)
        assert found.found <= found.allowed
        assert found.rank <= 3


def test_isometries_leave_no_distance_and_noise_little():
    convs = known_bottleneck(6, 5, 4, LOW)
    chain = chain_of(nn.Sequential(*convs), 1, (6, 6))
    exact = theorem_c(chain, torch.randn(1, 6, 6))
    assert (exact.found, exact.allowed, exact.rank) == (pytest.approx(0, abs=1e-9), pytest.approx(0, abs=1e-9), 5)
    generator = torch.Generator().manual_seed(0)
    for step in chain.steps:
        step.weight.add_(1e-4 * torch.randn(step.weight.shape, generator=generator))
    near = theorem_c(chain, torch.randn(1, 6, 6))
    assert 0 < near.found <= near.allowed < 0.01
    # Most layers keep the distance that the bound gives them, and with it their singular values.
    limit = near.within(0.6)
    good = [i for i, distance in enumerate(near.distances.tolist()) if distance <= limit]
    assert len(good) >= 0.6 * len(chain.steps)
    for i in good:
        step = chain.steps[i]
        s = singular_values(ConvOperator.of_weight(step.weight, step.geometry, step.size)).full()
        assert float((s[:5] - 1).square().sum() + s[5:].square().sum()) <= limit


def gradients(module, layer, image, directions):
    """Gradients of <v, f> with respect to a layer's weight by autograd, float64 [m, k, c, q, r]."""
    weight = dict(module.named_parameters())[f"{layer}.weight"]
    out = module(image[None])[0]
    return torch.stack([torch.autograd.grad((v * out).sum(), weight, retain_graph=True)[0] for v in directions])


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 2**31), st.sampled_from([(4, 4), (3, 5), (5, 2)]), st.sampled_from(["0", "2", "4"]))
def test_gradients_split_over_frequencies_exactly(seed, size, layer):
    module = network(size, [2, 3, 3, 2], seed=seed)
    image, directions = torch.randn(2, *size).double(), torch.randn(3, 2, *size).double()
    found = ntk_by_frequency(chain_of(module, 2, size), layer, image, directions)
    true = gradients(module, layer, image, directions)
    assert found.exact
    assert found.total == pytest.approx(float(true.square().sum()), rel=1e-10)
    assert found.gradient == pytest.approx(float(true.square().sum()), rel=1e-10)
    # Frequency by frequency it is the energy of the gradient's own transform.
    places, multiplicity = pairs(*size)
    energy = unitary(true).abs().square().sum((0, 1, 2)).flatten()[places] * multiplicity
    torch.testing.assert_close(found.contribution, energy, rtol=1e-9, atol=1e-12 * float(energy.sum()))
    assert torch.equal(found.multiplicity, multiplicity)


def test_smaller_filters_are_bounded_by_filters_as_large_as_the_map():
    module = network((6, 6), [1, 3, 2], kernel=3)
    large = network((6, 6), [1, 3, 2])
    with torch.no_grad():
        for a, b in zip(module, large, strict=True):
            if isinstance(a, nn.Conv2d):
                b.weight.zero_()
                b.bias.copy_(a.bias)
                b.weight[:, :, 1:4, 1:4] = a.weight  # the centre of "same" padding is tap 2 of 6
    image, directions = torch.randn(1, 6, 6).double(), torch.randn(1, 2, 6, 6).double()
    small, whole = (ntk_by_frequency(chain_of(m, 1, (6, 6)), "2", image, directions) for m in (module, large))
    torch.testing.assert_close(small.contribution, whole.contribution)
    assert (small.exact, whole.exact) == (False, True)
    assert small.gradient == pytest.approx(float(gradients(module, "2", image, directions).square().sum()))
    assert small.gradient < small.total == pytest.approx(whole.gradient)


def test_what_follows_may_be_pooled_and_linear():
    torch.manual_seed(0)
    body = network((4, 4), [1, 3, 3])
    module = nn.Sequential(*body, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 2)).double()
    image, directions = torch.randn(1, 4, 4).double(), torch.eye(2).double()
    found = ntk_by_frequency(chain_of(module, 1, (4, 4)), "2", image, directions)
    assert found.total == pytest.approx(float(gradients(module, "2", image, directions).square().sum()), rel=1e-10)


def test_other_networks_are_refused():
    image = torch.randn(1, 4, 4)
    leaky = chain_of(network((4, 4), [1, 2, 1], gate=lambda: nn.LeakyReLU(0.1)), 1, (4, 4))
    with pytest.raises(ConvscopeError, match="slope 0 or 1"):
        theorem_c(leaky, image)
    wide = chain_of(network((9, 9), [1, 64, 1], 3), 1, (9, 9))
    with pytest.raises(ConvscopeError, match="5184 values"):
        theorem_c(wide, torch.randn(1, 9, 9))
    dead = chain_of(conv_of(torch.zeros(4, 4, 1, 1)), 1, (4, 4))
    with pytest.raises(ConvscopeError, match="Jacobian is zero"):
        theorem_c(dead, image)
    zeros = chain_of(network((4, 4), [1, 2, 1], 3, padding_mode="zeros"), 1, (4, 4))
    with pytest.raises(ConvscopeError, match="0 is no circular convolution"):
        ntk_by_frequency(zeros, "0", image, torch.ones(1, 1, 4, 4))
    plain = chain_of(network((4, 4), [2, 2, 2], 3, groups=2), 2, (4, 4))
    with pytest.raises(ConvscopeError, match="2 groups"):
        ntk_by_frequency(plain, "0", torch.randn(2, 4, 4), torch.ones(1, 2, 4, 4))
    large = chain_of(network((4, 4), [1, 2], 5), 1, (4, 4))
    with pytest.raises(ConvscopeError, match="larger than its maps"):
        ntk_by_frequency(large, "0", image, torch.ones(1, 2, 4, 4))
    with pytest.raises(ValueError, match="layer must be one of 0, 2"):
        ntk_by_frequency(leaky, "1", image, torch.ones(1, 1, 4, 4))
    with pytest.raises(ValueError, match="directions"):
        ntk_by_frequency(leaky, "0", image, torch.ones(1, 4, 4))
    with pytest.raises(ValueError, match="share"):
        theorem_c(chain_of(network((4, 4), [1, 2]), 1, (4, 4)), image).within(1)
    assert math.isfinite(theorem_c(chain_of(network((4, 4), [1, 2]), 1, (4, 4)), image).allowed)
