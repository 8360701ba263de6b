"""What the pass asks of images, wherever they come from."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from convscope.core.batches import Batch
from convscope.core.results import Skip


class Source(Protocol):
    """Images that can be read once, in a fixed order, in shares.

    Attributes:
        name: what the page calls the data.
        classes: class names, or None where the data has no labels, or where the number of classes is not known
            before all is read. Labels whose number but not names are known are named "0", "1", ....
        n: number of images over all processes (after a limit), or None where it is unknown.
        fingerprint: changes when the images change; a pass resumes only on an equal one. Empty: cannot resume.
        sharded: True where ``batches`` gives each process its own share of the same images; False where the
            user's iterable is already this process's share.
        unreadable: what could not be read so far, by this process.
        notes: sentences that a reader should know.
    """

    name: str
    classes: tuple[str, ...] | None
    n: int | None
    fingerprint: str
    sharded: bool
    unreadable: list[Skip]
    notes: list[str]

    def batches(
        self, batch_size: int, *, start: int = 0, rank: int = 0, world: int = 1, workers: int = 0
    ) -> Iterator[tuple[int, Batch]]:
        """Yields (consumed, batch).

        Args:
            batch_size: number of images of a full batch.
            start: how many images of this process's share to leave out at the start, unreadable ones included.
            rank: which share: the images at positions rank, rank + world, ... of the source's order.
            world: number of shares.
            workers: number of reading processes.

        Yields:
            consumed: how many images of this process's share are done when this batch is, the ``start`` ones and
                unreadable ones included.
            batch: the readable images, float32 in [0, 1] for files; possibly none (an empty batch counts unreadable
                images at the end).
        """
        ...
