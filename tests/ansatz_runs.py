"""Small analyses of the feature ansatz for the tests."""

import torch
from firstlayer_runs import images
from sources import ArraySource
from torch import nn

from convscope.analyse import analyse
from convscope.ansatz.theory import Ansatz
from convscope.core.network import Network
from convscope.core.passes import Pass


def deep(seed=1, classes=3):
    """Returns a network whose convolutions have one group, two groups, one filter a group, and single pixels."""
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(inplace=True), nn.Conv2d(8, 6, 3, groups=2),
        nn.ReLU(inplace=True), nn.Conv2d(6, 6, 3, groups=6), nn.ReLU(), nn.Conv2d(6, 12, 1), nn.AdaptiveAvgPool2d(1),
        nn.Flatten(), nn.Linear(12, classes),
    )  # fmt: skip


def run(module, *, init=None, twin=None, sent=None, layers=None, x=None, labels=None, max_memory=2**31):
    """Returns a network's result and what the pass covered, beside its initial weights or a twin where given."""
    x = images(40) if x is None else x
    p = Pass(ArraySource(x, labels), {"model": Network("net", module)}, max_memory=max_memory)
    for name, other in (("init", init), ("twin", twin)):
        if other is not None:
            p.networks[name] = Network(name, other)
    (result,), coverage = analyse(p, [Ansatz(sent, layers)])
    return result, coverage
