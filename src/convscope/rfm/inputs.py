"""Images, targets and weights as scikit-learn users bring them, in the form that machines take."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from convscope.rfm.architecture import Architecture

CHANNELS = ("auto", "first", "last")
_FEW = 4  # channels that a picture may have: grey, with transparency, three colours, with transparency


@dataclass(frozen=True)
class Form:
    """How the images came.

    Attributes:
        given: shape of one image as it came, [d] for rows.
        shape: (c, h, w).
        last: whether channels are the last dimension.
    """

    given: tuple[int, ...]
    shape: tuple[int, int, int]
    last: bool

    @classmethod
    def of(
        cls,
        given: Sequence[int],
        architecture: Architecture,
        channels: str = "auto",
        image_shape: Sequence[int] | None = None,
    ) -> Form:
        """Returns the form of images of this shape.

        Args:
            given: shape of one image: (d,) for rows, (h, w), or (c, h, w) or (h, w, c).
            architecture: of the network, whose patches must fit.
            channels: "first", "last", or "auto": the one that fits.
            image_shape: shape that rows are given, or None: every entry of a row is a channel of one pixel.

        Raises:
            ValueError: when the shape is none of these, or both orders of its dimensions fit.
        """
        if channels not in CHANNELS:
            raise ValueError(f"channels must be one of {', '.join(CHANNELS)}, got {channels!r}")
        shape = given = tuple(int(x) for x in given)
        if len(given) == 1:
            if image_shape is None:
                return cls(given, (given[0], 1, 1), False)
            shape = tuple(int(x) for x in image_shape)
            if min(shape, default=0) < 1 or np.prod(shape) != given[0]:
                raise ValueError(
                    f"image_shape is {shape}, {np.prod(shape)} entries, but rows have {given[0]} features: they must "
                    "be equal"
                )
        elif image_shape is not None:
            raise ValueError(
                f"image_shape is for images as rows (n, d), got images of shape {given}: leave it None, or reshape X"
            )
        if len(shape) == 2:
            return cls(given, (1, *shape), False)
        if len(shape) != 3:
            raise ValueError(
                f"X must be images (n, c, h, w), (n, h, w, c) or (n, h, w), or rows (n, d), got images of shape {shape}"
            )
        last = channels == "last" if channels != "auto" else _channels_last(shape, architecture)
        return cls(given, (shape[2], shape[0], shape[1]) if last else shape, last)

    def images(self, x: NDArray) -> Tensor:
        """Returns images [n, c, h, w] of an array of this form; whole numbers of 8 bits are divided by 255.

        Raises:
            ValueError: when the array's images have another shape.
        """
        if x.shape[1:] != self.given:
            raise ValueError(
                f"images must have the shape {self.given} of those it was fitted on, got {tuple(x.shape[1:])}"
            )
        c, h, w = self.shape
        tensor = torch.tensor(x)  # a copy: what the user holds may change
        tensor = tensor.reshape(-1, h, w, c).permute(0, 3, 1, 2) if self.last else tensor.reshape(-1, c, h, w)
        if tensor.dtype == torch.uint8:
            return tensor.float().contiguous() / 255
        if tensor.dtype in {torch.float16, torch.float32}:
            return tensor.float().contiguous()
        return tensor.double().contiguous()


def _channels_last(shape: tuple[int, ...], architecture: Architecture) -> bool:
    fits = [_fits(architecture, *shape[1:]), _fits(architecture, *shape[:2])]
    few = [fit and c <= _FEW for fit, c in zip(fits, (shape[0], shape[2]), strict=True)]
    fits = few if any(few) else fits
    if all(fits):
        raise ValueError(
            f"images of shape {shape} may have their channels first ({shape[0]}) or last ({shape[2]}): say which with "
            'channels="first" or channels="last"'
        )
    return fits[1]


def _fits(architecture: Architecture, height: int, width: int) -> bool:
    try:
        architecture.sizes(height, width)
    except ValueError:
        return False
    return True


def clipped(architecture: Architecture, form: Form) -> Architecture:
    """Returns the architecture for images of a form: of rows without a shape, patches are one pixel.

    Raises:
        ValueError: when its patches do not fit.
    """
    if len(form.given) == 1 and form.shape[1:] == (1, 1):
        architecture = replace(architecture, patch_size=1, stride=1)
    architecture.sizes(*form.shape[1:])
    return architecture


def as_array(x: Any) -> Any:
    """Returns a tensor as a NumPy array; anything else as it is."""
    if isinstance(x, Tensor):
        x = x.detach().cpu()
        return (x.float() if x.dtype == torch.bfloat16 else x).numpy()
    return x


def check_images(images: Tensor) -> None:
    """Checks that images hold something to learn from.

    Raises:
        ValueError: when all are equal, or none has anything on it.
    """
    if len(images) > 1 and bool((images == images[:1]).all()):
        raise ValueError(f"all {len(images)} images are equal: expected images that differ")
    flat = images.flatten(1)
    if images.shape[-2:] != (1, 1) and bool((flat == flat[:, :1]).all()):
        raise ValueError(
            f"each of the {len(images)} images is constant (one value in all pixels): expected images with something "
            "on them"
        )
