"""A catalogue of hostile inputs: what a user may hand in by mistake, and what an attacker may hand in on purpose.

Each entry writes its files into a folder and returns the command line that uses them. That command must end in a
result or in a one-line error, never in a traceback, and must run nothing that the files hold: whatever does so
touches the file named ``MARKER`` in the folder.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn

MARKER = "EXECUTED"


@dataclass(frozen=True)
class Command:
    """A command line, by its parts.

    Attributes:
        command: report, data, compare or render.
        models: MODEL arguments (or saved pages, for compare and render).
        images: IMAGES, or None to leave it out.
        options: what else.
    """

    command: str
    models: tuple[str, ...] = ()
    images: str | None = None
    options: tuple[str, ...] = ()

    def arguments(self) -> list[str]:
        """Returns the words of the command line after ``convscope``; names that begin with a dash come last."""
        words = [self.command, *self.options]
        if self.images is not None and self.command != "data":
            words += ["--data", self.images]
        return [
            *words,
            "--",
            *self.models,
            *([self.images] if self.images is not None and self.command == "data" else []),
        ]


@dataclass(frozen=True)
class Hostile:
    """One hostile input.

    Attributes:
        kind: what is wrong, in one word.
        variant: which of its kind.
        make: writes the files into an empty folder and returns the command.
        fails: True where only an error is right, False where only a result is, None where either is.
    """

    kind: str
    variant: str
    make: Callable[[Path], Command]
    fails: bool | None = None

    def __str__(self) -> str:
        return f"{self.kind}-{self.variant}"


Maker = Callable[[Path], Command]
_KINDS: dict[str, Callable[[], Iterator[Hostile]]] = {}  # by name: a module may be imported twice


def kind(found: Callable[[], Iterator[Hostile]]) -> Callable[[], Iterator[Hostile]]:
    """Adds a generator of variants to the catalogue."""
    _KINDS[found.__name__] = found
    return found


def catalogue() -> list[Hostile]:
    """Returns every hostile input, the kinds one after the other."""
    from inputs import hostile_arrays, hostile_pictures, hostile_weights, hostile_words  # ruff: ignore[unused-import]

    return [entry for variants in _KINDS.values() for entry in variants()]


# ---------------------------------------------------------------------- good inputs to go with a hostile one


def small_network() -> nn.Module:
    """Returns a network that takes colour images of any size from 3x3 on."""
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)
    )


NETWORK = "inputs.hostile:small_network"


def pixels(n: int, h: int = 8, w: int = 8, c: int = 3, seed: int = 0) -> np.ndarray:
    """Returns random images, uint8 [n, h, w, c], smooth enough to have a spectrum."""
    noise = np.random.default_rng(seed).integers(0, 256, (n, h, w, c))
    return ((noise + np.roll(noise, 1, 1) + np.roll(noise, 1, 2)) // 3).astype(np.uint8)


def good_images(folder: Path) -> str:
    """Returns the name of a file of 12 good, labelled images."""
    file = folder / "good.npz"
    np.savez(file, images=pixels(12), labels=np.arange(12) % 3)
    return str(file)


def good_weights(folder: Path) -> str:
    """Returns the name of a good weights file."""
    file = folder / "good.safetensors"
    save_file(state_dict(), file)
    return str(file)


def state_dict(seed: int = 0) -> dict[str, torch.Tensor]:
    """Returns good weights of ``small_network``."""
    generator = torch.Generator().manual_seed(seed)
    return {
        "0.weight": torch.randn(4, 3, 3, 3, generator=generator),
        "0.bias": torch.randn(4, generator=generator),
        "4.weight": torch.randn(3, 4, generator=generator),
        "4.bias": torch.randn(3, generator=generator),
    }


def good_picture(file: Path, size: tuple[int, int] = (8, 8), seed: int = 0) -> Path:
    """Writes a good colour picture."""
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels(1, *size, seed=seed)[0]).save(file)
    return file


def with_images(folder: Path, images: str) -> Command:
    """Returns a report of good weights on these images."""
    return Command("report", (good_weights(folder),), images)


def with_model(folder: Path, model: str, *options: str) -> Command:
    """Returns a report of this model on good images."""
    return Command("report", (model,), good_images(folder), options)


class Touch:
    """Pickles as a call that touches the marker file."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple:
        return (exec, (f"open({str(self.folder / MARKER)!r}, 'w').close()",))


def shuffled_bytes(n: int, seed: int) -> bytes:
    """Returns random bytes."""
    return random.Random(seed).randbytes(n)
