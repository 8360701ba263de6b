"""Whitening: how far a filter bank decorrelates neighbouring patches, without running it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from convscope.core.errors import ConvscopeError
from convscope.firstlayer.components import kept, modes, variances
from convscope.firstlayer.prediction import predict_energy_profile
from convscope.firstlayer.profile import bank_gram

LAG = 10  # pixels; the paper's whitening figure looks at this one

if TYPE_CHECKING:
    from convscope.core.moment_values import PatchMoments


def autocorrelation(gram: Tensor, covariance: Tensor, lagged: Tensor) -> Tensor:
    """Returns the channel-summed autocorrelation of a bank's responses, ``C(delta) = tr(M Sigma_delta) / tr(M Sigma)``.

    This is Chowers & Weiss (2023), Theorem A.6 and Figure 6, by an identity that needs no forward pass.
    Traces add over groups.

    Args:
        gram: [d, d] or [g, d, d], M = W^T W / k.
        covariance: same shape, Sigma.
        lagged: [l, ...] with the same trailing shape, Sigma_delta of each lag.

    Returns:
        float64 [l]; NaN for a bank of zeros.

    Example:
        >>> s = torch.eye(2)
        >>> autocorrelation(s, s, torch.stack([s, s / 2]))
        tensor([1.0000, 0.5000], dtype=torch.float64)
    """
    m = gram.to(torch.float64).transpose(-1, -2)
    axes = tuple(range(1, m.ndim + 1))
    return (m * lagged.to(torch.float64)).sum(axes) / (m * covariance.to(torch.float64)).sum()


def whiteness(gram: Tensor, covariance: Tensor) -> float:
    """Returns ``(tr Z)^2 / (d tr Z^2)`` with ``Z = Sigma^1/2 M Sigma^1/2``: 1 only for perfect whitening.

    The bank's responses are white over the whole patch space exactly when M is proportional to the inverse of Sigma.
    d counts the directions that have variance; the worst value is 1 / d. Groups are averaged.

    Args:
        gram: [d, d] or [g, d, d], M = W^T W / k.
        covariance: same shape, Sigma.

    Returns:
        A number in [1 / d, 1]; NaN for a bank of zeros.

    Example:
        >>> sigma = torch.diag(torch.tensor([4.0, 1.0]))
        >>> round(whiteness(torch.linalg.inv(sigma), sigma), 6), round(whiteness(torch.eye(2), sigma), 6)
        (1.0, 0.735294)
    """
    sigma = covariance.to(torch.float64)
    return _whiteness(gram, sigma, kept(modes(sigma)[0]).sum(-1))


def _whiteness(gram: Tensor, sigma: Tensor, d: Tensor) -> float:
    product = gram.to(torch.float64) @ sigma  # the same traces as Z
    trace = product.diagonal(dim1=-2, dim2=-1).sum(-1)
    square = (product * product.transpose(-1, -2)).sum((-2, -1))
    return float((trace**2 / (d * square)).mean())


def spectral_whiteness(profile: Tensor, eigenvalues: Tensor) -> float:
    """Returns ``(sum e^2 lam^2)^2 / (d sum e^4 lam^4)``: whiteness as far as an energy profile can see it.

    It ignores what is off the diagonal of the Gram matrix: a bank whose profile is 1 / lam has 1 here, yet its
    responses may be correlated. Groups are averaged.

    Args:
        profile: [d] or [g, d], energies e.
        eigenvalues: same shape, variances lam^2.

    Returns:
        A number in [1 / d, 1]; NaN for a profile of zeros.

    Example:
        >>> lam2 = torch.tensor([4.0, 1.0])
        >>> spectral_whiteness(lam2**-0.5, lam2)
        1.0
    """
    lam2 = variances(eigenvalues)
    power = torch.where(kept(lam2), profile.to(torch.float64) ** 2 * lam2, 0.0)
    return float((power.sum(-1) ** 2 / (kept(lam2).sum(-1) * (power**2).sum(-1))).mean())


def profile_gram(profile: Tensor, basis: Tensor) -> Tensor:
    """Returns ``U diag(e^2) U^T``, the Gram matrix of a bank that has this profile and nothing off the diagonal.

    Args:
        profile: [..., d], energies e.
        basis: [..., d, d], columns u_i.

    Returns:
        float64 [..., d, d].

    Example:
        >>> profile_gram(torch.tensor([2.0, 1.0]), torch.eye(2)).diagonal()
        tensor([4., 1.], dtype=torch.float64)
    """
    u = basis.to(torch.float64)
    return (u * profile.to(torch.float64)[..., None, :] ** 2) @ u.transpose(-1, -2)


def whitening_gram(moments: PatchMoments, eps: float = 0.0) -> Tensor:
    """Returns the Gram matrix of the whitening bank with energies ``1 / sqrt(lam^2 + eps)``.

    Args:
        moments: statistics of the patches.
        eps: regulariser in the unit of lam^2; 0 is perfect whitening of the directions that have variance.

    Returns:
        float64 [d, d] or [g, d, d]; Sigma^-1 for eps = 0 and full rank.

    Raises:
        ValueError: when eps is negative.

    Example:
        >>> from convscope.core.moments import patch_moments
        >>> moments = patch_moments(torch.randn(8, 1, 8, 8), torch.nn.Conv2d(1, 1, 2))
        >>> round(whiteness(whitening_gram(moments), moments.covariance), 6)
        1.0
    """
    if not eps >= 0:
        raise ValueError(f"eps must not be negative, got {eps}")
    lam2 = variances(moments.eigenvalues)
    energies = torch.where(kept(lam2) | (eps > 0), (lam2 + eps).rsqrt(), 0.0)
    return profile_gram(energies, moments.eigenvectors)


def raw_pixels_gram(moments: PatchMoments) -> Tensor:
    """Returns the Gram matrix of the bank that hands the pixels through: the kernel's middle pixel of each channel.

    Args:
        moments: statistics of the patches.

    Returns:
        float64 [d, d] or [g, d, d].

    Example:
        >>> from convscope.core.moments import patch_moments
        >>> raw_pixels_gram(patch_moments(torch.randn(8, 3, 8, 8), torch.nn.Conv2d(3, 1, 3))).trace().item()
        3.0
    """
    q, r = moments.geometry.kernel
    pixels = torch.zeros(moments.covariance.shape[-1] // (q * r), q, r, dtype=torch.float64)
    pixels[:, q // 2, r // 2] = 1.0
    return torch.diag(pixels.flatten()).expand_as(moments.covariance)


def lagged_covariances(moments: PatchMoments, lags: Sequence[int]) -> Tensor:
    """Returns Sigma_delta for each lag in pixels, the mean of a vertical and a horizontal shift.

    Args:
        moments: statistics of the patches, collected with ``lags`` that hold (delta, 0) and (0, delta) for each.
        lags: delta in input pixels; under a stride only its multiples exist.

    Returns:
        float64 [l, d, d] or [l, g, d, d].

    Example:
        >>> from convscope.core.moments import patch_moments
        >>> moments = patch_moments(torch.randn(8, 1, 8, 8), torch.nn.Conv2d(1, 1, 3), lags=[(1, 0), (0, 1)])
        >>> lagged_covariances(moments, [1]).shape
        torch.Size([1, 9, 9])
    """
    return torch.stack([
        moments.covariance if delta == 0 else (moments.lag_covariance(delta, 0) + moments.lag_covariance(0, delta)) / 2
        for delta in lags
    ])


@dataclass(frozen=True)
class WhiteningCurves:
    """Autocorrelation of responses against distance, for a bank and its references.

    Attributes:
        lags: distances in input pixels.
        raw: float64 [l], of the pixels themselves.
        random: float64 [l], expected for Gaussian filters; equal to ``raw`` up to borders.
        random_low: float64 [l], 2.5 % quantile over random banks of as many filters.
        random_high: float64 [l], 97.5 % quantile.
        bank: float64 [l], of the bank.
        perfect: float64 [l], of perfect whitening. It is not zero: small patches of large images stay correlated.
        formula: float64 [l], of a bank with the predicted profile, or None without tau.
        whiteness: of the bank, in [1 / d, 1].
        random_whiteness: (2.5 %, 97.5 %) quantiles over random banks.
        spectral_whiteness: of the bank's energy profile.
    """

    lags: tuple[int, ...]
    raw: Tensor
    random: Tensor
    random_low: Tensor
    random_high: Tensor
    bank: Tensor
    perfect: Tensor
    formula: Tensor | None
    whiteness: float
    random_whiteness: tuple[float, float]
    spectral_whiteness: float


def whitening_curves(
    weight: Tensor,
    moments: PatchMoments,
    lags: Sequence[int],
    init: Tensor | None = None,
    tau: float | None = None,
    draws: int = 100,
    seed: int = 0,
) -> WhiteningCurves:
    """Returns how the correlation between responses falls with distance, for a bank and its references.

    Chowers & Weiss (2023), section 4.2 and Figure 6, by ``C(delta) = tr(M Sigma_delta) / tr(M Sigma)``.

    Args:
        weight: [k, c / groups, q, r], the filters.
        moments: statistics of the patches, with the lags of ``lagged_covariances``.
        lags: distances delta in input pixels, 0 included or not.
        init: initial weights to subtract.
        tau: fitted training time for the formula's curve, in units of 1 / lam^2.
        draws: number of random banks of as many filters.
        seed: of the random banks.

    Returns:
        The curves.

    Raises:
        ValueError: when shapes do not fit or the moments lack a lag.
        ConvscopeError: when a weight is NaN or infinite, or the images have no variance.

    Example:
        >>> from convscope.core.moments import patch_moments
        >>> conv = torch.nn.Conv2d(3, 8, 3)
        >>> moments = patch_moments(torch.randn(8, 3, 9, 9), conv, lags=[(1, 0), (0, 1)])
        >>> whitening_curves(conv.weight, moments, [0, 1], draws=5).raw[0].item()
        1.0
    """
    if float(moments.eigenvalues.max()) <= 0:
        raise ConvscopeError("the patches have no variance: varied images are expected; hand in others")
    covariance, lagged = moments.covariance, lagged_covariances(moments, lags)
    rank = kept(moments.eigenvalues).sum(-1)
    grams = _random_grams(weight.shape[0], covariance, draws, seed)
    chance = torch.stack([autocorrelation(m, covariance, lagged) for m in grams])
    chance_whiteness = torch.tensor([_whiteness(m, covariance, rank) for m in grams], dtype=torch.float64)
    quantiles = torch.tensor([0.025, 0.975], dtype=torch.float64)
    low, high = torch.quantile(chance, quantiles, dim=0)
    white_low, white_high = torch.quantile(chance_whiteness, quantiles).tolist()
    bank = bank_gram(weight, moments, init)
    basis = moments.eigenvectors
    energies = ((bank @ basis) * basis).sum(-2).clamp(min=0).sqrt()
    formula = None
    if tau is not None:
        predicted = profile_gram(predict_energy_profile(moments.eigenvalues, tau), basis)
        formula = autocorrelation(predicted, covariance, lagged)
    identity = torch.eye(covariance.shape[-1], dtype=torch.float64).expand_as(covariance)
    return WhiteningCurves(
        lags=tuple(lags),
        raw=autocorrelation(raw_pixels_gram(moments), covariance, lagged),
        random=autocorrelation(identity, covariance, lagged),
        random_low=low,
        random_high=high,
        bank=autocorrelation(bank, covariance, lagged),
        perfect=autocorrelation(whitening_gram(moments), covariance, lagged),
        formula=formula,
        whiteness=whiteness(bank, covariance),
        random_whiteness=(white_low, white_high),
        spectral_whiteness=spectral_whiteness(energies, moments.eigenvalues),
    )


def _random_grams(filters: int, covariance: Tensor, draws: int, seed: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    groups = covariance.shape[0] if covariance.ndim == 3 else 1
    grams = []
    for _ in range(draws):
        shape = (*covariance.shape[:-2], filters // groups, covariance.shape[-1])
        bank = torch.randn(shape, dtype=torch.float64, generator=generator)
        grams.append(bank.transpose(-1, -2) @ bank / shape[-2])
    return grams
