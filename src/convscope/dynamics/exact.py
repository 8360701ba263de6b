"""The exact dynamics of a linear network, integrated."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from scipy.integrate import DOP853
from scipy.optimize import brentq
from torch import Tensor

from convscope.core.errors import ConvscopeError
from convscope.dynamics.flow import Flow, Weights, flow_of, pull, strengths_of
from convscope.dynamics.linear import Dense, LinearCNN
from convscope.dynamics.structure import DatasetStructure
from convscope.dynamics.trajectory import Trajectory

RELATIVE, ABSOLUTE = 1e-7, 1e-6  # errors that a step may make: of each weight, and of the spread of the initial ones
ROUNDING = 1e-15  # of the largest weight
CHANGE = 1e-3  # of the largest singular value: less is no change
CHECK = 50  # steps between two looks at whether anything can still be learned
PATIENCE = 4  # times as long as learning should take


def integrate(
    structure: DatasetStructure,
    network: LinearCNN | Dense,
    *,
    times: Tensor | None = None,
    end: float | None = None,
) -> Trajectory:
    """Returns how a linear network learns a data set by gradient flow, without any further assumption.

    The dynamics follow from the data's second moments alone: Pinson et al. (2023) for a linear CNN, in the Fourier
    domain; Saxe et al. (2014) for a dense one.

    Weights of less than about 1e-12 of learned ones drown in rounding once the first mode is learned; for so small a
    start, ``stages`` is right.

    Args:
        structure: with its covariance.
        network: at its start, which is not changed.
        times: [T], at which mode strengths are wanted, rising; None: where the solver stops on its way.
        end: time to stop at; None: once all modes are half learned, or nothing moves any more.

    Raises:
        ConvscopeError: when the covariance is not at hand, or the solver fails.
        ValueError: when the network's shapes are not those of the images and classes, or times are not rising.

    Example:
        >>> from convscope.dynamics.collect import dataset_structure
        >>> generator = torch.Generator().manual_seed(0)
        >>> images, labels = torch.rand(60, 1, 5, 5, generator=generator), torch.arange(60) % 3
        >>> structure = dataset_structure([(images, labels)])
        >>> predicted = integrate(structure, LinearCNN.drawn((1, 5, 5), 3, init_std=1e-2))
        >>> bool(predicted.half_times[0] < predicted.half_times[1])
        True
    """
    flow, weights = flow_of(network, structure.image_shape), network.weights
    if flow.effective(weights).shape != structure.cross.shape:
        raise ValueError(
            f"the network maps images to {list(flow.effective(weights).shape)}, but classes and images are "
            f"{list(structure.cross.shape)}"
        )
    run = _Run(structure, flow, weights)
    wanted = None if times is None else np.asarray(times, dtype=np.float64)
    if wanted is not None and (wanted.ndim != 1 or not len(wanted) or (np.diff(wanted) < 0).any() or wanted[0] < 0):
        raise ValueError("times must be a rising list of numbers, none below 0")
    if wanted is not None:
        end = float(wanted[-1])
    run.until(end, wanted)
    return Trajectory(
        times=torch.tensor(run.times, dtype=torch.float64),
        mode_strengths=torch.stack(run.strengths),
        half_times=torch.from_numpy(run.half_times),
        method="exact",
        maps=run.maps,
        final=run.final,
    )


class _Run:
    """One integration: its state, and what was seen on the way."""

    def __init__(self, structure: DatasetStructure, flow: Flow, weights: Weights) -> None:
        self.structure, self.flow = structure, flow
        self.shapes = [x.shape for x in weights]
        self.start = torch.cat([x.flatten() for x in weights]).numpy()
        m = len(structure.singular_values)
        self.half = structure.singular_values.numpy() / 2
        self.half_times = np.full(m, np.inf)
        self.final = structure.cross
        self.maps = torch.full((m, *structure.cross.shape), torch.nan, dtype=torch.float64)
        self.scale = float(np.sqrt(np.square(self.start).mean()))
        self.steps, self.first_rate = 0, 0.0
        self.moved = (0.0, torch.zeros(m, dtype=torch.float64))
        self.times: list[float] = []
        self.strengths: list[Tensor] = []

    def weights(self, y: np.ndarray) -> Weights:
        parts = torch.from_numpy(y).split([math.prod(s) for s in self.shapes])
        return tuple(part.view(shape) for part, shape in zip(parts, self.shapes, strict=True))

    def velocity(self, _: float, y: np.ndarray) -> np.ndarray:
        weights = self.weights(y)
        moved = self.flow.velocity(weights, pull(self.structure, self.flow.effective(weights)))
        return torch.cat([x.flatten() for x in moved]).numpy()

    def strength(self, y: np.ndarray) -> Tensor:
        effective, covariance = self.flow.effective(self.weights(y)), self.structure.check_covariance("the dynamics")
        return strengths_of(self.structure, (effective.flatten(1) @ covariance).view_as(effective))

    def until(self, end: float | None, wanted: np.ndarray | None) -> None:
        last = math.inf if end is None else end
        solver = DOP853(self.velocity, 0.0, self.start, last, rtol=RELATIVE, atol=ABSOLUTE * self.scale)
        at = self.strength(self.start)
        self._crossed(at, 0.0, self.start)
        waiting = [] if wanted is None else list(wanted)
        if wanted is None:
            self._seen(0.0, at)
        while waiting and waiting[0] <= 0:
            self._seen(waiting.pop(0), at)
        while solver.status == "running":
            # Transforms tie all weights to the rounding of the largest; steps must not shrink for its sake.
            solver.atol = max(ABSOLUTE * self.scale, ROUNDING * float(np.abs(solver.y).max()))
            if (message := solver.step()) is not None:
                raise ConvscopeError(f"the exact dynamics cannot be integrated ({message}): use fewer or other images")
            now, between = self.strength(solver.y), None
            if (pending := np.isinf(self.half_times) & (now.numpy() >= self.half)).any():
                between = solver.dense_output()
                self._halves(pending, between, solver.t_old, solver.t)
            if wanted is None:
                self._seen(solver.t, now)
            while waiting and waiting[0] <= solver.t:
                between, t = between or solver.dense_output(), waiting.pop(0)
                self._seen(t, self.strength(between(t)))
            if end is None and (np.isfinite(self.half_times).all() or self._stuck(solver.t, solver.y, now)):
                break
        self.final = self.flow.effective(self.weights(solver.y))

    def _stuck(self, t: float, y: np.ndarray, now: Tensor) -> bool:
        """Returns whether so long a time has passed without change that nothing is going to be learned any more."""
        if float((now - self.moved[1]).abs().max()) > CHANGE * 2 * self.half.max():
            self.moved = (t, now)
        self.steps += 1
        if self.steps % CHECK:
            return False
        left = pull(self.structure, self.flow.effective(self.weights(y)))
        rate = escape_rate(self.flow, self.shapes, left)
        self.first_rate = self.first_rate or rate
        # Weights as small as the initial ones need this long to become as large as learned ones.
        needed = max(math.log(2 * self.half.max() / self.scale**2), 1) / rate if rate > 0 else math.inf
        return rate < CHANGE**2 * self.first_rate or t - self.moved[0] > PATIENCE * needed

    def _halves(self, pending: np.ndarray, between: Any, low: float, high: float) -> None:
        for mode in np.flatnonzero(pending):

            def above(t: float, mode: int = int(mode)) -> float:
                return float(self.strength(between(t))[mode]) - self.half[mode]

            t = brentq(above, low, high, rtol=1e-12) if above(low) < 0 else low
            self.half_times[mode] = t
            self.maps[mode] = self.flow.effective(self.weights(between(t)))

    def _crossed(self, at: Tensor, t: float, y: np.ndarray) -> None:
        for mode in np.flatnonzero(at.numpy() >= self.half):
            self.half_times[mode] = t
            self.maps[mode] = self.flow.effective(self.weights(y))

    def _seen(self, t: float, at: Tensor) -> None:
        self.times.append(float(t))
        self.strengths.append(at)


def escape_rate(flow: Flow, shapes: list[torch.Size], gradient: Tensor, iterations: int = 30) -> float:
    """Returns the rate at which small weights of a network of two layers grow under a gradient G, per unit of time.

    To first order the first layer's weights drive those of the second through a linear map, and these drive them back
    through its transpose: the rate is the map's largest singular value. For kernels as large as the image it is
    sqrt(N) max ||g_j||; for smaller ones, the root of the largest eigenvalue of the second moment of G's patches.

    Args:
        flow: of the network.
        shapes: of its two weights.
        gradient: G, [o, c, h, w].
        iterations: of the power method.

    Returns:
        The rate, from below.
    """
    generator = torch.Generator().manual_seed(0)
    first = torch.randn(shapes[0], generator=generator, dtype=torch.float64)
    none, rate = torch.zeros(shapes[1], dtype=torch.float64), 0.0
    for _ in range(iterations):
        first = first / first.norm().clamp(min=torch.finfo(torch.float64).tiny)
        second = flow.velocity((first, none), gradient)[1]
        rate = float(second.norm())
        first = flow.velocity((torch.zeros_like(first), second), gradient)[0]
    return rate
