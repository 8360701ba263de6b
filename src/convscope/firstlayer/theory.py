"""The first-layer theory on a pass: what it feeds, and what it concludes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from convscope.core.batches import Batch
from convscope.core.errors import ConvscopeError
from convscope.core.geometry import ConvGeometry
from convscope.core.kept import Kept, KeptImages
from convscope.core.moment_values import PatchMoments
from convscope.core.moments import PatchMomentsAccumulator
from convscope.core.network import Network, following_norm
from convscope.core.passes import Pass
from convscope.core.results import Skip
from convscope.core.slots import Slot
from convscope.core.streams import Gradient, Input, RandomLabels
from convscope.core.taps import ConvCall
from convscope.firstlayer.conclude import Evidence, conclude
from convscope.firstlayer.result import FirstLayerResult
from convscope.firstlayer.signal import Signal, SignalAutocorrelation
from convscope.firstlayer.whitening import LAG

LAGS = (1, 2, 3, 5, LAG, 20)  # pixels
PAIR_IMAGES = (32, 500)  # at least and at most, for the correlations between places
PAIR_ENTRIES = 15_000_000  # patch entries that are enough for them
SIGNAL_IMAGES = (16, 256)  # at least and at most, for the back-propagated signal
SIGNAL_ENTRIES = 25_000_000  # gradient entries that are enough for its autocorrelation


@dataclass(frozen=True, eq=False)
class Replica:
    """The first layer of another training run on the same images.

    Attributes:
        name: how the page calls it.
        labels: "true", "permuted" or "random": what it was trained on.
        weight: [k, c / groups, q, r], after training.
        init: the same before training, or None.
    """

    name: str
    labels: str
    weight: Tensor
    init: Tensor | None = None


class FirstLayer:
    """Energy profile of one convolution, its prediction from the images, whitening, and dependence on labels.

    The pass's networks are "model"; "init", its own weights before training, where known; and "twin", the same
    architecture untrained.

    Args:
        layer: the convolution's name; None for the first that runs.
        replicas: other training runs, for the consistency of what is learned.
    """

    def __init__(self, layer: str | None = None, replicas: Sequence[Replica] = ()) -> None:
        self.layer = layer
        self.replicas = tuple(replicas)

    def plan(self, p: Pass) -> Callable[[], FirstLayerResult]:
        """Feeds the pass and returns what draws the conclusion after it ran.

        Raises:
            ConvscopeError: when the network has no such convolution, or cannot take the images.
        """
        model = p.networks["model"]
        call = named_conv(p, model, self.layer)
        classes = None if p.source.classes is None else len(p.source.classes)
        moments = feed_moments(p, model, call, classes)
        pairs = feed_pairs(p, model, call)
        kept = feed_kept(p, model, call)
        skipped = list(model.skipped)
        untrained = p.networks.get("init") or p.networks.get("twin")
        signal: Slot[Signal] | None = None
        init_weight = twin_weight = None
        if untrained is not None:
            # The signal that training sends back at its beginning, before the filters know anything.
            few, many = SIGNAL_IMAGES
            images = min(max(SIGNAL_ENTRIES // call.output[0].numel(), few), many)
            signal = p.feed(
                Gradient(untrained, call.name, RandomLabels(0), images=images),
                SignalAutocorrelation,
                label="back-propagated signal",
            )
            start = named_conv(p, untrained, call.name).weight.detach().clone()
            if "init" in p.networks:
                init_weight = start
            else:
                twin_weight = start
        else:
            skipped.append(
                Skip("spatial autocorrelation of the back-propagated signal", "needs the network, not only its weights")
            )
        weight = call.weight.detach().clone()
        folding = following_norm(model.module, call.name)

        def finish() -> FirstLayerResult:
            found: Signal | None = None
            rest: list[tuple[int, Signal]] = []
            if signal is not None:
                try:
                    found, rest = signal.value(), signal.leave_one_out()
                except ConvscopeError as error:
                    skipped.append(Skip("spatial autocorrelation of the back-propagated signal", str(error)))
            return conclude(
                Evidence(
                    layer=call.name,
                    weight=weight,
                    init=init_weight,
                    twin=twin_weight,
                    norm=folding,
                    moments=moments.value(),
                    without=varied(moments.leave_one_out()),
                    pairs=(pairs.value(), varied(pairs.leave_one_out())),
                    kept=kept_images(kept, skipped),
                    signal=found,
                    signal_without=tuple(rest),
                    replicas=tuple((r.name, r.labels, r.weight, r.init) for r in self.replicas),
                    classes=p.source.classes,
                    skipped=tuple(skipped),
                )
            )

        return finish


def named_conv(p: Pass, network: Network, layer: str | None) -> ConvCall:
    """Returns the convolution of that name, or the first that runs.

    Raises:
        ConvscopeError: when there is none.
    """
    return p.chosen(network, None if layer is None else [layer])[0]


def feed_moments(p: Pass, network: Network, call: ConvCall, classes: int | None) -> Slot[PatchMoments]:
    """Returns the slot for the float64 moments of the patches that a convolution sees.

    Raises:
        ConvscopeError: when patches have so many entries that their covariances would take too much memory.
    """
    needed = 4 * _matrix_bytes(call)  # of patches, of average patches, and of pairs of patches at two lags
    if needed > _room(p):
        raise ConvscopeError(
            f"patches of {call.name} have {call.geometry.patch_dim} entries: their covariances would take "
            f"{needed / 2**30:.1f} GiB, and {_room(p) / 2**30:.1f} GiB is a quarter of what may be used: choose "
            "another layer (--layer) or allow more memory (--max-memory)"
        )
    stream = Input(network, call.name)
    if classes is None:
        return p.feed(
            stream, lambda: PatchMomentsAccumulator(call.geometry, dtype=torch.float64), label="patch moments"
        )
    return p.feed(stream, lambda: LabelledMoments(call.geometry, classes), label="patch moments")


class LabelledMoments(PatchMomentsAccumulator):
    """Float64 moments whose class sums leave out images without a label.

    One class more is counted for them. Where a label lies outside the known classes, the moments have no class sums.

    Args:
        geometry: of the convolution.
        known: number of classes.
    """

    def __init__(self, geometry: ConvGeometry, known: int) -> None:
        super().__init__(geometry, classes=known + 1, dtype=torch.float64)
        self.known = known

    def update_folds(self, parts: Sequence[PatchMomentsAccumulator], x: Tensor, batch: Batch, fold: Tensor) -> None:
        """Adds image i of a batch to ``parts[fold[i]]``, with or without its label."""
        labels = torch.full_like(batch.index, -1) if batch.labels is None else batch.labels.cpu().to(torch.int64)
        outside = labels >= self.known
        labels = torch.where((labels < 0) | outside, self.known, labels)
        super().update_folds(parts, x, replace(batch, labels=labels), fold)
        beyond = torch.bincount(fold[outside], minlength=len(parts))
        for k in sorted(set(fold.tolist())):
            parts[k].add("labels outside the known classes", beyond[k])

    def compute(self) -> PatchMoments:
        """Returns the moments of all images, and class sums of the labelled ones.

        Raises:
            ConvscopeError: when no image was seen.
        """
        moments = super().compute()
        if moments.class_counts is None or moments.class_means is None:
            return moments
        if int(self.sums["labels outside the known classes"]):
            return replace(moments, class_counts=None, class_means=None)
        return replace(moments, class_counts=moments.class_counts[:-1], class_means=moments.class_means[:-1])


def varied(without: Sequence[tuple[int, PatchMoments]]) -> tuple[tuple[int, PatchMoments], ...]:
    """Returns the moments without each fold; none where a remainder has no variance, so that nothing has error bars."""
    return tuple(without) if all(float(m.eigenvalues.max()) > 0 for _, m in without) else ()


def feed_kept(p: Pass, network: Network, call: ConvCall) -> Slot[KeptImages]:
    """Returns the slot for some of a convolution's inputs."""
    return p.feed(Input(network, call.name), Kept, folded=False, label="kept images")


def kept_images(slot: Slot[KeptImages], skipped: list[Skip]) -> KeptImages | None:
    """Returns the kept images, or None where they cannot be had; why is then added to ``skipped``."""
    try:
        return slot.value()
    except ConvscopeError as error:
        skipped.append(Skip("what needs single images", str(error)))
        return None


def feed_pairs(p: Pass, network: Network, call: ConvCall) -> Slot[PatchMoments]:
    """Returns the slot for the moments of pairs of patches, on as many images as their correlations need."""
    lags = lags_of(call)
    if (2 + len(lags)) * _matrix_bytes(call) > _room(p):
        lags = lags_of(call, (LAG,))
    few, many = PAIR_IMAGES
    entries = call.geometry.patch_dim * call.output[0, 0].numel()
    return p.feed(
        Input(network, call.name, images=min(max(PAIR_ENTRIES // entries, few), many)),
        lambda: PatchMomentsAccumulator(call.geometry, lags=lags, dtype=torch.float64),
        label="moments of pairs of patches",
    )


def _matrix_bytes(call: ConvCall) -> int:
    return 8 * call.geometry.groups * call.geometry.patch_dim**2


def _room(p: Pass) -> int:
    # Drawing conclusions takes several times the memory of the sums.
    return p.max_memory // 4


def lags_of(call: ConvCall, wanted: Sequence[int] = LAGS) -> list[tuple[int, int]]:
    """Returns the lags, vertical and horizontal, at which patches of this convolution exist; in input pixels."""
    g = call.geometry
    positions = g.output_size(*call.input.shape[2:])
    lags = []
    for axis in range(2):
        step = g.stride[axis]
        steps = sorted({max(1, round(lag / step)) for lag in wanted})
        lags += [((s * step, 0), (0, s * step))[axis] for s in steps if s < positions[axis]]
    return lags
