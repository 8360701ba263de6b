"""Decodes image files into float tensors."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from convscope.inputs.files import reason
from convscope.inputs.stores import Shape, Unreadable

ENDINGS = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm"})
# Only these are tried, whatever the file's ending says: others start external programs.
FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF", "PPM")
_GRAY = frozenset({"1", "L", "LA", "La", "I", "F", "I;16", "I;16B", "I;16L", "I;16N"})
_ORIENTATION = 0x0112  # EXIF tag; 5 to 8 exchange rows and columns


def glance(path: Path) -> Shape:
    """Returns (channels, height, width) of an image file from its header, turned as its EXIF orientation says.

    Raises:
        Unreadable: when the file cannot be opened as an image.
    """
    with _open(path) as image:
        try:
            turned = image.getexif().get(_ORIENTATION, 1) in {5, 6, 7, 8}
        except Exception as error:
            raise Unreadable(reason(error)) from None
        w, h = image.size[::-1] if turned else image.size
        return (1 if image.mode in _GRAY else 3, h, w)


def decode(path: Path) -> Tensor:
    """Returns an image file as float32 [c, h, w] in [0, 1], c 1 for gray images and 3 for all others.

    16-bit gray keeps its precision; transparency is dropped; palettes, CMYK and other colour spaces become RGB by
    Pillow's conversion; of an animation the first frame counts; EXIF orientation is applied.

    Raises:
        Unreadable: when the file is damaged, truncated, too large for Pillow's limit, or no image.
    """
    with _open(path) as image:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # a damaged EXIF block is no reason not to use the pixels
                return to_tensor(ImageOps.exif_transpose(image))
        except Unreadable:
            raise
        except Exception as error:
            raise Unreadable(reason(error)) from None


def to_tensor(image: Image.Image) -> Tensor:
    """Returns a Pillow image as float32 [c, h, w] in [0, 1].

    Raises:
        Unreadable: when float or 32-bit values are in no known range.
    """
    if image.mode in {"1", "L", "LA", "La"}:
        pixels, top = np.asarray(image.convert("L"))[None], 255.0
    elif image.mode in _GRAY:
        pixels = np.asarray(image, dtype=np.float32)[None]
        top = _top(pixels, 65535.0 if image.mode != "F" else None)
    else:
        colour = image if image.mode == "RGB" else image.convert("RGBA" if "transparency" in image.info else "RGB")
        pixels, top = np.asarray(colour)[..., :3].transpose(2, 0, 1), 255.0
    return torch.from_numpy(np.ascontiguousarray(pixels, dtype=np.float32)) / top


def _top(pixels: np.ndarray, integers: float | None) -> float:
    high, low = float(pixels.max()), float(pixels.min())
    for top in (integers,) if integers else (1.0, 255.0):
        if low >= 0 and high <= top:
            return top
    raise Unreadable(f"values from {low:.4g} to {high:.4g}: expected 8 or 16 bits, or floats in [0, 1] or [0, 255]")


def _open(path: Path) -> Image.Image:
    """Opens an image file; decompression bombs are refused by Pillow's limit.

    Raises:
        Unreadable: when it is none, or a damaged one.
    """
    if not path.is_file():
        raise Unreadable("is not a regular file")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            return Image.open(path, formats=FORMATS)
        except Exception as error:
            if isinstance(error, UnidentifiedImageError):
                raise Unreadable("is no image, or a damaged one") from None
            raise Unreadable(reason(error)) from None
