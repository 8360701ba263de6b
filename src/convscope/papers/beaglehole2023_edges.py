"""Whether the patch AGOP of a first layer, and a learned metric, see edges, and more of them than chance would."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from statistics import fmean
from typing import Any

import torch
from torch import Tensor, nn

from convscope.ansatz.edges import contrast_metric, edge_correlations, turned_metrics
from convscope.ansatz.measured import Measured
from convscope.papers.beaglehole2023_claims import gained, in_words, without_gain
from convscope.papers.beaglehole2023_convrfm_images import CIFAR10, FASHION, Case
from convscope.papers.beaglehole2023_networks import NOT_READ, PUBLISHED, Published, agops, beyond, opened, twins_of
from convscope.papers.data import pictures
from convscope.papers.registry import Outcome, Row, Scale, Setup, summary
from convscope.rfm.estimators import ConvRFMClassifier

UNTRAINED, TURNED, CONTRAST = "untrained twin", "directions at random", "contrast of the patch"
_GRADIENTS = 20  # training images at which a kernel machine's AGOP is taken, as in the authors' code


@dataclass(frozen=True)
class Size:
    """Sizes of one scale.

    Attributes:
        images: of each data set, in which edges are sought.
        learned: images that the kernel machine learns from.
        draws: metrics of the same eigenvalues with directions at random.
        twins: untrained copies of each network.
    """

    images: int
    learned: int
    draws: int
    twins: int


SIZES: dict[Scale, Size] = {"smoke": Size(4, 40, 5, 1), "cpu": Size(60, 500, 40, 2), "paper": Size(80, 4_000, 1_000, 5)}


@dataclass(frozen=True)
class Seen:
    """Images, a metric on their patches that was learned, and others to compare it with.

    Attributes:
        name: of what learned it.
        images: [n, c, h, w], as the learner sees them.
        metric: [d, d].
        others: name to metrics for the same patches; the mean over them counts.
    """

    name: str
    images: Tensor
    metric: Tensor
    others: dict[str, list[Tensor]]


def _network(setup: Setup, published: Published, size: Size) -> Seen:
    """Returns the AGOP of a published network's first convolution, beside its untrained twins' and its NFM."""
    network = opened(setup, published)
    images = pictures(published.images, setup.data, size.images)
    first = next(name for name, part in network.module.named_modules() if isinstance(part, nn.Conv2d))
    prepared = network.prepare(images)

    def first_agop(module: nn.Module) -> Tensor:
        return agops(module, prepared, setup.progress, [first])[first].agop

    found = agops(network.module, prepared, setup.progress, [first])[first]
    twins = [first_agop(twin) for twin in twins_of(network, images, size.twins)]
    return Seen(published.name, prepared, found.agop, {UNTRAINED: twins, "NFM": [found.nfm]})


def _machine(setup: Setup, case: Case, size: Size) -> Seen:
    """Returns the first metric that a ConvRFM learns, and the test images."""
    draw = case.draw(setup, size.learned, size.images, 0)
    machine = ConvRFMClassifier(n_iters=1, agop_samples=_GRADIENTS, selection=None)
    machine.fit(draw.train.images.numpy(), draw.train.labels.numpy())
    return Seen(f"ConvRFM, {case.name}", draw.test.images, torch.from_numpy(machine.metric_), {})


def edges(setup: Setup) -> Outcome:
    """Returns how well lengths of patches in learned metrics follow the edges of images."""
    size = SIZES[setup.scale]
    seen = [partial(_network, setup, published, size) for published in PUBLISHED[:2]]
    seen += [partial(_machine, setup, case, size) for case in (*CIFAR10, *FASHION)]
    rows: list[Row] = []
    lines: list[dict[str, Any]] = []
    for look in seen:
        found = look()
        some, line = measured(found, size.draws)
        rows += some
        lines.append(line)
    settings = {
        "measured": "correlation over the pixels of an image, mean over images, between the length sqrt(u^T M u) of "
        "the patch u around a pixel and Sobel's gradient magnitude there (of the mean over channels)",
        "M": "of a network, the AGOP of its first convolution over the same images as it sees them; of ConvRFM (3 "
        f"convolutions of 3 x 3 pixels), its first metric, learned from {size.learned:,} training images, while the "
        "edges are in test images",
        "images": f"at most {size.images:,} of each data set",
        TURNED: f"{size.draws:,} metrics with M's eigenvalues",
        UNTRAINED: f"AGOPs of {size.twins} networks with fresh weights",
        CONTRAST: "length of the patch less the mean of each channel; the identity leaves it in",
    }
    return Outcome(tuple(rows), settings, {"metrics": lines})


def measured(seen: Seen, draws: int) -> tuple[list[Row], dict[str, Any]]:
    """Returns the rows of a metric, and a line with all metrics that it is compared with.

    Args:
        seen: metric and images.
        draws: of metrics at random.
    """
    c = seen.images.shape[1]
    side = round((len(seen.metric) / c) ** 0.5)
    identity = torch.eye(len(seen.metric), dtype=torch.float64)
    others = {**seen.others, CONTRAST: [contrast_metric(c, side)], "identity": [identity]}
    own = _by_image(seen.images, [seen.metric])
    rivals = {name: _by_image(seen.images, metrics) for name, metrics in others.items()}
    null = [fmean(_by_image(seen.images, [metric])) for metric in turned_metrics(seen.metric, draws)]
    band = Measured(0.0, draws=tuple(null)).band
    means = {name: fmean(values) for name, values in rivals.items()}
    rows = [
        Row(
            f"{seen.name}: correlation of patch lengths in the AGOP with edges",
            f"edge detector: above {TURNED} (the central 95 %)",
            beyond(band),
            summary(own, band, f"mean with {TURNED}"),
            len(own),
            {**means, TURNED: fmean(null)},
            "± over images",
            "higher",
            reason=_why(seen.metric, c),
        )
    ]
    if UNTRAINED in rivals:
        gains = _less(own, rivals[UNTRAINED])
        what = f"{seen.name}: the same less that of the untrained twins' AGOPs"
        rows.append(gained(what, gains, reason=_why(seen.metric, c)))
    above = _less(own, rivals[CONTRAST])
    what = f"{seen.name}: the same less that of the patches' contrast"
    number = summary(above, without_gain(above), "95 % without any gain")
    rows.append(Row(what, NOT_READ, None, number, len(above), note=in_words(above)))
    line = {"metric": seen.name, "AGOP": fmean(own), **{name: means.get(name) for name in (UNTRAINED, "NFM")}}
    return rows, {**line, **means, TURNED: fmean(null), "share along means": _flat_share(seen.metric, c)}


def _by_image(images: Tensor, metrics: Sequence[Tensor]) -> list[float]:
    return torch.stack([edge_correlations(images, metric) for metric in metrics]).mean(0).tolist()


def _less(values: Sequence[float], others: Sequence[float]) -> list[float]:
    return [a - b for a, b in zip(values, others, strict=True)]


def _flat_share(metric: Tensor, channels: int) -> float:
    """Returns what share of a metric's trace measures the mean of a channel, which no edge changes."""
    contrast = contrast_metric(channels, round((len(metric) / channels) ** 0.5))
    return 1 - float((metric * contrast).sum() / metric.trace())


def _why(metric: Tensor, channels: int) -> str:
    share = _flat_share(metric, channels)
    even = channels / len(metric)
    return (
        f"{share:.2f} of the metric's trace measures the mean of a channel over the patch, which says how bright it is "
        f"and not where an edge lies; with {TURNED} it would be {even:.2f}"
    )
