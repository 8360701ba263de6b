"""Does a trained network use a suspected shortcut? What betrays a class is added to images of all other classes."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from convscope.core.delivery import run_network
from convscope.core.errors import ConvscopeError
from convscope.core.fourier import pairs, signed_frequencies
from convscope.core.network import Network
from convscope.core.results import Number
from convscope.core.taps import left_as_found, logits
from convscope.dynamics.shortcuts.notch import Frequency, amplitudes, pattern

CONTROLS = 4  # at most, beside each suspect
BATCH = 64  # images
FEWEST = 20  # images of other classes that say anything
REACH = 2  # pixels on each side of a suspected one that belong to its mark
_AROUND = 4  # pixels on each side that show what would be there without the mark
_RADIUS = 0.7  # cycles per image by which a control's radius may differ
_95 = 1.959964  # standard errors


@dataclass(frozen=True, eq=False)
class Confirmation:
    """What a network makes of images of other classes to which a class's own pattern was added.

    Attributes:
        label: the class whose pattern it is.
        pattern: float64 [c, h, w], what was added, in units of the images.
        controls: places of the same pattern elsewhere: (ky, kx), or (row, column).
        images: number of images of other classes.
        unchanged: share of them that the network takes for the class as they are.
        added: the same with the pattern added; chance: the interval of the controls.
        opposite: the same with the pattern subtracted.
        control: the same with the pattern elsewhere, mean over the controls.
    """

    label: int
    pattern: Tensor
    controls: tuple[tuple[int, int], ...]
    images: int
    unchanged: Number
    added: Number
    opposite: Number
    control: Number

    @property
    def used(self) -> bool:
        """Whether the pattern makes more images the class's than its controls do, two errors included."""
        return bool(self.added.decided) and self.added.value > self.control.value


def confirm(
    network: Network,
    images: Tensor,
    labels: Tensor,
    place: tuple[int, int],
    label: int,
    difference: Tensor,
    *,
    kind: str = "frequency",
    avoid: Sequence[Frequency] = (),
) -> Confirmation:
    """Returns how many images of other classes a network takes for a class once they bear what betrays it.

    For a frequency that is the class's own cosine, amplitude and phase from its mean image less that of the others;
    for a pixel, what the two means differ by there and up to two pixels away, less the level around. The network sees
    images as they are, with the pattern, with the opposite of it, and with the same pattern elsewhere: at other
    frequencies as far from 0 (in cycles per image), or mirrored or moved to other places. Nothing is clipped.

    Args:
        network: left as it was found.
        images: [n, c, h, w], as its ``prepare`` takes them.
        labels: int64 [n], the classes, numbered as the network's outputs.
        place: (ky, kx) of the frequency, or (row, column) of the pixel.
        label: the class that stands out there.
        difference: [c, h, w], mean image of the class less that of all others.
        kind: "frequency" or "pixel".
        avoid: frequencies that are no controls, since they are suspected as well.

    Raises:
        ConvscopeError: when the network's outputs are no class scores, cannot be those of the labels, or there are too
            few images of other classes.
        ValueError: for another kind, a place outside the images, or a difference of another shape.
    """
    if difference.shape != images.shape[1:]:
        raise ValueError(f"difference has the shape {list(difference.shape)}, but an image {list(images.shape[1:])}")
    others = images[labels != label]
    if len(others) < FEWEST:
        raise ConvscopeError(
            f"{len(others)} images of other classes are too few to try a shortcut on: give at least {FEWEST}"
        )
    own = own_pattern(difference, place, kind)
    controls = _other_stripes(difference, place, avoid) if kind == "frequency" else _other_places(own, place)
    patterns = [torch.zeros_like(own), own, -own, *controls.values()]
    taken = [_share_taken(network, others, added, label) for added in patterns]
    unchanged, added, opposite, *elsewhere = taken
    n = len(others)
    chance = None
    if elsewhere:
        ends = [_interval(share, n, _95) for share in elsewhere]
        chance = (min(low for low, _ in ends), max(high for _, high in ends))
    where = "at other frequencies" if kind == "frequency" else "at other places"
    mean = sum(elsewhere) / len(elsewhere) if elsewhere else math.nan
    return Confirmation(
        label=label,
        pattern=own,
        controls=tuple(controls),
        images=n,
        unchanged=_number(unchanged, n, None, "unchanged"),
        added=_number(added, n, chance, "added", f"the same pattern {where}"),
        opposite=_number(opposite, n, chance, "opposite", f"the same pattern {where}"),
        control=_number(mean, n, None, "control"),
    )


def own_pattern(difference: Tensor, place: tuple[int, int], kind: str) -> Tensor:
    """Returns what a class bears at a frequency or a pixel, float64 [c, h, w], in units of the images.

    Args:
        difference: [c, h, w], mean image of the class less that of all others.
        place: (ky, kx) of the frequency, or (row, column) of the pixel.
        kind: "frequency": its cosine; or "pixel": the difference up to two pixels away, less the level around.

    Raises:
        ValueError: for another kind, or a place outside the images.

    Example:
        >>> mark = torch.zeros(1, 9, 9)
        >>> mark[0, 4, 4] = 1
        >>> torch.equal(own_pattern(0.5 + mark, (4, 4), "pixel"), mark.double())
        True
    """
    difference = difference.to("cpu", torch.float64)
    h, w = difference.shape[1:]
    if kind == "frequency":
        return pattern(amplitudes(difference, place), place, h, w)
    if kind != "pixel":
        raise ValueError(f"kind must be 'frequency' or 'pixel', got {kind!r}")
    row, column = place
    if not (0 <= row < h and 0 <= column < w):
        raise ValueError(f"the pixel {place} is outside images of {h}x{w} pixels")
    y, x = torch.arange(h)[:, None], torch.arange(w)
    apart = torch.maximum((y - row).abs(), (x - column).abs())
    around = difference[:, (apart > REACH) & (apart <= _AROUND)]
    level = around.median(1).values if around.shape[1] else difference.mean((1, 2))
    return torch.where(apart <= REACH, difference - level[:, None, None], 0.0)


def accuracy(network: Network, images: Tensor, labels: Tensor) -> Number:
    """Returns the share of images whose class the network names; chance is always naming the most frequent one.

    Only where it lies above chance do the network's outputs stand for these labels, as far as can be told.

    Args:
        network: left as it was found.
        images: [n, c, h, w], as its ``prepare`` takes them.
        labels: int64 [n].

    Raises:
        ConvscopeError: when the network's outputs are no class scores, or a label is no output of it.
    """
    scores = _scores(network, images, torch.zeros(images.shape[1:]))
    if int(labels.max()) >= scores.shape[1]:
        raise ConvscopeError(
            f"labels go up to {int(labels.max())}, but {network.name} has {scores.shape[1]} outputs, so that they "
            "cannot be told to belong together: number the labels as the network's outputs"
        )
    n = len(labels)
    most = float(torch.bincount(labels).max()) / n
    share = float((scores.argmax(1) == labels).double().mean())
    return _number(share, n, _interval(most, n, _95), "network_accuracy", "always the most frequent class")


def _share_taken(network: Network, images: Tensor, added: Tensor, label: int) -> float:
    scores = _scores(network, images, added)
    if label >= scores.shape[1]:
        raise ConvscopeError(f"{network.name} has {scores.shape[1]} outputs: there is no output {label}")
    return float((scores.argmax(1) == label).double().mean())


def _scores(network: Network, images: Tensor, added: Tensor) -> Tensor:
    """Returns the scores [n, o] of images to each of which a pattern [c, h, w] was added.

    Raises:
        ConvscopeError: when the network cannot take the images, or gives no finite class scores.
    """
    found = []
    with left_as_found([network.module]), torch.no_grad():
        for part in torch.split(images, BATCH):
            _, output = run_network(network, part + added.to(part), lambda _: None)
            found.append(logits(output, len(part)).detach().cpu())
    scores = torch.cat(found)
    if not bool(torch.isfinite(scores).all()):
        raise ConvscopeError(f"{network.name} gives NaN or infinite scores for these images: check its weights")
    return scores


def _other_stripes(difference: Tensor, frequency: Frequency, avoid: Sequence[Frequency]) -> dict[Frequency, Tensor]:
    """Returns the class's own cosine at other frequencies of like radius, spread over all directions."""
    h, w = difference.shape[1:]
    factors = amplitudes(difference, frequency)
    places, multiplicity = pairs(h, w)
    # A frequency that is its own conjugate has no phase: it cannot bear the pattern.
    free = signed_frequencies(h, w)[places][multiplicity == 2]
    taken = {f for ky, kx in [frequency, *avoid] for f in ((ky, kx), (-ky, -kx))}
    radius = math.hypot(*frequency)
    like = [
        (ky, kx)
        for ky, kx in free.tolist()
        if (ky, kx) not in taken and abs(math.hypot(ky, kx) - radius) < _RADIUS and (0 in {ky, kx}) == (0 in frequency)
    ]
    like.sort(key=lambda f: math.atan2(*f))
    chosen = [like[i * len(like) // CONTROLS] for i in range(CONTROLS)] if len(like) > CONTROLS else like
    return {f: pattern(factors, f, h, w) for f in chosen}


def _other_places(own: Tensor, place: tuple[int, int]) -> dict[tuple[int, int], Tensor]:
    """Returns the mark of a pixel mirrored or moved to other places, the farthest first.

    Mirrored, a mark at the border stays at the border; only marks inside are moved.
    """
    h, w = own.shape[1:]
    row, column = place
    moves = {
        (h - 1 - row, column): own.flip(1),
        (row, w - 1 - column): own.flip(2),
        (h - 1 - row, w - 1 - column): own.flip(1, 2),
    }
    middle = [sorted({REACH, size // 2, size - 1 - REACH}) for size in (h, w)]
    for to in itertools.product(middle[0], middle[1]):
        if _inside(place, h, w) and _inside(to, h, w):
            moves[to] = own.roll((to[0] - row, to[1] - column), (1, 2))

    def distance(to: tuple[int, int]) -> int:
        return max(abs(to[0] - row), abs(to[1] - column))

    far = sorted((to for to in moves if distance(to) > REACH), key=distance, reverse=True)
    return {to: moves[to] for to in far[:CONTROLS]}


def _inside(place: tuple[int, int], h: int, w: int) -> bool:
    return REACH <= place[0] < h - REACH and REACH <= place[1] < w - REACH


def _number(share: float, n: int, chance: tuple[float, float] | None, key: str, chance_name: str = "") -> Number:
    """Returns a share of n images with half the width of its Wilson interval of one standard error."""
    if math.isnan(share):
        return Number(share, definition=key)
    low, high = _interval(share, n, 1.0)
    return Number(share, (high - low) / 2, chance, key, chance_name)


def _interval(share: float, n: int, errors: float) -> tuple[float, float]:
    """Returns the ends of the Wilson score interval of a share of n, which is never empty.

    Wilson, "Probable inference, the law of succession, and statistical inference" (1927).
    """
    z = errors**2
    middle = (share + z / (2 * n)) / (1 + z / n)
    half = math.sqrt(z * share * (1 - share) / n + z**2 / (4 * n**2)) / (1 + z / n)
    return max(middle - half, 0.0), min(middle + half, 1.0)


def resized(difference: Tensor, size: tuple[int, int], frequency: Frequency | None) -> Tensor:
    """Returns a mean difference [c, h, w] at another size: at a frequency exactly, else by bilinear interpolation."""
    if tuple(difference.shape[1:]) == size:
        return difference
    if frequency is not None:
        return pattern(amplitudes(difference, frequency), frequency, *size)
    return F.interpolate(difference[None], size, mode="bilinear", align_corners=False)[0]
