"""Machines in files: safetensors, which hold numbers and text and nothing that could run."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file
from torch import Tensor

from convscope.core.errors import ConvscopeError
from convscope.inputs.files import reason, regular_file, shown

_KEY = "convscope"


def write(path: str | os.PathLike[str], kind: str, state: dict[str, Any]) -> None:
    """Writes a state of arrays, numbers, texts, None, dataclasses, and lists, tuples and dictionaries of these.

    A killed process leaves the previous file.

    Raises:
        ConvscopeError: when the file cannot be written, or the state holds anything else.
    """
    file = Path(path)
    arrays: dict[str, np.ndarray] = {}
    header = {_KEY: json.dumps({"kind": kind, "state": _packed(state, arrays, "")})}
    beside = file.with_name(file.name + ".part")
    try:
        save_file(arrays, beside, header)
        os.replace(beside, file)
    except (OSError, SafetensorError) as error:
        raise ConvscopeError(
            f"{shown(file)} cannot be written ({reason(error)}): free space or choose another place"
        ) from error


def read(path: str | os.PathLike[str], kind: str, records: Sequence[type]) -> dict[str, Any]:
    """Returns what ``write`` wrote.

    Args:
        path: the file.
        kind: what it must hold.
        records: the dataclasses that it may hold; no others are made.

    Raises:
        ConvscopeError: when the file is missing, damaged, or holds something else.
    """
    file = regular_file(Path(path))
    known = {record.__name__: record for record in records}
    try:
        with safe_open(file, framework="np") as opened:
            content = json.loads((opened.metadata() or {})[_KEY])
            state = _unpacked(content["state"], opened, known) if content["kind"] == kind else None
    except Exception as error:
        raise ConvscopeError(
            f"{shown(file)} cannot be read as a machine saved by convscope ({type(error).__name__}: {reason(error)}): "
            "the file is damaged or another one; save it again"
        ) from None
    if not isinstance(state, dict):
        raise ConvscopeError(f"{shown(file)} holds {shown(content['kind'])!r}, expected {kind!r}: load it as that")
    return state


def _packed(value: Any, arrays: dict[str, np.ndarray], name: str) -> Any:
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, dict):
        return {"dict": [[key, _packed(part, arrays, f"{name}.{key}")] for key, part in value.items()]}
    if is_dataclass(value) and not isinstance(value, type):
        parts = [[f.name, _packed(getattr(value, f.name), arrays, f"{name}.{f.name}")] for f in fields(value)]
        return {"record": type(value).__name__, "fields": parts}
    if isinstance(value, list | tuple | range):
        parts = [_packed(part, arrays, f"{name}.{i}") for i, part in enumerate(value)]
        return {"tuple" if isinstance(value, tuple) else "list": parts}
    if isinstance(value, np.ndarray) and value.dtype.kind in "OU":
        return {"objects" if value.dtype.kind == "O" else "texts": [_packed(x, arrays, name) for x in value.tolist()]}
    if isinstance(value, np.ndarray | Tensor):
        kind = "tensor" if isinstance(value, Tensor) else "array"
        arrays[name] = np.ascontiguousarray(value.detach().cpu().numpy() if isinstance(value, Tensor) else value)
        return {kind: name}
    raise ConvscopeError(
        f"{name.strip('.')} is a {type(value).__name__}, which a file cannot hold: use a number, text or array"
    )


def _unpacked(value: Any, opened: Any, known: dict[str, type]) -> Any:
    if not isinstance(value, dict):
        return value
    if "dict" in value:
        return {str(key): _unpacked(part, opened, known) for key, part in value["dict"]}
    if "list" in value:
        return [_unpacked(part, opened, known) for part in value["list"]]
    if "tuple" in value:
        return tuple(_unpacked(part, opened, known) for part in value["tuple"])
    if "texts" in value:
        return np.array([str(text) for text in value["texts"]])
    if "objects" in value:
        return np.array([_unpacked(part, opened, known) for part in value["objects"]], dtype=object)
    if "record" in value:
        return known[value["record"]](**{key: _unpacked(part, opened, known) for key, part in value["fields"]})
    if "tensor" in value:
        return torch.from_numpy(opened.get_tensor(value["tensor"]))
    return opened.get_tensor(value["array"])
