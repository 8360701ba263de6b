"""How much of what grows first is in a linear CNN's initial weights, at each frequency."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from convscope.core.fourier import signed_frequencies, unitary
from convscope.dynamics.linear import LinearCNN


@dataclass(frozen=True, eq=False)
class Start:
    """Transforms of the initial weights of a linear CNN with full-width kernels and circular padding.

    Attributes:
        kernels: complex128 [h w, k, c], unitary transforms of the kernels, anchored as the layer is.
        head: complex128 [h w, o, k], those of the linear layer's weights.
    """

    kernels: Tensor
    head: Tensor

    @classmethod
    def of(cls, network: LinearCNN) -> Start:
        """Returns the transforms.

        Raises:
            ValueError: for kernels smaller than the images, zero padding, or more than one convolution.
        """
        h, w = network.head.shape[2:]
        full = len(network.kernels) == 1 and network.kernels[0].shape[2:] == (h, w) and network.padding == "circular"
        if not full:
            raise ValueError(
                "this method is for two layers with circular padding and kernels as large as the images, where every "
                'frequency learns by itself: use method="exact"'
            )
        ky, kx = signed_frequencies(h, w).double().unbind(1)
        # Kernels begin ``before`` pixels above and to the left of the pixel that they belong to.
        turn = 2 * math.pi * (ky * network.before[0] / h + kx * network.before[1] / w)
        phase = torch.polar(torch.ones_like(turn), turn)
        kernels = unitary(network.kernels[0]).flatten(2).permute(2, 0, 1) * phase[:, None, None]
        return cls(kernels, unitary(network.head).flatten(2).permute(2, 0, 1))

    def growing(self, places: Tensor, outputs: Tensor, inputs: Tensor) -> Tensor:
        """Returns the squared amplitudes q of what grows along pairs of directions, float64 [f, i].

        With g = u sigma v^H at a frequency, the amplitude (r v + (u^H w)^H) / 2 over all kernels grows as
        exp(sqrt(N) sigma t), and the rest decays.

        Args:
            places: int64 [f], of the frequencies.
            outputs: complex128 [f, o, i], u.
            inputs: complex128 [f, c, i], v.
        """
        kernels, head = self.kernels[places], self.head[places]
        amplitude = (kernels @ inputs + (outputs.mH @ head).mH) / 2  # [f, k, i]
        return amplitude.abs().square().sum(1)
