"""Running experiments, and the file that keeps what they gave."""

from __future__ import annotations

import json
import math
import platform
import tempfile
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from convscope.core.errors import ConvscopeError
from convscope.papers.data import WANTED, locate
from convscope.papers.registry import Experiment, Setup, experiments
from convscope.papers.stand_ins import stand_in

SCHEMA = 2
DONE = "done"
MISSING = "not run (data missing)"
FAILED = "not run (it stopped)"

Record = dict[str, Any]


def run_all(
    chosen: Sequence[Experiment], setup: Setup, command: str, jobs: int = 1
) -> Iterator[tuple[Experiment, Record]]:
    """Yields each experiment with its record as soon as it is done.

    At scale "smoke" small stand-ins take the place of data sets that ``setup.data`` does not name.

    Args:
        chosen: experiments; one after the other they share in memory what they train.
        setup: scale, data and cache.
        command: what a reader types to repeat an experiment, with NAME for its name.
        jobs: experiments at once, by joblib: in processes, or wherever the surrounding ``joblib.parallel_config`` sends
            them. They share what they train by the cache; without one, by a folder that is removed afterwards.

    Yields:
        The experiment and its record as ``run_one`` gives it; with several jobs, the first to end comes first.
    """
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        if setup.scale == "smoke":
            names = {name for experiment in chosen for name in experiment.data} - set(setup.data)
            setup = replace(setup, data={**setup.data, **{name: stand_in(name, folder) for name in sorted(names)}})
        if jobs == 1:
            for experiment in chosen:
                yield experiment, run_one(experiment, setup, command)
            return
        from joblib import Parallel, delayed

        known = {experiment.key: experiment for experiment in chosen}
        shared = replace(setup, cache=setup.cache or folder / "networks", progress=False, alone=False)
        tasks = (delayed(_named)(key, shared, command) for key in known)
        for key, record in Parallel(n_jobs=jobs, return_as="generator_unordered")(tasks):
            yield known[key], record


def _named(key: str, setup: Setup, command: str) -> tuple[str, Record]:
    return key, run_one(experiments()[key], setup, command)


def run_one(experiment: Experiment, setup: Setup, command: str) -> Record:
    """Returns the record of an experiment: status, settings, rows, details, seconds and versions.

    One whose data are not at hand has the status "not run (data missing)", and one that cannot go on with what it finds
    "not run (it stopped)"; "why" says what is wanted. A fault of its code stops it alike, and the traceback is printed.

    Args:
        experiment: the experiment.
        setup: scale, data and cache.
        command: what a reader types to repeat it, with NAME for its name.
    """
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
        return record | {"status": MISSING, "why": lines}
    begin = time.perf_counter()
    try:
        outcome = experiment.run(setup)
    except ConvscopeError as error:
        return record | {"status": FAILED, "why": [str(error)]}
    except Exception as error:  # one experiment's fault must not cost hours of the others
        traceback.print_exc()
        return record | {"status": FAILED, "why": [f"a fault in convscope: {type(error).__name__}: {error}"]}
    return record | {
        "status": DONE,
        "settings": dict(outcome.settings),
        "rows": [row.to_json() for row in outcome.rows],
        "details": {name: [_defined(line) for line in lines] for name, lines in outcome.details.items()},
        "seconds": round(time.perf_counter() - begin, 1),
        "versions": _versions(),
        "finished": datetime.now(UTC).strftime("%Y-%m-%d"),
    }


def _defined(line: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a line of a table with None for what is undefined or infinite, which JSON cannot hold."""
    return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in line.items()}


def left(chosen: Sequence[Experiment], path: Path, scale: str) -> list[Experiment]:
    """Returns the experiments that a results file does not hold as done.

    Raises:
        ConvscopeError: when it holds some at another scale, which would be lost.
    """
    done = {key: record["scale"] for key, record in read(path).items() if record["status"] == DONE}
    if others := set(done.values()) - {scale}:
        raise ConvscopeError(
            f"{path} holds results at scale {', '.join(sorted(others))}, which those at scale {scale} would replace: "
            "name another file with -o"
        )
    return [experiment for experiment in chosen if experiment.key not in done]


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
