"""A residual block as a linear map at each frequency, with its gates at their mean rates."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from convscope.bottleneck.interventions import module_outputs
from convscope.bottleneck.operators import ConvOperator
from convscope.core.network import Network


@dataclass(frozen=True, eq=False)
class ResidualMap:
    """What a residual block does to each frequency, to first order.

    Attributes:
        branch: complex128 [f, k, k], T2(w) diag(gates) T1(w).
        frequencies: int64 [f, 2], (ky, kx) in cycles per image, one of each conjugate pair.
        multiplicity: int64 [f], for how many frequencies each stands.
    """

    branch: Tensor
    frequencies: Tensor
    multiplicity: Tensor

    @property
    def whole(self) -> Tensor:
        """I + branch, complex128 [f, k, k]."""
        return self.branch + torch.eye(self.branch.shape[-1], dtype=self.branch.dtype)

    @property
    def branch_values(self) -> Tensor:
        """Singular values of the branch, descending at each frequency, float64 [f, k]."""
        return torch.linalg.svdvals(self.branch)

    @property
    def whole_values(self) -> Tensor:
        """Singular values of the block, descending at each frequency, float64 [f, k]: about 1 where it only passes."""
        return torch.linalg.svdvals(self.whole)


def residual_map(first: ConvOperator, second: ConvOperator, gates: Tensor) -> ResidualMap:
    """Returns the linear map of x + conv2(relu(conv1(x))), its rectifiers replaced by their mean rates.

    Where what the rectifiers see is jointly Gaussian with the input, this is the best linear prediction of the block's
    output (Bussgang 1952: a rectifier's gain is how often it is open), up to rates that differ between positions.
    Batch norms are folded into the operators by their ``scaled``; what follows the sum is no part of the map.

    Args:
        first: the branch's first convolution, of stride 1.
        second: its second, which returns as many channels as the first takes.
        gates: float [channels between], how often each is open, from 0 to 1 (``gate_rates``).

    Raises:
        ValueError: when the three do not fit each other, or the block changes channels or size.

    Example:
        >>> same = ConvOperator.of(torch.nn.Conv2d(2, 2, 1), 4)
        >>> residual_map(same, same, torch.zeros(2)).whole_values.unique().tolist()
        [1.0]
    """
    a, b = first, second
    if a.grid != b.grid or a.coarse != a.grid or b.coarse != b.grid or a.transposed or b.transposed:
        raise ValueError(f"both convolutions need stride 1 and maps of one size, got {a.grid} and {b.grid}")
    if a.weight.shape[0] != b.geometry.channels or b.weight.shape[0] != a.geometry.channels:
        raise ValueError(
            f"the branch takes {a.geometry.channels} channels, passes {a.weight.shape[0]} to a convolution of "
            f"{b.geometry.channels} and returns {b.weight.shape[0]}: a block whose input is added needs as many back"
        )
    if gates.shape != (a.weight.shape[0],):
        raise ValueError(f"expected a rate for each of {a.weight.shape[0]} channels, got {list(gates.shape)}")
    frequencies, multiplicity = a.half_plane
    rates = gates.detach().to("cpu", torch.complex128)
    branch = _matrices(b, frequencies) @ (rates[:, None] * _matrices(a, frequencies))
    return ResidualMap(branch, frequencies, multiplicity)


def gate_rates(network: Network, layer: str, images: Tensor) -> Tensor:
    """Returns how often the rectifier after a module is open, float64 [k]: the share of positive outputs by channel.

    Args:
        network: left as it was found.
        layer: name of the module whose output the rectifier sees, such as a batch norm.
        images: [n, c, h, w], as the network's ``prepare`` takes them.

    Raises:
        ConvscopeError: when there is no such module, or it does not run once an image.
    """
    return sum((maps > 0).double().mean((2, 3)).sum(0).cpu() for _, maps in module_outputs(network, layer, images)) / (
        torch.tensor(len(images), dtype=torch.float64)
    )


def _matrices(operator: ConvOperator, frequencies: Tensor) -> Tensor:
    """Returns the whole matrix of all groups at each frequency, complex128 [f, k, c]."""
    blocks = operator.blocks(frequencies)
    return blocks[:, 0] if operator.groups == 1 else torch.stack([torch.block_diag(*block) for block in blocks])
