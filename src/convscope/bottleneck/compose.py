"""The result, from what is known of each convolution and of the whole."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from convscope.bottleneck.conclude import Activations, Weights, maps_of, spread_out
from convscope.bottleneck.layers import Layer, layers_of, unseen
from convscope.bottleneck.result import BottleneckResult
from convscope.bottleneck.shown import LayerKept
from convscope.bottleneck.whole import Whole, conclude_whole
from convscope.core.network import Network
from convscope.core.results import Number, Skip
from convscope.core.taps import ConvCall

MOST_DETAILS = 8  # layers with maps of their own


def weights_alone(network: Network, calls: Sequence[ConvCall]) -> BottleneckResult:
    """Returns what the weights of a network say, without any image.

    Args:
        network: the network.
        calls: its convolutions as seen on some image of the size that is assumed.
    """
    layers, skipped = layers_of(network.module, calls)
    return of_layers(layers, [*skipped, *unseen(network.module)])


def of_layers(layers: Sequence[Layer], skipped: Sequence[Skip] = (), grid: str = "") -> BottleneckResult:
    """Returns what the weights of convolutions say, without any image.

    Args:
        layers: the convolutions, in the order in which they run.
        skipped: what could not be analysed.
        grid: size of all maps that was assumed, in words; "" where each layer has its own.
    """
    weights = [Weights.of(layer) for layer in layers]
    whole = conclude_whole(weights, {}, None, "its wiring is looked at only together with images", None)
    facts: dict[str, str | bool | float] = {"data": False, "images": 0.0, "untrained_is": "", "grid": grid}
    reason = "needs images: give some with --data"
    missing = Skip("activations, kept pairs, and where the bottleneck lies", reason)
    whole.skipped.clear()
    return result_of(weights, {}, whole, facts=facts, skipped=(*skipped, missing))


def result_of(
    weights: Sequence[Weights],
    activations: Mapping[str, Activations],
    whole: Whole,
    *,
    facts: Mapping[str, str | bool | float],
    skipped: Iterable[Skip],
    sums: Mapping[str, Activations] | None = None,
    pairs: Mapping[str, Any] | None = None,
) -> BottleneckResult:
    """Returns the result from what is known of each convolution and of the whole."""
    rows = []
    for one in weights:
        layer, known = one.layer, activations.get(one.layer.name)
        numbers = known.numbers() if known is not None else {}
        if sums and layer.name in sums and sums[layer.name].varies:
            numbers["sum"] = _renamed(sums[layer.name].estimate("rank"), "sum")
        numbers |= one.numbers()
        if layer.name in whole.chains:
            numbers["chain"] = whole.chains[layer.name]
        rows.append(
            LayerKept(
                layer.name, layer.shape, layer.stride, layer.raw.groups, layer.size, one.cbn.confidence,
                (*(known.notes if known is not None else ()), *one.notes()), numbers,
            )
        )  # fmt: skip
    detailed = spread_out(weights, MOST_DETAILS)
    return BottleneckResult(
        rows=tuple(rows),
        numbers=whole.numbers,
        facts={**whole.facts, **facts, "pairs": whole.facts["narrowest"] if pairs else ""},
        maps={w.layer.name: maps_of(w, activations.get(w.layer.name)) for w in detailed},
        skipped=tuple(dict.fromkeys([*skipped, *whole.skipped])),
        arrays={f"{w.layer.name}/singular values": w.values.values.numpy() for w in weights}
        | {f"{name}/variance": a.spectrum.variance.numpy() for name, a in activations.items()},
        **(pairs or {}),
    )


def _renamed(number: Number, key: str) -> Number:
    return Number(number.value, number.spread, number.chance, key, number.chance_name)
