"""Pictures of kept pairs: what in the image goes with one, and what the network makes of one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import pi

import torch
from torch import Tensor

from convscope.bottleneck.interventions import changed_outputs, convolution_of
from convscope.bottleneck.latents import Latents
from convscope.bottleneck.pairs import KeptPairs
from convscope.core.accumulate import jackknife
from convscope.core.batches import FOLDS, fold_hash, mix
from convscope.core.errors import ConvscopeError
from convscope.core.fourier import unitary
from convscope.core.network import Network
from convscope.core.results import Number

SCALES = (0.0, 0.5, 2.0)  # times a pair's deviation from its mean
CHANCE = "permuted images"
_DRAWS = 100  # permutations of the images
_SEED = 12
_PIXELS = 2**24  # entries of images that are multiplied at once
_TOGETHER = 1024  # permuted latents that are looked at together


@dataclass(frozen=True, eq=False)
class ForwardPatterns:
    """What in the images goes with each pair.

    Attributes:
        pairs: the m pairs.
        pictures: complex128 [m, c, h, w], in units of the images. The real part of exp(i phi) times a picture is what
            an image is expected to have beside the mean image when the latent is one standard deviation from its mean
            in the direction phi.
        share: of the images' variance, what each latent explains by linear regression on its two (or one) real parts;
            spread: over folds of images; chance: permuted images.
        agreement: |cosine| of the pictures from two halves of the images; chance: permuted images.
        plane: float64 [m], share of the picture's energy at the pair's own frequency; 1 in data where objects are
            equally likely everywhere; NaN where the maps have frequencies that the images lack.
    """

    pairs: KeptPairs
    pictures: Tensor
    share: tuple[Number, ...]
    agreement: tuple[Number, ...]
    plane: Tensor

    def phases(self, count: int = 4) -> Tensor:
        """Returns the pictures at ``count`` equally spaced angles phi from 0 on, float64 [m, count, c, h, w].

        They are the shifts of one pattern where the data prefer no position. A pair with real latents has two phases.
        """
        angles = 2 * pi * torch.arange(count, dtype=torch.float64) / count
        turns = torch.polar(torch.ones_like(angles), angles)
        return (self.pictures[:, None] * turns[:, None, None, None]).real


def forward_patterns(latents: Latents, images: Tensor, index: Tensor | None = None) -> ForwardPatterns:
    """Returns what in the images goes with each pair: cov(image, conj c) / var c, at one standard deviation of c.

    The forward pattern of Haufe et al. 2014 (eq. 6) of a latent that a network reads out, not the filter that reads
    it: what c suppresses as a distraction shows in filters but not here. For a complex latent without a preferred phase
    it is the pattern of its two real parts, real and imaginary.

    Images are taken as they lie. A shift by s turns c by exp(-2 pi i w.s); where all shifts are equally likely, the
    covariance of c with every other frequency cancels, and the picture is the wave w in some colour. ``plane`` says how
    far that is so; the rest is where things lie in these images. (Shifting each image so that c has one phase
    would keep the multiples of w as well, but leaves shifts along the wave's crests open, and blurs what is centred.)

    Args:
        latents: of the n images.
        images: [n, c, h, w], in the units in which pictures are wanted.
        index: int64 [n], the images' identities, which halves, folds and permutations are drawn from; None: 0, 1, ...

    Raises:
        ConvscopeError: with no pairs, or fewer than 4 images.
        ValueError: when there are not as many images as latents.
    """
    n, m = len(images), len(latents.pairs)
    if len(latents.values) != n:
        raise ValueError(f"{len(latents.values)} latents for {n} images: hand in the images that the latents are of")
    if not m:
        raise ConvscopeError("there are no pairs to picture: the layer keeps none")
    if n < 4:
        raise ConvscopeError(f"{n} images are too few for what goes with a pair: give at least 4")
    index = torch.arange(n) if index is None else index
    c = latents.deviations
    spread = latents.variance.sqrt()
    cross, gram = _products(c, images)
    pictures = latents.pairs.multiplicity[:, None] * cross / (n * spread[:, None])
    parts = torch.stack([c.real, c.imag], -1)  # [n, m, 2]
    share = _share(parts, gram)
    fold = fold_hash(index) % FOLDS
    used = [k for k in fold.unique().tolist() if int((fold != k).sum()) > 2]
    without = [_share(parts[fold != k], gram[fold != k][:, fold != k]) for k in used]
    sizes = [float((fold == k).sum()) for k in used]
    half = mix(_SEED, index).argsort(stable=True).argsort() < n // 2
    agreement = _agreement(c, gram, half)
    orders = torch.stack([mix(_SEED, draw + 1, index).argsort(stable=True) for draw in range(_DRAWS)])
    chance = [
        _ends(torch.cat([_share(_drawn(parts, some), gram) for some in orders.split(max(_TOGETHER // m, 1))]), m),
        _ends(torch.cat([_agreement(_drawn(c, some), gram, half) for some in orders.split(max(_TOGETHER // m, 1))]), m),
    ]
    shares = tuple(
        Number(
            float(share[j]), jackknife(float(share[j]), [float(s[j]) for s in without], sizes), chance[0][j],
            "pattern share", CHANCE,
        )
        for j in range(m)
    )  # fmt: skip
    agreements = tuple(Number(float(agreement[j]), None, chance[1][j], "pattern agreement", CHANCE) for j in range(m))
    pictures = pictures.unflatten(1, images.shape[1:])
    return ForwardPatterns(latents.pairs, pictures, shares, agreements, _plane(pictures, latents.pairs))


def _products(c: Tensor, images: Tensor) -> tuple[Tensor, Tensor]:
    """Returns sum_n conj(c) image, complex128 [m, d], and the products of centred images, float64 [n, n]."""
    flat = images.flatten(1)
    n = len(flat)
    cross = []
    gram = torch.zeros(n, n, dtype=torch.float64)
    for columns in flat.split(max(_PIXELS // n, 1), 1):
        x = columns.to("cpu", torch.float64)
        x = x - x.mean(0)
        gram.addmm_(x, x.T)
        cross.append(torch.complex(c.real.T @ x, -c.imag.T @ x))
    return torch.cat(cross, 1), gram


def _share(parts: Tensor, gram: Tensor) -> Tensor:
    """Returns which share of the images' variance each latent explains, float64 [m].

    With S the real parts of a latent, centred, and X X^T the products of images, the fit of X by S holds
    tr((S^T S)^-1 S^T X X^T S) of the sum of squares tr(X X^T).

    Args:
        parts: float64 [n, m, 2].
        gram: float64 [n, n], products of the images, whatever their origin.
    """
    n, m, two = parts.shape
    parts = parts - parts.mean(0)
    total = gram.diagonal().sum() - gram.sum() / n
    products = (gram @ parts.flatten(1)).view(n, m, two)
    inverse = torch.linalg.pinv(torch.einsum("nma,nmb->mab", parts, parts), rtol=1e-9, hermitian=True)
    return torch.einsum("mab,nma,nmb->m", inverse, parts, products) / total


def _agreement(c: Tensor, gram: Tensor, half: Tensor) -> Tensor:
    """Returns the |cosine| of the pictures from either half of the images, float64 [m]."""

    def product(a: Tensor, b: Tensor) -> Tensor:
        between = gram[a][:, b]
        between = between - between.mean(0) - between.mean(1, keepdim=True) + between.mean()
        return (c[a] * (between.to(c.dtype) @ c[b].conj())).sum(0)

    return product(half, ~half).abs() / (product(half, half).real * product(~half, ~half).real).sqrt()


def _drawn(x: Tensor, orders: Tensor) -> Tensor:
    """Returns x [n, m, ...] in other orders of the images, side by side: [n, draws * m, ...]."""
    return x[orders].transpose(0, 1).flatten(1, 2)


def _ends(draws: Tensor, m: int) -> list[tuple[float, float]]:
    """Returns the central 95 % of draws [draws * m] for each of m pairs."""
    ends = draws.view(-1, m).quantile(torch.tensor([0.025, 0.975], dtype=torch.float64), 0)
    return [(float(low), float(high)) for low, high in ends.T]


def _plane(pictures: Tensor, pairs: KeptPairs) -> Tensor:
    h, w = pictures.shape[-2:]
    ky, kx = pairs.frequencies.unbind(1)
    energy = unitary(pictures).abs().square().sum(1)  # [m, h, w]
    row = torch.arange(len(pairs))
    # Where a frequency is its own conjugate in the images, it counts once.
    own = energy[row, ky % h, kx % w]
    other = energy[row, -ky % h, -kx % w]
    alone = ((2 * ky) % h == 0) & ((2 * kx) % w == 0)
    found = torch.where(alone, own, own + other) / energy.sum((1, 2))
    return torch.where((2 * ky.abs() <= h) & (2 * kx.abs() <= w), found, torch.nan)


@dataclass(frozen=True, eq=False)
class DecoderPictures:
    """What changes in the network's output when one latent is scaled.

    Attributes:
        scales: what the latent's deviation from its mean is multiplied by.
        change: [s, n, ...], h(z with the latent scaled) - h(z) for each scale and image: pictures, or class scores.
    """

    scales: tuple[float, ...]
    change: Tensor

    @property
    def mean(self) -> Tensor:
        """Mean over images, float64 [s, ...]."""
        return self.change.double().mean(1)

    @property
    def size(self) -> Tensor:
        """Root mean square over images, float64 [s, ...]: what turns with the latent's phase cancels in the mean."""
        return self.change.double().square().mean(1).sqrt()


def decoder_pictures(
    network: Network,
    layer: str,
    images: Tensor,
    latents: Latents,
    pair: int,
    scales: Sequence[float] = SCALES,
    base: Tensor | None = None,
) -> DecoderPictures:
    """Returns what changes in the network's output when a pair's latent is scaled, for each image.

    What is scaled is the latent's deviation from its mean over images: 0 is what ablation does, 1 changes nothing.

    Args:
        network: left as it was found.
        layer: name of the ``nn.Conv2d`` whose latents they are.
        images: [n, c, h, w], those of the latents or the first of them.
        latents: of these images.
        pair: which of the pairs.
        scales: of the deviation.
        base: what the network puts out for the images, where it is known.

    Raises:
        ConvscopeError: when the network has no such convolution, or no output that is a tensor.
    """
    convolution_of(network, layer)
    base = changed_outputs(network, layer, images, None) if base is None else base
    one = latents.pairs[pair : pair + 1]
    deviation = latents.deviations[:, pair : pair + 1]

    def scaled(scale: float) -> Tensor:
        def change(maps: Tensor, rows: slice) -> Tensor:
            return maps + one.maps_like(maps, (scale - 1) * deviation[rows])

        return changed_outputs(network, layer, images, change) - base

    return DecoderPictures(tuple(scales), torch.stack([scaled(s) for s in scales]))
