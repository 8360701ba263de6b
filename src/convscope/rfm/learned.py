"""What was learned, and which iteration of it is used: the one that is best on images it has not seen."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from convscope.rfm.machine import Split, Step
from convscope.rfm.selection import Score, folds, holdout
from convscope.rfm.shown import leading

Selection = Literal["cv", "holdout"] | None
SELECTIONS = ("cv", "holdout", None)
LARGE = 5000  # images: from there on one fold tells enough


class Judge(Protocol):
    """Gives the score, the larger the better, of predictions [m, o] for the images of these numbers [m].

    With predictions of another machine, ``before``, what was gained on that one.
    """

    def __call__(self, predictions: Tensor, rows: Tensor, before: Tensor | None = None, /) -> Score:
        """Returns the mean and its standard error."""


@dataclass(frozen=True, eq=False)
class Stage:
    """What predicts at one iteration.

    Attributes:
        metric_root: float64 [d, d], or None for the identity.
        dual_coef: float64 [n, o], for the kernel divided by ``scale``.
        offset: float64 [o], added to predictions.
        scale: largest entry of the kernel of the training images.
    """

    metric_root: NDArray | None
    dual_coef: NDArray
    offset: NDArray
    scale: float

    def check(self, n: int, d: int, o: int) -> None:
        """Checks that the parts fit n images, patches of d entries and o outputs, and are finite.

        Raises:
            ValueError: when they do not.
        """
        wanted = {"metric_root": (d, d), "dual_coef": (n, o), "offset": (o,)}
        for name, shape in wanted.items():
            values = getattr(self, name)
            if values is None and name == "metric_root":
                continue
            if values.shape != shape or values.dtype != np.float64 or not np.isfinite(values).all():
                raise ValueError(
                    f"{name} must be finite, float64 {list(shape)}, got {values.dtype} {list(values.shape)}"
                )
        if not 0 < self.scale < math.inf:
            raise ValueError(f"scale must be positive, got {self.scale}")


@dataclass(frozen=True, eq=False)
class Learned:
    """A machine at its best iteration; attributes as scikit-learn names fitted ones.

    Attributes:
        history_: for each iteration, from 0 (the fixed kernel): "iteration", "train_score", "loo_score",
            "selection_score", "selection_error" (its standard error) and "selection_gain_error" (that of its difference
            from the fixed kernel's of the first layer; all None without selection), "ridge" in units of the kernel's
            largest entry, "rank" of the metric, "seconds".
        best_iteration_: the one used: of the best selection score, the first of equals; without selection the last.
        selection_score_: of that iteration, on images that nothing was learned from; None without selection.
        selection_error_: its standard error.
        loo_score_: of that iteration, by leave-one-out; too good once the metric has seen the labels.
        metric_: float64 [d, d], M, of trace 1, on patches flattened as (c, i, j).
        filters_: float64 [r, c, q, q], leading eigenvectors of the metric, of unit norm, as patches.
        stages_: what predicts at each iteration.
    """

    history_: list[dict[str, Any]]
    best_iteration_: int
    selection_score_: float | None
    selection_error_: float | None
    loo_score_: float
    metric_: NDArray
    filters_: NDArray
    stages_: list[Stage]


@dataclass(frozen=True, eq=False)
class Outcome:
    """A machine, and what else is known of it while it is made.

    Attributes:
        machine: the machine.
        predictions: float64 [m, o] at its best iteration, for held-out images; without selection by leave-one-out.
        fixed: float64 [m, o], predictions of the first layer's fixed kernel for held-out images; None without them.
        rows: int64 [m], the numbers of these images.
        roots: A of each split's machine at that iteration, None for the identity.
        root: A of the machine.
    """

    machine: Learned
    predictions: Tensor
    fixed: Tensor | None
    rows: Tensor
    roots: list[Tensor | None]
    root: Tensor | None


def learned(
    rounds: Sequence[tuple[Step, list[Step]]],
    rows: Tensor,
    judge: Judge,
    patch: tuple[int, int, int],
    fixed: Tensor | None = None,
) -> Outcome:
    """Returns the machine at its best iteration.

    Args:
        rounds: for each iteration the machine of all images, and those that have held-out images.
        rows: int64 [m], numbers of the held-out images of these, one machine after the other.
        judge: gives the score of predictions.
        patch: (c, q, q).
        fixed: float64 [m, o], predictions of the first layer's fixed kernel; None: this is the first layer.
    """
    steps = [step for step, _ in rounds]
    outside = [torch.cat([held for part in parts if (held := part.held) is not None]) for _, parts in rounds if parts]
    history: list[dict[str, Any]] = []
    for t, step in enumerate(steps):
        value = error = gain_error = None
        if outside:
            fixed = outside[0] if fixed is None else fixed
            (value, error), (_, gain_error) = judge(outside[t], rows), judge(outside[t], rows, fixed)
        history.append({
            "iteration": step.iteration,
            "train_score": judge(step.fitted, torch.arange(len(step.fitted)))[0],
            "loo_score": judge(step.left_out, step.left_out_rows)[0],
            "selection_score": value,
            "selection_error": error,
            "selection_gain_error": gain_error,
            "ridge": step.ridge,
            "rank": step.rank,
            "seconds": step.seconds,
        })
    best = len(steps) - 1
    if outside:
        best = first_best([entry["selection_score"] for entry in history])
    step, entry = steps[best], history[best]
    root = step.metric_root
    metric = torch.eye(math.prod(patch), dtype=torch.float64) if root is None else root @ root
    machine = Learned(
        history_=history,
        best_iteration_=best,
        selection_score_=entry["selection_score"],
        selection_error_=entry["selection_error"],
        loo_score_=entry["loo_score"],
        metric_=(metric / metric.trace()).numpy(),
        filters_=leading(metric, step.rank)[1].unflatten(1, patch).numpy(),
        stages_=[_stage(step) for step in steps],
    )
    predictions = outside[best] if outside else step.left_out
    roots = [part.metric_root for part in rounds[best][1]]
    return Outcome(machine, predictions, fixed, rows if outside else step.left_out_rows, roots, root)


def first_best(scores: Sequence[float]) -> int:
    """Returns the place of the largest score, the first of equals; one that is not defined is never the largest."""
    return int(np.argmax([-math.inf if math.isnan(score) else score for score in scores]))


def splits(selection: Selection, n_splits: int, labels: Tensor | None, identity: Tensor, seed: int) -> list[Split]:
    """Returns (numbers of images to learn from, numbers of images held out) for each machine that is to be judged.

    Args:
        selection: "cv": each image is held out once; "holdout": one fold alone, as also for more than 5,000 images;
            None: none.
        n_splits: number of folds.
        labels: int64 [n], classes, of which each fold has its share; None for a regression.
        identity: int64 [n]; equal images are in one fold.
        seed: of the shuffling.

    Raises:
        ValueError: when an argument is out of range.
        ConvscopeError: when nothing can be held out.
    """
    if selection not in SELECTIONS:
        raise ValueError(f"selection must be one of {', '.join(map(repr, SELECTIONS))}, got {selection!r}")
    if not isinstance(n_splits, int) or n_splits < 2:
        raise ValueError(f"n_splits must be a whole number of at least 2, got {n_splits!r}")
    if selection is None:
        return []
    n = len(identity)
    # Stratifying groups is slow: only where there are any.
    groups = None if len(identity.unique()) == n else identity.numpy()
    classes = None if labels is None else labels.numpy()
    if selection == "holdout" or n > LARGE:
        found = [holdout(n, 1 / n_splits, seed, labels=classes, groups=groups)]
    else:
        found = folds(n, n_splits, seed, labels=classes, groups=groups)
    return [(torch.from_numpy(train), torch.from_numpy(out)) for train, out in found]


def _stage(step: Step) -> Stage:
    root = None if step.metric_root is None else step.metric_root.numpy()
    return Stage(root, step.dual_coef.numpy(), step.offset.numpy(), step.scale)
