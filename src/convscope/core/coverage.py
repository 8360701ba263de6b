"""What a pass over the data covered."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from convscope.core.results import Skip, skips_to_json


@dataclass(frozen=True)
class Coverage:
    """What a pass over the data read, and how.

    Attributes:
        images: number of images read, over all processes.
        expected: number of images there were to read, or None where the source does not know.
        complete: False when the pass was interrupted.
        unreadable: images that could not be read, each with its reason.
        processes: number of processes that shared the images.
        folds: largest number of folds of images that error bars rest on; 1 for none.
        resumed: number of images whose sums came from a checkpoint.
        seconds: wall-clock seconds by part ("reading", "patch moments", ...).
        notes: sentences that a reader should know ("interrupted after 300 of 1000 images").
    """

    images: int
    expected: int | None
    complete: bool = True
    unreadable: tuple[Skip, ...] = ()
    processes: int = 1
    folds: int = 10
    resumed: int = 0
    seconds: Mapping[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Returns plain JSON values."""
        return {
            **self.__dict__,
            "unreadable": skips_to_json(self.unreadable),
            "seconds": dict(self.seconds),
            "notes": list(self.notes),
        }
