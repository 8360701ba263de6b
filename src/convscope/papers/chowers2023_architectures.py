"""The experiments of Chowers & Weiss (2023) on other networks: residual, deeper and shallower, and frozen ones."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import product
from statistics import fmean
from typing import Literal

import torch
import torch.nn.functional as F
from torch import nn

from convscope.papers.chowers2023_tables import architecture_row, correlations, residual, unrelated
from convscope.papers.data import LabelledImages
from convscope.papers.kept import Scores, learn, once
from convscope.papers.laboratory import SIZES, Laboratory, laboratory, training_in_words
from convscope.papers.registry import Outcome, Row, Scale, Setup, summary
from convscope.papers.trained import Recipe, TrainedLayer
from convscope.papers.trained import untrained as fresh
from convscope.training.loop import State
from convscope.training.networks import SmallVGG


def architectures(setup: Setup) -> Outcome:
    """Returns how alike profiles of residual, deeper and shallower networks are to those of VGG's kind."""
    lab = laboratory(setup)
    layers, other = lab.layers("true"), residual(lab)
    rows = [architecture_row(lab, "CIFAR-10", layers, other)]
    widths = lab.size.widths
    for kind, changed in (("fewer", widths[:-1]), ("more", (*widths, widths[-1]))):
        runs = [lab.layer("true", 0, widths=changed)]
        other += runs
        rows.append(_depth_row(lab, layers, runs, kind))
    return lab.outcome(rows, [*layers, *other])


def _depth_row(lab: Laboratory, layers: Sequence[TrainedLayer], runs: Sequence[TrainedLayer], kind: str) -> Row:
    a, b = [lab.learned(x) for x in layers], [lab.learned(x) for x in runs]
    values, chance = correlations(product(a, b)), unrelated(lab)
    stages = len(layers[0].recipe.widths), len(runs[0].recipe.widths)
    return Row(
        f"profiles of networks of {stages[0]} and of {stages[1]} stages ({kind}), correlation",
        "alike",
        (chance[1], 1.0),
        summary(values, chance, "unrelated profiles"),
        len(values),
        note="Table 1 and figure 1 show networks of several depths alike; holds above what chance gives",
    )


@dataclass(frozen=True)
class FrozenSize:
    """Sizes of the experiment on frozen layers at one scale."""

    images: int
    epochs: int
    seeds: int
    widths: tuple[int, ...]  # of the deepest network; shallower ones have the first of them


FROZEN: Mapping[Scale, FrozenSize] = {
    "smoke": FrozenSize(200, 2, 2, (6, 8)),
    "cpu": FrozenSize(2_500, 10, 3, (16, 32, 48, 48)),
    "paper": FrozenSize(50_000, 100, 3, (64, 128, 256, 512)),
}
Part = Literal["nothing", "first layer", "features"]
PARTS: tuple[Part, ...] = ("nothing", "first layer", "features")
MEASURES = ("training accuracy", "training loss", "test accuracy", "test loss")


@dataclass(frozen=True)
class FrozenRecipe:
    """Everything that decides a network with a frozen part, the images apart; ``frozen`` keeps its initial weights."""

    frozen: Part
    training: Recipe


def frozen_scores(recipe: FrozenRecipe, train: LabelledImages, test: LabelledImages, setup: Setup) -> list[float]:
    """Returns accuracy and loss (nats), on training and then on test images, of a network with a frozen part.

    Args:
        recipe: how it is trained.
        train: images to learn.
        test: images that it has not seen.
        setup: cache and progress.
    """
    data = ["frozen", train.fingerprint, test.fingerprint]
    tensors, _ = once(setup.cache, data, asdict(recipe), partial(_train, recipe, train, test, setup.progress))
    return tensors["scores"].tolist()


def _train(recipe: FrozenRecipe, train: LabelledImages, test: LabelledImages, progress: bool) -> tuple[State, Scores]:
    r = recipe.training
    with torch.random.fork_rng():
        torch.manual_seed(r.seed)
        network = fresh(r, train)
    assert isinstance(network, SmallVGG), "layers are frozen in networks of VGG's kind"
    frozen: dict[Part, nn.Module] = {"first layer": network.features[0], "features": network.features}
    if recipe.frozen in frozen:
        frozen[recipe.frozen].requires_grad_(False)
    title = f"{len(r.widths)} stages, {recipe.frozen} frozen, seed {r.seed}"
    _, scores = learn(
        network,
        train.images,
        train.labels,
        test,
        epochs=r.epochs,
        lr=r.lr,
        batch_size=r.batch_size,
        seed=r.seed,
        progress=title if progress else False,
    )
    values = [value for part in (train, test) for value in _accuracy_and_loss(network, part)]
    return {"scores": torch.tensor(values, dtype=torch.float64)}, scores


def _accuracy_and_loss(network: nn.Module, data: LabelledImages) -> tuple[float, float]:
    device = next(network.parameters()).device
    network.eval()
    with torch.no_grad():
        logits = torch.cat([network(images.to(device)).cpu() for images in torch.split(data.images, 250)])
    right = (logits.argmax(1) == data.labels).double().mean()
    return float(right), float(F.cross_entropy(logits, data.labels))


def frozen(setup: Setup) -> Outcome:
    """Returns how much accuracy and loss change where the random first layer is not learned, by depth."""
    lab, size, s = laboratory(setup), FROZEN[setup.scale], SIZES[setup.scale]
    n = size.images
    everything = lab.trainer.train
    train = LabelledImages(everything.images[:n], everything.labels[:n], f"{everything.fingerprint} first {n}")
    depths, seeds = range(1, len(size.widths) + 1), range(size.seeds)
    found = {
        (depth, part, seed): frozen_scores(
            FrozenRecipe(part, Recipe("true", seed, size.epochs, size.widths[:depth], s.lr, s.batch_size)),
            train,
            lab.trainer.test,
            setup,
        )
        for depth in depths
        for part in PARTS
        for seed in seeds
    }
    costs = {
        measure: [[_cost(found, "first layer", depth, seed, i) for seed in seeds] for depth in depths]
        for i, measure in enumerate(MEASURES)
    }
    worst = {
        measure: fmean(_cost(found, "features", depths[-1], seed, i) for seed in seeds)
        for i, measure in enumerate(MEASURES)
    }
    rows = [_share_row(measure, costs[measure], worst[measure]) for measure in MEASURES]
    rows += [_shrinks_row(measure, costs[measure]) for measure in MEASURES[2:]]
    table = [
        {"stages": depth, "frozen": part, "seed": seed, **dict(zip(MEASURES, values, strict=True))}
        for (depth, part, seed), values in found.items()
    ]
    words = training_in_words(SIZES[setup.scale])
    settings = {
        "images": f"the first {len(train.labels):,} training images of CIFAR-10, and {len(lab.trainer.test.labels):,} "
        "test images",
        "network": f"1 to {len(size.widths)} stages of conv 3x3 - maxpool - batch norm - ReLU with "
        f"{', '.join(map(str, size.widths))} filters, one linear layer",
        "training": words["training"].rpartition(",")[0] + f", {size.epochs} epochs",
        "share": "difference between first layer frozen and everything learned, over the mean of that between all "
        "stages frozen and everything learned",
    }
    return Outcome(tuple(rows), settings, {"by_depth": table})


Found = Mapping[tuple[int, Part, int], Sequence[float]]


def _cost(found: Found, part: Part, depth: int, seed: int, i: int) -> float:
    """What freezing costs: lost accuracy, or added loss."""
    sign = -1 if "accuracy" in MEASURES[i] else 1
    return sign * (found[depth, part, seed][i] - found[depth, "nothing", seed][i])


def _share_row(measure: str, costs: Sequence[Sequence[float]], worst: float) -> Row:
    return Row(
        f"{len(costs)} stages: what freezing the first layer costs in {measure}, as a share of what freezing all "
        "stages costs",
        "nearly nothing (figure 2)",
        (-0.1, 0.1),
        summary((cost / worst for cost in costs[-1]), (1.0, 1.0), "all stages frozen"),
        len(costs[-1]),
        {f"{d} stages, difference": fmean(each) for d, each in enumerate(costs, 1)},
        "0: nothing is lost; 1: as bad as random features alone; holds within a tenth",
    )


def _shrinks_row(measure: str, costs: Sequence[Sequence[float]]) -> Row:
    shrinks = [first - last for first, last in zip(costs[0], costs[-1], strict=True)]
    return Row(
        f"what freezing the first layer costs in {measure}: with 1 stage minus with {len(costs)}",
        "above 0: the gap shrinks with depth (figure 2, appendix F)",
        (0.0, math.inf),
        summary(shrinks),
        len(shrinks),
        {f"{d} stages": fmean(each) for d, each in enumerate(costs, 1)},
        "with 1 stage the frozen layer is all that there is before the linear layer",
    )
