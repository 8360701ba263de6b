"""Slots: where a pass leaves what its accumulators collected."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

from convscope.core.accumulate import Accumulator, Folded, jackknife
from convscope.core.batches import FOLDS
from convscope.core.errors import ConvscopeError
from convscope.core.results import Number
from convscope.core.streams import Stream

R = TypeVar("R")


class Slot(Generic[R]):
    """Where a pass leaves what one accumulator collected."""

    def __init__(
        self, stream: Stream, make: Callable[[], Accumulator[R]], folded: bool, label: str, most_folds: int = FOLDS
    ) -> None:
        self.stream = stream
        self.make = make
        self.folded = folded
        self.label = label
        self.most_folds = most_folds
        self.failure: str | None = None
        self.folds = 1
        self.accumulator: Accumulator[R] | Folded[R] = make()
        self._without: list[tuple[int, R]] | None = None

    def spread_over(self, folds: int) -> None:
        """Starts empty, with this many folds."""
        self.folds = folds if self.folded else 1
        self.accumulator = self.empty()

    def empty(self) -> Accumulator[R] | Folded[R]:
        """Returns an accumulator like the slot's own that has seen nothing."""
        return Folded(self.make, self.folds) if self.folds > 1 else self.make()

    def value(self) -> R:
        """Returns what the accumulator computes from all images.

        Raises:
            ConvscopeError: when its stream could not be delivered.
        """
        if self.failure is not None:
            raise ConvscopeError(self.failure)
        return self.accumulator.compute()

    def leave_one_out(self) -> list[tuple[int, R]]:
        """Returns, for each fold that holds images, its size and the value from the others; empty without folds."""
        if self._without is None:
            self._without = self.accumulator.leave_one_out() if isinstance(self.accumulator, Folded) else []
        return self._without

    def release(self) -> None:
        """Forgets what was collected, once nobody will ask again: wide layers' sums take much memory."""
        self.accumulator, self._without = self.make(), None

    def estimate(
        self,
        f: Callable[[R], float],
        chance: tuple[float, float] | None = None,
        definition: str = "",
        chance_name: str = "",
    ) -> Number:
        """Returns f of the value, with its jackknife standard error over the folds of images.

        Args:
            f: a number from the accumulator's value.
            chance: what chance gives, (low, high).
            definition: key of the number's definition.
            chance_name: what chance is here, in words.
        """
        whole = f(self.value())
        without = self.leave_one_out()
        spread = jackknife(whole, [f(value) for _, value in without], [float(n) for n, _ in without])
        return Number(whole, spread, chance, definition, chance_name)
