"""Products of lines of pixels at the distances that occur within a kernel, by matrix products of strips.

A strip of L neighbouring positions on a line sees few pixels more than one position does (L + r - 1 for a kernel of
r at stride 1, instead of L * r), so one matrix product of strips holds all pairs of offsets on its diagonals.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from convscope.core.geometry import ConvGeometry

_STRIP = 4  # positions; lines at a border are few, so that longer strips cost more than they save


@dataclass(frozen=True)
class Axis:
    """A kernel along one axis: it visits pixels position * stride + offset * dilation.

    Attributes:
        kernel: number of offsets.
        stride: in pixels.
        dilation: in pixels.
        positions: number of positions.
        zeros: pixels at either end that are known to be zero.
    """

    kernel: int
    stride: int
    dilation: int
    positions: int
    zeros: int = 0

    @property
    def border(self) -> int:
        """Pixels at either end of the axis that some pairs of offsets use and others at the same distance do not."""
        return max((self.kernel - 1) * self.dilation + 1 - self.stride, 0)

    @property
    def seen(self) -> int:
        """Those pixels of the border that need not be zero: the last ones at the start, the first ones at the end."""
        return max(self.border - self.zeros, 0)

    @property
    def size(self) -> int:
        """Pixels that all positions together span."""
        return (self.positions - 1) * self.stride + (self.kernel - 1) * self.dilation + 1

    def segments(self, length: int) -> list[tuple[int, int, int]]:
        """Returns (first position, positions in a strip, strips): strips of ``length``, then what is left over.

        Where the pixels of a strip would not be evenly spaced, strips have one position.
        """
        found, start = [], 0
        while start < self.positions:
            here = min(length, self.positions - start)
            here = here if strip_pixels(self, here)[0] else 1
            found.append((start, here, (self.positions - start) // here))
            start += here * found[-1][2]
        return found


@lru_cache(maxsize=1024)
def strip_pixels(axis: Axis, length: int) -> tuple[int, int]:
    """Returns (pixels, step): a strip of ``length`` positions sees pixels 0, step, ..., (pixels - 1) * step.

    Where these would not be evenly spaced, pixels is 0.
    """
    seen = {s * axis.stride + j * axis.dilation for s in range(length) for j in range(axis.kernel)}
    step = min(seen - {0}, default=1)
    even = max(seen) == step * (len(seen) - 1) and all(p % step == 0 for p in seen)
    return (len(seen), step) if even else (0, 0)


def axes(geometry: ConvGeometry, height: int, width: int, zeros: tuple[int, int] = (0, 0)) -> tuple[Axis, Axis]:
    """Returns the kernel along the rows and along the columns of padded images of this size.

    Args:
        geometry: of the convolution.
        height: of the padded images.
        width: of the padded images.
        zeros: rows at the top and at the bottom, and columns at the left and at the right, that are known to be zero.
    """
    rows, columns = geometry.positions(height, width)
    (q, r), (sy, sx), (dy, dx) = geometry.kernel, geometry.stride, geometry.dilation
    return Axis(q, sy, dy, rows, zeros[0]), Axis(r, sx, dx, columns, zeros[1])


def line_products(x: Tensor, y: Tensor, left: Axis, right: Axis) -> Tensor:
    """Returns the products of all pairs of lines, summed over positions along the lines and over images.

    Args:
        x: [n, g, c, l, w], l lines of pixels.
        y: [n, g, c, l, w'].
        left: the kernel along w.
        right: the kernel along w', with the same number of positions; where pixels are evenly spaced for it, they must
            be so for ``left``.

    Returns:
        float64 [g, c, l, r, c, l, r'] on the CPU; entry (c, a, j, c', a', j') is the sum over positions b of
        x[c, a, b + j] y[c', a', b + j'], offsets and positions in units of dilation and stride.
    """
    total = torch.zeros((), dtype=torch.float64)
    for start, here, count in right.segments(_STRIP):
        p = _line_strips(x, left, start, here, count)
        s = p if y is x and right == left else _line_strips(y, right, start, here, count)
        total = total + diagonals(p.mT @ s, left, right, here, lines=x.shape[3])
    return total


def line_entries(channels: int, border: int, axis: Axis) -> int:
    """Returns the number of products of strips that ``line_products`` makes for the lines at both borders."""
    pixels = max(strip_pixels(axis, length)[0] for _, length, _ in axis.segments(_STRIP))
    return 2 * (channels * border * pixels) ** 2


def _line_strips(x: Tensor, axis: Axis, start: int, length: int, count: int) -> Tensor:
    n, g, c, lines, _ = x.shape
    pixels, step = strip_pixels(axis, length)
    image, group, channel, line, column = x.stride()
    hop = axis.stride * column
    view = x.as_strided(
        (g, n, count, c, lines, pixels),
        (group, image, length * hop, channel, line, step * column),
        x.storage_offset() + start * hop,
    )
    return view.reshape(g, n * count, c * lines * pixels)


def diagonals(products: Tensor, left: Axis, right: Axis, length: int, lines: int = 1) -> Tensor:
    """Returns the sums over the positions of a strip, from products of strips.

    Args:
        products: [..., c * l * pixels, c * l * pixels'].
        left: the axis that the first strips lie on.
        right: the axis that the second strips lie on.
        length: L, positions in a strip.
        lines: l.

    Returns:
        float64 [..., c, l, r, c, l, r'] on the CPU.
    """
    products = products.cpu().contiguous()
    f, f2 = products.shape[-2:]
    (pixels, step), (pixels2, step2) = strip_pixels(left, length), strip_pixels(right, length)
    hop = left.stride // step * f2 + right.stride // step2 if length > 1 else 0
    c = f // (lines * pixels)
    size = (c, lines, left.kernel, c, lines, right.kernel)
    strides = (
        *(lines * pixels * f2, pixels * f2, left.dilation // step * f2),
        *(lines * pixels2, pixels2, right.dilation // step2),
    )
    flat = products.flatten(0, -3)
    # One slice after another: a reduction over a short strided axis takes twice the time.
    total = flat.as_strided((len(flat), *size), (f * f2, *strides)).clone(memory_format=torch.contiguous_format)
    for s in range(1, length):
        total += flat.as_strided((len(flat), *size), (f * f2, *strides), flat.storage_offset() + s * hop)
    return total.double().unflatten(0, products.shape[:-2])


def both_ends(images: Tensor, rows: Axis) -> Tensor:
    """Returns the border rows seen at the top, then at the bottom, of each group: [n, 2 g, c, seen, w]."""
    bottom = rows.positions * rows.stride
    ends = images[..., rows.border - rows.seen : rows.border, :], images[..., bottom : bottom + rows.seen, :]
    return torch.stack(ends, 2).flatten(1, 2)


def without_borders(full: Tensor, border: Tensor | None, axis: Axis) -> Tensor:
    """Returns the sums over each pair's own window from sums over a whole axis.

    The window of offset o starts at pixel o and has ``axis.positions`` positions: of all the pairs of pixels at the
    distance o' - o, those before pixel o and those from pixel o + positions * stride on are taken off.

    Args:
        full: [g, q, q, ...], for each pair of offsets the sum over all pixels at that distance and phase.
        border: [g, 2, seen, seen, ...], the products of the first and of the last pixels; None where none is seen.
        axis: the kernel along this axis.
    """
    if border is None:
        return full
    s, seen, unseen = axis.stride, axis.seen, axis.border - axis.seen
    size = axis.border + s
    first, last = border[:, 0], border[:, 1]
    window = slice(0, (axis.kernel - 1) * axis.dilation + 1, axis.dilation)
    before = border.new_zeros(border.shape[0], size, size, *border.shape[4:])
    for k in range(seen):
        torch.add(before[:, unseen + k, unseen:-s], first[:, k], out=before[:, unseen + k + s, unseen + s :])
    result = full - before[:, window, window]
    after = before.zero_()
    for k in reversed(range(seen)):
        torch.add(after[:, k + s, s : seen + s], last[:, k], out=after[:, k, :seen])
    return result.sub_(after[:, window, window])


def box_means(images: Tensor, rows: Axis, columns: Axis) -> Tensor:
    """Returns the average patch of each padded image, without forming patches.

    Args:
        images: [..., c, h, w].
        rows: the kernel along h; the positions start in the corner, and h may be larger than they span.
        columns: the kernel along w, likewise.

    Returns:
        float64 [..., d] on the CPU.
    """
    # Rows first: this order takes half the time of the other.
    sums = _selection(images, rows, images.shape[-2]) @ images @ _selection(images, columns, images.shape[-1]).T
    return exact(sums).flatten(-3) / (rows.positions * columns.positions)


def _selection(images: Tensor, axis: Axis, size: int) -> Tensor:
    """Returns 0/1 [kernel, size]: which pixels an offset of the kernel visits."""
    pick = images.new_zeros(axis.kernel, size)
    for i, o in enumerate(range(0, axis.kernel * axis.dilation, axis.dilation)):
        pick[i, o : o + (axis.positions - 1) * axis.stride + 1 : axis.stride] = 1
    return pick


def exact(t: Tensor) -> Tensor:
    """Returns a (small) tensor in float64 on the CPU: some devices have no float64."""
    return t.cpu().double()
