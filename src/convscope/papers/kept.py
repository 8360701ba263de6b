"""Trainings for the papers' experiments: each is done once, and a folder keeps what it gave."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from convscope.core.errors import ConvscopeError
from convscope.inputs.files import reason, shown
from convscope.papers.data import LabelledImages
from convscope.training.loop import State, accuracy, train


@dataclass(frozen=True)
class Scores:
    """How well a network learned, and how long that took.

    Attributes:
        train_accuracy: share of the last epoch's images classified as labelled, during training.
        test_accuracy: share of test images classified as their true labels say.
        seconds: of training.
    """

    train_accuracy: float
    test_accuracy: float
    seconds: float


def learn(
    network: nn.Module, images: Tensor, labels: Tensor, test: LabelledImages, **options: Any
) -> tuple[State, Scores]:
    """Trains a network in place, on the GPU where there is one.

    Args:
        network: the network, initialised.
        images: float32 [n, c, h, w], to learn.
        labels: int64 [n], to learn.
        test: for the test accuracy.
        **options: of ``convscope.training.loop.train``.

    Returns:
        The network's state after training, on the CPU, and how well it learned.

    Raises:
        KeyboardInterrupt: when the training is interrupted: what it reached is not what was asked for.
    """
    network.to("cuda" if torch.cuda.is_available() else "cpu")
    run = train(network, images, labels, **options)
    if not run.complete:
        raise KeyboardInterrupt
    seconds = sum(epoch.seconds for epoch in run.history)
    return run.final, Scores(run.history[-1].accuracy, accuracy(network, test.images, test.labels), seconds)


def once(
    folder: Path | None,
    data: Sequence[str],
    recipe: Mapping[str, Any],
    training: Callable[[], tuple[State, Scores]],
) -> tuple[State, Scores]:
    """Returns what a training gave: read back where the folder keeps it, else done now and kept.

    Args:
        folder: where trainings are kept, one file each; None keeps none.
        data: fingerprints of the images, after the kind of network where its recipe does not tell.
        recipe: everything else that decides the training, as plain JSON values.
        training: does it; gives contiguous tensors.

    Returns:
        The tensors that the training gave, by name, and how well the network learned. Of several processes that ask
        for the same, one trains and the others wait.

    Raises:
        ConvscopeError: when the folder cannot be made, or a file in it is damaged.
    """
    if folder is None:
        return training()
    # Whoever changes this text trains every kept network anew.
    text = json.dumps([*data, recipe])
    path = folder / f"{hashlib.sha256(text.encode()).hexdigest()[:16]}.safetensors"
    if path.exists():
        return _read(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConvscopeError(
            f"{shown(folder)} cannot keep trained networks ({reason(error)}): name another folder with --cache"
        ) from error
    with _alone(path.with_suffix(".lock")):
        if path.exists():  # by now
            return _read(path)
        tensors, scores = training()
        partial = path.with_suffix(".part")
        save_file(tensors, partial, {"numbers": json.dumps(asdict(scores)), "recipe": json.dumps(recipe)})
        partial.replace(path)
    return tensors, scores


@contextmanager
def _alone(path: Path) -> Generator[None]:
    """Lets one process at a time into the context; the file that says so is removed."""
    try:
        with FileLock(path):
            yield
    finally:
        path.unlink(missing_ok=True)


def _read(path: Path) -> tuple[State, Scores]:
    try:
        with safe_open(path, "pt") as file:
            scores = Scores(**json.loads(file.metadata()["numbers"]))
            return {name: file.get_tensor(name) for name in file.keys()}, scores  # ruff: ignore[in-dict-keys] (not a dictionary)
    except Exception as error:
        raise ConvscopeError(
            f"{shown(path)} cannot be read as a trained network ({reason(error)}): remove it, and the next run trains "
            "that network again"
        ) from error
