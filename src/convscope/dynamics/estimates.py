"""Numbers of a data set's modes with their errors over folds of images, and what permuted labels give."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from convscope.core.accumulate import jackknife
from convscope.core.results import Number
from convscope.dynamics.folds import Fold, spreads
from convscope.dynamics.null import SignSums, band
from convscope.dynamics.setting import Prediction, Setting, quick_half_times
from convscope.dynamics.structure import DatasetStructure

MOST = 64  # modes that are told of
PERMUTED = "permuted labels"

Of = Callable[[DatasetStructure], Tensor]


@dataclass(frozen=True, eq=False)
class Seen:
    """What a pass saw of a data set.

    Attributes:
        structure: of all labelled images.
        folds: without each fold of images in turn.
        signs: for permuted labels.
        classes: names, as far as they are known.
        facts: of the images, for the result.
    """

    structure: DatasetStructure
    folds: tuple[Fold, ...]
    signs: SignSums
    classes: tuple[str, ...]
    facts: Mapping[str, str | bool | float]


@dataclass(frozen=True, eq=False)
class Known:
    """A structure, what is needed for error bars and for chance, and what is predicted.

    Attributes:
        structure: its first modes.
        folds: their likes, for error bars; empty where there are none.
        draws: what permuted labels give.
        setting: the network and its training.
        prediction: of its learning.
    """

    structure: DatasetStructure
    folds: tuple[Fold, ...]
    draws: tuple[DatasetStructure, ...]
    setting: Setting
    prediction: Prediction
    _half_times: dict[int, Tensor] = field(default_factory=dict, init=False)

    def quick(self, structure: DatasetStructure) -> Tensor:
        """Returns the half-times of modes in closed form, float64 [m], for one of the structures here."""
        if id(structure) not in self._half_times:
            self._half_times[id(structure)] = quick_half_times(structure, self.setting)
        return self._half_times[id(structure)]

    def numbers(self, f: Of, definition: str, draws: int | None = None) -> list[Number]:
        """Returns a number of each mode, with its error and what permuted labels give for a mode of its rank.

        Args:
            f: the number, float64 [m], of the modes of a structure.
            definition: its key.
            draws: how many to use for chance; None: all.
        """
        values = f(self.structure)
        errors = spreads(self.structure, self.folds, f)
        low, high = band(self.draws[:draws], f, len(values))
        return [
            Number(value, error, chance, definition, PERMUTED)
            for value, error, chance in zip(
                values.tolist(), errors, zip(low.tolist(), high.tolist(), strict=True), strict=True
            )
        ]

    def number(self, f: Callable[[DatasetStructure], float], definition: str, draws: int | None = None) -> Number:
        """Returns one number of all modes, likewise."""
        whole = f(self.structure)
        error = jackknife(whole, [f(part) for _, part in self.folds], [float(n) for n, _ in self.folds])
        low, high = band(self.draws[:draws], lambda s: torch.tensor([f(s)], dtype=torch.float64), 1)
        return Number(whole, error, (float(low), float(high)), definition, PERMUTED)


def first_modes(structure: DatasetStructure, most: int = MOST) -> DatasetStructure:
    """Returns a structure with its first modes alone."""
    return replace(
        structure,
        singular_values=structure.singular_values[:most],
        modes=structure.modes[:most],
        class_vectors=structure.class_vectors[:most],
    )
