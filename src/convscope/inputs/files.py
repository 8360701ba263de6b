"""What all readers share: names and reasons that fit on one line, memory that suffices, identities of files."""

from __future__ import annotations

import hashlib
import os
import zipfile
from pathlib import Path

from convscope.core.errors import ConvscopeError

_BLOCK = 1 << 16  # bytes
_BLOCKS = 64
_LONGEST = 200  # characters of a reason


def shown(name: object) -> str:
    r"""Returns a file name, class name or key as one printable line.

    Control characters and bytes that are no UTF-8 are written as escapes, so that the result can be printed,
    saved as JSON and put into a one-line message.

    Example:
        >>> shown("two\nlines")
        'two\\nlines'
    """
    text = os.fsencode(name).decode("utf-8", "backslashreplace") if isinstance(name, Path) else str(name)
    text = text.encode("utf-8", "backslashreplace").decode("utf-8")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def reason(error: BaseException) -> str:
    """Returns what an error says, in one line of at most 200 characters."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = shown(lines[0]) if lines else type(error).__name__
    return text if len(text) <= _LONGEST else text[: _LONGEST - 3] + "..."


def regular_file(path: Path) -> Path:
    """Returns the path of a regular, readable file.

    Raises:
        ConvscopeError: when there is none, or it may not be read, or it is a folder, a pipe or a device.
    """
    try:
        folder, there, regular = path.is_dir(), path.exists(), path.is_file()
        if regular:
            path.open("rb").close()
    except (OSError, ValueError) as error:
        raise ConvscopeError(
            f"cannot read {shown(path)} ({reason(error)}): check the path and its permissions"
        ) from None
    if folder:
        raise ConvscopeError(f"{shown(path)} is a folder, but a file is expected here: name the file in it")
    if not there:
        raise ConvscopeError(f"{shown(path)} does not exist: check the path")
    if not regular:
        raise ConvscopeError(f"{shown(path)} is neither a file nor a folder: give a regular file")
    return path


def require_memory(size: int, what: str, hint: str = "give a smaller file") -> None:
    """Checks that so many bytes fit into the memory that is free now.

    Args:
        size: bytes.
        what: who needs them, the subject of the error's sentence.
        hint: what to do about it.

    Raises:
        ConvscopeError: when they do not fit.
    """
    free = free_memory()
    if size > free:
        raise ConvscopeError(
            f"{what} declares {size / 2**30:.3g} GiB of content, but {free / 2**30:.3g} GiB of memory is free: {hint}"
        )


def free_memory() -> int:
    """Returns the bytes of memory that a process can still use, without swapping; 8 GiB where that is unknown."""
    try:
        with Path("/proc/meminfo").open(encoding="ascii") as lines:
            for line in lines:
                if line.startswith("MemAvailable:"):
                    return int(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        pass
    return 8 << 30


def open_zip(path: Path, hint: str = "give a smaller file") -> zipfile.ZipFile:
    """Returns an open zip archive whose declared content fits into memory.

    Args:
        path: the file.
        hint: what to do where it does not fit.

    Raises:
        ConvscopeError: when the file is no zip archive, is damaged, or declares more than fits.
    """
    try:
        archive = zipfile.ZipFile(path)
    except (OSError, zipfile.BadZipFile, ValueError, NotImplementedError, EOFError) as error:
        raise ConvscopeError(
            f"{shown(path)} cannot be opened ({reason(error)}): the file is damaged or incomplete"
        ) from None
    try:
        require_memory(sum(member.file_size for member in archive.infolist()), shown(path), hint)
    except ConvscopeError:
        archive.close()
        raise
    return archive


def file_fingerprint(path: Path) -> str:
    """Returns a hash of a file's size and of 64 blocks of 64 KiB spread evenly over it, first and last included."""
    size = path.stat().st_size
    digest = hashlib.sha256(str(size).encode())
    with path.open("rb") as file:
        for k in range(_BLOCKS):
            file.seek(max(0, size - _BLOCK) * k // (_BLOCKS - 1))
            digest.update(file.read(_BLOCK))
            if size <= _BLOCK:
                break
    return digest.hexdigest()


def combined_fingerprint(*parts: object) -> str:
    """Returns a hash of values that have a plain ``repr``."""
    return hashlib.sha256(repr(parts).encode("utf-8", "backslashreplace")).hexdigest()
