"""From a fitted classifier to the result that the page shows."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from convscope.core.results import Number, Skip
from convscope.core.similarity import pearson
from convscope.rfm.architecture import Architecture
from convscope.rfm.result import FeatureLayer, MetricPictures, RfmResult
from convscope.rfm.shown import leading, pictures_of, views_of

MAJORITY = "always saying the most frequent class"
PERMUTED = "permuted labels"
VIEWED = 6  # images
KEPT = Skip(
    "metric and first layer of a CNN",
    "the fixed kernel was chosen, so that there is no learned metric: use more images",
)


class Fitted(Protocol):
    """What is asked of a fitted classifier.

    Attributes:
        metric_: float64 [d, d], of the chosen iteration.
        history_: for each iteration "train_score", "loo_score", "selection_score", "selection_error",
            "selection_gain_error", "ridge", "rank".
        best_iteration_: the chosen one.
    """

    metric_: Any
    history_: Sequence[Mapping[str, Any]]
    best_iteration_: int


@dataclass(frozen=True, eq=False)
class Tested:
    """What each iteration of each layer says of test images.

    Attributes:
        labels: [m], true.
        predicted: for each layer and each of its iterations, labels [m].
    """

    labels: NDArray
    predicted: Sequence[Sequence[NDArray]]


@dataclass(frozen=True, eq=False)
class Beside:
    """The first layer of a CNN on the same images.

    Attributes:
        nfm: [d, d], its neural feature matrix.
        agop: [d, d], its average gradient outer product over patches.
        untrained: the same two of the CNN with several draws of its weights before training.
        accuracy: of the CNN on the test images, or None.
    """

    nfm: Tensor
    agop: Tensor
    untrained: Sequence[tuple[Tensor, Tensor]]
    accuracy: float | None = None


def conclude(
    layers: Sequence[Fitted],
    chosen: int,
    images: Tensor,
    labels: NDArray,
    architecture: Architecture,
    *,
    tested: Tested | None = None,
    permuted: Sequence[Fitted] | None = None,
    cnn: Beside | None = None,
) -> RfmResult:
    """Returns what a fitted classifier learned, beside the kernel that learned no features.

    Args:
        layers: one fitted machine, or several, each on features of the one before.
        chosen: which of them predicts.
        images: [n, c, h, w], that the first was fitted on.
        labels: [n], theirs.
        architecture: of the first layer.
        tested: what they say of test images.
        permuted: the same machines fitted on permuted labels: the chance of the selection score.
        cnn: a CNN to compare the first layer's metric with.
    """
    shape = (images.shape[1], architecture.patch_size, architecture.patch_size)
    stack: list[FeatureLayer] = []
    for i, layer in enumerate(layers):
        tables: list[dict[str, Number]] = []
        for t, step in enumerate(layer.history_):
            table = _numbers(step, labels) | ({} if tested is None else _on_test(tested, i, t))
            if "selection" in table:
                if permuted is not None:
                    table["selection"] = _against(table["selection"], permuted[i].history_[t])
                if i or t:
                    fixed = (stack[0].iterations if stack else tables)[0]
                    gained = 100 * (table["selection"].value - fixed["selection"].value)
                    error = 100 * _value(step, "selection_gain_error")
                    table["gain_selection"] = Number(gained, error, (0.0, 0.0), "gain_selection", "the fixed kernel")
            tables.append(table)
        stack.append(_layer(layer, tables, shape if i == 0 else (-1, *shape[1:])))
    metric = torch.as_tensor(layers[0].metric_)
    learned = layers[0].best_iteration_ > 0
    views: tuple[NDArray[np.uint8], tuple[str, ...]] = np.zeros((0, 1, 1, 3), np.uint8), ()
    if learned:
        views = views_of(images[:VIEWED], metric, architecture)
    return RfmResult(
        stack=tuple(stack),
        chosen=chosen,
        numbers={} if cnn is None else _beside(metric if learned else None, cnn),
        facts={"images": len(images), "test_images": 0 if tested is None else len(tested.labels)},
        cnn={} if cnn is None else _cnn_pictures(cnn, shape),
        views=views[0],
        view_names=views[1],
        skipped=() if cnn is None or learned else (KEPT,),
        arrays={f"metric of layer {i + 1}": np.asarray(layer.metric_) for i, layer in enumerate(layers)},
    )


def _layer(layer: Fitted, tables: list[dict[str, Number]], shape: tuple[int, int, int]) -> FeatureLayer:
    metric = torch.as_tensor(layer.metric_)
    shape = (len(metric) // (shape[1] * shape[2]), *shape[1:])
    numbers: dict[str, Number] = {}
    pictures = None
    if layer.best_iteration_ > 0:
        share = float(leading(metric, 1)[0][0])
        numbers = {
            "share": Number(share, None, None, "share"),
            "effective_rank": Number(1 / share, None, None, "effective_rank"),
        }
        pictures = pictures_of(metric, shape)
    return FeatureLayer(shape, tuple(tables), layer.best_iteration_, numbers, pictures)


def _numbers(step: Mapping[str, Any], labels: NDArray) -> dict[str, Number]:
    """Returns the numbers that an iteration has of itself; those that it did not compute are left out."""
    majority = _majority(labels)
    found = {
        "train": Number(_value(step, "train_score"), None, None, "train"),
        "loo": Number(_value(step, "loo_score"), None, majority, "loo", MAJORITY),
        "selection": Number(
            _value(step, "selection_score"), _value(step, "selection_error"), majority, "selection", MAJORITY
        ),
        "ridge": Number(_value(step, "ridge"), None, None, "ridge"),
        "rank": Number(_value(step, "rank"), None, None, "rank"),
    }
    return {key: number for key, number in found.items() if not math.isnan(number.value)}


def _value(step: Mapping[str, Any], key: str) -> float:
    value = step.get(key)
    return math.nan if value is None else float(value)


def _majority(labels: NDArray) -> tuple[float, float]:
    share = float(np.unique(labels, return_counts=True)[1].max() / len(labels))
    return share, share


def _against(number: Number, permuted: Mapping[str, Any]) -> Number:
    """Returns a number with what labels permuted once gave, 1.96 standard errors each way, as its chance."""
    value, error = _value(permuted, "selection_score"), _value(permuted, "selection_error")
    chance = (value - 1.96 * error, value + 1.96 * error)
    return Number(number.value, number.spread, chance, number.definition, PERMUTED)


def _on_test(tested: Tested, layer: int, iteration: int) -> dict[str, Number]:
    right = np.asarray(tested.predicted[layer][iteration] == tested.labels, dtype=np.float64)
    found = {"test": Number(float(right.mean()), _error(right), _majority(tested.labels), "test", MAJORITY)}
    if layer or iteration:
        gained = 100 * (right - np.asarray(tested.predicted[0][0] == tested.labels, dtype=np.float64))
        found["gain"] = Number(float(gained.mean()), _error(gained), (0.0, 0.0), "gain", "the fixed kernel")
    return found


def _error(values: NDArray[np.float64]) -> float:
    """Returns the standard error of a mean, NaN for one value."""
    return float(values.std(ddof=1) / math.sqrt(len(values))) if len(values) > 1 else math.nan


def _beside(metric: Tensor | None, cnn: Beside) -> dict[str, Number]:
    found = {}
    for i, (key, trained) in enumerate((("metric_nfm", cnn.nfm), ("metric_agop", cnn.agop))):
        if metric is not None:
            low, high = np.quantile([alignment(metric, pair[i]) for pair in cnn.untrained], [0.025, 0.975]).tolist()
            found[key] = Number(alignment(metric, trained), None, (low, high), key, "the CNN before training")
    if cnn.accuracy is not None:
        found["cnn"] = Number(cnn.accuracy, None, None, "cnn")
    return found


def alignment(a: Tensor, b: Tensor) -> float:
    """Returns Pearson's r over the entries of two matrices; NaN where one is constant.

    Args:
        a: [d, d].
        b: [d, d].
    """
    return float(pearson(a.detach().cpu().flatten(), b.detach().cpu().flatten()))


def _cnn_pictures(cnn: Beside, shape: tuple[int, int, int]) -> dict[str, MetricPictures]:
    return {name: pictures_of(matrix, shape) for name, matrix in (("NFM", cnn.nfm), ("AGOP", cnn.agop)) if matrix.any()}
