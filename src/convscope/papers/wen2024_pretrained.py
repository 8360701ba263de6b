"""The bottleneck in networks that others trained, and along one training: weights, activations, and what can go."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any

import torch
from scipy.stats import binom
from torch import Tensor, nn

from convscope.analyse import analyse, twin_of
from convscope.bottleneck.compress import Compression, compress
from convscope.bottleneck.factored import ChannelForm, with_layers
from convscope.bottleneck.forms import Choice
from convscope.bottleneck.interventions import module_outputs
from convscope.bottleneck.loss import Judge
from convscope.bottleneck.operators import ConvOperator
from convscope.bottleneck.rank import CbnRank, cbn_rank
from convscope.bottleneck.result import BottleneckResult
from convscope.bottleneck.shown import LayerKept
from convscope.bottleneck.singular import singular_values
from convscope.bottleneck.theory import Bottleneck
from convscope.core.errors import ConvscopeError
from convscope.core.network import Network
from convscope.core.passes import Pass
from convscope.core.results import Number, finite
from convscope.inputs.iterables import IterableSource
from convscope.papers.beaglehole2023_networks import PUBLISHED, TRAJECTORY, Published, opened
from convscope.papers.data import cifar10, needed, pictures, snapshots
from convscope.papers.registry import Outcome, Row, Scale, Setup
from convscope.training.initialise import reinitialised

NOT_READ = "not read"
TOLERANCE = 0.01
_MEANS = 100  # images from which a convolution's mean output is taken


@dataclass(frozen=True)
class Size:
    """Sizes of one scale.

    Attributes:
        images: for activations.
        compression: images for compression.
        random: of these, to see what random channels do.
        networks: published networks.
        snapshots: of a training.
    """

    images: int
    compression: int
    random: int
    networks: int
    snapshots: int


SIZES: dict[Scale, Size] = {
    "smoke": Size(8, 60, 8, 1, 1),
    "cpu": Size(400, 4000, 500, 3, 4),
    "paper": Size(10_000, 10_000, 5000, 3, 8),
}
NETWORKS = tuple(sorted(PUBLISHED, key=lambda published: published.images))  # the small images first


def pretrained(setup: Setup) -> Outcome:
    """Returns which frequencies and channels the convolutions of published networks keep."""
    size = SIZES[setup.scale]
    rows: list[Row] = []
    details: dict[str, list[dict[str, Any]]] = {}
    for published in NETWORKS[: size.networks]:
        network = opened(setup, published)
        found = _analysed(network, pictures(published.images, setup.data, size.images), setup)
        rows += _rows(published.name, found, network)
        details[published.name] = [_line(row) for row in found.rows]
    images = pictures(TRAJECTORY.images, setup.data, size.images)
    networks = {at: opened(setup, TRAJECTORY, f"#{prefix}") for at, prefix in _snapshots(setup)[-size.snapshots :]}
    along = {at: _analysed(network, images, setup) for at, network in networks.items()}
    last = max(along)
    rows += _rows(f"{TRAJECTORY.name}, last snapshot", along[last], networks[last])
    details["snapshots"] = [{"iteration": at} | _line(row) for at, found in along.items() for row in found.rows]
    return Outcome(tuple(rows), _settings(size), details)


def compression(setup: Setup) -> Outcome:
    """Returns how small published networks become within a tolerance of 0.01, or why they do not."""
    size = SIZES[setup.scale]
    rows: list[Row] = []
    lines: list[dict[str, Any]] = []
    for published, prefix in _every(setup, size):
        labels = None
        if published.images == "cifar10":
            data = cifar10(needed("cifar10", setup.data), size.compression, "test")
            images, labels = data.pixels, data.labels
        else:
            images = pictures(published.images, setup.data, size.compression)
        network = opened(setup, published, prefix)
        found = compress(network, images, labels, tolerance=TOLERANCE, progress=setup.progress)
        few = slice(size.random)
        random = at_random(network, found.layers, images[few], None if labels is None else labels[few])
        rows += _saved(published.name, found, random)
        lines += [
            {"network": published.name, "convolution": layer, "form": choice.option.form, "kept": choice.kept}
            | {"stored numbers, share": finite(choice.cost.numbers / choice.dense.numbers)}
            for layer, choice in found.layers.items()
        ]
    settings = {
        "tolerance": f"{TOLERANCE}: of accuracy (CIFAR-10's test images), or |f − f'|² / |f − mean f|² of the outputs "
        "(a sample of ImageNet, without labels)",
        "images": "one half chooses the sizes, the other half measures the loss; ± one standard error",
    }
    return Outcome(tuple(rows), settings, {"replaced convolutions": lines})


def _every(setup: Setup, size: Size) -> list[tuple[Published, str]]:
    return [*((published, "") for published in NETWORKS[: size.networks]), (TRAJECTORY, f"#{_snapshots(setup)[-1][1]}")]


def _snapshots(setup: Setup) -> list[tuple[int, str]]:
    return list(snapshots(needed("weights", setup.data) / TRAJECTORY.file).items())


def _saved(name: str, found: Compression, random: float | None) -> list[Row]:
    verdict = f"refused: {found.refusal}" if found.refusal else f"{len(found.layers)} of the convolutions replaced"
    n = found.loss.images if found.loss is not None else 0
    stored, adds = (getattr(found.after, what) / getattr(found.before, what) for what in ("numbers", "multiply_adds"))
    kept = fmean(choice.kept / choice.option.of for choice in found.layers.values()) if found.layers else 1.0
    rows = [
        Row(
            f"{name}: stored numbers after compression, share",
            "few: below a half (claim)",
            (0.0, 0.5),
            Number(stored),
            n,
            {"as it is": 1.0},
            verdict,
            "lower",
            reason=f"where channels can be left out at all ({len(found.layers)} convolutions), {kept:.2f} of them must "
            "stay for this tolerance, and a convolution in two factors stores more for each channel that it keeps",
        ),
        Row(f"{name}: multiply-adds after compression, share", NOT_READ, None, Number(adds), n, note=verdict),
    ]
    if found.loss is not None and random is not None:
        lost = {"accuracy": "accuracy lost", "output": "relative error of the outputs"}[found.loss.measure]
        number = Number(found.loss.value, found.loss.number().spread)
        rows.append(
            Row(
                f"{name}: {lost}",
                f"at most {TOLERANCE} (claim: what is dropped is not needed)",
                (-1.0, TOLERANCE),
                number,
                n,
                {"as many random channels": random},
                verdict,
                "lower",
                reason=found.refusal,
            )
        )
    return rows


def at_random(network: Network, layers: Mapping[str, Choice], images: Tensor, labels: Tensor | None) -> float | None:
    """Returns the loss where as many random directions among the channels are kept as a compression keeps.

    Args:
        network: before compression; left as it was found.
        layers: what the compression replaced.
        images: on which the loss is measured.
        labels: theirs, or None.

    Returns:
        The loss, or None where nothing in channel form was replaced.
    """
    random, forms = torch.Generator().manual_seed(0), {}
    for name, choice in layers.items():
        if choice.option.form == "channel":
            maps = [maps.double().mean((2, 3)) for _, maps in module_outputs(network, name, images[:_MEANS])]
            mean = torch.cat(maps).mean(0)
            basis = torch.linalg.qr(torch.randn(len(mean), choice.kept, generator=random, dtype=torch.float64)).Q
            forms[name] = ChannelForm.of(choice.conv, basis.T, basis, mean)
    if not forms:
        return None
    loss, _ = Judge(network, images, labels).judge(replace(network, module=with_layers(network.module, forms)))
    return loss.value


def _analysed(network: Network, images: Tensor, setup: Setup) -> BottleneckResult:
    p = Pass(IterableSource(images, "images"), {"model": network}, progress=setup.progress)
    twin = reinitialised(network.module)
    if twin is not None:
        p.networks["twin"] = twin_of(p, network, twin)
    (result,), _ = analyse(p, [Bottleneck(len(images))])
    if not isinstance(result, BottleneckResult):
        raise ConvscopeError(f"{network.name} gave a result of kind {result.kind}")
    return result


def _rows(name: str, found: BottleneckResult, network: Network) -> list[Row]:
    images = int(found.facts["images"])
    ranks = [row.numbers["rank"] for row in found.rows if "rank" in row.numbers]
    narrower = [number.value < fmean(number.chance) for number in ranks if number.chance is not None]
    kept = [row.numbers["cbn_share"] for row in found.rows if "cbn_share" in row.numbers]
    fewer = [number.value < fmean(number.chance) for number in kept if number.chance is not None]
    by_itself = _by_itself(found, network) if narrower else ""
    rows = []
    if "narrowest" in found.numbers:
        what = f"{name}: dimensions for 99 % of the variance, narrowest convolution ({found.facts['narrowest']})"
        rows.append(Row(what, NOT_READ, None, found.numbers["narrowest"], images))
    if "narrowing" in found.numbers:
        what = f"{name}: dimensions for 99 % of the variance, narrowest convolution, over those of the input"
        rows.append(Row(what, "below 1 (claim)", (0.0, 1.0), found.numbers["narrowing"], images, reason=_wide(found)))
    for what, holds, reason in (
        ("convolutions whose activations are narrower than in the untrained twin", narrower, by_itself),
        ("convolutions whose weights keep fewer pairs than random kernels", fewer, ""),
    ):
        if holds:
            low, high = (float(end) / len(holds) for end in binom.interval(0.95, len(holds), 0.5))
            share = Number(fmean(holds), None, (low, high), "", "if training changed nothing")
            claim = "more than chance gives (claim)"
            rows.append(Row(f"{name}: share of {what}", claim, (high, 1.0), share, len(holds), reason=reason))
    if "median_align" in found.numbers:
        rows.append(_aligned(name, found))
    return rows


def _wide(found: BottleneckResult) -> str:
    """Returns why no convolution keeps fewer dimensions than the images have, though training narrows them; or ""."""
    narrowest = found.numbers["narrowest"]
    if found.numbers["narrowing"].value <= 1:
        return ""
    words = (
        "photographs need few dimensions themselves: 99 % of their variance lies in "
        f"{narrowest.value / found.numbers['narrowing'].value:,.0f} of them, and no convolution keeps so few"
    )
    if narrowest.chance is None or fmean(narrowest.chance) <= narrowest.value:
        return words
    return (
        f"{words}. Training narrows what the untrained twin spreads over {fmean(narrowest.chance):,.0f} dimensions to "
        f"{narrowest.value:,.0f}, and no further"
    )


def _by_itself(found: BottleneckResult, network: Network) -> str:
    """Returns how the untrained twin narrows, where no batch norm keeps it wide."""
    chances = [row.numbers["rank"].chance for row in found.rows if "rank" in row.numbers]
    twin = [fmean(chance) for chance in chances if chance is not None]
    if any(isinstance(module, nn.BatchNorm2d) for module in network.module.modules()) or twin[-1] > twin[0] / 2:
        return ""
    return (
        "without batch norm an untrained network narrows by itself with depth: from "
        f"{twin[0]:.0f} dimensions at the first convolution that is counted to {twin[-1]:.0f} at the last"
    )


def _aligned(name: str, found: BottleneckResult) -> Row:
    number = found.numbers["median_align"]
    assert number.chance is not None
    shapes = Counter((row.shape[2:], (row.size[0], row.size[1])) for row in found.rows if row.shape[2:] != (1, 1))
    (kernel, size), _ = shapes.most_common(1)[0]
    narrow = narrowest_kernel(kernel[0], size)
    text = "x".join(map(str, kernel))
    return Row(
        f"{name}: alignment of singular values with two levels, median over convolutions",
        "above that of random kernels (claim)",
        (number.chance[1], 1.0),
        number,
        len(found.rows),
        {f"a mean over {text} pixels": narrow.align},
        reason=f"{text} taps cannot keep few frequencies and drop the others: even a mean over {text} pixels, whose "
        f"energy lies on fewest, keeps {narrow.rank} of {narrow.size} and has an alignment of {narrow.align:.2f}",
    )


def narrowest_kernel(side: int, size: tuple[int, int]) -> CbnRank:
    """Returns the rank of a mean over side x side pixels on maps of a size.

    No kernel w of so many taps has its energy on fewer frequencies: |T|^2 is at most side^2 ||w||^2 at any of them, and
    ||w||^2 on average over all N, so that the sum of |T|^2 is at least N / side^2 times its largest value. The mean
    attains this.

    Args:
        side: of the kernel.
        size: (h, w) of the maps.

    Example:
        >>> narrowest_kernel(1, (4, 4)).rank  # a single tap keeps all frequencies
        16
    """
    conv = nn.Conv2d(1, 1, side, padding="same", padding_mode="circular", bias=False)
    nn.init.constant_(conv.weight, side**-2)
    found = singular_values(ConvOperator.of(conv, size))
    return cbn_rank(found.values, found.multiplicity, (1, 1, side, side))


def _line(row: LayerKept) -> dict[str, Any]:
    line: dict[str, Any] = {"convolution": row.layer, "filters": "x".join(map(str, row.shape))}
    for key in ("rank", "frequencies", "grid", "cbn_share", "align", "leak"):
        number = row.numbers.get(key)
        line[key] = None if number is None else finite(number.value)
        if number is not None and number.chance is not None:
            line[f"{key}, chance"] = [finite(end) for end in number.chance]
    return line | {"plateau": row.confidence, "notes": "; ".join(row.notes)}


def _settings(size: Size) -> dict[str, str]:
    return {
        "images": f"at most {size.images:,} of each set: the first test images of CIFAR-10, the sample of ImageNet",
        "rank": "real dimensions (frequency and direction among channels) that hold 99 % of the variance of a "
        "convolution's output from image to image, batch norm folded in; chance: the untrained twin, one draw",
        "frequencies": "those that hold 99 % of the variance, conjugate pairs counted once",
        "grid": "pixels along one side that hold the frequencies of 99 % of the variance",
        "cbn_share, align": "of the singular values, batch norm folded in: share on the upper of two levels, and "
        "squared cosine with exactly two levels; chance: Gaussian kernels",
        "leak": "share of the zero-padded operator that no circulant holds",
    }
