"""The first-layer formula on networks that others trained, and along the training of one of them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from torch import Tensor, nn

from convscope.core.geometry import ConvGeometry
from convscope.core.moment_values import PatchMoments
from convscope.core.moments import patch_moments
from convscope.core.results import Number
from convscope.firstlayer.fit import ProfileFit, fit_energy_profile
from convscope.firstlayer.heldout import held_out_components
from convscope.firstlayer.profile import energy_profile
from convscope.inputs.images import open_images
from convscope.inputs.networks import open_network
from convscope.papers.chowers2023_tables import no_drift, printed
from convscope.papers.data import CIFAR10_MEAN, image_file, needed, snapshots
from convscope.papers.registry import Outcome, Row, Scale, Setup

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
IMAGES: dict[Scale, int] = {"smoke": 200, "cpu": 2_000, "paper": 10_000}


@dataclass(frozen=True)
class _Published:
    name: str
    file: str  # in the folder of weights, with a prefix where the file holds several networks
    images: str  # name of the data set that it learned
    stride: int
    padding: int
    mean: tuple[float, ...]
    std: tuple[float, ...]


PRETRAINED = (
    _Published("SqueezeNet 1.1, ImageNet", "squeezenet1_1_imagenet.safetensors", "imagenet", 2, 0, *IMAGENET),
    _Published("ResNet-20, CIFAR-10", "resnet20_cifar10.safetensors", "cifar10", 1, 1, *IMAGENET),
    _Published("ResNet-56, CIFAR-10", "resnet56_cifar10.safetensors", "cifar10", 1, 1, *IMAGENET),
)
TRAJECTORY = "caffe_cifar10_full_trajectory.safetensors"
# What is subtracted from RGB in 0..255: the mean of CIFAR-10 per channel, for the mean image of Caffe's recipe.
CAFFE = (CIFAR10_MEAN, (1 / 255, 1 / 255, 1 / 255))


def pretrained(setup: Setup) -> Outcome:
    """Returns how well formula and trivial curves follow published networks (their initial weights are not known)."""
    rows = []
    for published in PRETRAINED:
        weight, moments = _layer(setup, published)
        profile = energy_profile(weight, moments)
        fit = fit_energy_profile(profile, moments)
        held = held_out_components(profile, moments)
        null = fit.nulls["random filters"]
        chance = (null.low, null.high)
        rivals = {name: r for name, (r, _) in fit.baselines.items() if name != "flat"}
        named = "random filters, fitted alike"
        fits = Number(fit.correlation, None, chance, "", named)
        row = Row(
            f"{published.name}: formula, correlation", "not stated", None, fits, 1, rivals, _identified(fit), "higher"
        )
        rows += [
            replace(row, **printed("0.90 ± 0.01 (5 networks)")) if published.images == "imagenet" else row,
            Row(
                f"{published.name}: formula fitted on every other component, correlation on the rest (both halves)",
                "not stated",
                None,
                Number((held.scores["formula"][0] + held.swapped["formula"][0]) / 2),
                2,
                {name: (held.scores[name][0] + held.swapped[name][0]) / 2 for name in held.scores if name != "formula"},
                better="higher",
            ),
        ]
    return Outcome(tuple(rows), _settings(setup))


def trajectory(setup: Setup) -> Outcome:
    """Returns how the fitted training time grows along the eight snapshots of Caffe's CIFAR-10 network."""
    fits: dict[int, ProfileFit] = {}
    moments: PatchMoments | None = None
    for iteration, prefix in snapshots(needed("weights", setup.data) / TRAJECTORY).items():
        published = _Published(prefix, f"{TRAJECTORY}#{prefix}", "cifar10", 1, 2, *CAFFE)
        weight, moments = _layer(setup, published, moments)
        fits[iteration] = fit_energy_profile(energy_profile(weight, moments), moments)
    ages = [fit.age for fit in fits.values()]
    falls = [after < before for before, after in pairwise(ages)]
    rows = (
        Row(
            "share of steps from one snapshot to the next in which the fitted tau falls",
            "0 by the theory",
            (0.0, 0.0),
            Number(sum(falls) / len(falls), None, no_drift(len(falls)), "", "a walk without drift"),
            len(falls),
        ),
        Row(
            "training time tau times largest eigenvalue, last snapshot over first",
            "at least 1 by the theory",
            (1.0, math.inf),
            Number(ages[-1] / ages[0]),
            1,
            note=_identified(fits[max(fits)]),
        ),
        Row(
            "formula at the last snapshot, correlation",
            "not stated",
            None,
            Number(fits[max(fits)].correlation),
            1,
            {name: r for name, (r, _) in fits[max(fits)].baselines.items() if name != "flat"},
            better="higher",
        ),
    )
    table = [
        {
            "iteration": iteration,
            "tau times largest eigenvalue": fit.age,
            "identified": fit.tau_identified,
            "correlation": fit.correlation,
            "index bump": fit.baselines["index bump"][0],
            "linear ramp": fit.baselines["linear ramp"][0],
        }
        for iteration, fit in fits.items()
    ]
    return Outcome(rows, _settings(setup), {"snapshots": table})


def _layer(setup: Setup, published: _Published, known: PatchMoments | None = None) -> tuple[Tensor, PatchMoments]:
    opened = open_network(
        f"{needed('weights', setup.data) / published.file}",
        stride=published.stride,
        padding=published.padding,
        mean=published.mean,
        std=published.std,
    )
    conv = next(m for m in opened.network.module.modules() if isinstance(m, nn.Conv2d))
    if known is not None:
        return conv.weight.detach(), known
    return conv.weight.detach(), patch_moments(_prepared(setup, published), ConvGeometry.of(conv))


def _prepared(setup: Setup, published: _Published) -> Iterator[Tensor]:
    mean, std = (torch.tensor(v, dtype=torch.float64)[:, None, None] for v in (published.mean, published.std))
    source = open_images(str(image_file(published.images, setup.data)), limit=IMAGES[setup.scale])
    for _, batch in source.batches(64):
        yield (batch.images.double() - mean) / std


def _identified(fit: ProfileFit) -> str:
    words = "is identified" if fit.tau_identified else "is not identified: a bare eigenvalue curve fits as well"
    return f"tau times largest eigenvalue {fit.age:.3g}, which {words}"


def _settings(setup: Setup) -> Mapping[str, str]:
    return {
        "weights": "as published, initial weights unknown and not subtracted",
        "images": f"at most {IMAGES[setup.scale]:,} of each set, chosen at random",
        "profiles": "over the principal components of all patches that the first layer sees",
    }
