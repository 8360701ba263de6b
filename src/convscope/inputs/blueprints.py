"""Where networks come from: torchvision, timm, and factories in the user's own code."""

from __future__ import annotations

import os
import random
import socket
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter

from convscope.core.errors import ConvscopeError
from convscope.inputs.files import reason, shown
from convscope.inputs.imports import import_name
from convscope.inputs.optional import timm, torchvision

_PARALLEL = (nn.DataParallel, nn.parallel.DistributedDataParallel)
_PATIENCE = 20.0  # seconds without an answer after which a download is given up


@dataclass(frozen=True)
class Blueprint:
    """How to build a network, and what its makers say of its input.

    Attributes:
        name: how the page calls it.
        make: builds the network with random weights (a user's factory: with whatever weights it gives it).
        published: builds it with its published weights; None where ``make`` already gives the network to analyse.
        size: (height, width) of the input, or None where unknown.
        mean: of each channel, or None where unknown.
        std: of each channel, or None where unknown.
    """

    name: str
    make: Callable[[], nn.Module]
    published: Callable[[], nn.Module] | None = None
    size: tuple[int, int] | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None


def described(blueprint: Blueprint, module: nn.Module) -> Blueprint:
    """Returns the blueprint with what the network itself says of its input, in timm's words.

    A module may carry ``default_cfg``, a dictionary with "mean" and "std" per channel of images in [0, 1], and
    "input_size" (c, h, w). Whatever is missing there stays unknown.

    Raises:
        ConvscopeError: when an entry is no list of numbers.
    """
    config = getattr(module, "default_cfg", None)
    if not isinstance(config, dict):
        return blueprint
    found: dict[str, Any] = {}
    for field, key in (("mean", "mean"), ("std", "std"), ("size", "input_size")):
        if (value := config.get(key)) is None:
            continue
        try:
            numbers = tuple(float(v) for v in value)
        except (TypeError, ValueError):
            raise ConvscopeError(
                f"default_cfg[{key!r}] of {blueprint.name} is {shown(repr(value))}: expected a list of numbers"
            ) from None
        found[field] = (int(numbers[-2]), int(numbers[-1])) if field == "size" and len(numbers) > 1 else numbers
    return replace(blueprint, **found)


def of_torchvision(name: str) -> Blueprint:
    """Returns the blueprint of a torchvision model.

    Raises:
        ConvscopeError: when torchvision is missing or broken, or has no such model.
    """
    models = torchvision("models")
    if name not in models.list_models():
        raise ConvscopeError(
            f"torchvision has no model {shown(name)!r}: see torchvision.models.list_models(), e.g. resnet18 or "
            "squeezenet1_1"
        )
    weights = getattr(models.get_model_weights(name), "DEFAULT", None)
    transforms = None if weights is None else weights.transforms()
    crop = getattr(transforms, "crop_size", None)

    def make() -> nn.Module:
        return models.get_model(name, weights=None)

    def published() -> nn.Module:
        if weights is None:
            raise ConvscopeError(f"torchvision publishes no weights for {name}: write torchvision:{name}@FILE or @none")
        module = make()
        if hasattr(module, "transform_input"):
            # Inception and GoogLeNet were published by others, with an input normalisation of their own.
            module.transform_input = True  # type: ignore[assignment]
        _load_cached(module, weights.url, f"torchvision:{name}")
        return module

    return Blueprint(
        f"torchvision:{name}",
        make,
        published,
        (crop[0], crop[-1]) if crop else None,
        _numbers(getattr(transforms, "mean", None)),
        _numbers(getattr(transforms, "std", None)),
    )


def _load_cached(module: nn.Module, url: str, name: str) -> None:
    from convscope.inputs.checkpoints import load_into, load_weights

    file = Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]
    if not file.is_file():
        patience = socket.getdefaulttimeout()
        socket.setdefaulttimeout(_PATIENCE)
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(url, str(file), progress=False)
        except Exception as error:
            raise ConvscopeError(
                f"the weights of {name} are not in {shown(file.parent)} and cannot be downloaded "
                f"({reason(error)}): copy {file.name} there, write {name}@FILE with weights of your own, or "
                f"{name}@none for random ones"
            ) from None
        finally:
            socket.setdefaulttimeout(patience)
    load_into(module, load_weights(file), file.name)


def of_timm(name: str) -> Blueprint:
    """Returns the blueprint of a timm model.

    Raises:
        ConvscopeError: when timm is missing or broken, or has no such model.
    """
    library = timm()

    def build(pretrained: bool) -> nn.Module:
        try:
            with _weights_only():
                return library.create_model(name, pretrained=pretrained)
        except Exception as error:
            what = "with its published weights " if pretrained else ""
            raise ConvscopeError(
                f"timm cannot build {shown(name)} {what}({type(error).__name__}: {reason(error)}): check the "
                f"name and the connection, or write timm:{shown(name)}@none for random weights"
            ) from None

    try:
        config: Any = library.get_pretrained_cfg(name)
        config = config.to_dict() if config is not None else {}
    except Exception:
        # A name that timm does not know fails when it is built, with a sentence of its own.
        config = {}
    size = config.get("input_size")
    return Blueprint(
        f"timm:{shown(name)}",
        lambda: build(False),
        lambda: build(True),
        (size[-2], size[-1]) if size else None,
        _numbers(config.get("mean")),
        _numbers(config.get("std")),
    )


@contextmanager
def _weights_only() -> Generator[None, None, None]:
    # What another library loads meanwhile is loaded without running pickled code, whatever it asks for.
    name = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
    before = os.environ.get(name)
    os.environ[name] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


def of_factory(spec: str) -> Blueprint:
    """Returns the blueprint of ``package.module:factory``.

    Raises:
        ConvscopeError: when it cannot be imported, or is no callable.
    """
    factory = import_name(spec)
    if isinstance(factory, nn.Module) or not callable(factory):
        raise ConvscopeError(
            f"{spec} is a {type(factory).__name__}: expected a function or class that builds the network when called "
            "without arguments"
        )

    def make() -> nn.Module:
        try:
            return factory()
        except (Exception, SystemExit) as error:
            raise ConvscopeError(
                f"{spec}() failed ({type(error).__name__}: {reason(error)}): it is called without arguments "
                "and must return the network"
            ) from error

    return Blueprint(spec, make)


def checked(module: object, name: str) -> nn.Module:
    """Returns the network that a blueprint built, without the wrapper of ``torch.compile`` or ``DataParallel``.

    Raises:
        ConvscopeError: when it is no ``nn.Module``, is TorchScript, or has parameters without a shape yet.
    """
    while (inner := getattr(module, "_orig_mod", None)) is not None or isinstance(module, _PARALLEL):
        module = module.module if isinstance(module, _PARALLEL) else inner
    if isinstance(module, torch.jit.ScriptModule):
        raise ConvscopeError(
            f"{name} is TorchScript, whose layers cannot be observed: give the network it was made from"
        )
    if not isinstance(module, nn.Module):
        raise ConvscopeError(f"{name} gave a {type(module).__name__}: expected an nn.Module")
    tensors = [*module.parameters(), *module.buffers()]
    if any(isinstance(t, (UninitializedParameter, UninitializedBuffer)) for t in tensors):
        raise ConvscopeError(f"{name} has lazy layers without a shape: run it once on an image before it is returned")
    if any(t.is_meta for t in tensors):
        raise ConvscopeError(f"{name} has parameters without content (device meta): build it on the CPU")
    return module


@contextmanager
def seeded(seed: int) -> Generator[None, None, None]:
    """Seeds the random numbers of torch (CPU), NumPy and Python within the context, and restores them after it."""
    saved = torch.random.get_rng_state(), np.random.get_state(), random.getstate()
    torch.default_generator.manual_seed(seed)
    np.random.seed(seed % 2**32)
    random.seed(seed)
    try:
        yield
    finally:
        torch.random.set_rng_state(saved[0])
        np.random.set_state(saved[1])
        random.setstate(saved[2])


def _numbers(values: Any) -> tuple[float, ...] | None:
    return None if values is None else tuple(float(v) for v in values)
