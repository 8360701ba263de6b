"""The page's few colours, their one meaning each, and the matplotlib settings that every chart is drawn with.

A chart is drawn in the light scheme's colours. On the page these exact colours are replaced by CSS variables
(:mod:`convscope.page.svg`), so that the reader's scheme decides; elsewhere (a notebook, a saved PNG) they simply show.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Literal

Role = Literal["network", "theory", "initialisation", "chance"]

INK = "#1b1f24"
MUTED = "#59616b"
COLOURS: Mapping[str, str] = MappingProxyType({
    "network": "#0b5cad",
    "theory": "#c2410c",
    "initialisation": "#0a7d5c",
    "chance": "#6a727c",
})
"""Blue, vermilion, teal, grey: at least 29 apart in CIELAB for protan and deutan sight; lines differ by dash too."""

DASHES: Mapping[str, Any] = MappingProxyType({
    "network": "solid",
    "theory": (0, (5.0, 2.0)),
    "initialisation": (0, (1.2, 1.6)),
    "chance": (0, (6.0, 2.0, 1.2, 2.0)),
})
BAND_OPACITY = 0.2

CSS_OF_COLOUR: Mapping[str, str] = MappingProxyType({
    "#000000": "currentColor",
    INK: "currentColor",
    MUTED: "var(--muted)",
    **{colour: f"var(--{role})" for role, colour in COLOURS.items()},
})

DIVERGING = "RdBu_r"
SEQUENTIAL = "cividis"

WIDTH = 5.6  # inches; with 11-point type a 390 px phone still shows 10 px letters
STYLE: Mapping[Any, Any] = MappingProxyType({
    "text.usetex": False,
    "text.parse_math": False,  # a layer called "$x$" is a name, not mathematics
    "text.color": INK,
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],  # wider than most system fonts: room measured with it is room enough
    "font.size": 11,
    "axes.titlesize": 11,
    "axes.labelsize": 11,
    "axes.labelcolor": INK,
    "axes.edgecolor": MUTED,
    "axes.facecolor": "none",
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.unicode_minus": True,
    "axes.formatter.use_mathtext": False,
    "xtick.labelsize": 10.5,
    "ytick.labelsize": 10.5,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.minor.visible": False,
    "ytick.minor.visible": False,
    "grid.color": MUTED,
    "grid.alpha": 0.22,
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.8,
    "lines.markersize": 3.6,
    "figure.facecolor": "none",
    "figure.edgecolor": "none",
    "figure.autolayout": False,
    "savefig.facecolor": "none",
    "image.composite_image": False,  # each picture is embedded at its own resolution
})

_UNFIT = frozenset({"Cc", "Cf", "Cs", "Co", "Cn"})
_SPACES = str.maketrans("\t\n\r", "   ")
_JOINERS = "\u200c\u200d"  # spelling in Persian and others needs them


def clean(text: object) -> str:
    r"""Returns a string fit to print anywhere: control, bidirectional and unpaired surrogate characters as U+FFFD.

    File and layer names come from strangers; such characters reorder a line, steer a terminal or break XML.

    >>> clean("conv1\x1b[2J")
    'conv1�[2J'
    """
    spaced = str(text).replace("\r\n", " ").translate(_SPACES)
    return "".join("�" if unicodedata.category(c) in _UNFIT and c not in _JOINERS else c for c in spaced)
