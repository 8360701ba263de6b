"""Lets a torchvision that was built for another PyTorch be imported, for its models alone.

Where torchvision's compiled library cannot be loaded, its import fails because operators that it describes do not
exist. Declaring them is enough for models, which never call them. Import this module before torchvision; it does
nothing where torchvision is absent or whole.
"""

import sys

import torch

_SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)


def _declared() -> "torch.library.Library | None":
    try:
        import torchvision  # ruff: ignore[unused-import]
    except RuntimeError:
        for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
            del sys.modules[name]
        library = torch.library.Library("torchvision", "FRAGMENT")
        for schema in _SCHEMAS:
            library.define(schema)
        return library
    except ImportError:
        pass
    return None


LIBRARY = _declared()  # the declarations vanish with this object
