"""A circular convolution from its Fourier coefficients, tap by tap."""

import torch

from convscope.training.circular import fourier_basis


def slow_convolution(conv, maps):
    """Returns what a convolution makes of maps [n, c, h, w], by its taps in space, added up one by one."""
    h, w = conv.size
    basis, _ = fourier_basis(conv.size)
    out = conv.bias.double().detach()[None, :, None, None].expand(len(maps), -1, h, w).clone()
    for y in range(h):
        for x in range(w):
            # A tap (y, x) reads the pixel that lies that far behind: z(p) = sum over u of w(u) a(p + u).
            tap = (conv.coefficients.double()[:, 0] * basis[:, 0, y * w + x, None, None]).sum(0)
            tap = tap - (conv.coefficients.double()[:, 1] * basis[:, 1, y * w + x, None, None]).sum(0)
            out += torch.einsum("kc,ncyx->nkyx", tap.detach(), maps.roll((-y, -x), (2, 3)))
    return out
