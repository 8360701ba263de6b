"""Small circular networks whose latents are known by construction."""

import torch
from torch import nn

from convscope.core.fourier import pairs, signed_frequencies
from convscope.core.network import Network

SIZE = 8
KEPT = {(0, 0), (0, 1), (1, 0)}  # up to conjugation
DELAYS = torch.tensor([[0, 0], [2, 1], [5, 3]])  # by which each channel sees the image shifted
GAINS = torch.tensor([1.0, -0.5, 2.0], dtype=torch.float64)


def frequencies(size=SIZE):
    places, multiplicity = pairs(size, size)
    return signed_frequencies(size, size)[places], multiplicity


def transfer(where):
    """T(w) [f, 3, 1] of the first convolution: low-passed, shifted and amplified copies of the image."""
    turns = where.double() / SIZE @ DELAYS.double().T
    kept = torch.tensor([tuple(w) in KEPT or (-w[0], -w[1]) in KEPT for w in where.tolist()])
    return (kept[:, None] * GAINS * torch.polar(torch.ones_like(turns), -2 * torch.pi * turns))[:, :, None]


def circular(transfers, bias):
    """A convolution with circular filters as large as the maps that has these T(w) [h * w, k, c] at all frequencies."""
    _, k, c = transfers.shape
    conv = nn.Conv2d(c, k, SIZE, padding="same", padding_mode="circular").double()
    taps = torch.fft.fft2(transfers.view(SIZE, SIZE, k, c), dim=(0, 1)) / SIZE**2
    assert taps.imag.abs().max() < 1e-12
    with torch.no_grad():
        conv.weight.copy_(taps.real.permute(2, 3, 0, 1).roll(((SIZE - 1) // 2,) * 2, (2, 3)))
        conv.bias.copy_(bias)
    return conv


def bumps(n=40, seed=0, size=SIZE):
    """Images of a bump at random places of a torus [n, 1, size, size], and its places (y, x) in pixels [n, 2]."""
    at = torch.randint(0, size, (n, 2), generator=torch.Generator().manual_seed(seed))
    d = torch.arange(size)
    profile = torch.exp(-0.5 * (torch.minimum(d, size - d) / 1.2).double() ** 2)
    one = profile[:, None] * profile
    return torch.stack([one.roll(tuple(p), (0, 1)) for p in at.tolist()])[:, None], at


def low_pass():
    """1 -> 3 -> 1 channels: the image, low-passed; rectifiers between stand on an offset that keeps them open."""
    everywhere = signed_frequencies(SIZE, SIZE)
    down = transfer(everywhere)
    up = down.mH / GAINS.square().sum()
    first = circular(down, torch.full((3,), 20.0))
    second = circular(up, torch.zeros(1))
    # The offset of 20 in each channel arrives at frequency 0 and is taken off again.
    with torch.no_grad():
        second.bias.copy_(-second.weight.sum((2, 3)) @ torch.full((3,), 20.0).double())
    return Network("low-pass", nn.Sequential(first, nn.ReLU(), second))


def quarters():
    """Classifies in which quarter of the width a bump lies, by the phase of frequency (0, 1) alone."""
    base = low_pass().module
    head = nn.Linear(SIZE * SIZE, 4).double()
    x = torch.arange(SIZE) / SIZE
    with torch.no_grad():
        for j in range(4):
            head.weight[j] = torch.cos(2 * torch.pi * (x - (j + 0.375) / 4)).repeat(SIZE)
        head.bias.zero_()
    return Network("quarters", nn.Sequential(*base, nn.Flatten(), head))
