"""The convolutions of a network as operators, and the modules that are none."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, fx, nn
from torch.nn.modules.conv import _ConvNd

from convscope.bottleneck.operators import ConvOperator
from convscope.core.errors import ConvscopeError
from convscope.core.geometry import ConvGeometry
from convscope.core.network import following_norm
from convscope.core.results import Skip
from convscope.core.taps import ConvCall

ASSUMED = "stride 1, one group and a circular border assumed, since weights alone do not say them"
DIVERGED = "the batch norm that follows holds NaN or infinite values: the training diverged"


@dataclass(frozen=True, eq=False)
class Layer:
    """A convolution as the network calls it.

    Attributes:
        name: its name.
        raw: its operator on the maps that it takes.
        factor: float64 [k], of a batch norm that follows, by which each channel is multiplied; None without one.
        stride: (vertical, horizontal).
        size: (h, w) of the maps that it returns, in pixels.
    """

    name: str
    raw: ConvOperator
    factor: Tensor | None
    stride: tuple[int, int]
    size: tuple[int, int]

    @cached_property
    def operator(self) -> ConvOperator:
        """Its operator with the batch norm folded in."""
        return self.raw if self.factor is None else self.raw.scaled(self.factor)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(k, c / groups, q, r) of its filters."""
        k, c, q, r = self.raw.weight.shape
        return k, c, q, r

    @property
    def whole(self) -> bool:
        """Whether its filters are as large as the maps and their border circular: only then can they select any."""
        (q, r), (h, w) = self.raw.geometry.extent, self.raw.size
        return self.raw.boundary == "circular" and q >= h and r >= w


def layers_of(module: nn.Module, calls: Sequence[ConvCall]) -> tuple[list[Layer], list[Skip]]:
    """Returns the convolutions that a network called, in that order, and those that cannot be analysed.

    Args:
        module: the network; a compiled one is unwrapped.
        calls: one of each convolution.
    """
    module = getattr(module, "_orig_mod", module)
    found, skipped = [], []
    for call in calls:
        try:
            found.append(_layer(module, call))
        except ConvscopeError as error:
            skipped.append(Skip(call.name, str(error)))
    return found, skipped


def _layer(module: nn.Module, call: ConvCall) -> Layer:
    geometry, size = call.geometry, tuple(call.input.shape[2:])
    own = dict(module.named_modules()).get(call.name)
    if isinstance(own, nn.Conv2d) and own.padding_mode != "zeros" and not any(geometry.padding):
        # The call saw a border that was filled beforehand: the maps themselves are smaller.
        geometry = ConvGeometry.of(own)
        top, bottom, left, right = geometry.padding
        size = (size[0] - top - bottom, size[1] - left - right)
    raw = ConvOperator.of_weight(call.weight, geometry, (size[0], size[1]))
    rows, columns = call.output.shape[2:]
    return Layer(call.name, raw, _factor(module, call.name), call.geometry.stride, (rows, columns))


def _factor(module: nn.Module, name: str) -> Tensor | None:
    norm = following_norm(module, name)
    if norm is None:
        return None
    gamma, variance, eps = norm
    factor = (gamma.double() / (variance.double() + eps).sqrt()).cpu()
    if not bool(torch.isfinite(factor).all()):
        raise ConvscopeError(DIVERGED)
    return factor


def after_sums(module: nn.Module) -> set[str]:
    """Returns the names of the convolutions that see a sum of two branches, rectified or not.

    Found by symbolic tracing; empty where the network cannot be traced.

    Args:
        module: the network; a compiled one is unwrapped.
    """
    module = getattr(module, "_orig_mod", module)
    try:
        graph = fx.Tracer().trace(module)
    except Exception:  # whatever a forward pass does with what is no tensor
        return set()
    parts = dict(module.named_modules())
    found = set()
    for node in graph.nodes:
        if isinstance(_part(node, parts), nn.Conv2d):
            value = node.args[0]
            # What stands between a sum and the convolution has one input each and no weights that mix positions.
            while not isinstance(_part(value, parts), _ConvNd | nn.Linear) and len(value.all_input_nodes) == 1:
                value = value.all_input_nodes[0]
            name = getattr(value.target, "__name__", str(value.target))
            if name in {"add", "iadd", "add_"} and len(value.all_input_nodes) == 2:
                found.add(str(node.target))
    return found


def _part(node: fx.Node, parts: Mapping[str, nn.Module]) -> nn.Module | None:
    return parts.get(str(node.target)) if node.op == "call_module" else None


def unseen(module: nn.Module) -> list[Skip]:
    """Returns the convolutions of a network that are not over two axes, or are transposed, each with the reason.

    Args:
        module: the network.
    """
    found = []
    for name, part in module.named_modules():
        if not isinstance(part, _ConvNd) or isinstance(part, nn.Conv2d):
            continue
        kind = type(part).__name__
        if isinstance(part, nn.ConvTranspose2d):
            reason = f"{kind}: its weights alone can be analysed, by convscope.frequency_singular_values"
        else:
            reason = f"{kind}: only convolutions over two axes have frequencies (ky, kx)"
        found.append(Skip(name or kind, reason))
    return found


def bare_layers(
    weights: Iterable[tuple[str, Tensor, Tensor | None]], grid: tuple[int, int]
) -> tuple[list[Layer], list[Skip]]:
    """Returns convolutions that are known by their weights alone, on one grid, and those that cannot be analysed.

    Stride 1, one group and a circular border are assumed.

    Args:
        weights: name, weight [k, c, q, r], and the factor of the batch norm that follows, [k], or None.
        grid: (h, w) of the maps, in pixels.

    Example:
        >>> found, skipped = bare_layers([("conv1", torch.ones(4, 3, 5, 5), None)], (16, 16))
        >>> found[0].operator.half_plane[0].shape, found[0].whole, skipped
        (torch.Size([130, 2]), False, [])
    """
    found, skipped = [], []
    for name, weight, factor in weights:
        if factor is not None and not bool(torch.isfinite(factor).all()):
            skipped.append(Skip(name, DIVERGED))
            continue
        try:
            q, r = weight.shape[2:]
            padding = (q // 2, r // 2)
            geometry = ConvGeometry.of_call(tuple(weight.shape), 1, padding, padding_mode="circular")
            raw = ConvOperator.of_weight(weight, geometry, grid, "circular")
        except (ConvscopeError, ValueError) as error:
            skipped.append(Skip(name, str(error)))
            continue
        found.append(Layer(name, raw, factor, (1, 1), grid))
    return found, skipped
