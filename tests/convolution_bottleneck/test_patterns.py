import numpy as np
import pytest
import torch
from bottleneck_networks import KEPT, SIZE, bumps, frequencies, low_pass, quarters
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import bottleneck_patterns as oracle

from convscope.bottleneck import patterns
from convscope.bottleneck.latents import Latents, latents_of
from convscope.bottleneck.operators import ConvOperator
from convscope.bottleneck.pairs import weight_pairs
from convscope.bottleneck.patterns import decoder_pictures, forward_patterns
from convscope.core.batches import mix
from convscope.core.errors import ConvscopeError

PROFILE = torch.tensor([int(tuple(w) in KEPT) for w in frequencies()[0].tolist()])
PAIRS = weight_pairs(ConvOperator.of(low_pass().module[0], SIZE), PROFILE)


def known_latents(images, network=None):
    return latents_of(network or low_pass(), "0", images, PAIRS)


def every_place():
    """A bump at each position once, so that no shift is preferred."""
    images, at = bumps(1)
    y, x = at[0].tolist()
    one = images[0, 0].roll((-y, -x), (0, 1))
    return torch.stack([one.roll((a, b), (0, 1)) for a in range(SIZE) for b in range(SIZE)])[:, None]


@settings(max_examples=10, deadline=None)
@given(st.integers(5, 30), st.integers(1, 3), st.integers(2, 5), st.integers(0, 99))
def test_pictures_and_shares_are_those_of_plain_regressions(n, c, h, seed):
    rng = torch.Generator().manual_seed(seed)
    images = torch.randn(n, c, h, h + 1, generator=rng)
    values = torch.complex(*torch.randn(2, n, 3, dtype=torch.float64, generator=rng))
    values[:, PAIRS.multiplicity == 1] = values.real[:, PAIRS.multiplicity == 1].to(values.dtype)
    found = forward_patterns(Latents(PAIRS, values, torch.zeros(3, 8, 8), 1.0), images)
    for j in range(3):
        picture = oracle.picture(values[:, j].numpy(), images.double(), int(PAIRS.multiplicity[j]))
        np.testing.assert_allclose(found.pictures[j].numpy(), picture, atol=1e-10)
        assert found.share[j].value == pytest.approx(oracle.share(values[:, j].numpy(), images))
        assert 0 <= found.agreement[j].value <= 1 + 1e-12


def test_halves_agree_as_their_own_pictures_do():
    rng = torch.Generator().manual_seed(0)
    images = torch.randn(12, 2, 3, 4, generator=rng).double()
    c = torch.complex(*torch.randn(2, 12, 3, dtype=torch.float64, generator=rng))
    found = forward_patterns(Latents(PAIRS, c, torch.zeros(3, 8, 8), 1.0), images)
    half = mix(patterns._SEED, torch.arange(12)).argsort().argsort() < 6
    for j in range(3):
        centred = c[:, j] - c[:, j].mean()
        a, b = (
            np.ravel([
                ((x - x.mean(0)) * v.conj()[:, None, None, None]).sum(0) for x, v in [(images[side], centred[side])]
            ])
            for side in (half, ~half)
        )
        cosine = abs(np.vdot(a, b)) / np.linalg.norm(a) / np.linalg.norm(b)
        assert found.agreement[j].value == pytest.approx(cosine)


def test_without_a_preferred_position_a_picture_is_the_pairs_own_wave():
    images = every_place()
    found = forward_patterns(known_latents(images), images)
    moving = (PAIRS.frequencies != 0).any(1)
    torch.testing.assert_close(found.plane[moving], torch.ones(2, dtype=torch.float64))
    assert all(found.agreement[j].decided for j in torch.nonzero(moving)[:, 0].tolist())
    # Phases are shifts: a quarter of a turn moves the wave by a quarter of its length.
    phases = found.phases(4)
    for j in torch.nonzero(moving)[:, 0].tolist():
        axis = int(PAIRS.frequencies[j].abs().argmax())
        quarter = SIZE // 4
        moved = {shift: phases[j, 0, 0].roll(shift, axis) for shift in (quarter, -quarter)}
        assert any(torch.allclose(phases[j, 1, 0], m, atol=1e-12) for m in moved.values())
        torch.testing.assert_close(phases[j, 2], -phases[j, 0])
        # All that the image has at this frequency: share of its energy, both of the pair.
        spectrum = torch.fft.fft2(images - images.mean(0), norm="ortho").abs().square().sum((0, 1))
        ky, kx = PAIRS.frequencies[j].tolist()
        assert found.share[j].value == pytest.approx(float(2 * spectrum[ky, kx] / spectrum.sum()))
        assert found.share[j].decided


def test_a_picture_shows_what_goes_with_a_pair_and_noise_has_none():
    rng = torch.Generator().manual_seed(1)
    images, _ = bumps(60, seed=2)
    spot = torch.zeros(1, SIZE, SIZE).double()
    spot[0, 5, 2] = 1
    latents = known_latents(images)
    zero = int(torch.nonzero((PAIRS.frequencies == 0).all(1))[0])
    values = latents.values.clone()
    amount = torch.randn(60, generator=rng).double()
    values[:, zero] = 3 + 2 * amount
    found = forward_patterns(
        Latents(PAIRS, values, latents.mean_map, 1.0),
        0.3 * torch.randn(60, 1, 8, 8, generator=rng) + amount[:, None, None, None] * spot,
    )
    picture = found.pictures[zero].real
    assert int(picture.argmax()) == 5 * SIZE + 2
    assert float(picture.max()) == pytest.approx(float(amount.std()), rel=0.15)
    assert found.agreement[zero].decided
    assert found.share[zero].decided
    others = [j for j in range(3) if j != zero]
    assert not any(found.share[j].decided for j in others)
    assert not any(found.agreement[j].decided for j in others)


def test_maps_with_more_frequencies_than_the_images_have_no_plane():
    images, _ = bumps(10)
    images = images * torch.linspace(1, 2, 10).double()[:, None, None, None]
    found = forward_patterns(known_latents(images), images[:, :, :1, :1])
    assert found.plane.isnan().tolist() == (PAIRS.frequencies != 0).any(1).tolist()


def test_decoder_pictures_of_a_known_network():
    images, _ = bumps(6)
    network = low_pass()
    latents = known_latents(images)
    moving = torch.nonzero((PAIRS.frequencies != 0).any(1))[:, 0].tolist()
    for j in moving:
        found = decoder_pictures(network, "0", images, latents, j, scales=(0, 0.5, 1, 2))
        # What comes out is the image's own part at this frequency, less its mean, times scale - 1.
        spectrum = torch.fft.fft2(images - images.mean(0), norm="ortho")
        mask = torch.zeros(SIZE, SIZE)
        ky, kx = PAIRS.frequencies[j].tolist()
        mask[ky, kx] = mask[-ky, -kx] = 1
        part = torch.fft.ifft2(spectrum * mask, norm="ortho").real
        expected = torch.stack([(s - 1) * part for s in (0, 0.5, 1, 2)])
        torch.testing.assert_close(found.change, expected, atol=1e-10, rtol=0)
        assert found.mean.abs().max() < 1e-10
        torch.testing.assert_close(found.size[0], part.square().mean(0).sqrt(), atol=1e-10, rtol=0)


def test_decoder_pictures_of_a_classifier_are_changes_of_its_scores():
    images, _ = bumps(6)
    network = quarters()
    latents = known_latents(images, network)
    sizes = {}
    for j, w in enumerate(PAIRS.frequencies.tolist()):
        found = decoder_pictures(network, "0", images, latents, j)
        assert found.change.shape == (3, 6, 4)
        sizes[tuple(w)] = float(found.size.max())
    assert sizes[0, 1] > 0.1
    assert sizes[1, 0] < 1e-10


def test_what_cannot_be_pictured_says_so():
    images, _ = bumps(6)
    latents = known_latents(images)
    with pytest.raises(ValueError, match="6 latents for 5 images"):
        forward_patterns(latents, images[:5])
    with pytest.raises(ConvscopeError, match="too few"):
        forward_patterns(known_latents(images[:3]), images[:3])
    with pytest.raises(ConvscopeError, match="no pairs"):
        forward_patterns(latents_of(low_pass(), "0", images, PAIRS[:0]), images)
    with pytest.raises(ConvscopeError, match="is a ReLU"):
        decoder_pictures(low_pass(), "1", images, latents, 0)
