"""Sums of products of patches by shifted products of strips of rows; no patch is ever formed.

Pairs of rows of the kernel at the same distance share one product of strips (see ``convscope.core.lines``) over all
rows of the image; the few rows at the border that one pair's window leaves out are taken off again. Strides split
the rows into phases, so that every geometry has this path.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from convscope.core.geometry import ConvGeometry
from convscope.core.lines import (
    Axis,
    axes,
    both_ends,
    box_means,
    diagonals,
    line_entries,
    line_products,
    strip_pixels,
    without_borders,
)


class StripProducts:
    """Sums over positions and images of p_a p_b^T by products of strips.

    Args:
        geometry: kernel, stride, dilation and groups; padding has been applied.
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
        self.canvas = (height, width)
        self.length = strip_length(self.columns)
        self.classes, self.index = row_classes(self.rows, symmetric)

    def bytes_per_image(self, element_size: int) -> int:
        """Returns the size of the strips of one image."""
        pixels = sum(count * strip_pixels(self.columns, n)[0] for _, n, count in self.columns.segments(self.length))
        phases = len({phase for phase, _, _ in self.classes})
        rows = (self.rows.size + self.rows.stride - 1) // self.rows.stride * phases
        return self.geometry.channels * rows * pixels * element_size * (1 if self.symmetric else 2)

    def bytes_per_fold(self) -> int:
        """Returns the size of the products of strips and of the border's rows, in float64."""
        c, g = self.geometry.channels // self.geometry.groups, self.geometry.groups
        strips = len(self.classes) * (c * strip_pixels(self.columns, self.length)[0]) ** 2
        return 8 * g * max(strips, line_entries(c, self.rows.seen, self.columns))

    def __call__(self, a: Tensor, b: Tensor) -> tuple[Tensor, ...]:
        """Returns the average patches, the sums over all rows, and those over the rows at the border if there are any.

        Args:
            a: [n, g, c, h, w].
            b: [n, g, c, h, w]; the same tensor as ``a`` for second moments.

        Returns:
            left: float64 [n, g, d], the average patch of each image of a.
            right: the same of b.
            full: [g, classes, c, r, c, r], float64, the sums for each class of pairs of kernel rows over all rows.
            border: [g, 2, c, seen, r, c, seen, r], float64, of the top and bottom rows.
        """
        left = box_means(a, self.rows, self.columns)
        means = (left, left if b is a else box_means(b, self.rows, self.columns))
        full = torch.zeros((), dtype=torch.float64)
        # Rows of zeros add nothing; whole strides of them are left out, so that every row keeps its phase.
        rows = slice(self.rows.zeros - self.rows.zeros % self.rows.stride, a.shape[-2] - self.rows.zeros)
        x, y = a[..., rows, :], b[..., rows, :]
        for start, length, count in self.columns.segments(self.length):
            here = self._phases(x, start, length, count)
            there = here if b is a else self._phases(y, start, length, count)
            g, _, _, f = here[0].shape
            products = a.new_empty(len(self.classes), g, f, f)
            for out, (phase, other, distance) in zip(products, self.classes, strict=True):
                p, s = here[phase], there[other]
                low = max(0, -distance)
                high = max(low, min(p.shape[1], s.shape[1] - distance))
                p, s = p[:, low:high].flatten(1, 2), s[:, low + distance : high + distance].flatten(1, 2)
                torch.bmm(p.mT, s, out=out)
            full = full + diagonals(products, self.columns, self.columns, length)[:, :, :, 0, :, :, 0]
        full = full.transpose(0, 1)
        if not self.rows.seen:
            return *means, full
        ends = both_ends(a, self.rows)
        others = ends if b is a else both_ends(b, self.rows)
        return *means, full, line_products(ends, others, self.columns, self.columns).unflatten(0, (-1, 2))

    def _phases(self, images: Tensor, start: int, length: int, count: int) -> dict[int, Tensor]:
        """Returns, for each phase of the rows, the strips [g, row, n * strips, c * pixels]."""
        n, g, c, height, _ = images.shape
        stride = self.rows.stride
        pixels, step = strip_pixels(self.columns, length)
        image, group, channel, row, column = images.stride()
        hop = self.columns.stride * column
        phases: dict[int, Tensor] = {}
        for phase in {phase for pair in self.classes for phase in pair[:2]}:
            lines = (height - phase + stride - 1) // stride
            view = images.as_strided(
                (g, lines, n, count, c, pixels),
                (group, stride * row, image, length * hop, channel, step * column),
                images.storage_offset() + phase * row + start * hop,
            )
            phases[phase] = view.reshape(g, lines, n * count, c * pixels)
        return phases

    def assemble(self, full: Tensor, border: Tensor | None = None) -> Tensor:
        """Returns the sums of p_a p_b^T, float64 [g, d, d], from the sums that calls returned, added up."""
        if border is not None:  # [g, 2, c, l, r, c, l, r] to [g, 2, l, l, c, r, c, r]
            border = border.permute(0, 1, 3, 6, 2, 4, 5, 7)
        table = without_borders(full[:, self.index], border, self.rows)  # [g, q, q, c, r, c, r]
        if self.symmetric:
            i, j = torch.tril_indices(self.index.shape[0], self.index.shape[1], offset=-1)
            table[:, i, j] = table[:, j, i].permute(0, 1, 4, 5, 2, 3)
        d = self.geometry.patch_dim
        return table.permute(0, 3, 1, 4, 5, 2, 6).reshape(-1, d, d)


@lru_cache(maxsize=256)
def row_classes(rows: Axis, symmetric: bool) -> tuple[list[tuple[int, int, int]], Tensor]:
    """Returns the classes (phase, other phase, distance in strides) and the class of each pair (i, i'), [q, q].

    Where symmetric, only i <= i' have a class; the others hold 0.
    """
    classes: dict[tuple[int, int, int], int] = {}
    index = torch.zeros(rows.kernel, rows.kernel, dtype=torch.int64)
    for i in range(rows.kernel):
        for j in range(i if symmetric else 0, rows.kernel):
            (m, phase), (m2, other) = divmod(i * rows.dilation, rows.stride), divmod(j * rows.dilation, rows.stride)
            index[i, j] = classes.setdefault((phase, other, m2 - m), len(classes))
    return list(classes), index


def strip_length(columns: Axis) -> int:
    """Returns L, the positions in a strip.

    Long strips copy less and multiply more; about 16 pixels, or half as many more than the kernel spans, are near
    the best measured. A divisor of the number of positions leaves nothing over.
    """
    span = (columns.kernel - 1) * columns.dilation + 1
    most = min((max(16, span + span // 2) - span) // columns.stride + 1, columns.positions)
    lengths = [n for n in range(most, 0, -1) if strip_pixels(columns, n)[0]]
    return next((n for n in lengths if 2 * n > most and columns.positions % n == 0), lengths[0])
