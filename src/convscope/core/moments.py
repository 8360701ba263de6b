"""First and second moments of the patches that a convolution sees, summed over images."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from convscope.core.accumulate import Sums
from convscope.core.batches import Batch
from convscope.core.correlation import MAX_IMAGES, Method, Plan, alike
from convscope.core.errors import ConvscopeError
from convscope.core.geometry import ConvGeometry
from convscope.core.lines import exact
from convscope.core.moment_values import Lag, LaggedMoments, PatchMoments, outer

_FAR = 4.0  # standard deviations between the mean pixel and zero padding, beyond which float32 does not do
_SMALL = 8192  # numbers in an image: larger ones are copied one by one, which spares a copy of all


class PatchMomentsAccumulator(Sums[PatchMoments]):
    """Sums of patches and of their products, over images.

    Arithmetic follows ``dtype``, but is float64 where pixels lie far from the zeros that pad them; sums across images
    are float64 always, and in float32 products run over at most 64 images before they are added in float64. The state
    does not depend on the method, so methods may alternate.
    Peak extra memory: the images multiplied at a time, their padded copies and their patches, strips or spectra take
    at most ``convscope.core.correlation.CHUNK_BYTES`` (48 MiB; one image's spectra or strips where they are larger;
    patches of one image are formed a few rows at a time), and so do the products of folds side by side (one fold's
    d x d matrices where they are larger); beyond that a batch's sums, as large as the state, until they are added.

    Args:
        geometry: of the convolution.
        lags: (dy, dx) in input pixels, multiples of the stride, whose cross moments are wanted.
        classes: number of classes o when the class means are wanted; batches must then have labels in 0 ... o - 1.
        dtype: float32 or float64, the arithmetic; None: that of the images (integers: float64, half: float32).
        method: "unfold" (patches are formed, a chunk at a time), "strips" or "fft" (they never are), or "auto":
            the one that a measured rule expects to be fastest. All give the same sums.

    Raises:
        ValueError: for a lag that is no multiple of the stride, a wrong dtype, method or number of classes.
    """

    def __init__(
        self,
        geometry: ConvGeometry,
        *,
        lags: Iterable[Lag] = (),
        classes: int | None = None,
        dtype: torch.dtype | None = None,
        method: Method = "auto",
    ) -> None:
        super().__init__()
        self.geometry = geometry
        self.lags = tuple(dict.fromkeys((int(dy), int(dx)) for dy, dx in lags))
        self.classes = classes
        self.dtype = dtype
        self.method = method
        for dy, dx in self.lags:
            if dy % geometry.stride[0] or dx % geometry.stride[1]:
                raise ValueError(f"lag {(dy, dx)} must be a multiple of the stride {geometry.stride}")
        if dtype not in {None, torch.float32, torch.float64}:
            raise ValueError(f"dtype must be torch.float32, torch.float64 or None, got {dtype}")
        if method not in {"auto", "unfold", "strips", "fft"}:
            raise ValueError(f"method must be auto, unfold, strips or fft, got {method!r}")
        if classes is not None and classes < 1:
            raise ValueError(f"classes must be at least 1 or None, got {classes}")

    def update(self, x: Tensor, batch: Batch) -> None:
        """Adds the images of a batch.

        Args:
            x: [n, c, h, w], the input of the convolution before its padding; sizes may differ between batches.
            batch: the images' labels and identities.

        Raises:
            ConvscopeError: for non-finite pixels, a wrong number of channels, images smaller than the kernel, or
                missing or impossible labels when classes were asked for. Nothing is added then.
        """
        self.update_folds([self], x, batch, torch.zeros(len(x), dtype=torch.int64))

    def update_folds(self, parts: Sequence[PatchMomentsAccumulator], x: Tensor, batch: Batch, fold: Tensor) -> None:
        """Adds image i of a batch to ``parts[fold[i]]``, sharing the work between them.

        Args:
            parts: accumulators made like this one.
            x: as for ``update``.
            batch: as for ``update``.
            fold: int64 [n].

        Raises:
            ConvscopeError: as ``update``.
        """
        if not len(x):
            return
        geometry = self.geometry
        rows, columns = _positions(x, geometry)
        labels = None if self.classes is None else _labels(batch, self.classes)
        dtype = _arithmetic(x.dtype, self.dtype)
        if dtype == torch.float32 and x.device.type != "mps" and _far(x[0], geometry):
            dtype = torch.float64
        shift = _shift(x[0].to(dtype), geometry) if dtype == torch.float32 else None
        height, width = geometry.covered(rows, columns)
        sizes = {
            (dy, dx): (height - abs(dy), width - abs(dx))
            for dy, dx in dict.fromkeys(((0, 0), *self.lags))
            if abs(dy) // geometry.stride[0] < rows and abs(dx) // geometry.stride[1] < columns
        }
        per_fold = len(x) / len(set(fold.tolist()))
        zeros = _zeros(x, geometry) if shift is None else (0, 0)
        plan = {
            lag: Plan.of(geometry, size, lag != (0, 0), self.method, dtype, per_fold, zeros)
            for lag, size in sizes.items()
        }
        chunk = min(p.chunk for p in plan.values())
        # Everything is computed before anything is added, so that an error leaves no batch half added.
        terms = []
        for members, table in alike(fold, plan.values()):
            sums = self._sums(x, table, dtype, shift, plan, labels, chunk)
            squares = sums["second"].diagonal(dim1=-2, dim2=-1)  # no other product is larger
            if not (sums["first"].isfinite().all() and squares.isfinite().all()):
                _raise_non_finite(x, batch)
            terms.append((members, sums))
        for members, sums in terms:
            for name, term in sums.items():
                for k, value in zip(members.tolist(), term.unbind(), strict=True):
                    parts[k].add(name, value, copy=False)

    def _sums(
        self,
        x: Tensor,
        table: Tensor,
        dtype: torch.dtype,
        shift: Tensor | None,
        plan: dict[Lag, Plan],
        labels: Tensor | None,
        chunk: int,
    ) -> dict[str, Tensor]:
        """Returns name to the sums over each column of a table of images [m, f]: tensors [f, ...]."""
        folds, groups = table.shape[1], self.geometry.groups
        products: dict[Lag, list[Tensor]] = {}
        means: dict[Lag, list[Tensor]] = {lag: [] for lag in plan}
        height, width = plan[0, 0].size
        for where in table.split(min(max(chunk // folds, 1), MAX_IMAGES)):
            canvas = self._canvas(x, where, dtype, shift, plan[0, 0])
            images = canvas[..., :height, :width]
            whole = canvas if canvas.shape[-2:] == plan[0, 0].products.canvas else images
            for (dy, dx), p in plan.items():
                here, there = (whole, whole) if dy == dx == 0 else _lagged_pair(images, dy, dx)
                left, right, *part = p.products(here, there)
                before = products.get((dy, dx))
                products[dy, dx] = part if before is None else list(map(torch.add, before, part))
                means[dy, dx].append(torch.stack([left, right]))

        n = (table >= 0).sum(0)
        wide = None if shift is None else _per_entry(shift, self.geometry)
        sums: dict[str, Tensor] = {}
        for (dy, dx), p in plan.items():
            ends = torch.cat(means[dy, dx], 1).unflatten(2, (folds, groups))  # [2, m, f, g, d]
            first = ends.sum(1) * p.positions
            pairs = n * p.positions
            second = p.products.assemble(*products[dy, dx]).unflatten(0, (folds, groups))
            if wide is not None:
                second = _unshifted(second, first[0], first[-1], pairs, wide)
                first = first + pairs[:, None, None] * wide
            name = _name(dy, dx)
            sums |= {name + "count": pairs, name + "first": first.transpose(0, 1).contiguous(), name + "second": second}
        average = torch.cat(means[0, 0], 1)[0].unflatten(1, (folds, groups))
        if wide is not None:
            average = average + wide * (table >= 0)[:, :, None, None]
        per_image = average.permute(1, 2, 0, 3)
        sums |= {"images": n, "average first": average.sum(0), "average second": per_image.mT @ per_image}
        if labels is not None and self.classes is not None:
            # Images that are not there get a class of their own, which is dropped.
            label = torch.where(table >= 0, labels[table], self.classes)
            cell = (label + torch.arange(folds) * (self.classes + 1)).flatten()
            total = average.new_zeros(folds * (self.classes + 1), *average.shape[2:])
            total = total.index_add_(0, cell, average.flatten(0, 1)).unflatten(0, (folds, -1))
            counts = torch.bincount(cell, minlength=folds * (self.classes + 1)).view(folds, -1)
            sums |= {"class count": counts[:, :-1], "class first": total[:, :-1]}
        return sums

    def _canvas(self, x: Tensor, where: Tensor, dtype: torch.dtype, shift: Tensor | None, p: Plan) -> Tensor:
        """Returns the padded images at [m, f], less the shift, [m, f * g, c, height, width]; zero where none is (-1).

        Zeros may follow below and to the right, as ``p.products.canvas`` has it; so may pixels that no position visits.
        """
        slots, geometry = where.flatten(), self.geometry
        chosen = slots.clamp(min=0)
        height, width = p.size
        if any(geometry.padding) and geometry.padding_mode == "zeros":
            top, _, left, _ = geometry.padding
            inner = x[:, :, : height - top, : width - left]
            bottom, right = top + inner.shape[2], left + inner.shape[3]
            images = x.new_zeros(len(slots), x.shape[1], *p.products.canvas, dtype=dtype)
            place = images[:, :, top:bottom, left:right]
            if inner[0].numel() < _SMALL:
                place.copy_(inner.index_select(0, chosen.to(x.device)))
            else:
                for slot, image in enumerate(chosen.tolist()):
                    place[slot] = inner[image]
        else:
            images = _padded(x.index_select(0, chosen.to(x.device)).to(dtype), geometry)
        if shift is not None:
            images[:, :, :height, :width] -= shift.to(images)[:, None, None]
        empty = (slots < 0).nonzero().flatten().to(x.device)
        if len(empty):
            images[empty] = 0
        return images.unflatten(0, where.shape).unflatten(2, (geometry.groups, -1)).flatten(1, 2)

    def compute(self) -> PatchMoments:
        """Returns the moments of all images seen; a lag that no image was large enough for is left out of ``lagged``.

        Raises:
            ConvscopeError: when no image was seen.
        """
        if "images" not in self.sums:
            raise ConvscopeError("patch moments need at least one image, got none: hand in images")
        sums = self.sums

        def drop(t: Tensor, axis: int = 0) -> Tensor:
            return t.squeeze(axis) if self.geometry.groups == 1 else t

        lagged = {}
        for lag in dict.fromkeys(((0, 0), *self.lags)):
            if _name(*lag) + "count" in sums:
                pairs = int(sums[_name(*lag) + "count"])
                first = sums[_name(*lag) + "first"] / pairs
                second = drop(sums[_name(*lag) + "second"] / pairs)
                lagged[lag] = LaggedMoments(pairs, second, drop(first[0]), drop(first[-1]))
        every = lagged[0, 0]
        images = int(sums["images"])
        counts = sums.get("class count")
        return PatchMoments(
            geometry=self.geometry,
            n_images=images,
            n_patches=every.n_pairs,
            mean=every.mean,
            second_moment=every.second_moment,
            average_patch_mean=drop(sums["average first"] / images),
            average_patch_second_moment=drop(sums["average second"] / images),
            lagged={lag: lagged[lag] for lag in self.lags if lag in lagged},
            lags=self.lags,
            class_counts=None if counts is None else counts.clone(),
            class_means=None if counts is None else drop(sums["class first"] / counts[:, None, None], 1),
        )


def patch_moments(
    images_or_batches: Tensor | Iterable[Tensor | Batch | Sequence[Tensor]],
    conv: nn.Module | ConvGeometry,
    *,
    lags: Iterable[Lag] = (),
    classes: int | None = None,
) -> PatchMoments:
    """Returns the exact moments of the patches that a convolution sees in these images.

    Args:
        images_or_batches: a tensor [n, c, h, w], or an iterable of such tensors, of (images, labels) pairs as data
            loaders yield them, or of ``Batch``. Arithmetic follows the images' dtype; hand in float64 images for
            float64 arithmetic.
        conv: an ``nn.Conv2d`` or its ``ConvGeometry``.
        lags: (dy, dx) in input pixels, multiples of the stride, whose cross moments are wanted.
        classes: number of classes when the class means are wanted.

    Returns:
        The moments; ``.mean`` [d], ``.covariance`` (centred), ``.second_moment`` and ``.average_patch_covariance``
        [d, d] are float64, d in the order of ``conv.weight.flatten(1)``, divided by N.

    Raises:
        TypeError: when ``conv`` is no convolution, or a batch is not made of tensors.
        ValueError: for a lag that is no multiple of the stride.
        ConvscopeError: when the images cannot be analysed (see ``PatchMomentsAccumulator.update``), or there are none.

    Example:
        >>> moments = patch_moments(torch.rand(4, 3, 8, 8), nn.Conv2d(3, 16, 3, padding=1))
        >>> moments.covariance.shape, moments.n_patches
        (torch.Size([27, 27]), 256)
    """
    geometry = conv if isinstance(conv, ConvGeometry) else ConvGeometry.of(conv)
    accumulator = PatchMomentsAccumulator(geometry, lags=lags, classes=classes)
    batches = [images_or_batches] if isinstance(images_or_batches, Tensor) else images_or_batches
    start = 0
    for item in batches:
        batch = _as_batch(item, start)
        accumulator.update(batch.images, batch)
        start += len(batch)
    return accumulator.compute()


def _as_batch(item: Tensor | Batch | Sequence[Tensor], start: int) -> Batch:
    if isinstance(item, Batch):
        return item
    images, labels = (item, None) if isinstance(item, Tensor) else (item[0], item[1] if len(item) > 1 else None)
    if not isinstance(images, Tensor) or not (labels is None or isinstance(labels, Tensor)):
        raise TypeError(f"expected tensors of images or (images, labels) pairs, got {type(images).__name__}")
    return Batch.of(images.detach(), labels, torch.arange(start, start + len(images)))


def _positions(x: Tensor, geometry: ConvGeometry) -> tuple[int, int]:
    if x.ndim != 4 or x.shape[1] != geometry.channels:
        raise ConvscopeError(
            f"the convolution takes images [n, {geometry.channels}, h, w], got {list(x.shape)}: "
            "convert the images or choose the layer that sees them"
        )
    rows, columns = geometry.output_size(x.shape[2], x.shape[3])
    if not rows or not columns:
        raise ConvscopeError(
            f"images of {x.shape[2]}x{x.shape[3]} pixels are smaller than the kernel, which spans "
            f"{geometry.extent[0]}x{geometry.extent[1]}: hand in larger images"
        )
    return rows, columns


def _labels(batch: Batch, classes: int) -> Tensor:
    if batch.labels is None:
        raise ConvscopeError(
            f"means of {classes} classes were asked for, but the images have no labels: hand in labels"
        )
    labels = batch.labels.cpu().to(torch.int64)
    if len(labels) and (int(labels.min()) < 0 or int(labels.max()) >= classes):
        raise ConvscopeError(
            f"labels must lie in 0 ... {classes - 1}, got {int(labels.min())} ... {int(labels.max())}: "
            "check the number of classes"
        )
    return labels


def _arithmetic(images: torch.dtype, wanted: torch.dtype | None) -> torch.dtype:
    if wanted is not None:
        return wanted
    if images in {torch.float32, torch.float64}:
        return images
    return torch.float32 if images.is_floating_point else torch.float64


def _padded(x: Tensor, geometry: ConvGeometry) -> Tensor:
    try:
        return geometry.pad(x)
    except RuntimeError as error:
        raise ConvscopeError(
            f"images of {x.shape[2]}x{x.shape[3]} pixels are too small for {geometry.padding_mode} padding of "
            f"{geometry.padding}: hand in larger images"
        ) from error


def _zeros(x: Tensor, geometry: ConvGeometry) -> tuple[int, int]:
    """Returns the numbers of rows, and of columns, at either end that padding fills with zeros and positions see."""
    if geometry.padding_mode != "zeros":
        return 0, 0
    (top, _, left, _), (height, width) = geometry.padding, geometry.covered(*geometry.output_size(*x.shape[2:]))
    return min(top, max(height - top - x.shape[2], 0)), min(left, max(width - left - x.shape[3], 0))


def _far(image: Tensor, geometry: ConvGeometry) -> bool:
    """Returns whether pixels lie so far from the zeros around them that float32 would lose their covariance."""
    if geometry.padding_mode != "zeros" or not any(geometry.padding):
        return False
    mean, variance = _mean_and_variance(image.float())
    return bool((mean.square() > _FAR**2 * variance).any())


def _mean_and_variance(image: Tensor) -> tuple[Tensor, Tensor]:
    """Returns about the mean and the variance [c] of an image [c, h, w]; of a few thousand pixels where it is large."""
    some = image[:, :: max(image.shape[1] // 64, 1), :: max(image.shape[2] // 64, 1)]
    return some.mean((1, 2)), some.var((1, 2), correction=0)


def _shift(image: Tensor, geometry: ConvGeometry) -> Tensor | None:
    """Returns a constant for each channel, float64 [c], that is taken off all pixels; None where that is of no use.

    Products of pixels far from zero would cancel when they are centred, more than float32 can bear. With
    p = p' + shift for every entry of every patch (entries in the padding too), the sums of p follow exactly from
    those of p'. Wide margins of zeros would become wide margins of a constant, whose long float32 sums are all
    rounded to one side.
    """
    height, width = image.shape[1:]
    top, bottom, left, right = geometry.padding if geometry.padding_mode == "zeros" else (0, 0, 0, 0)
    if 4 * height * width < 3 * (height + top + bottom) * (width + left + right):
        return None
    mean, variance = _mean_and_variance(image)
    return exact(mean) if bool((4 * mean.square() > variance).any()) else None


def _per_entry(shift: Tensor, geometry: ConvGeometry) -> Tensor:
    """Returns a value for each channel [c] as one for each entry of a patch [g, d]."""
    return shift.repeat_interleave(geometry.kernel[0] * geometry.kernel[1]).view(geometry.groups, -1)


def _raise_non_finite(x: Tensor, batch: Batch) -> None:
    bad = (~x.isfinite()).flatten(1).any(1).nonzero().flatten().cpu()
    if not len(bad):
        raise ConvscopeError(
            "pixel values are too large to be summed: scale the images to a usual range such as [0, 1]"
        )
    raise ConvscopeError(
        f"{len(bad)} of {len(x)} images hold NaN or infinite values (first: image {int(batch.index[bad[0]])}); "
        "finite pixels are expected: repair or remove these images"
    )


def _lagged_pair(images: Tensor, dy: int, dx: int) -> tuple[Tensor, Tensor]:
    height, width = images.shape[-2:]
    here = images[..., max(-dy, 0) : height - max(dy, 0), max(-dx, 0) : width - max(dx, 0)]
    there = images[..., max(dy, 0) : height + min(dy, 0), max(dx, 0) : width + min(dx, 0)]
    return here, there


def _unshifted(product: Tensor, left: Tensor, right: Tensor, count: Tensor, shift: Tensor) -> Tensor:
    """Returns the sum of (a + shift)(b + shift)^T from the sums of a b^T, a and b over ``count`` terms."""
    return product + outer(left, shift) + outer(shift, right) + count[:, None, None, None] * outer(shift, shift)


def _name(dy: int, dx: int) -> str:
    return "" if dy == dx == 0 else f"lag {dy} {dx} "
