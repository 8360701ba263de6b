"""Small data sets in the formats of the real ones, made from what ships with dependencies: they show that it runs."""

from __future__ import annotations

import pickle
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

from convscope.core.errors import ConvscopeError
from convscope.inputs.photographs import Split, photographs
from convscope.training.networks import cifar10_full, resnet20, resnet56, squeezenet1_1

_SIZES: dict[Split, int] = {"train": 2_000, "test": 400}
_SNAPSHOTS = (10_000, 20_000, 30_000)


def stand_in(name: str, folder: Path) -> Path:
    """Makes a stand-in for a data set and returns its folder.

    Crops of photographs, labelled by photograph, stand for CIFAR-10 (2,000 and 400), CIFAR-100, CelebA and ImageNet;
    scikit-learn's digits for MNIST and Fashion-MNIST; untrained networks for trained ones.

    Args:
        name: of the data set, such as "cifar10".
        folder: in which to make a folder of that name.

    Raises:
        ConvscopeError: for a data set without one.
    """
    makers = {
        "cifar10": _cifar10,
        "cifar100": _cifar100,
        "celeba": _celeba,
        "fashion-mnist": _digits,
        "mnist": _digits,
        "imagenet": _imagenet,
        "weights": _weights,
    }
    if name not in makers:
        raise ConvscopeError(f"nothing stands for the data set {name}; name it with --data {name}=PATH")
    place = folder / name
    place.mkdir(parents=True)
    makers[name](place)
    return place


def _crops(split: Split, n: int, size: int = 32) -> tuple[np.ndarray, np.ndarray]:
    """Returns uint8 [n, size, size, 3] and labels of ten classes: eight photographs, and two of them upside down."""
    found = photographs(n, size, split=split)
    images = (found.images * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    labels = found.labels.numpy().copy()
    for photograph, other in ((0, 8), (6, 9)):
        half = np.flatnonzero(labels == photograph)[::2]
        images[half], labels[half] = images[half][:, ::-1], other
    return images, labels


def _cifar10(folder: Path) -> None:
    for split, n in _SIZES.items():
        images, labels = _crops(split, n)
        arrays: dict[str, Any] = {f"x_{split}": images, f"y_{split}": labels}
        np.savez(folder / f"cifar10_{split}.npz", **arrays)


def _cifar100(folder: Path) -> None:
    for split, n in _SIZES.items():
        images, labels = _crops(split, n)
        batch = {"data": images.transpose(0, 3, 1, 2).reshape(n, -1), "fine_labels": labels.tolist()}
        (folder / split).write_bytes(pickle.dumps(batch, protocol=2))
    names = sorted({f"class {label}" for label in range(10)})
    (folder / "meta").write_bytes(pickle.dumps({"fine_label_names": names}, protocol=2))


def _celeba(folder: Path) -> None:
    images, labels = _crops("train", 400, 48)
    for kind in ("even", "odd"):
        (folder / kind).mkdir()
    for i, (image, label) in enumerate(zip(images, labels, strict=True)):
        Image.fromarray(image).save(folder / ("odd" if label % 2 else "even") / f"{i:04}.png")


def _digits(folder: Path) -> None:
    from sklearn.datasets import load_digits

    found = load_digits()
    small = torch.from_numpy(found.images)[:, None].float() / 16
    images = F.interpolate(small, (28, 28), mode="bilinear", antialias=True)[:, 0]
    pixels, labels = (images * 255).round().to(torch.uint8).numpy(), found.target.astype(np.uint8)
    last = len(labels) - _SIZES["test"]
    for prefix, part in (("train", slice(0, last)), ("t10k", slice(last, None))):
        _write_idx(folder / f"{prefix}-images-idx3-ubyte", pixels[part])
        _write_idx(folder / f"{prefix}-labels-idx1-ubyte", labels[part])


def _write_idx(path: Path, values: np.ndarray) -> None:
    header = struct.pack(f">HBB{values.ndim}I", 0, 8, values.ndim, *values.shape)  # 8: unsigned bytes
    path.write_bytes(header + np.ascontiguousarray(values).tobytes())


def _imagenet(folder: Path) -> None:
    images, _ = _crops("test", 16, 96)
    larger = F.interpolate(torch.from_numpy(images).permute(0, 3, 1, 2).float(), (224, 224), mode="bilinear")
    pixels = larger.round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    np.savez(folder / "imagenet_stand_in.npz", images=pixels, labels=np.arange(len(pixels)))


def _weights(folder: Path) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for name, network in (
            ("squeezenet1_1_imagenet", squeezenet1_1()),
            ("resnet20_cifar10", resnet20()),
            ("resnet56_cifar10", resnet56()),
        ):
            save_file(_contiguous(network.state_dict().items()), folder / f"{name}.safetensors")
        states = {iteration: cifar10_full().state_dict() for iteration in _SNAPSHOTS}
    along = {f"iter_{iteration}.{key}": value for iteration, state in states.items() for key, value in state.items()}
    save_file(_contiguous(along.items()), folder / "caffe_cifar10_full_trajectory.safetensors")


def _contiguous(state: Iterable[tuple[str, Tensor]]) -> dict[str, Tensor]:
    return {key: value.contiguous() for key, value in state}
