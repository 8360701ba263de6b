"""Slow twins: gradient descent on the linear CNN by autograd, convolution and all; sums by loops."""

import torch
import torch.nn.functional as F
from torch import Tensor


def gradient_descent(
    images: Tensor, targets: Tensor, head: Tensor, init: Tensor, lr: float, steps: int, weight_decay: float = 0.0
) -> Tensor:
    """Returns W(t) - W(0) [k, d] of conv - global average pool - fixed head under half the mean squared error."""
    kernel = round((init.shape[1] / images.shape[1]) ** 0.5)
    start = init.reshape(len(init), images.shape[1], kernel, kernel)
    weight = start.clone().requires_grad_(True)
    for _ in range(steps):
        outputs = F.conv2d(images, weight).mean((2, 3)) @ head
        loss = ((outputs - targets) ** 2).sum(1).mean() / 2 + weight_decay / 2 * (weight**2).sum()
        (gradient,) = torch.autograd.grad(loss, weight)
        with torch.no_grad():
            weight -= lr * gradient
    return (weight.detach() - start).flatten(1)


def average_patch_moments(images: Tensor, targets: Tensor, kernel: int) -> tuple[Tensor, Tensor]:
    """Returns E[pbar pbar^T] [d, d] and E[y pbar^T] [o, d]."""
    average = F.unfold(images, kernel).mean(2)
    return average.T @ average / len(images), targets.T @ average / len(images)


def signal_matrix_loops(patches: Tensor, kappa: Tensor) -> Tensor:
    """Returns sum over pairs of positions of kappa(difference) times the patches' outer product, mean over images.

    Args:
        patches: [n, d, h, w], centred.
        kappa: [2 h - 1, 2 w - 1].
    """
    n, d, h, w = patches.shape
    total = torch.zeros(d, d, dtype=torch.float64)
    for y in range(h):
        for x in range(w):
            for v in range(h):
                for u in range(w):
                    total += kappa[h - 1 + v - y, w - 1 + u - x] * patches[:, :, y, x].T @ patches[:, :, v, u] / n
    return total


def autocorrelation_loops(signal: Tensor) -> Tensor:
    """Returns the mean product of pairs of positions by lag, [2 h - 1, 2 w - 1], for signals [n, k, h, w]."""
    h, w = signal.shape[2:]
    kappa = torch.zeros(2 * h - 1, 2 * w - 1, dtype=torch.float64)
    for dy in range(-(h - 1), h):
        for dx in range(-(w - 1), w):
            a = signal[:, :, max(0, -dy) : h - max(0, dy), max(0, -dx) : w - max(0, dx)]
            b = signal[:, :, max(0, dy) : h - max(0, -dy), max(0, dx) : w - max(0, -dx)]
            kappa[h - 1 + dy, w - 1 + dx] = (a * b).mean()
    return kappa
