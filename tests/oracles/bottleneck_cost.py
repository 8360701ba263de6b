"""Slow twins of the bounds on a network's norm: Jacobians and operators by autograd, layer by layer."""

import math

import torch
from torch import Tensor, nn


def jacobian(function, image: Tensor) -> Tensor:
    """Dense Jacobian of a function of one image [c, h, w], float64 [outputs, inputs]."""
    found = torch.autograd.functional.jacobian(lambda x: function(x[None])[0], image.double())
    outputs = found.shape[: found.ndim - image.ndim]
    return found.reshape(math.prod(outputs), -1)


def norm_of(module: nn.Module) -> float:
    """Sum of the squares of all parameters."""
    return sum(float(p.detach().double().square().sum()) for p in module.parameters())


def schatten_bound(values: list[float], depth: int, factors: list[float]) -> float:
    """L (prod 1 / c_l)^(1 / L) sum s^(2 / L), term by term."""
    product = 1.0
    for factor in factors:
        product /= factor
    return depth * product ** (1 / depth) * sum(s ** (2 / depth) for s in values)


def without_bias(layer: nn.Module):
    """The linear part of a layer."""
    return lambda x: layer(x) - layer(torch.zeros_like(x))


def near_isometries(layers: list[nn.Module], image: Tensor) -> tuple[list[float], float, float, int]:
    """Distances of the layers of conv-ReLU-...-conv to partial isometries, biases, what is allowed, and K.

    ReLU follows every layer but the last.
    """
    x, operators, gates, shapes, biases = image.double(), [], [], [], []
    for i, layer in enumerate(layers):
        operators.append(jacobian(without_bias(layer), x))
        z = layer(x[None])[0].detach()
        biases.append(z.numel() / len(z) * float(layer.bias.detach().square().sum()))
        gate = (z > 0).double() if i + 1 < len(layers) else torch.ones_like(z)
        gates.append(gate.flatten())
        shapes.append(z.shape)
        x = z * gate
    whole = torch.eye(operators[0].shape[1], dtype=torch.float64)
    for operator, gate in zip(operators, gates, strict=True):
        whole = torch.diag(gate) @ operator @ whole
    _, s, v = torch.linalg.svd(whole)
    k = sum(value > 1e-3 * float(s[0]) for value in s.tolist())
    basis, distances = v[:k].T, []
    for operator, gate in zip(operators, gates, strict=True):
        m = torch.diag(gate) @ operator @ basis
        values, vectors = torch.linalg.eigh(m.T @ m)
        after = m @ vectors @ torch.diag(values**-0.5) @ vectors.T
        distances.append(float((operator - after @ basis.T).square().sum()))
        basis = after
    excess = sum(float(o.square().sum()) for o in operators) + sum(biases) - len(layers) * k
    return distances, sum(biases), excess - 2 * sum(math.log(value) for value in s[:k].tolist()), k
