"""A fixed set of labelled images on which a network is measured again and again."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from convscope.core.errors import ConvscopeError
from convscope.core.network import unchanged
from convscope.core.taps import device_and_dtype, left_as_found, logits
from convscope.inputs.iterables import IterableSource

LARGEST = 2**30  # bytes of images that are kept
ENOUGH = 1000  # images, from which on mode strengths hardly depend on which they are
Outputs = Literal["logits", "probabilities"]


@dataclass(frozen=True, eq=False)
class Probes:
    """Labelled images in memory.

    Attributes:
        images: [n, c, h, w], as they were given.
        labels: int64 [n].
        notes: what was left out.
    """

    images: Tensor
    labels: Tensor
    notes: tuple[str, ...] = ()

    @classmethod
    def of(cls, batches: Iterable[Any], batch_size: int) -> Probes:
        """Returns the labelled images of batches, as ``dataset_structure`` takes them.

        Args:
            batches: (images, labels) pairs, a ``DataLoader``, ...
            batch_size: images that are read at a time.

        Raises:
            ConvscopeError: when images have several sizes, none has a label, or all together take more than
                ``LARGEST`` bytes.
        """
        source = IterableSource(batches, "the probe set")
        images: list[Tensor] = []
        labels: list[Tensor] = []
        size, unlabelled = 0, 0
        for _, batch in source.batches(batch_size):
            if batch.labels is None:
                unlabelled += len(batch)
                continue
            found = batch.images.cpu()
            if images and images[0].shape[1:] != found.shape[1:]:
                raise ConvscopeError(
                    f"images of the probe set differ in size: {_size(found)} after {_size(images[0])} (channels x "
                    "height x width): resize them to one size"
                )
            images.append(found)
            labels.append(batch.labels.cpu().long())
            size += found.numel() * found.element_size()
            if size > LARGEST:
                raise ConvscopeError(
                    f"the probe set takes more than {LARGEST >> 30} GiB of memory: a few thousand images are enough"
                )
        if not images:
            raise ConvscopeError("no image of the probe set has a label: mode strengths tie labels to pixels")
        notes = [f"{unlabelled} images without a label were left out"] if unlabelled else []
        if source.unreadable:
            notes.append(f"{len(source.unreadable)} images that hold NaN or infinite pixels were left out")
        n = sum(map(len, images))
        if n < ENOUGH:
            notes.append(f"{n} images are few: {ENOUGH} or more say better what is learned of the data set")
        return cls(torch.cat(images), torch.cat(labels), tuple(notes))


@dataclass(frozen=True, eq=False)
class Readout:
    """How images become the outputs that are measured.

    Attributes:
        prepare: maps images to what the network takes.
        outputs: "logits", the network's own, or "probabilities", their softmax.
        batch_size: images at a time.
    """

    prepare: Callable[[Tensor], Tensor] = unchanged
    outputs: Outputs = "logits"
    batch_size: int = 256

    def values(self, model: nn.Module, images: Tensor) -> Tensor:
        """Returns a network's outputs on images, float64 [n, o].

        The network's modes, gradients, buffers and the random state are afterwards as before.

        Args:
            model: any classifier.
            images: [n, c, h, w].

        Raises:
            ConvscopeError: when the network cannot take the images, or returns no class scores.
        """
        with left_as_found([model]), torch.no_grad():
            found = [self._of(model, part) for part in self._parts(model, images)]
        return torch.cat([part.to("cpu", torch.float64) for part in found])

    def mean_jacobian(self, model: nn.Module, images: Tensor, directions: Tensor) -> Tensor:
        """Returns the mean over images of the gradients of some combinations of outputs, float64 [m, c, h, w].

        Entry (m, c, y, x) is how much the sum over outputs of directions[m] times output grows with that pixel. For a
        linear network it is directions times its map. Costs one forward and m backward passes over the images.

        Args:
            model: any classifier; it is left as found.
            images: [n, c, h, w]; gradients are with respect to them, before ``prepare``.
            directions: [m, o]; outputs beyond the first o are left out.

        Raises:
            ConvscopeError: when the network cannot take the images, returns no class scores, or is not
                differentiable.
        """
        total = torch.zeros(len(directions), *images.shape[1:], dtype=torch.float64)
        with left_as_found([model]), torch.enable_grad():
            for part in self._parts(model, images):
                x = part.requires_grad_()
                found = self._of(model, x.clone())  # a network may change its input in place
                if not found.requires_grad:
                    raise ConvscopeError("the network's outputs cannot be differentiated with respect to the images")
                for i, direction in enumerate(directions.to(found)):
                    score = (found[:, : len(direction)] @ direction).sum()
                    (gradient,) = torch.autograd.grad(score, x, retain_graph=i + 1 < len(directions))
                    total[i] += gradient.to("cpu", torch.float64).sum(0)
        return total / len(images)

    def _parts(self, model: nn.Module, images: Tensor) -> Iterator[Tensor]:
        device, _ = device_and_dtype(model)
        for part in images.split(self.batch_size):
            # A copy, so that gradients and in-place layers never reach the caller's images.
            yield part.detach().to(device, copy=True)

    def _of(self, model: nn.Module, x: Tensor) -> Tensor:
        _, dtype = device_and_dtype(model)
        try:
            given = model(self.prepare(x).to(dtype))
        except Exception as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise ConvscopeError(
                f"the network fails on images of shape {_size(x)} ({reason[:200]}): check channels and size, and what "
                "prepare returns"
            ) from error
        found = logits(given, len(x))
        return found.softmax(1) if self.outputs == "probabilities" else found


def _size(images: Tensor) -> str:
    return "x".join(map(str, images.shape[1:]))
