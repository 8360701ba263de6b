"""`convscope render`: the page from a saved report."""

from __future__ import annotations

from pathlib import Path

import click


@click.command()
@click.argument("saved", metavar="REPORT.JSON", type=click.Path(path_type=Path))
@click.option("-o", "--output", type=click.Path(path_type=Path), help="The page; default: beside the JSON.")
def render(saved: Path, output: Path | None) -> None:
    """Rebuilds the page from REPORT.JSON, without network or images."""
    from convscope.cli.options import check_output

    output = output or saved.with_suffix(".html")
    check_output(output)
    from convscope.analyse import read_report

    click.echo(str(read_report(saved).save(output)))
