"""What the experiments of Wen & Jacot (2024) measure of a network: its bottleneck, and what its parameters cost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from math import inf, prod
from typing import Any

import torch
from torch import Tensor, nn

from convscope.bottleneck.collect import SpectrumSums
from convscope.bottleneck.cost import Cost, norm_cost
from convscope.bottleneck.factors import factor_matches
from convscope.bottleneck.latents import latents_of
from convscope.bottleneck.location import Location, Score, bottleneck_run, scores
from convscope.bottleneck.operators import ConvOperator
from convscope.bottleneck.pairs import weight_pairs
from convscope.bottleneck.rank import CbnRank, Count, cbn_rank
from convscope.bottleneck.singular import singular_values
from convscope.bottleneck.spaces import chain, kept_spaces, offset_carriers, outside
from convscope.bottleneck.spectrum import ActivationSpectrum
from convscope.bottleneck.stationary import ntk_by_frequency
from convscope.bottleneck.steps import Chain
from convscope.bottleneck.wiring import plain_chain
from convscope.core.batches import Batch
from convscope.core.network import Network
from convscope.core.results import finite

BOUNDED = 9 * 64  # pixels of the images at which the lower bound on the norm is computed: 9 of 8x8


@dataclass(frozen=True, eq=False)
class Measured:
    """A network's bottleneck, layer by layer, and its cost.

    Attributes:
        network: of ordinary convolutions with circular padding.
        chain: the same as a chain of steps.
        frequencies: int64 [f, 2], (ky, kx) in cycles per image, of every layer.
        ranks: of each convolution, from its weights.
        spectra: of each convolution's output.
        outside: of each convolution's output, the share of the variance outside what its weights keep.
        carriers: of each convolution, kept pairs at frequency 0 that only carry an offset.
        input_rank: directions that hold 99 % of the images' variance.
        location: of the bottleneck.
        score: its three numbers.
        cost: of the parameters.
    """

    network: nn.Sequential
    chain: Chain
    frequencies: Tensor
    ranks: tuple[CbnRank, ...]
    spectra: tuple[ActivationSpectrum, ...]
    outside: tuple[float, ...]
    carriers: tuple[int, ...]
    input_rank: float
    location: Location
    score: Score
    cost: Cost

    @property
    def depth(self) -> int:
        """L, the number of layers whose norms count: convolutions and the head."""
        return len(self.cost.layers)

    @property
    def activations(self) -> tuple[float, ...]:
        """Directions that hold 99 % of the variance of each convolution's output."""
        return tuple(spectrum.rank() for spectrum in self.spectra)

    @property
    def per_layer(self) -> float:
        """N ||theta||^2 / L: what a layer's parameters cost, in kept pairs of gain 1."""
        h, w = self.spectra[0].size
        return h * w * self.cost.actual / self.depth

    @property
    def over_bound(self) -> float:
        """||theta||^2 over the largest lower bound at the images: at least 1; infinite for a constant output."""
        return self.cost.actual / self.cost.lower_bound if self.cost.lower_bound else inf

    def kernel(self, image: Tensor) -> list[tuple[float, float]]:
        """Returns of each convolution's part of the trace of the neural tangent kernel: all, and at kept frequencies.

        Of a network without a head: the squared gradient of every output value with respect to the weights.

        Args:
            image: [c, h, w], at which.
        """
        outputs = self.chain(image.double()[None]).shape[1:]
        each = torch.eye(prod(outputs), dtype=torch.float64).view(-1, *outputs)
        found = []
        for step, rank in zip(self.chain.steps, self.ranks, strict=True):
            split = ntk_by_frequency(self.chain, step.name, image, each)
            found.append((split.total, float(split.contribution[rank.profile > 0].sum())))
        return found

    def degrees(self, layer: int, count: Count = "real") -> dict[int, int]:
        """Returns how many pairs a layer keeps at each degree |ky| + |kx|."""
        return self.ranks[layer].by_degree(self.frequencies, count)

    def matches(
        self, layer: int, factors: Mapping[str, Tensor], images: Tensor
    ) -> dict[str, dict[tuple[int, int], float]]:
        """Returns the correlation of each factor with the latents that a layer keeps at each frequency but 0.

        Args:
            layer: place of the convolution.
            factors: as ``factor_matches`` takes them.
            images: [n, c, h, w], that the factors are of.
        """
        name, conv = _convolutions(self.network)[layer]
        pairs = weight_pairs(ConvOperator.of(conv, self.spectra[layer].size), self.ranks[layer].profile)
        found = factor_matches(latents_of(Network("trained", self.network), name, images, pairs), factors)
        return {
            factor: {
                (int(ky), int(kx)): number.value
                for (ky, kx), number in zip(match.frequencies.tolist(), match.together, strict=True)
                if ky or kx
            }
            for factor, match in found.items()
        }

    def lines(self, **labels: Any) -> list[dict[str, Any]]:
        """Returns one table row for each convolution, with these labels in front."""
        return [
            {
                **labels,
                "layer": i + 1,
                "CBN rank": rank.rank,
                "of": rank.size,
                "by degree": list(_spread(self.degrees(i))),
                "level": finite(rank.level),
                "align": finite(rank.align),
                "gap": finite(rank.gap),
                "confidence": rank.confidence,
                "activations' rank": self.activations[i],
                "variance outside": finite(self.outside[i]),
                "offset carriers": self.carriers[i],
                "squared norm": self.cost.layers[i][1],
                "of its bias": self.cost.layers[i][2],
            }
            for i, rank in enumerate(self.ranks)
        ]

    def line(self, **labels: Any) -> dict[str, Any]:
        """Returns the table row of the network as a whole."""
        return {
            **labels,
            "N R / L": self.per_layer,
            "R / bound": finite(self.over_bound),
            "balance": finite(self.cost.balance),
            "rank of input": self.input_rank,
            "structure": finite(self.score.structure),
            "compression": finite(self.score.compression),
            "score": finite(self.score.score),
            "location": self.location.words,
        }


@torch.no_grad()
def measure(network: nn.Sequential, images: Tensor, bounded: int = BOUNDED) -> Measured:
    """Returns the bottleneck and the cost of a network of convolutions with circular padding.

    Args:
        network: convolutions, ReLUs, and a head or none.
        images: float32 [n, c, h, w].
        bounded: the lower bound of the norm is taken at as many first images as have so many pixels together.

    Raises:
        ValueError: for another network.
    """
    convolutions = _convolutions(network)
    size = (images.shape[2], images.shape[3])
    spectra, maps = [], images
    for module in network:
        maps = module(maps)
        if isinstance(module, nn.Conv2d):
            spectra.append(_spectrum(maps))
    operators = [ConvOperator.of(conv, size) for _, conv in convolutions]
    values = [singular_values(operator) for operator in operators]
    ranks = [
        cbn_rank(v.values, v.multiplicity, tuple(conv.weight.shape))
        for v, (_, conv) in zip(values, convolutions, strict=True)
    ]
    spaces = [kept_spaces(operator, rank) for operator, rank in zip(operators, ranks, strict=True)]
    chains = [chain(outputs, inputs) for (_, outputs), (inputs, _) in pairwise(spaces)]
    beyond, carriers = [], []
    for (_, outputs), spectrum in zip(spaces, spectra, strict=True):
        moments = spectrum.moments
        assert moments is not None
        beyond.append(outside(outputs, moments))
        carriers.append(offset_carriers(outputs, moments, spectrum.mean))
    input_rank, found = _spectrum(images).rank(), [spectrum.rank() for spectrum in spectra]
    plain = plain_chain(network, images[:2])
    if isinstance(plain, str):
        raise ValueError(f"expected a plain chain of convolutions, but {plain}")
    with torch.enable_grad():
        cost = norm_cost(plain, images[: max(bounded // prod(size), 1)])
    location = bottleneck_run(
        [str(i + 1) for i in range(len(ranks))],
        input_rank,
        activations=found,
        weights=[rank.rank for rank in ranks],
        chains=chains,
    )
    score = scores(ranks, chains, input_rank, activations=found, balance=cost.balance)
    return Measured(
        network,
        plain,
        operators[0].half_plane[0],
        tuple(ranks),
        tuple(spectra),
        tuple(beyond),
        tuple(carriers),
        input_rank,
        location,
        score,
        cost,
    )


def _spectrum(maps: Tensor) -> ActivationSpectrum:
    sums = SpectrumSums()
    sums.update(maps, Batch.of(maps, None, torch.arange(len(maps))))
    return sums.compute()


def _convolutions(network: nn.Sequential) -> list[tuple[str, nn.Conv2d]]:
    return [(name, module) for name, module in network.named_children() if isinstance(module, nn.Conv2d)]


def _spread(degrees: Mapping[int, int]) -> list[float]:
    return [float(degrees.get(d, 0)) for d in range(max(degrees, default=0) + 1)]
