"""The audit of frequencies: which differ between classes more than those around them."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from convscope.core.fourier import pairs, signed_frequencies, unitary
from convscope.core.periodic import periodic_spectrum
from convscope.dynamics.shortcuts.audit import FrequencyAudit
from convscope.dynamics.shortcuts.contrast import effects, log_ratio, robust_z
from convscope.dynamics.shortcuts.sums import Moments

LOWEST = 3  # cycles per image, below which nothing is tested: classes differ there by what they show
REACH = 2.0  # cycles of radius, within which frequencies are compared
FEWEST_ON_AXIS = 8
_ROWS = 1024  # frequencies at once
_RARE = 0.01 / 4  # of data sets without any difference, that raise an alarm on one axis by one statistic


def audit_frequencies(moments: Moments) -> FrequencyAudit:
    """Returns how much classes differ at each frequency of the images' periodic component, beside its neighbours.

    The coherent statistic is log F of the complex coefficients (see ``log_ratio``; a wave of fixed phase), the power
    statistic that of the logarithm of the energy of all channels (a wave of any phase). Frequencies off the axes are
    compared with all those within ``REACH`` of their radius. On an axis, where natural images have more energy and few
    frequencies lie, it is the excess over the mean of the two frequencies next to it on the axis that is compared,
    with the excesses of all others there. Those below ``LOWEST`` are neither tested nor compared with.

    Args:
        moments: of at least two classes.
    """
    h, w = moments.reference.shape[1:]
    places, multiplicity = pairs(h, w)
    frequencies = signed_frequencies(h, w)[places]
    half = _in_half_plane(frequencies, h, w)
    counts, logged = moments.counts, moments.logged
    itself = moments.images + counts[:, None, None, None] * moments.reference
    coefficients = periodic_spectrum(itself).flatten(2)[..., half]
    logs = moments.logs.flatten(1)[:, None, half]
    coherent = log_ratio(counts, coefficients, moments.energies.flatten()[half])
    power = log_ratio(logged, logs, moments.log_squares.flatten()[half])
    # Where coefficients are real, their variance and that of their energies are not those of complex ones.
    real = multiplicity == 1
    coherent_z, power_z = (_stands_out(v.masked_fill(real, torch.nan), frequencies, h, w) for v in (coherent, power))
    off, dominant = effects(counts, coefficients)
    means = moments.images / counts.sum()
    cross = means - (counts / counts.sum())[:, None, None, None] * means.sum(0)
    strengths = unitary(cross).abs().square().sum((0, 1)).sqrt().flatten()[places]
    rank = torch.empty_like(places)
    rank[torch.argsort(strengths, descending=True, stable=True)] = torch.arange(1, len(places) + 1)
    return FrequencyAudit(
        frequencies=frequencies,
        tested=~(coherent_z.isnan() & power_z.isnan()),
        axis=(frequencies == 0).any(1),
        coherent=coherent,
        power=power,
        coherent_z=coherent_z,
        power_z=power_z,
        strengths=strengths,
        rank=rank,
        class_effects=off.abs().square().sum(1).sqrt(),
        dominant_class=dominant,
        power_class=effects(logged, logs)[1],
    )


@lru_cache(maxsize=32)
def axis_threshold(bins: int, threshold: float) -> float:
    """Returns above which z an alarm is raised on an axis with so many frequencies to compare.

    Among few values one stands out by chance more often: this is at least what the largest z of an axis exceeds in one
    of four hundred draws of independent Gaussian values, through the same formula (logarithms of chi-squared ones give
    much the same). There are two axes and two statistics, so that one of a hundred data sets whose classes do not
    differ raises an alarm on an axis.

    Example:
        >>> axis_threshold(60, 5.0), axis_threshold(14, 5.0) > 5
        (5.0, True)
    """
    if bins <= FEWEST_ON_AXIS:
        return threshold
    draws = min(8000, 4_000_000 // bins**2 + 400)
    noise = torch.randn(draws, bins + 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    excess = noise[:, 1:-1] - (noise[:, :-2] + noise[:, 2:]) / 2
    around = torch.arange(0, draws * bins, bins)[:, None, None] + _others(torch.arange(bins))
    z = robust_z(excess.flatten(), torch.arange(draws * bins), around.flatten(0, 1), FEWEST_ON_AXIS)
    return max(threshold, float(z.view(draws, bins).amax(1).quantile(1 - _RARE)))


def _in_half_plane(frequencies: Tensor, h: int, w: int) -> Tensor:
    """Returns the place of each frequency, or of its conjugate, in a half plane [h, w // 2 + 1]."""
    ky, kx = frequencies.unbind(1)
    sign = torch.where(kx < 0, -1, 1)
    return sign * ky % h * (w // 2 + 1) + sign * kx


def _stands_out(values: Tensor, frequencies: Tensor, h: int, w: int) -> Tensor:
    z = torch.full_like(values, torch.nan)
    radius = frequencies.double().square().sum(1).sqrt()
    axis = (frequencies == 0).any(1)
    inside = torch.nonzero(~axis & (radius >= LOWEST))[:, 0]
    inside = inside[torch.argsort(radius[inside], stable=True)]
    r = radius[inside]
    first, last = torch.searchsorted(r, r - REACH), torch.searchsorted(r, r + REACH, right=True)
    for rows in torch.arange(len(inside)).split(_ROWS):
        if not len(rows):
            break
        # Sorted by radius, those within reach lie side by side.
        around = first[rows, None] + torch.arange(int((last - first)[rows].max()))
        none = (around >= last[rows, None]) | (around == rows[:, None])
        around = inside[around.clamp(max=len(inside) - 1)].masked_fill(none, -1)
        z[inside[rows]] = robust_z(values, inside[rows], around)
    for k, side in ((0, h), (1, w)):
        on = torch.nonzero((frequencies[:, 1 - k] == 0) & (frequencies[:, k] >= 0))[:, 0]
        on = on[torch.argsort(frequencies[on, k])]  # 0, 1, ..., half a cycle per pixel
        number = torch.arange(LOWEST, max(LOWEST, len(on)))
        if not len(number):
            continue
        # Beyond half a cycle per pixel come the conjugates.
        after = torch.minimum(number + 1, side - number - 1)
        line = values[on]
        excess = line[number] - (line[number - 1] + line[after]) / 2
        places = torch.arange(len(number))
        z[on[number]] = robust_z(excess, places, _others(places), FEWEST_ON_AXIS)
    return z


def _others(places: Tensor) -> Tensor:
    return places.expand(len(places), -1)[~torch.eye(len(places), dtype=torch.bool)].view(len(places), -1)
