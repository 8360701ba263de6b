"""The feature ansatz on a pass: what it feeds, and what it concludes."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from convscope.ansatz.agop import PatchAgop
from convscope.ansatz.collect import Collected, SentBack, feed_agop, with_init
from convscope.ansatz.conclude import Measures, alignment, class_patches, class_shares, measures, medians
from convscope.ansatz.result import AnsatzResult
from convscope.ansatz.views import DECIMALS, pictures_of, views_of
from convscope.core.delivery import run_network
from convscope.core.network import Network
from convscope.core.passes import Pass
from convscope.core.results import Skip
from convscope.core.taps import ConvCall, left_as_found

IMAGES = (128, 1000)  # at least and at most, in a report
WORK = 1e12  # multiply-adds of forward passes that are enough for a report
MOST_DETAILS = 12  # layers with pictures of their own
VIEWED = 3  # images seen through layers
VIEW_LAYERS = 5

T = TypeVar("T")


class Ansatz:
    """Filter covariances of every convolution beside average gradient outer products over its patches.

    The pass's networks are "model"; "init", its own weights before training, where known; and "twin", the same
    architecture untrained.

    Args:
        sent: what is sent back; None: random signs once for each image, on as many images as a report needs.
        layers: names of the convolutions; None for all.
    """

    def __init__(self, sent: SentBack | None = None, layers: Collection[str] | None = None) -> None:
        self.sent = sent
        self.layers = layers

    def plan(self, p: Pass) -> Callable[[], AnsatzResult]:
        """Feeds the pass and returns what draws the conclusion after it ran.

        Raises:
            ConvscopeError: when the network has none of the convolutions, or cannot take the images.
        """
        model = p.networks["model"]
        calls = p.chosen(model, self.layers)
        sent = self.sent or SentBack(images=_enough(calls))
        finish = feed_agop(p, model, sent, self.layers)
        kind = next((kind for kind in ("init", "twin") if kind in p.networks), "")
        before: Collected | None = None
        starts: Mapping[str, ConvCall] = {}
        if kind:
            starts = {call.name: call for call in p.convs(p.networks[kind])}
            same = [call.name for call in calls if call.name in starts]
            if same:
                before = feed_agop(p, p.networks[kind], replace(sent, classes=()), same)
        images = _busiest(p.pilot.images)
        inputs = _inputs(model, images, _spread(calls, VIEW_LAYERS))

        def conclude() -> AnsatzResult:
            untrained = _ByName(before() if before is not None else iter(()))
            found: list[PatchAgop] = []
            known: list[Measures] = []
            skipped: list[Skip] = []
            for item in finish():
                if isinstance(item, Skip):
                    skipped.append(item)
                    continue
                result = with_init(item, starts.get(item.layer) if kind == "init" else None)
                try:
                    known.append(measures(result, untrained(result.layer)))
                except ValueError as error:
                    skipped.append(Skip(result.layer, str(error)))
                else:
                    found.append(replace(result, without=()))  # with wide layers, folds take much memory
            return AnsatzResult(
                rows=tuple(alignment(result, measured) for result, measured in zip(found, known, strict=True)),
                numbers=medians(known),
                facts={
                    "untrained_is": kind,
                    "sent": _words(sent),
                    "images": float(max((result.n_images for result in found), default=0)),
                },
                pictures={result.layer: pictures_of(result) for result in _spread(found, MOST_DETAILS)},
                **_views(images, inputs, found),
                **_by_class(found, p.source.classes),
                skipped=tuple(_together([*skipped, *_unknown(kind)], len(calls))),
                arrays={
                    f"{result.layer}/{what}": getattr(result, what).numpy()
                    for result in found
                    for what in ("weight", "gram")
                },
            )

        return conclude


class _ByName:
    """Finds convolutions by name in what ``feed_agop`` gives one after the other."""

    def __init__(self, items: Iterator[PatchAgop | Skip]) -> None:
        self.items = items
        self.passed: dict[str, PatchAgop] = {}

    def __call__(self, name: str) -> PatchAgop | None:
        while name not in self.passed and (item := next(self.items, None)) is not None:
            if isinstance(item, PatchAgop):
                self.passed[item.layer] = item
        return self.passed.pop(name, None)


def _views(images: Tensor, inputs: Mapping[str, Tensor], found: Sequence[PatchAgop]) -> dict[str, Any]:
    known = {result.layer: result for result in found}
    inputs = {name: x for name, x in inputs.items() if name in known}
    if not inputs:
        return {"views": np.zeros((0, 1, 1, 3), np.uint8), "view_layers": ()}
    return {"views": views_of(images, inputs, known), "view_layers": tuple(inputs)}


def _by_class(found: Sequence[PatchAgop], names: Sequence[str] | None) -> dict[str, Any]:
    """Returns what is told of the outputs that were asked for, at the first convolution."""
    if not found or not found[0].of_output or found[0].geometry.groups > 1:
        return {}
    first = found[0]
    return {
        "classes": tuple(names[k] if names and k < len(names) else str(k) for k in first.of_output),
        "class_numbers": tuple(class_shares(first)),
        "class_patches": class_patches(first).numpy().round(DECIMALS),
    }


def _enough(calls: Sequence[ConvCall]) -> int:
    """Returns the number of images on which a report's correlations are known well enough for their cost."""
    few, many = IMAGES
    work = sum(call.output[0].numel() * call.geometry.patch_dim for call in calls)
    return int(min(max(WORK / work, few), many))


def _busiest(images: Tensor) -> Tensor:
    """Returns the images whose neighbouring pixels differ most: a blank one would show nothing."""
    x = images.detach().double()
    contrast = x.diff(dim=2).abs().mean((1, 2, 3)) + x.diff(dim=3).abs().mean((1, 2, 3))
    return images[contrast.topk(min(VIEWED, len(x))).indices]


def _inputs(network: Network, images: Tensor, calls: Sequence[ConvCall]) -> dict[str, Tensor]:
    wanted, seen = {call.name for call in calls}, dict[str, Tensor]()

    def see(call: ConvCall) -> None:
        if call.name in wanted:
            seen.setdefault(call.name, call.input.detach().cpu())

    with left_as_found([network.module]), torch.no_grad():
        run_network(network, images, see)
    return seen


def _spread(items: Sequence[T], most: int) -> list[T]:
    """Returns at most so many items, evenly spread, the first and the last among them."""
    if len(items) <= most:
        return list(items)
    return [items[round(i * (len(items) - 1) / (most - 1))] for i in range(most)]


def _together(skips: Sequence[Skip], layers: int) -> list[Skip]:
    """Returns the skips, one for all convolutions where they share their reason."""
    reasons = [skip.reason for skip in skips]
    every = next((reason for reason in set(reasons) if reasons.count(reason) == layers > 1), None)
    if every is None:
        return list(skips)
    rest = [skip for skip in skips if skip.reason != every]
    return [Skip("gradients of the outputs, at every convolution", every), *rest]


def _unknown(kind: str) -> list[Skip]:
    if kind == "init":
        return []
    reason = "the network's own weights before training are not known: name them with --init"
    return [Skip("the ansatz for the change of the weights", reason)]


def _words(sent: SentBack) -> str:
    """Returns what was sent back, in words."""
    if sent.outputs == "loss":
        return "the gradient of the loss"
    if not sent.exact:
        return f"random signs for all {sent.outputs}, {sent.probes} for each image"
    return f"each of the {sent.outputs} in turn{', less the mean over images' if sent.centred else ''}"
