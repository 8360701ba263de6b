"""Preconditioned conjugate gradients on a cached kernel, for more images than can be factorised."""

from __future__ import annotations

import logging
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from convscope.core.errors import ConvscopeError
from convscope.rfm.rows import Kernel, Rows, check_ridge, indefinite

_log = logging.getLogger(__name__)


def conjugate_gradient(
    kernel: Kernel,
    targets: Tensor | np.ndarray,
    ridge: float,
    weights: Tensor | np.ndarray | None = None,
    *,
    start: Tensor | None = None,
    preconditioner_rank: int = 300,
    tolerance: float = 1e-6,
    max_steps: int = 500,
    seed: int = 0,
    progress: bool = False,
) -> Tensor:
    """Returns alpha with (K + ridge W^-1) alpha = Y up to a tolerance, float64 [n, o]: image i's part in output o.

    Each step reads the kernel once, by blocks of rows, for all outputs together. Where it did not converge, a warning
    is logged with the residual. Under ``torchrun`` every process calls it with the same arguments, multiplies its own
    rows of the kernel and gets the whole of alpha.

    Args:
        kernel: [n, n], symmetric; a tensor, or an array that may be memory-mapped, in float16 or better. Under
            ``torchrun`` the rows of this process are enough (see ``Rows``).
        targets: [n, o], one column for each output.
        ridge: positive, in the kernel's own unit.
        weights: [n], positive, of each image's squared error; None for 1.
        start: [n, o], alpha to start from, such as that of a similar kernel; None for 0.
        preconditioner_rank: columns of the kernel that the preconditioner reads.
        tolerance: largest |residual| / |target| of a column, both times the square root of the weights.
        max_steps: steps after which it gives up.
        seed: of the preconditioner's columns.
        progress: whether to show a progress bar.

    Raises:
        ValueError: when an argument is out of range or the sizes do not fit.
        ConvscopeError: when the system turns out not to be positive definite.

    Example:
        >>> kernel, y = torch.tensor([[2.0, 1.0], [1.0, 2.0]]), torch.tensor([[4.0], [5.0]])
        >>> conjugate_gradient(kernel, y, ridge=1.0).round(decimals=6)
        tensor([[0.8750],
                [1.3750]], dtype=torch.float64)
    """
    check_ridge(ridge)
    if ridge == 0 or tolerance <= 0 or max_steps < 1 or preconditioner_rank < 0:
        raise ValueError(
            "ridge, tolerance and max_steps must be positive and preconditioner_rank not negative, got "
            f"{ridge}, {tolerance}, {max_steps} and {preconditioner_rank}"
        )
    rows = Rows(kernel, targets, weights, shared=True)
    beta = None
    if start is not None:
        if start.shape != rows.rhs.shape or not start.isfinite().all():
            raise ValueError(
                f"start must be finite and have the shape {list(rows.rhs.shape)} of targets, got {list(start.shape)}"
            )
        beta = start.to(rows.rhs) / rows.root
    factor = pivoted_cholesky(rows, preconditioner_rank, seed)
    rest = (rows.diagonal() - factor.square().sum(1)).clamp(min=0).mean()
    beta, error = descend(
        rows, ridge, woodbury(factor, ridge + float(rest)), beta, tolerance, max_steps, progress=progress
    )
    if not error <= tolerance:
        _log.warning(
            "conjugate gradients reached a relative residual of %.1e in %d steps, not %.0e: raise the ridge (%.1e), "
            "max_steps or preconditioner_rank (%d)",
            error,
            max_steps,
            tolerance,
            ridge,
            preconditioner_rank,
        )
    return rows.root * beta


def pivoted_cholesky(rows: Rows, rank: int, seed: int) -> Tensor:
    """Returns F with F F^T near K~, float64 [n, r], by randomly pivoted partial Cholesky factorisation.

    Chen, Epperly, Tropp and Webber 2022, algorithm 1: columns are drawn in proportion to what is left of the diagonal.

    Args:
        rows: the kernel.
        rank: columns at most; fewer where nothing is left before.
        seed: of the draws.
    """
    generator = torch.Generator().manual_seed(seed)
    left = rows.diagonal().clamp(min=0)
    nothing = rows.n * torch.finfo(torch.float64).eps * left.sum()
    factor = torch.zeros(rows.n, min(rank, rows.n), dtype=torch.float64, device=rows.device)
    for step in range(factor.shape[1]):
        if rows.agreed(left.sum()) <= nothing:
            return factor[:, :step]
        pivot = int(rows.agreed(torch.multinomial(left.cpu(), 1, generator=generator)))
        column = rows.column(pivot) - factor[:, :step] @ factor[pivot, :step]
        factor[:, step] = column / left[pivot].sqrt()
        left = (left - factor[:, step].square()).clamp(min=0)
    return factor


def woodbury(factor: Tensor, shift: float) -> Callable[[Tensor], Tensor]:
    """Returns the function v -> shift (F F^T + shift I)^-1 v.

    Args:
        factor: F, [n, r].
        shift: positive. With what F leaves of the mean diagonal in it, a flat spectrum's rest is near 1 too.
    """
    u, s, _ = torch.linalg.svd(factor, full_matrices=False)
    shrink = (shift / (s.square() + shift) - 1)[:, None]
    return lambda v: v + u @ (shrink * (u.T @ v))


def descend(
    rows: Rows,
    ridge: float,
    precondition: Callable[[Tensor], Tensor],
    start: Tensor | None,
    tolerance: float,
    max_steps: int,
    progress: bool = False,
) -> tuple[Tensor, float]:
    """Returns (beta, error): what conjugate gradients made of (K~ + ridge I) beta = W^(1/2) Y.

    Each column takes its own steps; they share the products. The error is the largest relative residual of a column,
    computed from beta at the end, not carried along.

    Args:
        rows: the system.
        ridge: not negative.
        precondition: approximate inverse of K~ + ridge I, symmetric and positive definite.
        start: [n, o] or None for 0.
        tolerance: of the relative residual.
        max_steps: at most.
        progress: whether to show a progress bar.

    Raises:
        ValueError: when the kernel holds a NaN or an infinity.
        ConvscopeError: when the system turns out not to be positive definite.
    """
    norms = rows.rhs.norm(dim=0)
    norms = torch.where(norms > 0, norms, 1)
    beta = torch.zeros_like(rows.rhs) if start is None else start.clone()
    residual = rows.rhs - rows.times(beta, ridge) if start is not None else rows.rhs.clone()
    direction, before = torch.zeros_like(beta), torch.full_like(norms, torch.inf)
    computed, step = True, 0
    with tqdm(
        total=max_steps, unit="step", desc="conjugate gradients", disable=not progress or rows.first > 0, leave=False
    ) as bar:
        while True:
            errors = rows.agreed(residual.norm(dim=0) / norms)
            error = float(errors.max())
            bar.set_postfix(residual=f"{error:.1e}")
            if error <= tolerance or step == max_steps:
                if computed:
                    return beta, error
                # What is carried along drifts from the truth: start again from there.
                residual = rows.rhs - rows.times(beta, ridge)
                computed, before = True, torch.full_like(norms, torch.inf)
                continue
            active = errors > tolerance
            preconditioned = precondition(residual)
            now = (residual * preconditioned).sum(0)
            direction = preconditioned + torch.where(active, now / before, 0) * direction
            product = rows.times(direction, ridge)
            curvature = rows.agreed((direction * product).sum(0))
            if (curvature[active] <= 0).any():
                values = (curvature / direction.square().sum(0))[active]
                raise ConvscopeError(indefinite(ridge, float(values.min()) - ridge, float(rows.diagonal().max())))
            length = torch.where(active, now / curvature, 0)
            beta += length * direction
            residual -= length * product
            before, computed, step = now, False, step + 1
            bar.update()
