"""The embedded photographs: really there, labelled, disjoint, the same every time."""

import importlib.util

import numpy as np
import pytest
import torch

from convscope.core.errors import ConvscopeError
from convscope.inputs import photographs as module
from convscope.inputs.photographs import photographs

needs_skimage = pytest.mark.skipif(importlib.util.find_spec("skimage") is None, reason="needs scikit-image")


@needs_skimage
def test_crops_are_real_labelled_and_repeatable():
    data = photographs(40, seed=3)
    assert data.images.shape == (40, 3, 32, 32)
    assert data.images.dtype == torch.float32
    assert data.labels.dtype == torch.int64
    assert float(data.images.min()) >= 0
    assert float(data.images.max()) <= 1
    assert len(data.classes) == len(set(data.classes)) == 8
    assert data.labels.bincount().tolist() == [5] * 8
    assert torch.equal(data.images, photographs(40, seed=3).images)
    assert not torch.equal(data.images, photographs(40, seed=4).images)
    # Integers in 0..255 divided by 255, so that a saved copy is exact.
    assert torch.equal((data.images * 255).round() / 255, data.images)
    per_class = torch.stack([data.images[data.labels == k].mean((0, 2, 3)) for k in range(8)])
    assert float(torch.pdist(per_class).min()) > 0.02


@needs_skimage
def test_other_sizes():
    assert photographs(9, size=16, split="test").images.shape == (9, 3, 16, 16)
    assert photographs(8, size=96).images.shape == (8, 3, 96, 96)


@needs_skimage
def test_no_pixel_is_in_both_splits(monkeypatch):
    # Each photograph becomes a map of its own pixel numbers; undo the mirroring by looking at sets.
    from PIL import Image

    def numbered(path, part):
        count = np.arange(300 * 400)
        pixels = np.stack([count // 65536, count // 256 % 256, count % 256], -1).astype(np.uint8)
        return Image.fromarray(pixels.reshape(300, 400, 3))

    monkeypatch.setattr(module, "_read", numbered)
    monkeypatch.setattr(module, "_SCALES", (1.0,))
    seen = {}
    for split in ("train", "test"):
        values = (photographs(800, split=split).images * 255).round().long()
        seen[split] = set((values[:, 0] * 65536 + values[:, 1] * 256 + values[:, 2]).flatten().tolist())
    assert not seen["train"] & seen["test"]
    assert len(seen["train"]) > 1.5 * len(seen["test"]) > 20_000


@pytest.mark.parametrize("arguments", [{"crops": 0}, {"size": 4}, {"size": 200}, {"split": "val"}])
def test_refuses(arguments):
    with pytest.raises(ValueError, match="must be"):
        photographs(**arguments)


def test_without_scikit_image(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConvscopeError, match=r"pip install 'convscope\[demo\]'"):
        photographs(8)


@needs_skimage
def test_missing_file(monkeypatch):
    monkeypatch.setattr(module, "_PHOTOGRAPHS", (("none", "none.png", (0, 0, 1, 1)),))
    with pytest.raises(ConvscopeError, match=r"none\.png"):
        photographs(8)
