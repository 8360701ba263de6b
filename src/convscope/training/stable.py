"""A learning rate at which gradient descent does not diverge."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from convscope.core.batches import mix
from convscope.training.loop import Loss, squared_error

_LOOKED = 256  # images from which the curvature of the loss is taken
_POWERS = 12  # iterations of the power method


def stable_lr(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    rate: float,
    share: float,
    momentum: float = 0.0,
    loss: Loss = "squared",
) -> float:
    """Returns a learning rate at which gradient descent does not diverge: share (1 - momentum) / curvature.

    Descent diverges above 2 / curvature, the largest second derivative of the loss along any direction of the weights.
    That is the rate at which small weights grow while they are small, about twice that rate once a linear network has
    learned, and more where initial weights are large: the larger of the rate and of the curvature at the start is
    taken.

    Args:
        model: at its start; it is left as found.
        images: [n, c, h, w], as the model takes them.
        labels: int64 [n].
        rate: at which a linear network's small weights grow on this data, per unit of time.
        share: 1 is about the fastest that is stable.
        momentum: of SGD.
        loss: as ``train`` takes it.
    """
    chosen = mix(1, torch.arange(len(images))).argsort()[:_LOOKED]
    device = next(model.parameters()).device
    x, y = images[chosen].to(device), labels[chosen].to(device)
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    training = model.training
    model.eval()
    try:
        value = squared_error(model(x), y) if loss == "squared" else F.cross_entropy(model(x), y)
        curvature = sharpness(value, weights)
    finally:
        model.train(training)
    return share * (1 - momentum) / max(rate, curvature)


def sharpness(value: Tensor, weights: Sequence[Tensor]) -> float:
    """Returns the largest size of a second derivative of a value along any direction of weights, by the power method.

    Gradient descent on the value is stable below a learning rate of 2 over it.

    Args:
        value: scalar, computed from the weights.
        weights: that it is differentiated by.

    Example:
        >>> w = torch.tensor([1.0, 2.0], requires_grad=True)
        >>> round(sharpness((w.square() * torch.tensor([1.0, 3.0])).sum(), [w]), 3)
        6.0
    """
    gradients = torch.autograd.grad(value, weights, create_graph=True)
    generator = torch.Generator().manual_seed(0)
    along = [torch.randn(weight.shape, generator=generator).to(weight) for weight in weights]
    found = 0.0
    for _ in range(_POWERS):
        norm = math.sqrt(sum(float(part.square().sum()) for part in along))
        if not norm:
            break
        along = [part / norm for part in along]
        along = list(torch.autograd.grad(gradients, weights, along, retain_graph=True))
        found = math.sqrt(sum(float(part.square().sum()) for part in along))
    return found
