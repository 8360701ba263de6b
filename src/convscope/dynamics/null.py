"""What permuted labels give: the structure of a data set whose labels carry no information, within the same pass."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Self

import torch
from torch import Tensor

from convscope.core.accumulate import Sums
from convscope.core.batches import Batch, mix
from convscope.core.errors import ConvscopeError
from convscope.dynamics.collect import labelled
from convscope.dynamics.structure import DatasetStructure, decompose

SUMS = 256  # random sums of images
CENTRAL = (0.025, 0.975)
_WORD = 32  # signs from one hash
_SEED = 7


class SignSums(Sums["SignSums"]):
    """Sums of the images, each time with a random sign for each of them, which an image's identity decides.

    They are a sketch of the images' covariance, small whatever the size of the images. Images without a label are left
    out.

    Args:
        reference: float64 [c, h, w], taken off every image, so that sums lose no digits.
        sums: number of sums.
    """

    def __init__(self, reference: Tensor, sums: int = SUMS) -> None:
        super().__init__()
        self.reference = reference
        self.rows = sums

    def update(self, x: Tensor, batch: Batch) -> None:
        """Adds the images of a batch.

        Raises:
            ConvscopeError: when images differ in size from those before.
        """
        x, _ = labelled(x, batch, self.reference)
        if not len(x):
            return
        index = batch.index if batch.labels is None else batch.index[batch.labels >= 0]
        signs = _signs(index.cpu(), self.rows)
        self.add("images", signs.T @ x.flatten(1))
        self.add("signs", signs.sum(0))
        self.add("n", torch.tensor(float(len(x)), dtype=torch.float64))

    def compute(self) -> Self:
        """Returns the sums themselves, which ``permuted`` takes."""
        return self


def permuted(structure: DatasetStructure, signs: SignSums, draws: int = 100) -> list[DatasetStructure]:
    """Returns structures as permuted labels give them.

    With labels in random order, Sigma_yx has mean 0 (centred) and covariance Sigma_y kron Sigma_xx / (n - 1), exactly;
    as a mean over many images it is close to normal. It is drawn so, with Sigma_xx from its sketch: the strongest
    directions' variances are off by about (2 / ``SUMS``)^(1/2), 9 %, of their size. Labels are permuted among single
    images, whatever groups images have.

    Args:
        structure: of the data set.
        signs: of the same images.
        draws: how many.

    Raises:
        ConvscopeError: when nothing varies.

    Example:
        >>> from convscope.core.batches import Batch
        >>> from convscope.dynamics.collect import ClassSums, structure_of
        >>> images, labels = torch.rand(200, 1, 4, 4, generator=torch.Generator().manual_seed(0)), torch.arange(200) % 2
        >>> images[labels == 1] += 1
        >>> batch, reference = Batch.of(images, labels, torch.arange(200)), images.double().mean(0)
        >>> sums, signs = ClassSums(reference), SignSums(reference)
        >>> sums.update(images, batch); signs.update(images, batch)
        >>> structure = structure_of(sums)
        >>> low, high = band(permuted(structure, signs), lambda s: s.singular_values, 1)
        >>> bool(structure.singular_values[0] > high[0])
        True
    """
    if not signs.sums:
        raise ConvscopeError("no image has a label: there is none to permute")
    n = float(signs.sums["n"])
    off = (structure.mean - signs.reference).flatten()
    root = (signs.sums["images"] - torch.outer(signs.sums["signs"], off)) / math.sqrt(n * signs.rows)
    share = structure.counts.double() / n
    values, vectors = torch.linalg.eigh(torch.diag(share) - torch.outer(share, share))
    mixed = vectors * (values.clamp(min=0) / max(n - 1, 1)).sqrt()
    fixed = 0 if structure.centred else torch.outer(share, structure.mean.flatten())
    generator = torch.Generator().manual_seed(_SEED)
    found = []
    for _ in range(draws):
        noise = torch.randn(len(share), len(root), generator=generator, dtype=torch.float64)
        cross = (mixed @ noise @ root + fixed).unflatten(1, structure.mean.shape)
        found.append(decompose(cross, structure.power, None, structure.mean, structure.counts, structure.centred))
    return found


def band(
    draws: Sequence[DatasetStructure], f: Callable[[DatasetStructure], Tensor], modes: int
) -> tuple[Tensor, Tensor]:
    """Returns the central 95 % of a number of each mode, mode by mode in their order, float64 [modes] each.

    Args:
        draws: structures that chance gives.
        f: the number, float64 [m], of the modes of a structure.
        modes: how many; NaN for those that a structure does not have.
    """
    rows = torch.full((len(draws), modes), torch.nan, dtype=torch.float64)
    for row, structure in zip(rows, draws, strict=True):
        values = f(structure)[:modes]
        row[: len(values)] = values
    low, high = torch.quantile(rows, torch.tensor(CENTRAL, dtype=torch.float64), dim=0)
    return low, high


def _signs(index: Tensor, sums: int) -> Tensor:
    """Returns -1 or 1 for each image and sum, float64 [n, sums]."""
    words = mix(_SEED, torch.arange(-(-sums // _WORD)), index[:, None])
    bits = (words[..., None] >> torch.arange(_WORD)) & 1
    return bits.flatten(1)[:, :sums].double() * 2 - 1
