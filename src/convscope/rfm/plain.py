"""The kernel and its gradients in plain PyTorch: right on any device and in any precision; blocks keep it small.

Jacot et al. 2018 and Arora et al. 2019 for the ReLU network without pooling: only covariances of one position in two
images count, so that a pair costs as much as there are positions. With k the covariance of two images at a position,
qx and qz their own, r = sqrt(qx qz) and t = k / r, a ReLU gives r kappa1(t), and its derivative kappa0(t); a
convolution sums over its patch.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from convscope.rfm.architecture import Architecture, box_sum, spread_sum
from convscope.rfm.jit import PARALLEL_32, PARALLEL_64
from convscope.rfm.maps import Maps

# Where 1 - t^2 is below its square, two patches are taken to be one: kappa0 has no derivative there.
SAME = 1e-3

ARRAYS = 12  # of a number for each pair and position that are alive at once


def products(left: Maps, right: Maps, architecture: Architecture) -> Tensor:
    """Returns the first layer's covariances of each image on the left with each on the right, [n1, n2, h, w]."""
    x, z = left.values[:, None], right.values[None]
    if x.device.type == "cpu":  # where many products of small matrices are slower than as many sums of products
        k = x[:, :, 0] * z[:, :, 0]
        for r in range(1, x.shape[2]):
            k.addcmul_(x[:, :, r], z[:, :, r])
    else:
        k = torch.einsum("irhw,jrhw->ijhw", left.values, right.values)
    return box_sum(k, architecture.within_padded) if left.boxed else k


def relu(k: Tensor, r: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Returns (t, s, kappa0, r kappa1(t)) with s = sqrt(1 - t^2), for covariances k and r = sqrt(qx qz); 0 / 0 is 0."""
    t = k / r.clamp(min=torch.finfo(r.dtype).tiny)
    d = F.threshold(t.abs().neg_().add_(1), PARALLEL_32 if r.dtype == torch.float32 else PARALLEL_64, 0)
    t = torch.copysign(1 - d, t)
    s = (2 - d).mul_(d).sqrt_()
    kappa0 = t.acos().mul_(-1 / math.pi).add_(1)
    return t, s, kappa0, (k * kappa0).addcmul_(r, s, value=1 / math.pi)


def kernel_block(left: Maps, right: Maps, architecture: Architecture) -> Tensor:
    """Returns the kernel of each image on the left with each on the right, [n1, n2].

    Memory is ``bytes_of_pair`` times n1 n2.

    Args:
        left: n1 images.
        right: n2 images, in the same form.
        architecture: without pooling.
    """
    theta = k = products(left, right, architecture)
    activation = _compiled_activation(k.device) if k.is_cuda else _activation
    layers = zip(layer_norms(left.norms, architecture), layer_norms(right.norms, architecture), strict=True)
    for layer, (qx, qz) in enumerate(layers):
        if layer:
            theta = box_sum(theta.add_(k), architecture.deeper)
            k = box_sum(k, architecture.deeper)
        k, theta = activation(k, theta, qx.sqrt()[:, None], qz.sqrt()[None])
    found = (k + theta if architecture.kind == "ntk" else k).mean((-2, -1))
    same = left.identity[:, None] == right.identity[None]
    return torch.where(same.to(found.device), self_kernel(left.norms, architecture)[:, None], found)


def _activation(k: Tensor, theta: Tensor, x: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
    """Returns r kappa1 and theta kappa0, given the roots of qx and qz."""
    _, _, kappa0, after = relu(k, x * z)
    return after, kappa0.mul_(theta)


@cache
def _compiled_activation(device: torch.device) -> Callable[[Tensor, Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Returns ``_activation`` as one pass over memory where PyTorch can compile for the device, else as it is."""
    try:
        found = torch.compile(_activation, dynamic=True)
        found(*torch.ones(4, 2, 2, 2, 2, device=device))
    except Exception:  # a compiler that is missing fails in ways of its own
        return _activation
    return found


def bytes_of_pair(maps: Maps, architecture: Architecture) -> int:
    """Returns the bytes that a pair of images takes in ``kernel_block``."""
    return ARRAYS * maps.values[0, 0].numel() * maps.values.element_size()


def self_kernel(norms: Tensor, architecture: Architecture) -> Tensor:
    """Returns the kernel of each image with itself, [n], from the first layer's norms [n, h, w]: t = 1 everywhere."""
    k, theta = norms, norms
    for _ in range(1, architecture.depth):
        theta = box_sum(k + theta, architecture.deeper)
        k = box_sum(k, architecture.deeper)
    # Where an image is 0 over a patch, both are 0 and so is what kappa0 would make of them.
    return (k + theta if architecture.kind == "ntk" else k).mean((-2, -1))


def layer_norms(norms: Tensor, architecture: Architecture) -> list[Tensor]:
    """Returns for each layer the covariance of each patch with itself, [n, h, w], from the first layer's norms."""
    found = [norms]
    for _ in range(1, architecture.depth):
        found.append(box_sum(found[-1], architecture.deeper))
    return found


def derivatives(left: Maps, right: Maps, architecture: Architecture) -> tuple[Tensor, Tensor]:
    """Returns the kernel's derivatives with respect to covariances of the first layer, positions kept apart.

    Args:
        left: n1 images x.
        right: n2 images z, in the same form.
        architecture: without pooling.

    Returns:
        of_product: [n1, n2, h, w], with respect to k, the covariance of x and z at a position.
        of_norm: [n1, n2, h, w], with respect to qz, that of z with itself.
        Where two patches are one, the derivative of kappa0 is infinite and is left out (neural-tangents does so).
    """
    k = products(left, right, architecture)
    theta = k
    qx, qz = left.norms[:, None], right.norms[None]
    kept = []
    for layer in range(architecture.depth):
        if layer:
            theta = box_sum(k + theta, architecture.deeper)
            k = box_sum(k, architecture.deeper)
            qx, qz = box_sum(qx, architecture.deeper), box_sum(qz, architecture.deeper)
        r = (qx * qz).sqrt()
        t, s, kappa0, after = relu(k, r)
        over = torch.where((s > SAME) & (r > 0), theta / (math.pi * s * r), 0)  # d(theta kappa0) / dk
        ratio = torch.where(qz > 0, (qx / qz).sqrt(), 0) / 2  # dr / dqz
        kept.append((t, s, kappa0, over, ratio))
        k, theta = after, theta * kappa0
    upper = torch.full_like(k, 1 / k[0, 0].numel())
    of_norm = torch.zeros_like(k)
    of_k, of_theta = upper, upper if architecture.kind == "ntk" else of_norm
    for layer in reversed(range(architecture.depth)):
        t, s, kappa0, over, ratio = kept[layer]
        through = of_theta * over
        of_norm = of_norm + (of_k * s / math.pi - through * t) * ratio
        of_k = of_k * kappa0 + through
        of_theta = of_theta * kappa0
        if layer:
            size = (kept[layer - 1][0].shape[-2], kept[layer - 1][0].shape[-1])
            of_norm = spread_sum(of_norm, architecture.deeper, size)
            of_k = spread_sum(of_k + of_theta, architecture.deeper, size)
            of_theta = spread_sum(of_theta, architecture.deeper, size)
    return of_k + of_theta, of_norm
