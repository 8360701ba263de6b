"""Texture against shape: what a network sees in an image with the phases of one image and the amplitudes of another."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from convscope.core.batches import mix
from convscope.core.errors import ConvscopeError
from convscope.core.network import Network
from convscope.core.results import Number
from convscope.dynamics.classified import PERMUTED, batches, classifying, permuted, share


@dataclass(frozen=True, eq=False)
class SpectrumSwap:
    """What a network makes of images that have one image's phases and another's amplitudes.

    Errors are binomial, over images; chance for shares of agreement is the same predictions with the pairs permuted.

    Attributes:
        pairs: number of images combined with one of another class; each image gives its phases once.
        clean: accuracy on the images as they are; chance: permuted labels.
        follows_phase: share of combined images that the network gives the class of the phases, which hold the shape.
        follows_amplitude: share that it gives the class of the amplitudes, which hold texture, contrast and colour.
        neither: the rest.
        preference: of those that follow one of the two, the share that follow the phases; 1/2 where neither is
            preferred.
        same_class: accuracy where both come from images of one class: what the artefacts of swapping alone do.
        outside: share of the combined images' values beyond the range of the images' own.
    """

    pairs: int
    clean: Number
    follows_phase: Number
    follows_amplitude: Number
    neither: Number
    preference: Number
    same_class: Number
    outside: float


def swap_spectra(
    network: Network,
    images: Tensor,
    labels: Tensor,
    *,
    mask: Tensor | None = None,
    seed: int = 0,
    batch_size: int = 250,
    progress: bool = False,
) -> SpectrumSwap:
    """Returns whether a network goes by the phases or by the amplitudes of images' Fourier transforms.

    Each image keeps its phases and gets the amplitudes of a random image of another class, and once more those of
    another image of its own class, channel by channel. The combined image is not cut to the images' range, so that it
    has exactly these amplitudes and phases; ``outside`` says how much lies beyond. Every image is classified three
    times.

    Args:
        network: trained; afterwards as it was found.
        images: [n, c, h, w], floating-point, as read; the network's own normalisation comes after the swap.
        labels: int64 [n], their classes.
        mask: bool [h, w], True at the frequencies whose amplitudes are swapped (``filters.mask_of``); None: at all.
        seed: decides with which image each is paired.
        batch_size: images at a time.
        progress: whether to show a progress bar.

    Raises:
        ConvscopeError: when images lack labels or are all of one class, or the network does not tell as many classes
            apart, fails on the images, or returns NaN.
        ValueError: when images and labels do not fit each other, or batch_size is below 1.

    Example:
        >>> from torch import nn
        >>> labels = torch.arange(20) % 2
        >>> images = torch.rand(20, 1, 6, 6, generator=torch.Generator().manual_seed(0)) + labels.view(-1, 1, 1, 1)
        >>> bright = nn.Sequential(nn.Flatten(), nn.Linear(36, 2))
        >>> _ = nn.init.constant_(bright[1].weight[0], -1), nn.init.constant_(bright[1].weight[1], 1)
        >>> _ = nn.init.constant_(bright[1].bias[0], 36), nn.init.constant_(bright[1].bias[1], -36)
        >>> swap_spectra(Network("brightness", bright), images, labels).follows_amplitude.value
        1.0
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    labels = labels.cpu()
    guesses: dict[str, list[Tensor]] = {"clean": [], "other": [], "same": []}
    outside = 0.0
    with classifying(network, images, labels) as scores:
        other, same = partners_by_class(labels, seed)
        low, high = images.min(), images.max()
        for rows in batches(len(images), batch_size, "swapped spectra", progress):
            x = images[rows]
            strange = combined(x, images[other[rows]], mask)
            outside += float(((strange < low) | (strange > high)).double().mean()) * len(rows)
            guesses["clean"].append(scores(x).argmax(1))
            guesses["other"].append(scores(strange).argmax(1))
            guesses["same"].append(scores(combined(x, images[same[rows]], mask)).argmax(1))
    clean, guess, again = (torch.cat(guesses[name]) for name in ("clean", "other", "same"))
    phase, amplitude = guess == labels, guess == labels[other]
    # The same permutations in both.
    by_phase, by_amplitude = permuted(guess, labels, seed), permuted(guess, labels[other], seed)
    paired = same != torch.arange(len(same))
    return SpectrumSwap(
        len(labels),
        share(clean == labels, "clean_accuracy", permuted(clean, labels, seed), PERMUTED),
        share(phase, "follows_phase", by_phase, PERMUTED),
        share(amplitude, "follows_amplitude", by_amplitude, PERMUTED),
        share(~(phase | amplitude), "follows_neither", 1 - by_phase - by_amplitude, PERMUTED),
        share(phase[phase | amplitude], "phase_preference", by_phase / (by_phase + by_amplitude), PERMUTED),
        share(
            (again == labels)[paired], "same_class_accuracy", permuted(again[paired], labels[paired], seed), PERMUTED
        ),
        outside / len(labels),
    )


def combined(phases: Tensor, amplitudes: Tensor, mask: Tensor | None = None) -> Tensor:
    """Returns images with the phases of some and the amplitudes of others, float64 [n, c, h, w], channel by channel.

    A coefficient without amplitude, up to rounding, has phase 0.

    Args:
        phases: [n, c, h, w], images that give the phases of their Fourier transforms.
        amplitudes: [n, c, h, w], images that give the amplitudes.
        mask: bool [h, w], frequencies at which they do, the same for a frequency and its conjugate; elsewhere the
            amplitudes stay those of the images that give the phases. None: at all.

    Example:
        >>> images = torch.rand(2, 3, 4, 5, dtype=torch.float64)
        >>> torch.allclose(combined(images, images), images)
        True
    """
    spectrum = torch.fft.rfft2(phases.double(), norm="ortho")
    size = spectrum.abs()
    some = size > 64 * torch.finfo(torch.float64).eps * size.amax((2, 3), keepdim=True)
    unit = torch.where(some, spectrum / size.where(some, 1.0), 1.0)
    changed = torch.fft.rfft2(amplitudes.double(), norm="ortho").abs()
    if mask is not None:
        changed = torch.where(mask[:, : changed.shape[-1]].to(changed.device), changed, size)
    return torch.fft.irfft2(changed * unit, s=phases.shape[2:], norm="ortho")


def partners_by_class(labels: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """Returns for each image a random one of another class, and one of its own, int64 [n] each.

    The only image of a class is its own partner there.

    Args:
        labels: int64 [n].
        seed: of the choice, which does not depend on batches.

    Raises:
        ConvscopeError: when all images are of one class.

    Example:
        >>> other, same = partners_by_class(torch.tensor([0, 1, 0, 1]), 0)
        >>> same.tolist()
        [2, 3, 0, 1]
    """
    n = len(labels)
    order = torch.argsort(labels, stable=True)
    rank = torch.empty_like(order)
    rank[order] = torch.arange(n)
    counts = torch.bincount(labels)
    own, start = counts[labels], (counts.cumsum(0) - counts)[labels]
    if int(own.max()) == n:
        raise ConvscopeError(
            f"all {n} images are of one class: images of at least two are needed, to swap spectra between classes"
        )
    index = torch.arange(n)
    # Sorted by class, images of others come before and after an image's own class.
    step = mix(seed, index, 0) % (n - own)
    other = order[torch.where(step < start, step, step + own)]
    turn = 1 + mix(seed, index, 1) % (own - 1).clamp(min=1)
    return other, order[start + (rank - start + turn) % own]
