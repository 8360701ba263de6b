"""Slow twins of the first-layer formulas, written as loops over filters, components and images."""

import math

import torch
from torch import Tensor


def energy_profile_loops(weight: Tensor, basis: Tensor) -> Tensor:
    """Returns e_i = sqrt(mean_k (w_k . u_i)^2) for one group."""
    rows = weight.reshape(len(weight), -1)
    energies = []
    for i in range(basis.shape[1]):
        energies.append(math.sqrt(sum(float((row * basis[:, i]).sum()) ** 2 for row in rows) / len(rows)))
    return torch.tensor(energies, dtype=torch.float64)


def predicted_loops(eigenvalues: list[float], tau: float, weight_decay: float = 0.0) -> list[float]:
    """Returns lam (1 - exp(-tau (lam^2 + kappa))) / (lam^2 + kappa)."""
    return [
        0.0 if v == 0 else math.sqrt(v) * -math.expm1(-tau * (v + weight_decay)) / (v + weight_decay)
        for v in eigenvalues
    ]


def pearson_loops(a: list[float], b: list[float]) -> float:
    """Returns the Pearson correlation."""
    ma, mb = math.fsum(a) / len(a), math.fsum(b) / len(b)
    top = math.fsum((x - ma) * (y - mb) for x, y in zip(a, b, strict=True))
    return top / math.sqrt(math.fsum((x - ma) ** 2 for x in a) * math.fsum((y - mb) ** 2 for y in b))


def f_ratio_loops(values: list[float], labels: list[int]) -> float:
    """Returns eta^2 / ((classes - 1) / (n - 1))."""
    mean = math.fsum(values) / len(values)
    total = math.fsum((v - mean) ** 2 for v in values)
    classes = sorted(set(labels))
    between = 0.0
    for c in classes:
        own = [v for v, y in zip(values, labels, strict=True) if y == c]
        between += len(own) * (math.fsum(own) / len(own) - mean) ** 2
    return between / total / ((len(classes) - 1) / (len(values) - 1))
