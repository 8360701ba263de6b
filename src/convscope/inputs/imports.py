"""Finds what ``package.module:name`` names; the current folder counts as a place to import from."""

from __future__ import annotations

import importlib
import os
import re
import sys
from typing import Any

from convscope.core.errors import ConvscopeError
from convscope.inputs.files import reason, shown

DOTTED = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")


def import_name(name: str) -> Any:
    """Returns the object that ``package.module:attribute`` names.

    Args:
        name: a dotted module, a colon, and a dotted attribute. Importing runs the module: it is trusted code.

    Raises:
        ConvscopeError: when the name is malformed, the module cannot be imported, or has no such attribute.

    Example:
        >>> import_name("math:pi") > 3
        True
    """
    if not DOTTED.fullmatch(name):
        raise ConvscopeError(f"{shown(name)!r} is not of the form package.module:name")
    module_name, _, attributes = name.partition(":")
    # In front, as `python -m` has it; it stays, since a factory may import more when it is called.
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        found: Any = importlib.import_module(module_name)
    except (Exception, SystemExit) as error:
        raise ConvscopeError(
            f"cannot import {module_name} ({type(error).__name__}: {reason(error)}): run from the folder that "
            "holds it, or install it"
        ) from None
    for attribute in attributes.split("."):
        if not hasattr(found, attribute):
            raise ConvscopeError(f"{module_name} has no {attributes}: check the name after the colon")
        found = getattr(found, attribute)
    return found
