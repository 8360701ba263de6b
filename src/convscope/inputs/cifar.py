"""CIFAR-10 and CIFAR-100 in their original Python format: pickles, read without executing anything."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np

from convscope.core.errors import ConvscopeError
from convscope.inputs.arrays import ArrayStore
from convscope.inputs.files import file_fingerprint, regular_file, require_memory, shown
from convscope.inputs.stores import JoinedStore, Store

_PIXELS = 3 * 32 * 32
_META = (("batches.meta", "label_names"), ("meta", "fine_label_names"))
_EXPANSION = 3  # memory a pickle needs, in units of its size on disk


def open_cifar(path: Path) -> ArrayStore:
    """Returns the images and labels of one batch file (fine labels for CIFAR-100).

    Raises:
        ConvscopeError: when the file is damaged, needs more than arrays, lists and strings, or is no CIFAR batch.
    """
    content = _unpickled(path)
    data = content.get("data")
    if not isinstance(data, np.ndarray) or data.ndim != 2 or data.shape[1] != _PIXELS or data.dtype != np.uint8:
        raise ConvscopeError(
            f"{shown(path)} is a pickle but no CIFAR batch: expected a dictionary whose 'data' is uint8 [n, 3072]"
        )
    labels = content.get("fine_labels", content.get("labels"))
    try:
        numbers = None if labels is None else np.asarray(labels)
    except ValueError:
        numbers = None
    store = ArrayStore(
        shown(path.name), data.reshape(-1, 3, 32, 32), numbers, _names(path.parent), None, file_fingerprint(path)
    )
    if labels is not None and numbers is None:
        store.notes.append("labels that are not one class number an image were left out")
    return store


def cifar_training_files(folder: Path) -> list[Path]:
    """Returns the training batch files of a CIFAR-10 or CIFAR-100 folder; empty where it is none."""
    files = sorted(path for path in folder.glob("data_batch_*") if path.is_file() and path.suffix != ".npz")
    if not files and (folder / "meta").is_file() and (folder / "train").is_file():
        files = [folder / "train"]
    return files


def open_cifar_folder(folder: Path, files: list[Path]) -> Store:
    """Returns the training images of a CIFAR folder.

    Raises:
        ConvscopeError: see ``open_cifar``.
    """
    return JoinedStore(shown(folder.name), [open_cifar(path) for path in files])


def _names(folder: Path) -> list[object] | None:
    for file, key in _META:
        if (folder / file).is_file():
            try:
                names = _unpickled(folder / file).get(key)
            except ConvscopeError:
                return None
            return names if isinstance(names, list) and all(isinstance(name, str) for name in names) else None
    return None


def _unpickled(path: Path) -> dict[str, Any]:
    regular_file(path)
    require_memory(_EXPANSION * path.stat().st_size, shown(path))
    try:
        with path.open("rb") as file:
            content = _plain(_Unpickler(file, encoding="latin1").load())
    except _Refused as refused:
        raise ConvscopeError(
            f"{shown(path)} is a pickle that asks for {refused}, which could run code; only arrays, lists and "
            "strings are read: save the images and labels as .npz instead"
        ) from None
    except Exception as error:
        raise ConvscopeError(
            f"{shown(path)} cannot be read as a CIFAR batch ({type(error).__name__}): the file is damaged or "
            "of another kind"
        ) from None
    if not isinstance(content, dict):
        raise ConvscopeError(
            f"{shown(path)} is a pickle of a {type(content).__name__}, no CIFAR batch: save the images as .npz instead"
        )
    return content


class _Refused(Exception):
    """A pickle asks for something that is not on the short list."""


class _Dtype:
    """Stands in for ``numpy.dtype``: the code and the byte order are taken, nothing else."""

    def __init__(self, code: str, *_flags: object) -> None:
        self.code, self.order = code, "|"

    def __setstate__(self, state: tuple) -> None:
        self.order = state[1]

    def dtype(self) -> np.dtype:
        dtype = np.dtype(f"{self.order}{self.code}" if self.order in {"<", ">"} else self.code)
        if dtype.kind not in "uifbUS":
            raise _Refused("an array of Python objects")
        return dtype


class _Array:
    """Stands in for an array while it is being read: plain bytes with a checked shape."""

    def __init__(self, *_ignored: object) -> None:
        self.array: np.ndarray | None = None

    def __setstate__(self, state: tuple) -> None:
        _, shape, dtype, fortran, content = state
        if isinstance(content, list):
            raise _Refused("an array of Python objects")
        raw = content.encode("latin1") if isinstance(content, str) else bytes(content)
        self.array = np.frombuffer(raw, dtype.dtype()).reshape(shape, order="F" if fortran else "C")


def _from_buffer(content: Any, dtype: _Dtype, shape: tuple, order: str) -> _Array:
    made = _Array()
    made.__setstate__((1, shape, dtype, order == "F", bytes(content)))
    return made


def _number(dtype: _Dtype, content: Any) -> Any:
    raw = content.encode("latin1") if isinstance(content, str) else bytes(content)
    return np.frombuffer(raw, dtype.dtype())[0].item()


def _encoded(text: str, encoding: str = "latin1") -> bytes:
    if encoding not in {"latin1", "latin-1"}:
        raise _Refused(f"the codec {shown(encoding)}")
    return text.encode("latin1")


# Python and NumPy code is never called: each name that a CIFAR pickle needs is replaced by one of ours.
_STAND_INS: dict[tuple[str, str], Any] = {
    ("_codecs", "encode"): _encoded,
    ("numpy", "dtype"): _Dtype,
    ("numpy", "ndarray"): None,
}
for _core in ("numpy.core", "numpy._core"):
    _STAND_INS[f"{_core}.multiarray", "_reconstruct"] = _Array
    _STAND_INS[f"{_core}.multiarray", "scalar"] = _number
    _STAND_INS[f"{_core}.numeric", "_frombuffer"] = _from_buffer


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        try:
            return _STAND_INS[module, name]
        except KeyError:
            raise _Refused(shown(f"{module}.{name}")) from None

    def persistent_load(self, pid: Any) -> Any:
        raise _Refused("something outside the file")


def _plain(content: object) -> Any:
    """Returns the unpickled top level with arrays for their stand-ins and text keys."""
    if isinstance(content, _Array):
        return content.array
    if isinstance(content, dict):
        return {
            key.decode("latin1") if isinstance(key, bytes) else key: _plain(value)
            for key, value in content.items()
            if isinstance(key, (str, bytes))
        }
    if isinstance(content, list):
        return [item.decode("latin1") if isinstance(item, bytes) else item for item in content]
    return content
