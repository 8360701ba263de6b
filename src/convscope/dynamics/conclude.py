"""From sums over images to the result of the theory of learning dynamics."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import torch
from scipy.stats import spearmanr
from torch import Tensor

from convscope.core.accumulate import jackknife
from convscope.core.plain import rounded
from convscope.core.results import Number, Skip
from convscope.dynamics.classes import pairwise
from convscope.dynamics.estimates import PERMUTED, Known, Seen, first_modes
from convscope.dynamics.folds import keep_classes, spreads
from convscope.dynamics.null import band, permuted
from convscope.dynamics.pictures import curves_of, has_pairs, pictures_of
from convscope.dynamics.result import DynamicsResult, Mode
from convscope.dynamics.setting import Setting, dense_of, predicted
from convscope.dynamics.structure import DatasetStructure, diagnostics
from convscope.dynamics.used import used_spectra
from convscope.dynamics.wording import classes_in_words

TOP = 5  # pairs of frequencies that count as dominant
NAMED = 3  # of them, and classes on each side, that are named
MOST_EMPTY = 8  # classes without images that are named
SIDE = 0.3  # of its largest entry that a class vector must have for a class to be named
CLOSE = 0.1  # relative distance of singular values that are hardly told apart
DRAWS, FEW_DRAWS = 100, 40  # of permuted labels; of those whose learning is predicted
WORK = 2e7  # outputs times pixels, over all draws


def conclude(seen: Seen, setting: Setting) -> DynamicsResult:
    """Returns the order in which a network learns a data set.

    Args:
        seen: the data set.
        setting: the network and its training.

    Raises:
        ConvscopeError: when the prediction fails.
    """
    skipped: list[Skip] = []
    structure, chosen = first_modes(seen.structure.present()), setting.lr is None
    setting = setting.fitted(structure)
    folds = tuple((n, first_modes(part.present())) for n, part in seen.folds)
    if not folds or not keep_classes(seen.structure, seen.folds):
        reason = (
            "without any one fold of the images, images of every class must be left: here a class is all of one group "
            "(one photograph, say), or has few images, or memory does not allow for folds"
        )
        skipped.append(Skip("error bars of the modes", reason))
        folds = ()
    size = structure.cross.numel()
    draws = tuple(map(first_modes, permuted(structure, seen.signs, int(min(max(WORK / size, FEW_DRAWS), DRAWS)))))
    known = Known(structure, folds, draws, setting, predicted(structure, setting))
    counted = seen.structure.counts.tolist()
    classes, empty = _names(seen.classes, counted)
    modes = _modes(known, classes)
    steps = setting.steps(known.prediction.cnn.half_times)
    if not steps.isfinite().all():
        late = int((~steps.isfinite()).sum())
        reason = f"they are not half learned in the time that was looked at ({known.prediction.cnn.method} method)"
        skipped.append(Skip(f"when {late} of the modes are learned", reason))
    if structure.covariance is None:
        c, h, w = structure.image_shape
        reason = f"covariances of all {c * h * w:,} pixels are not summed for images of this size: smaller or gray ones"
        skipped.append(Skip("how well the theory's assumptions hold", f"{reason} would show it"))
    shown = pictures_of(structure, len(classes), setting) | curves_of(structure, known.prediction, setting)
    return DynamicsResult(
        modes=modes,
        numbers=_together(known, modes),
        facts=dict(seen.facts)
        | _facts(known, classes)
        | {
            "lr_chosen": chosen,
            "empty": ", ".join(empty[:MOST_EMPTY]),
            "more_empty": max(len(empty) - MOST_EMPTY, 0.0),
        },
        classes=classes,
        counts=tuple(structure.counts.tolist()),
        shown={name: rounded(array) for name, array in shown.items()},
        skipped=tuple(skipped),
        arrays={
            "modes": seen.structure.modes.numpy(),
            "class_vectors": seen.structure.class_vectors.numpy(),
            "singular_values": seen.structure.singular_values.numpy(),
            "mode_strengths": known.prediction.cnn.mode_strengths.numpy(),
            "steps": setting.steps(known.prediction.cnn.times).numpy(),
        },
    )


def _modes(known: Known, classes: Sequence[str]) -> tuple[Mode, ...]:
    structure = known.structure
    table = {
        "singular_value": known.numbers(lambda s: s.singular_values, "singular_value"),
        "effective": known.numbers(lambda s: s.effective_singular_values, "effective"),
        "steps": _half_steps(known),
        "dominant_energy": known.numbers(_dominant_energy, "dominant_energy"),
        "participation": known.numbers(lambda s: s.participation_ratio, "participation"),
    }
    if known.prediction.dense is not None:

        def dense_steps(part: DatasetStructure) -> Tensor:
            return known.setting.steps(dense_of(part, known.setting).half_times)

        table["dense_steps"] = known.numbers(dense_steps, "dense_steps", FEW_DRAWS)
    if (maps := known.prediction.cnn.maps) is not None:
        used = used_spectra(
            structure, torch.einsum("mo,mochw->mchw", structure.class_vectors, maps), maps.new_zeros(len(maps)), TOP
        )
        for key, values, own in (
            ("used_energy", used.dominant_share, used.mode_dominant_share),
            ("used_participation", used.participation_ratio, used.mode_participation_ratio),
        ):
            pairs = zip(values.tolist(), own.tolist(), strict=True)
            table[key] = [Number(value, None, (of_mode,) * 2, key, "the mode itself") for value, of_mode in pairs]
    best, mixed = structure.pair_energies.sort(1, descending=True).values, _mixed(table["singular_value"])
    return tuple(
        Mode(
            frequencies=tuple((int(ky), int(kx)) for ky, kx in structure.dominant_frequencies[i, :NAMED].tolist()),
            energies=tuple(best[i, :NAMED].tolist()),
            high=_side(structure.class_vectors[i], classes),
            low=_side(-structure.class_vectors[i], classes),
            mixed=mixed[i],
            numbers={key: numbers[i] for key, numbers in table.items()},
        )
        for i in range(len(structure.singular_values))
    )


def _half_steps(known: Known) -> list[Number]:
    """Returns steps until each mode is half learned; errors and chance are the closed form's."""
    values = known.setting.steps(known.prediction.cnn.half_times).tolist()
    if not known.setting.plain:
        return [Number(value, None, None, "steps") for value in values]

    def quick(part: DatasetStructure) -> Tensor:
        return known.setting.steps(known.quick(part))

    # Relative errors: the closed form is off by a factor that all folds share.
    errors = spreads(known.structure, known.folds, lambda part: quick(part).log())
    low, high = band(known.draws[:FEW_DRAWS], quick, len(values))
    return [
        Number(value, value * error, (float(a), float(b)), "steps", PERMUTED)
        for value, error, a, b in zip(values, errors, low, high, strict=True)
    ]


def _together(known: Known, modes: Sequence[Mode]) -> dict[str, Number]:
    structure, setting = known.structure, known.setting
    found = {"beyond": _beyond(known, modes)}
    rate = setting.steps(torch.ones(1)).item()
    found["fastest"] = known.number(lambda s: float(s.growth_rates.max()) / rate, "fastest")
    half = known.prediction.cnn.half_times
    within = half.isfinite()
    if int(within.sum()) > 2:
        m = int(within.sum())
        chance = (-1.96 / math.sqrt(m - 1), 1.96 / math.sqrt(m - 1))
        for key, f in (
            ("order", lambda s: s.singular_values),
            ("order_effective", lambda s: s.effective_singular_values),
        ):
            value = float(spearmanr(half[within], 1 / f(structure)[within]).statistic)
            error = None
            if setting.plain:
                parts = [float(spearmanr(known.quick(s), 1 / f(s)).statistic) for _, s in known.folds]
                whole = float(spearmanr(known.quick(structure), 1 / f(structure)).statistic)
                error = jackknife(whole, parts, [float(n) for n, _ in known.folds])
            found[key] = Number(value, error, chance, key, "random order")
    dense = known.prediction.dense
    if dense is not None and setting.plain and bool(within[0]):
        quick = known.number(
            lambda s: float((dense_of(s, setting).half_times / known.quick(s))[0]), "speed_up", FEW_DRAWS
        )
        found["speed_up"] = replace(quick, value=float(dense.half_times[0] / half[0]))
    if has_pairs(structure):
        for key, choose in (("easiest_pair", torch.max), ("hardest_pair", torch.min)):
            found[key] = known.number(partial(_extreme, choose), key, FEW_DRAWS)
    if structure.covariance is not None:
        holds = diagnostics(structure)
        for key in ("off_diagonal", "invariance", "frequency_coupling"):
            found[key] = Number(getattr(holds, key), None, None, key)
    found["imbalance"] = Number(float(structure.counts.max() / structure.counts.min()), None, None, "imbalance")
    return found


def _beyond(known: Known, modes: Sequence[Mode]) -> Number:
    """Returns how many modes are stronger than permuted labels make those of their rank."""
    numbers = [mode.numbers["singular_value"] for mode in modes]
    count = sum(bool(n.decided) and n.chance is not None and n.value > n.chance[1] for n in numbers)
    _, high = band(known.draws, lambda s: s.singular_values, len(numbers))

    def above(s: DatasetStructure) -> Tensor:
        return (s.singular_values > high[: len(s.singular_values)]).sum()[None].double()

    low, top = band(known.draws, above, 1)
    return Number(float(count), None, (float(low), float(top)), "beyond", PERMUTED)


def _extreme(choose: Callable[[Tensor], Tensor], structure: DatasetStructure) -> float:
    return float(choose(pairwise(structure).effective_singular_values))


def _dominant_energy(structure: DatasetStructure) -> Tensor:
    return structure.pair_energies.topk(min(TOP, structure.pair_energies.shape[1]), 1).values.sum(1)


def _mixed(numbers: Sequence[Number]) -> list[bool]:
    def close(a: Number, b: Number) -> bool:
        slack = 2 * math.hypot(a.spread or 0.0, b.spread or 0.0)
        return abs(a.value - b.value) < max(CLOSE * max(a.value, b.value), slack)

    near = [close(a, b) for a, b in itertools.pairwise(numbers)]
    return [before or after for before, after in zip([False, *near], [*near, False], strict=True)]


def _side(vector: Tensor, classes: Sequence[str]) -> tuple[str, ...]:
    """Returns the classes with the largest entries of a class vector, the largest first."""
    order = vector.argsort(descending=True)[:NAMED].tolist()
    return tuple(classes[i] for i in order if float(vector[i]) > SIDE * float(vector.abs().max()))


def _names(known: Sequence[str], counts: Sequence[int]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Returns the names of classes with images, and of those without; numbers where names are not known."""
    names = (*known, *(str(i) for i in range(len(known), len(counts))))
    with_images = {i for i, n in enumerate(counts) if n}
    found = tuple(name for i, name in enumerate(names) if i in with_images)
    return found, tuple(name for i, name in enumerate(names) if i not in with_images)


def _facts(known: Known, classes: Sequence[str]) -> dict[str, str | bool | float]:
    s, setting = known.structure, known.setting
    c, h, w = s.image_shape
    kernel = "as large as the images" if setting.kernel_size is None else f"{setting.kernel_size}×{setting.kernel_size}"
    found: dict[str, str | bool | float] = {
        "images": float(s.counts.sum()),
        "size": f"{h}×{w}",
        "pixels": float(h * w),
        "colours": float(c),
        "centred": s.centred,
        "largest": classes[int(s.counts.argmax())],
        "smallest": classes[int(s.counts.argmin())],
        "method": known.prediction.cnn.method,
        "why": known.prediction.why,
        "kernel": kernel,
        "layers": float(setting.depth),
        "filters": float(setting.channels or c),
        "padding": setting.padding,
        "init_std": setting.init_std,
        "lr": setting.lr or math.nan,
        "momentum": setting.momentum,
    }
    if has_pairs(s):
        contrasts = pairwise(s)
        for key, choose in (("easiest", torch.argmax), ("hardest", torch.argmin)):
            a, b = contrasts.classes[int(choose(contrasts.effective_singular_values))].tolist()
            found[key] = classes_in_words([classes[a], classes[b]])
    return found
