"""Pictures on the page, no larger than they are shown."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from convscope.core.png import encoded

_SHOWN = 128  # pixels of a picture's longer side on the page


def thumbnails(images: NDArray[np.uint8], most: int = 8) -> list[str]:
    """Returns data URIs of the first images, at their own resolution or reduced to 128 pixels.

    Args:
        images: [m, h, w, 3].
        most: at most this many.
    """
    uris = []
    for array in images[:most]:
        image = Image.fromarray(array)
        if max(image.size) > _SHOWN:
            image.thumbnail((_SHOWN, _SHOWN), Image.Resampling.BOX)
        uris.append(f"data:image/png;base64,{encoded(image)}")
    return uris
