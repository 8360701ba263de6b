"""The plot primitives that theories draw with; they never touch pyplot's global state.

Roles (network, theory, initialisation, chance) have one colour and one dash everywhere.
"""

from convscope.page.canvas import Chart, style
from convscope.page.curves import Band, Curve, lines
from convscope.page.pictures import matrix, pictures
from convscope.page.rows import bars, points
from convscope.page.theme import COLOURS, DASHES, Role

__all__ = [
    "COLOURS",
    "DASHES",
    "Band",
    "Chart",
    "Curve",
    "Role",
    "bars",
    "lines",
    "matrix",
    "pictures",
    "points",
    "style",
]
