"""What compressing a network saved and lost, as part of its result."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from convscope.bottleneck.compress import Compression, compress
from convscope.bottleneck.result import BottleneckResult
from convscope.core.delivery import run_network
from convscope.core.errors import ConvscopeError
from convscope.core.kept import KeptImages
from convscope.core.network import Network
from convscope.core.results import Number, Skip
from convscope.core.taps import left_as_found, logits

CHECKED = 256  # images on which the network must tell the labels better than chance


def factorised(
    result: BottleneckResult,
    network: Network,
    kept: KeptImages,
    tolerance: float,
    path: Path,
    *,
    progress: bool = False,
) -> tuple[BottleneckResult, bool]:
    """Returns the result with what factorising saved and lost, and whether it was refused; else the file is written.

    Args:
        result: of the network.
        network: left as it was found.
        kept: images, as the source gives them.
        tolerance: largest loss.
        path: of the compressed network.
        progress: whether to show a progress bar.
    """
    labels = _labels(network, kept)
    notes: list[str] = []
    if kept.labels is not None and labels is None:
        notes.append("the network tells the images' labels no better than chance, so its outputs were compared")
    try:
        found = compress(network, kept.x, labels, index=kept.index, tolerance=tolerance, progress=progress)
        if not found.refusal:
            found.save(path)
    except ConvscopeError as error:
        return _with(result, f"Refused: {error}.", {"stored": Number(1.0, definition="stored")}), True
    told = [*found.sentences(), *(f"{note[:1].upper()}{note[1:]}." for note in (*notes, *found.notes))]
    if not found.refusal:
        told.append(f"Saved as {path.name}: load it with convscope.load_compressed(model, file).")
    skipped = tuple(Skip(f"factors of {s.what}", s.reason) for s in found.skipped)
    return replace(_with(result, " ".join(told), _numbers(found)), skipped=(*result.skipped, *skipped)), bool(
        found.refusal
    )


def _with(result: BottleneckResult, told: str, numbers: dict[str, Number]) -> BottleneckResult:
    return replace(result, numbers={**result.numbers, **numbers}, facts={**result.facts, "factorised": told})


def _numbers(found: Compression) -> dict[str, Number]:
    before, after = found.before, found.after
    numbers = {"stored": Number(after.numbers / before.numbers, definition="stored")}
    if found.layers:
        numbers["work"] = Number(after.multiply_adds / before.multiply_adds, definition="work")
    if found.loss is not None:
        numbers["lost"] = replace(found.loss.number(), definition="lost")
    return numbers


def _labels(network: Network, kept: KeptImages) -> Tensor | None:
    """Returns the labels of the images where the network tells them better than chance: others may be numbered
    otherwise. None where there are none, or the network returns no class scores.
    """
    images, labels = kept.labelled()
    images, labels = images[:CHECKED], labels[:CHECKED]
    if not len(images):
        return None
    with left_as_found([network.module]), torch.no_grad():
        try:
            scores = logits(run_network(network, images, lambda _: None)[1], len(images)).cpu()
        except ConvscopeError:
            return None
    right, chance = float((scores.argmax(1) == labels).double().mean()), 1 / scores.shape[1]
    return kept.labels if right > chance + 2 * (chance * (1 - chance) / len(images)) ** 0.5 else None
