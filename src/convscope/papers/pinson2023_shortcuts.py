"""A shortcut planted in photographs: found before training, used by a network, gone after the notch."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from convscope.core.network import Network
from convscope.dynamics.shortcuts.audit import ShortcutAudit
from convscope.dynamics.shortcuts.collect import audit_shortcuts
from convscope.dynamics.shortcuts.confirm import Confirmation, confirm
from convscope.dynamics.shortcuts.notch import notched, pattern
from convscope.papers.pinson2023_data import View, held_out, normalised, photographs, seen, trained_network
from convscope.papers.registry import Outcome, Row, Scale, Setup, summary

_PLACE, _LABEL = (9, 6), 0
_FAINT, _STRONG = 2 / 255, 8 / 255
_EPOCHS = 8
_BATCH = 500


@dataclass(frozen=True)
class Size:
    """Sizes of one scale: images audited, images trained on, test images, networks of each kind."""

    audited: int
    trained: int
    test: int
    seeds: int


SIZES: dict[Scale, Size] = {
    "smoke": Size(300, 150, 60, 1),
    "cpu": Size(50_000, 5_000, 2_000, 3),
    "paper": Size(50_000, 50_000, 10_000, 5),
}


def planted(pixels: Tensor, labels: Tensor, amplitude: float, random_phase: bool = False) -> Tensor:
    """Returns images [n, c, h, w] in [0, 1] with a cosine added to one class, rounded to bytes as files hold them.

    Args:
        pixels: the images.
        labels: their classes.
        amplitude: of the cosine, in units of the images.
        random_phase: whether each image has a phase of its own; else all have the same.
    """
    own = torch.nonzero(labels == _LABEL)[:, 0]
    phase = torch.zeros(len(own), dtype=torch.float64)
    if random_phase:
        phase = 2 * math.pi * torch.rand(len(own), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    added = pattern(amplitude * torch.stack([phase.cos(), phase.sin()], 1), _PLACE, *pixels.shape[2:])
    found = pixels.clone()
    found[own] += added[:, None].float()
    return (255 * found).round().clamp(0, 255) / 255


def shortcuts(setup: Setup) -> Outcome:
    """Returns whether a planted cosine is found before training, is used by networks, and is gone after the notch."""
    size = SIZES[setup.scale]
    rows, table = _found(setup, size)
    used, networks = _used(setup, size)
    settings = {
        "plant": f"a cosine of {_PLACE[0]} and {_PLACE[1]} cycles per image (vertically, horizontally) added to class "
        f"{_LABEL}, the same in all channels, images then rounded to bytes",
        "audited": f"the first {size.audited:,} training images of CIFAR-10, RGB and luminance",
        "network": "three convolutions 3x3 of 32, 64 and 64 filters with stride 2 and ReLUs, one linear layer",
        "training": f"the first {size.trained:,} images; SGD on the cross-entropy, step size 0.01, momentum 0.9, "
        f"batches of 64, {_EPOCHS} epochs",
        "tried on": f"the first {size.test:,} test images, those of other classes, with the same cosine added; beside "
        "it the opposite one, and the same at other frequencies of like radius",
    }
    return Outcome((*rows, *used), settings, {"audits": table, "networks_tried": networks})


def _found(setup: Setup, size: Size) -> tuple[list[Row], list[dict[str, Any]]]:
    """Returns what the audit says of all images, with a faint plant and without."""
    pixels, labels = photographs(setup, size.audited)
    rows: list[Row] = []
    table: list[dict[str, Any]] = []
    views: tuple[tuple[View, str], ...] = (("gray", "luminance"), ("colour", "RGB"))
    for view, name in views:
        clean = audit_shortcuts(_batches(pixels, labels, view, 0.0))
        marked = audit_shortcuts(_batches(pixels, labels, view, _FAINT))
        z = _at(marked)["coherent z"]
        coherent, power = (_most(found) for found in (clean.frequencies.coherent_z, clean.frequencies.power_z))
        others = marked.frequencies.coherent_z.clone()
        others[_bin(marked)] = float("nan")
        first = marked.alarms[0] if marked.alarms else None
        named = first is not None and first.place in {_PLACE, (-_PLACE[0], -_PLACE[1])} and first.label == _LABEL
        rows += [
            Row(
                f"{name}, 2/255 planted in {size.audited:,} images: z of its frequency",
                "large (theory: coherent); reference 22 in RGB",
                (12.0, math.inf),
                summary([z]),
                1,
                {"next frequency": _most(others), "the same without the plant": _at(clean)["coherent z"]},
                f"{'named first, with its class' if named else 'not named first'}; {len(marked.alarms)} alarms, "
                f"{sum(_multiple(alarm.place) for alarm in marked.alarms)} of them for it and its multiples, which "
                "rounding to bytes adds",
            ),
            Row(
                f"{name}, no plant: largest z of any frequency",
                "below 5; reference at most 4.3",
                (0.0, 5.0),
                summary([max(coherent, power)]),
                1,
                note=f"coherent {coherent:.1f}, power {power:.1f}; {len(clean.alarms)} alarms",
            ),
        ]
        table += [
            {"images": f"{size.audited:,}, {name}", "plant": plant, **_at(audit), "alarms": len(audit.alarms)}
            for plant, audit in (("none", clean), ("2/255", marked))
        ]
    return rows, table


def _used(setup: Setup, size: Size) -> tuple[list[Row], list[dict[str, Any]]]:
    """Returns what networks that learned a strong plant make of images of other classes that bear it."""
    pixels, labels = photographs(setup, size.trained)
    test = held_out(setup, size.test)
    marked = planted(pixels, labels, _STRONG)
    mean = marked.double().mean(0)
    versions: Mapping[str, Callable[[], Tensor]] = {
        "none": lambda: pixels,
        "8/255": lambda: marked,
        "8/255, notched": lambda: notched(marked, [_PLACE], mean),
        "8/255, random phase": lambda: planted(pixels, labels, _STRONG, random_phase=True),
    }
    added = pattern(torch.tensor([_STRONG, 0.0], dtype=torch.float64), _PLACE, *pixels.shape[2:])
    added = added.expand(pixels.shape[1:])
    tried: dict[str, list[Confirmation]] = {}
    audits: dict[str, ShortcutAudit] = {}
    table: list[dict[str, Any]] = []
    for name, make in versions.items():
        images = make()
        audits[name] = audit_shortcuts([(images, labels)])
        tried[name] = []
        for seed in range(size.seeds if name != "none" else 1):
            module, scores = trained_network(setup, "strides", images, labels, test, seed=seed, epochs=_EPOCHS)
            network = Network(f"CNN, {name}", module, normalised)
            found = confirm(network, test.pixels, test.labels, _PLACE, _LABEL, added)
            tried[name].append(found)
            table.append({
                "plant": name,
                "seed": seed,
                **_at(audits[name]),
                "test accuracy": scores.test_accuracy,
                "taken for the class": found.unchanged.value,
                "with the cosine": found.added.value,
                "with the opposite one": found.opposite.value,
                "with other frequencies": found.control.value,
            })
    return _rows(tried, audits), table


def _rows(tried: Mapping[str, list[Confirmation]], audits: Mapping[str, ShortcutAudit]) -> list[Row]:
    def row(name: str, what: str, wanted: str, limits: tuple[float, float]) -> Row:
        found = tried[name]
        beside = {
            "unchanged": fmean(c.unchanged.value for c in found),
            "the opposite cosine": fmean(c.opposite.value for c in found),
            "other frequencies": fmean(c.control.value for c in found),
        }
        shares = [c.added.value for c in found]
        note = f"least {min(shares):.3f}, most {max(shares):.3f}"
        quantity = f"{what}: other classes' images taken for the class"
        return Row(quantity, wanted, limits, summary(shares), len(found), beside, note)

    random = _at(audits["8/255, random phase"])
    return [
        row(
            "8/255",
            "8/255 planted, with the cosine",
            "used: coherent, of high rank (theory); reference 0.52 to 0.57",
            (0.3, 1.0),
        ),
        row(
            "8/255, notched",
            "8/255 planted and notched, with the cosine",
            "not used (theory); reference 0.036",
            (0.0, 0.08),
        ),
        row(
            "8/255, random phase",
            "8/255 of random phase planted, with the cosine",
            "not used: not coherent (theory); reference 0.039",
            (0.0, 0.08),
        ),
        Row(
            "8/255 of random phase planted: coherent z of its frequency",
            "blind to it (theory); reference 0.4",
            (-5.0, 5.0),
            summary([random["coherent z"]]),
            1,
            {"the same phase in all images": _at(audits["8/255"])["coherent z"]},
        ),
        Row(
            "8/255 of random phase planted: power z of its frequency",
            "sees it; reference 7.3",
            (5.0, math.inf),
            summary([random["power z"]]),
            1,
            {"no plant": _at(audits["none"])["power z"]},
        ),
    ]


def _batches(pixels: Tensor, labels: Tensor, view: View, amplitude: float) -> Iterator[tuple[Tensor, Tensor]]:
    for images, own in zip(pixels.split(_BATCH), labels.split(_BATCH), strict=True):
        marked = planted(images, own, amplitude) if amplitude else images
        yield seen(marked, view, marked.shape[-1]), own


def _multiple(place: tuple[int, int] | None, side: int = 32) -> bool:
    """Returns whether a frequency is an odd multiple of the planted one, as a grid of pixels shows it.

    Example:
        >>> _multiple((-5, -14)), _multiple((9, 5))
        (True, False)
    """
    return place is not None and any(
        all((factor * own - other) % side == 0 for own, other in zip(_PLACE, place, strict=True))
        for factor in range(-side + 1, side, 2)
    )


def _bin(audit: ShortcutAudit) -> int:
    places = [tuple(place) for place in audit.frequencies.frequencies.tolist()]
    return places.index(_PLACE if _PLACE in places else (-_PLACE[0], -_PLACE[1]))


def _at(audit: ShortcutAudit) -> dict[str, float]:
    """Returns what an audit says of the planted frequency."""
    place, found = _bin(audit), audit.frequencies
    return {
        "coherent z": float(found.coherent_z[place]),
        "power z": float(found.power_z[place]),
        "rank": float(found.rank[place]),
    }


def _most(z: Tensor) -> float:
    return float(z[z.isfinite()].max())
