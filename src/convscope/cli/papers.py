"""``convscope papers``: the papers' experiments, run again."""

from __future__ import annotations

from pathlib import Path

import click


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
@click.option("--cache", type=click.Path(path_type=Path), help="Folder that keeps trained networks for the next run.")
@click.option(
    "-o",
    "output",
    type=click.Path(path_type=Path, dir_okay=False),
    help="FILE.json: add the results to this file. FILE.md: write them as a page.",
)
def papers(names: tuple[str, ...], scale: str, data: tuple[str, ...], cache: Path | None, output: Path | None) -> None:
    """Runs the papers' experiments and prints the papers' values beside ours.

    NAME is an experiment ("chowers2023/formula"), a paper ("chowers2023", all its experiments), or a file of results
    (FILE.json), which is printed, or with -o FILE.md written as a page, without running anything.
    """  # ruff: ignore[docstring-missing-exception] (Click prints this docstring)
    from convscope.core.errors import ConvscopeError
    from convscope.papers import record, table
    from convscope.papers.data import WANTED
    from convscope.papers.registry import Setup, chosen, experiments

    if not names:
        for key, experiment in experiments().items():
            click.echo(
                f"{key}\n    {experiment.shows}\n    {experiment.costs['cpu']}; needs {', '.join(experiment.data)}"
            )
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
    records = {}
    for experiment, result in record.run_all(chosen(names), Setup(scale, located, cache), command):  # type: ignore[arg-type]
        records[experiment.key] = result
        if output is not None and output.suffix == ".json":
            record.add(output, experiment.key, result)
        click.echo(table.text(experiment.key, result))
    if output is not None and output.suffix == ".md":
        output.write_text(table.markdown(records, "FILE.json"), encoding="utf-8")
    if output is not None:
        click.echo(f"written to {output}")


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
