"""The network in which the ansatz holds in a limit: what S is exactly, and how fast the limit is approached."""

import math
from statistics import fmean, stdev

import pytest
import torch

from convscope.ansatz.limit import PositionReadout, limit_point, predicted_correlation, predicted_deviation
from convscope.ansatz.measure import patch_agop


def filters(k=6, c=2, rank=None, seed=0):
    """Random filters [k, c, 3, 3]; with a rank, of that rank and with singular values 1, 1/2, 1/3, ...."""
    generator = torch.Generator().manual_seed(seed)
    w = torch.randn(k, 9 * c, dtype=torch.float64, generator=generator)
    if rank is not None:
        u, _, v = torch.linalg.svd(w, full_matrices=False)
        w = (u[:, :rank] / torch.arange(1, rank + 1)) @ v[:rank]
    return w.view(k, c, 3, 3)


def strip(positions, c=2, n=1, seed=0):
    """Images [n, c, positions + 2, 3] of normal noise, in which a 3 x 3 filter has so many positions."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, c, positions + 2, 3, dtype=torch.float64, generator=generator)


def test_gram_of_the_linear_network_is_the_readouts_whatever_the_images():
    network = PositionReadout(filters(), (7, 9), sigma=0.7, seed=3)
    expected = torch.zeros(6, 6, dtype=torch.float64)
    for row in range(5):
        for column in range(7):
            a = network.readout[:, row, column]
            expected += torch.outer(a, a)
    for images in (torch.zeros(1, 2, 7, 9).double(), torch.randn(5, 2, 7, 9).double()):
        gram = patch_agop(network, images, exact=True)["conv"].gram[0]
        assert torch.allclose(gram, expected, rtol=1e-13, atol=1e-14)


def test_gram_of_the_relu_network_leaves_out_inactive_filters():
    network, images = PositionReadout(filters(), (6, 5), "relu", seed=1), torch.randn(4, 2, 6, 5).double()
    expected = torch.zeros(6, 6, dtype=torch.float64)
    for image in images:
        active = network.conv(image[None])[0] > 0
        for row in range(4):
            for column in range(3):
                a = network.readout[:, row, column] * active[:, row, column]
                expected += torch.outer(a, a) / 4
    gram = patch_agop(network, images, exact=True)["conv"].gram[0]
    assert torch.allclose(gram, expected, rtol=1e-13, atol=1e-14)


def test_readout_has_the_stated_spread():
    readout = PositionReadout(filters(k=4), (102, 102), sigma=3.0).readout
    # 40,000 normal values of variance 9 / 4: the estimated variance is off by 5 standard errors once in 1.7 million.
    assert abs(float(readout.square().mean()) / (9 / 4) - 1) < 5 * math.sqrt(2 / readout.numel())


@pytest.mark.parametrize("positions", [6, 60, 600])
def test_distance_from_the_identity_falls_as_the_root_of_filters_over_positions(positions):
    squares = [limit_point(filters(), strip(positions), seed=s).deviation ** 2 for s in range(60)]
    # The mean of 60 squares lies 4.5 standard errors off once in some 10,000 runs; the seeds are fixed.
    assert abs(fmean(squares) - predicted_deviation(6, positions) ** 2) < 4.5 * stdev(squares) / math.sqrt(60)
    assert stdev(squares) / math.sqrt(60) < 0.1 * fmean(squares)  # else the test above says nothing


@pytest.mark.parametrize("rank", [None, 2])
@pytest.mark.parametrize("positions", [150, 1500])
def test_correlation_tends_to_one_at_the_predicted_rate(rank, positions):
    weight = filters(rank=rank)
    losses = [1 - limit_point(weight, strip(positions), seed=s).correlation for s in range(60)]
    expected = 1 - predicted_correlation(weight, positions)
    error = stdev(losses) / math.sqrt(60)
    # 4.5 standard errors (once in some 10,000 runs), and the next order in 1 / P.
    assert abs(fmean(losses) - expected) < 4.5 * error + expected * 10 / positions
    assert error < 0.15 * expected


def test_low_rank_filters_come_closer_to_the_limit():
    for positions in (10, 1000):
        assert predicted_correlation(filters(rank=2), positions) > predicted_correlation(filters(), positions)


def test_relu_reaches_the_limit_on_symmetric_patches_and_not_on_bright_ones():
    weight, patches = filters(), strip(3000, n=20)
    symmetric = limit_point(weight, patches, "relu")
    bright = limit_point(weight, patches + 1, "relu")
    assert symmetric.correlation > 0.998
    assert symmetric.deviation < predicted_deviation(6, 3000)
    assert bright.correlation < 0.99
    # With more positions it stays there: the limit is no multiple of the identity.
    assert abs(limit_point(weight, strip(9000, n=20) + 1, "relu").correlation - bright.correlation) < 0.01


def test_arguments_are_checked():
    with pytest.raises(ValueError, match="relu"):
        PositionReadout(filters(), (5, 5), "tanh")
    with pytest.raises(ValueError, match="at least as large"):
        limit_point(filters(), torch.zeros(1, 2, 2, 9).double())
