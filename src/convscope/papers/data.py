"""Data sets that the papers' experiments ask for by name, and where the user keeps them."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor

from convscope.core.errors import ConvscopeError
from convscope.inputs.cifar import cifar_training_files, open_cifar
from convscope.inputs.files import reason
from convscope.inputs.idx import idx_images, open_idx
from convscope.inputs.images import open_images

Split = Literal["train", "test"]

#: What each name stands for, for the sentence that says what is missing.
WANTED = {
    "cifar10": "a folder with CIFAR-10, as the Python batches (data_batch_1, ..., test_batch) or as .npz files whose "
    "names hold 'train' and 'test' (arrays x_train uint8 [n, 32, 32, 3], y_train; x_test, y_test)",
    "fashion-mnist": "a folder with Fashion-MNIST as idx files, gzipped or not (train-images-idx3-ubyte, "
    "train-labels-idx1-ubyte, t10k-images-idx3-ubyte, t10k-labels-idx1-ubyte)",
    "mnist": "a folder with MNIST as idx files, gzipped or not, named as those of Fashion-MNIST",
    "cifar100": "a folder with CIFAR-100 as the Python batches (train, test, meta)",
    "celeba": "a folder with one sub-folder of pictures for each class, such as faces of CelebA by an attribute",
    "imagenet": "a folder with imagenet*.npz, or that file: images uint8 [n, 224, 224, 3] of ImageNet",
    "weights": "a folder with squeezenet1_1_imagenet, resnet20_cifar10, resnet56_cifar10 and "
    "caffe_cifar10_full_trajectory, each .safetensors",
}

# Patterns of the file whose images are drawn at random, the first that is at hand counts.
_FILES = {"cifar10": ("cifar10_test.npz", "*test*.npz", "test_batch"), "imagenet": ("imagenet*.npz",)}
#: Mean of each channel of CIFAR-10's training images in [0, 1].
CIFAR10_MEAN = (0.4914, 0.4822, 0.4465)
# The standard deviation in the code of Chowers & Weiss 2023.
_STD = (0.2471, 0.2435, 0.2616)


@dataclass(frozen=True)
class LabelledImages:
    """Images with labels.

    Attributes:
        images: float32 [n, c, h, w]; those of CIFAR-10 per channel minus its mean over its standard deviation, others
            in [0, 1] unless their maker says otherwise.
        labels: int64 [n], classes from 0.
        fingerprint: changes when they change.
    """

    images: Tensor
    labels: Tensor
    fingerprint: str

    @property
    def pixels(self) -> Tensor:
        """The images of CIFAR-10 before normalisation, float32 [n, 3, 32, 32] in [0, 1]."""
        mean, std = _constants()
        return self.images * std + mean


def locate(name: str, given: Mapping[str, Path]) -> Path | None:
    """Returns where a data set lies, or None.

    Args:
        name: such as "cifar10".
        given: data sets that the user named, with their paths.

    Returns:
        ``given[name]``; else, in the folder that the environment variable ``CONVSCOPE_DATA`` names, a sub-folder of
        that name or the folder itself where a file in it is named after the data set.

    Raises:
        ConvscopeError: when the user names a path that does not exist.
    """
    if name in given:
        if not given[name].exists():
            raise ConvscopeError(f"--data {name}={given[name]}: there is no such path; {name} is {WANTED[name]}")
        return given[name]
    root = os.environ.get("CONVSCOPE_DATA")
    if not root:
        return None
    folder = Path(root)
    if (folder / name).is_dir():
        return folder / name
    return folder if any(folder.glob(f"{name}*")) else None


def needed(name: str, given: Mapping[str, Path]) -> Path:
    """Returns where a data set lies (see ``locate``).

    Raises:
        ConvscopeError: when it is not at hand.
    """
    place = locate(name, given)
    if place is None:
        raise ConvscopeError(
            f"{name} is needed, but neither --data names it nor does the folder $CONVSCOPE_DATA hold it; name it with "
            f"--data {name}=PATH, {WANTED[name]}"
        )
    return place


def image_file(name: str, given: Mapping[str, Path]) -> Path:
    """Returns the file whose images experiments draw at random: test images of "cifar10", or a sample of "imagenet".

    Args:
        name: "cifar10" or "imagenet".
        given: data sets that the user named, with their paths.

    Raises:
        ConvscopeError: when the data are not at hand.
    """
    place = needed(name, given)
    if place.is_file():
        return place
    for pattern in _FILES[name]:
        if files := sorted(place.glob(pattern)):
            return files[0]
    raise ConvscopeError(f"{place} holds no {' or '.join(_FILES[name])}; expected {WANTED[name]}")


def pictures(name: str, given: Mapping[str, Path], n: int) -> Tensor:
    """Returns float32 [n, 3, h, w] in [0, 1]: the first test images of "cifar10", or a random choice of "imagenet".

    Args:
        name: "cifar10" or "imagenet".
        given: data sets that the user named, with their paths.
        n: number of images; fewer where the data hold fewer.

    Raises:
        ConvscopeError: when the data are not at hand.
    """
    if name == "cifar10":
        return cifar10(needed(name, given), n, "test").pixels
    return torch.cat([batch.images for _, batch in open_images(str(image_file(name, given)), limit=n).batches(64)])


def snapshots(file: Path) -> dict[int, str]:
    """Returns the iterations at which a file of weights holds a network, in order, with the prefix of its keys.

    Raises:
        ConvscopeError: when the file cannot be read, or names no iterations.
    """
    try:
        with safe_open(file, framework="pt") as tensors:
            prefixes = {key.split(".")[0] for key in tensors.keys()}  # ruff: ignore[in-dict-keys] (not a dictionary)
    except Exception as error:
        raise ConvscopeError(f"{file} cannot be read ({reason(error)}); expected {WANTED['weights']}") from error
    numbers = {prefix: "".join(filter(str.isdecimal, prefix)) for prefix in prefixes}
    if not all(numbers.values()):
        raise ConvscopeError(
            f"{file} holds weights named {', '.join(sorted(p for p, k in numbers.items() if not k))}, without an "
            "iteration; expected names such as iter_1000.conv1.weight"
        )
    return dict(sorted((int(k), prefix) for prefix, k in numbers.items()))


def cifar10(folder: Path, n: int, split: Split = "train") -> LabelledImages:
    """Returns the first ``n`` images of CIFAR-10 in the original order (which is random), normalised.

    Args:
        folder: see ``WANTED["cifar10"]``.
        n: number of images; fewer where the data hold fewer.
        split: "train" or "test".

    Raises:
        ConvscopeError: when the folder does not hold the data.
    """
    parts: list[tuple[np.ndarray, np.ndarray]] = []
    for part in _parts(folder, split):
        parts.append(part)
        if sum(len(labels) for _, labels in parts) >= n:
            break
    if not parts:
        raise ConvscopeError(f"{folder} holds no {split} images of CIFAR-10; expected {WANTED['cifar10']}")
    pixels = np.concatenate([images for images, _ in parts])[:n]
    labels = np.concatenate([labels for _, labels in parts])[:n].astype(np.int64)
    mean, std = _constants()
    images = (torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255 - mean) / std
    return LabelledImages(images.contiguous(), torch.from_numpy(labels), fingerprint(pixels, labels))


def fashion_mnist(folder: Path, n: int, split: Split = "train") -> LabelledImages:
    """Returns the first ``n`` images of Fashion-MNIST in the original order (which is random), [n, 1, 28, 28].

    Args:
        folder: see ``WANTED["fashion-mnist"]``.
        n: number of images; fewer where the data hold fewer.
        split: "train" or "test".

    Raises:
        ConvscopeError: when the folder does not hold the data.
    """
    return _of_idx("Fashion-MNIST", folder, n, split)


def mnist(folder: Path, n: int, split: Split = "train") -> LabelledImages:
    """Returns the first ``n`` images of MNIST, [n, 1, 28, 28]; the rest as for ``fashion_mnist``."""
    return _of_idx("MNIST", folder, n, split)


def _of_idx(name: str, folder: Path, n: int, split: Split) -> LabelledImages:
    wanted = f"expected {WANTED[name.lower()]}"
    if not folder.is_dir():
        raise ConvscopeError(f"{folder} is no folder; {wanted}")
    files = [path for path in idx_images(folder) if ("train" in path.name) == (split == "train")]
    if not files:
        raise ConvscopeError(f"{folder} holds no {split} images of {name}; {wanted}")
    store = open_idx(files[0])
    pairs = [store.read(i) for i in range(min(n, len(store)))]
    labels = [label for _, label in pairs if label is not None]
    if store.glance(0) != (1, 28, 28) or len(labels) < len(pairs):
        shape = "x".join(map(str, store.glance(0)))
        raise ConvscopeError(f"{files[0]} holds images of {shape} and {len(labels)} labels; {wanted}")
    images, classes = torch.stack([image for image, _ in pairs]), torch.tensor(labels)
    return LabelledImages(images, classes, fingerprint(images.numpy(), classes.numpy()))


def fingerprint(images: np.ndarray, labels: np.ndarray) -> str:
    """Returns what changes when images or labels change."""
    return hashlib.sha256(images.tobytes() + labels.tobytes()).hexdigest()[:16]


def _constants() -> tuple[Tensor, Tensor]:
    return torch.tensor(CIFAR10_MEAN)[:, None, None], torch.tensor(_STD)[:, None, None]


def _parts(folder: Path, split: Split) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    for path in sorted(folder.glob(f"*{split}*.npz")):
        try:
            with np.load(path, allow_pickle=False) as arrays:
                if f"x_{split}" not in arrays or f"y_{split}" not in arrays:
                    continue
                images, labels = arrays[f"x_{split}"], arrays[f"y_{split}"]
        except Exception as error:
            raise ConvscopeError(f"{path} cannot be read ({reason(error)}); expected {WANTED['cifar10']}") from error
        if images.dtype != np.uint8 or images.shape[1:] != (32, 32, 3) or labels.shape != images.shape[:1]:
            raise ConvscopeError(
                f"{path} holds x_{split} {images.dtype} {images.shape} and y_{split} {labels.shape}; "
                f"expected {WANTED['cifar10']}"
            )
        yield images, labels
    batches = cifar_training_files(folder) if split == "train" else sorted(folder.glob("test_batch"))
    for path in batches:
        store = open_cifar(path)
        pairs = [store.read(i) for i in range(len(store))]
        pixels = torch.stack([image for image, _ in pairs]).permute(0, 2, 3, 1)
        yield (pixels * 255).round().to(torch.uint8).numpy(), np.array([label for _, label in pairs])
