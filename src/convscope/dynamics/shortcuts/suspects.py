"""From an audit to suspects: its alarms with their errors and what chance gives, and the strongest without an alarm."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from convscope.core.results import Number
from convscope.dynamics.shortcuts.audit import Alarm, ShortcutAudit, TableAudit
from convscope.dynamics.shortcuts.chance import Values, spread
from convscope.dynamics.shortcuts.result import Suspect

MOST = 24  # alarms that are listed
PERMUTED = "the strongest with permuted labels"
STATISTICS = {
    "coherent": "stripes in one place",
    "power": "stripes of varying place",
    "pixel": "a pixel less its neighbours",
    "colour": "accuracy from it alone",
    "files": "accuracy from them alone",
}


Bands = Mapping[str, tuple[float, float]]


def suspects_of(found: ShortcutAudit, chance: Bands) -> list[Suspect]:
    """Returns the alarms, strongest first, then the strongest of each part that raised none.

    Args:
        found: the audit.
        chance: the strongest with permuted labels, as of ``permuted``; empty where not known.
    """
    suspects = sorted(
        (_of_alarm(alarm, found, chance) for alarm in found.alarms[:MOST]), key=lambda s: s.number.value, reverse=True
    )
    raised = {s.number.definition for s in suspects}
    suspects += [_strongest(part, found, chance) for part in ("coherent", "power", "pixel") if part not in raised]
    if not any(s.kind == "colour" for s in suspects):
        suspects.append(_of_table("colour", "the colours of images", found.colour, found.threshold))
    if found.files is not None and not any(s.kind == "file" for s in suspects):
        suspects.append(_of_table("file", "the files of images", found.files, found.threshold))
    return [s for s in suspects if s.alarm or math.isfinite(s.number.value)]


def tables_of(found: ShortcutAudit) -> dict[str, dict[str, Number]]:
    """Returns the accuracy from all properties together ("all") and from each alone, of colours and of files."""
    tables = {"colour": found.colour} | ({} if found.files is None else {"files": found.files})
    return {
        key: {"all": _accuracy(table, key)}
        | {name: replace(_accuracy(table, key), value=value, spread=None) for name, value in table.single.items()}
        for key, table in tables.items()
    }


def difference_of(values: Values, label: int) -> Tensor:
    """Returns the mean image of a class less that of all others, float64 [c, h, w]."""
    counts, sums = values.moments.counts.double(), values.moments.images
    own, rest = sums[label] / counts[label], (sums.sum(0) - sums[label]) / (counts.sum() - counts[label])
    return own - rest


def _z(found: ShortcutAudit, part: str, place: int, chance: Bands) -> Number:
    """Returns z of a part at a place, with its error and what permuted labels give."""
    error = spread(found.values, found.without, lambda values: float(values.z(part)[place]))
    on_axis = part != "pixel" and bool(found.frequencies.axis[place])
    band = chance.get(f"{part} axis" if on_axis else part)
    return Number(float(found.values.z(part)[place]), error, band, part, PERMUTED if band else "")


def _strongest(part: str, found: ShortcutAudit, chance: Bands) -> Suspect:
    audit = found.frequencies
    # A frequency that raised an alarm in one statistic is no news in the other.
    named = [] if part == "pixel" else [_place(found, a) for a in found.alarms if a.kind == "frequency"]
    at = found.values.strongest(part, but=named)
    number = _z(found, part, at, chance)
    if part == "pixel":
        row, column = divmod(at, found.pixels.z.shape[1])
        return Suspect(
            "pixel", f"the pixel in row {row}, column {column}", STATISTICS[part], number, False, found.threshold,
            int(found.pixels.dominant_class[row, column]), (row, column),
        )  # fmt: skip
    ky, kx = audit.frequencies[at].tolist()
    label = (audit.dominant_class if part == "coherent" else audit.power_class)[at]
    return Suspect(
        "frequency", f"the frequency ({ky}, {kx})", STATISTICS[part], number, False, found.threshold, int(label),
        (ky, kx), int(audit.rank[at]),
    )  # fmt: skip


def _of_alarm(alarm: Alarm, found: ShortcutAudit, chance: Bands) -> Suspect:
    statistic = alarm.statistic
    if alarm.kind == "frequency" and alarm.place is not None:
        at = _place(found, alarm)
        # Stripes in one place change the energy too; that they have a place says more, and can be tried on a network.
        part = "coherent" if float(found.frequencies.coherent_z[at]) > alarm.threshold else "power"
        number, statistic = _z(found, part, at, chance), STATISTICS[part]
    elif alarm.kind == "pixel" and alarm.place is not None:
        row, column = alarm.place
        number, statistic = _z(found, "pixel", row * found.pixels.z.shape[1] + column, chance), STATISTICS["pixel"]
    else:
        table = found.colour if alarm.kind == "colour" or found.files is None else found.files
        number = Number(alarm.value, None, None, f"{alarm.kind}_z")
        if alarm.label is not None:
            area, others = float(table.areas[alarm.label]), _median_of_others(table.areas, alarm.label)
            statistic = f"told from all others with an area of {area:.2f}, the median class with {others:.2f}"
        elif alarm.what in table.single:
            statistic = f"right for {table.single[alarm.what]:.1%}, the largest class for {table.chance:.1%}"
    return Suspect(
        alarm.kind, alarm.what, statistic, number, True, alarm.threshold, alarm.label, alarm.place, alarm.rank
    )


def _place(found: ShortcutAudit, alarm: Alarm) -> int:
    """Returns the place of an alarm's frequency among all."""
    return int((found.frequencies.frequencies == torch.tensor(alarm.place)).all(1).nonzero()[0, 0])


def _of_table(kind: str, what: str, table: TableAudit, threshold: float) -> Suspect:
    key = "colour" if kind == "colour" else "files"
    return Suspect(kind, what, STATISTICS[key], _accuracy(table, key), False, threshold)


def _accuracy(table: TableAudit, key: str) -> Number:
    return Number(table.accuracy, table.spread, _largest_class(table), key, "always the largest class")


def _largest_class(table: TableAudit) -> tuple[float, float]:
    return max(table.chance - 2 * table.chance_spread, 0.0), min(table.chance + 2 * table.chance_spread, 1.0)


def _median_of_others(areas: Tensor, label: int) -> float:
    others = areas[(torch.arange(len(areas)) != label) & ~areas.isnan()]
    return float(others.quantile(0.5)) if len(others) else math.nan
