"""What of an audit is worth an alarm, and what a reader must know of how it was made."""

from __future__ import annotations

import math

import torch
from scipy import ndimage
from torch import Tensor

from convscope.dynamics.shortcuts.audit import Alarm, FrequencyAudit, PixelAudit, TableAudit
from convscope.dynamics.shortcuts.frequencies import LOWEST, axis_threshold


def frequency_alarms(found: FrequencyAudit, threshold: float) -> list[Alarm]:
    """Returns one alarm for each frequency that stands out: coherent where it is so, for its power goes with it."""
    coherent, power = (z.nan_to_num(nan=-math.inf, posinf=math.inf) for z in (found.coherent_z, found.power_z))
    limits = limits_of(found, threshold)
    alarms = []
    for f in torch.nonzero(torch.maximum(coherent, power) > limits)[:, 0].tolist():
        ky, kx = found.frequencies[f].tolist()
        fixed = bool(coherent[f] > limits[f])
        alarms.append(
            Alarm(
                kind="frequency",
                what=f"the frequency ({ky}, {kx})",
                statistic="coherent" if fixed else "power",
                value=float(coherent[f] if fixed else power[f]),
                threshold=float(limits[f]),
                label=int((found.dominant_class if fixed else found.power_class)[f]),
                place=(ky, kx),
                rank=int(found.rank[f]),
            )
        )
    return alarms


def pixel_alarms(found: PixelAudit, threshold: float) -> list[Alarm]:
    """Returns one alarm for each clump of adjacent pixels that stand out, at the one that does so most."""
    z = found.z.nan_to_num(nan=-math.inf, posinf=math.inf)
    clumps, number = ndimage.label((z > threshold).numpy(), structure=torch.ones(3, 3).numpy())
    alarms = []
    for clump in range(1, number + 1):
        inside = torch.from_numpy(clumps == clump)
        y, x = divmod(int(z.masked_fill(~inside, -math.inf).argmax()), z.shape[1])
        more = int(inside.sum()) - 1
        beside = f" and {more} beside it" if more else ""
        alarms.append(
            Alarm(
                kind="pixel",
                what=f"the pixel in row {y}, column {x}{beside}",
                statistic="high-passed",
                value=float(z[y, x]),
                threshold=threshold,
                label=int(found.dominant_class[y, x]),
                place=(y, x),
                rank=None,
            )
        )
    return alarms


def colour_alarms(found: TableAudit, threshold: float) -> list[Alarm]:
    """Returns an alarm for each class that colours tell much better than they tell the others."""
    return [
        Alarm("colour", "colours", "area under the curve", float(z), threshold, k, None, None)
        for k, z in enumerate(found.z)
        if z > threshold
    ]


def file_alarms(found: TableAudit, settings: list[str], threshold: float) -> list[Alarm]:
    """Returns alarms for classes that properties of files tell much better than others, and for telling settings.

    Args:
        found: the table.
        settings: the properties that follow from how files were made, not from what they show: these tell classes no
            better than chance where nothing is wrong.
        threshold: of z.
    """
    alarms = [
        Alarm("file", "properties of files", "area under the curve", float(z), threshold, k, None, None)
        for k, z in enumerate(found.z)
        if z > threshold
    ]
    error = math.hypot(found.chance_spread, 0.0 if math.isnan(found.spread) else found.spread)
    for name in settings:
        z = (found.single[name] - found.chance) / error if error else math.nan
        if z > threshold:
            alarms.append(Alarm("file", name, "accuracy above chance", z, threshold, None, None, None))
    return alarms


def ordered(alarms: list[Alarm]) -> tuple[Alarm, ...]:
    """Returns alarms, strongest first, but what follows from another alarm of the same class after that one.

    Stripes of fixed phase show in pixels too, most of all where images are black else, and both in the darkest and
    brightest values; a mark of a few pixels spreads over all frequencies and makes none stand out.
    """
    order = ("frequency", "pixel", "colour", "file")

    def key(alarm: Alarm) -> tuple[float, int]:
        own, place = [alarm.value], order.index(alarm.kind)
        for kind in order[:place] if alarm.kind != "file" else ():
            causes = [a.value for a in alarms if (a.kind, a.label) == (kind, alarm.label) and a.statistic != "power"]
            own.append(max(causes, default=math.inf))
        return -min(own), place

    return tuple(sorted(alarms, key=key))


def limits_of(found: FrequencyAudit, threshold: float) -> Tensor:
    """Returns above which z each frequency raises an alarm, float64 [f]: more on axes with few frequencies."""
    limits = torch.full_like(found.coherent, threshold)
    for side in (0, 1):
        on = found.axis & (found.frequencies[:, 1 - side] == 0)
        for z in (found.coherent_z, found.power_z):
            tested = on & ~z.isnan()
            if tested.any():
                limits[tested] = torch.maximum(
                    limits[tested], torch.tensor(axis_threshold(int(tested.sum()), threshold))
                )
    return limits


def notes_of(
    frequencies: FrequencyAudit, pixels: PixelAudit, colour: TableAudit, counts: Tensor, threshold: float
) -> list[str]:
    """Returns what was not tested and how strata were calibrated, in sentences."""
    notes = [f"Frequencies below {LOWEST} cycles per image were not tested."]
    empty = torch.nonzero(counts == 0)[:, 0].tolist()
    if empty:
        plural = "classes" if len(empty) > 1 else "class"
        named = ", ".join(map(str, empty[:10])) + (", ..." if len(empty) > 10 else "")
        notes.append(f"The {plural} {named} (of {len(counts)}) held no images and were left out.")
    few = [c for c, n in enumerate(counts.tolist()) if 0 < n < 30]
    if few:
        notes.append(
            f"{len(few)} of the classes have fewer than 30 images: their means are uncertain, and weak shortcuts hide."
        )
    radius = frequencies.frequencies.double().square().sum(1).sqrt()
    high = radius >= LOWEST
    if not (frequencies.tested & high).any():
        notes.append("No frequency was tested: too few of them vary to be compared with each other.")
    elif missing := int((high & ~frequencies.tested).sum()):
        notes.append(f"{missing} of {int(high.sum())} higher frequencies have too few others to be compared with.")
    limits = limits_of(frequencies, threshold)
    for side, name in ((0, "vertical"), (1, "horizontal")):
        on = frequencies.axis & (frequencies.frequencies[:, 1 - side] == 0) & frequencies.tested
        if on.any():
            largest = torch.stack([frequencies.coherent_z[on], frequencies.power_z[on]]).nan_to_num(nan=-math.inf).max()
            notes.append(
                f"The {int(on.sum())} {name} frequencies on the axis are compared among themselves, where z above "
                f"{float(limits[on].max()):.1f} raises an alarm (noise does so in about one of a hundred data sets); "
                f"the largest is {float(largest):.1f}."
            )
    if pixels.z.isnan().all():
        notes.append("No pixel was tested: too few of them vary to be compared with each other.")
    elif missing := int(pixels.z.isnan().sum()):
        notes.append(f"{missing} of {pixels.z.numel()} pixels vary too little to be compared.")
    if colour.z.isnan().all():
        notes.append(
            "Colours raise no alarm here, for too few classes could be told from images of other sources; how well "
            "they tell the class is given."
        )
    return notes
