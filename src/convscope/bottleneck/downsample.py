"""Smaller grids inside the bottleneck: where few low frequencies are kept, layers need few pixels."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from convscope.bottleneck.factored import with_layers
from convscope.bottleneck.forms import has_frequency_form
from convscope.bottleneck.operators import ConvOperator
from convscope.core.errors import ConvscopeError
from convscope.core.fourier import pairs, signed_frequencies

Grid = tuple[int, int]
_ELEMENTWISE = (
    nn.ReLU,
    nn.LeakyReLU,
    nn.PReLU,
    nn.ELU,
    nn.GELU,
    nn.SiLU,
    nn.Sigmoid,
    nn.Tanh,
    nn.Softplus,
    nn.Identity,
    nn.Dropout,
    nn.BatchNorm2d,
)


def smallest_grid(frequencies: Tensor, size: Grid) -> Grid:
    """Returns the smallest grid (h', w') that holds some frequencies: 2 max |ky| < h' and 2 max |kx| < w'.

    Args:
        frequencies: int64 [p, 2], kept pairs' (ky, kx) in cycles per image.
        size: (h, w) of the maps.

    Raises:
        ConvscopeError: when a frequency of half a cycle per pixel is kept, of which a smaller grid holds no phase.
        ValueError: without any frequency, or for one beyond half a cycle per pixel.

    Example:
        >>> smallest_grid(torch.tensor([[0, 0], [0, 1], [1, 0]]), (8, 8))
        (3, 3)
    """
    if not len(frequencies):
        raise ValueError("expected at least one kept frequency, got none")
    highest = frequencies.abs().amax(0).tolist()
    for most, side, axis in zip(highest, size, ("rows", "columns"), strict=True):
        if 2 * most > side:
            raise ValueError(
                f"a frequency of {most} cycles per image is beyond half a cycle per pixel of {side} {axis}"
            )
        if 2 * most == side:
            raise ConvscopeError(
                f"half a cycle per pixel along the {side} {axis} is kept: no smaller grid holds it, so these layers "
                "cannot be down-sampled"
            )
    return 2 * highest[0] + 1, 2 * highest[1] + 1


def grid_of(side: int, size: Grid) -> Grid:
    """Returns the grid of the proportions of a size (h, w) whose longer side has so many pixels.

    Example:
        >>> grid_of(4, (8, 16))
        (2, 4)
    """
    h, w = size
    return max(round(side * h / max(h, w)), 1), max(round(side * w / max(h, w)), 1)


def advised_grid(variance: Tensor, frequencies: Tensor, size: Grid, share: float = 0.999) -> Grid:
    """Returns the smallest grid of the maps' proportions whose frequencies hold a share of activations' variance.

    Advice only, for networks whose filters are smaller than their maps: what lies between their layers is not known
    to stay within these frequencies.

    Args:
        variance: float64 [f], of the activations at each frequency, all channels, multiplicity included.
        frequencies: int64 [f, 2], (ky, kx) in cycles per image.
        size: (h, w) of the maps.
        share: of the variance, in (0, 1].

    Returns:
        (h', w') with 2 |ky| < h' and 2 |kx| < w' for frequencies that hold the share; the size itself where no smaller
        one does, or nothing varies.

    Raises:
        ValueError: for a share outside (0, 1].

    Example:
        >>> advised_grid(torch.tensor([3.0, 1.0, 0.0]), torch.tensor([[0, 0], [0, 1], [0, 4]]), (8, 8))
        (3, 3)
    """
    if not 0 < share <= 1:
        raise ValueError(f"share must lie in (0, 1], got {share}")
    whole = float(variance.sum())
    if not whole > 0:
        return size
    grids = [grid_of(side, size) for side in range(1, max(size) + 1)]
    rows, columns = torch.tensor(grids).T.contiguous()
    ky, kx = (2 * frequencies.abs()).T.contiguous()
    # Of each frequency, the place of the first grid that holds it: the last one, too, where none does.
    first = torch.maximum(torch.searchsorted(rows, ky, right=True), torch.searchsorted(columns, kx, right=True))
    held = torch.bincount(first.clamp(max=len(grids) - 1), variance.double(), len(grids)).cumsum(0)
    return grids[int((held >= share * whole * (1 - 1e-12)).nonzero()[0, 0])]


def resampled(maps: Tensor, size: Grid) -> Tensor:
    """Returns maps on another grid, with the same trigonometric polynomial through their values.

    Frequencies that either grid does not hold with both signs are dropped.

    Args:
        maps: [..., h, w].
        size: (h', w') of the result.

    Example:
        >>> wave = torch.cos(2 * torch.pi * torch.arange(8) / 8).expand(8, 8)
        >>> torch.allclose(resampled(wave, (4, 4)), wave[::2, ::2], atol=1e-6)
        True
    """
    spectrum = torch.fft.fft2(maps, norm="forward")
    axes = []
    for old, new in zip(maps.shape[-2:], size, strict=True):
        most = (min(old, new) - 1) // 2
        axes.append(torch.arange(-most, most + 1, device=maps.device))
    ky, kx = axes
    (h, w), (rows, columns) = maps.shape[-2:], size
    found = spectrum.new_zeros(*maps.shape[:-2], rows, columns)
    found[..., (ky % rows)[:, None], kx % columns] = spectrum[..., (ky % h)[:, None], kx % w]
    return torch.fft.ifft2(found, norm="forward").real


class Resample(nn.Module):
    """Brings maps to another grid by ``resampled``.

    Args:
        size: (h', w').
    """

    def __init__(self, size: Grid) -> None:
        super().__init__()
        self.size = size

    def forward(self, maps: Tensor) -> Tensor:
        """Returns [n, c, h', w'] for maps [n, c, h, w]."""
        return resampled(maps, self.size)

    def extra_repr(self) -> str:
        """Returns the grid in words."""
        return f"size={self.size[0]}x{self.size[1]}"


def coarser(conv: nn.Conv2d, size: Grid, grid: Grid) -> nn.Conv2d:
    """Returns the convolution on a smaller grid with the same transfer function at the frequencies that this holds.

    Its filters are as large as the grid. Where the convolution keeps no other frequencies, N ||w||^2 is the sum of
    all squared entries of T on both, so that ||w||^2 grows by N / N'.

    Args:
        conv: circular, stride 1, one group.
        size: (h, w) of the maps that it takes, N = h w.
        grid: (h', w') of the smaller ones.
    """
    rows, columns = grid
    places, _ = pairs(rows, columns)
    frequencies = signed_frequencies(rows, columns)[places]
    inside = (2 * frequencies.abs() < torch.tensor(grid)).all(1)
    ky, kx = frequencies[inside].unbind(1)
    transfer = ConvOperator.of(conv, size).transfer(frequencies[inside]).permute(1, 2, 0)
    k, c = transfer.shape[:2]
    # T(w) is the conjugate of the wrapped kernel's transform.
    spectrum = torch.zeros(k, c, rows, columns, dtype=torch.complex128)
    spectrum[..., ky % rows, kx % columns] = transfer.conj()
    spectrum[..., -ky % rows, -kx % columns] = transfer
    wrapped = torch.fft.ifft2(spectrum).real
    found = nn.Conv2d(
        c, k, grid, padding="same", padding_mode="circular", bias=conv.bias is not None,
        device=conv.weight.device, dtype=conv.weight.dtype,
    )  # fmt: skip
    with torch.no_grad():
        # The first of the convolution's taps lies (side - 1) // 2 pixels above and to the left of its centre.
        found.weight.copy_(wrapped.roll(((rows - 1) // 2, (columns - 1) // 2), (2, 3)))
        if conv.bias is not None and found.bias is not None:
            found.bias.copy_(conv.bias)
    return found


def downsampled(network: nn.Sequential, layers: Sequence[str], size: Grid, grid: Grid) -> nn.Module:
    """Returns a copy of a chain in which some consecutive circular convolutions run on a smaller grid.

    Maps are brought to the grid before the first of them and back after the last. The function is the same where
    these convolutions keep only frequencies that the grid holds (``smallest_grid``) and the non-linearities between
    make no others that later ones keep.

    Args:
        network: the chain; left as it is.
        layers: names of consecutive convolutions of it, in order: circular, stride 1, one group.
        size: (h, w) of their maps.
        grid: (h', w'), no larger.

    Raises:
        ConvscopeError: when the layers are no such convolutions, or something between them mixes positions.
        ValueError: when the grid is larger than the maps, or there is no layer.

    Example:
        >>> conv = nn.Conv2d(1, 1, 8, padding="same", padding_mode="circular", bias=False)
        >>> _ = nn.init.constant_(conv.weight, 1 / 64)  # the mean
        >>> chain, x = nn.Sequential(conv, nn.ReLU(), conv), torch.rand(2, 1, 8, 8)
        >>> torch.allclose(downsampled(nn.Sequential(conv), ["0"], (8, 8), (1, 1))(x), conv(x), atol=1e-6)
        True
    """
    if not layers:
        raise ValueError("expected at least one layer, got none")
    if min(grid) < 1 or grid[0] > size[0] or grid[1] > size[1]:
        raise ValueError(f"the grid must have at least one pixel and no more than the maps' {size}, got {grid}")
    own = list(network.named_children())
    names = [name for name, _ in own]
    if not isinstance(network, nn.Sequential) or any(name not in names for name in layers):
        raise ConvscopeError(
            f"{', '.join(layers)} are not layers of one nn.Sequential: only such chains can be down-sampled"
        )
    first, last = names.index(layers[0]), names.index(layers[-1])
    replaced: dict[str, nn.Module] = {}
    for name, part in own[first : last + 1]:
        if name in layers and isinstance(part, nn.Conv2d) and has_frequency_form(part, size):
            replaced[name] = coarser(part, size, grid)
        elif name in layers or not isinstance(part, _ELEMENTWISE):
            raise ConvscopeError(
                f"layer {name!r} ({type(part).__name__}) is neither a circular convolution of stride 1 and one group "
                "that is to be down-sampled, nor acts on each pixel alone: choose layers without it"
            )
    if list(replaced) != list(layers):
        raise ConvscopeError(f"the layers {', '.join(layers)} are not consecutive, in order: name them as they run")
    replaced[layers[0]] = nn.Sequential(Resample(grid), replaced[layers[0]])
    end = replaced[layers[-1]]
    replaced[layers[-1]] = nn.Sequential(*([*end] if isinstance(end, nn.Sequential) else [end]), Resample(size))
    return with_layers(network, replaced)
