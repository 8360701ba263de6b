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


def following_norm(module: nn.Module, conv: str) -> tuple[Tensor, Tensor, float] | None:
    """Returns (gamma, running variance, eps) of the batch norm registered right after a convolution, or None."""
    names = dict(module.named_modules())
    own = names.get(conv)
    leaves = [m for m in module.modules() if not list(m.children())]
    if own not in leaves or leaves.index(own) + 1 >= len(leaves):
        return None
    norm = leaves[leaves.index(own) + 1]
    if not isinstance(norm, nn.BatchNorm2d) or not isinstance(own, nn.Conv2d) or norm.num_features != own.out_channels:
        return None
    if norm.weight is None or norm.running_var is None:
        return None
    return norm.weight.detach().clone(), norm.running_var.detach().clone(), float(norm.eps)
