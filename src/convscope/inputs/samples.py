"""What a data set or a loader hands out, taken apart: images and labels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from convscope.core.errors import ConvscopeError
from convscope.inputs.files import shown
from convscope.inputs.pictures import to_tensor

LARGEST_LABEL = 100_000  # beyond it a number is an identity, not a class
_IMAGE_KEYS = ("images", "image", "img", "pixel_values", "x", "inputs")
_LABEL_KEYS = ("labels", "label", "fine_label", "y", "target", "targets")


def taken_apart(item: Any, name: str) -> tuple[Any, Any]:
    """Returns (images, labels) of one item: a bare image, (image, label, ...) or a dictionary; labels None if absent.

    Args:
        item: what the data set or the loader gave.
        name: its name, for the error.

    Raises:
        ConvscopeError: when the item is nothing of this kind.
    """
    if isinstance(item, Mapping):
        images = next((item[key] for key in _IMAGE_KEYS if key in item), None)
        if images is None:
            keys = ", ".join(shown(key) for key in list(item)[:6])
            raise ConvscopeError(
                f"{name} gives dictionaries with the keys {keys}: expected one of {', '.join(_IMAGE_KEYS)}"
            )
        return images, next((item[key] for key in _LABEL_KEYS if key in item), None)
    if isinstance(item, (tuple, list)) and item:
        return item[0], item[1] if len(item) > 1 else None
    return item, None


def as_images(value: Any, name: str) -> Tensor:
    """Returns an image [c, h, w] or images [n, c, h, w] as a float tensor.

    Floats are taken as they are (float32 or float64); bytes are divided by 255; Pillow images and arrays of bytes
    [h, w, c] are put in order.

    Raises:
        ConvscopeError: when the value is no image.
    """
    if isinstance(value, Image.Image):
        return to_tensor(value)
    if isinstance(value, np.ndarray) and value.dtype.kind in "uifb":
        if value.dtype == np.uint8 and value.ndim in {3, 4} and value.shape[-1] in {1, 3}:
            value = np.moveaxis(value, -1, -3)
        value = torch.from_numpy(np.ascontiguousarray(value))
    if not isinstance(value, Tensor) or value.is_complex() or value.layout != torch.strided or value.is_quantized:
        raise ConvscopeError(
            f"{name} gives {type(value).__name__} where images are expected: give tensors [n, c, h, w], alone or as "
            "(images, labels)"
        )
    if value.ndim not in {3, 4} or 0 in value.shape[-3:]:
        raise ConvscopeError(f"{name} gives images of shape {tuple(value.shape)}: expected [n, c, h, w]")
    value = value.detach()
    if value.dtype == torch.uint8:
        return value.to(torch.float32) / 255
    return value if value.dtype in {torch.float32, torch.float64} else value.to(torch.float32)


def as_labels(value: Any, n: int) -> Tensor | None:
    """Returns int64 [n], or None where the value is not one class number for each of n images."""
    if value is None:
        return None
    try:
        labels = torch.as_tensor(value)
    except (TypeError, ValueError, RuntimeError):
        return None
    if labels.numel() != n or labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        return None
    labels = labels.detach().cpu().reshape(n).to(torch.int64)
    return labels if n == 0 or bool(((labels >= 0) & (labels < LARGEST_LABEL)).all()) else None


def known_classes(dataset: Any) -> tuple[str, ...] | None:
    """Returns the class names that a data set tells without being read, or None.

    These are its ``classes``, else the numbers up to its largest label.

    Labels are looked for in ``targets`` and ``labels``, in a ``TensorDataset``'s second tensor, in a list of batches,
    and in the data set that a ``Subset`` is taken from.

    Args:
        dataset: a data set, or a list or tuple of batches.
    """
    names = getattr(dataset, "classes", None)
    if isinstance(names, (list, tuple)) and names:
        return tuple(map(shown, names))
    tensors = getattr(dataset, "tensors", None) or ()
    for given in (getattr(dataset, "targets", None), getattr(dataset, "labels", None), *tensors[1:2]):
        if (largest := _largest(given)) is not None:
            return tuple(map(str, range(largest + 1)))
    if isinstance(dataset, (list, tuple)):
        every = [_largest(item[1]) if isinstance(item, (list, tuple)) and len(item) > 1 else None for item in dataset]
        known = [largest for largest in every if largest is not None]
        return tuple(map(str, range(max(known) + 1))) if known and len(known) == len(every) else None
    inner = getattr(dataset, "dataset", None)
    return None if inner is None else known_classes(inner)


def _largest(value: Any) -> int | None:
    try:
        n = torch.as_tensor(value).numel()
    except (TypeError, ValueError, RuntimeError):
        return None
    labels = as_labels(value, n) if n else None
    return None if labels is None else int(labels.max())
