"""Small images for the tests of machines that learn: what tells the class lies in one place."""

from pathlib import Path

import numpy as np
import pytest
import torch

from convscope.rfm.architecture import Architecture
from convscope.rfm.machine import Data
from convscope.rfm.maps import identities
from convscope.rfm.settings import Settings

REFERENCE = Path(__file__).parents[3] / "shared" / "data" / "convrfm_reference_digits500.npz"


def images(n=40, channels=1, side=6, seed=0):
    """Returns (images [n, c, side, side], classes [n] in 0, 1, 2)."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, channels, side, side))
    y = rng.integers(0, 3, n)
    x[:, 0, 2:4, 2:4] += 2.0 * np.array([[[1, 1], [-1, -1]], [[1, -1], [1, -1]], [[1, -1], [-1, 1]]])[y]
    return x, y


def settings(depth=2, patch_size=3, **changes):
    return Settings(Architecture(depth, patch_size), **({"n_iters": 1, "ridge": 1e-3} | changes))


def data(n=40, weights=None, **changes):
    x, y = images(n, **changes)
    x = torch.from_numpy(x)
    targets = torch.nn.functional.one_hot(torch.from_numpy(y), 3).double()
    return Data(x, targets, weights, identities(x)[0], torch.arange(n))


def reference():
    if not REFERENCE.exists():
        pytest.skip("the reference values of neural-tangents are not at hand")
    return np.load(REFERENCE)
