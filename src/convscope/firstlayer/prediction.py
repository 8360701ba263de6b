"""Predicted energy profiles: what gradient descent from small weights learns when labels carry no information."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from convscope.firstlayer.components import modes, variances

#: The formula peaks where tau * lam^2 equals this: the positive root of 2 x = exp(x) - 1.
PEAK = 1.2564312086261697


def predict_energy_profile(eigenvalues: Tensor, tau: float | Tensor, *, weight_decay: float = 0.0) -> Tensor:
    """Returns the predicted energy profile ``e_i = (1 - exp(-tau lam_i^2)) / lam_i``, up to a constant factor.

    Chowers & Weiss (2023), Theorem 4.2, in continuous time: only ``tau`` = learning rate x steps (times the head's
    gain) matters. Small tau gives e proportional to lam, large tau gives 1 / lam (whitening); the peak is at
    ``tau lam^2 = 1.25643``. The paper prints eta^2 lam^2 in the denominator where its own derivation gives lam^2;
    the two differ by a constant.

    With weight decay kappa the curve is ``lam (1 - exp(-tau (lam^2 + kappa))) / (lam^2 + kappa)``.

    Args:
        eigenvalues: [..., d], patch variances lam^2 (not lam), such as ``moments.eigenvalues``.
        tau: training time in units of 1 / lam^2; a tensor [t] gives one profile for each entry. Infinity is whitening.
        weight_decay: kappa, in the unit of lam^2.

    Returns:
        float64 of the broadcast shape of ``tau[..., None]`` and ``eigenvalues``; 0 along directions without variance.

    Raises:
        ValueError: for negative tau or weight decay, or eigenvalues that are no variances.

    Example:
        >>> predict_energy_profile(torch.tensor([4.0, 1.0]), 1e9)
        tensor([0.5000, 1.0000], dtype=torch.float64)
        >>> predict_energy_profile(torch.tensor([4.0, 1.0]), torch.tensor([0.1, 1.0])).shape
        torch.Size([2, 2])
    """
    lam2 = variances(eigenvalues)
    return torch.where(lam2 > 0, growth(lam2, tau, weight_decay=weight_decay) * lam2.sqrt(), 0.0)


def growth(eigenvalues: Tensor, tau: float | Tensor, *, weight_decay: float = 0.0) -> Tensor:
    """Returns ``(1 - exp(-tau x)) / x`` with ``x = lam^2 + kappa``: what a constant drive has grown to by tau.

    Args:
        eigenvalues: [..., d], variances lam^2.
        tau: training time; a tensor [t] gives one row for each entry.
        weight_decay: kappa, in the unit of lam^2.

    Returns:
        float64 of the broadcast shape of ``tau[..., None]`` and ``eigenvalues``; its limit tau where x = 0.

    Raises:
        ValueError: for negative tau or weight decay, or eigenvalues that are no variances.
    """
    lam2 = variances(eigenvalues)
    time = torch.as_tensor(tau, dtype=torch.float64, device=lam2.device)
    if bool(time.isnan().any()) or bool((time < 0).any()):
        raise ValueError(f"tau must not be negative or NaN, got {tau}")
    if not weight_decay >= 0:
        raise ValueError(f"weight_decay must not be negative, got {weight_decay}")
    x = lam2 + weight_decay
    time = time[..., None]
    safe = torch.where(x > 0, x, 1.0)
    return torch.where(x > 0, -torch.expm1(-time * safe) / safe, time)


def predict_from_matrix(matrix: Tensor, basis: Tensor, tau: float | Tensor, *, weight_decay: float = 0.0) -> Tensor:
    """Returns the predicted profile in a basis that does not diagonalise the matrix which drives learning.

    ``e_i^2 = sum_j (u_i . q_j)^2 f(mu_j)^2`` with ``S = Q diag(mu) Q^T`` and f the formula of
    ``predict_energy_profile``. For the average-patch covariance this is exact for a linear CNN with global average
    pooling; putting its diagonal into the formula instead is wrong after long training, because the two covariances
    do not share eigenvectors.

    Args:
        matrix: [..., d, d], S, symmetric and positive semi-definite.
        basis: [..., d, d], columns u_i, such as ``moments.eigenvectors``.
        tau: training time in units of 1 / mu; a tensor [t] gives one profile for each entry.
        weight_decay: kappa, in the unit of mu.

    Returns:
        float64 [d] ([g, d] for stacked matrices), with a leading axis [t] for a tensor tau.

    Raises:
        ValueError: for negative tau or weight decay, or a matrix that is not positive semi-definite.

    Example:
        >>> s = torch.diag(torch.tensor([4.0, 1.0]))
        >>> predict_from_matrix(s, torch.eye(2), 1e9)
        tensor([0.5000, 1.0000], dtype=torch.float64)
    """
    return predict_from_modes(*matrix_modes(matrix, basis), tau, weight_decay=weight_decay)


def matrix_modes(matrix: Tensor, basis: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the eigenvalues mu_j of a symmetric matrix [..., d] and the overlaps (u_i . q_j)^2 [..., d, d]."""
    mu, q = modes(matrix)
    return mu, (basis.to(torch.float64).transpose(-1, -2) @ q) ** 2


def predict_from_modes(mu: Tensor, overlap: Tensor, tau: float | Tensor, *, weight_decay: float = 0.0) -> Tensor:
    """Returns ``predict_from_matrix`` where the eigenvectors are known already (see ``matrix_modes``)."""
    time = torch.as_tensor(tau, dtype=torch.float64)
    time = time[..., *[None] * (mu.ndim - 1)]
    energy = predict_energy_profile(mu, time, weight_decay=weight_decay) ** 2
    # As products of whole matrices: a broadcast of the overlaps over tau would copy them for each.
    return torch.einsum("...j,ij->...i" if overlap.ndim == 2 else "...gj,gij->...gi", energy, overlap).sqrt()


def predict_with_heads(eigenvalues: Tensor, tau: float | Tensor, gains: Tensor, *, weight_decay: float = 0.0) -> Tensor:
    """Returns the predicted profile of a linear CNN whose fixed head has several outputs of different gain.

    With the head ``a`` [k, o] and ``a^T a = V diag(s) V^T``, output mode c learns component i at the rate
    ``s_c lam_i^2 + kappa``: ``e_i^2 = mean_c s_c [lam_i (1 - exp(-tau x)) / x]^2`` with ``x = s_c lam_i^2 + kappa``,
    averaged over random labels. Equal gains of 1 give ``predict_energy_profile``.

    Args:
        eigenvalues: [d], variances lam^2.
        tau: learning rate x steps in units of 1 / lam^2; a tensor [t] gives one profile for each entry.
        gains: [o], s, the eigenvalues of ``a^T a``.
        weight_decay: kappa, in the unit of lam^2.

    Returns:
        float64 [d], or [t, d].

    Raises:
        ValueError: for negative gains, tau or weight decay, or eigenvalues that are no variances.

    Example:
        >>> lam2 = torch.tensor([4.0, 1.0])
        >>> bool(torch.allclose(predict_with_heads(lam2, 0.3, torch.ones(5)), predict_energy_profile(lam2, 0.3)))
        True
    """
    lam2, s = variances(eigenvalues), variances(gains)
    time = torch.as_tensor(tau, dtype=torch.float64)[..., None]
    modes = growth(s[:, None] * lam2, time, weight_decay=weight_decay)  # [..., o, d]
    return (s[:, None] * lam2 * modes**2).mean(-2).sqrt()


def predict_discrete(eigenvalues: Tensor, lr: float, steps: int) -> Tensor:
    """Returns the profile after whole gradient steps, ``|1 - (1 - lr lam_i^2)^steps| / lam_i``.

    Chowers & Weiss (2023), Theorem 4.2 as derived; their code divides by lr besides. It approaches
    ``predict_energy_profile(eigenvalues, lr * steps)`` for small lr; the shapes differ by less than 2 % even at
    lr lam_1^2 = 0.9.

    Args:
        eigenvalues: [d], variances lam^2.
        lr: learning rate eta, in units of 1 / lam^2; steps converge for eta lam_1^2 < 2.
        steps: number of steps t.

    Returns:
        float64 [d]; 0 along directions without variance.

    Raises:
        ValueError: when lr or steps is not positive, or eigenvalues are no variances.

    Example:
        >>> predict_discrete(torch.tensor([4.0, 1.0]), 0.1, 1000)
        tensor([0.5000, 1.0000], dtype=torch.float64)
    """
    if not (lr > 0 and steps > 0):
        raise ValueError(f"lr and steps must be positive, got {lr} and {steps}")
    lam2 = variances(eigenvalues)
    return torch.where(lam2 > 0, (discrete_growth(lr * lam2, steps) * lr).abs() * lam2.sqrt(), 0.0)


def discrete_growth(x: Tensor, steps: int) -> Tensor:
    """Returns ``(1 - (1 - x)^steps) / x``, its limit ``steps`` at x = 0; float64 of the shape of ``x``."""
    small = torch.where(x < 0.5, x, 0.0)
    # 1 - (1 - x)^t loses all digits for small x; expm1 and log1p keep them.
    slow = -torch.expm1(steps * torch.log1p(-small))
    factor = torch.where(x < 0.5, slow, 1 - (1 - x) ** steps)
    return torch.where(x == 0, float(steps), factor / torch.where(x == 0, 1.0, x))


def tau_of_sgd(lr: float, steps: int, momentum: float = 0.0, head_gain: float = 1.0) -> float:
    """Returns tau = lr x steps x head gain / (1 - momentum), in units of 1 / lam^2.

    Valid once the number of steps is large against 1 / (1 - momentum). The head's gain (width times squared output
    weight for a fixed head) is unknown in practice, which is why tau is fitted; Adam and sign methods have no tau.

    Args:
        lr: learning rate of the loss that is half the mean squared error (twice that of the plain one).
        steps: number of steps.
        momentum: heavy-ball momentum, in [0, 1).
        head_gain: eigenvalue of the head's ``a^T a``.

    Raises:
        ValueError: when momentum lies outside [0, 1).

    Example:
        >>> tau_of_sgd(0.1, 1000, momentum=0.9)
        1000.0000000000002
    """
    if not 0 <= momentum < 1:
        raise ValueError(f"momentum must lie in [0, 1), got {momentum}")
    return lr * steps * head_gain / (1 - momentum)


def tau_at_peak(profile: Tensor, eigenvalues: Tensor) -> float:
    """Returns the fit-free estimate ``tau = 1.25643 / lam^2`` at the component where the profile is largest.

    Args:
        profile: [d], energies.
        eigenvalues: [d], variances lam^2.

    Returns:
        tau in units of 1 / lam^2; NaN where the profile is zero.

    Raises:
        ValueError: when eigenvalues are no variances, or zero where the profile is largest.

    Example:
        >>> lam2 = torch.logspace(1, -3, 1000)
        >>> round(tau_at_peak(predict_energy_profile(lam2, 30.0), lam2))
        30
    """
    lam2 = float(variances(eigenvalues)[int(profile.argmax())])
    if not bool(profile.any()):
        return math.nan
    if lam2 == 0:
        raise ValueError("the profile is largest along a direction without variance: leave such components out")
    return PEAK / lam2


def whitened_dimension(eigenvalues: Tensor, tau: float) -> float:
    """Returns ``sum_i (1 - exp(-tau lam_i^2))``, the number of components that training has whitened.

    Args:
        eigenvalues: [..., d], variances lam^2; groups add up.
        tau: training time in units of 1 / lam^2.

    Returns:
        A number between 0 and the number of components.

    Raises:
        ValueError: when eigenvalues are no variances.

    Example:
        >>> whitened_dimension(torch.tensor([100.0, 0.0]), 1.0)
        1.0
    """
    return float(-torch.expm1(-tau * variances(eigenvalues)).sum())
