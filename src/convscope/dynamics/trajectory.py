"""What a prediction of the dynamics holds: mode strengths over time, and when each mode is half learned."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, eq=False)
class Trajectory:
    """Predicted learning of a data set's modes.

    Time t is learning rate times steps of gradient descent on L = 1 / (2 n) sum over images and outputs of
    (y - yhat)^2; see ``steps_of`` for other losses and momentum.

    Attributes:
        times: float64 [T].
        mode_strengths: float64 [T, m], a = u^T E[yhat x^T] phi, in the unit of the singular values, which are what a
            mode's strength becomes when it is learned.
        half_times: float64 [m], first time at which a mode has half its singular value; inf where it is not reached.
        method: that predicted it.
        maps: float64 [m, o, c, h, w], the network's linear map B at each half-time (NaN where there is none); None
            where the method has no map.
        final: float64 [o, c, h, w], B at the end; None where the method has no map.
    """

    times: Tensor
    mode_strengths: Tensor
    half_times: Tensor
    method: str
    maps: Tensor | None = None
    final: Tensor | None = None


def steps_of(
    times: Tensor,
    lr: float,
    *,
    momentum: float = 0.0,
    outputs: int | None = None,
) -> Tensor:
    """Returns how many steps of SGD a time stands for.

    Args:
        times: t, any shape.
        lr: learning rate.
        momentum: mu, of heavy-ball momentum: each step then moves 1 / (1 - mu) times as far in the long run.
        outputs: o, where the loss is ``torch.nn.MSELoss``, a mean over outputs without the factor 1/2; None: the loss
            of ``Trajectory``. For the cross-entropy, the latter holds near the start only.

    Raises:
        ValueError: for a learning rate that is not positive, momentum outside [0, 1), or outputs below 1.

    Example:
        >>> import torch
        >>> steps_of(torch.tensor([2.0]), 0.1, momentum=0.9)
        tensor([2.])
    """
    if not lr > 0:
        raise ValueError(f"the learning rate must be positive, got {lr}")
    if not 0 <= momentum < 1:
        raise ValueError(f"momentum must be in [0, 1), got {momentum}")
    if outputs is not None and outputs < 1:
        raise ValueError(f"outputs must be at least 1, got {outputs}")
    return times * ((1 - momentum) / lr * (1 if outputs is None else outputs / 2))
