"""Small bottleneck analyses for the tests."""

import torch
from firstlayer_runs import images
from sources import ArraySource
from torch import nn

from convscope.analyse import analyse
from convscope.bottleneck.theory import Bottleneck
from convscope.core.network import Network
from convscope.core.passes import Pass
from convscope.training.initialise import reinitialised

SIDE = 7


def circular(c, k, kernel=SIDE):
    """Returns a convolution with a circular border whose filters are as large as maps of 7x7 pixels."""
    return nn.Conv2d(c, k, kernel, padding="same", padding_mode="circular")


def low_pass(depth=4, channels=3, keep=1):
    """Returns a chain of circular convolutions that pass waves of at most ``keep`` cycles an image at level 1."""
    y = torch.arange(SIDE)
    wave = sum(torch.cos(2 * torch.pi * f * y / SIDE) * (1 if f == 0 else 2) for f in range(keep + 1)) / SIDE
    kernel = wave.roll(SIDE // 2)[:, None] * wave.roll(SIDE // 2)
    layers = []
    for _ in range(depth):
        conv = circular(channels, channels)
        with torch.no_grad():
            conv.weight.zero_()
            for i in range(channels):
                conv.weight[i, i] = kernel
            conv.bias.fill_(0.0)
        layers += [conv, nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def ordinary(seed=1):
    """Returns a small network with zero padding and batch norms."""
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6), nn.ReLU(),
        nn.Conv2d(6, 4, 3, padding=1, stride=2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3),
    )  # fmt: skip


def run(module, *, x=None, labels=None, twin=True, layers=None, count=None, init=None):
    """Returns a network's result, beside an untrained twin where asked for."""
    x = images(40, side=SIDE) if x is None else x
    p = Pass(ArraySource(x, labels) if isinstance(x, torch.Tensor) else x, {"model": Network("net", module)})
    if init is not None:
        p.networks["init"] = Network("start", init)
    elif twin:
        p.networks["twin"] = Network("twin", reinitialised(module))
    (result,), _ = analyse(p, [Bottleneck(count, layers)])
    return result
