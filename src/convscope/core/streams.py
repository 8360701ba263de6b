"""Streams: what an accumulator is fed with. Equal streams share the work."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from convscope.core.batches import Batch, mix
from convscope.core.network import Network


class Cotangent(Protocol):
    """Says which vectors are propagated back from a network's output. Hashable."""

    def vectors(self, output: Tensor, batch: Batch) -> Iterator[Tensor]:
        """Yields tensors of the output's shape, one for each backward pass; rows belong to images."""
        ...


@dataclass(frozen=True)
class RandomLabels:
    """The gradient of the cross-entropy loss of each image for a uniformly random label.

    This is the signal that training sends back when the labels carry no information. The label of an image
    is drawn from its identity and the seed.
    """

    seed: int = 0

    def vectors(self, output: Tensor, batch: Batch) -> Iterator[Tensor]:
        """Yields softmax(output) minus the one-hot random label, [n, o]."""
        labels = mix(self.seed, 2, batch.index).to(output.device) % output.shape[1]
        yield output.detach().softmax(1) - F.one_hot(labels, output.shape[1]).to(output.dtype)


@dataclass(frozen=True)
class Images:
    """The images themselves.

    Attributes:
        size: (height, width) to resize to (antialiased bilinear), or None.
        gray: whether to average the channels.
    """

    size: tuple[int, int] | None = None
    gray: bool = False

    def __call__(self, images: Tensor) -> Tensor:
        """Returns the images of a batch [n, c, h, w] as this stream delivers them."""
        if self.gray:
            images = images.mean(1, keepdim=True)
        if self.size is not None and self.size != tuple(images.shape[2:]):
            images = F.interpolate(images, self.size, mode="bilinear", antialias=True, align_corners=False)
        return images


@dataclass(frozen=True)
class Input:
    """What a convolution really saw, [n, c, h, w], before its zero padding (other padding modes already applied).

    Attributes:
        network: the network.
        conv: the convolution's name.
        images: about how many images to use, spread over the data by their hashes; None for all.
    """

    network: Network
    conv: str
    images: int | None = None


@dataclass(frozen=True)
class Output:
    """What a convolution returned, [n, k, h', w'], bias included; ``images`` as for ``Input``."""

    network: Network
    conv: str
    images: int | None = None


@dataclass(frozen=True)
class Gradient:
    """The gradient at a convolution's output, [n, k, h', w'], one delivery for each cotangent vector.

    Attributes:
        network: the network.
        conv: the convolution's name.
        cotangent: what is propagated back.
        images: about how many images to use, spread over the data by their hashes; None for all.
    """

    network: Network
    conv: str
    cotangent: Cotangent
    images: int | None = None


Stream = Images | Input | Output | Gradient


def sampled(batch: Batch, share: float) -> Tensor:
    """Returns bool [n]: which images belong to a random share of the data, the same in any batching and process."""
    return mix(3, batch.index).double() < share * torch.tensor(2.0, dtype=torch.float64) ** 63
