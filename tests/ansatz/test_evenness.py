"""How far S is from a multiple of the identity, against loops."""

import math

import torch

from convscope.ansatz.evenness import evenness, strongest_filter_share


def grams(g, k, seed=0):
    x = torch.randn(g, k, 2 * k, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return x @ x.mT


def test_evenness_is_that_of_the_eigenvalues():
    gram = grams(2, 5)
    values = [torch.linalg.eigvalsh(block).tolist() for block in gram]
    expected = [sum(v) ** 2 / (5 * sum(x * x for x in v)) for v in values]
    assert math.isclose(evenness(gram), sum(expected) / 2)
    assert math.isclose(evenness(3 * torch.eye(4, dtype=torch.float64)[None]), 1)
    assert math.isclose(evenness(torch.ones(1, 4, 4, dtype=torch.float64)), 1 / 4)


def test_the_strongest_filter_is_the_combination_with_the_largest_weights():
    w, s = torch.randn(1, 4, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(1)), grams(1, 4, 2)
    values, vectors = torch.linalg.eigh(w[0] @ w[0].T)
    u = vectors[:, int(values.argmax())]
    energy = sum(float(u[i] * s[0, i, j] * u[j]) for i in range(4) for j in range(4))
    mean = sum(float(s[0, i, i]) for i in range(4)) / 4
    assert math.isclose(strongest_filter_share(w, s), energy / mean)
    assert math.isclose(strongest_filter_share(w, torch.eye(4, dtype=torch.float64)[None]), 1)
