"""The structure of a convolution itself, and how it lies to that of the data: which modes it lets pass."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from convscope.core.fourier import pairs, signed_frequencies, unitary
from convscope.dynamics.linear import LinearCNN
from convscope.dynamics.structure import DatasetStructure

LARGEST = 4096  # pixels times channels, of a convolution with zero padding whose matrix is decomposed


@dataclass(frozen=True, eq=False)
class Interplay:
    """Singular value decomposition of a network's convolutions, beside a data set's modes (Pinson et al. 2023).

    With circular padding, singular vectors are cosines and sines, and only the singular values learn: sqrt(N) |r_j|
    for one filter. A mode is learned through those directions of the network in which its energy lies.

    Attributes:
        singular_values: float64 [r], of the convolutions as one linear map of images, falling.
        frequencies: int64 [r, 2], (ky, kx) in cycles per image of each singular direction; its strongest where it has
            several.
        multiplicity: int64 [r], directions that an entry stands for: 2 for the cosine and the sine of one frequency.
        overlap: float64 [m, r], share of each mode's energy in each direction; rows sum to 1 where the network has as
            many directions as images have pixels.
    """

    singular_values: Tensor
    frequencies: Tensor
    multiplicity: Tensor
    overlap: Tensor

    @property
    def gains(self) -> Tensor:
        """||C phi||, float64 [m]: how strongly the convolutions pass each mode on."""
        return (self.overlap @ self.singular_values.square()).sqrt()

    @property
    def captured(self) -> Tensor:
        """Share of each mode's energy in the network's first directions, float64 [m, r], rising along r."""
        return self.overlap.cumsum(1)


def interplay(structure: DatasetStructure, network: LinearCNN) -> Interplay:
    """Returns how the structure of a network's convolutions lies to that of the data.

    Args:
        structure: of the data set.
        network: at its start, or with any other weights.

    Raises:
        ValueError: where images and network do not fit, or a convolution with zero padding is too large to decompose.

    Example:
        >>> from convscope.dynamics.collect import dataset_structure
        >>> images, labels = torch.rand(60, 1, 5, 5), torch.arange(60) % 3
        >>> structure = dataset_structure([(images, labels)])
        >>> found = interplay(structure, LinearCNN.drawn((1, 5, 5), 3, init_std=1.0))
        >>> found.overlap.sum(1).round(decimals=6)
        tensor([1., 1.], dtype=torch.float64)
    """
    c = structure.image_shape[0]
    if network.kernels[0].shape[1] != c:
        raise ValueError(f"the network takes {network.kernels[0].shape[1]} channels, but images have {c}")
    found = _circular(structure, network) if network.padding == "circular" else _matrix(structure, network)
    order = found.singular_values.argsort(descending=True, stable=True)
    return Interplay(
        found.singular_values[order], found.frequencies[order], found.multiplicity[order], found.overlap[:, order]
    )


def _circular(structure: DatasetStructure, network: LinearCNN) -> Interplay:
    h, w = structure.image_shape[1:]
    places, multiplicity = pairs(h, w)
    product = torch.eye(network.kernels[0].shape[1], dtype=torch.complex128)
    for kernel in network.kernels:  # anchors only turn phases
        spectrum = torch.fft.fft2(kernel, (h, w)).flatten(2).permute(2, 0, 1)[places]
        product = spectrum.conj() @ product
    _, s, vh = torch.linalg.svd(product, full_matrices=False)
    modes = unitary(structure.modes).flatten(2)[..., places]  # [m, c, f]
    overlap = torch.einsum("fic,mcf->mfi", vh, modes).abs().square() * multiplicity[:, None]
    rank = s.shape[1]
    frequencies = signed_frequencies(h, w)[places].repeat_interleave(rank, 0)
    return Interplay(s.flatten(), frequencies, multiplicity.repeat_interleave(rank), overlap.flatten(1))


def convolution_matrix(network: LinearCNN, image_shape: tuple[int, int, int]) -> Tensor:
    """Returns the matrix [k h' w', c h w] of a network's one convolution: what it makes of images of one bright pixel.

    Args:
        network: with one convolution, padded as it is.
        image_shape: (c, h, w).

    Raises:
        ValueError: when it is too large.

    Example:
        >>> network = LinearCNN.drawn((1, 4, 4), 2, init_std=1.0, kernel_size=3, padding="zeros")
        >>> convolution_matrix(network, (1, 4, 4)).shape
        torch.Size([16, 16])
    """
    (kernel,), size = network.kernels, math.prod(image_shape)
    if size > LARGEST:
        raise ValueError(
            f"a convolution of images with {size:,} numbers is too large to decompose as a matrix (at most "
            f"{LARGEST:,}): make images smaller, or use circular padding"
        )
    (q, r), (rows, columns) = kernel.shape[2:], network.head.shape[2:]
    top, left = network.before
    around = (left, columns + r - 1 - image_shape[2] - left, top, rows + q - 1 - image_shape[1] - top)
    mode = "circular" if network.padding == "circular" else "constant"
    images = torch.eye(size, dtype=torch.float64).view(size, *image_shape)
    answers = torch.cat([F.conv2d(F.pad(part, around, mode), kernel) for part in images.split(256)])
    return answers.flatten(1).T


def _matrix(structure: DatasetStructure, network: LinearCNN) -> Interplay:
    shape = structure.image_shape
    _, s, vh = torch.linalg.svd(convolution_matrix(network, shape), full_matrices=False)
    energy = unitary(vh.view(-1, *shape)).abs().square().sum(1).flatten(1)
    frequencies = signed_frequencies(*shape[1:])[energy.argmax(1)]
    return Interplay(s, frequencies, torch.ones_like(frequencies[:, 0]), (structure.modes.flatten(1) @ vh.T).square())
