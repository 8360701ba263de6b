"""What the API pages need of docstrings: the parser knows "Examples:" as code, and "Example:" as a remark."""

from typing import Any

import griffe


class Examples(griffe.Extension):
    """Lets sections called "Example:" be read as examples."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Renames the section."""
        if obj.docstring is not None:
            obj.docstring.value = obj.docstring.value.replace("Example:\n", "Examples:\n")
