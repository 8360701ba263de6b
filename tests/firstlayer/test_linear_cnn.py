import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles.linear_cnn import average_patch_moments, gradient_descent

from convscope.firstlayer.linear_cnn import linear_cnn_change


@settings(max_examples=15, deadline=None, derandomize=True)
@given(
    st.integers(1, 4),
    st.integers(1, 4),
    st.integers(1, 30),
    st.sampled_from([0.0, 0.1]),
    st.floats(0, 1.5),
    st.integers(0, 99),
)
def test_closed_form_equals_gradient_descent(filters, outputs, steps, weight_decay, scale, seed):
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(8, 2, 5, 5, dtype=torch.float64, generator=generator) + 0.3
    targets = torch.randn(8, outputs, dtype=torch.float64, generator=generator)
    head = torch.randn(filters, outputs, dtype=torch.float64, generator=generator)
    init = scale * torch.randn(filters, 8, dtype=torch.float64, generator=generator)
    second, cross = average_patch_moments(images, targets, 2)
    lr = 0.9 / float(torch.linalg.eigvalsh(second)[-1] * torch.linalg.eigvalsh(head.T @ head)[-1] + weight_decay)
    exact = gradient_descent(images, targets, head, init, lr, steps, weight_decay)
    change = linear_cnn_change(second, cross, head, init, lr, steps, weight_decay=weight_decay)
    torch.testing.assert_close(change, exact, rtol=1e-9, atol=1e-9 * float(exact.abs().max()))


def test_directions_without_variance_grow_linearly():
    second, cross = torch.diag(torch.tensor([1.0, 0.0])), torch.tensor([[0.0, 2.0]])
    change = linear_cnn_change(second, cross, torch.ones(1, 1), torch.zeros(1, 2), lr=0.1, steps=7)
    torch.testing.assert_close(change, torch.tensor([[0.0, 1.4]], dtype=torch.float64))


def test_shapes_are_checked():
    with pytest.raises(ValueError, match=r"expected second_moment \[d, d\]"):
        linear_cnn_change(torch.eye(2), torch.ones(1, 3), torch.ones(1, 1), torch.zeros(1, 2), 0.1, 1)
