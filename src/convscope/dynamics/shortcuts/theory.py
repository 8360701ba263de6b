"""The shortcut audit on a pass: what it feeds, and what it concludes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from convscope.core.accumulate import Sums
from convscope.core.batches import Batch
from convscope.core.errors import ConvscopeError
from convscope.core.kept import Kept, KeptImages
from convscope.core.network import Network
from convscope.core.passes import Pass
from convscope.core.plain import rounded
from convscope.core.results import Number, Skip
from convscope.core.streams import Images
from convscope.dynamics.collect import SIDE, size_within
from convscope.dynamics.shortcuts.audit import THRESHOLD
from convscope.dynamics.shortcuts.chance import DRAWS, Values, faintest, permuted, spread
from convscope.dynamics.shortcuts.collect import feed_audit
from convscope.dynamics.shortcuts.confirm import CONTROLS, FEWEST, accuracy, confirm, own_pattern, resized
from convscope.dynamics.shortcuts.result import TRIED, ShortcutsResult, Suspect
from convscope.dynamics.shortcuts.suspects import difference_of, suspects_of, tables_of

DRAWN = 99.0  # z beyond which pictures tell no difference
MOST_TRIED = 3  # suspects whose pattern is shown, and which a network is tried on
DISTINCT = 3.0  # z of stripes of one phase from which a class has a mean of its own at a frequency
WORK = 3e11  # multiply-adds of forward passes that are enough for that


class Shortcuts:
    """What betrays a class without being its object, from labelled images; tried on the pass's network "model", if any.

    Args:
        threshold: z above which an alarm is raised.
        size: pixels of the longer side beyond which images are made smaller for the audit; its time grows faster than
            the square of that. None: 64.
        properties: of the images' files, by name, one number for each image in the order of identities; None where
            there are no files.
    """

    def __init__(
        self,
        threshold: float = THRESHOLD,
        size: int | None = None,
        properties: Mapping[str, Sequence[float]] | None = None,
    ) -> None:
        self.threshold = threshold
        self.size = size or SIDE
        self.properties = properties

    def plan(self, p: Pass) -> Callable[[], ShortcutsResult]:
        """Feeds the pass and returns what draws the conclusion after it ran.

        Where the images have no labels, or only one class, the result holds nothing but the reason.
        """
        if p.pilot.labels is None:
            reason = f"{p.source.name} has no labels, and a shortcut ties something to a class: give labels"
            return lambda: _nothing(reason)
        stream = Images(size_within(p, self.size))
        audit = feed_audit(p, stream, self.threshold, self.properties)
        kept = p.feed(Images(), Kept, folded=False, label="kept images")
        # It is at their own size that images are changed.
        mean = None if stream.size is None else p.feed(Images(), _Mean, folded=False, label="mean image")

        def conclude() -> ShortcutsResult:
            try:
                found = audit()
            except ConvscopeError as error:
                return _nothing(str(error))
            skipped: list[Skip] = []
            sample, own = kept.value(), found.values.moments
            suspects = suspects_of(found, _chance(stream, sample, skipped))
            suspects, told = _tried(p, suspects, found.values, sample, skipped)
            doubt = spread(found.values, found.without, lambda values: faintest(values, self.threshold))
            return ShortcutsResult(
                suspects=tuple(suspects),
                numbers={"limit": Number(faintest(found.values, self.threshold), doubt, definition="limit")} | told,
                facts={
                    "images": float(found.images),
                    "threshold": self.threshold,
                    "frequencies": float(len(found.frequencies.frequencies)),
                    "bytes": bool(p.pilot.images.min() >= 0 and p.pilot.images.max() <= 1),
                    "network": p.networks["model"].name if told else "",
                    "draws": float(DRAWS),
                },
                classes=tuple(p.source.classes or ()),
                frequencies=found.frequencies.frequencies.numpy(),
                curves={
                    "coherent_z": _drawn(found.frequencies.coherent_z),
                    "power_z": _drawn(found.frequencies.power_z),
                    "rank": found.frequencies.rank.double().numpy(),
                },
                pixel_z=_drawn(found.pixels.z),
                tables=tables_of(found),
                notes=(*_size_note(p, stream), *found.notes),
                unseen=found.unseen,
                skipped=tuple(skipped),
                arrays={
                    "mean": (own.reference + own.images.sum(0) / own.counts.sum()).numpy()
                    if mean is None
                    else mean.value().numpy()
                },
            )

        return conclude


def _drawn(z: Tensor) -> np.ndarray:
    # Where classes do not differ at all, or nothing varies within them, z is infinite.
    return rounded(z.clamp(-DRAWN, DRAWN).numpy())


class _Mean(Sums[Tensor]):
    """Mean of all labelled images."""

    def update(self, x: Tensor, batch: Batch) -> None:
        if batch.labels is not None and bool((known := batch.labels >= 0).any()):
            own = x[known.to(x.device)].to("cpu", torch.float64)
            self.add("sum", own.sum(0))
            self.add("count", torch.tensor(len(own)))

    def compute(self) -> Tensor:
        return self.sums["sum"] / self.sums["count"]


def _nothing(reason: str) -> ShortcutsResult:
    return ShortcutsResult(skipped=(Skip("the shortcut audit", reason),))


def _size_note(p: Pass, stream: Images) -> list[str]:
    if stream.size is None:
        return []
    h, w = p.pilot.images.shape[2:]
    return [
        f"Images of {h}x{w} pixels were audited at {stream.size[0]}x{stream.size[1]}: what is finer was not looked at."
    ]


def _comparable(counts: Tensor) -> bool:
    present = int((counts > 0).sum())
    return present > 1 and int(counts.sum()) > present


def _chance(stream: Images, sample: KeptImages, skipped: list[Skip]) -> dict[str, tuple[float, float]]:
    images, labels = sample.labelled()
    if not _comparable(labels.bincount()):
        skipped.append(Skip("z with permuted labels", f"{len(images)} images kept for it are too few for the classes"))
        return {}
    index = sample.index if sample.labels is None else sample.index[sample.labels >= 0]
    return permuted(stream(images.double()), labels, index)


def _tried(
    p: Pass, suspects: list[Suspect], whole: Values, sample: KeptImages, skipped: list[Skip]
) -> tuple[list[Suspect], dict[str, Number]]:
    """Returns suspects with what the class bears there and, for the strongest alarms, what the network makes of it.

    Args:
        p: the pass, with the network "model" or without.
        suspects: alarms first.
        whole: of all images.
        sample: images to try the network on.
        skipped: gets what could not be done.

    Returns:
        The suspects, and the accuracy of the network where it was tried.
    """
    found, told = list(suspects), dict[str, Number]()
    chosen = [i for i, s in enumerate(suspects) if s.alarm and _has_pattern(s, whole)]
    network = p.networks.get("model")
    images, labels = sample.labelled()
    if network is not None and any(s.alarm for s in suspects):
        try:
            some = _enough(p, network, len(chosen[:MOST_TRIED]))
            images, labels = images[:some], labels[:some]
            told = _accuracy(network, images, labels)
        except ConvscopeError as error:
            skipped.append(Skip("trying the alarms on the network", str(error)))
    avoid = [s.place for s in suspects if s.alarm and s.kind == "frequency" and s.place is not None]
    for i in chosen[:MOST_TRIED]:
        s = suspects[i]
        if s.place is None or s.label is None:
            continue
        difference = difference_of(whole, s.label)
        found[i] = replace(s, pattern=rounded(own_pattern(difference, s.place, s.kind).numpy()))
        if network is None or not told:
            continue
        size = (images.shape[2], images.shape[3])
        striped = s.kind == "frequency"
        place = s.place if striped else _at_size(s.place, difference.shape[1:], size)
        try:
            seen = confirm(
                network, images, labels, place, s.label, resized(difference, size, s.place if striped else None),
                kind=s.kind, avoid=avoid,
            )  # fmt: skip
        except ConvscopeError as error:
            skipped.append(Skip(f"{s.what}, tried on the network", str(error)))
        else:
            found[i] = replace(found[i], tried={name: getattr(seen, name) for name in TRIED})
    if told:
        untried = [s.what for i, s in enumerate(suspects) if s.alarm and i not in chosen[:MOST_TRIED]]
        if untried:
            reason = (
                f"only the {MOST_TRIED} strongest frequencies of fixed phase and pixels are tried: other alarms have "
                "no pattern that could be added to an image"
            )
            skipped.append(Skip(f"{', '.join(untried[:8])}, tried on the network", reason))
    return found, told


def _has_pattern(suspect: Suspect, whole: Values) -> bool:
    """Returns whether a class bears the same in all its images there: at a pixel, or stripes of one phase."""
    if suspect.kind != "frequency":
        return suspect.kind == "pixel"
    at = (whole.frequencies.frequencies == torch.tensor(suspect.place)).all(1)
    return float(whole.frequencies.coherent_z[at][0]) > DISTINCT


def _accuracy(network: Network, images: Tensor, labels: Tensor) -> dict[str, Number]:
    """Returns the network's accuracy.

    Raises:
        ConvscopeError: when its outputs are no class scores, or do not stand for these labels.
    """
    if len(images) < FEWEST:
        raise ConvscopeError(f"{len(images)} labelled images are too few: give at least {FEWEST}")
    number = accuracy(network, images, labels)
    if not number.decided or number.chance is None or number.value < number.chance[1]:
        raise ConvscopeError(
            f"{network.name} names the class of {number.value:.1%} of the images, where always naming the largest is "
            "right for about as many: its outputs do not seem to be numbered as the labels; give a network trained on "
            "these classes"
        )
    return {"network_accuracy": number}


def _enough(p: Pass, network: Network, tried: int) -> int:
    """Returns the number of images on which patterns are tried within a report's time."""
    work = sum(call.output[0].numel() * call.geometry.patch_dim for call in p.convs(network))
    return int(max(WORK / max(work * (1 + tried * (3 + CONTROLS)), 1), 128))


def _at_size(place: tuple[int, int], before: Sequence[int], size: tuple[int, int]) -> tuple[int, int]:
    """Returns where a pixel lies once the images have another size."""
    row, column = (int((k + 0.5) * after / size) for k, after, size in zip(place, size, before, strict=True))
    return row, column
