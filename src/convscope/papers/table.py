"""Tables of the papers' values beside ours, made from saved results."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from convscope.core.results import Number
from convscope.page.wording import value_and_spread
from convscope.papers.record import DONE, Record
from convscope.papers.registry import Row, Verdict, compared_with, experiments, titles

COUNTED: tuple[Verdict, ...] = ("reproduced", "not reproduced", "claim holds", "claim fails")


def in_order(records: Mapping[str, Record]) -> dict[str, list[str]]:
    """Returns the names of experiments by paper, both in the order of the list of experiments.

    Args:
        records: by experiment, as ``convscope.papers.record.read`` gives them.
    """
    known = experiments()
    order = [key for key in known if key in records] + [key for key in records if key not in known]
    found: dict[str, list[str]] = {}
    for key in order:
        found.setdefault(records[key]["paper"], []).append(key)
    return found


def rows_of(record: Record) -> list[Row]:
    """Returns the rows of an experiment; none where it was not run."""
    return [Row.from_json(row) for row in record.get("rows", ())]


def counted(rows: Iterable[Row]) -> str:
    """Returns how many rows have which verdict, in words; "" where none has one."""
    counts = Counter(row.verdict for row in rows)
    return ", ".join(f"{counts[verdict]} × {verdict}" for verdict in COUNTED if counts[verdict])


def summary(records: Mapping[str, Record]) -> str:
    """Returns a Markdown table of how many quantities of each paper have which verdict, and what it leaves out.

    Args:
        records: by experiment, as ``convscope.papers.record.read`` gives them.
    """
    body = []
    for paper, keys in in_order(records).items():
        counts = Counter(row.verdict for key in keys for row in rows_of(records[key]))
        without = sum(records[key]["status"] != DONE for key in keys)
        authors = titles().get(paper, paper).partition(", “")[0]
        body.append([authors, str(len(keys)), *(str(counts[v]) for v in COUNTED), str(without)])
    head = ("paper", "experiments", *COUNTED[:2], "claim holds (no printed number)", COUNTED[3], "not run")
    total, lines = len(experiments()), _table(head, body)
    if len(records) < total:
        lines += ["", f"{len(records)} of {total} experiments are counted; the others have not been run yet."]
    return "\n".join(lines)


def write_pages(records: Mapping[str, Record], source: str, path: Path) -> None:
    """Writes a page with every verdict, and beside it a folder of its name with a page for each paper.

    Args:
        records: by experiment, as ``convscope.papers.record.read`` gives them.
        source: the results file's name, which the pages cite.
        path: of the page, FILE.md.
    """
    folder = path.with_suffix("")
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(overview(records, source, folder.name), encoding="utf-8")
    order = in_order(records)
    for paper in titles() | order:
        mine = {key: records[key] for key in order.get(paper, ())}
        (folder / f"{paper}.md").write_text(of_paper(paper, mine), encoding="utf-8")


def overview(records: Mapping[str, Record], source: str, folder: str) -> str:
    """Returns a page of Markdown with the verdict on every quantity that a paper prints or claims something about.

    Args:
        records: by experiment, as ``convscope.papers.record.read`` gives them.
        source: the results file's name, which the page cites.
        folder: where the papers' pages lie.
    """
    scales = sorted({record["scale"] for record in records.values()})
    lines = [
        "# The papers' numbers beside ours",
        "",
        f"Made from `{source}` (scale {', '.join(scales)}) by `convscope papers {source} -o PAGE.md`; do not edit."
        + (" The published sizes (`--scale paper`, for a GPU) have not been run for it." * ("paper" not in scales)),
        "",
        "*Reproduced*: our value lies in an interval around a number that the authors printed. *Claim holds*: they "
        "print no number, and our value lies where what they claim puts it. Where a value lies outside, the reason "
        "that we found stands beside it. Intervals, trivial baselines, settings and all further quantities stand on "
        "the papers' own pages.",
        "",
        summary(records),
        "",
    ]
    for paper, keys in in_order(records).items():
        lines += [f"## {titles().get(paper, paper)}", "", f"[All quantities and settings]({folder}/{paper}.md)", ""]
        body: list[list[str]] = []
        for key in keys:
            name, record = key.rpartition("/")[2], records[key]
            if record["status"] != DONE:
                body.append([name, record["shows"], "", "", "", _not_run(record)])
            body += [
                [name, row.quantity, stated(row), _value(row.ours), _null(row), row.judgement]
                for row in rows_of(record)
                if row.verdict
            ]
        lines += _table(("experiment", "quantity", compared_with(paper), "ours", "beside it", "verdict"), body)
        lines.append("")
    return "\n".join(lines).rstrip() + "\n"


def of_paper(paper: str, records: Mapping[str, Record]) -> str:
    """Returns a page of Markdown with every quantity of a paper's experiments.

    Args:
        paper: its short name.
        records: of its experiments, as ``convscope.papers.record.read`` gives them.
    """
    word = compared_with(paper)
    lines = [
        f"# {titles().get(paper, paper)}",
        "",
        "Ours is mean ± standard deviation over n values; chance is the central 95 %. "
        f"Beside the {word}'s value stands the interval in which ours counts as agreement; trivial curves and "
        "alternatives stand beside ours.",
        "",
    ]
    if not records:
        lines += ["None of its experiments has been run yet.", ""]
    for key, record in records.items():
        lines += _section(key, record)
    return "\n".join(lines).rstrip() + "\n"


def _section(key: str, record: Record) -> list[str]:
    lines = [f"## {key.rpartition('/')[2]}", "", f"{record['shows']} {record['claim']}", ""]
    lines += [f"    {record['command']}", ""]
    if record["status"] != DONE:
        return [*lines, f"**{_not_run(record)}**", ""]
    lines += _table(
        ("quantity", compared_with(record["paper"]), "ours", "n", "chance", "beside it", "verdict"),
        (
            (
                row.quantity + (f" ({row.note})" if row.note else ""),
                stated(row),
                _value(row.ours),
                str(row.n),
                _chance(row.ours),
                "; ".join(filter(None, [beside(row), row.rivals])),
                row.judgement,
            )
            for row in rows_of(record)
        ),
    )
    versions = ", ".join(f"{name} {version}" for name, version in record["versions"].items())
    lines += ["", *(f"- {name}: {value}" for name, value in record["settings"].items())]
    lines += [f"- scale {record['scale']}; {_duration(record)}; {versions}; {record['finished']}", ""]
    for name, table in record["details"].items():
        if table:
            lines += ["<details markdown>", f"<summary>{name.replace('_', ' ')}</summary>", ""]
            lines += _table(tuple(table[0]), ([cell(value) for value in line.values()] for line in table))
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
    word = compared_with(record["paper"])
    for row in rows_of(record):
        ours = f"ours {_value(row.ours)} (n = {row.n})"
        lines += [f"  {row.quantity}", f"    {word} {row.paper}; {ours}; {row.judgement}"]
        lines += [f"    beside it: {'; '.join(filter(None, [beside(row), row.rivals]))}"] if row.baselines else []
    return "\n".join(lines)


def beside(row: Row) -> str:
    """Returns what trivial curves and alternatives give for a quantity."""
    return "; ".join(f"{name} {_plain(value)}" for name, value in row.baselines.items())


def stated(row: Row) -> str:
    """Returns what the paper says of a quantity, with the interval in which ours counts as agreement."""
    if row.expected is None:
        return row.paper
    return f"{row.paper} (agreement: {_between(*row.expected)})"


def cell(value: Any) -> str:
    """Returns a value of an experiment's further tables as text."""
    if isinstance(value, float):
        return _plain(value)
    if isinstance(value, list):
        return " ".join(_plain(v) for v in value)
    return "" if value is None else str(value)


def _not_run(record: Record) -> str:
    return f"{record['status']}: {'; '.join(record['why'])}"


def _null(row: Row) -> str:
    """Returns what there is to compare a value with: chance, and the rival that does best."""
    chance = f"chance {_chance(row.ours)}" if row.ours.chance else ""
    return "; ".join(filter(None, [chance, beside(row)]))


def _duration(record: Record) -> str:
    training = sum(line.get("training seconds", 0) for line in record["details"].get("networks", ()))
    taken = f"{record['seconds']:.0f} s"
    if not training:
        return taken
    return f"{taken}; its networks took {training / 60:.0f} min to train, here or in an experiment that shares them"


def _table(head: Sequence[str], body: Iterable[Sequence[str]]) -> list[str]:
    def line(cells: Iterable[str]) -> str:
        return "| " + " | ".join(c.replace("|", "\\|") for c in cells) + " |"

    return [line(head), line("---" for _ in head), *(line(cells) for cells in body)]


def _value(number: Number) -> str:
    return _plain(number.value) if number.spread is None else value_and_spread(number)


def _chance(number: Number) -> str:
    if number.chance is None:
        return ""
    return _between(*number.chance) + (f" ({number.chance_name})" if number.chance_name else "")


def _between(low: float, high: float) -> str:
    if math.isinf(high):
        return f"above {_plain(low)}"
    ends = _plain(low), _plain(high)
    return " to ".join(dict.fromkeys(ends))


def _plain(value: float) -> str:
    if math.isnan(value):
        return "undefined"
    value += 0.0  # -0.0 is no number for a reader
    if 0 < abs(value) < 5e-4:
        return f"{value:.1g}".replace("-", "−")
    digits = 3 if abs(value) < 0.095 and value else 2
    return (f"{value:.0f}" if abs(value) >= 10 else f"{value:.{digits}f}").replace("-", "−")
