"""A classifier of digits, and the score of networks with a bottleneck beside that of networks without."""

from __future__ import annotations

from dataclasses import replace
from statistics import fmean

import torch
from torch import nn

from convscope.papers.registry import Outcome, Setup
from convscope.papers.wen2024_digits import DEEP, FIXED
from convscope.papers.wen2024_measures import measure
from convscope.papers.wen2024_networks import Trained, begin, trained
from convscope.papers.wen2024_runs import SIZES, balanced, beginning, bounded, row, runs, seeded, settings, tables
from convscope.papers.wen2024_tasks import (
    AUTOENCODER,
    BUMP,
    CLASSES,
    LOW_PASS,
    Task,
    autoencoder,
    classes,
    low_pass,
    moving_bump,
)


def classifier(setup: Setup, seed: int = 0) -> tuple[Task, Trained]:
    """Returns the task of classifying digits and a network trained for it, read back where the cache has it.

    Args:
        setup: scale and cache.
        seed: of the network.

    Raises:
        KeyboardInterrupt: when the training is interrupted.
    """
    task = classes()
    recipe = seeded(CLASSES, SIZES[setup.scale], seed + 1)[seed]
    return task, trained(setup, [(task, recipe)])[0]


def classification(setup: Setup) -> Outcome:
    """Returns how a classifier narrows from layer to layer."""
    size = SIZES[setup.scale]
    task = classes()
    plan = {"classifier": (task, seeded(CLASSES, size))}
    several = runs(setup, plan)["classifier"]
    before = beginning(task, plan["classifier"][1][0])
    middle = range(1, CLASSES.depth - 1)
    rows = [
        row(
            "accuracy on digits held out",
            "reference 0.964",
            None,
            (r.trained.scores.test_accuracy for r in several),
            {"on those learned": fmean(r.trained.scores.train_accuracy for r in several), "chance": 0.1},
        ),
        row(
            "score: structure times (1 - compression)",
            "above 0 (theory); reference 0.56",
            (0.5, 1.0),
            (r.measured.score.score for r in several),
            {"before training": before.score.score},
        ),
        row(
            "narrowest inner layer: CBN rank",
            "reference 19",
            None,
            (float(min(r.measured.ranks[i].rank for i in middle)) for r in several),
            {"input": several[0].measured.input_rank},
        ),
        *(
            row(
                f"channels kept at frequency 0, {name} layer",
                f"reference {reference}",
                None,
                (float(r.measured.degrees(layer).get(0, 0)) for r in several),
            )
            for name, layer, reference in (("first", 0, 1), ("last", CLASSES.depth - 1, 8))
        ),
        bounded(several, "classifier", None),
        balanced(several, "classifier"),
    ]
    return Outcome(tuple(rows), settings(plan), tables({"classifier": several}))


def controls(setup: Setup) -> Outcome:
    """Returns the score of networks that have a bottleneck beside that of networks that have none."""
    size = SIZES[setup.scale]
    digits = autoencoder()
    without = {
        f"digits 0, penalty {penalty:g}": (digits, seeded(replace(FIXED, penalty=penalty), size, 1))
        for penalty in (0.0, 0.05)
    }
    held = {
        f"digits 0, {DEEP} layers": (digits, seeded(AUTOENCODER[DEEP], size)),
        "digits 0, 8 layers": (digits, seeded(AUTOENCODER[8], size, 1)),
        "low-pass, 6 layers": (low_pass(size.images), seeded(LOW_PASS[6], size)),
        "moving bump": (moving_bump(size.images), seeded(BUMP, size)),
    }
    plan = without | held
    found = runs(setup, plan)
    reference = dict(zip(held, (0.70, 0.74, 0.90, 0.89), strict=True))
    measured = {name: [r.measured for r in several] for name, several in found.items()}
    for name, draw in (("Kaiming's initial weights", _kaiming), ("delta-orthogonal initial weights", _delta)):
        measured[name] = [measure(draw(digits, seed), digits.images) for seed in range(size.seeds)]
    rows = []
    for name, several in measured.items():
        rows.append(
            row(
                f"{name}: score",
                f"above 0 (theory); reference {reference[name]:.2f}" if name in held else "0 (theory); reference 0",
                (0.5, 1.0) if name in held else (0.0, 0.05),
                (m.score.score for m in several),
                {
                    "structure alone": fmean(m.score.structure for m in several),
                    "compression": fmean(m.score.compression for m in several),
                },
                f"balance residual {', '.join(f'{m.score.balance:.2g}' for m in several)}",
            )
        )
    return Outcome(tuple(rows), settings(plan), tables(found))


def _kaiming(task: Task, seed: int) -> nn.Sequential:
    network = begin(task, replace(FIXED, seed=seed)).ordinary()
    random = torch.Generator().manual_seed(seed)
    for module in network:
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, generator=random)
    return network


def _delta(task: Task, seed: int) -> nn.Sequential:
    return begin(task, replace(FIXED, noise=0.0, seed=seed)).ordinary()
