"""Texture against shape: what trained networks make of one image's phases with another's amplitudes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from torch import nn

from convscope.core.network import Network
from convscope.core.results import Number, finite
from convscope.dynamics.collect import dataset_structure
from convscope.dynamics.filters import first, ranked
from convscope.dynamics.swap import SpectrumSwap, swap_spectra
from convscope.papers.pinson2023_data import (
    Kind,
    held_out,
    normalised,
    photographs,
    trained_network,
    untrained_network,
)
from convscope.papers.pinson2023_relu import DOMINANT, LEARNED
from convscope.papers.registry import TIE, Outcome, Row, Scale, Setup, summary


@dataclass(frozen=True)
class Size:
    """Sizes of one scale: images to learn, test images of the training, those combined, networks of each kind."""

    images: int
    test: int
    combined: int
    seeds: int


SIZES: dict[Scale, Size] = {
    "smoke": Size(200, 40, 40, 1),
    "cpu": Size(5_000, 2_000, 6_000, 3),
    "paper": Size(50_000, 10_000, 10_000, 5),
}
_KINDS: dict[str, Kind] = {"CNN with strides": "strides", "CNN with maxima": "maxima", "fully connected": "dense"}
_UNTRAINED = "untrained CNN"


def swap(setup: Setup) -> Outcome:
    """Returns whether networks with ReLUs go by the phases or the amplitudes of images, and by which amplitudes."""
    size = SIZES[setup.scale]
    images, labels = photographs(setup, size.images)
    strengths = dataset_structure([(images, labels)], covariance=False).strengths
    test, given = held_out(setup, size.test), held_out(setup, size.combined)
    dominant = first(ranked(strengths), DOMINANT, *strengths.shape)
    masks = {"all": None, "dominant": dominant, "others": ~dominant}
    found: dict[str, list[dict[str, SpectrumSwap]]] = {}
    table: list[dict[str, Any]] = []
    for name, kind in {**_KINDS, _UNTRAINED: _KINDS["CNN with strides"]}.items():
        found[name] = []
        for seed in range(size.seeds if kind != "maxima" else 1):
            module: nn.Module = untrained_network(kind, seed)
            if name != _UNTRAINED:
                module, _ = trained_network(setup, kind, images, labels, test, seed=seed, epochs=LEARNED)
            network = Network(name, module, normalised)
            swaps = {
                which: swap_spectra(network, given.pixels, given.labels, mask=mask, progress=setup.progress)
                for which, mask in masks.items()
            }
            found[name].append(swaps)
            table += [_line(name, seed, which, one) for which, one in swaps.items()]
    settings = {
        "networks": "CNNs: three convolutions 3x3 of 32, 64 and 64 filters with ReLUs, maps halved by strides or by "
        "maxima, one linear layer; fully connected: 256 ReLUs and a linear layer",
        "training": f"SGD on the cross-entropy, step size 0.01, momentum 0.9, batches of 64, {LEARNED} epochs, on the "
        f"first {size.images:,} training images of CIFAR-10",
        "images": f"the first {len(given.labels):,} test images: each gives its phases, an image of another class, or "
        "another of its own class, its amplitudes, channel by channel",
        "dominant": f"the first {DOMINANT} of {strengths.numel():,} frequencies by ||sigma_j|| of the training images",
    }
    return Outcome(tuple(_rows(found)), settings, {"networks": table})


def _rows(found: dict[str, list[dict[str, SpectrumSwap]]]) -> list[Row]:
    ours = found["CNN with strides"]
    rivals = [name for name in found if name != "CNN with strides"]

    def beside(value: Any, names: Sequence[str] = rivals) -> dict[str, float]:
        return {name: fmean(map(value, found[name])) for name in names}

    def amplitude(swaps: dict[str, SpectrumSwap], which: str = "all") -> float:
        return swaps[which].follows_amplitude.value

    def phase(swaps: dict[str, SpectrumSwap]) -> float:
        return swaps["all"].follows_phase.value

    def preference(swaps: dict[str, SpectrumSwap]) -> float:
        return swaps["all"].preference.value

    def cost(swaps: dict[str, SpectrumSwap]) -> float:
        return swaps["all"].same_class.value - phase(swaps)

    chance = _chance([swaps["all"].follows_amplitude for swaps in ours])
    error = fmean(swaps["all"].preference.spread or math.nan for swaps in ours)
    either = _chance([swaps["all"].preference for swaps in ours])
    shape = _chance([swaps["all"].follows_phase for swaps in ours])
    same = fmean(swaps["all"].same_class.value for swaps in ours)
    clean = fmean(swaps["all"].clean.value for swaps in ours)
    rest = {"amplitudes of the other frequencies": fmean(amplitude(swaps, "others") for swaps in ours)}
    by_kind = {f"{name}, dominant": fmean(amplitude(s, "dominant") for s in found[name]) for name in rivals}
    return [
        Row(
            "CNN with strides: combined images given the class of the amplitudes (texture)",
            "above chance (the theory helps explain reliance on texture)",
            (chance[1] + TIE, 1.0),
            summary(map(amplitude, ours), chance, "permuted labels"),
            len(ours),
            beside(amplitude),
            f"accuracy on images as they are {clean:.2f}",
            "higher",
        ),
        Row(
            "CNN with strides: combined images given the class of the phases (shape)",
            "not stated",
            None,
            summary(map(phase, ours), shape, "permuted labels"),
            len(ours),
            beside(phase),
        ),
        Row(
            "CNN with strides: of those given one of the two classes, share given that of the phases",
            "below 1/2, and chance: “their tendency to rely on texture instead of shape”",
            (0.0, either[0]),
            summary(map(preference, ours), either, "permuted labels"),
            len(ours),
            beside(preference),
            better="lower",
            reason="a preference for amplitudes, if there is one, is no larger than what permuted pairs give on "
            f"{ours[0]['all'].pairs:,} images: one network's standard error is {error:.3f}",
        ),
        Row(
            "CNN with strides: accuracy by the phases' class that is lost when amplitudes come from another class "
            "rather than from the same",
            "positive: amplitudes tell classes (theory)",
            (2 * max(swaps["all"].same_class.spread or 0.0 for swaps in ours), 1.0),
            summary(map(cost, ours)),
            len(ours),
            beside(cost),
            f"accuracy with another image's amplitudes of the same class {same:.2f}: what swapping alone does",
        ),
        Row(
            f"CNN with strides: given the amplitudes' class when those of the {DOMINANT} dominant frequencies alone "
            "are swapped",
            "more than when those of all others are (theory: the dominant frequencies count)",
            (next(iter(rest.values())) + TIE, 1.0),
            summary((amplitude(swaps, "dominant") for swaps in ours), chance, "permuted labels"),
            len(ours),
            rest | by_kind,
        ),
    ]


def _chance(numbers: Sequence[Number]) -> tuple[float, float]:
    """Returns the mean over networks of the ends of what chance gives; 1/2 where no guess followed either image."""
    low, high = zip(*(number.chance or (0.5, 0.5) for number in numbers), strict=True)
    return fmean(low), fmean(high)


def _line(name: str, seed: int, which: str, found: SpectrumSwap) -> dict[str, Any]:
    return {
        "network": name,
        "seed": seed,
        "amplitudes swapped": which,
        "clean": found.clean.value,
        "phases' class": found.follows_phase.value,
        "amplitudes' class": found.follows_amplitude.value,
        "neither": found.neither.value,
        "preference for phases": finite(found.preference.value),
        "within a class": found.same_class.value,
        "values outside the range": found.outside,
    }
