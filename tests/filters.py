"""Random filters and second moments of gradients for the tests of the feature ansatz."""

import math

import pytest
import torch
from hypothesis import strategies as st
from scipy.stats import ortho_group

from convscope.ansatz.compare import Comparison


def layer(g, k, d, rank=None, seed=0):
    """Returns random filters [g, k, d] and a Gram matrix [g, k, k] of a rank."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(g, k, d, dtype=torch.float64, generator=generator)
    root = torch.randn(g, k, k if rank is None else rank, dtype=torch.float64, generator=generator)
    return weight, root @ root.mT


LAYERS = st.builds(
    layer, st.integers(1, 3), st.integers(1, 7), st.integers(1, 9), st.integers(1, 9), st.integers(0, 99)
)


def turned(gram, draws):
    """Yields Q S Q^T with rotations Q from another library."""
    g, k, _ = gram.shape
    for q in torch.from_numpy(ortho_group.rvs(k, size=draws * g, random_state=0)).unflatten(0, (draws, g)):
        yield q @ gram @ q.mT


def assert_same_distribution(draws, expected):
    error = math.hypot(float(draws.std()), float(expected.std())) / math.sqrt(len(draws))
    assert abs(float(draws.mean() - expected.mean())) < 4 * error
    assert float(draws.std() / expected.std()) == pytest.approx(1, abs=0.2)


def overlap(weight, gram, r):
    """Returns the overlap of leading directions of filters and gradients."""
    return float(Comparison(weight).agop(gram).overlaps(r))


def null_overlaps(weight, gram, r, draws):
    """Returns what chance gives for it."""
    return torch.cat([some.overlaps(r) for some in Comparison(weight).turned(gram, draws=draws)])
