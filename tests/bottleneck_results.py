"""Results of the bottleneck analysis whose numbers are made up."""

import numpy as np

from convscope.bottleneck.result import BottleneckResult
from convscope.bottleneck.shown import Decoded, KeptPair, LayerKept, LayerMaps
from convscope.core.results import Number, Skip

TWIN = "untrained twin, one draw"


def row(place, rank, confidence="no plateau", notes=(), **others):
    """Returns a convolution with 8 filters on maps of 6x6 pixels."""
    numbers = {
        "rank": Number(rank, 2.0, (200.0, 200.0), "rank", TWIN),
        "frequencies": Number(0.5 / place, 0.01, (0.9, 0.9), "frequencies", TWIN),
        "align": Number(0.8, None, (0.85, 0.89), "align", "random kernels"),
        "cbn_share": Number(0.5, None, (0.6, 0.65), "cbn_share", "random kernels"),
        "cbn_rank": Number(144.0, None, None, "cbn_rank"),
        "norm_bound": Number(1.7, None, None, "norm_bound"),
        "leak": Number(0.05, None, None, "leak"),
    }
    shape = (8, 3 if place == 1 else 8, 3, 3)
    return LayerKept(f"conv{place}", shape, (1, 1), 1, (6, 6), confidence, tuple(notes), numbers | others)


def maps(seed=0):
    """Returns maps of 6x6 frequencies."""
    drawn = np.random.default_rng(seed).normal(size=(4, 6, 6)).round(3)
    return LayerMaps(*drawn[:3], np.abs(drawn[3]).clip(0, 1))


def pair(ky, kx, importance):
    numbers = {"share": Number(0.2, None, None, "share"), "importance": Number(importance, None, None, "importance")}
    return KeptPair((ky, kx), 1, 4 if ky or kx else 2, numbers)


def result(**changes):
    """Returns the result of a network of three convolutions."""
    fields = {
        "rows": (row(1, 90.0), row(2, 40.0, notes=["rank limited by 60 images"]), row(3, 30.0)),
        "numbers": {
            "narrowest": Number(30.0, 2.0, (200.0, 200.0), "narrowest", TWIN),
            "input_rank": Number(60.0, 1.0, None, "input_rank"),
            "narrowing": Number(0.5, 0.02, (3.3, 3.3), "narrowing", TWIN),
            "median_align": Number(0.8, None, (0.85, 0.89), "median_align", "random kernels"),
        },
        "facts": {
            "data": True, "images": 60.0, "untrained_is": "twin", "narrowest": "conv3", "start": "conv2",
            "end": "conv3", "location": "bottleneck", "score": "", "chain": "it has a sum", "grid": "",
            "folded": False, "pairs": "conv3",
        },
        "maps": {f"conv{i}": maps(i) for i in (1, 2, 3)},
        "pairs": (pair(0, 1, 0.3), pair(0, 0, 0.1)),
        "patterns": np.random.default_rng(3).integers(0, 255, (6, 5, 5, 3), np.uint8),
        "decoded": Decoded((1, 4, 7), np.array([[0.3, 0.125, np.nan], [0.05, 1.25, 0.0]])),
        "skipped": (Skip("costs", "it has a sum"),),
    }  # fmt: skip
    return BottleneckResult(**(fields | changes))
