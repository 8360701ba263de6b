"""Images in the idx format of MNIST and its relatives, gzipped or not."""

from __future__ import annotations

import gzip
import zlib
from math import prod
from pathlib import Path
from typing import IO

import numpy as np

from convscope.core.errors import ConvscopeError
from convscope.inputs.arrays import ArrayStore
from convscope.inputs.files import file_fingerprint, reason, regular_file, require_memory, shown

_UBYTE = 8  # idx type code of unsigned bytes
_DEFLATE = 1032  # the most that deflate can compress


def open_idx(path: Path) -> ArrayStore:
    """Returns the images of an idx file, with the labels of the file beside it that is named alike.

    ``train-images-idx3-ubyte.gz`` goes with ``train-labels-idx1-ubyte.gz`` (or without ``.gz``).

    Raises:
        ConvscopeError: when a file is truncated, declares another size than it has, or holds no images.
    """
    images = _read(path)
    if images.ndim == 1:
        raise ConvscopeError(f"{shown(path)} holds labels, not images: give the file of the images beside it")
    labels_file = _labels_beside(path)
    labels = None
    if labels_file is not None:
        labels = _read(labels_file)
        if labels.ndim != 1:
            raise ConvscopeError(f"{shown(labels_file)} should hold labels, but holds an array of shape {labels.shape}")
    store = ArrayStore(shown(path.name), images[..., None] if images.ndim == 3 else images, labels)
    store.fingerprint = file_fingerprint(path) + ("" if labels_file is None else file_fingerprint(labels_file))
    if labels_file is None:
        store.notes.append("no labels file was found beside the images")
    return store


def idx_images(folder: Path) -> list[Path]:
    """Returns the idx files of images in a folder, those of the training set first."""
    files = [path for path in folder.iterdir() if "images" in path.name and "idx3" in path.name and path.is_file()]
    return sorted(files, key=lambda path: ("train" not in path.name, path.name))


def _labels_beside(path: Path) -> Path | None:
    name = path.name.replace("images", "labels").replace("idx3", "idx1")
    if name == path.name:
        return None
    bare = name.removesuffix(".gz")
    return next((path.with_name(n) for n in (name, bare, f"{bare}.gz") if path.with_name(n).is_file()), None)


def _read(path: Path) -> np.ndarray:
    """Returns the array of an idx file of bytes, as large as its header says.

    Raises:
        ConvscopeError: when the header is none, or lies about the size.
    """
    regular_file(path)
    stored = path.stat().st_size
    with path.open("rb") as raw:
        zipped = raw.read(2) == b"\x1f\x8b"
    try:
        with gzip.open(path) if zipped else path.open("rb") as file:
            shape = _shape(path, file)
            size = prod(shape)
            # Compared before anything is read: a header of a few bytes can ask for any amount of memory.
            content = file.read(size + 1) if size <= stored * (_DEFLATE if zipped else 1) else b""
    except (OSError, EOFError, zlib.error) as error:
        raise ConvscopeError(
            f"{shown(path)} cannot be read ({reason(error)}): the file is truncated or damaged"
        ) from None
    if len(content) != size:
        raise ConvscopeError(
            f"{shown(path)} declares {' x '.join(map(str, shape))} bytes but holds "
            f"{'more' if len(content) > size else 'fewer'}: the file is truncated or damaged"
        )
    return np.frombuffer(content, np.uint8).reshape(shape)


def _shape(path: Path, file: IO[bytes] | gzip.GzipFile) -> tuple[int, ...]:
    magic = file.read(4)
    if len(magic) < 4 or magic[:2] != b"\0\0" or magic[2] != _UBYTE or magic[3] not in {1, 3, 4}:
        raise ConvscopeError(
            f"{shown(path)} begins with {magic.hex(' ') or 'nothing'}: an idx file of images begins with 00 00 08 03"
        )
    header = file.read(4 * magic[3])
    if len(header) < 4 * magic[3]:
        raise ConvscopeError(f"{shown(path)} ends within its header: the file is truncated")
    shape = tuple(int.from_bytes(header[k : k + 4], "big") for k in range(0, len(header), 4))
    require_memory(2 * prod(shape), shown(path))
    return shape
