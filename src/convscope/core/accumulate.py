"""Accumulators: sums over images, kept per fold, merged exactly, and the error bars that follow from them."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Generic, Protocol, Self, TypeVar

import torch
from torch import Tensor

from convscope.core.batches import Batch

R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)


class Accumulator(Protocol[R_co]):
    """Collects a function of sums over images. It knows no network, no batch size and no other accumulator."""

    def update(self, x: Tensor, batch: Batch) -> None:
        """Adds the images of a batch.

        Args:
            x: [n, ...], what the accumulator's stream delivers, detached.
            batch: the images and what is known of each.
        """
        ...

    def merge(self, other: Self) -> None:
        """Adds everything that ``other`` has seen: exact, associative, order-free."""
        ...

    def state_dict(self) -> dict[str, Tensor]:
        """Returns the state as tensors; empty before the first image."""
        ...

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Replaces the state."""
        ...

    def compute(self) -> R_co:
        """Returns the frozen value that follows from the sums."""
        ...


class Sums(ABC, Generic[R]):
    """An accumulator whose whole state is a dictionary of tensors that add up.

    A subclass writes ``update`` by ``self.add(name, tensor)``, and ``compute``.
    """

    @abstractmethod
    def update(self, x: Tensor, batch: Batch) -> None:
        """Adds the images of a batch (see ``Accumulator.update``)."""

    @abstractmethod
    def compute(self) -> R:
        """Returns the value that follows from the sums."""

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}

    def add(self, name: str, term: Tensor, *, copy: bool = True) -> None:
        """Adds a term (float64 or int64, any shape that stays the same) to the sum of that name.

        Args:
            name: of the sum.
            term: what to add.
            copy: False where the caller gives the term away, which spares a copy of the first one.
        """
        if name in self.sums:
            self.sums[name] += term
        else:
            self.sums[name] = term.clone() if copy else term

    def merge(self, other: Self) -> None:
        """Adds the sums of ``other``; a sum that only one of them has counts as zero in the other."""
        for name, term in other.sums.items():
            self.add(name, term)

    def state_dict(self) -> dict[str, Tensor]:
        """Returns the sums by name."""
        return dict(self.sums)

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Replaces the sums."""
        self.sums = {name: term.clone() for name, term in state.items()}


def merged(parts: list[Accumulator[R]], make: Callable[[], Accumulator[R]]) -> Accumulator[R]:
    """Returns a fresh accumulator that holds everything the parts have seen."""
    total = make()
    for part in parts:
        total.merge(part)
    return total


def jackknife(whole: float, without: list[float], sizes: list[float]) -> float | None:
    """Returns the standard error of an estimate by the delete-a-group jackknife for groups of unequal size.

    Busing, Meijer and van der Leeden, "Delete-m jackknife for unequal m" (1999), eq. 9.

    Args:
        whole: the estimate from all images.
        without: the estimate without each group in turn.
        sizes: number of images of each group.

    Returns:
        The standard error in the estimate's unit; None with fewer than two groups; NaN when an estimate is NaN.

    Example:
        >>> round(jackknife(2.0, [2.5, 2.0, 1.5], [1, 1, 1]), 6)  # mean of 1, 2, 3: s / sqrt(3)
        0.57735
    """
    g = len(without)
    if g < 2:
        return None
    if all(one == whole for one in without):
        return 0.0  # a count that no group changes, without the rounding errors of its mean
    theta = torch.tensor(without, dtype=torch.float64)
    m = torch.tensor(sizes, dtype=torch.float64)
    h = m.sum() / m
    centre = g * whole - ((1 - 1 / h) * theta).sum()
    pseudo = h * whole - (h - 1) * theta
    return float((((pseudo - centre) ** 2) / (h - 1)).mean().sqrt())


def jackknife_bias(whole: float, without: Sequence[float], sizes: Sequence[float]) -> float | None:
    """Returns the small-sample bias of an estimate by the delete-a-group jackknife for groups of unequal size.

    Busing, Meijer and van der Leeden, "Delete-m jackknife for unequal m" (1999). The bias-corrected estimate
    ``g whole - sum_j (1 - m_j / n) without_j`` is the centre that ``jackknife`` uses; the bias is the estimate less it.

    Args:
        whole: the estimate from all n images.
        without: the estimate without each group in turn.
        sizes: number of images m_j of each group, positive.

    Returns:
        The bias in the estimate's unit, to be subtracted from ``whole``; None with fewer than two groups; NaN when an
        estimate is NaN.

    Raises:
        ValueError: when a group has no size, or a size is not positive.

    Example:
        >>> values = [1.0, 2.0, 6.0]  # the variance with divisor n: its bias is -(unbiased variance) / n
        >>> from statistics import pvariance, variance
        >>> without = [pvariance(values[:i] + values[i + 1 :]) for i in range(3)]
        >>> round(jackknife_bias(pvariance(values), without, [1, 1, 1]), 6), round(-variance(values) / 3, 6)
        (-2.333333, -2.333333)
    """
    if len(without) != len(sizes):
        raise ValueError(f"expected one size for each group, got {len(sizes)} sizes for {len(without)} groups")
    if not all(m > 0 for m in sizes):
        raise ValueError(f"sizes of groups must be positive, got {list(sizes)}: leave out groups without images")
    if len(without) < 2:
        return None
    n = math.fsum(sizes)
    # (g - 1) whole = sum_j (1 - m_j / n) whole; as differences, so that equal estimates give exactly 0.
    return sum((1 - m / n) * (theta - whole) for theta, m in zip(without, sizes, strict=True))


class Folded(Generic[R]):
    """One accumulator per fold of images, so that every estimate has a jackknife error bar.

    An accumulator may offer ``update_folds(parts, x, batch, fold)``, which adds image i to ``parts[fold[i]]`` and
    so shares work between the folds; otherwise each part is updated with its own images. It may offer
    ``compute_folds(parts)``, for a value that tells more than the sums of all folds.

    Args:
        make: builds an empty accumulator.
        folds: number of folds; an image belongs to fold ``batch.fold % folds``.
    """

    def __init__(self, make: Callable[[], Accumulator[R]], folds: int) -> None:
        self.make = make
        self.parts = [make() for _ in range(folds)]
        self.counts = [0] * folds

    def update(self, x: Tensor, batch: Batch) -> None:
        """Adds each image to the accumulator of its fold."""
        fold = batch.fold % len(self.parts)
        sizes = torch.bincount(fold, minlength=len(self.parts)).tolist()
        share = getattr(self.parts[0], "update_folds", None)
        if share is not None:
            share(self.parts, x, batch, fold)
        else:
            order = torch.argsort(fold, stable=True)
            for part, rows in zip(self.parts, torch.split(order, sizes), strict=True):
                if len(rows):
                    part.update(x[rows.to(x.device)], batch[rows])
        self.counts = [count + size for count, size in zip(self.counts, sizes, strict=True)]

    def merge(self, other: Self) -> None:
        """Adds fold by fold."""
        for k, part in enumerate(other.parts):
            self.parts[k].merge(part)
            self.counts[k] += other.counts[k]

    def state_dict(self) -> dict[str, Tensor]:
        """Returns the states of all folds, with names like "3/second"."""
        state = {f"{k}/{name}": t for k, part in enumerate(self.parts) for name, t in part.state_dict().items()}
        return state | {"counts": torch.tensor(self.counts)}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Replaces the states of all folds."""
        self.counts = state["counts"].tolist()
        for k, part in enumerate(self.parts):
            prefix = f"{k}/"
            part.load_state_dict({n.removeprefix(prefix): t for n, t in state.items() if n.startswith(prefix)})

    def compute(self) -> R:
        """Returns the value over all folds."""
        share = getattr(self.parts[0], "compute_folds", None)
        return merged(self.parts, self.make).compute() if share is None else share(self.parts)

    def leave_one_out(self) -> list[tuple[int, R]]:
        """Returns, for each fold that holds images, its size and the value without it; empty with fewer than two."""
        used = [k for k, n in enumerate(self.counts) if n]
        if len(used) < 2:
            return []
        return [(self.counts[k], merged([self.parts[j] for j in used if j != k], self.make).compute()) for k in used]
