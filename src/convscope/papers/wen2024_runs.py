"""Sizes, and the networks of one experiment of Wen & Jacot (2024) with what is measured of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from convscope.core.results import finite
from convscope.papers.registry import Row, Scale, Setup, summary
from convscope.papers.wen2024_measures import BOUNDED, Measured, measure
from convscope.papers.wen2024_networks import Trained, begin, trained
from convscope.papers.wen2024_tasks import Recipe, Task


@dataclass(frozen=True)
class Size:
    """Sizes of one scale.

    Attributes:
        effort: factor on the steps of every recipe.
        seeds: networks of each kind.
        images: of the tasks that are made up, and of a user's digits.
        side: in pixels, to which a user's digits are reduced; divides 28.
        bounded: pixels of the images at which the lower bound of the norm is taken.
    """

    effort: float
    seeds: int
    images: int
    side: int
    bounded: int


SIZES: dict[Scale, Size] = {
    "smoke": Size(0.001, 1, 24, 7, 64),
    "cpu": Size(1.0, 3, 128, 14, BOUNDED),
    "paper": Size(3.0, 5, 256, 28, BOUNDED),
}
_GAP = 1e6  # larger ratios are those to rounding errors


@dataclass(frozen=True, eq=False)
class Run:
    """A trained network and what was measured of it."""

    task: Task
    trained: Trained
    measured: Measured


def seeded(recipe: Recipe, size: Size, seeds: int | None = None) -> list[Recipe]:
    """Returns a recipe at the scale's effort, once for each seed."""
    steps = max(round(recipe.steps * size.effort), 4)
    return [replace(recipe, steps=steps, seed=seed) for seed in range(seeds or size.seeds)]


def runs(setup: Setup, plan: Mapping[str, tuple[Task, Sequence[Recipe]]]) -> dict[str, list[Run]]:
    """Returns the networks of a plan, name to task and recipes, trained several at a time, and measured.

    Raises:
        KeyboardInterrupt: when a training is interrupted.
    """
    jobs = [(task, recipe) for task, recipes in plan.values() for recipe in recipes]
    networks, bounded = iter(trained(setup, jobs)), SIZES[setup.scale].bounded
    found: dict[str, list[Run]] = {}
    for name, (task, recipes) in plan.items():
        own = [next(networks) for _ in recipes]
        found[name] = [Run(task, network, measure(network.network, task.images, bounded)) for network in own]
    return found


def beginning(task: Task, recipe: Recipe) -> Measured:
    """Returns what is measured of a network before its training."""
    return measure(begin(task, recipe).ordinary(), task.images)


def row(
    quantity: str,
    theory: str,
    expected: tuple[float, float] | None,
    values: Iterable[float],
    baselines: Mapping[str, float] | None = None,
    note: str = "",
    **options: Any,
) -> Row:
    """Returns a row whose value is the mean over networks."""
    values = list(values)
    return Row(quantity, theory, expected, summary(values), len(values), baselines or {}, note, **options)


def share(values: Iterable[bool]) -> float:
    """Returns the share of those that are true."""
    values = list(values)
    return sum(values) / len(values)


def capped(gap: float) -> float:
    """Returns a gap, at most a million: what is larger says how zero a rounding error is."""
    return min(gap, _GAP)


def balanced(runs: Sequence[Run], name: str, limit: float = 0.1) -> Row:
    """Returns the row of the balance of norms, which tells whether training has converged."""
    return row(
        f"{name}: largest relative difference between a layer's squared norm, bias included, and the next one's",
        "0 at a stationary point (theory)",
        (0.0, limit),
        (r.measured.cost.balance for r in runs),
        note=f"loss reached: {', '.join(f'{r.trained.run.share:.2g}' for r in runs)} of a constant output's",
    )


def bounded(runs: Sequence[Run], name: str, limit: float | None = 1.3) -> Row:
    """Returns the row of the squared norm over its lower bound."""
    return row(
        f"{name}: squared norm over its lower bound, the largest of a few images",
        "at least 1 (theory)",
        None if limit is None else (1.0, limit),
        (r.measured.over_bound for r in runs),
    )


def settings(plan: Mapping[str, tuple[Task, Sequence[Recipe]]]) -> dict[str, str]:
    """Returns in words how the networks of a plan were trained."""
    found = {
        "network": "convolutions with circular filters as large as the image, bias and ReLU, the last one linear, or "
        "with ReLU, mean over positions and a linear layer for classes; delta-orthogonal initial weights and noise",
        "training": "Adam on Fourier coefficients, learning rate 0.002, a hundredth of it at the end; gradients "
        "clipped at 5; penalty on the squared norm of all weights and biases, moved until the loss is the one named",
    }
    for name, (task, recipes) in plan.items():
        r = recipes[0]
        held = (
            f"fixed penalty {r.penalty:g}" if r.tau is None else f"loss {r.tau:.3g}, penalty {r.penalty:.2g} at first"
        )
        unit = "nats" if task.loss == "cross-entropy" else "squared error an image"
        batch = "all images" if r.batch is None else f"{r.batch} images"
        found[name] = (
            f"{len(task.images)} images of {task.images.shape[2]}x{task.images.shape[3]}; {r.depth} layers, {r.width} "
            f"channels; {held} ({unit}); {r.steps:,} steps of {batch}; {len(recipes)} seeds"
        )
    return found


def tables(found: Mapping[str, Sequence[Run]]) -> dict[str, list[dict[str, Any]]]:
    """Returns one row for each network and one for each of its layers."""
    networks, layers = [], []
    for name, several in found.items():
        for r in several:
            seed = r.trained.recipe.seed
            reached = {
                "loss": r.trained.run.loss,
                "of a constant output's": r.trained.run.share,
                "penalty": r.trained.run.penalty,
                "training accuracy": finite(r.trained.scores.train_accuracy),
                "test accuracy": finite(r.trained.scores.test_accuracy),
                "training seconds": r.trained.run.seconds,
            }
            networks.append(r.measured.line(network=name, seed=seed) | reached)
            layers += r.measured.lines(network=name, seed=seed)
    return {"networks": networks, "layers": layers}
