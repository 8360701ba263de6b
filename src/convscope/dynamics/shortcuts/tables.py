"""The audit of a few numbers of each image: how well colours, or properties of files, tell the classes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from sklearn.base import ClassifierMixin
from sklearn.ensemble import ExtraTreesClassifier
from sklearn.metrics import roc_auc_score
from sklearn.tree import DecisionTreeClassifier
from torch import Tensor

from convscope.core.batches import Batch
from convscope.core.kept import Kept
from convscope.dynamics.shortcuts.audit import TableAudit

IMAGES = 10_000  # kept, a random choice
FOLDS = 5
FEWEST_CLASSES = 6  # below which no class can stand out among the others
SETTING = 32  # values: a property with no more of them is a setting of how files were made
_LEAST_SPREAD = 0.1  # in log odds: classes whose areas differ by less are alike


class KeptColours(Kept):
    """Keeps, of a random choice of images, their channels' means and extremes, and the fold of each.

    ``compute().x`` is float64 [n, 3 c + 1]: mean, darkest and brightest value of each channel, then the fold.
    """

    def __init__(self) -> None:
        super().__init__(IMAGES)

    def update(self, x: Tensor, batch: Batch) -> None:
        """Offers the images of a batch."""
        pixels = x.detach().to("cpu", torch.float64).flatten(2)
        fold = (batch.fold.cpu() % FOLDS).double()[:, None]
        super().update(torch.cat([pixels.mean(2), pixels.amin(2), pixels.amax(2), fold], 1), batch)


def colour_properties(features: Tensor) -> dict[str, np.ndarray]:
    """Returns what is looked at of colours, by name, from [n, 3 c] means, darkest and brightest values of channels.

    Of several channels, each kind is taken less its mean over channels: how light an image is tells the class of
    natural images already.

    Example:
        >>> table = colour_properties(torch.tensor([[0.5, 0.3, 0.1, 0, 0, 0, 1, 1, 1]]).double())
        >>> table["means of channels"].round(3).tolist()
        [[0.2, 0.0, -0.2]]
    """
    kinds = features.unflatten(1, (3, -1))
    if kinds.shape[2] > 1:
        kinds = kinds - kinds.mean(2, keepdim=True)
    names = ("means of channels", "darkest values", "brightest values")
    return {name: kinds[:, k].numpy() for k, name in enumerate(names)}


def audit_table(table: Mapping[str, np.ndarray], labels: np.ndarray, folds: np.ndarray) -> TableAudit:
    """Returns how well properties of images tell their classes, each image judged by what others taught.

    Many random trees learn from all properties together, one tree from each alone. How well they tell one class from
    all others is the area under its receiver operating characteristic (0.5: not at all).

    Args:
        table: [n, g] or [n], numbers of each image, by the name of the property.
        labels: int64 [n].
        folds: int64 [n], of each image; those of one are judged by what all others taught.
    """
    columns = {name: np.asarray(x, np.float64).reshape(len(labels), -1) for name, x in table.items()}
    names, truth, chance = tuple(columns), labels, float(np.bincount(labels).max() / len(labels))
    forest = ExtraTreesClassifier(30, min_samples_leaf=5, random_state=0)
    told = _told(forest, np.concatenate(list(columns.values()), 1), truth, folds)
    single = {name: _share(_told(_tree(), x, truth, folds), truth, folds)[0] for name, x in columns.items()}
    accuracy, spread = _share(told, truth, folds)
    areas = np.full(told.shape[1], math.nan)
    for k in range(len(areas)):
        # A class all of one source cannot be learnt from other sources.
        if len(np.unique(folds[truth == k])) > 1:
            areas[k] = roc_auc_score(truth == k, told[:, k])
    return TableAudit(
        names=names,
        accuracy=accuracy,
        spread=spread,
        chance=chance,
        chance_spread=math.sqrt(chance * (1 - chance) / len(labels)),
        single=single,
        areas=torch.from_numpy(areas),
        z=areas_z(areas),
    )


def areas_z(areas: np.ndarray) -> Tensor:
    """Returns how far each class's area, in log odds, lies above those of the others: a robust z, float64 [o].

    NaN with fewer than ``FEWEST_CLASSES`` classes.

    Example:
        >>> areas_z(np.array([0.6, 0.6, 0.6, 0.6, 0.6, 0.9])).round(decimals=1).tolist()
        [0.0, 0.0, 0.0, 0.0, 0.0, 17.9]
    """
    odds = torch.from_numpy(np.log((areas + 1e-4) / (1 - areas + 1e-4)))
    known = torch.nonzero(~odds.isnan())[:, 0]
    z = torch.full_like(odds, torch.nan)
    if len(known) < FEWEST_CLASSES:
        return z
    for k in known.tolist():
        rest = odds[known[known != k]]
        middle = rest.quantile(0.5)
        deviation = 1.4826 * (rest - middle).abs().quantile(0.5)
        z[k] = (odds[k] - middle) / deviation.clamp(min=_LEAST_SPREAD)
    return z


def settings(table: Mapping[str, np.ndarray]) -> list[str]:
    """Returns the properties with at most ``SETTING`` different values: how a file was made rather than what it shows.

    Example:
        >>> settings({"quality": np.array([75, 95] * 50), "bytes": np.arange(100)})
        ['quality']
    """
    return [name for name, x in table.items() if 1 < len(np.unique(x)) <= SETTING]


def rows_of(properties: Mapping[str, Sequence[float]], index: Tensor) -> dict[str, np.ndarray]:
    """Returns the properties of some images.

    Args:
        properties: by name, one value for each image in the order of identities.
        index: int64 [n], the images' identities.

    Raises:
        ValueError: when there is no property, or one does not hold a finite number for each image.
    """
    if not properties:
        raise ValueError("properties is empty: give at least one, by name, or None")
    found = {}
    for name, values in properties.items():
        try:
            column = np.asarray(values, np.float64)
        except (TypeError, ValueError):
            raise ValueError(f"the property {name!r} holds something that is no number: encode it as one") from None
        if column.ndim != 1 or len(column) <= int(index.max()):
            raise ValueError(
                f"the property {name!r} has shape {column.shape}, but image {int(index.max())} was seen: give one "
                "value for each image, in the order of the images"
            )
        found[name] = column[index.numpy()]
        if not np.isfinite(found[name]).all():
            raise ValueError(f"the property {name!r} is NaN or infinite for some images: give a number for each")
    return found


def _tree() -> DecisionTreeClassifier:
    return DecisionTreeClassifier(max_leaf_nodes=64, min_samples_leaf=10, random_state=0)


def _told(classifier: ClassifierMixin, x: np.ndarray, labels: np.ndarray, folds: np.ndarray) -> np.ndarray:
    """Returns float64 [n, o], the probability of each class, learnt from the other folds."""
    told = np.zeros((len(labels), int(labels.max()) + 1))
    for fold in np.unique(folds):
        own = folds == fold
        if own.all():
            continue
        classifier.fit(x[~own], labels[~own])
        told[np.ix_(own, classifier.classes_)] = classifier.predict_proba(x[own])
    return told


def _share(told: np.ndarray, labels: np.ndarray, folds: np.ndarray) -> tuple[float, float]:
    """Returns the share of images told rightly, and its standard error from the differences between folds."""
    right = (told.argmax(1) == labels) & (told.max(1) > 0)
    shares = [float(right[folds == fold].mean()) for fold in np.unique(folds)]
    spread = float(np.std(shares, ddof=1) / math.sqrt(len(shares))) if len(shares) > 1 else math.nan
    return float(right.mean()), spread
