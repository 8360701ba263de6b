"""How much of a linear network's map lies in the dominant frequencies, while a mode is learned and in the end."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from statistics import fmean, median

import torch
from scipy.optimize import brentq
from torch import Tensor

from convscope.core.fourier import unitary
from convscope.dynamics.collect import dataset_structure
from convscope.dynamics.exact import integrate
from convscope.dynamics.linear import Dense, LinearCNN
from convscope.dynamics.start import Start
from convscope.dynamics.structure import DatasetStructure, diagnostics
from convscope.papers.pinson2023_data import digits
from convscope.papers.registry import Outcome, Row, Scale, Setup, summary


@dataclass(frozen=True)
class Size:
    """Sizes of one scale.

    Attributes:
        draws: of initial weights.
        ends: draws that are followed to the end.
        last: half-times after which learning is taken to have ended.
    """

    draws: int
    ends: int
    last: float


SIZES: dict[Scale, Size] = {"smoke": Size(2, 1, 4.0), "cpu": Size(20, 3, 256.0), "paper": Size(100, 20, 1024.0)}

_STDS = (1e-4, 1e-8)
_MANY = 8  # filters, or units


def transient(setup: Setup) -> Outcome:
    """Returns how much of a network's map lies in the dominant frequencies when a mode is half learned, and at last."""
    size = SIZES[setup.scale]
    images, labels = digits((3, 8))
    structure = dataset_structure([(images, labels)])
    spectrum = structure.spectra[0].flatten()
    dominant = torch.isclose(spectrum, spectrum.max(), rtol=1e-6)
    shape = structure.image_shape

    def share(effective: Tensor) -> float:
        energy = unitary(effective).abs().square().sum((0, 1)).flatten()
        return float(energy[dominant].sum() / energy.sum())

    def right(effective: Tensor) -> float:
        scores = (images - structure.mean).flatten(1) @ effective.flatten(1).T
        return float((scores.argmax(1) == labels).double().mean())

    def cnn(filters: int, std: float, seed: int) -> LinearCNN:
        return LinearCNN.drawn(shape, 2, std, channels=filters, seed=seed)

    def dense(std: float, seed: int) -> Dense:
        return Dense.drawn(shape, 2, std, hidden=_MANY, seed=seed)

    def halves(data: DatasetStructure, networks: Iterable[LinearCNN | Dense]) -> list[Tensor]:
        return [t.maps[0] for t in (integrate(data, network) for network in networks) if t.maps is not None]

    means = dataset_structure([(torch.stack([images[labels == label].mean(0) for label in (0, 1)]), torch.arange(2))])
    second = float(spectrum[~dominant].max() / spectrum.max())
    coupling = diagnostics(structure).frequency_coupling
    draws = range(size.draws)
    of_dense = halves(structure, (dense(_STDS[0], seed) for seed in draws))
    beside = {"dense network": fmean(map(share, of_dense)), "the mode itself": float(spectrum[dominant].square().sum())}
    rows, table, off = [], [], []
    what = "share of energy in the dominant pair of frequencies"
    for filters in (1, _MANY):
        for std in _STDS:
            maps = halves(structure, (cnn(filters, std, seed) for seed in draws))
            shares = [share(effective) for effective in maps]
            expected = [float(_foretold(structure, cnn(filters, std, seed))[dominant].sum()) for seed in draws]
            alone = list(map(share, halves(means, (cnn(filters, std, seed) for seed in draws))))
            of_means = [float(_foretold(means, cnn(filters, std, seed))[dominant].sum()) for seed in draws]
            off += [abs(a - b) for a, b in zip(alone, of_means, strict=True)]
            reference = {1e-4: "0.998", 1e-8: "1.000"}[std] if filters == 1 else "none"
            rows.append(
                Row(
                    f"CNN of {_filters(filters)}, initial weights of {std:.0e}: {what} when the mode is half learned",
                    f"tends to 1 with the initial weights (theory); reference {reference}"
                    + (", one draw" if filters == 1 else ""),
                    (0.9, 1.0),
                    summary(shares),
                    len(shares),
                    {"closed form for these weights": fmean(expected), "class means alone": fmean(alone), **beside},
                    f"median {median(shares):.2f}; above 0.9 in {sum(x > 0.9 for x in shares)} of {len(shares)} draws",
                    reason=f"the second pair of frequencies is {second:.2f} times as strong as the first, so that its "
                    f"share vanishes only as the weights to the power {4 * (1 - second):.1f}: these are not small "
                    f"enough, and the closed form itself gives {fmean(expected):.2f}. The rest is that frequencies "
                    f"of the images are correlated, by {coupling:.2f} of their covariance, which the theory of a lone "
                    f"mode leaves out: where they are not, with class means alone, training gives {fmean(alone):.2f}",
                )
            )
            table += [
                {"filters": filters, "initial weights": f"{std:.0e}", "draw": seed, "share": x, "accuracy": right(b)}
                for seed, (x, b) in enumerate(zip(shares, maps, strict=True))
            ]
    rows.append(
        Row(
            f"class means alone, one mode: {what}, its distance from the closed form for the same weights",
            "0 (theory)",
            (0.0, 0.001),
            summary(off),
            len(off),
            {"dense network, from the same closed form": abs(fmean(of_means) - fmean(map(share, of_dense)))},
        )
    )
    rows.append(
        Row(
            f"dense network of {_MANY} units: {what} when the mode is half learned",
            "that of the mode itself (theory); reference 0.181",
            (0.0, 0.3),
            summary(map(share, of_dense)),
            len(of_dense),
            {"the mode itself": beside["the mode itself"]},
        )
    )
    first = float(integrate(structure, cnn(1, _STDS[0], 0)).half_times[0])

    def last(network: LinearCNN | Dense) -> float:
        found = integrate(structure, network, end=size.last * first).final
        return float("nan") if found is None else share(found)

    beside = {"dense network": fmean(last(dense(_STDS[0], seed)) for seed in range(size.ends))}
    for filters in (1, _MANY):
        rows.append(
            Row(
                f"CNN of {_filters(filters)}, weights of {_STDS[0]:.0e}: {what} after {size.last:g} half-times",
                f"gone: the least-squares map, in the end (theory); reference {'0.021' if filters == 1 else 'none'}",
                (0.0, 0.1),
                summary(last(cnn(filters, _STDS[0], seed)) for seed in range(size.ends)),
                size.ends,
                beside,
            )
        )
    settings = {
        "images": f"{len(images)} digits 3 and 8 of scikit-learn, 8x8, less their mean",
        "networks": "two linear layers; the CNN's kernels are as large as the image, its padding circular",
        "training": "gradient flow, integrated, from Gaussian weights of the standard deviation named",
    }
    return Outcome(tuple(rows), settings, {"draws": table})


def _foretold(structure: DatasetStructure, network: LinearCNN) -> Tensor:
    """Returns the shares of energy [f] that the closed form of a lone mode gives when the mode is half learned.

    |b_j| = sqrt(N) q_j exp(phi_j Theta), and a = lam sum_j phi_j |b_j| = s / 2 says what Theta is.
    """
    mode, s = structure.modes[0], float(structure.singular_values[0])
    spectrum = unitary(mode[0]).flatten()
    phi = spectrum.abs()
    u = structure.class_vectors[0].to(spectrum)[None, :, None].expand(len(phi), -1, 1)
    q = Start.of(network).growing(torch.arange(len(phi)), u, (spectrum.conj() / phi)[:, None, None])[:, 0]
    covariance = structure.check_covariance("the closed form")
    gain = math.sqrt(len(phi)) * float(mode.flatten() @ covariance @ mode.flatten())

    def above(theta: float) -> float:
        return math.log(gain * float((phi * q * (phi * theta).exp()).sum())) - math.log(s / 2)

    energy = (q * (phi * float(brentq(above, 0, 500))).exp()).square()
    return energy / energy.sum()


def _filters(count: int) -> str:
    return f"{count} filter" if count == 1 else f"{count} filters"
