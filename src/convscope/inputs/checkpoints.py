"""Weights from files, without running anything that the files hold."""

from __future__ import annotations

import re
import warnings
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from convscope.core.errors import ConvscopeError
from convscope.inputs import exported
from convscope.inputs.files import open_zip, reason, regular_file, require_memory, shown

# Under these names a checkpoint that also holds an optimiser and the like keeps its state dict; the first counts.
_NESTED = ("state_dict", "model_state_dict", "model", "net", "network", "module", "weights", "params")
_NOT_WEIGHTS = re.compile(r"optim|sched|scaler|ema_updater", re.IGNORECASE)
_WRAPPERS = ("module.", "_orig_mod.")  # DataParallel and torch.compile
_DEEPEST = 8  # levels of nested dictionaries


@dataclass(frozen=True)
class Weights:
    """The tensors of one network.

    Attributes:
        tensors: key to tensor, in the order of the file.
        conv: what an exported program's graph says of its first convolution, or None.
        notes: sentences that a reader should know.
    """

    tensors: dict[str, Tensor]
    conv: exported.FirstConv | None = None
    notes: tuple[str, ...] = ()


def load_weights(path: Path, prefix: str | None = None) -> Weights:
    """Returns the weights that a file holds.

    Safetensors, state dicts of ``torch.save`` (loaded with ``weights_only=True``; nested ones are found) and
    exported programs (``.pt2``; their tensors and graph are read as data, never loaded as a program, since that
    runs code from the file).

    Args:
        path: the file.
        prefix: of several networks in one file, the one whose keys begin with ``prefix`` and a dot.

    Raises:
        ConvscopeError: when the file is damaged, is a pickle that would run code, or holds no tensors.
    """
    regular_file(path)
    with path.open("rb") as file:
        start = file.read(9)
    if not start:
        raise ConvscopeError(f"{shown(path)} is empty: expected weights")
    conv = None
    if path.suffix == ".safetensors" or start[8:9] == b"{":
        content: Any = _load_safetensors(path)
    elif start.startswith(b"PK"):
        with open_zip(path) as archive:
            names = archive.namelist()
            if exported.is_exported(names):
                content, conv = exported.read_exported(path, archive)
            elif any(name.split("/")[-1] == "constants.pkl" for name in names):
                raise ConvscopeError(
                    f"{shown(path)} is a TorchScript archive, which holds code: where you trust it, save its "
                    "state dict, torch.save(torch.jit.load(FILE).state_dict(), 'weights.pt')"
                )
            else:
                content = _load_pickled(path)
    elif start.startswith(b"\x80"):
        content = _load_pickled(path)
    else:
        raise ConvscopeError(
            f"{shown(path)} is no weights file: expected .safetensors, a state dict saved by torch.save, or .pt2"
        )
    tensors, notes = _one_state_dict(content, path, prefix)
    tensors = _without_wrappers(tensors)
    require_memory(sum(t.numel() * t.element_size() for t in tensors.values()), shown(path))
    return Weights(tensors, conv, notes)


def _load_safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import safe_open

    try:
        with safe_open(path, framework="pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}  # ruff: ignore[in-dict-keys] (not a mapping)
    except Exception as error:
        raise ConvscopeError(
            f"{shown(path)} cannot be read as safetensors ({reason(error)}): the file is damaged or incomplete"
        ) from None


def _load_pickled(path: Path) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        if wanted := re.search(r"GLOBAL ([\w.]+)|Can only [\w ]*?(?:build|call|create)[^.]*? ([\w.]+)", str(error)):
            name = next(group for group in wanted.groups() if group)
            raise ConvscopeError(
                f"{shown(path)} is a pickle that needs {shown(name)}, and loading it could run code: where you "
                "trust it, save the state dict alone, torch.save(model.state_dict(), 'weights.pt')"
            ) from None
        if "weights_only" in str(error) or "Weights only" in str(error):
            raise ConvscopeError(
                f"{shown(path)} is a pickle of more than tensors, and loading it could run code: where you "
                "trust it, save the state dict alone, torch.save(model.state_dict(), 'weights.pt')"
            ) from None
        raise ConvscopeError(
            f"{shown(path)} cannot be read as weights ({type(error).__name__}: {reason(error)}): the file is "
            "damaged or incomplete"
        ) from None


def _one_state_dict(content: Any, path: Path, prefix: str | None) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    if isinstance(content, Tensor):
        content = {"weight": content}
    if not isinstance(content, Mapping):
        raise ConvscopeError(
            f"{shown(path)} holds a {type(content).__name__}: expected a state dict, names and tensors"
        )
    if prefix is not None:
        every = _flat(content)
        tensors = {key.removeprefix(f"{prefix}."): t for key, t in every.items() if key.startswith(f"{prefix}.")}
        if not tensors:
            have = sorted({key.split(".")[0] for key in every})
            raise ConvscopeError(
                f"{shown(path)} holds no keys that begin with {shown(prefix)}.: its keys begin with {_listed(have)}"
            )
        return tensors, ()
    direct = {shown(key): t for key, t in content.items() if isinstance(t, Tensor)}
    if direct:
        return direct, ()
    nested = {
        shown(key): flat for key, value in content.items() if isinstance(value, Mapping) and (flat := _flat(value))
    }
    nested = {key: flat for key, flat in nested.items() if not _NOT_WEIGHTS.search(key)}
    if not nested:
        raise ConvscopeError(f"{shown(path)} holds no tensors: expected a state dict, names and tensors")
    known = [key for key in _NESTED if key in nested]
    if len(nested) > 1 and not known:
        raise ConvscopeError(f"{shown(path)} holds several networks: choose one of #{_listed(nested, ', #')}")
    chosen = known[0] if known else next(iter(nested))
    notes = (f"of the parts of the file, {chosen!r} was read",) if len(nested) > 1 else ()
    return nested[chosen], notes


def _flat(content: Mapping[Any, Any], before: str = "", depth: int = 0) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for key, value in content.items():
        name = f"{before}{shown(key)}"
        if isinstance(value, Tensor):
            found[name] = value
        elif isinstance(value, Mapping) and depth < _DEEPEST:
            found |= _flat(value, f"{name}.", depth + 1)
    return found


def _without_wrappers(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    while wrapper := next((w for w in _WRAPPERS if all(key.startswith(w) for key in tensors)), None):
        tensors = {key.removeprefix(wrapper): t for key, t in tensors.items()}
    return tensors


def load_into(module: torch.nn.Module, weights: Weights, name: str) -> None:
    """Loads weights into a network; every key must fit.

    A first component that all keys of the file share and none of the network has ("model.") is removed.

    Args:
        module: changed in place.
        weights: what ``load_weights`` returned.
        name: what the file is called, for the error.

    Raises:
        ConvscopeError: when they belong to another network: counts what does not fit and names the first.
    """
    wanted = module.state_dict()
    given = weights.tensors
    first = {key.split(".")[0] for key in given}
    if len(first) == 1 and (wrapper := f"{first.pop()}.") != "." and not any(k.startswith(wrapper) for k in wanted):
        given = {key.removeprefix(wrapper): t for key, t in given.items()}
    missing = [key for key in wanted if key not in given and not key.endswith("num_batches_tracked")]
    unexpected = [key for key in given if key not in wanted]
    common = [key for key in wanted if key in given and isinstance(wanted[key], Tensor)]
    shaped = [key for key in common if wanted[key].shape != given[key].shape]
    if missing or unexpected or shaped:
        example = (
            f"{shaped[0]} is {_shape(given[shaped[0]])} instead of {_shape(wanted[shaped[0]])}"
            if shaped
            else f"{missing[0]} is missing"
            if missing
            else f"{unexpected[0]} is not expected"
        )
        raise ConvscopeError(
            f"{name} holds the weights of another network ({len(missing)} keys missing, {len(unexpected)} unexpected, "
            f"{len(shaped)} of another shape; e.g. {example}): give the file that belongs to this network"
        )
    for key in common:
        usable(key, given[key], wanted[key].dtype)
    try:
        module.load_state_dict(OrderedDict((key, given[key]) for key in common), strict=False)
    except Exception as error:
        raise ConvscopeError(
            f"{name} cannot be loaded into the network ({reason(error)}): give a file that fits it"
        ) from None


def usable(key: str, tensor: Tensor, wanted: torch.dtype = torch.float32) -> Tensor:
    """Returns a tensor that can stand for weights of the wanted kind.

    Raises:
        ConvscopeError: for complex, quantised or sparse tensors, and integers where floats are wanted.
    """
    plain = tensor.layout == torch.strided and not tensor.is_quantized
    if not plain or tensor.is_complex() or (wanted.is_floating_point and not tensor.is_floating_point()):
        kind = tensor.dtype if plain else tensor.layout if not tensor.is_quantized else "quantised"
        raise ConvscopeError(
            f"{key} is of type {kind}: expected real floating-point weights; convert them and save again"
        )
    return tensor


def not_finite(tensors: Mapping[str, Tensor]) -> list[str]:
    """Returns the keys of the floating-point tensors that hold NaN or infinite values."""
    return [
        key
        for key, t in tensors.items()
        if t.is_floating_point() and t.layout == torch.strided and not bool(torch.isfinite(t.float()).all())
    ]


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "a number"


def _listed(names: Iterable[str], between: str = ", ") -> str:
    names = [shown(name) for name in names]
    return between.join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
