"""Delivery: runs the networks on a batch and hands each slot what its stream says."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge, Node, get_gradient_edge

from convscope.core.batches import Batch
from convscope.core.errors import ConvscopeError
from convscope.core.network import Network
from convscope.core.slots import Slot
from convscope.core.streams import Cotangent, Gradient, Images, Input, sampled
from convscope.core.taps import ConvCall, Enough, device_and_dtype, forward, logits

GRAPH_BYTES = 2**30  # that the activations kept for a backward pass may take, about
TOGETHER = 64  # images of a stream that gets a share of each batch; fewer would waste time on calls


class Stopwatch:
    """Wall-clock seconds by part; time in an inner part does not count in the outer one."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._inner: list[float] = [0.0]

    @contextmanager
    def __call__(self, part: str) -> Generator[None]:
        """Counts the time inside the context for ``part``."""
        self._inner.append(0.0)
        start = time.perf_counter()
        try:
            yield
        finally:
            elapsed = time.perf_counter() - start
            self.seconds[part] = self.seconds.get(part, 0.0) + elapsed - self._inner.pop()
            self._inner[-1] += elapsed


def quick_layout(network: Network, image: Tensor) -> torch.memory_format:
    """Returns the memory format in which images go through a network fastest.

    On the CPU, passes and products of gradients are up to twice as fast with the channels last; but networks that use
    ``view`` may refuse it.

    Args:
        network: tried on one image, [1, c, h, w].
        image: as its ``prepare`` takes it.
    """
    if device_and_dtype(network.module) == (torch.device("cpu"), torch.float32):
        with suppress(ConvscopeError), torch.no_grad():
            run_network(network, image, lambda _: None, layout=torch.channels_last)
            return torch.channels_last
    return torch.contiguous_format


def run_network(
    network: Network,
    images: Tensor,
    see: Callable[[ConvCall], None],
    differentiate: bool = False,
    layout: torch.memory_format = torch.contiguous_format,
) -> tuple[Tensor, Any]:
    """Returns the prepared images and what the network returns for them, with its convolutions tapped.

    Args:
        network: in evaluation mode.
        images: [n, c, h, w] as the source gives them.
        see: called at every convolution; may raise ``Enough``.
        differentiate: whether gradients must flow, also through a network whose parameters are frozen.
        layout: of the prepared images in memory.
    """
    device, dtype = device_and_dtype(network.module)
    x = network.prepare(images.to(device)).to(dtype).contiguous(memory_format=layout)
    if differentiate:
        x = x.detach().requires_grad_()
    return x, forward(network.module, x, see, network.name)


def upstream(edges: Sequence[GradientEdge]) -> list[GradientEdge]:
    """Returns those edges of the autograd graph upstream of which lies no other of them.

    Gradients at all edges pass by when those at these few are asked for, and none is computed any further: that of a
    large image, before its first convolution, can cost as much as that of several layers.

    Args:
        edges: where gradients are wanted.
    """
    nodes = {edge.node for edge in edges}
    kept = []
    for edge in edges:
        seen: set[Node | None] = {None}
        front = {node for node, _ in edge.node.next_functions}
        while front and not front & nodes:
            seen |= front
            front = {node for n in front if n is not None for node, _ in n.next_functions} - seen
        if not front:
            kept.append(edge)
    return kept


def _conv(slot: Slot[Any]) -> str:
    return "" if isinstance(slot.stream, Images) else slot.stream.conv


def _images(slot: Slot[Any]) -> int | None:
    return None if isinstance(slot.stream, Images) else slot.stream.images


class Delivery:
    """Delivers batches to slots: a forward per network, a backward per cotangent vector, all layers at once.

    Args:
        slots: what to fill.
        pilot: one image, on which the order of each network's convolutions is seen.
        n: number of images of the source, where known.
        stopwatch: counts seconds by part.
    """

    def __init__(self, slots: Sequence[Slot[Any]], pilot: Batch, n: int | None, stopwatch: Stopwatch) -> None:
        self.slots = slots
        self.pilot = pilot
        self.n = n
        self.timed = stopwatch
        self._order: dict[Network, list[str]] = {}
        self._graph: dict[Network, int] = {}  # bytes of one image's, about
        self._layouts: dict[Network, torch.memory_format] = {}
        self._waiting: dict[tuple[Network, int], list[Batch]] = {}

    @property
    def networks(self) -> list[Network]:
        """The networks that the slots' streams need."""
        return list(dict.fromkeys(s.stream.network for s in self.slots if not isinstance(s.stream, Images)))

    def __call__(self, batch: Batch, sample: bool = True) -> None:
        """Delivers a batch.

        Args:
            batch: the images.
            sample: whether streams that ask for a share of the images get only that.
        """
        slots = [s for s in self.slots if s.failure is None]
        for stream in dict.fromkeys(s.stream for s in slots if isinstance(s.stream, Images)):
            x = stream(batch.images)
            for slot in slots:
                if slot.stream == stream:
                    self._update(slot, x, batch)
        for network in self.networks:
            groups: dict[int | None, list[Slot[Any]]] = {}
            for slot in self._slots_of(network):
                groups.setdefault(_images(slot) if sample and self.n is not None else None, []).append(slot)
            for images, group in groups.items():
                if images is None or self.n is None:
                    self._visit(network, group, batch)
                elif len(part := batch[sampled(batch, images / self.n)]):
                    self._wait(network, images, part)

    def flush(self) -> None:
        """Delivers what still waits: images of streams that get a share of each batch are delivered many at a time."""
        for network, images in self._waiting:
            self._deliver(network, images)

    def _wait(self, network: Network, images: int, part: Batch) -> None:
        waiting = self._waiting.setdefault((network, images), [])
        if waiting and not waiting[0].fits(part):
            self._deliver(network, images)
        waiting.append(part)
        if sum(map(len, waiting)) >= TOGETHER:
            self._deliver(network, images)

    def _deliver(self, network: Network, images: int) -> None:
        waiting = self._waiting[network, images]
        group = [slot for slot in self._slots_of(network) if _images(slot) == images]
        if waiting and group:
            self._visit(network, group, Batch.joined(waiting))
        waiting.clear()

    def _slots_of(self, network: Network) -> list[Slot[Any]]:
        return [
            slot
            for slot in self.slots
            if slot.failure is None and not isinstance(slot.stream, Images) and slot.stream.network is network
        ]

    def _visit(self, network: Network, slots: list[Slot[Any]], batch: Batch) -> None:
        step = len(batch)
        if network in self._graph and any(isinstance(s.stream, Gradient) for s in slots):
            step = min(step, max(GRAPH_BYTES // self._graph[network], 1))
        for rows in torch.arange(len(batch)).split(step):
            self._run(network, slots, batch if len(rows) == len(batch) else batch[rows])

    def _run(self, network: Network, slots: list[Slot[Any]], batch: Batch) -> None:
        forwards = [s for s in slots if not isinstance(s.stream, Gradient)]
        backwards = [s for s in slots if isinstance(s.stream, Gradient)]
        takers: dict[Cotangent, dict[str, list[Slot[Any]]]] = {}
        for slot in backwards:
            if isinstance(slot.stream, Gradient):
                takers.setdefault(slot.stream.cotangent, {}).setdefault(_conv(slot), []).append(slot)
        wanted = {_conv(s) for s in slots}
        differentiated = {_conv(s) for s in backwards}
        edges: list[GradientEdge] = []
        current: list[Cotangent] = []
        found: set[str] = set()
        end = None if backwards else self._last_call(network, wanted)
        seen = size = 0

        def see(call: ConvCall) -> None:
            nonlocal seen, size
            seen += 1
            # Its output, and what normalisation and activation make of it.
            size += 3 * call.output.numel() * call.output.element_size()
            if call.name in wanted:
                found.add(call.name)
                for slot in forwards:
                    if _conv(slot) == call.name:
                        x = call.input if isinstance(slot.stream, Input) else call.output
                        self._update(slot, x.detach().contiguous(), batch)
                if call.name in differentiated and call.output.requires_grad:
                    # By name: a hook that held the call would hold the graph that holds the hook, for ever.
                    call.output.register_hook(partial(arrived, call.name))
                    edges.append(get_gradient_edge(call.output))
            if seen == end:
                raise Enough

        def arrived(conv: str, gradient: Tensor) -> None:
            for slot in takers[current[-1]].get(conv, ()):
                self._update(slot, gradient.detach(), batch)

        layout = self._layout(network) if backwards else torch.contiguous_format
        with torch.set_grad_enabled(bool(backwards)):
            with self.timed(f"{network.name}: forward"):
                x, output = run_network(network, batch.images, see, bool(backwards), layout)
            try:
                ends: list[GradientEdge] | list[Tensor] = upstream(edges) or [x]
                for cotangent in takers:
                    current.append(cotangent)
                    scores = logits(output, len(batch))
                    for vector in cotangent.vectors(scores, batch):
                        with self.timed(f"{network.name}: backward"):
                            torch.autograd.grad(scores, ends, vector, retain_graph=True, allow_unused=True)
            except (ConvscopeError, RuntimeError) as error:
                reason = str(error).splitlines()[0][:200]
                for slot in backwards:
                    slot.failure = f"gradients of {network.name} cannot be had ({reason})"
        if backwards:
            self._graph.setdefault(network, max(size // len(batch), 1))
        for slot in slots:
            if _conv(slot) not in found and slot.failure is None:
                slot.failure = f"{network.name} did not call the convolution {_conv(slot)!r} on these images"

    def _update(self, slot: Slot[Any], x: Tensor, batch: Batch) -> None:
        if slot.failure is not None:
            return
        if x.shape[0] != len(batch):
            slot.failure = (
                f"the layer saw {x.shape[0]} maps for {len(batch)} images: only layers that see one map an image "
                "can be analysed"
            )
            return
        try:
            with self.timed(slot.label):
                slot.accumulator.update(x, batch)
        except ConvscopeError as error:
            slot.failure = str(error)

    def _last_call(self, network: Network, wanted: set[str]) -> int | None:
        # Where only the first layers are wanted, the rest of the forward pass is left out.
        if network not in self._order:
            calls: list[str] = []
            run_network(network, self.pilot.images[:1], lambda call: calls.append(call.name))
            self._order[network] = calls
        return max((k + 1 for k, name in enumerate(self._order[network]) if name in wanted), default=None)

    def _layout(self, network: Network) -> torch.memory_format:
        if network not in self._layouts:
            self._layouts[network] = quick_layout(network, self.pilot.images[:1])
        return self._layouts[network]
