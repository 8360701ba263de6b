"""Sums of products of patches: the paths that give the same answer, and the rule that picks one."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import lru_cache
from itertools import zip_longest
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from convscope.core.choice import COSTS, expected
from convscope.core.geometry import ConvGeometry
from convscope.core.lines import exact
from convscope.core.spectra import SpectralProducts
from convscope.core.strips import StripProducts

Method = Literal["auto", "unfold", "strips", "fft"]

# Small enough for a processor's cache and for memory to be reused; a bound on each tensor, and about that on all.
CHUNK_BYTES = 48 * 2**20
_CALL = 7e5  # nanoseconds that a call for one more set of folds costs, whatever its size
_FLOAT32_TERMS = 8192
MAX_IMAGES = 64  # of one fold in a product: more would lose small eigenvalues in float32


class PatchProducts(Protocol):
    """One way to sum p_a p_b^T over positions and images.

    Attributes:
        canvas: height and width that images are best embedded in, with zeros below and to the right.
    """

    canvas: tuple[int, int]

    def __init__(
        self, geometry: ConvGeometry, height: int, width: int, *, symmetric: bool, zeros: tuple[int, int]
    ) -> None: ...

    def bytes_per_image(self, element_size: int) -> int:
        """Returns the memory that the intermediate tensors of one image take, in bytes."""
        ...

    def bytes_per_fold(self) -> int:
        """Returns the memory that the products of one fold take, however many images it has, in bytes."""
        ...

    def __call__(self, a: Tensor, b: Tensor) -> tuple[Tensor, ...]:
        """Returns the average patches, and the sums that ``assemble`` takes.

        Args:
            a: [n, g, c, h, w], padded images, or the same on a canvas of zeros. Images of several folds may enter
                side by side as further groups.
            b: as ``a``; the same tensor for second moments.

        Returns:
            left: float64 [n, g, d], the average patch of each image of a.
            right: the same of b.
            sums: float64 [g, ...], over all images and positions.
        """
        ...

    def assemble(self, *sums: Tensor) -> Tensor:
        """Returns the sums of p_a p_b^T, float64 [g, d, d], from the sums that calls returned, added up."""
        ...


class UnfoldProducts:
    """Sums over positions and images of p_a p_b^T by forming the patches, a chunk of rows at a time.

    Args:
        geometry: kernel, stride, dilation and groups; padding has been applied.
        height: of the padded images, filled exactly by the positions.
        width: of the padded images.
        symmetric: whether the two sets of images are the same.
        zeros: rows, and columns, at either end that are known to be zero, which is of no use here.
    """

    def __init__(
        self, geometry: ConvGeometry, height: int, width: int, *, symmetric: bool, zeros: tuple[int, int] = (0, 0)
    ) -> None:
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

    def bytes_per_fold(self) -> int:
        """Returns the size of the products, in float64."""
        return 8 * self.geometry.groups * self.geometry.patch_dim**2

    def __call__(self, a: Tensor, b: Tensor) -> tuple[Tensor, ...]:
        """Returns the average patches, then the sum of p_a p_b^T, float64 [g, d, d] (see ``PatchProducts``)."""
        share = len(a) * a.shape[1] // self.geometry.groups
        height = max(CHUNK_BYTES // (self.bytes_per_row(a.element_size()) * share), 1)
        averages, total = [], None
        for top in range(0, self.rows, height):
            p = self._patches(a, top, min(height, self.rows - top))
            q = p if b is a else self._patches(b, top, min(height, self.rows - top))
            # Long float32 sums lose digits; in float64 one product is as good.
            step = _FLOAT32_TERMS if p.dtype == torch.float32 else p.shape[2]
            for left, right in zip(p.split(step, 2), q.split(step, 2), strict=True):
                product = exact(left @ right.mT)
                total = product if total is None else total.add_(product)
            averages.append([exact(t.unflatten(2, (len(a), -1)).sum(-1)) for t in ((p,) if b is a else (p, q))])
        assert total is not None
        means = [sum(parts).permute(2, 0, 1) / (self.rows * self.columns) for parts in zip(*averages, strict=True)]
        return means[0], means[-1], total

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


@dataclass(frozen=True)
class Plan:
    """How the products of patches of a set of images are computed.

    Attributes:
        products: the path.
        size: height and width of the padded images, which the positions fill exactly.
        positions: number of positions.
        chunk: number of images at a time: at least 1, and no more than fit ``CHUNK_BYTES``, their copies included.
        folds: number of folds side by side: at least 1, and no more than have products that fit ``CHUNK_BYTES``.
        per_image: nanoseconds expected for one image more.
        per_fold: nanoseconds expected for one fold more in the same call.
    """

    products: PatchProducts
    size: tuple[int, int]
    positions: int
    chunk: int
    folds: int
    per_image: float
    per_fold: float

    @classmethod
    @lru_cache(maxsize=256)
    def of(
        cls,
        geometry: ConvGeometry,
        size: tuple[int, int],
        two: bool,
        method: Method,
        dtype: torch.dtype,
        images: float,
        zeros: tuple[int, int],
    ) -> Plan:
        """Returns the plan for padded images.

        Args:
            geometry: of the convolution.
            size: height and width of the padded images.
            two: whether patches of two sets of images are multiplied, instead of one set with itself.
            method: "unfold", "strips", "fft" (strips where the stride is not 1), or "auto": the fastest expected.
            dtype: of the arithmetic.
            images: about how many images a fold has.
            zeros: rows, and columns, at either end of the padded images that are known to be zero.
        """
        kinds: dict[str, Callable[..., Any]]
        kinds = {"unfold": UnfoldProducts, "strips": StripProducts, "fft": SpectralProducts}
        costs = expected(geometry, *size, dtype.itemsize, images)
        if method == "fft" and geometry.stride != (1, 1):
            method = "strips"
        for choice in sorted(costs, key=costs.__getitem__) if method == "auto" else [method]:
            products: PatchProducts = kinds[choice](geometry, *size, symmetric=not two, zeros=(0, 0) if two else zeros)
            # With many channels the products of strips take far more memory than those of patches.
            if choice in {method, "unfold"} or products.bytes_per_fold() <= CHUNK_BYTES:
                break
        rows, columns = geometry.positions(*size)
        copies = 2 * geometry.channels * math.prod(products.canvas) * dtype.itemsize
        chunk = max(CHUNK_BYTES // (products.bytes_per_image(dtype.itemsize) + copies), 1)
        folds = max(CHUNK_BYTES // products.bytes_per_fold(), 1)
        fixed = expected(geometry, *size, dtype.itemsize, 0)[choice]
        per_image, per_fold = (costs[choice] - fixed) / images, fixed - COSTS[choice, dtype.itemsize][-1]
        return cls(products, size, rows * columns, chunk, folds, per_image, per_fold)


def alike(fold: Tensor, plans: Collection[Plan]) -> list[tuple[Tensor, Tensor]]:
    """Returns sets of folds of similar size, which are multiplied side by side: few calls, not many.

    Args:
        fold: int64 [n], the fold of each image.
        plans: what is done with the images.

    Returns:
        For each set, the folds of its columns, int64 [f], and their images, int64 [m, f], filled up with -1 where that
        costs less than a call of its own. A fold larger than the others may have several columns.
    """
    chunk, side = min(p.chunk for p in plans), min(p.folds for p in plans)
    per_image, per_fold = sum(p.per_image for p in plans), sum(p.per_fold for p in plans)
    members: dict[int, list[int]] = {}
    for image, k in enumerate(fold.tolist()):
        members.setdefault(k, []).append(image)
    folds = sorted(members.items(), key=_height)

    def fits(columns: _Columns) -> bool:
        return len(columns) <= side and len(columns) * _height(columns[-1]) <= chunk

    def cost(sets: list[_Columns]) -> float:
        return sum(_CALL + len(s) * (per_fold + _height(s[-1]) * per_image) for s in sets)

    # Either the smaller folds of a set are filled up to the largest, or the large folds are cut and all go in one set.
    filled: list[_Columns] = []
    for member in folds:
        more = [*filled[-1], member] if filled else []
        if more and fits(more) and cost([more]) <= cost([more[:-1], [member]]):
            filled[-1] = more
        else:
            filled.append([member])
    ways = [filled]
    for height in {_height(member) for member in folds}:
        columns = [(k, part[i : i + height]) for k, part in folds for i in range(0, len(part), height)]
        if fits(columns := sorted(columns, key=_height)):
            ways.append([columns])
    return [
        (
            torch.tensor([k for k, _ in columns]),
            torch.tensor(list(zip_longest(*(images for _, images in columns), fillvalue=-1))),
        )
        for columns in min(ways, key=cost)
    ]


_Columns = list[tuple[int, list[int]]]  # fold and images of each column


def _height(column: tuple[int, list[int]]) -> int:
    return len(column[1])
