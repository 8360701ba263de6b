"""A page of quantities, each beside what somebody stated about it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from convscope.core.results import Number
from convscope.page.document import fill, grid_of, number_of


@dataclass(frozen=True)
class Quantity:
    """One quantity beside what was stated.

    Attributes:
        quantity: what it is.
        stated: what was stated about it.
        number: what was found.
        verdict: how the two compare; "" where nothing was stated.
        reason: why they differ.
        beside: what alternatives give.
        note: what a reader must know.
    """

    quantity: str
    stated: str
    number: Number
    verdict: str = ""
    reason: str = ""
    beside: str = ""
    note: str = ""


@dataclass(frozen=True)
class Section:
    """Quantities that belong together.

    Attributes:
        name: short, for the contents.
        title: a question.
        answer: one line.
        source: who stated what.
        quantities: in order.
        tables: name to lines of further values.
        command: what a reader types to repeat it.
        settings: name to value.
    """

    name: str
    title: str
    answer: str
    source: str
    quantities: Sequence[Quantity] = ()
    tables: Mapping[str, Sequence[Mapping[str, Any]]] = field(default_factory=dict)
    command: str = ""
    settings: Mapping[str, str] = field(default_factory=dict)


def render_comparison(title: str, lede: str, facts: Sequence[str], sections: Sequence[Section]) -> str:
    """Returns one self-contained HTML document.

    Args:
        title: of the page.
        lede: a sentence below it.
        facts: short ones below that.
        sections: in order.
    """
    return fill(
        "comparison.html",
        {
            "kicker": "convscope papers",
            "title": title,
            "lede": lede,
            "facts": facts,
            "sections": [_section(section, i) for i, section in enumerate(sections)],
        },
    )


def _section(section: Section, i: int) -> dict[str, Any]:
    shown = [vars(q) | {"number": number_of(q.number)} for q in section.quantities]
    tables = [(name, grid_of(_columns(lines))) for name, lines in section.tables.items()]
    return vars(section) | {
        "id": f"s{i + 1}",
        "judged": [q for q in shown if q["verdict"]],
        "others": [q for q in shown if not q["verdict"]],
        "tables": [{"name": name, "grid": grid} for name, grid in tables if grid],
        "settings": list(section.settings.items()),
    }


def _columns(lines: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    names = list(dict.fromkeys(name for line in lines for name in line))
    return {name: [_flat(line.get(name)) for line in lines] for name in names}


def _flat(value: Any) -> Any:
    return " ".join(f"{v:.4g}" if isinstance(v, float) else str(v) for v in value) if isinstance(value, list) else value
