"""``convscope papers``: the papers' experiments, run again."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from convscope.papers.registry import Experiment


@click.command(short_help="Run the papers' experiments; list them without a name.")
@click.argument("names", nargs=-1, metavar="[NAME ...]")
@click.option(
    "--scale",
    type=click.Choice(["smoke", "cpu", "paper"]),
    default="cpu",
    show_default=True,
    help="smoke: does it run; cpu: minutes on one core; paper: the paper's sizes.",
)
@click.option(
    "--data",
    "data",
    multiple=True,
    metavar="NAME=PATH",
    help="Where a data set lies, such as cifar10=FOLDER; else the folder that $CONVSCOPE_DATA names is searched.",
)
@click.option("--all", "everything", is_flag=True, help="Every experiment that the -o file does not hold.")
@click.option(
    "--jobs",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    help="Experiments at once, each in a process of its own.",
)
@click.option("--cache", type=click.Path(path_type=Path), help="Folder that keeps trained networks for the next run.")
@click.option(
    "-o",
    "output",
    type=click.Path(path_type=Path, dir_okay=False),
    help="FILE.json: add the results to this file (default of --all: papers.json). FILE.md: write them as a page.",
)
def papers(
    names: tuple[str, ...],
    scale: str,
    data: tuple[str, ...],
    everything: bool,
    jobs: int,
    cache: Path | None,
    output: Path | None,
) -> None:
    """Runs the papers' experiments and prints the papers' values beside ours; lists them without a name.

    NAME is an experiment ("chowers2023/formula"), a paper ("chowers2023", all its experiments), or a file of results
    (FILE.json), which is printed, or with -o FILE.md written as a page, without running anything.

    --all runs every experiment and saves each as soon as it is done; the same command goes on after an interruption.

    Exit status: 0 done, 1 an experiment stopped, 2 wrong usage, 3 interrupted.
    """  # ruff: ignore[docstring-missing-exception] (Click prints this docstring)
    from convscope.core.errors import ConvscopeError
    from convscope.papers import record, table
    from convscope.papers.data import WANTED
    from convscope.papers.registry import Setup, chosen, experiments

    if everything and names:
        raise click.UsageError("--all stands alone, or name experiments")
    if not names and not everything:
        for experiment in experiments().values():
            click.echo(_listed(experiment))
        return
    if output is not None and output.suffix not in {".json", ".md"}:
        raise ConvscopeError(f"-o {output}: expected a name that ends in .json or .md")
    saved = [name for name in names if name.endswith(".json")]
    if saved and len(names) > 1:
        raise ConvscopeError("a file of results stands alone: name one file, or experiments")
    if saved:
        records = record.read(Path(saved[0]))
        if not records:
            raise ConvscopeError(
                f"{saved[0]} does not exist or holds no results; make it with convscope papers NAME -o FILE"
            )
        _show(records, saved[0], output)
        return

    located = {}
    for item in data:
        name, equals, path = item.partition("=")
        if not equals or name not in WANTED:
            raise ConvscopeError(f"--data {item}: expected NAME=PATH, with NAME one of {', '.join(WANTED)}")
        located[name] = Path(path)
    scaled = f" --scale {scale}" if scale != "cpu" else ""
    command = f"convscope papers NAME{scaled}" + "".join(f" --data {item}" for item in data)
    wanted = list(experiments().values()) if everything else chosen(names)
    if everything:
        output = output or Path("papers.json")
        if output.suffix != ".json":
            raise ConvscopeError(f"-o {output}: --all saves to a FILE.json; make the page of that afterwards")
        missing = record.left(wanted, output, scale)
        if len(missing) < len(wanted):
            click.echo(f"{len(wanted) - len(missing)} of {len(wanted)} experiments stand in {output} already")
        wanted = missing
    records = {}
    try:
        for experiment, result in record.run_all(wanted, Setup(scale, located, cache), command, jobs):  # type: ignore[arg-type]
            records[experiment.key] = result
            if output is not None and output.suffix == ".json":
                record.add(output, experiment.key, result)
            click.echo(table.text(experiment.key, result))
    except KeyboardInterrupt:
        kept = f": {output} holds what was done" if output is not None and output.suffix == ".json" else ""
        click.echo(f"Interrupted{kept}.", err=True)
        sys.exit(3)
    if output is not None and output.suffix == ".md":
        output.write_text(table.markdown(records, "FILE.json"), encoding="utf-8")
    if output is not None:
        click.echo(f"written to {output}")
    if any(result["status"] == record.FAILED for result in records.values()):
        sys.exit(1)


def _listed(experiment: Experiment) -> str:
    lines = [
        experiment.key,
        f"    {experiment.shows}",
        f"    data: {', '.join(experiment.data) or 'none from outside'}",
    ]
    return "\n".join([*lines, *(f"    {scale}: {cost}" for scale, cost in experiment.costs.items())])


def _show(records: dict, source: str, output: Path | None) -> None:
    from convscope.core.errors import ConvscopeError
    from convscope.papers import table

    if output is None:
        for key, result in records.items():
            click.echo(table.text(key, result))
        return
    if output.suffix != ".md":
        raise ConvscopeError(f"-o {output}: results that exist already are written as a page, FILE.md")
    output.write_text(table.markdown(records, source), encoding="utf-8")
    click.echo(f"written to {output}")
