"""Sums over images for activation spectra, and what is kept of each layer of a network."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache, partial
from math import isfinite, prod
from typing import Self

import torch
from torch import Tensor

from convscope.bottleneck.spectrum import ActivationSpectrum, Sketch
from convscope.bottleneck.waves import Scratch, waves
from convscope.core.accumulate import Sums, merged
from convscope.core.batches import FEWEST_FOLDS, Batch
from convscope.core.errors import ConvscopeError
from convscope.core.network import Network
from convscope.core.passes import Pass
from convscope.core.slots import Slot
from convscope.core.streams import Output

IMAGES = 2000  # that spectra are taken from
BUDGET = 2**30  # bytes of all sums, their folds included
FEWEST, MOST = 8, 32  # columns of a sketch
_CHUNK = 1 << 20  # numbers in the maps that are transformed at once
_BLOCK = 1 << 18  # numbers in the products that are formed at once, before they are added in float64
_MOST = 64  # images in a product in float32: more would lose small eigenvalues


class SpectrumSums(Sums[ActivationSpectrum]):
    """Sums over images of the transforms of maps and of their products, frequency by frequency.

    Arithmetic follows the maps' dtype (half: float32); sums across images are float64, not centred, and in float32
    products run over at most 64 images before they are added. At frequency (0, 0), where the mean may be far larger
    than what varies, products are float64 always. Re z z^* is symmetric and Im z z^* antisymmetric, so that their sum,
    k x k real numbers, holds both; it is one real product,
    [re z + im z; im z - re z]^T [re z; im z] over the images.

    Args:
        columns: None: covariances are kept in full, k^2 numbers at each frequency; otherwise their diagonals and a
            sketch of that many columns (0: no sketch). A sketch that would be no smaller is not made.
        hann: whether maps are multiplied by a Hann window first: for images, which are not periodic.
        crop: (top, bottom, left, right), pixels of the maps that are left out, as what a circular padding has added.
        scratch: memory to work in; several sums may share it.
    """

    def __init__(
        self,
        columns: int | None = None,
        *,
        hann: bool = False,
        crop: tuple[int, int, int, int] = (0, 0, 0, 0),
        scratch: Scratch | None = None,
    ) -> None:
        super().__init__()
        self.scratch = scratch or Scratch()
        self.columns = columns
        self.hann = hann
        self.crop = crop

    def update(self, x: Tensor, batch: Batch) -> None:
        """Adds the maps of a batch.

        Args:
            x: [n, k, h, w], as many maps as the batch has images.
            batch: the images.

        Raises:
            ConvscopeError: when maps are not finite numbers, no maps, or of another size than those before.
        """
        self.update_folds([self], x, batch, torch.zeros(len(x), dtype=torch.int64))

    def update_folds(self, parts: Sequence[SpectrumSums], x: Tensor, batch: Batch, fold: Tensor) -> None:
        """Adds image i of a batch to ``parts[fold[i]]``.

        Args:
            parts: sums made like these.
            x: as for ``update``.
            batch: as for ``update``.
            fold: int64 [n].

        Raises:
            ConvscopeError: as ``update``.
        """
        if x.ndim != 4 or not x.shape[1]:
            raise ConvscopeError(f"a spectrum needs maps [n, k, h, w], got {list(x.shape)}")
        top, bottom, left, right = self.crop
        h, w = x.shape[2] - top - bottom, x.shape[3] - left - right
        if min(h, w) < 1:
            raise ConvscopeError(f"maps of {x.shape[2]}x{x.shape[3]} have no pixel inside of their border")
        name = f"{x.shape[1]}x{h}x{w}"
        sizes = {name}.union(*(part.sizes for part in parts))
        if len(sizes) > 1:
            raise ConvscopeError(_several(sizes))
        dtype = x.dtype if x.dtype in {torch.float32, torch.float64} else torch.float32
        transform = waves(h, w, self.hann, dtype, x.device)
        step = min(max(_CHUNK // x[:1].numel(), 1), _MOST) if len(x) else 1
        for k, part in enumerate(parts):
            for where in (fold == k).nonzero()[:, 0].split(step):
                if len(where):
                    maps = self.scratch("maps", x, len(where), *x.shape[1:])
                    torch.index_select(x, 0, where.to(x.device), out=maps)
                    maps = maps[:, :, top : top + h, left : left + w].to(dtype)
                    part._add(name + " ", transform(maps, self.scratch), batch.index[where])

    def _add(self, size: str, z: Tensor, index: Tensor) -> None:
        """Adds the images of a transform [f, 2, n, k].

        Raises:
            ConvscopeError: when it is not finite.
        """
        first, constant = z.sum(2).cpu().double(), z[:1].cpu().double()  # the first is frequency (0, 0)
        first[:1] = constant.sum(2)
        if not isfinite(float(first.sum())):
            raise ConvscopeError(
                f"the layer's maps hold NaN or infinite values for some of the images {int(index.min())} to "
                f"{int(index.max())}: the network diverges there; check its weights and the scale of the images"
            )
        f, _, n, k = z.shape
        rough = n if z.dtype == torch.float32 else 0
        self.add(size + "images", torch.tensor([n, rough]))
        self.add(size + "first", first, copy=False)
        columns = _columns(k, self.columns)
        for name, shape in _shapes(k, columns).items():
            if size + name not in self.sums:
                self.add(size + name, torch.zeros(f, *shape, dtype=torch.float64), copy=False)
        step = max(_BLOCK // (k * (k if columns is None else 2 * max(columns, n))), 1)
        start = 0
        for part in (constant, *(z[1:].split(step) if f > 1 else ())):
            for name, term in self._products(part, columns):
                total = self.sums[size + name][start : start + len(part)]
                total += self.scratch("sum", total, *term.shape).copy_(term)
            start += len(part)

    def _products(self, z: Tensor, columns: int | None) -> Iterator[tuple[str, Tensor]]:
        """Yields the name and the terms of each sum of products over the images of a transform, [f, 2, n, k]."""
        f, _, n, k = z.shape
        each = z.reshape(f, 2 * n, k)
        left = self.scratch("left", z, *z.shape)
        if columns is None:
            a, b = z.unbind(1)
            torch.add(a, b, out=left[:, 0])
            torch.sub(b, a, out=left[:, 1])
            yield "second", torch.bmm(left.view(f, 2 * n, k).mT, each, out=self.scratch("second", z, f, k, k))
            return
        yield "power", torch.mul(z, z, out=left).sum((1, 2))
        if columns:
            re, im = (z @ _directions(k, columns).to(z)).unbind(1)
            right = torch.stack([torch.cat([re, -im], -1), torch.cat([im, re], -1)], 1).view(f, 2 * n, -1)
            yield "sketch", torch.bmm(each.mT, right, out=self.scratch("sketch", z, f, k, 2 * columns))

    @property
    def sizes(self) -> set[str]:
        """Sizes of the maps seen, such as "16x32x32"; one, unless sums were merged that do not belong together."""
        return {name.split()[0] for name in self.sums}

    def merge(self, other: Self) -> None:
        """Adds the sums of ``other``, made alike; maps of several sizes are an error only when something is computed.

        Raises:
            ValueError: when ``other`` keeps something else.
        """
        if (self.columns, self.hann, self.crop) != (other.columns, other.hann, other.crop):
            raise ValueError("only sums that keep the same of their maps can be merged")
        super().merge(other)

    def compute(self) -> ActivationSpectrum:
        """Returns the spectrum, centred; what varies by no more than rounding errors does not vary in it.

        Raises:
            ConvscopeError: when no image was seen, or maps of several sizes.
        """
        if not self.sums:
            raise ConvscopeError("a spectrum needs at least one image, got none: hand in images")
        if len(self.sizes) > 1:
            raise ConvscopeError(_several(self.sizes))
        (size,) = self.sizes
        k, h, w = map(int, size.split("x"))
        places = waves(h, w, self.hann, torch.float64, torch.device("cpu")).places
        n, rough = self.sums[f"{size} images"].tolist()
        mean = self.sums[f"{size} first"][places] / n
        a, b = mean.unbind(1)
        columns, packed, sketch = _columns(k, self.columns), None, None
        if columns is None:
            packed = self.sums[f"{size} second"][places].div_(n)
            raw = packed.diagonal(dim1=1, dim2=2).clone()
            packed.baddbmm_((a + b)[..., None], a[:, None], alpha=-1)
            packed.baddbmm_((b - a)[..., None], b[:, None], alpha=-1)
            power = packed.diagonal(dim1=1, dim2=2).clone()
        else:
            raw = self.sums[f"{size} power"][places] / n
            power = raw - a.square() - b.square()
        mean = torch.complex(a, b)
        if columns:
            directions = _directions(k, columns).to(torch.complex128)
            kept = self.sums[f"{size} sketch"][places] / n
            products = torch.complex(kept[..., :columns], kept[..., columns:])
            products -= mean[:, :, None] * (mean.conj() @ directions)[:, None]
            sketch = Sketch(products, directions.mT @ products)
        found = ActivationSpectrum(n, (h, w), power.clamp(min=0), mean, packed, sketch)
        return found if _varies(found, raw, bool(rough)) else replace(found.scaled(torch.zeros(k)), mean=mean)

    def compute_folds(self, parts: Sequence[SpectrumSums]) -> ActivationSpectrum:
        """Returns the spectrum of all images of several parts, with that of about half of them in ``half``.

        Args:
            parts: sums made like these.
        """
        used = [part for part in parts if part.sums]
        few = used[: len(used) // 2]
        half = merged([*few], self._empty).compute() if few else None
        return replace(merged([*used], self._empty).compute(), half=half)

    def _empty(self) -> SpectrumSums:
        return SpectrumSums(self.columns, hann=self.hann, crop=self.crop, scratch=self.scratch)


def _columns(k: int, wanted: int | None) -> int | None:
    """Returns the columns of a sketch for k channels, or None where covariances in full take no more room."""
    return None if wanted is None or 2 * wanted >= k else wanted


def _shapes(k: int, columns: int | None) -> dict[str, tuple[int, ...]]:
    """Returns the shape of each sum of products at one frequency."""
    if columns is None:
        return {"second": (k, k)}
    return {"power": (k,)} | ({"sketch": (k, 2 * columns)} if columns else {})


def _varies(found: ActivationSpectrum, raw: Tensor, rough: bool) -> bool:
    """Returns whether what varies is more than rounding errors of the sums it comes from (raw power, [f, k])."""
    errors = found.multiplicity * raw.sum(1)
    # The last bits of float64, and beyond frequency (0, 0) the last three of float32.
    floor = 1e-13 * errors.sum() + (1e-6 * errors[1:].sum() if rough else 0)
    return not bool(found.variance.sum() <= floor)


def _several(sizes: Collection[str]) -> str:
    return (
        f"maps of several sizes ({', '.join(sorted(sizes))}) have different frequencies and cannot be added up: "
        "resize the images to one size"
    )


@lru_cache(maxsize=64)
def _directions(k: int, r: int) -> Tensor:
    """Returns r random orthonormal vectors [k, r], the same whenever they are asked for."""
    generator = torch.Generator().manual_seed(0)
    return torch.linalg.qr(torch.randn(k, r, dtype=torch.float64, generator=generator)).Q


def kept_columns(sizes: Mapping[str, tuple[int, int, int]], budget: int, folds: int) -> dict[str, int | None]:
    """Returns what ``SpectrumSums`` keeps of each layer so that all sums fit a budget.

    Power and mean are always kept. Then layers get a sketch, an eighth of their channels wide but at least 8 and at
    most 32 columns, as far as the budget goes, the smallest first; and from what is left, the smallest first, their
    covariances in full.

    Args:
        sizes: name of each layer to (k, h, w), channels and size of its maps.
        budget: bytes of all sums.
        folds: in how many parts sums are kept.

    Returns:
        Name of each layer to its number of columns: None for covariances in full, 0 for no sketch.

    Example:
        >>> sizes = {"narrow": (16, 32, 32), "wide": (512, 7, 7)}
        >>> kept_columns(sizes, 2**30, 4), kept_columns(sizes, 2**26, 4)
        ({'narrow': None, 'wide': None}, {'narrow': None, 'wide': 32})
    """
    found: dict[str, int | None] = dict.fromkeys(sizes, 0)
    left = budget // folds - sum(_bytes(size, 0) for size in sizes.values())
    for sketched in (True, False):
        for name, size in sorted(sizes.items(), key=lambda item: _bytes(item[1], None)):
            columns = min(max(size[0] // 8, FEWEST), MOST) if sketched else None
            more = _bytes(size, columns) - _bytes(size, found[name])
            if more <= left:
                found[name] = columns
                left -= more
    return found


def _bytes(size: tuple[int, int, int], columns: int | None) -> int:
    k, h, w = size
    each = 2 * k + sum(map(prod, _shapes(k, _columns(k, columns)).values()))
    return 8 * (h * w + (2 - h % 2) * (2 - w % 2)) // 2 * each


def feed_spectra(
    p: Pass,
    network: Network,
    layers: Collection[str] | None = None,
    images: int | None = IMAGES,
    budget: int = BUDGET,
) -> dict[str, Slot[ActivationSpectrum]]:
    """Returns, for each convolution, the slot in which ``p.run`` will leave the spectrum of what it returns.

    Sums are kept in 4 folds at most: each of them is added to with every batch.

    Args:
        p: the pass.
        network: whose convolutions.
        layers: their names; None for all.
        images: about how many images to use, spread over the data; None, or where their number is not known, for all.
        budget: bytes that all sums may take, their folds included (see ``kept_columns``).

    Raises:
        ConvscopeError: when the network has none of these convolutions, or fails on the images.
    """
    calls = p.chosen(network, layers)
    sizes = {call.name: (call.output.shape[1], call.output.shape[2], call.output.shape[3]) for call in calls}
    columns, scratch = kept_columns(sizes, budget, FEWEST_FOLDS), Scratch()
    return {
        name: p.feed(
            Output(network, name, images),
            partial(SpectrumSums, columns[name], scratch=scratch),
            label="activation spectra",
            folds=FEWEST_FOLDS,
        )
        for name in sizes
    }
