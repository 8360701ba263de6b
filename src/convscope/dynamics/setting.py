"""The network whose learning is told, how it is trained, and the method that predicts it."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from convscope.core.errors import ConvscopeError
from convscope.dynamics.closed import closed_form
from convscope.dynamics.collect import LARGEST
from convscope.dynamics.dense import dense_closed_form
from convscope.dynamics.exact import integrate
from convscope.dynamics.linear import LinearCNN, Padding
from convscope.dynamics.predict import EXACT, INIT_STD, Method, predict_dynamics, suitable_method
from convscope.dynamics.structure import DatasetStructure
from convscope.dynamics.trajectory import Trajectory, steps_of

Choice = Method | Literal["auto"]
FOLLOWED = 0.02  # e-folds a step, of the fastest frequency: SGD with momentum then follows gradient flow
FIRST = 3  # modes that a deep network is followed until it has half learned them
DOUBLINGS = 24  # of the time that is given to a deep network
WAITS = 2  # of them once the first mode is half learned
POINTS = 120  # of a curve
BEFORE, AFTER = 30, 2  # curves start so many times before the first half-time, and end so many after the last


@dataclass(frozen=True)
class Setting:
    """A linear CNN, its initial weights, and its training by gradient descent on half the squared error.

    Attributes:
        kernel_size: side of the kernels in pixels; None: as large as the images.
        depth: layers, the linear one included.
        init_std: standard deviation of the initial weights.
        channels: filters of each convolution; None: as many as the images have channels.
        padding: "circular" or "zeros".
        lr: learning rate of SGD; None: ``fitted`` chooses.
        momentum: of SGD.
        method: that predicts its learning; "auto": ``suitable_method`` chooses.
        seed: of the initial weights.
    """

    kernel_size: int | None = None
    depth: int = 2
    init_std: float = INIT_STD
    channels: int | None = None
    padding: Padding = "circular"
    lr: float | None = None
    momentum: float = 0.9
    method: Choice = "auto"
    seed: int = 0

    @property
    def plain(self) -> bool:
        """Whether the network has two layers, kernels as large as the images, and circular padding."""
        return self.kernel_size is None and self.depth == 2 and self.padding == "circular"

    def check(self, image_shape: tuple[int, int, int]) -> None:
        """Fails for a setting that no method covers, before images are read.

        Args:
            image_shape: (c, h, w).

        Raises:
            ConvscopeError: for a method that does not cover the network, or images too large for it.
            ValueError: for numbers out of range.
        """
        self.network(image_shape, 2)
        steps_of(torch.zeros(1), 1.0 if self.lr is None else self.lr, momentum=self.momentum)
        if not self.plain and self.method not in {"auto", "exact"}:
            raise ConvscopeError(
                f"{self.method} is for two layers, kernels as large as the images and circular padding: leave the "
                "method out, or take exact"
            )
        c, h, w = image_shape
        if self.needs_covariance and c * h * w > LARGEST:
            raise ConvscopeError(
                f"the exact dynamics and the stages hold the covariances of all pixels, and images of {c}x{h}x{w} "
                f"have more than {LARGEST:,}: make them gray or smaller, or take the closed form (kernels as large as "
                "the images, two layers, circular padding)"
            )

    @property
    def needs_covariance(self) -> bool:
        """Whether the pixels' covariances with each other must be known."""
        return self.method in {"exact", "stages"} or not self.plain

    def wants_covariance(self, image_shape: tuple[int, int, int]) -> bool:
        """Returns whether they are needed, or cheap."""
        c, h, w = image_shape
        return self.needs_covariance or c * h * w <= EXACT

    def network(self, image_shape: tuple[int, int, int], outputs: int) -> LinearCNN:
        """Returns the network at its start.

        Args:
            image_shape: (c, h, w).
            outputs: number of classes.

        Raises:
            ValueError: for numbers out of range.
        """
        return LinearCNN.drawn(
            image_shape,
            outputs,
            self.init_std,
            channels=self.channels or image_shape[0],
            kernel_size=self.kernel_size,
            padding=self.padding,
            depth=self.depth,
            seed=self.seed,
        )

    def fitted(self, structure: DatasetStructure) -> Setting:
        """Returns the setting with a learning rate: where none is given, one whose steps follow gradient flow."""
        if self.lr is not None:
            return self
        largest = FOLLOWED * (1 - self.momentum) / float(structure.growth_rates.max())
        return replace(self, lr=float(f"{largest:.1g}"))

    def steps(self, times: Tensor) -> Tensor:
        """Returns steps of SGD for times.

        Raises:
            ValueError: without a learning rate.
        """
        if self.lr is None:
            raise ValueError("steps need a learning rate: give one, or have one chosen by fitted()")
        return steps_of(times, self.lr, momentum=self.momentum)


@dataclass(frozen=True, eq=False)
class Prediction:
    """When a linear CNN, and a dense linear network with as many hidden units, learn the modes of a data set.

    Attributes:
        cnn: of the linear CNN.
        dense: of two fully connected layers, in closed form; None beside more layers.
        why: the reason for the method.
    """

    cnn: Trajectory
    dense: Trajectory | None
    why: str


def predicted(structure: DatasetStructure, setting: Setting) -> Prediction:
    """Returns when a network learns a data set.

    Args:
        structure: of the data set.
        setting: the network and its training.

    Raises:
        ConvscopeError: when the method needs covariances that are not at hand, or fails.

    Example:
        >>> from convscope.dynamics.collect import dataset_structure
        >>> images, labels = torch.rand(60, 1, 5, 5, generator=torch.Generator().manual_seed(0)), torch.arange(60) % 3
        >>> predicted(dataset_structure([(images, labels)]), Setting()).cnn.method
        'exact'
    """
    network = setting.network(structure.image_shape, len(structure.counts))
    method, why = setting.method, "it was asked for"
    if method == "auto":
        method, why = suitable_method(structure, network)
        if not structure.centred and setting.plain:
            method, why = "closed-form", "exact dynamics of data with their mean take very long"
    if setting.depth > 2:
        cnn = _deep(structure, network)
    else:

        def at(times: Tensor | None) -> Trajectory:
            return predict_dynamics(
                structure,
                method=method,
                init_std=setting.init_std,
                channels=setting.channels or structure.image_shape[0],
                kernel_size=setting.kernel_size,
                padding=setting.padding,
                seed=setting.seed,
                times=times,
            )

        cnn = at(None)
        if method in {"closed-form", "independent"}:
            cnn = at(spaced(cnn))
    if setting.depth > 2:
        return Prediction(cnn, None, why)
    return Prediction(cnn, dense_of(structure, setting, spaced(dense_of(structure, setting))), why)


def dense_of(structure: DatasetStructure, setting: Setting, times: Tensor | None = None) -> Trajectory:
    """Returns the learning of a dense linear network with as many hidden units as the CNN's first layer returns."""
    hidden = (setting.channels or structure.image_shape[0]) * structure.pixels
    return dense_closed_form(structure, setting.init_std, hidden, times)


def spaced(trajectory: Trajectory) -> Tensor:
    """Returns times, evenly spaced in their logarithm, between which the modes are learned."""
    half = trajectory.half_times
    known = half[half.isfinite() & (half > 0)]
    if len(known):
        first, last = float(known.min()) / BEFORE, AFTER * float(known.max())
    else:
        first, last = float(trajectory.times[-1]) / 1000, float(trajectory.times[-1])
    return torch.logspace(math.log10(first), math.log10(last), POINTS, dtype=torch.float64)


def quick_half_times(structure: DatasetStructure, setting: Setting) -> Tensor:
    """Returns the half-times of modes in closed form, float64 [m]: for folds and permuted labels, which are many."""
    return closed_form(structure, setting.network(structure.image_shape, len(structure.counts))).half_times


def _deep(structure: DatasetStructure, network: LinearCNN) -> Trajectory:
    """Returns the dynamics of a deep network, whose wait is not known beforehand: time is doubled until it learns.

    Raises:
        ConvscopeError: when it does not.
    """
    end, after = 1.0, 0
    wanted = min(FIRST, len(structure.singular_values))
    for _ in range(DOUBLINGS):
        found = integrate(structure, network, end=end)
        known = int(found.half_times.isfinite().sum())
        after += known > 0
        if known >= wanted or after > WAITS:
            return found
        end *= 2
    raise ConvscopeError(
        f"a network of {len(network.kernels) + 1} layers learns nothing of these images within a time of {end / 2:.3g} "
        "(learning rate times steps): its initial weights are too small; take a larger --init-std"
    )
