"""The bottleneck on a pass: what it feeds, and what it concludes."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from convscope.bottleneck.collect import BUDGET, SpectrumSums, feed_spectra, kept_columns
from convscope.bottleneck.compose import result_of
from convscope.bottleneck.conclude import Activations, Weights
from convscope.bottleneck.interpretation import kept_pairs
from convscope.bottleneck.layers import Layer, after_sums, layers_of, unseen
from convscope.bottleneck.result import BottleneckResult
from convscope.bottleneck.spectrum import ActivationSpectrum
from convscope.bottleneck.steps import Chain
from convscope.bottleneck.whole import Whole, conclude_whole
from convscope.bottleneck.wiring import plain_chain
from convscope.core.batches import FEWEST_FOLDS
from convscope.core.errors import ConvscopeError
from convscope.core.kept import Kept, KeptImages
from convscope.core.network import Network
from convscope.core.passes import Pass
from convscope.core.results import Skip
from convscope.core.slots import Slot
from convscope.core.streams import Images, Input
from convscope.core.taps import ConvCall, device_and_dtype

IMAGES = (256, 2000)  # at least and at most, in a report
WORK = 1e12  # multiply-adds of forward passes that are enough for a report
KEPT = 512  # images on which kept pairs are looked at
KEPT_BYTES = 64 * 2**20
COST_IMAGES = 8  # on which Jacobians are computed
UNTRAINED = {"init": "before training", "twin": "untrained twin, one draw"}


class Bottleneck:
    """Which frequencies and channels the convolutions keep, in their weights and in their activations.

    The pass's networks are "model"; "init", its own weights before training, where known; and "twin", the same
    architecture untrained.

    Args:
        images: about how many images activations are looked at on; None: as many as a report needs.
        layers: names of the convolutions; None for all.
        budget: bytes that the sums of activations may take, those of the untrained network included; layers that need
            more keep a sketch.
    """

    def __init__(
        self, images: int | None = None, layers: Collection[str] | None = None, *, budget: int = BUDGET
    ) -> None:
        self.images = images
        self.layers = layers
        self.budget = budget

    def plan(self, p: Pass) -> Callable[[], BottleneckResult]:
        """Feeds the pass and returns what draws the conclusion after it ran.

        Raises:
            ConvscopeError: when the network has none of the convolutions, or cannot take the images.
        """
        model = p.networks["model"]
        calls = p.chosen(model, self.layers)
        images = self.images or _enough(calls)
        layers, skipped = layers_of(model.module, calls)
        names = [layer.name for layer in layers]
        kind = next((kind for kind in UNTRAINED if kind in p.networks), "")
        # Trained and untrained alike, so that both keep the same of each layer.
        budget = self.budget // (2 if kind else 1)
        spectra = feed_spectra(p, model, names, images, budget) if names else {}
        beside = _Untrained(p, p.networks[kind], names, images, budget) if kind else None
        inputs = _feed_inputs(p, model, calls, layers, images)
        kept = p.feed(Images(), lambda: Kept(KEPT, KEPT_BYTES), folded=False, label="kept images")

        def conclude() -> BottleneckResult:
            weights = [Weights.of(layer) for layer in layers]
            activations: dict[str, Activations] = {}
            missing: list[Skip] = []
            for layer in layers:
                other = None if beside is None else beside.spectrum(layer)
                try:
                    known = Activations.of(spectra[layer.name], layer.factor, other, UNTRAINED.get(kind, ""))
                except ConvscopeError as error:
                    missing.append(Skip(f"activations of {layer.name}", str(error)))
                else:
                    activations[layer.name] = known
                spectra[layer.name].release()
            sources = {name: _source(slot, name, missing) for name, slot in inputs.items()}
            shown = _value_of(kept, missing)
            wired = _wired(model, shown)
            whole = conclude_whole(
                weights,
                activations,
                sources[calls[0].name],
                wired,
                None if shown is None else _prepared(model, shown.x[:COST_IMAGES]),
            )
            pairs = _pairs(model, weights, whole, shown, missing)
            sums = {name: s for name, s in sources.items() if name != calls[0].name and s is not None}
            return result_of(
                weights,
                activations,
                whole,
                sums=sums,
                facts={
                    "data": True,
                    "images": float(max((a.spectrum.n for a in activations.values()), default=0)),
                    "untrained_is": kind,
                    "grid": "",
                },
                skipped=(*skipped, *unseen(model.module), *missing),
                pairs=pairs,
            )

        return conclude


class _Untrained:
    """The activations of the network without training.

    Args:
        p: the pass, which is fed.
        network: the untrained one.
        names: of the convolutions of the trained one.
        images: about how many images to use.
        budget: bytes of its sums.
    """

    def __init__(self, p: Pass, network: Network, names: Sequence[str], images: int, budget: int) -> None:
        calls = [call for call in p.convs(network) if call.name in set(names)]
        self.layers = {layer.name: layer for layer in layers_of(network.module, calls)[0]}
        self.spectra = feed_spectra(p, network, list(self.layers), images, budget) if self.layers else {}

    def spectrum(self, layer: Layer) -> ActivationSpectrum | None:
        """Returns the same convolution's spectrum, its batch norm folded in; None where it has another shape."""
        other = self.layers.get(layer.name)
        if other is None or other.shape != layer.shape:
            return None
        slot = self.spectra[layer.name]
        try:
            found = slot.value()
        except ConvscopeError:
            return None
        slot.release()
        return found if other.factor is None else found.scaled(other.factor)


def _feed_inputs(
    p: Pass, model: Network, calls: Sequence[ConvCall], layers: Sequence[Layer], images: int
) -> dict[str, Slot[ActivationSpectrum]]:
    """Returns slots for what the first convolution sees, and for what those see that follow a sum."""
    of = {layer.name: layer for layer in layers}
    after = after_sums(model.module)
    wanted = [call for i, call in enumerate(calls) if not i or (call.name in after and call.name in of)]
    sizes, crops = {}, {}
    for call in wanted:
        k, h, w = call.input.shape[1:]
        crops[call.name] = (0, 0, 0, 0)
        if call.name in of and (h, w) != of[call.name].raw.size:  # its border was filled beforehand
            crops[call.name] = of[call.name].raw.geometry.padding
            h, w = of[call.name].raw.size
        sizes[call.name] = (k, h, w)
    columns = kept_columns(sizes, BUDGET // 4, FEWEST_FOLDS)
    # Images alone get a window: they are not periodic. Where all borders are circular, they count as such.
    window = any(layer.raw.boundary != "circular" for layer in layers)
    return {
        call.name: p.feed(
            Input(model, call.name, images),
            partial(SpectrumSums, columns[call.name], hann=window and not i, crop=crops[call.name]),
            label="activation spectra",
            folds=FEWEST_FOLDS,
        )
        for i, call in enumerate(wanted)
    }


def _source(slot: Slot[ActivationSpectrum], name: str, missing: list[Skip]) -> Activations | None:
    try:
        found = Activations.of(slot)
    except ConvscopeError as error:
        missing.append(Skip(f"what {name} sees", str(error)))
        return None
    slot.release()
    return found


def _value_of(kept: Slot[KeptImages], missing: list[Skip]) -> KeptImages | None:
    try:
        return kept.value()
    except ConvscopeError as error:
        missing.append(Skip("kept pairs and costs", str(error)))
        return None


def _wired(model: Network, shown: KeptImages | None) -> Chain | str:
    if shown is None:
        return "no image could be kept to look at its wiring"
    return plain_chain(model.module, _prepared(model, shown.x[:1]))


def _prepared(model: Network, images: Tensor) -> Tensor:
    device, dtype = device_and_dtype(model.module)
    with torch.no_grad():
        return model.prepare(images.to(device)).to(dtype)


def _pairs(
    model: Network,
    weights: Sequence[Weights],
    whole: Whole,
    shown: KeptImages | None,
    missing: list[Skip],
) -> dict[str, Any]:
    """Returns the fields of the result for the kept pairs of the narrowest layer."""
    layer = str(whole.facts["narrowest"])
    if shown is None or not layer:
        return {}
    one = next(w for w in weights if w.layer.name == layer)
    try:
        return kept_pairs(model, one, shown)
    except ConvscopeError as error:
        missing.append(Skip(f"kept pairs of {layer}", str(error)))
        return {}


def _enough(calls: Sequence[ConvCall]) -> int:
    """Returns the number of images on which a report's ranks are known well enough for their cost."""
    few, many = IMAGES
    work = sum(call.output[0].numel() * call.geometry.patch_dim for call in calls)
    return int(min(max(WORK / work, few), many))
