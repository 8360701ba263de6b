"""What a learned metric gives up: how much of the images lies in the patch directions that it hardly sees."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def suppressed_energy(images: Tensor, metric: Tensor, share: float = 0.1) -> float:
    """Returns what share of the patches' energy lies in the directions that a metric gives up, in [0, 1].

    Given up are the eigenvectors with the metric's smallest eigenvalues, as many as together hold at most ``share`` of
    its trace. Where images have little energy there, the metric cannot help a kernel much: the kernel saw little of
    these directions before. Noise spreads its energy over all directions.

    Args:
        images: [n, c, h, w].
        metric: [d, d] with d = c q q, symmetric and positive semi-definite; a patch is flattened (c, i, j).
        share: of the metric's trace, in [0, 1).

    Raises:
        ValueError: when the metric does not fit square patches of the images.

    Example:
        >>> images = torch.tensor([3.0, 4.0]).view(1, 2, 1, 1)  # one patch of two channels
        >>> suppressed_energy(images, torch.diag(torch.tensor([0.95, 0.05])))  # 4^2 / (3^2 + 4^2)
        0.64
    """
    c, d = images.shape[1], len(metric)
    side = round((d / c) ** 0.5)
    if metric.shape != (c * side**2, c * side**2):
        raise ValueError(f"the metric must be [d, d] with d = {c} channels times a square of pixels, got {d}")
    values, vectors = torch.linalg.eigh(metric.double().cpu())
    values = values.clamp(min=0)
    given_up = vectors[:, values.cumsum(0) <= share * values.sum()]
    patches = F.unfold(images.detach().cpu().double(), side)
    return float((given_up.T @ patches).square().sum() / patches.square().sum())
