"""`convscope report`: the main job."""

from __future__ import annotations

import time
from pathlib import Path

import click

from convscope.cli.options import (
    DEVICE,
    GEOMETRY,
    LAYER,
    NORMALISATION,
    OUTPUT,
    Reading,
    check_output,
    deliver,
    enter,
    open_pass,
    reading_options,
    run,
    say,
    the_device,
)


@click.command()
@click.argument("model", required=False)
@click.option("--data", metavar="IMAGES", help="Images: see below.")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), default=Path("report.html"), show_default=True,
    help="The page; the JSON is written beside it.",
)  # fmt: skip
@click.option("--init", metavar="WEIGHTS", help="The network's own weights before training.")
@click.option("--arrays", type=click.Path(path_type=Path), help="Also write large matrices to this .npz.")
@LAYER
@reading_options
@NORMALISATION
@GEOMETRY
@DEVICE
@OUTPUT
def report(
    model: str | None,
    data: str | None,
    output: Path,
    init: str | None,
    arrays: Path | None,
    layer: str | None,
    reading: Reading,
    mean: tuple[float, ...] | None,
    std: tuple[float, ...] | None,
    stride: int | None,
    padding: int | None,
    device: str,
    as_json: bool,
    quiet: bool,
) -> None:
    """Reads IMAGES once and writes one page on what MODEL learned from them.

    MODEL is torchvision:NAME, timm:NAME (@none: random weights) or package.module:factory, each optionally with
    @WEIGHTS_FILE and #PREFIX; or a weights file alone (.safetensors, .pt, .pth, .pt2).

    IMAGES is a folder (class sub-folders give labels), a .npz or .npy file, CIFAR-10/100 python batches, MNIST-style
    idx files, torchvision:NAME, hf:NAME or package.module:loader.

    Without MODEL and IMAGES, small networks are trained on photographs that ship with scikit-image.

    Exit status: 0 done, 1 cannot be analysed, 2 wrong usage, 3 interrupted (the page holds what was read).
    """
    start = time.perf_counter()
    check_output(output, arrays)
    if (model is None) != (data is None):
        missing = "MODEL" if model is None else "--data IMAGES"
        hint = "; for images alone use `convscope data`" if model is None else ""
        raise click.UsageError(f"{missing} is missing: give MODEL and --data IMAGES together, or neither{hint}")
    with run(quiet) as progress:
        place = the_device(device)
        from convscope.analyse import analyse, head_of, main_job, provenance
        from convscope.page.report import Report

        if model is None or data is None:
            from convscope.embedded import embedded_report

            made = embedded_report(
                start, progress=progress, resume=reading.resume, checkpoint=_checkpoint(output), announce=say
            )
            deliver(made, output, as_json=as_json, arrays=arrays)
            return
        from convscope.inputs.images import open_images
        from convscope.inputs.networks import open_network
        from convscope.inputs.properties import file_properties

        opened = open_network(model, layer=layer, stride=stride, padding=padding, mean=mean, std=std, init=init)
        source = open_images(data, limit=reading.limit, size=reading.size, suggested=opened.preprocessing.size)
        p = open_pass(source, reading, progress=progress)
        network = enter(p, opened, place)
        theories = main_job(layer, properties=file_properties(source), weights_only=opened.weights_only)
        results, coverage = analyse(p, theories, _checkpoint(output), reading.resume)
        made = Report(head_of(p, network), results, coverage, provenance(None, start))
        deliver(made, output, as_json=as_json, arrays=arrays)


def _checkpoint(output: Path) -> Path:
    return output.with_suffix(".checkpoint")
