"""Images in a folder."""

from __future__ import annotations

import os
from pathlib import Path

from torch import Tensor

from convscope.core.errors import ConvscopeError
from convscope.inputs.files import combined_fingerprint, reason, shown
from convscope.inputs.pictures import ENDINGS, decode, glance
from convscope.inputs.stores import Shape


class FolderStore:
    """Image files in a folder: those in a sub-folder (at any depth) are labelled by it, others are not.

    Hidden files and folders are left out; links are followed, each folder once.

    Args:
        root: the folder.

    Raises:
        ConvscopeError: when the folder cannot be read, or holds no image files.
    """

    glances = 256
    slow = True
    groups: Tensor | None = None

    def __init__(self, root: Path) -> None:
        self.name, self.notes = shown(Path(os.path.abspath(root)).name or root), []
        self._root = root
        self._files: list[tuple[str, str]] = []  # path below the root, class ("" for none)
        self._others = 0
        self._visited: set[tuple[int, int]] = set()
        try:
            self._scan(root, "", "")
        except OSError as error:
            raise ConvscopeError(f"cannot read {shown(root)} ({reason(error)}): check its permissions") from None
        self._files.sort()
        if not self._files:
            found = f"{self._others} files of other kinds" if self._others else "no files"
            raise ConvscopeError(
                f"{shown(root)} holds no images but {found}: expected {', '.join(sorted(ENDINGS))}, or class "
                "folders of them"
            )
        names = sorted({kind for _, kind in self._files} - {""})
        self.classes = tuple(shown(name) for name in names) or None
        self.labelled = self.classes is not None
        self._numbers: dict[str, int | None] = {"": None} | {name: k for k, name in enumerate(names)}
        loose = sum(not kind for _, kind in self._files)
        if names and loose:
            self.notes.append(
                f"{loose} images directly in the folder, beside the class folders, are read as unlabelled"
            )
        if self._others:
            self.notes.append(f"{self._others} files of other kinds were left out")
        self.fingerprint = self._identity()

    def __len__(self) -> int:
        return len(self._files)

    @property
    def paths(self) -> list[Path]:
        """The image files, in the order of the images."""
        return [self._root / file for file, _ in self._files]

    def title(self, i: int) -> str:
        """Returns the path below the folder."""
        return shown(Path(self._files[i][0]))

    def glance(self, i: int) -> Shape:
        """Returns (channels, height, width) from the file's header."""
        return glance(self._root / self._files[i][0])

    def read(self, i: int) -> tuple[Tensor, int | None]:
        """Returns image ``i`` as float32 [c, h, w] in [0, 1] and the number of its class."""
        file, kind = self._files[i]
        return decode(self._root / file), self._numbers[kind]

    def _scan(self, folder: Path, below: str, kind: str) -> None:
        status = folder.stat()
        if (status.st_dev, status.st_ino) in self._visited:
            return
        self._visited.add((status.st_dev, status.st_ino))
        with os.scandir(folder) as entries:
            for entry in sorted(entries, key=lambda e: e.name):
                if entry.name.startswith("."):
                    continue
                path = f"{below}{entry.name}"
                if _is_dir(entry):
                    try:
                        self._scan(folder / entry.name, f"{path}/", kind or entry.name)
                    except OSError as error:
                        self.notes.append(f"the folder {shown(Path(path))} could not be read ({reason(error)})")
                elif Path(entry.name).suffix.lower() in ENDINGS:
                    self._files.append((path, kind))
                else:
                    self._others += 1

    def _identity(self) -> str:
        parts: list[object] = []
        for file, _ in self._files:
            try:
                status = (self._root / file).stat()
                parts.append((file, status.st_size, status.st_mtime_ns))
            except OSError:
                parts.append((file, None, None))
        return combined_fingerprint(*parts)


def _is_dir(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False
