"""What a network loses when pairs of one layer no longer vary from image to image."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from convscope.bottleneck.interventions import Change, changed_outputs, convolution_of
from convscope.bottleneck.latents import Latents
from convscope.bottleneck.pairs import KeptPairs, random_pairs
from convscope.core.errors import ConvscopeError
from convscope.core.network import Network
from convscope.core.results import Number

DRAWS = 6  # of random pairs, for what chance gives
SAME_CHANGE = "the same change in a random direction at a random frequency"
RANDOM_KEPT = "as many random pairs kept"


@dataclass(frozen=True, eq=False)
class Cost:
    """What a change in one layer costs on the images.

    Attributes:
        loss: with labels, the rise of the cross-entropy in nats; without, |f - f'|^2 / |f - mean f|^2 of the outputs.
        accuracy: with labels, the fall of the accuracy, as a fraction; else None.
    """

    loss: Number
    accuracy: Number | None


@dataclass(frozen=True, eq=False)
class Ablation:
    """What a network loses when pairs of one layer are replaced by their means over images.

    Attributes:
        layer: name of the convolution.
        pairs: the m pairs.
        images: n, how many it was measured on.
        base_loss: cross-entropy of the network as it is, in nats; NaN without labels.
        base_accuracy: its accuracy; NaN without labels.
        each: for each of the first pairs, what replacing it alone costs. Chance: as much is changed in each image, but
            in a random direction at a random frequency.
        rest: what replacing everything but the m pairs costs. Chance: as many random pairs are left.
        everything: what replacing the whole layer by its mean map costs: the most that pairs can matter.
    """

    layer: str
    pairs: KeptPairs
    images: int
    base_loss: float
    base_accuracy: float
    each: tuple[Cost, ...]
    rest: Cost
    everything: Cost


def ablate(
    network: Network,
    layer: str,
    images: Tensor,
    latents: Latents,
    labels: Tensor | None = None,
    *,
    first: int = 12,
    draws: int = DRAWS,
    seed: int = 0,
) -> Ablation:
    """Returns what a network loses when pairs of one layer no longer vary from image to image.

    A pair is replaced by its mean over the images: by 0, the offset that it may carry would be lost too, and
    rectifiers after it would move (Wen & Jacot's latents lie on an offset). Spreads are standard errors of the mean
    over images of the paired differences. What chance gives is mean and 1.96 standard deviations of ``draws`` draws.

    Args:
        network: left as it was found.
        layer: name of the ``nn.Conv2d`` whose latents they are.
        images: [n, c, h, w], those of the latents.
        latents: of these images.
        labels: int64 [n], classes numbered as the network's outputs; None: the change of the outputs is measured.
        first: how many pairs are replaced one by one.
        draws: random ones beside each; at least 2.
        seed: of the draws.

    Raises:
        ConvscopeError: when the network has no such convolution, or its outputs do not go with the labels.
        ValueError: for fewer than 2 draws, or other images than those of the latents.
    """
    convolution_of(network, layer)
    n, pairs, deviations = len(images), latents.pairs, latents.deviations
    if draws < 2:
        raise ValueError(f"draws must be at least 2, got {draws}: one says nothing about their spread")
    if len(latents.values) != n:
        raise ValueError(f"{len(latents.values)} latents for {n} images: hand in the images that the latents are of")
    score = _Scores(changed_outputs(network, layer, images, None), labels)

    def run(change: Change) -> _Costs:
        return score(changed_outputs(network, layer, images, change))

    def moved(by: KeptPairs, values: Tensor) -> _Costs:
        return run(lambda maps, rows: maps + by.maps_like(maps, values[rows]))

    def only(kept: KeptPairs | None) -> _Costs:
        def change(maps: Tensor, _rows: slice) -> Tensor:
            mean = latents.mean_map.to(maps)
            if kept is None:
                return mean.expand_as(maps).clone()
            return mean + kept.maps_like(maps, kept.latents(maps.double() - mean.double()))

        return run(change)

    each = []
    for j in range(min(first, len(pairs))):
        one, values = pairs[j : j + 1], -deviations[:, j : j + 1]
        chance = [moved(random_pairs(one, seed + 1000 * j + draw), values) for draw in range(draws)]
        each.append(_cost(moved(one, values), chance, SAME_CHANGE))
    chance = [only(random_pairs(pairs, seed + 10**6 + draw)) for draw in range(draws)]
    return Ablation(
        layer=layer,
        pairs=pairs,
        images=n,
        base_loss=score.base[0],
        base_accuracy=score.base[1],
        each=tuple(each),
        rest=_cost(only(pairs), chance, RANDOM_KEPT),
        everything=_cost(only(None), [], ""),
    )


@dataclass(frozen=True, eq=False)
class _Costs:
    """Means over images, and their standard errors, of the rise of the loss and the fall of the accuracy."""

    loss: tuple[float, float]
    accuracy: tuple[float, float] | None


class _Scores:
    """Compares outputs with those of the network as it is."""

    def __init__(self, outputs: Tensor, labels: Tensor | None) -> None:
        self.labels = labels
        self.outputs = outputs.double().cpu()
        self.base = (float("nan"), float("nan"))
        if labels is None:
            variance = (self.outputs - self.outputs.mean(0)).flatten(1).square().sum(1)
            if not float(variance.mean()) > 0:
                raise ConvscopeError("the network puts out the same for all images: there is nothing to lose")
            self.variance = variance
            return
        if (
            self.outputs.ndim != 2
            or len(labels) != len(outputs)
            or not 0 <= int(labels.min()) <= int(labels.max()) < (self.outputs.shape[1])
        ):
            raise ConvscopeError(
                f"outputs of shape {list(outputs.shape)} are no class scores for labels from {int(labels.min())} to "
                f"{int(labels.max())} of {len(labels)} images: expected a score for each class; or give no labels"
            )
        self.entropy, self.hit = self._measured(self.outputs, labels)
        self.base = float(self.entropy.mean()), float(self.hit.mean())

    def __call__(self, outputs: Tensor) -> _Costs:
        outputs = outputs.double().cpu()
        if self.labels is None:
            moved, scale = (outputs - self.outputs).flatten(1).square().sum(1), self.variance.mean()
            value = moved.mean() / scale
            # Of a ratio of means, to first order.
            return _Costs((float(value), _error((moved - value * self.variance) / scale)), None)
        entropy, hit = self._measured(outputs, self.labels)
        rise, fall = entropy - self.entropy, self.hit - hit
        return _Costs((float(rise.mean()), _error(rise)), (float(fall.mean()), _error(fall)))

    @staticmethod
    def _measured(outputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        labels = labels.cpu()
        return F.cross_entropy(outputs, labels, reduction="none"), (outputs.argmax(1) == labels).double()


def _error(values: Tensor) -> float:
    return float(values.std() / len(values) ** 0.5) if len(values) > 1 else float("nan")


def _cost(found: _Costs, chance: list[_Costs], name: str) -> Cost:
    def number(value: tuple[float, float], draws: list[float], definition: str) -> Number:
        band = None
        if draws:
            drawn = torch.tensor(draws, dtype=torch.float64)
            mean, reach = float(drawn.mean()), 1.96 * float(drawn.std())
            # An error of outputs, unlike a rise of the loss, is never negative.
            low = max(mean - reach, 0.0) if definition == "ablation output" else mean - reach
            band = (low, mean + reach)
        return Number(value[0], value[1], band, definition, name)

    kind = "ablation output" if found.accuracy is None else "ablation loss"
    loss = number(found.loss, [c.loss[0] for c in chance], kind)
    if found.accuracy is None:
        return Cost(loss, None)
    falls = [c.accuracy[0] for c in chance if c.accuracy is not None]
    return Cost(loss, number(found.accuracy, falls, "ablation accuracy"))
