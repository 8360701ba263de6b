"""The Jacobian of a plain chain at an image, and its singular values."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from convscope.bottleneck.steps import Chain

FULL = 1024  # inputs or outputs up to which the whole Jacobian is formed
CUT = 1e-3  # of the largest singular value; smaller ones count as zero
_FIRST, _MOST = 64, 512  # singular values that are looked for where it is not formed, at first and at most
_AT_ONCE = 64  # vectors, where their representations need no more than the following
_BYTES = 2**28


class Jacobian:
    """J = W_L D_(L-1) ... D_1 W_1 at an image: the gates of a chain are held at their slopes there.

    Args:
        chain: the network.
        image: [c, h, w], prepared.

    Attributes:
        slopes: float64 [1, ...] for each step, those of its gates.
        inputs: shape of the image.
        outputs: shape of what the chain returns for it.
    """

    def __init__(self, chain: Chain, image: Tensor) -> None:
        self.chain = chain
        x = image.detach().double().cpu()[None]
        self.inputs = x.shape[1:]
        self.slopes: list[Tensor] = []
        for step in chain.steps:
            z = step.linear(x, bias=True).detach().requires_grad_()
            with torch.enable_grad():
                x = step.gate(z)
                slope = torch.autograd.grad(x.sum(), z)[0] if step.gates else torch.ones_like(z)
            self.slopes.append(slope)
            x = x.detach()
        self.outputs = x.shape[1:]

    def forward(self, vectors: Tensor) -> Tensor:
        """Returns J v for vectors [b, ...] of the image's shape."""
        for step, slope in zip(self.chain.steps, self.slopes, strict=True):
            vectors = step.linear(vectors) * slope
        return vectors

    def adjoint(self, vectors: Tensor) -> Tensor:
        """Returns J^T u for vectors [b, ...] of the output's shape."""
        with torch.enable_grad():
            x = torch.zeros(len(vectors), *self.inputs, dtype=torch.float64, requires_grad=True)
            return torch.autograd.grad(self.forward(x), x, vectors)[0]

    def dense(self) -> Tensor:
        """Returns the whole Jacobian, float64 [outputs, inputs], from as many products as its smaller side has."""
        n_in, n_out = math.prod(self.inputs), math.prod(self.outputs)
        if n_in <= n_out:
            return self.times(torch.eye(n_in, dtype=torch.float64)).T
        return self.times(torch.eye(n_out, dtype=torch.float64), adjoint=True)

    def times(self, rows: Tensor, *, adjoint: bool = False) -> Tensor:
        """Returns J v for each row v [b, inputs], or J^T u for each row u [b, outputs], as rows."""
        linear, shape = (self.adjoint, self.outputs) if adjoint else (self.forward, self.inputs)
        size = 8 * sum(slope.numel() for slope in self.slopes)
        parts = rows.split(min(max(_BYTES // size, 1), _AT_ONCE))
        return torch.cat([linear(part.reshape(-1, *shape)).flatten(1) for part in parts])

    @property
    def work(self) -> int:
        """Multiply-adds that its singular values take, about."""
        smaller = min(math.prod(self.inputs), math.prod(self.outputs))
        return (smaller if smaller <= FULL else 6 * _FIRST) * self.chain.multiply_adds


@dataclass(frozen=True, eq=False)
class JacobianValues:
    """Singular values of a Jacobian.

    Attributes:
        values: float64 [rank], descending, those above 1e-3 of the largest: the roots that the bounds take would turn
            rounding errors into contributions.
        complete: whether these are all; else there are more, and bounds from these hold but could be sharper.
    """

    values: Tensor
    complete: bool

    @property
    def rank(self) -> int:
        """Their number."""
        return len(self.values)

    @property
    def log_determinant(self) -> float:
        """Sum of their logarithms, log |J|_+; NaN without any."""
        return float(self.values.log().sum()) if self.rank else math.nan


def jacobian_values(jacobian: Jacobian, expected: int = _FIRST // 2, seed: int = 0) -> JacobianValues:
    """Returns the singular values of a Jacobian.

    Small ones are formed whole. Of others, values come from products with random vectors (a randomised decomposition
    with two power iterations); they never exceed the true ones.

    Args:
        jacobian: at an image.
        expected: rank that is expected; twice as many values are looked for at first, then more while they are needed,
            up to 512.
        seed: of the random vectors.
    """
    smaller = min(math.prod(jacobian.inputs), math.prod(jacobian.outputs))
    if smaller <= FULL:
        values = torch.linalg.svdvals(jacobian.dense())
        return JacobianValues(_cut(values), complete=True)
    width = min(max(2 * expected, 16), _MOST)
    while True:
        values = _randomised(jacobian, width, seed)
        complete = len(_cut(values)) < width
        if complete or width == _MOST:
            return JacobianValues(_cut(values), complete)
        width = min(2 * width, _MOST)


def _cut(values: Tensor) -> Tensor:
    return values[values > CUT * values[0]]


def _randomised(jacobian: Jacobian, width: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    start = torch.randn(width + 10, math.prod(jacobian.inputs), dtype=torch.float64, generator=generator)
    y = jacobian.times(start)
    for _ in range(2):
        z = jacobian.times(_orthonormal(y), adjoint=True)
        y = jacobian.times(_orthonormal(z))
    return torch.linalg.svdvals(jacobian.times(_orthonormal(y), adjoint=True))[:width]


def _orthonormal(rows: Tensor) -> Tensor:
    return torch.linalg.qr(rows.T).Q.T
