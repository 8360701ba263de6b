"""A network in which the neural feature ansatz holds in a limit: one convolution, read out at every position.

f(x) = sum_p a_p^T phi(W u_p), with u_p the patch at position p, P positions, k filters and a_p i.i.d.
N(0, sigma^2 I / k). The gradient at the convolution's output is D_p a_p with D_p = diag phi'(W u_p), so that the patch
AGOP is W^T S W with S = (1/n) sum over images and positions of D_p a_p a_p^T D_p.

*Linear phi.* S = sum_p a_p a_p^T, whatever the images: a Wishart matrix with P degrees of freedom and mean
(P sigma^2 / k) I. Let Delta = k S / (P sigma^2) - I, for which
E[Delta_ij Delta_lm] = (delta_il delta_jm + delta_im delta_jl) / P. Two rates follow:

- The relative distance of S from that multiple of I has E |Delta|_F^2 / |I|_F^2 = (k^2 + k) / (P k) = (k + 1) / P;
  ``predicted_deviation`` is its root, about sqrt(k / P).
- W^T S W is proportional to W^T W + e with e = W^T Delta W. Only the part of e across W^T W lowers the correlation,
  which is (1 + |e_across|^2 / |W^T W|^2)^{-1/2} up to the small part of e along W^T W. For the cosine, with M = W W^T,
  E |e_across|^2 / |W^T W|^2 = ((tr M)^2 + tr M^2 - 2 tr M^4 / tr M^2) / (P tr M^2), about the participation ratio of
  the filters' eigenvalues over P; ``predicted_correlation`` has the like for Pearson. That is at most about k / P: as
  P / k grows the correlation tends to 1 for every W, the sooner the lower the rank of W.

*ReLU.* E S over the readout is diag(share of images and positions at which each filter is active) P sigma^2 / k. For
patches whose distribution is symmetric about 0 each filter is active half the time and the limit is the same. For
others, such as those of bright images, filters differ, S tends to a diagonal matrix that is no multiple of I, and the
correlation stays below 1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from convscope.ansatz.measure import patch_agop

Activation = Literal["linear", "relu"]


class PositionReadout(nn.Module):
    """f(x) = sum_p a_p^T phi(W u_p): one convolution without padding and bias, and a random readout at each position.

    Args:
        weight: [k, c, q, r], W.
        size: (height, width) of the images.
        activation: phi.
        sigma: standard deviation of the readout's entries times sqrt(k).
        seed: of the readout.

    Attributes:
        readout: [k, h', w'], a_p at each position p.

    Raises:
        ValueError: for an unknown activation, or images smaller than the filters.
    """

    readout: Tensor

    def __init__(
        self,
        weight: Tensor,
        size: tuple[int, int],
        activation: Activation = "linear",
        *,
        sigma: float = 1.0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if activation not in get_args(Activation):
            raise ValueError(f"activation must be one of {get_args(Activation)}, got {activation!r}")
        k, c, q, r = weight.shape
        rows, columns = size[0] - q + 1, size[1] - r + 1
        if rows < 1 or columns < 1:
            raise ValueError(f"images must be at least as large as the filters, {q} x {r}, got {size[0]} x {size[1]}")
        self.conv = nn.Conv2d(c, k, (q, r), bias=False, dtype=weight.dtype)
        self.conv.weight = nn.Parameter(weight.detach().clone())
        self.relu = activation == "relu"
        generator = torch.Generator().manual_seed(seed)
        readout = torch.randn(k, rows, columns, dtype=weight.dtype, generator=generator)
        self.register_buffer("readout", readout * (sigma / math.sqrt(k)))

    def forward(self, images: Tensor) -> Tensor:
        """Returns f [n, 1] for images [n, c, h, w]."""
        responses = self.conv(images)
        return ((F.relu(responses) if self.relu else responses) * self.readout).sum((1, 2, 3))[:, None]


@dataclass(frozen=True)
class LimitPoint:
    """What one such network gave, beside what the rates say for linear phi.

    Attributes:
        positions: P.
        filters: k.
        correlation: Pearson correlation of the neural feature matrix and the patch AGOP.
        predicted_correlation: its expected value for linear phi, to leading order in 1 / P.
        deviation: relative distance |S - s I|_F / |s I|_F with s = P sigma^2 / k times the mean square slope of phi at
            symmetric patches (1, or 1/2 for ReLU).
        predicted_deviation: its root mean square for linear phi.
    """

    positions: int
    filters: int
    correlation: float
    predicted_correlation: float
    deviation: float
    predicted_deviation: float


def limit_point(
    weight: Tensor, images: Tensor, activation: Activation = "linear", *, sigma: float = 1.0, seed: int = 0
) -> LimitPoint:
    """Returns how far the ansatz holds in one random network of this kind, measured by ``patch_agop``.

    Args:
        weight: [k, c, q, r], W.
        images: [n, c, h, w]; P is the number of patches of one image.
        activation: phi.
        sigma: standard deviation of the readout's entries times sqrt(k).
        seed: of the readout.

    Raises:
        ValueError: as ``PositionReadout``.

    Example:
        >>> generator = torch.Generator().manual_seed(0)
        >>> weight = torch.randn(4, 1, 3, 3, dtype=torch.float64, generator=generator)
        >>> few, many = (limit_point(weight, torch.zeros(1, 1, p + 2, 3).double()) for p in (4, 4000))
        >>> few.correlation < many.correlation > 0.999
        True
    """
    k = len(weight)
    network = PositionReadout(weight, (images.shape[2], images.shape[3]), activation, sigma=sigma, seed=seed)
    result = patch_agop(network, images, exact=True)["conv"]
    positions = network.readout[0].numel()
    scale = positions * sigma**2 / k * (0.5 if activation == "relu" else 1.0)
    distance = result.gram[0] / scale - torch.eye(k, dtype=torch.float64)
    return LimitPoint(
        positions=positions,
        filters=k,
        correlation=result.correlation(),
        predicted_correlation=predicted_correlation(weight, positions),
        deviation=float(distance.norm()) / math.sqrt(k),
        predicted_deviation=predicted_deviation(k, positions),
    )


def predicted_deviation(filters: int, positions: int) -> float:
    """Returns sqrt((k + 1) / P), the root mean square of |S - E S|_F / |E S|_F for linear phi: exact for every k, P."""
    return math.sqrt((filters + 1) / positions)


def predicted_correlation(weight: Tensor, positions: int) -> float:
    """Returns the expected Pearson correlation of ``W^T W`` and ``W^T S W`` for linear phi, to leading order in 1 / P.

    As in the module's docstring, with the mean of the entries removed: for w = W 1, the sums of the filters' entries,
    the squared length of the centred W^T W is L = tr M^2 - |w|^4 / d^2, that of the centred e has the expectation
    ((tr M)^2 + tr M^2 - 2 |w|^4 / d^2) / P, and that of its part along the centred W^T W 2 tr N^2 / (P L) with
    N = M^2 - w w^T |w|^2 / d^2.

    Args:
        weight: [k, c, q, r], W.
        positions: P.
    """
    filters = weight.detach().double().flatten(1)
    d = filters.shape[1]
    m, w = filters @ filters.mT, filters.sum(1)
    of_mean = float(w @ w) / d
    length = float(m.square().sum()) - of_mean**2
    n = m @ m - torch.outer(w, w) * (of_mean / d)
    noise = float(m.trace()) ** 2 + float(m.square().sum()) - 2 * of_mean**2
    along = 2 * float(n.square().sum()) / length
    return (1 + (noise - along) / (positions * length)) ** -0.5
