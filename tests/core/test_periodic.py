import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import shortcuts as oracle

from convscope.core.periodic import periodic, periodic_spectrum


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 9), st.integers(2, 9), st.integers(0, 99))
def test_solves_the_poisson_equation_of_the_jumps(h, w, seed):
    images = torch.randn(2, h, w, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    expected = np.stack([oracle.periodic(image) for image in images.numpy()])
    np.testing.assert_allclose(periodic(images), expected, atol=1e-10)
    np.testing.assert_allclose(periodic_spectrum(images), np.fft.rfft2(expected, norm="ortho"), atol=1e-10)


def test_an_image_without_jumps_stays_and_the_mean_too():
    y, x = torch.meshgrid(torch.arange(8.0), torch.arange(6.0), indexing="ij")
    ramp = (2 * y + x).double()
    assert float(periodic(ramp).mean()) == pytest.approx(float(ramp.mean()))
    even = torch.tensor([[3.0, 1, 1, 3], [5, 2, 7, 5], [3, 1, 1, 3]], dtype=torch.float64)
    torch.testing.assert_close(periodic(even), even)


def test_is_linear_and_keeps_precision():
    images = torch.randn(3, 7, 10, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(periodic(images.sum(0)), periodic(images).sum(0))
    torch.testing.assert_close(periodic(images.float()), periodic(images).float(), atol=1e-5, rtol=1e-5)
