"""CBN rank of a layer: how many (frequency, channel) pairs a convolution keeps, by a fit that needs no threshold."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from convscope.bottleneck.fit import two_level
from convscope.bottleneck.null import LARGE, SMALLEST_SHARE, NullAlign, marchenko_pastur

Confidence = Literal["high", "medium", "no plateau", "collapsed"]
Count = Literal["real", "unordered"]

SHARES_OF_LEVEL = (0.25, 0.5, 0.75)
ENERGY = 0.99
ZERO = 1e-6  # of the value before; smaller ones are zero up to the rounding of single-precision weights


@dataclass(frozen=True, eq=False)
class CbnRank:
    """How many singular values of a convolution stand on one level above the rest, and how clearly.

    Ranks count real dimensions: a pair of conjugate frequencies counts twice, a frequency that is its own conjugate
    once, so that they sum to (number of positions) x (number of channels) for an operator of full rank.

    Attributes:
        rank: k, number of singular values on the upper level, with multiplicity; 0 for a zero operator.
        level: their mean; NaN for a zero operator.
        align: squared cosine between the operator and the nearest multiple of a partial isometry, in (0, 1]; NaN for
            a zero operator.
        gap: smallest kept over largest dropped value; infinite where that is below 1e-6 of the former; NaN where
            nothing is dropped or nothing kept.
        profile: int64 [f], k_w, how many channels are kept at each frequency: those above half the level. With
            multiplicity they sum to the rank.
        multiplicity: int64 [f], real dimensions that each frequency stands for.
        confidence: "high" or "medium" for a plateau that Gaussian kernels do not have, "no plateau", or "collapsed".
        size: D, number of singular values with multiplicity.
        counts: for shares of the level, how many values lie above.
        energy_rank: how many of the largest values hold 99 % of the squares.
        null: what Gaussian kernels of the same shape give; None where the shape alone does not tell.
    """

    rank: int
    level: float
    align: float
    gap: float
    profile: Tensor
    multiplicity: Tensor
    confidence: Confidence
    size: int
    counts: dict[float, int]
    energy_rank: int
    null: NullAlign | None

    @property
    def share(self) -> float:
        """Rank / D."""
        return self.rank / self.size

    @property
    def well_defined(self) -> bool:
        """Whether rank, counts and energy rank lie within a factor of two; False for a zero operator."""
        found = (self.rank, self.energy_rank, *self.counts.values())
        return min(found) > 0 and max(found) <= 2 * min(found)

    @property
    def z(self) -> float:
        """Standard deviations by which the alignment exceeds that of Gaussian kernels; NaN without a null."""
        return math.nan if self.null is None else _z(self.align, self.null.align, self.null.align_sd)

    @property
    def z_share(self) -> float:
        """The same of the share; NaN where all Gaussian kernels keep everything."""
        return math.nan if self.null is None else _z(self.share, self.null.share, self.null.share_sd)

    def by_degree(self, frequencies: Tensor, count: Count = "real") -> dict[int, int]:
        """Returns how many pairs are kept at each degree |ky| + |kx|, degrees without any left out.

        Args:
            frequencies: int64 [f, 2], signed (ky, kx) in cycles per image, in the profile's order.
            count: "real" counts a conjugate pair twice, "unordered" once.

        Raises:
            ValueError: for frequencies of another number, or another count.
        """
        if count not in get_args(Count):
            raise ValueError(f"count must be one of {', '.join(get_args(Count))}, got {count!r}")
        if frequencies.shape != (len(self.profile), 2):
            raise ValueError(
                f"expected frequencies of shape [{len(self.profile)}, 2], got {list(frequencies.shape)}: hand in those "
                "of the singular values"
            )
        kept = self.profile * self.multiplicity if count == "real" else self.profile
        degrees = frequencies.abs().sum(1)
        found = {int(d): int(kept[degrees == d].sum()) for d in degrees.unique()}
        return {d: n for d, n in found.items() if n}


def cbn_rank(values: Tensor, multiplicity: Tensor, shape: Sequence[int], null: NullAlign | None = None) -> CbnRank:
    """Returns how many singular values of a convolution stand on one level above the rest.

    The rank is that of the nearest multiple of a partial isometry: k maximises (s_1 + ... + s_k)^2 / k. A network of
    minimal norm has such layers inside its bottleneck (Wen & Jacot 2024, arXiv:2402.08010, whose rank counts kept
    frequencies and channels); the fit is ours. It knows no scale, so that batch norms and gains do not matter.

    Args:
        values: [f, m], singular values of the blocks at f frequencies, not negative, in any order.
        multiplicity: int [f], how many frequencies of the whole grid each stands for: 2 for a conjugate pair, else 1.
        shape: (k, c / groups, q, r) of the weight, for the null.
        null: what Gaussian kernels give (see ``gaussian_null``). None: stride 1 is assumed, and the law of many
            channels taken where there is one group with at least 16 channels on both sides; else there is none, and
            the share is compared with the smallest that Gaussian kernels have, 0.63.

    Raises:
        ValueError: when shapes do not fit, or values are negative, NaN or infinite.

    Example:
        >>> values = torch.tensor([[2.0, 1.9], [2.1, 0.01], [0.02, 0.0], [0.01, 0.0]])
        >>> found = cbn_rank(values, torch.tensor([1, 2, 2, 2]), (2, 2, 1, 7))
        >>> found.rank, found.profile.tolist(), found.confidence
        (4, [2, 1, 0, 0], 'high')
    """
    s, counts = _checked(values, multiplicity, shape)
    null = null or _null_of(shape, s.shape[1])
    each = counts[:, None].expand_as(s)
    size = int(each.sum())
    fit = two_level(s.flatten(), each.flatten())
    above = {share: int(each[s > share * fit.level].sum()) if fit.rank else 0 for share in SHARES_OF_LEVEL}
    kept = s > fit.level / 2  # all False where the level is NaN
    return CbnRank(
        rank=fit.rank,
        level=fit.level,
        align=fit.align,
        gap=(gap := _gap(s, kept)),
        profile=kept.sum(1),
        multiplicity=counts,
        confidence=_confidence(fit.rank, fit.align, gap, fit.rank / size, null),
        size=size,
        counts=above,
        energy_rank=_energy_rank(s.flatten(), each.flatten()) if fit.rank else 0,
        null=null,
    )


def _checked(values: Tensor, multiplicity: Tensor, shape: Sequence[int]) -> tuple[Tensor, Tensor]:
    if values.ndim != 2 or not values.numel() or multiplicity.shape != values.shape[:1]:
        raise ValueError(
            "expected values of shape [frequencies, singular values] and one multiplicity for each frequency, got "
            f"{list(values.shape)} and {list(multiplicity.shape)}"
        )
    if len(shape) != 4 or min(shape) < 1:
        raise ValueError(f"shape must be the weight's (k, c / groups, q, r), all at least 1, got {tuple(shape)}")
    if values.is_complex() or multiplicity.is_floating_point() or multiplicity.is_complex():
        raise ValueError(f"values must be real and multiplicities whole, got {values.dtype} and {multiplicity.dtype}")
    s, counts = values.detach().to("cpu", torch.float64), multiplicity.detach().to("cpu", torch.int64)
    if not bool(torch.isfinite(s).all()) or bool((s < 0).any()):
        raise ValueError("singular values must be finite and not negative: got NaN, infinite or negative ones")
    if bool((counts < 1).any()):
        raise ValueError("multiplicities must be at least 1: 2 for a conjugate pair of frequencies, else 1")
    return s, counts


def _null_of(shape: Sequence[int], m: int) -> NullAlign | None:
    sides = min(shape[:2]), max(shape[:2])
    if sides[0] < LARGE or m != sides[0]:
        return None
    align, share = marchenko_pastur(sides[0] / sides[1])
    return NullAlign(align, math.nan, share, math.nan)


def _gap(s: Tensor, kept: Tensor) -> float:
    if not bool(kept.any()) or bool(kept.all()):
        return math.nan
    lowest, next_one = float(s[kept].min()), float(s[~kept].max())
    return math.inf if next_one <= ZERO * lowest else lowest / next_one


def _confidence(rank: int, align: float, gap: float, share: float, null: NullAlign | None) -> Confidence:
    if not rank:
        return "collapsed"
    if share > 0.5 * (SMALLEST_SHARE if null is None else null.share) or align < 0.9:
        return "no plateau"
    return "high" if gap >= 5 and align >= 0.95 else "medium"


def _energy_rank(s: Tensor, counts: Tensor) -> int:
    s, order = s.sort(descending=True)
    number = counts[order]
    energy = (number * s.square()).cumsum(0)
    # A pair is not cut: the first entry that reaches the share counts with its multiplicity.
    return int(number.cumsum(0)[int((energy < ENERGY * energy[-1]).sum())])


def _z(value: float, mean: float, sd: float) -> float:
    return (value - mean) / sd if sd > 0 else math.nan
