"""What stands beside the audit's values: their errors, what permuted labels give, the faintest stripes noticed."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from convscope.core.accumulate import jackknife
from convscope.core.batches import Batch, mix
from convscope.dynamics.shortcuts.audit import FrequencyAudit, PixelAudit
from convscope.dynamics.shortcuts.frequencies import LOWEST, REACH, audit_frequencies
from convscope.dynamics.shortcuts.pixels import audit_pixels
from convscope.dynamics.shortcuts.sums import AuditSums, Moments

DRAWS = 20  # permutations of the labels
_SEED = 6


@dataclass(frozen=True, eq=False)
class Values:
    """What the sums over some images give.

    Attributes:
        moments: the sums.
        frequencies: their audit of frequencies.
        pixels: their audit of pixels.
    """

    moments: Moments
    frequencies: FrequencyAudit
    pixels: PixelAudit

    @classmethod
    def of(cls, moments: Moments) -> Values:
        """Returns both audits of some sums."""
        return cls(moments, audit_frequencies(moments), audit_pixels(moments))

    def strongest(self, part: str, *, axis: bool = False, but: Sequence[int] = ()) -> int:
        """Returns the place of the largest z of a part.

        Args:
            part: "coherent", "power" or "pixel".
            axis: of frequencies, whether those on an axis are meant, or those off the axes.
            but: places that are left out.
        """
        z = self.z(part).nan_to_num(nan=-torch.inf, posinf=torch.inf)
        z[list(but)] = -torch.inf
        return int((z if part == "pixel" else z.masked_fill(self.frequencies.axis != axis, -torch.inf)).argmax())

    def z(self, part: str) -> Tensor:
        """Returns z of a part, [f] or [h w]."""
        if part == "pixel":
            return self.pixels.z.flatten()
        return self.frequencies.coherent_z if part == "coherent" else self.frequencies.power_z


def spread(whole: Values, without: Sequence[tuple[int, Values]], f: Callable[[Values], float]) -> float | None:
    """Returns the jackknife standard error of a value over folds of images; None without folds, or where undefined.

    Args:
        whole: of all images.
        without: for each fold its number of images, and what those of all others give.
        f: the value.
    """
    values = [f(values) for _, values in without]
    if not all(map(math.isfinite, values)):
        return None
    return jackknife(f(whole), values, [float(n) for n, _ in without])


def permuted(images: Tensor, labels: Tensor, index: Tensor, draws: int = DRAWS) -> dict[str, tuple[float, float]]:
    """Returns the central 95 % of the largest z of each part where the labels of a sample of images are permuted.

    By part: "coherent", "power" (off the axes), "coherent axis", "power axis" and "pixel". A z compares a value with
    its neighbours, so that the number of images matters little. The images are transformed once: the sums of any labels
    are sums of those of single images.

    Args:
        images: [n, c, h, w].
        labels: int64 [n], of at least two classes.
        index: int64 [n], the images' identities, which the permutations are drawn from.
        draws: number of permutations.
    """
    each = AuditSums(images.to(torch.float64).mean(0))
    n = len(images)
    each.update(images, Batch.of(images, torch.arange(n), torch.arange(n)))
    one = each.compute()  # each image a class of its own
    _, own = labels.unique(return_inverse=True)
    found: dict[str, list[float]] = {f"{part}{on}": [] for part in ("coherent", "power") for on in ("", " axis")}
    found["pixel"] = []
    for draw in range(draws):
        drawn = own[mix(_SEED, draw, index).argsort(stable=True)]
        classes = torch.nn.functional.one_hot(drawn).T

        def over(x: Tensor, classes: Tensor = classes) -> Tensor:
            return (classes.to(x.dtype) @ x.flatten(1)).unflatten(1, x.shape[1:]) if x.ndim > 1 else classes @ x

        values = Values.of(
            replace(one, counts=over(one.counts), images=over(one.images), logged=over(one.logged), logs=over(one.logs))
        )
        for name, largest in found.items():
            part = name.removesuffix(" axis")
            largest.append(float(values.z(part)[values.strongest(part, axis=part != name)]))
    ends = torch.tensor([0.025, 0.975], dtype=torch.float64)
    return {name: _pair(torch.tensor(z, dtype=torch.float64).quantile(ends)) for name, z in found.items()}


def faintest(values: Values, threshold: float) -> float:
    """Returns the amplitude of stripes in one class of mean size from which an alarm is raised, in units of the images.

    Stripes A cos of one phase, in all C channels alike, move the class's mean coefficient by A sqrt(h w) / 2, which
    adds n (1 - n / P) C h w A^2 / 4 to the squares between classes; F then is that of an alarm, where without them it
    is the median around. Median over radii.

    Args:
        values: of all images.
        threshold: z of an alarm.
    """
    moments, audit = values.moments, values.frequencies
    c, h, w = moments.reference.shape
    counts = moments.counts[moments.counts > 0].double()
    total, classes = float(counts.sum()), len(counts)
    size = total / classes
    rows, columns = torch.fft.fftfreq(h) * h, torch.fft.rfftfreq(w) * w
    everywhere = torch.hypot(rows[:, None], columns)
    radius = audit.frequencies.double().square().sum(1).sqrt()
    inside = ~audit.axis & audit.coherent_z.isfinite() & audit.coherent.isfinite()
    found = []
    for r in range(LOWEST, int(radius.max()) + 1):
        ring = audit.coherent[inside & ((radius - r).abs() <= REACH)]
        variance = moments.energies[(everywhere - r).abs() <= REACH]
        if not len(ring) or not len(variance):
            continue
        middle = ring.median()
        reach = 1.4826 * (ring - middle).abs().median()
        more = float((middle + threshold * reach).exp() - middle.exp())
        energy = more * (classes - 1) * float(variance.median()) / total / (size * (1 - size / total))
        found.append(2 * math.sqrt(energy / (c * h * w)))
    return float(torch.tensor(found, dtype=torch.float64).median()) if found else math.nan


def _pair(ends: Tensor) -> tuple[float, float]:
    low, high = ends.tolist()
    return low, high
