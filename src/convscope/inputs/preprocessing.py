"""What is done to images before they enter a network: channels, size, normalisation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from convscope.core.errors import ConvscopeError
from convscope.inputs.stores import brightness, crop_and_resize


@dataclass(frozen=True)
class Preprocessing:
    """Maps images as a source gives them to what a network takes; image by image, in the images' own precision.

    Attributes:
        channels: what the first convolution takes, or None where unknown: channels are then left alone.
        size: (height, width) that images are cropped and resized to, or None: left alone.
        mean: one value for each channel (or one for all) that is subtracted, or None: not known yet.
        std: what the rest is divided by, or None: not known yet.
        origin: where mean and std come from, in words.
    """

    channels: int | None = None
    size: tuple[int, int] | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    origin: str = ""

    def __post_init__(self) -> None:
        for name, values in (("mean", self.mean), ("std", self.std)):
            if values is None:
                continue
            if len(values) not in {1, self.channels or len(values)} or not all(map(math.isfinite, values)):
                raise ConvscopeError(
                    f"the {name} has the values {_listed(values)}: expected {self.channels or 'as many'} finite "
                    "numbers, one for each input channel of the network, or a single one"
                )
            if name == "std" and min(values) <= 0:
                raise ConvscopeError(f"the standard deviation is {_listed(values)}: expected positive numbers")

    def __call__(self, images: Tensor) -> Tensor:
        """Returns what the network takes, from images [n, c, h, w].

        Raises:
            ConvscopeError: when the images have channels that cannot be fitted.
            ValueError: when mean and standard deviation are not known yet (see ``measured``).
        """
        if self.mean is None or self.std is None:
            raise ValueError("mean and standard deviation are not known yet: call measured with a first batch")
        images = self._fitted(images)
        mean, std = (torch.tensor(v, dtype=images.dtype, device=images.device) for v in (self.mean, self.std))
        return (images - mean[:, None, None]) / std[:, None, None]

    def measured(self, images: Tensor) -> Preprocessing:
        """Returns this preprocessing with mean and standard deviation, measured per channel where they are missing.

        Args:
            images: [n, c, h, w], the first images; the same ones in every process.

        Raises:
            ConvscopeError: when the images have channels that cannot be fitted.
        """
        fitted = self._fitted(images.double())
        if self.mean is not None and self.std is not None:
            return self
        mean = fitted.mean((0, 2, 3)).tolist()
        std = fitted.std((0, 2, 3), correction=0).tolist()
        constant = [s <= 1e-8 for s in std]
        origin = f"measured on the first {len(images)} images"
        if any(constant):
            origin += "; a channel without contrast was not scaled"
        if self.mean is not None or self.std is not None:
            origin = f"{self.origin}; the rest {origin}"
        return replace(
            self,
            mean=self.mean or tuple(mean),
            std=self.std or tuple(1.0 if flat else s for s, flat in zip(std, constant, strict=True)),
            origin=origin,
        )

    def notes(self, images: Tensor) -> tuple[str, ...]:
        """Returns what happens to such images, in sentences."""
        c, h, w = images.shape[1:]
        said: list[str] = []
        if self.channels == 3 and c == 1:
            said.append("gray images were given three equal channels, which the network takes")
        if self.channels == 1 and c == 3:
            said.append("colour was reduced to brightness, since the network takes one channel")
        if self.size is not None and self.size != (h, w):
            said.append(
                f"images of {h}x{w} pixels were cropped centrally and resized to the network's input of "
                f"{self.size[0]}x{self.size[1]}"
            )
        if self.mean is not None and self.std is not None:
            said.append(
                f"normalisation: mean {_listed(self.mean)}, standard deviation {_listed(self.std)} ({self.origin})"
            )
        return tuple(said)

    def _fitted(self, images: Tensor) -> Tensor:
        c = images.shape[1]
        if self.channels is not None and c != self.channels:
            if {c, self.channels} != {1, 3}:
                raise ConvscopeError(
                    f"the images have {c} channels, but the network takes {self.channels}: only gray and colour can be "
                    "turned into each other; give images that fit"
                )
            images = images.expand(-1, 3, -1, -1) if c == 1 else brightness(images)
        return images if self.size is None else crop_and_resize(images, self.size)


def _listed(values: Sequence[float]) -> str:
    return ", ".join(f"{v:.4g}" for v in values)
