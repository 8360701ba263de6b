"""First and second moments of the patches that a convolution sees, summed over images."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

from convscope.core.accumulate import Sums
from convscope.core.batches import Batch
from convscope.core.correlation import MAX_IMAGES, Method, alike, box_means, by_fold, chunk_images, exact, products_for
from convscope.core.errors import ConvscopeError
from convscope.core.geometry import ConvGeometry

Lag = tuple[int, int]


@dataclass(frozen=True, eq=False)
class LaggedMoments:
    """Uncentred moments of pairs of patches that lie one lag apart, over the pairs that both exist.

    With more than one group every tensor has a leading [g].

    Attributes:
        n_pairs: number of pairs of positions, over all images.
        second_moment: float64 [d, d], E[p_j p_{j+delta}^T].
        mean: float64 [d], E[p_j].
        shifted_mean: float64 [d], E[p_{j+delta}].
    """

    n_pairs: int
    second_moment: Tensor
    mean: Tensor
    shifted_mean: Tensor


@dataclass(frozen=True, eq=False)
class PatchMoments:
    """Moments of the patches that a convolution sees; everything is divided by N, not N - 1.

    A patch p has d entries in the order of ``weight.flatten(1)``: channel, row, column. pbar is the average patch
    of an image. With g > 1 groups every tensor has a leading [g], one set of moments for each group.

    Attributes:
        geometry: the convolution's geometry.
        n_images: number of images.
        n_patches: number of patches of each group: images times positions.
        mean: float64 [d], mu = E[p], in units of the input.
        second_moment: float64 [d, d], E[p p^T], not centred.
        average_patch_mean: float64 [d], E_n[pbar]; differs from ``mean`` only where image sizes differ.
        average_patch_second_moment: float64 [d, d], A = E_n[pbar pbar^T], not centred.
        lagged: (dy, dx) in input pixels to the moments of patches that far apart; a lag that no image is large
            enough for is left out.
        class_counts: int64 [o], images of each class, or None where no classes were asked for.
        class_means: float64 [o, d] ([o, g, d] with groups), mean average patch of each class; NaN for an empty class.
    """

    geometry: ConvGeometry
    n_images: int
    n_patches: int
    mean: Tensor
    second_moment: Tensor
    average_patch_mean: Tensor
    average_patch_second_moment: Tensor
    lagged: Mapping[Lag, LaggedMoments]
    class_counts: Tensor | None = None
    class_means: Tensor | None = None

    @cached_property
    def covariance(self) -> Tensor:
        """Sigma = E[(p - mu)(p - mu)^T], float64 [d, d] (Chowers & Weiss 2023, Def. 4.1, centred)."""
        return self.second_moment - _outer(self.mean, self.mean)

    @cached_property
    def average_patch_covariance(self) -> Tensor:
        """E_n[(pbar - mu)(pbar - mu)^T], float64 [d, d], centred by the mean of all patches."""
        return _centred(self.average_patch_second_moment, self.average_patch_mean, self.average_patch_mean, self.mean)

    @cached_property
    def _eigh(self) -> tuple[Tensor, Tensor]:
        values, vectors = torch.linalg.eigh(self.covariance)
        values, vectors = values.flip(-1).clamp(min=0), vectors.flip(-1)
        largest = vectors.gather(-2, vectors.abs().argmax(-2, keepdim=True))
        return values, torch.where(largest < 0, -vectors, vectors)

    @property
    def eigenvalues(self) -> Tensor:
        """Variances lambda_i^2 along the principal components of the patches, float64 [d], descending, at least 0."""
        return self._eigh[0]

    @property
    def eigenvectors(self) -> Tensor:
        """Principal components, float64 [d, d], column i is u_i; its entry of largest absolute value is positive."""
        return self._eigh[1]

    def lag_covariance(self, dy: int, dx: int) -> Tensor:
        """Returns Sigma_delta = E[(p_j - mu)(p_{j+delta} - mu)^T] over the pairs of positions that both exist.

        Args:
            dy: vertical lag in input pixels, positive downwards.
            dx: horizontal lag in input pixels, positive to the right.

        Returns:
            float64 [d, d]; entry (s, t) multiplies entry s of a patch with entry t of the patch at the lag.

        Raises:
            ValueError: when the lag was not requested.
            ConvscopeError: when no image was large enough to hold a pair of patches at this lag.
        """
        if (dy, dx) not in self.lagged:
            raise ConvscopeError(
                f"no image holds two patches {dy} rows and {dx} columns apart: ask for a shorter lag or hand in larger images"
            )
        lag = self.lagged[dy, dx]
        return _centred(lag.second_moment, lag.mean, lag.shifted_mean, self.mean)


class PatchMomentsAccumulator(Sums[PatchMoments]):
    """Sums of patches and of their products, over images.

    Arithmetic follows ``dtype``; sums across images are float64 always, and in float32 products run over at most
    64 images before they are added in float64. The state does not depend on the method, so methods may alternate.
    Peak extra memory is that of ``convscope.core.correlation.patch_products`` and one padded copy of the batch.

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
        terms = self._terms(x, batch, fold, len(parts))
        for k in fold.unique().tolist():
            for name, term in terms.items():
                parts[k].add(name, term[k])

    def _terms(self, x: Tensor, batch: Batch, fold: Tensor, folds: int) -> dict[str, Tensor]:
        """Returns name to the sums over each fold's images, [folds, ...]."""
        geometry = self.geometry
        rows, columns = _positions(x, geometry)
        labels = None if self.classes is None else _labels(batch, self.classes)
        dtype = _arithmetic(x.dtype, self.dtype)
        shift = _shift(x[0].to(dtype))
        height, width = geometry.covered(rows, columns)
        paths = {
            (dy, dx): products_for(
                geometry,
                height - abs(dy),
                width - abs(dx),
                symmetric=(dy, dx) == (0, 0),
                method=self.method,
                element_size=dtype.itemsize,
                images=len(x) / len(fold.unique()),
            )
            for dy, dx in dict.fromkeys(((0, 0), *self.lags))
            if abs(dy) // geometry.stride[0] < rows and abs(dx) // geometry.stride[1] < columns
        }
        chunk = min(chunk_images(path, dtype.itemsize) for path in paths.values())
        means = {lag: torch.zeros(2, len(x), geometry.groups, geometry.patch_dim).double() for lag in paths}
        second = {lag: torch.zeros(folds, *means[0, 0].shape[2:], geometry.patch_dim).double() for lag in paths}
        for members, table in alike(fold, chunk):
            sums: dict[Lag, tuple[Tensor, ...]] = {}
            for where in table.split(min(max(chunk // len(members), 1), MAX_IMAGES)):
                canvas = self._canvas(x, where, dtype, shift, (height, width), paths[0, 0].canvas)
                images = canvas[..., :height, :width]
                real, rows_of = where >= 0, where[where >= 0]
                for lag, path in paths.items():
                    here, there = _lagged_pair(images, *lag)
                    means[lag][0, rows_of] = self._means(here, where)
                    means[lag][1, rows_of] = means[lag][0, rows_of] if there is here else self._means(there, where)
                    if not means[lag][:, rows_of].isfinite().all():
                        _raise_non_finite(x, batch)
                    part = path(canvas, canvas) if there is here else path(here, there)
                    sums[lag] = tuple(s + t for s, t in zip(sums[lag], part, strict=True)) if lag in sums else part
            for lag, path in paths.items():
                second[lag][members] = path.assemble(*sums[lag]).unflatten(0, (len(members), -1))

        size = torch.bincount(fold, minlength=folds)
        wide = 0.0 if shift is None else _per_entry(shift, geometry)
        terms = {"images": size}
        for dy, dx in paths:
            pairs = size * (rows - abs(dy) // geometry.stride[0]) * (columns - abs(dx) // geometry.stride[1])
            product = second[dy, dx]
            first, last = (by_fold(m, fold, folds) * (pairs / size.clamp(min=1))[:, None, None] for m in means[dy, dx])
            if shift is not None:
                product = _unshifted(product, first, last, pairs, wide)
            terms |= {
                f"{dy} {dx} pairs": pairs,
                f"{dy} {dx} first": first + pairs[:, None, None] * wide,
                f"{dy} {dx} last": last + pairs[:, None, None] * wide,
                f"{dy} {dx} second": product,
            }
        average = means[0, 0][0] + wide
        terms |= {"average first": by_fold(average, fold, folds), "average second": _grams(average, fold, folds)}
        if labels is not None and self.classes is not None:
            cell = fold * self.classes + labels
            terms["class counts"] = torch.bincount(cell, minlength=folds * self.classes).view(folds, self.classes)
            terms["class first"] = by_fold(average, cell, folds * self.classes).unflatten(0, (folds, self.classes))
        return terms

    def _canvas(
        self,
        x: Tensor,
        where: Tensor,
        dtype: torch.dtype,
        shift: Tensor | None,
        size: tuple[int, int],
        canvas: tuple[int, int],
    ) -> Tensor:
        """Returns the padded images at [m, f], less the shift, in the corner of a canvas: [m, f * g, c, height, width].

        Only ``size`` of a padded image is visited by the convolution. Where no image is (-1), all is zero.
        """
        slots = where.flatten()
        images = x[slots.clamp(min=0).to(x.device)].to(dtype)
        if self.geometry.padding_mode != "zeros":
            images = _padded(images, self.geometry)
        top, left = (self.geometry.padding[k] if self.geometry.padding_mode == "zeros" else 0 for k in (0, 2))
        out = images.new_zeros(len(slots), images.shape[1], *canvas)
        images = images[:, :, : size[0] - top, : size[1] - left]
        out[:, :, top : top + images.shape[2], left : left + images.shape[3]] = images
        if shift is not None:
            out[:, :, : size[0], : size[1]] -= shift.to(images)[:, None, None]
        if slots.min() < 0:
            out[slots < 0] = 0
        return out.view(len(where), where.shape[1] * self.geometry.groups, -1, *canvas)

    def _means(self, images: Tensor, where: Tensor) -> Tensor:
        """Returns the average patches [n, g, d] of the images that there are at [m, f]."""
        return box_means(images, self.geometry).unflatten(1, (where.shape[1], -1))[where >= 0]

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
        for dy, dx in dict.fromkeys(((0, 0), *self.lags)):
            if f"{dy} {dx} pairs" in sums:
                pairs = int(sums[f"{dy} {dx} pairs"])
                moments = (drop(sums[f"{dy} {dx} {part}"] / pairs) for part in ("second", "first", "last"))
                lagged[dy, dx] = LaggedMoments(pairs, *moments)
        every = lagged[0, 0]
        images = int(sums["images"])
        counts = sums.get("class counts")
        return PatchMoments(
            geometry=self.geometry,
            n_images=images,
            n_patches=every.n_pairs,
            mean=every.mean,
            second_moment=every.second_moment,
            average_patch_mean=drop(sums["average first"] / images),
            average_patch_second_moment=drop(sums["average second"] / images),
            lagged={lag: lagged[lag] for lag in self.lags if lag in lagged},
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
        raise ConvscopeError(f"means of {classes} classes were asked for, but the images have no labels: hand in labels")
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


def _shift(image: Tensor) -> Tensor | None:
    """Returns a constant for each channel, float64 [c], that is taken off all pixels; None where that is no use.

    Products of pixels far from zero would cancel when they are centred. With p = p' + shift for every entry of
    every patch (entries in the padding too), the sums of p follow exactly from those of p'.
    """
    mean, variance = image.mean((1, 2)), image.var((1, 2), correction=0)
    return exact(mean) if bool((mean.square() > 4 * variance).any()) else None


def _per_entry(shift: Tensor, geometry: ConvGeometry) -> Tensor:
    """Returns a value for each channel [c] as one for each entry of a patch [g, d]."""
    return shift.repeat_interleave(geometry.kernel[0] * geometry.kernel[1]).view(geometry.groups, -1)


def _raise_non_finite(x: Tensor, batch: Batch) -> None:
    bad = (~x.isfinite()).flatten(1).any(1).nonzero().flatten().cpu()
    if not len(bad):
        raise ConvscopeError("pixel values are too large to be summed: scale the images to a usual range such as [0, 1]")
    raise ConvscopeError(
        f"{len(bad)} of {len(x)} images hold NaN or infinite values (first: image {int(batch.index[bad[0]])}); "
        "finite pixels are expected: repair or remove these images"
    )


def _lagged_pair(images: Tensor, dy: int, dx: int) -> tuple[Tensor, Tensor]:
    if dy == dx == 0:
        return images, images
    height, width = images.shape[-2:]
    here = images[..., max(-dy, 0) : height - max(dy, 0), max(-dx, 0) : width - max(dx, 0)]
    there = images[..., max(dy, 0) : height + min(dy, 0), max(dx, 0) : width + min(dx, 0)]
    return here, there


def _outer(a: Tensor, b: Tensor) -> Tensor:
    return a[..., :, None] * b[..., None, :]


def _centred(product: Tensor, left: Tensor, right: Tensor, mean: Tensor) -> Tensor:
    """Returns E[(a - mean)(b - mean)^T] from E[a b^T], E[a] and E[b]."""
    return product - _outer(left, mean) - _outer(mean, right) + _outer(mean, mean)


def _unshifted(product: Tensor, left: Tensor, right: Tensor, count: Tensor, shift: Tensor) -> Tensor:
    """Returns the sum of (a + shift)(b + shift)^T from the sums of a b^T, a and b over ``count`` terms."""
    return product + _outer(left, shift) + _outer(shift, right) + count[:, None, None, None] * _outer(shift, shift)


def _grams(means: Tensor, fold: Tensor, folds: int) -> Tensor:
    """Returns the sums over each fold's images of pbar pbar^T, [folds, g, d, d], from pbar [n, g, d]."""
    out = means.new_zeros(folds, means.shape[1], means.shape[2], means.shape[2])
    for k in fold.unique().tolist():
        rows = means[fold == k].transpose(0, 1)
        out[k] = rows.mT @ rows
    return out
