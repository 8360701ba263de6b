"""Opens the images that a command line names."""

from __future__ import annotations

import glob
from pathlib import Path

from convscope.core.errors import ConvscopeError
from convscope.core.source import Source
from convscope.inputs.arrays import open_npy, open_npz
from convscope.inputs.cifar import cifar_training_files, open_cifar, open_cifar_folder
from convscope.inputs.datasets import open_hub, open_loader, open_torchvision
from convscope.inputs.files import reason, regular_file, shown
from convscope.inputs.folders import FolderStore
from convscope.inputs.idx import idx_images, open_idx
from convscope.inputs.imports import DOTTED
from convscope.inputs.pictures import ENDINGS
from convscope.inputs.stores import JoinedStore, Store, StoredSource

_KINDS = (
    "a folder of images, a .npz or .npy file, CIFAR-10/100 python batches, MNIST-style idx files, torchvision:NAME, "
    "hf:NAME or package.module:loader"
)
# What a file is, by its first bytes: endings are not trusted.
_MAGIC = (
    (b"\x93NUMPY", open_npy),
    (b"PK\x03\x04", open_npz),
    (b"PK\x05\x06", open_npz),
    (b"\x1f\x8b", open_idx),
    (b"\0\0", open_idx),
    (b"\x80", open_cifar),
)


def open_images(
    spec: str,
    *,
    limit: int | None = None,
    size: int | None = None,
    suggested: tuple[int, int] | None = None,
    gray: bool = False,
) -> Source:
    """Returns the images that a command line names, ready for the pass.

    Args:
        spec: a folder (class sub-folders give labels); a ``.npz`` or ``.npy`` file; CIFAR-10/100 python batches or
            MNIST-style idx files, ``.gz`` or not (file or folder); several files by a pattern (``train_*.npz``) or
            joined by commas; ``torchvision:NAME[:ROOT]``; ``hf:NAME[:SPLIT]``; or ``package.module:loader``.
        limit: how many images to use at most; a random choice, the same in every run.
        size: side in pixels of the square that every image is brought to.
        suggested: (height, width) to bring images to where they are of several sizes, e.g. the network's input.
        gray: whether to reduce colour to brightness.

    Returns:
        A source of float32 images in [0, 1], in a fixed, random order (only an iterable that a loader returns is
        passed on as it comes).

    Raises:
        ConvscopeError: when nothing readable is there; one line that says what is expected.
        ValueError: for a limit or size below 1.

    Example:
        >>> open_images("nowhere.npz")
        Traceback (most recent call last):
        convscope.core.errors.ConvscopeError: nowhere.npz does not exist: check the path
    """
    found = _find(spec)
    if not isinstance(found, Store):
        if limit is not None or size is not None or gray:
            raise ConvscopeError(
                f"{shown(spec)} gives batches, which are used as they come: leave out limit, size and gray, or let it "
                "return a Dataset with a length"
            )
        return found
    return StoredSource(found, limit=limit, size=size, suggested=suggested, gray=gray)


def _find(spec: str) -> Store | Source:
    if not spec.strip() or "\0" in spec:
        raise ConvscopeError(f"the images' name is empty or not valid: expected {_KINDS}")
    path = Path(spec)
    try:
        if path.is_dir():
            return _open_folder(path)
        if path.exists():
            return _open_file(path)
    except OSError as error:
        raise ConvscopeError(
            f"cannot read {shown(spec)} ({reason(error)}): check the path and its permissions"
        ) from None
    if spec.startswith("torchvision:"):
        return open_torchvision(spec.removeprefix("torchvision:"))
    if spec.startswith("hf:"):
        return open_hub(spec.removeprefix("hf:"))
    if files := _several(spec):
        return JoinedStore(shown(spec.rpartition("/")[2]), [_open_file(file) for file in files])
    if DOTTED.fullmatch(spec):
        return open_loader(spec)
    if ":" in spec and not path.suffix:
        raise ConvscopeError(f"{shown(spec)!r} names no images: expected {_KINDS}")
    raise ConvscopeError(f"{shown(spec)} does not exist: check the path")


def _several(spec: str) -> list[Path]:
    files: list[Path] = []
    for part in spec.split(","):
        found = sorted(glob.glob(part))
        if not found and len(spec.split(",")) > 1 and part:
            found = [part]
        files += map(Path, found)
    return files


def _open_file(path: Path) -> Store:
    regular_file(path)
    with path.open("rb") as file:
        start = file.read(8)
    if not start:
        raise ConvscopeError(f"{shown(path)} is empty: expected {_KINDS}")
    if path.suffix.lower() in ENDINGS:
        raise ConvscopeError(f"{shown(path)} is a single file: give the folder that holds the images")
    for magic, opened in _MAGIC:
        if start.startswith(magic):
            return opened(path)
    raise ConvscopeError(f"{shown(path)} begins like none of the known kinds of files: expected {_KINDS}")


def _open_folder(folder: Path) -> Store:
    if files := cifar_training_files(folder):
        return open_cifar_folder(folder, files)
    if files := idx_images(folder):
        store = open_idx(files[0])
        if len(files) > 1:
            store.notes.append(f"of the idx files in {shown(folder)}, {shown(files[0].name)} was read")
        return store
    return FolderStore(folder)
