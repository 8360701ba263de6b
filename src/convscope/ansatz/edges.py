"""Whether what a metric on patches sees in images are edges, as the paper's pictures suggest.

Beaglehole et al. 2023 (arXiv 2309.00570) show images through the leading directions of the patch AGOP and call them
edge detectors. Here a metric M (an AGOP, or a neural feature matrix) gives each patch u its length ``sqrt(u^T M u)``,
which is compared with Sobel's gradient magnitude at the patch's centre.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from convscope.ansatz.forms import random_frames
from convscope.core.similarity import pearson

_FEW = 8  # images at once, so that large ones take little memory
_SMOOTH, _DIFFERENCE = torch.tensor([1.0, 2.0, 1.0]) / 4, torch.tensor([-1.0, 0.0, 1.0]) / 2


def patch_lengths(images: Tensor, metric: Tensor) -> Tensor:
    """Returns the length of every patch inside the images in a metric, float64 [n, h - q + 1, w - q + 1].

    Args:
        images: [n, c, h, w].
        metric: [d, d] with d = c q q, symmetric and positive semi-definite; a patch is flattened (c, i, j).

    Raises:
        ValueError: when the metric does not fit square patches of the images.

    Example:
        >>> patch_lengths(2 * torch.ones(1, 1, 2, 2), torch.eye(4))
        tensor([[[4.]]], dtype=torch.float64)
    """
    x, c = images.detach().double(), images.shape[1]
    side = round((len(metric) / c) ** 0.5)
    if metric.shape != (c * side**2, c * side**2):
        raise ValueError(
            f"the metric must be [d, d] with d = {c} channels times a square of pixels, got {list(metric.shape)}"
        )
    values, vectors = torch.linalg.eigh(metric.double())
    root = (vectors * values.clamp(min=0).sqrt()).T.unflatten(1, (c, side, side))
    return F.conv2d(x, root.to(x)).square().sum(1).sqrt()


def gradient_magnitude(images: Tensor, margin: int = 1) -> Tensor:
    """Returns Sobel's gradient magnitude of the mean over channels, float64 [n, h - 2 margin, w - 2 margin], per pixel.

    Args:
        images: [n, c, h, w].
        margin: pixels left out at the borders, at least 1.

    Raises:
        ValueError: when the margin is below 1, or leaves nothing.

    Example:
        >>> ramp = torch.arange(3.0).expand(1, 1, 3, 3)  # grows by 1 a pixel
        >>> gradient_magnitude(ramp)
        tensor([[[1.]]], dtype=torch.float64)
    """
    if margin < 1 or min(images.shape[2:]) <= 2 * margin:
        raise ValueError(f"margin must be at least 1 and leave pixels of {list(images.shape[2:])}, got {margin}")
    x = images.detach().double().mean(1, keepdim=True)
    across = torch.outer(_SMOOTH, _DIFFERENCE)
    kernels = torch.stack([across, across.T])[:, None].to(x)
    inside = slice(margin - 1, -(margin - 1) or None)
    return F.conv2d(x, kernels).square().sum(1).sqrt()[:, inside, inside]


def edge_correlations(images: Tensor, metric: Tensor) -> Tensor:
    """Returns for each image the correlation over pixels of its patches' lengths in a metric with its edges.

    Args:
        images: [n, c, h, w].
        metric: as for ``patch_lengths``, with patches of an odd side of at least 3 pixels.

    Returns:
        float64 [n], each in [-1, 1]; NaN where an image is flat.

    Raises:
        ValueError: when the metric does not fit, or patches have no centre.

    Example:
        >>> image = torch.zeros(1, 1, 6, 6)
        >>> image[..., 3:] = 1
        >>> sobel = torch.tensor([[-1.0, 0.0, 1.0], [-2.0, 0.0, 2.0], [-1.0, 0.0, 1.0]]).flatten()
        >>> edge_correlations(image, torch.outer(sobel, sobel)).round(decimals=6)
        tensor([1.], dtype=torch.float64)
    """
    found = []
    for few in images.split(_FEW):
        lengths = patch_lengths(few, metric)
        side = few.shape[2] - lengths.shape[1] + 1
        if side % 2 == 0 or side < 3:
            raise ValueError(f"patches must have an odd side of at least 3 pixels, got {side}")
        found.append(pearson(lengths.flatten(1), gradient_magnitude(few, side // 2).flatten(1)))
    return torch.cat(found)


def turned_metrics(metric: Tensor, draws: int, seed: int = 0) -> Tensor:
    """Returns metrics of the same eigenvalues with directions at random (Haar), float64 [draws, d, d].

    Args:
        metric: [d, d], symmetric.
        draws: how many.
        seed: of the directions.
    """
    values = torch.linalg.eigvalsh(metric.double())
    d = len(metric)
    q = random_frames(draws, 1, d, d, torch.Generator().manual_seed(seed))[:, 0]
    return (q * values) @ q.mT


def contrast_metric(channels: int, side: int) -> Tensor:
    """Returns the metric of a patch's contrast, float64 [d, d]: the identity less the mean of each channel.

    Args:
        channels: c.
        side: q, of the patches in pixels.
    """
    area = side**2
    centred = torch.eye(area, dtype=torch.float64) - torch.full((area, area), 1 / area, dtype=torch.float64)
    return torch.block_diag(*[centred] * channels)
