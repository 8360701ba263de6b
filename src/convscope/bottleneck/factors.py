"""Which known factors of the images do kept pairs hold? Correlations of complex latents, alone and together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import pi

import torch
from torch import Tensor

from convscope.bottleneck.latents import Latents
from convscope.core.accumulate import jackknife
from convscope.core.batches import FOLDS, fold_hash, mix
from convscope.core.results import Number

_DRAWS = 200  # permutations of the images
_SEED = 11
CHANCE = "permuted images"


@dataclass(frozen=True, eq=False)
class FactorMatch:
    """How much of a factor the pairs hold.

    Attributes:
        alone: float64 [m], |correlation| of each pair's latent with the factor; NaN where one of them is constant.
        frequencies: int64 [g, 2], the frequencies that the pairs have.
        together: multiple correlation R, from 0 to 1, of the factor with all latents at each of these frequencies,
            which no mixture of the pairs changes; chance: permuted images.
    """

    alone: Tensor
    frequencies: Tensor
    together: tuple[Number, ...]


def factor_matches(
    latents: Latents, factors: Mapping[str, Tensor], index: Tensor | None = None
) -> dict[str, FactorMatch]:
    """Returns how much of each factor the pairs hold, by the factor's name.

    A latent is complex: its angle is where something is, its absolute value how much of it there is. A position p
    therefore enters as exp(-2 pi i w.p) at the frequency w, which has no jump where angles have one; the correlation is
    |E[(c - mean)* (f - mean)]| over both standard deviations.

    Args:
        latents: of n images.
        factors: by name, real or complex [n]; or a position, real [n, 2]: (y, x) as shares of the image's sides.
        index: int64 [n], the images' identities, which folds and permutations are drawn from; None: 0, 1, ...

    Raises:
        ValueError: when a factor is no such tensor, or not finite.

    Example:
        >>> from convscope.bottleneck.pairs import weight_pairs
        >>> from convscope.bottleneck.operators import ConvOperator
        >>> conv = torch.nn.Conv2d(1, 1, 1)
        >>> profile = torch.tensor([0, 1, 0, 0, 0, 0, 0, 0, 0, 0])
        >>> pairs = weight_pairs(ConvOperator.of(conv, 4), profile)  # one cycle from left to right
        >>> at = torch.arange(8) % 4
        >>> maps = torch.eye(4)[at][:, None, None].expand(8, 1, 4, 4)  # a line in column ``at``
        >>> values = pairs.latents(maps)
        >>> position = torch.stack([torch.zeros(8), at / 4], 1)
        >>> match = factor_matches(Latents(pairs, values, maps[0], 1.0), {"where": position})["where"]
        >>> round(float(match.alone[0]), 6), round(match.together[0].value, 6)
        (1.0, 1.0)
    """
    n, where = len(latents.values), latents.pairs.frequencies
    index = torch.arange(n) if index is None else index
    fold = fold_hash(index) % FOLDS
    orders = torch.stack([mix(_SEED, draw, index).argsort(stable=True) for draw in range(_DRAWS)])
    frequencies, at = torch.unique(where, dim=0, return_inverse=True)
    found = {}
    for name, factor in factors.items():
        by_frequency = _at_frequencies(name, factor, n, frequencies)
        alone = torch.stack([
            _correlation(latents.values[:, j], by_frequency[:, int(g)]) for j, g in enumerate(at.tolist())
        ])
        together = tuple(
            _together(latents.values[:, at == g], by_frequency[:, g], fold, orders) for g in range(len(frequencies))
        )
        found[name] = FactorMatch(alone, frequencies, together)
    return found


def _at_frequencies(name: str, factor: Tensor, n: int, frequencies: Tensor) -> Tensor:
    """Returns the factor as latents at these frequencies would hold it, complex128 [n, g].

    Raises:
        ValueError: when it is neither numbers nor positions of n images, or not finite.
    """
    if factor.shape not in {(n,), (n, 2)} or (factor.ndim == 2 and factor.is_complex()):
        raise ValueError(
            f"the factor {name!r} has the shape {list(factor.shape)}: expected one number, or a position (y, x), for "
            f"each of {n} images"
        )
    if not bool(torch.isfinite(torch.view_as_real(factor) if factor.is_complex() else factor).all()):
        raise ValueError(f"the factor {name!r} is not finite: leave out images without it")
    if factor.ndim == 1:
        return factor.to(torch.complex128)[:, None].expand(n, len(frequencies))
    turns = factor.double() @ frequencies.double().T
    return torch.polar(torch.ones_like(turns), -2 * pi * turns)


def _correlation(c: Tensor, f: Tensor) -> Tensor:
    c, f = _centred(c), _centred(f)
    return (c.conj() @ f).abs() / (torch.linalg.vector_norm(c) * torch.linalg.vector_norm(f))


def _centred(x: Tensor) -> Tensor:
    """Returns x less its mean; zeros where it is constant up to rounding, of which a correlation is NaN."""
    found = x - x.mean(0)
    flat = found.abs().amax(0) <= 1e-12 * x.abs().amax(0)
    return torch.where(flat, torch.zeros_like(found), found)


def _multiple(c: Tensor, f: Tensor) -> Tensor:
    """Returns R of each column of f [n, d] with the columns of c [n, r], float64 [d]."""
    basis, values, _ = torch.linalg.svd(_centred(c), full_matrices=False)
    basis = basis[:, values > 1e-10 * values.max()]
    f = _centred(f)
    return torch.linalg.vector_norm(basis.mH @ f, dim=0) / torch.linalg.vector_norm(f, dim=0)


def _together(c: Tensor, f: Tensor, fold: Tensor, orders: Tensor) -> Number:
    whole = float(_multiple(c, f[:, None])[0])
    used = [k for k in fold.unique().tolist() if int((fold != k).sum()) > 2]
    without = [float(_multiple(c[fold != k], f[fold != k][:, None])[0]) for k in used]
    ends = _multiple(c, f[orders.T]).quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    spread = jackknife(whole, without, [float((fold == k).sum()) for k in used])
    return Number(whole, spread, (ends[0], ends[1]), "factor", CHANCE)
