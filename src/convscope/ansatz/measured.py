"""A value with what its error bars and its chance are made of, so that medians and differences keep both."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from convscope.core.accumulate import jackknife, jackknife_bias
from convscope.core.results import Number


@dataclass(frozen=True, eq=False)
class Measured:
    """A value of one layer or of several.

    Attributes:
        value: from all images.
        without: from all images but those of each fold; empty without folds.
        sizes: number of images of each fold.
        draws: what chance gives; empty where it was not computed.
    """

    value: float
    without: tuple[float, ...] = ()
    sizes: tuple[int, ...] = ()
    draws: tuple[float, ...] = ()

    @property
    def band(self) -> tuple[float, float] | None:
        """The central 95 % of what chance gives."""
        if not self.draws:
            return None
        draws = torch.tensor(self.draws, dtype=torch.float64)
        low, high = torch.quantile(draws, torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
        return low, high

    @property
    def standard_error(self) -> float | None:
        """The jackknife standard error over the folds of images; None without folds."""
        return jackknife(self.value, list(self.without), [float(n) for n in self.sizes])

    @property
    def bias(self) -> float | None:
        """The value less what it would be with very many images, by the jackknife; None without folds."""
        return jackknife_bias(self.value, self.without, [float(n) for n in self.sizes])

    def number(self, definition: str, chance_name: str = "", chance: tuple[float, float] | None = None) -> Number:
        """Returns the value with its error and what chance gives.

        The error is the root of the sum of squares of standard error and bias: how far the value may be from that of
        very many images. The bias is not subtracted, so that the value stays that of the matrices at hand.

        Args:
            definition: key of the number's definition.
            chance_name: what chance is here, in words.
            chance: what chance gives, where no draws say so.
        """
        error, bias = self.standard_error, self.bias
        spread = None if error is None or bias is None else math.hypot(error, bias)
        return Number(self.value, spread, self.band or chance, definition, chance_name)

    def __sub__(self, other: Measured) -> Measured:
        return combined([self, other], lambda pair: float(pair[0] - pair[1]))


def median(values: Sequence[Measured]) -> Measured:
    """Returns the median over layers; undefined values are left out.

    Args:
        values: of the layers, from the same images.
    """
    return combined(values, lambda x: float(torch.nanquantile(x, 0.5)))


def combined(values: Sequence[Measured], f: Callable[[Tensor], float]) -> Measured:
    """Returns a function of several values; it keeps folds where all have the same, and chance where all have draws.

    Args:
        values: from the same images.
        f: takes a float64 vector, one entry for each value.
    """

    def across(rows: Sequence[Sequence[float]]) -> list[float]:
        return [f(torch.tensor(row, dtype=torch.float64)) for row in zip(*rows, strict=True)]

    same = len({v.sizes for v in values}) == 1
    draws = min(len(v.draws) for v in values)
    return Measured(
        across([[v.value] for v in values])[0],
        tuple(across([v.without for v in values])) if same else (),
        values[0].sizes if same else (),
        tuple(across([v.draws[:draws] for v in values])),
    )
