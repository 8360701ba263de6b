"""Sums of products of patches: the paths that give the same answer, and the rule that picks one."""

from __future__ import annotations

from typing import Literal, Protocol

import torch
from torch import Tensor

from convscope.core.choice import fastest
from convscope.core.geometry import ConvGeometry
from convscope.core.spectra import SpectralProducts
from convscope.core.strips import StripProducts

Method = Literal["auto", "unfold", "strips", "fft"]

CHUNK_BYTES = 16 * 2**20
MAX_IMAGES = 64  # of one fold in a product: more would lose small eigenvalues in float32


class PatchProducts(Protocol):
    """One way to sum p_a p_b^T over positions and images.

    Attributes:
        canvas: height and width that images are best embedded in, with zeros below and to the right.
    """

    canvas: tuple[int, int]

    def bytes_per_image(self, element_size: int) -> int:
        """Returns the memory that the intermediate tensors of one image take, in bytes."""
        ...

    def __call__(self, a: Tensor, b: Tensor) -> tuple[Tensor, ...]:
        """Returns float64 sums [g, ...] over padded images [n, g, c, h, w]; ``b is a`` for second moments.

        Images of other folds may enter as further groups.
        """
        ...

    def assemble(self, *sums: Tensor) -> Tensor:
        """Returns the sums of p_a p_b^T, float64 [g, d, d], from what a call returned, summed over calls."""
        ...


class UnfoldProducts:
    """Sums over positions and images of p_a p_b^T by forming the patches, a chunk of rows at a time.

    Args:
        geometry: kernel, stride, dilation and groups; padding has been applied.
        height: of the padded images, filled exactly by the positions.
        width: of the padded images.
        symmetric: whether the two sets of images are the same.
    """

    def __init__(self, geometry: ConvGeometry, height: int, width: int, *, symmetric: bool) -> None:
        self.geometry, self.symmetric = geometry, symmetric
        self.canvas = (height, width)
        self.rows, self.columns = geometry.positions(height, width)

    def bytes_per_row(self, element_size: int) -> int:
        """Returns the size of the patches of one row of positions of one image."""
        entries = self.geometry.channels * self.geometry.kernel[0] * self.geometry.kernel[1]
        return entries * self.columns * element_size * (1 if self.symmetric else 2)

    def bytes_per_image(self, element_size: int) -> int:
        """Returns the size of the patches of one image."""
        return self.bytes_per_row(element_size) * self.rows

    def __call__(self, a: Tensor, b: Tensor) -> tuple[Tensor, ...]:
        """Returns the sum of p_a p_b^T, float64 [g, d, d] (see ``PatchProducts``)."""
        share = len(a) * a.shape[1] // self.geometry.groups
        height = max(CHUNK_BYTES // (self.bytes_per_row(a.element_size()) * share), 1)
        total = torch.zeros((), dtype=torch.float64)
        for top in range(0, self.rows, height):
            p = self._patches(a, top, min(height, self.rows - top))
            q = p if b is a else self._patches(b, top, min(height, self.rows - top))
            total = total + exact(p @ q.mT)
        return (total,)

    def _patches(self, images: Tensor, top: int, rows: int) -> Tensor:
        """Returns the patches [g, d, n * rows * columns] whose positions lie in ``rows`` rows from ``top`` on."""
        n, g, c = images.shape[:3]
        (q, r), (sy, sx), (dy, dx) = self.geometry.kernel, self.geometry.stride, self.geometry.dilation
        image, group, channel, row, column = images.stride()
        view = images.as_strided(
            (g, c, q, r, n, rows, self.columns),
            (group, channel, dy * row, dx * column, image, sy * row, sx * column),
            images.storage_offset() + top * sy * row,
        )
        return view.reshape(g, self.geometry.patch_dim, n * rows * self.columns)

    def assemble(self, *sums: Tensor) -> Tensor:
        """Returns the sums of p_a p_b^T, float64 [g, d, d]."""
        return sums[0]


def products_for(
    geometry: ConvGeometry,
    height: int,
    width: int,
    *,
    symmetric: bool = True,
    method: Method = "auto",
    element_size: int = 8,
    images: float = 1.0,
) -> PatchProducts:
    """Returns the path for padded images of this size.

    Args:
        geometry: of the convolution.
        height: in pixels, padding included, filled exactly by the positions.
        width: as ``height``.
        symmetric: whether the two sets of images are the same.
        method: "unfold", "strips", "fft" (strips where the stride is not 1), or "auto": the fastest expected.
        element_size: bytes of a number, 4 or 8.
        images: about how many images a fold has.
    """
    if method == "auto":
        method = fastest(geometry, height, width, element_size, images)
    if method == "unfold":
        return UnfoldProducts(geometry, height, width, symmetric=symmetric)
    if method == "fft" and geometry.stride == (1, 1):
        return SpectralProducts(geometry, height, width, symmetric=symmetric)
    return StripProducts(geometry, height, width, symmetric=symmetric)


def chunk_images(products: PatchProducts, element_size: int) -> int:
    """Returns how many images are multiplied at a time: at least 1, and no more than fit ``CHUNK_BYTES``."""
    return max(CHUNK_BYTES // products.bytes_per_image(element_size), 1)


def box_means(images: Tensor, geometry: ConvGeometry) -> Tensor:
    """Returns the average patch of each padded image, float64 [..., d] on the CPU, from images [..., c, h, w]."""
    height, width = images.shape[-2:]
    rows, columns = geometry.positions(height, width)
    pick_rows = _selection(images, rows, geometry.kernel[0], geometry.dilation[0], geometry.stride[0], height)
    pick_columns = _selection(images, columns, geometry.kernel[1], geometry.dilation[1], geometry.stride[1], width)
    sums = pick_rows @ (images @ pick_columns.T)
    return exact(sums).flatten(-3) / (rows * columns)


def _selection(images: Tensor, positions: int, kernel: int, dilation: int, stride: int, size: int) -> Tensor:
    """Returns 0/1 [kernel, size]: which pixels the kernel's i-th row (or column) visits."""
    pick = images.new_zeros(kernel, size)
    for i in range(kernel):
        pick[i, i * dilation : i * dilation + (positions - 1) * stride + 1 : stride] = 1
    return pick


def alike(fold: Tensor, chunk: int) -> list[tuple[Tensor, Tensor]]:
    """Returns sets of folds with about as many images, which are multiplied side by side: few calls, not many.

    Args:
        fold: int64 [n], the fold of each image.
        chunk: how many images a set of several folds may have.

    Returns:
        For each set, its folds, int64 [f], and their images, int64 [m, f], filled up with -1: at most 30 % of them.
    """
    found, sizes = fold.unique(return_counts=True)
    sets: list[list[int]] = []
    for k in sizes.argsort().tolist():
        size, total = int(sizes[k]), sum(int(sizes[j]) for j in sets[-1]) if sets else 0
        filled = size * (len(sets[-1]) + 1) if sets else 0
        if sets and filled <= min(1.3 * (total + size), chunk):
            sets[-1].append(k)
        else:
            sets.append([k])
    out = []
    for members in sets:
        where = torch.full((int(sizes[members].max()), len(members)), -1)
        for column, k in enumerate(members):
            where[: int(sizes[k]), column] = (fold == found[k]).nonzero().flatten()
        out.append((found[members], where))
    return out


def exact(t: Tensor) -> Tensor:
    """Returns a (small) tensor in float64 on the CPU: some devices have no float64."""
    return t.cpu().double()


def by_fold(values: Tensor, fold: Tensor, folds: int) -> Tensor:
    """Returns the sums of the rows of each fold, [folds, ...], from values [n, ...]."""
    return values.new_zeros(folds, *values.shape[1:]).index_add_(0, fold, values)
