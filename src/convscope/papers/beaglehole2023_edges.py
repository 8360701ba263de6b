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

UNTRAINED, TURNED = "untrained twin", "directions at random"
WHOLE, CENTRED = "whole patches", "centred patches"
_NONE = "95 % without any gain"
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


SIZES: dict[Scale, Size] = {"smoke": Size(4, 40, 5, 1), "cpu": Size(40, 500, 40, 2), "paper": Size(80, 4_000, 1_000, 5)}


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
        some, table = measured(found, size.draws)
        rows += some
        lines += table
    settings = {
        "measured": "correlation over the pixels of an image, mean over images, between the length sqrt(u^T M u) of "
        "the patch u around a pixel and Sobel's gradient magnitude there (of the mean over channels)",
        "M": "of a network, the AGOP of its first convolution over the same images as it sees them; of ConvRFM (3 "
        f"convolutions of 3 x 3 pixels), its first metric, learned from {size.learned:,} training images, while the "
        "edges are in test images",
        "images": f"at most {size.images:,} of each data set",
        TURNED: f"{size.draws:,} metrics with M's eigenvalues",
        UNTRAINED: f"AGOPs of {size.twins} networks with fresh weights",
        CENTRED: "less the mean of each channel over the patch, so that brightness does not count; with the identity, "
        "the patch's contrast",
    }
    return Outcome(tuple(rows), settings, {"metrics": lines})


def measured(seen: Seen, draws: int) -> tuple[list[Row], list[dict[str, Any]]]:
    """Returns the rows of a metric, and a line with all that it is compared with for whole and for centred patches.

    Args:
        seen: metric and images.
        draws: of metrics at random.
    """
    c, d = seen.images.shape[1], len(seen.metric)
    contrast = contrast_metric(c, round((d / c) ** 0.5))
    identity = torch.eye(d, dtype=torch.float64)
    turned = turned_metrics(seen.metric, draws)
    rows: list[Row] = []
    lines: list[dict[str, Any]] = []
    for patches, centre in ((WHOLE, identity), (CENTRED, contrast)):
        title = f"{seen.name}, {patches}: correlation of their lengths in the AGOP with edges"
        own, *rivals = (
            _by_image(seen.images, [centre @ metric @ centre for metric in metrics])
            for metrics in ([seen.metric], *seen.others.values(), [identity])
        )
        others = dict(zip((*seen.others, "identity"), rivals, strict=True))
        null = [fmean(_by_image(seen.images, [centre @ metric @ centre])) for metric in turned]
        band = Measured(0.0, draws=tuple(null)).band
        means = {name: fmean(values) for name, values in others.items()}
        why = _why(seen, centre)
        row = Row(
            title,
            f"edge detector: above {TURNED} (the central 95 %)",
            beyond(band),
            summary(own, band, f"mean with {TURNED}"),
            len(own),
            {**means, TURNED: fmean(null)},
            "± over images",
            "higher",
            reason=why,
        )
        rows.append(row)
        if UNTRAINED in others:
            gains = _less(own, others[UNTRAINED])
            rows.append(gained(f"{title}, less that in the untrained twins' AGOPs", gains, reason=why))
        above = _less(own, others["identity"])
        what, number = f"{title}, less that in the identity", summary(above, without_gain(above), _NONE)
        rows.append(Row(what, NOT_READ, None, number, len(above), note=in_words(above)))
        line = {"metric": seen.name, "patches": patches, "AGOP": fmean(own)}
        line |= {name: means.get(name) for name in (UNTRAINED, "NFM", "identity")} | {TURNED: fmean(null)}
        lines.append(line)
    return rows, lines


def _by_image(images: Tensor, metrics: Sequence[Tensor]) -> list[float]:
    """Returns the correlation with edges in each image, mean over metrics."""
    return torch.stack([edge_correlations(images, metric) for metric in metrics]).mean(0).tolist()


def _less(values: Sequence[float], others: Sequence[float]) -> list[float]:
    return [a - b for a, b in zip(values, others, strict=True)]


def _why(seen: Seen, centre: Tensor) -> str:
    """Returns in words what a metric measures besides edges: brightness, or one direction that does not follow them."""
    metric = centre @ seen.metric @ centre
    values, vectors = torch.linalg.eigh(metric)
    leading = fmean(_by_image(seen.images, [torch.outer(vectors[:, -1], vectors[:, -1])]))
    contrast = contrast_metric(seen.images.shape[1], round((len(metric) / seen.images.shape[1]) ** 0.5))
    flat = 1 - float((metric * contrast).sum() / metric.trace())
    return (
        f"{max(flat, 0):.0%} of the trace measures how bright a patch is, not where its edge lies; the strongest "
        f"direction has {float(values[-1] / values.sum()):.0%} of the trace and follows edges with {leading:.2f}"
    ).replace("%", " %")
