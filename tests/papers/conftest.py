"""Tiny data sets and sizes for the papers' experiments."""

import pickle
import struct

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import save_file

from convscope.papers import chowers2023_architectures, chowers2023_data, chowers2023_labels, laboratory
from convscope.papers.registry import SCALES


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("cifar")
    random = np.random.default_rng(0)
    for split, n in (("train", 80), ("test", 20)):
        smooth = F.avg_pool2d(torch.from_numpy(random.random((n, 3, 32, 32))), 5, 1, 2).permute(0, 2, 3, 1).numpy()
        labels = np.arange(n) % 10
        images = (255 * np.clip((smooth - 0.5) * 3 + 0.3 + labels[:, None, None, None] / 25, 0, 1)).astype(np.uint8)
        np.savez(path / f"cifar10_{split}.npz", **{f"x_{split}": images, f"y_{split}": labels})
    return path


@pytest.fixture(scope="module")
def others(tmp_path_factory):
    """Stand-ins for Fashion-MNIST, CIFAR-100 and CelebA."""
    path, random = tmp_path_factory.mktemp("others"), np.random.default_rng(2)
    for name in ("fashion-mnist", "cifar100", "celeba/smiling", "celeba/grave"):
        (path / name).mkdir(parents=True)
    for split, file, n in (("train", "train", 60), ("t10k", "test", 20)):
        labels = np.arange(n) % 10
        images = (random.random((n, 28, 28)) * 100 + 10 * labels[:, None, None]).astype(np.uint8)
        idx = path / "fashion-mnist" / f"{split}-images-idx3-ubyte"
        idx.write_bytes(struct.pack(">4I", 0x803, n, 28, 28) + images.tobytes())
        idx = path / "fashion-mnist" / f"{split}-labels-idx1-ubyte"
        idx.write_bytes(struct.pack(">2I", 0x801, n) + labels.astype(np.uint8).tobytes())
        data = (random.random((n, 3072)) * 100 + 10 * labels[:, None]).astype(np.uint8)
        (path / "cifar100" / file).write_bytes(pickle.dumps({b"data": data, b"fine_labels": labels.tolist()}))
    (path / "cifar100" / "meta").write_bytes(pickle.dumps({b"fine_label_names": [b"a"] * 10}))
    for i in range(60):
        picture = (random.random((40, 36, 3)) * 200 + 50 * (i % 2)).astype(np.uint8)
        Image.fromarray(picture).save(path / "celeba" / ("smiling", "grave")[i % 2] / f"{i}.png")
    return path


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """Stand-ins for published weights and for ImageNet."""
    path = tmp_path_factory.mktemp("published")
    random = torch.Generator().manual_seed(0)

    def bank(size, filters=6):
        return torch.randn(filters, 3, size, size, generator=random)

    save_file({"features.0.weight": bank(3)}, path / "squeezenet1_1_imagenet.safetensors")
    for name in ("resnet20", "resnet56"):
        save_file({"conv1.weight": bank(3)}, path / f"{name}_cifar10.safetensors")
    snapshots = {f"iter_{k}.conv1.weight": bank(5) for k in (10, 200, 3000)}
    save_file(snapshots, path / "caffe_cifar10_full_trajectory.safetensors")
    images = np.random.default_rng(1).integers(0, 255, (6, 40, 40, 3), dtype=np.uint8)
    np.savez(path / "imagenet_sample.npz", images=images)
    return path


@pytest.fixture
def tiny(monkeypatch):
    """Sizes at which the experiments on first layers take a second each, and no laboratory of other sizes."""
    size = laboratory.Size(40, 20, 2, 2, 2, (4, 4), 4, 0.05, 20, (2, 5))
    caches = laboratory._prepared, chowers2023_data._prepared, chowers2023_data._pairs, chowers2023_labels._energies
    for module in (laboratory, chowers2023_data, chowers2023_architectures):
        monkeypatch.setattr(module, "SIZES", dict.fromkeys(SCALES, size))
    monkeypatch.setattr(chowers2023_data, "IMAGES", dict.fromkeys(SCALES, 40))
    frozen = chowers2023_architectures.FrozenSize(20, 1, 2, (4, 4))
    monkeypatch.setattr(chowers2023_architectures, "FROZEN", dict.fromkeys(SCALES, frozen))
    for cache in caches:
        cache.cache_clear()
    yield size
    for cache in caches:
        cache.cache_clear()
