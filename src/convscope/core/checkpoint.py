"""Checkpoints of a pass: written whole or not at all, read without running anything."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from convscope.core.errors import ConvscopeError


def of_process(file: Path, rank: int, world: int) -> Path:
    """Returns the name of one process's checkpoint."""
    return file if world == 1 else file.with_name(f"{file.name}.{rank}of{world}")


def save(file: Path, state: dict[str, Any]) -> None:
    """Writes a state of tensors and plain values; a killed process leaves the previous file.

    Raises:
        ConvscopeError: when the file cannot be written.
    """
    beside = file.with_name(file.name + ".part")
    try:
        with beside.open("wb") as stream:
            torch.save(state, stream)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(beside, file)
    except OSError as error:
        raise ConvscopeError(
            f"the checkpoint {file} cannot be written ({error}): free space or choose another place"
        ) from error


def load(file: Path) -> dict[str, Any]:
    """Returns what ``save`` wrote.

    Raises:
        ConvscopeError: when the file is damaged or not ours.
    """
    try:
        state = torch.load(file, weights_only=True, map_location="cpu")
    except Exception as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ConvscopeError(f"the checkpoint {file} cannot be read ({reason}): remove it and run afresh") from error
    if not isinstance(state, dict) or "fingerprint" not in state:
        raise ConvscopeError(f"{file} is no checkpoint of convscope: name another file")
    return state


def digest(tensor: Tensor) -> str:
    """Returns a short hash of a tensor's shape, dtype and values."""
    t = tensor.detach().cpu().contiguous()
    data = t.reshape(-1).view(torch.uint8).numpy().tobytes() if t.numel() else b""
    return hashlib.sha256(str((t.shape, t.dtype)).encode() + data).hexdigest()[:16]
