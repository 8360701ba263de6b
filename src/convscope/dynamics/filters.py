"""Images with only some of their frequencies, and orders in which frequencies are kept or removed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Literal

import torch
from torch import Tensor

from convscope.core.batches import mix
from convscope.core.fourier import pairs, partners
from convscope.dynamics.structure import DatasetStructure

Ranking = Literal["strength", "f-ratio", "power"]
RANKINGS: tuple[Ranking, ...] = ("strength", "f-ratio", "power")
RANDOM = "random frequencies"  # what chance gives


def filtered(images: Tensor, mask: Tensor, mean: Tensor) -> Tensor:
    """Returns images that differ from the mean image in some frequencies only, float64 [n, c, h, w].

    Values are not cut to the images' range: that would bring other frequencies back.

    Args:
        images: [n, c, h, w], as read.
        mask: bool [h, w], True at the frequencies to keep, in the order of ``core.fourier.unitary``; the same for a
            frequency and its conjugate.
        mean: [c, h, w], mean image, which stays.

    Raises:
        ValueError: when the mask has another size than the images, or parts a frequency from its conjugate.

    Example:
        >>> images = torch.rand(2, 1, 4, 6, dtype=torch.float64)
        >>> all_kept = filtered(images, torch.ones(4, 6, dtype=torch.bool), images.mean(0))
        >>> torch.allclose(all_kept, images)
        True
    """
    h, w = images.shape[2:]
    if mask.shape != (h, w) or mask.dtype != torch.bool:
        raise ValueError(f"mask must be bool [{h}, {w}] like the images, got {mask.dtype} {list(mask.shape)}")
    if not torch.equal(mask.flatten(), mask.flatten()[partners(h, w).to(mask.device)]):
        raise ValueError("mask must keep a frequency with its conjugate, or neither: build it with mask_of")
    ((kept, _),) = bands(images, [mask], mean)
    return kept


def bands(images: Tensor, masks: Iterable[Tensor], mean: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Yields for each mask the images with its frequencies alone, and the images without them; mean image in both.

    Arguments as of ``filtered``, which checks them; float64 [n, c, h, w] each.
    """
    x, mean = images.double(), mean.to(images.device, torch.float64)
    h, w = x.shape[2:]
    spectrum = torch.fft.rfft2(x - mean)
    for mask in masks:
        part = torch.fft.irfft2(spectrum * mask[:, : w // 2 + 1].to(x.device), s=(h, w))
        yield mean + part, x - part


def mask_of(places: Tensor, h: int, w: int) -> Tensor:
    """Returns bool [h, w], True at some frequencies and their conjugates.

    Args:
        places: int64 [f], places in the flattened transform (row times w plus column).
        h: height of the images.
        w: width of the images.

    Example:
        >>> mask_of(torch.tensor([1]), 1, 4).tolist()
        [[False, True, False, True]]
    """
    mask = torch.zeros(h * w, dtype=torch.bool)
    mask[places] = True
    mask[partners(h, w)[places]] = True
    return mask.view(h, w)


def first(ranking: Tensor, count: int, h: int, w: int) -> Tensor:
    """Returns the mask of a ranking's first frequencies, bool [h, w]: at most ``count``, conjugates counted.

    Where the last pair does not fit, it is left out; the first one is always kept.

    Args:
        ranking: int64 [f], one place per conjugate pair.
        count: how many frequencies of the h w, at least 1.
        h: height of the images.
        w: width of the images.

    Example:
        >>> first(torch.tensor([0, 1, 2]), 4, 1, 4).tolist()  # constant part, one cycle, two cycles
        [[True, True, True, True]]
        >>> first(torch.tensor([0, 1, 2]), 2, 1, 4).tolist()  # one cycle is a pair
        [[True, False, False, False]]
    """
    sizes = 1 + (partners(h, w)[ranking] != ranking).long()
    fit = max(int((sizes.cumsum(0) <= count).sum()), 1)
    return mask_of(ranking[:fit], h, w)


def rankings(structure: DatasetStructure) -> dict[Ranking, Tensor]:
    """Returns the orders in which the data set itself ranks frequencies, each int64 [f], one place per pair.

    "strength" is ||sigma_j||, how much the classes' means differ; "f-ratio" is ``f_ratio``, how much they differ
    against the spread of images within a class; "power" is the mean power of the images, less their mean image where
    the structure is centred. All fall from the first place on.

    Args:
        structure: of the data set.

    Example:
        >>> from convscope.dynamics.collect import dataset_structure
        >>> wave = torch.tensor([1.0, 0, -1, 0]).expand(1, 1, 4)
        >>> structure = dataset_structure([(torch.stack([wave, -wave]), torch.tensor([0, 1]))])
        >>> rankings(structure)["strength"][0].item()
        1
    """
    scores = {
        "strength": structure.strengths,
        "f-ratio": f_ratio(structure),
        "power": structure.power.diagonal(dim1=2, dim2=3).sum(-1).real,
    }
    return {name: ranked(scores[name]) for name in RANKINGS}


def ranked(score: Tensor) -> Tensor:
    """Returns one frequency of each conjugate pair by falling score, int64 [f].

    Args:
        score: [h, w], the same for a frequency and its conjugate.
    """
    places, _ = pairs(*score.shape)
    return places[torch.argsort(score.flatten()[places], descending=True, stable=True)]


def random_ranking(h: int, w: int, seed: int, draw: int) -> Tensor:
    """Returns one frequency of each conjugate pair in random order, int64 [f]: what chance gives.

    Args:
        h: height of the images.
        w: width of the images.
        seed: of all draws.
        draw: which of them.
    """
    places, _ = pairs(h, w)
    generator = torch.Generator().manual_seed(int(mix(seed, draw)))
    return places[torch.randperm(len(places), generator=generator)]


def f_ratio(structure: DatasetStructure) -> Tensor:
    """Returns the ratio of variances between and within classes at each frequency, float64 [h, w].

    F_j = [sum_c n_c |m_cj - m_j|^2 / (p - 1)] / [sum_i |x_ij - m_c(i)j|^2 / (n - p)] on the images' complex Fourier
    coefficients, squares summed over channels, m_c the mean of class c of p classes and n images. It is inf where
    images of a class are all alike, and 0 where all images are.

    Args:
        structure: centred or not.
    """
    counts = structure.counts.double()
    n, p = float(counts.sum()), int((counts > 0).sum())
    share = (counts / n)[:, None, None, None]
    # Row c of Sigma_yx is n_c / n (m_c - m); where means stayed, it is n_c / n m_c.
    cross, power = structure.cross, structure.power.diagonal(dim1=2, dim2=3).sum(-1).real
    if not structure.centred:
        cross = cross - share * structure.mean
        power = power - _power(structure.mean)
    between = n * (_power(cross) / share[..., 0].clamp(min=1 / n)).sum(0)
    within = n * power - between
    noise = 64 * torch.finfo(torch.float64).eps * n * (float(power.sum()) + float(_power(structure.mean).sum()))
    ratio = (between / max(p - 1, 1)) / (within.clamp(min=0) / max(n - p, 1))
    ratio = torch.where(within > noise, ratio, torch.inf)
    return torch.where(between > noise, ratio, 0.0)


def _power(images: Tensor) -> Tensor:
    return torch.fft.fft2(images, norm="ortho").abs().square().sum(-3)
