"""What the linear theory says of networks with ReLUs: the order of modes, and the frequencies that they use."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import torch

from convscope.core.network import Network
from convscope.dynamics.bias import dominant_frequency_bias
from convscope.dynamics.collect import dataset_structure
from convscope.dynamics.monitor import ModeMonitor
from convscope.dynamics.training import Measured, train_and_measure
from convscope.papers.pinson2023_data import (
    BY_CHANCE,
    CLASSES,
    Kind,
    held_out,
    normalised,
    photographs,
    ranks,
    trained_network,
)
from convscope.papers.registry import Outcome, Row, Scale, Setup, summary
from convscope.training.linear import ReluCNN
from convscope.training.loop import train


@dataclass(frozen=True)
class Size:
    """Sizes of one scale.

    Attributes:
        images: in colour, to train on.
        test: images that are filtered.
        epochs: of the networks that learn the classes of colour images.
        gray: images of one channel, to train on.
        steps: at most, of the networks that learn those.
        pairs: CNNs and MLPs on gray images.
        seeds: networks on colour images.
    """

    images: int
    test: int
    epochs: int
    gray: int
    steps: int
    pairs: int
    seeds: int


SIZES: dict[Scale, Size] = {
    "smoke": Size(200, 40, 1, 200, 20, 1, 1),
    "cpu": Size(5_000, 2_000, 16, 4_000, 3_000, 2, 3),
    "paper": Size(50_000, 10_000, 40, 50_000, 20_000, 5, 5),
}


def order(setup: Setup) -> Outcome:
    """Returns whether a CNN with ReLUs learns modes in the order of their effective singular values."""
    size = SIZES[setup.scale]
    images, labels = photographs(setup, size.images)
    images = images - images.mean(0)
    structure = dataset_structure([(images, labels)], covariance=False)
    table: list[dict[str, Any]] = []
    effective, plain = [], []
    for seed in range(size.seeds):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            network = ReluCNN((3, 32, 32), CLASSES, (16, 32, 32), 3)
        monitor = ModeMonitor(network, (images, labels), structure=structure, outputs="probabilities", every=10)
        run = train(
            network,
            images,
            labels,
            epochs=size.epochs,
            lr=0.01,
            momentum=0.9,
            batch_size=128,
            seed=seed,
            progress=f"order, seed {seed}" if setup.progress else False,
            callbacks=[monitor],
        )
        half = monitor.half_times
        effective.append(ranks(half, 1 / structure.effective_singular_values))
        plain.append(ranks(half, 1 / structure.singular_values))
        table.append({
            "seed": seed,
            "half-times, steps": [round(t) for t in half.tolist() if t != float("inf")],
            "accuracy of the last epoch": run.history[-1].accuracy,
            "learned": int(half.isfinite().sum()),
        })
    rows = [
        Row(
            "CNN with ReLUs, cross-entropy: rank correlation of half-times with 1 / (s sqrt(N) phi_max)",
            "positive (the linear theory, carried over); reference 0.92, 0.97, 0.87",
            (0.7, 1.0),
            summary(effective, BY_CHANCE, "modes in any order"),
            size.seeds,
            {"1 / s, a dense network's order": fmean(plain)},
            f"least {min(effective):.2f}",
            "higher",
        )
    ]
    settings = {
        "images": f"the first {size.images:,} training images of CIFAR-10, less their mean",
        "network": "three convolutions 3x3 of 16, 32 and 32 filters with stride 2 and ReLUs, one linear layer; "
        "PyTorch's initial weights",
        "training": f"SGD on the cross-entropy, step size 0.01, momentum 0.9, batches of 128, {size.epochs} epochs",
        "half-times": "of the modes of these images in the network's probabilities, on all of them, every 10 steps",
    }
    return Outcome(tuple(rows), settings, {"seeds": table})


def spectra(setup: Setup) -> Outcome:
    """Returns over how many frequencies the maps of CNNs and MLPs with ReLUs spread when late modes are learned."""
    size = SIZES[setup.scale]
    images, labels = photographs(setup, size.gray, "gray")
    found: dict[str, list[Measured]] = {"cnn": [], "mlp": []}
    for seed in range(size.pairs):
        for kind, values in found.items():
            measured = train_and_measure(
                kind,  # type: ignore[arg-type]
                images,
                labels,
                steps=size.steps,
                seed=seed,
                progress=f"{kind}, seed {seed}" if setup.progress else False,
            )
            values.append(measured)
    late = len(found["cnn"][0].half_times) - 3
    spread = {kind: [_late(m.used.participation_ratio, late) for m in values] for kind, values in found.items()}
    share = {kind: [_late(m.used.dominant_share, late) for m in values] for kind, values in found.items()}
    used = found["cnn"][0].used
    ratios = [a / b for a, b in zip(spread["cnn"], spread["mlp"], strict=True)]
    rows = [
        Row(
            "last three modes: frequencies that the CNN's map spreads over (participation ratio), over the MLP's",
            "below 1 (theory: the dominant ones alone); reference 0.23 to 0.68",
            (0.0, 0.7),
            summary(ratios),
            size.pairs,
            note=f"CNN {fmean(spread['cnn']):.0f}, MLP {fmean(spread['mlp']):.0f}, the modes themselves "
            f"{_late(used.mode_participation_ratio, late):.0f}; references 29 to 42 and 62 to 129",
        ),
        Row(
            f"last three modes: share of the CNN's energy in the modes' {used.top} dominant pairs of frequencies",
            "high (theory); reference 0.38 to 0.54",
            None,
            summary(share["cnn"]),
            size.pairs,
            {"MLP": fmean(share["mlp"]), "the modes themselves": _late(used.mode_dominant_share, late)},
        ),
    ]
    for kind, values in found.items():
        structure = values[0].structure
        rows.append(
            Row(
                f"{kind.upper()}, squared error: rank correlation of half-times with 1 / (s sqrt(N) phi_max)",
                "positive (the linear theory, carried over); reference " + ("1.0" if kind == "cnn" else "none"),
                None,
                summary(
                    (ranks(m.half_times, 1 / structure.effective_singular_values) for m in values),
                    BY_CHANCE,
                    "modes in any order",
                ),
                size.pairs,
                {"1 / s": fmean(ranks(m.half_times, 1 / structure.singular_values) for m in values)},
            )
        )
    settings = {
        "images": f"the first {size.gray:,} training images of CIFAR-10, luminance, less their mean",
        "networks": "CNN: two convolutions with stride 2, ReLUs, one linear layer; MLP: 256 ReLUs and a linear layer; "
        "PyTorch's initial weights times 0.3",
        "training": f"SGD on the squared error, batches of {found['cnn'][0].batch_size}, step size "
        f"{found['cnn'][0].lr:.3g}, until all modes are half learned",
        "frequencies": "of the mean input Jacobian along a mode, less that at the start, when the mode is half learned",
    }
    return Outcome(tuple(rows), settings, {"modes": _modes(found)})


def _late(values: torch.Tensor, first: int) -> float:
    """Returns the mean over the last modes, those alone that were learned."""
    return float(values[first:].nanmean())


def _modes(found: dict[str, list[Measured]]) -> list[dict[str, Any]]:
    return [
        {
            "network": kind,
            "seed": seed,
            "mode": mode + 1,
            "half-time, steps": float(m.half_times[mode] * (1 - m.momentum) / m.lr),
            "participation ratio": float(m.used.participation_ratio[mode]),
            "of the mode itself": float(m.used.mode_participation_ratio[mode]),
            "share in dominant pairs": float(m.used.dominant_share[mode]),
            "of the mode itself, likewise": float(m.used.mode_dominant_share[mode]),
        }
        for kind, values in found.items()
        for seed, m in enumerate(values)
        for mode in range(len(m.half_times))
        if m.half_times[mode].isfinite()
    ]


DOMINANT = 81  # frequencies
LEARNED = 8  # epochs
_COUNTS = (9, 25, DOMINANT, 200)
_GATE = _COUNTS.index(DOMINANT)
_POOLINGS: tuple[Kind, ...] = ("strides", "maxima")


def frequencies(setup: Setup) -> Outcome:
    """Returns how right CNNs with ReLUs stay when images keep, or lack, the data set's dominant frequencies."""
    size = SIZES[setup.scale]
    images, labels = photographs(setup, size.images)
    structure = dataset_structure([(images, labels)], covariance=False)
    test = held_out(setup, size.test)
    rows: list[Row] = []
    table: list[dict[str, Any]] = []
    for pooling in _POOLINGS:
        kept, removed, random, clean = [], [], [], []
        for seed in range(size.seeds if pooling == "strides" else 1):
            module, _ = trained_network(setup, pooling, images, labels, test, seed=seed, epochs=LEARNED)
            network = Network(f"CNN with {pooling}", module, normalised)
            found = dominant_frequency_bias(
                network, test.pixels, test.labels, structure, counts=_COUNTS, draws=3, progress=setup.progress
            )
            clean.append(found.clean.value)
            kept.append(found.kept["strength"][_GATE].value)
            removed.append(found.removed["strength"][_GATE].value)
            random.append(found.random_kept[_GATE].value)
            table += [
                {"network": network.name, "seed": seed, "clean": found.clean.value}
                | {str(key): value for key, value in line.items()}
                for line in found.to_frame().drop(columns=["kept error", "removed error"]).to_dict("records")
            ]
        rows += _filtered(pooling, kept, removed, random, clean)
    settings = {
        "images": f"the first {size.images:,} training images of CIFAR-10 to learn, the first {size.test:,} test "
        "images filtered",
        "networks": "three convolutions 3x3 of 32, 64 and 64 filters with ReLUs, maps halved by strides or by maxima, "
        "one linear layer",
        "training": f"SGD on the cross-entropy, step size 0.01, momentum 0.9, batches of 64, {LEARNED} epochs",
        "rankings": "of frequencies, from the training images and their labels alone; the mean image always stays",
    }
    return Outcome(tuple(rows), settings, {"accuracies": table})


def _filtered(
    pooling: Kind, kept: Sequence[float], removed: Sequence[float], random: Sequence[float], clean: Sequence[float]
) -> list[Row]:
    known = pooling == "strides"
    return [
        Row(
            f"CNN with {pooling}: accuracy when {DOMINANT} of 1,024 frequencies are kept, by ||sigma_j||",
            "high (theory); reference 0.452 of 0.480",
            None,
            summary(kept),
            len(kept),
            {
                "unchanged": fmean(clean),
                "all others kept": fmean(removed),
                f"{DOMINANT} random ones kept": fmean(random),
            },
        ),
        Row(
            f"CNN with {pooling}: accuracy when {DOMINANT} frequencies are kept, over that when all others are kept",
            "above 1 (theory: the dominant ones count); reference 2.6" + ("" if known else ", with a weaker network"),
            (2.0, math.inf) if known else None,
            summary(a / b for a, b in zip(kept, removed, strict=True)),
            len(kept),
            note="" if known else "a better network uses more frequencies",
        ),
    ]
