"""A network as a chain of linear maps and gates, in float64."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from convscope.core.geometry import ConvGeometry

Map = Callable[[Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class Step:
    """One convolution or linear layer of a chain, with the pooling around it and the gate behind it.

    Its linear part is the map ``before``, the weight, and ``after``; a batch norm is folded into weight and bias.

    Attributes:
        name: of the layer.
        weight: float64 [k, c / groups, q, r] of a convolution, or [o, d] of a linear layer.
        bias: float64 [k] or [o]; None without.
        geometry: of the convolution; None for a linear layer.
        size: (h, w) of the maps that the weight takes; (1, 1) for a linear layer.
        positions: M, number of its output positions.
        factor: the operator's squared Frobenius norm, pooling included, is at most this times that of the weight: M
            for a circular convolution, 1 for a linear layer, 1 / N for one behind a mean over N positions.
        before: pooling and reshaping in front of the weight, linear.
        after: pooling behind it, in front of the gate, linear.
        gates: what follows, each entry multiplied by a number in [0, 1].
        homogeneous: whether the gates keep positive factors: ReLU and leaky ReLU do.
        binary: whether the gates' slopes are 0 or 1.
    """

    name: str
    weight: Tensor
    bias: Tensor | None
    geometry: ConvGeometry | None
    size: tuple[int, int]
    positions: int
    factor: float
    before: tuple[Map, ...] = ()
    after: tuple[Map, ...] = ()
    gates: tuple[Map, ...] = ()
    homogeneous: bool = True
    binary: bool = True

    def linear(self, x: Tensor, *, bias: bool = False) -> Tensor:
        """Returns the linear part of what comes in, float64 [n, ...], with the bias if asked for."""
        for f in self.before:
            x = f(x)
        b = self.bias if bias else None
        if self.geometry is None:
            x = F.linear(x, self.weight, b)
        else:
            g = self.geometry
            x = F.conv2d(g.pad(x), self.weight, b, g.stride, 0, g.dilation, g.groups)
        for f in self.after:
            x = f(x)
        return x

    def gate(self, z: Tensor) -> Tensor:
        """Returns what the gates leave of the linear part's output."""
        for f in self.gates:
            z = f(z)
        return z


@dataclass(frozen=True, eq=False)
class Chain:
    """A network as a chain of steps, in float64, batch norms folded.

    Attributes:
        steps: in order.
        folded: whether there were batch norms: the norms are then those of the folded weights.
    """

    steps: tuple[Step, ...]
    folded: bool = False

    @property
    def multiply_adds(self) -> int:
        """Multiply-adds that one image takes."""
        return sum(step.positions * step.weight.numel() for step in self.steps)

    def __call__(self, x: Tensor) -> Tensor:
        """Returns the network's output for prepared images [n, c, h, w], in float64."""
        x = x.double()
        for step in self.steps:
            x = step.gate(step.linear(x, bias=True))
        return x


def gain(linear: Map, shape: torch.Size) -> float:
    """Returns a bound on the squared norm of a linear map of non-negative entries, exact for a mean over boxes.

    That is its largest row sum times its largest column sum.
    """
    with torch.enable_grad():
        x = torch.ones(1, *shape[1:], dtype=torch.float64, requires_grad=True)
        y = linear(x)
        (columns,) = torch.autograd.grad(y.sum(), x)
    return float(y.max()) * float(columns.max())


def coverage(geometry: ConvGeometry, size: tuple[int, int]) -> float:
    """Returns by how much the operator's squared Frobenius norm exceeds that of the weight, at most.

    That is the number of positions, unless several taps of one patch fall on the same pixel, as where a border is
    filled with pixels of a map that is smaller than the kernel.
    """
    total = 1.0
    top, bottom, left, right = geometry.padding
    ends, padded = ((top, bottom), (left, right)), (size[0] + top + bottom, size[1] + left + right)
    for axis, rows in enumerate(geometry.positions(*padded)):
        line = torch.arange(1.0, size[axis] + 1)[None, None]
        mode = "constant" if geometry.padding_mode == "zeros" else geometry.padding_mode
        pixels = F.pad(line, ends[axis], mode=mode)[0, 0].long()  # 0 is no pixel
        first = torch.arange(rows)[:, None] * geometry.stride[axis]
        seen = pixels[first + torch.arange(geometry.kernel[axis]) * geometry.dilation[axis]]
        counts = F.one_hot(seen, size[axis] + 1).sum(1)[:, 1:]
        total *= float(counts.amax(1).sum())
    return total
