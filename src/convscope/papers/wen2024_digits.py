"""Autoencoders of one digit: which frequencies they keep, and how rank and cost change with depth and penalty."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from math import prod
from statistics import fmean

from convscope.bottleneck.stationary import LARGEST, theorem_c
from convscope.papers.data import locate, mnist
from convscope.papers.registry import Outcome, Row, Setup
from convscope.papers.wen2024_measures import Measured
from convscope.papers.wen2024_runs import (
    SIZES,
    Run,
    balanced,
    bounded,
    capped,
    row,
    runs,
    seeded,
    settings,
    share,
    tables,
)
from convscope.papers.wen2024_tasks import (
    AUTOENCODER,
    LOW_PASS,
    Recipe,
    Task,
    autoencoder,
    low_pass,
    of_digits,
)

DEEP = 12
FIXED = Recipe(depth=8, width=8, steps=2500, penalty=0.0)
_LEAST = 9  # of the inner layers of 12 that are to be alike
_COUNTS = {0: "3", 1: "4", 2: "1"}  # of the paper, by degree
_PENALTIES = {0.05: (64, 73.0), 0.2: (46, 46.7), 0.6: (23, 27.2)}  # rank, and N R / L, that were measured before
_TRACES = {4: 1930 / 4, 8: 6513 / 8, 12: 8402 / 12}  # of the neural tangent kernel, by number of layers
_IMAGES = 3  # at which layers are compared with partial isometries
_EAGER = Recipe(depth=DEEP, width=8, steps=3000, penalty=0.8, tau=0.8)


def digit_autoencoder(setup: Setup) -> Outcome:
    """Returns which frequencies a deep autoencoder of one digit keeps, on a user's MNIST where it is named."""
    size = SIZES[setup.scale]
    place = locate("mnist", setup.data)
    recipe, task = AUTOENCODER[DEEP], autoencoder()
    if place is not None:
        # The same share of the variance at a penalty that the larger maps and errors ask for.
        task = of_digits(mnist(place, 12 * size.images), 0, size.images, size.side)
        scale = _variance(task) / _variance(autoencoder()) * prod(task.images.shape[2:]) / 64
        share_held = (recipe.tau or 0.0) / _variance(autoencoder())
        recipe = replace(recipe, tau=share_held * _variance(task), penalty=recipe.penalty * scale)
    # Larger maps take ten times as long.
    plan = {"autoencoder": (task, seeded(recipe, size, size.seeds if place is None else min(size.seeds, 2)))}
    several = runs(setup, plan)["autoencoder"]
    rows = [*_plateau(several), bounded(several, "autoencoder"), balanced(several, "autoencoder")]
    if task.images[0].numel() * recipe.width <= LARGEST:
        rows.append(_isometries(several))
    rows += [_counted(several, degree, place is not None) for degree in _COUNTS]
    return Outcome(tuple(rows), settings(plan) | {"images": task.name}, tables({"autoencoder": several}))


def _variance(task: Task) -> float:
    return float((task.targets - task.targets.mean(0)).square().sum() / len(task.targets))


def _inside(found: Measured) -> tuple[int, list[int]]:
    """Returns the most frequent CBN rank of the inner layers, and the layers that have it."""
    inner = range(1, len(found.ranks) - 1)
    (usual, _), *_ = Counter(found.ranks[i].rank for i in inner).most_common()
    return usual, [i for i in inner if found.ranks[i].rank == usual]


def _plateau(several: list[Run]) -> list[Row]:
    inside = [(r.measured, *_inside(r.measured)) for r in several]
    good = [
        [i for i in alike if m.ranks[i].align >= 0.98 and 1 <= m.ranks[i].level <= 1.1 and capped(m.ranks[i].gap) >= 50]
        for m, _, alike in inside
    ]
    text = ", ".join(f"{usual}" for _, usual, _ in inside)
    return [
        row(
            "inner layers of one CBN rank",
            "all 10 (theory); reference 10",
            (_LEAST, 10.0),
            (float(len(alike)) for *_, alike in inside),
            note=f"ranks {text}; reference 17",
        ),
        row(
            "those of them with alignment of at least 0.98, level in 1 to 1.1 and gap of at least 50",
            "all 10 (theory); reference 10",
            (_LEAST, 10.0),
            (float(len(layers)) for layers in good),
            note="ranges over these layers: " + "; ".join(_ranges(m, alike) for m, _, alike in inside),
        ),
        row(
            "share of them whose maps need as many directions for 99 % of their variance as the weights keep",
            "1 (theory); reference 1",
            (0.9, 1.0),
            (share(m.activations[i] == usual for i in alike) for m, usual, alike in inside),
        ),
    ]


def _ranges(found: Measured, layers: list[int]) -> str:
    ranks = [found.ranks[i] for i in layers]
    parts = {
        "alignment": [r.align for r in ranks],
        "level": [r.level for r in ranks],
        "gap": [capped(r.gap) for r in ranks],
    }
    return ", ".join(f"{name} {min(values):.3g} to {max(values):.3g}" for name, values in parts.items())


def _isometries(several: list[Run]) -> Row:
    found = [[theorem_c(r.measured.chain, image) for image in r.task.images[:_IMAGES]] for r in several]
    return row(
        "distances of all layers from partial isometries over what their norm allows (theorem C), the largest of "
        f"{_IMAGES} images",
        "at most 1 (theory); reference 0.81",
        (0.0, 1.0),
        (max(one.found / one.allowed for one in images) for images in found),
        note=f"allowed {', '.join(f'{images[0].allowed:.3g}' for images in found)}",
    )


def _gradients(several: list[Run], name: str) -> list[Row]:
    """Returns the rows on the trace of the neural tangent kernel and on the frequencies that it comes from."""
    split = [r.measured.kernel(r.task.images[0]) for r in several]
    frequencies = fmean(float((rank.profile > 0).double().mean()) for r in several for rank in r.measured.ranks[1:-1])
    return [
        row(
            f"{name}: trace of the neural tangent kernel over number of layers, one image",
            f"reference {_TRACES[len(several[0].measured.ranks)]:,.0f}",
            None,
            (fmean(total for total, _ in layers) for layers in split),
        ),
        row(
            f"{name}: share of the kernel's trace that comes from frequencies kept, inner layers",
            "1 (theory)",
            (0.99, 1.0),
            (fmean(inside / total for total, inside in layers[1:-1]) for layers in split),
            {"share of frequencies kept": frequencies},
        ),
    ]


def _counted(several: list[Run], degree: int, own: bool) -> Row:
    middle = [(r.measured, len(r.measured.ranks) // 2) for r in several]
    name = {0: "constant", 1: "degree-1", 2: "degree-2"}[degree]
    data = "the paper's depth, width and penalty are not known" if own else "other digits than the paper's"
    return row(
        f"{name} frequencies kept in the middle, each times its channels, a conjugate pair counted once",
        f"{_COUNTS[degree]} (paper, digit 0 of MNIST)",
        None,
        (float(m.degrees(i, "unordered").get(degree, 0)) for m, i in middle),
        {
            "a pair counted twice": fmean(m.degrees(i).get(degree, 0) for m, i in middle),
            "most channels at one of them": fmean(_channels(m, i, degree) for m, i in middle),
        },
        f"not comparable: {data}, and it does not say how it counts",
    )


def _channels(found: Measured, layer: int, degree: int) -> int:
    return int(found.ranks[layer].profile[found.frequencies.abs().sum(1) == degree].max())


def depth(setup: Setup) -> Outcome:
    """Returns how rank and cost change with depth at one loss, and with the penalty at one depth."""
    size = SIZES[setup.scale]
    digits, target = autoencoder(), low_pass(size.images)
    by_depth = {
        f"digits 0, {layers} layers": (digits, seeded(recipe, size, size.seeds if layers == DEEP else 1))
        for layers, recipe in AUTOENCODER.items()
    }
    projections = {f"low-pass, {layers} layers": (target, seeded(recipe, size)) for layers, recipe in LOW_PASS.items()}
    by_penalty = {
        f"digits 0, penalty {penalty:g}": (digits, seeded(replace(FIXED, penalty=penalty), size, 1))
        for penalty in _PENALTIES
    }
    eager = {
        f"digits 0, {DEEP} layers, begun at penalty {_EAGER.penalty:g}": (
            digits,
            seeded(_EAGER, size, min(size.seeds, 2)),
        )
    }
    plan = by_depth | by_penalty | eager | projections
    found = runs(setup, plan)
    rows = []
    reference = dict(zip(by_depth, ((23, 24.9), (15, 18.2), (17, 19.3)), strict=True))
    reference |= dict(zip(by_penalty, _PENALTIES.values(), strict=True))
    for name, (rank, price) in (reference | dict.fromkeys(eager, (17, 19.3))).items():
        several = found[name]
        rows += [
            row(
                f"{name}: usual CBN rank of inner layers",
                f"reference {rank}",
                None,
                (float(_inside(r.measured)[0]) for r in several),
                note=_loss(several),
            ),
            row(
                f"{name}: number of positions times squared norm over number of layers",
                f"tends to the rank with depth (theory); reference {price:g}",
                None,
                (r.measured.per_layer for r in several),
            ),
        ]
    for name in by_depth:
        rows += _gradients(found[name], name)
    shallow, deep = min(LOW_PASS), max(LOW_PASS)
    ends = zip(found[f"low-pass, {shallow} layers"], found[f"low-pass, {deep} layers"], strict=True)
    rows.append(
        row(
            f"low-pass, {shallow} to {deep} layers: rise of number of positions times squared norm with a layer",
            "5 (theory); reference 5.39",
            (4.5, 5.7),
            ((b.measured.per_layer * deep - a.measured.per_layer * shallow) / (deep - shallow) for a, b in ends),
            note=f"at a loss of {LOW_PASS[shallow].tau:g} and {LOW_PASS[deep].tau:g}",
        )
    )
    return Outcome(tuple(rows), settings(plan), tables(found))


def _loss(several: list[Run]) -> str:
    return f"loss {', '.join(f'{r.trained.run.loss:.2f}' for r in several)}"
