"""Networks whose convolutions have an exact low rank."""

import torch
from torch import nn


def low_rank_conv(c, k, rank, **how):
    """A convolution whose outputs live in few directions; sizes as of an ordinary network."""
    conv = nn.Conv2d(c, k, 3, padding=1, **how)
    conv.weight.data = torch.einsum("kr,rcij->kcij", torch.randn(k, rank), conv.weight.data[:rank]) / rank**0.5
    return conv


def low_rank_network():
    torch.manual_seed(0)
    return nn.Sequential(
        low_rank_conv(3, 16, 2),
        nn.BatchNorm2d(16),
        nn.ReLU(inplace=True),
        low_rank_conv(16, 12, 3, stride=2, bias=False),
        nn.ReLU(inplace=True),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(48, 5),
    ).eval()


def low_pass_network(k=6, size=8):
    """Full-size circular filters that keep the mean and one cycle along each axis, in two directions."""
    torch.manual_seed(1)
    kept = torch.zeros(size, size)
    kept[0, 0] = kept[0, 1] = kept[0, -1] = kept[1, 0] = kept[-1, 0] = 1
    convs = []
    for c, o in ((1, k), (k, k), (k, 1)):
        conv = nn.Conv2d(c, o, size, padding="same", padding_mode="circular")
        mix = torch.randn(o, 2) @ torch.randn(2, c) / c**0.5
        conv.weight.data = mix[:, :, None, None] * torch.fft.ifft2(kept).real.roll((3, 3), (0, 1))
        convs += [conv, nn.ReLU()]
    return nn.Sequential(*convs[:-1])
