"""The papers' experiments: what each shows, what the paper reports, and what we find."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, Literal, get_args

from convscope.core.errors import ConvscopeError
from convscope.core.results import Number, finite, finite_list, number_from_json, number_to_json

Scale = Literal["smoke", "cpu", "paper"]
SCALES: tuple[Scale, ...] = get_args(Scale)
#: Two values that differ by less are called equally good.
TIE = 0.01

Verdict = Literal["reproduced", "not reproduced", "claim holds", "claim fails", ""]


@dataclass(frozen=True)
class Row:
    """One quantity of an experiment: the paper's value beside ours.

    Attributes:
        quantity: what it is, in words.
        paper: the paper's value as it states it, or "not stated"; where it states none, what its claim implies.
        expected: (low, high), the interval in which our value counts as agreement, high infinite where any value above
            low does; None: measured beside, no claim.
        ours: mean over runs, standard deviation over them (None with one), and what chance gives.
        n: number of values that mean and deviation are over.
        baselines: name to what a trivial curve or alternative gives for the same quantity, mean over the same runs.
        note: what a reader must know to compare.
        better: "higher" or "lower" where the baselines compete with our value and that wins; else "".
        printed: whether ``expected`` surrounds a number that the authors printed (paper, code or notebook), rather
            than what their claim implies.
        reason: where our value lies outside ``expected``, why: which assumption fails.
    """

    quantity: str
    paper: str
    expected: tuple[float, float] | None
    ours: Number
    n: int
    baselines: Mapping[str, float] = field(default_factory=dict)
    note: str = ""
    better: Literal["higher", "lower", ""] = ""
    printed: bool = False
    reason: str = ""

    @property
    def verdict(self) -> Verdict:
        """Whether our value agrees with what the authors printed, or with what they claim; "" where they say nothing.

        Example:
            >>> Row("fit", "0.94", (0.85, 1.0), Number(0.93), 3, printed=True).verdict
            'reproduced'
            >>> Row("fit", "high", (0.85, 1.0), Number(0.7), 3, reason="few images").verdict
            'claim fails'
        """
        if self.expected is None:
            return ""
        if self.expected[0] <= self.ours.value <= self.expected[1]:
            return "reproduced" if self.printed else "claim holds"
        return "not reproduced" if self.printed else "claim fails"

    @property
    def judgement(self) -> str:
        """The verdict in words, with the reason where our value does not agree.

        Example:
            >>> Row("fit", "high", (0.85, 1.0), Number(0.7), 3, reason="few images").judgement
            'claim fails: few images'
        """
        words = {"": "no claim", "claim holds": "claim holds (no printed number)"}.get(self.verdict, self.verdict)
        return f"{words}: {self.shortfall}" if self.shortfall else words

    @property
    def shortfall(self) -> str:
        """Why our value does not agree; "" where it does, or where nothing is claimed."""
        agrees = self.verdict not in {"not reproduced", "claim fails"}
        return "" if agrees else self.reason or "no reason found"

    @property
    def rivals(self) -> str:
        """Which baseline does as well or better; "" where none competes.

        Example:
            >>> Row("fit", "0.94", (0.85, 1.0), Number(0.93), 3, {"bump": 0.95, "ramp": 0.6}, "", "higher").rivals
            'bump does better'
        """
        if not self.better or not self.baselines:
            return ""
        value, sign = self.ours.value, 1 if self.better == "higher" else -1
        name, rival = max(self.baselines.items(), key=lambda item: sign * item[1])
        if abs(rival - value) < TIE:
            return f"{name} does as well"
        return f"{name} does better" if sign * (rival - value) > 0 else "ahead of the rest"

    def to_json(self) -> dict[str, Any]:
        """Returns plain JSON values."""
        return {
            "quantity": self.quantity,
            "paper": self.paper,
            "expected": None if self.expected is None else finite_list(self.expected),
            "ours": number_to_json(self.ours),
            "n": self.n,
            "baselines": {name: finite(value) for name, value in self.baselines.items()},
            "verdict": self.verdict,
            "note": self.note,
            "better": self.better,
            "printed": self.printed,
            "reason": self.reason,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Row:
        """Returns the row that ``to_json`` described."""
        expected = data["expected"]
        return cls(
            data["quantity"],
            data["paper"],
            None if expected is None else (expected[0], math.inf if expected[1] is None else expected[1]),
            number_from_json(data["ours"]),
            data["n"],
            {name: float("nan") if value is None else value for name, value in data["baselines"].items()},
            data["note"],
            data["better"],
            data["printed"],
            data["reason"],
        )


def summary(values: Iterable[float], chance: tuple[float, float] | None = None, chance_name: str = "") -> Number:
    """Returns mean and standard deviation (N - 1; None for one value) as a Number.

    Example:
        >>> str(summary([1.0, 2.0, 3.0]))
        '2 ± 1'
    """
    values = list(values)
    spread = stdev(values) if len(values) > 1 else None
    return Number(fmean(values), spread, chance, "", chance_name)


@dataclass(frozen=True)
class Setup:
    """Where and how large to run an experiment.

    Attributes:
        scale: "smoke" (does it run at all), "cpu" (one core, minutes) or "paper" (the paper's sizes).
        data: name to path of the data sets that the user named.
        cache: folder in which trained networks are kept between runs, or None: only in memory.
        progress: whether to show progress bars.
        alone: whether no other experiment runs at the same time, so that one may take every core.
    """

    scale: Scale = "cpu"
    data: Mapping[str, Path] = field(default_factory=dict)
    cache: Path | None = None
    progress: bool = True
    alone: bool = True


@dataclass(frozen=True)
class Outcome:
    """What an experiment gave.

    Attributes:
        rows: the table.
        settings: what was trained, in words a reader can repeat: name to value.
        details: further values, each a table of plain JSON values by name.
    """

    rows: tuple[Row, ...]
    settings: Mapping[str, str]
    details: Mapping[str, Sequence[Mapping[str, Any]]] = field(default_factory=dict)


@dataclass(frozen=True)
class Experiment:
    """An experiment of a paper that can be run.

    Attributes:
        paper: short name of the paper, "chowers2023".
        name: short name within the paper.
        shows: what it shows, as a question.
        claim: what the paper says, and where.
        data: names of the data sets it needs.
        costs: for each scale, the time it takes, with what.
        run: runs it.
    """

    paper: str
    name: str
    shows: str
    claim: str
    data: tuple[str, ...]
    costs: Mapping[Scale, str]
    run: Callable[[Setup], Outcome]

    @property
    def key(self) -> str:
        """The name "paper/name"."""
        return f"{self.paper}/{self.name}"


def titles() -> dict[str, str]:
    """Returns short name to title of each paper."""
    return {paper.__name__.rpartition(".")[2]: paper.TITLE for paper in _papers()}


def compared_with(paper: str) -> str:
    """Returns what our values stand beside in the tables of a paper: those of the "paper", or of its "theory" alone.

    Example:
        >>> compared_with("chowers2023")
        'paper'
    """
    from convscope.papers import pinson2023, wen2024

    return {"pinson2023": pinson2023.COMPARED_WITH, "wen2024": wen2024.COMPARED_WITH}.get(paper, "paper")


def experiments() -> dict[str, Experiment]:
    """Returns all experiments by "paper/name", in the order of the tables.

    Example:
        >>> "chowers2023/formula" in experiments()
        True
    """
    return {experiment.key: experiment for paper in _papers() for experiment in paper.EXPERIMENTS}


def _papers() -> tuple[Any, ...]:
    from convscope.papers import beaglehole2023, chowers2023, pinson2023, wen2024

    return chowers2023, beaglehole2023, pinson2023, wen2024


def chosen(names: Sequence[str]) -> list[Experiment]:
    """Returns the experiments that names select: "paper/name", or "paper" for all of a paper.

    Raises:
        ConvscopeError: for a name that selects none.

    Example:
        >>> [e.name for e in chosen(["chowers2023/seeds"])]
        ['seeds']
    """
    known = experiments()
    found: dict[str, Experiment] = {}
    for name in names:
        selected = {key: e for key, e in known.items() if name in {key, e.paper}}
        if not selected:
            raise ConvscopeError(f"there is no experiment {name!r}; the names are {', '.join(known)}")
        found |= selected
    return [known[key] for key in known if key in found]
