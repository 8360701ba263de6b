"""A result that no theory made, with everything in it that a page must survive."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import pandas as pd

from convscope.core.coverage import Coverage
from convscope.core.results import (
    Definition,
    Finding,
    LayerRow,
    Number,
    Skip,
    number_from_json,
    number_to_json,
    register,
)
from convscope.page.charts import Band, Chart, Curve, bars, lines, matrix, pictures, points
from convscope.page.report import Head, Provenance, Report

HOSTILE = '<script>alert("x")</script><img src=http://evil.example/x onerror=alert(1)>'
FIT = Number(0.9412, 0.012, (0.1, 0.5), "fit", "random filters")


@register
@dataclass(frozen=True)
class FakeResult:
    kind: ClassVar[str] = "fake"
    question: ClassVar[str] = "Which directions of image space does the first layer listen to?"

    name: str = "conv1"
    fit: Number = FIT
    seed: int = 0
    skipped: tuple[Skip, ...] = (Skip("layer4.conv2", "its weights are all zero: train it first"),)
    sentences: tuple[str, ...] = field(
        default=(
            "The first layer's filters weigh image frequencies almost as a formula predicts from the images alone, "
            "but so does a plain curve.",
            "A Gaussian bump with two free parameters fits as well as the formula.",
            "Filters trained on true labels and on shuffled labels weigh the same directions.",
            "Whether the formula beats the bump on components that neither was fitted to is not decided.",
            "The formula's one parameter reads as 4,300 steps of training.",
            "Whether whitening is complete cannot be said: one component has no variance.",
        )
    )

    def to_frame(self) -> pd.DataFrame:
        n = 27
        return pd.DataFrame({
            "component": range(1, n + 1),
            "eigenvalue": 27.0 * np.exp(-np.arange(n) / 2),
            "layer": [self.name] * n,
        })

    def to_json(self) -> dict:
        return {
            "kind": self.kind,
            "name": self.name,
            "fit": number_to_json(self.fit),
            "seed": self.seed,
            "skipped": [[s.what, s.reason] for s in self.skipped],
            "sentences": list(self.sentences),
        }

    @classmethod
    def from_json(cls, data) -> FakeResult:
        return cls(
            name=data["name"],
            fit=number_from_json(data["fit"]),
            seed=data["seed"],
            skipped=tuple(Skip(*pair) for pair in data["skipped"]),
            sentences=tuple(data["sentences"]),
        )

    def numbers(self) -> list[Number]:
        return [
            self.fit,
            Number(0.957, 0.008, (0.1, 0.5), "fit", "random filters"),
            Number(0.902, None, (0.12, 0.55), "fit", "random filters"),
            Number(0.31, 0.14, (-0.3, 0.28), "held", "permutations"),
            Number(4300.0, 310.0, None, "tau"),
            Number(math.nan, None, None, "held"),
        ]

    def findings(self) -> list[Finding]:
        return [Finding(text, number) for text, number in zip(self.sentences, self.numbers(), strict=False)]

    def definitions(self) -> dict[str, Definition]:
        return {
            "fit": Definition(
                "Fit of the formula",
                "r = corr(e, ê),  ê(λ) = |1 − exp(−τ λ²)| / λ",
                "Chowers & Weiss 2023, eq. 6, https://arxiv.org/abs/2309.03745 (arXiv:2309.03745)",
                "Pearson correlation over components; the paper does not say which.",
            ),
            "held": Definition("Held-out fit", "fit on odd components, score on even", HOSTILE, HOSTILE),
            "tau": Definition("Steps of training", "τ = learning rate × steps", "eq. 6 <b>", ""),
        }

    def layers(self) -> dict[str, LayerRow]:
        rng = np.random.default_rng(self.seed)
        rows = {
            f"features.{i}.conv": {
                "fit of the formula": Number(float(rng.uniform(0.2, 1)), 0.03, (0.1, 0.5), "fit", "random filters"),
                "steps": Number(float(10 ** rng.uniform(1, 5)), None, None, "tau"),
            }
            for i in range(12)
        }
        rows[self.name] = {"fit of the formula": self.fit, "only here": Number(math.nan, None, None, "held")}
        return {layer: LayerRow(numbers, f"{len(layer)}×3×3×3") for layer, numbers in rows.items()}

    def figures(self) -> dict[str, Chart]:
        rng = np.random.default_rng(self.seed)
        n = 27
        x = np.arange(n)
        profile = 0.2 + np.exp(-((x - 7) ** 2) / 60)
        numbers = self.numbers()
        profile_chart = lines(
            [
                Curve(profile + 0.02 * rng.normal(size=n), "network", spread=np.full(n, 0.03)),
                Curve(profile * 0.97, "formula", "theory"),
                Curve(np.full(n, 0.62) + 0.03 * rng.normal(size=n), "before training", "initialisation"),
            ],
            band=Band(np.full(n, 0.5), np.full(n, 0.75), "random filters"),
            xlabel="principal component of the patches (1 has most variance)",
            ylabel="energy of the filters (root mean square)",
            caption=f"Energy of the filters of {self.name} along each principal component of the image patches.",
            alt="The network's curve follows the formula's and leaves the band of random filters at both ends.",
            how_to_read="High: the filters respond to this direction. Outside the grey band: not chance.",
        )
        return {
            "profile": profile_chart,
            "eigenvalues": lines(
                [Curve(27 * np.exp(-x / 3.0), self.name, "network")],
                xlabel="component",
                ylabel="variance",
                ylog=True,
                caption="Variance of the patches.",
                alt="It falls over four decades.",
            ),
            "filters": pictures(rng.normal(size=(32, 3, 5, 5)) * 0.1, caption="The filters.", alt="32 noisy filters."),
            "patches": pictures(
                rng.normal(size=(12, 1, 7, 7)),
                caption="Principal patches.",
                alt="Twelve patches.",
                labels=[str(i + 1) for i in range(12)],
            ),
            "baselines": points(
                {"formula": numbers[0], "Gaussian bump": numbers[1], "held out": numbers[3], "undefined": numbers[5]},
                roles={"formula": "theory", "Gaussian bump": "chance"},
                xlabel="correlation with the network",
                xlim=(-1, 1),
                caption="Who fits best.",
                alt="The bump does.",
            ),
            "bars": bars({"a": numbers[0], self.name: numbers[3]}, xlabel="r", caption="Bars.", alt="Bars."),
            "consistency": matrix(
                0.5 + 0.5 * np.corrcoef(rng.normal(size=(5, 9))),
                unit="correlation",
                rows=["true, seed 1", "true, seed 2", "permuted, seed 1", "permuted, seed 2", "eigenvalues"],
                columns=["T1", "T2", "P1", "P2", "λ"],
                limits=(0, 1),
                caption="Correlation of energy profiles.",
                alt="Networks agree with each other.",
            ),
        }


class Bare:
    """A result with as little as the protocol allows."""

    kind = "bare"
    question = "Is there anything?"
    skipped = (Skip("a\udcff.png", "no\x00name"),)

    def to_frame(self):
        return pd.DataFrame()

    def to_json(self):
        return {}

    def figures(self):
        return {}

    def findings(self):
        return []

    def definitions(self):
        return {}

    def layers(self):
        return {}


def strip(m: int = 6, side: int = 32) -> np.ndarray:
    if m == 0:
        return np.zeros((0, side, side, 3), np.uint8)
    y, x = np.mgrid[:side, :side] / side
    rng = np.random.default_rng(1)
    images = [np.stack([np.sin(a * x + b * y) for a, b in rng.uniform(-9, 9, (3, 2))], -1) for _ in range(m)]
    return ((np.stack(images) + 1) * 127).astype(np.uint8)


def report(*results, hostile: bool = False, **head) -> Report:
    name = HOSTILE if hostile else "small CNN"
    fake = FakeResult(name=name, skipped=(Skip(name, name),)) if hostile else FakeResult()
    fields = {
        "network": name,
        "data": name if hostile else "crops of eight photographs",
        "classes": (name, "cat") if hostile else tuple("abcdefgh"),
        "image_shape": (3, 32, 32),
        "strip": strip(),
        "strip_note": name if hostile else "after normalisation; mid-grey is 0, black and white ±2",
        "notes": (name,) if hostile else ("No normalisation was named; the measured mean and deviation were used.",),
        "skipped": (Skip("head.fc", "not a convolution"),),
    }
    return Report(
        head=Head(**(fields | head)),
        results=results or (fake,),
        coverage=Coverage(
            images=1200,
            expected=1203,
            unreadable=(Skip(name if hostile else "img7.png", "truncated"),),
            seconds={"reading": 3.1, name: 71.0},
            notes=(name,) if hostile else (),
        ),
        provenance=Provenance(
            command=f"convscope report {name}",
            versions={"convscope": "0.1.0", "torch": "2.13", "numpy": "2.1"},
            seeds={"training": 1, "permutations": 0},
            date="2025-11-21T03:06:00+00:00",
            precision="float64 sums; the network in float32",
            seconds=82.3,
        ),
    )
