"""Compressed networks in files: safetensors with the tensors, and a map of the replaced layers as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from convscope.bottleneck.factored import ChannelForm, FrequencyForm, with_layers
from convscope.bottleneck.forms import Choice
from convscope.core.errors import ConvscopeError
from convscope.core.geometry import ConvGeometry
from convscope.inputs.checkpoints import load_into, load_weights
from convscope.inputs.files import reason, regular_file, shown

_FORMAT = "convscope compressed network"
_VERSION = "1"
_LONGEST = 2**20  # characters of the map


def save_compressed(module: nn.Module, plan: Mapping[str, Choice], path: Path) -> None:
    """Writes a compressed network, whole or not at all.

    The file holds every tensor of the compressed network's state dict. Its metadata are "format", "version" and
    "layers": JSON, for each replaced layer its form, the geometry of the convolution that stood there, and the sizes
    of the factors.

    Args:
        module: the compressed network.
        plan: what stands for each replaced convolution.
        path: of the file.

    Raises:
        ConvscopeError: when it cannot be written.
    """
    from safetensors.torch import save_file

    layers = {name: _described(module.get_submodule(name)) for name in plan}
    for name, choice in plan.items():
        layers[name]["conv"] = asdict(ConvGeometry.of(choice.conv)) | {"outputs": choice.conv.out_channels}
    state = {k: t.detach().to("cpu").contiguous().clone() for k, t in module.state_dict().items()}
    metadata = {"format": _FORMAT, "version": _VERSION, "layers": json.dumps(layers)}
    beside = path.with_name(f".{path.name}.part")
    try:
        save_file(state, beside, metadata)
        beside.replace(path)
    except Exception as error:
        raise ConvscopeError(f"{shown(path)} cannot be written ({reason(error)}): choose another place") from error
    finally:
        beside.unlink(missing_ok=True)


def load_compressed(model: nn.Module, file: str | Path) -> nn.Module:
    """Returns a copy of a network with the convolutions and weights of a compressed file.

    Args:
        model: the network that was compressed, or a fresh one of the same architecture; left as it is. A compiled one
            is unwrapped.
        file: what ``convscope bottleneck --compress`` wrote.

    Raises:
        ConvscopeError: when the file is damaged, is no compressed network, is of an unknown version, or belongs to
            another network.
        TypeError: when ``model`` is no module.

    Example:
        >>> load_compressed(nn.Conv2d(3, 4, 3), "nowhere.safetensors")
        Traceback (most recent call last):
        convscope.core.errors.ConvscopeError: nowhere.safetensors does not exist: check the path
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"expected a torch.nn.Module, got {type(model).__name__}")
    path = regular_file(Path(file))
    described = _map_of(path)
    weights = load_weights(path)
    model = getattr(model, "_orig_mod", model)
    layers = {name: _layer(model, name, value, weights.tensors, path) for name, value in described.items()}
    module = with_layers(model, layers)
    load_into(module, weights, shown(path.name))
    return module


def _described(layer: nn.Module) -> dict[str, Any]:
    if isinstance(layer, FrequencyForm):
        return {"form": "frequency", "size": list(layer.size), "pairs": layer.pairs, "twofold": layer.twofold}
    return {"form": "channel", "rank": len(layer.get_parameter("down.weight"))}


def _map_of(path: Path) -> dict[str, Any]:
    """Returns layer name to its description.

    Raises:
        ConvscopeError: when the file is not one of ours, or of another version, or its map is damaged.
    """
    from safetensors import safe_open

    try:
        with safe_open(path, framework="pt") as opened:
            metadata = opened.metadata() or {}
    except Exception as error:
        raise ConvscopeError(
            f"{shown(path)} cannot be read as safetensors ({reason(error)}): the file is damaged or incomplete"
        ) from None
    if metadata.get("format") != _FORMAT:
        raise ConvscopeError(
            f"{shown(path)} holds no compressed network: expected a file of `convscope bottleneck --compress`; load "
            "plain weights with load_state_dict"
        )
    if metadata.get("version") != _VERSION:
        raise ConvscopeError(
            f"{shown(path)} is of version {shown(str(metadata.get('version')))[:20]}, but this convscope reads version "
            f"{_VERSION}: update convscope"
        )
    text = metadata.get("layers", "")
    try:
        layers = json.loads(text) if len(text) <= _LONGEST else None
    except (ValueError, RecursionError):
        layers = None
    if not isinstance(layers, dict) or not layers or not all(isinstance(v, dict) for v in layers.values()):
        raise ConvscopeError(f"the map of layers in {shown(path)} is damaged: compress the network again")
    return layers


def _layer(
    model: nn.Module, name: str, described: Mapping[str, Any], tensors: Mapping[str, Tensor], path: Path
) -> nn.Module:
    """Returns an empty layer as described; nothing is made larger than the file's own tensors.

    Raises:
        ConvscopeError: when it does not fit the network, or the file.
    """
    conv = dict(model.named_modules()).get(name)
    if type(conv) is not nn.Conv2d:
        raise ConvscopeError(
            f"{shown(path)} belongs to another network: {shown(name)!r} is no nn.Conv2d of this one; give the network "
            "that was compressed"
        )
    own = json.loads(json.dumps(asdict(ConvGeometry.of(conv)) | {"outputs": conv.out_channels}))
    if described.get("conv") != own:
        raise ConvscopeError(
            f"{shown(path)} belongs to another network: {shown(name)!r} had another geometry when it was compressed; "
            "give the network that was compressed"
        )
    keys = ("down.weight", "up.weight") if described.get("form") == "channel" else ("frequencies", "left")
    first, second = (tensors.get(f"{name}.{key}") for key in keys)
    if first is not None and second is not None and first.ndim >= 2 and second.ndim >= 2:
        if described.get("form") == "channel" and described.get("rank") == len(first):
            return ChannelForm(conv, len(first))
        pairs, twofold = len(first), len(second) - len(first)
        if described.get("form") == "frequency" and (described.get("pairs"), described.get("twofold")) == (
            pairs,
            twofold,
        ):
            layer = _frequency_form(conv, described.get("size"), first, twofold)
            if layer is not None:
                return layer
    raise ConvscopeError(
        f"the description of layer {shown(name)!r} in {shown(path)} does not fit its tensors: the file is damaged; "
        "compress the network again"
    )


def _frequency_form(conv: nn.Conv2d, size: Any, frequencies: Tensor, twofold: int) -> FrequencyForm | None:
    """Returns an empty form, or None where size and frequencies mean nothing."""
    sides = isinstance(size, list) and len(size) == 2 and all(type(s) is int and 0 < s < 2**31 for s in size)
    whole = frequencies.ndim == 2 and frequencies.shape[1] == 2 and not frequencies.is_floating_point()
    if not sides or not whole or not 0 <= twofold <= len(frequencies) or conv.groups > 1:
        return None
    h, w = size
    ky, kx = frequencies.long().unbind(1)
    if bool((ky < 0).any()) or bool((2 * ky > h).any()) or bool((2 * kx.abs() > w).any()):
        return None
    return FrequencyForm(
        conv.in_channels, conv.out_channels, (h, w), len(frequencies), twofold, conv.weight.dtype, conv.weight.device
    )
