"""Labelled crops of the photographs that ship in scikit-image's wheel: real images that need no download."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from convscope.core.errors import ConvscopeError

Split = Literal["train", "test"]

# Name, file, and the part (left, top, right, bottom, as shares of the side) that shows the subject: the retina's
# picture is a disc on black, whose corners would give crops without any content.
_PHOTOGRAPHS = (
    ("astronaut", "astronaut.png", (0.0, 0.0, 1.0, 1.0)),
    ("cat", "chelsea.png", (0.0, 0.0, 1.0, 1.0)),
    ("coffee", "coffee.png", (0.0, 0.0, 1.0, 1.0)),
    ("galaxies", "hubble_deep_field.jpg", (0.0, 0.0, 1.0, 1.0)),
    ("motorcycle", "motorcycle_left.png", (0.0, 0.0, 1.0, 1.0)),
    ("retina", "retina.jpg", (0.15, 0.15, 0.85, 0.85)),
    ("rocket", "rocket.jpg", (0.0, 0.0, 1.0, 1.0)),
    ("tissue", "ihc.png", (0.0, 0.0, 1.0, 1.0)),
)
_GRID = (3, 4)  # blocks (rows, columns) of a photograph: every third one, along both diagonals, is for testing
_SCALES = (1.0, 1.5, 2.0, 3.0)  # side of the square cut out, in units of the crop's own side


@dataclass(frozen=True)
class Photographs:
    """Crops labelled by the photograph that they come from.

    Attributes:
        images: float32 [n, 3, size, size], RGB in [0, 1].
        labels: int64 [n], the photograph of each crop; also the crop's group for error bars.
        classes: names of the photographs; the label is the place in it.
    """

    images: Tensor
    labels: Tensor
    classes: tuple[str, ...]


def photographs(crops: int = 1200, size: int = 32, seed: int = 0, split: Split = "train") -> Photographs:
    """Returns square crops of eight photographs, labelled by photograph.

    Each photograph is cut into 3 x 4 blocks, of which four are for testing; a crop lies within one block, so no
    pixel is in both splits. A crop shows a square of 1, 1.5, 2 or 3 times ``size`` pixels (where the block is large
    enough), reduced with antialiasing, and mirrored with probability one half. The classes are as equal in number
    as ``crops`` allows and come in turn: crop ``i`` is of photograph ``i % 8``.

    Args:
        crops: n, number of crops; at least 1.
        size: side of a crop in pixels, 8 to 96.
        seed: other places, scales and mirrorings for each seed.
        split: "train" or "test".

    Raises:
        ValueError: for a size or a number of crops out of range, or another split.
        ConvscopeError: when scikit-image is not installed, or does not hold the photographs.

    Example:
        >>> photographs(16).images.shape  # doctest: +SKIP
        torch.Size([16, 3, 32, 32])
    """
    if split not in {"train", "test"}:
        raise ValueError(f"split must be 'train' or 'test', got {split!r}")
    if crops < 1 or not 8 <= size <= 96:
        raise ValueError(f"crops must be at least 1 and size between 8 and 96, got crops={crops}, size={size}")
    folder = _folder()
    sources = [_read(folder / file, part) for _, file, part in _PHOTOGRAPHS]
    random = np.random.default_rng([seed, split == "test"])
    labels = np.arange(crops) % len(sources)
    images = np.stack([_crop(sources[label], size, random, test=split == "test") for label in labels])
    return Photographs(
        images=torch.from_numpy(images).permute(0, 3, 1, 2).contiguous().float() / 255,
        labels=torch.from_numpy(labels),
        classes=tuple(name for name, _, _ in _PHOTOGRAPHS),
    )


def _folder() -> Path:
    # Found without importing scikit-image, which takes a second and could try to download.
    spec = importlib.util.find_spec("skimage")
    if spec is None or not spec.submodule_search_locations:
        raise ConvscopeError(
            "the embedded photographs ship in scikit-image, which is not installed: pip install 'convscope[demo]'"
        )
    return Path(next(iter(spec.submodule_search_locations))) / "data"


def _read(path: Path, part: tuple[float, float, float, float]) -> Image.Image:
    try:
        with Image.open(path) as picture:
            w, h = picture.size
            box = tuple(round(share * side) for share, side in zip(part, (w, h, w, h), strict=True))
            return picture.convert("RGB").crop(box)  # type: ignore[arg-type]
    except OSError as error:
        raise ConvscopeError(
            f"the photograph {path.name} is missing from the installed scikit-image ({type(error).__name__}); "
            "a wheel of version 0.22 or later holds it: pip install --force-reinstall 'scikit-image>=0.22'"
        ) from None


def _crop(source: Image.Image, size: int, random: np.random.Generator, *, test: bool) -> np.ndarray:
    rows, columns = _GRID
    blocks = [(i, j) for i in range(rows) for j in range(columns) if ((i + j) % 3 == 0) == test]
    i, j = blocks[random.integers(len(blocks))]
    top, bottom = i * source.height // rows, (i + 1) * source.height // rows
    left, right = j * source.width // columns, (j + 1) * source.width // columns
    sides = [s for s in (round(scale * size) for scale in _SCALES) if s <= min(bottom - top, right - left)]
    side = int(random.choice(sides))
    y = int(random.integers(top, bottom - side + 1))
    x = int(random.integers(left, right - side + 1))
    square = source.crop((x, y, x + side, y + side)).resize((size, size), Image.Resampling.BOX)
    pixels = np.asarray(square)
    return pixels[:, ::-1] if random.random() < 0.5 else pixels
