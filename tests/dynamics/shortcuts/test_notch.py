"""Images without what tells classes apart at a frequency."""

import cmath
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from convscope.core.fourier import partners, signed_frequencies, unitary
from convscope.dynamics.shortcuts.notch import amplitudes, notched, pattern, waves


def coefficient(image, ky, kx):
    """The discrete Fourier coefficient of one image [h, w] at a frequency, summed pixel by pixel."""
    h, w = image.shape
    return sum(
        float(image[y, x]) * cmath.exp(-2j * math.pi * (ky * y / h + kx * x / w)) for y in range(h) for x in range(w)
    ) / math.sqrt(h * w)


def random(*shape, seed=0):
    return torch.rand(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@settings(max_examples=40, deadline=None)
@given(h=st.integers(1, 7), w=st.integers(1, 7), c=st.integers(1, 3), places=st.lists(st.integers(0, 48), max_size=4))
def test_coefficients_of_the_pair_become_those_of_the_mean_and_no_other_changes(h, w, c, places):
    images, mean = random(2, c, h, w), random(c, h, w, seed=1)
    known = signed_frequencies(h, w)
    chosen = [p % (h * w) for p in places]
    found = notched(images, [tuple(known[p].tolist()) for p in chosen], mean)
    both = set(chosen) | {int(partners(h, w)[p]) for p in chosen}
    for i in range(2):
        for k in range(c):
            for place, (ky, kx) in enumerate(known.tolist()):
                wanted = (mean if place in both else images[i])[k]
                assert abs(coefficient(found[i, k], ky, kx) - coefficient(wanted, ky, kx)) < 1e-12


@pytest.mark.parametrize(("h", "w"), [(8, 8), (7, 5), (6, 9), (1, 4)])
def test_every_real_image_is_the_sum_of_its_patterns(h, w):
    image = random(h, w)
    seen, total = set(), torch.zeros(h, w, dtype=torch.float64)
    for place, (ky, kx) in enumerate(signed_frequencies(h, w).tolist()):
        if place in seen:
            continue
        seen |= {place, int(partners(h, w)[place])}
        total += pattern(amplitudes(image, (ky, kx)), (ky, kx), h, w)
    assert torch.allclose(total, image, atol=1e-12)


def test_the_phase_of_a_pattern_stays_where_it_is_when_an_image_grows():
    small, large = (waves((2, 1), size, size)[0] for size in (16, 64))
    assert torch.nn.functional.avg_pool2d(large[None], 4)[0].sub(small).abs().max() < 0.1
    assert torch.equal(amplitudes(small, (2, 1)).round(decimals=9), amplitudes(large, (2, 1)).round(decimals=9))


def test_of_a_pair_either_frequency_and_of_half_a_cycle_either_sign_is_the_same():
    images, mean = random(3, 2, 8, 6), random(2, 8, 6, seed=1)
    for one, other in (((2, 1), (-2, -1)), ((4, 0), (-4, 0)), ((4, 3), (-4, 3)), ((4, 2), (4, -2))):
        assert torch.allclose(notched(images, [one], mean), notched(images, [other], mean), atol=1e-13)
        assert torch.allclose(notched(images, [one, other], mean), notched(images, [one], mean), atol=1e-13)


def test_planted_stripes_are_gone_and_the_class_has_no_mean_of_its_own():
    images, labels = random(60, 3, 9, 10), torch.arange(60) % 3
    images[labels == 1] += 0.2 * waves((3, 2), 9, 10)[1]
    clean = notched(images, [(3, 2)], images.mean(0))
    spectra = unitary(torch.stack([clean[labels == k].mean(0) for k in range(3)]))
    assert (spectra[:, :, 3, 2] - spectra[:1, :, 3, 2]).abs().max() < 1e-12
    assert (unitary(clean).abs()[:, :, 3, 2] - unitary(clean.mean(0)).abs()[:, 3, 2]).abs().max() < 1e-12


def test_images_keep_their_type_and_are_not_changed_in_place():
    images = random(2, 1, 4, 4).float()
    before = images.clone()
    assert notched(images, [(1, 0)], images.mean(0)).dtype == torch.float32
    assert torch.equal(images, before)
    assert torch.equal(notched(images, [], images.mean(0)), images)
    whole = (255 * images).to(torch.uint8)
    assert notched(whole, [(1, 0)], whole.double().mean(0)).dtype == torch.float32


@pytest.mark.parametrize("frequency", [(5, 0), (0, -3), (-5, 1)])
def test_a_frequency_that_the_images_do_not_have_is_an_error(frequency):
    with pytest.raises(ValueError, match="beyond half a cycle per pixel of images of 8x4 pixels"):
        notched(random(2, 1, 8, 4), [frequency], random(1, 8, 4))


@pytest.mark.parametrize(("images", "mean"), [((8, 4), (8, 4)), ((2, 1, 8, 4), (8, 4)), ((2, 1, 8, 4), (3, 8, 4))])
def test_shapes_that_do_not_fit_are_an_error(images, mean):
    with pytest.raises(ValueError, match="expects images"):
        notched(random(*images), [(1, 1)], random(*mean))
