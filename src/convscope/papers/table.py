"""Tables of the papers' values beside ours, made from saved results."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from convscope.core.results import Number
from convscope.page.wording import value_and_spread
from convscope.papers.record import DONE, Record
from convscope.papers.registry import Row, compared_with, experiments, titles


def markdown(records: Mapping[str, Record], source: str) -> str:
    """Returns a page of Markdown with every experiment's table.

    Args:
        records: by experiment, as ``convscope.papers.record.read`` gives them.
        source: the results file's name, which the page cites.
    """
    known = experiments()
    order = [key for key in known if key in records] + [key for key in records if key not in known]
    lines: list[str] = []
    for paper in dict.fromkeys(records[key]["paper"] for key in order):
        mine = [key for key in order if records[key]["paper"] == paper]
        word = compared_with(paper)
        lines += [f"# {titles().get(paper, paper)}: the {word}'s values and ours", ""]
        lines += [
            f"Made from `{source}` by `convscope papers {source} -o PAGE.md`; do not edit. "
            "Ours is mean ± standard deviation over n values; chance is the central 95 %. A value *agrees* when it "
            f"lies in the interval that is named beside the {word}'s; trivial curves and alternatives stand beside it, "
            "and the verdict names one that does as well or better.",
            "",
        ]
        rows = [(key.rpartition("/")[2], Row.from_json(row)) for key in mine for row in records[key].get("rows", ())]
        lines += _overview(rows, word)
        for key in mine:
            lines += _section(key, records[key])
    return "\n".join(lines).rstrip() + "\n"


def _overview(rows: Sequence[tuple[str, Row]], word: str) -> list[str]:
    compared = [(name, row) for name, row in rows if row.expected is not None]
    differs = [(name, row) for name, row in compared if row.verdict.startswith("differs")]
    if not compared:
        return []
    lines = [f"Of {len(compared)} values with an interval of agreement, {len(compared) - len(differs)} agree.", ""]
    for name, row in differs:
        note = f" ({row.note})" if row.note else ""
        lines.append(f"- Differs: {name}: {row.quantity}: {word} {row.paper}, ours {_value(row.ours)}{note}.")
    for title, ends in (
        ("A rival does as well or better", ("does better", "does as well")),
        ("Ahead of its rivals", ("ahead of the rest",)),
    ):
        for name, row in rows:
            if row.verdict.endswith(ends):
                lines.append(f"- {title}: {name}: {row.quantity}: ours {_value(row.ours)}; {_beside(row)}.")
    return [*lines, ""]


def _paper(row: Row) -> str:
    if row.expected is None:
        return row.paper
    return f"{row.paper} (agreement: {_plain(row.expected[0])} to {_plain(row.expected[1])})"


def _beside(row: Row) -> str:
    return "; ".join(f"{name} {_plain(value)}" for name, value in row.baselines.items())


def _section(key: str, record: Record) -> list[str]:
    lines = [f"## {key}", "", f"{record['shows']} {record['claim']}", "", f"    {record['command']}", ""]
    if record["status"] != DONE:
        return [*lines, f"**{record['status']}**: {'; '.join(record['why'])}", ""]
    rows = [Row.from_json(row) for row in record["rows"]]
    lines += _table(
        ("quantity", compared_with(record["paper"]), "ours", "n", "chance", "beside it", "verdict"),
        (
            (
                row.quantity + (f" ({row.note})" if row.note else ""),
                _paper(row),
                _value(row.ours),
                str(row.n),
                _chance(row.ours),
                _beside(row),
                row.verdict,
            )
            for row in rows
        ),
    )
    settings = [f"{name}: {value}" for name, value in record["settings"].items()]
    versions = ", ".join(f"{name} {value}" for name, value in record["versions"].items())
    lines += ["", *(f"- {line}" for line in settings)]
    lines += [f"- scale {record['scale']}; {_duration(record)}; {versions}; {record['finished']}", ""]
    for name, table in record["details"].items():
        if table:
            lines += ["<details>", f"<summary>{name.replace('_', ' ')}</summary>", ""]
            lines += _table(tuple(table[0]), ([_cell(value) for value in line.values()] for line in table))
            lines += ["", "</details>", ""]
    return lines


def text(key: str, record: Record) -> str:
    """Returns an experiment's results as lines for a terminal.

    Args:
        key: the experiment's name.
        record: what it gave.
    """
    if record["status"] != DONE:
        return f"{key}: {record['status']}\n  " + "\n  ".join(record["why"])
    lines = [f"{key}: {record['shows']}"]
    for row in (Row.from_json(data) for data in record["rows"]):
        word = compared_with(record["paper"])
        lines += [f"  {row.quantity}", f"    {word} {row.paper}; ours {_value(row.ours)} (n = {row.n}); {row.verdict}"]
        lines += [f"    beside it: {_beside(row)}"] if row.baselines else []
    return "\n".join(lines)


def _duration(record: Record) -> str:
    training = sum(line["training seconds"] for line in record["details"].get("networks", ()))
    if not training:
        return f"{record['seconds']:.0f} s"
    return f"its networks took {training / 60:.0f} min to train (each is trained once for all experiments)"


def _table(head: Sequence[str], body: Iterable[Sequence[str]]) -> list[str]:
    def line(cells: Iterable[str]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"

    return [line(head), line("---" for _ in head), *(line(cells) for cells in body)]


def _value(number: Number) -> str:
    return _plain(number.value) if number.spread is None else value_and_spread(number)


def _chance(number: Number) -> str:
    if number.chance is None:
        return ""
    return f"{_plain(number.chance[0])} to {_plain(number.chance[1])} ({number.chance_name})"


def _plain(value: float) -> str:
    if math.isnan(value):
        return "undefined"
    if 0 < abs(value) < 5e-4:
        return f"{value:.1g}".replace("-", "−")
    digits = 3 if abs(value) < 0.095 and value else 2
    return (f"{value:.0f}" if abs(value) >= 10 else f"{value:.{digits}f}").replace("-", "−")


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return _plain(value)
    if isinstance(value, list):
        return " ".join(_plain(v) for v in value)
    return "" if value is None else str(value)
