"""Consistency of energy profiles between networks: who learned the same first layer."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from convscope.core.errors import ConvscopeError
from convscope.core.similarity import pearson
from convscope.firstlayer.components import degenerate_groups, group_energy, kept, variances
from convscope.firstlayer.profile import EnergyProfile

#: Name of the row that shows what the images alone give.
EIGENVALUE_CURVE = "eigenvalue curve"


@dataclass(frozen=True)
class Consistency:
    """Correlations between energy profiles.

    Attributes:
        names: the profiles' names in order: the networks, then their untrained weights, then "eigenvalue curve".
        matrix: float64 [m, m], Pearson correlations; NaN in the rows of flat or zero profiles, the diagonal included.
        log_matrix: float64 [m, m], of the logarithms; NaN where a profile has a zero.
        common_basis: whether all profiles are over one set of components. If not they are compared by index.
        components: number of values compared (groups of components, without a common basis).
        chance: standard deviation of the correlation of two unrelated profiles, 1 / sqrt(components - 1).
    """

    names: tuple[str, ...]
    matrix: Tensor
    log_matrix: Tensor
    common_basis: bool
    components: int
    chance: float

    def spread(self, first: Iterable[str], second: Iterable[str] | None = None) -> tuple[float, float | None, int]:
        """Returns mean, standard deviation (None for one pair) and number of the correlations between profiles.

        Args:
            first: names.
            second: names of the other side; default: all pairs inside ``first``.

        Raises:
            ValueError: for an unknown name or when there is no pair.

        Example:
            >>> profiles = {"a": torch.tensor([1.0, 2.0, 4.0]), "b": torch.tensor([1.0, 2.0, 2.0])}
            >>> mean, deviation, pairs = consistency_matrix(profiles, torch.tensor([3.0, 2.0, 1.0])).spread(profiles)
            >>> round(mean, 3), deviation, pairs
            (0.756, None, 1)
        """
        first = list(first)
        pairs = list(itertools.combinations(first, 2) if second is None else itertools.product(first, second))
        unknown = {name for pair in pairs for name in pair} - set(self.names)
        if unknown or not pairs:
            raise ValueError(f"no pair among {self.names} with {sorted(unknown) or first}: name at least two profiles")
        where = {name: i for i, name in enumerate(self.names)}
        values = torch.stack([self.matrix[where[a], where[b]] for a, b in pairs])
        return float(values.mean()), float(values.std()) if len(pairs) > 1 else None, len(pairs)


def consistency_matrix(
    profiles: Mapping[str, EnergyProfile | Tensor],
    eigenvalues: Tensor | Mapping[str, Tensor],
    inits: Mapping[str, EnergyProfile | Tensor] | None = None,
) -> Consistency:
    """Returns the Pearson correlations between energy profiles, with rows for the eigenvalue curve and for inits.

    Chowers & Weiss (2023), Table 1 and Figure 1. A high correlation between networks counts only where the bare
    eigenvalue curve, which knows the images alone, correlates less.

    Args:
        profiles: name to energies [d] of each network.
        eigenvalues: [d], variances lam^2 of the one basis that all profiles are in; or name to [d] where each is in
            the basis of its own images. They are then compared by index, after averaging energies among neighbours
            of nearly equal variance in any of them, whose order and direction are arbitrary.
        inits: name to energies of untrained weights, in the same basis as the network of that name (or the common one).

    Returns:
        The matrix, of all networks, all inits (named "NAME (init)") and the eigenvalue curve (mean of all, without
        a common basis).

    Raises:
        ValueError: when lengths differ or eigenvalues are missing for a name.
        ConvscopeError: when a profile holds NaN.

    Example:
        >>> lam2 = torch.tensor([9.0, 4.0, 1.0])
        >>> c = consistency_matrix({"a": torch.tensor([1.0, 3.0, 2.0])}, lam2)
        >>> c.names, round(c.matrix[0, 1].item(), 3)
        (('a', 'eigenvalue curve'), -0.5)
    """
    values = {name: _values(name, p) for name, p in profiles.items()}
    values |= {f"{name} (init)": _values(name, p) for name, p in (inits or {}).items()}
    if not values:
        raise ValueError("consistency needs at least one profile, got none")
    common = isinstance(eigenvalues, Tensor)
    spectra = [eigenvalues] if isinstance(eigenvalues, Tensor) else list(eigenvalues.values())
    if not isinstance(eigenvalues, Tensor) and set(profiles) - set(eigenvalues):
        raise ValueError(f"eigenvalues are missing for {sorted(set(profiles) - set(eigenvalues))}")
    shapes = {tuple(v.shape) for v in [*values.values(), *spectra]}
    if len(shapes) > 1 or len(next(iter(shapes))) != 1:
        raise ValueError(
            f"profiles and eigenvalues must all have one shape [d], got {sorted(shapes)}: "
            "compare convolutions of the same kernel and number of channels"
        )
    keep = torch.stack([kept(s) for s in spectra]).all(0)
    # Of unit sum, so that images of another contrast weigh the same in the mean curve.
    curve = torch.stack([variances(s)[keep] / variances(s)[keep].sum() for s in spectra]).mean(0).sqrt()
    rows = torch.stack([v[keep] for v in values.values()] + [curve])
    if not common:
        rows = group_energy(rows, degenerate_groups(*[s[keep] for s in spectra]))
    d = rows.shape[1]
    return Consistency(
        names=(*values, EIGENVALUE_CURVE),
        matrix=pearson(rows[:, None], rows[None]),
        log_matrix=_log_matrix(rows),
        common_basis=common,
        components=d,
        chance=1 / math.sqrt(d - 1) if d > 1 else math.nan,
    )


def _values(name: str, profile: EnergyProfile | Tensor) -> Tensor:
    values = profile.values if isinstance(profile, EnergyProfile) else profile
    values = values.detach().to(torch.float64)
    if not bool(values.isfinite().all()):
        raise ConvscopeError(f"the energy profile of {name!r} holds NaN or infinity: check its weights")
    return values


def _log_matrix(rows: Tensor) -> Tensor:
    logs = torch.where((rows > 0).all(1, keepdim=True), rows, torch.nan).log()
    return pearson(logs[:, None], logs[None])
