"""Mode strengths of any network, recorded while any loop trains it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, get_args

import torch
from torch import Tensor, nn

from convscope.core.batches import mix
from convscope.core.errors import ConvscopeError
from convscope.core.network import unchanged
from convscope.dynamics.collect import dataset_structure
from convscope.dynamics.halves import half_times
from convscope.dynamics.probes import Outputs, Probes, Readout
from convscope.dynamics.structure import DatasetStructure
from convscope.dynamics.used import UsedSpectra, used_spectra
from convscope.training.loop import Moment

if TYPE_CHECKING:
    import pandas as pd

SPACING = 10  # by default records lie a step, or 1/10 of the steps before them, apart
SEEN = 1000  # images from which mean Jacobians are taken


class ModeMonitor:
    """Records how far a network has learned each mode of its data, on a fixed set of images.

    With x an image, yhat the network's outputs, and U, V the structure's class vectors and modes, it records
    A = U^T E[(yhat - E yhat)(x - E x)^T] V. Its diagonal are the mode strengths (Pinson et al. 2023, as restated by He
    et al. 2024; Saxe et al. 2014), in the unit of singular values, never divided by them. The same expression with
    one-hot labels in place of outputs gives ``targets``, what a network has that predicts the labels exactly.

    The network at hand is recorded at once, as step 0. Then call the monitor after steps of training, or hand it to
    ``convscope.training.loop.train`` as a callback. A call costs one forward pass over the images; ``cost`` says how
    long that took. The network's modes, gradients, batch-norm statistics and the random state are left as they were.

    Args:
        model: any classifier; measured in evaluation mode.
        images: the probe set: (images, labels) pairs, a ``DataLoader``, a tuple of tensors, ...; it is kept in memory,
            1 GiB at most. 1000 images or more are best.
        structure: of the data set; None: that of the probe set. Weak modes of a large data set are lost in the noise
            of few probe images.
        outputs: "logits", right for the squared error; "probabilities" for networks trained by cross-entropy, whose
            logits have no scale of their own.
        prepare: maps images to what the network takes (normalisation, resizing); None: they go in as they are. The
            structure is that of images before it.
        center: whether means over images are taken off; beside ``structure``, that one's choice holds.
        jacobian: whether to take, when a mode first has half its target, the spectrum that the network uses for it,
            from ``SEEN`` images at most.
        batch_size: images at a time.
        every: steps between two records where the monitor is a callback; None: each of the first 10, then ever fewer,
            10 % apart.

    Attributes:
        structure: whose modes are measured.
        targets: float64 [m], the expression with labels in place of outputs; the singular values, where the
            structure is the probe set's own.
        images: number of images in the probe set.
        seconds: that all records took together.
        notes: what a reader should know of the measurement.

    Raises:
        ConvscopeError: when images have no labels, several sizes or one class; when the network cannot take them, or
            has fewer outputs than there are classes.
        ValueError: for other ``outputs``, or ``every`` below 1.

    Example:
        >>> images, labels = torch.rand(60, 1, 5, 5, generator=torch.Generator().manual_seed(0)), torch.arange(60) % 3
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(25, 3))
        >>> monitor = ModeMonitor(model, (images, labels))
        >>> for step in range(3):
        ...     pass  # a step of training
        ...     strengths = monitor()
        >>> monitor.steps.tolist(), monitor.mode_strengths.shape
        ([0, 1, 2, 3], torch.Size([4, 2]))
    """

    def __init__(
        self,
        model: nn.Module,
        images: Iterable[Any],
        *,
        structure: DatasetStructure | None = None,
        outputs: Outputs = "logits",
        prepare: Callable[[Tensor], Tensor] | None = None,
        center: bool = True,
        jacobian: bool = False,
        batch_size: int = 256,
        every: int | None = None,
    ) -> None:
        if outputs not in get_args(Outputs):
            raise ValueError(f'outputs must be "logits" or "probabilities", got {outputs!r}')
        if batch_size < 1 or (every is not None and every < 1):
            raise ValueError(f"batch_size and every must be at least 1, got {batch_size} and {every}")
        probes = Probes.of(images, batch_size)
        if structure is None:
            structure = dataset_structure([(probes.images, probes.labels)], center=center, covariance=False)
        if structure.image_shape != tuple(probes.images.shape[1:]):
            raise ConvscopeError(
                f"images of the probe set are {list(probes.images.shape[1:])}, but the structure is that of images "
                f"{list(structure.image_shape)}"
            )
        classes = len(structure.counts)
        if int(probes.labels.max()) >= classes:
            raise ConvscopeError(
                f"the probe set has label {int(probes.labels.max())}, but the structure is that of {classes} classes"
            )
        self.structure = structure
        self.images = len(probes.images)
        self.notes = list(probes.notes)
        self.every = every
        self.seconds = 0.0
        self._model, self._probes, self._jacobian = model, probes, jacobian
        self._few = mix(0, torch.arange(self.images)).argsort()[:SEEN]  # images often come sorted by class
        self._readout = Readout(prepare or unchanged, outputs, batch_size)
        self._seen = _projected(probes.images, structure)
        one_hot = torch.nn.functional.one_hot(probes.labels, classes).to(torch.float64)
        self.targets = self._correlation(one_hot).diagonal()
        if bool((self.targets <= 0).any()):
            self.notes.append("some modes of the structure are not in the probe set: they have no half-time")
        self._before = 0
        self._steps: list[int] = []
        self._strengths: list[Tensor] = []
        self._off_diagonal: list[float] = []
        self._initial: Tensor | None = None
        self._maps = torch.full_like(structure.modes, torch.nan)
        self._taken = torch.full((len(structure.modes),), torch.nan, dtype=torch.float64)
        self.record(0)

    def __call__(self, step: int | None = None) -> Tensor:
        """Records the network as it is now; see ``record``."""
        return self.record(step)

    def record(self, step: int | None = None) -> Tensor:
        """Records the network as it is now.

        Args:
            step: steps of training so far; None: one more than at the last record. A record of the same step as the
                last replaces it.

        Returns:
            Mode strengths, float64 [m]; NaN where an output is not finite.

        Raises:
            ConvscopeError: when the network cannot take the images, or returns too few scores.
            ValueError: for a step before the last.
        """
        last = self._steps[-1] if self._steps else -1
        step = last + 1 if step is None else int(step)
        if step < max(last, 0):
            raise ValueError(f"steps must rise: got {step} after {last}")
        begin = time.perf_counter()
        outputs = self._readout.values(self._model, self._probes.images)
        classes = self.structure.class_vectors.shape[1]
        if outputs.shape[1] < classes:
            raise ConvscopeError(
                f"the network has {outputs.shape[1]} outputs, but labels go up to {classes - 1}: it must have at least "
                f"{classes}"
            )
        found = self._correlation(outputs[:, :classes])
        if not found.isfinite().all():
            found = torch.full_like(found, torch.nan)
            if not any(note.startswith("outputs were not finite") for note in self.notes):
                self.notes.append(f"outputs were not finite at step {step}: has the training diverged?")
        if step == last:
            for kept in (self._steps, self._strengths, self._off_diagonal):
                kept.pop()
        strengths = found.diagonal().clone()
        self._steps.append(step)
        self._strengths.append(strengths)
        self._off_diagonal.append(float((found - torch.diag(strengths)).norm()))
        if self._jacobian:
            self._look(step, strengths)
        self.seconds += time.perf_counter() - begin
        return strengths

    def started(self, moment: Moment) -> None:
        """Counts a training's steps on from the last record."""
        self._before = self._steps[-1] - moment.step

    def stepped(self, moment: Moment) -> None:
        """Records the network where it is time to."""
        last, step = self._steps[-1], self._before + moment.step
        if step % self.every == 0 if self.every else step >= last + max(1, last // SPACING):
            self.record(step)

    def finished_epoch(self, moment: Moment) -> None:
        """Records nothing."""

    @property
    def steps(self) -> Tensor:
        """Steps of training before each record, int64 [T]."""
        return torch.tensor(self._steps)

    @property
    def mode_strengths(self) -> Tensor:
        """Mode strengths at each record, float64 [T, m]."""
        return torch.stack(self._strengths)

    @property
    def off_diagonal(self) -> Tensor:
        """Norm of the off-diagonal part of A at each record, float64 [T]: what the modes mix."""
        return torch.tensor(self._off_diagonal, dtype=torch.float64)

    @property
    def half_times(self) -> Tensor:
        """Steps until each mode first has half its target, float64 [m]; inf where it has not.

        Between two records strengths are taken to rise along a straight line.
        """
        return half_times(self.steps, self.mode_strengths, self.targets)

    @property
    def used(self) -> UsedSpectra:
        """Spectra used for each mode when it was first recorded with half its target; NaN for modes without.

        Raises:
            ValueError: without ``jacobian=True``.
        """
        self._start()
        return used_spectra(self.structure, self._maps, self._taken)

    def used_now(self) -> UsedSpectra:
        """Returns the spectra that the network uses now.

        Raises:
            ValueError: without ``jacobian=True``.
        """
        initial, vectors = self._start(), self.structure.class_vectors
        now = self._gradients(vectors)
        return used_spectra(self.structure, now - initial, torch.full((len(vectors),), float(self._steps[-1])))

    @property
    def cost(self) -> str:
        """What the records took, as a sentence."""
        each = 1000 * self.seconds / len(self._steps)
        return f"{len(self._steps)} records of {self.images:,} images took {self.seconds:.2g} s, {each:.2g} ms each"

    def to_frame(self) -> pd.DataFrame:
        """Returns one row per record and mode: step, mode (from 1), strength, and share of the target."""
        import pandas as pd

        strengths = self.mode_strengths
        t, m = strengths.shape
        return pd.DataFrame({
            "step": self.steps.repeat_interleave(m).numpy(),
            "mode": torch.arange(1, m + 1).repeat(t).numpy(),
            "strength": strengths.flatten().numpy(),
            "share": (strengths / self.targets).flatten().numpy(),
        })

    def __repr__(self) -> str:
        learned = int(self.half_times.isfinite().sum())
        return (
            f"<ModeMonitor: {learned} of {len(self.targets)} modes half learned by step {self._steps[-1]}; {self.cost}>"
        )

    def _correlation(self, outputs: Tensor) -> Tensor:
        """Returns A of outputs float64 [n, o], [m, m]; projections are centred, so that outputs need not be."""
        return self.structure.class_vectors @ (outputs.T @ self._seen) / len(outputs)

    def _look(self, step: int, strengths: Tensor) -> None:
        """Takes the maps of modes that have their half now, or those of all at the start."""
        vectors = self.structure.class_vectors
        if not step:
            self._initial = self._gradients(vectors)
            return
        new = (strengths >= self.targets / 2) & (self.targets > 0) & self._taken.isnan()
        if new.any():
            self._maps[new] = self._gradients(vectors[new]) - self._start()[new]
            self._taken[new] = step

    def _gradients(self, vectors: Tensor) -> Tensor:
        """Returns mean gradients of combinations of outputs, [m, c, h, w]."""
        return self._readout.mean_jacobian(self._model, self._probes.images[self._few], vectors)

    def _start(self) -> Tensor:
        if self._initial is None:
            raise ValueError("used spectra are differences from the start: make the monitor with jacobian=True")
        return self._initial


def _projected(images: Tensor, structure: DatasetStructure) -> Tensor:
    """Returns the images' coordinates along the modes, float64 [n, m], their means off where the structure's are."""
    v = structure.modes.flatten(1).T
    found = torch.cat([part.flatten(1).double() @ v for part in images.split(1024)])
    return found - found.mean(0) if structure.centred else found
