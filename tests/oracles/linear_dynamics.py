"""Data-set structure and learning of linear networks, by the slow and obvious way: loops, float64, real networks."""

import numpy as np
import torch
import torch.nn.functional as F


def moments(images, labels, outputs, center=True):
    """Sigma_yx [o, D] and Sigma_xx [D, D] by loops over images."""
    x = np.asarray(images, dtype=np.float64).reshape(len(images), -1)
    y = np.eye(outputs)[np.asarray(labels)]
    if center:
        x, y = x - x.mean(0), y - y.mean(0)
    yx, xx = np.zeros((outputs, x.shape[1])), np.zeros((x.shape[1], x.shape[1]))
    for i in range(len(x)):
        yx += np.outer(y[i], x[i]) / len(x)
        xx += np.outer(x[i], x[i]) / len(x)
    return yx, xx


def transform(image):
    """Unitary transform of an image [h, w], entry by entry."""
    h, w = image.shape
    out = np.zeros((h, w), dtype=complex)
    for a in range(h):
        for b in range(w):
            for y in range(h):
                for x in range(w):
                    out[a, b] += image[y, x] * np.exp(-2j * np.pi * (a * y / h + b * x / w)) / np.sqrt(h * w)
    return out


def outputs_of(weights, images, padding, before):
    """A linear CNN by PyTorch's own layers: convolutions that keep the size, and a linear layer on the last map."""
    *kernels, head = weights
    x = images
    for kernel in kernels:
        (q, r), (rows, columns) = kernel.shape[2:], head.shape[2:]
        below, right = rows - x.shape[2] + q - 1 - before[0], columns - x.shape[3] + r - 1 - before[1]
        pad = (before[1], right, before[0], below)
        x = F.conv2d(F.pad(x, pad, mode="circular") if padding == "circular" else F.pad(x, pad), kernel)
    return x.flatten(1) @ head.flatten(1).T


def loss_gradients(weights, images, targets, padding, before):
    """Gradients of 1 / (2 n) sum |y - yhat|^2 by automatic differentiation."""
    weights = [w.clone().requires_grad_() for w in weights]
    loss = (outputs_of(weights, images, padding, before) - targets).square().sum() / (2 * len(images))
    return torch.autograd.grad(loss, weights)


def descend(weights, images, targets, padding, before, lr, steps):
    """Gradient descent; yields the network's outputs after each step, from before the first on."""
    weights = [w.clone() for w in weights]
    yield outputs_of(weights, images, padding, before)
    for _ in range(steps):
        gradients = loss_gradients(weights, images, targets, padding, before)
        weights = [w - lr * g for w, g in zip(weights, gradients, strict=True)]
        yield outputs_of(weights, images, padding, before)
