"""Networks trained by plain gradient descent with small and with large steps: what either keeps in its activations."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean, median

import torch

from convscope.core.results import finite
from convscope.papers.registry import TIE, Outcome, Row, Scale, Setup
from convscope.papers.wen2024_measures import Measured
from convscope.papers.wen2024_networks import begin
from convscope.papers.wen2024_runs import Run, beginning, row, runs, settings, tables
from convscope.papers.wen2024_tasks import Plain, Task, low_pass
from convscope.training.stable import sharpness

RANK = 5  # of the low-pass target
#: Learning rates. Somewhat above the large one, networks end in a constant output.
RATES = {"small": 2.5e-4, "medium": 5e-4, "large": 1e-3}


@dataclass(frozen=True)
class Size:
    """Sizes of one scale.

    Attributes:
        depth: number of convolutions.
        width: channels between them.
        images: digits.
        time: learning rate times steps, the same at every rate.
        seeds: networks of each kind.
    """

    depth: int
    width: int
    images: int
    time: float
    seeds: int


SIZES: dict[Scale, Size] = {
    "smoke": Size(4, 3, 8, 0.02, 1),
    "cpu": Size(6, 8, 16, 4.0, 2),
    "paper": Size(6, 8, 128, 8.0, 5),
}
_PENALTY = 0.5
_NEAR = (RANK - 0.5, RANK + 0.5)


def curvature(network: torch.nn.Module, task: Task) -> float:
    """Returns the sharpness of a network's squared error: steps above 2 over it are unstable."""
    value = (network(task.images) - task.targets).square().sum() / len(task.images)
    return sharpness(value, [p for p in network.parameters() if p.requires_grad])


def recipes(size: Size, rate: float) -> list[Plain]:
    """Returns a recipe for each seed."""
    steps = max(round(size.time / rate), 1)
    return [
        Plain(size.depth, size.width, steps, _PENALTY, noise=0.1, seed=seed, rate=rate) for seed in range(size.seeds)
    ]


def learning_rate(setup: Setup) -> Outcome:
    """Returns what networks keep that were trained by plain gradient descent with small and with large steps."""
    size = SIZES[setup.scale]
    task = low_pass(size.images)
    rate_of = {f"{name} steps": rate for name, rate in RATES.items()}
    plan = {name: (task, recipes(size, rate)) for name, rate in rate_of.items()}
    found = runs(setup, plan)
    before = [beginning(task, recipe) for recipe in plan["large steps"][1]]
    start = fmean(fmean(_trace(m, task)) for m in before)
    traces = {name: [_trace(r.measured, task) for r in several] for name, several in found.items()}
    rows = []
    for name, several in found.items():
        rows += _rows(name, rate_of[name], several, before)
        rows.append(
            row(
                f"{name}: trace of the neural tangent kernel over number of layers, one image",
                "bounded where steps are large (claim); how far, not stated",
                None,
                map(fmean, traces[name]),
                {"before training": start},
            )
        )
    rows.append(
        row(
            "trace of the neural tangent kernel with large steps over that with small ones",
            "below 1: large steps bound it (claim)",
            (0.0, 1.0 - TIE),
            (sum(b) / sum(a) for a, b in zip(traces["small steps"], traces["large steps"], strict=True)),
            {"the same steps": 1.0},
            better="lower",
        )
    )
    lines = [
        {"network": name, "seed": r.trained.recipe.seed, "rate": recipe.rate, "steps": recipe.steps}
        | {"2 / rate": 2 / recipe.rate, "curvature": finite(curvature(r.trained.network, task))}
        | {"curvature before training": curvature(begin(task, recipe), task)}
        | {"kernel's trace by layer": trace}
        for name, (_, several) in plan.items()
        for r, recipe, trace in zip(found[name], several, traces[name], strict=True)
    ]
    words = settings(plan) | {
        "training": "gradient descent on the squared error and a penalty on the squared norm of all weights and "
        "biases, one learning rate throughout, gradients as they are, all images at every step",
        "learning rates": ", ".join(f"{rate:g} ({name})" for name, rate in RATES.items())
        + f"; as many steps as make a learning rate times steps of {size.time:g}",
    }
    return Outcome(tuple(rows), words, {"steps": lines} | tables(found))


def _trace(found: Measured, task: Task) -> list[float]:
    return [total for total, _ in found.kernel(task.images[0])]


def _inner(values: Sequence[float]) -> float:
    return median(values[1:-1])


def _left(found: Measured) -> list[float]:
    return [1 - rank.rank / rank.size for rank in found.ranks]


def _rows(name: str, rate: float, several: Sequence[Run], before: Sequence[Measured]) -> list[Row]:
    """Returns the rows of networks of one learning rate; the paper's claim is on large ones."""
    measured, task = [r.measured for r in several], several[0].task
    judged = rate == RATES["large"]

    def over_inner(values: Iterable[Sequence[float]]) -> list[float]:
        return [_inner(list(layers)) for layers in values]

    def at_start(values: Iterable[Sequence[float]]) -> dict[str, float]:
        return {"before training": fmean(over_inner(values))}

    return [
        row(
            f"{name}: CBN rank, median over inner layers",
            f"{RANK} at nearly the least norm (claim)" if judged else "not stated",
            _NEAR if judged else None,
            over_inner([rank.rank for rank in m.ranks] for m in measured),
            at_start([rank.rank for rank in m.ranks] for m in before),
            f"number of positions times squared norm over number of layers: {_list(m.per_layer for m in measured)}; "
            f"loss {_list(r.trained.run.loss for r in several)}",
        ),
        row(
            f"{name}: directions for 99 % of the variance of the maps, median over inner layers",
            f"{RANK} where steps are large (claim)" if judged else "not stated: may be more",
            _NEAR if judged else None,
            over_inner(m.activations for m in measured),
            at_start(m.activations for m in before) | {"images": measured[0].input_rank},
        ),
        row(
            f"{name}: share of the maps' variance outside what the weights keep, median over inner layers",
            "0 where steps are large (theory)",
            None,
            over_inner(m.outside for m in measured),
            {"outside as many random directions": fmean(over_inner(_left(m) for m in measured))},
            "0 as well where all is kept",
            better="lower",
        ),
        row(
            f"{name}: curvature of the loss over what these steps bear, 2 / learning rate",
            "at most 1 where steps are stable",
            None,
            (curvature(r.trained.network, task) * rate / 2 for r in several),
            {"before training": fmean(curvature(m.network, task) * rate / 2 for m in before)},
        ),
    ]


def _list(values: Iterable[float]) -> str:
    return ", ".join(f"{value:.3g}" for value in values)
