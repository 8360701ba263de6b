"""Pictures as PNG text: in the JSON exactly."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from convscope.core.errors import ConvscopeError
from convscope.core.plain import text_of

_MOST_PIXELS = 2**24


def png_from_bytes(images: NDArray[np.uint8]) -> str:
    """Returns images [m, h, w, 3] as one base64 PNG, from top to bottom; empty for none."""
    if not images.size:
        return ""
    m, h, w, _ = images.shape
    return encoded(Image.fromarray(np.ascontiguousarray(images).reshape(m * h, w, 3)))


def bytes_from_png(text: str, shape: tuple[int, int, int, int]) -> NDArray[np.uint8]:
    """Returns the images [m, h, w, 3] that :func:`png_from_bytes` wrote.

    Args:
        text: base64 PNG.
        shape: (m, h, w, 3).

    Raises:
        ConvscopeError: when the text holds no such images.
    """
    m, h, w, channels = shape
    if channels != 3 or m * h * w > _MOST_PIXELS:
        raise ConvscopeError(f"not a usable report: a strip of images has shape [m, h, w, 3], got {list(shape)}")
    if m * h * w == 0:
        return np.zeros((0, 1, 1, 3), np.uint8)
    try:
        with Image.open(io.BytesIO(base64.b64decode(text, validate=True)), formats=["PNG"]) as image:
            if image.size != (w, m * h) or image.mode != "RGB":
                got = f"{image.mode} {image.size}"
                raise ConvscopeError(
                    f"not a usable report: the strip of images is {got}, but should be RGB {(w, m * h)}"
                )
            return np.asarray(image, dtype=np.uint8).reshape(m, h, w, 3).copy()
    except ConvscopeError:
        raise
    except Exception as error:  # Pillow has a kind of error for each kind of damage
        raise ConvscopeError("not a usable report: the strip of images is no PNG (truncated?)") from error


def pictures_to_json(images: NDArray[np.uint8]) -> dict[str, Any]:
    """Returns images [m, h, w, 3] as plain JSON values, exactly."""
    return {"shape": list(images.shape), "png": png_from_bytes(images)}


def pictures_from_json(data: Mapping[str, Any]) -> NDArray[np.uint8]:
    """Returns the images that ``pictures_to_json`` described.

    Raises:
        KeyError: when a field is missing.
        TypeError: when a field is of the wrong kind.
        ValueError: when the shape has not four sides.
        ConvscopeError: when the text holds no such images.
    """
    m, h, w, channels = (int(side) for side in data["shape"])
    return bytes_from_png(text_of(data["png"]), (m, h, w, channels))


def encoded(image: Image.Image) -> str:
    """Returns an image as base64 PNG."""
    stream = io.BytesIO()
    image.save(stream, format="PNG", optimize=True)
    return base64.b64encode(stream.getvalue()).decode("ascii")
