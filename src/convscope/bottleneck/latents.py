"""What kept pairs hold for each image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from convscope.bottleneck.interventions import convolution_of, module_outputs
from convscope.bottleneck.pairs import KeptPairs
from convscope.core.network import Network

if TYPE_CHECKING:
    import pandas as pd

CARRIER = (0.05, 1e-3)  # coefficient of variation, and share of the largest variance, of what only carries an offset


@dataclass(frozen=True, eq=False)
class Latents:
    """What the pairs hold for each of some images.

    Attributes:
        pairs: the m pairs.
        values: complex128 [n, m], c = u^H (scale z^(w)).
        mean_map: float64 [k, h, w], the layer's mean output, without the scale.
        total: the variance of the layer's scaled maps, summed over channels and positions, divided by n.
    """

    pairs: KeptPairs
    values: Tensor
    mean_map: Tensor
    total: float

    @property
    def mean(self) -> Tensor:
        """Mean over images, complex128 [m]."""
        return self.values.mean(0)

    @property
    def deviations(self) -> Tensor:
        """Values less their mean, complex128 [n, m]."""
        return self.values - self.mean

    @property
    def variance(self) -> Tensor:
        """Mean of |c - mean|^2, float64 [m], divided by n."""
        return self.deviations.abs().square().mean(0)

    @property
    def share(self) -> Tensor:
        """Share of the layer's variance that each pair holds, its conjugate included, float64 [m]."""
        return self.pairs.multiplicity * self.variance / (self.total or float("nan"))

    @property
    def variation(self) -> Tensor:
        """Standard deviation over |mean|, float64 [m]: small where a pair holds much the same for every image."""
        return self.variance.sqrt() / self.mean.abs()

    @property
    def circularity(self) -> Tensor:
        """|mean of (c - mean)^2| over the variance, float64 [m]: 0 where no phase is preferred, 1 on a line."""
        return self.deviations.square().mean(0).abs() / self.variance

    @property
    def carriers(self) -> Tensor:
        """Which pairs only carry an offset, bool [m].

        Those at frequency 0 that hardly vary: by their coefficient of variation, or beside the most varying pair.
        """
        still = (self.variation < CARRIER[0]) | (self.variance < CARRIER[1] * self.variance.max())
        return still & (self.pairs.frequencies == 0).all(1)

    def to_frame(self) -> pd.DataFrame:
        """Returns one row for each pair."""
        import pandas as pd

        ky, kx = self.pairs.frequencies.T.tolist()
        return pd.DataFrame({
            "ky": ky,
            "kx": kx,
            "number": self.pairs.number.tolist(),
            "strength": self.pairs.strength.tolist(),
            "share of variance": self.share.tolist(),
            "|mean|": self.mean.abs().tolist(),
            "variation": self.variation.tolist(),
            "circularity": self.circularity.tolist(),
            "offset carrier": self.carriers.tolist(),
        })


def latents_of(network: Network, layer: str, images: Tensor, pairs: KeptPairs) -> Latents:
    """Returns what the pairs of a convolution hold for each image.

    Args:
        network: left as it was found.
        layer: name of an ``nn.Conv2d``.
        images: [n, c, h, w], as the network's ``prepare`` takes them.
        pairs: of that convolution's output.

    Raises:
        ConvscopeError: when there is no such convolution, it runs several times, or its maps have another size.
    """
    convolution_of(network, layer)
    values, n = [], len(images)
    _, start = next(module_outputs(network, layer, images[:1]))
    centre = start[0].to("cpu", torch.float64)  # near the mean, so that a large one costs no digits
    first, second = torch.zeros_like(centre), 0.0
    for _, maps in module_outputs(network, layer, images):
        values.append(pairs.latents(maps))
        beside = maps.to("cpu", torch.float64) - centre
        first += beside.sum(0)
        second += float((beside * pairs.scale[:, None, None]).square().sum())
    offset = first / n
    total = second / n - float((offset * pairs.scale[:, None, None]).square().sum())
    return Latents(pairs, torch.cat(values), centre + offset, max(total, 0.0))
