"""Streams: what an accumulator is fed with. Equal streams share the work."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from convscope.core.batches import FEWEST_FOLDS, FOLDS, Batch, fold_hash, mix
from convscope.core.errors import ConvscopeError
from convscope.core.network import Network

_BLOCK = 1024  # images, among which the place of one is found from their identities

Outputs = Literal["logits", "probabilities"]


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
class EachOutput:
    """Each output of the network in turn: as many backward passes as there are outputs.

    Attributes:
        of: "logits", what the network returns, or "probabilities", its softmax.
    """

    of: Outputs = "logits"

    def vectors(self, output: Tensor, batch: Batch) -> Iterator[Tensor]:
        """Yields one tensor [n, o] for each output."""
        for k in range(output.shape[1]):
            yield from OneOutput(k, self.of).vectors(output, batch)


@dataclass(frozen=True)
class OneOutput:
    """One output of the network, by its number from 0.

    Attributes:
        output: its number.
        of: "logits" or "probabilities".
    """

    output: int
    of: Outputs = "logits"

    def vectors(self, output: Tensor, batch: Batch) -> Iterator[Tensor]:
        """Yields one tensor [n, o].

        Raises:
            ConvscopeError: when the network has no such output.
        """
        if self.output >= output.shape[1]:
            raise ConvscopeError(f"the network has {output.shape[1]} outputs: there is no output {self.output}")
        vector = torch.zeros_like(output)
        vector[:, self.output] = 1
        yield _through(output, vector, self.of)


@dataclass(frozen=True)
class Probes:
    """Random signs for all outputs at once: their outer product is the identity on average.

    So the second moment of the gradients that they send back is, on average, the sum over all outputs. The signs of
    an image are drawn from its identity and the seed. They are rows of a Hadamard matrix, whose columns get a random
    sign each: an image's draws are one row after the other, and so are those of an image and the next one that shares
    its folds. The outer products of as many draws as there are rows (the number of outputs, to the next power of two)
    add up to a multiple of the identity: that many of one image leave no error, and those of images with like
    gradients little. Between folds, draws are independent, so that the folds' spread shows what error is left (where
    folds follow groups of images, it shows somewhat more).

    Attributes:
        count: number of draws, one backward pass each.
        seed: of the draws.
        of: "logits" or "probabilities".
    """

    count: int = 1
    seed: int = 0
    of: Outputs = "logits"

    def vectors(self, output: Tensor, batch: Batch) -> Iterator[Tensor]:
        """Yields ``count`` tensors [n, o]."""
        k = torch.arange(output.shape[1], device=batch.index.device)
        rows = 1 << (output.shape[1] - 1).bit_length()
        block, folds, place = (x[:, None] for x in _places(batch.index))
        for draw in range(self.count):
            number = place * self.count + draw
            signs = (mix(self.seed, 4, block, folds, number // rows, k) ^ _parity(k & number % rows)) & 1
            yield _through(output, (1 - 2 * signs).to(output), self.of)


@dataclass(frozen=True)
class Loss:
    """The gradient of the cross-entropy loss of each image for its own label."""

    def vectors(self, output: Tensor, batch: Batch) -> Iterator[Tensor]:
        """Yields softmax(output) minus the one-hot label, [n, o].

        Raises:
            ConvscopeError: when an image has no label, or one that is no output of the network.
        """
        labels = self.labels(batch)
        if int(labels.max()) >= output.shape[1]:
            raise ConvscopeError(
                f"a label is {int(labels.max())}, but the network has {output.shape[1]} outputs: check the labels"
            )
        one_hot = F.one_hot(labels.to(output.device, torch.int64), output.shape[1])
        yield output.detach().softmax(1) - one_hot.to(output.dtype)

    @staticmethod
    def labels(batch: Batch) -> Tensor:
        """Returns the images' labels, int64 [n].

        Raises:
            ConvscopeError: when an image has none.
        """
        if batch.labels is None or bool((batch.labels < 0).any()):
            raise ConvscopeError("the loss needs a label for every image: hand in labels, or use the outputs")
        return batch.labels


def _places(index: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Returns for each image its block of neighbours, its folds, and its place among those in it that share its folds.

    Two images share their folds when they are in one fold whether there are many folds or few.
    """
    count = math.lcm(FOLDS, FEWEST_FOLDS)
    blocks, block = (index // _BLOCK).unique(return_inverse=True)
    folds = fold_hash(blocks[:, None] * _BLOCK + torch.arange(_BLOCK, device=index.device)) % count
    places = F.one_hot(folds, count).cumsum(1).gather(2, folds[..., None])[..., 0] - 1
    return index // _BLOCK, folds[block, index % _BLOCK], places[block, index % _BLOCK]


def _parity(x: Tensor) -> Tensor:
    """Returns the number of ones among the last 32 bits, modulo 2."""
    for shift in (16, 8, 4, 2, 1):
        x = x ^ (x >> shift)
    return x & 1


def _through(output: Tensor, vector: Tensor, of: Outputs) -> Tensor:
    """Returns the vector that the logits get when ``vector`` [n, o] belongs to what ``of`` names."""
    if of == "logits":
        return vector
    p = output.detach().softmax(1)
    return p * (vector - (p * vector).sum(1, keepdim=True))


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
