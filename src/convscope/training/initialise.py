"""Untrained twins: what a network was, or would be, before training."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from convscope.core.network import Network
from convscope.core.taps import device_and_dtype, left_as_found


def reinitialised(module: nn.Module, seed: int = 0) -> nn.Module | None:
    """Returns a copy of a network with freshly drawn weights, or None where it does not say how to draw them.

    Every layer is asked to ``reset_parameters``. Where a weight of two or more axes belongs to a layer that cannot,
    there is no honest twin.

    Args:
        module: any network; it is not changed.
        seed: of the random numbers; the random state is left as it was.
    """
    try:
        twin = copy.deepcopy(module)
    except Exception:
        return None
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for part in twin.modules():
            reset = getattr(part, "reset_parameters", None)
            if callable(reset):
                reset()
            elif any(p.ndim > 1 for p in part.parameters(recurse=False)):
                return None
    return twin


@torch.no_grad()
def calibrate_(network: Network, images: Tensor) -> None:
    """Sets the statistics of a network's batch norms to those of some images, in place; modes stay as they are.

    A fresh network's running statistics are 0 and 1; in evaluation mode a deep one then explodes.

    Args:
        network: whose module is to be calibrated.
        images: [n, c, h, w] as the source gives them; with fewer than two nothing is done.
    """
    norms = [m for m in network.module.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
    if not norms or len(images) < 2:
        return
    device, dtype = device_and_dtype(network.module)
    momenta = [m.momentum for m in norms]
    modes = [(part, part.training) for part in network.module.modules()]
    try:
        with left_as_found([]):
            for part, _ in modes:
                part.training = False
            for norm in norms:
                norm.reset_running_stats()
                norm.momentum, norm.training = None, True
            network.module(network.prepare(images.to(device)).to(dtype))
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        for part, mode in modes:
            part.training = mode
