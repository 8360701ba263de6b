"""What is told of one convolution: numbers and maps over frequencies, of its weights and of its activations."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from convscope.bottleneck.downsample import advised_grid
from convscope.bottleneck.layers import Layer
from convscope.bottleneck.null import NullAlign, gaussian_null
from convscope.bottleneck.rank import CbnRank, cbn_rank
from convscope.bottleneck.shown import LIMITED, LayerMaps
from convscope.bottleneck.singular import FrequencySingularValues, singular_values
from convscope.bottleneck.spectrum import ActivationSpectrum
from convscope.core.accumulate import jackknife
from convscope.core.results import Number
from convscope.core.slots import Slot

SHARE = 0.99  # of the variance that counted directions and frequencies hold
MOST_CELLS = 32  # of a map over frequencies, each way; finer ones are averaged
DECIMALS = 3  # of its entries
LEAST = 1e-6  # of an even share, below which a map shows no difference
LARGEST_GAP = 1e6  # beyond it, what is dropped is zero up to rounding
KERNELS = "random kernels"

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Weights:
    """What is known of a convolution's weights.

    Attributes:
        layer: the convolution.
        values: its singular values.
        cbn: how many of them are kept.
    """

    layer: Layer
    values: FrequencySingularValues
    cbn: CbnRank

    @classmethod
    def of(cls, layer: Layer) -> Weights:
        """Returns what is known of a convolution's weights."""
        values = singular_values(layer.operator)
        null = gaussian_null(layer.operator)
        return cls(layer, values, cbn_rank(values.values, values.multiplicity, values.shape, null))

    def numbers(self) -> dict[str, Number]:
        """Returns its numbers by definition key; a convolution without weights has only those that are defined."""
        cbn, values = self.cbn, self.values
        found = {"cbn_rank": Number(cbn.rank, definition="cbn_rank")}
        if not cbn.rank:
            return found | {"norm": Number(0.0, definition="norm"), "norm_bound": Number(0.0, definition="norm_bound")}
        null = cbn.null
        align = _band(null, "align"), KERNELS if null else ""
        share = _band(null, "share"), KERNELS if null else ""
        found["cbn_share"] = Number(cbn.share, None, share[0], "cbn_share", share[1])
        found["align"] = Number(cbn.align, None, align[0], "align", align[1])
        plain = {
            "gap": min(cbn.gap, LARGEST_GAP),  # NaN where nothing is dropped
            "level": cbn.level,
            "energy_rank": float(cbn.energy_rank),
            "norm": values.norm,
            "norm_bound": values.norm_bound,
            "stable_rank": values.stable_rank,
            "leak": values.leak,
        }
        return found | {key: Number(value, definition=key) for key, value in plain.items() if not math.isnan(value)}

    def notes(self) -> tuple[str, ...]:
        """Returns what a reader of these numbers should know."""
        found = list(self.values.notes)
        if self.cbn.rank and not self.cbn.well_defined:
            found.append("kept directions: not well defined, other cuts give less than half or more than twice as many")
        return tuple(found)


def _band(null: NullAlign | None, key: str) -> tuple[float, float] | None:
    """Returns the mean of a null's number ± 2 standard deviations, in [0, 1]."""
    if null is None:
        return None
    mean, sd = getattr(null, key), getattr(null, f"{key}_sd")
    sd = 0.0 if math.isnan(sd) else sd
    return max(mean - 2 * sd, 0.0), min(mean + 2 * sd, 1.0)


OF_SPECTRUM: dict[str, Callable[[ActivationSpectrum], float]] = {
    "rank": lambda spectrum: spectrum.rank(SHARE),
    "frequencies": lambda spectrum: spectrum.frequency_count(SHARE) / len(spectrum.multiplicity),
    "participation": lambda spectrum: spectrum.participation,
    "dc": lambda spectrum: spectrum.dc_share,
    "radius": lambda spectrum: spectrum.mean_radius,
    "grid": lambda spectrum: max(advised_grid(spectrum.variance, spectrum.frequencies, spectrum.size, SHARE)),
}


@dataclass(frozen=True, eq=False)
class Activations:
    """What is known of a convolution's activations.

    Attributes:
        spectrum: from all images, a batch norm that follows folded in; covariances are left out.
        values: the numbers of ``OF_SPECTRUM`` from all images.
        without: the same without each fold in turn; empty without folds.
        sizes: number of images of each fold.
        untrained: the same spectrum without training; None where there is none.
        chance: the numbers without training; empty where there are none.
        chance_name: what chance is, in words.
        notes: what a reader of these numbers should know.
    """

    spectrum: ActivationSpectrum
    values: Mapping[str, float]
    without: Sequence[Mapping[str, float]]
    sizes: Sequence[float]
    untrained: ActivationSpectrum | None
    chance: Mapping[str, float]
    chance_name: str
    notes: tuple[str, ...]

    @classmethod
    def of(
        cls,
        slot: Slot[ActivationSpectrum],
        factor: Tensor | None = None,
        untrained: ActivationSpectrum | None = None,
        chance_name: str = "",
    ) -> Activations:
        """Returns what is known of a convolution's activations.

        Args:
            slot: what the pass collected of them.
            factor: [k], of a batch norm that follows.
            untrained: the same without training, its own batch norm folded in; or None.
            chance_name: what that is, in words.

        Raises:
            ConvscopeError: when they could not be collected.
        """

        def folded(spectrum: ActivationSpectrum) -> ActivationSpectrum:
            return spectrum if factor is None else spectrum.scaled(factor)

        whole = folded(slot.value())
        if untrained is not None and not float(untrained.variance.sum()) > 0:
            untrained = None  # a network that lets nothing through before training is no measure
        others = [(float(n), _values(folded(spectrum))) for n, spectrum in slot.leave_one_out()]
        return cls(
            _light(whole),
            _values(whole),
            [values for _, values in others],
            [n for n, _ in others],
            None if untrained is None else _light(untrained),
            {} if untrained is None else _values(untrained),
            chance_name,
            _notes(whole),
        )

    @property
    def varies(self) -> bool:
        """Whether anything differs between images."""
        return float(self.spectrum.variance.sum()) > 0

    def estimate(self, key: str) -> Number:
        """Returns one of the numbers of ``OF_SPECTRUM``, its jackknife error, and the untrained network's."""
        others = [values[key] for values in self.without]
        spread = jackknife(self.values[key], others, list(self.sizes))
        chance = (self.chance[key],) * 2 if self.chance else None
        return Number(self.values[key], spread, chance, key, self.chance_name if chance else "")

    def numbers(self) -> dict[str, Number]:
        """Returns its numbers by definition key; none where nothing varies between images."""
        found = {key: self.estimate(key) for key in OF_SPECTRUM} if self.varies else {}
        return {key: number for key, number in found.items() if not math.isnan(number.value)}


def _values(spectrum: ActivationSpectrum) -> dict[str, float]:
    return {key: float(f(spectrum)) for key, f in OF_SPECTRUM.items()}


def _light(spectrum: ActivationSpectrum) -> ActivationSpectrum:
    return replace(spectrum, packed=None, sketch=None, half=None)


def _notes(spectrum: ActivationSpectrum) -> tuple[str, ...]:
    if not float(spectrum.variance.sum()) > 0:
        return ("nothing varies between images",)
    if math.isnan(spectrum.rank(SHARE)):
        return ("directions not counted: their sums would not fit into the memory that all sums may take",)
    found = []
    if limit := spectrum.images_limit:
        found.append(f"{LIMITED}: {limit}")
    if not spectrum.exact:
        found.append("rank from a sketch of the channels")
    return tuple(found)


def maps_of(weights: Weights | None, activations: Activations | None) -> LayerMaps:
    """Returns the maps over frequencies of one convolution.

    Args:
        weights: of the convolution, or None.
        activations: of the convolution, or None.
    """
    nothing = np.empty((0, 0))
    variance = untrained = largest = kept = nothing
    if activations is not None and activations.spectrum.variance.sum() > 0:
        variance = _variance(activations.spectrum)
        if activations.untrained is not None and activations.untrained.size == activations.spectrum.size:
            untrained = _variance(activations.untrained)
    if weights is not None and weights.cbn.rank:
        values = weights.values
        first = values.values[:, 0]
        mean = ((first.square() * values.multiplicity).sum() / values.multiplicity.sum()).sqrt()
        grid = frequency_map(first, values.frequencies, values.grid)
        largest = np.log10(np.maximum(grid / float(mean), LEAST)).round(DECIMALS)
        share = weights.cbn.profile.double() / values.values.shape[1]
        kept = frequency_map(share, values.frequencies, values.grid).round(DECIMALS)
    return LayerMaps(variance, untrained, largest, kept)


def _variance(spectrum: ActivationSpectrum) -> np.ndarray:
    h, w = spectrum.size
    even = float(spectrum.variance.sum()) / (h * w)
    density = spectrum.variance / spectrum.multiplicity
    grid = frequency_map(density, spectrum.frequencies, spectrum.size)
    return np.log10(np.maximum(grid / even, LEAST)).round(DECIMALS) if even > 0 else np.empty((0, 0))


def frequency_map(values: Tensor, frequencies: Tensor, grid: tuple[int, int]) -> np.ndarray:
    """Returns values over the whole grid of frequencies, frequency 0 in the middle, at most 32 cells each way.

    Args:
        values: [f], one for each conjugate pair of frequencies.
        frequencies: int64 [f, 2], (ky, kx) in cycles per image.
        grid: (h, w), all frequencies there are.

    Returns:
        float64 [h', w']: ky grows downwards, kx to the right; of a grid of even size, the frequency at half a cycle per
        pixel is the last.

    Example:
        >>> frequency_map(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([[0, 0], [0, 1], [0, 2]]), (1, 4)).tolist()
        [[2.0, 1.0, 2.0, 3.0]]
    """
    h, w = grid
    found = torch.full((h, w), math.nan, dtype=torch.float64)
    for sign in (-1, 1):
        ky, kx = (sign * frequencies).unbind(1)
        found[(ky + (h - 1) // 2) % h, (kx + (w - 1) // 2) % w] = values.double()
    few = (min(h, MOST_CELLS), min(w, MOST_CELLS))
    return F.adaptive_avg_pool2d(found[None], few)[0].numpy()


def spread_out(items: Sequence[T], most: int) -> list[T]:
    """Returns at most so many items, evenly spread, the first and the last among them.

    Args:
        items: in their order.
        most: at least 2.

    Example:
        >>> spread_out("abcde", 3)
        ['a', 'c', 'e']
    """
    if len(items) <= most:
        return list(items)
    return [items[round(i * (len(items) - 1) / (most - 1))] for i in range(most)]
