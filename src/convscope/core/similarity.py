"""How alike two vectors are."""

from __future__ import annotations

import torch
from torch import Tensor

# Values whose deviation from their mean is below this share of their size are flat up to rounding.
FLAT = 1e-12


def pearson(a: Tensor, b: Tensor) -> Tensor:
    """Returns the Pearson correlation over the last axis; NaN where either side is flat or holds a NaN.

    Args:
        a: [..., d].
        b: [..., d]; leading axes broadcast.

    Returns:
        float64 [...], each in [-1, 1] or NaN.

    Example:
        >>> round(pearson(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([2.0, 4.0, 6.0])).item(), 12)
        1.0
        >>> pearson(torch.ones(3), torch.tensor([2.0, 4.0, 6.0])).item()
        nan
    """
    x, y = standardised(a), standardised(b)
    return (x * y).sum(-1).clamp(-1.0, 1.0)


def standardised(a: Tensor) -> Tensor:
    """Returns values [..., d] as float64 minus their mean, of length 1 over the last axis; NaN where they are flat."""
    a = a.to(torch.float64)
    centred = a - a.mean(-1, keepdim=True)
    norm = centred.norm(dim=-1, keepdim=True)
    flat = norm <= FLAT * a.norm(dim=-1, keepdim=True)
    return torch.where(flat, torch.nan, centred / norm)
