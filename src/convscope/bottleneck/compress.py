"""Compression of a trained network: its convolutions in factors, as small as a tolerance allows."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from convscope.bottleneck.factored import Cost, with_layers
from convscope.bottleneck.forms import Candidate, Choice, chosen
from convscope.bottleneck.loss import Judge, Loss
from convscope.bottleneck.saved import save_compressed
from convscope.bottleneck.sensitivity import IMAGES, layer_moments, replaceable
from convscope.core.batches import mix
from convscope.core.delivery import run_network
from convscope.core.errors import ConvscopeError
from convscope.core.network import Network
from convscope.core.results import Skip
from convscope.core.taps import ConvCall, left_as_found

_HALVES = 7  # first number of the hash that halves the images
_STEPS = 10  # of the bisection, over twelve powers of ten of the price
_LOWEST, _HIGHEST = 1e-9, 1e3  # price of all numbers of the network, in output variances
_MARGIN = 1.0  # half widths of the interval that the choice keeps from the tolerance: the other half varies as well


@dataclass(frozen=True, eq=False)
class Compression:
    """A network with convolutions in factors, and what that saved and lost.

    Attributes:
        network: the compressed copy; of a refused one the copy that was tried.
        layers: what stands for each replaced convolution, by name.
        skipped: convolutions that could not be replaced, and why.
        before: what the network takes as it is; multiply-adds are those of convolutions and linear
            layers, for one image.
        after: what the copy takes.
        tolerance: largest loss.
        selection: loss on the half of the images on which sizes were chosen.
        loss: loss on the other half.
        accuracy: shares of the other half that are classified correctly, before and after; None without labels.
        refusal: why there is nothing to save; "" when there is.
        notes: what a reader should know.
    """

    network: Network
    layers: Mapping[str, Choice]
    skipped: tuple[Skip, ...]
    before: Cost
    after: Cost
    tolerance: float
    selection: Loss | None
    loss: Loss | None
    accuracy: tuple[float, float] | None
    refusal: str
    notes: tuple[str, ...] = ()

    def save(self, path: str | Path) -> None:
        """Writes the compressed network as safetensors, for ``load_compressed``.

        Raises:
            ConvscopeError: when the compression was refused, or the file cannot be written.
        """
        if self.refusal:
            raise ConvscopeError(f"nothing to save: {self.refusal}")
        save_compressed(self.network.module, self.layers, Path(path))

    def sentences(self) -> list[str]:
        """Returns what was saved and lost in plain sentences, or what was refused and why."""
        found = []
        if self.layers:
            forms = [choice.option.form for choice in self.layers.values()]
            kinds = ", ".join(f"{forms.count(form)} in {form} form" for form in dict.fromkeys(forms))
            numbers = _share("stored numbers", self.before.numbers, self.after.numbers)
            adds = _share("multiply-adds an image", self.before.multiply_adds, self.after.multiply_adds)
            found.append(f"{len(self.layers)} convolutions replaced ({kinds}): {numbers}, {adds}.")
        if self.loss is not None:
            found.append(f"Loss on images that had no part in the choice: {self.loss}.")
        if self.accuracy is not None:
            found.append(
                f"Accuracy there: {100 * self.accuracy[0]:.2f} % before, {100 * self.accuracy[1]:.2f} % after."
            )
        if self.refusal:
            found.append(f"Refused: {self.refusal}.")
        return found


def _share(what: str, before: float, after: float) -> str:
    return f"{before:,.0f} {what} become {after:,.0f} ({100 * after / before:.1f} %)"


def compress(
    network: Network,
    images: Tensor,
    labels: Tensor | None = None,
    *,
    index: Tensor | None = None,
    tolerance: float = 0.01,
    progress: bool = False,
) -> Compression:
    """Returns a copy of a network whose convolutions are as small as a tolerance allows, or why there is none.

    A convolution may be replaced by its channel form (k x k to few channels, then 1 x 1; one group) or its frequency
    form (few pairs of a frequency and a direction; circular, stride 1, one group). One price of a stored number rules
    all layers: each takes the form and size for which the expected error of the network's output, plus the price of
    what it stores, is least. The price is bisected. Sizes are chosen on half of the images: on some of them, at most
    500, moments are summed; on the others of that half the upper end of the loss's 95 % interval must keep another
    half width from the tolerance. The loss is reported on the other half, and refused when its interval's upper end
    exceeds the tolerance. Which part an image is in, its identity says.

    A tolerance of 0.01 in accuracy takes at least 2,300 images, and many more before much is saved: with fewer
    the interval is wider than the tolerance.

    Args:
        network: left as it was found.
        images: [n, c, h, w], as its ``prepare`` takes them.
        labels: int64 [n], numbered as the network's outputs; images of label -1 are left out. Without labels, the
            loss is the relative output error |f - f'|^2 / |f - mean f|^2.
        index: int64 [n], identities of the images; None: their places.
        tolerance: the largest loss: a drop in accuracy as a fraction, or a relative output error.
        progress: whether to show a progress bar.

    Raises:
        ConvscopeError: when the network fails on the images or its output is not finite, or there are too few images.
        ValueError: for a tolerance that is not above 0, or arguments of different lengths.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> conv = torch.nn.Conv2d(3, 32, 3)
        >>> conv.weight.data[2:] = torch.einsum("ij,jcqr->icqr", torch.randn(30, 2), conv.weight.data[:2])
        >>> found = compress(Network("example", torch.nn.Sequential(conv)), torch.randn(64, 3, 8, 8), tolerance=1e-6)
        >>> found.refusal, found.layers["0"].kept, found.loss.value < 1e-6
        ('', 2, True)
    """
    if not tolerance > 0 or not math.isfinite(tolerance):
        raise ValueError(f"the tolerance must be a positive number, got {tolerance}")
    index = torch.arange(len(images)) if index is None else index
    if len(index) != len(images) or (labels is not None and len(labels) != len(images)):
        raise ValueError(f"expected a label and an identity for each of {len(images)} images")
    network = replace(network, module=getattr(network.module, "_orig_mod", network.module))
    notes: list[str] = []
    if labels is not None and bool((labels < 0).any()):
        images, index, labels = images[labels >= 0], index[labels >= 0], labels[labels >= 0]
        notes.append("images without a label were left out")
    if len(images) < 8:
        raise ConvscopeError(
            f"{len(images)} images are too few to compress on: half of them choose and half of them judge, so give at "
            "least 8, and thousands for a small tolerance"
        )
    order = mix(_HALVES, index).argsort(stable=True)
    half = len(order) // 2
    summed = min(IMAGES, half // 2)
    judges = [
        Judge(network, images[rows], None if labels is None else labels[rows])
        for rows in (order[summed:half], order[half:])
    ]
    convs, skipped = replaceable(network, images[order[:1]])
    moments, variance, failed, more = layer_moments(network, images[order[:summed]], index[order[:summed]], convs)
    candidates = {name: Candidate.of(convs[name], own) for name, own in moments.items()}
    before = network_cost(network, images[:1])
    search = _Search(network, candidates, before, variance, judges[0], tolerance)
    plan, selection = search.run(progress)
    parts = (network, plan, (*skipped, *failed), before)
    if not plan:
        why = "no convolution can be replaced by fewer stored numbers and fewer multiply-adds"
        return Compression(*parts, before, tolerance, None, None, None, why, tuple(notes + more))
    after = Cost(
        before.numbers + sum(c.cost.numbers - c.dense.numbers for c in plan.values()),
        before.multiply_adds + sum(c.cost.multiply_adds - c.dense.multiply_adds for c in plan.values()),
    )
    copied = replace(network, name=f"{network.name}, compressed", module=_built(network.module, plan))
    loss, shares = judges[1].judge(copied)
    refusal = _refusal(loss, selection, tolerance)
    return Compression(copied, *parts[1:], after, tolerance, selection, loss, shares, refusal, tuple(notes + more))


def _refusal(loss: Loss, selection: Loss | None, tolerance: float) -> str:
    if not loss.within(tolerance):
        return f"on the other half of the images it loses {loss}, and the tolerance is {tolerance:g}"
    if selection is None or not selection.within(tolerance, _MARGIN):
        return f"where sizes are chosen, the mildest try loses {selection}: too close to the tolerance of {tolerance:g}"
    return ""


def network_cost(network: Network, image: Tensor) -> Cost:
    """Returns the entries of a network's saved tensors, and the multiply-adds of its convolutions and linear layers.

    Args:
        network: the network.
        image: [1, c, h, w], as its ``prepare`` takes it.

    Raises:
        ConvscopeError: when the network fails on the image.
    """
    found = [0.0]

    def see(call: ConvCall) -> None:
        found.append(call.weight.numel() * call.output[0, 0].numel())

    def linear(layer: nn.Module, _: Any, output: Tensor) -> None:
        found.append(layer.get_parameter("weight").numel() * output.numel() / output.shape[-1])

    handles = [m.register_forward_hook(linear) for m in network.module.modules() if isinstance(m, nn.Linear)]
    try:
        with left_as_found([network.module]), torch.no_grad():
            run_network(network, image, see)
    finally:
        for handle in handles:
            handle.remove()
    numbers = sum(t.numel() for t in network.module.state_dict().values() if isinstance(t, Tensor))
    return Cost(numbers, sum(found))


def _built(module: nn.Module, plan: Mapping[str, Choice]) -> nn.Module:
    return with_layers(module, {name: choice.build() for name, choice in plan.items()})


class _Search:
    """The bisection of the price of a stored number."""

    def __init__(
        self,
        network: Network,
        candidates: Mapping[str, Candidate],
        before: Cost,
        variance: float,
        judge: Judge,
        tolerance: float,
    ) -> None:
        self.network, self.candidates, self.judge, self.tolerance = network, candidates, judge, tolerance
        self.unit = (variance or 1.0) / before.numbers
        self.seen: dict[tuple, Loss] = {}

    def run(self, progress: bool) -> tuple[dict[str, Choice], Loss | None]:
        """Returns the smallest plan within the tolerance, else the mildest, and its loss; empty where none saves."""
        low, high = math.log(_LOWEST), math.log(_HIGHEST)
        mildest: dict[str, Choice] = {}
        best: dict[str, Choice] = {}
        for _ in tqdm(range(_STEPS), desc="compressing", unit="try", disable=not progress, leave=False):
            middle = (low + high) / 2
            plan = chosen(self.candidates, math.exp(middle) * self.unit)
            if not plan:
                low = middle
            elif self.loss(plan).within(self.tolerance, _MARGIN):
                low, best = middle, plan
            else:
                high, mildest = middle, plan
        plan = best or mildest
        return plan, self.loss(plan) if plan else None

    def loss(self, plan: Mapping[str, Choice]) -> Loss:
        """Returns the loss of a plan, measured once."""
        key = tuple((name, choice.option.form, choice.size) for name, choice in plan.items())
        if key not in self.seen:
            copied = replace(self.network, module=_built(self.network.module, plan))
            self.seen[key], _ = self.judge.judge(copied)
        return self.seen[key]
