"""`convscope rfm`: kernel machines that learn which patches of images matter."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from convscope.cli.options import (
    DEVICE,
    OUTPUT,
    Reading,
    check_output,
    deliver,
    is_first_process,
    open_pass,
    run,
    say,
    the_device,
)

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor, nn

    from convscope.core.coverage import Coverage
    from convscope.core.passes import Pass
    from convscope.rfm.architecture import Architecture
    from convscope.rfm.conclude import Beside, Tested

LIMIT = 2000  # images that are read where nobody says how many: the kernel's cost grows with their square
EXACT = 10  # classes up to which each output of the CNN is sent back, instead of random signs
WIDTH, EPOCHS = 64, 20  # of that CNN
DRAWS, FEW = 8, 64  # of its weights before training, and images to know their gradients from


class _Ridge(click.ParamType):
    name = "loo|NUMBER"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float | Literal["loo"]:
        """Returns "loo", or a positive number."""
        if value == "loo":
            return "loo"
        try:
            number = float(value)
        except ValueError:
            number = 0.0
        if not 0 < number < float("inf"):
            self.fail(f"{value!r} is neither loo nor a positive number", param, ctx)
        return number


@dataclass(frozen=True, eq=False)
class _Read:
    """Labelled images in memory: [n, c, h, w], labels [n] (names where the classes have names), whence they came."""

    images: Tensor
    labels: np.ndarray
    source: Pass
    coverage: Coverage

    def permuted(self, seed: int) -> _Read:
        """Returns the same images, their labels in another order."""
        from numpy.random import default_rng

        return replace(self, labels=default_rng(seed).permutation(self.labels))


@click.command()
@click.argument("images")
@click.option("--test", metavar="IMAGES", help="Test images; nothing is chosen on them.")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), default=Path("rfm.html"), show_default=True,
    help="The page; the JSON is written beside it.",
)  # fmt: skip
@click.option("--save", type=click.Path(path_type=Path), help="Also write the classifier to this .safetensors.")
@click.option("--deep", is_flag=True, help="Deep ConvRFM: learn as many layers as --depth, one on the other.")
@click.option("--patch-size", type=click.IntRange(1), default=3, show_default=True, help="Side of patches in pixels.")
@click.option("--depth", type=click.IntRange(1), default=3, show_default=True, help="Convolutions with their ReLU.")
@click.option("--iterations", type=click.IntRange(0), default=3, show_default=True, help="Metrics learned in turn.")
@click.option(
    "--ridge", type=_Ridge(), default="loo", show_default=True,
    help="In units of the kernel's largest entry; loo: by leave-one-out.",
)  # fmt: skip
@click.option(
    "--padding", type=click.Choice(["valid", "first", "same"]), default="valid", show_default=True,
    help="Zeros around the images: none, in the first layer, in every layer.",
)  # fmt: skip
@click.option("--centre", is_flag=True, help="Take each channel's mean over the training images off.")
@click.option("--cnn", is_flag=True, help="Also train a CNN and compare its first layer with the learned metric.")
@click.option("--permuted", is_flag=True, help="Also learn from permuted labels, to know what chance gives.")
@click.option(
    "--limit", type=click.IntRange(2), help=f"Learn from at most so many images, chosen at random; default: {LIMIT}."
)
@click.option("--test-limit", type=click.IntRange(2), help=f"Test on at most so many; default: {LIMIT}.")
@click.option("--size", type=click.IntRange(1), help="Bring images to squares of so many pixels.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of folds and random draws.")
@click.option("--workers", type=click.IntRange(0), default=0, show_default=True, help="Reading processes.")
@click.option(
    "--max-memory", type=click.FloatRange(0, min_open=True), default=2.0, show_default=True,
    help="GiB that kernels may take.",
)  # fmt: skip
@click.option("--arrays", type=click.Path(path_type=Path), help="Also write the metrics to this .npz.")
@DEVICE
@OUTPUT
def rfm(
    images: str,
    test: str | None,
    output: Path,
    save: Path | None,
    deep: bool,
    patch_size: int,
    depth: int,
    iterations: int,
    ridge: float | Literal["loo"],
    padding: Literal["valid", "first", "same"],
    centre: bool,
    cnn: bool,
    permuted: bool,
    limit: int | None,
    test_limit: int | None,
    size: int | None,
    seed: int,
    workers: int,
    max_memory: float,
    arrays: Path | None,
    device: str,
    as_json: bool,
    quiet: bool,
) -> None:
    """Trains a ConvRFM on IMAGES with labels, and says whether learning which patches matter helps.

    One row an iteration: accuracy on test images and on held-out ones, beside the fixed kernel; and pictures of the
    patches that the machine learned to look at.

    IMAGES is a folder with a sub-folder a class, a .npz file with labels, CIFAR-10/100 python batches, MNIST-style idx
    files, torchvision:NAME, hf:NAME or package.module:loader.

    Exit status: 0 done, 1 cannot be analysed, 2 wrong usage, 3 interrupted (the page holds what was learned).
    """
    start = time.perf_counter()
    check_output(output, arrays)
    _check_save(save)
    with run(quiet) as progress:
        place = the_device(device)
        from torch import nn

        from convscope.analyse import head_of, provenance
        from convscope.core.network import Network
        from convscope.page.report import Report
        from convscope.rfm.architecture import Architecture
        from convscope.rfm.conclude import conclude

        architecture = Architecture(depth, patch_size, padding)
        options = {
            "patch_size": patch_size, "depth": depth, "n_iters": iterations, "ridge": ridge, "padding": padding,
            "random_state": seed, "max_memory": int(max_memory * 2**30), "device": place,
            "verbose": int(progress and is_first_process()),
            "channels": "first", "centre": centre, **({"n_layers": depth} if deep else {}),
        }  # fmt: skip
        reading = Reading(limit, size, 1024, workers, max_memory, resume=False)
        try:
            read = _read(images, reading, progress=progress)
            testing = replace(reading, limit=test_limit)
            test_read = None if test is None else _read(test, testing, progress=progress, like=read)
            began = time.perf_counter()
            machine, complete = _fitted(read, options, deep=deep)
        except KeyboardInterrupt:
            say("Interrupted before anything was learned: no page is written.")
            sys.exit(3)
        if save is not None and is_first_process():
            machine.save(save)
        tested = null = beside = None
        try:
            tested = None if test_read is None else _tested(machine, test_read)
            if permuted and complete:
                null, complete = _fitted(read.permuted(seed), options, deep=deep)
            if cnn and complete:
                beside = _cnn(read, test_read, architecture, seed, progress=progress)
        except KeyboardInterrupt:
            complete = False
        result = conclude(
            _layers(machine), getattr(machine, "best_layer_", 0), read.images, read.labels, architecture,
            tested=tested, permuted=None if null is None or not complete else _layers(null), cnn=beside,
        )  # fmt: skip
        name = f"{'Deep ' * deep}ConvRFM, {depth} convolutions of {patch_size}×{patch_size} pixels"
        notes = [] if complete else ["Interrupted: the page holds what was done until then."]
        made = Report(
            head_of(read.source, Network(name, nn.Identity()), notes),
            (result,),
            _covered(read, test_read, time.perf_counter() - began),
            provenance(None, start, {"folds and gradients": seed}),
        )
        deliver(made, output, as_json=as_json, arrays=arrays)
        if not complete:
            sys.exit(3)


def _check_save(path: Path | None) -> None:
    if path is None:
        return
    if path.suffix != ".safetensors":
        raise click.BadParameter(f"{path.name!r} must end in .safetensors", param_hint="--save")
    if path.is_dir() or not path.parent.is_dir():
        raise click.BadParameter(f"{path} is a folder, or lies in none: name a file in a folder", param_hint="--save")


def _read(spec: str, reading: Reading, *, progress: bool, like: _Read | None = None) -> _Read:
    """Returns images with their labels in memory.

    Args:
        spec: names them.
        reading: how.
        progress: whether to say what is read.
        like: images that they must be like in channels, size and classes.

    Raises:
        ConvscopeError: when they have no labels, are too many for memory, or not like the others.
    """
    import numpy as np

    from convscope.core.errors import ConvscopeError
    from convscope.core.kept import Kept
    from convscope.core.streams import Images
    from convscope.inputs.images import open_images
    from convscope.inputs.stores import StoredSource

    suggested = None if like is None else (like.images.shape[2], like.images.shape[3])
    source = open_images(spec, limit=reading.limit, size=reading.size, suggested=suggested)
    if reading.limit is None and isinstance(source, StoredSource) and (source.n or 0) > LIMIT:
        source = StoredSource(source.store, limit=LIMIT, size=reading.size, suggested=suggested)
    p = open_pass(source, reading, progress=progress)
    pilot = p.pilot.images
    n = reading.limit or min(source.n or LIMIT, LIMIT)
    if like is not None and pilot.shape[1:] != like.images.shape[1:]:
        sides = ["×".join(map(str, x.shape[1:])) for x in (pilot, like.images)]
        raise ConvscopeError(
            f"the images of {source.name} are {sides[0]} (channels, height, width), those to learn from {sides[1]}: "
            "bring both to one size with --size"
        )
    need = 4 * n * pilot[0].numel()
    if need > reading.max_memory * 2**30:
        raise ConvscopeError(
            f"{n} images of {source.name} take {need / 2**30:.1f} GiB, and --max-memory is {reading.max_memory:g}: "
            "use fewer (--limit) or smaller ones (--size), or give more memory"
        )
    if progress:
        say(f"up to {n} images take {need / 2**20:.1f} MiB")
    slot = p.feed(Images(), lambda: Kept(n, max_bytes=2**62), folded=False, label="keeping images")
    coverage = p.run()
    if not coverage.complete:
        raise KeyboardInterrupt
    if coverage.images > n:  # batches, which are read to their end
        coverage = replace(coverage, notes=(*coverage.notes, f"{n} of {coverage.images} images, chosen at random"))
    x, y = slot.value().labelled()
    if not len(y):
        raise ConvscopeError(
            f"the images of {source.name} have no labels: give a folder with a sub-folder a class, or a .npz file with "
            "an array of labels"
        )
    names = source.classes
    labels = y.numpy()
    if names is not None and not all(name.isdecimal() for name in names):
        labels = np.array(names)[labels]
    if like is not None and (new := set(labels.tolist()) - set(like.labels.tolist())):
        raise ConvscopeError(
            f"the test images of {source.name} have a class {min(new)!r} that no image to learn from has: give both "
            "sets the same classes"
        )
    return _Read(x.float(), labels, p, coverage)


def _fitted(read: _Read, options: dict[str, Any], *, deep: bool) -> tuple[Any, bool]:
    """Returns a classifier fitted to images, and whether it was not interrupted.

    Raises:
        KeyboardInterrupt: when nothing was learned before the interruption.
    """
    from sklearn.exceptions import NotFittedError
    from sklearn.utils.validation import check_is_fitted

    from convscope.rfm.deep import DeepConvRFMClassifier
    from convscope.rfm.estimators import ConvRFMClassifier

    machine: Any = DeepConvRFMClassifier(**options) if deep else ConvRFMClassifier(**options)
    try:
        machine.fit(read.images.numpy(), read.labels)
    except KeyboardInterrupt:
        try:
            check_is_fitted(machine)
        except NotFittedError:
            raise KeyboardInterrupt from None
        return machine, False
    return machine, True


def _layers(machine: Any) -> list[Any]:
    return getattr(machine, "layers_", [machine])


def _tested(machine: Any, read: _Read) -> Tested:
    """Returns what every iteration of every layer says of test images."""
    from convscope.rfm.conclude import Tested

    stages = machine.staged_predict(read.images.numpy())
    return Tested(read.labels, [[next(stages) for _ in layer.history_] for layer in _layers(machine)])


def _cnn(read: _Read, test: _Read | None, architecture: Architecture, seed: int, *, progress: bool) -> Beside:
    """Returns the first layer of a CNN of the kernel's architecture that was trained on the same images.

    Raises:
        KeyboardInterrupt: when its training was interrupted.
    """
    import numpy as np
    import torch

    from convscope import patch_agop
    from convscope.rfm.conclude import Beside
    from convscope.training.loop import accuracy, train

    names, codes = np.unique(read.labels, return_inverse=True)
    exact = len(names) <= EXACT
    untrained = [
        next(iter(patch_agop(_network(read.images, len(names), architecture, draw), read.images[:FEW], exact).values()))
        for draw in range(seed + 1, seed + 1 + DRAWS)
    ]
    network = _network(read.images, len(names), architecture, seed)
    training = train(
        network, read.images, torch.from_numpy(codes), epochs=EPOCHS, lr=1e-3, batch_size=32, optimiser="adam",
        seed=seed, progress="training a CNN" if progress else False,
    )  # fmt: skip
    if not training.complete:
        raise KeyboardInterrupt
    after = next(iter(patch_agop(network, read.images.split(64), exact, progress=progress).values()))
    right = None
    if test is not None:
        right = accuracy(network, test.images, torch.from_numpy(np.searchsorted(names, test.labels)))
    return Beside(after.nfm, after.agop, [(start.nfm, start.agop) for start in untrained], right)


def _network(images: Tensor, classes: int, architecture: Architecture, seed: int) -> nn.Sequential:
    """Returns the network of the kernel at a width of ``WIDTH``: convolutions with ReLU, then a linear layer."""
    import torch
    from torch import nn

    c, h, w = images.shape[1:]
    layers: list[nn.Module] = []
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        for i in range(architecture.depth):
            top, bottom, left, right = (architecture.deeper if i else architecture.first(c)).padding
            conv = nn.Conv2d(WIDTH if i else c, WIDTH, architecture.patch_size, bias=False)
            layers += [nn.ZeroPad2d((left, right, top, bottom)), conv, nn.ReLU()]
        h, w = architecture.sizes(h, w)[-1]
        return nn.Sequential(*layers, nn.Flatten(), nn.Linear(WIDTH * h * w, classes))


def _covered(read: _Read, test: _Read | None, seconds: float) -> Coverage:
    """Returns what was read, test images included."""
    parts = [read.coverage] + ([] if test is None else [test.coverage])
    notes = [note for part in parts for note in part.notes]
    if test is not None:
        notes.append(f"{test.coverage.images} of these are test images, of {test.source.source.name}")
    return replace(
        read.coverage,
        images=sum(part.images for part in parts),
        expected=None if any(part.expected is None for part in parts) else sum(part.expected or 0 for part in parts),
        unreadable=tuple(skip for part in parts for skip in part.unreadable),
        folds=1,
        seconds={
            **{k: sum(part.seconds.get(k, 0.0) for part in parts) for k in read.coverage.seconds}, "learning": seconds
        },
        notes=tuple(dict.fromkeys(notes)),
    )  # fmt: skip
