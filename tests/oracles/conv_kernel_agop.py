"""Slow twin of the AGOP of a kernel machine: the kernel written out on patches, and finite differences."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def agop_by_differences(
    X: Tensor,
    dual_coef: Tensor,
    Z: Tensor,
    depth: int,
    q: int,
    metric_root: Tensor | None = None,
    padding: str = "valid",
    kind: str = "ntk",
    stride: int = 1,
    step: float = 1e-5,
) -> Tensor:
    """Returns the mean over Z of the sum over outputs and positions of gradients' outer products, [d, d].

    Each entry of each patch of z is moved on its own, as if patches did not overlap.
    """
    train = patches(X, q, padding, stride)
    total = torch.zeros(train.shape[2], train.shape[2], dtype=torch.float64)
    for z in patches(Z, q, padding, stride):
        gradient = torch.zeros(*z.shape, dual_coef.shape[1], dtype=torch.float64)
        for p in range(z.shape[0]):
            for k in range(z.shape[1]):
                values = []
                for sign in (1, -1):
                    moved = z.clone()
                    moved[p, k] += sign * step
                    values.append(
                        kernel_of_patches(
                            train, moved, sides(X, q, padding, stride), X.shape[1], depth, q, metric_root, padding, kind
                        )
                    )
                gradient[p, k] = (values[0] - values[1]) @ dual_coef / (2 * step)
        total += torch.einsum("pko,plo->kl", gradient, gradient)
    return total / len(Z)


def kernel_of_patches(
    train: Tensor,
    z: Tensor,
    size: tuple[int, int],
    c: int,
    depth: int,
    q: int,
    root: Tensor | None,
    padding: str,
    kind: str,
) -> Tensor:
    """Returns the kernel [n] of images given by their patches [n, p, d] with one given by its own [p, d]."""
    if root is not None:
        train, z = train @ root.T, z @ root.T

    def box(x: Tensor) -> Tensor:
        maps = x.reshape(-1, 1, *size)
        if padding == "same":
            maps = F.pad(maps, ((q - 1) // 2, q // 2, (q - 1) // 2, q // 2))
        maps = F.conv2d(maps, torch.ones(1, 1, q, q, dtype=x.dtype))
        return maps[:, 0]

    k, qx, qz = (train * z).sum(-1) / c, train.square().sum(-1) / c, z.square().sum(-1) / c
    theta = k
    for layer in range(depth):
        if layer:
            k, theta, qx, qz = box(k), box(k + theta), box(qx), box(qz)
            size = (k.shape[-2], k.shape[-1])
            k, theta, qx, qz = (x.flatten(1) for x in (k, theta, qx, qz))
        r = (qx * qz).sqrt()
        t = torch.where(r > 0, k / r.clamp(min=1e-300), torch.zeros_like(k)).clamp(-1, 1)
        kappa0 = 1 - torch.acos(t) / math.pi
        k, theta = r * (t * kappa0 + (1 - t * t).sqrt() / math.pi), theta * kappa0
    return (k + theta if kind == "ntk" else k).mean(1)


def patches(images: Tensor, q: int, padding: str, stride: int) -> Tensor:
    """Returns [n, p, c * q * q]."""
    return F.unfold(_padded(images, q, padding), q, stride=stride).mT


def sides(images: Tensor, q: int, padding: str, stride: int) -> tuple[int, int]:
    """Returns the number of rows and columns of patches."""
    h, w = _padded(images, q, padding).shape[-2:]
    return (h - q) // stride + 1, (w - q) // stride + 1


def _padded(images: Tensor, q: int, padding: str) -> Tensor:
    low, high = {"valid": (0, 0), "first": (q // 2, q // 2), "same": ((q - 1) // 2, q // 2)}[padding]
    return F.pad(images, (low, high, low, high))
