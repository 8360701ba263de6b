"""The HTML page of the papers' values beside ours, made from saved results."""

from __future__ import annotations

from collections.abc import Mapping

from convscope.page.comparison import Quantity, Section, render_comparison
from convscope.papers.record import DONE, Record
from convscope.papers.registry import Row, compared_with, titles
from convscope.papers.table import beside, counted, in_order, rows_of, stated


def html(records: Mapping[str, Record]) -> str:
    """Returns one self-contained HTML document with every experiment's quantities.

    Args:
        records: by experiment, as ``convscope.papers.record.read`` gives them.
    """
    order = in_order(records)
    return render_comparison(
        "The papers' numbers beside ours",
        "; ".join(titles().get(paper, paper) for paper in order) if len(order) == 1 else "Experiments, run again",
        [
            *counted(row for record in records.values() for row in rows_of(record)).split(", "),
            *(f"scale {scale}" for scale in sorted({record["scale"] for record in records.values()})),
        ],
        [_section(key, records[key]) for keys in order.values() for key in keys],
    )


def _section(key: str, record: Record) -> Section:
    claim = f"{titles().get(record['paper'], record['paper'])}. {record['claim']}"
    if record["status"] != DONE:
        answer = f"{record['status']}: {'; '.join(record['why'])}"
        return Section(key, record["shows"], answer, claim, command=record["command"])
    rows = rows_of(record)
    versions = ", ".join(f"{name} {version}" for name, version in record["versions"].items())
    return Section(
        key,
        record["shows"],
        counted(rows) or "No claim is judged.",
        claim,
        [_quantity(row, compared_with(record["paper"])) for row in rows],
        record["details"],
        record["command"],
        {
            **record["settings"],
            "scale": record["scale"],
            "seconds": f"{record['seconds']:g}",
            "versions": versions,
            "on": record["finished"],
        },
    )


def _quantity(row: Row, word: str) -> Quantity:
    alternatives = "; ".join(filter(None, [beside(row), row.rivals]))
    return Quantity(
        row.quantity, f"{word}: {stated(row)}", row.ours, row.verdict, row.shortfall, alternatives, row.note
    )
