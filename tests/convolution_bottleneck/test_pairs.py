import copy
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from bottleneck_networks import GAINS, KEPT, SIZE, bumps, frequencies, low_pass, transfer
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import bottleneck_patterns as oracle
from torch import nn

from convscope.bottleneck.factors import factor_matches
from convscope.bottleneck.interventions import changed_outputs, module_outputs
from convscope.bottleneck.latents import Latents, latents_of
from convscope.bottleneck.operators import ConvOperator
from convscope.bottleneck.pairs import KeptPairs, activation_pairs, random_pairs, weight_pairs
from convscope.core.errors import ConvscopeError
from convscope.core.network import Network

PROFILE = torch.tensor([int(tuple(w) in KEPT) for w in frequencies()[0].tolist()])


def low_pass_pairs():
    network = low_pass()
    return network, weight_pairs(ConvOperator.of(network.module[0], SIZE), PROFILE)


def spectrum(maps):
    """The channels' covariances at each frequency, by plain sums."""
    n, _, h, w = maps.shape
    found, multiplicity = frequencies(h) if h == w else pytest.fail("square maps only")
    z = torch.fft.fft2(maps.double(), norm="ortho")[:, :, found[:, 0] % h, found[:, 1] % w]
    z = z - z.mean(0)
    moments = torch.einsum("nkf,nlf->fkl", z, z.conj()) / n
    return SimpleNamespace(moments=moments, frequencies=found, multiplicity=multiplicity, size=(h, w))


def some_pairs(h, k, m, seed, scale=None):
    maps = torch.randn(2 * k + 3, k, h, h, generator=torch.Generator().manual_seed(seed)).double()
    return maps, activation_pairs(spectrum(maps), share=1.0, most=m, scale=scale)


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 6), st.integers(1, 4), st.integers(0, 99))
def test_latents_and_maps_are_those_of_plain_sums(h, k, seed):
    scale = torch.rand(k, generator=torch.Generator().manual_seed(seed)).double() + 0.5
    maps, pairs = some_pairs(h, k, 7, seed, scale)
    found = pairs.latents(maps)
    expected = oracle.latents(maps, pairs.frequencies.tolist(), pairs.directions.numpy(), scale.numpy())
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-10)
    assert found.imag[:, pairs.multiplicity == 1].abs().sum() == 0
    # The maps of latents have these latents, and taking a pair's deviations away is what the oracle does.
    torch.testing.assert_close(pairs.latents(pairs.maps(found)), found, atol=1e-10, rtol=0)
    for j in range(min(3, len(pairs))):
        one = pairs[j : j + 1]
        left = maps - one.maps(found[:, j : j + 1] - found[:, j : j + 1].mean(0))
        direct = oracle.without(maps, one.frequencies[0].tolist(), one.directions[0].numpy(), scale.numpy())
        np.testing.assert_allclose(left.numpy(), direct, atol=1e-10)


def test_pairs_of_activations_are_principal_components_and_their_latents_uncorrelated():
    maps, pairs = some_pairs(5, 3, None, 1)
    c = pairs.latents(maps)
    c = c - c.mean(0)
    torch.testing.assert_close(c.abs().square().mean(0).sqrt(), pairs.strength, atol=1e-12, rtol=0)
    same = (pairs.frequencies[:, None] == pairs.frequencies).all(2)
    covariance = (c.mH @ c / len(c))[same] - torch.diag(pairs.strength.square()).to(c.dtype)[same]
    assert covariance.abs().max() < 1e-12
    held = pairs.multiplicity * pairs.strength.square()
    assert (held.diff() <= 1e-12).all()
    assert float(held.sum()) == pytest.approx(float((maps - maps.mean(0)).square().sum(1).mean(0).sum()))
    half = activation_pairs(spectrum(maps), share=0.5)
    assert float(held[: len(half)].sum()) >= 0.5 * float(held.sum()) > float(held[: len(half) - 1].sum())


def test_pairs_of_weights_are_the_singular_vectors_of_a_known_network():
    network, pairs = low_pass_pairs()
    assert pairs.rank == 5
    assert {tuple(w) for w in pairs.frequencies.tolist()} == KEPT
    gain = float(GAINS.square().sum().sqrt())
    torch.testing.assert_close(pairs.strength, torch.full((3,), gain, dtype=torch.float64))
    for u, w in zip(pairs.directions, pairs.frequencies, strict=True):
        assert float((u.conj() @ transfer(w[None])[0, :, 0]).abs()) == pytest.approx(gain)
    assert pairs.directions[pairs.multiplicity == 1].imag.abs().max() == 0
    images, _ = bumps()
    found = latents_of(network, "0", images, pairs)
    # In a linear layer the two sources agree: activations know no more than what comes in.
    maps = torch.cat([m for _, m in module_outputs(network, "0", images)])
    other = activation_pairs(spectrum(maps), share=1 - 1e-9)
    for j, w in enumerate(other.frequencies.tolist()):
        at = [i for i, v in enumerate(pairs.frequencies.tolist()) if v == w]
        assert float((other.directions[j].conj() @ pairs.directions[at[0]]).abs()) == pytest.approx(1)
    assert float(found.share.sum()) == pytest.approx(1)


@pytest.mark.parametrize(
    "conv",
    [
        nn.Conv2d(4, 6, 3, stride=2, padding=1, padding_mode="circular"),
        nn.Conv2d(4, 6, 3, padding=1, padding_mode="circular", groups=2),
        nn.Conv2d(4, 4, 3, padding=1, padding_mode="circular", groups=4),
    ],
    ids=["stride", "groups", "depthwise"],
)
def test_pairs_of_weights_under_strides_and_groups(conv):
    operator = ConvOperator.of(conv, 8)
    most = operator.groups * min(operator.block_shape)
    multiplicity = operator.half_plane[1]
    pairs = weight_pairs(operator, torch.full_like(multiplicity, most))
    blocks = operator.blocks(operator.half_plane[0])
    values = torch.linalg.svdvals(blocks).square().sum((1, 2))
    assert float((pairs.multiplicity * pairs.strength.square()).sum()) == pytest.approx(
        float((values * multiplicity).sum())
    )
    for w in operator.half_plane[0].tolist():
        own = pairs.directions[(pairs.frequencies == torch.tensor(w)).all(1)]
        torch.testing.assert_close(own.conj() @ own.mT, torch.eye(most).to(own.dtype), atol=1e-10, rtol=0)
    # Everything that the convolution puts out lies in the span of its pairs.
    maps = conv.double()(torch.randn(3, 4, 8, 8).double()).detach() - conv.bias.detach()[:, None, None]
    torch.testing.assert_close(pairs.maps(pairs.latents(maps)), maps, atol=1e-9, rtol=0)


def test_phases_are_positions():
    network, pairs = low_pass_pairs()
    images, at = bumps()
    latents = latents_of(network, "0", images, pairs)
    shapes = {"where": at / SIZE, "elsewhere": at.flip(0) / SIZE}
    found = factor_matches(latents, shapes)
    moving = (pairs.frequencies != 0).any(1)
    torch.testing.assert_close(found["where"].alone[moving], torch.ones(2, dtype=torch.float64))
    assert found["where"].alone[~moving].isnan().all()
    for w, number in zip(found["where"].frequencies.tolist(), found["where"].together, strict=True):
        if w == [0, 0]:
            assert np.isnan(number.value)
        else:
            assert number.value == pytest.approx(1)
            assert number.decided
    assert all(not n.decided for n in found["elsewhere"].together)
    # A bump of constant size leaves nothing for frequency 0 but the offset.
    assert latents.carriers.tolist() == (~moving).tolist()
    torch.testing.assert_close(latents.share[moving].sum(), torch.tensor(1.0).double())
    frame = latents.to_frame()
    assert list(frame["offset carrier"]) == (~moving).tolist()


def test_an_amplitude_shows_at_frequency_zero_and_is_no_offset():
    network, pairs = low_pass_pairs()
    images, _ = bumps()
    size = torch.rand(len(images), generator=torch.Generator().manual_seed(3)).double() + 0.5
    found = latents_of(network, "0", images * size[:, None, None, None] * 40, pairs)
    zero = (pairs.frequencies == 0).all(1)
    assert float(factor_matches(found, {"size": size})["size"].alone[zero][0]) == pytest.approx(1)
    assert not found.carriers.any()


def test_a_mixture_of_equally_strong_pairs_changes_no_multiple_correlation():
    rng = torch.Generator().manual_seed(0)
    n = 60
    c = torch.complex(*torch.randn(2, n, 2, dtype=torch.float64, generator=rng))
    factor = c[:, 0] + 0.3 * torch.complex(*torch.randn(2, n, dtype=torch.float64, generator=rng))
    frame = torch.linalg.qr(torch.complex(*torch.randn(2, 2, 2, dtype=torch.float64, generator=rng))).Q

    def match(values):
        where = torch.tensor([[0, 1], [0, 1]])
        ones = torch.ones(2, dtype=torch.float64)
        pairs = KeptPairs(
            (4, 4), where, torch.tensor([2, 2]), torch.arange(2), ones, torch.eye(2).cdouble(), ones, "weights"
        )
        return factor_matches(Latents(pairs, values, torch.zeros(2, 4, 4), 1.0), {"f": factor})["f"]

    plain, mixed = match(c), match(c @ frame)
    assert plain.together[0].value == pytest.approx(mixed.together[0].value)
    assert plain.together[0].value == pytest.approx(oracle.multiple_correlation(c.numpy(), factor.numpy()))
    assert not torch.allclose(plain.alone, mixed.alone, atol=0.05)
    low, high = plain.together[0].chance
    assert 0 < low < high < 0.5
    assert 0 < plain.together[0].spread < 0.1


def test_random_pairs_are_like_those_they_stand_beside():
    _, pairs = some_pairs(6, 4, 30, 0)
    found = random_pairs(pairs, 1)
    assert found.rank == pairs.rank
    assert sorted(found.multiplicity.tolist()) == sorted(pairs.multiplicity.tolist())
    known, multiplicity = frequencies(6)
    kinds = {tuple(w): int(m) for w, m in zip(known.tolist(), multiplicity, strict=True)}
    assert [kinds[tuple(w)] for w in found.frequencies.tolist()] == found.multiplicity.tolist()
    same = (found.frequencies[:, None] == found.frequencies).all(2)
    gram = found.directions.conj() @ found.directions.mT
    torch.testing.assert_close(gram[same], torch.eye(len(found)).to(gram.dtype)[same], atol=1e-12, rtol=0)
    assert found.directions[found.multiplicity == 1].imag.abs().max() == 0
    assert not torch.equal(random_pairs(pairs, 2).directions, found.directions)
    torch.testing.assert_close(random_pairs(pairs, 1).directions, found.directions)


def test_networks_are_left_as_they_were():
    network, pairs = low_pass_pairs()
    network.module.train()
    before = copy.deepcopy(network.module.state_dict())
    images, _ = bumps(5)
    latents_of(network, "0", images, pairs)
    with pytest.raises(ConvscopeError, match="fails on images"):
        changed_outputs(network, "0", images, lambda _maps, _rows: 1 / 0)
    assert network.module.training
    assert not any(m._forward_hooks for m in network.module.modules())
    assert all(torch.equal(a, b) for a, b in zip(before.values(), network.module.state_dict().values(), strict=True))


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 1, 3, padding=1)

    def forward(self, x):
        return self.conv(self.conv(x))


def test_what_cannot_be_analysed_says_so():
    network, pairs = low_pass_pairs()
    images, _ = bumps(5)
    with pytest.raises(ConvscopeError, match="no module 'nothing'"):
        latents_of(network, "nothing", images, pairs)
    with pytest.raises(ConvscopeError, match="is a ReLU"):
        latents_of(network, "1", images, pairs)
    with pytest.raises(ConvscopeError, match="maps are"):
        latents_of(network, "2", images, pairs)
    with pytest.raises(ConvscopeError, match="runs 2 times"):
        latents_of(Network("twice", Twice().double()), "conv", images, pairs)
    with pytest.raises(ConvscopeError, match="give at least one"):
        latents_of(network, "0", images[:0], pairs)
    with pytest.raises(ConvscopeError, match="transposed"):
        weight_pairs(ConvOperator.of(nn.ConvTranspose2d(2, 2, 3), 4), PROFILE)
    with pytest.raises(ValueError, match="profile must hold"):
        weight_pairs(ConvOperator.of(network.module[0], SIZE), PROFILE[:3])
    with pytest.raises(ConvscopeError, match="nothing varies"):
        activation_pairs(spectrum(torch.ones(3, 2, 4, 4)))
    found = spectrum(torch.randn(3, 2, 4, 4))
    with pytest.raises(ValueError, match="share must be"):
        activation_pairs(found, share=0)
    found.moments = None
    with pytest.raises(ConvscopeError, match="sketched"):
        activation_pairs(found)
    latents = latents_of(network, "0", images, pairs)
    with pytest.raises(ValueError, match="'where' has the shape"):
        factor_matches(latents, {"where": torch.zeros(4)})
    with pytest.raises(ValueError, match="not finite"):
        factor_matches(latents, {"where": torch.full((5,), torch.nan)})


def test_no_pair_is_a_defined_value():
    network, _ = low_pass_pairs()
    pairs = weight_pairs(ConvOperator.of(network.module[0], SIZE), 0 * PROFILE)
    images, _ = bumps(3)
    assert (len(pairs), pairs.rank) == (0, 0)
    latents = latents_of(network, "0", images, pairs)
    assert latents.values.shape == (3, 0)
    assert pairs.maps(latents.values).abs().sum() == 0
