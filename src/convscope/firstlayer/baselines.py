"""Trivial curves and chance: what a correlation with an energy profile has to beat before it means anything."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from convscope.core.similarity import pearson, standardised
from convscope.firstlayer.components import kept, variances


@dataclass(frozen=True)
class Bump:
    """A Gaussian bump in the component's index.

    Attributes:
        centre: index (from 0) of its top.
        width: its standard deviation, in components.
    """

    centre: float
    width: float

    def log_values(self, index: Tensor) -> Tensor:
        """Returns the logarithm of the bump at these indices (its values underflow far from the centre)."""
        return -((index.to(torch.float64) - self.centre) ** 2) / (2 * self.width**2)


@dataclass(frozen=True)
class Null:
    """What chance gives for the correlation of a fitted curve.

    Attributes:
        mean: mean over draws.
        low: 2.5 % quantile.
        high: 97.5 % quantile.
        largest: maximum over draws.
    """

    mean: float
    low: float
    high: float
    largest: float

    @classmethod
    def of(cls, draws: Tensor) -> Null:
        """Returns the summary of correlations [n]; all NaN when one is."""
        low, high = torch.quantile(draws, torch.tensor([0.025, 0.975], dtype=draws.dtype)).tolist()
        return cls(float(draws.mean()), low, high, float(draws.max()))


def fit_bump(profile: Tensor, index: Tensor | None = None) -> Bump:
    """Returns the Gaussian bump in index that correlates best with a profile.

    Args:
        profile: [n], energies.
        index: [n], index of each component; default 0 to n - 1.

    Returns:
        The bump, its centre inside the indices' range and its width between half a component and four ranges.

    Example:
        >>> i = torch.arange(27.0)
        >>> bump = fit_bump(torch.exp(-((i - 8) ** 2) / (2 * 3.0**2)))
        >>> round(bump.centre, 2), round(bump.width, 2)
        (8.0, 3.0)
    """
    where = torch.arange(len(profile)) if index is None else index
    where = where.to(torch.float64)
    first, last = float(where.min()), float(where.max())
    span = max(last - first, 1.0)
    centres = torch.linspace(first, last, 81, dtype=torch.float64)
    logs = torch.linspace(np.log(0.5), np.log(4 * span), 41, dtype=torch.float64)
    best = (first, float(logs[0]))
    for _ in range(5):
        c, s = (x.flatten() for x in torch.meshgrid(centres, logs, indexing="ij"))
        curves = torch.exp(-((where - c[:, None]) ** 2) / (2 * (2 * s[:, None]).exp()))
        score = pearson(curves, profile).nan_to_num(nan=-2.0)
        top = int(score.argmax())
        best = float(c[top]), float(s[top])
        step_c, step_s = centres[1] - centres[0], logs[1] - logs[0]
        centres = (best[0] + torch.linspace(-1, 1, 17, dtype=torch.float64) * step_c).clamp(first, last)
        logs = best[1] + torch.linspace(-1, 1, 17, dtype=torch.float64) * step_s
    return Bump(best[0], float(np.exp(best[1])))


def baseline_curves(profile: Tensor, eigenvalues: Tensor, index: Tensor | None = None) -> dict[str, Tensor]:
    """Returns the trivial curves for a profile, by name, as logarithms.

    Args:
        profile: [n], energies that the bump is fitted to.
        eigenvalues: [n], variances lam^2, positive, by descending size.
        index: [n], index of each component; default 0 to n - 1.

    Returns:
        Name to float64 [n], the logarithm of the curve: "eigenvalue curve" lam, "inverse eigenvalue curve" 1 / lam,
        "linear ramp" falling to the last component, "index bump" the best Gaussian bump in index, "flat".

    Example:
        >>> sorted(baseline_curves(torch.rand(4), torch.tensor([4.0, 3.0, 2.0, 1.0])))
        ['eigenvalue curve', 'flat', 'index bump', 'inverse eigenvalue curve', 'linear ramp']
    """
    lam2 = variances(eigenvalues)
    where = torch.arange(len(lam2), dtype=torch.float64) if index is None else index.to(torch.float64)
    return {
        "eigenvalue curve": lam2.log() / 2,
        "inverse eigenvalue curve": -lam2.log() / 2,
        "linear ramp": (where.max() + 1 - where).log(),
        "index bump": fit_bump(profile, where).log_values(where),
        "flat": torch.zeros_like(lam2),
    }


def baseline_scores(profile: Tensor, eigenvalues: Tensor) -> dict[str, tuple[float, float]]:
    """Returns what trivial curves score against a profile: name to (correlation, correlation of logarithms).

    Args:
        profile: [d], or [g, d] with groups.
        eigenvalues: same shape, variances lam^2 by descending size; components without variance are left out.

    Returns:
        The names of ``baseline_curves``. NaN for "flat", and for all where the profile is flat.

    Example:
        >>> lam2 = torch.tensor([9.0, 4.0, 2.0, 1.0])
        >>> r, log_r = baseline_scores(lam2.sqrt(), lam2)["eigenvalue curve"]
        >>> round(r, 6), round(log_r, 6)
        (1.0, 1.0)
    """
    keep = kept(eigenvalues)
    index = torch.arange(eigenvalues.shape[-1], dtype=torch.float64).expand(eigenvalues.shape)[keep]
    values, lam2 = profile.to(torch.float64)[keep], variances(eigenvalues)[keep]
    return {name: score(values, log_curve) for name, log_curve in baseline_curves(values, lam2, index).items()}


def score(profile: Tensor, log_curve: Tensor) -> tuple[float, float]:
    """Returns the correlation of a profile [n] with a curve given by its logarithm, and that of their logarithms.

    Components of zero energy have no logarithm and are left out of the second; NaN with fewer than three left.
    """
    positive = (profile > 0) & log_curve.isfinite()
    logs = pearson(profile[positive].log(), log_curve[positive]) if int(positive.sum()) > 2 else torch.tensor(torch.nan)
    return float(pearson(profile, log_curve.exp())), float(logs)


def random_profiles(filters: int, components: int, draws: int = 300, seed: int = 0) -> Tensor:
    """Returns the energy profiles of random Gaussian filter banks.

    In any orthonormal basis the coefficients of Gaussian filters are independent, so each squared energy is a
    chi-squared variable with k degrees of freedom over k.

    Args:
        filters: k, number of filters of a bank.
        components: d.
        draws: number of banks.
        seed: of the random numbers.

    Returns:
        float64 [draws, d], for weights of unit variance.

    Example:
        >>> random_profiles(64, 27, draws=5).shape
        torch.Size([5, 27])
    """
    squares = np.random.default_rng(seed).chisquare(filters, (draws, components)) / filters
    return torch.from_numpy(np.sqrt(squares))


def permuted_profiles(profile: Tensor, draws: int = 300, seed: int = 0) -> Tensor:
    """Returns random permutations of a profile's components, float64 [draws, n].

    Example:
        >>> permuted_profiles(torch.tensor([1.0, 2.0]), draws=3).sum(1)
        tensor([3., 3., 3.], dtype=torch.float64)
    """
    rng = np.random.default_rng(seed)
    copies = np.tile(profile.to(torch.float64).numpy(), (draws, 1))
    return torch.from_numpy(rng.permuted(copies, axis=1))


def fitted_null(profiles: Tensor, curves: Tensor) -> Null:
    """Returns what chance gives a fit: each chance profile [n, d] takes its best correlation with any curve [t, d]."""
    x, y = standardised(profiles), standardised(curves)
    y = y[~y.isnan().any(1)]
    # With one component nothing has a correlation.
    return Null.of((x @ y.T).amax(1) if len(y) else torch.full_like(x[:, 0], torch.nan))
