"""Kernel ridge regression: dual coefficients, and the ridge by leave-one-out errors in closed form.

Every ridge here is in the kernel's own unit: multiply those of ``RIDGES`` by the largest entry of the kernel.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from convscope.core.errors import ConvscopeError
from convscope.rfm.conjugate import descend
from convscope.rfm.rows import Kernel, Rows, check_ridge, indefinite

RIDGES = tuple(10.0 ** (power / 2) for power in range(-16, 3))  # relative to the largest entry of the kernel

_DOUBLE_UP_TO = 8000  # images: beyond, a float32 factor takes half the time and memory
_REFINED, _REFINEMENTS = 1e-10, 20
_SOLVED = 1e-6  # largest relative residual: a system that refinement leaves above it is singular in float64
_EXACT_UP_TO = 2000  # images: beyond, the eigenvalue in an error message is an estimate


def solve(
    kernel: Kernel, targets: Tensor | np.ndarray, ridge: float, weights: Tensor | np.ndarray | None = None
) -> Tensor:
    """Returns alpha with (K + ridge W^-1) alpha = Y, float64 [n, o]: image i's part in output o.

    By Cholesky factorisation, in float32 for more than 8,000 images, and refinement in float64.

    Args:
        kernel: [n, n], symmetric, any floating precision; a tensor, or an array that may be memory-mapped.
        targets: [n, o], one column for each output.
        ridge: not negative, in the kernel's own unit.
        weights: [n], positive, of each image's squared error; None for 1.

    Raises:
        ValueError: when sizes do not fit, or a number is not finite or out of range.
        ConvscopeError: when the system is not positive definite.

    Example:
        >>> kernel, y = torch.tensor([[2.0, 1.0], [1.0, 2.0]]), torch.tensor([[4.0], [5.0]])
        >>> solve(kernel, y, ridge=1.0)
        tensor([[0.8750],
                [1.3750]], dtype=torch.float64)
    """
    check_ridge(ridge)
    rows = Rows(kernel, targets, weights)
    for dtype in (torch.float64,) if rows.n <= _DOUBLE_UP_TO else (torch.float32, torch.float64):
        factor, failed = torch.linalg.cholesky_ex(rows.dense(ridge, dtype))
        if failed:
            continue

        def inverse(v: Tensor, factor: Tensor = factor) -> Tensor:
            return torch.cholesky_solve(v.to(factor), factor).double()

        beta, error = descend(rows, ridge, inverse, None, _REFINED, _REFINEMENTS)
        if error <= _SOLVED:
            return rows.root * beta
    raise ConvscopeError(indefinite(ridge, _smallest(rows), float(rows.diagonal().max())))


def leave_one_out(
    kernel: Kernel,
    targets: Tensor | np.ndarray,
    ridges: Sequence[float],
    weights: Tensor | np.ndarray | None = None,
) -> Tensor:
    """Returns what a machine trained without an image predicts for it, float64 [len(ridges), n, o].

    In closed form, y_i - alpha_i / (G^-1)_ii with G = K + ridge W^-1, from one eigendecomposition for all ridges.
    Honest about the ridge alone: once the kernel itself has seen the labels, it is not (choose that by ``folds``).

    Args:
        kernel: [n, n], symmetric, any floating precision; a tensor, or an array that may be memory-mapped.
        targets: [n, o], one column for each output.
        ridges: not negative, in the kernel's own unit.
        weights: [n], positive, of each image's squared error; None for 1.

    Raises:
        ValueError: when sizes do not fit, or a number is not finite or out of range.
        ConvscopeError: when the system with the smallest ridge is not positive definite.

    Example:
        >>> kernel, y = torch.tensor([[2.0, 1.0], [1.0, 2.0]]), torch.tensor([[4.0], [5.0]])
        >>> leave_one_out(kernel, y, [1.0])  # 5 * 1 / (2 + 1) and 4 * 1 / (2 + 1)
        tensor([[[1.6667],
                 [1.3333]]], dtype=torch.float64)
    """
    spectrum = _Spectrum(kernel, targets, weights)
    for ridge in ridges:
        check_ridge(ridge)
        if not spectrum.positive(ridge):
            raise ConvscopeError(spectrum.why(ridge))
    return torch.stack([spectrum.left_out(ridge) for ridge in ridges])


@dataclass(frozen=True)
class Choice:
    """A ridge chosen by leave-one-out error.

    Attributes:
        ridge: the chosen one, in the kernel's own unit.
        predictions: float64 [n, o], what a machine with that ridge, trained without an image, predicts for it.
        errors: float64 [ridges], mean over images of the squared error summed over outputs, weighted; NaN for a ridge
            with which the system is not positive definite.
    """

    ridge: float
    predictions: Tensor
    errors: Tensor


def best_ridge(
    kernel: Kernel,
    targets: Tensor | np.ndarray,
    ridges: Sequence[float],
    weights: Tensor | np.ndarray | None = None,
) -> Choice:
    """Returns the ridge with the best leave-one-out predictions.

    Args:
        kernel: [n, n], symmetric, any floating precision; a tensor, or an array that may be memory-mapped.
        targets: [n, o], one column for each output.
        ridges: not negative, in the kernel's own unit.
        weights: [n], positive, of each image's squared error; None for 1.

    Raises:
        ValueError: when sizes do not fit, or a number is not finite or out of range.
        ConvscopeError: when the system is not positive definite with any of the ridges.

    Example:
        >>> kernel, y = torch.tensor([[2.0, 1.0], [1.0, 2.0]]), torch.tensor([[1.0], [1.0]])
        >>> best_ridge(kernel, y, [1e-3, 1.0, 10.0]).ridge
        0.001
    """
    if not len(ridges):
        raise ValueError("ridges must hold at least one ridge")
    spectrum = _Spectrum(kernel, targets, weights)
    y, w = spectrum.targets, spectrum.weights
    errors = torch.full((len(ridges),), torch.nan, dtype=torch.float64)
    for i, ridge in enumerate(ridges):
        check_ridge(ridge)
        if spectrum.positive(ridge):
            errors[i] = (w * (spectrum.left_out(ridge) - y).square().sum(1)).sum() / w.sum()
    if errors.isnan().all():
        raise ConvscopeError(spectrum.why(max(ridges)))
    best = ridges[int(errors.nan_to_num(nan=torch.inf).argmin())]
    return Choice(best, spectrum.left_out(best), errors)


class _Spectrum:
    """Eigenvalues and eigenvectors of K~ = W^(1/2) K W^(1/2), and what follows from them for any ridge."""

    def __init__(self, kernel: Kernel, targets: Tensor | np.ndarray, weights: Tensor | np.ndarray | None):
        rows = Rows(kernel, targets, weights)
        self.root, self.weights = rows.root, rows.root[:, 0].square()
        self.targets = rows.rhs / rows.root
        self._largest = float(rows.diagonal().max())
        self._values, self._vectors = torch.linalg.eigh(rows.dense(0))
        self._squares = self._vectors.square()
        self._rhs = self._vectors.T @ rows.rhs

    def positive(self, ridge: float) -> bool:
        """Returns whether the system is positive definite beyond rounding."""
        rounding = torch.finfo(torch.float64).eps * len(self._values) ** 0.5
        return bool(self._values[0] + ridge > rounding * (self._values[-1] + ridge))

    def why(self, ridge: float) -> str:
        """Returns what is wrong with a system that is not."""
        return indefinite(ridge, float(self._values[0]), self._largest)

    def left_out(self, ridge: float) -> Tensor:
        """Returns the leave-one-out predictions, float64 [n, o]."""
        inverse = 1 / (self._values + ridge)
        # With G = K + ridge W^-1: alpha_i / (G^-1)_ii = (W^(1/2) beta)_i / (w_i (K~ + ridge I)^-1_ii).
        beta = self._vectors @ (inverse[:, None] * self._rhs)
        return self.targets - beta / (self.root * (self._squares @ inverse)[:, None])


def _smallest(rows: Rows) -> float:
    """Returns the smallest eigenvalue of K~, an estimate for many images."""
    matrix = rows.dense(0)
    if rows.n <= _EXACT_UP_TO:
        return float(torch.linalg.eigvalsh(matrix)[0])
    return float(torch.lobpcg(matrix, k=1, niter=50, largest=False)[0])
