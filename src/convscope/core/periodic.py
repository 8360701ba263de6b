"""The periodic component of an image: the image without the jump between its opposite borders."""

from __future__ import annotations

import torch
from torch import Tensor


def periodic_spectrum(images: Tensor) -> Tensor:
    """Returns the unitary transform of the images' periodic component, complex [..., h, w // 2 + 1].

    Moisan, "Periodic plus smooth image decomposition" (2011): an image is u = p + s, where s is the smoothest image
    that carries the jumps v of u across its borders, Laplacian(s) = v with periodic neighbours. In the Fourier domain
    s = v / (2 cos(2 pi a / h) + 2 cos(2 pi b / w) - 4), and s = 0 at (0, 0), so p keeps the mean. The map is linear.
    Without it, the jump between opposite borders adds a cross along the axes to every spectrum.

    Args:
        images: [..., h, w], real.

    Returns:
        Half plane of the transform, as of ``torch.fft.rfft2(p, norm="ortho")``.

    Example:
        >>> ramp = torch.arange(16.0, dtype=torch.float64).expand(4, 16)
        >>> round(torch.fft.rfft2(ramp, norm="ortho")[0, 1].abs().item(), 2)
        20.5
        >>> round(periodic_spectrum(ramp)[0, 1].abs().item(), 2)
        1.28
    """
    h, w = images.shape[-2:]
    rows = 2 * torch.pi * torch.fft.fftfreq(h, dtype=images.dtype, device=images.device)[:, None]
    columns = 2 * torch.pi * torch.fft.rfftfreq(w, dtype=images.dtype, device=images.device)
    laplacian = 2 * rows.cos() + 2 * columns.cos() - 4
    laplacian[0, 0] = 1  # where the jumps add up to 0
    spectrum = torch.fft.rfft2(images, norm="ortho")
    # v is d on the first row and -d on the last, where e^{-i a (h - 1)} = e^{i a}; and so on columns.
    across = torch.fft.rfft(images[..., -1, :] - images[..., 0, :], norm="ortho")
    spectrum.addcmul_(across[..., None, :], (1 - torch.exp(1j * rows)) / laplacian / h**0.5, value=-1)
    down = torch.fft.fft(images[..., :, -1] - images[..., :, 0], norm="ortho")
    return spectrum.addcmul_(down[..., :, None], (1 - torch.exp(1j * columns)) / laplacian / w**0.5, value=-1)


def periodic(images: Tensor) -> Tensor:
    """Returns the images' periodic component, [..., h, w] (see ``periodic_spectrum``)."""
    return torch.fft.irfft2(periodic_spectrum(images), s=images.shape[-2:], norm="ortho")
