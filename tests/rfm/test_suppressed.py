"""The energy in the directions that a metric gives up, against loops."""

import math

import pytest
import torch

from convscope.rfm.suppressed import suppressed_energy


def test_energy_is_summed_over_every_patch():
    x = torch.randn(2, 2, 4, 5, generator=torch.Generator().manual_seed(0))
    vectors = torch.linalg.qr(torch.randn(18, 18, dtype=torch.float64, generator=torch.Generator().manual_seed(1))).Q
    values = torch.tensor([1.0] * 9 + [0.01] * 9, dtype=torch.float64)
    metric = (vectors * values) @ vectors.T
    low = whole = 0.0
    for image in x.double():
        for i in range(2):
            for j in range(3):
                u = image[:, i : i + 3, j : j + 3].flatten()
                low += sum(float(u @ vectors[:, k]) ** 2 for k in range(9, 18))
                whole += float(u @ u)
    assert math.isclose(suppressed_energy(x, metric), low / whole, rel_tol=1e-9)


def test_nothing_is_given_up_by_an_even_metric_and_noise_is_by_a_narrow_one():
    noise = torch.randn(20, 1, 12, 12, generator=torch.Generator().manual_seed(0))
    assert suppressed_energy(noise, torch.eye(9)) == 0
    one = torch.zeros(9, 9)
    one[4, 4] = 1
    assert math.isclose(suppressed_energy(noise, one), 8 / 9, abs_tol=0.03)
    with pytest.raises(ValueError, match="square of pixels"):
        suppressed_energy(noise, torch.eye(8))
