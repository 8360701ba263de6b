"""The convolution's own structure along a training, and how it comes to lie over the modes of the data."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from convscope.core.fourier import pairs, unitary
from convscope.dynamics.closed import closed_form
from convscope.dynamics.collect import dataset_structure
from convscope.dynamics.exact import integrate
from convscope.dynamics.interplay import convolution_matrix, interplay
from convscope.dynamics.linear import Dense, LinearCNN
from convscope.dynamics.monitor import ModeMonitor
from convscope.dynamics.structure import DatasetStructure
from convscope.dynamics.training import SMOOTH
from convscope.dynamics.trajectory import Trajectory
from convscope.papers.pinson2023_data import digits, photographs, ranks
from convscope.papers.registry import Outcome, Row, Scale, Setup, summary
from convscope.training.linear import ConvLinear
from convscope.training.loop import Moment, train
from convscope.training.stable import stable_lr


@dataclass(frozen=True)
class Size:
    """Sizes of one scale: draws for digits and for photographs, photographs, their side, and steps at most."""

    digits: int
    photographs: int
    images: int
    side: int
    steps: int


SIZES: dict[Scale, Size] = {
    "smoke": Size(1, 1, 100, 4, 600),
    "cpu": Size(5, 2, 1_000, 16, 20_000),
    "paper": Size(20, 10, 10_000, 16, 50_000),
}
_STD = 1e-4  # of the initial weights
_GROWN = 0.5  # of the largest singular value: a direction with more has grown
_LONG = 1.5  # times the last half-time, when training ends
_UNITS = 32  # of the fully connected network
_PERMUTED = 2  # draws with permuted pixels, at most


@dataclass(frozen=True, eq=False)
class Run:
    """A training: the network when modes were half learned, by mode, with the step; and in the end."""

    structure: DatasetStructure
    halves: dict[int, tuple[int, LinearCNN]]
    final: LinearCNN


def overlap(setup: Setup) -> Outcome:
    """Returns over which modes of the data the singular directions of a convolution lie while it is trained."""
    size = SIZES[setup.scale]
    data: dict[str, Callable[[], tuple[Tensor, Tensor]]] = {
        "digits": digits,
        "CIFAR-10, gray": lambda: photographs(setup, size.images, "gray", size.side),
    }
    rows: list[Row] = []
    table: list[dict[str, Any]] = []
    for (name, load), draws in zip(data.items(), (size.digits, size.photographs), strict=True):
        images, labels = load()
        images = images.double() - images.double().mean(0)
        runs = [_run(setup, images, labels, seed, size.steps) for seed in range(draws)]
        rows += (
            _matrices(name, runs)
            + _grown(name, runs, table)
            + [_mismatch(name, runs[0].structure, images, labels, min(draws, _PERMUTED))]
        )
    settings = {
        "digits": "scikit-learn's, 8x8 pixels, less their mean",
        "CIFAR-10": f"the first {size.images:,} training images, luminance, {size.side}x{size.side}, less their mean",
        "network": "one convolution with one kernel as large as the image, circular padding, and a linear layer; "
        f"Gaussian weights of standard deviation {_STD:.0e}",
        "training": "gradient descent on all images at once, squared error, float64",
        "grown": f"singular directions of the convolution whose singular value is at least {_GROWN:g} of the largest",
        "rank correlation": "over pairs of frequencies; with the sum over learned modes of s^2 |F phi|^2: v_j^2 / N "
        "once all are learned",
        "permuted pixels": "one permutation of the pixels for all images: singular values stay, frequencies do not; "
        f"exact dynamics; the fully connected network has {_UNITS} linear units",
    }
    return Outcome(tuple(rows), settings, {"half-times": table})


class _Halves:
    """A callback that copies a linear CNN when modes are half learned, and ends training some time after the last."""

    def __init__(self, network: ConvLinear, monitor: ModeMonitor, steps: int) -> None:
        self.network, self.monitor, self.steps = network, monitor, steps
        self.found: dict[int, tuple[int, LinearCNN]] = {}

    def started(self, moment: Moment) -> None:
        """Waits."""

    def stepped(self, moment: Moment) -> None:
        """Copies the network where modes are newly half learned.

        Raises:
            KeyboardInterrupt: to end the training, which ``train`` catches.
        """
        half = self.monitor.mode_strengths[-1] >= self.monitor.targets / 2
        for mode in set(torch.nonzero(half)[:, 0].tolist()) - set(self.found):
            self.found[mode] = (moment.step, copied(self.network, self.monitor.structure))
        done = len(self.found) == len(half) and moment.step > _LONG * max(step for step, _ in self.found.values())
        if done or moment.step >= self.steps:
            raise KeyboardInterrupt

    def finished_epoch(self, moment: Moment) -> None:
        """Waits."""


def copied(network: ConvLinear, structure: DatasetStructure) -> LinearCNN:
    """Returns a network in training as the theory takes it."""
    return LinearCNN.of(network.conv, network.linear, structure.image_shape)


def _run(setup: Setup, images: Tensor, labels: Tensor, seed: int, steps: int) -> Run:
    structure = dataset_structure([(images, labels)])
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = ConvLinear(structure.image_shape, len(structure.counts), std=_STD).double()
    lr = stable_lr(network, images, labels, float(structure.growth_rates.max()), SMOOTH)
    monitor = ModeMonitor(network, (images, labels), structure=structure, batch_size=len(images))
    halves = _Halves(network, monitor, steps)
    train(
        network,
        images,
        labels,
        epochs=steps,
        lr=lr,
        batch_size=len(images),
        loss="squared",
        seed=seed,
        progress=f"overlap, seed {seed}" if setup.progress else False,
        callbacks=[monitor, halves],
    )
    return Run(structure, halves.found, copied(network, structure))


def _matrices(name: str, runs: list[Run]) -> list[Row]:
    """Returns how far the matrix of trained convolutions is from Fourier basis and sqrt(N) |r_j|."""
    own = [_decomposed(run.structure, run.final) for run in runs]
    padded = [_decomposed(run.structure, replace(run.final, padding="zeros")) for run in runs]
    return [
        Row(
            f"{name}: singular values of the trained convolution's matrix, largest distance from sqrt(N) |r_j|, over "
            "the largest singular value",
            "0 (theory)",
            (0.0, 1e-9),
            summary(error for error, _ in own),
            len(own),
            {"the same kernel with zero padding": fmean(error for error, _ in padded)},
        ),
        Row(
            f"{name}: energy of the matrix's first singular vectors in their strongest pair of frequencies",
            "1: the Fourier basis (theory)",
            (1 - 1e-6, 1 + 1e-6),
            summary(purity for _, purity in own),
            len(own),
            {"the same kernel with zero padding": fmean(purity for _, purity in padded)},
            "mean over the directions that have grown",
        ),
    ]


def _decomposed(structure: DatasetStructure, network: LinearCNN) -> tuple[float, float]:
    """Returns error and purity of ``_matrices`` for a network with one filter, beside circular padding's theory."""
    shape = structure.image_shape
    _, s, vh = torch.linalg.svd(convolution_matrix(network, shape))
    values = torch.fft.fft2(network.kernels[0][0, 0]).abs().flatten().sort(descending=True).values
    places, multiplicity = pairs(*shape[1:])
    vectors = vh[s >= _GROWN * s[0]].view(-1, *shape)[:, 0]
    energy = unitary(vectors).abs().square().flatten(1)[:, places] * multiplicity
    return float((s - values).abs().max() / values[0]), float(energy.amax(1).mean())


def _grown(name: str, runs: list[Run], table: list[dict[str, Any]]) -> list[Row]:
    """Returns how much of each mode lies in what has grown when it is half learned, and how energies are ranked."""
    own, later, random, correlation, whole, final = [], [], [], [], [], []
    for draw, run in enumerate(runs):
        structure = run.structure
        places, multiplicity = pairs(*structure.image_shape[1:])
        energies = structure.spectra.flatten(1)[:, places].square()
        weighted = structure.singular_values[:, None].square() * energies
        for mode, (step, network) in sorted(run.halves.items()):
            learned = [other for other, (when, _) in run.halves.items() if when <= step]
            waiting = [other for other in range(len(energies)) if other not in learned]
            found = interplay(structure, network)
            grown = found.singular_values >= _GROWN * found.singular_values[0]
            captured = found.overlap[:, grown].sum(1)
            own.append(float(captured[mode]))
            random.append(float(found.multiplicity[grown].sum()) / structure.pixels)
            later += captured[waiting].tolist()
            kernel = unitary(network.kernels[0][0, 0]).abs().square().flatten()[places]
            correlation.append(ranks(kernel, weighted[learned].sum(0)))
            whole.append(ranks(kernel, weighted.sum(0)))
            table.append({
                "data": name,
                "draw": draw,
                "mode": mode + 1,
                "step": step,
                "directions grown": int(found.multiplicity[grown].sum()),
                "share of the mode in them": own[-1],
                "the most that as many could hold": _most(energies[mode], multiplicity, int(grown.sum())),
                "share of modes not yet learned": fmean(captured[waiting].tolist()) if waiting else None,
                "share of random directions": random[-1],
                "rank correlation with learned modes": correlation[-1],
            })
        end = unitary(run.final.kernels[0][0, 0]).abs().square().flatten()[places]
        final.append(ranks(end, weighted.sum(0)))
    rivals = {"as many random directions": fmean(random), "modes not yet half learned": fmean(later) if later else 0.0}
    beyond = 1.96 / math.sqrt(len(places) - 1)  # the variance of rank correlations by chance is 1 / (n - 1)
    return [
        Row(
            f"{name}, in training: share of a mode's energy in the directions that have grown when it is half learned",
            "its dominant frequencies have grown: more than of other modes, and than by chance (theory)",
            (max(rivals.values()), 1.0),
            summary(own),
            len(own),
            rivals,
            f"least {min(own):.2f}, most {max(own):.2f}, over modes and draws",
            "higher",
        ),
        Row(
            f"{name}, in training: rank correlation of the kernel's energies with what the modes learned so far have, "
            "when a mode is half learned",
            "positive: beyond random frequencies (theory)",
            (beyond, 1.0),
            summary(correlation, (-beyond, beyond), "frequencies in any order"),
            len(correlation),
            {"with all modes": fmean(whole), "with all modes, at the end of training": fmean(final)},
            f"least {min(correlation):.2f}, most {max(correlation):.2f}",
        ),
    ]


def _most(energies: Tensor, multiplicity: Tensor, count: int) -> float:
    return float((energies * multiplicity).topk(count).values.sum())


def _mismatch(name: str, structure: DatasetStructure, images: Tensor, labels: Tensor, draws: int) -> Row:
    """Returns how much later a CNN learns modes whose pixels are permuted, over what their frequencies say."""
    found, slower, dense = [], [], []
    shape, outputs = structure.image_shape, len(structure.counts)
    for draw in range(draws):
        order = torch.randperm(structure.pixels, generator=torch.Generator().manual_seed(draw))
        mixed = dataset_structure([(images.flatten(2)[:, :, order].view_as(images), labels)])
        network = LinearCNN.drawn(shape, outputs, _STD, seed=draw)
        connected = Dense.drawn(shape, outputs, _STD, hidden=_UNITS, seed=draw)
        slower.append(_slower(mixed, structure, partial(integrate, network=network)))
        predicted = _slower(mixed, structure, partial(closed_form, network=network))
        found.append(slower[-1] / predicted)
        dense.append(_slower(mixed, structure, partial(integrate, network=connected)))
    return Row(
        f"{name}, pixels permuted, exact dynamics: half-times over those with pixels in place, over the ratio that the "
        "modes' frequencies predict",
        "1: the speed depends on how data and convolution match (theory)",
        (0.8, 1.25),
        summary(found),
        len(found),
        {
            "1 if singular values alone counted: times over times": fmean(slower),
            "fully connected network, times over times": fmean(dense),
        },
        "geometric mean over modes; prediction by the closed form",
    )


def _slower(mixed: DatasetStructure, structure: DatasetStructure, learn: Callable[[Any], Trajectory]) -> float:
    """Returns the geometric mean over modes of half-times on one structure over those on another."""
    ratio = learn(mixed).half_times / learn(structure).half_times
    return float(ratio[ratio.isfinite() & (ratio > 0)].log().mean().exp())
