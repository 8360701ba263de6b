"""Runs of the theory of learning dynamics that several tests look at."""

import math
from unittest.mock import patch

import torch
from sources import ArraySource

from convscope.core.passes import Pass
from convscope.dynamics.setting import Setting
from convscope.dynamics.theory import Dynamics

QUICK = Setting(method="closed-form")


def waves(n=400, size=8, channels=1, seed=0, noise=0.3):
    """Images of three classes: one bright, one with two waves across, one with neither; and noise."""
    generator = torch.Generator().manual_seed(seed)
    images = noise * torch.randn(n, channels, size, size, generator=generator)
    labels = torch.randint(0, 3, (n,), generator=generator)
    images[labels == 0] += 0.5
    images[labels == 1] += 0.2 * torch.cos(4 * math.pi * torch.arange(size) / size)
    return images, labels


def run(
    images,
    labels,
    *,
    setting=QUICK,
    networks=None,
    groups=None,
    batch_size=64,
    classes=("bright", "striped", "plain"),
    draws=(8, 4),
    **options,
):
    """Returns the result; few draws of permuted labels are quick, and enough where nothing is asked of them."""
    source = ArraySource(images, labels, groups)
    source.classes = classes
    p = Pass(source, batch_size=batch_size)
    p.networks = networks or {}
    finish = Dynamics(setting, **options).plan(p)
    p.run()
    with patch("convscope.dynamics.conclude.DRAWS", draws[0]), patch("convscope.dynamics.conclude.FEW_DRAWS", draws[1]):
        return finish()
