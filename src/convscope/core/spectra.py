"""Sums of products of patches from the cross-spectra of the images; no patch is ever formed. For stride 1.

By the correlation theorem one Fourier transform of each image gives the products of the image with itself at all
distances, summed over all pixels. Only the distances within the kernel are transformed back, from the sum over
images. What a pair's window leaves out at the image's border is taken off again, first rows, then columns: both
are products of the few pixels at the border.
"""

from __future__ import annotations

from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from convscope.core.geometry import ConvGeometry
from convscope.core.lines import Axis, axes, both_ends, box_means, line_entries, line_products, without_borders


class SpectralProducts:
    """Sums over positions and images of p_a p_b^T by the correlation theorem.

    Args:
        geometry: kernel, dilation and groups; the stride must be 1, and padding has been applied.
        height: of the padded images, filled exactly by the positions.
        width: of the padded images.
        symmetric: whether the two sets of images are the same.
        zeros: rows, and columns, at either end that are known to be zero.
    """

    def __init__(
        self, geometry: ConvGeometry, height: int, width: int, *, symmetric: bool, zeros: tuple[int, int] = (0, 0)
    ) -> None:
        self.geometry, self.symmetric = geometry, symmetric
        self.rows, self.columns = axes(geometry, height, width, zeros)
        # Room for the largest distance, so that nothing wraps around.
        self.canvas = (fft_size(height + self.rows.border), fft_size(width + self.columns.border))

    def bytes_per_image(self, element_size: int) -> int:
        """Returns the size of one image's spectrum, its product with one channel, and as much for the sum."""
        spectrum = self.geometry.channels * self.canvas[0] * self.canvas[1] * element_size
        return 3 * spectrum * (1 if self.symmetric else 2)

    def bytes_per_fold(self) -> int:
        """Returns the size of the products of the border's columns, in float64; those of its rows are smaller."""
        c, g = self.geometry.channels // self.geometry.groups, self.geometry.groups
        return 8 * g * max(line_entries(c, self.columns.seen, self.rows), self.geometry.patch_dim**2)

    def __call__(self, a: Tensor, b: Tensor) -> tuple[Tensor, ...]:
        """Returns the average patches, and the sums over all pixels, over the border's rows, and over its columns.

        Args:
            a: [n, g, c, h, w], or on a canvas of zeros of the size ``canvas``, which spares a copy.
            b: as ``a``; the same tensor for second moments.

        Returns:
            left: float64 [n, g, d], the average patch of each image of a.
            right: the same of b.
            full: float64 [g, c, c, row lags, column lags], over all pixels.
            top: float64 [g, 2, c, seen, c, seen, column lags], of pairs of rows at the top and the bottom;
                empty without border.
            side: float64 [g, 2, c, seen, q, c, seen, q], of pairs of columns at the left and the right;
                empty without border.
        """
        full = self._full(a, b)
        x = a[..., : self.rows.size, : self.columns.size]
        y = x if b is a else b[..., : self.rows.size, : self.columns.size]
        left = box_means(a, self.rows, self.columns)
        right = left if b is a else box_means(b, self.rows, self.columns)
        return left, right, full, self._top(x, y), self._side(x, y)

    def _full(self, a: Tensor, b: Tensor) -> Tensor:
        x = torch.fft.rfft2(a, s=self.canvas)
        y = x if b is a else torch.fft.rfft2(b, s=self.canvas)
        g, c = a.shape[1:3]
        vertical = _inverse(self.canvas[0], self.rows, half=False).to(device=a.device, dtype=x.dtype)
        horizontal = _inverse(self.canvas[1], self.columns, half=True).T.contiguous()
        out = torch.empty(g, c, c, len(vertical), horizontal.shape[1], dtype=torch.float64)
        for k in range(c):
            start = k if self.symmetric else 0
            # Image by image: one that is multiplied and added at once stays in the processor's cache.
            channel = x[:, :, k, None].conj().resolve_conj()
            power = channel[0] * y[0, :, start:]
            for here, there in zip(channel[1:], y[1:, :, start:], strict=True):
                power.addcmul_(here, there)
            out[:, k, start:] = ((vertical @ power).cpu().to(torch.complex128) @ horizontal).real
        if self.symmetric:
            i, j = torch.tril_indices(c, c, -1)
            out[:, i, j] = out[:, j, i].flip(-2, -1)
        return out

    def _top(self, a: Tensor, b: Tensor) -> Tensor:
        if not self.rows.seen:
            return torch.zeros(a.shape[1], 0)
        # A row against a row with zeros around it: every pair of pixels at every distance.
        reach = self.columns.border
        ends = both_ends(a, self.rows)
        others = F.pad(ends if b is a else both_ends(b, self.rows), (reach, reach))
        width = a.shape[-1]
        pixel = Axis(1, 1, 1, width)
        distances = Axis(2 * self.columns.kernel - 1, 1, self.columns.dilation, width)
        return line_products(ends, others, pixel, distances)[:, :, :, 0].unflatten(0, (-1, 2))

    def _side(self, a: Tensor, b: Tensor) -> Tensor:
        if not self.columns.seen:
            return torch.zeros(a.shape[1], 0)
        ends = both_ends(a.transpose(-1, -2), self.columns)
        others = ends if b is a else both_ends(b.transpose(-1, -2), self.columns)
        return line_products(ends, others, self.rows, self.rows).unflatten(0, (-1, 2))

    def assemble(self, full: Tensor, top: Tensor, side: Tensor) -> Tensor:
        """Returns the sums of p_a p_b^T, float64 [g, d, d], from the sums that calls returned, added up."""
        q, r = self.rows.kernel, self.columns.kernel
        by_row = torch.arange(q) - torch.arange(q)[:, None] + q - 1
        by_column = torch.arange(r) - torch.arange(r)[:, None] + r - 1
        table = full[:, :, :, by_row].permute(0, 3, 4, 1, 2, 5)  # [g, q, q, c, c, column lags]
        if self.rows.seen:  # [g, 2, c, l, c, l, lags] to [g, 2, l, l, c, c, lags]
            table = without_borders(table, top.permute(0, 1, 3, 5, 2, 4, 6), self.rows)
        table = table[..., by_column].permute(0, 5, 6, 3, 1, 4, 2)  # [g, r, r, c, q, c, q]
        if self.columns.seen:  # [g, 2, c, l, q, c, l, q] to [g, 2, l, l, c, q, c, q]
            table = without_borders(table, side.permute(0, 1, 3, 6, 2, 4, 5, 7), self.columns)
        d = self.geometry.patch_dim
        return table.permute(0, 3, 4, 1, 5, 6, 2).reshape(-1, d, d)


def fft_size(least: int) -> int:
    """Returns the smallest multiple of 8 from ``least`` on without prime factors above 5: such transforms are fast."""
    size = -(-least // 8) * 8
    while not _smooth(size):
        size += 8
    return size


def _smooth(size: int) -> bool:
    for prime in (2, 3, 5):
        while size % prime == 0:
            size //= prime
    return size == 1


@lru_cache(maxsize=64)
def _inverse(size: int, axis: Axis, half: bool) -> Tensor:
    """Returns the rows of the inverse transform for all distances of two offsets, complex128 [2 q - 1, frequencies]."""
    frequencies = torch.arange(size // 2 + 1 if half else size, dtype=torch.float64)
    lags = torch.arange(1 - axis.kernel, axis.kernel, dtype=torch.float64) * axis.dilation
    weight = torch.full_like(frequencies, 1 / size)
    if half:
        # The other half of a real signal's spectrum is the conjugate of this one; sizes are even.
        weight[1:-1] *= 2
    return weight * torch.polar(torch.ones(()).double(), lags[:, None] * frequencies * (2 * torch.pi / size))
