"""Edges that a metric on patches sees, against loops and scikit-image."""

import math

import numpy as np
import pytest
import torch
from skimage.filters import sobel_h, sobel_v

from convscope.ansatz.edges import (
    contrast_metric,
    edge_correlations,
    gradient_magnitude,
    patch_lengths,
    turned_metrics,
)


def images(n=3, c=2, h=8, w=9, seed=0):
    return torch.rand(n, c, h, w, generator=torch.Generator().manual_seed(seed))


def metric(d, seed=0):
    x = torch.randn(d, 2 * d, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return x @ x.T


def test_lengths_are_those_of_every_patch():
    x, m = images(), metric(2 * 9)
    found = patch_lengths(x, m)
    assert found.shape == (3, 6, 7)
    for i in range(3):
        for row in range(6):
            for column in range(7):
                u = x[i, :, row : row + 3, column : column + 3].double().flatten()
                assert math.isclose(float(found[i, row, column]), float(u @ m @ u) ** 0.5, rel_tol=1e-9)
    with pytest.raises(ValueError, match="times a square of pixels"):
        patch_lengths(x, metric(17))


@pytest.mark.parametrize("margin", [1, 2])
def test_gradients_are_those_of_scikit_image(margin):
    x = images(c=3)
    found = gradient_magnitude(x, margin)
    for image, mine in zip(x, found, strict=True):
        gray = image.double().mean(0).numpy()
        expected = np.hypot(sobel_h(gray), sobel_v(gray))  # differences of neighbours on both sides, not halved
        inside = slice(margin, -margin)
        assert np.allclose(mine, expected[inside, inside] / expected[inside, inside].max() * float(mine.max()))
    with pytest.raises(ValueError, match="margin must be at least 1"):
        gradient_magnitude(x, 0)


def test_a_metric_of_edges_sees_edges_and_one_of_brightness_does_not():
    x = torch.zeros(2, 1, 12, 12)
    x[0, :, :, 6:] = 1
    x[1, :, 3:9, 3:9] = 1
    x += 2
    sobel = torch.tensor([[-1.0, 0.0, 1.0], [-2.0, 0.0, 2.0], [-1.0, 0.0, 1.0]])
    edges = sum(torch.outer(k.flatten(), k.flatten()) for k in (sobel, sobel.T))
    assert torch.allclose(edge_correlations(x, edges), torch.ones(2, dtype=torch.float64))
    assert (edge_correlations(x, torch.ones(9, 9)) < 0.3).all()
    assert (edge_correlations(x, contrast_metric(1, 3)) > 0.9).all()
    with pytest.raises(ValueError, match="odd side"):
        edge_correlations(x, torch.eye(4))
    assert edge_correlations(torch.ones(1, 1, 5, 5), torch.eye(9)).isnan().all()


def test_contrast_leaves_out_the_mean_of_each_channel():
    m = contrast_metric(2, 3)
    u = images(1, 2, 3, 3)[0].double()
    centred = u - u.mean((1, 2), keepdim=True)
    assert torch.allclose(m @ u.flatten(), centred.flatten())


def test_turned_metrics_keep_eigenvalues_and_are_drawn_by_their_seed():
    m = metric(6)
    found = turned_metrics(m, 4, seed=3)
    assert found.shape == (4, 6, 6)
    for one in found:
        assert torch.allclose(torch.linalg.eigvalsh(one), torch.linalg.eigvalsh(m))
    assert torch.equal(found, turned_metrics(m, 4, seed=3))
    assert not torch.allclose(found[0], found[1])
