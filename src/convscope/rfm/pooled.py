"""The kernel of a network with global average pooling: covariances of all positions of one image with all of another.

Its time and memory grow with the square of the number of positions, so that it is for small images.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from convscope.core.geometry import ConvGeometry
from convscope.rfm.architecture import Architecture, shifts, total
from convscope.rfm.maps import Maps
from convscope.rfm.plain import layer_norms, relu

ARRAYS = 12  # of covariances that are alive at once


def kernel_block(left: Maps, right: Maps, architecture: Architecture) -> Tensor:
    """Returns the kernel of each image on the left with each on the right, [n1, n2].

    Args:
        left: n1 images.
        right: n2 images, in the same form.
        architecture: with pooling.
    """
    k = torch.einsum("irhw,jrpq->ijhwpq", left.values, right.values)
    if left.boxed:
        k = joint_box_sum(k, architecture.within_padded)
    theta = k
    layers = zip(layer_norms(left.norms, architecture), layer_norms(right.norms, architecture), strict=True)
    for layer, (qx, qz) in enumerate(layers):
        if layer:
            theta = joint_box_sum(k + theta, architecture.deeper)
            k = joint_box_sum(k, architecture.deeper)
        _, _, kappa0, k = relu(k, qx.sqrt()[:, None, :, :, None, None] * qz.sqrt()[None, :, None, None])
        theta = theta * kappa0
    return (k + theta if architecture.kind == "ntk" else k).mean((-4, -3, -2, -1))


def joint_box_sum(maps: Tensor, geometry: ConvGeometry) -> Tensor:
    """Returns sums over pairs of patches that move together, [..., h', w', p', q'], of maps [..., h, w, p, q]."""
    top, bottom, left, right = geometry.padding
    x = F.pad(maps, (left, right, top, bottom) * 2)
    rows, columns = geometry.positions(*x.shape[-2:])
    (q, r), (down, across) = geometry.kernel, geometry.stride
    x = total([x[..., part, :, part, :] for part in shifts(q, down, rows)])
    return total([x[..., part, :, part] for part in shifts(r, across, columns)])


def bytes_of_pair(maps: Maps, architecture: Architecture) -> int:
    """Returns the bytes that a pair of images takes."""
    return ARRAYS * maps.values[0, 0].numel() ** 2 * maps.values.element_size()
