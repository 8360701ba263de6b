"""What the page shows of convolutions: matrices, leading directions as patches, and images seen through them."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from convscope.ansatz.agop import PatchAgop
from convscope.ansatz.result import LayerPictures
from convscope.ansatz.subspaces import top_eigenvectors
from convscope.core.views import views

MOST_ENTRIES = 75  # of a side of a matrix that is shown whole: a 5x5 patch in colour
FIRST_DIRECTIONS, DIRECTIONS = 8, 3  # leading eigenvectors shown, of layers that see colours and of others
CHANNELS = 8  # shown of a direction with many
DECIMALS = 4  # of what is only shown, so that the page is the same after JSON


def pictures_of(result: PatchAgop) -> LayerPictures:
    """Returns what is shown of one convolution; of several groups the one with the strongest gradients.

    Args:
        result: of the network.
    """
    weight, gram = result.weight, result.gram
    strongest = int((weight * (gram @ weight)).sum((1, 2)).argmax())
    w, s = weight[strongest], gram[strongest]
    _, c, q, r = result.shape
    group = "" if len(weight) == 1 else f"group {strongest + 1} of {len(weight)}"
    part = ""
    left, right = w, s @ w  # the AGOP is left^T right: it is formed only as far as it is shown
    if c * q * r > MOST_ENTRIES and q * r > 1:
        left, right = left.reshape(-1, q * r), right.reshape(-1, q * r)
        part = f"summed over the {c} input channels: {q}×{r} places by {q}×{r} places"
    elif c * q * r > MOST_ENTRIES:
        kept = (left * right).sum(0).topk(MOST_ENTRIES).indices.sort().values
        left, right = left[:, kept], right[:, kept]
        part = f"the {MOST_ENTRIES} of {c} input channels with the strongest gradients"
    wide = c > 4
    count = DIRECTIONS if wide else FIRST_DIRECTIONS
    vectors = [top_eigenvectors(w[None], x, count)[1][0].mT.unflatten(1, (c, q, r)) for x in (None, s[None])]
    channels = torch.arange(c)
    if wide:
        channels = vectors[1].square().sum((0, 2, 3)).topk(min(CHANNELS, c)).indices.sort().values
    own, driving = (v[:, channels].numpy().round(DECIMALS) for v in vectors)
    return LayerPictures(
        nfm=_scaled(left.mT @ left),
        agop=_scaled(left.mT @ right),
        part="; ".join(filter(None, (group, part))),
        nfm_patches=own,
        agop_patches=driving,
        channels=tuple((channels + 1).tolist()),
    )


def views_of(images: Tensor, inputs: Mapping[str, Tensor], found: Mapping[str, PatchAgop]) -> np.ndarray:
    """Returns images, each followed by what the leading direction of each layer's AGOP sees in it.

    Args:
        images: [n, c, h, w], in any unit.
        inputs: layer to what it saw of these images, [n, c', h', w'].
        found: the layers' AGOPs.

    Returns:
        uint8 [n (1 + layers), side, side, 3]: images from their darkest to their brightest value; magnitudes of a
        layer's responses from 0 (black) to the largest over all images (white).
    """
    maps = []
    for layer, x in inputs.items():
        answers = found[layer].filtered(x, 1).unflatten(1, (found[layer].geometry.groups, -1))
        maps.append(answers.square().sum((1, 2)).sqrt())
    return views(images, maps)


def _scaled(matrix: Tensor) -> np.ndarray:
    largest = float(matrix.abs().max())
    return (matrix / largest if largest > 0 else matrix).numpy().round(DECIMALS)
