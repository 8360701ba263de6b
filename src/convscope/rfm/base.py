"""What all ConvRFM estimators share: images in, a machine learned, scores and labels out."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from numbers import Integral
from typing import Any, Literal, Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
from sklearn.utils import check_random_state
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data
from torch import Tensor
from tqdm import tqdm

from convscope.core.errors import ConvscopeError
from convscope.inputs.files import reason, shown
from convscope.rfm import store
from convscope.rfm.architecture import Architecture, as_double
from convscope.rfm.forecast import forecast
from convscope.rfm.inputs import Form, as_array, check_images, clipped
from convscope.rfm.learned import Judge, Learned, Outcome, Stage, learned
from convscope.rfm.machine import Data, Split, Step, relearn, responses
from convscope.rfm.maps import Features, Filtered, Filters, identities, seen
from convscope.rfm.selection import Score, accuracy, temperature
from convscope.rfm.settings import Settings

Calibrate = Callable[[Outcome], None]

# The authors' code, github.com/aradha/convrfm: its notebooks, and its script, which chose the ridge and the iteration
# on the test images and made the metric from the last ridge of its list.
_NOTEBOOK: dict[str, Any] = {"ridge": 1e-5, "agop_samples": range(20), "rank_tol": 0.0, "selection": None}
OFFICIAL = {"notebook": _NOTEBOOK, "script": _NOTEBOOK | {"depth": 5, "ridge": 1e-3, "metric_power": 2.0}}


class Learner(BaseEstimator):  # type: ignore[misc]
    """Images in, a machine learned, outputs out; subclasses have the parameters of ``ConvRFMClassifier`` and learn.

    Attributes:
        X_fit_: [n, c, h, w], the training images, less their mean.
        mean_: float64 [c], of each channel over the training images; 0 where they are not centred.
        form_: how images come.
        settings_: of the first layer.
    """

    X_fit_: NDArray
    mean_: NDArray
    form_: Form
    settings_: Settings

    @classmethod
    def official(cls, code: Literal["notebook", "script"] = "notebook", **changes: Any) -> Self:
        """Returns an estimator that learns as the authors' code does.

        Args:
            code: "notebook": ridge 1e-5, the metric is the AGOP. "script": depth 5, ridge 1e-3, the metric is the
                AGOP squared. Both take the gradients at the first 20 images, and the last iteration.
            changes: other parameters.

        Raises:
            ValueError: for another code.
        """
        if code not in OFFICIAL:
            raise ValueError(f"code must be one of {', '.join(OFFICIAL)}, got {code!r}")
        return cls(**(OFFICIAL[code] | changes))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the fitted estimator as safetensors, which hold nothing that could run.

        Raises:
            ConvscopeError: when the file cannot be written, or cannot hold a parameter.
        """
        check_is_fitted(self)
        parameters = self.get_params(deep=False) | {"device": str(self.get_params()["device"])}
        fitted = {name: value for name, value in vars(self).items() if _is_fitted(name)}
        store.write(path, type(self).__name__, {"parameters": parameters, "fitted": fitted})

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Returns the estimator that ``save`` wrote.

        Raises:
            ConvscopeError: when the file is missing, damaged, or holds something else.
        """
        state = store.read(path, cls.__name__, (Form, Settings, Architecture, Learned, Stage))
        try:
            found = cls(**state["parameters"])
            found.__dict__.update({name: value for name, value in state["fitted"].items() if _is_fitted(name)})
            found._check()
        except Exception as error:
            raise ConvscopeError(
                f"{shown(path)} does not hold a fitted {cls.__name__} ({reason(error)}): the file is "
                "damaged; save it again"
            ) from None
        return found

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "X_fit_")

    # What subclasses say.

    def _learn(self, data: Data, labels: Tensor | None, judge: Judge, calibrate: Calibrate) -> None:
        """Learns, and calibrates by predictions that had no part in the machine; so far as it came when interrupted."""
        raise NotImplementedError

    def _parts(self) -> list[Learned]:
        """Returns what each layer learned."""
        raise NotImplementedError

    def _best(self) -> tuple[int, int]:
        """Returns the layer and the iteration that predict."""
        raise NotImplementedError

    def _features(self, layer: int) -> Features | None:
        """Returns what gives a layer's input; None: the images themselves."""
        return None

    def _settings_of(self, layer: int) -> Settings:
        return self.settings_

    # What they share.

    def _learned(
        self,
        data: Data,
        layer: int,
        parts: list[Split],
        judge: Judge,
        features: Mapping[int | None, Features] | None = None,
        fixed: Tensor | None = None,
    ) -> tuple[Outcome, bool]:
        """Returns what a layer learned, and whether it was not interrupted.

        Args:
            data: all images.
            layer: its number.
            parts: numbers of the images to learn from and of those held out.
            judge: gives the score of predictions.
            features: as ``relearn`` takes them.
            fixed: as ``learned`` takes it.

        Raises:
            KeyboardInterrupt: when it was interrupted before the end of the first iteration.
        """
        settings, complete = self._settings_of(layer), True
        own = data if features is None else replace(data, features=features[None])
        if settings.verbose:
            cost = forecast(own, settings, parts, shared=features is None)
            tqdm.write(f"{len(data)} images, {1 + len(parts)} machines: {cost}", file=sys.stderr)
        rounds: list[tuple[Step, list[Step]]] = []
        try:
            rounds.extend(
                tqdm(
                    relearn(data, settings, parts, features),
                    total=settings.n_iters + 1,
                    unit="iteration",
                    desc="learning",
                    disable=not settings.verbose,
                )
            )
        except KeyboardInterrupt:
            if not rounds:
                raise
            complete = False
        q = settings.architecture.patch_size
        rows = torch.cat([out for _, out in parts]) if parts else torch.arange(0)
        return learned(rounds, rows, judge, (own.example.shape[1], q, q), fixed), complete

    def _check(self) -> None:
        """Checks that the parts of a loaded machine fit together.

        Raises:
            ValueError: when they do not.
        """
        known = self.X_fit_
        if self.mean_.shape != known.shape[1:2] or not np.isfinite(self.mean_).all():
            raise ValueError(f"mean_ must be finite, one number for each of the {known.shape[1]} channels")
        if known.ndim != 4 or known.shape[1:] != self.form_.shape or not np.isfinite(known).all():
            raise ValueError(f"X_fit_ must be finite images {self.form_.shape}, got {known.shape}")
        for i, part in enumerate(self._parts()):
            architecture = self._settings_of(i).architecture
            example = seen(torch.from_numpy(known[:1]), self._features(i))
            architecture.sizes(*example.shape[2:])
            for stage in part.stages_:
                stage.check(len(known), architecture.first(example.shape[1]).patch_dim, stage.dual_coef.shape[1])
        self._outputs(torch.from_numpy(known[:1]), *self._best())

    def _prepared(
        self, X: Any, y: Any, sample_weight: Any, **checks: Any
    ) -> tuple[Tensor, NDArray, Tensor | None, Tensor]:
        """Returns (images [n, c, h, w], y [n], weights [n] or None, numbers [n] of the images in X).

        Raises:
            ValueError: when the images, weights or parameters are not as they must be.
        """
        self.__dict__.pop("X_fit_", None)  # where fitting anew is interrupted, it is not fitted
        x, y = validate_data(
            self, as_array(X), as_array(y), allow_nd=True, dtype="numeric", ensure_min_samples=2, **checks
        )
        p = self.get_params(deep=False)
        rows, weights = np.arange(len(x)), None
        if sample_weight is not None:
            every = _check_sample_weight(as_array(sample_weight), x, dtype=np.float64)
            if (every < 0).any():
                raise ValueError(f"sample_weight must not be negative, got {every.min():g}")
            rows = every.nonzero()[0]
            if len(rows) < 2:
                raise ValueError(f"at least 2 images must have a positive sample_weight, got {len(rows)}")
            weights = torch.from_numpy(every[rows])
        architecture = Architecture(p["depth"], p["patch_size"], p["padding"], p["stride"], p["kind"])
        self.form_ = Form.of(x.shape[1:], architecture, p["channels"], p["image_shape"])
        samples = p["agop_samples"]
        same = ("n_iters", "ridge", "metric_power", "threshold", "rank_tol", "solver", "max_memory", "method")
        self.settings_ = Settings(
            architecture=clipped(architecture, self.form_),
            agop_samples=int(samples) if isinstance(samples, Integral) else tuple(int(i) for i in samples),
            centre_targets=isinstance(self, RegressorMixin),
            seed=int(check_random_state(p["random_state"]).randint(2**31 - 1)),
            verbose=bool(p["verbose"]),
            **{name: p[name] for name in same},
        )
        images = self.form_.images(x[rows]).to(_device(p["device"]))
        check_images(images)
        self.mean_ = np.zeros(images.shape[1])
        if p["centre"]:
            self.mean_ = _means(images, weights)
        return self._centred(images), y[rows], weights, torch.from_numpy(rows)

    def _received(self, X: ArrayLike) -> Tensor:
        """Returns new images [m, c, h, w] like those it was fitted on."""
        check_is_fitted(self)
        x = validate_data(self, as_array(X), allow_nd=True, dtype="numeric", reset=False)
        images = self.form_.images(x).to(_device(self.get_params()["device"]), torch.from_numpy(self.X_fit_[:0]).dtype)
        return self._centred(images)

    def _centred(self, images: Tensor) -> Tensor:
        return images - torch.from_numpy(self.mean_).to(images)[:, None, None] if self.mean_.any() else images

    def _outputs(self, images: Tensor, layer: int, iteration: int) -> Tensor:
        """Returns the outputs of one stage of the machine, float64 [m, o]."""
        stage, settings = self._parts()[layer].stages_[iteration], self._settings_of(layer)
        known = torch.from_numpy(self.X_fit_).to(images.device)
        filters = Filters.of(
            None if stage.metric_root is None else torch.from_numpy(stage.metric_root), settings.rank_tol
        )
        # Of the images: features of equal ones may differ in their last digits.
        same, features = identities(known, images), self._features(layer)
        known_images, new = (
            Filtered(x, filters, settings.architecture, of_x, features)
            for x, of_x in zip((known, images), same, strict=True)
        )
        alpha = torch.from_numpy(stage.dual_coef) / stage.scale
        quiet = replace(settings, verbose=False)
        return responses(known_images, alpha, new, quiet) + torch.from_numpy(stage.offset)

    def _scores(self, X: ArrayLike) -> Tensor:
        return self._outputs(self._received(X), *self._best())

    def staged_outputs(self, X: ArrayLike) -> Iterator[Tensor]:
        """Gives the outputs, float64 [m, o], of each iteration, from 0 (the fixed kernel), of each layer."""
        images = self._received(X)
        for layer, part in enumerate(self._parts()):
            for iteration in range(len(part.stages_)):
                yield self._outputs(images, layer, iteration)


class Classifies(ClassifierMixin, Learner):  # type: ignore[misc]
    """Labels in and out of a machine, whose outputs are one for each class.

    Attributes:
        classes_: [k].
        temperature_: of the probabilities.
    """

    classes_: NDArray
    temperature_: float

    def fit(self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None) -> Self:
        """Learns metrics and classes.

        Args:
            X: images [n, c, h, w], [n, h, w, c] or [n, h, w], or rows [n, d]; uint8 counts as numbers over 255.
            y: [n], classes of any kind.
            sample_weight: [n], not negative; images of weight 0 are left out.

        Raises:
            ValueError: when the images, classes, weights or parameters are not as they must be.
            ConvscopeError: when memory does not suffice or the kernel is singular.
        """
        images, y, weights, rows = self._prepared(X, y, sample_weight)
        check_classification_targets(y)
        self.classes_, codes = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError(
                f"{type(self).__name__} needs images of at least 2 classes, got one class, {self.classes_[0]!r}"
            )
        labels = torch.from_numpy(codes)
        targets = torch.nn.functional.one_hot(labels, len(self.classes_)).double()

        def judge(predictions: Tensor, of: Tensor, before: Tensor | None = None) -> Score:
            return accuracy(predictions, labels[of], None if weights is None else weights[of], before)

        def calibrate(found: Outcome) -> None:
            chosen = None if weights is None else weights[found.rows]
            self.temperature_ = temperature(found.predictions, labels[found.rows], chosen)

        self._learn(Data(images, targets, weights, identities(images)[0], rows), labels, judge, calibrate)
        return self

    def decision_function(self, X: ArrayLike) -> NDArray:
        """Returns the outputs [m, classes]; of two classes, the second output less the first, [m]."""
        scores = self._scores(X).numpy()
        return scores[:, 1] - scores[:, 0] if len(self.classes_) == 2 else scores

    def predict(self, X: ArrayLike) -> NDArray:
        """Returns the class with the largest output, [m]."""
        return self._named(self._scores(X))

    def staged_predict(self, X: ArrayLike) -> Iterator[NDArray]:
        """Gives the predictions [m] of each iteration, from 0 (the fixed kernel), of each layer."""
        return map(self._named, self.staged_outputs(X))

    def predict_proba(self, X: ArrayLike) -> NDArray:
        """Returns the probability of each class, [m, classes].

        Softmax at the temperature at which the classes of held-out images are the likeliest; without selection, of
        images left out one at a time.
        """
        return (self._scores(X) / self.temperature_).softmax(1).numpy()

    def _named(self, scores: Tensor) -> NDArray:
        return self.classes_[scores.argmax(1).numpy()]

    def _check(self) -> None:
        super()._check()
        outputs = {stage.dual_coef.shape[1] for part in self._parts() for stage in part.stages_}
        if outputs != {len(self.classes_)} or not self.temperature_ > 0:
            raise ValueError(f"outputs must be one for each of {len(self.classes_)} classes, temperature_ positive")


def _is_fitted(name: str) -> bool:
    return name.endswith("_") and not name.startswith("_")


def _means(images: Tensor, weights: Tensor | None) -> NDArray:
    """Returns each channel's mean over images, float64 [c]."""
    of_image = as_double(images.mean((2, 3)))
    return np.average(of_image.numpy(), axis=0, weights=None if weights is None else weights.numpy())


def _device(name: str | torch.device) -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else torch.device(name)
