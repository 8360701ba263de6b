"""`convscope shortcuts`: what betrays a class without being its object."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from convscope.cli.options import (
    DEVICE,
    NORMALISATION,
    OUTPUT,
    Reading,
    check_output,
    deliver,
    enter,
    is_first_process,
    open_pass,
    reading_options,
    run,
    say,
    the_device,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    import numpy as np

    from convscope.core.batches import Batch
    from convscope.core.source import Source
    from convscope.dynamics.shortcuts.result import ShortcutsResult

_SLACK = 1e-3  # resizing may leave values this far outside [0, 1]


@click.command()
@click.argument("images")
@click.option(
    "--model", metavar="MODEL", help="A trained network to try the alarms on: as `convscope report` takes it."
)
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), default=Path("shortcuts.html"), show_default=True,
    help="The page; the JSON is written beside it.",
)  # fmt: skip
@click.option(
    "--threshold", type=click.FloatRange(0, min_open=True), default=5.0, show_default=True,
    help="An alarm begins at this z.",
)  # fmt: skip
@click.option("--gray", is_flag=True, help="Reduce colour to brightness.")
@click.option(
    "--notch", type=click.Path(path_type=Path), metavar="OUT",
    help="Write the images without the frequencies that raised an alarm: to a new .npz, or a new folder of .png files.",
)  # fmt: skip
@reading_options
@NORMALISATION
@DEVICE
@OUTPUT
def shortcuts(
    images: str,
    model: str | None,
    output: Path,
    threshold: float,
    gray: bool,
    notch: Path | None,
    reading: Reading,
    mean: tuple[float, ...] | None,
    std: tuple[float, ...] | None,
    device: str,
    as_json: bool,
    quiet: bool,
) -> None:
    """Says what betrays a class of IMAGES without being its object: stripes, single pixels, mean colour, the files.

    Found in labelled images before any training; with MODEL, what raised an alarm is also tried on it: a class's own
    pattern is added to images of all other classes.

    IMAGES is a folder with class sub-folders, .npz, CIFAR or idx file, torchvision:NAME, hf:NAME or
    package.module:loader. MODEL's outputs must be numbered as the classes.

    Exit status: 0 done, 1 cannot be analysed, 2 wrong usage, 3 interrupted (the page holds what was read).
    """
    start = time.perf_counter()
    check_output(output)
    _check_notch(notch)
    with run(quiet) as progress:
        place = the_device(device)
        from torch import nn

        from convscope.analyse import analyse, head_of, provenance
        from convscope.core.errors import ConvscopeError
        from convscope.core.network import Network
        from convscope.dynamics.shortcuts.result import ShortcutsResult
        from convscope.dynamics.shortcuts.theory import Shortcuts
        from convscope.inputs.images import open_images
        from convscope.inputs.networks import open_network
        from convscope.inputs.properties import file_properties
        from convscope.page.report import Report

        opened = None if model is None else open_network(model, mean=mean, std=std)
        if opened is not None and opened.weights_only:
            raise ConvscopeError(
                f"{opened.network.name} is known by its weights alone, and trying a shortcut on it needs the network: "
                "name it as torchvision:NAME@FILE or package.module:factory@FILE"
            )
        source = open_images(images, limit=reading.limit, size=reading.size, gray=gray)
        p = open_pass(source, reading, progress=progress)
        if p.pilot.labels is None:
            raise ConvscopeError(
                f"{source.name} has no labels, and a shortcut ties something to a class: give class folders, or an "
                ".npz with labels beside the images"
            )
        if opened is not None:
            enter(p, opened, place)
            p.networks = {"model": p.networks["model"]}
        theory = Shortcuts(threshold, properties=file_properties(source))
        results, coverage = analyse(p, [theory], output.with_suffix(".checkpoint"), reading.resume)
        (result,) = results
        if not isinstance(result, ShortcutsResult) or not result.suspects:
            raise ConvscopeError(result.skipped[0].reason)
        # Without a network the page's head names the images alone.
        head = head_of(p, p.networks.get("model") or Network("", nn.Identity()))
        made = Report(head, results, coverage, provenance(None, start))
        if notch is not None and is_first_process():
            if coverage.complete:
                again = open_images(images, limit=reading.limit, size=reading.size, gray=gray)
                _write_notched(notch, result, again, reading)
            else:
                say(f"note: interrupted, so {notch} was not written")
        deliver(made, output, as_json=as_json)


def _check_notch(out: Path | None) -> None:
    """Refuses a place for notched images where something is, before anything long runs.

    Args:
        out: a .npz, or a folder.

    Raises:
        click.BadParameter: when it exists, or the folder that it belongs into does not.
    """
    if out is None:
        return
    empty = out.is_dir() and out.suffix != ".npz" and not any(out.iterdir())
    if (out.exists() or out.is_symlink()) and not empty:
        raise click.BadParameter(f"{out} exists: name a new .npz or a new folder", param_hint="--notch")
    if not out.parent.is_dir():
        raise click.BadParameter(f"the folder {out.parent} does not exist: make it first", param_hint="--notch")


def _write_notched(out: Path, result: ShortcutsResult, source: Source, reading: Reading) -> None:
    """Reads the images again and writes them without the frequencies that raised an alarm.

    Args:
        out: a .npz with "x" (uint8 [n, h, w, c], in the order of the source), "y" and "classes"; or a folder of .png
            files, class by class.
        result: with the alarms and the mean image.
        source: of the images, afresh.
        reading: the size of a batch and the number of reading processes.

    Raises:
        ConvscopeError: when it cannot be written, or images do not lie in [0, 1].
    """
    from convscope.core.errors import ConvscopeError

    frequencies = [s.place for s in result.alarms if s.kind == "frequency" and s.place is not None]
    if not frequencies:
        say(f"note: no frequency raised an alarm, so there is nothing to notch: {out} was not written")
        return
    made = _Notched(frequencies, result.arrays["mean"])
    batches = (batch for _, batch in source.batches(reading.batch_size, workers=reading.workers))
    try:
        if out.suffix == ".npz":
            made.save_arrays(batches, out, result.classes)
        else:
            made.save_pictures(batches, out, result.classes)
    except OSError as error:
        raise ConvscopeError(f"{out} cannot be written ({error.strerror}): choose another place") from error
    names = ", ".join(f"({ky}, {kx})" for ky, kx in frequencies)
    left = f"; {made.unlabelled} images without a label were left out" if made.unlabelled else ""
    say(
        f"{out}: {made.images} images without the frequencies {names}; {made.clipped} of {made.values} values were "
        f"clipped to what a byte holds{left}"
    )


class _Notched:
    """Labelled images as bytes without some frequencies, and how many values did not fit.

    Args:
        frequencies: (ky, kx) in cycles per image.
        mean: float64 [c, h, w], mean image.
    """

    def __init__(self, frequencies: list[tuple[int, int]], mean: np.ndarray) -> None:
        self.frequencies, self.mean = frequencies, mean
        self.images = self.values = self.clipped = self.unlabelled = 0

    def save_arrays(self, batches: Iterable[Batch], out: Path, classes: tuple[str, ...]) -> None:
        """Writes one .npz, whole or not at all."""
        import numpy as np

        parts = list(self._bytes(batches))
        x, y, index = (np.concatenate(columns) for columns in zip(*parts, strict=True))
        order = np.argsort(index, kind="stable")
        arrays = {"x": x[order], "y": y[order]} | ({"classes": np.array(classes)} if classes else {})
        beside = out.with_name(f".{out.name}.part")
        try:
            with beside.open("wb") as file:
                np.savez_compressed(file, **arrays)  # type: ignore[arg-type]
            beside.rename(out)
        finally:
            beside.unlink(missing_ok=True)

    def save_pictures(self, batches: Iterable[Batch], out: Path, classes: tuple[str, ...]) -> None:
        """Writes one .png an image, in a folder for each class."""
        from PIL import Image

        out.mkdir(exist_ok=True)
        for x, y, index in self._bytes(batches):
            for picture, label, i in zip(x, y.tolist(), index.tolist(), strict=True):
                folder = out / _folder(label, classes)
                folder.mkdir(exist_ok=True)
                Image.fromarray(picture[..., 0] if picture.shape[-1] == 1 else picture).save(folder / f"{i:07d}.png")

    def _bytes(self, batches: Iterable[Batch]) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Yields uint8 [n, h, w, c], labels and identities of the labelled images of each batch."""
        import torch

        from convscope.core.errors import ConvscopeError
        from convscope.dynamics.shortcuts.notch import notched

        mean = torch.from_numpy(self.mean)
        for whole in batches:
            known = torch.zeros(len(whole), dtype=torch.bool) if whole.labels is None else whole.labels >= 0
            batch = whole[known & torch.isfinite(whole.images).flatten(1).all(1)]
            self.unlabelled += int((~known).sum())
            if not len(batch) or batch.labels is None:
                continue
            if batch.images.min() < -_SLACK or batch.images.max() > 1 + _SLACK:
                raise ConvscopeError(
                    f"images hold values from {batch.images.min():.3g} to {batch.images.max():.3g}, and are written as "
                    "bytes: --notch needs images in [0, 1], before any normalisation"
                )
            levels = (255 * notched(batch.images.double(), self.frequencies, mean)).round()
            self.clipped += int(((levels < 0) | (levels > 255)).sum())
            self.values += levels.numel()
            self.images += len(batch)
            x = levels.clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy()
            yield x, batch.labels.numpy(), batch.index.numpy()


def _folder(label: int, classes: tuple[str, ...]) -> str:
    """Returns the name of a class's folder: its own where that is a plain name, else its number."""
    name = classes[label] if label < len(classes) else ""
    plain = name and not name.startswith(".") and name.isprintable() and not set(name) & set('/\\:*?"<>|')
    # Numbers are filled up with zeros: folders are numbered in the order of their names.
    return name if plain and not name.isdecimal() and classes.count(name) == 1 else f"{label:05d}"
