"""The audit of pixels: which differ between classes more than those around them."""

from __future__ import annotations

import torch
from torch import Tensor

from convscope.dynamics.shortcuts.audit import PixelAudit
from convscope.dynamics.shortcuts.contrast import effects, log_ratio, robust_z
from convscope.dynamics.shortcuts.sums import Moments, high_passed

REACH = 4  # pixels: neighbourhoods of 9x9
REACH_ON_BORDER = 16


def audit_pixels(moments: Moments) -> PixelAudit:
    """Returns how much classes differ in each pixel of the high-passed images, beside the pixels around it.

    The statistic is log F (see ``log_ratio``) of the image less the mean of each pixel's four neighbours, added up over
    channels. A pixel is compared with those in the 9x9 around it; one on the border, where classes differ more in
    natural images, with border pixels at most 16 rows and columns away.

    Args:
        moments: of at least two classes.
    """
    h, w = moments.reference.shape[1:]
    sums = high_passed(moments.images)
    statistic = log_ratio(moments.counts, sums, moments.roughness)
    y, x = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
    border = (y == 0) | (y == h - 1) | (x == 0) | (x == w - 1)
    z = torch.full((h * w,), torch.nan, dtype=torch.float64)
    for stratum, reach in ((~border, REACH), (border, REACH_ON_BORDER)):
        places = torch.nonzero(stratum.flatten())[:, 0]
        z[places] = robust_z(statistic.flatten(), places, _around(places, stratum, reach))
    off, dominant = effects(moments.counts, sums)
    farthest = off.nan_to_num().abs().argmax(1, keepdim=True)
    return PixelAudit(statistic, z.view(h, w), border, off.gather(1, farthest)[:, 0], dominant)


def _around(places: Tensor, stratum: Tensor, reach: int) -> Tensor:
    """Returns the places of the pixels of a stratum at most ``reach`` rows and columns away, -1 for none, [k, w]."""
    h, w = stratum.shape
    step = torch.arange(-reach, reach + 1)
    dy, dx = (d.flatten() for d in torch.meshgrid(step, step, indexing="ij"))
    dy, dx = dy[(dy != 0) | (dx != 0)], dx[(dy != 0) | (dx != 0)]
    y, x = (places // w)[:, None] + dy, (places % w)[:, None] + dx
    there = (y >= 0) & (y < h) & (x >= 0) & (x < w)
    there &= stratum[y.clamp(0, h - 1), x.clamp(0, w - 1)]
    found = (y * w + x).masked_fill(~there, -1)
    # On the border few of the neighbours are in the stratum.
    widest = int(there.sum(1).max()) if len(places) else 0
    return found.sort(1, descending=True).values[:, :widest]
