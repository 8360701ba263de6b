"""Networks whose bottleneck is known beforehand: projections, a product of two things, a moving bump."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import fmean, median

from convscope.papers.registry import Outcome, Row, Setup
from convscope.papers.wen2024_runs import (
    SIZES,
    Run,
    balanced,
    beginning,
    bounded,
    row,
    runs,
    seeded,
    settings,
    share,
    tables,
)
from convscope.papers.wen2024_tasks import (
    BUMP,
    LOW_PASS,
    MEAN,
    PRODUCT,
    low_pass,
    mean,
    moving_bump,
    shape_times_pattern,
)

_AROUND = {0: 1, 1: 4}  # what the low-pass target needs, by degree
# The shape, or the shape times the sign; an offset; and the sign at half a cycle per pixel along both axes.
_PRODUCTS = ({0: 1, 1: 4, 8: 1}, {0: 1, 7: 4, 8: 1})


def known_rank(setup: Setup) -> Outcome:
    """Returns whether networks that learn a projection keep what it keeps, and what their parameters then cost."""
    size = SIZES[setup.scale]
    target, constant = low_pass(size.images), mean(size.images)
    plan = {f"low-pass, {depth} layers": (target, seeded(recipe, size)) for depth, recipe in LOW_PASS.items()}
    plan[f"mean, {MEAN.depth} layers"] = (constant, seeded(MEAN, size))
    found = runs(setup, plan)
    rows: list[Row] = []
    for name, several in found.items():
        task, recipes = plan[name]
        before = beginning(task, recipes[0])
        kept, price = (_AROUND, (5.0, 5.7)) if task is target else ({0: 1}, None)
        true = sum(kept.values())
        lower = fmean(r.measured.per_layer / r.measured.over_bound for r in several)
        text = "mean and first frequencies" if task is target else "the mean"
        rows += [
            row(
                f"{name}: share of layers that keep {text}, one channel each, and nothing else",
                "1 (theory)",
                (1.0, 1.0) if task is constant else (0.8, 1.0),
                (share(r.measured.degrees(i) == kept for i in range(len(r.measured.ranks))) for r in several),
                note=f"CBN rank, median over layers: {', '.join(f'{_rank(r):g}' for r in several)}",
            ),
            row(
                f"{name}: number of positions times squared norm over number of layers",
                f"{true} for a loss of 0 and many layers (theory)",
                price,
                (r.measured.per_layer for r in several),
                {"lower bound of the same function": lower, "before training": before.per_layer},
                f"a loss above 0 lets it fall below: {_losses(several)} of a constant output's",
                reason=_shrunk(several, lower, true),
            ),
            bounded(several, name, 1.05 if task is constant else 1.3),
            balanced(several, name, 0.05 if task is constant else 0.1),
        ]
    return Outcome(tuple(rows), settings(plan), tables(found))


def _shrunk(several: list[Run], lower: float, true: int) -> str:
    """Returns why the cost lies below the rank, where the functions themselves could cost less."""
    if lower >= true or fmean(r.measured.per_layer for r in several) >= true:
        return ""
    return (
        f"the loss that is held, {_losses(several)} of a constant output's, is not 0: the learned functions shrink the "
        f"target, so that {lower:.3g} would be enough for them, where the target itself takes {true}"
    )


def _losses(several: list[Run]) -> str:
    return ", ".join(f"{r.trained.run.share:.2g}" for r in several)


def _rank(run: Run) -> float:
    return median(rank.rank for rank in run.measured.ranks)


def shape_and_pattern(setup: Setup) -> Outcome:
    """Returns whether an autoencoder of products keeps the two factors, where a linear one has to keep the product."""
    size = SIZES[setup.scale]
    task = shape_times_pattern(size.images)
    plan = {"product": (task, seeded(PRODUCT, size))}
    several = runs(setup, plan)["product"]
    middle = PRODUCT.depth // 2
    matches = [r.measured.matches(middle, task.factors, task.images) for r in several]
    rows = [
        row(
            "share of layers but the last that keep offset, sign, and shape or shape times sign, and nothing else",
            "1 (theory)",
            (0.85, 1.0),
            (share(r.measured.degrees(i) in _PRODUCTS for i in range(PRODUCT.depth - 1)) for r in several),
        ),
        row(
            "share of layers but the last that keep the shape itself",
            "1, or 0 with shape times sign (theory)",
            None,
            (share(r.measured.degrees(i) == _PRODUCTS[0] for i in range(PRODUCT.depth - 1)) for r in several),
            note="either makes the other with the sign, at the same rank",
        ),
        row(
            "CBN rank in the middle",
            "6 (theory)",
            (6.0, 6.0),
            (float(r.measured.ranks[middle].rank) for r in several),
            {"a linear network": several[0].measured.input_rank + 1},
        ),
        row(
            "CBN rank in the middle, without pairs that only carry an offset",
            "5 (theory)",
            (5.0, 5.0),
            (_informative(r, middle) for r in several),
        ),
        row(
            "directions for 99 % of the variance of the maps in the middle",
            "5 (theory)",
            (5.0, 5.0),
            (r.measured.activations[middle] for r in several),
            {"input": several[0].measured.input_rank},
        ),
    ]
    half = task.images.shape[-1] // 2
    for factor, where, beside in (("down", (1, 0), (half - 1, half)), ("across", (0, 1), (half, half - 1))):
        rows.append(
            row(
                f"correlation of the shape {factor}, or shape times sign, with what is kept at its frequency",
                "1 (theory)",
                (0.99, 1.0),
                (
                    max(m[f"shape {factor}"].get(where, 0.0), m[f"shape {factor} times sign"].get(beside, 0.0))
                    for m in matches
                ),
                {"with what is kept of the sign": fmean(m[f"shape {factor}"].get((half, half), 0.0) for m in matches)},
                better="higher",
            )
        )
    rows.append(
        row(
            "correlation of the sign with what is kept at half a cycle per pixel",
            "1 (theory)",
            (0.99, 1.0),
            (m["sign"].get((half, half), 0.0) for m in matches),
        )
    )
    rows += [bounded(several, "product", None), balanced(several, "product")]
    return Outcome(tuple(rows), settings(plan), tables({"product": several}))


def bump(setup: Setup) -> Outcome:
    """Returns whether a network that draws the third frame of a film keeps the third position and nothing else."""
    size = SIZES[setup.scale]
    task = moving_bump(size.images)
    plan = {"moving bump": (task, seeded(BUMP, size))}
    several = runs(setup, plan)["moving bump"]
    middle, inside = BUMP.depth // 2, range(1, BUMP.depth - 1)
    matches = [r.measured.matches(middle, task.factors, task.images) for r in several]
    away = (task.images[:, 1:] - task.targets).square().sum() / len(task.images)
    still = (task.targets - task.targets.mean(0)).square().sum() / len(task.images)
    rows = [
        row(
            "share of inner layers that keep, of all frequencies but 0, the first along each axis, one channel each",
            "1 (theory)",
            (0.8, 1.0),
            (share({**r.measured.degrees(i), 0: 0} == {0: 0, 1: 4} for i in inside) for r in several),
        ),
        row(
            "CBN rank in the middle without pairs that only carry an offset",
            "4 (theory)",
            (4.0, 4.0),
            (_informative(r, middle) for r in several),
            {"input": several[0].measured.input_rank},
        ),
        row(
            "directions for 99 % of the variance of the maps, median over inner layers",
            "4 (theory)",
            (4.0, 4.0),
            (median(r.measured.activations[i] for i in inside) for r in several),
            {"input": several[0].measured.input_rank},
        ),
        row(
            "correlation of exp(-2 pi i p3 / 8) with what the middle keeps, mean over both axes",
            "1 (theory); reference 0.985",
            (0.97, 1.0),
            (_along(m["position 3"]) for m in matches),
            {
                "second position": fmean(_along(m["position 2"]) for m in matches),
                "first position": fmean(_along(m["position 1"]) for m in matches),
            },
            better="higher",
        ),
        row(
            "squared error of the third frame",
            "that which was asked for; reference 0.246",
            None,
            (r.trained.run.loss for r in several),
            {"the second frame again": float(away), "the mean of all": float(still)},
            better="lower",
        ),
        bounded(several, "moving bump", None),
        balanced(several, "moving bump"),
    ]
    return Outcome(tuple(rows), settings(plan), tables({"moving bump": several}))


def _informative(run: Run, layer: int) -> float:
    return float(run.measured.ranks[layer].rank - run.measured.carriers[layer])


def _along(correlations: Mapping[tuple[int, int], float]) -> float:
    return fmean(correlations.get(where, 0.0) for where in ((1, 0), (0, 1)))
