"""What a network makes of changed images, and how often it is right."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor
from tqdm import tqdm

from convscope.core.delivery import quick_layout, run_network
from convscope.core.errors import ConvscopeError
from convscope.core.network import Network
from convscope.core.results import Number
from convscope.core.taps import left_as_found, logits

PERMUTED = "permuted labels"
_DRAWS = 200  # of permuted labels


@contextmanager
def classifying(network: Network, images: Tensor, labels: Tensor) -> Generator[Callable[[Tensor], Tensor]]:
    """Gives a function that returns class scores, float64 [n, o] on the CPU, of images [n, c, h, w] as read.

    The network is in evaluation mode, without gradients, and afterwards as it was found.

    Args:
        network: the network.
        images: [n, c, h, w], all that it will see, as read; floating-point, its dtype is that in which the function
            hands images on.
        labels: int64 [n], their classes.

    Raises:
        ConvscopeError: when an image has no label, or the network has too few outputs for the labels, fails, or
            returns NaN.
        ValueError: when images and labels do not fit each other.
    """
    if images.ndim != 4 or not images.is_floating_point() or labels.shape != (len(images),):
        raise ValueError(
            "need floating-point images [n, c, h, w] and labels [n], got "
            f"{images.dtype} {list(images.shape)} and {list(labels.shape)}"
        )
    if not len(images) or int(labels.min()) < 0:
        raise ConvscopeError(
            f"{int((labels < 0).sum())} of {len(images)} images have no label: at least one image is needed, and each "
            "with its class; leave out those without"
        )
    classes = int(labels.max()) + 1

    def scores(x: Tensor) -> Tensor:
        _, output = run_network(network, x.to(images.dtype), lambda _: None, layout=layout)
        found = logits(output, len(x)).to("cpu", torch.float64)
        if found.shape[1] < classes:
            raise ConvscopeError(
                f"{network.name} tells {found.shape[1]} classes apart, but the labels name {classes}: hand in images "
                "with the labels that the network was trained on"
            )
        if found.isnan().any():
            raise ConvscopeError(f"{network.name} returns NaN: check its weights and the range of the images")
        return found

    with left_as_found([network.module]), torch.no_grad():
        layout = quick_layout(network, images[:1])
        yield scores


def batches(n: int, batch_size: int, title: str, progress: bool) -> Iterator[Tensor]:
    """Yields the numbers of the images of each batch, int64, under a progress bar.

    Args:
        n: number of images.
        batch_size: images at a time.
        title: of the bar.
        progress: whether there is one.
    """
    with tqdm(total=n, unit="image", desc=title, disable=not progress, leave=False) as bar:
        for rows in torch.arange(n).split(batch_size):
            yield rows
            bar.update(len(rows))


def check_shape(images: Tensor, mean: Tensor) -> None:
    """Raises an error unless images have the shape of a mean image.

    Args:
        images: [n, c, h, w].
        mean: [c, h, w].

    Raises:
        ConvscopeError: when they differ.
    """
    if images.shape[1:] != mean.shape:
        ours, theirs = ("x".join(map(str, shape)) for shape in (images.shape[1:], mean.shape))
        raise ConvscopeError(
            f"images are {ours}, but the data set's mean image is {theirs} (channels x height x width): compute the "
            "structure from images of the same size and colours"
        )


def share(
    right: Tensor, definition: str, chance: Sequence[float] | Tensor | None = None, chance_name: str = ""
) -> Number:
    """Returns the share of True with its standard error.

    The error is sqrt(q (1 - q) / n) with q = (k + 1) / (n + 2), which is not 0 where all n are alike.

    Args:
        right: bool [n].
        definition: key of the number's definition.
        chance: what chance gives in several draws; None: not computed.
        chance_name: what chance is, in words.
    """
    n, k = len(right), int(right.sum())
    q = (k + 1) / (n + 2)
    spread = math.sqrt(q * (1 - q) / n) if n else None
    return Number(k / n if n else math.nan, spread, band(chance), definition, chance_name)


def permuted(guess: Tensor, labels: Tensor, seed: int) -> Tensor:
    """Returns how often guesses agree with permuted labels, float64 [draws]: a share of the images each.

    Args:
        guess: int64 [n], classes that the network gave.
        labels: int64 [n].
        seed: of the permutations.
    """
    generator = torch.Generator().manual_seed(seed)
    draws = [labels[torch.randperm(len(labels), generator=generator)] == guess for _ in range(_DRAWS)]
    return torch.stack(draws).double().mean(1)


def band(draws: Sequence[float] | Tensor | None) -> tuple[float, float] | None:
    """Returns the central 95 % of what chance gave; None without draws."""
    if draws is None or len(draws) == 0:
        return None
    ends = torch.quantile(torch.as_tensor(draws, dtype=torch.float64), torch.tensor([0.025, 0.975]).double())
    return float(ends[0]), float(ends[1])
