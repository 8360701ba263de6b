"""Kept pairs: the directions in channel space that a convolution keeps at each frequency."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, Self

import torch
from torch import Tensor

from convscope.bottleneck.operators import ConvOperator
from convscope.core.errors import ConvscopeError
from convscope.core.fourier import pairs as half_plane
from convscope.core.fourier import signed_frequencies, unitary

if TYPE_CHECKING:
    from convscope.bottleneck.spectrum import ActivationSpectrum

_TOGETHER = 256  # pairs, which bounds the memory that many of them take


@dataclass(frozen=True, eq=False)
class KeptPairs:
    """Pairs of a frequency and a unit direction in the space of a convolution's output channels.

    Directions at one frequency are orthonormal; those of nearly equal strengths are known only up to a unitary mixture
    of them, and each only up to its phase.

    Attributes:
        size: (h, w) of the convolution's output.
        frequencies: int64 [m, 2], (ky, kx) in cycles per image, of the half-plane of ``core.fourier.pairs``.
        multiplicity: int64 [m], for how many frequencies each stands: 2, or 1 for those that are their own conjugate.
        number: int64 [m], the place of the pair among those at its frequency, from 0.
        strength: float64 [m]. From weights: singular values. From activations: standard deviations of the latents.
        directions: complex128 [m, k], unit vectors u; real where the multiplicity is 1.
        scale: float64 [k], what each channel is multiplied by before it has a direction: gamma / sigma of a batch
            norm that follows, or 1.
        source: where the directions come from.
    """

    size: tuple[int, int]
    frequencies: Tensor
    multiplicity: Tensor
    number: Tensor
    strength: Tensor
    directions: Tensor
    scale: Tensor
    source: Literal["weights", "activations"]

    def __len__(self) -> int:
        return len(self.strength)

    def __getitem__(self, where: Tensor | slice) -> Self:
        """Returns the pairs that an index, a mask or a slice selects."""
        names = ("frequencies", "multiplicity", "number", "strength", "directions")
        return replace(self, **{name: getattr(self, name)[where] for name in names})

    @property
    def places(self) -> Tensor:
        """The place of each pair's frequency in a transform whose rows are joined, int64 [m]."""
        ky, kx = (self.frequencies % torch.tensor(self.size)).unbind(1)
        return ky * self.size[1] + kx

    @property
    def rank(self) -> int:
        """Real dimensions that the pairs span: two for each with multiplicity 2."""
        return int(self.multiplicity.sum())

    def latents(self, maps: Tensor) -> Tensor:
        """Returns c = u^H (scale z^(w)) of each pair, complex128 [n, m]; real where the multiplicity is 1.

        Args:
            maps: [n, k, h, w], what the convolution puts out.

        Raises:
            ConvscopeError: for maps of another shape.
        """
        expected = (len(self.scale), *self.size)
        if maps.shape[1:] != expected:
            raise ConvscopeError(
                f"maps are {list(maps.shape[1:])}, but the pairs are of maps {list(expected)}: use images of the size "
                "for which the pairs were computed"
            )
        spectrum = unitary(maps.to("cpu", torch.float64)).flatten(2)
        readers = self.directions.conj() * self.scale
        found = torch.cat(
            [
                torch.einsum("nkm,mk->nm", spectrum[:, :, self.places[some]], readers[some])
                for some in torch.arange(len(self)).split(_TOGETHER)
            ],
            1,
        )
        return torch.where(self.multiplicity == 1, found.real.to(found.dtype), found)

    def maps(self, latents: Tensor) -> Tensor:
        """Returns the real maps [n, k, h, w] that have these latents and nothing else, in their precision.

        Channels of scale 0, which nothing after them sees, stay 0.

        Args:
            latents: complex [n, m].
        """
        h, w = self.size
        inverse = torch.where(self.scale == 0, 0.0, 1 / self.scale)
        # Each pair stands for its conjugate too, which the real part below adds.
        writers = (self.directions * inverse * self.multiplicity[:, None]).to(latents)
        places = self.places.to(latents.device)
        spectrum = torch.zeros(h * w, len(latents), len(self.scale), dtype=latents.dtype, device=latents.device)
        for some in torch.arange(len(self)).split(_TOGETHER):
            spectrum.index_add_(0, places[some], torch.einsum("nm,mk->mnk", latents[:, some], writers[some]))
        return torch.fft.ifft2(spectrum.permute(1, 2, 0).unflatten(2, (h, w)), norm="ortho").real

    def maps_like(self, maps: Tensor, latents: Tensor) -> Tensor:
        """Returns ``self.maps(latents)`` on the device and in the precision of some maps."""
        kind = torch.complex128 if maps.dtype == torch.float64 else torch.complex64
        return self.maps(latents.to(maps.device, kind)).to(maps.dtype)


def weight_pairs(operator: ConvOperator, profile: Tensor, scale: Tensor | None = None) -> KeptPairs:
    """Returns the leading left singular vectors of a convolution's blocks, strongest first.

    Args:
        operator: the convolution on a torus, no batch norm folded in.
        profile: int64 [f], how many to take at each frequency of the operator's half-plane, as ``cbn_rank`` gives it.
        scale: float [k], of the output channels, such as gamma / sigma of a batch norm that follows; None: 1.

    Raises:
        ConvscopeError: for a transposed convolution, whose outputs at one frequency are several frequencies.
        ValueError: when the profile does not fit the operator.

    Example:
        >>> conv = torch.nn.Conv2d(2, 4, 1)
        >>> operator = ConvOperator.of(conv, 4)
        >>> found = weight_pairs(operator, torch.tensor([2, 1, 0, 0, 0, 0, 0, 0, 0, 0]))
        >>> found.rank, sorted(found.frequencies.tolist())
        (4, [[0, 0], [0, 0], [0, 1]])
    """
    if operator.transposed:
        raise ConvscopeError("a transposed convolution spreads a frequency over several: its pairs cannot be had")
    frequencies, multiplicity = operator.half_plane
    factor = torch.ones(len(operator.weight), dtype=torch.float64) if scale is None else scale.detach().cpu().double()
    most = operator.groups * min(operator.block_shape)
    if profile.shape != multiplicity.shape or int(profile.min()) < 0 or int(profile.max()) > most:
        raise ValueError(f"the profile must hold a number from 0 to {most} for each of {len(multiplicity)} frequencies")
    kept = torch.nonzero(profile)[:, 0]
    blocks = operator.scaled(factor).blocks(frequencies[kept])
    gram = _as_real_where(blocks @ blocks.mH, multiplicity[kept])  # [f, g, k / g, k / g]
    # The Gram matrix loses digits of small singular values only; kept ones are large, and its size is that of u alone.
    f, g, o = gram.shape[:3]
    whole = torch.zeros(f, g * o, g * o, dtype=gram.dtype)
    for group in range(g):
        whole[:, group * o : (group + 1) * o, group * o : (group + 1) * o] = gram[:, group]
    return _leading(operator.coarse, frequencies[kept], multiplicity[kept], whole, profile[kept], factor, "weights")


def activation_pairs(
    spectrum: ActivationSpectrum, share: float = 0.99, most: int | None = None, scale: Tensor | None = None
) -> KeptPairs:
    """Returns the leading eigenvectors of the channels' covariances at all frequencies, by falling variance.

    They are the principal components of a layer's maps among directions that no shift of the maps can mix.

    Args:
        spectrum: of the convolution's output, with ``moments``, no batch norm folded in.
        share: take as many as hold this share of the variance, above 0 and at most 1.
        most: pairs at most; None: no limit.
        scale: float [k], of the channels, such as gamma / sigma of a batch norm that follows; None: 1.

    Raises:
        ConvscopeError: when the spectrum holds no covariances, or nothing varies.
        ValueError: for a share outside its range.
    """
    if not 0 < share <= 1:
        raise ValueError(f"share must be above 0 and at most 1, got {share}")
    if spectrum.moments is None:
        raise ConvscopeError(
            "the covariances of the channels were sketched, not kept: raise the budget for activation spectra"
        )
    k = spectrum.moments.shape[-1]
    factor = torch.ones(k, dtype=torch.float64) if scale is None else scale.detach().cpu().double()
    moments = _as_real_where(spectrum.moments * factor[:, None] * factor, spectrum.multiplicity)
    profile = torch.full_like(spectrum.multiplicity, k)
    found = _leading(
        spectrum.size, spectrum.frequencies, spectrum.multiplicity, moments, profile, factor, "activations"
    )
    variance = found.multiplicity * found.strength.square()
    total = variance.sum()
    if not total > 0:
        raise ConvscopeError("nothing varies between images in this layer: there are no pairs to keep")
    count = int((variance.cumsum(0) < share * total * (1 - 1e-12)).sum()) + 1
    return found[: min(count, int((variance > 0).sum()), most or count)]


def random_pairs(like: KeptPairs, seed: int) -> KeptPairs:
    """Returns as many pairs of the same multiplicities with random frequencies and random directions.

    Pairs that share a frequency still do, and are orthonormal.

    Args:
        like: how many, and of which size.
        seed: of the draw.
    """
    generator = torch.Generator().manual_seed(seed)
    places, multiplicity = half_plane(*like.size)
    everywhere = signed_frequencies(*like.size)[places]
    _, shared = torch.unique(like.frequencies, dim=0, return_inverse=True)
    drawn = torch.zeros_like(like.frequencies)
    directions = torch.zeros_like(like.directions)
    k = len(like.scale)
    for kind in (1, 2):
        free = everywhere[multiplicity == kind]
        free = free[torch.randperm(len(free), generator=generator)]
        for frequency, group in zip(free, torch.unique(shared[like.multiplicity == kind]), strict=False):
            inside = shared == group
            drawn[inside] = frequency
            noise = torch.randn(2, k, int(inside.sum()), dtype=torch.float64, generator=generator)
            frame = noise[0].to(directions.dtype) if kind == 1 else torch.complex(noise[0], noise[1])
            directions[inside] = torch.linalg.qr(frame).Q.mT
    return replace(like, frequencies=drawn, directions=directions)


def _as_real_where(matrices: Tensor, multiplicity: Tensor) -> Tensor:
    """Returns Hermitian matrices [f, ...] without the rounding in the imaginary part of those that are real."""
    alone = (multiplicity == 1).view(-1, *[1] * (matrices.ndim - 1))
    return torch.where(alone, matrices.real.to(matrices.dtype), matrices)


def _leading(
    size: tuple[int, int],
    frequencies: Tensor,
    multiplicity: Tensor,
    matrices: Tensor,
    profile: Tensor,
    scale: Tensor,
    source: Literal["weights", "activations"],
) -> KeptPairs:
    """Returns the leading eigenvectors of Hermitian matrices [f, k, k], ``profile`` [f] of them at each frequency."""
    k = matrices.shape[-1]
    values, vectors = torch.linalg.eigh(matrices)
    alone = multiplicity == 1
    # As real matrices these have real eigenvectors, also where eigenvalues are equal.
    real = torch.linalg.eigh(matrices[alone].real)
    values[alone], vectors[alone] = real.eigenvalues, real.eigenvectors.to(vectors.dtype)
    values, vectors = values.flip(-1), vectors.flip(-1)
    taken = torch.arange(k) < profile[:, None]
    at, number = torch.nonzero(taken).unbind(1)
    strength = values[at, number].clamp_min(0).sqrt()
    order = torch.argsort(multiplicity[at] * strength.square(), descending=True, stable=True)
    at, number = at[order], number[order]
    return KeptPairs(
        size, frequencies[at], multiplicity[at], number, strength[order], vectors[at, :, number], scale, source
    )
