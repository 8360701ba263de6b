"""Matrices, directions and views that the page shows."""

import numpy as np
import pytest
import torch
from torch import nn

from convscope.ansatz.measure import patch_agop
from convscope.ansatz.views import CHANNELS, MOST_ENTRIES, pictures_of, views_of


def agop_of(conv, seed=0):
    torch.manual_seed(seed)
    conv.reset_parameters()
    module = nn.Sequential(conv, nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.LazyLinear(5)).double()
    x = torch.randn(6, conv.in_channels, 7, 7, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return patch_agop(module, x, exact=True)["0"], x


def largest_is_one(matrix):
    return (matrix / matrix.abs().max()).numpy()


@pytest.mark.parametrize("groups", [1, 2])
def test_small_matrices_are_shown_whole(groups):
    result, _ = agop_of(nn.Conv2d(2 * groups, 4 * groups, 3, groups=groups))
    shown = pictures_of(result)
    agops, nfms = result.agop.view(groups, 18, 18), result.nfm.view(groups, 18, 18)
    strongest = int(agops.diagonal(dim1=1, dim2=2).sum(1).argmax())
    assert shown.part == ("" if groups == 1 else f"group {strongest + 1} of 2")
    assert np.allclose(shown.agop, largest_is_one(agops[strongest]), atol=1e-4)
    assert np.allclose(shown.nfm, largest_is_one(nfms[strongest]), atol=1e-4)


def test_of_many_channels_the_sum_of_their_own_blocks_is_shown():
    result, _ = agop_of(nn.Conv2d(12, 10, 3))
    shown = pictures_of(result)
    for matrix, dense in ((shown.agop, result.agop), (shown.nfm, result.nfm)):
        blocks = [dense[9 * c : 9 * c + 9, 9 * c : 9 * c + 9] for c in range(12)]
        assert np.allclose(matrix, largest_is_one(sum(blocks)), atol=1e-4)
    assert shown.part.startswith("summed over the 12 input channels")
    assert shown.agop_patches.shape == (3, CHANNELS, 3, 3)
    assert len(shown.channels) == CHANNELS


def test_of_many_single_pixels_those_with_the_strongest_gradients_are_shown():
    result, _ = agop_of(nn.Conv2d(MOST_ENTRIES + 5, 12, 1))
    shown = pictures_of(result)
    weakest = result.agop.diagonal().argsort()[:5].tolist()
    kept = [c for c in range(MOST_ENTRIES + 5) if c not in weakest]
    assert np.allclose(shown.agop, largest_is_one(result.agop[kept][:, kept]), atol=1e-4)
    assert np.allclose(shown.nfm, largest_is_one(result.nfm[kept][:, kept]), atol=1e-4)


def test_a_view_is_white_where_the_leading_direction_answers_most():
    result, x = agop_of(nn.Conv2d(3, 4, 3))
    seen = views_of(x, {"0": x}, {"0": result}).reshape(6, 2, 64, 64, 3)
    answers = result.filtered(x, 1).abs()
    image, place = divmod(int(answers.flatten().argmax()), 25)
    white = np.argwhere(seen[:, 1, :, :, 0] == 255)
    assert set(white[:, 0]) == {image}
    row, column = divmod(place, 5)
    assert np.allclose((white[:, 1:].mean(0) + 0.5) / 64, (np.array([row, column]) + 0.5) / 5, atol=0.02)
