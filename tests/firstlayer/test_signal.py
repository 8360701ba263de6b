import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles.linear_cnn import autocorrelation_loops, signal_matrix_loops

from convscope.core.batches import Batch
from convscope.core.errors import ConvscopeError
from convscope.core.geometry import ConvGeometry
from convscope.firstlayer.signal import SignalAutocorrelation, agreement, signal_matrix, signal_profile

SETTINGS = settings(max_examples=15, deadline=None, derandomize=True)


def batch(n: int) -> Batch:
    return Batch.of(torch.zeros(n, 1, 1, 1), None, torch.arange(n))


@SETTINGS
@given(st.integers(1, 3), st.integers(1, 3), st.integers(1, 6), st.integers(1, 5), st.integers(0, 99))
def test_autocorrelation_equals_loops_and_merges(n, k, h, w, seed):
    x = torch.randn(n + 1, k, h, w, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    one, two = SignalAutocorrelation(), SignalAutocorrelation()
    one.update(x[:n], batch(n))
    two.update(x[n:], batch(1))
    one.merge(two)
    result = one.compute()
    torch.testing.assert_close(result.kappa, autocorrelation_loops(x), rtol=1e-11, atol=1e-11)
    assert (result.images, result.channels) == (n + 1, k)


@SETTINGS
@given(st.integers(1, 2), st.sampled_from([(1, 1), (2, 3)]), st.integers(1, 2), st.integers(0, 1), st.integers(0, 99))
def test_signal_matrix_equals_loops(channels, kernel, stride, padding, seed):
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(3, channels, 5, 6, dtype=torch.float64, generator=generator) + 0.5
    geometry = ConvGeometry(channels, kernel, (stride, stride), (padding,) * 4)
    h, w = geometry.output_size(5, 6)
    signal = SignalAutocorrelation()
    signal.update(torch.randn(4, 2, h, w, dtype=torch.float64, generator=generator), batch(4))
    kappa = signal.compute().kappa
    patches = F.unfold(images, kernel, padding=padding, stride=stride).unflatten(2, (h, w))
    expected = signal_matrix_loops(patches - patches.mean((0, 2, 3), keepdim=True), kappa)
    values, vectors = torch.linalg.eigh((expected + expected.T) / 2)
    nearest = (vectors * values.clamp(min=0)) @ vectors.T  # few noisy signals need not give a positive matrix
    torch.testing.assert_close(signal_matrix(images, geometry, kappa), nearest, rtol=1e-9, atol=1e-9)


def test_groups_are_independent_and_chunks_change_nothing(monkeypatch):
    images = torch.randn(5, 4, 6, 6, dtype=torch.float64)
    signal = torch.randn(6, 2, 4, 4, dtype=torch.float64)
    kappa = autocorrelation_loops(signal)
    halves = [signal_matrix(x, ConvGeometry(2, (3, 3)), kappa) for x in images.split(2, 1)]
    whole = signal_matrix(images, ConvGeometry(4, (3, 3), groups=2), kappa)
    torch.testing.assert_close(whole, torch.stack(halves), rtol=1e-11, atol=1e-11)
    monkeypatch.setattr("convscope.firstlayer.signal._CHUNK_BYTES", 1)
    sums = SignalAutocorrelation()
    sums.update(signal, batch(6))
    torch.testing.assert_close(sums.compute().kappa, kappa, rtol=1e-11, atol=1e-11)


def test_limits_are_the_patch_and_the_average_patch_covariance():
    images = torch.randn(6, 2, 7, 7, dtype=torch.float64).cumsum(2)
    geometry = ConvGeometry(2, (3, 3))
    patches = F.unfold(images, 3)
    centred = patches - patches.mean((0, 2), keepdim=True)
    delta = torch.zeros(9, 9, dtype=torch.float64)
    delta[4, 4] = 1
    decorrelated = signal_matrix(images, geometry, delta)
    torch.testing.assert_close(decorrelated, torch.einsum("ndp,nep->de", centred, centred) / 6, rtol=1e-11, atol=1e-11)
    constant = signal_matrix(images, geometry, torch.ones(9, 9, dtype=torch.float64))
    average = centred.mean(2)
    torch.testing.assert_close(constant, 25**2 * average.T @ average / 6, rtol=1e-10, atol=1e-9)
    assert bool(signal_profile(constant, torch.eye(18)).isfinite().all())


def test_constant_signal_has_a_constant_autocorrelation():
    sums = SignalAutocorrelation()
    sums.update(torch.full((2, 3, 5, 4), 2.0), batch(2))
    torch.testing.assert_close(sums.compute().kappa, torch.full((9, 7), 4.0, dtype=torch.float64))
    assert sums.compute().coherent_positions == pytest.approx(20)


def test_errors_say_what_is_wrong():
    sums = SignalAutocorrelation()
    with pytest.raises(ConvscopeError, match="at least one image"):
        sums.compute()
    sums.update(torch.ones(1, 1, 3, 3), batch(1))
    with pytest.raises(ConvscopeError, match="4 x 3 for some images and 3 x 3 for others"):
        sums.update(torch.ones(1, 1, 4, 3), batch(1))
    sums.update(torch.full((1, 1, 3, 3), torch.nan), batch(1))
    with pytest.raises(ConvscopeError, match="NaN or infinity"):
        sums.compute()
    with pytest.raises(ValueError, match=r"kappa has shape \(3, 3\), expected \(7, 7\)"):
        signal_matrix(torch.zeros(1, 1, 6, 6), ConvGeometry(1, (3, 3)), torch.ones(3, 3))


def test_agreement_of_a_flat_prediction_is_nan():
    flat = agreement(torch.tensor([1.0, 2.0, 3.0]), torch.ones(3))
    assert flat.slope != flat.slope
    assert flat.correlation != flat.correlation
    assert agreement(torch.tensor([0.0, 1.0, 2.0]), torch.ones(3)).scale != 0
