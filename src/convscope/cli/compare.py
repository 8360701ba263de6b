"""`convscope compare`: energy profiles of several networks, or on several sets of images, against each other."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

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
    open_pass,
    reading_options,
    run,
    say,
    the_device,
)

if TYPE_CHECKING:
    from convscope.core.coverage import Coverage
    from convscope.firstlayer.comparison import Profiled


@click.command()
@click.argument("models", metavar="MODEL [MODEL ...]", nargs=-1, required=True)
@click.option("--data", "data", metavar="IMAGES", multiple=True, help="Images; may be given several times.")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), default=Path("compare.html"), show_default=True,
    help="The page; the JSON is written beside it.",
)  # fmt: skip
@LAYER
@reading_options
@NORMALISATION
@GEOMETRY
@DEVICE
@OUTPUT
def compare(
    models: tuple[str, ...],
    data: tuple[str, ...],
    output: Path,
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
    """Correlates the first layers' energy profiles of several MODELs on IMAGES.

    A MODEL is named as for `convscope report`, or is a report.json saved by it (which needs no --data). One pass is
    made over each set of IMAGES, for all networks together.
    """
    start = time.perf_counter()
    check_output(output)
    saved = [m for m in models if m.endswith(".json")]
    live = [m for m in models if not m.endswith(".json")]
    if live and not data:
        raise click.UsageError("--data IMAGES is missing: networks are compared on images (saved reports need none)")
    if data and not live:
        raise click.UsageError("--data is given but no network: report.json files are compared as they are")
    if len(saved) + len(live) * len(data) < 2:
        raise click.UsageError("a comparison needs two energy profiles: name another network, report.json or --data")
    with run(quiet) as progress:
        place = the_device(device)
        from convscope.analyse import head_of, provenance
        from convscope.core.network import Network
        from convscope.firstlayer.comparison import Comparison, compare_profiles
        from convscope.inputs.images import open_images
        from convscope.inputs.networks import open_network
        from convscope.page.report import Head, Report

        profiles: list[Profiled] = [_of_report(Path(name)) for name in saved]
        coverages: list[Coverage] = []
        heads: list[Head] = []
        for k, images in enumerate(data):
            opened = [open_network(m, layer=layer, stride=stride, padding=padding, mean=mean, std=std) for m in live]
            suggested = next((o.preprocessing.size for o in opened if o.preprocessing.size), None)
            source = open_images(images, limit=reading.limit, size=reading.size, suggested=suggested)
            p = open_pass(source, reading, progress=progress)
            networks: dict[str, Network] = {}
            for o in opened:
                bound = o.bound(p.pilot.images).network
                bound.module.to(place)
                name = bound.name if bound.name not in networks else f"{bound.name} ({len(networks) + 1})"
                networks[name] = bound
                for note in bound.notes:
                    say(f"note: {bound.name}: {note}")
            p.networks = networks
            finish = Comparison(source.name if len(data) > 1 else "", layer).plan(p)
            checkpoint = output.with_suffix(f".{k}.checkpoint" if len(data) > 1 else ".checkpoint")
            coverages.append(p.run(checkpoint, reading.resume))
            profiles += finish()
            heads.append(head_of(p, next(iter(networks.values()))))
            if not coverages[-1].complete:
                break
        result = compare_profiles(profiles)
        head = Head(
            network=f"{len(profiles)} energy profiles",
            data=", ".join(dict.fromkeys(h.data for h in heads)) or "as in the saved reports",
            image_shape=heads[0].image_shape if heads else (3, 0, 0),
            notes=tuple(dict.fromkeys((*result.notes, *(n for h in heads for n in h.notes)))),
        )
        if heads:
            head = replace(head, strip=heads[0].strip, strip_note=heads[0].strip_note)
        made = Report(head, (result,), _together(coverages), provenance(None, start))
        deliver(made, output, as_json=as_json)


def _of_report(path: Path) -> Profiled:
    import torch

    from convscope.analyse import read_report
    from convscope.core.errors import ConvscopeError
    from convscope.firstlayer.comparison import Profiled
    from convscope.firstlayer.result import FirstLayerResult

    report = read_report(path)
    for result in report.results:
        if isinstance(result, FirstLayerResult):
            moved = ", change from its initial weights" if result.facts.get("subtracted") else ""
            return Profiled(
                f"{report.head.network} on {report.head.data}{moved}",
                result.shape[1:],
                torch.from_numpy(result.curves["energy"]),
                torch.from_numpy(result.curves["variance"]),
                str(path),
            )
    raise ConvscopeError(f"{path.name} holds no first-layer result: make one with `convscope report`")


def _together(coverages: list[Coverage]) -> Coverage:
    from convscope.core.coverage import Coverage

    if not coverages:
        return Coverage(images=0, expected=0, notes=("Compared from saved reports; no image was read.",))
    parts = {part for c in coverages for part in c.seconds}
    return Coverage(
        images=sum(c.images for c in coverages),
        expected=None if any(c.expected is None for c in coverages) else sum(c.expected or 0 for c in coverages),
        complete=all(c.complete for c in coverages),
        unreadable=tuple(s for c in coverages for s in c.unreadable),
        processes=coverages[0].processes,
        folds=min(c.folds for c in coverages),
        resumed=sum(c.resumed for c in coverages),
        seconds={part: sum(c.seconds.get(part, 0.0) for c in coverages) for part in sorted(parts)},
        notes=tuple(dict.fromkeys(note for c in coverages for note in c.notes)),
    )
