"""Images in arrays: ``.npz`` and ``.npy`` files, and arrays in memory."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from convscope.core.errors import ConvscopeError
from convscope.inputs.files import file_fingerprint, open_zip, reason, regular_file, require_memory, shown
from convscope.inputs.samples import LARGEST_LABEL
from convscope.inputs.stores import Shape, Unreadable

# Names under which image arrays are stored, and the names of their labels, the first that is there counts.
_IMAGES = (
    "images",
    "x",
    "data",
    "x_train",
    "train_images",
    "train_x",
    "x_test",
    "test_images",
    "test_x",
    "x_val",
    "imgs",
)
_LABELS = {
    "": ("labels", "y", "label", "targets", "target", "fine_labels"),
    "train": ("y_train", "train_labels", "train_y", "labels_train"),
    "test": ("y_test", "test_labels", "test_y", "labels_test"),
    "val": ("y_val", "val_labels", "val_y", "labels_val"),
}
_NAMES = ("names", "classes", "class_names", "label_names", "wnids")
_HINT = "save the images as .npy, which is read piece by piece"
_SCANNED = 256  # images of a memory-mapped array that are looked at for the range of its values
_SLACK = 1e-3  # resizing may leave values this far outside [0, 1]


class ArrayStore:
    """Images in an array, with labels.

    Args:
        name: what the page calls the data.
        images: [n, h, w], [n, h, w, c] or [n, c, h, w] with c 1 or 3; integers, booleans or floats in [0, 1] or
            [0, 255].
        labels: [n], integers or names; None without labels.
        names: class names, one for each label value or one for each image; None where unknown.
        groups: [n], the source photograph of each image; None: each its own.
        fingerprint: changes when the images change; empty where that is unknown.

    Raises:
        ConvscopeError: when the array is not one of images, or labels do not fit it.
    """

    glances = 1
    slow = False

    def __init__(
        self,
        name: str,
        images: np.ndarray,
        labels: np.ndarray | None = None,
        names: Sequence[object] | None = None,
        groups: np.ndarray | None = None,
        fingerprint: str = "",
    ) -> None:
        self.name, self.fingerprint = name, fingerprint
        self.notes: list[str] = []
        self._images, self._channels_last = _as_images(images, name)
        self._scale = self._find_scale()
        self.classes, self._labels = self._find_classes(labels, names)
        self.labelled = self._labels is not None
        self.groups = None if groups is None else self._find_groups(groups)

    def __len__(self) -> int:
        return len(self._images)

    def title(self, i: int) -> str:
        """Returns "image i"."""
        return f"image {i}"

    def glance(self, i: int) -> Shape:
        """Returns the shape that all images have."""
        a, b, c = self._images.shape[1:]
        return (c, a, b) if self._channels_last else (a, b, c)

    def read(self, i: int) -> tuple[Tensor, int | None]:
        """Returns image ``i`` as float32 [c, h, w] in [0, 1] and its label.

        Raises:
            Unreadable: when its values are outside the range of the others.
        """
        image = np.asarray(self._images[i])
        if self._channels_last:
            image = image.transpose(2, 0, 1)
        pixels = np.ascontiguousarray(image).astype(np.float32) / np.float32(self._scale)
        # NaN compares as False here and is reported by the source.
        if pixels.size and (pixels.min() < -_SLACK or pixels.max() > 1 + _SLACK):
            raise Unreadable(f"holds values outside [0, {self._scale}], where the others lie")
        return torch.from_numpy(pixels), None if self._labels is None else int(self._labels[i])

    def _find_scale(self) -> int:
        images, kind = self._images, self._images.dtype
        if kind == np.uint8:
            return 255
        if kind == np.bool_:
            return 1
        sample = images
        if isinstance(images, np.memmap):
            sample = images[:: max(1, len(images) // _SCANNED)]
        sample = np.asarray(sample)
        finite = sample[np.isfinite(sample)] if kind.kind == "f" else sample
        if not finite.size:
            raise ConvscopeError(
                f"{self.name} holds no finite pixel: expected images with values in [0, 1] or [0, 255]"
            )
        low, high = float(finite.min()), float(finite.max())
        tops = (1, 255) if kind.kind == "f" else (255, 65535)
        for top in tops:
            if low >= -_SLACK * top and high <= (1 + _SLACK) * top:
                if kind.kind == "f" and top == 255:
                    self.notes.append("values of type float up to 255 were divided by 255")
                return top
        raise ConvscopeError(
            f"{self.name} holds values from {low:.4g} to {high:.4g}: expected [0, {tops[0]}] or [0, "
            f"{tops[1]}]; give the images before any normalisation, or use convscope.report(model, batches) in "
            "Python, which takes them as they are"
        )

    def _find_classes(
        self, labels: np.ndarray | None, names: Sequence[object] | None
    ) -> tuple[tuple[str, ...] | None, np.ndarray | None]:
        if labels is None:
            return None, None
        if labels.ndim == 2 and labels.shape[1] == 1:
            labels = labels[:, 0]
        elif labels.ndim == 2 and labels.shape[1] > 1 and labels.dtype.kind in "iufb" and _one_hot(labels):
            labels = labels.argmax(1)
        if labels.ndim != 1 or len(labels) != len(self):
            raise ConvscopeError(
                f"{self.name} has {len(self)} images but labels of shape {labels.shape}: expected one label an image"
            )
        if labels.dtype.kind in "US":
            return self._numbered(np.char.decode(labels, "latin-1") if labels.dtype.kind == "S" else labels)
        if labels.dtype.kind == "f" and np.array_equal(labels, np.round(labels)) and (np.abs(labels) < 2**53).all():
            labels = labels.astype(np.int64)
        if labels.dtype.kind not in "iub":
            self.notes.append(f"labels of type {labels.dtype} are no classes and were left out")
            return None, None
        if labels.dtype.kind == "b":
            labels = labels.astype(np.int64)
        if not (labels.min() >= 0 and labels.max() < LARGEST_LABEL):
            return self._numbered(labels)
        labels = labels.astype(np.int64)
        return _class_names(labels, names), labels

    def _numbered(self, labels: np.ndarray) -> tuple[tuple[str, ...], np.ndarray]:
        distinct, numbers = np.unique(labels, return_inverse=True)
        if labels.dtype.kind not in "US":
            self.notes.append(f"labels from {distinct[0]} to {distinct[-1]} were numbered 0 to {len(distinct) - 1}")
        return tuple(shown(value) for value in distinct.tolist()), numbers.astype(np.int64)

    def _find_groups(self, groups: np.ndarray) -> Tensor:
        if groups.shape != (len(self),):
            raise ConvscopeError(
                f"{self.name} has {len(self)} images but groups of shape {groups.shape}: expected one group an image"
            )
        return torch.from_numpy(np.unique(groups, return_inverse=True)[1].astype(np.int64))


def _as_images(array: np.ndarray, name: str) -> tuple[np.ndarray, bool]:
    """Returns the images as [n, h, w, c] (True) or [n, c, h, w] (False).

    Raises:
        ConvscopeError: when that is not what the array holds, or cannot be decided.
    """
    if array.dtype.kind not in "uifb":
        raise ConvscopeError(
            f"{name} is an array of type {array.dtype}: expected integers, booleans or floats, the pixels of images"
        )
    shape = array.shape
    if array.ndim not in {3, 4} or 0 in shape[1:]:
        raise ConvscopeError(
            f"{name} has the shape {shape}: expected images as [n, h, w], [n, h, w, c] or [n, c, h, w] with c 1 or 3"
        )
    if array.ndim == 3:
        if shape[-1] in {1, 3} or shape[0] in {1, 3}:
            raise ConvscopeError(
                f"{name} has the shape {shape}, which is one image or {shape[0]} gray ones: add an axis, "
                "array[None] for one image or array[..., None] for gray ones"
            )
        return array[..., None], True
    last, first = shape[-1] in {1, 3}, shape[1] in {1, 3}
    if last and first:
        raise ConvscopeError(
            f"{name} has the shape {shape}, where axis 1 and axis 3 could both be the channels: crop or "
            "transpose it so that one of them is not 1 or 3"
        )
    if not (last or first):
        raise ConvscopeError(
            f"{name} has the shape {shape}: expected 1 or 3 channels on axis 1 or axis 3; choose those that are images"
        )
    return array, last


def _one_hot(labels: np.ndarray) -> bool:
    return bool(((labels == 0) | (labels == 1)).all() and (labels.sum(1) == 1).all())


def _class_names(labels: np.ndarray, names: Sequence[object] | None) -> tuple[str, ...]:
    """Returns a name for each label value from 0 to the largest; its number where no name is given."""
    count = int(labels.max()) + 1
    given = [] if names is None else [shown(name) for name in names]
    # One name an image is told from one name a class by its number, and by agreeing with the labels.
    by_image: dict[int, str] = dict(zip(labels.tolist(), given, strict=False))
    if len(given) == len(labels) != count and all(
        by_image[k] == v for k, v in zip(labels.tolist(), given, strict=True)
    ):
        return tuple(by_image.get(k, str(k)) for k in range(count))
    if len(given) >= count:
        return tuple(given)
    return tuple(str(k) for k in range(count))


def open_npy(path: Path) -> ArrayStore:
    """Returns the images of a ``.npy`` file, memory-mapped.

    Raises:
        ConvscopeError: when the file is damaged, holds Python objects, or no images.
    """
    regular_file(path)
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception as error:
        raise ConvscopeError(_no_arrays(path, error)) from None
    if not isinstance(array, np.ndarray):
        raise ConvscopeError(f"{shown(path)} is not a .npy file but an archive: give it the ending .npz")
    return ArrayStore(shown(path.name), array, fingerprint=file_fingerprint(path))


def open_npz(path: Path) -> ArrayStore:
    """Returns the images of a ``.npz`` file.

    The image array is called images, x, data, x_train, x_test, ..., or is the only one with 3 or 4 axes; labels are
    called labels or y (y_train for x_train, ...), class names names, classes or wnids, source photographs groups.

    Raises:
        ConvscopeError: when the file is damaged, too large for memory, holds Python objects, or no images.
    """
    regular_file(path)
    with open_zip(path, _HINT) as archive:
        headers = _headers(path, archive)
        images = _image_array(path, headers)
        part = next((part for part in ("train", "test", "val") if part in images.lower()), "")
        lower = {name.lower(): name for name in headers}
        labels = next((lower[name] for name in (*_LABELS[part], *_LABELS[""]) if name in lower), None)
        names = next((lower[name] for name in _NAMES if name in lower), None)
        arrays = {
            role: _member(path, archive, name, headers[name])
            for role, name in (
                ("images", images),
                ("labels", labels),
                ("names", names),
                ("groups", lower.get("groups")),
            )
            if name is not None
        }
    known = arrays.get("names")
    store = ArrayStore(
        shown(path.name),
        arrays["images"],
        arrays.get("labels"),
        known.tolist() if known is not None and known.ndim == 1 else None,
        arrays.get("groups"),
        file_fingerprint(path),
    )
    if sum(_is_image_shape(shape) for shape, _ in headers.values()) > 1:
        store.notes.append(f"of the arrays in {shown(path.name)}, {shown(images)!r} was read")
    return store


_Header = tuple[tuple[int, ...], np.dtype]


def _headers(path: Path, archive: zipfile.ZipFile) -> dict[str, _Header]:
    """Returns name to (shape, dtype) of the arrays in an archive, without reading them.

    Raises:
        ConvscopeError: when a header is damaged, or there is no array.
    """
    headers: dict[str, _Header] = {}
    for member in archive.infolist():
        if not member.filename.endswith(".npy"):
            continue
        try:
            with archive.open(member) as file:
                version = np.lib.format.read_magic(file)
                read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
                shape, _, dtype = read(file)
        except Exception as error:
            raise ConvscopeError(_no_arrays(path, error)) from None
        headers[member.filename.removesuffix(".npy")] = (shape, dtype)
    if not headers:
        raise ConvscopeError(f"{shown(path)} holds no arrays: expected one of images, and optionally their labels")
    return headers


def _image_array(path: Path, headers: Mapping[str, _Header]) -> str:
    lower = {name.lower(): name for name in headers}
    for name in _IMAGES:
        if name in lower and len(headers[lower[name]][0]) in {3, 4, 5}:
            return lower[name]
    found = [name for name, (shape, _) in headers.items() if _is_image_shape(shape)]
    if len(found) == 1:
        return found[0]
    have = ", ".join(f"{shown(name)} {shape}" for name, (shape, _) in list(headers.items())[:6])
    raise ConvscopeError(
        f"{shown(path)} holds {len(found) or 'no'} arrays that may be images ({have}): name the one to use 'images', "
        "with shape [n, h, w], [n, h, w, c] or [n, c, h, w]"
    )


def _is_image_shape(shape: tuple[int, ...]) -> bool:
    return len(shape) in {3, 4}


def _member(path: Path, archive: zipfile.ZipFile, name: str, header: _Header) -> np.ndarray:
    shape, dtype = header
    if dtype.hasobject:
        raise ConvscopeError(
            f"{shown(path)}: array {shown(name)!r} holds Python objects, which could run code when loaded: "
            "save it again with a plain type, e.g. array.astype('uint8') or array.astype('U')"
        )
    size = int(np.prod([int(s) for s in shape], dtype=object)) * dtype.itemsize
    stored = archive.getinfo(f"{name}.npy").file_size
    if size > stored:
        raise ConvscopeError(
            f"{shown(path)}: array {shown(name)!r} declares {size} bytes but holds at most {stored}: the file "
            "is damaged"
        )
    require_memory(2 * size, shown(path), _HINT)
    try:
        with archive.open(f"{name}.npy") as file:
            return np.lib.format.read_array(file, allow_pickle=False)
    except Exception as error:
        raise ConvscopeError(_no_arrays(path, error)) from None


def _no_arrays(path: Path, error: Exception) -> str:
    if "pickle" in str(error).lower():
        return (
            f"{shown(path)} holds Python objects or is no array file; objects could run code when loaded: save the "
            "array again with a plain type, e.g. array.astype('uint8')"
        )
    return f"{shown(path)} cannot be read as arrays ({reason(error)}): the file is damaged or incomplete"
