"""Frozen result of the theory of learning dynamics."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np

from convscope.core.plain import array_of, facts_from_json, facts_to_json, reading, rounded_lists, text_of
from convscope.core.results import (
    Definition,
    Finding,
    LayerRow,
    Number,
    Skip,
    columns_of,
    numbers_from_json,
    numbers_to_json,
    register,
    skips_from_json,
    skips_to_json,
)
from convscope.dynamics.parts import FrequencyUse, Trained

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

# Number of axes of each array that may be shown.
SHOWN = {
    "modes": 4,
    "spectra": 3,
    "growth": 2,
    "class_vectors": 2,
    "pairs": 2,
    "steps": 1,
    "strengths": 2,
    "dense_steps": 1,
    "dense_strengths": 2,
}
NEEDED = ("modes", "spectra", "growth", "class_vectors", "steps", "strengths")


@dataclass(frozen=True, eq=False)
class Mode:
    """One mode of a data set: a pattern that sets some classes apart from others.

    Attributes:
        frequencies: (ky, kx) in cycles per image of the pairs of frequencies that have most of its energy.
        energies: their shares of it.
        high: names of the classes whose images have more of the pattern, the foremost first.
        low: of those that have less.
        mixed: whether a neighbouring mode is about as strong, so that data alone hardly tell them apart.
        numbers: by definition key.
    """

    frequencies: tuple[tuple[int, int], ...]
    energies: tuple[float, ...]
    high: tuple[str, ...]
    low: tuple[str, ...]
    mixed: bool
    numbers: Mapping[str, Number]


@register
@dataclass(frozen=True, eq=False, kw_only=True)
class DynamicsResult:
    """The structure of a data set, and in which order a linear CNN learns it (Pinson, Lenaerts & Ginis 2023).

    Attributes:
        modes: by falling singular value; empty where the images have no labels.
        numbers: of all modes together, by definition key.
        facts: what the sentences need beside the numbers: the setting, the method, the images.
        classes: name of each class.
        counts: images of each class.
        shown: arrays behind the figures, by the names in ``SHOWN``: pictures and spectra of the first modes, spectra
            and growth rates shifted so that frequency 0 is in the middle; predicted strengths over singular values
            [T, m] at steps [T], those of the dense network.
        trained: what a network trained on the spot learned; None without one.
        use: which frequencies the report's network uses; None without a network that fits the labels.
        skipped: what could not be computed, and why.
        arrays: large matrices by name, in no JSON.
    """

    kind: ClassVar[str] = "dynamics"
    question: ClassVar[str] = "In which order would a network learn this data?"

    modes: tuple[Mode, ...] = ()
    numbers: Mapping[str, Number] = field(default_factory=dict)
    facts: Mapping[str, str | bool | float] = field(default_factory=dict)
    classes: tuple[str, ...] = ()
    counts: tuple[int, ...] = ()
    shown: Mapping[str, np.ndarray] = field(default_factory=dict)
    trained: Trained | None = None
    use: FrequencyUse | None = None
    skipped: tuple[Skip, ...] = ()
    arrays: Mapping[str, np.ndarray] = field(default_factory=dict)

    def to_frame(self) -> pd.DataFrame:
        """Returns one row per mode: every number, its error (``Number.spread``) and what chance gives."""
        import pandas as pd

        return pd.DataFrame([_flat(i + 1, mode) for i, mode in enumerate(self.modes)])

    def figures(self) -> dict[str, Figure]:
        """Returns the charts, the predicted learning first."""
        from convscope.dynamics.figures import figures

        return figures(self)

    def findings(self) -> list[Finding]:
        """Returns the findings, the most telling first."""
        from convscope.dynamics.findings import findings

        return findings(self)

    def definitions(self) -> dict[str, Definition]:
        """Returns how each number is computed."""
        from convscope.dynamics.definitions import DEFINITIONS

        tables = [self.numbers, *(mode.numbers for mode in self.modes)]
        if self.trained is not None:
            tables += [self.trained.numbers, *self.trained.modes]
        used = {number.definition for table in tables for number in table.values()}
        if self.use is not None:
            used |= {
                n.definition for n in (*self.use.numbers.values(), *(n for c in self.use.kept.values() for n in c))
            }
        return {key: definition for key, definition in DEFINITIONS.items() if key in used}

    def layers(self) -> dict[str, LayerRow]:
        """Returns nothing: modes belong to the data, not to a layer."""
        return {}

    def to_json(self) -> dict[str, Any]:
        """Returns plain JSON values."""
        return {
            "kind": self.kind,
            "modes": [
                {
                    "frequencies": [list(pair) for pair in mode.frequencies],
                    "energies": list(mode.energies),
                    "high": list(mode.high),
                    "low": list(mode.low),
                    "mixed": mode.mixed,
                    "numbers": numbers_to_json(mode.numbers),
                }
                for mode in self.modes
            ],
            "numbers": numbers_to_json(self.numbers),
            "facts": facts_to_json(self.facts),
            "classes": list(self.classes),
            "counts": list(self.counts),
            "shown": {name: rounded_lists(array) for name, array in self.shown.items()},
            "trained": None if self.trained is None else self.trained.to_json(),
            "use": None if self.use is None else self.use.to_json(),
            "skipped": skips_to_json(self.skipped),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Returns the result that ``to_json`` described.

        Raises:
            ConvscopeError: when fields are missing or of the wrong kind.
        """
        with reading(cls.kind):
            result = cls(**_fields(data))
            result._check()
        return result

    def _check(self) -> None:
        if len(self.classes) != len(self.counts):
            raise ValueError("its classes do not fit the numbers of their images")
        if self.modes:
            self._check_shown()
        self.findings()  # finds the numbers and facts that sentences need, or fails

    def _check_shown(self) -> None:
        shown = {name: array.shape for name, array in self.shown.items()}
        if missing := [name for name in NEEDED if name not in shown]:
            raise ValueError(f"it lacks its {missing[0]}")
        m, _, h, w = shown["modes"]
        if not 1 <= m <= len(self.modes) or shown["spectra"] != (m, h, w) or shown["growth"] != (h, w):
            raise ValueError("its pictures do not fit the modes")
        if shown["class_vectors"] != (m, len(self.classes)):
            raise ValueError("its class vectors do not fit the modes")
        if shown.get("pairs", (len(self.classes),) * 2) != (len(self.classes),) * 2:
            raise ValueError("its pairs do not fit the classes")
        for steps, strengths in (("steps", "strengths"), ("dense_steps", "dense_strengths")):
            if (steps in shown) != (strengths in shown):
                raise ValueError(f"it has only one of {steps} and {strengths}")
            if steps in shown and shown[strengths] != (*shown[steps], m):
                raise ValueError("its curves do not fit their steps or the modes")
        if any(len(mode.frequencies) != len(mode.energies) or not mode.frequencies for mode in self.modes):
            raise ValueError("a mode lacks its frequencies")


def _flat(number: int, mode: Mode) -> dict[str, Any]:
    return {
        "mode": number,
        "more in": ", ".join(mode.high),
        "less in": ", ".join(mode.low),
        "frequencies": " ".join(f"({ky}, {kx})".replace("-", "−") for ky, kx in mode.frequencies),
        **columns_of(mode.numbers),
    }


def _fields(data: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "modes": tuple(
            Mode(
                tuple((int(ky), int(kx)) for ky, kx in mode["frequencies"]),
                tuple(float(energy) for energy in mode["energies"]),
                tuple(map(text_of, mode["high"])),
                tuple(map(text_of, mode["low"])),
                bool(mode["mixed"]),
                numbers_from_json(mode["numbers"]),
            )
            for mode in data["modes"]
        ),
        "numbers": numbers_from_json(data["numbers"]),
        "facts": facts_from_json(data["facts"]),
        "classes": tuple(map(text_of, data["classes"])),
        "counts": tuple(int(n) for n in data["counts"]),
        "shown": {name: array_of(values, SHOWN[name]) for name, values in data["shown"].items()},
        "trained": None if data["trained"] is None else Trained.of(data["trained"]),
        "use": None if data["use"] is None else FrequencyUse.of(data["use"]),
        "skipped": skips_from_json(data["skipped"]),
    }
