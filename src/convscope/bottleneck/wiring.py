"""Whether a network is a plain chain of convolutions and ReLU-like gates, for which the bounds on its norm hold."""

from __future__ import annotations

import math
from collections import OrderedDict
from dataclasses import replace
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from convscope.bottleneck.steps import Chain, Map, Step, coverage, gain
from convscope.core.geometry import ConvGeometry
from convscope.core.taps import device_and_dtype, left_as_found

_SAME = 1e-4  # relative difference of outputs up to which single precision explains it
_NAMES = {
    "max": "a maximum pooling",
    "add": "a sum of two paths, such as a residual block's",
    "cat": "a concatenation of paths",
    "norm": "a normalisation that depends on the image",
}
_HOW = (("stride", 1), ("padding", 0), ("dilation", 1), ("groups", 1))  # of conv2d, with their defaults


class _Unlike(Exception):
    """Says why a network is no plain chain."""


def plain_chain(module: nn.Module, example: Tensor) -> Chain | str:
    """Returns a network as a plain chain of steps, or why it is none, in words.

    A plain chain has convolutions and linear layers one after the other, each followed by a batch norm or not, average
    pooling or not, and ReLU, leaky ReLU, ReLU6 or hard tanh or not. It is found by symbolic tracing, and checked: the
    chain must return what the network does.

    Args:
        module: the network; it is left as found, and read in evaluation mode.
        example: prepared images [n, c, h, w], such as the network takes.

    Example:
        >>> module = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 1, 3))
        >>> chain = plain_chain(module, torch.rand(1, 1, 8, 8))
        >>> [(step.name, step.positions) for step in chain.steps]
        [('0', 36), ('2', 16)]
        >>> plain_chain(nn.Sequential(nn.Conv2d(1, 4, 3), nn.MaxPool2d(2)), torch.rand(1, 1, 8, 8))
        'it holds a maximum pooling (1)'
    """
    inner = getattr(module, "_orig_mod", module)  # torch.compile wraps modules
    device, dtype = device_and_dtype(inner)
    x = example.detach().to(device=device, dtype=dtype)
    if isinstance(inner, nn.Conv2d):  # tracing would look inside; taps call a lone convolution by its parameter
        inner = nn.Sequential(OrderedDict(weight=inner))
    with left_as_found([inner]), torch.no_grad():
        try:
            traced = fx.symbolic_trace(inner)
            record = _Recorder(traced)
            expected = record.run(x.clone())
        except Exception as error:
            return f"its forward pass cannot be traced ({_first_line(error)})"
        try:
            chain = _Reader(traced, record).chain()
        except _Unlike as reason:
            return str(reason)
        if not isinstance(expected, Tensor):
            return f"it returns a {type(expected).__name__}, not one tensor"
        found = chain(x.cpu())
    true = expected.double().cpu()
    if found.shape != true.shape or not float((found - true).norm()) <= _SAME * float(true.norm()):
        return "its layers in a row do not give what it returns"
    return chain


class _Recorder(fx.Interpreter):
    """Runs a traced network; keeps the shape of every tensor, and the value of those that do not depend on the input.

    Attributes:
        shapes: of the tensors that do.
        constants: the values of the others.
    """

    def __init__(self, traced: fx.GraphModule) -> None:
        super().__init__(traced)
        self.shapes: dict[fx.Node, torch.Size] = {}
        self.constants: dict[fx.Node, Tensor] = {}

    def run_node(self, n: fx.Node) -> Any:
        """Returns what a node returns."""
        value = super().run_node(n)
        if isinstance(value, Tensor):
            inputs = n.all_input_nodes
            if n.op == "get_attr" or (inputs and all(i in self.constants for i in inputs)):
                self.constants[n] = value
            else:
                self.shapes[n] = value.shape
        return value


class _Reader:
    """Reads the nodes of a traced network, in order, into steps."""

    def __init__(self, traced: fx.GraphModule, record: _Recorder) -> None:
        self.modules = dict(traced.named_modules())
        self.nodes = list(traced.graph.nodes)
        self.shapes, self.constants = record.shapes, record.constants
        self.steps: list[Step] = []
        self.pending: list[Map] = []  # linear maps behind the last gate
        self.gain = 1.0  # of these
        self.used: set[int] = set()
        self.folded = False

    def chain(self) -> Chain:
        last: fx.Node | None = None
        for node in self.nodes:
            if node.op == "output":
                if node.args[0] is not last:
                    raise _Unlike("it returns something else than the output of its last layer")
            elif node in self.shapes:
                inputs = [i for i in node.all_input_nodes if i in self.shapes]
                if node.op != "placeholder":
                    if len(inputs) > 1:
                        raise _Unlike(f"it holds {_named(node, self.modules)} ({node.name})")
                    if last is None or inputs[0] is not last:
                        where = node.target if node.op == "call_module" else node.name
                        raise _Unlike(f"its path forks, as at a shortcut ({where})")
                    self._take(node, self.shapes[last])
                elif last is not None:
                    raise _Unlike("it takes several inputs")
                last = node
        if not self.steps:
            raise _Unlike("it holds no convolution")
        if self.pending:
            raise _Unlike("it ends in a pooling behind a gate")
        return Chain(tuple(self.steps), self.folded)

    def _take(self, node: fx.Node, shape: torch.Size) -> None:
        if node.op == "call_module":
            self._take_module(str(node.target), self.modules[str(node.target)], node, shape)
        else:
            self._take_call(node, shape)

    def _take_module(self, name: str, module: nn.Module, node: fx.Node, shape: torch.Size) -> None:
        if isinstance(module, nn.Conv2d):
            self._add(name, module.weight, module.bias, ConvGeometry.of(module), node, shape)
        elif isinstance(module, nn.Linear):
            self._add(name, module.weight, module.bias, None, node, shape)
        elif isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            self._fold(name, module)
        elif isinstance(module, nn.ReLU):
            self._gate(torch.relu)
        elif isinstance(module, nn.LeakyReLU):
            self._leaky(module.negative_slope, name)
        elif isinstance(module, nn.Hardtanh):  # ReLU6 is one
            self._gate(partial(F.hardtanh, min_val=module.min_val, max_val=module.max_val), homogeneous=False)
        elif isinstance(module, nn.AvgPool2d | nn.AdaptiveAvgPool2d):
            self._pool(module, shape)
        elif isinstance(module, nn.Flatten):
            self._reshape(node, shape)
        elif not isinstance(module, nn.Dropout | nn.Dropout2d | nn.AlphaDropout | nn.Identity):
            raise _Unlike(f"it holds {_named(node, self.modules)} ({name})")

    def _take_call(self, node: fx.Node, shape: torch.Size) -> None:
        name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", str(node.target))
        name = name.split(".")[0].rstrip("_")
        if name in {"conv2d", "linear"}:
            weight, bias = (self._constant(node, i, n) for i, n in ((1, "weight"), (2, "bias")))
            if weight is None:
                raise _Unlike(f"the weight of {node.name} depends on the image")
            how = [_argument(node, 3 + i, n, d) for i, (n, d) in enumerate(_HOW)]
            geometry = ConvGeometry.of_call(weight.shape, *how) if name == "conv2d" else None
            self._add(self._name(node), weight, bias, geometry, node, shape)
        elif name == "relu":
            self._gate(torch.relu)
        elif name == "leaky_relu":
            self._leaky(_argument(node, 1, "negative_slope", 0.01), node.name)
        elif name in {"relu6", "hardtanh"}:
            low, high = (0.0, 6.0) if name == "relu6" else (-1.0, 1.0)
            if name == "hardtanh":
                low, high = _argument(node, 1, "min_val", low), _argument(node, 2, "max_val", high)
            self._gate(partial(F.hardtanh, min_val=low, max_val=high), homogeneous=False)
        elif name in {"avg_pool2d", "adaptive_avg_pool2d"}:
            others: dict[str, Any] = {k: v for k, v in node.kwargs.items() if k != "input"}
            function: Any = F.avg_pool2d if name == "avg_pool2d" else F.adaptive_avg_pool2d
            self._pool(lambda x: function(x, *node.args[1:], **others), shape)
        elif name == "mean":
            dims = _argument(node, 1, "dim", None)
            dims = [dims] if isinstance(dims, int) else dims
            if dims is None or any(d % len(shape) == 0 for d in dims):
                raise _Unlike(f"it takes a mean over images ({node.name})")
            keep = bool(_argument(node, 2, "keepdim", False))
            self._pool(lambda x: x.mean(dims, keepdim=keep), shape)
        elif name in {"flatten", "view", "reshape", "squeeze", "unsqueeze"}:
            self._reshape(node, shape)
        elif name not in {"dropout", "dropout2d", "contiguous", "clone"}:
            raise _Unlike(f"it holds {_named(node, self.modules)} ({node.name})")

    def _name(self, node: fx.Node) -> str:
        weight = _argument(node, 1, "weight", None)
        return weight.target.removesuffix(".weight") if weight.op == "get_attr" else node.name

    def _constant(self, node: fx.Node, place: int, name: str) -> Tensor | None:
        found = _argument(node, place, name, None)
        return self.constants.get(found) if isinstance(found, fx.Node) else None

    def _add(
        self,
        name: str,
        weight: Tensor,
        bias: Tensor | None,
        geometry: ConvGeometry | None,
        node: fx.Node,
        shape: torch.Size,
    ) -> None:
        if id(weight) in self.used:
            raise _Unlike(f"it uses the weight of {name} more than once")
        self.used.add(id(weight))
        if len(shape) != (2 if geometry is None else 4):
            raise _Unlike(f"{name} takes an input of shape {list(shape)}")
        size = (shape[2], shape[3]) if geometry else (1, 1)
        self.steps.append(
            Step(
                name,
                weight.detach().to("cpu", torch.float64),
                None if bias is None else bias.detach().to("cpu", torch.float64),
                geometry,
                size,
                math.prod(self.shapes[node][2:]),
                (coverage(geometry, size) if geometry else 1.0) * self.gain,
                tuple(self.pending),
            )
        )
        self.pending, self.gain = [], 1.0

    def _fold(self, name: str, norm: nn.BatchNorm1d | nn.BatchNorm2d) -> None:
        last = self.steps[-1] if self.steps else None
        if last is None or last.after or last.gates or self.pending:
            raise _Unlike(f"it holds a batch norm that follows no convolution ({name})")
        if norm.running_mean is None or norm.running_var is None:
            raise _Unlike(f"it holds a batch norm without running statistics ({name})")
        mean, variance = norm.running_mean.cpu().double(), norm.running_var.cpu().double()
        scale = (variance + norm.eps).rsqrt()
        shift = -mean * scale
        if norm.weight is not None:
            gamma, beta = norm.weight.detach().cpu().double(), norm.bias.detach().cpu().double()
            scale, shift = scale * gamma, shift * gamma + beta
        bias = shift if last.bias is None else last.bias * scale + shift
        weight = last.weight * scale.view(-1, *[1] * (last.weight.ndim - 1))
        self.steps[-1] = replace(last, weight=weight, bias=bias)
        self.folded = True

    def _gate(self, gate: Map, *, homogeneous: bool = True, binary: bool = True) -> None:
        if not self.steps or self.pending:
            raise _Unlike("it holds a gate that follows no layer")
        last = self.steps[-1]
        self.steps[-1] = replace(
            last,
            gates=(*last.gates, gate),
            homogeneous=last.homogeneous and homogeneous,
            binary=last.binary and binary,
        )

    def _leaky(self, slope: float, name: str) -> None:
        if not 0 <= slope <= 1:
            raise _Unlike(f"the slope of the leaky ReLU {name} is {slope}, not between 0 and 1")
        self._gate(partial(F.leaky_relu, negative_slope=slope), binary=slope in {0.0, 1.0})

    def _pool(self, pool: Map, shape: torch.Size) -> None:
        self._place(pool, gain(pool, shape))

    def _reshape(self, node: fx.Node, shape: torch.Size) -> None:
        out = self.shapes[node]
        if out[0] != shape[0]:
            raise _Unlike(f"it mixes images ({node.name})")
        self._place(lambda x: x.reshape(len(x), *out[1:]), 1.0)

    def _place(self, linear: Map, gain: float) -> None:
        if self.steps and not self.steps[-1].gates and not self.pending:
            last = self.steps[-1]
            self.steps[-1] = replace(last, after=(*last.after, linear), factor=last.factor * gain)
        else:
            self.pending.append(linear)
            self.gain *= gain


def _argument(node: fx.Node, place: int, name: str, default: Any) -> Any:
    return node.args[place] if len(node.args) > place else node.kwargs.get(name, default)


def _named(node: fx.Node, modules: dict[str, nn.Module]) -> str:
    """Returns what a node does, in words."""
    kind = type(modules[str(node.target)]).__name__ if node.op == "call_module" else node.name
    known = [words for part, words in _NAMES.items() if part in kind.lower()]
    return known[0] if known else f"the operation {kind}"


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
