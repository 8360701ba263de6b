"""Compilation with numba, and the functions of an angle that all compiled loops share.

Numba compiles at a loop's first use, in seconds, and keeps what it made on disk. Where it cannot be imported,
everything works without it, by plain PyTorch.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

try:
    import numba
    from numba.extending import overload
except Exception:  # not ImportError alone: numba refuses versions of Python and NumPy in ways of its own
    AVAILABLE = False
else:
    AVAILABLE = True

# Sums may be reordered and products contracted; NaN and infinity keep their meaning.
_OPTIONS: dict[str, Any] = {"fastmath": {"reassoc", "contract", "nsz", "arcp"}, "error_model": "numpy"}

# With u = 2 |t| - 1: arccos |t| / (pi sqrt(1 - |t|)), smooth over all of -1 <= u <= 1, lowest power first.
# Interpolated at Chebyshev nodes; largest errors 1e-8 and 7e-17.
_ANGLE_32 = (
    0.4714045143, -0.02419667151, 0.003510947308, -0.0006841498884, 0.0001524175959, -3.708421007e-5, 1.119276651e-5,
    -3.013344622e-6,
)  # fmt: skip
_ANGLE_64 = (
    0.47140452079103173, -0.024196673349042875, 0.0035107394669240602, -0.00068409119067413743,
    0.00015344258607794784, -3.7373560893145416e-5, 9.6088726968999728e-6, -2.5667037667385477e-6,
    7.0539104093475952e-7, -1.9816136621258434e-7, 5.6621601372562852e-8, -1.6418619216159169e-8,
    4.8660638964077376e-9, -1.4427349958364107e-9, 3.8346055376834574e-10, -1.1514610998963578e-10,
    6.0379077649341288e-11, -1.8480037280753026e-11,
)  # fmt: skip

# Of 1 - |t|: below it, a few roundings of t = k / r, patches count as parallel, so that the angle between patches that
# are does not hang on rounding, whose root it would be.
PARALLEL_32, PARALLEL_64 = 2.0**-21, 2.0**-48


def compiled() -> Callable[[Callable], Callable]:
    """Returns a decorator that has numba compile a function, or leaves it as it is where there is no numba.

    Compiled functions let other threads run meanwhile, so that a pool of threads uses all processors.
    """

    def decorate(function: Callable) -> Callable:
        if not AVAILABLE:
            return function
        options = {**_OPTIONS, "nogil": True}
        try:
            return numba.njit(cache=True, **options)(function)
        except RuntimeError:  # nowhere to write the cache: an installation and a home that are read-only
            return numba.njit(**options)(function)

    return decorate


def angle(t: float) -> tuple[float, float]:
    """Returns (kappa0, s / pi) for t, the cosine of an angle, inside compiled functions only.

    kappa0 = 1 - arccos(t) / pi and s = sqrt(1 - t^2), so that kappa1 = t kappa0 + s / pi. To 1e-7 for float32 t and to
    4e-16 for float64 t. Rounding may have brought t beyond 1 or -1.
    """
    raise NotImplementedError(f"for compiled functions only, got {t}")


if AVAILABLE:

    @numba.njit(**_OPTIONS)  # type: ignore[untyped-decorator]
    def _horner(u: Any, c: Any) -> Any:
        p = c[-1]
        for k in range(len(c) - 2, -1, -1):
            p = p * u + c[k]
        return p

    @overload(angle, jit_options=_OPTIONS)  # type: ignore[arg-type]
    def _angle(t: Any) -> Callable:
        single = t == numba.float32
        # Constants of t's own precision, lest float64 spread into loops over float32.
        of = np.float32 if single else np.float64
        zero, one, two, over_pi = of(0), of(1), of(2), of(1 / math.pi)
        parallel = of(PARALLEL_32 if single else PARALLEL_64)
        c = tuple(map(of, _ANGLE_32 if single else _ANGLE_64))
        even, odd = c[::2], c[1::2]  # two short chains of operations instead of a long one

        def compute(t: Any) -> tuple[Any, Any]:
            d = one - abs(t)
            d = d if d > parallel else zero
            root = math.sqrt(d)
            u = one - two * d
            v = root * (_horner(u * u, even) + u * _horner(u * u, odd))
            return (one - v if t > zero else v), root * math.sqrt(two - d) * over_pi

        return compute
