import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from convscope.core.geometry import ConvGeometry
from convscope.rfm.architecture import Architecture, box_sum, spread_sum

SIDES = st.integers(4, 9)


@settings(max_examples=40, deadline=None)
@given(SIDES, SIDES, st.integers(1, 4), st.integers(1, 4), st.integers(1, 3), st.lists(st.integers(0, 2), min_size=4))
def test_box_sum_is_a_convolution_with_ones(h, w, q, r, stride, padding):
    x = torch.randn(2, 3, h, w, dtype=torch.float64, generator=torch.Generator().manual_seed(h))
    top, bottom, left, right = padding[:4]
    geometry = ConvGeometry(1, (q, r), (stride, stride), (top, bottom, left, right))
    padded = F.pad(x, (left, right, top, bottom)).flatten(0, 1)[:, None]
    expected = F.conv2d(padded, torch.ones(1, 1, q, r, dtype=torch.float64), stride=stride)
    torch.testing.assert_close(box_sum(x, geometry), expected.unflatten(0, (2, 3))[:, :, 0])


def test_box_sum_of_one_pixel_is_a_copy():
    x = torch.ones(3, 4)
    box_sum(x, ConvGeometry(1, (1, 1))).zero_()
    assert x.all()


@settings(max_examples=40, deadline=None)
@given(SIDES, SIDES, st.integers(1, 4), st.sampled_from(["valid", "first", "same"]))
def test_spread_sum_is_the_adjoint_of_box_sum(h, w, q, padding):
    geometry = Architecture(2, q, padding).deeper
    generator = torch.Generator().manual_seed(h * w)
    x = torch.randn(h, w, dtype=torch.float64, generator=generator)
    y = torch.randn(*geometry.output_size(h, w), dtype=torch.float64, generator=generator)
    torch.testing.assert_close((box_sum(x, geometry) * y).sum(), (x * spread_sum(y, geometry, (h, w))).sum())


def test_sizes_by_padding():
    assert Architecture(3, 3).sizes(10, 8) == [(8, 6), (6, 4), (4, 2)]
    assert Architecture(2, 3, "first").sizes(10, 8) == [(10, 8), (8, 6)]
    assert Architecture(2, 4, "first").sizes(10, 8) == [(11, 9), (8, 6)]
    assert Architecture(3, 4, "same").sizes(10, 8) == [(10, 8)] * 3
    assert Architecture(2, 3, "valid", stride=2).sizes(10, 8) == [(4, 3), (2, 1)]


@pytest.mark.parametrize("q", [1, 2, 3, 4, 5])
def test_same_padding_is_pytorchs(q):
    x = torch.randn(1, 1, 7, 6)
    expected = F.conv2d(x, torch.ones(1, 1, q, q), padding="same")
    torch.testing.assert_close(box_sum(x, Architecture(1, q, "same").deeper), expected)


@pytest.mark.parametrize(
    ("wrong", "match"),
    [
        ({"depth": 0}, "depth must be a whole number of at least 1, got 0"),
        ({"depth": 10**9}, "depth must be at most 1,000, got 1,000,000,000"),
        ({"depth": True}, "depth must be a whole number"),
        ({"patch_size": 2.0}, "patch_size must be a whole number"),
        ({"padding": "full"}, "padding must be one of valid, first, same, got 'full'"),
        ({"kind": "cntk"}, "kind must be one of ntk, nngp, got 'cntk'"),
    ],
)
def test_wrong_settings_are_said(wrong, match):
    with pytest.raises(ValueError, match=match):
        Architecture(**{"depth": 1, "patch_size": 3, **wrong})


def test_patch_larger_than_a_layers_input_is_said():
    with pytest.raises(ValueError, match=r"3x3 patch of layer 2 does not fit into 2x5 pixels.*padding=\"same\""):
        Architecture(2, 3).sizes(4, 7)
