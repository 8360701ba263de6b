"""The patch AGOP from Python: weights before training, and directions."""

import math
from collections import OrderedDict

import pytest
import torch
from ansatz_runs import deep
from firstlayer_runs import images
from torch import nn

from convscope.ansatz.measure import patch_agop
from convscope.core.errors import ConvscopeError


def test_the_change_of_the_weights_is_compared_with_the_agop():
    start = deep(2)
    result = patch_agop(deep(), images(8), exact=True, init=start)["0"]
    change = result.weight[0] - start[0].weight.detach().double().flatten(1)
    expected = torch.corrcoef(torch.stack([(change.T @ change).flatten(), result.agop.flatten()]))[0, 1]
    assert result.correlation(change=True) == pytest.approx(float(expected), abs=1e-9)
    assert result.shape == (8, 3, 3, 3)


def broken(start):
    with torch.no_grad():
        start[3].weight[0] = math.nan
    return start


def wider(start):
    start[3] = nn.Conv2d(8, 6, 3)
    return start


def within(start):
    return nn.Sequential(OrderedDict([("0", start[0]), ("3", nn.Sequential(*start[1:]))]))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (broken, "its weights hold NaN or infinite values"),
        (wider, r"its weights have another shape [6, 8, 3, 3] than the network's [6, 4, 3, 3]"),
        (within, "that network has no convolution of this name"),
    ],
)
def test_weights_before_training_that_cannot_be_used_are_a_warning(caplog, change, reason):
    found = patch_agop(deep(), images(8), exact=True, init=change(deep(2)))
    assert list(found) == ["0", "3", "5", "7"]
    assert found["0"].init is not None
    assert f"3 before training is left out: {reason}" in caplog.text
    with pytest.raises(ConvscopeError, match="before training are not known"):
        found["3"].correlation(change=True)


def test_without_weights_before_training_there_is_no_warning(caplog):
    assert patch_agop(deep(), images(8), exact=True)["0"].init is None
    assert not caplog.records


def test_leading_directions_of_filters_and_gradients_are_those_of_the_dense_matrices():
    result = patch_agop(deep(), images(8), exact=True)["0"]
    for matrix, options in ((result.agop, {}), (result.nfm, {"nfm": True})):
        values, patches = result.eigenvectors(2, **options)
        expected, vectors = torch.linalg.eigh(matrix)
        assert torch.allclose(values[0], expected.flip(0)[:2])
        for k in range(2):
            assert abs(float(patches[0, k].flatten() @ vectors[:, -1 - k])) == pytest.approx(1, abs=1e-9)


def test_principal_cosines_are_the_singular_values_between_leading_directions():
    result = patch_agop(deep(), images(8), exact=True)["0"]
    a, b = (torch.linalg.eigh(m)[1][:, -3:] for m in (result.nfm, result.agop))
    assert torch.allclose(result.principal_cosines(3)[0], torch.linalg.svdvals(a.T @ b))
