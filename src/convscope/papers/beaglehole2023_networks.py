"""The neural feature ansatz in every convolution of networks that others trained, and along one training."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from statistics import fmean
from statistics import median as median_of
from typing import Any, get_args

import torch
from scipy.stats import binom
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from convscope.ansatz.agop import PatchAgop
from convscope.ansatz.forms import NullKind
from convscope.ansatz.measure import patch_agop
from convscope.ansatz.measured import Measured, median
from convscope.core.errors import ConvscopeError
from convscope.core.network import Network
from convscope.core.results import Number, finite, finite_list
from convscope.inputs.networks import open_network
from convscope.papers.beaglehole2023_claims import claimed_at
from convscope.papers.beaglehole2023_reasons import concentration
from convscope.papers.data import needed, pictures, snapshots
from convscope.papers.registry import Outcome, Row, Scale, Setup
from convscope.training.initialise import calibrate_, reinitialised

NOT_READ = "not read"
TURNED = "S turned at random"
ABOVE = f"above {TURNED} (the central 95 %)"
POWERS = {1.0: "power 1", 0.5: "power 1/2"}
_EXACT = 10  # outputs up to which each of them is sent back
_NAMED = 6  # convolutions named in a reason


@dataclass(frozen=True)
class Size:
    """Sizes of one scale: images of each set, untrained twins, random turns of S, published networks."""

    images: int
    twins: int
    draws: int
    networks: int


SIZES: dict[Scale, Size] = {"smoke": Size(2, 1, 2, 2), "cpu": Size(200, 2, 50, 3), "paper": Size(10_000, 5, 1_000, 3)}


@dataclass(frozen=True)
class Published:
    """A network with published weights: name, factory in ``training.networks``, its file, and the images it sees."""

    name: str
    factory: str
    file: str
    images: str


PUBLISHED = (
    Published("SqueezeNet 1.1, ImageNet", "squeezenet1_1", "squeezenet1_1_imagenet.safetensors", "imagenet"),
    Published("ResNet-20, CIFAR-10", "resnet20", "resnet20_cifar10.safetensors", "cifar10"),
    Published("ResNet-56, CIFAR-10", "resnet56", "resnet56_cifar10.safetensors", "cifar10"),
)
TRAJECTORY = Published("cifar10_full, CIFAR-10", "cifar10_full", "caffe_cifar10_full_trajectory.safetensors", "cifar10")


Agreement = Mapping[float, Mapping[NullKind, Measured]]  # power of the AGOP -> chance -> correlation and its draws


def agreement(result: PatchAgop, draws: int) -> Agreement:
    """Returns how alike filters and gradients of one convolution are, beside two kinds of chance.

    Args:
        result: the convolution's.
        draws: number of random turns, and of random permutations, of the channels of S.
    """
    found: dict[float, dict[NullKind, Measured]] = {}
    for power in POWERS:
        value = result.measured(partial(result.comparison.correlation, power=power))
        found[power] = {
            null: replace(value, draws=tuple(result.chance(null, power=power, draws=draws).tolist()))
            for null in get_args(NullKind)
        }
    return found


def twins_of(network: Network, images: Tensor, count: int) -> list[nn.Module]:
    """Returns copies of a network with fresh weights, their batch norms calibrated on some images.

    Args:
        network: what to copy.
        images: [n, c, h, w] in [0, 1].
        count: number of copies.

    Raises:
        ConvscopeError: when the network does not say how its weights are drawn.
    """
    twins: list[nn.Module] = []
    for seed in range(count):
        twin = reinitialised(network.module, seed)
        if twin is None:
            raise ConvscopeError(f"{network.name} does not say how its weights are drawn: there is no untrained twin")
        calibrate_(Network(f"{network.name}, untrained", twin, network.prepare), images)
        twins.append(twin)
    return twins


def agops(
    module: nn.Module, images: Tensor, progress: bool, layers: Collection[str] | None = None
) -> dict[str, PatchAgop]:
    """Returns the patch AGOP of every convolution; exact for few outputs, else by probes.

    Args:
        module: in evaluation mode.
        images: [n, c, h, w] as the module takes them.
        progress: whether to show a progress bar.
        layers: names of the convolutions; None for all.
    """
    with torch.no_grad():
        outputs = module(images[:1]).shape[1]
    loader = DataLoader(TensorDataset(images), batch_size=50)
    return dict(patch_agop(module, loader, exact=outputs <= _EXACT, layers=layers, progress=progress))


@dataclass(frozen=True)
class Beside:
    """A network's convolutions beside those of its untrained twins: by layer."""

    results: Mapping[str, PatchAgop]
    trained: Mapping[str, Agreement]
    twins: Sequence[Mapping[str, Agreement]]

    def lines(self) -> list[dict[str, Any]]:
        """Returns one line of the table for each convolution."""
        return [self._line(layer) for layer in self.results]

    def _line(self, layer: str) -> dict[str, Any]:
        result = self.results[layer]
        filters, (q, r) = result.weight.shape[0] * result.weight.shape[1], result.geometry.kernel
        line: dict[str, Any] = {
            "convolution": layer,
            "filters": f"{filters} of {result.weight.shape[2] // (q * r)}x{q}x{r}",
            "images": result.n_images,
        }
        for power, name in POWERS.items():
            found, permuted = (self.trained[layer][power][null] for null in ("haar", "permuted"))
            line |= {
                name: finite(found.value),
                f"{name}, standard error": finite(found.standard_error),
                f"{name}, bias": finite(found.bias),
                f"{name}, S turned": finite_list(found.band or ()),
                f"{name}, S permuted": finite_list(permuted.band or ()),
                f"{name}, twins": finite_list(twin[layer][power]["haar"].value for twin in self.twins),
            }
        return line

    def rows(self, name: str) -> list[Row]:
        """Returns the network's rows: medians over convolutions, and how many lie above what chance gives."""
        return [claimed_at(power, row) for power in POWERS for row in self._rows(name, power)]

    def _rows(self, name: str, power: float) -> list[Row]:
        found = [of[power]["haar"] for of in self.trained.values()]
        twins = [[of[power]["haar"] for of in twin.values()] for twin in self.twins]
        whole, permuted = median(found), median([of[power]["permuted"] for of in self.trained.values()])
        raised = [a.value > fmean(twin[i].value for twin in twins) for i, a in enumerate(found)]
        low, high = (float(binom.ppf(q, len(found), 0.5)) / len(found) for q in (0.025, 0.975))
        even = (low, high)
        n = next(iter(self.results.values())).n_images
        return [
            Row(
                f"{name}: correlation of NFM and AGOP, {POWERS[power]}, median over convolutions",
                ABOVE,
                beyond(whole.band),
                whole.number("", f"median with {TURNED}"),
                len(found),
                {
                    "untrained twin": fmean(median(twin).value for twin in twins),
                    TURNED: fmean(whole.draws),
                    "channels permuted": fmean(permuted.draws),
                },
                f"n convolutions; ± error over folds of {n:,} images",
                "higher",
            ),
            Row(
                f"{name}: share of convolutions above the central 95 % with {TURNED}, {POWERS[power]}",
                "every one",
                (1.0, 1.0),
                Number(fmean(map(_above, found)), None, (0.0, float(binom.ppf(0.975, len(found), 0.025)) / len(found))),
                len(found),
                {"untrained twin": fmean(_above(a) for twin in twins for a in twin)},
                "0.025 by chance",
                "higher",
                reason=self._exceptions(power),
            ),
            Row(
                f"{name}: share of convolutions above their untrained twins, {POWERS[power]}",
                "more than if training changed nothing",
                beyond(even),
                Number(fmean(raised), None, even, "", "if training changed nothing"),
                len(found),
                reason=self._uneven(found, twins),
            ),
        ]

    def _exceptions(self, power: float) -> str:
        """Returns in words where gradients do not agree with the filters beyond chance, and what differs there."""
        below = [layer for layer in self.results if not _above(self.trained[layer][power]["haar"])]
        if not below:
            return ""
        names = ", ".join(below[:_NAMED]) + (", ..." if len(below) > _NAMED else "")
        there = concentration([self.results[layer] for layer in below])
        return f"not above in {len(below)} of {len(self.results)} ({names}), where, in the mean, {there}"

    def _uneven(self, found: Sequence[Measured], twins: Sequence[Sequence[Measured]]) -> str:
        """Returns in words why training need not raise the agreement: without it S is even."""
        values = [median_of(a.value for a in of) for of in (found, *twins)]
        chances = [median_of(fmean(a.draws) for a in of) for of in (found, *twins)]
        return (
            f"untrained twins agree with {fmean(values[1:]):.3f} (median) and {fmean(chances[1:]):.3f} with {TURNED}, "
            f"the trained network with {values[0]:.3f} and {chances[0]:.3f}: without training the agreement follows "
            "from W alone, and it is high already"
        )


def beyond(chance: tuple[float, float] | None) -> tuple[float, float] | None:
    """Returns the interval above what chance gives, up to 1."""
    return None if chance is None else (math.nextafter(chance[1], 2), 1.0)


def _above(value: Measured) -> bool:
    return value.band is not None and value.value > value.band[1]


def compared(results: Mapping[str, PatchAgop], size: Size) -> dict[str, Agreement]:
    """Returns each convolution's agreement."""
    return {name: agreement(result, size.draws) for name, result in results.items()}


def untrained_twins(network: Network, images: Tensor, size: Size, progress: bool) -> list[dict[str, Agreement]]:
    """Returns, for each untrained twin of a network, its convolutions' agreement.

    Args:
        network: what the twins are of.
        images: [n, c, h, w] in [0, 1].
        size: numbers of twins and draws.
        progress: whether to show progress bars.
    """
    prepared = network.prepare(images)
    return [compared(agops(twin, prepared, progress), size) for twin in twins_of(network, images, size.twins)]


def pretrained(setup: Setup) -> Outcome:
    """Returns how well filters and gradients agree in every convolution of published networks."""
    rows: list[Row] = []
    details: dict[str, list[dict[str, Any]]] = {}
    size = SIZES[setup.scale]
    for published in PUBLISHED[: size.networks]:
        network = opened(setup, published)
        images = pictures(published.images, setup.data, size.images)
        results = agops(network.module, network.prepare(images), setup.progress)
        found = Beside(results, compared(results, size), untrained_twins(network, images, size, setup.progress))
        rows += found.rows(published.name)
        details[published.name] = found.lines()
    return Outcome(tuple(rows), _settings(size), details)


def trajectory(setup: Setup) -> Outcome:
    """Returns how filters and gradients agree in the eight snapshots of Caffe's CIFAR-10 network."""
    size = SIZES[setup.scale]
    images = pictures(TRAJECTORY.images, setup.data, size.images)
    found: dict[int, Beside] = {}
    twins: list[dict[str, Agreement]] = []
    for iteration, prefix in snapshots(needed("weights", setup.data) / TRAJECTORY.file).items():
        network = opened(setup, TRAJECTORY, f"#{prefix}")
        twins = twins or untrained_twins(network, images, size, setup.progress)
        results = agops(network.module, network.prepare(images), setup.progress)
        found[iteration] = Beside(results, compared(results, size), twins)
    first, last = found[min(found)], found[max(found)]
    rows = [
        claimed_at(power, row)
        for power in POWERS
        for layer in last.results
        for row in _along(layer, power, first, last)
    ]
    details = {"snapshots": [{"iteration": at} | line for at, one in found.items() for line in one.lines()]}
    recipe = "Caffe's cifar10_full; RGB in 0..255 less the mean of each channel (its own recipe: less the mean image)"
    return Outcome(tuple(rows), {**_settings(size), "network": recipe}, details)


def _along(layer: str, power: float, first: Beside, last: Beside) -> list[Row]:
    found, result = last.trained[layer][power], last.results[layer]
    begin = first.trained[layer][power]["haar"]
    grown = replace(found["haar"], draws=()) - replace(begin, draws=())
    error = 1.96 * (grown.standard_error or 0.0)
    note = f"± error over folds of {result.n_images:,} images"
    return [
        Row(
            f"{layer}, last snapshot: correlation of NFM and AGOP, {POWERS[power]}",
            ABOVE,
            beyond(found["haar"].band),
            found["haar"].number("", TURNED),
            1,
            {
                "first snapshot": begin.value,
                "untrained twin": fmean(twin[layer][power]["haar"].value for twin in last.twins),
                TURNED: fmean(found["haar"].draws),
                "channels permuted": fmean(found["permuted"].draws),
            },
            note,
            "higher",
            reason=concentration([result]),
        ),
        Row(
            f"{layer}: growth of the correlation from the first snapshot to the last, {POWERS[power]}",
            "grows, beyond 1.96 standard errors",
            beyond((-error, error)),
            grown.number("", "if it did not grow", (-error, error)),
            1,
            note=note,
            reason=f"first snapshot: {concentration([first.results[layer]])}; last: {concentration([result])}",
        ),
    ]


def opened(setup: Setup, published: Published, prefix: str = "") -> Network:
    """Returns a network with its published weights, in evaluation mode.

    Args:
        setup: says where the weights lie.
        published: the network.
        prefix: "#" and the prefix of its keys where a file holds several.

    Raises:
        ConvscopeError: when the weights are not at hand, or do not fit.
    """
    file = needed("weights", setup.data) / published.file
    network = open_network(f"convscope.training.networks:{published.factory}@{file}{prefix}").network
    network.module.eval()
    return network


def _settings(size: Size) -> dict[str, str]:
    return {
        "images": f"at most {size.images:,} of each set: the first test images of CIFAR-10, a random choice of the "
        "sample of ImageNet",
        "AGOP": "of the logits; of each in turn where there are 10, by up to 16 draws of random signs of all 1,000",
        "tables of convolutions": "Pearson correlation of NFM and AGOP to that power; its standard error and "
        "small-sample bias (to be subtracted) by the jackknife over folds of images; the central 95 % with S turned "
        "at random and with its channels permuted; the untrained twins",
        "untrained twins": f"{size.twins} copies with weights drawn as PyTorch's layers do, batch norms calibrated "
        "on the images; the weights before training are not published",
        "S": "second moment of the gradients at the convolution's output; turned: "
        f"{size.draws:,} random rotations (Haar), which leave its eigenvalues",
    }
