"""The geometry of a convolution: which patches it sees, in which order."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles.patches import patches
from torch import nn

from convscope.core.correlation import UnfoldProducts
from convscope.core.geometry import ConvGeometry


def test_patches_are_in_the_order_of_the_weight_and_of_unfold_to_the_bit():
    x = torch.randn(2, 3, 9, 8)
    geometry = ConvGeometry(3, (3, 2), (2, 1), (0, 0, 0, 0), (1, 2))
    ours = UnfoldProducts(geometry, 9, 8, symmetric=True)._patches(x.unsqueeze(1), 0, 4)[0]
    theirs = F.unfold(x, (3, 2), (1, 2), 0, (2, 1))
    assert torch.equal(ours, theirs.transpose(0, 1).flatten(1))


@settings(max_examples=40, deadline=None, derandomize=True)
@given(data=st.data())
def test_the_convolution_is_the_weight_times_the_patches(data):
    groups = data.draw(st.integers(1, 2))
    kernel = data.draw(st.tuples(st.integers(1, 4), st.integers(1, 3)))
    dilation = data.draw(st.tuples(st.integers(1, 2), st.integers(1, 3)))
    padding = data.draw(st.one_of(st.tuples(st.integers(0, 3), st.integers(0, 3)), st.sampled_from(["same", "valid"])))
    stride = (1, 1) if padding == "same" else data.draw(st.tuples(st.integers(1, 3), st.integers(1, 4)))
    mode = data.draw(st.sampled_from(["zeros", "reflect", "replicate", "circular"]))
    torch.manual_seed(0)
    conv = nn.Conv2d(2 * groups, 4 * groups, kernel, stride, padding, dilation, groups, False, mode).double()
    x = torch.randn(1, 2 * groups, 9, 10, dtype=torch.float64)
    geometry = ConvGeometry.of(conv)
    p = torch.from_numpy(patches(x[0].numpy(), geometry))
    assert p.shape[1:3] == geometry.output_size(9, 10)
    expected = torch.einsum("gkd,gabd->gkab", conv.weight.flatten(1).unflatten(0, (groups, -1)), p).flatten(0, 1)
    torch.testing.assert_close(conv(x)[0], expected, rtol=1e-10, atol=1e-12)
    rows, columns = geometry.output_size(9, 10)
    height, width = geometry.covered(rows, columns)
    assert geometry.positions(height, width) == (rows, columns)
    assert height <= geometry.pad(x).shape[2]
    assert width <= geometry.pad(x).shape[3]


def test_no_position_fits_where_the_kernel_is_larger_than_the_image():
    assert ConvGeometry(3, (5, 5)).output_size(4, 9) == (0, 5)
    assert ConvGeometry(3, (3, 3), dilation=(2, 2)).output_size(4, 4) == (0, 0)


@pytest.mark.parametrize(
    "wrong",
    [
        {"kernel": (0, 3)},
        {"stride": (0, 1)},
        {"dilation": (1, 0)},
        {"padding": (0, 0, -1, 0)},
        {"groups": 2},
        {"channels": 0},
    ],
)
def test_an_impossible_geometry_is_refused(wrong):
    with pytest.raises(ValueError, match="must"):
        ConvGeometry(**({"channels": 3, "kernel": (3, 3)} | wrong))


def test_only_a_two_dimensional_convolution_has_a_geometry():
    with pytest.raises(TypeError, match="Linear"):
        ConvGeometry.of(nn.Linear(3, 3))
