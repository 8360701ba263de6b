"""Honest scores: which images are left out together, what the rest predicts for them, how sure that is."""

from __future__ import annotations

import math
import warnings
from typing import NamedTuple

import numpy as np
import torch
from scipy.optimize import minimize_scalar
from sklearn.model_selection import GroupKFold, KFold, StratifiedGroupKFold, StratifiedKFold
from torch import Tensor

from convscope.core.errors import ConvscopeError

Split = tuple[np.ndarray, np.ndarray]


class Score(NamedTuple):
    """A mean over images and its standard error, which takes the images to be independent; NaN for one image."""

    mean: float
    error: float


def folds(
    n: int, n_splits: int, seed: int, *, labels: np.ndarray | None = None, groups: np.ndarray | None = None
) -> list[Split]:
    """Returns (training, left out) for each fold, sorted int64 indices of images.

    There are fewer folds than asked for where there are fewer images, groups or members of the largest class. An image
    whose class has no image outside its fold is not scored there: no machine trained without the fold could name it.
    So a class of one image is never scored, and every other image is left out exactly once (with groups, unless its
    class lies within one fold).

    Args:
        n: number of images.
        n_splits: number of folds, at least 2.
        seed: of the shuffling.
        labels: [n], classes, to be spread evenly over the folds; None for a regression.
        groups: [n], images of one group are left out together; None when each is for itself.

    Raises:
        ValueError: when n_splits is below 2 or the lengths differ.
        ConvscopeError: when nothing can be left out: one image, one group, no class with two images or groups.

    Example:
        >>> for training, left_out in folds(5, 2, seed=0, labels=np.array(["a", "a", "b", "b", "c"])):
        ...     print(training, left_out)
        [0 3] [1 2]
        [1 2 4] [0 3]
    """
    if n_splits < 2:
        raise ValueError(f"n_splits must be at least 2, got {n_splits}")
    for name, values in (("labels", labels), ("groups", groups)):
        if values is not None and len(values) != n:
            raise ValueError(f"{name} must have one entry for each of the {n} images, got {len(values)}")
    classes = np.zeros(n, int) if labels is None else np.unique(labels, return_inverse=True)[1]
    units = n if groups is None else len(np.unique(groups))
    if units < 2:
        raise ConvscopeError(
            f"nothing can be left out of {n} image(s) in {units} group(s): bring more, or select without folds"
        )
    n_splits = min(n_splits, units)
    if labels is None:
        splitter = KFold(n_splits, shuffle=True, random_state=seed)
        if groups is not None:
            splitter = GroupKFold(n_splits, shuffle=True, random_state=seed)
    else:
        largest = int(np.bincount(classes).max())
        if largest < 2:
            raise ConvscopeError(
                "every class has a single image, so that none can be left out: bring more images of each class, "
                "or select without folds"
            )
        n_splits = min(n_splits, largest)
        stratified = StratifiedKFold if groups is None else StratifiedGroupKFold
        splitter = stratified(n_splits, shuffle=True, random_state=seed)
    with warnings.catch_warnings():
        # Of classes with fewer images than folds: the rule above deals with them.
        warnings.simplefilter("ignore", UserWarning)
        found = list(splitter.split(np.zeros(n), classes, groups))
    known = [(training, left[np.isin(classes[left], classes[training])]) for training, left in found]
    if not any(len(left) for _, left in known):
        raise ConvscopeError(
            "every class lies within one group, so that none can be left out: bring more groups of each class, "
            "or select without folds"
        )
    return [(training, left) for training, left in known if len(left)]


def holdout(
    n: int, share: float, seed: int, *, labels: np.ndarray | None = None, groups: np.ndarray | None = None
) -> Split:
    """Returns (training, left out): the first of 1 / share folds.

    Args:
        n: number of images.
        share: about what share of the images is left out, at most a half.
        seed: of the shuffling.
        labels: [n], classes, to be spread evenly; None for a regression.
        groups: [n], images of one group stay together; None when each is for itself.

    Raises:
        ValueError: when the share is out of range or the lengths differ.
        ConvscopeError: when nothing can be left out.

    Example:
        >>> holdout(5, 0.2, seed=0)
        (array([0, 1, 3, 4]), array([2]))
    """
    if not 0 < share <= 0.5:
        raise ValueError(f"the share that is held out must be above 0 and at most 0.5, got {share}")
    return folds(n, round(1 / share), seed, labels=labels, groups=groups)[0]


def accuracy(predictions: Tensor, labels: Tensor, weights: Tensor | None = None, before: Tensor | None = None) -> Score:
    """Returns the share of images whose largest output is that of their class, or what was gained on another machine.

    Args:
        predictions: [n, classes].
        labels: int64 [n], column of the image's class.
        weights: [n], of each image; None for 1.
        before: [n, classes], predictions of another machine for the same images.

    Example:
        >>> accuracy(torch.tensor([[2.0, 1.0], [0.0, 1.0], [0.0, 3.0], [1.0, 0.0]]), torch.tensor([0, 1, 0, 0])).mean
        0.75
    """
    wrong = (predictions.argmax(1) != labels).double()
    lost = None if before is None else (before.argmax(1) != labels).double()
    return _share_explained(wrong, torch.ones_like(wrong), weights, lost)


def r_squared(
    predictions: Tensor, targets: Tensor, weights: Tensor | None = None, before: Tensor | None = None
) -> Score:
    """Returns the share of the targets' variance that is predicted, summed over outputs; NaN for constant targets.

    Args:
        predictions: [n, o].
        targets: [n, o].
        weights: [n], of each image; None for 1.
        before: [n, o], predictions of another machine for the same images; then what was gained on it.

    Example:
        >>> r_squared(torch.tensor([[0.0], [1.0], [1.0]]), torch.tensor([[0.0], [1.0], [2.0]])).mean
        0.5
    """
    y = targets.double()
    w = torch.ones_like(y[:, 0]) if weights is None else weights.double()
    mean = (w[:, None] * y).sum(0) / w.sum()
    lost = (predictions.double() - y).square().sum(1)
    at_first = None if before is None else (before.double() - y).square().sum(1)
    return _share_explained(lost, (y - mean).square().sum(1), weights, at_first)


def temperature(scores: Tensor, labels: Tensor, weights: Tensor | None = None) -> float:
    """Returns T for which softmax(scores / T) are the likeliest probabilities, in the unit of the scores.

    One image more, of all classes at once and with the mean score, is counted in: without it T would be 0 where every
    image is right, and probabilities 0 or 1 follow from no finite number of images.

    Args:
        scores: [n, classes], of images that the machine had not seen.
        labels: int64 [n], column of the image's class.
        weights: [n], of each image; None for 1.

    Raises:
        ValueError: when there is no image, the sizes do not fit or a score is not finite.

    Example:
        >>> scores = torch.tensor([[2.0, 0.0], [2.0, 0.0], [0.0, 2.0]])  # right twice, wrong once, and once neither
        >>> t = temperature(scores, torch.tensor([0, 0, 0]))
        >>> (scores[0] / t).softmax(0)
        tensor([0.6250, 0.3750])
    """
    z = scores.double()
    if z.ndim != 2 or not len(z) or len(z) != len(labels) or not z.isfinite().all():
        raise ValueError(
            f"scores must be finite, one row for each of the {len(labels)} labels (at least 1) and one column for each "
            f"class, got shape {list(z.shape)}"
        )
    w = torch.ones_like(z[:, 0]) if weights is None else weights.double()
    share = w / w.sum()
    # The pseudo-image weighs as much as the others on average, and is spread over all of them.
    extra = 1 / (1 + len(z))
    centred = z - z.mean(1, keepdim=True)
    unit = float(centred.square().mean().sqrt())
    if unit == 0:
        return 1.0

    def surprise(log_temperature: float) -> float:
        logs = (centred / math.exp(log_temperature)).log_softmax(1)
        each = (1 - extra) * logs.gather(1, labels[:, None])[:, 0] + extra * logs.mean(1)
        return -float(share @ each)

    # Convex in 1 / T, hence with one minimum.
    around = math.log(unit)
    found = minimize_scalar(surprise, bounds=(around - 10, around + 10), method="bounded", options={"xatol": 1e-6})
    return math.exp(float(found.x))


def _share_explained(lost: Tensor, possible: Tensor, weights: Tensor | None, before: Tensor | None) -> Score:
    """Returns sum(w (before - lost)) / sum(w possible), with the delta method's standard error of the ratio.

    Args:
        lost: [n], of each image.
        possible: [n], what could be lost.
        weights: [n]; None for 1.
        before: [n], what another machine loses; None: all that is possible.
    """
    w = torch.ones_like(lost) if weights is None else weights.to(lost)
    whole = (w * possible).sum()
    gained = (possible if before is None else before) - lost
    ratio = (w * gained).sum() / whole
    n = len(lost)
    spread = (w * (gained - ratio * possible)).square().sum().sqrt() / whole
    return Score(float(ratio), float(spread) * math.sqrt(n / (n - 1)) if n > 1 else math.nan)
