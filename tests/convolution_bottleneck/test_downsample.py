"""Smaller grids inside the bottleneck."""

import numpy as np
import pytest
import torch
from bottleneck_compressed import low_pass_network
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import bottleneck_factored as oracle
from torch import nn

from convscope.bottleneck.downsample import advised_grid, coarser, downsampled, resampled, smallest_grid
from convscope.bottleneck.singular import frequency_singular_values
from convscope.core.errors import ConvscopeError
from convscope.core.fourier import pairs, signed_frequencies


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 99), *[st.integers(1, n) for n in (6, 6, 7, 7)])
def test_resampling_is_that_of_loops(seed, h, w, rows, columns):
    maps = torch.randn(2, h, w, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    for one, found in zip(maps, resampled(maps, (rows, columns)), strict=True):
        np.testing.assert_allclose(found, oracle.resampled(one.numpy(), (rows, columns)), atol=1e-10)


@pytest.mark.parametrize(("size", "grid"), [((8, 8), (4, 4)), ((8, 8), (3, 3)), ((9, 6), (5, 4)), ((7, 7), (7, 7))])
def test_a_coarser_convolution_has_the_same_transfer_function(size, grid):
    torch.manual_seed(0)
    conv = nn.Conv2d(2, 3, size, padding="same", padding_mode="circular").double()
    small = coarser(conv, size, grid)
    x = resampled(resampled(torch.randn(2, 2, *size, dtype=torch.float64), grid), size)  # of frequencies of both alone
    torch.testing.assert_close(small(resampled(x, grid)), resampled(conv(x), grid))


def test_the_function_stays_and_the_norm_grows_as_the_number_of_pixels_falls():
    module, x = low_pass_network().double(), torch.rand(20, 1, 8, 8, dtype=torch.float64)
    for conv in module[::2]:
        nn.init.constant_(conv.bias, 5.0)  # all stays positive, so that ReLU adds no frequency
    for grid in ((4, 4), (3, 3), (4, 6)):
        small = downsampled(module, ["0", "2", "4"], (8, 8), grid)
        assert small[2].weight.shape[2:] == grid
        change = (small(x) - module(x)).norm() / (module(x) - module(x).mean()).norm()
        assert change < 1e-7  # the filters are rounded to single precision
        for before, after in ((module[0], small[0][1]), (module[2], small[2]), (module[4], small[4][0])):
            ratio = float((after.weight.square().sum() / before.weight.square().sum()).detach())
            assert ratio == pytest.approx(64 / (grid[0] * grid[1]), rel=1e-6)
    inner = downsampled(module, ["2"], (8, 8), (3, 3))
    assert torch.allclose(inner(x), module(x))
    assert isinstance(module[0], nn.Conv2d)


def test_the_smallest_grid_of_kept_frequencies():
    assert smallest_grid(torch.tensor([[0, 0]]), (8, 8)) == (1, 1)
    assert smallest_grid(torch.tensor([[2, -3], [0, 1]]), (8, 9)) == (5, 7)
    assert smallest_grid(torch.tensor([[0, 3]]), (7, 7)) == (1, 7)
    with pytest.raises(ConvscopeError, match="along the 8 rows"):
        smallest_grid(torch.tensor([[4, 0], [0, 0]]), (8, 8))
    with pytest.raises(ValueError, match="beyond half"):
        smallest_grid(torch.tensor([[0, 5]]), (8, 8))
    with pytest.raises(ValueError, match="at least one"):
        smallest_grid(torch.zeros(0, 2, dtype=torch.int64), (8, 8))
    # Of a network: what its filters keep.
    values = frequency_singular_values(low_pass_network()[2], 8)
    kept = values.values[:, 0] > 1e-3 * values.norm
    assert smallest_grid(values.frequencies[kept], (8, 8)) == (3, 3)


def test_advice_from_activations():
    size = (8, 16)
    places, multiplicity = pairs(*size)
    frequencies = signed_frequencies(*size)[places]
    flat = multiplicity.double()
    assert advised_grid(flat, frequencies, size) == size
    assert advised_grid(torch.zeros_like(flat), frequencies, size) == size
    assert advised_grid(torch.full_like(flat, float("nan")), frequencies, size) == size
    low = flat * (frequencies.abs() <= 1).all(1)
    assert advised_grid(low, frequencies, size) == (3, 6) or advised_grid(low, frequencies, size) == (3, 5)
    assert advised_grid(low + 1e-6 * flat, frequencies, size, 1.0) == size
    with pytest.raises(ValueError, match="share"):
        advised_grid(low, frequencies, size, 0)


def test_what_cannot_be_downsampled():
    module = low_pass_network()
    with pytest.raises(ValueError, match="at least one layer"):
        downsampled(module, [], (8, 8), (4, 4))
    with pytest.raises(ValueError, match="no more than the maps"):
        downsampled(module, ["0"], (8, 8), (9, 4))
    with pytest.raises(ConvscopeError, match=r"not layers of one nn\.Sequential"):
        downsampled(module, ["nowhere"], (8, 8), (4, 4))
    with pytest.raises(ConvscopeError, match="not layers"):
        downsampled(nn.ModuleDict({"a": module}), ["0"], (8, 8), (4, 4))
    with pytest.raises(ConvscopeError, match=r"not consecutive|neither"):
        downsampled(module, ["2", "0"], (8, 8), (4, 4))
    with pytest.raises(ConvscopeError, match="layer '2'"):
        downsampled(module, ["0", "4"], (8, 8), (4, 4))
    pooled = nn.Sequential(module[0], nn.MaxPool2d(3, 1, 1), module[2])
    with pytest.raises(ConvscopeError, match="MaxPool2d"):
        downsampled(pooled, ["0", "2"], (8, 8), (4, 4))
    with pytest.raises(ConvscopeError, match="Conv2d"):
        downsampled(nn.Sequential(nn.Conv2d(1, 1, 3, padding=1)), ["0"], (8, 8), (4, 4))
