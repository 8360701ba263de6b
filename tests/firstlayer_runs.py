"""Small first-layer analyses for the tests."""

import torch
from sources import ArraySource
from torch import nn

from convscope.analyse import analyse
from convscope.core.network import Network
from convscope.core.passes import Pass
from convscope.firstlayer.theory import FirstLayer


def images(n=48, channels=3, side=12, seed=0):
    """Returns images whose neighbouring pixels are alike, of about unit variance."""
    g = torch.Generator().manual_seed(seed)
    rough = torch.randn(n, channels, side + 4, side + 4, generator=g)
    smooth = nn.functional.avg_pool2d(rough, 5, 1) * 4 + 0.3 * rough[..., 2:-2, 2:-2]
    return smooth[..., :side, :side]


def net(conv=None, seed=1):
    """Returns a small network with class scores, whose first filters have unequal energies."""
    torch.manual_seed(seed)
    if conv is None:
        conv = nn.Conv2d(3, 8, 3)
        with torch.no_grad():
            conv.weight *= torch.linspace(0.2, 2, 9).view(3, 3)
    return nn.Sequential(
        conv, nn.ReLU(), nn.AdaptiveAvgPool2d((2, 2)), nn.Flatten(), nn.Linear(4 * conv.out_channels, 3)
    )


def source_of(x, labels=None):
    """Returns a source of images from four photographs, so that there are at most four folds."""
    return ArraySource(x, labels, groups=torch.arange(len(x)) % 4)


def analysed(module, *, source=None, labels=None, init=None, twin=True, layer=None, replicas=(), batch_size=64):
    """Returns the first-layer result of a network, beside its initial weights or a freshly drawn twin."""
    if source is None:
        source = source_of(images(), None if labels is None else torch.arange(48) // 4 % labels)
    p = Pass(source, {"model": Network("net", module)}, batch_size=batch_size)
    if init is not None:
        p.networks["init"] = Network("start", init)
    elif twin:
        from convscope.training.initialise import reinitialised

        p.networks["twin"] = Network("twin", reinitialised(module))
    (result,), _ = analyse(p, [FirstLayer(layer, replicas)])
    return result
