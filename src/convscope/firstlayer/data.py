"""What can be said of images before any training: spectrum, predicted profiles, dependence on labels."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch

from convscope.core.errors import ConvscopeError
from convscope.core.kept import Kept
from convscope.core.passes import Pass
from convscope.core.results import Finding, Number, register
from convscope.core.streams import Input
from convscope.firstlayer.findings import count, label_findings
from convscope.firstlayer.notebook import (
    Notebook,
    Patches,
    average_patches,
    label_dependence,
    large_arrays,
    paired_lags,
    principal_patches,
)
from convscope.firstlayer.prediction import predict_energy_profile
from convscope.firstlayer.result import PatchResult
from convscope.firstlayer.theory import feed_moments, lags_of, named_conv
from convscope.firstlayer.whitening import autocorrelation, lagged_covariances, raw_pixels_gram, whitening_gram

if TYPE_CHECKING:
    from matplotlib.figure import Figure

AGES = (1, 10, 100, 1000)  # training times in units of the strongest direction
TYPICAL_AGE = 100  # of the trained networks that were looked at, most lie between 30 and 200


@register
@dataclass(frozen=True, eq=False, kw_only=True)
class DataResult(PatchResult):
    """What the first-layer theory says about images alone (Chowers & Weiss, 2023)."""

    kind: ClassVar[str] = "data"
    question: ClassVar[str] = "What will a first layer listen to, whatever the network?"
    per_component: ClassVar[tuple[str, ...]] = ("variance", *(f"age_{age}" for age in AGES))
    required: ClassVar[tuple[str, ...]] = ("leading_share", "dimension")

    def figures(self) -> dict[str, Figure]:
        """Returns the charts, the predicted profiles first."""
        from convscope.firstlayer.figures import data_figures

        return data_figures(self)

    def findings(self) -> list[Finding]:
        """Returns the findings, the most telling first."""
        n = self.numbers
        d = len(self.curves["variance"])
        top = int(self.curves[f"age_{TYPICAL_AGE}"].argmax()) + 1
        found = [
            Finding(
                f"Of the {d} directions in which patches of these images can vary, one alone carries "
                f"{100 * n['leading_share'].value:.0f} % of their variance; the spectrum is as wide as "
                f"{n['dimension'].value:.1f} equal directions.",
                n["leading_share"],
            )
        ]
        if "peak" in n:
            found.append(
                Finding(
                    f"A first layer trained for a typical time should respond most to direction {top} of {d}: not to "
                    "the strongest, which is learned first and then equalised, nor to the faintest.",
                    n["peak"],
                )
            )
        if "response_raw" in n:
            lag = int(float(self.facts["response_lag"]))
            found.append(
                Finding(
                    f"{count(lag, 'pixel').capitalize()} apart, pixels correlate {n['response_raw'].value:.2f}; "
                    f"filters of this size could lower that to {n['response_perfect'].value:.2f} at best.",
                    n["response_raw"],
                )
            )
        found += label_findings(self)
        return [f for f in found if not math.isnan(f.number.value)]

    def layers(self) -> dict[str, dict[str, Number]]:
        """Returns nothing: there is no network."""
        return {}


class Data:
    """The theory of images alone, on a pass whose network "model" is any convolution of the wanted geometry."""

    def plan(self, p: Pass) -> Callable[[], DataResult]:
        """Feeds the pass and returns what draws the conclusion after it ran.

        Raises:
            ConvscopeError: when the convolution cannot take the images.
        """
        network = p.networks["model"]
        call = named_conv(p, network, None)
        classes = None if p.source.classes is None else len(p.source.classes)
        moments = feed_moments(p, network, call, classes, lags_of(call))
        kept = p.feed(Input(network, call.name), Kept, folded=False, label="kept images")

        def finish() -> DataResult:
            patches = Patches(
                layer=network.name,
                moments=moments.value(),
                without=tuple(moments.leave_one_out()),
                kept=kept.value(),
                classes=p.source.classes,
                skipped=network.skipped,
            )
            return conclude_data(patches)

        return finish


def conclude_data(patches: Patches) -> DataResult:
    """Returns the result for images alone.

    Raises:
        ConvscopeError: when the images have no variance.
    """
    moments = patches.moments
    lam2 = moments.eigenvalues
    if float(lam2.max()) <= 0:
        raise ConvscopeError("every image is constant: varied images are expected; hand in others")
    d = lam2.shape[-1]
    book = Notebook(patches, skipped=list(patches.skipped))
    white = (1 / d, 1 / d)
    book.put("leading_share", lambda m: float(m.eigenvalues.max() / m.eigenvalues.sum()), white, "white noise")
    book.put(
        "dimension",
        lambda m: float(m.eigenvalues.sum() ** 2 / (m.eigenvalues**2).sum()),
        (float(d), float(d)),
        "white noise",
    )
    book.put(
        "peak",
        lambda m: float(predict_energy_profile(m.eigenvalues, TYPICAL_AGE / float(m.eigenvalues.max())).argmax() + 1),
    )
    book.curves["variance"] = lam2
    for age in AGES:
        curve = predict_energy_profile(lam2, age / float(lam2.max()))
        book.curves[f"age_{age}"] = curve / curve.max()
    average_patches(book)
    book.attempt("correlation of pixels", lambda: _pixels(book))
    book.attempt("dependence on the labels", lambda: label_dependence(book, TYPICAL_AGE / float(lam2.max())))
    return DataResult(
        layer=patches.layer,
        numbers=book.numbers,
        curves=book.flat_curves(),
        facts=book.facts,
        patches=principal_patches(moments),
        skipped=tuple(book.skipped),
        arrays=large_arrays(moments),
    )


def _pixels(book: Notebook) -> None:
    lags = paired_lags(book.patches.moments)
    ten = min(range(len(lags)), key=lambda i: abs(lags[i] - 10))
    book.facts["response_lag"] = float(lags[ten])
    for name, gram in {"response_raw": raw_pixels_gram, "response_perfect": whitening_gram}.items():
        curves = {
            id(m): autocorrelation(gram(m), m.covariance, lagged_covariances(m, lags)) for m in book.patches.all_moments
        }
        book.put(name, lambda m, curves=curves: float(curves[id(m)][ten]))  # type: ignore[misc]
        book.curves[name] = torch.cat([torch.ones(1, dtype=torch.float64), curves[id(book.patches.moments)]])
    book.curves["lag"] = torch.tensor([0.0, *map(float, lags)])
