"""Comparison: energy profiles of several networks, or on several sets of images, against each other."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch

from convscope.core.accumulate import jackknife
from convscope.core.errors import ConvscopeError
from convscope.core.moment_values import PatchMoments
from convscope.core.passes import Pass
from convscope.core.plain import array_of, reading
from convscope.core.results import (
    Definition,
    Finding,
    LayerRow,
    Number,
    Skip,
    finite_list,
    number_from_json,
    number_to_json,
    register,
    skips_from_json,
    skips_to_json,
)
from convscope.core.taps import ConvCall
from convscope.firstlayer.consistency import Consistency, consistency_matrix
from convscope.firstlayer.profile import energy_profile
from convscope.firstlayer.theory import feed_moments, named_conv, varied

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure


@dataclass(frozen=True, eq=False)
class Profiled:
    """One network's energy profile on one set of images.

    Attributes:
        name: how the page calls it.
        shape: (c / groups, q, r) of its filters; only equal shapes can be compared.
        energies: float64 [d].
        variances: float64 [d], eigenvalues of the patch covariance, descending.
        basis: names the set of principal components; equal bases are compared component by component.
        without: for each fold of images, its size and the energies and variances without it.
    """

    name: str
    shape: tuple[int, ...]
    energies: torch.Tensor
    variances: torch.Tensor
    basis: str
    without: tuple[tuple[int, torch.Tensor, torch.Tensor], ...] = ()


@register
@dataclass(frozen=True, eq=False)
class ComparisonResult:
    """Correlations between energy profiles (Chowers & Weiss 2023, Table 1 and Figure 1).

    Attributes:
        names: of the profiles; the last is the bare eigenvalue curve.
        matrix: float64 [m, m], Pearson correlations; NaN between filters of different shapes.
        log_matrix: the same of logarithms.
        spread: float64 [m, m], jackknife standard errors over folds of images; NaN where not computed.
        chance: half width of the central 95 % of the correlation of unrelated profiles.
        notes: what was compared with what.
        skipped: profiles that could not be had.
    """

    kind: ClassVar[str] = "comparison"
    question: ClassVar[str] = "Do these networks listen to the same directions of image space?"

    names: tuple[str, ...]
    matrix: np.ndarray
    log_matrix: np.ndarray
    spread: np.ndarray
    chance: float
    notes: tuple[str, ...]
    skipped: tuple[Skip, ...]

    def number(self, i: int, j: int) -> Number:
        """Returns the correlation of two profiles with its spread and what chance gives."""
        spread = float(self.spread[i, j])
        return Number(
            float(self.matrix[i, j]),
            None if math.isnan(spread) else spread,
            None if math.isnan(self.chance) else (-self.chance, self.chance),
            "consistency",
            "unrelated profiles",
        )

    def to_frame(self) -> pd.DataFrame:
        """Returns the matrix with its names."""
        import pandas as pd

        return pd.DataFrame(self.matrix, index=list(self.names), columns=list(self.names))

    def figures(self) -> dict[str, Figure]:
        """Returns the matrix as a chart, and that of logarithms."""
        from convscope.page.charts import matrix

        labels = list(self.names)
        drawn: dict[str, Figure] = {}
        for name, values in {"consistency": self.matrix, "consistency of logarithms": self.log_matrix}.items():
            drawn[name] = matrix(
                values,
                rows=labels,
                columns=labels,
                unit="correlation",
                limits=(-1.0, 1.0),
                diverging=True,
                caption=f"{name.capitalize()}: correlations between energy profiles. {' '.join(self.notes)}".strip(),
                alt=" ".join(f.text for f in self.findings()),
                how_to_read="Agreement between networks counts only where it exceeds their agreement with the "
                "eigenvalue curve, which knows the images alone.",
            )
        return drawn

    def findings(self) -> list[Finding]:
        """Returns the least and most alike pair, and the agreement with the eigenvalue curve."""
        m = len(self.names) - 1
        pairs = [(self.number(i, j), i, j) for i, j in itertools.combinations(range(m), 2)]
        pairs = sorted((p for p in pairs if not math.isnan(p[0].value)), key=lambda p: p[0].value)
        found = []
        if pairs:
            low, i, j = pairs[0]
            what = "The two first layers" if m == 2 else "The least alike"
            found.append(
                Finding(
                    f"{what}, {self.names[i]} and {self.names[j]}, correlate {low.value:.2f} in how strongly they "
                    "listen to each direction of image space.",
                    low,
                )
            )
            if m > 2:
                high, i, j = pairs[-1]
                found.append(
                    Finding(f"The most alike, {self.names[i]} and {self.names[j]}, correlate {high.value:.2f}.", high)
                )
        bare = [(self.number(i, m), i) for i in range(m) if not math.isnan(self.matrix[i, m])]
        if bare:
            best, i = max(bare, key=lambda b: b[0].value)
            found.append(
                Finding(
                    f"The bare eigenvalue curve, which knows the images alone, comes as close as {best.value:.2f} "
                    f"(to {self.names[i]}).",
                    best,
                )
            )
        return found

    def definitions(self) -> dict[str, Definition]:
        """Returns how the correlations are computed."""
        return {
            "consistency": Definition(
                "consistency",
                "Pearson r of two energy profiles e_i = sqrt(mean_k (w_k · u_i)²)",
                "Chowers & Weiss (ICML 2023), Definition 2.2, Table 1",
                "On one set of principal components u_i where all see the same images through filters of the same "
                "shape; else by index, after averaging neighbours of nearly equal variance.",
            )
        }

    def layers(self) -> dict[str, LayerRow]:
        """Returns a row per network: its agreement with each other one."""
        m = len(self.names) - 1
        return {
            self.names[i]: LayerRow({f"with {self.names[j]}": self.number(i, j) for j in range(m + 1) if j != i})
            for i in range(m)
            if m <= 8
        }

    def to_json(self) -> dict[str, Any]:
        """Returns plain JSON values."""
        tables = {"matrix": self.matrix, "log_matrix": self.log_matrix, "spread": self.spread}
        return {
            "kind": self.kind,
            "names": list(self.names),
            **{name: [finite_list(row) for row in table.tolist()] for name, table in tables.items()},
            "chance": number_to_json(Number(self.chance)),
            "notes": list(self.notes),
            "skipped": skips_to_json(self.skipped),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> ComparisonResult:
        """Returns the result that ``to_json`` described.

        Raises:
            ConvscopeError: when fields are missing or of the wrong kind.
        """
        with reading(cls.kind):
            names = tuple(str(name) for name in data["names"])
            tables = {key: _of_pairs(data[key], len(names)) for key in ("matrix", "log_matrix", "spread")}
            chance = number_from_json(data["chance"]).value
            skipped = skips_from_json(data["skipped"])
            return cls(names, **tables, chance=chance, notes=tuple(map(str, data["notes"])), skipped=skipped)


def _of_pairs(values: Any, n: int) -> np.ndarray:
    table = array_of(values, 2)
    if table.shape != (n, n) or n < 2:
        raise ValueError(f"a table of {n} networks has the shape {table.shape}")
    return table


class Comparison:
    """Feeds the energy profiles of all networks of a pass.

    Args:
        data: how the images are called; added to the names where several sets are compared.
        layer: the convolution's name; None for the first that runs.
    """

    def __init__(self, data: str = "", layer: str | None = None) -> None:
        self.data = data
        self.layer = layer

    def plan(self, p: Pass) -> Callable[[], list[Profiled]]:
        """Feeds the pass; what it returns gives the profiles after the pass ran.

        Raises:
            ConvscopeError: when a network has no such convolution, or cannot take the images.
        """
        calls = {name: named_conv(p, network, self.layer) for name, network in p.networks.items()}
        # One basis for all filters that see alike patches: that of the first such network.
        first: dict[tuple[int, ...], str] = {}
        bases = {name: first.setdefault(_seen(call), name) for name, call in calls.items()}
        slots = {name: feed_moments(p, p.networks[name], calls[name], None) for name in first.values()}

        def finish() -> list[Profiled]:
            found = []
            for name, call in calls.items():
                slot, shape = slots[bases[name]], tuple(call.weight.shape[1:])
                without = varied(slot.leave_one_out())
                try:
                    energies, variances = _energies(call.weight, slot.value())
                    rest = tuple((n, *_energies(call.weight, m)) for n, m in without)
                except ConvscopeError as error:
                    raise ConvscopeError(f"{name}: {error}") from error
                title = f"{name}, {self.data}" if self.data else name
                found.append(Profiled(title, shape, energies, variances, f"{self.data}/{bases[name]}", rest))
            return found

        return finish


def _seen(call: ConvCall) -> tuple[int, ...]:
    """Returns what must be equal for two convolutions' patches to have common components."""
    return (*call.weight.shape[1:], call.geometry.groups)


def _energies(weight: torch.Tensor, moments: PatchMoments) -> tuple[torch.Tensor, torch.Tensor]:
    return energy_profile(weight, moments).values.flatten(), moments.eigenvalues.flatten()


def compare_profiles(profiles: Sequence[Profiled], skipped: Sequence[Skip] = ()) -> ComparisonResult:
    """Returns the consistency matrix of profiles; correlations between filters of different shapes are NaN.

    Args:
        profiles: at least two.
        skipped: profiles that could not be had.

    Raises:
        ConvscopeError: with fewer than two profiles.
    """
    if len(profiles) < 2:
        raise ConvscopeError(
            f"a comparison needs at least two energy profiles, got {len(profiles)}: name more networks"
        )
    names = [
        p.name if [q.name for q in profiles].count(p.name) == 1 else f"{p.name} ({i + 1})"
        for i, p in enumerate(profiles)
    ]
    m = len(profiles)
    matrix, logs, spread = (np.full((m + 1, m + 1), np.nan) for _ in range(3))
    shapes = [(*p.shape, p.energies.numel()) for p in profiles]
    notes = []
    for shape in dict.fromkeys(shapes):
        where = [i for i in range(m) if shapes[i] == shape]
        group = [profiles[i] for i in where]
        whole = _consistency(group, [(p.energies, p.variances) for p in group])
        index = [*where, m]
        matrix[np.ix_(index, index)] = whole.matrix.numpy()
        logs[np.ix_(index, index)] = whole.log_matrix.numpy()
        folds = len(group[0].without)
        # Folds are compared one by one, so that profiles with different folds have no error bars.
        if folds > 1 and {len(p.without) for p in group} == {folds}:
            without = [_consistency(group, [p.without[k][1:] for p in group]).matrix.numpy() for k in range(folds)]
            counts = [float(group[0].without[k][0]) for k in range(folds)]
            errors = [
                [jackknife(whole.matrix[a, b].item(), [w[a, b] for w in without], counts) for b in range(len(index))]
                for a in range(len(index))
            ]
            spread[np.ix_(index, index)] = np.array(errors, dtype=np.float64)
        if not whole.common_basis:
            notes.append("Profiles on different images are compared by the rank of their components.")
    if len(set(shapes)) > 1:
        notes.append("Filters of different shapes have no common components and are not compared.")
        matrix[m, m] = 1.0
    return ComparisonResult(
        names=(*names, "eigenvalue curve"),
        matrix=matrix,
        log_matrix=logs,
        spread=spread,
        chance=1.96 / math.sqrt(max(min(p.energies.numel() for p in profiles) - 1, 1)),
        notes=tuple(dict.fromkeys(notes)),
        skipped=tuple(skipped),
    )


def _consistency(group: Sequence[Profiled], values: Sequence[tuple[torch.Tensor, torch.Tensor]]) -> Consistency:
    numbered = {str(i): energies for i, (energies, _) in enumerate(values)}
    if len({p.basis for p in group}) == 1:
        return consistency_matrix(numbered, values[0][1])
    return consistency_matrix(numbered, {str(i): variances for i, (_, variances) in enumerate(values)})
