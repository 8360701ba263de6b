"""Running experiments, and the file that keeps what they gave."""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from convscope.core.errors import ConvscopeError
from convscope.papers.data import WANTED, locate
from convscope.papers.registry import Experiment, Setup

SCHEMA = 1
DONE = "done"
MISSING = "not run (data missing)"

Record = dict[str, Any]


def run_all(chosen: Sequence[Experiment], setup: Setup, command: str) -> Iterator[tuple[Experiment, Record]]:
    """Yields each experiment with its record as soon as it is done.

    Args:
        chosen: experiments, in order; those of one paper share what they train.
        setup: scale, data and cache.
        command: what a reader types to repeat an experiment, with NAME for its name.

    Yields:
        The experiment and its record: status, settings, rows, details, seconds and versions. An experiment whose
        data are not at hand has the status "not run (data missing)" and says what is wanted.
    """
    for experiment in chosen:
        wanted = [name for name in experiment.data if locate(name, setup.data) is None]
        record: Record = {
            "paper": experiment.paper,
            "shows": experiment.shows,
            "claim": experiment.claim,
            "scale": setup.scale,
            "cost": experiment.costs[setup.scale],
            "command": command.replace("NAME", experiment.key),
        }
        if wanted:
            lines = [f"{name}: {WANTED[name]}; name it with --data {name}=PATH" for name in wanted]
            yield experiment, record | {"status": MISSING, "wanted": lines}
            continue
        begin = time.perf_counter()
        outcome = experiment.run(setup)
        yield (
            experiment,
            record
            | {
                "status": DONE,
                "settings": dict(outcome.settings),
                "rows": [row.to_json() for row in outcome.rows],
                "details": {name: [dict(line) for line in lines] for name, lines in outcome.details.items()},
                "seconds": round(time.perf_counter() - begin, 1),
                "versions": _versions(),
                "finished": datetime.now(UTC).strftime("%Y-%m-%d"),
            },
        )


def read(path: Path) -> dict[str, Record]:
    """Returns the records of a results file by experiment; empty where there is no file.

    Raises:
        ConvscopeError: when it is not a results file.
    """
    if not path.exists():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["schema"] == SCHEMA and isinstance(content["experiments"], dict):
            return content["experiments"]
    except (OSError, ValueError, KeyError, TypeError):
        pass
    raise ConvscopeError(f"{path} is no file of results of convscope papers (schema {SCHEMA}): name another file")


def add(path: Path, name: str, record: Record) -> None:
    """Adds a record to a results file; one that was not run never replaces one that was.

    Raises:
        ConvscopeError: when the file exists and is not a results file.
    """
    records = read(path)
    if record["status"] == DONE or records.get(name, {}).get("status") != DONE:
        records[name] = record
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".part")
    partial.write_text(
        json.dumps({"schema": SCHEMA, "experiments": records}, indent=1, allow_nan=False) + "\n", encoding="utf-8"
    )
    partial.replace(path)


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version(), "torch": torch.__version__, "threads": str(torch.get_num_threads())}
    try:
        found["convscope"] = version("convscope")
    except PackageNotFoundError:
        found["convscope"] = "not installed"
    return found
