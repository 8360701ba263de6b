"""Deep ConvRFM: further layers of features, drawn at random as the metric of the layer before has it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Literal, Self

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from convscope.rfm.architecture import Kind, Padding
from convscope.rfm.base import Calibrate, Classifies
from convscope.rfm.learned import Judge, Learned, Outcome, Selection, first_best, splits
from convscope.rfm.machine import Data
from convscope.rfm.maps import Features
from convscope.rfm.settings import Settings

FEATURE_MAPS = ("linear", "relu")


class DeepConvRFMClassifier(Classifies):
    """ConvRFM on images, then on random features of them, layer by layer (Beaglehole et al. 2023, Deep ConvRFM).

    The features of the next layer are a convolution with ``width`` filters drawn from the normal distribution whose
    covariance is the metric of the layer before, and a kernel of one convolution less sees them. Layer and iteration
    that are used are the best on held-out images, from which nothing was learned in any layer: deeper is not always
    better, least of all with few images.

    Parameters:
        patch_size: q, side of the patches of every layer, in pixels; 1 for rows without ``image_shape``.
        depth: number of convolutions of the first layer's kernel, each with its ReLU.
        n_layers: number of layers that learn features, at most ``depth``.
        width: number of filters between layers.
        feature_map: "linear", as in the authors' code, or "relu".
        n_iters: number of metrics learned one after the other in each layer.
        ridge: as ``ConvRFMClassifier``; so all that follow.
        selection: how layer and iteration are chosen; None: the last ones.
        random_state: of the folds, of the images at which gradients are taken, and of the filters.
        padding: also of the convolutions between layers.
        stride: of the first convolution.
        kind: of the kernel.
        agop_samples: images at which gradients are taken.
        metric_power: of the AGOP.
        threshold: share of the metrics' eigenvalues set to 0.
        rank_tol: share of a metric's trace that may be left out; in later layers, of long patches, it saves most.
        n_splits: number of folds.
        centre: whether each channel's mean over the training images is taken off.
        image_shape: of rows.
        channels: first or last.
        solver: of the linear system.
        max_memory: bytes that learning and predicting may take, beside the images and the libraries.
        method: of kernels.
        device: where to compute.
        verbose: whether to show an estimate of time and memory, and progress.

    Attributes:
        layers_: what each layer learned, with ``history_``, ``metric_``, ``filters_``, ``best_iteration_``,
            ``selection_score_`` and ``loo_score_`` as ``ConvRFMClassifier`` has them.
        best_layer_: the one that is used, from 0.
        convolutions_: float32 or float64 [width, c, q, q] for each layer but the first: what makes its input.
        selection_score_: of the best layer; None without selection.
        loo_score_: of the best layer.
        classes_: [k].
        temperature_: of the probabilities.

    Example:
        >>> import numpy as np
        >>> X = np.random.default_rng(0).normal(size=(40, 1, 6, 6))
        >>> y = X[:, 0, 2, 3] > 0
        >>> clf = DeepConvRFMClassifier(depth=2, n_layers=2, n_iters=1, width=8).fit(X, y)
        >>> len(clf.layers_), clf.predict(X).shape
        (2, (40,))
    """

    layers_: list[Learned]
    convolutions_: list[NDArray]
    best_layer_: int

    def __init__(
        self,
        *,
        patch_size: int = 3,
        depth: int = 3,
        n_layers: int = 3,
        width: int = 64,
        feature_map: Literal["linear", "relu"] = "relu",
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
        rank_tol: float = 1e-2,
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
        self.n_layers = n_layers
        self.width = width
        self.feature_map = feature_map
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

    @classmethod
    def official(cls, code: Literal["notebook", "script"] = "script", **changes: Any) -> Self:
        """Returns an estimator that learns as the authors' code does: 5 layers of linear features, no selection.

        Args:
            code: as ``ConvRFMClassifier`` takes it; the authors have a script alone for several layers.
            changes: other parameters.

        Raises:
            ValueError: for another code.
        """
        found = super().official(code, feature_map="linear")
        return found.set_params(n_layers=found.depth).set_params(**changes)

    def _learn(self, data: Data, labels: Tensor | None, judge: Judge, calibrate: Calibrate) -> None:
        self._check_parameters()
        parts = splits(self.selection, self.n_splits, labels, data.identity, self.settings_.seed)
        # The convolutions so far, of the machine of all images (None) and of that of each split.
        chains: dict[int | None, list[Tensor]] = {key: [] for key in (None, *range(len(parts)))}
        layers: list[Outcome] = []
        for layer in range(self.n_layers):
            features: dict[int | None, Features] | None = None
            if layer:
                roots = dict(zip(chains, (layers[-1].root, *layers[-1].roots), strict=True))
                for key, chain in chains.items():
                    chain.append(self._drawn(roots[key], layer, data.images))
                features = {key: partial(self._through, list(chain)) for key, chain in chains.items()}
            try:
                fixed = layers[0].fixed if layer else None
                outcome, complete = self._learned(data, layer, parts, judge, features, fixed)
            except KeyboardInterrupt:
                if not layers:
                    raise
                complete = False
            else:
                layers.append(outcome)
            if not complete:
                break
        self.layers_ = [outcome.machine for outcome in layers]
        scores = [part.selection_score_ for part in self.layers_ if part.selection_score_ is not None]
        self.best_layer_ = first_best(scores) if scores else len(layers) - 1
        self.convolutions_ = [weight.cpu().numpy() for weight in chains[None][: len(layers) - 1]]
        best = self.layers_[self.best_layer_]
        self.selection_score_, self.loo_score_ = best.selection_score_, best.loo_score_
        calibrate(layers[self.best_layer_])
        self.X_fit_ = data.images.cpu().numpy()
        if not complete:
            raise KeyboardInterrupt

    def _check_parameters(self) -> None:
        for name in ("n_layers", "width"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} must be a whole number of at least 1, got {value!r}")
        if self.n_layers > self.depth:
            raise ValueError(
                f"n_layers must be at most depth ({self.depth}), since each layer's kernel has one convolution less, "
                f"got {self.n_layers}"
            )
        if self.feature_map not in FEATURE_MAPS:
            raise ValueError(f"feature_map must be one of {', '.join(FEATURE_MAPS)}, got {self.feature_map!r}")

    def _drawn(self, root: Tensor | None, layer: int, images: Tensor) -> Tensor:
        """Returns filters [width, c, q, q] of covariance M; the same draw for every metric."""
        geometry = self._settings_of(layer - 1).architecture.first(self.width if layer > 1 else images.shape[1])
        generator = torch.Generator().manual_seed(self.settings_.seed + layer)
        rows = torch.randn(self.width, geometry.patch_dim, generator=generator, dtype=torch.float64)
        rows = rows / geometry.patch_dim**0.5 if root is None else rows @ root
        return rows.unflatten(1, (geometry.channels, *geometry.kernel)).to(images)

    def _through(self, convolutions: Sequence[Tensor], images: Tensor) -> Tensor:
        x = images
        for layer, weight in enumerate(convolutions):
            geometry = self._settings_of(layer).architecture.first(x.shape[1])
            x = F.conv2d(geometry.pad(x), weight.to(x), None, geometry.stride)
            x = x.relu() if self.feature_map == "relu" else x
        return x

    def _features(self, layer: int) -> Features | None:
        return partial(self._through, [torch.from_numpy(weight) for weight in self.convolutions_[:layer]])

    def _settings_of(self, layer: int) -> Settings:
        first = self.settings_.architecture
        if not layer:
            return self.settings_
        return replace(self.settings_, architecture=replace(first, depth=first.depth - layer, stride=1))

    def _parts(self) -> list[Learned]:
        return self.layers_

    def _best(self) -> tuple[int, int]:
        return self.best_layer_, self.layers_[self.best_layer_].best_iteration_
