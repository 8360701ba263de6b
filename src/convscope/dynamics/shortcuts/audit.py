"""What the shortcut audit found: values for each frequency and pixel, for colours and files, and the alarms."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from torch import Tensor

if TYPE_CHECKING:
    from convscope.dynamics.shortcuts.chance import Values

Kind = Literal["frequency", "pixel", "colour", "file"]

THRESHOLD = 5.0  # of z, above which something is said

#: What no part of the audit can see.
UNSEEN = (
    "marks at random positions, and moving ones",
    "textures that change from image to image, unless one frequency of theirs stands out",
    "brightness of a box of pixels",
    "frequencies below 3 cycles per image",
    "shortcuts that only a minority of a class carries",
)


@dataclass(frozen=True, eq=False)
class FrequencyAudit:
    """How much classes differ at each frequency of the images' periodic component, beside its neighbours.

    Attributes:
        frequencies: int64 [f, 2], signed (ky, kx) in cycles per image, one of each conjugate pair.
        tested: bool [f], whether the frequency was compared with others.
        axis: bool [f], whether ky or kx is 0; these are compared with those of their own axis alone.
        coherent: float64 [f], log F of the complex coefficients.
        power: float64 [f], log F' of the logarithms of their energies.
        coherent_z: float64 [f], how far log F stands out from its neighbours; NaN where not tested.
        power_z: float64 [f], the same of log F'.
        strengths: float64 [f], ||sigma_j||: how much the classes' mean images (as they are) correlate with labels.
        rank: int64 [f], from 1, by falling strength: the smaller, the more likely a network uses the frequency.
        class_effects: float64 [o, f], |m_cj - m_j|, how far a class's mean coefficient lies from the mean over
            classes, root of the sum over channels, in units of the images' unitary coefficients; NaN for a class
            without images.
        dominant_class: int64 [f], the class that stands out in the coherent statistic.
        power_class: int64 [f], the class that stands out in the power statistic.
    """

    frequencies: Tensor
    tested: Tensor
    axis: Tensor
    coherent: Tensor
    power: Tensor
    coherent_z: Tensor
    power_z: Tensor
    strengths: Tensor
    rank: Tensor
    class_effects: Tensor
    dominant_class: Tensor
    power_class: Tensor


@dataclass(frozen=True, eq=False)
class PixelAudit:
    """How much classes differ in each pixel of the high-passed images, beside the pixels around it.

    Attributes:
        statistic: float64 [h, w], log F.
        z: float64 [h, w], how far log F stands out from its neighbours; NaN where not tested.
        border: bool [h, w], the outermost pixels, which are compared with each other.
        class_effects: float64 [o, h, w], how far a class's mean lies from the mean over classes, the channel where it
            is farthest, signed, in units of the images; NaN for a class without images.
        dominant_class: int64 [h, w], the class that stands out.
    """

    statistic: Tensor
    z: Tensor
    border: Tensor
    class_effects: Tensor
    dominant_class: Tensor


@dataclass(frozen=True, eq=False)
class TableAudit:
    """How well a few numbers of each image tell its class, by cross-validation.

    Attributes:
        names: of the numbers.
        accuracy: share of images whose class they tell.
        spread: standard error over folds.
        chance: share of the largest class.
        chance_spread: its standard error.
        single: accuracy from each number alone.
        areas: float64 [o], how well they tell each class from all others: area under the receiver operating
            characteristic, 0.5 where not at all; NaN for a class without images, or with those of one fold alone.
        z: float64 [o], how far each area stands out from those of the other classes; NaN with too few classes.
    """

    names: tuple[str, ...]
    accuracy: float
    spread: float
    chance: float
    chance_spread: float
    single: dict[str, float]
    areas: Tensor
    z: Tensor


@dataclass(frozen=True)
class Alarm:
    """Something that betrays a class without being its object, as far as the audit can tell.

    Attributes:
        kind: which part of the audit found it.
        what: it, in words ("the frequency (9, 6)").
        statistic: what stands out, in words.
        value: z.
        threshold: above which an alarm is raised.
        label: the class that stands out; None where no single one does.
        place: (ky, kx) of a frequency, (row, column) of a pixel; None for others.
        rank: that of the frequency's strength; None for others.
    """

    kind: Kind
    what: str
    statistic: str
    value: float
    threshold: float
    label: int | None
    place: tuple[int, int] | None
    rank: int | None


@dataclass(frozen=True, eq=False)
class ShortcutAudit:
    """What betrays a class without being its object, found in images and labels alone.

    Attributes:
        frequencies: of the images' periodic component.
        pixels: of the high-passed images.
        colour: from the means and extremes of the channels.
        files: from properties of files; None where none are given.
        counts: int64 [o], images of each class.
        images: labelled images seen.
        image_shape: (c, h, w).
        threshold: of z.
        alarms: strongest first, but pixels and colours of a class after the stripes or marks that show in them.
        notes: what was not tested and how the parts were calibrated, in sentences.
        values: the sums that frequencies and pixels follow from, with both.
        without: for each fold of images its number of images, and what those of all others give, for error bars; empty
            where folds were not kept apart.
        unseen: what no part of the audit can see.
    """

    frequencies: FrequencyAudit
    pixels: PixelAudit
    colour: TableAudit
    files: TableAudit | None
    counts: Tensor
    images: int
    image_shape: tuple[int, int, int]
    threshold: float
    alarms: tuple[Alarm, ...]
    notes: tuple[str, ...]
    values: Values
    without: tuple[tuple[int, Values], ...] = ()
    unseen: tuple[str, ...] = UNSEEN
