"""A lone mode: how a linear CNN of any depth learns one direction of the images, from weights in tune with it."""

from __future__ import annotations

import math

import torch
from torch import Tensor

HALVINGS = 60  # of the interval in which the end lies


def lone_mode(
    s: float, variance: float, phi: Tensor, start: Tensor, pixels: int, depth: int = 2
) -> tuple[Tensor, Tensor]:
    """Returns how the strength of a lone mode grows, at times that crowd towards its end.

    Every layer has amplitude q_j at frequency j, its phases in tune with the mode:
    dq_j / dt = N^((D-1)/2) q_j^(D-1) phi_j (s - a), a = lam sum_j phi_j |b_j|, |b_j| = N^((D-1)/2) q_j^D. So with
    Theta = integral of (s - a) over time, q_j is known: q_j0 exp(sqrt(N) phi_j Theta) for two layers, which is the
    equation of Pinson et al. (2023) as restated by He et al. (2024), eq. 1; for D > 2,
    q_j^(2-D) = q_j0^(2-D) - (D - 2) N^((D-1)/2) phi_j Theta, where large q_j0 count as much as large phi_j.

    Args:
        s: singular value of the mode.
        variance: lam = phi^T Sigma_xx phi, of the images along it.
        phi: float64 [f], sizes of its unitary Fourier coefficients, over all frequencies.
        start: float64 [f], q_j0.
        pixels: N.
        depth: D, layers, the linear one included.

    Returns:
        times: float64 [T], from 0.
        strengths: float64 [T], a.

    Raises:
        ValueError: when nothing can grow, or the network starts beyond s.

    Example:
        >>> phi = torch.tensor([0.6, 0.8], dtype=torch.float64)
        >>> times, strengths = lone_mode(1.0, 0.5, phi, torch.full_like(phi, 1e-3), pixels=2)
        >>> bool(strengths[-1] > 0.999)
        True
    """
    gain = pixels ** ((depth - 1) / 2)

    def amplitudes(theta: Tensor) -> Tensor:
        """Returns q [..., f] at Theta [...]."""
        moved = gain * phi * theta[..., None]
        if depth == 2:
            return start * moved.exp()
        return (start ** (2 - depth) - (depth - 2) * moved).clamp(min=0) ** (-1 / (depth - 2))

    def strength(theta: Tensor) -> Tensor:
        return variance * gain * (amplitudes(theta) ** depth) @ phi

    if not (float(phi @ start) > 0 and s > 0 and variance > 0):
        raise ValueError(
            "nothing grows: the mode, its variance and the initial weights along it must not be zero: draw other "
            "weights"
        )
    if float(strength(torch.zeros(()))) >= s:
        raise ValueError(
            "the initial weights are so large that the mode is learned from the start, which the equation does not "
            'cover: take smaller ones (init_std), or method="exact"'
        )
    low, high = 0.0, 1.0
    if depth > 2:  # where the first frequency diverges
        grows = (phi > 0) & (start > 0)
        high = float((start[grows] ** (2 - depth) / ((depth - 2) * gain * phi[grows])).min())
    while depth == 2 and float(strength(torch.tensor(high, dtype=torch.float64))) < s:
        high *= 2
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        reached = float(strength(torch.tensor(middle, dtype=torch.float64))) >= s
        low, high = (low, middle) if reached else (middle, high)
    # Nodes crowd towards the end: there, s - a, which the integrand has below the line, goes to zero.
    exact = torch.float64
    ending = 1 - torch.logspace(math.log10(0.5), -9, 3500, dtype=exact)
    share = torch.cat([torch.linspace(0, 0.5, 500, dtype=exact)[:-1], ending])
    theta = share * low
    found = torch.cat([strength(part) for part in theta.split(500)])
    pace = 1 / (s - found)
    # Between nodes the pace is taken as a power law: its integral by the logarithmic mean.
    step, (first, last) = theta.diff(), (pace[:-1], pace[1:])
    ratio = (last / first).log()
    mean = torch.where(ratio.abs() > 1e-6, (last - first) / ratio, (first + last) / 2)
    return torch.cat([pace.new_zeros(1), (mean * step).cumsum(0)]), found
