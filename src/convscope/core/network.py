"""A network as convscope sees it: a module, and what is done to images before they enter it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn

from convscope.core.results import Skip


def unchanged(images: Tensor) -> Tensor:
    """Returns the images as they are: the ``prepare`` of networks handed in from Python."""
    return images


@dataclass(frozen=True, eq=False)
class Network:
    """A network to analyse. Two are equal only when they are the same object.

    Attributes:
        name: how the page calls it.
        module: the module, never changed by an analysis.
        prepare: maps images [n, c, h, w] as the source gives them to what the module takes
            (resizing, channels, normalisation); elementwise in n.
        skipped: what of this network cannot be analysed, and why.
        notes: assumptions that a reader should know ("stride 1 assumed").
    """

    name: str
    module: nn.Module
    prepare: Callable[[Tensor], Tensor] = unchanged
    skipped: tuple[Skip, ...] = ()
    notes: tuple[str, ...] = ()
