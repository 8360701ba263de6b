"""What is sent back through a network, and the sums over images that it leaves at every convolution."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal, get_args

import torch
from torch import Tensor

from convscope.ansatz.agop import PatchAgop, grouped
from convscope.ansatz.centred import CentredGram
from convscope.ansatz.compare import Comparison
from convscope.ansatz.gram import GradientGram, GradientMoment
from convscope.core.batches import FEWEST_FOLDS
from convscope.core.delivery import Delivery, Stopwatch, run_network
from convscope.core.errors import ConvscopeError
from convscope.core.network import Network, following_norm
from convscope.core.passes import Pass
from convscope.core.results import Skip
from convscope.core.slots import Slot
from convscope.core.streams import Cotangent, EachOutput, Gradient, Loss, OneOutput, Probes
from convscope.core.taps import ConvCall, left_as_found, logits

What = Literal["logits", "probabilities", "loss"]
TARGET = 0.01  # standard error of the correlation, from the draw of the probes, that is small enough
MOST_PROBES = 16
_TRIAL_IMAGES = 16
_TRIAL_DRAWS = 4
_MOST_CENTRED = 100  # outputs; each has sums of its own

# Gives what is known of one convolution after the other, once; each one's sums are forgotten afterwards.
Collected = Callable[[], Iterator[PatchAgop | Skip]]


@dataclass(frozen=True)
class SentBack:
    """What is sent back through a network.

    Attributes:
        outputs: what is differentiated: "logits", "probabilities", or "loss" (cross-entropy with the images' labels;
            one vector an image, so that it is always exact).
        exact: whether each output is sent back in turn; else random signs for all at once.
        probes: number of draws of the signs for each image.
        centred: whether the mean over images of the gradient, for each output and position, is removed; exact only,
            since random signs destroy that mean.
        classes: numbers of outputs whose gradients are also kept apart.
        images: about how many images to use, spread over the data; None for all.
        seed: of the draws.

    Raises:
        ValueError: for an unknown kind of output, fewer than one probe, or what cannot go together.
    """

    outputs: What = "logits"
    exact: bool = False
    probes: int = 1
    centred: bool = False
    classes: tuple[int, ...] = ()
    images: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.outputs not in get_args(What):
            raise ValueError(f"outputs must be logits, probabilities or loss, got {self.outputs!r}")
        if self.probes < 1:
            raise ValueError(f"probes must be at least 1, got {self.probes}")
        if self.centred and not self.exact:
            raise ValueError("centring needs exact: probes with random signs destroy the mean gradient")
        if self.outputs == "loss" and (self.centred or self.classes):
            raise ValueError(
                "the loss is one number an image: centring and classes need outputs logits or probabilities"
            )
        if any(k < 0 for k in self.classes):
            raise ValueError(f"classes are numbers of outputs from 0, got {min(self.classes)}")

    def cotangents(self, outputs: int) -> tuple[Cotangent, ...]:
        """Returns the cotangents whose outer products add up to the AGOP.

        Args:
            outputs: how many the network has.

        Raises:
            ConvscopeError: when centring would keep sums for too many outputs.
        """
        if self.outputs == "loss":
            return (Loss(),)
        if not self.exact:
            return (Probes(self.probes, self.seed, self.outputs),)
        if not self.centred:
            return (EachOutput(self.outputs),)
        if outputs > _MOST_CENTRED:
            raise ConvscopeError(
                f"centring keeps sums for each of {outputs} outputs, and at most {_MOST_CENTRED} are possible: "
                "leave centring out"
            )
        return tuple(OneOutput(k, self.outputs) for k in range(outputs))

    @property
    def draws(self) -> int:
        """Number of times that the outputs are counted."""
        return 1 if self.exact or self.outputs == "loss" else self.probes


def feed_agop(p: Pass, network: Network, sent: SentBack, layers: Collection[str] | None = None) -> Collected:
    """Feeds a pass, and returns what gives each convolution's AGOP after it ran, or why it cannot be had.

    Args:
        p: the pass.
        network: whose convolutions; one backward pass for each vector that is sent back serves all of them.
        sent: what is sent back.
        layers: names of the convolutions; None for all.

    Raises:
        ConvscopeError: when the network has none of these convolutions, or none of these outputs, or fails on the
            images.
    """
    calls = p.chosen(network, layers)
    if sent.outputs == "loss":
        Loss.labels(p.pilot)
    outputs = _outputs(p, network) if sent.centred or sent.classes else 0
    if sent.classes and max(sent.classes) >= outputs:
        raise ConvscopeError(f"{network.name} has {outputs} outputs: there is no output {max(sent.classes)}")
    parts = sent.cotangents(outputs)
    skipped: list[Skip] = []
    slots: dict[str, list[Slot[GradientMoment]]] = {}
    of_class: dict[str, dict[int, Slot[GradientMoment]]] = {}

    def feed(call: ConvCall, cotangent: Cotangent) -> Slot[GradientMoment]:
        make = partial(CentredGram if sent.centred else GradientGram, call.geometry.groups)
        stream = Gradient(network, call.name, cotangent, images=sent.images)
        return p.feed(stream, make, label="outer products of gradients")

    for call in calls:
        size = 8 * len(parts) * FEWEST_FOLDS * call.output[0].numel()
        if sent.centred and size > p.max_memory:
            reason = (
                f"the mean gradient of each output and position takes {size / 2**30:.1f} GiB: allow more memory, use "
                "smaller images, or leave centring out"
            )
            skipped.append(Skip(call.name, reason))
            continue
        slots[call.name] = [feed(call, cotangent) for cotangent in parts]
        apart = {c.output: slot for c, slot in zip(parts, slots[call.name], strict=True) if isinstance(c, OneOutput)}
        of_class[call.name] = {
            k: apart.get(k) or feed(call, OneOutput(k, sent.outputs if sent.outputs != "loss" else "logits"))
            for k in sent.classes
        }

    def finish() -> Iterator[PatchAgop | Skip]:
        yield from skipped
        for call in calls:
            if call.name in slots:
                yield _collected(network, call, sent, slots[call.name], of_class[call.name])
                for slot in (*slots[call.name], *of_class[call.name].values()):
                    slot.release()

    return finish


def _collected(
    network: Network,
    call: ConvCall,
    sent: SentBack,
    slots: Sequence[Slot[GradientMoment]],
    of_class: Mapping[int, Slot[GradientMoment]],
) -> PatchAgop | Skip:
    try:
        if not call.weight.isfinite().all():
            raise ConvscopeError("its weights hold NaN or infinite values: the training diverged")
        whole = _added([slot.value() for slot in slots])
        apart = {k: slot.value() for k, slot in of_class.items()}
    except ConvscopeError as error:
        return Skip(call.name, str(error))
    rest = zip(*(slot.leave_one_out() for slot in slots), strict=True)
    others = [_added([moment for _, moment in fold]) for fold in rest]
    return PatchAgop(
        layer=call.name,
        geometry=call.geometry,
        weight=grouped(call.weight, call.geometry.groups),
        gram=whole.total / (whole.images * sent.draws),
        n_images=whole.images,
        norm=_norm(network, call),
        of_output={k: moment.total / moment.images for k, moment in apart.items()},
        without=tuple((whole.images - m.images, m.total / (m.images * sent.draws)) for m in others if m.images),
    )


def _added(moments: list[GradientMoment]) -> GradientMoment:
    # The same images, other outputs.
    first, *rest = moments
    return replace(first, total=sum((m.total for m in rest), first.total))


def _outputs(p: Pass, network: Network) -> int:
    with left_as_found([network.module]), torch.no_grad():
        _, output = run_network(network, p.pilot.images[:1], lambda _: None)
    return logits(output, 1).shape[1]


def _norm(network: Network, call: ConvCall) -> Tensor | None:
    norm = following_norm(network.module, call.name)
    if norm is None:
        return None
    gamma, variance, eps = norm
    return (gamma.double() / (variance.double() + eps).sqrt()).cpu().unflatten(0, (call.geometry.groups, -1))


def with_init(result: PatchAgop, starts: Mapping[str, ConvCall]) -> PatchAgop:
    """Returns the result with its weights before training.

    Args:
        result: of the trained network.
        starts: the convolutions of the network before training, by name.

    Raises:
        ConvscopeError: when that network lacks the convolution, or its weights there do not fit or are not finite.
    """
    start = starts.get(result.layer)
    if start is None:
        raise ConvscopeError("that network has no convolution of this name: hand in the same architecture")
    if start.weight.shape != result.shape:
        raise ConvscopeError(
            f"its weights have another shape {list(start.weight.shape)} than the network's {list(result.shape)}: "
            "hand in the same architecture"
        )
    if not start.weight.isfinite().all():
        raise ConvscopeError("its weights hold NaN or infinite values: hand in those that the training began with")
    return replace(result, init=grouped(start.weight, result.geometry.groups))


def probes_needed(p: Pass, network: Network, sent: SentBack, layers: Collection[str] | None = None) -> int:
    """Returns how many probes an image should get for the correlations to be known well enough.

    A few draws on a few images of the pilot show how much the correlation of each layer varies from draw to draw;
    that variance falls with the number of images and of probes.

    Args:
        p: the pass.
        network: the network.
        sent: what will be sent back.
        layers: names of the convolutions; None for all.
    """
    calls = p.chosen(network, layers)
    images = sent.images or p.source.n
    if sent.outputs == "loss" or sent.exact or images is None:
        return 1
    few = p.pilot[torch.arange(min(len(p.pilot), _TRIAL_IMAGES))]
    filters = {call.name: Comparison(grouped(call.weight, call.geometry.groups)) for call in calls}
    values: dict[str, list[float]] = {name: [] for name in filters}
    with left_as_found([network.module]):
        for draw in range(_TRIAL_DRAWS):
            (cotangent,) = replace(sent, probes=1, seed=sent.seed + 1 + draw).cotangents(0)
            slots: list[Slot[GradientMoment]] = []
            for call in calls:
                stream = Gradient(network, call.name, cotangent)
                slots.append(Slot(stream, partial(GradientGram, call.geometry.groups), False, "trial"))
            Delivery(slots, few, None, Stopwatch())(few, sample=False)
            for call, slot in zip(calls, slots, strict=True):
                if slot.failure is None and slot.accumulator.state_dict():
                    values[call.name].append(filters[call.name].correlation(slot.value().total))
    spreads = [float(torch.tensor(v).std()) for v in values.values() if len(v) == _TRIAL_DRAWS]
    worst = max((s for s in spreads if math.isfinite(s)), default=0.0)
    return min(max(math.ceil((worst / TARGET) ** 2 * len(few) / images), 1), MOST_PROBES)
