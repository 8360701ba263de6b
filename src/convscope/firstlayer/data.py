"""What can be said of images before any training: spectrum, predicted profiles, dependence on labels."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch

from convscope.core.errors import ConvscopeError
from convscope.core.passes import Pass
from convscope.core.results import Finding, LayerRow, register
from convscope.core.sentences import collected, told
from convscope.firstlayer.findings import distance, label_findings
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
from convscope.firstlayer.theory import feed_kept, feed_moments, feed_pairs, kept_images, named_conv, varied
from convscope.firstlayer.whitening import LAG, autocorrelation, lagged_covariances, raw_pixels_gram, whitening_gram

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
        return collected(self, (_spectrum, _peak, _pixel_correlation, label_findings))

    def layers(self) -> dict[str, LayerRow]:
        """Returns nothing: there is no network."""
        return {}


def _spectrum(result: DataResult) -> list[Finding]:
    n, d = result.numbers, len(result.curves["variance"])
    if d == 1:
        return []
    text = (
        f"Of the {d} directions in which patches of these images can vary, one alone carries "
        f"{told(100 * n['leading_share'].value, '.0f')} % of their variance; the spectrum is as wide as "
        f"{told(n['dimension'], '.1f')} equal directions."
    )
    return [Finding(text, n["leading_share"])]


def _peak(result: DataResult) -> list[Finding]:
    n, d = result.numbers.get("peak"), len(result.curves["variance"])
    if n is None or d == 1:
        return []
    place = {1: "the strongest", d: "the faintest"}.get(int(n.value) if math.isfinite(n.value) else 0, "")
    text = (
        f"By the formula, a first layer of training age {TYPICAL_AGE} (networks that were looked at have 30 to 200) "
        f"responds most to direction {told(n, '.0f')} of {d}"
    )
    reason = "not to the strongest, which is learned first and then equalised, nor to the faintest"
    return [Finding(f"{text}, {place}." if place else f"{text}: {reason}.", n)]


def _pixel_correlation(result: DataResult) -> list[Finding]:
    n = result.numbers
    if "response_raw" not in n:
        return []
    text = (
        f"{distance(result)} apart, pixels correlate {told(n['response_raw'])}; after perfect whitening by filters of "
        f"this size they would correlate {told(n['response_perfect'])}."
    )
    return [Finding(text, n["response_raw"])]


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
        moments = feed_moments(p, network, call, classes)
        pairs = feed_pairs(p, network, call)
        kept = feed_kept(p, network, call)

        def finish() -> DataResult:
            skipped = list(network.skipped)
            patches = Patches(
                layer=network.name,
                moments=moments.value(),
                without=varied(moments.leave_one_out()),
                pairs=(pairs.value(), varied(pairs.leave_one_out())),
                kept=kept_images(kept, skipped),
                classes=p.source.classes,
                skipped=tuple(skipped),
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
    book.attempt("correlation of pixels", lambda: _pixels(book.on_pairs()))
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
    ten = min(range(len(lags)), key=lambda i: abs(lags[i] - LAG))
    book.facts["response_lag"] = float(lags[ten])
    for name, gram in {"response_raw": raw_pixels_gram, "response_perfect": whitening_gram}.items():
        curves = {
            id(m): autocorrelation(gram(m), m.covariance, lagged_covariances(m, lags)) for m in book.patches.all_moments
        }
        book.put(name, lambda m, curves=curves: float(curves[id(m)][ten]))  # type: ignore[misc]
        book.curves[name] = torch.cat([torch.ones(1, dtype=torch.float64), curves[id(book.patches.moments)]])
    book.curves["lag"] = torch.tensor([0.0, *map(float, lags)])
