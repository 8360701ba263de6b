"""The other data sets of Chowers & Weiss (2023): Fashion-MNIST (ours), CIFAR-100, CelebA, and pairs of classes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from itertools import chain
from pathlib import Path
from statistics import fmean

import torch
from torch import Tensor

from convscope.core.errors import ConvscopeError
from convscope.firstlayer.fit import ProfileFit, fit_energy_profile
from convscope.inputs.cifar import cifar_training_files, open_cifar
from convscope.inputs.folders import FolderStore
from convscope.inputs.stores import StoredSource
from convscope.papers.chowers2023_tables import (
    PRINTED,
    architecture_row,
    by_epoch,
    fit_row,
    log_row,
    permuted_rows,
    printed,
    residual,
    seeds_rows,
    start_row,
    wider,
    width_rows,
)
from convscope.papers.data import WANTED, LabelledImages, Split, cifar10, fashion_mnist, fingerprint, needed
from convscope.papers.laboratory import SIZES, Laboratory, Size, assembled, described, training_in_words
from convscope.papers.registry import Outcome, Scale, Setup
from convscope.papers.trained import TrainedLayer

#: Training images of a data set other than CIFAR-10.
IMAGES: Mapping[Scale, int] = {"smoke": 300, "cpu": 2_500, "paper": 60_000}
#: Side in pixels that faces are brought to.
SIDE = 32
# One image in five is a test image where a data set does not say which are.
_SHARES = 5
#: Pairs of CIFAR-10's classes in Table 3, with the printed correlation of the formula.
PAIRS: Mapping[str, tuple[tuple[int, int], str]] = {
    "car-truck": ((1, 9), "0.93 ± 0.01"),
    "dog-frog": ((5, 6), "0.91 ± 0.02"),
    "dog-cat": ((5, 3), "0.95 ± 0.01"),
    "bird-plane": ((2, 0), "0.96 ± 0.005"),
    "boat-plane": ((8, 0), "0.96 ± 0.01"),
}


def cifar100(folder: Path, n: int, split: Split = "train") -> LabelledImages:
    """Returns the first ``n`` images of CIFAR-100 with their fine labels in the original order, in [0, 1].

    Args:
        folder: see ``WANTED["cifar100"]``.
        n: number of images; fewer where the data hold fewer.
        split: "train" or "test".

    Raises:
        ConvscopeError: when the folder does not hold the data.
    """
    files = cifar_training_files(folder) if split == "train" else [p for p in [folder / "test"] if p.is_file()]
    if not files:
        raise ConvscopeError(f"{folder} holds no {split} images of CIFAR-100; expected {WANTED['cifar100']}")
    store = open_cifar(files[0])
    return _labelled((store.read(i) for i in range(min(n, len(store)))), f"{files[0]}", WANTED["cifar100"])


def celeba(folder: Path, n: int, split: Split = "train") -> LabelledImages:
    """Returns ``n`` pictures of a folder with class sub-folders, in a fixed random order, 32 x 32 pixels in [0, 1].

    The largest centred square of a picture is taken. One picture in five belongs to the test split.

    Args:
        folder: see ``WANTED["celeba"]``.
        n: number of pictures; fewer where the split holds fewer.
        split: "train" or "test".

    Raises:
        ConvscopeError: when the folder does not hold pictures in class sub-folders.
    """
    source = StoredSource(FolderStore(folder), size=SIDE)
    ranks = (_SHARES - 1,) if split == "test" else range(_SHARES - 1)
    batches = chain.from_iterable(source.batches(64, rank=rank, world=_SHARES) for rank in ranks)

    def first() -> Iterable[tuple[Tensor, int | None]]:
        left = n
        for _, batch in batches:
            if batch.labels is None or left <= 0:
                return
            yield from zip(batch.images[:left], batch.labels[:left].tolist(), strict=True)
            left -= len(batch.images)

    return _labelled(first(), f"{folder}", WANTED["celeba"])


def _labelled(pairs: Iterable[tuple[Tensor, int | None]], place: str, wanted: str) -> LabelledImages:
    kept = [(image, label) for image, label in pairs if label is not None and label >= 0]
    if not kept:
        raise ConvscopeError(f"{place} holds no labelled images; expected {wanted}")
    images, labels = torch.stack([image for image, _ in kept]), torch.tensor([label for _, label in kept])
    return LabelledImages(images, labels, fingerprint(images.numpy(), labels.numpy()))


_READERS: Mapping[str, Callable[[Path, int, Split], LabelledImages]] = {
    "fashion-mnist": fashion_mnist,
    "cifar100": cifar100,
    "celeba": celeba,
}
_NAMES = {"fashion-mnist": "Fashion-MNIST", "cifar100": "CIFAR-100", "celeba": "CelebA"}


def laboratory_of(name: str, setup: Setup) -> Laboratory:
    """Returns the laboratory of a data set other than CIFAR-10; the latest stays, with all that it trained.

    Args:
        name: "fashion-mnist", "cifar100" or "celeba".
        setup: scale, data and cache.

    Raises:
        ConvscopeError: when the data are not at hand.
    """
    size = replace(SIZES[setup.scale], images=IMAGES[setup.scale])
    return _prepared(name, size, needed(name, setup.data), setup.cache, setup.progress)


@lru_cache(maxsize=1)
def _prepared(name: str, size: Size, folder: Path, cache: Path | None, progress: bool) -> Laboratory:
    train, test = _READERS[name](folder, size.images, "train"), _READERS[name](folder, size.test_images, "test")
    std, mean = torch.std_mean(train.images, (0, 2, 3), correction=0, keepdim=True)
    train, test = (replace(x, images=(x.images - mean) / std) for x in (train, test))
    words = f"{len(train.images):,} training images of {_NAMES[name]}, normalised by channel"
    return assembled(words, size, train, test, Setup(cache=cache, progress=progress))


def data_set(name: str) -> Callable[[Setup], Outcome]:
    """Returns the experiment on a data set: Tables 1 to 3, of Table 1 as many columns as the paper prints for it."""

    def run(setup: Setup) -> Outcome:
        lab, data = laboratory_of(name, setup), _NAMES[name]
        numbers = PRINTED.get(data, {})
        true, permuted = lab.layers("true"), lab.layers("permuted")
        layers = [*true, *permuted]
        rows = seeds_rows(lab, data, true)
        if numbers:
            wide, other = wider(lab), residual(lab)
            rows += [*width_rows(lab, data, true, wide), architecture_row(lab, data, true, other)]
            layers += [*wide, *other]
        rows += permuted_rows(lab, data, true, permuted)
        fitted = {kind: fits(lab, runs) for kind, runs in (("true", true), ("permuted", permuted))}
        rows += [
            fit_row("true", fitted["true"], printed(numbers["formula"]) if numbers else None),
            replace(fit_row("permuted", fitted["permuted"]), reason=_one_time(lab, permuted, fitted["permuted"])),
            start_row(data, [fit_energy_profile(lab.untrained(x), lab.moments) for x in [*true, *permuted]]),
        ]
        return lab.outcome(rows, layers, by_epoch=by_epoch(lab, true, permuted))

    return run


def _one_time(lab: Laboratory, layers: Sequence[TrainedLayer], fits: Sequence[ProfileFit]) -> str:
    profiles = [lab.learned(x).values for x in layers]
    measured = fmean(float(p[0] / p.max()) for p in profiles)
    predicted = fmean(float(f.curve[0] / f.curve.max()) for f in fits)
    return (
        f"With {len(profiles[0])} components random filters, fitted alike, reach "
        f"{fits[0].nulls['random filters'].high:.2f}. And one training time does not serve all: at the fitted one the "
        f"first component should have {predicted:.2f} of the largest energy, and has {measured:.2f}."
    )


def fits(lab: Laboratory, layers: Sequence[TrainedLayer]) -> list[ProfileFit]:
    """Returns the formula fitted to each layer's profile."""
    return [fit_energy_profile(lab.learned(x), lab.moments) for x in layers]


def pair_laboratories(setup: Setup) -> Mapping[str, Laboratory]:
    """Returns the laboratory of each pair of classes of CIFAR-10, by its name; they stay, with all that they trained.

    Raises:
        ConvscopeError: when CIFAR-10 is not at hand, or lacks a class.
    """
    return _pairs(SIZES[setup.scale], needed("cifar10", setup.data), setup.cache, setup.progress)


@lru_cache(maxsize=1)
def _pairs(size: Size, folder: Path, cache: Path | None, progress: bool) -> Mapping[str, Laboratory]:
    # Twice as many images, of which two classes in ten stay: two fifths of the usual number.
    train, test = cifar10(folder, 2 * size.images), cifar10(folder, size.test_images, "test")
    setup = Setup(cache=cache, progress=progress)
    size = replace(size, epochs=max(1, 3 * size.epochs // 4), seeds=size.few)
    return {
        name: assembled(name, size, _only(train, classes, name), _only(test, classes, name), setup)
        for name, (classes, _) in PAIRS.items()
    }


def _only(data: LabelledImages, classes: tuple[int, int], name: str) -> LabelledImages:
    chosen = torch.isin(data.labels, torch.tensor(classes))
    images, labels = data.images[chosen], (data.labels[chosen] == classes[1]).long()
    if len(labels.unique()) < 2:
        raise ConvscopeError(f"the images of CIFAR-10 lack a class of {name}: expected some of each; hand in more")
    return LabelledImages(images, labels, fingerprint(images.numpy(), labels.numpy()))


def pairs(setup: Setup) -> Outcome:
    """Returns how well formula and trivial curves follow networks that tell two classes of CIFAR-10 apart."""
    labs = pair_laboratories(setup)
    layers = {name: lab.layers("true") for name, lab in labs.items()}
    fitted = {name: fits(lab, layers[name]) for name, lab in labs.items()}
    rows = [fit_row("true", fitted[name], printed(text), name) for name, (_, text) in PAIRS.items()]
    every = [fit for each in fitted.values() for fit in each]
    rows.append(log_row("all pairs: formula", every))
    one = next(iter(labs.values()))
    n = [len(lab.trainer.train.labels) for lab in labs.values()]
    settings = {
        "images": f"{min(n):,} to {max(n):,} training images of CIFAR-10 of two classes, normalised as in the paper's "
        "code",
        **training_in_words(one.size),
    }
    table = [described(x, name) for name, each in layers.items() for x in each]
    return Outcome(tuple(rows), settings, {"networks": table})
