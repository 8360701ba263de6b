"""The report: what a run found, as one value that is saved, read, printed and shown."""

from __future__ import annotations

import html as escaping
import json
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convscope.core.coverage import Coverage
from convscope.core.errors import ConvscopeError
from convscope.core.png import bytes_from_png, pictures_to_json
from convscope.core.results import Finding, Result, Skip, number_to_json, result_from_json, skips_to_json
from convscope.page import checks
from convscope.page.theme import clean

SCHEMA = 1
LARGEST_FILE = 64 * 2**20  # bytes; the JSON holds what the page shows, and the page stays under 2 MB
TOP_FINDINGS = 5


@dataclass(frozen=True)
class Head:
    """What was analysed.

    Attributes:
        network: the network's name.
        data: the data set's name.
        classes: names of the classes, empty where there are no labels.
        image_shape: (c, h, w), channels and pixels of an image as the network receives it.
        strip: [m, h, w, 3] uint8, a few images as the network saw them, after normalisation; m may be 0.
        strip_note: how the strip was made ("after normalisation; grey is 0, black and white ±2").
        notes: sentences that a reader should know first (assumptions, conversions).
        skipped: what could not be analysed.
    """

    network: str
    data: str
    classes: tuple[str, ...] = ()
    image_shape: tuple[int, int, int] = (3, 0, 0)
    strip: NDArray[np.uint8] = field(default_factory=lambda: np.zeros((0, 1, 1, 3), np.uint8), compare=False)
    strip_note: str = ""
    notes: tuple[str, ...] = ()
    skipped: tuple[Skip, ...] = ()

    def __post_init__(self) -> None:
        if self.strip.dtype != np.uint8 or self.strip.ndim != 4 or self.strip.shape[3] != 3:
            raise ValueError(f"strip must be uint8 [m, h, w, 3], got {self.strip.dtype} {self.strip.shape}")

    def to_json(self) -> dict[str, Any]:
        """Returns plain JSON values; the strip as a PNG of its images from top to bottom."""
        return {
            "network": self.network,
            "data": self.data,
            "classes": list(self.classes),
            "image_shape": list(self.image_shape),
            "strip": pictures_to_json(self.strip),
            "strip_note": self.strip_note,
            "notes": list(self.notes),
            "skipped": skips_to_json(self.skipped),
        }

    @classmethod
    def from_json(cls, data: object) -> Head:
        """Returns the head that ``to_json`` described.

        Raises:
            ConvscopeError: when fields are missing or of the wrong kind.
        """
        shape = checks.sequence(checks.entry(data, "image_shape", "head"), "head.image_shape", checks.whole)
        strip = checks.entry(data, "strip", "head")
        sides = checks.sequence(checks.entry(strip, "shape", "head.strip"), "head.strip.shape", checks.whole)
        if len(shape) != 3 or len(sides) != 4:
            checks.reject("head.image_shape and head.strip.shape", "3 and 4 numbers", [shape, sides])
        png = checks.text(checks.entry(strip, "png", "head.strip"), "head.strip.png")
        return cls(
            network=checks.text(checks.entry(data, "network", "head"), "head.network"),
            data=checks.text(checks.entry(data, "data", "head"), "head.data"),
            classes=checks.sequence(checks.entry(data, "classes", "head"), "head.classes", checks.text),
            image_shape=(shape[0], shape[1], shape[2]),
            strip=bytes_from_png(png, (sides[0], sides[1], sides[2], sides[3])),
            strip_note=checks.text(checks.entry(data, "strip_note", "head"), "head.strip_note"),
            notes=checks.sequence(checks.entry(data, "notes", "head"), "head.notes", checks.text),
            skipped=checks.sequence(checks.entry(data, "skipped", "head"), "head.skipped", checks.skip),
        )


@dataclass(frozen=True)
class Provenance:
    """How to make the report again.

    Attributes:
        command: the command line, or the Python call.
        versions: package to version; "convscope" among them.
        seeds: what was drawn to its seed.
        date: ISO 8601, UTC.
        precision: arithmetic in words ("float64 sums; the network in float32").
        seconds: wall-clock seconds of the whole run.
    """

    command: str
    versions: Mapping[str, str]
    seeds: Mapping[str, int]
    date: str
    precision: str
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """Returns plain JSON values."""
        return {**self.__dict__, "versions": dict(self.versions), "seeds": dict(self.seeds)}

    @classmethod
    def from_json(cls, data: object) -> Provenance:
        """Returns the provenance that ``to_json`` described.

        Raises:
            ConvscopeError: when fields are missing or of the wrong kind.
        """
        where = "provenance"
        return cls(
            command=checks.text(checks.entry(data, "command", where), "provenance.command"),
            versions=checks.table(checks.entry(data, "versions", where), "provenance.versions", checks.text),
            seeds=checks.table(checks.entry(data, "seeds", where), "provenance.seeds", _seed),
            date=checks.text(checks.entry(data, "date", where), "provenance.date"),
            precision=checks.text(checks.entry(data, "precision", where), "provenance.precision"),
            seconds=checks.real(checks.entry(data, "seconds", where), "provenance.seconds"),
        )


@dataclass(frozen=True)
class Report:
    """What a run found; prints itself, shows itself in a notebook, and saves as a page or as JSON.

    Attributes:
        head: what was analysed.
        results: one or more theories' results.
        coverage: what the pass over the data read.
        provenance: how to make the report again.
    """

    head: Head
    results: tuple[Result, ...]
    coverage: Coverage
    provenance: Provenance

    def findings(self) -> list[Finding]:
        """Returns all findings: the first of each theory, then the second of each, and so on."""
        return [finding for _, finding in self.ranked_findings()]

    def ranked_findings(self) -> list[tuple[int, Finding]]:
        """Returns the findings in that order, each with the position of its result."""
        found = [result.findings() for result in self.results]
        longest = max(map(len, found), default=0)
        return [(i, mine[rank]) for rank in range(longest) for i, mine in enumerate(found) if rank < len(mine)]

    def skipped(self) -> list[Skip]:
        """Returns all that could not be analysed, without repetition."""
        return list(dict.fromkeys([*self.head.skipped, *(s for result in self.results for s in result.skipped)]))

    def to_json(self) -> dict[str, Any]:
        """Returns plain JSON values, from which :meth:`from_json` rebuilds the report.

        "findings" repeats the results' findings for readers without convscope; reading ignores it.
        """
        return {
            "schema": SCHEMA,
            "head": self.head.to_json(),
            "findings": [{"text": f.text, "number": number_to_json(f.number)} for f in self.findings()],
            "results": [{**result.to_json(), "kind": result.kind} for result in self.results],
            "coverage": self.coverage.to_json(),
            "provenance": self.provenance.to_json(),
        }

    @classmethod
    def from_json(cls, data: object) -> Report:
        """Returns the report that :meth:`to_json` described.

        Raises:
            ConvscopeError: for another schema, and for fields that are missing or of the wrong kind.
        """
        schema = checks.entry(data, "schema", "the file")
        if isinstance(schema, bool) or schema != SCHEMA:
            raise ConvscopeError(
                f"this report has schema {ascii(schema)[:40]}, but this version reads schema {SCHEMA}: "
                "use the convscope version that wrote it, or run the report again"
            )
        items = checks.sequence(checks.entry(data, "results", "the file"), "results", lambda v, _: v)
        return cls(
            head=Head.from_json(checks.entry(data, "head", "the file")),
            results=tuple(_result(item, f"results[{i}]") for i, item in enumerate(items)),
            coverage=checks.coverage(checks.entry(data, "coverage", "the file")),
            provenance=Provenance.from_json(checks.entry(data, "provenance", "the file")),
        )

    def html(self) -> str:
        """Returns the page: one self-contained HTML document under 2 MB."""
        from convscope.page.document import render

        return render(self)

    def text(self, width: int = 80) -> str:
        """Returns the terminal summary.

        Args:
            width: columns of the terminal.
        """
        from convscope.page.terminal import summary

        return summary(self, width)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Writes the page or the JSON, by suffix (.html, .json), and returns the path.

        An existing file is replaced only once the new one is complete.

        Args:
            path: where to.

        Raises:
            ValueError: for another suffix.
            ConvscopeError: when the file cannot be written.
        """
        path = Path(path)
        if path.suffix not in {".html", ".json"}:
            raise ValueError(f"a report is saved as .html or .json, got {path.name!r}")
        if path.suffix == ".html":
            content = self.html().encode("utf-8", "replace")
        else:
            # Unpaired surrogates (file names that are no UTF-8) become \udcXX, which is how JSON spells them.
            dumped = json.dumps(self.to_json(), allow_nan=False, ensure_ascii=False, indent=1)
            content = dumped.encode("utf-8", "backslashreplace")
        _write(path, content)
        return path

    def __str__(self) -> str:
        return self.text()

    def _repr_html_(self) -> str:
        document = escaping.escape(self.html(), quote=True)
        return (
            '<iframe title="convscope report" sandbox="allow-scripts allow-popups" '
            f'style="width:100%;height:80vh;border:0" srcdoc="{document}"></iframe>'
        )


def read_report(path: str | os.PathLike[str]) -> Report:
    """Returns the report saved as JSON; the file may come from a stranger.

    Args:
        path: a report.json.

    Raises:
        ConvscopeError: when the file cannot be read, is no report, or is damaged.
    """
    path, name = Path(path), clean(path)
    try:
        if not path.is_file():
            raise ConvscopeError(f"{name} is no file: hand in the report.json that convscope report wrote")
        if path.stat().st_size > LARGEST_FILE:
            raise ConvscopeError(f"{name} is larger than {LARGEST_FILE >> 20} MB, which no report is: check the file")
        content = path.read_bytes()
    except (OSError, ValueError) as error:
        raise ConvscopeError(f"cannot read {name} ({_one_line(error)}): check the path") from error
    try:
        data = json.loads(content.decode("utf-8-sig"), parse_constant=_no_constant)
    except (ValueError, RecursionError, MemoryError) as error:
        raise ConvscopeError(
            f"{name} is not a whole JSON file ({_one_line(error)}): hand in the report.json that convscope report wrote"
        ) from error
    try:
        return Report.from_json(data)
    except ConvscopeError as error:
        raise ConvscopeError(f"{name}: {_one_line(error)}") from error


def _result(item: object, where: str) -> Result:
    checks.text(checks.entry(item, "kind", where), f"{where}.kind")
    try:
        return checks.result(result_from_json(item), where)  # type: ignore[arg-type]
    except ConvscopeError:
        raise
    except Exception as error:  # a stranger's fields may break a theory's algebra anywhere
        raise ConvscopeError(
            f"not a usable report: {where} does not hold together ({type(error).__name__}: {_one_line(error)}): "
            "write it again with convscope report"
        ) from error


def _seed(value: object, where: str) -> int:
    return checks.whole(value, where, least=-(2**53))


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")


def _one_line(error: BaseException) -> str:
    line = " ".join(str(error).split()) or type(error).__name__
    return line if len(line) <= 300 else line[:297] + "..."


def _write(path: Path, content: bytes) -> None:
    beside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with beside.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except OSError as error:
        problem = error.strerror or _one_line(error)
        raise ConvscopeError(f"cannot write {clean(path)} ({problem}): choose another path with -o") from error
    finally:
        with suppress(OSError):
            beside.unlink(missing_ok=True)
