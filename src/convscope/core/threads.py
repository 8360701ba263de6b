"""Threads of our own, each doing its linear algebra alone: many small problems at once instead of one at a time."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import torch

A = TypeVar("A")
B = TypeVar("B")


@contextmanager
def one_thread_each() -> Generator[int]:
    """Lets every operation inside the context use one thread; yields how many it might have used before."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield before
    finally:
        torch.set_num_threads(before)


def in_parallel(f: Callable[[A], B], items: Iterable[A]) -> list[B]:
    """Returns f of each item, in their order, on as many threads as PyTorch was given, one for each call.

    Worth it where f spends its time in linear algebra on small matrices, which gains nothing from several threads.

    Example:
        >>> in_parallel(lambda x: x + 1, [1, 2])
        [2, 3]
    """
    items = list(items)
    with one_thread_each() as threads:
        if threads == 1 or len(items) < 2:
            return [f(item) for item in items]
        with ThreadPoolExecutor(threads) as pool:
            return list(pool.map(f, items))
