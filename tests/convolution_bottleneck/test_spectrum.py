import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import bottleneck_spectrum as oracle

from convscope.bottleneck.collect import SpectrumSums
from convscope.bottleneck.spectrum import ActivationSpectrum
from convscope.bottleneck.waves import Waves
from convscope.core.accumulate import Folded
from convscope.core.batches import Batch
from convscope.core.fourier import pairs


def maps_of(n, k, h, w, seed=0, dtype=torch.float64):
    """Maps whose channels depend on each other and whose neighbours do, with a mean that is not 0."""
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(n, k, h, w, generator=g, dtype=torch.float64)
    x = x + 0.7 * x.roll(1, 3) - 0.4 * x.roll(1, 2)
    x = torch.einsum("ij,njhw->nihw", torch.randn(k, k, generator=g, dtype=torch.float64), x)
    return (x + 2 * torch.rand(k, h, w, generator=g, dtype=torch.float64)).to(dtype)


def spectrum_of(x, columns=None, folds=1, **options):
    batch = Batch.of(x, None, torch.arange(len(x)))
    sums = Folded(lambda: SpectrumSums(columns, **options), folds) if folds > 1 else SpectrumSums(columns, **options)
    sums.update(x, batch)
    return sums.compute()


def waves_only(n, h, w, frequencies, seed=0):
    """One channel with random amounts of the cosine and the sine of a few frequencies (0, 1 and Nyquist: one each)."""
    g = torch.Generator().manual_seed(seed)
    x = torch.zeros(n, 1, h, w, dtype=torch.float64)
    for ky, kx in frequencies:
        for direction in torch.from_numpy(oracle.directions(h, w, ky, kx)):
            x += torch.randn(n, 1, 1, 1, generator=g, dtype=torch.float64) * direction
    return x


shapes = st.tuples(st.integers(2, 9), st.integers(1, 3), st.integers(1, 6), st.integers(1, 6))


@settings(max_examples=25, deadline=None)
@given(shape=shapes, seed=st.integers(0, 10**6), share=st.sampled_from([0.5, 0.9, 0.99]))
def test_it_is_the_covariance_of_the_pixels_averaged_over_translations(shape, seed, share):
    x = maps_of(*shape, seed)
    found = spectrum_of(x)
    covariance = oracle.stationary_covariance(x.numpy())
    wanted = torch.linalg.eigvalsh(torch.from_numpy(covariance)).flip(0)
    values = found.eigenvalues.repeat_interleave(found.multiplicity, 0).flatten().sort(descending=True).values
    assert torch.allclose(values, wanted.clamp(min=0), rtol=1e-9, atol=1e-9 * float(wanted[0]))
    assert abs(found.rank(share) - oracle.rank(wanted.tolist(), share)) <= 1  # a pair may be cut in two


@settings(max_examples=25, deadline=None)
@given(shape=shapes, seed=st.integers(0, 10**6))
def test_variances_and_covariances_at_each_frequency(shape, seed):
    x = maps_of(*shape, seed)
    found = spectrum_of(x)
    assert found.frequencies.shape == (len(pairs(*shape[2:])[0]), 2)
    for i, (ky, kx) in enumerate(found.frequencies.tolist()):
        wanted = torch.from_numpy(oracle.moments(x.numpy(), ky, kx))
        size = 1e-12 * (1 + float(x.square().sum()))
        assert torch.allclose(found.moments[i], wanted, rtol=1e-12, atol=size)
        assert float(found.variance[i]) == pytest.approx(oracle.variance(x.numpy(), ky, kx), rel=1e-9, abs=size)


def test_energy_is_that_of_the_maps():
    x = maps_of(20, 4, 5, 6)
    found = spectrum_of(x)
    assert float(found.variance.sum()) == pytest.approx(float(x.var(0, correction=0).sum()), rel=1e-12)
    assert float(found.mean_power.sum()) == pytest.approx(float(x.mean(0).square().sum()), rel=1e-12)
    assert int(found.multiplicity.sum()) == 30
    assert (found.n, found.size, found.channels, found.exact) == (20, (5, 6), 4, True)


@pytest.mark.parametrize(
    ("frequencies", "rank", "count"),
    [
        ([(0, 0)], 1, 1),
        ([(0, 1)], 2, 1),
        ([(0, 1), (1, 0)], 4, 2),
        ([(4, 4)], 1, 1),
        ([(0, 0), (0, 4), (4, 0), (1, -2)], 5, 4),
    ],
)
def test_a_pair_counts_as_a_cosine_and_a_sine(frequencies, rank, count):
    found = spectrum_of(waves_only(400, 8, 8, frequencies))
    assert found.rank(0.999) == rank
    assert found.frequency_count(0.999) == count
    kept = found.frequencies[found.variance > 1e-9 * found.variance.sum()].tolist()
    assert {tuple(f) for f in kept} == set(frequencies)


def test_numbers_of_a_spectrum_known_by_hand():
    x = waves_only(4000, 8, 16, [(0, 0), (2, 3)])
    found = spectrum_of(x)
    share = 1 / 3  # one real dimension of three
    assert found.dc_share == pytest.approx(share, abs=0.03)
    assert found.mean_radius == pytest.approx((1 - share) * math.hypot(2 / 8, 3 / 16), abs=0.01)
    assert found.participation == pytest.approx(1 / (share**2 + (1 - share) ** 2), abs=0.05)
    assert found.rank(0.2) == 1


def test_maps_of_one_pixel_are_ordinary_vectors():
    x = maps_of(50, 7, 1, 1)
    found = spectrum_of(x)
    wanted = torch.cov(x[:, :, 0, 0].T, correction=0)
    assert torch.allclose(found.moments[0].real, wanted, rtol=1e-12)
    assert found.dc_share == 1
    assert found.mean_radius == 0


def test_white_noise_shows_what_few_images_do_to_a_rank():
    x = torch.randn(80, 256, 1, 1, generator=torch.Generator().manual_seed(0))
    few = spectrum_of(x)
    assert 70 <= few.rank(0.99) <= 79  # 254 in truth
    assert "80 images for 256 channels" in few.images_limit
    many = spectrum_of(torch.randn(4000, 8, 2, 2, generator=torch.Generator().manual_seed(0)), folds=4)
    assert many.rank(0.99) == 32
    assert 1500 < many.half.n < 2500
    assert not many.images_limit


def test_a_rank_that_half_of_the_images_change_is_marked():
    # A tenth of the images vary along directions of their own: enough images for each channel, but not for them.
    g = torch.Generator().manual_seed(0)
    x = torch.randn(64, 16, 8, 8, generator=g, dtype=torch.float64)
    x *= torch.rand(64, 1, 1, 1, generator=g, dtype=torch.float64) ** 8
    found = spectrum_of(x, folds=4)
    assert found.n >= 4 * found.channels
    assert "of the images give a rank of" in found.images_limit
    assert not spectrum_of(x).images_limit  # not known without folds


@pytest.mark.parametrize(
    ("half", "whole", "limited"), [(12, 13, False), (11, 13, False), (10, 13, True), (99, 103, False)]
)
def test_one_pair_more_is_no_limit(monkeypatch, half, whole, limited):
    found = spectrum_of(maps_of(64, 4, 2, 2), folds=4)
    monkeypatch.setattr(ActivationSpectrum, "rank", lambda self, _q: whole if self is found else half)
    assert bool(found.images_limit) == limited


@pytest.mark.parametrize("columns", [None, 4])
def test_a_factor_for_each_channel_is_as_if_the_maps_had_it(columns):
    x = maps_of(40, 12, 5, 4)
    factor = torch.linspace(-2, 3, 12, dtype=torch.float64)
    factor[3] = 0
    found = spectrum_of(x, columns, folds=4).scaled(factor)
    wanted = spectrum_of(x * factor[:, None, None], folds=4)
    assert torch.allclose(found.variance, wanted.variance, rtol=1e-10)
    assert torch.allclose(found.mean_power, wanted.mean_power, rtol=1e-10)
    if columns is None:
        assert torch.allclose(found.moments, wanted.moments, rtol=1e-10, atol=1e-10)
        assert found.half.rank() == wanted.half.rank()
    else:
        assert float(found.eigenvalues.sum()) == pytest.approx(float(wanted.eigenvalues.sum()), rel=1e-9)
        assert bool((found.eigenvalues[:, 0] <= wanted.eigenvalues[:, 0] * (1 + 1e-9)).all())


def test_a_sketch_is_exact_where_few_directions_vary():
    g = torch.Generator().manual_seed(1)
    x = maps_of(60, 5, 6, 6)
    x = torch.einsum("ij,njhw->nihw", torch.randn(40, 5, generator=g, dtype=torch.float64), x)
    exact, sketched = spectrum_of(x), spectrum_of(x, 8)
    assert not sketched.exact
    assert sketched.moments is None
    assert torch.allclose(sketched.variance, exact.variance, rtol=1e-10)
    assert torch.allclose(sketched.eigenvalues[:, :5], exact.eigenvalues[:, :5], rtol=1e-6)
    assert sketched.rank(0.99) == exact.rank(0.99)
    factor = torch.rand(40, generator=g, dtype=torch.float64)
    assert sketched.scaled(factor).rank(0.99) == exact.scaled(factor).rank(0.99)


def test_a_sketch_is_about_right_where_many_do():
    g = torch.Generator().manual_seed(2)
    mixing = torch.linalg.qr(torch.randn(128, 128, generator=g)).Q * torch.exp(-torch.arange(128) / 12)
    x = torch.einsum("ij,njhw->nihw", mixing, torch.randn(600, 128, 4, 4, generator=g))
    exact, sketched = spectrum_of(x), spectrum_of(x, 16)
    for share in (0.9, 0.99):
        assert sketched.rank(share) == pytest.approx(exact.rank(share), rel=0.25)
    total = (sketched.eigenvalues.sum(1) * sketched.multiplicity).sum()
    assert float(total) == pytest.approx(float(exact.variance.sum()), rel=1e-5)
    assert torch.allclose(sketched.eigenvalues[:, 0], exact.eigenvalues[:, 0], rtol=0.1)


def test_without_a_sketch_there_are_variances_and_no_rank():
    x = maps_of(30, 6, 4, 5)
    exact, bare = spectrum_of(x), spectrum_of(x, 0)
    assert torch.allclose(bare.variance, exact.variance, rtol=1e-10)
    assert torch.allclose(bare.mean_power, exact.mean_power, rtol=1e-10)
    assert bare.frequency_count(0.99) == exact.frequency_count(0.99)
    assert math.isnan(bare.rank(0.99))
    assert not bare.exact
    assert not spectrum_of(x, 0, folds=4).images_limit


@pytest.mark.parametrize("columns", [None, 2, 0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_dead_layer_has_no_rank(columns, dtype):
    constant = torch.linspace(-7, 900, 8 * 5 * 5).view(1, 8, 5, 5).expand(50, -1, -1, -1).to(dtype)
    for x in (constant, torch.zeros_like(constant)):
        found = spectrum_of(x, columns)
        assert not found.variance.any()
        assert found.rank(0.99) == found.frequency_count(0.99) == 0
        assert math.isnan(found.participation)
        assert math.isnan(found.dc_share)
        assert math.isnan(found.mean_radius)
    assert float(spectrum_of(constant, columns).mean_power.sum()) > 1


def test_a_large_mean_does_not_drown_what_varies():
    small = maps_of(200, 6, 6, 6, dtype=torch.float32) / 10
    found, wanted = spectrum_of(small + 300), spectrum_of((small + 300).double())
    assert torch.allclose(found.variance, wanted.variance, rtol=1e-3)
    assert found.rank(0.99) == wanted.rank(0.99)


@pytest.mark.parametrize("share", [0, -0.1, 1.1, math.nan])
def test_a_share_is_between_0_and_1(share):
    found = spectrum_of(maps_of(5, 2, 3, 3))
    for count in (found.rank, found.frequency_count):
        with pytest.raises(ValueError, match="share must be above 0 and at most 1"):
            count(share)


@settings(max_examples=40, deadline=None)
@given(h=st.integers(1, 20), w=st.integers(1, 20), seed=st.integers(0, 10**6))
def test_the_transform_is_the_fourier_transform(h, w, seed):
    x = torch.randn(2, 3, h, w, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    waves = Waves(h, w)
    found = waves(x)[waves.places]
    wanted = torch.fft.fft2(x, norm="ortho").flatten(2)[..., pairs(h, w)[0]].permute(2, 0, 1)
    assert torch.allclose(torch.complex(found[:, 0], found[:, 1]), wanted, rtol=1e-12, atol=1e-12)


def test_a_window_takes_away_the_jump_at_the_border():
    ramp = torch.linspace(0, 1, 32, dtype=torch.float64).view(1, 1, 1, 32).expand(1, 1, 32, 32)
    amounts = torch.randn(50, 1, 1, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    plain, windowed = spectrum_of(amounts * ramp), spectrum_of(amounts * ramp, hann=True)
    high = plain.frequencies.abs().amax(1) > 4
    assert float(plain.variance[high].sum() / plain.variance.sum()) > 0.01
    assert float(windowed.variance[high].sum() / windowed.variance.sum()) < 1e-4
    noise = torch.randn(300, 1, 16, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    ratio = spectrum_of(noise, hann=True).variance.sum() / spectrum_of(noise).variance.sum()
    assert float(ratio) == pytest.approx(1, abs=0.05)
