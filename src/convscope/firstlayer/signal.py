"""The back-propagated signal: its spatial autocorrelation, and the energy profile of the gradient that follows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from scipy.fft import next_fast_len
from torch import Tensor

from convscope.core.accumulate import Sums
from convscope.core.errors import ConvscopeError
from convscope.core.similarity import pearson, standardised

if TYPE_CHECKING:
    from convscope.core.batches import Batch
    from convscope.core.geometry import ConvGeometry

# Spectra of gradients held at once, bytes; one image is held whatever its size.
_CHUNK_BYTES = 128 << 20


@dataclass(frozen=True)
class Signal:
    """Spatial autocorrelation of the gradient at a convolution's output.

    Attributes:
        kappa: float64 [2 h' - 1, 2 w' - 1]: entry (h' - 1 + dy, w' - 1 + dx) is the mean over images, channels and
            pairs of positions (dy, dx) apart of the product of the two gradients, in squared gradient units.
        images: number of images.
        channels: number of the convolution's output channels.
    """

    kappa: Tensor
    images: int
    channels: int

    @property
    def coherent_positions(self) -> float:
        """Over how many positions the signal adds up: 1 if decorrelated, all h' w' for global average pooling."""
        h, w = (self.kappa.shape[0] + 1) // 2, (self.kappa.shape[1] + 1) // 2
        total = (self.kappa * _pairs(h)[:, None] * _pairs(w)).sum()
        return float(total / (h * w * self.kappa[h - 1, w - 1]))


class SignalAutocorrelation(Sums[Signal]):
    """Accumulates the spatial autocorrelation of the gradient at a convolution's output.

    Feed it from the stream ``Gradient(network, conv, RandomLabels(seed))``. It is linear (zero beyond the border),
    not circular, and divided by the number of pairs of each lag, so that a signal which is the same everywhere gives
    a constant.

    Example:
        >>> from convscope.core.batches import Batch
        >>> sums = SignalAutocorrelation()
        >>> sums.update(torch.ones(2, 3, 4, 4), Batch.of(torch.zeros(2, 1, 6, 6), None, torch.arange(2)))
        >>> round(sums.compute().kappa.min().item(), 12)
        1.0
    """

    def update(self, x: Tensor, batch: Batch) -> None:
        """Adds the gradients of a batch.

        Args:
            x: [n, k, h', w'], gradient at the convolution's output.
            batch: the images; only their number counts.

        Raises:
            ConvscopeError: when the output's size differs from that of earlier images.
        """
        n, k, h, w = x.shape
        size = _fast_size(h, w)
        power = torch.zeros(size[0], size[1] // 2 + 1, dtype=torch.float64, device=x.device)
        for part in torch.split(x, max(1, _CHUNK_BYTES // (k * power.numel() * 16))):
            power += torch.fft.rfft2(part.to(torch.float64), s=size).abs().square().sum((0, 1))
        wrapped = torch.fft.irfft2(power, s=size).roll((h - 1, w - 1), (0, 1))
        total = wrapped[: 2 * h - 1, : 2 * w - 1].cpu()
        seen = self.sums.get("products")
        if seen is not None and seen.shape != total.shape:
            raise ConvscopeError(
                f"the convolution's output is {h} x {w} for some images and {(seen.shape[0] + 1) // 2} x "
                f"{(seen.shape[1] + 1) // 2} for others, one size is expected: resize the images"
            )
        self.add("products", total)
        self.add("count", torch.tensor([n, n * k]))

    def compute(self) -> Signal:
        """Returns the autocorrelation.

        Raises:
            ConvscopeError: before the first image, or when a gradient was NaN or infinite.
        """
        if not self.sums:
            raise ConvscopeError("no gradient reached the signal's autocorrelation: hand in at least one image")
        total, (images, maps) = self.sums["products"], self.sums["count"].tolist()
        if not bool(total.isfinite().all()):
            raise ConvscopeError("the gradient at the convolution's output holds NaN or infinity: check the weights")
        h, w = (total.shape[0] + 1) // 2, (total.shape[1] + 1) // 2
        return Signal(total / (_pairs(h)[:, None] * _pairs(w) * maps), images, maps // images)


def signal_matrix(images: Tensor, geometry: ConvGeometry, kappa: Tensor) -> Tensor:
    """Returns ``S = sum_Delta kappa(Delta) mean_n sum_j (p_j - mu)(p_{j + Delta} - mu)^T``.

    For labels that carry no information, the gradient of the filters is ``sum_j delta_j p_j`` with delta independent
    of the patches, so its mean square along a direction u is ``u^T S u`` (times the number of images). A decorrelated
    signal gives the patch covariance, a constant one the average-patch covariance: this is the general form behind
    Chowers & Weiss (2023), Theorem 4.2, without its assumption that patches are uncorrelated. Hand S to
    ``fit_energy_profile(..., covariance=S)``.

    For a signal whose statistics are the same everywhere S is positive semi-definite. Where an estimated kappa is
    not, the nearest such matrix is returned. Memory: about three times the spectra of one image's patch maps,
    ``32 d h' w'`` bytes each. Time: about ``4 d^2 h' w'`` multiplications an image.

    Args:
        images: [n, c, h, w] as the convolution sees them before its zero padding; a few hundred suffice.
        geometry: the convolution.
        kappa: [2 h' - 1, 2 w' - 1] as in ``Signal``, for this geometry and image size.

    Returns:
        float64 [d, d], or [g, d, d] with groups.

    Raises:
        ValueError: when kappa does not fit the convolution's output.

    Example:
        >>> from convscope.core.geometry import ConvGeometry
        >>> kappa = torch.zeros(7, 7, dtype=torch.float64)
        >>> kappa[3, 3] = 1.0
        >>> signal_matrix(torch.randn(2, 1, 6, 6), ConvGeometry(1, (3, 3)), kappa).shape
        torch.Size([9, 9])
    """
    h, w = geometry.output_size(*images.shape[2:])
    if min(h, w) < 1 or kappa.shape != (2 * h - 1, 2 * w - 1):
        raise ValueError(
            f"kappa has shape {tuple(kappa.shape)}, expected {(2 * h - 1, 2 * w - 1)}: "
            f"the convolution gives {h} x {w} positions for these images"
        )
    g, d, n = geometry.groups, geometry.patch_dim, len(images)
    size = _fast_size(h, w)
    wrapped = F.pad(kappa.to(torch.float64), (0, size[1] - 2 * w + 1, 0, size[0] - 2 * h + 1))
    # kappa is symmetric, so its transform is real. Half of the spectrum stands for the other half too, but for the
    # columns that are their own mirror.
    weight = torch.fft.rfft2(wrapped.roll((1 - h, 1 - w), (0, 1))).real.clone()
    weight[:, 1 : (size[1] + 1) // 2] *= 2
    weight = (weight / (size[0] * size[1])).flatten().to(images.device)
    weight = weight.repeat_interleave(2)  # real and imaginary parts
    mean = torch.stack([_patches(x, geometry).mean((0, -1)) for x in torch.split(images, 1)]).mean(0)
    total = torch.zeros(g, d, d, dtype=torch.float64, device=images.device)
    for image in torch.split(images, 1):
        maps = (_patches(image, geometry)[0] - mean[..., None]).reshape(g, d, h, w)
        spectra = torch.view_as_real(torch.fft.rfft2(maps, s=size)).reshape(g, d, -1)
        total += (spectra * weight) @ spectra.transpose(1, 2)
    values, vectors = torch.linalg.eigh((total + total.transpose(1, 2)).cpu() / (2 * n))
    nearest = (vectors * values.clamp(min=0)[:, None]) @ vectors.transpose(1, 2)
    return nearest if g > 1 else nearest[0]


def signal_profile(matrix: Tensor, basis: Tensor) -> Tensor:
    """Returns the root mean square of the gradient along each principal component, ``sqrt(diag(U^T S U))``.

    Args:
        matrix: [..., d, d], S of ``signal_matrix``.
        basis: [..., d, d], columns u_i, such as ``moments.eigenvectors``.

    Returns:
        float64 [..., d], up to a constant factor.

    Example:
        >>> signal_profile(torch.diag(torch.tensor([4.0, 9.0])), torch.eye(2))
        tensor([2., 3.], dtype=torch.float64)
    """
    u = basis.to(torch.float64)
    return ((matrix.to(torch.float64) @ u) * u).sum(-2).clamp(min=0).sqrt()


@dataclass(frozen=True)
class Agreement:
    """How a measured profile follows a predicted one.

    Attributes:
        slope: of log measured against log predicted (least squares).
        correlation: Pearson correlation of the values.
        log_correlation: Pearson correlation of their logarithms.
        scale: root mean square of measured over that of predicted.
    """

    slope: float
    correlation: float
    log_correlation: float
    scale: float


def agreement(measured: Tensor, predicted: Tensor) -> Agreement:
    """Returns how a measured profile follows a predicted one, over components where both are positive.

    Args:
        measured: [d], such as the root-mean-square gradient along each component.
        predicted: [d], such as lam, sqrt(diag(U^T A U)) or ``signal_profile(...)``.

    Returns:
        Slope, correlations and scale; NaN where fewer than three components remain, or one side is flat.

    Example:
        >>> lam = torch.tensor([3.0, 2.0, 1.0])
        >>> round(agreement(lam**2, lam).slope, 6)
        2.0
    """
    both = (measured > 0) & (predicted > 0)
    m, p = measured.to(torch.float64)[both], predicted.to(torch.float64)[both]
    if len(m) < 3:
        return Agreement(*[float("nan")] * 4)
    r, log_r = float(pearson(m, p)), float(pearson(m.log(), p.log()))
    # A flat prediction has no slope: standardised is NaN there.
    slope = (standardised(p.log()) * m.log()).sum() / (p.log() - p.log().mean()).norm()
    return Agreement(float(slope), r, log_r, float(m.norm() / p.norm()))


def _fast_size(h: int, w: int) -> tuple[int, int]:
    # Large enough that no lag wraps around onto another, and free of large prime factors.
    return next_fast_len(2 * h - 1, real=True), next_fast_len(2 * w - 1, real=True)


def _pairs(length: int) -> Tensor:
    return length - torch.arange(-(length - 1), length, dtype=torch.float64).abs()


def _patches(images: Tensor, geometry: ConvGeometry) -> Tensor:
    columns = F.unfold(
        geometry.pad(images.to(torch.float64)), geometry.kernel, dilation=geometry.dilation, stride=geometry.stride
    )
    return columns.reshape(len(images), geometry.groups, geometry.patch_dim, -1)  # [n, g, d, positions]
