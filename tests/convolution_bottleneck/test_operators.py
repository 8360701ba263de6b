import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles.bottleneck_dense import circular_matrix, closest_circulant, matrix_of
from torch import nn

from convscope.bottleneck.operators import ConvOperator
from convscope.core.errors import ConvscopeError


def every(operator):
    """All singular values by the definition of the blocks, descending."""
    frequencies, multiplicity = operator.half_plane
    values = torch.linalg.svdvals(operator.blocks(frequencies)).flatten(1)
    return values.repeat_interleave(multiplicity, 0).flatten().sort(descending=True).values


def dense_values(matrix, count):
    values = torch.linalg.svdvals(matrix)
    assert float(values[count:].sum()) < 1e-9
    return values[:count]


@st.composite
def convolutions(draw):
    groups = draw(st.sampled_from([1, 1, 2]))
    sizes = st.integers(1, 2)
    stride = (draw(sizes), draw(sizes))
    conv = nn.Conv2d(
        groups * draw(sizes), groups * draw(sizes), (draw(st.integers(1, 5)), draw(st.integers(1, 4))), stride,
        dilation=(draw(sizes), draw(sizes)), groups=groups, bias=False,
    )  # fmt: skip
    size = (stride[0] * draw(st.integers(1, 4)), stride[1] * draw(st.integers(1, 3)))
    return conv, size


@settings(max_examples=40, deadline=None)
@given(convolutions(), st.integers(0, 2**31))
def test_its_blocks_have_the_singular_values_of_the_dense_matrix(case, seed):
    conv, size = case
    torch.manual_seed(seed)
    nn.init.normal_(conv.weight)
    operator = ConvOperator.of(conv, size, "circular")
    found = every(operator)
    dense = circular_matrix(operator.weight, operator.geometry, size)
    torch.testing.assert_close(found, dense_values(dense, len(found)), rtol=0, atol=1e-10 * float(found[0]))
    assert int(operator.half_plane[1].sum()) == operator.positions == operator.coarse[0] * operator.coarse[1]


@pytest.mark.parametrize(
    "options",
    [
        {"kernel_size": 3, "padding": 1},
        {"kernel_size": 5, "padding": 2},
        {"kernel_size": 4, "padding": "same"},
        {"kernel_size": (1, 3), "padding": (0, 1)},
        {"kernel_size": 3, "padding": 1, "stride": 2},
        {"kernel_size": 3, "padding": 2, "dilation": 2},
        {"kernel_size": 3, "padding": 1, "groups": 2},
        {"kernel_size": 3, "padding": 1, "groups": 4, "stride": 2},
    ],
)
def test_circular_padding_is_exact(options):
    torch.manual_seed(0)
    conv = nn.Conv2d(4, 4, bias=False, padding_mode="circular", **options)
    operator = ConvOperator.of(conv, (6, 8))
    found = every(operator)
    torch.testing.assert_close(found, dense_values(matrix_of(conv, (6, 8)), len(found)), rtol=0, atol=1e-10)
    assert operator.leak == 0
    assert not operator.notes


@pytest.mark.parametrize("options", [{"kernel_size": 4, "stride": 2, "padding": 1}, {"kernel_size": 2, "stride": 2}])
def test_a_transposed_convolution_has_the_values_of_its_adjoint(options):
    torch.manual_seed(1)
    up = nn.ConvTranspose2d(4, 3, bias=False, **options)
    operator = ConvOperator.of(up, (4, 5))
    assert operator.transposed
    assert operator.size == (8, 10)
    assert operator.blocks(operator.half_plane[0]).shape[2:] == operator.block_shape == (12, 4)
    if options["kernel_size"] == 2:  # no tap leaves the map
        found = every(operator)
        torch.testing.assert_close(found, dense_values(matrix_of(up, (4, 5)), len(found)), rtol=0, atol=1e-10)


@pytest.mark.parametrize(("size", "kernel", "stride", "dilation"), [
    ((8, 8), 3, 1, 1), ((6, 5), 5, 1, 1), ((2, 3), 5, 1, 1), ((8, 6), 3, 2, 1), ((6, 8), 3, 1, 2), ((1, 1), 3, 1, 1),
])  # fmt: skip
def test_zero_padding_is_replaced_by_the_closest_circulant(size, kernel, stride, dilation):
    torch.manual_seed(2)
    pad = dilation * (kernel // 2)
    conv = nn.Conv2d(2, 3, kernel, stride, padding=pad, dilation=dilation, bias=False)
    operator = ConvOperator.of(conv, size)
    rows, columns = operator.coarse
    true = matrix_of(conv, size)
    closest = closest_circulant(true, 3, rows, columns, 2, *size)
    torch.testing.assert_close(every(operator), dense_values(closest, len(every(operator))), rtol=0, atol=1e-12)
    missed = float((true - closest).square().sum() / true.square().sum())
    assert operator.leak == pytest.approx(missed, abs=1e-12)


def test_the_leak_falls_with_the_size_of_the_map():
    torch.manual_seed(3)
    conv = nn.Conv2d(8, 8, 3, padding=1)
    leaks = [ConvOperator.of(conv, size).leak for size in (8, 16, 32)]
    assert leaks == sorted(leaks, reverse=True)
    assert 0.1 < leaks[0] < 0.25
    assert ConvOperator.of(conv, 8, "circular").leak == 0


def test_without_padding_rows_are_missing():
    operator = ConvOperator.of(nn.Conv2d(2, 2, 3), 8)
    assert operator.boundary == "valid"
    assert operator.leak == pytest.approx(1 - 36 / 64)
    assert "some of the rows" in operator.notes[0]


def test_a_wrapped_kernel_is_added_not_cut():
    weight = torch.arange(9.0).view(1, 1, 3, 3)
    operator = ConvOperator.of(_with(nn.Conv2d(1, 1, 3, padding=1), weight), 2, "circular")
    # On 2x2 the nine taps fall on four points; their sum is the gain of a constant image.
    assert float(operator.wrapped.sum()) == pytest.approx(36)
    assert float(every(operator)[0]) == pytest.approx(36)
    assert operator.wrapped.shape == (1, 1, 2, 2)


def test_a_factor_for_each_output_channel_is_folded_in():
    torch.manual_seed(4)
    factor = torch.tensor([2.0, -1.0, 0.5, 3.0])
    conv = nn.Conv2d(2, 4, 3, groups=2)
    after = nn.Conv2d(2, 4, 3, groups=2)
    with torch.no_grad():
        after.weight.copy_(conv.weight * factor[:, None, None, None])
    scaled = ConvOperator.of(conv, 6, "circular").scaled(factor)
    torch.testing.assert_close(every(scaled), every(ConvOperator.of(after, 6, "circular")))
    up = nn.ConvTranspose2d(2, 4, 2, stride=2, groups=2, bias=False)
    grown = nn.ConvTranspose2d(2, 4, 2, stride=2, groups=2, bias=False)
    with torch.no_grad():
        grown.weight.copy_(up.weight * factor.view(2, 2).repeat_interleave(1, 0)[:, :, None, None])
    torch.testing.assert_close(every(ConvOperator.of(up, 3).scaled(factor)), every(ConvOperator.of(grown, 3)))


def test_sizes_that_the_stride_does_not_divide_are_approximate():
    operator = ConvOperator.of(nn.Conv2d(1, 1, 3, stride=2, padding=1), (7, 9))
    assert operator.grid == (6, 8)
    assert operator.notes[0].startswith("approximate")
    tiny = ConvOperator.of(nn.Conv2d(1, 1, 3, stride=2, padding=1), 1)
    assert tiny.coarse == (1, 1)


@pytest.mark.parametrize("mode", ["reflect", "replicate"])
def test_other_borders_are_taken_for_circular_and_say_so(mode):
    conv = nn.Conv2d(1, 2, 3, padding=1, padding_mode=mode)
    operator = ConvOperator.of(conv, 6)
    assert operator.boundary == mode
    assert operator.notes == (f"{mode} padding is taken for circular",)
    torch.testing.assert_close(every(operator), every(ConvOperator.of(conv, 6, "circular")))


def test_what_is_no_convolution_over_images_is_refused():
    with pytest.raises(TypeError, match=r"expected an nn\.Conv2d or nn\.ConvTranspose2d, got Conv1d"):
        ConvOperator.of(nn.Conv1d(1, 1, 3), 8)
    with pytest.raises(TypeError, match="got Conv3d"):
        ConvOperator.of(nn.Conv3d(1, 1, 3), 8)
    with pytest.raises(ValueError, match="at least one row"):
        ConvOperator.of(nn.Conv2d(1, 1, 3), (0, 3))
    with pytest.raises(ValueError, match="boundary must be one of"):
        ConvOperator.of(nn.Conv2d(1, 1, 3), 8, "mirror")
    with pytest.raises(ConvscopeError, match="NaN or infinite weights"):
        ConvOperator.of(_with(nn.Conv2d(1, 1, 1), torch.full((1, 1, 1, 1), float("nan"))), 8)


def _with(conv, weight):
    with torch.no_grad():
        conv.weight.copy_(weight)
    return conv
