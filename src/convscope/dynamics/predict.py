"""Predicted learning of a data set, by any of the methods."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor, nn

from convscope.dynamics.closed import closed_form, independent
from convscope.dynamics.exact import integrate
from convscope.dynamics.linear import LinearCNN, Padding
from convscope.dynamics.stages import stages
from convscope.dynamics.structure import DatasetStructure
from convscope.dynamics.trajectory import Trajectory

Method = Literal["exact", "stages", "closed-form", "independent"]
INIT_STD = 1e-4
SMALL = 1e-6  # standard deviation of weights, from which on the stages do
EXACT = 1100  # pixels times channels, up to which the exact method takes about a minute at most


def predict_dynamics(
    structure: DatasetStructure,
    *,
    method: Method = "exact",
    conv: nn.Conv2d | None = None,
    head: nn.Linear | None = None,
    init_std: float | None = None,
    channels: int = 1,
    kernel_size: int | None = None,
    padding: Padding = "circular",
    depth: int = 2,
    seed: int = 0,
    times: Tensor | None = None,
) -> Trajectory:
    """Returns when, and how far, a linear CNN learns each mode of a data set.

    The network is a convolution without bias and a linear layer on its output, trained by gradient descent on half the
    squared error, summed over outputs, mean over images. Methods and what they assume:

    - "exact": gradient flow alone (``exact.integrate``); for any kernel size, padding and depth.
    - "stages": also small initial weights (``stages.stages``); frequencies are learned one after the other.
    - "closed-form": small weights, and images whose statistics are the same everywhere (``closed.closed_form``);
      needs no covariances, so that it serves images of any size.
    - "independent": the paper's equation (Pinson et al. 2023), each mode by itself (``closed.independent``); the order
      of modes comes out mostly right, times too long.

    Args:
        structure: of the data set.
        method: as above; ``suitable_method`` says which one suits.
        conv: whose weights, size and padding are taken, on images of the structure's size; it is not changed. None:
            Gaussian weights are drawn.
        head: the linear layer on its flattened output; with ``conv`` alone.
        init_std: standard deviation of the weights that are drawn; None: 1e-4.
        channels: k, filters that are drawn (as what follows, without effect beside ``conv``); colour images need at
            least as many as channels or classes.
        kernel_size: side of the kernels, in pixels; None: as large as the images.
        padding: "circular" or "zeros"; maps keep the images' size.
        depth: layers, the linear one included.
        seed: of the draws.
        times: float64 [T], rising; needed where depth is above 2; else None: chosen so that all half-times lie among
            them.

    Returns:
        Times, mode strengths and half-times, in units of learning rate times steps (``trajectory.steps_of``).

    Raises:
        ConvscopeError: when the method needs covariances that are not at hand.
        ValueError: for an unknown method, layers that do not fit, and networks that a method does not cover.

    Example:
        >>> from convscope.dynamics.collect import dataset_structure
        >>> generator = torch.Generator().manual_seed(0)
        >>> images, labels = torch.rand(60, 1, 5, 5, generator=generator), torch.arange(60) % 3
        >>> structure = dataset_structure([(images, labels)])
        >>> predict_dynamics(structure, method="closed-form", init_std=1e-3).half_times.shape
        torch.Size([2])
    """
    if method not in get_args(Method):
        raise ValueError(f"method must be one of {', '.join(get_args(Method))}, got {method!r}")
    if (conv is None) != (head is None):
        raise ValueError("conv and head go together: give both layers, or none")
    if conv is not None and head is not None:
        if init_std is not None:
            raise ValueError("init_std is for weights that are drawn: leave it out beside conv and head")
        network = LinearCNN.of(conv, head, structure.image_shape)
    else:
        network = LinearCNN.drawn(
            structure.image_shape,
            len(structure.counts),
            INIT_STD if init_std is None else init_std,
            channels=channels,
            kernel_size=kernel_size,
            padding=padding,
            depth=depth,
            seed=seed,
        )
    if method == "closed-form":
        return closed_form(structure, network, times)
    if method == "independent":
        return independent(structure, network, times)
    if method == "stages":
        found = stages(structure, network, None if times is None else float(times[-1]))
        return found if times is None else _at(found, times)
    if times is None and depth > 2:
        raise ValueError(
            f"a network of depth {depth} grows ever faster after a wait that is not known beforehand: give times, and "
            "later ones if no mode is half learned by the last"
        )
    return integrate(structure, network, times=times)


def suitable_method(structure: DatasetStructure, network: LinearCNN) -> tuple[Method, str]:
    """Returns which method suits data and network, and why.

    Args:
        structure: of the data set.
        network: at its start.

    Example:
        >>> images, labels = torch.rand(9, 1, 80, 80), torch.arange(9) % 3
        >>> from convscope.dynamics.collect import dataset_structure
        >>> structure = dataset_structure([(images, labels)])
        >>> suitable_method(structure, LinearCNN.drawn((1, 80, 80), 3, 1e-4))[0]
        'closed-form'
    """
    c, h, w = structure.image_shape
    spread = float(network.head.std())
    plain = len(network.kernels) == 1 and network.kernels[0].shape[2:] == (h, w) and network.padding == "circular"
    if structure.covariance is None:
        return "closed-form", f"covariances of all {c * h * w:,} pixels are not at hand"
    if not plain:
        return "exact", "small kernels, zero padding and more than two layers have no other"
    if c * h * w <= EXACT:
        return "exact", f"with {c * h * w:,} pixels it takes about a minute at most"
    if spread <= SMALL:
        return "stages", f"weights of {spread:.1g} are small, and exact dynamics of {c * h * w:,} pixels take long"
    return "exact", f"weights of {spread:.1g} are too large for stages"


def _at(found: Trajectory, times: Tensor) -> Trajectory:
    """Returns a sequence of stages at other times."""
    place = torch.searchsorted(found.times, times.double(), right=True) - 1
    return Trajectory(times.double(), found.mode_strengths[place], found.half_times, found.method)
