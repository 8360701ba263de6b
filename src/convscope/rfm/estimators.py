"""ConvRFM as scikit-learn estimators: one layer of features."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import fields
from typing import Literal, Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import RegressorMixin
from sklearn.utils import Tags
from torch import Tensor

from convscope.rfm.architecture import Kind, Padding
from convscope.rfm.base import Calibrate, Classifies, Learner
from convscope.rfm.learned import Judge, Learned, Selection, splits
from convscope.rfm.machine import Data
from convscope.rfm.maps import identities
from convscope.rfm.selection import Score, r_squared


class ConvRFM(Learner):
    """A machine with one layer of features; its parameters are those of ``ConvRFMClassifier``."""

    def __init__(
        self,
        *,
        patch_size: int = 3,
        depth: int = 3,
        n_iters: int = 5,
        ridge: float | Literal["loo"] = "loo",
        selection: Selection = "cv",
        random_state: int | np.random.RandomState | None = 0,
        padding: Padding = "valid",
        stride: int = 1,
        kind: Kind = "ntk",
        agop_samples: int | Sequence[int] = 64,
        metric_power: float = 1.0,
        threshold: float = 0.0,
        rank_tol: float = 1e-4,
        n_splits: int = 5,
        centre: bool = False,
        image_shape: Sequence[int] | None = None,
        channels: Literal["auto", "first", "last"] = "auto",
        solver: Literal["auto", "cholesky", "cg"] = "auto",
        max_memory: int = 2**31,
        method: Literal["auto", "fused", "plain"] = "auto",
        device: str = "auto",
        verbose: bool = False,
    ):
        self.patch_size = patch_size
        self.depth = depth
        self.n_iters = n_iters
        self.ridge = ridge
        self.selection = selection
        self.random_state = random_state
        self.padding = padding
        self.stride = stride
        self.kind = kind
        self.agop_samples = agop_samples
        self.metric_power = metric_power
        self.threshold = threshold
        self.rank_tol = rank_tol
        self.n_splits = n_splits
        self.centre = centre
        self.image_shape = image_shape
        self.channels = channels
        self.solver = solver
        self.max_memory = max_memory
        self.method = method
        self.device = device
        self.verbose = verbose

    def _learn(self, data: Data, labels: Tensor | None, judge: Judge, calibrate: Calibrate) -> None:
        parts = splits(self.selection, self.n_splits, labels, data.identity, self.settings_.seed)
        outcome, complete = self._learned(data, 0, parts, judge)
        self.__dict__.update(vars(outcome.machine))
        stage = self.stages_[self.best_iteration_]
        self.dual_coef_, self.scale_ = stage.dual_coef, stage.scale
        calibrate(outcome)
        self.X_fit_ = data.images.cpu().numpy()
        if not complete:
            raise KeyboardInterrupt

    def _parts(self) -> list[Learned]:
        return [Learned(**{f.name: getattr(self, f.name) for f in fields(Learned)})]

    def _best(self) -> tuple[int, int]:
        return 0, self.best_iteration_


class ConvRFMClassifier(Classifies, ConvRFM):
    """Kernel machine of a convolutional network that learns which patches matter (Beaglehole et al. 2023).

    Ridge regression to one-hot classes with the kernel of an infinitely wide ReLU network without pooling; the average
    gradient outer product of its predictor over first-layer patches becomes the metric on patches, and again. The
    iteration that is used is the best on held-out images for which also the metric was learned without them.

    Parameters:
        patch_size: q, side of the patches of every layer, in pixels; 1 for rows without ``image_shape``.
        depth: number of convolutions, each with its ReLU.
        n_iters: number of metrics learned one after the other; 0: the fixed kernel.
        ridge: in units of the largest entry of the kernel; "loo": the best of 1e-8 to 10 by leave-one-out at each
            metric.
        selection: how the iteration is chosen: "cv": by cross-validation (by one held-out part, as "holdout", for more
            than 5,000 images); None: the last one.
        random_state: of the folds, and of the images at which gradients are taken.
        padding: "valid": none; "first": zeros around the images; "same": zeros in every layer.
        stride: of the first convolution.
        kind: "ntk", neural tangent kernel; "nngp", covariance of the untrained network.
        agop_samples: number of training images at which gradients are taken, drawn at random; or the numbers of these
            images in X, of which each fold takes those that it trains on.
        metric_power: p, the metric is AGOP^p over its trace (its size has no influence on predictions).
        threshold: share of the metric's eigenvalues, the smallest, set to 0; 0.75 with the official flag.
        rank_tol: share of the metric's trace that may be left out to save time.
        n_splits: number of folds; one of them is held out with "holdout".
        centre: whether each channel's mean over the training images is taken off; it helps where what tells the
            classes apart is small beside the images' brightness.
        image_shape: shape that rows [n, d] are given, (h, w), (c, h, w) or (h, w, c); without it each entry of a row
            is a channel of one pixel.
        channels: whether channels come "first" or "last"; "auto": where patches and at most 4 channels fit.
        solver: "cholesky"; "cg": conjugate gradients on a kernel that lies in a temporary file; "auto": by memory.
        max_memory: bytes that learning and predicting may take, beside the images and the libraries.
        method: how kernels are computed: "fused", "plain", or "auto".
        device: "cpu", "cuda", or "auto": "cuda" where there is one.
        verbose: whether to show an estimate of time and memory, and progress.

    Attributes:
        classes_: [k].
        metric_: float64 [d, d], M, of trace 1, on patches flattened as (c, i, j).
        metric_root_: float64 [d, d], A with A^2 = M.
        filters_: float64 [r, c, q, q], leading eigenvectors of the metric as patches.
        history_: a dictionary for each iteration, from 0 (the fixed kernel): "iteration", "train_score", "loo_score",
            "selection_score", "selection_error" (standard error), "selection_gain_error" (that of the gain over the
            fixed kernel), "ridge", "rank", "seconds".
        best_iteration_: the one that is used.
        selection_score_: its accuracy on held-out images; None without selection.
        loo_score_: its accuracy by leave-one-out: too good once the metric has seen the labels.
        dual_coef_: float64 [n, k], for the kernel over ``scale_``, its largest entry.
        X_fit_: [n, c, h, w], the training images.
        temperature_: of the probabilities.

    Example:
        >>> import numpy as np
        >>> X = np.random.default_rng(0).normal(size=(40, 1, 6, 6))
        >>> y = np.where(X[:, 0, 2, 3] > 0, "bright", "dark")
        >>> clf = ConvRFMClassifier(depth=2, n_iters=1).fit(X, y)
        >>> clf.predict(X[:3]) == y[:3]
        array([ True,  True,  True])
        >>> clf.metric_.shape
        (9, 9)
    """


class ConvRFMRegressor(RegressorMixin, ConvRFM):  # type: ignore[misc]
    """Kernel machine of a convolutional network that learns which patches matter, for numbers.

    As ``ConvRFMClassifier``, with the same parameters and attributes but for classes; scores are R^2. The mean of y is
    taken off first, since the kernel has no constants, and is in ``offset_``.

    Example:
        >>> import numpy as np
        >>> X = np.random.default_rng(0).normal(size=(40, 1, 6, 6))
        >>> y = 5 + X[:, 0, 2, 3]
        >>> ConvRFMRegressor(depth=2, n_iters=1).fit(X, y).predict(X).shape
        (40,)
    """

    def fit(self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None) -> Self:
        """Learns the metric and the targets.

        Args:
            X: images [n, c, h, w], [n, h, w, c] or [n, h, w], or rows [n, d]; uint8 counts as numbers over 255.
            y: [n] or [n, o].
            sample_weight: [n], not negative; images of weight 0 are left out.

        Raises:
            ValueError: when the images, targets, weights or parameters are not as they must be.
            ConvscopeError: when memory does not suffice or the kernel is singular.
        """
        images, y, weights, rows = self._prepared(X, y, sample_weight, y_numeric=True, multi_output=True)
        self.target_shape_ = y.shape[1:]
        targets = torch.tensor(y, dtype=torch.float64).reshape(len(y), -1)

        def judge(predictions: Tensor, of: Tensor, before: Tensor | None = None) -> Score:
            return r_squared(predictions, targets[of], None if weights is None else weights[of], before)

        self._learn(Data(images, targets, weights, identities(images)[0], rows), None, judge, lambda *_: None)
        return self

    def predict(self, X: ArrayLike) -> NDArray:
        """Returns the predictions, [m] or [m, o] as y came."""
        return self._shaped(self._scores(X))

    def staged_predict(self, X: ArrayLike) -> Iterator[NDArray]:
        """Gives the predictions of each iteration, from 0 (the fixed kernel)."""
        return map(self._shaped, self.staged_outputs(X))

    def _shaped(self, scores: Tensor) -> NDArray:
        return scores.numpy().reshape(len(scores), *self.target_shape_)

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags
