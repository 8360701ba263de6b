"""`convscope dynamics`: in which order a network would learn a data set."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from convscope.cli.options import (
    OUTPUT,
    Reading,
    check_output,
    deliver,
    open_pass,
    reading_options,
    run,
    say,
)

if TYPE_CHECKING:
    from torch import Tensor

    from convscope.dynamics.parts import Trained
    from convscope.dynamics.setting import Choice
    from convscope.dynamics.training import Kind

METHODS = ("auto", "exact", "stages", "closed-form", "independent")
KINDS = ("cnn", "linear-cnn", "mlp")


class _Side(click.ParamType):
    name = "full|N"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | None:
        """Returns the side of the kernels; None for those as large as the images."""
        if value in {None, "full"}:
            return None
        if not str(value).isdecimal() or not int(value):
            self.fail(f"{value!r} is neither full nor a number of pixels", param, ctx)
        return int(value)


@click.command()
@click.argument("images")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), default=Path("dynamics.html"), show_default=True,
    help="The page; the JSON is written beside it.",
)  # fmt: skip
@click.option("--kernel-size", type=_Side(), default="full", show_default=True, help="Side of the kernels in pixels.")
@click.option("--depth", type=click.IntRange(2), default=2, show_default=True, help="Layers, the linear one included.")
@click.option(
    "--init-std", type=click.FloatRange(0, min_open=True), default=1e-4, show_default=True,
    help="Standard deviation of the initial weights.",
)  # fmt: skip
@click.option("--channels", type=click.IntRange(1), help="Kernels of each layer; default: as many as the images have.")
@click.option("--padding", type=click.Choice(["circular", "zeros"]), default="circular", show_default=True)
@click.option(
    "--lr",
    type=click.FloatRange(0, min_open=True),
    help="Learning rate, of --train too; default: small enough for SGD to follow the prediction.",
)
@click.option("--momentum", type=click.FloatRange(0, 1, max_open=True), default=0.9, show_default=True, help="Of SGD.")
@click.option("--method", type=click.Choice(METHODS), default="auto", show_default=True, help="Of the prediction.")
@click.option("--gray", is_flag=True, help="Average the images' channels.")
@click.option("--uncentred", is_flag=True, help="Leave the mean image and the mean label in.")
@click.option("--train", type=click.Choice(KINDS), help="Also train such a network and measure its modes.")
@click.option("--train-images", type=click.IntRange(2), default=2000, show_default=True, help="To train on.")
@click.option("--steps", type=click.IntRange(1), default=3000, show_default=True, help="Of training, at most.")
@click.option("--arrays", type=click.Path(path_type=Path), help="Also write modes and curves to this .npz.")
@reading_options
@OUTPUT
def dynamics(
    images: str,
    output: Path,
    kernel_size: int | None,
    depth: int,
    init_std: float,
    channels: int | None,
    padding: Literal["circular", "zeros"],
    lr: float | None,
    momentum: float,
    method: Choice,
    gray: bool,
    uncentred: bool,
    train: Kind | None,
    train_images: int,
    steps: int,
    arrays: Path | None,
    reading: Reading,
    as_json: bool,
    quiet: bool,
) -> None:
    """Says in which order, when, and by which frequencies a CNN would learn IMAGES, before any training.

    The modes of the data set (patterns in which its classes differ), their spectra, and the step of SGD at which a
    linear CNN has half learned each, beside a fully connected network and permuted labels.

    IMAGES is a folder with a sub-folder a class, a .npz file with labels, CIFAR-10/100 python batches, MNIST-style idx
    files, torchvision:NAME, hf:NAME or package.module:loader. Values are used as read, in [0, 1].

    Exit status: 0 done, 1 cannot be analysed, 2 wrong usage, 3 interrupted (the page holds what was read).
    """
    start = time.perf_counter()
    check_output(output, arrays)
    if train == "linear-cnn" and depth > 2:
        raise click.UsageError("--train linear-cnn trains a network of two layers: leave --depth out, or train a cnn")
    with run(quiet) as progress:
        from torch import nn

        from convscope.analyse import analyse, head_of, provenance
        from convscope.core.network import Network
        from convscope.dynamics.setting import Setting
        from convscope.dynamics.theory import Dynamics
        from convscope.dynamics.trained import trained_part
        from convscope.dynamics.training import train_and_measure
        from convscope.inputs.images import open_images
        from convscope.page.report import Report

        setting = Setting(
            kernel_size=kernel_size, depth=depth, init_std=init_std, channels=channels, padding=padding, lr=lr,
            momentum=momentum, method=method,
        )  # fmt: skip
        p = open_pass(open_images(images, limit=reading.limit, size=reading.size), reading, progress=progress)
        interrupted: list[bool] = []

        def trained(x: Tensor, y: Tensor) -> Trained:
            assert train is not None
            measured = train_and_measure(
                train, x, y, steps=steps, lr=lr, momentum=0.0 if lr is None else momentum, filters=channels,
                kernel_size=kernel_size, padding=padding, init_std=init_std,
                progress=f"training a {train}" if progress else False,
            )  # fmt: skip
            interrupted.append(not measured.complete)
            return trained_part(measured, setting)

        theory = Dynamics(
            setting, gray=gray, center=not uncentred, required=True, train=None if train is None else trained,
            train_images=train_images,
        )  # fmt: skip
        results, coverage = analyse(p, [theory], output.with_suffix(".checkpoint"), reading.resume)
        made = Report(head_of(p, Network("linear CNN", nn.Identity())), results, coverage, provenance(None, start))
        deliver(made, output, as_json=as_json, arrays=arrays)
        if any(interrupted):
            say("Interrupted: the network was not trained to its end.")
            sys.exit(3)
