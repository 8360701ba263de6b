"""Exported programs (``.pt2``), read as data.

``torch.export.load`` evaluates expressions and pickles that the file holds, with no safe mode, so it is never
called here: the archive is opened as what it is, JSON and raw tensors.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from convscope.core.errors import ConvscopeError
from convscope.inputs.files import reason, shown

_CONFIG = "_weights_config.json"
_OLD_PROGRAM, _OLD_WEIGHTS = "serialized_exported_program.json", "serialized_state_dict.pt"
_DTYPES = {
    1: torch.uint8,
    2: torch.int8,
    3: torch.int16,
    4: torch.int32,
    5: torch.int64,
    6: torch.float16,
    7: torch.float32,
    8: torch.float64,
    10: torch.complex64,
    11: torch.complex128,
    12: torch.bool,
    13: torch.bfloat16,
}  # the numbers of torch.export's serialisation schema
_CONVOLUTIONS = ("torch.ops.aten.conv2d.default", "torch.ops.aten.conv2d.padding", "torch.ops.aten.convolution.default")


@dataclass(frozen=True)
class FirstConv:
    """The first two-dimensional convolution of a graph whose weight is a parameter.

    Attributes:
        key: the weight's key.
        stride: as conv2d takes it.
        padding: as conv2d takes it, or "same" or "valid".
        dilation: as conv2d takes it.
        groups: number of groups.
    """

    key: str
    stride: tuple[int, ...] = (1, 1)
    padding: tuple[int, ...] | str = (0, 0)
    dilation: tuple[int, ...] = (1, 1)
    groups: int = 1


def is_exported(names: Sequence[str]) -> bool:
    """Returns whether a zip archive with these members is an exported program."""
    return any(name.endswith(_CONFIG) and "/data/weights/" in name for name in names) or _OLD_PROGRAM in names


def read_exported(path: Path, archive: zipfile.ZipFile) -> tuple[dict[str, Tensor], FirstConv | None]:
    """Returns the parameters and buffers of an exported program, and its first convolution where the graph shows it.

    Raises:
        ConvscopeError: when the archive is damaged, or of an unknown kind.
    """
    try:
        tensors, program = _content(archive)
    except Exception as error:
        raise ConvscopeError(
            f"{shown(path)} cannot be read as an exported program ({type(error).__name__}: {reason(error)}): "
            "the file is damaged or of an unknown version; give the state dict instead"
        ) from None
    try:
        conv = _first_conv(json.loads(program)["graph_module"])
    except Exception:
        # Another schema of the graph: the convolution is then found by its shape, and that is said.
        conv = None
    return tensors, conv if conv is not None and conv.key in tensors else None


def _content(archive: zipfile.ZipFile) -> tuple[dict[str, Tensor], bytes]:
    """Returns the tensors and the graph's JSON.

    Raises:
        TypeError: when the weights are no dictionary.
    """
    names = archive.namelist()
    if _OLD_PROGRAM in names:
        tensors = torch.load(io.BytesIO(archive.read(_OLD_WEIGHTS)), map_location="cpu", weights_only=True)
        if not isinstance(tensors, dict):
            raise TypeError(f"the weights are a {type(tensors).__name__}")
        return tensors, archive.read(_OLD_PROGRAM)
    config = next(name for name in names if name.endswith(_CONFIG))
    models = [name for name in names if "/models/" in name and name.endswith(".json")]
    return _raw_tensors(archive, config), archive.read(models[0]) if models else b"{}"


def _raw_tensors(archive: zipfile.ZipFile, config: str) -> dict[str, Tensor]:
    folder = config.rpartition("/")[0]
    tensors: dict[str, Tensor] = {}
    for key, entry in json.loads(archive.read(config))["config"].items():
        if entry["use_pickle"]:
            continue
        meta = entry["tensor_meta"]
        raw = archive.read(f"{folder}/{entry['path_name']}")
        dtype = _DTYPES[meta["dtype"]]
        storage = torch.frombuffer(bytearray(raw), dtype=dtype) if raw else torch.empty(0, dtype=dtype)
        shape, strides = ([part["as_int"] for part in meta[name]] for name in ("sizes", "strides"))
        if 0 in shape:
            tensors[key] = torch.empty(shape, dtype=dtype)
        else:
            tensors[key] = storage.as_strided(shape, strides, meta["storage_offset"]["as_int"])
    return tensors


def _first_conv(graph_module: dict[str, Any]) -> FirstConv | None:
    parameters = {}
    for spec in graph_module["signature"]["input_specs"]:
        for kind in ("parameter", "buffer"):
            if kind in spec:
                parameters[spec[kind]["arg"]["name"]] = spec[kind][f"{kind}_name"]
    for node in graph_module["graph"]["nodes"]:
        if node["target"] not in _CONVOLUTIONS:
            continue
        inputs = {part["name"]: next(iter(part["arg"].values())) for part in node["inputs"]}
        if inputs.get("transposed") is True or inputs["weight"]["name"] not in parameters:
            continue
        padding = inputs.get("padding", (0, 0))
        found = FirstConv(
            key=parameters[inputs["weight"]["name"]],
            stride=_ints(inputs.get("stride", (1, 1))),
            padding=padding if isinstance(padding, str) else _ints(padding),
            dilation=_ints(inputs.get("dilation", (1, 1))),
            groups=int(inputs.get("groups", 1)),
        )
        return found if _possible(found) else None
    return None


def _possible(conv: FirstConv) -> bool:
    named = conv.padding in {"same", "valid"}
    padded = named or (not isinstance(conv.padding, str) and len(conv.padding) in {1, 2} and min(conv.padding) >= 0)
    return padded and min(*conv.stride, *conv.dilation, conv.groups) >= 1


def _ints(values: Any) -> tuple[int, ...]:
    return tuple(int(v) for v in values)
