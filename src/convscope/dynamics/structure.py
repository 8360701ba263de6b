"""The statistical structure of a data set: the modes that tie classes to pixels, and their frequencies."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from convscope.core.errors import ConvscopeError
from convscope.core.fourier import pairs, partners, signed_frequencies, unitary

LEAST = 1e-3  # of the first singular value: smaller ones are no modes


@dataclass(frozen=True, eq=False)
class DatasetStructure:
    """Correlation of classes with pixels, its singular value decomposition, and the images' second moments.

    With x an image and y its one-hot label, Sigma_yx = E[(y - E y)(x - E x)^T] = U S V^T (Pinson et al. 2023; the
    means stay where the structure is not centred). Means are over images, nothing is rescaled.

    Attributes:
        singular_values: float64 [m], s, falling; those above ``LEAST`` of the first.
        modes: float64 [m, c, h, w], phi, the rows of V^T as images of norm 1.
        class_vectors: float64 [m, o], the columns of U, of norm 1; the largest entry of each is positive.
        cross: float64 [o, c, h, w], Sigma_yx.
        power: complex128 [h, w, c, c], covariance of the channels' unitary Fourier coefficients at each frequency.
        covariance: float64 [c h w, c h w], Sigma_xx; None where it was not asked for, or is too large.
        mean: float64 [c, h, w], mean image.
        counts: int64 [o], images of each class.
        centred: whether means were taken off.
    """

    singular_values: Tensor
    modes: Tensor
    class_vectors: Tensor
    cross: Tensor
    power: Tensor
    covariance: Tensor | None
    mean: Tensor
    counts: Tensor
    centred: bool

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(c, h, w)."""
        c, h, w = self.mean.shape
        return c, h, w

    @property
    def pixels(self) -> int:
        """N = h w."""
        return self.mean.shape[1] * self.mean.shape[2]

    @cached_property
    def spectra(self) -> Tensor:
        """|F phi| at each frequency, float64 [m, h, w]: root of the sum over channels of squares; each sums to 1."""
        return unitary(self.modes).abs().square().sum(1).sqrt()

    @property
    def effective_singular_values(self) -> Tensor:
        """Singular values s sqrt(N) max |F phi|, [m], that a dense network would learn as fast as this CNN does s."""
        return self.singular_values * math.sqrt(self.pixels) * self.spectra.flatten(1).amax(1)

    @property
    def participation_ratio(self) -> Tensor:
        """1 / sum |F phi|^4, float64 [m]: over how many frequencies a mode spreads."""
        return 1 / self.spectra.flatten(1).pow(4).sum(1)

    @cached_property
    def dominant_frequencies(self) -> Tensor:
        """(ky, kx) of each mode in cycles per image, int64 [m, f, 2]: one per conjugate pair, by falling energy."""
        _, h, w = self.image_shape
        places, _ = pairs(h, w)
        order = torch.argsort(self.pair_energies, dim=1, descending=True, stable=True)
        return signed_frequencies(h, w)[places][order]

    @property
    def pair_energies(self) -> Tensor:
        """Energy |F phi|^2 of both frequencies of each pair, float64 [m, f], pairs as in ``core.fourier.pairs``."""
        _, h, w = self.image_shape
        places, multiplicity = pairs(h, w)
        return self.spectra.flatten(1).square()[:, places] * multiplicity

    @cached_property
    def coefficients(self) -> Tensor:
        """sigma_j, complex128 [h, w, o, c]: Sigma_yx at each frequency, unitary transform of its rows."""
        return unitary(self.cross).permute(2, 3, 0, 1)

    @property
    def strengths(self) -> Tensor:
        """||sigma_j|| at each frequency, float64 [h, w]: how much the classes' mean images differ there."""
        return self.coefficients.abs().square().sum((2, 3)).sqrt()

    @property
    def growth_rates(self) -> Tensor:
        """v_j = sqrt(N) times the largest singular value of sigma_j, float64 [h, w].

        The rate, in units of 1 / (learning rate x step), at which a full-width linear CNN with small weights takes a
        frequency up.
        """
        return math.sqrt(self.pixels) * torch.linalg.matrix_norm(self.coefficients, 2)

    def present(self) -> DatasetStructure:
        """Returns the same of the classes that have images, without the rows of zeros of the others."""
        known = self.counts > 0
        return replace(
            self, class_vectors=self.class_vectors[:, known], cross=self.cross[known], counts=self.counts[known]
        )

    def check_covariance(self, what: str) -> Tensor:
        """Returns Sigma_xx.

        Args:
            what: needs it, for the error.

        Raises:
            ConvscopeError: when it is not at hand.
        """
        if self.covariance is None:
            c, h, w = self.image_shape
            raise ConvscopeError(
                f"{what} needs the covariance of all {c * h * w:,} pixels with each other, which is not at hand for "
                f'images of {c}x{h}x{w}: use method="closed-form", or make the images smaller'
            )
        return self.covariance


def alone(structure: DatasetStructure, mode: int) -> DatasetStructure:
    """Returns the structure of data in which one mode of a data set is all there is.

    Sigma_yx = s u phi^T and Sigma_xx = lam phi phi^T, lam = phi^T Sigma_xx phi: the case for which the equation of
    Pinson et al. (2023) is exact.

    Args:
        structure: with its covariance.
        mode: which one, from 0.

    Raises:
        ConvscopeError: when the covariance is not at hand.

    Example:
        >>> images, labels = torch.rand(60, 1, 5, 5), torch.arange(60) % 3
        >>> from convscope.dynamics.collect import dataset_structure
        >>> alone(dataset_structure([(images, labels)]), 1).singular_values.shape
        torch.Size([1])
    """
    own = slice(mode, mode + 1)
    phi = structure.modes[mode].flatten()
    covariance = phi @ structure.check_covariance("a mode alone") @ phi * torch.outer(phi, phi)
    s, u, modes = structure.singular_values[own], structure.class_vectors[own], structure.modes[own]
    return replace(
        structure,
        singular_values=s,
        modes=modes,
        class_vectors=u,
        cross=(s * u.T @ modes.flatten(1)).view_as(structure.cross),
        power=powers(covariance, structure.image_shape),
        covariance=covariance,
    )


@dataclass(frozen=True)
class Diagnostics:
    """How well the theory's assumptions hold on this data; all 0 where they hold exactly.

    Attributes:
        off_diagonal: norm of the off-diagonal part of V^T Sigma_xx V over that of the whole: modes that drive each
            other.
        invariance: ||V^T Sigma_xx - (V^T Sigma_xx V) V^T|| / ||V^T Sigma_xx||: modes that other directions of the
            images drive.
        frequency_coupling: norm of the part of Sigma_xx that ties different frequencies, over that of the whole: 0
            for data whose statistics are the same everywhere in the image.
    """

    off_diagonal: float
    invariance: float
    frequency_coupling: float


def diagnostics(structure: DatasetStructure) -> Diagnostics:
    """Returns how well the theory's assumptions hold.

    Args:
        structure: with its covariance.

    Raises:
        ConvscopeError: when the covariance is not at hand.
    """
    covariance = structure.check_covariance("what the theory assumes")
    v = structure.modes.flatten(1)
    seen = v @ covariance
    inner = seen @ v.T
    between = inner - torch.diag(inner.diagonal())
    # The Fourier transform is unitary: norms are those of Sigma_xx, and of its blocks on the diagonal.
    whole, kept = covariance.square().sum(), structure.power.abs().square().sum()
    return Diagnostics(
        off_diagonal=float(between.norm() / inner.norm()),
        invariance=float((seen - inner @ v).norm() / seen.norm()),
        frequency_coupling=math.sqrt(max(1 - float(kept / whole), 0.0)),
    )


def decompose(
    cross: Tensor, power: Tensor, covariance: Tensor | None, mean: Tensor, counts: Tensor, centred: bool
) -> DatasetStructure:
    """Returns the structure from its moments, whose meaning is that of the attributes of ``DatasetStructure``.

    Raises:
        ConvscopeError: when no class differs from another in any pixel.
    """
    known = counts > 0  # rows of other classes are 0
    rows, s, v = torch.linalg.svd(cross.flatten(1)[known], full_matrices=False)
    u = rows.new_zeros(len(cross), rows.shape[1])
    u[known] = rows
    scale = torch.finfo(torch.float64).eps * math.sqrt(float(power.diagonal(dim1=2, dim2=3).sum().real.clamp(min=0)))
    keep = s > max(LEAST * float(s[0]), 16 * scale)
    if not keep.any():
        raise ConvscopeError(
            "classes and pixels are not correlated at all: images must not be constant, and those of at least two "
            "classes must differ in their means"
        )
    u, s, v = u[:, keep].T, s[keep], v[keep]
    sign = u.gather(1, u.abs().argmax(1, keepdim=True)).sign()
    return DatasetStructure(
        s, (v * sign).unflatten(1, mean.shape), u * sign, cross, power, covariance, mean, counts, centred
    )


def powers(covariance: Tensor, shape: Sequence[int]) -> Tensor:
    """Returns the channels' covariances at each frequency, complex128 [h, w, c, c], from those of all pixels.

    Args:
        covariance: float64 [c h w, c h w].
        shape: (c, h, w).
    """
    c, h, w = shape
    y, x = torch.cartesian_prod(torch.arange(h), torch.arange(w)).unbind(1)
    lag = (y[:, None] - y) % h * w + (x[:, None] - x) % w
    # The energy at a frequency is the transform of the sum over all pairs of pixels as far apart.
    blocks = covariance.unflatten(1, (c, h * w)).unflatten(0, (c, h * w)).transpose(1, 2).flatten(2)
    sums = covariance.new_zeros(c, c, h * w).index_add_(2, lag.flatten(), blocks)
    return torch.fft.fft2(sums.unflatten(2, (h, w))).permute(2, 3, 0, 1) / (h * w)


def mirrored(half: Tensor, w: int) -> Tensor:
    """Returns the whole of a covariance of Fourier coefficients [h, w // 2 + 1, c, c] of real images, [h, w, c, c]."""
    h, c = half.shape[0], half.shape[2]
    whole = half.new_zeros(h, w, c, c)
    whole[:, : half.shape[1]] = half
    rest = slice(half.shape[1], w)
    other = partners(h, w).unflatten(0, (h, w))[:, rest]
    whole[:, rest] = whole.flatten(0, 1)[other].conj()
    return whole
