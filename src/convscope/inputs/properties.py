"""Properties of image files that a network never sees as such, but that may tell how a class was collected."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from convscope.core.source import Source
from convscope.inputs.folders import FolderStore
from convscope.inputs.pictures import FORMATS
from convscope.inputs.stores import StoredSource

# The luminance table of ITU-T T.81, Annex K.1, which the quality of nearly all JPEG writers scales.
_TABLE = (
    "16 11 10 16 24 40 51 61 12 12 14 19 26 58 60 55 14 13 16 24 40 57 69 56 14 17 22 29 51 87 80 62 "
    "18 22 37 56 68 109 103 77 24 35 55 64 81 104 113 92 49 64 78 87 103 121 120 101 72 92 95 98 112 100 103 99"
)
_NAMES = ("bytes", "width", "height", "format", "mode", "quality")


def file_properties(source: Source) -> dict[str, list[float]] | None:
    """Returns properties of a source's image files, in the order of images' identities; None where it is no folder.

    Args:
        source: as ``convscope.inputs.images.open_images`` returns it.
    """
    store = source.store if isinstance(source, StoredSource) else None
    if not isinstance(store, FolderStore):
        return None
    return properties_of(store.paths)


def properties_of(paths: Sequence[Path]) -> dict[str, list[float]]:
    """Returns properties of image files by name, one number for each file in the order given.

    Their size in bytes; width and height in pixels, as stored; format and colour mode, as the place of its name among
    those found, in the order of the alphabet; and the quality of JPEG files from 1 to 100, estimated from their
    quantisation table, 0 for other formats. Only headers are read. All are NaN for a file that cannot be read.

    Args:
        paths: the files.

    Example:
        >>> properties_of([Path("missing.png")])["bytes"]
        [nan]
    """
    read = [_read(path) for path in paths]
    found: dict[str, list[float]] = {}
    for k, name in enumerate(_NAMES):
        values = [math.nan if row is None else row[k] for row in read]
        texts = sorted({value for value in values if isinstance(value, str)})
        found[name] = [float(texts.index(value)) if isinstance(value, str) else float(value) for value in values]
    return found


def jpeg_quality(table: Sequence[int]) -> int:
    """Returns the quality, 1 to 100, whose scaled standard luminance table has the sum nearest to that of a table.

    The Independent JPEG Group's scaling: entries times 50 / q below quality 50, (200 - 2 q) / 100 from there on.

    Args:
        table: the 64 entries of the luminance quantisation table, in any order.

    Example:
        >>> jpeg_quality([int(x) for x in _TABLE.split()])  # as it stands
        50
    """
    return int(np.abs(_SUMS - sum(table)).argmin()) + 1


def _sums() -> np.ndarray:
    quality = np.arange(1, 101)
    scale = np.where(quality < 50, 5000 // quality, 200 - 2 * quality)
    entries = (np.array(_TABLE.split(), int) * scale[:, None] + 50) // 100
    return entries.clip(1, 255).sum(1)


_SUMS = _sums()


def _read(path: Path) -> tuple[float | str, ...] | None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(path, formats=FORMATS) as image:
                tables = getattr(image, "quantization", None) or {}
                quality = jpeg_quality(tables[min(tables)]) if tables else 0
                return path.stat().st_size, *image.size, image.format or "", image.mode, quality
    except Exception:  # Pillow raises many kinds for damaged files
        return None
