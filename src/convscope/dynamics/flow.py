"""Gradient flow of linear networks on the mean squared error, from the data's second moments alone."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from convscope.dynamics.linear import Dense, LinearCNN
from convscope.dynamics.structure import DatasetStructure

Weights = tuple[Tensor, ...]


class Flow(Protocol):
    """A network's linear map, and how gradient descent moves its weights.

    The loss is L = 1 / (2 n) sum over images and outputs of (y - yhat)^2, and time is learning rate times steps.
    """

    def effective(self, weights: Weights) -> Tensor:
        """Returns B, float64 [o, c, h, w], the map from images to outputs."""
        ...

    def velocity(self, weights: Weights, gradient: Tensor) -> Weights:
        """Returns the weights' derivatives in time, from -dL/dB = Sigma_yx - B Sigma_xx, [o, c, h, w]."""
        ...


class DenseFlow:
    """Flow of two linear layers (Saxe et al. 2014)."""

    def __init__(self, network: Dense, image_shape: tuple[int, int, int]) -> None:
        self._shape = image_shape

    def effective(self, weights: Weights) -> Tensor:
        """Returns W2 W1 as images."""
        first, second = weights
        return (second @ first).unflatten(1, self._shape)

    def velocity(self, weights: Weights, gradient: Tensor) -> Weights:
        """Returns W2^T G and G W1^T."""
        first, second = weights
        g = gradient.flatten(1)
        return second.T @ g, g @ first.T


class ConvFlow:
    """Flow of a linear CNN, by Fourier transforms: at each frequency, layers are matrices.

    With r and w the unnormalised transforms of kernels and of the linear layer, that of B is w r_L ... r_1, and the
    derivatives are those of a product of matrices. With circular padding and kernels as large as the image, this is
    N dense networks, coupled through Sigma_xx alone. Smaller kernels leave out what lies beyond them; zero padding is
    a circular convolution on a larger canvas.
    """

    def __init__(self, network: LinearCNN, image_shape: tuple[int, int, int]) -> None:
        h, w = image_shape[1:]
        q, r = network.kernels[0].shape[2:]
        rows, columns = network.head.shape[2:]
        self._image, self._maps, self._kernel = (h, w), (rows, columns), (q, r)
        self._canvas = (h, w) if network.padding == "circular" else (max(rows + q - 1, h), max(columns + r - 1, w))
        layers = len(network.kernels)
        self._shift = (layers * network.before[0], layers * network.before[1])

    def effective(self, weights: Weights) -> Tensor:
        """Returns the kernels and the linear layer convolved with each other."""
        product = self._spectrum(weights[-1])
        for kernel in reversed(weights[:-1]):
            product = product @ self._spectrum(kernel)
        whole = self._image_of(product).roll((-self._shift[0], -self._shift[1]), (-2, -1))
        return whole[..., : self._image[0], : self._image[1]]

    def velocity(self, weights: Weights, gradient: Tensor) -> Weights:
        """Returns, for layer l of the product, the conjugate of what stands before it, times G, times that after."""
        canvas = gradient.new_zeros(*gradient.shape[:2], *self._canvas)
        canvas[..., : self._image[0], : self._image[1]] = gradient
        g = torch.fft.rfft2(canvas.roll(self._shift, (-2, -1))).permute(2, 3, 0, 1)
        factors = [self._spectrum(x) for x in weights]
        after = [g]  # G times the adjoint of the first layers
        for factor in factors[:-1]:
            after.append(after[-1] @ factor.mH)
        moved = [self._image_of(after[-1])[..., : self._maps[0], : self._maps[1]]]
        before = None  # the adjoint of the last layers
        for layer in range(len(factors) - 2, -1, -1):
            before = factors[layer + 1].mH if before is None else factors[layer + 1].mH @ before
            moved.append(self._image_of(before @ after[layer])[..., : self._kernel[0], : self._kernel[1]])
        return tuple(reversed(moved))

    def _spectrum(self, x: Tensor) -> Tensor:
        """Returns [rows, columns // 2 + 1, k, c] of weights [k, c, ...]."""
        return torch.fft.rfft2(x, s=self._canvas).permute(2, 3, 0, 1)

    def _image_of(self, spectrum: Tensor) -> Tensor:
        return torch.fft.irfft2(spectrum.permute(2, 3, 0, 1), s=self._canvas)


def flow_of(network: LinearCNN | Dense, image_shape: tuple[int, int, int]) -> Flow:
    """Returns the flow of a network on images of this shape."""
    return ConvFlow(network, image_shape) if isinstance(network, LinearCNN) else DenseFlow(network, image_shape)


def pull(structure: DatasetStructure, effective: Tensor) -> Tensor:
    """Returns Sigma_yx - B Sigma_xx, float64 [o, c, h, w]: minus the gradient of the loss with respect to B.

    Args:
        structure: with its covariance.
        effective: B, [o, c, h, w].

    Raises:
        ConvscopeError: when the covariance is not at hand.
    """
    covariance = structure.check_covariance("the exact dynamics")
    return structure.cross - (effective.flatten(1) @ covariance).view_as(effective)


def strengths_of(structure: DatasetStructure, correlation: Tensor) -> Tensor:
    """Returns a_m = u_m^T C phi_m, float64 [m], of correlations C of outputs with pixels [o, c, h, w].

    Example:
        >>> from convscope.dynamics.collect import dataset_structure
        >>> data = torch.rand(50, 1, 5, 5, generator=torch.Generator().manual_seed(0)), torch.arange(50) % 3
        >>> structure = dataset_structure([data])
        >>> bool(torch.allclose(strengths_of(structure, structure.cross), structure.singular_values))
        True
    """
    return ((structure.class_vectors @ correlation.flatten(1)) * structure.modes.flatten(1)).sum(1)
