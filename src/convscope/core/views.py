"""Images beside maps of how strongly each place of them answers to something."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

SIDE = 64  # pixels of a view


def views(images: Tensor, maps: Sequence[Tensor]) -> NDArray[np.uint8]:
    """Returns images, each followed by its maps.

    Args:
        images: [n, c, h, w], in any unit.
        maps: each [n, h', w'], at least 0.

    Returns:
        uint8 [n (1 + maps), side, side, 3]: images from their darkest to their brightest value over all of them; maps
        from 0 (black) to the largest value of that map over all images (white).
    """
    shown = images.detach().cpu().double()
    shown = (shown - shown.min()) / (shown.max() - shown.min()).clamp(min=1e-12)
    shown = shown if shown.shape[1] == 3 else shown.mean(1, keepdim=True).expand(-1, 3, -1, -1)
    columns = [_sized(shown)]
    for answers in maps:
        columns.append(_sized((answers / answers.max().clamp(min=1e-300))[:, None]).expand(-1, 3, -1, -1))
    stack = torch.stack(columns, 1).flatten(0, 1)
    return (stack.permute(0, 2, 3, 1) * 255).round().clamp(0, 255).to(torch.uint8).numpy()


def _sized(maps: Tensor) -> Tensor:
    if max(maps.shape[2:]) > SIDE:
        return F.interpolate(maps, (SIDE, SIDE), mode="bilinear", antialias=True, align_corners=False)
    return F.interpolate(maps, (SIDE, SIDE), mode="nearest-exact")
