import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles.bottleneck_dense import matrix_of
from torch import nn

from convscope import frequency_singular_values
from convscope.bottleneck.operators import ConvOperator
from convscope.bottleneck.singular import singular_values


def blockwise(operator):
    """The singular values of each block by a plain SVD."""
    found = torch.linalg.svdvals(operator.blocks(operator.half_plane[0])).flatten(1)
    return found.sort(1, descending=True).values


@st.composite
def convolutions(draw):
    groups = draw(st.sampled_from([1, 1, 1, 3]))
    kind = draw(st.sampled_from([nn.Conv2d, nn.Conv2d, nn.ConvTranspose2d]))
    channels = st.integers(1, 5)
    kernel = (draw(st.integers(1, 7)), draw(st.integers(1, 5)))
    conv = kind(
        groups * draw(channels), groups * draw(channels), kernel, draw(st.sampled_from([1, 2, (2, 3)])),
        padding=draw(st.integers(0, 2)), dilation=draw(st.integers(1, 2)), groups=groups, bias=False,
    )  # fmt: skip
    return conv, (draw(st.integers(5, 12)), draw(st.integers(5, 13)))


@settings(max_examples=60, deadline=None)
@given(convolutions(), st.sampled_from([None, "circular"]), st.integers(0, 2**31))
def test_the_fast_way_agrees_with_an_svd_of_every_block(case, boundary, seed):
    conv, size = case
    torch.manual_seed(seed)
    nn.init.normal_(conv.weight)
    operator = ConvOperator.of(conv, size, boundary)
    found, true = singular_values(operator), blockwise(operator)
    torch.testing.assert_close(found.values, true, rtol=0, atol=1e-9 * float(true.max()))


def test_small_values_keep_their_digits():
    torch.manual_seed(0)
    conv = nn.Conv2d(6, 6, 3, padding=1, padding_mode="circular").double()
    with torch.no_grad():
        conv.weight[3:] *= 1e-7  # the lower half of the values would be lost in T^H T
    found = frequency_singular_values(conv, 10)
    torch.testing.assert_close(found.values, blockwise(found.operator), rtol=1e-5, atol=0)
    assert found.values.min() < 1e-6 * found.norm


def test_squares_add_up_to_n_times_the_squared_weight():
    torch.manual_seed(1)
    for kernel in (1, 3, 5, 8):
        conv = nn.Conv2d(3, 5, kernel, padding="same", padding_mode="circular")
        found = frequency_singular_values(conv, 8)
        energy = 64 * float(conv.weight.detach().double().square().sum())
        assert found.frobenius**2 == pytest.approx(energy, rel=1e-12)
        assert float(found.full().square().sum()) == pytest.approx(energy, rel=1e-12)
        assert 1 <= found.stable_rank <= 3 * 64


def test_a_kernel_larger_than_the_map_is_wrapped():
    weight = torch.randn(1, 1, 3, 3, generator=torch.Generator().manual_seed(2)).double()
    conv = nn.Conv2d(1, 1, 3, padding=1, padding_mode="circular", bias=False).double()
    with torch.no_grad():
        conv.weight.copy_(weight)
    true = torch.linalg.svdvals(matrix_of(conv, (2, 2)))
    found = frequency_singular_values(conv, 2).full()
    torch.testing.assert_close(found, true, rtol=0, atol=1e-12)
    assert float(torch.fft.fft2(weight, (2, 2)).abs().max()) != pytest.approx(float(true[0]))  # what cropping gives


def test_the_norm_bound_holds_where_the_circulant_does_not():
    kernel = torch.zeros(1, 1, 3, 3)
    kernel[0, 0, 1] = torch.tensor([-1.0, 0, 1])
    conv = nn.Conv2d(1, 1, 3, padding=1, bias=False)
    with torch.no_grad():
        conv.weight.copy_(kernel)
    true = float(torch.linalg.matrix_norm(matrix_of(conv, (14, 14)), 2))
    found = frequency_singular_values(conv, 14)
    assert found.norm < frequency_singular_values(conv, 14, "circular").norm < true <= found.norm_bound < 1.02 * true


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 3), st.integers(1, 2), st.integers(0, 2), st.integers(3, 9))
def test_the_norm_bound_is_safe(seed, kernel, stride, padding, size):
    torch.manual_seed(seed)
    conv = nn.Conv2d(2, 2, kernel, stride, padding, bias=False)
    true = float(torch.linalg.matrix_norm(matrix_of(conv, (size, size)), 2))
    assert true <= frequency_singular_values(conv, size).norm_bound * (1 + 1e-12)


def test_a_reflected_border_has_no_bound_and_a_circular_one_is_its_own():
    mirror = frequency_singular_values(nn.Conv2d(1, 1, 3, padding=1, padding_mode="reflect"), 6)
    assert mirror.norm_bound != mirror.norm_bound
    round_ = frequency_singular_values(nn.Conv2d(1, 1, 3, padding=1, padding_mode="circular"), 6)
    assert round_.norm_bound == round_.norm


def test_zero_weights_have_defined_values():
    conv = nn.Conv2d(2, 3, 3, padding=1)
    nn.init.zeros_(conv.weight)
    found = frequency_singular_values(conv, 4)
    assert not found.values.any()
    assert found.norm == found.frobenius == found.norm_bound == 0
    assert found.stable_rank != found.stable_rank
    assert found.leak != found.leak


def test_one_tap_is_the_same_everywhere_and_strides_add_zeros():
    conv = nn.Conv2d(2, 5, 1, stride=2, bias=False)
    found = frequency_singular_values(conv, 8)
    assert found.values.shape == (int((found.multiplicity > 0).sum()), 5)
    torch.testing.assert_close(found.values, blockwise(found.operator), rtol=0, atol=1e-12)


def test_it_says_where_it_deviates():
    found = frequency_singular_values(nn.Conv2d(1, 1, 3), 8)
    assert found.notes
    assert found.leak > 0
    assert frequency_singular_values(nn.Conv2d(1, 1, 3), 8, "circular").leak == 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_arithmetic_is_in_float64_whatever_the_weight(dtype):
    torch.manual_seed(5)
    conv = nn.Conv2d(3, 3, 3, padding=1, padding_mode="circular").to(dtype)
    found = frequency_singular_values(conv, 6)
    assert found.values.dtype == torch.float64
    torch.testing.assert_close(found.values, frequency_singular_values(conv.double(), 6).values, rtol=1e-12, atol=0)
