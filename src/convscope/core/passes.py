"""The pass: one reading of the images that feeds any number of accumulators."""

from __future__ import annotations

import hashlib
import logging
import signal
import time
from collections.abc import Callable, Collection, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch
from tqdm import tqdm

from convscope.core import checkpoint, processes
from convscope.core.accumulate import Accumulator
from convscope.core.batches import FEWEST_FOLDS, FOLDS, Batch
from convscope.core.coverage import Coverage
from convscope.core.delivery import Delivery, Stopwatch, run_network
from convscope.core.errors import ConvscopeError
from convscope.core.network import Network
from convscope.core.results import Skip
from convscope.core.slots import Slot
from convscope.core.source import Source
from convscope.core.streams import Gradient, Images, Stream
from convscope.core.taps import ConvCall, left_as_found

R = TypeVar("R")

PILOT = 64  # images of the pilot batch, whatever the batch size: what is measured on it must not depend on that

log = logging.getLogger("convscope")


class Pass:
    """One pass over the data: a forward per network, a backward per cotangent vector, all layers at once.

    Args:
        source: the images.
        networks: by name, for the theories to find ("model", "init", "twin").
        batch_size: images of a batch.
        workers: reading processes.
        max_memory: bytes that all sums together may take; the folds of the largest sums shrink from 10 to 4, then
            their spread is not computed.
        checkpoint_seconds: time between two checkpoints of the sums; 0 for one after each batch.
        progress: whether to show a progress bar.
        announce: told, once the first batch has shown it, how long the reading will take.

    Attributes:
        pilot: the first images, at most 64, the same in every process: for shapes and measured statistics.

    Raises:
        ConvscopeError: when no image can be read.
    """

    def __init__(
        self,
        source: Source,
        networks: dict[str, Network] | None = None,
        *,
        batch_size: int = PILOT,
        workers: int = 0,
        max_memory: int = 2 * 2**30,
        checkpoint_seconds: float = 30.0,
        progress: bool = False,
        announce: Callable[[str], None] | None = None,
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        self.source = source
        self.networks = dict(networks or {})
        self.batch_size = batch_size
        self.workers = workers
        self.max_memory = max_memory
        self.checkpoint_seconds = checkpoint_seconds
        self.rank, self.world = processes.rank_and_world()
        self.progress = progress and self.rank == 0
        self.announce = announce
        self.timed = Stopwatch()
        self._slots: list[Slot[Any]] = []
        self._calls: dict[Network, tuple[ConvCall, ...]] = {}
        self._dropped: list[Skip] = []
        self._first: list[tuple[int, Batch]] = []  # what the pilot has read of this process's share
        self._rest: Iterator[tuple[int, Batch]] | None = None
        with self.timed("reading images"):
            self.pilot = self._read_pilot()

    def _read_pilot(self) -> Batch:
        found: tuple[int, Batch] | None = None
        if not self.source.sharded:
            self._rest = self.source.batches(self.batch_size)
            found = next((item for item in self._rest if len(item[1])), None)
        elif self.rank == 0:
            found = next((item for item in self.source.batches(PILOT) if len(item[1])), None)
        if found is not None and (self.world == 1 or not self.source.sharded):
            self._first = [found]
        pilot: Batch | None = processes.broadcast(None if found is None else found[1])
        if pilot is None:
            unreadable = self.source.unreadable
            reason = f" ({len(unreadable)} cannot be read; the first: {unreadable[0].reason})" if unreadable else ""
            raise ConvscopeError(f"{self.source.name} holds no readable image{reason}: give at least one image")
        pilot = self._finite(pilot)
        if not len(pilot):
            raise ConvscopeError(
                f"every one of the first images of {self.source.name} holds NaN or infinite pixels: clean the images"
            )
        return pilot

    def _finite(self, batch: Batch) -> Batch:
        good = torch.isfinite(batch.images).flatten(1).all(1).cpu()
        for i in batch.index[~good].tolist():
            self._dropped.append(Skip(f"image {i}", "holds NaN or infinite pixels: clean it"))
        return batch if good.all() else batch[good]

    def convs(self, network: Network) -> tuple[ConvCall, ...]:
        """Returns the convolutions of a network in the order of their first call, as seen on one image of the pilot.

        Raises:
            ConvscopeError: when the network fails on the images.
        """
        if network not in self._calls:
            calls: dict[str, ConvCall] = {}

            def see(call: ConvCall) -> None:
                calls.setdefault(call.name, call)

            with left_as_found([network.module]), torch.no_grad():
                run_network(network, self.pilot.images[:1], see)
            self._calls[network] = tuple(calls.values())
        return self._calls[network]

    def chosen(self, network: Network, names: Collection[str] | None = None) -> tuple[ConvCall, ...]:
        """Returns the convolutions of these names, in the order in which they run.

        Args:
            network: whose convolutions.
            names: of layers or of their weights ("conv1" or "conv1.weight"); None for all.

        Raises:
            ConvscopeError: when there is none, or one of the names is wrong, or the network fails on the images.
        """
        calls = self.convs(network)
        if not calls:
            raise ConvscopeError(
                f"{network.name} calls no two-dimensional convolution: only such networks can be analysed"
            )
        if names is None:
            return calls
        wanted = {name.removesuffix(".weight") for name in names}
        if unknown := wanted - {call.name.removesuffix(".weight") for call in calls}:
            known = ", ".join(call.name for call in calls[:8]) + (", ..." if len(calls) > 8 else "")
            raise ConvscopeError(f"{network.name} has no convolution {min(unknown)!r}: choose one of {known}")
        return tuple(call for call in calls if call.name.removesuffix(".weight") in wanted)

    def feed(
        self,
        stream: Stream,
        make: Callable[[], Accumulator[R]],
        *,
        folded: bool = True,
        label: str = "",
        folds: int = FOLDS,
    ) -> Slot[R]:
        """Returns the slot in which ``run`` will leave what an accumulator collects from a stream.

        Args:
            stream: what to deliver; equal streams share the work.
            make: builds an empty accumulator.
            folded: whether to keep one per fold of images, for error bars.
            label: what the timings call this part.
            folds: how many at most; sums as large as others get no more than those.
        """
        slot: Slot[R] = Slot(stream, make, folded, label or type(make()).__name__, folds)
        self._slots.append(slot)
        return slot

    def run(self, checkpoint_file: Path | None = None, resume: bool = False) -> Coverage:
        """Reads the images and fills all slots.

        Ctrl-C ends the reading after the current batch: what was read is used, and the coverage says so.

        Args:
            checkpoint_file: where to save the sums every so often; removed at the end of a whole pass.
            resume: whether to continue from that file, if it exists.

        Raises:
            ConvscopeError: when no image could be used, or the checkpoint belongs to another run.
        """
        delivery = Delivery(self._slots, self.pilot, self.source.n, self.timed)
        file = None if checkpoint_file is None else checkpoint.of_process(checkpoint_file, self.rank, self.world)
        with left_as_found([network.module for network in delivery.networks]):
            self._choose_folds(delivery)
            start = used = 0
            if resume and file is not None and file.exists():
                start, used = self._resume(file)
            resumed, complete, saved = used, True, time.monotonic()
            with _interruptible() as stop:
                began = time.perf_counter()
                for done, batch in self._batches(start):
                    delivery(batch)
                    if used == resumed:
                        self._announce_cost((time.perf_counter() - began) / (done - start), start)
                    used += len(batch)
                    complete = not stop
                    if file is not None and (stop or time.monotonic() - saved >= self.checkpoint_seconds):
                        delivery.flush()
                        self._save(file, done, used)
                        saved = time.monotonic()
                    if stop:
                        break
            delivery.flush()
        with self.timed("adding up processes"):
            coverage = self._conclude(used, resumed, complete)
        if coverage.complete and file is not None:
            file.unlink(missing_ok=True)
        return coverage

    def _choose_folds(self, delivery: Delivery) -> None:
        # One image tells the size of each accumulator's state, and what the rest will cost.
        for slot in self._slots:
            slot.spread_over(1)
        delivery(self.pilot[torch.tensor([0])], sample=False)
        sizes = [
            sum(t.numel() * t.element_size() for t in slot.accumulator.state_dict().values()) for slot in self._slots
        ]
        # By size: slots of one size have the same folds, for values that are added fold by fold over several slots.
        folds: dict[int, int] = {}
        for slot, size in zip(self._slots, sizes, strict=True):
            if slot.folded:
                folds[size] = min(slot.most_folds, folds.get(size, slot.most_folds))

        def total() -> int:
            pairs = zip(self._slots, sizes, strict=True)
            return sum(size * (folds[size] if slot.folded else 1) for slot, size in pairs)

        while total() > self.max_memory and max(folds.values(), default=1) > 1:
            largest = max((size for size in folds if folds[size] > 1), key=lambda size: size * folds[size])
            folds[largest] = FEWEST_FOLDS if folds[largest] > FEWEST_FOLDS else 1
        for slot, size in zip(self._slots, sizes, strict=True):
            slot.failure = None
            slot.spread_over(folds.get(size, 1))

    def _batches(self, done: int) -> Iterator[tuple[int, Batch]]:
        first = self._first if done == 0 else []
        if self._rest is not None:
            rest = self._rest
        else:
            start = first[0][0] if first else done
            rest = self.source.batches(
                self.batch_size, start=start, rank=self.rank, world=self.world, workers=self.workers
            )
        world = self.world if self.source.sharded else 1
        total = None if self.source.n is None else -(-self.source.n // world)
        with tqdm(
            total=total, initial=done, unit="image", desc="reading", disable=not self.progress, leave=False
        ) as bar:
            while True:
                with self.timed("reading images"):
                    item = first.pop() if first else next(rest, None)
                if item is None:
                    return
                bar.update(item[0] - done)
                done, batch = item
                if len(batch) and len(batch := self._finite(batch)):
                    yield done, batch

    def _announce_cost(self, seconds_an_image: float, done: int) -> None:
        if self.announce is not None and self.source.n is not None:
            images = -(-self.source.n // (self.world if self.source.sharded else 1)) - done
            self.announce(f"reading {images} images will take about {_duration(seconds_an_image * images)}")

    def _fingerprint(self) -> str:
        text = [self.source.fingerprint, str(self.source.n), f"{self.rank} of {self.world}", torch.__version__]
        networks: dict[Network, None] = {}
        for slot in self._slots:
            stream = slot.stream
            text.append(f"{type(stream).__name__} {type(slot.make()).__name__} {slot.label} {slot.folds}")
            if isinstance(stream, Images):
                text.append(repr(stream))
                continue
            networks[stream.network] = None
            text += [stream.network.name, stream.conv, str(stream.images)]
            if isinstance(stream, Gradient):
                text.append(repr(stream.cotangent))
        for network in networks:
            text += [name + checkpoint.digest(tensor) for name, tensor in network.module.state_dict().items()]
        return hashlib.sha256("\n".join(text).encode()).hexdigest()

    def _save(self, file: Path, done: int, used: int) -> None:
        checkpoint.save(
            file,
            {
                "fingerprint": self._fingerprint(),
                "done": done,
                "used": used,
                "states": [slot.accumulator.state_dict() for slot in self._slots],
                "failures": [slot.failure for slot in self._slots],
                "dropped": [[s.what, s.reason] for s in self._dropped],
                "unreadable": [[s.what, s.reason] for s in self.source.unreadable],
                "seconds": dict(self.timed.seconds),
            },
        )

    def _resume(self, file: Path) -> tuple[int, int]:
        if not self.source.fingerprint:
            raise ConvscopeError(f"{self.source.name} is read from an iterable and cannot resume: run it afresh")
        state = checkpoint.load(file)
        if state["fingerprint"] != self._fingerprint():
            raise ConvscopeError(
                f"the checkpoint {file} belongs to another run (other images, weights, options or number of "
                "processes): remove it or run without resuming"
            )
        for slot, sums, failure in zip(self._slots, state["states"], state["failures"], strict=True):
            slot.accumulator.load_state_dict(sums)
            slot.failure = failure
        self._dropped[:] = [Skip(*s) for s in state["dropped"]]
        self.source.unreadable[:] = [Skip(*s) for s in state["unreadable"]]
        self.timed.seconds = dict(state["seconds"])
        return state["done"], state["used"]

    def _conclude(self, used: int, resumed: int, complete: bool) -> Coverage:
        for slot in self._slots:
            failures = [f for f in processes.gather(slot.failure) if f is not None]
            slot.failure = failures[0] if failures else None
            if slot.failure is None:
                processes.reduce_(slot.accumulator, slot.empty)
        images = sum(processes.gather(used))
        complete = all(processes.gather(complete))
        unreadable = [s for part in processes.gather(self.source.unreadable + self._dropped) for s in part]
        if not images:
            raise ConvscopeError(f"no image of {self.source.name} could be used: see the images that were left out")
        notes = list(self.source.notes)
        if not complete:
            expected = "" if self.source.n is None else f" of {self.source.n}"
            notes.append(f"Interrupted after {images}{expected} images: everything here rests on those.")
        if without := [slot for slot in self._slots if slot.folded and slot.folds == 1]:
            notes.append(
                f"Spreads were not computed for {_named(without)}: the sums of several folds would not fit into memory."
            )
        return Coverage(
            images=images,
            expected=self.source.n,
            complete=complete,
            unreadable=tuple(dict.fromkeys(unreadable)),
            processes=self.world,
            folds=max((slot.folds for slot in self._slots), default=1),
            resumed=sum(processes.gather(resumed)),
            seconds=dict(self.timed.seconds),
            notes=tuple(notes),
        )


def _named(slots: list[Slot[Any]]) -> str:
    """Returns what slots collect, and of which layers: "patch moments of conv1"."""
    layers: dict[str, dict[str, None]] = {}
    for slot in slots:
        of = layers.setdefault(slot.label, {})
        if not isinstance(slot.stream, Images):
            of[slot.stream.conv] = None
    parts = []
    for label, of in layers.items():
        names = ", ".join(of) if len(of) <= 3 else f"{len(of)} layers"
        parts.append(f"{label} of {names}" if names else label)
    return "; ".join(parts)


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"


@contextmanager
def _interruptible() -> Generator[list[int]]:
    """Yields a list that fills at the first Ctrl-C; a second one interrupts at once. Only the main thread can."""
    stop: list[int] = []

    def handler(number: int, _frame: Any) -> None:
        if stop:
            raise KeyboardInterrupt
        stop.append(number)
        log.warning("Stopping after this batch; press Ctrl-C again to stop at once.")

    try:
        previous = signal.signal(signal.SIGINT, handler)
    except ValueError:
        yield stop
        return
    try:
        yield stop
    finally:
        signal.signal(signal.SIGINT, previous)
