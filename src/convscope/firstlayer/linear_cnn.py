"""Exact gradient-descent dynamics of the linear CNN with global average pooling and a fixed head."""

from __future__ import annotations

import torch
from torch import Tensor

from convscope.firstlayer.prediction import discrete_growth

# Output modes whose gain is below this share of the largest receive no signal.
_NO_GAIN = 1e-12


def linear_cnn_change(
    second_moment: Tensor,
    cross_moment: Tensor,
    head: Tensor,
    init: Tensor,
    lr: float,
    steps: int,
    *,
    weight_decay: float = 0.0,
) -> Tensor:
    """Returns the change of the filters of a linear CNN after full-batch gradient descent, in closed form.

    The network is ``yhat_c = sum_k a_kc w_k . pbar`` with pbar the average patch of an image and a fixed head ``a``;
    the loss is ``mean_n |y - yhat|^2 / 2 + kappa |W|^2 / 2`` (for the plain mean squared error double ``lr``).
    With ``a^T a = V diag(s) V^T`` and ``A = Q diag(mu) Q^T`` the modes ``G = V^T a^T W Q`` follow
    ``G(t) = (1 - eta x)^t G(0) + [1 - (1 - eta x)^t] s V^T B Q / x`` with ``x = s mu + kappa``, and the part of W that
    the head does not see decays. This is the exact form of Chowers & Weiss (2023), Theorem 4.2: no assumption on
    patches or labels, any initial weights, several outputs and weight decay. With one output every filter moves
    along one direction, so the change has rank one.

    Args:
        second_moment: [d, d], A = E[pbar pbar^T], the uncentred second moment of the average patch.
        cross_moment: [o, d], B = E[y pbar^T].
        head: [k, o], a.
        init: [k, d], W(0).
        lr: learning rate eta.
        steps: number of steps t.
        weight_decay: kappa, in the unit of A.

    Returns:
        float64 [k, d], W(t) - W(0).

    Raises:
        ValueError: when shapes do not fit.

    Example:
        >>> a, b = torch.eye(2), torch.tensor([[1.0, 2.0]])
        >>> linear_cnn_change(a, b, torch.ones(1, 1), torch.zeros(1, 2), lr=0.1, steps=10000)
        tensor([[1., 2.]], dtype=torch.float64)
    """
    d, (filters, outputs) = second_moment.shape[-1], head.shape
    if second_moment.shape != (d, d) or cross_moment.shape != (outputs, d) or init.shape != (filters, d):
        raise ValueError(
            "expected second_moment [d, d], cross_moment [o, d], head [k, o] and init [k, d], got "
            f"{tuple(second_moment.shape)}, {tuple(cross_moment.shape)}, {tuple(head.shape)}, {tuple(init.shape)}"
        )
    a, w0 = head.to(torch.float64), init.to(torch.float64)
    mu, q = torch.linalg.eigh(second_moment.to(torch.float64))
    s, v = torch.linalg.eigh(a.T @ a)
    s = s.clamp(min=0.0)
    inverse = torch.where(s > _NO_GAIN * s.max(), 1 / s, 0.0)
    modes = a @ v * inverse  # P: from output modes back to filters
    start = v.T @ a.T @ w0 @ q
    drive = s[:, None] * (v.T @ cross_moment.to(torch.float64) @ q)
    x = s[:, None] * mu + weight_decay
    # G(t) - G(0): both the decay of the start and the answer to the drive are this factor times something constant.
    growth = lr * discrete_growth(lr * x, steps)
    change = growth * (drive - x * start)
    unseen = w0 - modes @ start @ q.T
    decay = lr * weight_decay * discrete_growth(torch.tensor(lr * weight_decay, dtype=torch.float64), steps)
    return modes @ change @ q.T - decay * unseen
