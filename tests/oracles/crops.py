"""Crops of the photographs that ship in scikit-image, standardised per channel: natural patches for tests."""

from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

PHOTOGRAPHS = (
    "astronaut.png",
    "chelsea.png",
    "coffee.png",
    "rocket.jpg",
    "motorcycle_left.png",
    "hubble_deep_field.jpg",
)


@lru_cache(maxsize=8)
def photograph_crops(n: int, size: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Returns n random crops as float64 [n, 3, size, size] and the photograph of each as int64 [n]."""
    skimage = pytest.importorskip("skimage", reason="scikit-image holds the photographs")
    from skimage.io import imread
    from skimage.transform import rescale

    folder = Path(skimage.__file__).parent / "data"
    present = [folder / name for name in PHOTOGRAPHS if (folder / name).exists()]
    if len(present) < 4:
        pytest.skip("scikit-image ships fewer than four of the photographs")
    rng = np.random.default_rng(seed)
    scales = [
        [rescale(imread(p)[..., :3] / 255.0, s, channel_axis=2, anti_aliasing=True) for s in (0.25, 0.5)]
        for p in present
    ]
    crops, labels = [], []
    for i in range(n):
        label = i % len(present)
        image = scales[label][rng.integers(2)]
        top, left = (rng.integers(side - size + 1) for side in image.shape[:2])
        crop = image[top : top + size, left : left + size]
        crops.append(crop[:, ::-1] if rng.integers(2) else crop)
        labels.append(label)
    images = torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2).contiguous()
    # Brightness jitter per crop, as data augmentation gives it.
    images = images * torch.from_numpy(rng.uniform(0.7, 1.3, (n, 1, 1, 1)))
    images = (images - images.mean((0, 2, 3), keepdim=True)) / images.std((0, 2, 3), keepdim=True)
    return images, torch.tensor(labels)
