"""The norm of a network's parameters beside what any network of the same function and depth must have.

Theorem A, a form of the lower bound of Wen & Jacot 2024 (arXiv:2402.08010), derived here. The Jacobian at x is
J = W_L D_(L-1) ... D_1 W_1 with gates of slopes in [0, 1], so that ||J||_(2/L) <= prod_l ||W_l||_F by Hoelder's
inequality for Schatten norms. With ||W_l||_F^2 <= c_l ||w_l||^2 (c_l = M_l, the number of positions, for a circular
convolution) and the inequality of the means

    ||theta||^2 >= sum_l ||w_l||^2 >= (L / c) sum_i s_i(J)^(2 / L),    c = (c_1 ... c_L)^(1 / L),

of which the right side is (1 / c) [L rank J + 2 log |J|_+ + O(1 / L)].
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from convscope.bottleneck.jacobian import Jacobian, JacobianValues, jacobian_values
from convscope.bottleneck.location import CONVERGED
from convscope.bottleneck.steps import Chain, Step
from convscope.core.errors import ConvscopeError

MOST_WORK = 10**12  # multiplications for the Jacobians of all images: a minute or two


@dataclass(frozen=True, eq=False)
class Cost:
    """What a network's parameters cost, and what its function costs at least.

    Attributes:
        actual: ||theta||^2, sum of the squares of all weights and biases (batch norms folded).
        biases: the share of the biases in it.
        layers: (name, squared norm of the weight, squared norm of the bias) of each step.
        bounds: float64 [n], Theorem A's lower bound at each image; of large networks, at the first ones.
        jacobians: the Jacobian's singular values at each image.
        rank: K, that of the bottleneck where given, else the largest rank of a Jacobian.
        ideal: (L / c) K, Theorem A's bound for K singular values of one: L K / N for maps of one size.
        regularity: (2 / c) log |J|_+ at the image of the largest bound, what of the cost does not grow with depth.
        balance: residual of the balance of norms, see ``balance_residual``.
        notes: how far these numbers can be trusted, in sentences.
    """

    actual: float
    biases: float
    layers: tuple[tuple[str, float, float], ...]
    bounds: Tensor
    jacobians: tuple[JacobianValues, ...]
    rank: int
    ideal: float
    regularity: float
    balance: float
    notes: tuple[str, ...]

    @property
    def lower_bound(self) -> float:
        """The largest bound over the images."""
        return float(self.bounds.max())

    @property
    def efficiency(self) -> float:
        """Lower bound over actual, in [0, 1]; near 1 where no network of this depth is much cheaper."""
        return self.lower_bound / self.actual if self.actual > 0 else math.nan

    @property
    def converged(self) -> bool:
        """Whether norms are balanced, as they are at the end of training with a penalty on them."""
        return self.balance <= CONVERGED


def norm_cost(chain: Chain, images: Tensor, *, rank: int | None = None) -> Cost:
    """Returns the norm of a network's parameters, and Theorem A's lower bound on it at some images.

    Args:
        chain: the network (see ``plain_chain``).
        images: [n, c, h, w], prepared; about eight are enough.
        rank: of the bottleneck, where it is known.

    Raises:
        ValueError: without images.
        ConvscopeError: when images are not finite, or the network is too large for its Jacobian.

    Example:
        >>> from torch import nn
        >>> from convscope.bottleneck.wiring import plain_chain
        >>> images = torch.rand(2, 1, 4, 4, generator=torch.Generator().manual_seed(0))
        >>> conv = nn.Conv2d(1, 1, 1, bias=False)
        >>> _ = torch.nn.init.ones_(conv.weight)
        >>> cost = norm_cost(plain_chain(nn.Sequential(conv), images), images)
        >>> round(cost.actual, 9), round(cost.lower_bound, 9), cost.rank
        (1.0, 1.0, 16)
    """
    if images.ndim != 4 or not len(images):
        raise ValueError(f"expected images of shape [n, c, h, w], at least one, got {list(images.shape)}")
    if not bool(torch.isfinite(images).all()):
        raise ConvscopeError("the images hold NaN or infinite values: remove them")
    work = Jacobian(chain, images[0]).work
    if work > MOST_WORK:
        raise ConvscopeError(
            f"the singular values of this network's Jacobian would take about {work / 1e12:.0f} million million "
            "multiplications an image: use smaller images"
        )
    few = images[: MOST_WORK // work]
    jacobians = tuple(jacobian_values(Jacobian(chain, image), rank or 32) for image in few)
    depth, c = len(chain.steps), mean_factor(chain)
    bounds = torch.tensor([lower_bound(j.values, depth, c) for j in jacobians], dtype=torch.float64)
    layers = tuple((step.name, *_squares(step)) for step in chain.steps)
    weights, biases = sum(w for _, w, _ in layers), sum(b for *_, b in layers)
    found = rank if rank is not None else max(j.rank for j in jacobians)
    best = jacobians[int(bounds.argmax())]
    balance = balance_residual(chain)
    notes = []
    if len(few) < len(images):
        notes.append(f"The lower bound is that of {len(few)} of {len(images)} images: each takes long.")
    if chain.folded:
        notes.append("Batch norms are folded into the weights: these norms are not what training penalised.")
    if not all(j.complete for j in jacobians):
        notes.append("The Jacobian has more singular values than were looked for: the lower bound could be sharper.")
    if math.isnan(balance):
        notes.append(
            "Whether training converged is unknown: the gates do not keep positive factors, or a layer is zero."
        )
    elif balance > CONVERGED:
        notes.append(
            f"Not converged (balance residual {balance:.2g}, at most {CONVERGED} after training with a penalty on the "
            "norm): cost numbers are unreliable."
        )
    return Cost(
        actual=weights + biases,
        biases=biases,
        layers=layers,
        bounds=bounds,
        jacobians=jacobians,
        rank=found,
        ideal=depth * found / c,
        regularity=2 / c * best.log_determinant,
        balance=balance,
        notes=tuple(notes),
    )


def mean_factor(chain: Chain) -> float:
    """Returns c, the geometric mean of the steps' factors: N for circular convolutions on maps of one size."""
    return math.exp(sum(math.log(step.factor) for step in chain.steps) / len(chain.steps))


def lower_bound(values: Tensor, depth: int, factor: float) -> float:
    """Returns Theorem A's bound (L / c) sum_i s_i^(2 / L).

    Args:
        values: [rank], singular values of the Jacobian.
        depth: L.
        factor: c.
    """
    return depth / factor * float(values.double().pow(2 / depth).sum())


def balance_residual(chain: Chain) -> float:
    """Returns max over layers l of | ||w_l||^2 + ||b_l||^2 - ||w_(l+1)||^2 | / ||w_(l+1)||^2.

    Scaling a layer's weight and bias up and the next one's weight down leaves the function as it is, where gates keep
    positive factors. At a stationary point of a loss plus a penalty on the norm the difference is therefore zero: the
    residual is a test of convergence. NaN where gates do not, or a layer is zero; 0 for a single layer.
    """
    if not all(step.homogeneous for step in chain.steps):
        return math.nan
    norms = [_squares(step) for step in chain.steps]
    if any(weight == 0 for weight, _ in norms[1:]):
        return math.nan
    return max((abs(w + b - after) / after for (w, b), (after, _) in pairwise(norms)), default=0.0)


def _squares(step: Step) -> tuple[float, float]:
    return float(step.weight.square().sum()), 0.0 if step.bias is None else float(step.bias.square().sum())
