"""Closed forms of the dynamics: frequencies that learn each by itself, and the paper's modes that do."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from convscope.core.fourier import pairs, unitary
from convscope.dynamics.linear import LinearCNN
from convscope.dynamics.lone import lone_mode
from convscope.dynamics.start import Start
from convscope.dynamics.structure import DatasetStructure
from convscope.dynamics.trajectory import Trajectory

POINTS = 400  # times at which a prediction is given where none are asked for
NEGLIGIBLE = 1e-6  # of the largest growth rate: slower frequencies are left out
HALVINGS = 60  # of the interval in which a half-time lies
_ROWS = 2**22  # numbers of an array of times and frequencies at once


def closed_form(structure: DatasetStructure, network: LinearCNN, times: Tensor | None = None) -> Trajectory:
    """Returns the dynamics of a linear CNN on data whose statistics are the same everywhere in the image.

    Frequencies are then uncorrelated, and each learns by itself: of its share sigma of Sigma_yx, along each pair of
    singular directions, L(t) = 1 / (1 + (beta / b0 - 1) exp(-2 v t)) is learned, v = sqrt(N) sigma, beta = sigma / d, d
    the variance of the images there, b0 = sqrt(N) q. A mode is learned as its frequencies are:
    a / s = sum_j |phi_j|^2 L_j (t) for images of one channel.

    Assumes: gradient flow; kernels as large as the image, circular padding; small initial weights; no covariance
    between frequencies. Needs no more than the images' power spectrum, whatever their size.

    Args:
        structure: of the data set.
        network: at its start.
        times: float64 [T]; None: evenly from 0 to somewhat beyond the last half-time.

    Raises:
        ValueError: for other networks.

    Example:
        >>> from convscope.dynamics.collect import dataset_structure
        >>> generator = torch.Generator().manual_seed(0)
        >>> images, labels = torch.rand(60, 1, 5, 5, generator=generator), torch.arange(60) % 3
        >>> structure = dataset_structure([(images, labels)])
        >>> closed_form(structure, LinearCNN.drawn((1, 5, 5), 3, init_std=1e-6)).mode_strengths.shape
        torch.Size([400, 2])
    """
    h, w = structure.image_shape[1:]
    places, multiplicity = pairs(h, w)
    root = math.sqrt(structure.pixels)
    u, s, vh = torch.linalg.svd(structure.coefficients.flatten(0, 1)[places], full_matrices=False)
    variance = torch.einsum("fic,fcd,fid->fi", vh.conj(), structure.power.flatten(0, 1)[places], vh).real
    grown = root * Start.of(network).growing(places, u, vh.mH)
    modes = unitary(structure.modes).flatten(2)[..., places]  # [m, c, f]
    # What each direction contributes to each mode once it is learned: their sum is the singular value.
    outputs = torch.einsum("mo,foi->mfi", structure.class_vectors.to(u), u)
    inputs = torch.einsum("fic,mcf->mfi", vh, modes.conj())
    share = (outputs * s * inputs).real * multiplicity[:, None]  # [m, f, i]
    used = (s > NEGLIGIBLE * s.max()) & (variance > 0) & (grown > 0)
    rate, learned = 2 * root * s[used], (s / variance)[used] / grown[used]
    share = share[:, used]

    def strengths(times: Tensor) -> Tensor:
        """Returns mode strengths [T, m]."""
        rows = max(_ROWS // max(len(rate), 1), 1)
        parts = times.split(rows)
        # Not as a logistic of its logarithm: large initial weights have learned more than there is, and unlearn it.
        return torch.cat([1 / (1 + (learned - 1) * (-rate * t[:, None]).exp()) @ share.T for t in parts])

    return _given(structure, strengths, _latest(rate, learned), times, "closed-form")


def independent(structure: DatasetStructure, network: LinearCNN, times: Tensor | None = None) -> Trajectory:
    """Returns the dynamics of a linear CNN as the paper has them: each mode by itself, with a kernel of its own.

    d|r_j|^2 / dt = 2 sqrt(N) |r_j|^2 |phi_j| (s - a) (Pinson et al. 2023, as restated by He et al. 2024, eq. 1, where
    the constant is left open), a = lam sqrt(N) sum_j |phi_j| |r_j|^2, lam = phi^T Sigma_xx phi.

    Assumes, besides small initial weights and gradient flow, that modes do not share frequencies. They do: times come
    out up to a few times too long on images, though their order is mostly right.

    Args:
        structure: with its covariance, or else lam is taken from the power spectrum.
        network: at its start.
        times: float64 [T]; None: evenly from 0 to somewhat beyond the last half-time.

    Raises:
        ValueError: for other networks, and weights so large that a mode is learned from the start.
    """
    h, w = structure.image_shape[1:]
    places, multiplicity = pairs(h, w)
    start = Start.of(network)
    curves: list[tuple[Tensor, Tensor]] = []
    coefficients = unitary(structure.modes).flatten(2).permute(0, 2, 1)[:, places]  # [m, f, c]
    for mode in range(len(structure.singular_values)):
        of_mode = coefficients[mode]
        phi = of_mode.abs().square().sum(1).sqrt()
        v = (of_mode.conj() / phi.clamp(min=torch.finfo(torch.float64).tiny)[:, None])[..., None]
        u = structure.class_vectors[mode].to(v)[None, :, None].expand(len(places), -1, 1)
        q = start.growing(places, u, v)[:, 0]
        both = torch.repeat_interleave(torch.stack([phi, q.sqrt()]), multiplicity, dim=1)  # of a pair, both
        size = float(structure.singular_values[mode])
        curves.append(lone_mode(size, variance_along(structure, mode), both[0], both[1], structure.pixels))
    last = max(float(t[-1]) for t, _ in curves)

    def strengths(times: Tensor) -> Tensor:
        return torch.stack([_between(times, *curve) for curve in curves], 1)

    return _given(structure, strengths, last, times, "independent")


def logistic(structure: DatasetStructure, network: LinearCNN, times: Tensor) -> Tensor:
    """Returns mode strengths float64 [T, m] where each mode is learned from its dominant frequencies alone.

    a(t) = s / (1 + (s / a0 - 1) exp(-2 sqrt(N) phi_max s t)), with a0 the part of the initial weights along the
    frequencies of the mode's largest coefficient: the closed form of ``independent`` for a pure cosine.

    Args:
        structure: as for ``independent``.
        network: at its start.
        times: float64 [T].

    Raises:
        ValueError: for other networks.
    """
    h, w = structure.image_shape[1:]
    places, multiplicity = pairs(h, w)
    root, start = math.sqrt(structure.pixels), Start.of(network)
    coefficients = unitary(structure.modes).flatten(2).permute(0, 2, 1)[:, places]
    found = []
    for mode, s in enumerate(structure.singular_values.tolist()):
        phi = coefficients[mode].abs().square().sum(1).sqrt()
        best = int(phi.argmax())
        v = (coefficients[mode, best].conj() / phi[best])[None, :, None]
        u = structure.class_vectors[mode].to(v)[None, :, None]
        q = float(start.growing(places[best : best + 1], u, v)) * int(multiplicity[best])
        first = variance_along(structure, mode) * root * float(phi[best]) * q
        found.append(s / (1 + (s / first - 1) * (-2 * root * float(phi[best]) * s * times).exp()))
    return torch.stack(found, 1)


def variance_along(structure: DatasetStructure, mode: int) -> float:
    """Returns lam = phi^T Sigma_xx phi, from the power spectrum where the covariance is not at hand."""
    phi = structure.modes[mode]
    if structure.covariance is not None:
        return float(phi.flatten() @ structure.covariance @ phi.flatten())
    spectrum = unitary(phi).permute(1, 2, 0)
    return float(torch.einsum("hwc,hwcd,hwd->", spectrum.conj(), structure.power, spectrum).real)


def _between(times: Tensor, known: Tensor, strength: Tensor) -> Tensor:
    """Returns strengths at times, by straight lines in their logarithm; the last one beyond the last time."""
    place = torch.searchsorted(known, times.double().contiguous()).clamp(1, len(known) - 1)
    share = ((times - known[place - 1]) / (known[place] - known[place - 1])).clamp(0, 1)
    return torch.lerp(strength[place - 1].log(), strength[place].log(), share).exp()


def _latest(rate: Tensor, learned: Tensor) -> float:
    """Returns when the slowest frequency that matters has learned."""
    return float((2 * learned.log().clamp(min=1) / rate).max())


def _given(
    structure: DatasetStructure,
    strengths: Callable[[Tensor], Tensor],
    last: float,
    times: Tensor | None,
    method: str,
) -> Trajectory:
    """Returns the prediction at some times, with half-times by bisection up to the last time."""
    s = structure.singular_values
    coarse = torch.cat([torch.zeros(1), torch.logspace(-6, 0, POINTS, dtype=torch.float64) * last])
    above = strengths(coarse) >= s / 2
    first = above.long().argmax(0)
    low, high = coarse[(first - 1).clamp(min=0)], coarse[first]
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        reached = strengths(middle).diagonal() >= s / 2
        low, high = torch.where(reached, low, middle), torch.where(reached, middle, high)
    half = torch.where(above.any(0), high, torch.inf)
    if times is None:
        known = half[half.isfinite()]
        times = torch.linspace(0, 1.2 * float(known.max()) if len(known) else last, POINTS, dtype=torch.float64)
    times = times.to(torch.float64)
    return Trajectory(times, strengths(times), half, method)
