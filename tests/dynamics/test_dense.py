"""Fully connected linear networks in closed form, against their flow."""

import numpy as np
import pytest
import torch

from convscope.dynamics.collect import dataset_structure
from convscope.dynamics.dense import dense_closed_form
from convscope.dynamics.exact import integrate
from convscope.dynamics.linear import Dense


def two_classes():
    """Two images, which have one mode between them."""
    images = torch.randn(2, 1, 5, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return dataset_structure([(images, torch.tensor([0, 1]))])


def test_a_lone_mode_is_learned_as_the_flow_has_it():
    structure = two_classes()
    hidden, std = 400, 1e-5
    found = dense_closed_form(structure, std, hidden)
    flow = integrate(structure, Dense.drawn((1, 5, 4), 2, std, hidden=hidden))
    np.testing.assert_allclose(found.half_times, flow.half_times, rtol=0.01)
    shift = float(flow.half_times - found.half_times)
    moved = dense_closed_form(structure, std, hidden, (flow.times - shift).clamp(min=0))
    late = flow.times > flow.half_times / 2
    np.testing.assert_allclose(moved.mode_strengths[late], flow.mode_strengths[late], rtol=0.01)


def test_half_times_are_where_strengths_cross():
    generator = torch.Generator().manual_seed(0)
    images, labels = torch.rand(60, 3, 5, 4, generator=generator), torch.arange(60) % 3
    for covariance in (True, False):
        structure = dataset_structure([(images, labels)], covariance=covariance)
        half = dense_closed_form(structure, 1e-3, 20).half_times
        strengths = dense_closed_form(structure, 1e-3, 20, half).mode_strengths
        torch.testing.assert_close(strengths.diagonal(), structure.singular_values / 2)


def test_large_weights_have_learned_from_the_start():
    assert dense_closed_form(two_classes(), 10.0, 400).half_times.tolist() == [0.0]


@pytest.mark.parametrize(("std", "hidden"), [(0.0, 3), (1e-3, 0)])
def test_numbers_out_of_range(std, hidden):
    with pytest.raises(ValueError, match="must be positive"):
        dense_closed_form(two_classes(), std, hidden)
