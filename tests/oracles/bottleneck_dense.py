"""The matrix of a convolution, entry by entry, and its singular values."""

import torch
from torch import Tensor, nn

from convscope.core.geometry import ConvGeometry


def circular_matrix(weight: Tensor, geometry: ConvGeometry, grid: tuple[int, int]) -> Tensor:
    """Returns the matrix of a convolution on a torus, float64 [k * rows * columns, c * h * w].

    Output (o, y, x) reads input (i, (y s + u) mod h, (x t + v) mod w) for each tap (u, v); taps that meet are added.
    """
    k, c_group, q, r = weight.shape
    (h, w), (s, t), (dy, dx) = grid, geometry.stride, geometry.dilation
    top, left = geometry.padding[0], geometry.padding[2]
    rows, columns = h // s, w // t
    matrix = torch.zeros(k, rows, columns, geometry.channels, h, w, dtype=torch.float64)
    for o in range(k):
        first = o // (k // geometry.groups) * c_group
        for y in range(rows):
            for x in range(columns):
                for i in range(c_group):
                    for a in range(q):
                        for b in range(r):
                            row, column = (y * s + a * dy - top) % h, (x * t + b * dx - left) % w
                            matrix[o, y, x, first + i, row, column] += float(weight[o, i, a, b])
    return matrix.reshape(k * rows * columns, -1)


def matrix_of(conv: nn.Module, size: tuple[int, int]) -> Tensor:
    """Returns the matrix that a module without bias really applies, float64 [outputs, inputs]."""
    conv = conv.double()
    channels = conv.in_channels
    unit = torch.eye(channels * size[0] * size[1], dtype=torch.float64).view(-1, channels, *size)
    with torch.no_grad():
        return conv(unit).flatten(1).T


def closest_circulant(matrix: Tensor, k: int, rows: int, columns: int, c: int, h: int, w: int) -> Tensor:
    """Returns the mean of a matrix over all shifts of its output and its input together: the closest circulant."""
    whole = matrix.view(k, rows, columns, c, h, w)
    s, t = h // rows, w // columns
    shifted = [whole.roll((y, x, y * s, x * t), (1, 2, 4, 5)) for y in range(rows) for x in range(columns)]
    return torch.stack(shifted).mean(0).reshape(matrix.shape)
