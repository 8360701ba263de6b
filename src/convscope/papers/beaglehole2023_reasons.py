"""In words, from what was measured, why filters and gradients do not agree beyond chance."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from convscope.ansatz.agop import PatchAgop
from convscope.ansatz.evenness import strongest_filter_share


def concentration(results: Sequence[PatchAgop]) -> str:
    """Returns how many directions filters and gradients have, and whether the gradients prefer the filters' strongest.

    Args:
        results: of one or several convolutions, over which the mean is taken.
    """
    filters = fmean(float(a.comparison.nfm.effective_ranks()) for a in results)
    gradients = fmean(float(a.comparison.agop(a.gram).effective_ranks()) for a in results)
    share = fmean(strongest_filter_share(a.weight, a.gram) for a in results)
    found = (
        f"the NFM has {filters:.1f} effective directions (trace over largest eigenvalue) and the AGOP {gradients:.1f}; "
        f"along the filters' strongest direction the gradients have {share:.2f} times their mean energy"
    )
    if share > 1 and gradients < filters:
        return f"{found}: they prefer it more than in proportion to the filters"
    if share <= 1:
        return f"{found}: they do not prefer it"
    return found
