"""Opens the network that a command line names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from convscope.core.errors import ConvscopeError
from convscope.core.network import Network
from convscope.core.results import Skip
from convscope.inputs.bare import bare_convolution
from convscope.inputs.blueprints import Blueprint, checked, described, of_factory, of_timm, of_torchvision, seeded
from convscope.inputs.checkpoints import Weights, load_into, load_weights, not_finite
from convscope.inputs.files import shown
from convscope.inputs.imports import DOTTED
from convscope.inputs.preprocessing import Preprocessing

_KINDS = (
    "torchvision:NAME, timm:NAME or package.module:factory, each optionally with @WEIGHTS_FILE and #PREFIX, or "
    "a weights file (.safetensors, .pt, .pth, .pt2)"
)
_NEEDS_NETWORK = "needs the network: give package.module:factory@FILE instead of the weights alone"


@dataclass(frozen=True, eq=False)
class OpenedNetwork:
    """A network from the command line, with what is known of its making.

    Attributes:
        network: the network; its ``prepare`` is usable after ``bound`` where mean and deviation are to be measured.
        preprocessing: what ``network.prepare`` does.
        weights_only: whether only the first convolution is known (a weights file alone).
        init: the same network at the user's initial weights, or None.
        blueprint: how to build it afresh, or None for weights alone.
    """

    network: Network
    preprocessing: Preprocessing
    weights_only: bool = False
    init: Network | None = None
    blueprint: Blueprint | None = None

    def bound(self, images: Tensor) -> OpenedNetwork:
        """Returns this network fitted to the images that it will see.

        Mean and standard deviation are measured where they are not known, and what happens to the images is noted.

        Args:
            images: [n, c, h, w], the first images; the same ones in every process.

        Raises:
            ConvscopeError: when the images' channels cannot be fitted to the network.
        """
        prepare = self.preprocessing.measured(images)
        network = replace(self.network, prepare=prepare, notes=self.network.notes + prepare.notes(images))
        init = None if self.init is None else replace(self.init, prepare=prepare)
        return replace(self, network=network, preprocessing=prepare, init=init)

    def fresh(self, seed: int) -> nn.Module | None:
        """Returns the same network with random weights, or None where it cannot be had.

        It is None for weights alone, and where the factory gives the analysed weights whatever the seed.

        Args:
            seed: of torch's, NumPy's and Python's random numbers, which are restored afterwards.

        Raises:
            ConvscopeError: when the factory fails this time.
        """
        if self.blueprint is None:
            return None
        with seeded(seed):
            module = checked(self.blueprint.make(), self.blueprint.name)
        theirs = dict(self.network.module.named_parameters())
        same = [
            name in theirs and p.shape == theirs[name].shape and torch.equal(p, theirs[name])
            for name, p in module.named_parameters()
            if p.ndim > 1
        ]
        return None if same and all(same) else module


def open_network(
    spec: str,
    *,
    layer: str | None = None,
    stride: int | None = None,
    padding: int | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    init: str | None = None,
    input_size: int | None = None,
) -> OpenedNetwork:
    """Returns the network that a command line names.

    Args:
        spec: ``torchvision:NAME`` or ``timm:NAME`` (published weights; ``@none``: random ones) or
            ``package.module:factory``, each optionally followed by ``@WEIGHTS_FILE`` and ``#PREFIX`` (a file may hold
            several networks); or a weights file alone, from which the first convolution is taken.
        layer: for weights alone, the convolution's name; default: found by its shape.
        stride: for weights alone, the convolution's stride; default 1.
        padding: for weights alone, the convolution's padding; default half the kernel.
        mean: subtracted from each channel of images in [0, 1]; default: the model's metadata, else measured.
        std: what the rest is divided by; default likewise.
        init: weights file (with optional ``#PREFIX``) of the same network before training.
        input_size: side of the square that images are brought to; default: the model's metadata, else left alone.

    Raises:
        ConvscopeError: when there is no such network, its weights do not fit, or they would run code; one line.
        ValueError: for a stride or input size below 1, or a negative padding.

    Example:
        >>> open_network("nowhere.pt")
        Traceback (most recent call last):
        convscope.core.errors.ConvscopeError: nowhere.pt does not exist: check the path
    """
    if (stride is not None and stride < 1) or (padding is not None and padding < 0):
        raise ValueError(f"stride must be at least 1 and padding at least 0, got {stride} and {padding}")
    if input_size is not None and input_size < 1:
        raise ValueError(f"input_size must be at least 1 pixel, got {input_size}")
    size = None if input_size is None else (input_size, input_size)
    where = _parsed(spec)
    given = Preprocessing(None, size, _values(mean), _values(std), "as given")
    if where.maker is None:
        return _of_weights(where, layer, stride, padding, given, init)
    return _of_blueprint(where, layer, (stride, padding) != (None, None), given, init)


def open_weights(spec: str) -> tuple[str, Weights] | None:
    """Returns name and weights where a command line names a weights file alone; None where it names a network.

    Args:
        spec: as for ``open_network``.

    Raises:
        ConvscopeError: when there is no such file, or it cannot be used.
    """
    where = _parsed(spec)
    if where.maker is not None:
        return None
    assert where.file is not None
    return _title(where), load_weights(where.file, where.prefix)


@dataclass(frozen=True)
class _Spec:
    """A parsed name: ``maker`` (None for weights alone), weights file ("none": random), prefix of its keys."""

    text: str
    maker: str | None
    file: Path | None
    random: bool = False
    prefix: str | None = None


def _parsed(spec: str) -> _Spec:
    if not spec.strip() or "\0" in spec:
        raise ConvscopeError(f"the network's name is empty or not valid: expected {_KINDS}")
    maker, at, rest = spec.partition("@")
    library, colon, name = maker.partition(":")
    if _exists(spec) or not (colon and name) or not (library in {"torchvision", "timm"} or DOTTED.fullmatch(maker)):
        if not _exists(spec) and library in {"torchvision", "timm"} and colon and not name:
            raise ConvscopeError(f"{shown(spec)!r} lacks a name: write {library}:NAME, e.g. {library}:resnet18")
        file, prefix = _file_and_prefix(spec)
        return _Spec(spec, None, file, prefix=prefix)
    if not at:
        if "#" in spec:
            raise ConvscopeError(
                f"{shown(spec)} has a #PREFIX but no file: write {shown(maker.split('#')[0])}@FILE#PREFIX"
            )
        return _Spec(spec, maker, None)
    if rest == "none":
        return _Spec(spec, maker, None, random=True)
    file, prefix = _file_and_prefix(rest)
    return _Spec(spec, maker, file, prefix=prefix)


def _file_and_prefix(text: str) -> tuple[Path, str | None]:
    left, hash_sign, prefix = text.rpartition("#")
    if not _exists(text) and hash_sign and _exists(left):
        if not prefix:
            raise ConvscopeError(f"{shown(text)} ends with #, without a prefix: write FILE#PREFIX or FILE")
        return Path(left), prefix
    if not _exists(text):
        looks_like_file = "/" in text or Path(text.partition("#")[0]).suffix
        raise ConvscopeError(
            f"{shown(text)} does not exist: check the path"
            if looks_like_file
            else f"{shown(text)!r} names no network: expected {_KINDS}"
        )
    return Path(text), None


def _exists(text: str) -> bool:
    try:
        return bool(text) and Path(text).exists()
    except OSError:
        return False


def _of_weights(
    where: _Spec, layer: str | None, stride: int | None, padding: int | None, given: Preprocessing, init: str | None
) -> OpenedNetwork:
    assert where.file is not None
    weights = load_weights(where.file, where.prefix)
    module, key, notes = bare_convolution(weights, layer=layer, stride=stride, padding=padding)
    conv = next(m for m in module.modules() if isinstance(m, nn.Conv2d))
    prepare = replace(given, channels=conv.in_channels)
    skipped = (
        Skip("every layer after the first convolution", _NEEDS_NETWORK),
        Skip("the network's outputs, gradients and untrained twin", _NEEDS_NETWORK),
        *_damaged({k: t for k, t in weights.tensors.items() if k != key}),
    )
    network = Network(_title(where), module, prepare, skipped, (*weights.notes, *notes))
    start = None
    if init is not None:
        file, prefix = _file_and_prefix(init)
        first, _, _ = bare_convolution(load_weights(file, prefix), layer=key, stride=stride, padding=padding)
        other = next(m for m in first.modules() if isinstance(m, nn.Conv2d))
        if other.weight.shape != conv.weight.shape:
            raise ConvscopeError(
                f"the initial weights in {shown(file)} belong to another network: {key} is {tuple(other.weight.shape)} "
                f"instead of {tuple(conv.weight.shape)}"
            )
        start = Network(f"{_title(where)} before training", first, prepare)
    return OpenedNetwork(network, prepare, weights_only=True, init=start)


def _of_blueprint(
    where: _Spec, layer: str | None, has_geometry: bool, given: Preprocessing, init: str | None
) -> OpenedNetwork:
    assert where.maker is not None
    blueprint = _blueprint(where.maker)
    published = where.file is None and not where.random and blueprint.published is not None
    with seeded(0):
        module = checked(
            blueprint.published() if published and blueprint.published else blueprint.make(), blueprint.name
        )
    notes: list[str] = []
    if where.file is not None:
        weights = load_weights(where.file, where.prefix)
        load_into(module, weights, shown(where.file.name))
        notes += weights.notes
    if where.random:
        notes.append("the weights are random, as the network was built")
    if has_geometry:
        notes.append("the given stride and padding were left out, since the network has its own")
    start = None
    if init is not None:
        with seeded(0):
            first = checked(blueprint.make(), blueprint.name)
        file, prefix = _file_and_prefix(init)
        load_into(first, load_weights(file, prefix), shown(file.name))
        _first_conv(first, layer, shown(init))
        start = first
    conv = _first_conv(module, layer, shown(where.text))
    said = blueprint if blueprint.mean is not None else described(blueprint, module)
    prepare = Preprocessing(
        None if conv is None else conv.in_channels,
        given.size or said.size,
        given.mean or said.mean,
        given.std or said.std,
        given.origin if given.mean or given.std else f"published for {blueprint.name}",
    )
    damaged = _damaged(module.state_dict())
    network = Network(_title(where), module, prepare, damaged, tuple(notes))
    return OpenedNetwork(
        network,
        prepare,
        init=None if start is None else Network(f"{_title(where)} before training", start, prepare),
        blueprint=blueprint,
    )


def _blueprint(maker: str) -> Blueprint:
    library, _, name = maker.partition(":")
    if library == "torchvision":
        return of_torchvision(name)
    return of_timm(name) if library == "timm" else of_factory(maker)


def _first_conv(module: nn.Module, layer: str | None, name: str) -> nn.Conv2d | None:
    """Returns the convolution that probably sees the images; None where none is a module.

    Raises:
        ConvscopeError: when there is no convolution, ``layer`` is none, or the weights are not finite.
    """
    if not any(p.ndim == 4 for p in module.parameters()):
        raise ConvscopeError(f"{name} has no two-dimensional convolution: give a network that has one")
    convs = {name: m for name, m in module.named_modules() if isinstance(m, nn.Conv2d)}
    if layer is not None and layer not in convs and layer in dict(module.named_modules()):
        raise ConvscopeError(f"layer {layer!r} is no convolution: choose one of {', '.join(list(convs)[:8]) or 'none'}")
    # In the order of definition, but rather one that can see images.
    over_images = [m for m in convs.values() if m.in_channels in {1, 3}]
    conv = next(iter(over_images or convs.values()), None)
    if conv is not None and not_finite({"weight": conv.weight}):
        raise ConvscopeError(
            f"the first convolution of {name} holds NaN or infinite weights: the training diverged, or the file is "
            "damaged"
        )
    return conv


def _damaged(tensors: dict[str, Tensor]) -> tuple[Skip, ...]:
    return tuple(
        Skip(shown(key), "holds NaN or infinite values: what rests on it is not computed")
        for key in not_finite(tensors)
    )


def _title(where: _Spec) -> str:
    maker = "" if where.maker is None else where.maker.rpartition(":")[2]
    file = "" if where.file is None else shown(Path(where.file.name))
    prefix = "" if where.prefix is None else f"#{shown(where.prefix)}"
    return f"{maker}{'@' if maker and file else ''}{file}{prefix}" + ("@none" if where.random else "")


def _values(values: Sequence[float] | None) -> tuple[float, ...] | None:
    return None if values is None else tuple(float(v) for v in values)
