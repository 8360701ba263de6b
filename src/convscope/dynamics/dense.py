"""A fully connected linear network, in closed form: what the same data are to a network without convolutions."""

from __future__ import annotations

import torch
from torch import Tensor

from convscope.dynamics.closed import variance_along
from convscope.dynamics.structure import DatasetStructure
from convscope.dynamics.trajectory import Trajectory

POINTS = 400


def dense_closed_form(
    structure: DatasetStructure, init_std: float, hidden: int, times: Tensor | None = None
) -> Trajectory:
    """Returns how two fully connected linear layers learn the modes of a data set, each by itself.

    a(t) = s / (1 + (s / a0 - 1) exp(-2 s t)) (Saxe et al. 2014, eq. 10 to 12), a0 = lam q, lam = phi^T Sigma_xx phi,
    and q = hidden init_std^2 / 2, what on average grows of Gaussian weights.

    Assumes: gradient flow; small initial weights; modes that do not drive each other (``diagnostics``).

    Args:
        structure: of the data set; its covariance is not needed.
        init_std: standard deviation of all initial weights.
        hidden: units of the first layer.
        times: float64 [T]; None: evenly from 0 to somewhat beyond the last half-time.

    Raises:
        ValueError: when the weights are not positive, or there is no unit.

    Example:
        >>> from convscope.dynamics.collect import dataset_structure
        >>> images, labels = torch.rand(60, 1, 5, 5, generator=torch.Generator().manual_seed(0)), torch.arange(60) % 3
        >>> found = dense_closed_form(dataset_structure([(images, labels)]), 1e-4, hidden=25)
        >>> bool(found.half_times[0] < found.half_times[1])
        True
    """
    if not (init_std > 0 and hidden >= 1):
        raise ValueError(f"init_std must be positive and hidden at least 1, got {init_std} and {hidden}")
    s = structure.singular_values
    variance = torch.tensor([variance_along(structure, mode) for mode in range(len(s))], dtype=torch.float64)
    start = variance * (hidden * init_std**2 / 2)
    half = torch.where(start < s / 2, (s / start - 1).clamp(min=1).log() / (2 * s), 0.0)
    if times is None:
        times = torch.linspace(0, 1.2 * float(half.max()) or 1 / float(s[-1]), POINTS, dtype=torch.float64)
    times = times.to(torch.float64)
    strengths = s / (1 + (s / start - 1) * (-2 * s * times[:, None]).exp())
    return Trajectory(times, strengths, half, "closed-form")
