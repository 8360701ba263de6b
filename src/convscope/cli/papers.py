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
    help="FILE.json: where to keep the results, with a page FILE.html beside them  [default: papers.json]. For saved "
    "results FILE.html, or FILE.md (Markdown, with a folder FILE of a page for each paper).",
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

    NAME is an experiment ("chowers2023/formula") or a paper ("chowers2023", all its experiments). The results are kept
    in papers.json, with a page papers.html beside it. NAME may also be such a file: it is printed, or with -o written
    as a page, without running anything.

    --all runs every experiment that the file does not hold; the same command goes on after an interruption. --scale
    smoke needs no data: photographs and digits that ship with scikit-image and scikit-learn, and untrained networks,
    stand for those that are not named.

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
    if any(name.endswith(".json") for name in names):
        if len(names) > 1:
            raise ConvscopeError("a file of results stands alone: name one file, or experiments")
        _show(Path(names[0]), output)
        return

    output = output or Path("papers.json")
    if output.suffix != ".json":
        raise ConvscopeError(f"-o {output}: results are kept in a FILE.json; a page of it is made afterwards")
    located = {}
    for item in data:
        name, equals, path = item.partition("=")
        if not equals or name not in WANTED:
            raise ConvscopeError(f"--data {item}: expected NAME=PATH, with NAME one of {', '.join(WANTED)}")
        located[name] = Path(path)
    scaled = f" --scale {scale}" if scale != "cpu" else ""
    command = f"convscope papers NAME{scaled}" + "".join(f" --data {item}" for item in data)
    wanted = list(experiments().values()) if everything else chosen(names)
    missing = record.left(wanted, output, scale)
    if everything:
        if len(missing) < len(wanted):
            click.echo(f"{len(wanted) - len(missing)} of {len(wanted)} experiments stand in {output} already")
        wanted = missing
    stopped = False
    try:
        for experiment, result in record.run_all(wanted, Setup(scale, located, cache), command, jobs):  # type: ignore[arg-type]
            record.add(output, experiment.key, result)
            stopped |= result["status"] == record.FAILED
            click.echo(table.text(experiment.key, result))
    except KeyboardInterrupt:
        click.echo(f"Interrupted: {output} holds what was done.", err=True)
        sys.exit(3)
    finally:
        if output.exists():
            _write(record.read(output), str(output), output.with_suffix(".html"))
    click.echo(f"written to {output} and {output.with_suffix('.html')}")
    if stopped:
        sys.exit(1)


def _listed(experiment: Experiment) -> str:
    lines = [
        experiment.key,
        f"    {experiment.shows}",
        f"    data: {', '.join(experiment.data) or 'none from outside'}",
    ]
    return "\n".join([*lines, *(f"    {scale}: {cost}" for scale, cost in experiment.costs.items())])


def _show(saved: Path, output: Path | None) -> None:
    from convscope.core.errors import ConvscopeError
    from convscope.papers import record, table

    records = record.read(saved)
    if not records:
        raise ConvscopeError(f"{saved} does not exist or holds no results; make it with convscope papers NAME -o FILE")
    if output is None:
        for key, result in records.items():
            click.echo(table.text(key, result))
        return
    _write(records, str(saved), output)
    click.echo(f"written to {output}")


def _write(records: dict, source: str, output: Path) -> None:
    from convscope.core.errors import ConvscopeError
    from convscope.papers import page, table

    if output.suffix == ".md":
        table.write_pages(records, source, output)
    elif output.suffix == ".html":
        output.write_text(page.html(records), encoding="utf-8")
    else:
        raise ConvscopeError(f"-o {output}: saved results are written as a page, FILE.html or FILE.md")
