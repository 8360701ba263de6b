"""Options and steps that several commands share."""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from convscope.core.network import Network
    from convscope.core.passes import Pass
    from convscope.core.source import Source
    from convscope.inputs.networks import OpenedNetwork
    from convscope.page.report import Report

F = TypeVar("F", bound=Callable[..., Any])


class Numbers(click.ParamType):
    """Numbers joined by commas: "0.485,0.456,0.406"."""

    name = "x,y,z"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[float, ...]:
        """Returns the numbers."""
        if isinstance(value, tuple):
            return value
        try:
            return tuple(float(part) for part in str(value).split(","))
        except ValueError:
            self.fail(f"{value!r} is no list of numbers: write them like 0.5,0.5,0.5", param, ctx)


def _all(*options: Callable[[F], F]) -> Callable[[F], F]:
    def decorate(f: F) -> F:
        for option in reversed(options):
            f = option(f)
        return f

    return decorate


OUTPUT = _all(
    click.option("--json", "as_json", is_flag=True, help="Print the report as JSON instead of the summary."),
    click.option("-q", "--quiet", is_flag=True, help="No progress bars."),
)
_READING = _all(
    click.option("--limit", type=click.IntRange(1), help="Use at most so many images, chosen at random."),
    click.option("--size", type=click.IntRange(1), help="Bring images to squares of so many pixels."),
    click.option("--batch-size", type=click.IntRange(1), default=64, show_default=True, help="Images of a batch."),
    click.option("--workers", type=click.IntRange(0), default=0, show_default=True, help="Reading processes."),
    click.option(
        "--max-memory",
        type=click.FloatRange(0, min_open=True),
        default=2.0,
        show_default=True,
        help="GiB that all sums may take; error bars are given up first.",
    ),
    click.option("--resume", is_flag=True, help="Continue an interrupted run from its checkpoint."),
)


@dataclass(frozen=True)
class Reading:
    """How images are read: the options of ``reading_options``, by their names."""

    limit: int | None
    size: int | None
    batch_size: int
    workers: int
    max_memory: float
    resume: bool


def reading_options(f: Callable[..., None]) -> Callable[..., None]:
    """Decorates a command that reads images: its parameter ``reading`` gets what these options say."""

    @wraps(f)
    def gathered(*args: Any, **kwargs: Any) -> None:
        reading = Reading(**{field.name: kwargs.pop(field.name) for field in fields(Reading)})
        f(*args, reading=reading, **kwargs)

    return _READING(gathered)


LAYER = click.option("--layer", help="The convolution for the first-layer theory; default: the first that runs.")
NORMALISATION = _all(
    click.option("--mean", type=Numbers(), help="Subtracted per channel of images in [0, 1]."),
    click.option("--std", type=Numbers(), help="Then divided by, per channel."),
)
GEOMETRY = _all(
    click.option("--stride", type=click.IntRange(1), help="Of the first convolution, for weights alone; default 1."),
    click.option("--padding", type=click.IntRange(0), help="For weights alone; default half the kernel."),
)
DEVICE = click.option("--device", default="auto", show_default=True, help="cpu, cuda, cuda:1, mps; auto: the fastest.")


@contextmanager
def run(quiet: bool) -> Generator[bool]:
    """Sets up logging and, under ``torchrun``, the process group; yields whether to show progress."""
    from convscope.core import processes

    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    logging.captureWarnings(True)
    warnings.filterwarnings("ignore", category=FutureWarning)
    processes.start()
    try:
        yield not quiet
    finally:
        processes.stop()


def is_first_process() -> bool:
    """Returns whether this process is the one that writes and prints."""
    from convscope.core.processes import rank_and_world

    return rank_and_world()[0] == 0


def say(text: str) -> None:
    """Prints to standard error, in the first process only."""
    if is_first_process():
        click.echo(text, err=True)


def the_device(name: str) -> str:
    """Returns the device that a name means.

    Raises:
        click.BadParameter: when there is no such device.
    """
    import torch

    if name == "auto":
        if torch.cuda.is_available():
            return "cuda"
        return "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        torch.zeros(1, device=name).item()  # "meta" and others that hold no values fail here
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise click.BadParameter(f"{name!r} cannot be used ({reason[:200]}): try cpu", param_hint="--device") from None
    return name


def open_pass(source: Source, reading: Reading, *, progress: bool) -> Pass:
    """Returns a pass over a source; says what it is about to read."""
    from convscope.core.passes import Pass

    p = Pass(
        source,
        batch_size=reading.batch_size,
        workers=reading.workers,
        max_memory=int(reading.max_memory * 2**30),
        progress=progress,
        announce=say if progress else None,
    )
    if progress:
        number = "an unknown number of" if source.n is None else str(source.n)
        say(f"{source.name}: {number} images" + (f" in {len(source.classes)} classes" if source.classes else ""))
    return p


def enter(p: Pass, opened: OpenedNetwork, place: str) -> Network:
    """Puts a network into a pass, beside the same before training or its untrained twin, and says its notes.

    Args:
        p: the pass; its source gets class names where it has none.
        opened: the network from the command line.
        place: the device.

    Returns:
        The network, fitted to the images.
    """
    from convscope.analyse import class_numbers, twin_of

    opened = opened.bound(p.pilot.images)
    network = opened.network
    p.networks = {"model": network}
    if p.source.classes is None:
        p.source.classes = class_numbers(p, network)
    # The twin is compared with the network before either is moved.
    fresh = opened.fresh(seed=0) if opened.init is None else None
    network.module.to(place)
    if opened.init is not None:
        opened.init.module.to(place)
        p.networks["init"] = opened.init
    elif fresh is not None:
        p.networks["twin"] = twin_of(p, network, fresh.to(place))
    for note in network.notes:
        say(f"note: {note}")
    return network


def check_output(output: Path, arrays: Path | None = None) -> None:
    """Refuses outputs that could not be written, before anything long runs.

    Args:
        output: the page.
        arrays: the file of large matrices.

    Raises:
        click.BadParameter: for another ending, a folder, or a missing folder.
    """
    for path, suffix, hint in ((output, ".html", "-o"), (arrays, ".npz", "--arrays")):
        if path is None:
            continue
        if path.suffix != suffix:
            beside = "; the JSON lies beside it" if suffix == ".html" else ""
            raise click.BadParameter(f"{path.name!r} must end in {suffix}{beside}", param_hint=hint)
        if path.is_dir():
            raise click.BadParameter(f"{path} is a folder: name a file in it", param_hint=hint)
        if not path.parent.is_dir():
            raise click.BadParameter(f"the folder {path.parent} does not exist: make it first", param_hint=hint)


def deliver(report: Report, output: Path, *, as_json: bool, arrays: Path | None = None) -> None:
    """Writes page and JSON (and arrays), prints the summary with the page's path last; exits 3 if interrupted."""
    if not is_first_process():
        return
    from convscope.analyse import save_arrays

    page = report.save(output)
    report.save(output.with_suffix(".json"))
    if arrays is not None:
        save_arrays(report.results, arrays)
    if as_json:
        import json

        click.echo(json.dumps(report.to_json(), allow_nan=False))
    else:
        import shutil

        click.echo(report.text(min(shutil.get_terminal_size().columns, 100)))
        click.echo(str(page))
    if not report.coverage.complete:
        say("Interrupted: the report rests on the images read so far; add --resume to go on.")
        sys.exit(3)
