"""The notebook: numbers, curves and skips of one convolution's patches as they are found."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from convscope.core.accumulate import jackknife
from convscope.core.errors import ConvscopeError
from convscope.core.kept import KeptImages
from convscope.core.moment_values import PatchMoments
from convscope.core.results import Number, Skip
from convscope.firstlayer.labels import (
    average_patch_ratio,
    first_order,
    linear_dependence,
    patch_energies,
    permutation_null,
    ranks,
    second_order,
)

SHOWN_PATCHES = 32


Spread = tuple[PatchMoments, tuple[tuple[int, PatchMoments], ...]]


@dataclass(frozen=True, eq=False)
class Patches:
    """What the pass collected about the patches that one convolution sees.

    Attributes:
        layer: the convolution's name.
        moments: of the patches.
        without: for each fold, its number of images and the moments of the others.
        pairs: moments with lags, of a sample of the images, and the same without each fold.
        kept: some of the layer's inputs, with labels, or None (then ``skipped`` says why).
        classes: class names, or None.
        skipped: what could not be had.
    """

    layer: str
    moments: PatchMoments
    without: tuple[tuple[int, PatchMoments], ...]
    pairs: Spread
    kept: KeptImages | None
    classes: tuple[str, ...] | None
    skipped: tuple[Skip, ...]

    @property
    def all_moments(self) -> tuple[PatchMoments, ...]:
        """The moments of all images, then those without each fold."""
        return (self.moments, *(m for _, m in self.without))


@dataclass
class Notebook:
    """Numbers, curves, facts and skips as they are found.

    Attributes:
        patches: what they are about.
        numbers: by definition key.
        curves: by name.
        facts: what sentences need beside the numbers.
        skipped: what could not be computed.
    """

    patches: Patches
    numbers: dict[str, Number] = field(default_factory=dict)
    curves: dict[str, Tensor] = field(default_factory=dict)
    facts: dict[str, str | bool | float] = field(default_factory=dict)
    skipped: list[Skip] = field(default_factory=list)

    def put(
        self,
        key: str,
        f: Callable[[PatchMoments], float],
        chance: tuple[float, float] | None = None,
        chance_name: str = "",
    ) -> None:
        """Writes down a number with its jackknife standard error over folds of images.

        Args:
            key: of its definition.
            f: the number from moments.
            chance: what chance gives.
            chance_name: what chance is, in words.
        """
        whole = f(self.patches.moments)
        without = [(n, _where_possible(f, m)) for n, m in self.patches.without]
        spread = jackknife(whole, [v for _, v in without], [float(n) for n, _ in without])
        self.numbers[key] = Number(whole, spread, chance, key, chance_name)

    def on_pairs(self) -> Notebook:
        """Returns the same notebook, with spreads over the images whose pairs of patches were looked at."""
        moments, without = self.patches.pairs
        return replace(self, patches=replace(self.patches, moments=moments, without=without))

    def attempt(self, what: str, part: Callable[[], None]) -> None:
        """Runs a part; where it cannot be computed, none of it is kept, and why is written down."""
        before = dict(self.numbers), dict(self.curves), dict(self.facts)
        try:
            part()
        except (ConvscopeError, ValueError) as error:
            self.numbers, self.curves, self.facts = before
            self.skipped.append(Skip(what, str(error)))

    def flat_curves(self) -> dict[str, np.ndarray]:
        """Returns the curves as float64 arrays of one axis (groups of channels one after the other)."""
        return {name: curve.detach().double().flatten().cpu().numpy() for name, curve in self.curves.items()}


def principal_patches(moments: PatchMoments) -> np.ndarray:
    """Returns the leading eigenvectors as patches, float64 [m, c / groups, q, r] (of the first group)."""
    basis = moments.eigenvectors if moments.eigenvectors.ndim == 2 else moments.eigenvectors[0]
    q, r = moments.geometry.kernel
    return basis.T[:SHOWN_PATCHES].reshape(-1, moments.geometry.channels // moments.geometry.groups, q, r).numpy()


def large_arrays(moments: PatchMoments) -> dict[str, np.ndarray]:
    """Returns the matrices that no JSON holds."""
    return {
        "patch_mean": moments.mean.numpy(),
        "patch_covariance": moments.covariance.numpy(),
        "average_patch_covariance": moments.average_patch_covariance.numpy(),
        "principal_patches": moments.eigenvectors.numpy(),
    }


def paired_lags(moments: PatchMoments) -> list[int]:
    """Returns the lags that exist both vertically and horizontally, in input pixels.

    Raises:
        ConvscopeError: when there is none.
    """
    lags = sorted(max(lag) for lag in moments.lagged if lag[0] and lag[::-1] in moments.lagged)
    if not lags:
        raise ConvscopeError("the images are too small for two patches side by side: give larger images")
    return lags


def average_patches(book: Notebook) -> None:
    """Writes down how far the assumption holds that patches of one image are uncorrelated."""
    ratio = average_patch_ratio(book.patches.moments)
    book.curves["average_patch_ratio"] = ratio
    good = ratio[ratio.isfinite()]
    if len(good):
        book.facts |= {"ratio_low": float(good.min()), "ratio_high": float(good.max())}


def label_dependence(book: Notebook, tau: float) -> None:
    """Writes down how the labels depend on the patches.

    Args:
        book: to write into.
        tau: training time for the linear prediction, in units of 1 / lam^2.

    Raises:
        ConvscopeError: when there are no labels of two classes.
    """
    e = book.patches
    if e.classes is None:
        raise ConvscopeError("the images carry no labels: give class sub-folders or a labels array")
    if e.moments.class_counts is None:
        raise ConvscopeError(f"some labels lie outside the {len(e.classes)} known classes: name all classes")
    if not int(e.moments.class_counts.sum()):
        raise ConvscopeError("none of the images that were read carries a label: give labelled images")
    first = first_order(e.moments)
    if e.kept is None:
        raise ConvscopeError("needs images of one size: resize them")
    images, labels = e.kept.labelled()
    if len(set(labels.tolist())) < 2:
        raise ConvscopeError("the kept images carry no labels of two classes: give labelled images of several classes")
    if first.images < 2 * first.classes:
        raise ConvscopeError(
            f"{first.classes} classes share {first.images} images: give at least two images of each class on average"
        )
    averages, energies = patch_energies(images, e.moments.geometry, e.moments)
    null = permutation_null(averages, labels).nan_to_num(nan=0.0)
    shuffled = "permuted labels"
    book.put("label_first", lambda m: _largest(first_order(m).f), _central(null.amax(1)), shuffled)
    second = second_order(energies, labels)
    null_second = permutation_null(ranks(energies), labels).nan_to_num(nan=0.0)
    book.numbers["label_second"] = Number(
        _largest(second.f), None, _central(null_second.amax(1)), "label_second", shuffled
    )
    book.facts["label_component"] = float(second.component + 1)
    book.curves |= {
        "label_first": first.f,
        "label_second": second.f,
        "label_first_high": torch.quantile(null, 0.975, dim=0),
        "label_second_high": torch.quantile(null_second, 0.975, dim=0),
    }
    whole = linear_dependence(e.moments, tau)
    book.put("label_index", lambda m: linear_dependence(m, tau, draws=2).index, whole.chance, "uninformative labels")


def _largest(f: Tensor) -> float:
    good = f[f.isfinite()]
    return float(good.max()) if len(good) else math.nan


def _central(draws: Tensor) -> tuple[float, float]:
    low, high = torch.quantile(draws, torch.tensor([0.025, 0.975], dtype=draws.dtype)).tolist()
    return low, high


def _where_possible(f: Callable[[PatchMoments], float], moments: PatchMoments) -> float:
    # Without one fold the rest may be a single class: there is then no error bar, but the number stands.
    try:
        return f(moments)
    except ConvscopeError:
        return math.nan
