"""Label dependence: whether labels carry information about single principal components of the patches."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from convscope.core.errors import ConvscopeError
from convscope.core.similarity import pearson
from convscope.firstlayer.components import Covariance, covariance_of, kept, modes, variances
from convscope.firstlayer.prediction import growth

if TYPE_CHECKING:
    from convscope.core.geometry import ConvGeometry
    from convscope.core.moment_values import PatchMoments

# Patches unfolded at once, bytes.
_CHUNK_BYTES = 64 << 20


@dataclass(frozen=True)
class FirstOrder:
    """How labels depend on the average patch, from sums alone.

    Attributes:
        correlation: r1, float64 [o, d]: correlation over images of "is of class c" with the coefficient of the
            average patch along component i; NaN along directions without variance.
        f: F1, float64 [d]: between-class share of that coefficient's variance over its expectation for labels
            that carry no information. Mean 1 by chance, with standard deviation sqrt(2 / (classes - 1)).
        cross: b, float64 [o, d]: covariance of "is of class c" with that coefficient, in image units.
        average_variance: A_ii, float64 [d]: variance of that coefficient, in squared image units.
        images: number of labelled images.
        classes: number of classes that have images.
    """

    correlation: Tensor
    f: Tensor
    cross: Tensor
    average_variance: Tensor
    images: int
    classes: int


def first_order(moments: PatchMoments) -> FirstOrder:
    """Returns the first-order dependence of labels on each principal component, from the moments' class sums.

    Chowers & Weiss (2023), Definition A.4 and Figure 5, read as correlations of PCA coefficients. "Close to 0" is not
    enough for the profile to be independent of labels: already r = 1 / sqrt(n) doubles the signal, hence F.

    Args:
        moments: patch statistics of one group, collected with classes.

    Returns:
        Correlations, F statistics and covariances.

    Raises:
        ValueError: when the moments have groups.
        ConvscopeError: when there are no labels, or fewer than two classes have images.

    Example:
        >>> from convscope.core.moments import patch_moments
        >>> images, labels = torch.randn(40, 1, 6, 6), torch.arange(40) % 2
        >>> images[labels == 1] += 1.0
        >>> moments = patch_moments([(images, labels)], torch.nn.Conv2d(1, 1, 3), classes=2)
        >>> bool(first_order(moments).f.max() > 10)
        True
    """
    counts, means = class_sums(moments)
    n = float(counts.sum())
    share = counts / n
    coefficients = means @ moments.eigenvectors
    mean = share @ coefficients
    cross = share[:, None] * (coefficients - mean)
    variance = average_variances(moments)
    variance = torch.where(kept(moments.eigenvalues), variance, torch.nan)
    between = (share[:, None] * (coefficients - mean) ** 2).sum(0)
    correlation = cross / (share * (1 - share)).sqrt()[:, None] / variance.sqrt()
    return FirstOrder(
        correlation=correlation,
        f=between / variance * (n - 1) / (len(counts) - 1),
        cross=cross,
        average_variance=variance,
        images=int(n),
        classes=len(counts),
    )


def class_sums(moments: PatchMoments) -> tuple[Tensor, Tensor]:
    """Returns counts [o] and mean average patches [o, d], float64, of the classes that have images.

    Raises:
        ValueError: when the moments have groups.
        ConvscopeError: when there are no labels, or fewer than two classes have images.
    """
    if moments.covariance.ndim == 3:
        raise ValueError("label dependence is defined for a convolution with one group, got moments of several")
    if moments.class_counts is None or moments.class_means is None:
        raise ConvscopeError("the images have no labels, which label dependence needs: hand in labelled images")
    counts = moments.class_counts.to(torch.float64)
    present = counts > 0
    if int(present.sum()) < 2:
        raise ConvscopeError(f"label dependence needs at least two classes, got {int(present.sum())} with images")
    return counts[present], moments.class_means[present]


def average_variances(moments: PatchMoments) -> Tensor:
    """Returns A_ii = u_i^T A u_i, the variance of the average patch along each component, float64 [..., d]."""
    u = moments.eigenvectors
    return ((moments.average_patch_covariance @ u) * u).sum(-2).clamp(min=0)


def average_patch_ratio(moments: PatchMoments) -> Tensor:
    """Returns ``J A_ii / lam_i^2``, which the paper's assumption of uncorrelated patches sets to 1.

    J is the number of patches of an image. Chowers & Weiss (2023), Theorem 4.2, assumption (i); on photographs the
    ratio lies far above 1 for coarse components, and below for fine ones.

    Args:
        moments: patch statistics.

    Returns:
        float64 [d] or [g, d]; NaN along directions without variance.

    Example:
        >>> from convscope.core.moments import patch_moments
        >>> moments = patch_moments(torch.randn(2000, 1, 6, 6), torch.nn.Conv2d(1, 1, 3, stride=3))
        >>> bool((average_patch_ratio(moments) - 1).abs().max() < 0.2)  # patches that do not overlap, of white noise
        True
    """
    lam2 = variances(moments.eigenvalues)
    per_image = moments.n_patches / moments.n_images
    return torch.where(kept(lam2), per_image * average_variances(moments) / lam2, torch.nan)


def patch_energies(images: Tensor, geometry: ConvGeometry, moments: PatchMoments) -> tuple[Tensor, Tensor]:
    """Returns the average coefficient and the mean energy of each image's patches along each principal component.

    Args:
        images: [n, c, h, w] as the convolution sees them before its zero padding.
        geometry: the convolution, with one group.
        moments: patch statistics, which give mu and the components.

    Returns:
        ``pbar_i = u_i . (pbar - mu)`` and ``E_i = mean_j (u_i . (p_j - mu))^2``, both float64 [n, d].

    Raises:
        ValueError: when the convolution has groups.

    Example:
        >>> from convscope.core.moments import patch_moments
        >>> images, conv = torch.randn(5, 1, 6, 6), torch.nn.Conv2d(1, 1, 3)
        >>> moments = patch_moments(images, conv)
        >>> averages, energies = patch_energies(images, moments.geometry, moments)
        >>> bool(torch.allclose(energies.mean(0), moments.eigenvalues))
        True
    """
    if geometry.groups != 1:
        raise ValueError(f"label dependence is defined for a convolution with one group, got {geometry.groups}")
    rows, columns = geometry.output_size(*images.shape[2:])
    chunk = max(1, _CHUNK_BYTES // (16 * geometry.patch_dim * max(rows * columns, 1)))
    averages, energies = [], []
    for part in torch.split(images, chunk):
        patches = F.unfold(
            geometry.pad(part.to(torch.float64)), geometry.kernel, dilation=geometry.dilation, stride=geometry.stride
        )
        coefficients = moments.eigenvectors.T @ (patches - moments.mean[:, None])
        averages.append(coefficients.mean(2))
        energies.append((coefficients**2).mean(2))
    return torch.cat(averages), torch.cat(energies)


def ranks(values: Tensor) -> Tensor:
    """Returns the ranks of values [n, d] along the images, ties sharing their mean, float64 in [0, n - 1].

    Example:
        >>> ranks(torch.tensor([[5.0], [1.0], [5.0]]))[:, 0]
        tensor([1.5000, 0.0000, 1.5000], dtype=torch.float64)
    """
    columns = values.T.contiguous()
    ordered = columns.sort(1).values
    below = torch.searchsorted(ordered, columns, right=False)
    upto = torch.searchsorted(ordered, columns, right=True)
    return ((below + upto - 1).to(torch.float64) / 2).T.contiguous()


def f_ratio(values: Tensor, labels: Tensor) -> Tensor:
    """Returns the between-class share of variance over its expectation by chance, for each column.

    ``eta^2(v | y) / ((classes - 1) / (n - 1))``: mean 1 when labels carry no information.

    Args:
        values: [n, d].
        labels: int64 [n].

    Returns:
        float64 [d]; NaN for a column without variance.

    Raises:
        ConvscopeError: with fewer than two classes.

    Example:
        >>> f_ratio(torch.tensor([[0.0], [0.0], [1.0], [1.0]]), torch.tensor([0, 0, 1, 1]))
        tensor([3.], dtype=torch.float64)
    """
    indicator = _indicator(labels)
    counts = indicator.sum(0)
    centred = values.to(torch.float64) - values.to(torch.float64).mean(0)
    means = indicator.T @ centred / counts[:, None]
    between = (counts[:, None] * means**2).sum(0)
    total = (centred**2).sum(0)
    eta2 = torch.where(total > 0, between / total, torch.nan)
    return eta2 * (len(values) - 1) / (len(counts) - 1)


@dataclass(frozen=True)
class SecondOrder:
    """How labels depend on the energy of an image's patches along each component.

    Attributes:
        correlation: r2, float64 [o, d]: correlation over images of "is of class c" with the energy.
        f: F2, float64 [d]: between-class share of the variance of the energy's rank over its expectation by chance.
        threshold: 95 % quantile over permuted labels of the largest F2 of all components.
        alert: components whose F2 exceeds the threshold, the largest first. Detectability, not effect size; energies
            of different components co-vary over images, so many components exceed it together.
        component: the component with the largest F2.
    """

    correlation: Tensor
    f: Tensor
    threshold: float
    alert: tuple[int, ...]
    component: int


def second_order(energies: Tensor, labels: Tensor, permutations: int = 200, seed: int = 0) -> SecondOrder:
    """Returns the second-order dependence of labels on each principal component.

    Labels made from the energy of one component (Chowers & Weiss (2023), appendix D.1) leave the first order of that
    component at chance; they show here. Energies are heavy-tailed, hence their ranks in F2.

    Args:
        energies: [n, d], E_i of ``patch_energies``.
        labels: int64 [n].
        permutations: of the labels, for the threshold.
        seed: of the permutations.

    Returns:
        Correlations, F statistics and the components that stand out.

    Raises:
        ConvscopeError: with fewer than two classes.

    Example:
        >>> energies = torch.rand(200, 4, generator=torch.Generator().manual_seed(0))
        >>> labels = (energies[:, 2] > 0.5).long()
        >>> second_order(energies, labels).alert
        (2,)
    """
    ranked = ranks(energies)
    f = f_ratio(ranked, labels)
    null = permutation_null(ranked, labels, permutations, seed)
    threshold = float(torch.quantile(null.nan_to_num(nan=0.0).amax(1), 0.95))
    order = torch.argsort(f.nan_to_num(nan=-1.0), descending=True).tolist()
    indicator = _indicator(labels)
    return SecondOrder(
        correlation=pearson(indicator.T[:, None], energies.T[None]),
        f=f,
        threshold=threshold,
        alert=tuple(i for i in order if float(f[i]) > threshold),
        component=order[0],
    )


def permutation_null(values: Tensor, labels: Tensor, permutations: int = 200, seed: int = 0) -> Tensor:
    """Returns the F ratios of values [n, d] under permuted labels, float64 [permutations, d].

    Raises:
        ConvscopeError: with fewer than two classes.

    Example:
        >>> permutation_null(torch.randn(50, 3), torch.arange(50) % 2, permutations=4).shape
        torch.Size([4, 3])
    """
    generator = torch.Generator().manual_seed(seed)
    return torch.stack([
        f_ratio(values, labels[torch.randperm(len(labels), generator=generator)]) for _ in range(permutations)
    ])


@dataclass(frozen=True)
class LinearDependence:
    """What a linear network would learn from these labels, beside labels that carry no information.

    Attributes:
        true: e_true, float64 [d], profile that the labels' covariances with the average patch drive.
        null: e_null, float64 [d], expected profile under permuted labels.
        index: 1 - Pearson correlation of the two: 0 where labels change nothing.
        chance: (2.5 %, 97.5 %) quantiles of the index for labels that carry no information.
    """

    true: Tensor
    null: Tensor
    index: float
    chance: tuple[float, float]


def linear_dependence(
    moments: PatchMoments,
    tau: float,
    *,
    covariance: Covariance | Tensor = "patch",
    draws: int = 300,
    seed: int = 0,
) -> LinearDependence:
    """Returns the first-order prediction of how far the profile depends on the labels.

    ``e_true_i = f_i sqrt(sum_c b_ci^2)`` against ``e_null_i = f_i sqrt(A_ii sum_c pi_c (1 - pi_c) / n)`` with
    ``f_i = (1 - exp(-tau lam_i^2)) / lam_i^2``; for a matrix that the components do not diagonalise, f is the same
    function of the matrix. Exact for a linear CNN with global average pooling and ``covariance="average"``.

    Args:
        moments: patch statistics of one group, collected with classes.
        tau: training time in units of 1 / lam^2.
        covariance: what drives learning, as in ``fit_energy_profile``.
        draws: of uninformative labels, for the index's chance band.
        seed: of the draws.

    Returns:
        Both profiles, the dependence index and its chance band.

    Raises:
        ValueError: when the moments have groups or ``covariance`` is unknown.
        ConvscopeError: when there are no labels, or fewer than two classes have images.

    Example:
        >>> from convscope.core.moments import patch_moments
        >>> images, labels = torch.randn(40, 1, 6, 6), torch.arange(40) % 2
        >>> moments = patch_moments([(images, labels)], torch.nn.Conv2d(1, 1, 3), classes=2)
        >>> linear_dependence(moments, tau=1.0).true.shape
        torch.Size([9])
    """
    counts, means = class_sums(moments)
    n = float(counts.sum())
    share = counts / n
    cross = share[:, None] * (means - share @ means)
    mu, q = modes(covariance_of(moments, covariance))
    propagate = (q * growth(mu, tau)) @ q.T @ moments.eigenvectors  # [d, d]: from a drive to coefficients u_i . dW
    true = (cross @ propagate).square().sum(0).sqrt()
    average = moments.average_patch_covariance
    null = ((propagate.T @ average) * propagate.T).sum(1).clamp(min=0) * float((share * (1 - share)).sum()) / n
    null = null.sqrt()
    keep = kept(moments.eigenvalues)
    indices = 1 - pearson(_uninformative(average, share, n, draws, seed, propagate)[:, keep], null[keep])
    low, high = torch.quantile(indices, torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return LinearDependence(true, null, 1 - float(pearson(true[keep], null[keep])), (low, high))


def _uninformative(average: Tensor, share: Tensor, n: float, draws: int, seed: int, propagate: Tensor) -> Tensor:
    # By the central limit theorem the covariances of permuted one-hot labels with the average patch are Gaussian:
    # over classes (diag(pi) - pi pi^T) / n, over components A.
    generator = torch.Generator().manual_seed(seed)
    root = _root(average)
    classes = _root(torch.diag(share) - torch.outer(share, share)) / n**0.5
    noise = torch.randn(draws, len(share), len(average), dtype=torch.float64, generator=generator)
    return (classes @ noise @ root @ propagate).square().sum(1).sqrt()


def _root(matrix: Tensor) -> Tensor:
    values, vectors = modes(matrix)
    return (vectors * values.sqrt()) @ vectors.T


def _indicator(labels: Tensor) -> Tensor:
    classes, place = torch.unique(labels, return_inverse=True)
    if len(classes) < 2:
        raise ConvscopeError(f"label dependence needs at least two classes, got {len(classes)} with images")
    return F.one_hot(place, len(classes)).to(torch.float64)
