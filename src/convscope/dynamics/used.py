"""Which frequencies a network uses for a mode of its data, and which the mode has."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from convscope.core.fourier import pairs, unitary
from convscope.dynamics.structure import DatasetStructure

TOP = 5  # pairs of frequencies that count as a mode's dominant ones


@dataclass(frozen=True, eq=False)
class UsedSpectra:
    """Frequencies of what a network has learned of each mode: of u^T (mean input Jacobian, less the initial one).

    All numbers of a mode are NaN where nothing was measured of it.

    Attributes:
        steps: float64 [m], steps of training after which each was measured.
        maps: float64 [m, c, h, w], u^T (J - J_0).
        spectra: float64 [m, h, w], |F map| of norm 1: root of the sum over channels of squares.
        participation_ratio: float64 [m], 1 / sum |F map|^4: over how many frequencies it spreads.
        dominant_share: float64 [m], share of its energy in the ``top`` pairs of frequencies that have most of the
            mode's.
        mode_participation_ratio: float64 [m], that of phi.
        mode_dominant_share: float64 [m], that of phi.
        top: number of pairs.
    """

    steps: Tensor
    maps: Tensor
    spectra: Tensor
    participation_ratio: Tensor
    dominant_share: Tensor
    mode_participation_ratio: Tensor
    mode_dominant_share: Tensor
    top: int


def used_spectra(structure: DatasetStructure, maps: Tensor, steps: Tensor, top: int = TOP) -> UsedSpectra:
    """Returns the frequencies in maps from images to modes, beside those of the modes themselves.

    Args:
        structure: of the data set.
        maps: [m, c, h, w], one of each mode; NaN where there is none.
        steps: [m], when each was taken.
        top: pairs of frequencies that count as dominant.

    Raises:
        ValueError: for maps of another shape than the modes, or top below 1.

    Example:
        >>> from convscope.dynamics.collect import dataset_structure
        >>> data = torch.rand(50, 1, 5, 5, generator=torch.Generator().manual_seed(0)), torch.arange(50) % 3
        >>> structure = dataset_structure([data])
        >>> used = used_spectra(structure, structure.modes, torch.zeros(2))
        >>> bool(torch.allclose(used.participation_ratio, structure.participation_ratio))
        True
    """
    if maps.shape != structure.modes.shape:
        raise ValueError(f"maps must have the modes' shape {list(structure.modes.shape)}, got {list(maps.shape)}")
    if top < 1:
        raise ValueError(f"top must be at least 1, got {top}")
    maps = maps.to(torch.float64)
    energy = unitary(maps).abs().square().sum(1)
    energy = energy / energy.sum((1, 2), keepdim=True)  # nothing learned at all: 0/0 is NaN
    places, multiplicity = pairs(*structure.image_shape[1:])
    of_mode = structure.pair_energies
    best = of_mode.topk(min(top, of_mode.shape[1])).indices
    of_map = energy.flatten(1)[:, places] * multiplicity
    return UsedSpectra(
        steps=steps.to(torch.float64),
        maps=maps,
        spectra=energy.sqrt(),
        participation_ratio=1 / energy.square().sum((1, 2)),
        dominant_share=of_map.gather(1, best).sum(1),
        mode_participation_ratio=structure.participation_ratio,
        mode_dominant_share=of_mode.gather(1, best).sum(1),
        top=top,
    )
