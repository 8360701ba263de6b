"""The neural feature ansatz in several kinds of networks, trained here by several optimisers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from convscope.ansatz.measured import Measured, median
from convscope.papers.beaglehole2023_agreement import NULL_DRAWS, growth, judged, null_of_mean, tables
from convscope.papers.beaglehole2023_claims import claimed_at
from convscope.papers.beaglehole2023_networks import NOT_READ, POWERS, TURNED
from convscope.papers.beaglehole2023_training import NETWORKS, BeforeAndAfter, Recipe, measured
from convscope.papers.data import cifar10, needed
from convscope.papers.registry import Outcome, Row, Scale, Setup, summary
from convscope.training.loop import Optimiser

#: Optimiser to its step size and momentum.
OPTIMISERS: dict[Optimiser, tuple[float, float]] = {"adam": (1e-3, 0.0), "sgd": (0.005, 0.9)}
#: Filters of the first stage.
WIDTHS = {"four convolutions": 24, "VGG with batch norm": 32, "residual network": 16}


@dataclass(frozen=True)
class Size:
    """Sizes of one scale."""

    images: int
    test_images: int
    epochs: int
    batch_size: int
    seeds: int
    agop_images: int  # the first so many training images
    narrower: int = 1  # by how many times less filters there are than ``WIDTHS`` says


SIZES: dict[Scale, Size] = {
    "smoke": Size(100, 50, 1, 50, 2, 4, 4),
    "cpu": Size(2_000, 1_000, 8, 50, 3, 200),
    "paper": Size(50_000, 10_000, 50, 128, 3, 2_000),
}


def architectures(setup: Setup) -> Outcome:
    """Returns how filters and gradients agree before and after training, in three networks by two optimisers."""
    size = SIZES[setup.scale]
    folder = needed("cifar10", setup.data)
    images, test = cifar10(folder, size.images), cifar10(folder, size.test_images, "test")
    rows: list[Row] = []
    every: list[BeforeAndAfter] = []
    for network in NETWORKS:
        for optimiser, (lr, momentum) in OPTIMISERS.items():
            width = WIDTHS[network] // size.narrower
            recipes = [
                Recipe(network, seed, size.epochs, width, size.batch_size, optimiser, lr, momentum)
                for seed in range(size.seeds)
            ]
            found = measured(recipes, images, test, size.agop_images, setup.cache, setup.progress)
            rows += _rows(f"{network}, {optimiser}", found)
            every += found
    filters = ", ".join(f"{width // size.narrower} filters" for width in WIDTHS.values())
    optimisers = ("Adam, step size {:g}", "SGD, step size {:g}, momentum {:g}")
    settings = {
        "images": f"the first {len(images.images):,} training images of CIFAR-10, each channel less its mean over its "
        f"standard deviation; the AGOP over the first {min(size.agop_images, len(images.images)):,} of them, of each "
        "logit in turn",
        "networks": "four convolutions with maxima for pooling; three stages of conv-maxpool-batch norm-ReLU; a "
        f"residual network of seven convolutions; {filters} of 3 x 3 pixels in the first stage; initial weights normal "
        "of variance 2 / fan-in, batch norms before training calibrated on the images of the AGOP",
        "training": "; ".join(text.format(*OPTIMISERS[o]) for text, o in zip(optimisers, OPTIMISERS, strict=True))
        + f"; batches of {size.batch_size}, {size.epochs} epochs, {size.seeds} seeds",
    }
    return Outcome(tuple(rows), settings, tables(every))


def _rows(name: str, found: Sequence[BeforeAndAfter]) -> list[Row]:
    rows = [claimed_at(p, row) for p in POWERS for row in (_after(name, found, p), *growth(name, found, p))]
    return [*rows, _change(name, found)]


def _after(name: str, found: Sequence[BeforeAndAfter], power: float) -> Row:
    """Returns the agreement after training, median over layers, and its claim."""
    before = [median([Measured(a.correlation(power=power)) for a in one.before.values()]).value for one in found]
    row = _medians(f"{name}: correlation of NFM and AGOP, {POWERS[power]}, median over layers", found, power=power)
    beside = {"before training": fmean(before), **row.baselines}
    row = Row(row.quantity, row.paper, None, row.ours, row.n, beside, row.note, "higher")
    return judged(row, [a for one in found for a in one.after.values()])


def _change(name: str, found: Sequence[BeforeAndAfter]) -> Row:
    what = f"{name}: correlation of the AGOP with the NFM of the weights' change, median over layers"
    return _medians(what, found, change=True)


def _medians(quantity: str, found: Sequence[BeforeAndAfter], power: float = 1.0, change: bool = False) -> Row:
    """Returns what is measured after training, median over layers, beside the same with S turned at random."""
    medians = [
        median([
            Measured(
                a.correlation(power=power, change=change),
                draws=tuple(a.chance("haar", power=power, change=change, draws=NULL_DRAWS, seed=seed).tolist()),
            )
            for a in one.after.values()
        ])
        for seed, one in enumerate(found)
    ]
    draws = null_of_mean([one.draws for one in medians])
    number = summary([one.value for one in medians], Measured(0.0, draws=draws).band, f"median with {TURNED}")
    return Row(quantity, NOT_READ, None, number, len(found), {TURNED: fmean(draws)})
