"""Convolutions of a bare state dict: the first one made into a network of its own, or all of them by their weights."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from convscope.core.errors import ConvscopeError
from convscope.inputs.checkpoints import Weights, not_finite, usable

_EPSILON = 1e-5  # of a batch norm, where PyTorch's own value was kept


class BareConvolution(nn.Module):
    """A network of which only its first convolution is known; what it returns is that convolution's output.

    Args:
        name: the convolution's name, dots included; it is found under this name in ``named_modules``.
        conv: the convolution.
    """

    def __init__(self, name: str, conv: nn.Conv2d) -> None:
        super().__init__()
        owner: nn.Module = self
        *folders, last = [_attribute(part) for part in name.split(".")]
        for part in folders:
            owner.add_module(part, nn.Module())
            owner = owner.get_submodule(part)
        owner.add_module(last, conv)
        self._path = ".".join([*folders, last])

    def forward(self, images: Tensor) -> Tensor:
        """Returns the convolution's output [n, k, h', w']."""
        return self.get_submodule(self._path)(images)


def _attribute(part: str) -> str:
    # What every module has ("forward", "_buffers") cannot be the name of a child.
    return f"{part}_" if not part or part.startswith("_") or hasattr(nn.Module(), part) else part


def bare_convolution(
    weights: Weights,
    *,
    layer: str | None = None,
    stride: int | None = None,
    padding: int | None = None,
) -> tuple[BareConvolution, str, tuple[str, ...]]:
    """Returns a network of the first convolution alone, the convolution's key, and what was assumed.

    Args:
        weights: of one network.
        layer: the convolution's name; default: the first one of an exported graph, or the first weight with four
            axes and 1 or 3 input channels (rather 3 than 1, rather a kernel than a 1x1).
        stride: default: as exported, else 1.
        padding: default: as exported, else half the kernel.

    Raises:
        ConvscopeError: when there is no such convolution, or its weights cannot be used.
    """
    tensors = weights.tensors
    several = _several_networks(tensors)
    if several and layer is None:
        raise ConvscopeError(
            f"the file holds {len(several)} networks ({', '.join(several[:8])}): choose one with "
            f"#{several[-1]} after the file's name"
        )
    notes: list[str] = []
    exported = weights.conv
    if layer is not None:
        key = _by_name(tensors, layer)
    elif exported is not None and tensors[exported.key].ndim == 4:
        key = exported.key
    else:
        key = _by_shape(tensors)
        notes.append(f"the first convolution was found by its shape: {_named(key)} ({_shape(tensors[key])})")
    weight = usable(key, tensors[key])
    if weight.numel() == 0:
        raise ConvscopeError(
            f"{key} has the shape {_shape(weight)}, without a single weight: give another file or layer"
        )
    if not_finite({key: weight}):
        raise ConvscopeError(f"{key} holds NaN or infinite weights: the training diverged, or the file is damaged")
    q, r = weight.shape[2:]
    groups = 1
    geometry: dict[str, Any] = {"stride": stride or 1, "padding": (q // 2, r // 2) if padding is None else padding}
    if exported is not None and exported.key == key and stride is None and padding is None:
        groups = exported.groups
        geometry = {"stride": exported.stride, "padding": exported.padding, "dilation": exported.dilation}
        geometry["groups"] = groups
    elif stride is None or padding is None:
        assumed = [f"stride {stride or 1}"] * (stride is None) + [f"padding {q // 2}"] * (padding is None)
        notes.append(
            f"assumed, since a state dict does not say it: {' and '.join(assumed)}; set them with --stride and "
            "--padding"
        )
    bias = tensors.get(f"{_named(key)}.bias")
    if bias is not None and (bias.shape != weight.shape[:1] or not bias.is_floating_point()):
        bias = None
    dtype = torch.float64 if weight.dtype == torch.float64 else torch.float32
    with torch.device("meta"):  # no random numbers are drawn for weights that are replaced at once
        conv = nn.Conv2d(
            weight.shape[1] * groups, weight.shape[0], (q, r), bias=bias is not None, dtype=dtype, **geometry
        )
    conv = conv.to_empty(device="cpu")
    with torch.no_grad():
        conv.weight.copy_(weight)
        if bias is not None and conv.bias is not None:
            conv.bias.copy_(bias)
    return BareConvolution(_named(key), conv), key, tuple(notes)


class BareWeight(NamedTuple):
    """What a state dict says of one convolution.

    Attributes:
        name: of the layer.
        weight: [k, c / groups, q, r], as stored.
        factor: float64 [k], what a batch norm behind it multiplies each output channel by (gamma over the running
            standard deviation, with PyTorch's epsilon); None where none was found by its name.
    """

    name: str
    weight: Tensor
    factor: Tensor | None


def bare_convolutions(weights: Weights) -> tuple[BareWeight, ...]:
    """Returns every convolution over images in a state dict, in the order of the file (numbers in names count).

    A batch norm belongs to a convolution whose name it continues: conv1 and bn1 or norm1, features.0 and features.1.

    Args:
        weights: of one network.

    Raises:
        ConvscopeError: when there is none.
    """
    tensors = weights.tensors
    keys = [key for key, t in tensors.items() if t.ndim == 4 and t.is_floating_point() and t.numel()]
    if list(tensors) == sorted(tensors):
        keys.sort(key=_natural)
    if not keys:
        raise ConvscopeError(
            "no convolution over images was found: expected weights with four axes (channels out, channels in, "
            "height, width)"
        )
    return tuple(BareWeight(_named(key), tensors[key], _factor(tensors, key)) for key in keys)


def _factor(tensors: Mapping[str, Tensor], key: str) -> Tensor | None:
    """Returns what the batch norm that goes with a convolution multiplies its outputs by, or None."""
    folder, dot, last = _named(key).rpartition(".")
    names = [last.replace("conv", other) for other in ("bn", "norm", "batchnorm")] if "conv" in last else []
    if last.isdigit():
        names.append(str(int(last) + 1))
    for name in names:
        gamma, variance = (tensors.get(f"{folder}{dot}{name}.{what}") for what in ("weight", "running_var"))
        if gamma is not None and variance is not None and gamma.shape == variance.shape == tensors[key].shape[:1]:
            return gamma.double() / (variance.double() + _EPSILON).sqrt()
    return None


def _by_name(tensors: Mapping[str, Tensor], layer: str) -> str:
    key = next((key for key in (f"{layer}.weight", layer) if key in tensors), None)
    convs = [_named(k) for k, t in tensors.items() if t.ndim == 4]
    if key is None or tensors[key].ndim != 4:
        what = "is not in the file" if key is None else f"has the shape {_shape(tensors[key])}"
        raise ConvscopeError(
            f"layer {layer!r} {what}: expected a convolution's weight with four axes, "
            + (f"e.g. {', '.join(convs[:6])}" if convs else "but the file holds none")
        )
    return key


def _by_shape(tensors: Mapping[str, Tensor]) -> str:
    four = [key for key, t in tensors.items() if t.ndim == 4]
    # Safetensors sorts its keys by their letters: layer10 before layer2. Order of definition is lost; numbers are not.
    if list(tensors) == sorted(tensors):
        four.sort(key=_natural)
    for channels in (3, 1):
        found = [key for key in four if tensors[key].shape[1] == channels]
        if found:
            return next((key for key in found if tensors[key].shape[2:].numel() > 1), found[0])
    seen = "; it has " + ", ".join(f"{_named(k)} ({_shape(tensors[k])})" for k in four[:4]) if four else ""
    raise ConvscopeError(
        f"no convolution over images was found: expected a weight with four axes of which the second is "
        f"1 or 3{seen}; name the layer with --layer"
    )


def _several_networks(tensors: Mapping[str, Tensor]) -> list[str]:
    """Returns the first components of the keys where they divide the file into alike networks, else nothing."""
    parts: dict[str, dict[str, torch.Size]] = {}
    for key, t in tensors.items():
        first, _, rest = key.partition(".")
        parts.setdefault(first, {})[rest] = t.shape
    shapes = list(parts.values())
    alike = len(parts) > 1 and all(p == shapes[0] for p in shapes)
    over_images = any(len(shape) == 4 and shape[1] in {1, 3} for shape in shapes[0].values()) if alike else False
    return sorted(parts, key=_natural) if alike and over_images and len(shapes[0]) > 1 else []


def _natural(key: str) -> list[tuple[int, int, str]]:
    return [(0, int(p), "") if p.isdigit() else (1, 0, p) for p in re.split(r"(\d+)", key) if p]


def _named(key: str) -> str:
    return key.removesuffix(".weight")


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape))
