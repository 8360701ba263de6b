"""Libraries that may be absent or broken: their import fails in one line that says what to do."""

from __future__ import annotations

import importlib
from typing import Any

from convscope.core.errors import ConvscopeError
from convscope.inputs.files import reason


def torchvision(part: str) -> Any:
    """Returns ``torchvision.models`` or ``torchvision.datasets``.

    Raises:
        ConvscopeError: when torchvision is not installed, or its build does not fit this PyTorch.
    """
    try:
        return importlib.import_module(f"torchvision.{part}")
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] != "torchvision":
            raise ConvscopeError(_broken("torchvision", error)) from None
        raise ConvscopeError(
            "torchvision is not installed: pip install torchvision, or give the weights file alone (its state dict)"
        ) from None
    except Exception as error:
        # A build for another PyTorch fails with RuntimeError ("operator torchvision::nms does not exist").
        raise ConvscopeError(_broken("torchvision", error)) from None


def timm() -> Any:
    """Returns the package ``timm``.

    Raises:
        ConvscopeError: when timm is not installed, or cannot be imported.
    """
    try:
        return importlib.import_module("timm")
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] != "timm":
            raise ConvscopeError(_broken("timm", error)) from None
        raise ConvscopeError(
            "timm is not installed: pip install timm, or give the weights file alone (its state dict)"
        ) from None
    except Exception as error:
        raise ConvscopeError(_broken("timm", error)) from None


def _broken(name: str, error: Exception) -> str:
    return (
        f"{name} is installed but cannot be imported ({type(error).__name__}: {reason(error)}): install the build that "
        "fits this PyTorch, or give the weights file alone (its state dict)"
    )
