"""Data sets of torchvision, of the Hugging Face hub, and of the user's own code."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor
from torch.utils.data import Dataset, IterableDataset

from convscope.core.errors import ConvscopeError
from convscope.core.source import Source
from convscope.inputs.files import combined_fingerprint, reason, shown
from convscope.inputs.imports import import_name
from convscope.inputs.iterables import IterableSource
from convscope.inputs.optional import torchvision
from convscope.inputs.samples import as_images, as_labels, known_classes, taken_apart
from convscope.inputs.stores import Shape, Store, StoredSource, Unreadable

_ROOT = "data"  # where torchvision's examples keep their data sets


class DatasetStore:
    """The samples of a data set with a length: Pillow images, arrays or tensors, alone or with labels.

    Args:
        name: what the page calls the data.
        dataset: has ``len`` and is indexed by number.
        fingerprint: changes when the images change; empty where that is unknown.

    Raises:
        ConvscopeError: when its first sample cannot be used.
    """

    glances = 16
    slow = True
    groups: Tensor | None = None

    def __init__(self, name: str, dataset: Any, fingerprint: str = "") -> None:
        self.name, self.fingerprint = name, fingerprint
        self.notes: list[str] = []
        self._dataset = dataset
        label = self.read(0)[1] if len(self) else None
        self.labelled = label is not None
        known = known_classes(dataset) if label is not None else None
        self.classes = known if known is not None and label is not None and len(known) > label else None

    def __len__(self) -> int:
        return len(self._dataset)

    def title(self, i: int) -> str:
        """Returns "image i"."""
        return f"image {i}"

    def glance(self, i: int) -> Shape:
        """Returns the shape of image ``i``, which is read for it.

        Raises:
            Unreadable: when it has not 1 or 3 channels.
        """
        c, h, w = self.read(i)[0].shape
        if c not in {1, 3}:
            raise Unreadable(f"has {c} channels: expected 1 or 3")
        return (c, h, w)

    def read(self, i: int) -> tuple[Tensor, int | None]:
        """Returns image ``i`` and its label.

        Raises:
            Unreadable: when the data set fails on it, or gives no image.
        """
        try:
            image, label = taken_apart(self._dataset[i], self.name)
            pixels = as_images(image, self.name)
        except Exception as error:
            raise Unreadable(f"{type(error).__name__}: {reason(error)}") from error
        if pixels.ndim != 3:
            raise Unreadable(f"has the shape {tuple(pixels.shape)}: expected one image [c, h, w]")
        labels = as_labels(label, 1)
        return pixels, None if labels is None else int(labels)


def is_dataset(found: object) -> bool:
    """Returns whether an object is a data set with a length, whose items are single images."""
    return isinstance(found, Dataset) and not isinstance(found, IterableDataset) and hasattr(found, "__len__")


def as_source(found: Any, name: str = "images") -> Source:
    """Returns a source of what a user hands in from Python.

    Args:
        found: a ``Source``; a ``torch.utils.data.Dataset`` with a length; or an iterable of batches (see
            ``IterableSource``).
        name: what the page calls the data.

    Raises:
        ConvscopeError: when it is nothing of this kind, or a data set whose images cannot be read.

    Example:
        >>> import torch
        >>> as_source([torch.rand(4, 3, 8, 8)]).sharded
        False
    """
    if hasattr(found, "batches") and hasattr(found, "fingerprint"):
        return found
    if is_dataset(found):
        return StoredSource(_of_dataset(name, found))
    return IterableSource(found, name)


def open_loader(spec: str) -> Store | Source:
    """Returns what ``package.module:loader`` gives: a data set's images, or batches as they come.

    Raises:
        ConvscopeError: when it cannot be imported, fails, or gives neither.
    """
    found = import_name(spec)
    if callable(found) and not is_dataset(found):
        try:
            found = found()
        except (Exception, SystemExit) as error:
            raise ConvscopeError(
                f"{spec}() failed ({type(error).__name__}: {reason(error)}): it is called without arguments and must "
                "return a Dataset or batches"
            ) from error
    return _of_dataset(spec, found) if is_dataset(found) else as_source(found, spec)


def _of_dataset(name: str, dataset: Any, fingerprint: str = "") -> DatasetStore:
    try:
        return DatasetStore(name, dataset, fingerprint)
    except Unreadable as error:
        raise ConvscopeError(f"the first image of {name} cannot be read ({error}): check the data set") from error


def open_torchvision(spec: str) -> Store:
    """Returns the training images of ``NAME[:ROOT]``, a torchvision data set that is already on disk.

    Args:
        spec: the class in ``torchvision.datasets``, and the folder it was downloaded to (default: data).

    Raises:
        ConvscopeError: when torchvision is missing or broken, has no such data set, or the files are not there.
    """
    name, _, root = spec.partition(":")
    datasets = torchvision("datasets")
    known = set(getattr(datasets, "__all__", ()))
    if name not in known:
        raise ConvscopeError(f"torchvision has no data set {shown(name)!r}: expected one like CIFAR10, MNIST or STL10")
    make, root = getattr(datasets, name), root or _ROOT
    try:
        try:
            dataset = make(root=root, download=False)
        except TypeError:
            dataset = make(root=root)
    except Exception as error:
        raise ConvscopeError(
            f"torchvision:{name} cannot be read from {shown(root)} ({reason(error)}): download it first, and "
            f"give its folder as torchvision:{name}:FOLDER"
        ) from None
    if not is_dataset(dataset):
        raise ConvscopeError(f"torchvision:{name} is no data set of images: give one whose samples are images")
    identity = combined_fingerprint(name, str(Path(root).absolute()), len(dataset))
    return _of_dataset(f"torchvision:{name}", dataset, identity)


def open_hub(spec: str) -> Store:
    """Returns the images of ``NAME[:SPLIT]`` on the Hugging Face hub (default split: train).

    Raises:
        ConvscopeError: when the library is missing, or the data set cannot be reached or has no images.
    """
    name, _, split = spec.partition(":")
    if not name:
        raise ConvscopeError("hf: needs the name of a data set: write hf:cifar10 or hf:user/name:split")
    try:
        import datasets
    except Exception as error:
        raise ConvscopeError(
            f"hf:{shown(name)} needs the library `datasets`, which cannot be imported ({reason(error)}): "
            "pip install 'convscope[hub]'"
        ) from None
    try:
        found = datasets.load_dataset(name, split=split or "train")
    except Exception as error:
        raise ConvscopeError(
            f"hf:{shown(name)} cannot be loaded ({type(error).__name__}: {reason(error)}): check the name, the "
            "split and the connection"
        ) from None
    return _of_dataset(f"hf:{shown(name)}", _Columns(found), str(getattr(found, "_fingerprint", "")))


class _Columns:
    """A hub data set whose samples carry the names that ``taken_apart`` knows."""

    def __init__(self, found: Any) -> None:
        self._found = found
        kinds = {column: type(feature).__name__ for column, feature in found.features.items()}
        self._image = next((column for column, kind in kinds.items() if kind == "Image"), None)
        self._label = next((column for column, kind in kinds.items() if kind == "ClassLabel"), None)
        self.classes = None if self._label is None else list(found.features[self._label].names)

    def __len__(self) -> int:
        return len(self._found)

    def __getitem__(self, i: int) -> Any:
        sample = self._found[i]
        if self._image is None:
            return sample
        return (sample[self._image], None if self._label is None else sample[self._label])
