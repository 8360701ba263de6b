"""The shortcut audit of labelled images, in one pass over them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch

from convscope.core.errors import ConvscopeError
from convscope.core.kept import KeptImages
from convscope.core.passes import Pass
from convscope.core.slots import Slot
from convscope.core.streams import Images
from convscope.dynamics.shortcuts.alarms import (
    colour_alarms,
    file_alarms,
    frequency_alarms,
    notes_of,
    ordered,
    pixel_alarms,
)
from convscope.dynamics.shortcuts.audit import (
    THRESHOLD,
    ShortcutAudit,
    TableAudit,
)
from convscope.dynamics.shortcuts.chance import Values
from convscope.dynamics.shortcuts.sums import AuditSums, Moments
from convscope.dynamics.shortcuts.tables import KeptColours, audit_table, colour_properties, rows_of, settings
from convscope.inputs.iterables import IterableSource

_BATCH = 256  # images at once


def audit_shortcuts(
    batches: Iterable[Any],
    *,
    threshold: float = THRESHOLD,
    properties: Mapping[str, Sequence[float]] | None = None,
    progress: bool = False,
) -> ShortcutAudit:
    """Returns what betrays a class without being its object, found before any training in one pass over the images.

    Frequencies, pixels, colours and, where given, properties of files are each compared with what is around them, or
    with what they do for other classes; ``alarms`` lists what stands out, strongest first, ``unseen`` what no part can
    see.

    Args:
        batches: (images, labels) pairs, a ``DataLoader``, ...; images [n, c, h, w] of one size, used as they are.
        threshold: of z, above which an alarm is raised; positive.
        properties: of files, by name, one number for each image in the order in which they come (see
            ``convscope.inputs.properties``).
        progress: whether to show a progress bar.

    Raises:
        ConvscopeError: when images have several sizes, no labels, or one class; or no class has two images.
        ValueError: for a threshold or properties that cannot be.

    Example:
        >>> generator = torch.Generator().manual_seed(0)
        >>> images, labels = torch.rand(400, 1, 16, 16, generator=generator), torch.arange(400) % 4
        >>> images[labels == 2, :, 5, 7] += 1
        >>> audit = audit_shortcuts([(images, labels)])
        >>> audit.alarms[0].kind, audit.alarms[0].place, audit.alarms[0].label
        ('pixel', (5, 7), 2)
    """
    p = Pass(IterableSource(batches), batch_size=_BATCH, progress=progress)
    conclude = feed_audit(p, Images(), threshold, properties, folded=False)
    p.run()
    return conclude()


def feed_audit(
    p: Pass,
    stream: Images,
    threshold: float = THRESHOLD,
    properties: Mapping[str, Sequence[float]] | None = None,
    folded: bool = True,
) -> Callable[[], ShortcutAudit]:
    """Returns what to call after the pass for the audit; until then its sums ride along.

    Args:
        p: the pass.
        stream: size and colours of the images.
        threshold: as for ``audit_shortcuts``.
        properties: as for ``audit_shortcuts``, in the order of the images' identities.
        folded: whether sums are kept apart by folds, for error bars.

    Raises:
        ValueError: for a threshold that is not positive.
    """
    if not threshold > 0:
        raise ValueError(f"threshold must be positive, got {threshold}: it is a number of robust standard deviations")
    reference = stream(p.pilot.images).to("cpu", torch.float64).mean(0)
    sums = p.feed(stream, lambda: AuditSums(reference), folded=folded, label="shortcuts: frequencies and pixels")
    colours = p.feed(stream, KeptColours, folded=False, label="shortcuts: colours")

    def conclude() -> ShortcutAudit:
        return _conclude(sums, colours.value(), threshold, properties)

    return conclude


def _conclude(
    sums: Slot[Moments],
    kept: KeptImages,
    threshold: float,
    properties: Mapping[str, Sequence[float]] | None,
) -> ShortcutAudit:
    moments = sums.value()
    check_classes(moments)
    values = Values.of(moments)
    frequencies, pixels = values.frequencies, values.pixels
    features, labels = kept.labelled()
    folds = features[:, -1].long().numpy()
    truth = labels.numpy()
    colour = audit_table(colour_properties(features[:, :-1]), truth, folds)
    alarms = frequency_alarms(frequencies, threshold) + pixel_alarms(pixels, threshold)
    alarms += colour_alarms(colour, threshold)
    files: TableAudit | None = None
    if properties is not None:
        known = torch.ones_like(kept.index, dtype=torch.bool) if kept.labels is None else kept.labels >= 0
        table = rows_of(properties, kept.index[known])
        files = audit_table(table, truth, folds)
        alarms += file_alarms(files, settings(table), threshold)
    c, h, w = moments.reference.shape
    return ShortcutAudit(
        frequencies=frequencies,
        pixels=pixels,
        colour=colour,
        files=files,
        counts=moments.counts,
        images=int(moments.counts.sum()),
        image_shape=(c, h, w),
        threshold=threshold,
        alarms=ordered(alarms),
        notes=tuple(notes_of(frequencies, pixels, colour, moments.counts, threshold)),
        values=values,
        without=tuple((n, Values.of(m)) for n, m in sums.leave_one_out() if _comparable(m)),
    )


def check_classes(moments: Moments) -> None:
    """Checks that classes can be compared.

    Raises:
        ConvscopeError: when fewer than two classes have images, or none has two.
    """
    if _comparable(moments):
        return
    n, present = int(moments.counts.sum()), int((moments.counts > 0).sum())
    if present < 2:
        raise ConvscopeError(
            f"all {n} labelled images are of one class: at least two are needed to tell what betrays one"
        )
    raise ConvscopeError(
        f"{n} images of {present} classes: differences between classes are compared with those within them, so "
        "classes need several images each"
    )


def _comparable(moments: Moments) -> bool:
    present = int((moments.counts > 0).sum())
    return 1 < present < int(moments.counts.sum())
