"""Images that can be read one by one, and the source that deals them out to the pass."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from statistics import median
from typing import Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from convscope.core.batches import Batch, mix
from convscope.core.errors import ConvscopeError
from convscope.core.results import Skip
from convscope.inputs.files import combined_fingerprint, reason

Shape = tuple[int, int, int]
_ORDER = 4  # seed of the order in which images are read
_LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601: weights of red, green and blue in brightness


class Unreadable(Exception):
    """An image that cannot be read; the message is the reason, in one line."""


@runtime_checkable
class Store(Protocol):
    """Images in a fixed order, read one by one.

    Attributes:
        name: what the page calls the data.
        labelled: whether images have labels.
        classes: class names, or None without labels and where their number is not known.
        groups: int64 [n], the source photograph of each image, or None: each its own.
        fingerprint: changes when the images change; empty where that is unknown.
        notes: sentences that a reader should know.
        glances: of how many images the shape has to be looked at to know all shapes well enough.
        slow: whether reading takes so long that further processes are worth starting.
    """

    name: str
    labelled: bool
    classes: tuple[str, ...] | None
    groups: Tensor | None
    fingerprint: str
    notes: list[str]
    glances: int
    slow: bool

    def __len__(self) -> int: ...

    def title(self, i: int) -> str:
        """Returns what the list of unreadable images calls image ``i``."""
        ...

    def glance(self, i: int) -> Shape:
        """Returns (channels, height, width) of image ``i``, channels 1 or 3.

        Raises:
            Unreadable: when that cannot be known.
        """
        ...

    def read(self, i: int) -> tuple[Tensor, int | None]:
        """Returns image ``i`` as float32 [c, h, w] in [0, 1] and its label.

        Raises:
            Unreadable: when it cannot be read.
        """
        ...


@dataclass
class _Read:
    images: Tensor
    labels: list[int]
    positions: list[int]
    skips: list[Skip] = field(default_factory=list)
    fitted: int = 0
    consumed: int = 0


class StoredSource:
    """A ``Source`` over a store: it limits, orders, shares out, resizes, and lists what cannot be read.

    Images are read in the order of a hash of their place in the store, so that the first batch, a limited run and
    an interrupted run all see a random sample (a folder's first images are of one class).

    Args:
        store: the images.
        limit: how many images to use at most; a random choice, the same in every run.
        size: side in pixels of the square that every image is brought to; None: left alone where all have one size.
        suggested: (height, width) to bring images to when they are of several sizes; default: the square on the
            median of their shorter sides.
        gray: whether to reduce colour to brightness.

    Raises:
        ValueError: for a limit or size below 1.
        ConvscopeError: when there is no image, or none of those looked at can be read.
    """

    sharded = True

    def __init__(
        self,
        store: Store,
        *,
        limit: int | None = None,
        size: int | None = None,
        suggested: tuple[int, int] | None = None,
        gray: bool = False,
    ) -> None:
        if limit is not None and limit < 1:
            raise ValueError(f"limit must be at least 1, got {limit}")
        if size is not None and size < 1:
            raise ValueError(f"size must be at least 1 pixel, got {size}")
        if not len(store):
            raise ConvscopeError(f"{store.name} holds no image: give at least one")
        self.store = store
        self.name, self.classes, self.notes = store.name, store.classes, list(store.notes)
        self.unreadable: list[Skip] = []
        self._order = mix(_ORDER, torch.arange(len(store))).argsort(stable=True)
        if limit is not None and limit < len(store):
            self.notes.append(f"{limit} of {len(store)} images, chosen at random")
            self._order = self._order[:limit]
        self.n: int | None = len(self._order)
        self._fits_noted = False
        self.shape = self._common_shape(size, suggested, gray)
        self.fingerprint = store.fingerprint and combined_fingerprint(store.fingerprint, self.n, self.shape)

    def _common_shape(self, size: int | None, suggested: tuple[int, int] | None, gray: bool) -> Shape:
        shapes: set[Shape] = set()
        sides: list[int] = []
        failure: str | None = None
        for i in self._order.tolist():
            try:
                shapes.add(shape := self.store.glance(i))
                sides.append(min(shape[1:]))
            except Unreadable as error:
                failure = failure or f"{self.store.title(i)}: {error}"
            if len(sides) == self.store.glances:
                break
        if not sides:
            raise ConvscopeError(
                f"none of the {self.n} images of {self.name} can be read; the first: {failure}: replace the files"
            )
        channels = max(c for c, _, _ in shapes)
        if gray and channels > 1:
            channels = 1
            self.notes.append("colour was reduced to brightness (0.299 red + 0.587 green + 0.114 blue)")
        elif len({c for c, _, _ in shapes}) > 1:
            self.notes.append("gray images among colour ones were given three equal channels")
        sizes = sorted({(h, w) for _, h, w in shapes})
        if size is not None:
            target = (size, size)
        elif len(sizes) == 1:
            return (channels, *sizes[0])
        else:
            target = suggested or (int(median(sides)),) * 2
        if sizes != [target]:
            self._fits_noted = True
            text = f"{sizes[0][0]}x{sizes[0][1]}"
            if len(sizes) > 1:
                text = f"several sizes, {text} to {sizes[-1][0]}x{sizes[-1][1]}"
            self.notes.append(
                f"images ({text}) were cropped centrally to the shape of {target[0]}x{target[1]} pixels and "
                "resized to it"
            )
        return (channels, *target)

    def batches(
        self, batch_size: int, *, start: int = 0, rank: int = 0, world: int = 1, workers: int = 0
    ) -> Iterator[tuple[int, Batch]]:
        """Yields (consumed, batch); see ``convscope.core.source.Source.batches``.

        Raises:
            ConvscopeError: when a reading process dies.
        """
        share = self._order[rank::world][start:]
        pieces = [piece.tolist() for piece in torch.split(share, batch_size)] if len(share) else []
        known = {skip.what for skip in self.unreadable}
        consumed = start
        for read in self._reads(pieces, workers):
            consumed += read.consumed
            if read.fitted and not self._fits_noted:
                self._fits_noted = True
                self.notes.append(
                    f"images of another size than {self.shape[1]}x{self.shape[2]} were cropped centrally and "
                    "resized to it"
                )
            new = [skip for skip in read.skips if skip.what not in known]
            self.unreadable += new
            known.update(skip.what for skip in new)
            index = torch.tensor(read.positions, dtype=torch.int64)
            labels = torch.tensor(read.labels, dtype=torch.int64) if self.store.labelled else None
            yield (
                consumed,
                Batch.of(read.images, labels, index, None if self.store.groups is None else self.store.groups[index]),
            )

    def _reads(self, pieces: list[list[int]], workers: int) -> Iterator[_Read]:
        dataset = _Pieces(self.store, self.shape, pieces)
        if not workers or not self.store.slow:
            yield from (dataset[k] for k in range(len(pieces)))
            return
        # A generator of its own: the loader would otherwise draw from the user's random numbers.
        loader = DataLoader(dataset, batch_size=None, num_workers=workers, generator=torch.Generator())
        try:
            yield from loader
        except (RuntimeError, OSError) as error:
            raise ConvscopeError(
                f"a process that reads {self.name} died ({reason(error)}): give it more memory, or read with "
                "--workers 0"
            ) from None


class _Pieces(Dataset[_Read]):
    """Reads whole batches, so that a loader's worker returns one thing: images and what went wrong."""

    def __init__(self, store: Store, shape: Shape, pieces: list[list[int]]) -> None:
        self.store, self.shape, self.pieces = store, shape, pieces

    def __len__(self) -> int:
        return len(self.pieces)

    def __getitem__(self, k: int) -> _Read:
        read = _Read(torch.empty(0, *self.shape), [], [], consumed=len(self.pieces[k]))
        images: list[Tensor] = []
        for i in self.pieces[k]:
            try:
                image, label = self.store.read(i)
            except Unreadable as error:
                read.skips.append(Skip(self.store.title(i), str(error)))
                continue
            if not torch.isfinite(image).all():
                read.skips.append(Skip(self.store.title(i), "holds NaN or infinite pixels: clean it"))
                continue
            read.fitted += tuple(image.shape[1:]) != self.shape[1:]
            images.append(fit(image, self.shape))
            read.labels.append(-1 if label is None else label)
            read.positions.append(i)
        if images:
            read.images = torch.stack(images)
        return read


class JoinedStore:
    """Several stores of images of one shape, one after the other.

    Args:
        name: what the page calls them together.
        parts: at least one store; labelled together only if each is.

    Raises:
        ConvscopeError: when the shapes differ, or some parts know another set of classes.
    """

    glances = 1

    def __init__(self, name: str, parts: Sequence[Store]) -> None:
        self.name = name
        self._parts = parts
        self._ends = list(accumulate(len(part) for part in parts))
        self.slow = any(part.slow for part in parts)
        self.groups = _joined_groups([part.groups for part in parts])
        self.notes = list(dict.fromkeys(note for part in parts for note in part.notes))
        self.fingerprint = combined_fingerprint(*(part.fingerprint for part in parts))
        shapes = {part.name: part.glance(0) for part in parts if len(part)}
        if len(set(shapes.values())) > 1:
            text = ", ".join(f"{name} {shape}" for name, shape in list(shapes.items())[:4])
            raise ConvscopeError(
                f"the files hold images of different shapes ({text}): give those of one shape together"
            )
        labelled = [part.classes for part in parts if part.classes is not None]
        if labelled and len(labelled) < len(parts):
            self.notes.append("labels were left out, since some of the files have none")
        self.classes = max(labelled, key=len) if len(labelled) == len(parts) else None
        self.labelled = self.classes is not None
        if self.classes and any(classes != self.classes[: len(classes)] for classes in labelled):
            raise ConvscopeError("the files name their classes differently: give them one by one")

    def __len__(self) -> int:
        return self._ends[-1]

    def _find(self, i: int) -> tuple[Store, int]:
        k = bisect_right(self._ends, i)
        return self._parts[k], i - (self._ends[k - 1] if k else 0)

    def title(self, i: int) -> str:
        """Returns the part's name and what it calls the image."""
        part, j = self._find(i)
        return f"{part.name}: {part.title(j)}"

    def glance(self, i: int) -> Shape:
        """Returns the shape of image ``i``."""
        part, j = self._find(i)
        return part.glance(j)

    def read(self, i: int) -> tuple[Tensor, int | None]:
        """Returns image ``i`` and its label."""
        part, j = self._find(i)
        return part.read(j)


def _joined_groups(parts: Sequence[Tensor | None]) -> Tensor | None:
    joined: list[Tensor] = []
    first = 0
    for groups in parts:
        if groups is None:
            return None
        joined.append(groups + first)
        first += int(groups.max()) + 1
    return torch.cat(joined)


def fit(image: Tensor, shape: Sequence[int]) -> Tensor:
    """Returns an image [c, h, w] with the channels and size of ``shape``.

    Gray becomes three equal channels, colour its brightness. The largest centred part with the aspect ratio of
    ``shape`` is cut out and resized bilinearly, with antialiasing (cut first: a strip of 1 x 10000 pixels must not
    be blown up before it is cut).
    """
    c, h, w = shape
    if image.shape[0] != c:
        image = image.expand(c, -1, -1) if image.shape[0] == 1 else brightness(image)
    if tuple(image.shape[1:]) != (h, w):
        image = crop_and_resize(image[None], (h, w))[0]
    return image


def brightness(images: Tensor) -> Tensor:
    """Returns 0.299 red + 0.587 green + 0.114 blue (ITU-R BT.601) of images [..., 3, h, w] as [..., 1, h, w]."""
    weights = torch.tensor(_LUMA, dtype=images.dtype, device=images.device)
    return (images * weights[:, None, None]).sum(-3, keepdim=True)


def crop_and_resize(images: Tensor, size: tuple[int, int]) -> Tensor:
    """Returns the largest centred part of images [n, c, h, w] with the aspect ratio of ``size``, resized to it."""
    h, w = images.shape[2:]
    scale = min(h / size[0], w / size[1])
    rows, columns = (min(side, max(1, round(target * scale))) for side, target in zip((h, w), size, strict=True))
    top, left = (h - rows) // 2, (w - columns) // 2
    part = images[..., top : top + rows, left : left + columns]
    if (rows, columns) == tuple(size):
        return part
    return F.interpolate(part, size, mode="bilinear", antialias=True, align_corners=False)
