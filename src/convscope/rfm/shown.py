"""What the page shows of a metric: its matrix, its leading patches, and images seen through them."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from convscope.core.views import views
from convscope.rfm.architecture import Architecture
from convscope.rfm.result import MetricPictures

MOST_ENTRIES = 75  # of a side of a matrix that is shown whole: a 5x5 patch in colour
FIRST_PATCHES, PATCHES = 8, 3  # leading eigenvectors shown, of patches in colour and of others
CHANNELS = 8  # shown of a patch with many
VIEWS = 3  # leading patches through which images are seen
DECIMALS = 4  # of what is only shown, so that the page is the same after JSON


def pictures_of(metric: Tensor, shape: tuple[int, int, int]) -> MetricPictures:
    """Returns what is shown of a metric, or of another matrix on patches.

    Args:
        metric: [d, d], symmetric, positive semidefinite, not zero.
        shape: (c, q, q) of a patch.
    """
    c, q, _ = shape
    values, vectors = leading(metric, PATCHES if c > 4 else FIRST_PATCHES)
    patches = vectors.unflatten(1, shape)
    channels = torch.arange(c)
    if c > 4:
        channels = patches.square().sum((0, 2, 3)).topk(min(CHANNELS, c)).indices.sort().values
    matrix, part = metric.double().cpu(), ""
    if c * q * q > MOST_ENTRIES and q > 1:
        matrix = matrix.reshape(c, q * q, c, q * q).diagonal(dim1=0, dim2=2).sum(-1)
        part = f"summed over the {c} channels: {q}×{q} places by {q}×{q} places"
    elif c * q * q > MOST_ENTRIES:
        kept = matrix.diagonal().topk(MOST_ENTRIES).indices.sort().values
        matrix = matrix[kept][:, kept]
        part = f"the {MOST_ENTRIES} of {c} channels with the largest weight"
    return MetricPictures(
        matrix=(matrix / matrix.abs().max()).numpy().round(DECIMALS),
        part=part,
        patches=patches[:, channels].numpy().round(DECIMALS),
        shares=tuple(round(float(v), DECIMALS) for v in values),
        channels=tuple((channels + 1).tolist()),
    )


def leading(metric: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Returns the largest eigenvalues as shares of the trace, and their eigenvectors, float64 [r] and [r, d].

    Args:
        metric: [d, d], symmetric.
        count: r at most.

    The entry of largest magnitude of each eigenvector is positive.
    """
    values, vectors = torch.linalg.eigh(metric.double().cpu())
    values, vectors = values.flip(0)[:count], vectors.flip(1)[:, :count].T
    signs = vectors.gather(1, vectors.abs().argmax(1, keepdim=True)).sign()
    return values / metric.double().diagonal().sum().cpu(), vectors * signs


def views_of(images: Tensor, metric: Tensor, architecture: Architecture) -> tuple[np.ndarray, tuple[str, ...]]:
    """Returns images, each followed by how strongly its patches answer to the metric and to its leading patches.

    Args:
        images: [n, c, h, w].
        metric: [d, d].
        architecture: whose first layer's patches are looked at.

    Returns:
        views: uint8 [n (1 + names), side, side, 3], of ``convscope.core.views``.
        names: what the maps answer to: "all" is the length of a patch in the metric, a number the magnitude of its
            component along that leading patch.
    """
    x = images.detach().cpu().double()
    geometry = architecture.first(x.shape[1])
    values, vectors = leading(metric, len(metric))
    count = min(VIEWS, len(vectors))
    weight = (vectors * values.clamp(min=0).sqrt()[:, None]).unflatten(1, (x.shape[1], *geometry.kernel))
    answers = F.conv2d(geometry.pad(x), weight, None, geometry.stride)
    maps = [answers.square().sum(1).sqrt(), *(answers[:, i].abs() for i in range(count))]
    return views(x, maps), ("all", *(f"patch {i + 1}" for i in range(count)))
