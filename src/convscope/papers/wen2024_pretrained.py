"""The bottleneck in networks that others trained, and along one training: weights, activations, and what can go."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import fmean
from typing import Any

import torch

from convscope.analyse import analyse, twin_of
from convscope.bottleneck.compress import Compression, compress
from convscope.bottleneck.result import BottleneckResult
from convscope.bottleneck.shown import LayerKept
from convscope.bottleneck.theory import Bottleneck
from convscope.core.errors import ConvscopeError
from convscope.core.network import Network
from convscope.core.passes import Pass
from convscope.core.results import Number, finite
from convscope.inputs.iterables import IterableSource
from convscope.papers.beaglehole2023_networks import PUBLISHED, TRAJECTORY, Published, opened
from convscope.papers.data import cifar10, needed, pictures, snapshots
from convscope.papers.registry import Outcome, Row, Scale, Setup
from convscope.training.initialise import reinitialised

NOT_READ = "not read"
TOLERANCE = 0.01


@dataclass(frozen=True)
class Size:
    """Sizes of one scale: images for activations and for compression, published networks, snapshots of a training."""

    images: int
    compression: int
    networks: int
    snapshots: int


SIZES: dict[Scale, Size] = {
    "smoke": Size(8, 60, 1, 1),
    "cpu": Size(1000, 10_000, 3, 8),
    "paper": Size(10_000, 10_000, 3, 8),
}
NETWORKS = tuple(sorted(PUBLISHED, key=lambda published: published.images))  # the small images first


def pretrained(setup: Setup) -> Outcome:
    """Returns which frequencies and channels the convolutions of published networks keep."""
    size = SIZES[setup.scale]
    rows: list[Row] = []
    details: dict[str, list[dict[str, Any]]] = {}
    for published in NETWORKS[: size.networks]:
        found = _analysed(opened(setup, published), pictures(published.images, setup.data, size.images), setup)
        rows += _rows(published.name, found)
        details[published.name] = [_line(row) for row in found.rows]
    images = pictures(TRAJECTORY.images, setup.data, size.images)
    along = {
        at: _analysed(opened(setup, TRAJECTORY, f"#{prefix}"), images, setup)
        for at, prefix in _snapshots(setup)[-size.snapshots :]
    }
    rows += _rows(f"{TRAJECTORY.name}, last snapshot", along[max(along)])
    details["snapshots"] = [{"iteration": at} | _line(row) for at, found in along.items() for row in found.rows]
    return Outcome(tuple(rows), _settings(size), details)


def compression(setup: Setup) -> Outcome:
    """Returns how small published networks become within a tolerance of 0.01, or why they do not."""
    size = SIZES[setup.scale]
    rows: list[Row] = []
    lines: list[dict[str, Any]] = []
    for published, prefix in _every(setup, size):
        labels = None
        if published.images == "cifar10":
            data = cifar10(needed("cifar10", setup.data), size.compression, "test")
            images, labels = data.pixels, data.labels
        else:
            images = pictures(published.images, setup.data, size.compression)
        found = compress(opened(setup, published, prefix), images, labels, tolerance=TOLERANCE, progress=setup.progress)
        rows += _saved(published.name, found)
        lines += [
            {"network": published.name, "convolution": layer, "form": choice.option.form, "kept": choice.kept}
            | {"stored numbers, share": finite(choice.cost.numbers / choice.dense.numbers)}
            for layer, choice in found.layers.items()
        ]
    settings = {
        "tolerance": f"{TOLERANCE}: of accuracy (CIFAR-10's test images), or |f − f'|² / |f − mean f|² of the outputs "
        "(a sample of ImageNet, without labels)",
        "images": "one half chooses the sizes, the other half measures the loss; ± one standard error",
    }
    return Outcome(tuple(rows), settings, {"replaced convolutions": lines})


def _every(setup: Setup, size: Size) -> list[tuple[Published, str]]:
    return [*((published, "") for published in NETWORKS[: size.networks]), (TRAJECTORY, f"#{_snapshots(setup)[-1][1]}")]


def _snapshots(setup: Setup) -> list[tuple[int, str]]:
    return list(snapshots(needed("weights", setup.data) / TRAJECTORY.file).items())


def _saved(name: str, found: Compression) -> list[Row]:
    verdict = f"refused: {found.refusal}" if found.refusal else f"{len(found.layers)} of the convolutions replaced"
    n = found.loss.images if found.loss is not None else 0
    shares = {
        "stored numbers": found.after.numbers / found.before.numbers,
        "multiply-adds": found.after.multiply_adds / found.before.multiply_adds,
    }
    rows = [
        Row(f"{name}: {what} after compression, share", NOT_READ, None, Number(share), n, note=verdict)
        for what, share in shares.items()
    ]
    if found.loss is not None:
        lost = {"accuracy": "accuracy lost", "output": "relative error of the outputs"}[found.loss.measure]
        number = Number(found.loss.value, found.loss.number().spread)
        rows.append(Row(f"{name}: {lost}", NOT_READ, None, number, n, note=verdict))
    return rows


def _analysed(network: Network, images: torch.Tensor, setup: Setup) -> BottleneckResult:
    p = Pass(IterableSource(images, "images"), {"model": network}, progress=setup.progress)
    twin = reinitialised(network.module)
    if twin is not None:
        p.networks["twin"] = twin_of(p, network, twin)
    (result,), _ = analyse(p, [Bottleneck(len(images))])
    if not isinstance(result, BottleneckResult):
        raise ConvscopeError(f"{network.name} gave a result of kind {result.kind}")
    return result


def _rows(name: str, found: BottleneckResult) -> list[Row]:
    images = int(found.facts["images"])
    wanted = (
        (
            f"dimensions for 99 % of the variance, narrowest convolution ({found.facts['narrowest']})",
            "narrowest",
            images,
        ),
        ("the same over that of the input", "narrowing", images),
        ("alignment of singular values with two levels, median over convolutions", "median_align", len(found.rows)),
    )
    rows = [
        Row(f"{name}: {quantity}", NOT_READ, None, found.numbers[key], n)
        for quantity, key, n in wanted
        if key in found.numbers
    ]
    ranks = [row.numbers["rank"] for row in found.rows if "rank" in row.numbers]
    narrower = [number.value < fmean(number.chance) for number in ranks if number.chance is not None]
    if narrower:
        share = Number(fmean(narrower))
        what = f"{name}: share of convolutions narrower than in the untrained twin"
        rows.append(Row(what, NOT_READ, None, share, len(narrower), note="0.5 if training changed nothing"))
    return rows


def _line(row: LayerKept) -> dict[str, Any]:
    line: dict[str, Any] = {"convolution": row.layer, "filters": "x".join(map(str, row.shape))}
    for key in ("rank", "frequencies", "grid", "cbn_share", "align", "leak"):
        number = row.numbers.get(key)
        line[key] = None if number is None else finite(number.value)
        if number is not None and number.chance is not None:
            line[f"{key}, chance"] = [finite(end) for end in number.chance]
    return line | {"plateau": row.confidence, "notes": "; ".join(row.notes)}


def _settings(size: Size) -> dict[str, str]:
    return {
        "images": f"at most {size.images:,} of each set: the first test images of CIFAR-10, the sample of ImageNet",
        "rank": "real dimensions (frequency and direction among channels) that hold 99 % of the variance of a "
        "convolution's output from image to image, batch norm folded in; chance: the untrained twin, one draw",
        "frequencies": "those that hold 99 % of the variance, conjugate pairs counted once",
        "grid": "pixels along one side that hold the frequencies of 99 % of the variance",
        "cbn_share, align": "of the singular values, batch norm folded in: share on the upper of two levels, and "
        "squared cosine with exactly two levels; chance: Gaussian kernels",
        "leak": "share of the zero-padded operator that no circulant holds",
    }
