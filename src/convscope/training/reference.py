"""Small networks trained on the spot, with true and with permuted labels: what the default report looks at."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from threading import Event

import torch
from torch import Tensor

from convscope.core.threads import one_thread_each
from convscope.training.loop import LabelKind, Moment, Training, accuracy, relabel, train
from convscope.training.networks import SmallVGG, small_vgg


@dataclass(frozen=True)
class ReferenceRun:
    """One trained reference network.

    Attributes:
        name: such as "true labels, seed 0".
        kind: which labels it learned: "true" or "permuted".
        seed: its seed.
        network: the trained network, in evaluation mode, for images normalised by ``mean`` and ``std``.
        untrained: the same network as it was before training, in evaluation mode.
        training: initial and final state, history.
        train_accuracy: share of the training images classified as in training, in evaluation mode.
        test_accuracy: share of the test images classified as their *true* labels say; chance is 1/classes.
        mean: [c], subtracted from each channel of the images.
        std: [c], by which each channel is then divided.
    """

    name: str
    kind: LabelKind
    seed: int
    network: SmallVGG
    untrained: SmallVGG
    training: Training
    train_accuracy: float
    test_accuracy: float
    mean: Tensor
    std: Tensor


def channel_statistics(images: Tensor) -> tuple[Tensor, Tensor]:
    """Returns mean and standard deviation [c] of each channel over all pixels of images [n, c, h, w], in float64.

    The standard deviation divides by the number of pixels; where it is 0, the channel is constant and it is given
    as 1, so that dividing by it is harmless.

    Example:
        >>> channel_statistics(torch.tensor([0.0, 2.0]).view(1, 1, 1, 2))
        (tensor([1.], dtype=torch.float64), tensor([1.], dtype=torch.float64))
    """
    x = images.double()
    mean = x.mean((0, 2, 3))
    std = (x - mean[:, None, None]).square().mean((0, 2, 3)).sqrt()
    return mean, torch.where(std > 0, std, torch.ones_like(std))


def standardise(images: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Returns (images - mean) / std per channel, in the images' dtype.

    Args:
        images: [n, c, h, w].
        mean: [c].
        std: [c], positive.

    Example:
        >>> images = torch.rand(4, 3, 8, 8)
        >>> standardise(images, *channel_statistics(images)).mean().abs() < 1e-5
        tensor(True)
    """
    m, s = (v.to(images)[:, None, None] for v in (mean, std))
    return (images - m) / s


def reference_runs(
    images: Tensor,
    labels: Tensor,
    test_images: Tensor,
    test_labels: Tensor,
    *,
    seeds: Sequence[int] = (0, 1),
    kinds: Sequence[LabelKind] = ("true", "permuted"),
    epochs: int = 12,
    lr: float = 0.01,
    batch_size: int = 25,
    progress: bool = True,
) -> list[ReferenceRun]:
    """Returns small CNNs trained with each kind of labels from each seed; about ten seconds each, two at a time.

    Plain SGD with momentum 0.9 and neither weight decay nor augmentation. Every run has its own initial weights and
    its own order of images: two runs have nothing in common but the images. Each run keeps to one core and as many
    go side by side as there are cores; the numbers do not depend on how many. Ctrl-C ends all of them: the runs that
    had begun are returned with what they reached.

    Args:
        images: [n, c, h, h], as read; normalised here per channel.
        labels: int64 [n].
        test_images: [m, c, h, h], as read.
        test_labels: int64 [m].
        seeds: one run for each kind and seed.
        kinds: which labels to train with.
        epochs: number of times that every image is visited.
        lr: step size.
        batch_size: images a step.
        progress: whether to show a progress bar for each run.

    Returns:
        The runs, all seeds of the first kind first; fewer after Ctrl-C.

    Example:
        >>> images, labels = torch.rand(8, 3, 8, 8), torch.arange(8) % 2
        >>> runs = reference_runs(images, labels, images, labels, seeds=[0], epochs=1, batch_size=4, progress=False)
        >>> [run.name for run in runs]
        ['true labels, seed 0', 'permuted labels, seed 0']
    """
    mean, std = channel_statistics(images)
    x, x_test = standardise(images, mean, std), standardise(test_images, mean, std)
    classes, channels, size = int(labels.max()) + 1, images.shape[1], images.shape[2]
    stop = _Stop()

    def run(kind: LabelKind, seed: int, own: int, network: SmallVGG, untrained: SmallVGG) -> ReferenceRun:
        name = f"{kind} labels, seed {seed}"
        y = relabel(labels, kind, own)
        training = train(
            network,
            x,
            y,
            epochs=epochs,
            lr=lr,
            momentum=0.9,
            batch_size=batch_size,
            seed=own,
            progress=name if progress else False,
            callbacks=[stop],
        )
        untrained.load_state_dict(training.initial)
        scores = accuracy(network, x, y), accuracy(network, x_test, test_labels)
        return ReferenceRun(name, kind, seed, network.eval(), untrained.eval(), training, *scores, mean, std)

    plans = [(kind, seed, 1000 * place + seed) for place, kind in enumerate(kinds) for seed in seeds]
    # Training seeds the process's random numbers: the fork is around all runs, and all weights are drawn before any.
    # Layers this small gain little from a second thread, and lose much when another process wants the core.
    with torch.random.fork_rng(), one_thread_each(), ThreadPoolExecutor(os.cpu_count() or 1) as workers:
        networks = []
        for _, _, own in plans:
            torch.manual_seed(own)
            networks.append([small_vgg(classes, channels, size=size) for _ in range(2)])
        jobs = [workers.submit(run, *plan, *pair) for plan, pair in zip(plans, networks, strict=True)]
        try:
            wait(jobs)
        except KeyboardInterrupt:
            stop.asked.set()
            for job in jobs:
                job.cancel()
        return [job.result() for job in jobs if not job.cancelled()]


class _Stop:
    """A callback that ends a training in another thread, where Ctrl-C does not arrive."""

    def __init__(self) -> None:
        self.asked = Event()

    def started(self, moment: Moment) -> None:
        self.stepped(moment)

    def stepped(self, moment: Moment) -> None:
        if self.asked.is_set():
            raise KeyboardInterrupt

    def finished_epoch(self, moment: Moment) -> None:
        pass
