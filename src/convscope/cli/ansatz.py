"""`convscope ansatz`: filter covariances beside average gradient outer products, in every convolution."""

from __future__ import annotations

import time
from pathlib import Path

import click

from convscope.cli.options import (
    DEVICE,
    NORMALISATION,
    OUTPUT,
    Reading,
    check_output,
    deliver,
    enter,
    open_pass,
    reading_options,
    run,
    the_device,
)


@click.command()
@click.argument("model")
@click.option("--data", metavar="IMAGES", required=True, help="Images: as `convscope report` takes them.")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), default=Path("ansatz.html"), show_default=True,
    help="The page; the JSON is written beside it.",
)  # fmt: skip
@click.option("--init", metavar="WEIGHTS", help="The network's own weights before training.")
@click.option(
    "--outputs", type=click.Choice(["logits", "loss", "probabilities"]), default="logits", show_default=True,
    help="What is differentiated; the loss needs labels.",
)  # fmt: skip
@click.option("--exact", is_flag=True, help="Send back each output in turn: one backward pass an output.")
@click.option("--probes", type=click.IntRange(1), help="Draws of random signs an image; default: as many as needed.")
@click.option("--centred", is_flag=True, help="Remove the mean over images from the gradients; with --exact.")
@click.option("--layer", "layers", multiple=True, help="A convolution to look at; may be repeated; default: all.")
@click.option(
    "--class", "classes", multiple=True, metavar="NAME",
    help="A class (name or number) whose patches are also shown; may be repeated; all: each of them.",
)  # fmt: skip
@click.option("--arrays", type=click.Path(path_type=Path), help="Also write weights and gradient moments to this .npz.")
@reading_options
@NORMALISATION
@DEVICE
@OUTPUT
def ansatz(
    model: str,
    data: str,
    output: Path,
    init: str | None,
    outputs: str,
    exact: bool,
    probes: int | None,
    centred: bool,
    layers: tuple[str, ...],
    classes: tuple[str, ...],
    arrays: Path | None,
    reading: Reading,
    mean: tuple[float, ...] | None,
    std: tuple[float, ...] | None,
    device: str,
    as_json: bool,
    quiet: bool,
) -> None:
    """Says in which convolutions of MODEL the filters line up with the patches that drive the outputs.

    One row a convolution: the correlation of filter covariance and average gradient outer product over all IMAGES,
    its error, the same before training, and what chance gives; and pictures of both.

    MODEL and IMAGES are those of `convscope report`, except that weights alone are not enough.

    Exit status: 0 done, 1 cannot be analysed, 2 wrong usage, 3 interrupted (the page holds what was read).
    """
    start = time.perf_counter()
    check_output(output, arrays)
    if exact and probes is not None:
        raise click.UsageError("--exact sends back each output and needs no --probes: give one of the two")
    if centred and not exact:
        raise click.UsageError("--centred needs --exact: random signs destroy the mean gradient")
    if outputs == "loss" and (classes or centred):
        raise click.UsageError("--class and --centred need --outputs logits or probabilities")
    with run(quiet) as progress:
        place = the_device(device)
        from dataclasses import replace

        from convscope.analyse import analyse, head_of, provenance
        from convscope.ansatz.collect import SentBack, probes_needed
        from convscope.ansatz.theory import Ansatz
        from convscope.core.errors import ConvscopeError
        from convscope.inputs.images import open_images
        from convscope.inputs.networks import open_network
        from convscope.page.report import Report

        opened = open_network(model, mean=mean, std=std, init=init)
        if opened.weights_only:
            raise ConvscopeError(
                f"{opened.network.name} is known by its weights alone, and gradients need the network: name it as "
                "torchvision:NAME@FILE or package.module:factory@FILE"
            )
        source = open_images(data, limit=reading.limit, size=reading.size, suggested=opened.preprocessing.size)
        p = open_pass(source, reading, progress=progress)
        network = enter(p, opened, place)
        chosen = layers or None
        sent = SentBack(outputs, exact, probes or 1, centred, _numbers(classes, source.classes or ()))  # type: ignore[arg-type]
        if probes is None:
            sent = replace(sent, probes=probes_needed(p, network, sent, chosen))
        results, coverage = analyse(p, [Ansatz(sent, chosen)], output.with_suffix(".checkpoint"), reading.resume)
        (result,) = results
        if not result.layers():
            first = result.skipped[0]
            raise ConvscopeError(f"no convolution of {network.name} could be analysed: {first.what}: {first.reason}")
        made = Report(head_of(p, network), results, coverage, provenance(None, start))
        deliver(made, output, as_json=as_json, arrays=arrays)


def _numbers(wanted: tuple[str, ...], names: tuple[str, ...]) -> tuple[int, ...]:
    """Returns the numbers of classes that are named by number or name.

    Args:
        wanted: names or numbers; "all" for every one.
        names: of the classes.

    Raises:
        click.BadParameter: for one that does not exist.
    """
    if "all" in wanted and names:
        return tuple(range(len(names)))
    found = []
    for word in wanted:
        if word in names:
            found.append(names.index(word))
        elif word.isdecimal() and (not names or int(word) < len(names)):
            found.append(int(word))
        else:
            known = ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")
            raise click.BadParameter(
                f"{word!r} is no class: choose from {known or 'the numbers of the outputs'}", param_hint="--class"
            )
    return tuple(dict.fromkeys(found))
