"""`convscope bottleneck`: which frequencies and channels a network keeps, and what can be left out."""

from __future__ import annotations

import re
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

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
    say,
    the_device,
)

if TYPE_CHECKING:
    from torch import Tensor

    from convscope.core.network import Network
    from convscope.inputs.bare import BareWeight
    from convscope.inputs.checkpoints import Weights
    from convscope.page.report import Report

JUDGED = 10_000  # images at most on which a compressed network is chosen and judged
REFUSED = 4  # exit status when nothing can be saved
SIDE = 32  # pixels of the maps that are assumed where nothing tells their size


class Grid(click.ParamType):
    """Height and width of maps: "32x32", or "32" for both."""

    name = "HxW"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, int]:
        """Returns height and width."""
        if isinstance(value, tuple):
            return value
        match = re.fullmatch(r"([1-9]\d{0,4})(?:x([1-9]\d{0,4}))?", str(value))
        if match is None:
            self.fail(f"{value!r} is no size: write it like 32x32", param, ctx)
        return int(match[1]), int(match[2] or match[1])


@click.command()
@click.argument("model")
@click.option("--data", metavar="IMAGES", help="Images: as `convscope report` takes them; default: weights alone.")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path),
    help="The page (.html; default bottleneck.html). With --compress: the compressed network (.safetensors; default "
    "compressed.safetensors), and the page beside it, with the ending .html. The JSON is written beside the page.",
)  # fmt: skip
@click.option("--init", metavar="WEIGHTS", help="The network's own weights before training.")
@click.option("--layer", "layers", multiple=True, help="A convolution to look at; may be repeated; default: all.")
@click.option(
    "--images", type=click.IntRange(1), default=2000, show_default=True,
    help="About so many images for activations, spread over all.",
)  # fmt: skip
@click.option("--grid", type=Grid(), help=f"Size of all maps, for a weights file alone; default {SIDE}x{SIDE}.")
@click.option("--compress", is_flag=True, help="Also factorise what the bottleneck leaves unused; needs --data.")
@click.option(
    "--tolerance", type=click.FloatRange(0, 1, min_open=True), default=0.01, show_default=True,
    help="With --compress: loss of accuracy, as a fraction; without labels the relative error of the outputs.",
)  # fmt: skip
@click.option(
    "--arrays", type=click.Path(path_type=Path), help="Also write singular values and variances to this .npz."
)
@reading_options
@NORMALISATION
@DEVICE
@OUTPUT
def bottleneck(
    model: str,
    data: str | None,
    output: Path | None,
    init: str | None,
    layers: tuple[str, ...],
    images: int,
    grid: tuple[int, int] | None,
    compress: bool,
    tolerance: float,
    arrays: Path | None,
    reading: Reading,
    mean: tuple[float, ...] | None,
    std: tuple[float, ...] | None,
    device: str,
    as_json: bool,
    quiet: bool,
) -> None:
    """Says which frequencies and channels the convolutions of MODEL keep, and where the network is narrowest.

    With IMAGES: weights and activations, beside the same network untrained. Without: the weights alone, on maps of the
    size that the network makes of images of --size pixels (default: what it was published for, else 32). A weights
    file alone does not say the sizes of maps, strides and borders: one --grid for all layers, stride 1 and circular
    borders are assumed.

    --compress replaces convolutions by smaller factors as far as the loss stays within the tolerance: chosen on half of
    the images (10,000 at most), checked on the other half. `convscope.load_compressed(model, FILE)` makes a network of
    the file.

    MODEL and IMAGES are those of `convscope report`.

    Exit status: 0 done, 1 cannot be analysed, 2 wrong usage, 3 interrupted (the page holds what was read; nothing is
    compressed), 4 nothing can be saved within the tolerance (the page says why; no compressed network is written).
    """
    start = time.perf_counter()
    page, saved = _outputs(output, arrays, compress=compress)
    if compress and data is None:
        raise click.UsageError("--compress needs --data: what may be left out is judged on images")
    if grid is not None and data is not None:
        raise click.UsageError("--grid is for a weights file alone: with --data the sizes of maps are known")
    if init is not None and data is None:
        raise click.UsageError("--init needs --data: the network before training is compared by its activations")
    with run(quiet) as progress:
        place = the_device(device)
        if data is None:
            made = _weights_alone(model, layers, grid, reading.size, start)
            deliver(made, page, as_json=as_json, arrays=arrays)
            return
        from convscope.analyse import analyse, head_of, provenance
        from convscope.bottleneck.factorise import factorised
        from convscope.bottleneck.result import BottleneckResult
        from convscope.bottleneck.theory import Bottleneck
        from convscope.core.errors import ConvscopeError
        from convscope.core.kept import Kept
        from convscope.core.streams import Images
        from convscope.inputs.images import open_images
        from convscope.inputs.networks import open_network
        from convscope.page.report import Report

        opened = open_network(model, mean=mean, std=std, init=init)
        if opened.weights_only:
            raise ConvscopeError(
                f"{opened.network.name} is known by its weights alone, and activations need the network: name it as "
                "torchvision:NAME@FILE or package.module:factory@FILE, or leave --data out"
            )
        source = open_images(data, limit=reading.limit, size=reading.size, suggested=opened.preprocessing.size)
        p = open_pass(source, reading, progress=progress)
        network = enter(p, opened, place)
        judged = None
        if saved is not None:
            room = int(reading.max_memory * 2**30 / 2)
            judged = p.feed(Images(), lambda: Kept(JUDGED, room), folded=False, label="images to compress on")
        results, coverage = analyse(
            p,
            [Bottleneck(images, layers or None, budget=p.max_memory // 2)],
            page.with_suffix(".checkpoint"),
            reading.resume,
        )
        (result,) = results
        assert isinstance(result, BottleneckResult)
        if not result.rows:
            first = result.skipped[0]
            raise ConvscopeError(f"no convolution of {network.name} could be analysed: {first.what}: {first.reason}")
        refused = False
        if judged is not None and saved is not None and coverage.complete:
            result, refused = factorised(result, network, judged.value(), tolerance, saved, progress=progress)
        made = Report(head_of(p, network), (result,), coverage, provenance(None, start))
        deliver(made, page, as_json=as_json, arrays=arrays)
        if refused:
            say(f"{saved} was not written. {result.facts['factorised']}")
            sys.exit(REFUSED)


def _outputs(output: Path | None, arrays: Path | None, *, compress: bool) -> tuple[Path, Path | None]:
    """Returns where the page goes, and where the compressed network goes, if any.

    Raises:
        click.BadParameter: for what could not be written.
    """
    if not compress:
        page = output or Path("bottleneck.html")
        if page.suffix == ".safetensors":
            raise click.BadParameter("a compressed network is written only with --compress", param_hint="-o")
        check_output(page, arrays)
        return page, None
    saved = output or Path("compressed.safetensors")
    if saved.suffix != ".safetensors":
        raise click.BadParameter(
            f"{saved.name!r} must end in .safetensors with --compress; the page lies beside it", param_hint="-o"
        )
    if saved.is_dir():
        raise click.BadParameter(f"{saved} is a folder: name a file in it", param_hint="-o")
    check_output(saved.with_suffix(".html"), arrays)
    return saved.with_suffix(".html"), saved


def _weights_alone(
    model: str, layers: tuple[str, ...], grid: tuple[int, int] | None, size: int | None, start: float
) -> Report:
    """Returns the report on weights alone."""
    from convscope.analyse import provenance
    from convscope.bottleneck.compose import of_layers, weights_alone
    from convscope.bottleneck.layers import ASSUMED, bare_layers
    from convscope.core.coverage import Coverage
    from convscope.core.errors import ConvscopeError
    from convscope.core.results import Skip
    from convscope.inputs.networks import open_weights
    from convscope.page.report import Head, Report

    bare = open_weights(model)
    skipped: tuple[Skip, ...] = ()
    if bare is not None:
        name, weights = bare
        grid = grid or (SIDE, SIDE)
        result = of_layers(*bare_layers(_chosen(weights, layers, name), grid), grid="×".join(map(str, grid)))
        shape = (0, 0, 0)
        notes = (*weights.notes, f"all maps taken for {result.facts['grid']} pixels; {ASSUMED}")
    else:
        if grid is not None:
            raise click.UsageError("--grid is for a weights file alone: a network makes its own maps, see --size")
        network, image = _on_noise(model, size)
        name, notes, skipped = network.name, network.notes, network.skipped
        shape = (image.shape[1], image.shape[2], image.shape[3])
        from convscope.core.passes import Pass
        from convscope.inputs.iterables import IterableSource

        p = Pass(IterableSource(image))
        result = weights_alone(network, p.chosen(network, layers or None))
    if not result.rows:
        first = result.skipped[0]
        raise ConvscopeError(f"no convolution of {name} could be analysed: {first.what}: {first.reason}")
    head = Head(name, "", image_shape=shape, notes=tuple(notes), skipped=skipped)
    return Report(head, (result,), Coverage(0, 0, folds=1), provenance(None, start))


def _on_noise(model: str, size: int | None) -> tuple[Network, Tensor]:
    """Returns a network that takes prepared images, and one image of noise of the size that is assumed."""
    import torch

    from convscope.core.network import Network
    from convscope.inputs.networks import open_network

    opened = open_network(model)
    published = opened.preprocessing.size
    side = (size, size) if size is not None else published or (SIDE, SIDE)
    of = "as asked for" if size is not None else "what it was published for" if published else "assumed: see --size"
    image = torch.rand(1, opened.preprocessing.channels or 3, *side, generator=torch.Generator().manual_seed(0))
    note = f"maps as the network makes them of images of {side[0]}×{side[1]} pixels ({of})"
    old = opened.network
    return Network(old.name, old.module, skipped=old.skipped, notes=(*old.notes, note)), image


def _chosen(weights: Weights, layers: tuple[str, ...], name: str) -> list[BareWeight]:
    """Returns the convolutions of these names; all where none is named."""
    from convscope.core.errors import ConvscopeError
    from convscope.inputs.bare import bare_convolutions

    found = bare_convolutions(weights)
    wanted = {layer.removesuffix(".weight") for layer in layers}
    if unknown := wanted - {one.name for one in found}:
        known = ", ".join(one.name for one in found[:8]) + (", ..." if len(found) > 8 else "")
        raise ConvscopeError(f"{name} has no convolution {min(unknown)!r}: choose one of {known}")
    return [one for one in found if not wanted or one.name in wanted]
