"""Batches that a user hands in from Python."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sized
from typing import Any

import numpy as np
import torch
from torch import Tensor

from convscope.core.batches import Batch
from convscope.core.errors import ConvscopeError
from convscope.core.results import Skip
from convscope.inputs.files import reason
from convscope.inputs.samples import as_images, as_labels, known_classes, taken_apart

_RANK = 1 << 40  # identities of one process's images begin this far from those of the one before


class IterableSource:
    """A ``Source`` over any iterable of batches: tensors, (images, labels) pairs, dictionaries, a ``DataLoader``.

    Images are used as they are given, without scaling (bytes alone are divided by 255). They are counted from 0 in
    the order in which they come; under several processes the iterable is this process's share. Such a source cannot
    resume.

    Args:
        batches: the iterable. One tensor [n, c, h, w], or one pair of images and labels, counts as a single batch;
            images [c, h, w] that come one by one are gathered into batches.
        name: what the page calls the data.

    Raises:
        ConvscopeError: when ``batches`` cannot be iterated over.
    """

    sharded = False
    fingerprint = ""

    def __init__(self, batches: Iterable[Any], name: str = "images") -> None:
        if _is_one_batch(batches):
            batches = [batches]
        if not hasattr(batches, "__iter__") and not hasattr(batches, "__getitem__"):
            raise ConvscopeError(
                f"{name} is a {type(batches).__name__}: expected an iterable of batches, tensors [n, c, h, w] or "
                "(images, labels)"
            )
        if isinstance(batches, Sized) and len(batches) == 0:
            raise ConvscopeError(f"{name} holds no batches: give at least one image")
        self.name = name
        self.n = _count(batches)
        self.classes = known_classes(batches)
        self.unreadable: list[Skip] = []
        self.notes = ["images are used as the iterable gives them, without scaling"]
        self._batches = batches

    def batches(
        self, batch_size: int, *, start: int = 0, rank: int = 0, world: int = 1, workers: int = 0
    ) -> Iterator[tuple[int, Batch]]:
        """Yields (consumed, batch); ``world`` and ``workers`` are the iterable's own affair.

        Raises:
            ConvscopeError: when asked to start elsewhere than at the beginning, or when the iterable fails or gives
                something that is no batch of images.
        """
        if start:
            raise ConvscopeError(f"{self.name} is read from an iterable and cannot resume: run it afresh")
        consumed = 0
        for images, labels in self._items(batch_size):
            for piece in torch.split(torch.arange(len(images)), batch_size):
                index = rank * _RANK + consumed + torch.arange(len(piece))
                consumed += len(piece)
                part = images[piece[0] : piece[-1] + 1] if len(piece) else images[:0]
                batch = Batch.of(part, None if labels is None else labels[piece], index)
                good = torch.isfinite(part).flatten(1).all(1).cpu()
                for i in index[~good].tolist():
                    self.unreadable.append(Skip(f"image {i % _RANK}", "holds NaN or infinite pixels: clean it"))
                yield consumed, batch if good.all() else batch[good]

    def _items(self, batch_size: int) -> Iterator[tuple[Tensor, Tensor | None]]:
        single: list[tuple[Tensor, Any]] = []
        for item in self._given():
            given, label = taken_apart(item, self.name)
            images = as_images(given, self.name)
            if images.ndim == 4:
                yield images, self._labels(label, len(images))
                continue
            if single and (single[0][0].shape != images.shape or len(single) == batch_size):
                yield self._gathered(single)
                single = []
            single.append((images, label))
        if single:
            yield self._gathered(single)

    def _gathered(self, single: list[tuple[Tensor, Any]]) -> tuple[Tensor, Tensor | None]:
        labels = [as_labels(label, 1) for _, label in single]
        known = [label for label in labels if label is not None]
        joined = torch.cat(known) if len(known) == len(labels) else None
        return torch.stack([image for image, _ in single]), self._labels(joined, len(single))

    def _labels(self, value: Any, n: int) -> Tensor | None:
        labels = as_labels(value, n)
        note = "labels that are not one class number an image were left out"
        if labels is None and value is not None and note not in self.notes:
            self.notes.append(note)
        return labels

    def _given(self) -> Iterator[Any]:
        iterator = iter(self._batches)
        while True:
            try:
                item = next(iterator)
            except StopIteration:
                return
            except ConvscopeError:
                raise
            except Exception as error:
                raise ConvscopeError(f"{self.name} failed ({type(error).__name__}: {reason(error)})") from error
            yield item


def _is_one_batch(given: Any) -> bool:
    if isinstance(given, (Tensor, np.ndarray, dict)):
        return True
    return (
        isinstance(given, tuple)
        and len(given) == 2
        and all(isinstance(part, (Tensor, np.ndarray)) for part in given)
        and given[0].ndim == 4
        and given[1].ndim == 1
    )


def _count(batches: Any) -> int | None:
    if isinstance(batches, list):
        images = [item[0] if isinstance(item, tuple) and item else item for item in batches]
        if all(isinstance(x, (Tensor, np.ndarray)) and x.ndim == 4 for x in images):
            return sum(map(len, images))
    sampler = getattr(batches, "sampler", None)
    try:
        return None if sampler is None else len(sampler)
    except TypeError:
        return None
