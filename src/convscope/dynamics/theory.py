"""The theory of learning dynamics on a pass: what it feeds, and what it concludes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from convscope.core.errors import ConvscopeError
from convscope.core.kept import Kept, KeptImages
from convscope.core.network import Network
from convscope.core.passes import Pass
from convscope.core.results import Skip
from convscope.core.slots import Slot
from convscope.core.streams import Images
from convscope.dynamics.collect import ClassSums, feed_structure, size_within, structure_of
from convscope.dynamics.conclude import conclude
from convscope.dynamics.estimates import Seen
from convscope.dynamics.folds import Fold
from convscope.dynamics.null import SignSums
from convscope.dynamics.parts import Trained
from convscope.dynamics.result import DynamicsResult
from convscope.dynamics.setting import Setting
from convscope.dynamics.use import IMAGES, WHAT, with_use

KEPT_BYTES = 2**30  # of images for training


class Dynamics:
    """The structure of a data set, and in which order a linear CNN learns it.

    Args:
        setting: the network whose learning is told, and its training.
        gray: whether to average the images' channels.
        center: whether mean image and mean label are taken off; see ``dataset_structure``.
        required: whether images without usable labels are an error; else the result says what is missing.
        train: trains a network on labelled images that the pass keeps, and returns what it learned.
        train_images: how many to keep for it.
    """

    def __init__(
        self,
        setting: Setting | None = None,
        *,
        gray: bool = False,
        center: bool = True,
        required: bool = False,
        train: Callable[[Tensor, Tensor], Trained] | None = None,
        train_images: int = 2000,
    ) -> None:
        self.setting = setting or Setting()
        self.gray = gray
        self.center = center
        self.required = required
        self.train = train
        self.train_images = train_images

    def stream(self, p: Pass) -> Images:
        """Returns the images as the theory sees them: all of one size, as ``size_within`` says."""
        h, w = p.pilot.images.shape[2:]
        return Images(size_within(p) or (h, w), self.gray and p.pilot.images.shape[1] > 1)

    def plan(self, p: Pass) -> Callable[[], DynamicsResult]:
        """Feeds the pass and returns what draws the conclusion after it ran.

        Raises:
            ConvscopeError: when labels are required and missing, or no method covers the setting.
        """
        if p.pilot.labels is None:
            missing = "the images have no labels: give a folder with a sub-folder a class, or an array of labels"
            if self.required:
                raise ConvscopeError(missing)
            return lambda: _without(missing)
        stream = self.stream(p)
        reference = stream(p.pilot.images).to("cpu", torch.float64).mean(0)
        c, h, w = reference.shape
        self.setting.check((c, h, w))
        slots = feed_structure(p, stream, self.setting.wants_covariance((c, h, w)))
        signs = p.feed(stream, lambda: SignSums(reference), folded=False, label="permuted labels")
        model = p.networks.get("model")
        kept = self._feed_kept(p, stream, model)

        def finish() -> DynamicsResult:
            try:
                structure = structure_of(slots[-1].value(), center=self.center)
            except ConvscopeError as error:
                if self.required:
                    raise
                return _without(str(error))
            seen = Seen(
                structure, self._folds(slots[0]), signs.value(), p.source.classes or (), _facts(p, stream, reference)
            )
            result = conclude(seen, self.setting)
            if kept is not None and self.train is not None:
                result = replace(result, trained=self.train(*kept.value().labelled()))
            elif kept is not None and model is not None:
                result = with_use(result, model, kept.value(), structure)
            elif model is not None:
                skip = Skip(WHAT, "the images were made smaller or gray for this theory, which the network is not for")
                result = replace(result, skipped=(*result.skipped, skip))
            return result

        return finish

    def _feed_kept(self, p: Pass, stream: Images, model: Network | None) -> Slot[KeptImages] | None:
        """Returns where the pass leaves a few images as the theory sees them; None where nothing is done with them."""
        if self.train is not None:
            few = self.train_images
        elif model is not None and stream(p.pilot.images) is p.pilot.images:
            few = IMAGES
        else:
            return None
        return p.feed(stream, lambda: Kept(few, max_bytes=KEPT_BYTES), folded=False, label="keeping images")

    def _folds(self, slot: Slot[ClassSums]) -> tuple[Fold, ...]:
        """Returns the structures without each fold; none where that of one cannot be had."""
        try:
            return tuple((n, structure_of(sums, center=self.center)) for n, sums in slot.leave_one_out())
        except ConvscopeError:  # the others are all of one class
            return ()


def _facts(p: Pass, stream: Images, reference: Tensor) -> dict[str, str | bool | float]:
    h, w = p.pilot.images.shape[2:]
    return {
        "data": p.source.name,
        "gray": stream.gray,
        "brought": "" if reference.shape[1:] == (h, w) else f"{h}×{w}",
    }


def _without(reason: str) -> DynamicsResult:
    return DynamicsResult(skipped=(Skip("the order in which this data would be learned", reason),))
