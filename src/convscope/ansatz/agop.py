"""The average gradient outer product over the patches of every convolution, from one pass over the images."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from convscope.ansatz.compare import Kind, correlation
from convscope.ansatz.gram import GradientGram, ImageCount
from convscope.core.accumulate import jackknife
from convscope.core.delivery import Delivery, Stopwatch
from convscope.core.errors import ConvscopeError
from convscope.core.geometry import ConvGeometry
from convscope.core.network import Network
from convscope.core.passes import Pass
from convscope.core.results import Number, Skip
from convscope.core.slots import Slot
from convscope.core.streams import Cotangent, EachOutput, Gradient, Images, Loss, Outputs, Probes
from convscope.core.taps import ConvCall, left_as_found
from convscope.inputs.iterables import IterableSource

What = Literal["logits", "probabilities", "loss"]
TARGET = 0.01  # standard error of the correlation, from the draw of the probes, that is small enough
MOST_PROBES = 16
_TRIAL_IMAGES = 16
_TRIAL_DRAWS = 4

log = logging.getLogger("convscope")


@dataclass(frozen=True, eq=False)
class PatchAgop:
    """One convolution's filters, and the gradients with respect to its patches, averaged over images.

    With one group matrices are [d, d], with g groups [g, d, d]: the blocks within the groups. A patch has d entries
    in the order of ``weight.flatten(1)``: channel, row, column.

    Attributes:
        layer: the convolution's name.
        geometry: as called.
        weight: float64 [g, k / g, d], the weight that was used.
        gram: float64 [g, k / g, k / g], S = (1/n) sum over images, outputs and positions of delta delta^T, with delta
            the gradient at a position of the convolution's output.
        n_images: n.
        init: float64 [g, k / g, d], the weight before training, or None.
        without: (images left out, gram of the others) for each fold.
    """

    layer: str
    geometry: ConvGeometry
    weight: Tensor
    gram: Tensor
    n_images: int
    init: Tensor | None = None
    without: tuple[tuple[int, Tensor], ...] = field(default=(), repr=False)

    @property
    def agop(self) -> Tensor:
        """(1/n) sum over images, outputs and positions of the gradient's outer product: W^T S W, float64.

        Beaglehole et al. 2023, abstract; the identity holds since an output depends on a patch through W alone.
        """
        return self._plain(self.weight.mT @ self.gram @ self.weight)

    @property
    def nfm(self) -> Tensor:
        """Neural feature matrix W^T W, float64."""
        return self._plain(self.weight.mT @ self.weight)

    def correlation(
        self, kind: Kind = "pearson", power: float = 1.0, *, change: bool = False, init: Tensor | None = None
    ) -> float:
        """Returns how alike the neural feature matrix and a power of the AGOP are, in [-1, 1].

        Args:
            kind: "pearson": over the matrices' entries, less their mean; "cosine": their means are left in.
            power: of the AGOP; the paper compares with 1, later work with 1/2.
            change: whether to compare the change of the weights since ``init`` instead of the weights.
            init: [k, c / g, q, r], the weights before training; default: what the result knows.

        Raises:
            ConvscopeError: when the change is asked for and the weights before training are not known.
        """
        start = None
        if change:
            start = self.init if init is None else grouped(init, self.geometry.groups)
            if start is None:
                raise ConvscopeError(f"the weights of {self.layer} before training are not known: hand them in as init")
        return self._correlation(self.gram, kind, power, start)

    def number(
        self,
        kind: Kind = "pearson",
        power: float = 1.0,
        *,
        change: bool = False,
        chance: tuple[float, float] | None = None,
        definition: str = "",
        chance_name: str = "",
    ) -> Number:
        """Returns ``correlation`` with its jackknife standard error over the folds of images.

        Args:
            kind: as for ``correlation``.
            power: as for ``correlation``.
            change: as for ``correlation``.
            chance: what chance gives, (low, high).
            definition: key of the number's definition.
            chance_name: what chance is here, in words.
        """
        whole = self.correlation(kind, power, change=change)
        start = self.init if change else None
        without = [self._correlation(gram, kind, power, start) for _, gram in self.without]
        spread = jackknife(whole, without, [float(n) for n, _ in self.without])
        return Number(whole, spread, chance, definition, chance_name)

    def _correlation(self, gram: Tensor, kind: Kind, power: float, start: Tensor | None) -> float:
        change = None if start is None else self.weight - start
        return correlation(self.weight, gram, kind=kind, power=power, change=change)

    def _plain(self, matrix: Tensor) -> Tensor:
        return matrix[0] if self.geometry.groups == 1 else matrix


def grouped(weight: Tensor, groups: int) -> Tensor:
    """Returns a weight [k, c / g, q, r] as float64 [g, k / g, d] on the CPU, detached."""
    return weight.detach().cpu().double().flatten(1).unflatten(0, (groups, -1))


def cotangent_of(outputs: What, *, exact: bool, probes: int, seed: int = 0) -> Cotangent:
    """Returns what is sent back through the network.

    Args:
        outputs: what is differentiated.
        exact: whether each output is sent back in turn; else random signs for all at once.
        probes: number of draws of the signs.
        seed: of the draws.

    Raises:
        ValueError: for an unknown kind of output or a number of probes below 1.
    """
    if outputs not in {"logits", "probabilities", "loss"}:
        raise ValueError(f"outputs must be logits, probabilities or loss, got {outputs!r}")
    if probes < 1:
        raise ValueError(f"probes must be at least 1, got {probes}")
    if outputs == "loss":
        return Loss()
    of: Outputs = outputs
    return EachOutput(of) if exact else Probes(probes, seed, of)


def feed_agop(
    p: Pass, network: Network, cotangent: Cotangent, layers: Collection[str] | None = None
) -> Callable[[], tuple[dict[str, PatchAgop], list[Skip]]]:
    """Feeds a pass, and returns what gives each convolution's AGOP after it ran, with what could not be analysed.

    Args:
        p: the pass.
        network: whose convolutions; one backward pass for each vector of the cotangent serves all of them.
        cotangent: what is sent back.
        layers: names of the convolutions; None for all.

    Raises:
        ConvscopeError: when the network has none of these convolutions, or fails on the images.
    """
    calls = p.chosen(network, layers)
    count = p.feed(Images(), ImageCount, label="counting")
    draws = cotangent.count if isinstance(cotangent, Probes) else 1
    slots: dict[str, Slot[Tensor]] = {}
    for call in calls:
        stream = Gradient(network, call.name, cotangent)
        make = partial(GradientGram, call.geometry.groups)
        slots[call.name] = p.feed(stream, make, label="outer products of gradients")

    def finish() -> tuple[dict[str, PatchAgop], list[Skip]]:
        n, others = count.value(), count.leave_one_out()
        found, skipped = {}, []
        for call in calls:
            try:
                total, rest = slots[call.name].value(), slots[call.name].leave_one_out()
            except ConvscopeError as error:
                skipped.append(Skip(call.name, str(error)))
                continue
            without = tuple((size, gram / (m * draws)) for (size, m), (_, gram) in zip(others, rest, strict=False) if m)
            found[call.name] = PatchAgop(
                layer=call.name,
                geometry=call.geometry,
                weight=grouped(call.weight, call.geometry.groups),
                gram=total / (n * draws),
                n_images=n,
                without=without if len(rest) == len(others) else (),
            )
        return found, skipped

    return finish


def probes_needed(
    p: Pass, network: Network, outputs: What, layers: Collection[str] | None = None, seed: int = 0
) -> int:
    """Returns how many probes an image should get for the correlations to be known well enough.

    A few draws on a few images of the pilot show how much the correlation of each layer varies from draw to draw;
    that variance falls with the number of images and of probes.

    Args:
        p: the pass.
        network: the network.
        outputs: what is differentiated.
        layers: names of the convolutions; None for all.
        seed: of the draws.
    """
    calls = p.chosen(network, layers)
    if outputs == "loss" or p.source.n is None:
        return 1
    few = p.pilot[torch.arange(min(len(p.pilot), _TRIAL_IMAGES))]
    values: dict[str, list[float]] = {call.name: [] for call in calls}
    with left_as_found([network.module]):
        for draw in range(_TRIAL_DRAWS):
            cotangent = cotangent_of(outputs, exact=False, probes=1, seed=seed + 1 + draw)
            slots: list[Slot[Tensor]] = []
            for call in calls:
                stream = Gradient(network, call.name, cotangent)
                slots.append(Slot(stream, partial(GradientGram, call.geometry.groups), False, "trial"))
            Delivery(slots, few, None, Stopwatch())(few, sample=False)
            for call, slot in zip(calls, slots, strict=True):
                if slot.failure is None and slot.accumulator.state_dict():
                    weight = grouped(call.weight, call.geometry.groups)
                    values[call.name].append(correlation(weight, slot.value()))
    spreads = [float(torch.tensor(v).std()) for v in values.values() if len(v) == _TRIAL_DRAWS]
    worst = max((s for s in spreads if math.isfinite(s)), default=0.0)
    return min(max(math.ceil((worst / TARGET) ** 2 * len(few) / p.source.n), 1), MOST_PROBES)


def patch_agop(
    model: nn.Module,
    batches: Iterable[Any],
    exact: bool = False,
    probes: int | None = None,
    *,
    outputs: What = "logits",
    layers: Collection[str] | None = None,
    init: nn.Module | None = None,
    seed: int = 0,
    progress: bool = False,
) -> Mapping[str, PatchAgop]:
    """Returns the average gradient outer product over the patches of every convolution of a network.

    AGOP = (1/n) sum over images, outputs and positions of the gradient of an output with respect to a patch, times
    itself transposed (Beaglehole et al. 2023). One forward and one backward pass for each probe, or for each output
    when exact, serve all layers; no patch is formed. The network is left as it was found.

    Args:
        model: any module that maps images [n, c, h, w] to class scores [n, o].
        batches: tensors [n, c, h, w], (images, labels) pairs, a ``DataLoader``, ....
        exact: whether to send back each output in turn; else random signs for all outputs at once, whose outer
            products are right on average.
        probes: number of draws of random signs for each image; None: as many as make the standard error of every
            layer's correlation, as far as it comes from the draws, about 0.01, and at most 16.
        outputs: "logits", "probabilities", or "loss" (cross-entropy with the batches' labels; one vector an image,
            so that it is always exact).
        layers: names of the convolutions; None for all.
        init: the same network before training, for the change of the weights.
        seed: of the draws.
        progress: whether to show a progress bar.

    Returns:
        Name of each convolution to its ``PatchAgop``, in the order in which they run. A convolution whose gradients
        cannot be had is left out with a warning; when that is true of all, the error says why.

    Raises:
        ConvscopeError: when the network or the images cannot be analysed; the message says what to do.
        TypeError: when the model is no module.
        ValueError: when probes are asked for together with exact, or are fewer than 1.

    Example:
        >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2))
        >>> result = patch_agop(net, torch.rand(16, 3, 8, 8), exact=True)["0"]
        >>> result.agop.shape, result.agop.dtype
        (torch.Size([27, 27]), torch.float64)
        >>> 0 < result.correlation() <= 1
        True
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    if exact and probes is not None:
        raise ValueError("exact sends back each output and needs no probes: give one of the two")
    p = Pass(IterableSource(batches), progress=progress)
    network = Network(type(model).__name__, model)
    if probes is None:
        probes = 1 if exact else probes_needed(p, network, outputs, layers, seed)
    finish = feed_agop(p, network, cotangent_of(outputs, exact=exact, probes=probes, seed=seed), layers)
    starts = {} if init is None else {c.name: c for c in p.convs(Network("the network before training", init))}
    p.run()
    found, skipped = finish()
    if not found:
        raise ConvscopeError(f"no convolution could be analysed; {skipped[0].what}: {skipped[0].reason}")
    for skip in skipped:
        log.warning("%s is left out: %s", skip.what, skip.reason)
    return {name: with_init(result, starts.get(name)) for name, result in found.items()}


def with_init(result: PatchAgop, start: ConvCall | None) -> PatchAgop:
    """Returns the result with the weights before training, where their shape is the same."""
    if start is None:
        return result
    weight = grouped(start.weight, result.geometry.groups)
    return replace(result, init=weight) if weight.shape == result.weight.shape else result
