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
from convscope.core.errors import ConvscopeError
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
            untrained = _Untrained(kind, starts, before() if before is not None else iter(()))
            found: list[PatchAgop] = []
            known: list[Measures] = []
            skipped: list[Skip] = []
            for item in finish():
                if isinstance(item, Skip):
                    skipped.append(item)
                    continue
                result, other = untrained.beside(item)
                try:
                    known.append(measures(result, other))
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
                skipped=(
                    *_together(skipped, len(calls), "gradients of the outputs, at every convolution"),
                    *untrained.skipped(len(calls)),
                ),
                arrays={
                    f"{result.layer}/{what}": getattr(result, what).numpy()
                    for result in found
                    for what in ("weight", "gram")
                },
            )

        return conclude


class _Untrained:
    """The network without training, convolution after convolution, and what is not known of it.

    Args:
        kind: "init" where its weights are those that the training began with, "twin" or "" (there is none).
        starts: its convolutions by name.
        items: what ``feed_agop`` gives of it.
    """

    def __init__(self, kind: str, starts: Mapping[str, ConvCall], items: Iterator[PatchAgop | Skip]) -> None:
        self.kind, self.starts, self.items = kind, starts, items
        self._passed: dict[str, PatchAgop | Skip] = {}
        self._missing: list[Skip] = []

    def beside(self, result: PatchAgop) -> tuple[PatchAgop, PatchAgop | None]:
        """Returns a convolution with its weights before training, and the same one without training, where known."""
        reasons = []
        if self.kind == "init":
            try:
                result = with_init(result, self.starts)
            except ConvscopeError as error:
                reasons.append(str(error))
        other = self._named(result.layer)
        if isinstance(other, Skip):
            reasons.append(other.reason)
            other = None
        self._missing += [Skip(result.layer, reason) for reason in reasons[:1]]  # the second follows from the first
        return result, other

    def skipped(self, layers: int) -> list[Skip]:
        """Returns what is not known.

        Args:
            layers: number of convolutions that were looked at.
        """
        of = "before training" if self.kind == "init" else "of the untrained twin"
        found = [Skip(f"{s.what} {of}", s.reason) for s in _together(self._missing, layers, "every convolution")]
        if self.kind != "init":
            reason = "the network's own weights before training are not known: name them with --init"
            found.append(Skip("the ansatz for the change of the weights", reason))
        return found

    def _named(self, name: str) -> PatchAgop | Skip | None:
        while name not in self._passed and (item := next(self.items, None)) is not None:
            self._passed[item.what if isinstance(item, Skip) else item.layer] = item
        return self._passed.pop(name, None)


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


def _together(skips: Sequence[Skip], layers: int, every: str) -> list[Skip]:
    """Returns one skip for each reason, which names the convolutions that share it.

    Args:
        skips: each of one convolution.
        layers: number of convolutions.
        every: what stands in place of the names of all of them.
    """
    by_reason: dict[str, list[str]] = {}
    for skip in skips:
        by_reason.setdefault(skip.reason, []).append(skip.what)
    return [
        Skip(every if len(names) == layers > 1 else ", ".join(names), reason) for reason, names in by_reason.items()
    ]


def _words(sent: SentBack) -> str:
    """Returns what was sent back, in words."""
    if sent.outputs == "loss":
        return "the gradient of the loss"
    if not sent.exact:
        return f"random signs for all {sent.outputs}, {sent.probes} for each image"
    return f"each of the {sent.outputs} in turn{', less the mean over images' if sent.centred else ''}"
