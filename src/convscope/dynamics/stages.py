"""Stages: for small initial weights, frequencies are learned one pair after the other, each at once."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from convscope.dynamics.basis import RealBasis
from convscope.dynamics.linear import LinearCNN
from convscope.dynamics.start import Start
from convscope.dynamics.structure import DatasetStructure
from convscope.dynamics.trajectory import Trajectory

LATER = 1.2  # times the last half-time, at which a prediction ends
NEGLIGIBLE = 1e-6  # of the largest growth rate: slower ones are left out
ROUNDING = 1e-7  # of the largest standard deviation: features with less beside others count as nothing


def stages(structure: DatasetStructure, network: LinearCNN, end: float | None = None) -> Trajectory:
    """Returns the dynamics of a linear CNN in the limit of small initial weights, as a sequence of events.

    While weights are small, each frequency grows exponentially by itself; the one that arrives first is learned at
    once, with all that it can explain; what is left drives the others (saddle-to-saddle dynamics). Of images with
    channels, each frequency has as many directions as channels (or classes), and one event for each.

    Assumes: gradient flow; initial weights so small that events do not overlap (at a standard deviation of 1e-3, late
    events err by 5 to 30 %); kernels as large as the image, circular padding; no frequency unlearned again; directions
    that do not turn while they grow.

    Args:
        structure: with its covariance.
        network: at its start.
        end: time to stop at; None: somewhat later than all modes are half learned; at the latest, and for infinity,
            when nothing is left to be learned.

    Returns:
        Mode strengths after each event; they jump there.

    Raises:
        ConvscopeError: when the covariance is not at hand.
        ValueError: for other networks.

    Example:
        >>> from convscope.dynamics.collect import dataset_structure
        >>> generator = torch.Generator().manual_seed(0)
        >>> images, labels = torch.rand(60, 1, 5, 5, generator=generator), torch.arange(60) % 3
        >>> structure = dataset_structure([(images, labels)])
        >>> predicted = stages(structure, LinearCNN.drawn((1, 5, 5), 3, init_std=1e-8))
        >>> bool(predicted.half_times[0] < predicted.half_times[1])
        True
    """
    basis = RealBasis.of(structure.image_shape)
    covariance = basis.transformed(structure.check_covariance("the sequence of stages"))
    residual = basis.coordinates(structure.cross)
    modes, root = basis.coordinates(structure.modes), math.sqrt(structure.pixels)
    power = structure.power.flatten(0, 1)[basis.places]
    c, f = structure.image_shape[0], len(basis.places)
    start = Start.of(network)
    grown: Tensor | None = None  # log of the amplitude of each direction
    spent = torch.zeros(f, dtype=torch.long)  # directions already learned
    taken = torch.zeros(f, c, c, dtype=torch.complex128)  # projection on them
    factor = covariance.new_zeros(len(covariance), len(covariance))  # Cholesky factor by rows, of what is learned
    size, now, least = 0, 0.0, ROUNDING * math.sqrt(float(covariance.diagonal().max()))
    singular_values = structure.singular_values
    times, strengths = [0.0], [torch.zeros_like(singular_values)]
    half_times = torch.full_like(singular_values, torch.inf)
    while True:
        last = LATER * float(half_times.max()) if end is None else end
        left = basis.coefficients(residual)
        left = left - left @ taken
        u, s, vh = _svd(left)
        if grown is None:
            grown = start.growing(basis.places, u, vh.mH).log() / 2
        rank = s.shape[1]
        variance = torch.einsum("fic,fcd,fid->fi", vh.conj(), power, vh).real
        rates = root * s
        # Directions that are learned come last among the singular values, as zeros; amplitudes go on where they were.
        place = torch.arange(rank) + spent[:, None]
        open_ = (place < rank) & (rates > NEGLIGIBLE * rates.max()) & (variance > 0)
        if not open_.any():
            break
        place = place.clamp(max=rank - 1)
        target = (s / (root * variance) / 2).clamp(min=torch.finfo(torch.float64).tiny).log() / 2
        wait = torch.where(open_, (target - grown.gather(1, place)).clamp(min=0) / rates, torch.inf)
        best = int(wait.argmin())
        pair, direction = divmod(best, rank)
        step = float(wait.view(-1)[best])
        if now + step > last:
            break
        now += step
        grown.scatter_add_(1, place, torch.where(open_, rates * step, 0.0))
        if direction:  # the pair's other directions keep their amplitudes
            places = spent[pair] + torch.tensor([0, direction])
            grown[pair, places] = grown[pair, places.flip(0)]
        v = vh[pair, direction].conj()
        spent[pair] += 1
        taken[pair] += torch.outer(v, v.conj())
        before = size
        where, features = _features(basis, pair, v)
        columns = covariance[:, where] @ features - factor[:size].T @ (factor[:size, where] @ features)
        for column, feature in zip(columns.T, features.T, strict=True):
            # Less what the other feature of the pair has explained just now.
            own = column - factor[before:size].T @ (factor[before:size, where] @ feature)
            norm = math.sqrt(max(float(own[where] @ feature), 0.0))
            if norm > least:
                factor[size] = own / norm
                residual = residual - torch.outer(residual[:, where] @ feature / norm, factor[size])
                size += 1
        at = singular_values - ((structure.class_vectors @ residual) * modes).sum(1)
        times.append(now)
        strengths.append(at)
        half_times[(at >= singular_values / 2) & half_times.isinf()] = now
    return Trajectory(torch.tensor(times, dtype=torch.float64), torch.stack(strengths), half_times, "stages")


def _svd(blocks: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Returns u [f, o, i], s [f, i] and v^H [f, i, c] of complex blocks [f, o, c]."""
    if blocks.shape[2] > 1:
        return torch.linalg.svd(blocks, full_matrices=False)
    s = blocks.abs().square().sum(1).sqrt()  # [f, 1]
    u = blocks / s.clamp(min=torch.finfo(torch.float64).tiny)[:, None]
    return u, s, torch.ones_like(s)[:, None].to(blocks)


def _features(basis: RealBasis, pair: int, v: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the features of images that outputs along v^H at a frequency are made of: coordinates, and a basis.

    A row conj(z v) of the network's map at a frequency, for any complex number z, is a plane in real coordinates; a
    line where the frequency is its own conjugate.

    Returns:
        int64 [i], which coordinates, and float64 [i, 1 or 2].
    """
    start, c = int(basis.start[pair]), len(v)
    if bool(basis.alone[pair]):
        real = (v / v[v.abs().argmax()]).real
        return torch.arange(start, start + c), (real / real.norm())[:, None]
    features = torch.stack([torch.cat([v.real, -v.imag]), torch.cat([v.imag, v.real])], 1)
    return torch.arange(start, start + 2 * c), features
