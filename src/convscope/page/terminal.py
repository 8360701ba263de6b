"""The report as plain text for a terminal."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

from convscope.core.results import Number
from convscope.page.gauge import Scale, scale_of
from convscope.page.theme import clean
from convscope.page.wording import count, duration, plain, rounded, value_and_spread, verdict

if TYPE_CHECKING:
    from convscope.page.report import Report

_NARROWEST, _WIDEST = 40, 110  # columns; longer lines are hard to read
_CELLS = 24  # of a gauge
_MOST_SKIPS = 12


def summary(report: Report, width: int = 80) -> str:
    """Returns the findings with their numbers, the table of layers, what was covered and what was skipped.

    Args:
        report: what to print.
        width: columns of the terminal.
    """
    width = min(max(width, _NARROWEST), _WIDEST)
    parts = [_title(report, width), _findings(report, width), _layers(report, width), _skipped(report, width)]
    return "\n\n".join(part for part in parts if part) + "\n"


def ascii_gauge(number: Number, scale: Scale | None = None, cells: int = _CELLS) -> str:
    """Returns a gauge of plain characters: o the value, - two errors each way, : the chance band.

    Args:
        number: the number.
        scale: shared by several gauges; None: the number's own.
        cells: characters between the brackets.

    >>> ascii_gauge(Number(0.9, 0.02, (0.1, 0.5)), cells=20)
    '0 [  :::::::::      -o ] 1'
    """
    scale = scale or scale_of([number])

    def cell(value: float) -> int:
        return min(int(scale.place(value) * cells), cells - 1)

    drawn = [" "] * cells
    if number.chance is not None and all(map(math.isfinite, number.chance)):
        for i in range(cell(number.chance[0]), cell(number.chance[1]) + 1):
            drawn[i] = ":"
    if math.isfinite(number.value):
        spread = 2 * number.spread if number.spread is not None and math.isfinite(number.spread) else 0.0
        for i in range(cell(number.value - spread), cell(number.value + spread) + 1):
            drawn[i] = "-"
        drawn[cell(number.value)] = "o"
    return f"{rounded(scale.low)} [{''.join(drawn)}] {rounded(scale.high)}" + (" log" if scale.log else "")


def _title(report: Report, width: int) -> str:
    head, coverage = report.head, report.coverage
    name = " on ".join(clean(part) for part in (head.network, head.data) if part)
    of = "" if coverage.expected in {None, coverage.images} else f" of {coverage.expected:,}"
    facts = [f"{coverage.images:,}{of} images read"]
    if coverage.unreadable:
        facts.append(f"{len(coverage.unreadable):,} unreadable")
    if head.classes:
        facts.append(count(len(head.classes), "class", "classes"))
    facts.append(duration(report.provenance.seconds))
    lines = [name, ", ".join(facts)]
    if not coverage.complete:
        lines.append("The run was interrupted: every number rests on the images read.")
    lines += [clean(note) for note in (*head.notes, *coverage.notes)]
    return "\n".join(_wrap(line, width) for line in lines)


def _findings(report: Report, width: int) -> str:
    from convscope.page.report import TOP_FINDINGS

    lines = []
    for place, finding in enumerate(report.findings()[:TOP_FINDINGS], start=1):
        where = verdict(finding.number)
        lines.append(_wrap(clean(finding.text), width, f"{place}. ", "   "))
        lines.append(_wrap(clean(plain(finding.number)) + (f": {where}" if where else ""), width, "   ", "   "))
        if math.isfinite(finding.number.value):
            lines.append(f"   {ascii_gauge(finding.number)}")
    if not lines:
        return ""
    return "\n".join([_wrap("Findings (o value, - two errors each way, : chance)", width), *lines])


def _layers(report: Report, width: int) -> str:
    tables = [{layer: row.numbers for layer, row in result.layers().items()} for result in report.results]
    columns = list(dict.fromkeys((i, name) for i, table in enumerate(tables) for row in table.values() for name in row))
    layers = list(dict.fromkeys(layer for table in tables for layer in table))
    if not columns:
        return ""
    rows = [["layer", *(clean(name) for _, name in columns)]]
    for layer in layers:
        cells = [tables[i].get(layer, {}).get(name) for i, name in columns]
        rows.append([clean(layer), *("" if cell is None else value_and_spread(cell) for cell in cells)])
    return _table(rows, width)


def _table(rows: Sequence[Sequence[str]], width: int) -> str:
    """Returns aligned columns, as many side by side as fit; the others follow below with the first column repeated."""
    widths = [min(max(len(row[j]) for row in rows), width // 2 - 1) for j in range(len(rows[0]))]
    blocks, block, used = [], [0], widths[0]
    for j in range(1, len(widths)):
        if used + 2 + widths[j] > width and len(block) > 1:
            blocks.append(block)
            block, used = [0], widths[0]
        block.append(j)
        used += 2 + widths[j]
    blocks.append(block)

    def cell(text: str, j: int) -> str:
        text = text if len(text) <= widths[j] else text[: widths[j] - 1] + "…"
        return text.ljust(widths[j]) if j == 0 else text.rjust(widths[j])

    def lines(block: Sequence[int]) -> str:
        filled = [row for row in rows if any(row[j] for j in block[1:])]
        return "\n".join("  ".join(cell(row[j], j) for j in block).rstrip() for row in filled)

    return "\n\n".join(map(lines, blocks))


def _skipped(report: Report, width: int) -> str:
    skipped = [*report.skipped(), *report.coverage.unreadable]
    lines = [_wrap(f"{clean(s.what)}: {clean(s.reason)}", width, "- ", "  ") for s in skipped[:_MOST_SKIPS]]
    if len(skipped) > _MOST_SKIPS:
        lines.append(f"- and {len(skipped) - _MOST_SKIPS:,} more: see the page")
    return "\n".join(["Skipped", *lines]) if lines else ""


def _wrap(text: str, width: int, first: str = "", rest: str = "") -> str:
    return textwrap.fill(text, width, initial_indent=first, subsequent_indent=rest)
