"""Composes the theories into one pass over the images and hands their results to the page."""

from __future__ import annotations

import os
import platform
import shlex
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from convscope.ansatz.result import AnsatzResult
from convscope.ansatz.theory import Ansatz
from convscope.bottleneck.result import BottleneckResult
from convscope.bottleneck.theory import Bottleneck
from convscope.core.coverage import Coverage
from convscope.core.delivery import run_network
from convscope.core.errors import ConvscopeError
from convscope.core.network import Network
from convscope.core.passes import Pass
from convscope.core.results import Result
from convscope.core.taps import left_as_found, logits
from convscope.dynamics.result import DynamicsResult
from convscope.dynamics.shortcuts.result import ShortcutsResult
from convscope.dynamics.shortcuts.theory import Shortcuts
from convscope.dynamics.theory import Dynamics
from convscope.firstlayer.comparison import ComparisonResult
from convscope.firstlayer.data import DataResult
from convscope.firstlayer.result import FirstLayerResult
from convscope.firstlayer.theory import FirstLayer, Replica
from convscope.inputs.iterables import IterableSource
from convscope.page.report import Head, Provenance, Report
from convscope.page.report import read_report as _read_report
from convscope.rfm.result import RfmResult
from convscope.training.initialise import calibrate_, reinitialised

STRIP = 8  # images shown at the head of the page
# Importing them makes them known to saved reports.
RESULTS = (
    FirstLayerResult,
    DataResult,
    ComparisonResult,
    AnsatzResult,
    BottleneckResult,
    DynamicsResult,
    ShortcutsResult,
    RfmResult,
)


class Theory(Protocol):
    """Feeds a pass now, and concludes after it ran."""

    def plan(self, p: Pass) -> Callable[[], Result]:
        """Feeds the pass and returns what draws the conclusion."""
        ...


def main_job(
    layer: str | None = None,
    replicas: Sequence[Replica] = (),
    *,
    properties: Mapping[str, Sequence[float]] | None = None,
    weights_only: bool = False,
) -> list[Theory]:
    """Returns the theories of the main job.

    Args:
        layer: the convolution for the first-layer theory; None: the first that runs.
        replicas: other training runs of the network.
        properties: of the images' files, by name, for the shortcut audit; None where there are no files.
        weights_only: whether there is no network to run, only its first layer's weights.
    """
    of_network: list[Theory] = [FirstLayer(layer, replicas)]
    if not weights_only:
        of_network += [Ansatz(), Bottleneck()]
    return [*of_network, Dynamics(), Shortcuts(properties=properties)]


def analyse(
    p: Pass, theories: Sequence[Theory], checkpoint: Path | None = None, resume: bool = False
) -> tuple[tuple[Result, ...], Coverage]:
    """Returns what theories conclude from one pass over the images, and what the pass covered.

    Args:
        p: the pass.
        theories: each feeds it.
        checkpoint: where the sums are saved every so often.
        resume: whether to continue from there.

    Raises:
        ConvscopeError: when a theory cannot be applied, or no image could be used.
    """
    conclude = [theory.plan(p) for theory in theories]
    coverage = p.run(checkpoint, resume)
    with p.timed("drawing conclusions"):
        results = tuple(c() for c in conclude)
    return results, Coverage(**{**coverage.__dict__, "seconds": dict(p.timed.seconds)})


def report(
    model: nn.Module,
    batches: Iterable[Any],
    *,
    init: nn.Module | None = None,
    layer: str | None = None,
    name: str | None = None,
    data: str = "images",
    classes: Sequence[str] | None = None,
    progress: bool = False,
) -> Report:
    """Returns a report on what a network learned, from one pass over images.

    The network is used as it is and left as it was found. Images are used as the iterable gives them: hand in what
    the network takes, normalised.

    Args:
        model: any module that maps images [n, c, h, w] to something.
        batches: tensors [n, c, h, w], (images, labels) pairs, a ``DataLoader``, ....
        init: the same network before training; else weights are drawn afresh to know what chance gives.
        layer: the convolution for the first-layer theory; default: the first that runs.
        name: how the page calls the network; default: its class.
        data: how the page calls the images.
        classes: names of the classes.
        progress: whether to show a progress bar.

    Returns:
        The report; ``print`` it, ``.save("report.html")`` it, or show it in a notebook.

    Raises:
        ConvscopeError: when the network or the images cannot be analysed; the message says what to do.
        TypeError: when the model is no module.

    Example:
        >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2))
        >>> result = report(net, torch.rand(32, 3, 12, 12))
        >>> result.coverage.images
        32
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    start = time.perf_counter()
    source = IterableSource(batches, data)
    p = Pass(source, progress=progress)
    network = Network(name or type(model).__name__, model)
    source.classes = tuple(classes) if classes is not None else source.classes or class_numbers(p, network)
    untrained = {"init": Network("the network before training", init)} if init is not None else {}
    if not untrained and (twin := reinitialised(model)) is not None:
        untrained = {"twin": twin_of(p, network, twin)}
    p.networks = {"model": network} | untrained
    results, coverage = analyse(p, main_job(layer))
    call = f"convscope.report({network.name}, {data})"
    return Report(head_of(p, network), results, coverage, provenance(call, start))


def read_report(path: str | os.PathLike[str]) -> Report:
    """Returns the report saved as JSON; the file may come from a stranger.

    Args:
        path: a report.json.

    Raises:
        ConvscopeError: when the file cannot be read, is no report, or is damaged.
    """
    return _read_report(path)


def twin_of(p: Pass, network: Network, module: nn.Module) -> Network:
    """Returns the untrained twin of a network, its batch norms calibrated on the pilot batch.

    Raises:
        ConvscopeError: when the network cannot take the images.
    """
    twin = Network(f"{network.name}, untrained", module, network.prepare)
    try:
        calibrate_(twin, p.pilot.images)
    except ConvscopeError:
        raise
    except Exception as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ConvscopeError(
            f"{network.name} fails on these images ({reason[:200]}): check channels and size"
        ) from error
    return twin


def class_numbers(p: Pass, network: Network) -> tuple[str, ...] | None:
    """Returns "0", "1", ... for each class of a network's output where the images have labels but no class names."""
    if p.pilot.labels is None:
        return None
    with left_as_found([network.module]), torch.no_grad():
        _, output = run_network(network, p.pilot.images[:1], lambda _: None)
    try:
        outputs = logits(output, 1).shape[1]
    except ConvscopeError:
        return None
    return tuple(str(i) for i in range(max(outputs, int(p.pilot.labels.max()) + 1)))


def head_of(p: Pass, network: Network, notes: Sequence[str] = ()) -> Head:
    """Returns the head of the page: names, sizes, and a strip of images as the network saw them."""
    prepared = network.prepare(p.pilot.images[:STRIP]).detach().double().cpu()
    strip, note = _strip(prepared)
    c, h, w = prepared.shape[1:]
    return Head(
        network=network.name,
        data=p.source.name,
        classes=p.source.classes or (),
        image_shape=(c, h, w),
        strip=strip,
        strip_note=note,
        notes=(*network.notes, *notes),
        skipped=network.skipped,
    )


def _strip(images: Tensor) -> tuple[np.ndarray, str]:
    low, high = float(images.min()), float(images.max())
    if images.shape[1] != 3:
        images = images.mean(1, keepdim=True).expand(-1, 3, -1, -1)
    shown = (images - low) / ((high - low) or 1.0)
    side = max(images.shape[2:])
    if side > 112:
        shown = torch.nn.functional.interpolate(shown, scale_factor=112 / side, mode="area")
    pixels = (shown.permute(0, 2, 3, 1) * 255).round().clamp(0, 255).to(torch.uint8).numpy()
    return pixels, f"{low:.2g} is black, {high:.2g} white"


def provenance(command: str | None, start: float, seeds: Mapping[str, int] | None = None) -> Provenance:
    """Returns how to make a report again.

    Args:
        command: the Python call; None: this process's command line.
        start: ``time.perf_counter()`` when the run began.
        seeds: what was drawn to its seed.
    """
    packages = ("convscope", "torch", "numpy", "scipy", "matplotlib")
    return Provenance(
        command=command or shlex.join(["convscope", *sys.argv[1:]]),
        versions={package: version(package) for package in packages} | {"python": platform.python_version()},
        seeds={"null distributions": 0, "random labels of the back-propagated signal": 0, "random signs": 0}
        | dict(seeds or {}),
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        precision=f"sums over images in float64, the network in its own; {torch.get_num_threads()} of "
        f"{os.cpu_count()} threads",
        seconds=time.perf_counter() - start,
    )


def save_arrays(results: Sequence[Result], path: Path) -> None:
    """Writes the large matrices of all results that have some into one ``.npz``.

    Raises:
        ConvscopeError: when the file cannot be written.
    """
    arrays = {
        f"{result.kind}/{name}": array for result in results for name, array in getattr(result, "arrays", {}).items()
    }
    try:
        with path.open("wb") as file:
            np.savez_compressed(file, **arrays)
    except OSError as error:
        raise ConvscopeError(f"{path} cannot be written ({error.strerror}): choose another place") from error
