"""Autoencoders of one digit: which frequencies they keep, and how rank and cost change with depth and penalty."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from math import prod
from statistics import fmean, median

from convscope.bottleneck.stationary import LARGEST, theorem_c
from convscope.papers.data import locate, mnist
from convscope.papers.registry import TIE, Outcome, Row, Setup
from convscope.papers.wen2024_measures import Measured
from convscope.papers.wen2024_networks import begin
from convscope.papers.wen2024_runs import (
    SIZES,
    Run,
    balanced,
    beginning,
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

Kernel = list[tuple[float, float]]  # by layer, see ``Measured.kernel``
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
    before = beginning(task, plan["autoencoder"][1][0])
    rows = [*_plateau(several, before), bounded(several, "autoencoder"), balanced(several, "autoencoder")]
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


def _plateau(several: list[Run], before: Measured) -> list[Row]:
    inside = [(r.measured, *_inside(r.measured)) for r in several]
    start, everywhere = _inside(before)
    text = ", ".join(f"{usual}" for _, usual, _ in inside)
    return [
        row(
            "inner layers of one CBN rank",
            "all 10 (theory); reference 10",
            (_LEAST, 10.0),
            (float(len(alike)) for *_, alike in inside),
            {"before training": float(len(everywhere))},
            f"ranks {text}; reference 17; before training {start}",
        ),
        row(
            "the rank that most of them have over the directions for 99 % of the variance of the images",
            "below 1 (claim)",
            (0.0, 1.0),
            (usual / m.input_rank for m, usual, _ in inside),
            {"before training": start / before.input_rank},
            better="lower",
        ),
        row(
            "those of them with alignment of at least 0.98, level in 1 to 1.1 and gap of at least 50",
            "all 10 (theory); reference 10",
            (_LEAST, 10.0),
            (float(len(_two_levels(m, alike))) for m, _, alike in inside),
            {"before training": float(len(_two_levels(before, everywhere)))},
            "ranges over these layers: " + "; ".join(_ranges(m, alike) for m, _, alike in inside),
        ),
        row(
            "share of them whose maps need as many directions for 99 % of their variance as the weights keep",
            "1 (theory); reference 1",
            (0.9, 1.0),
            (share(m.activations[i] == usual for i in alike) for m, usual, alike in inside),
            {
                "for 99.9 %": fmean(
                    share(m.spectra[i].rank(0.999) == usual for i in alike) for m, usual, alike in inside
                ),
                "before training": share(before.activations[i] == start for i in everywhere),
            },
            reason=_faint([
                (m, alike) for m, _, alike in inside if any(m.activations[i] < m.ranks[i].rank for i in alike)
            ]),
        ),
    ]


def _two_levels(found: Measured, layers: list[int]) -> list[int]:
    """Returns the layers with two clear levels of singular values, the upper one about 1."""
    ranks = found.ranks
    return [i for i in layers if ranks[i].align >= 0.98 and 1 <= ranks[i].level <= 1.1 and capped(ranks[i].gap) >= 50]


def _faint(narrower: list[tuple[Measured, list[int]]]) -> str:
    """Returns what the maps hold that need fewer directions than the weights keep."""
    if not narrower:
        return ""
    ranks = [(m.activations[i], m.spectra[i].rank(0.999), m.ranks[i].rank) for m, alike in narrower for i in alike]
    few, more, kept = (sum(values) / len(ranks) for values in zip(*ranks, strict=True))
    return (
        f"in {len(narrower)} of the networks the weakest of the {kept:g} kept pairs hold less than 1 % of the variance "
        f"together: its maps need {few:.3g} directions for 99 %, and {more:.3g} for 99.9 %"
    )


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


def _gradients(several: list[Run], split: Sequence[Kernel], name: str) -> list[Row]:
    """Returns the rows on the trace of the neural tangent kernel and on the frequencies that it comes from."""
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
            better="higher",
        ),
    ]


def _counted(several: list[Run], degree: int, own: bool) -> Row:
    middle = [(r.measured, len(r.measured.ranks) // 2) for r in several]
    name = {0: "constant", 1: "degree-1", 2: "degree-2"}[degree]
    paper = float(_COUNTS[degree])
    data = "the paper's depth, width and penalty are not known" if own else "not comparable: other digits"
    return row(
        f"{name} frequencies kept in the middle, each times its channels, a conjugate pair counted once",
        f"{_COUNTS[degree]} (paper, digit 0 of MNIST)",
        (paper - 0.5, paper + 0.5) if own else None,
        (float(m.degrees(i, "unordered").get(degree, 0)) for m, i in middle),
        {
            "a pair counted twice": fmean(m.degrees(i).get(degree, 0) for m, i in middle),
            "most channels at one of them": fmean(_channels(m, i, degree) for m, i in middle),
        },
        f"{data}, and it does not say how it counts",
        printed=own,
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
            row(
                f"{name}: directions for 99 % of the variance of the maps, median over inner layers",
                "the rank (theory)",
                None,
                (_narrow(r.measured) for r in several),
                {"images": several[0].measured.input_rank},
            ),
        ]
    kernels = {name: [r.measured.kernel(digits.images[0]) for r in found[name]] for name in by_depth}
    for name, split in kernels.items():
        rows += _gradients(found[name], split, name)
    rows += [*_with_depth(found, kernels), *_with_penalty(found, by_penalty)]
    shallow, deep = min(LOW_PASS), max(LOW_PASS)
    start = [_cost(target, LOW_PASS[layers]) for layers in (shallow, deep)]
    ends = zip(found[f"low-pass, {shallow} layers"], found[f"low-pass, {deep} layers"], strict=True)
    rows.append(
        row(
            f"low-pass, {shallow} to {deep} layers: rise of number of positions times squared norm with a layer",
            "5 (theory); reference 5.39",
            (4.5, 5.7),
            ((b.measured.per_layer * deep - a.measured.per_layer * shallow) / (deep - shallow) for a, b in ends),
            {"before training": (start[1] - start[0]) / (deep - shallow)},
            f"at a loss of {LOW_PASS[shallow].tau:g} and {LOW_PASS[deep].tau:g}",
        )
    )
    return Outcome(tuple(rows), settings(plan), tables(found))


def _cost(task: Task, recipe: Recipe) -> float:
    """Returns number of positions times squared norm before training."""
    squares = (float(p.detach().square().sum()) for p in begin(task, recipe).parameters())
    return prod(task.images.shape[2:]) * sum(squares)


def _narrow(found: Measured) -> float:
    return float(median(found.activations[1:-1]))


def _with_depth(found: Mapping[str, list[Run]], kernels: Mapping[str, Sequence[Kernel]]) -> list[Row]:
    """Returns the rows on what depth makes of cost and gradients at one loss."""
    shallow, *_, deep = (found[name] for name in kernels)
    layers = [several[0].measured.depth for several in (shallow, deep)]
    starts = [beginning(several[0].task, several[0].trained.recipe) for several in (shallow, deep)]

    few, *_, many = ([fmean(total for total, _ in layers) for layers in split] for split in kernels.values())
    before = [fmean(total for total, _ in start.kernel(shallow[0].task.images[0])) for start in starts]
    return [
        row(
            f"digits 0, {layers[1]} layers: number of positions times squared norm, over layers and CBN rank",
            "tends to 1 with depth (claim: the norm grows by the rank with a layer)",
            (0.8, 1.25),
            (r.measured.per_layer / _inside(r.measured)[0] for r in deep),
            {
                f"{layers[0]} layers": fmean(r.measured.per_layer / _inside(r.measured)[0] for r in shallow),
                "before training": starts[1].per_layer / _inside(starts[1])[0],
            },
        ),
        row(
            f"digits 0: the kernel's trace a layer, {layers[1]} layers over {layers[0]}",
            f"bounded in depth where steps are large (claim); {layers[1] / layers[0]:g} if it grew as depth does",
            (0.0, 2.0),
            (trace / fmean(few) for trace in many),
            {"before training": before[1] / before[0]},
            better="lower",
        ),
    ]


def _with_penalty(found: Mapping[str, list[Run]], names: Iterable[str]) -> list[Row]:
    """Returns the rows on what the penalty makes of the ranks at one depth."""
    weak, *_, strong = (found[name] for name in names)
    ranks: dict[str, Callable[[Measured], float]] = {
        "CBN rank of inner layers": lambda m: float(_inside(m)[0]),
        "directions for 99 % of the variance of the maps": _narrow,
    }
    penalties = [several[0].trained.recipe.penalty for several in (weak, strong)]
    return [
        row(
            f"digits 0, {FIXED.depth} layers: {what}, penalty {penalties[1]:g} over {penalties[0]:g}",
            "below 1: a larger penalty keeps less (claim)",
            (0.0, 1.0 - TIE),
            (of(b.measured) / of(a.measured) for a, b in zip(weak, strong, strict=True)),
            {"the same penalty": 1.0},
            better="lower",
        )
        for what, of in ranks.items()
    ]


def _loss(several: list[Run]) -> str:
    return f"loss {', '.join(f'{r.trained.run.loss:.2f}' for r in several)}"
