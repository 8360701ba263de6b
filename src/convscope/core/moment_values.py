"""The moments of the patches that a convolution sees, as values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from convscope.core.errors import ConvscopeError
from convscope.core.geometry import ConvGeometry

Lag = tuple[int, int]


@dataclass(frozen=True, eq=False)
class LaggedMoments:
    """Uncentred moments of pairs of patches that lie one lag apart, over the pairs that both exist.

    With more than one group every tensor has a leading [g].

    Attributes:
        n_pairs: number of pairs of positions, over all images.
        second_moment: float64 [d, d], E[p_j p_{j+delta}^T].
        mean: float64 [d], E[p_j].
        shifted_mean: float64 [d], E[p_{j+delta}].
    """

    n_pairs: int
    second_moment: Tensor
    mean: Tensor
    shifted_mean: Tensor


@dataclass(frozen=True, eq=False)
class PatchMoments:
    """Moments of the patches that a convolution sees; everything is divided by N, not N - 1.

    A patch p has d entries in the order of ``weight.flatten(1)``: channel, row, column. pbar is the average patch
    of an image. With g > 1 groups every tensor has a leading [g], one set of moments for each group.

    Attributes:
        geometry: the convolution's geometry.
        n_images: number of images.
        n_patches: number of patches of each group: images times positions.
        mean: float64 [d], mu = E[p], in units of the input.
        second_moment: float64 [d, d], E[p p^T], not centred.
        average_patch_mean: float64 [d], E_n[pbar]; differs from ``mean`` only where image sizes differ.
        average_patch_second_moment: float64 [d, d], A = E_n[pbar pbar^T], not centred.
        lagged: (dy, dx) in input pixels to the moments of patches that far apart; a lag that no image is large
            enough for is left out.
        lags: the lags that were requested.
        class_counts: int64 [o], images of each class, or None where no classes were asked for.
        class_means: float64 [o, d] ([o, g, d] with groups), mean average patch of each class; NaN for an empty class.
    """

    geometry: ConvGeometry
    n_images: int
    n_patches: int
    mean: Tensor
    second_moment: Tensor
    average_patch_mean: Tensor
    average_patch_second_moment: Tensor
    lagged: Mapping[Lag, LaggedMoments]
    lags: tuple[Lag, ...] = ()
    class_counts: Tensor | None = None
    class_means: Tensor | None = None

    @cached_property
    def covariance(self) -> Tensor:
        """Sigma = E[(p - mu)(p - mu)^T], float64 [d, d] (Chowers & Weiss 2023, Def. 4.1, centred)."""
        return self.second_moment - outer(self.mean, self.mean)

    @cached_property
    def average_patch_covariance(self) -> Tensor:
        """E_n[(pbar - mu)(pbar - mu)^T], float64 [d, d], centred by the mean of all patches."""
        return _centred(self.average_patch_second_moment, self.average_patch_mean, self.average_patch_mean, self.mean)

    @cached_property
    def _eigh(self) -> tuple[Tensor, Tensor]:
        values, vectors = torch.linalg.eigh(self.covariance)
        values, vectors = values.flip(-1).clamp(min=0), vectors.flip(-1)
        largest = vectors.gather(-2, vectors.abs().argmax(-2, keepdim=True))
        return values, torch.where(largest < 0, -vectors, vectors)

    @property
    def eigenvalues(self) -> Tensor:
        """Variances lambda_i^2 along the principal components of the patches, float64 [d], descending, at least 0."""
        return self._eigh[0]

    @property
    def eigenvectors(self) -> Tensor:
        """Principal components, float64 [d, d], column i is u_i; its entry of largest absolute value is positive."""
        return self._eigh[1]

    def lag_covariance(self, dy: int, dx: int) -> Tensor:
        """Returns Sigma_delta = E[(p_j - mu)(p_{j+delta} - mu)^T] over the pairs of positions that both exist.

        Args:
            dy: vertical lag in input pixels, positive downwards.
            dx: horizontal lag in input pixels, positive to the right.

        Returns:
            float64 [d, d]; entry (s, t) multiplies entry s of a patch with entry t of the patch at the lag.

        Raises:
            ValueError: when the lag was not requested.
            ConvscopeError: when no image was large enough to hold a pair of patches at this lag.
        """
        if (dy, dx) not in self.lagged and (dy, dx) not in self.lags:
            raise ValueError(f"lag {(dy, dx)} was not requested; there are {list(self.lags)}")
        if (dy, dx) not in self.lagged:
            raise ConvscopeError(
                f"no image holds two patches {dy} rows and {dx} columns apart: "
                "ask for a shorter lag or hand in larger images"
            )
        lag = self.lagged[dy, dx]
        return _centred(lag.second_moment, lag.mean, lag.shifted_mean, self.mean)


def outer(a: Tensor, b: Tensor) -> Tensor:
    """Returns a b^T for vectors [..., d]: [..., d, d]."""
    return a[..., :, None] * b[..., None, :]


def _centred(product: Tensor, left: Tensor, right: Tensor, mean: Tensor) -> Tensor:
    """Returns E[(a - mean)(b - mean)^T] from E[a b^T], E[a] and E[b]."""
    return product - outer(left, mean) - outer(mean, right) + outer(mean, mean)
