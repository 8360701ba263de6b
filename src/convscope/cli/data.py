"""`convscope data`: what can be said of images before any training."""

from __future__ import annotations

import time
from pathlib import Path

import click

from convscope.cli.options import (
    NORMALISATION,
    OUTPUT,
    Reading,
    check_output,
    deliver,
    open_pass,
    reading_options,
    run,
)


@click.command()
@click.argument("images")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), default=Path("data.html"), show_default=True,
    help="The page; the JSON is written beside it.",
)  # fmt: skip
@click.option("--kernel", type=click.IntRange(1), default=3, show_default=True, help="Side of the patches in pixels.")
@click.option("--stride", type=click.IntRange(1), default=1, show_default=True, help="Of the patches.")
@click.option("--padding", type=click.IntRange(0), help="Zeros around the images; default: half the kernel.")
@click.option("--arrays", type=click.Path(path_type=Path), help="Also write large matrices to this .npz.")
@reading_options
@NORMALISATION
@OUTPUT
def data(
    images: str,
    output: Path,
    kernel: int,
    stride: int,
    padding: int | None,
    arrays: Path | None,
    reading: Reading,
    mean: tuple[float, ...] | None,
    std: tuple[float, ...] | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Says what a first layer will learn from IMAGES, whatever the network: spectrum, predicted profile, labels.

    IMAGES is a folder, .npz, .npy, CIFAR or idx file, torchvision:NAME, hf:NAME or package.module:loader.
    """
    start = time.perf_counter()
    check_output(output, arrays)
    with run(quiet) as progress:
        from torch import nn

        from convscope.analyse import analyse, head_of, provenance
        from convscope.core.network import Network
        from convscope.firstlayer.data import Data
        from convscope.inputs.images import open_images
        from convscope.inputs.preprocessing import Preprocessing
        from convscope.page.report import Report

        source = open_images(images, limit=reading.limit, size=reading.size)
        p = open_pass(source, reading, progress=progress)
        channels = p.pilot.images.shape[1]
        prepare = Preprocessing(channels, None, mean, std, "as given").measured(p.pilot.images)
        conv = nn.Conv2d(channels, 1, kernel, stride, kernel // 2 if padding is None else padding)
        name = f"patches of {kernel}x{kernel} pixels"
        network = Network(name, conv, prepare, notes=prepare.notes(p.pilot.images))
        p.networks = {"model": network}
        results, coverage = analyse(p, [Data()], output.with_suffix(".checkpoint"), reading.resume)
        made = Report(head_of(p, network), results, coverage, provenance(None, start))
        deliver(made, output, as_json=as_json, arrays=arrays)
