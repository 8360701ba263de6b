"""Layers inside a known bottleneck on fewer pixels: what that changes, and what it costs."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass
from statistics import fmean

import torch
from torch import nn

from convscope.bottleneck.downsample import Grid, downsampled, smallest_grid
from convscope.core.errors import ConvscopeError
from convscope.papers.registry import Outcome, Row, Setup
from convscope.papers.wen2024_runs import SIZES, Run, row, runs, seeded, settings, tables
from convscope.papers.wen2024_tasks import LOW_PASS, MEAN, PRODUCT, SIDE, low_pass, mean, shape_times_pattern

_SAME = 1e-4  # change of an image's output, as a share of it, up to which it counts as the same
# A rectifier that cuts something off makes frequencies that a smaller grid folds.
_NONE = "0 where no unit is cut off inside (theory)"
_GRIDS = ((4, 4), (3, 3), (2, 2), (1, 1))


@dataclass(frozen=True)
class Fewer:
    """A network whose inner layers run on a smaller grid, beside the same network on all pixels.

    Attributes:
        median: over images, of |f' - f| / |f| of an image's output.
        same: share of images where that is below 1e-4.
        error: |f' - f|^2 / |f - mean f|^2, each summed over images.
        growth: squared norm of these layers' weights, over that on all pixels.
    """

    median: float
    same: float
    error: float
    growth: float


def inner(run: Run) -> list[str]:
    """Returns the names of the convolutions of a network but the first and the last."""
    return [name for name, module in run.trained.network.named_children() if isinstance(module, nn.Conv2d)][1:-1]


def smallest_side(run: Run) -> int:
    """Returns the pixels along a side of the smallest square grid for the inner layers; all where there is none."""
    kept = [run.measured.frequencies[rank.profile > 0] for rank in run.measured.ranks[1:-1]]
    try:
        return max(smallest_grid(torch.cat(kept), (SIDE, SIDE)))
    except ConvscopeError:
        return SIDE


@torch.no_grad()
def on_fewer_pixels(run: Run, grid: Grid) -> Fewer:
    """Returns what changes when the inner layers of a network run on a smaller grid.

    Args:
        run: measured on the images of its task.
        grid: (h', w').
    """
    network, images = deepcopy(run.trained.network).double(), run.task.images.double()
    layers = inner(run)
    small = downsampled(network, layers, (SIDE, SIDE), grid)
    before, after = network(images).flatten(1), small(images).flatten(1)
    each = (after - before).norm(dim=1) / before.norm(dim=1)
    error = (after - before).square().sum() / (before - before.mean(0)).square().sum()
    # Filters alone have four axes.
    norms = [
        sum(float(p.square().sum()) for name in layers for p in of.get_submodule(name).parameters() if p.ndim == 4)
        for of in (network, small)
    ]
    return Fewer(float(each.median()), float((each < _SAME).double().mean()), float(error), norms[1] / norms[0])


def down_sampling(setup: Setup) -> Outcome:
    """Returns whether layers inside a known bottleneck run on as few pixels as the kept frequencies need."""
    size = SIZES[setup.scale]
    around, constant, product = f"low-pass, {LOW_PASS[6].depth} layers", f"mean, {MEAN.depth} layers", "product"
    plan = {
        around: (low_pass(size.images), seeded(LOW_PASS[6], size)),
        constant: (mean(size.images), seeded(MEAN, size)),
        product: (shape_times_pattern(size.images), seeded(PRODUCT, size)),
    }
    found = runs(setup, plan)
    sides = {name: [float(smallest_side(r)) for r in several] for name, several in found.items()}
    fewer = {
        name: {grid: [on_fewer_pixels(r, grid) for r in several] for grid in _GRIDS} for name, several in found.items()
    }
    rows = [
        *(
            row(
                f"{name}: pixels along one side of the smallest grid for the inner layers",
                f"{side} (theory)",
                (side, side),
                sides[name],
                {"all": SIDE},
            )
            for name, side in ((around, 3), (constant, 1))
        ),
        row(
            f"{product}: share of networks whose inner layers need all pixels",
            "1: half a cycle per pixel is kept (theory)",
            (1.0, 1.0),
            (float(side == SIDE) for side in sides[product]),
        ),
        *_changed(f"{around}, inner layers on 4x4", 16, fewer[around][4, 4], fewer[around][2, 2]),
        *_changed(f"{around}, inner layers on 3x3", 9, fewer[around][3, 3], fewer[around][2, 2]),
        *_changed(f"{constant}, inner layers on 1x1", 1, fewer[constant][1, 1]),
        row(
            f"{product}, inner layers on 4x4: squared relative error of the outputs",
            "above 0 (theory)",
            None,
            (one.error for one in fewer[product][4, 4]),
        ),
    ]
    lines = [
        {"network": name, "seed": r.trained.recipe.seed, "inner layers": ", ".join(inner(r)), "smallest side": side}
        | {"grid": f"{grid[0]}x{grid[1]}"}
        | asdict(one)
        for name, several in found.items()
        for grid, each in fewer[name].items()
        for r, side, one in zip(several, sides[name], each, strict=True)
    ]
    words = {
        "inner layers": "all convolutions but the first and the last; on a smaller grid they keep their transfer "
        "functions at its frequencies, and maps are brought to it before the first of them and back after the last",
        "on fewer pixels": "median over images of |f' - f| / |f|; share of images where that is below 1e-4; "
        "|f' - f|^2 / |f - mean f|^2; squared norm of the inner layers' weights over that on all pixels",
    }
    return Outcome(tuple(rows), settings(plan) | words, {"on fewer pixels": lines} | tables(found))


def _changed(name: str, pixels: int, fewer: Sequence[Fewer], too_few: Sequence[Fewer] = ()) -> list[Row]:
    def beside(what: str) -> dict[str, float]:
        return {"on 2x2": fmean(getattr(one, what) for one in too_few)} if too_few else {}

    growth = SIDE**2 / pixels
    return [
        row(
            f"{name}: relative change of an image's output, median over images",
            _NONE,
            (0.0, _SAME),
            (one.median for one in fewer),
            beside("median"),
        ),
        row(
            f"{name}: share of images whose output changes by less than 1e-4",
            "1 where no unit is cut off inside (theory)",
            None,
            (one.same for one in fewer),
            beside("same"),
        ),
        row(
            f"{name}: squared relative error of the outputs",
            _NONE,
            (0.0, _SAME),
            (o.error for o in fewer),
            beside("error"),
        ),
        row(
            f"{name}: growth of the squared norm of these layers' weights",
            f"{growth:.4g}, all pixels over those left (theory)",
            (0.999 * growth, 1.001 * growth),
            (one.growth for one in fewer),
        ),
    ]
