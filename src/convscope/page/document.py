"""The page: one self-contained HTML document made from a report."""

from __future__ import annotations

import base64
import hashlib
import logging
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup, escape
from matplotlib.figure import Figure

from convscope.core.results import Definition, Finding, Number, Result
from convscope.page.gauge import Scale, gauge, scale_of
from convscope.page.images import thumbnails
from convscope.page.svg import inline_svg
from convscope.page.theme import clean
from convscope.page.wording import chance, count, day, duration, rounded, value_and_spread, verdict

if TYPE_CHECKING:
    from convscope.page.report import Report

LARGEST_PAGE = 2_000_000  # bytes
_MOST_ROWS = 300  # of a table on the page; all of them are in the JSON
_MOST_ITEMS = 100  # of a list of skipped things or unreadable images

# Only where papers live: a page from a stranger links nowhere else.
_PAPER = re.compile(
    r"https://(?:arxiv\.org|doi\.org|proceedings\.mlr\.press|openreview\.net|jmlr\.org|papers\.nips\.cc)/[\w./?=&%#:-]*[\w/]"
    r"|arXiv:(?P<arxiv>\d{4}\.\d{4,5})"
)
_COUNTS = {1: "one sentence", 2: "two sentences", 3: "three sentences", 4: "four sentences", 5: "five sentences"}
_NO_SPREAD, _NO_CHANCE = "spread not computed", "chance not computed"
_log = logging.getLogger(__name__)


def render(report: Report) -> str:
    """Returns the HTML document; details give way, and say so, where the page would exceed 2 MB.

    Args:
        report: what to show.
    """
    view = _view(report)
    page = fill("report.html", view)
    for give_way in (_drop_numbers, _drop_figures):
        if len(page.encode("utf-8", "replace")) > LARGEST_PAGE:
            for section in view["sections"]:
                give_way(section)
            page = fill("report.html", view)
    return page


def fill(template: str, view: Mapping[str, Any]) -> str:
    """Returns a page of this package's templates, with its style and script inside and nothing from elsewhere allowed.

    Args:
        template: the template's file name.
        view: what it shows.
    """
    css, js = _asset("report.css"), _asset("report.js")
    policy = (
        f"default-src 'none'; img-src data:; style-src {_hash(css)}; script-src {_hash(js)}; base-uri 'none'; "
        "form-action 'none'"
    )
    return _templates().get_template(template).render(policy=policy, css=Markup(css), js=Markup(js), **view)


def _drop_numbers(section: dict[str, Any]) -> None:
    section["table"] = None
    for figure in (section["main"], *section["others"]):
        if figure:
            figure["numbers"] = None
    section["dropped"] = "To keep this page small, the numbers behind the figures stand in the JSON only."


def _drop_figures(section: dict[str, Any]) -> None:
    section["others"] = []
    section["dropped"] = "To keep this page small, further figures and the numbers behind them were left out."


@cache
def _asset(name: str) -> str:
    return files("convscope.page").joinpath(name).read_text("utf-8")


@cache
def _templates() -> Environment:
    environment = Environment(
        loader=FunctionLoader(_asset),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        finalize=lambda x: x if isinstance(x, Markup) else "\n".join(map(clean, str(x).split("\n"))),
    )
    environment.globals["count"] = count
    return environment


def _hash(text: str) -> str:
    return "'sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() + "'"


def _view(report: Report) -> dict[str, Any]:
    from convscope.page.report import TOP_FINDINGS

    head, coverage = report.head, report.coverage
    anchors = [_anchors(result, i) for i, result in enumerate(report.results)]
    top = [
        _finding(finding, anchors[i]) | {"section": f"s{i + 1}", "question": report.results[i].question}
        for i, finding in report.ranked_findings()[:TOP_FINDINGS]
    ]
    skipped = report.skipped()
    name = head.network or head.data or "unnamed"
    sections = [_section(result, i, anchors[i]) for i, result in enumerate(report.results)]
    layers = _layers(report.results, anchors)
    definitions = [
        _definition(definition, anchors[i][key])
        for i, result in enumerate(report.results)
        for key, definition in result.definitions().items()
    ]
    contents = [("findings", "Findings"), *((s["id"], s["question"]) for s in sections)]
    contents += [("layers", "Layer by layer")] if layers["rows"] else []
    contents += [("skipped", f"Skipped ({len(skipped)})" if skipped else "Skipped (nothing)")]
    contents += [("definitions", "Definitions")] if definitions else []
    contents += [("provenance", "How this was made")]
    return {
        "title": f"{name} · convscope",
        "heading_text": name,
        "lede": f"on {head.data}" if head.network and head.data else "",
        "facts": _facts(report),
        "interrupted": _interrupted(report),
        "strip": thumbnails(head.strip),
        "strip_note": head.strip_note,
        "notes": head.notes,
        "contents": contents,
        "findings_title": f"In {_COUNTS[len(top)]}" if top else "Findings",
        "top": top,
        "sections": sections,
        "layers": layers,
        "skipped": skipped[:_MOST_ITEMS],
        "skipped_more": _beyond(len(skipped)),
        "definitions": definitions,
        "command": report.provenance.command,
        "provenance": _provenance(report),
        "coverage_notes": coverage.notes,
        "unreadable": coverage.unreadable[:_MOST_ITEMS],
        "unreadable_total": len(coverage.unreadable),
        "unreadable_more": _beyond(len(coverage.unreadable)),
        "timings": grid_of({
            "part": list(coverage.seconds),
            "seconds": [f"{s:.2f}" for s in coverage.seconds.values()],
        }),
        "classes": ", ".join(head.classes[:_MOST_ITEMS]) + (", …" if len(head.classes) > _MOST_ITEMS else ""),
        "classes_total": len(head.classes),
    }


def _facts(report: Report) -> list[str]:
    head, provenance = report.head, report.provenance
    c, h, w = head.image_shape
    facts = [count(report.coverage.images, "image", "images")]
    if head.classes:
        facts.append(count(len(head.classes), "class", "classes"))
    if h and w:
        facts.append(f"{h} × {w} pixels, {count(c, 'channel', 'channels')}")
    facts += [day(provenance.date), duration(provenance.seconds)]
    if "convscope" in provenance.versions:
        facts.append(f"convscope {provenance.versions['convscope']}")
    return facts


def _interrupted(report: Report) -> str:
    coverage = report.coverage
    if coverage.complete:
        return ""
    of = "" if coverage.expected is None else f" of {coverage.expected:,}"
    return f"The run was interrupted: every number here rests on {coverage.images:,}{of} images."


def _provenance(report: Report) -> list[tuple[str, str]]:
    coverage, provenance = report.coverage, report.provenance
    of = "" if coverage.expected is None else f" of {coverage.expected:,}"
    read = f"{coverage.images:,}{of} read, {len(coverage.unreadable):,} unreadable"
    if coverage.resumed:
        read += f", the sums of {coverage.resumed:,} from a checkpoint"
    rows = [
        ("Images", read),
        ("Error bars", f"{coverage.folds} folds of images" if coverage.folds > 1 else "not computed"),
        ("Processes", f"{coverage.processes}"),
        ("Precision", provenance.precision),
        ("Seeds", ", ".join(f"{name} {seed}" for name, seed in provenance.seeds.items()) or "none drawn"),
        ("Versions", ", ".join(f"{name} {version}" for name, version in provenance.versions.items())),
        ("Date", day(provenance.date)),
        ("Time", duration(provenance.seconds)),
    ]
    return [(name, text) for name, text in rows if text]


def _section(result: Result, i: int, anchors: Mapping[str, str]) -> dict[str, Any]:
    found = [_finding(finding, anchors) for finding in result.findings()]
    drawn: Mapping[str, Figure | None]
    try:
        drawn = result.figures()
    except Exception as error:  # an hour's pass must not be lost to a drawing
        _log.exception("the figures of %s could not be drawn", result.kind)
        drawn = {f"The figures could not be drawn ({type(error).__name__}: {error}).": None}
    figures = [_figure(name, figure, f"s{i + 1}f{j + 1}") for j, (name, figure) in enumerate(drawn.items())]
    frame = result.to_frame()
    return {
        "id": f"s{i + 1}",
        "question": result.question,
        "answer": found[0] if found else None,
        "findings": found[1:],
        "main": figures[0] if figures else None,
        "others": figures[1:],
        "table": grid_of({str(name): column.tolist() for name, column in frame.items()}),
        "dropped": "",
    }


def _figure(name: str, figure: Figure | None, place: str) -> dict[str, Any]:
    caption = str(getattr(figure, "caption", "") or name)
    svg, failure = None, name
    if figure is not None:
        try:
            svg = inline_svg(figure, place, str(getattr(figure, "alt", "") or caption))
        except Exception as error:  # see above
            _log.exception("figure %s could not be drawn", name)
            failure = f"This figure could not be drawn ({type(error).__name__}: {error})."
    return {
        "id": place,
        "svg": svg,
        "failure": failure,
        "caption": caption if figure is not None else "",
        "how_to_read": str(getattr(figure, "how_to_read", "")),
        "numbers": grid_of(getattr(figure, "data", {})),
    }


def grid_of(columns: Mapping[str, Sequence[Any]]) -> dict[str, Any] | None:
    """Returns what the templates' macro "grid" shows: columns, padded to the longest; None where nothing is in them.

    Args:
        columns: name to values.
    """
    total = max(map(len, columns.values()), default=0)
    if not total:
        return None
    shown = min(total, _MOST_ROWS)
    return {
        "total": total,
        "note": f"The first {shown} of {total:,} rows." if total > shown else "",
        "columns": [{"name": n, "numeric": all(not isinstance(v, str) for v in c)} for n, c in columns.items()],
        "rows": [[_cell(c[r]) if r < len(c) else "" for c in columns.values()] for r in range(shown)],
    }


def _cell(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None:
        return "–"
    if isinstance(value, int):
        return f"{value}".replace("-", "−")
    if isinstance(value, float):
        return "–" if math.isnan(value) else rounded(float(f"{value:.4g}")) if abs(value) < 1e-4 else f"{value:.4g}"
    return str(value)


def _layers(results: Sequence[Result], anchors: Sequence[Mapping[str, str]]) -> dict[str, Any]:
    found = [result.layers() for result in results]
    tables = [{layer: row.numbers for layer, row in rows.items()} for rows in found]
    shapes = {layer: row.shape for rows in found for layer, row in rows.items() if row.shape}
    columns = list(dict.fromkeys((i, name) for i, table in enumerate(tables) for row in table.values() for name in row))
    names = [name for _, name in columns]
    scales = [scale_of(row[name] for row in tables[i].values() if name in row) for i, name in columns]
    shared_notes = [_shared_notes([row[name] for row in tables[i].values() if name in row]) for i, name in columns]
    rows = [
        {
            "name": layer,
            "shape": shapes.get(layer, ""),
            "cells": [
                _layer_number(number, anchors[i], scale, shared)
                if (number := tables[i].get(layer, {}).get(name))
                else None
                for (i, name), scale, shared in zip(columns, scales, shared_notes, strict=True)
            ],
        }
        for layer in dict.fromkeys(layer for table in tables for layer in table)
    ]
    labelled = [f"{name} ({results[i].kind})" if names.count(name) > 1 else name for i, name in columns]
    return {
        "columns": [
            {"name": name, "note": ", ".join([f"gauge from {scale}", *notes])}
            for name, scale, notes in zip(labelled, scales, shared_notes, strict=True)
        ],
        "rows": rows,
        "shapes": bool(shapes),
    }


def _anchors(result: Result, i: int) -> dict[str, str]:
    return {key: f"d{i + 1}-{j + 1}" for j, key in enumerate(result.definitions())}


def _finding(finding: Finding, anchors: Mapping[str, str]) -> dict[str, Any]:
    return {"text": finding.text, "number": number_of(finding.number, anchors)}


def _shared_notes(numbers: Sequence[Number]) -> list[str]:
    """Returns what is true of a whole column, so that its cells need not repeat it."""
    notes = []
    if all(n.spread is None for n in numbers):
        notes.append(_NO_SPREAD)
    if all(n.chance is None for n in numbers):
        notes.append(_NO_CHANCE)
    elif len(names := {n.chance_name for n in numbers if n.chance}) == 1 and (name := names.pop()):
        notes.append(f"chance is {name}")
    return notes


def _layer_number(number: Number, anchors: Mapping[str, str], scale: Scale, shared: Sequence[str]) -> dict[str, Any]:
    short = replace(number, chance_name="") if f"chance is {number.chance_name}" in shared else number
    notes = [_NO_SPREAD] if number.spread is None and not math.isnan(number.value) else []
    notes.append(chance(short))
    return number_of(number, anchors, scale) | {"notes": [note for note in notes if note not in shared]}


def number_of(number: Number, anchors: Mapping[str, str] | None = None, scale: Scale | None = None) -> dict[str, Any]:
    """Returns what the templates' macro "measure" shows of a number.

    Args:
        number: the number.
        anchors: definition to the place on the page where it stands.
        scale: of its gauge; None: its own.
    """
    undefined = math.isnan(number.value)
    scale = scale or scale_of([number])
    return {
        "low": rounded(scale.low),
        "high": rounded(scale.high) + (" (log)" if scale.log else ""),
        "value": value_and_spread(number),
        "missing": _NO_SPREAD if number.spread is None and not undefined else "",
        "chance": chance(number),
        "verdict": verdict(number),
        "gauge": gauge(number, scale),
        "href": (anchors or {}).get(number.definition, ""),
        "sort": repr(float(number.value)) if math.isfinite(number.value) else "",
    }


def _definition(definition: Definition, anchor: str) -> dict[str, Any]:
    return {
        "id": anchor,
        "name": definition.name,
        "formula": definition.formula,
        "source": _linked(clean(definition.source)),
        "note": definition.note,
    }


def _linked(source: str) -> Markup:
    """Returns a source with its paper addresses as links; all else is escaped."""
    parts, end = [], 0
    for match in _PAPER.finditer(source):
        address = f"https://arxiv.org/abs/{match['arxiv']}" if match["arxiv"] else match[0]
        link = Markup('<a href="{}" rel="noopener noreferrer" target="_blank">{}</a>').format(address, match[0])
        parts += [escape(source[end : match.start()]), link]
        end = match.end()
    return Markup("").join([*parts, escape(source[end:])])


def _beyond(total: int) -> str:
    return f"and {total - _MOST_ITEMS:,} more: see the JSON" if total > _MOST_ITEMS else ""
