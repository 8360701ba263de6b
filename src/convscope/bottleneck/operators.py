"""A convolution as a linear operator on a torus, block-diagonal in the Fourier domain."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from math import pi
from typing import Literal, Self, get_args

import torch
from torch import Tensor, nn

from convscope.core.errors import ConvscopeError
from convscope.core.fourier import pairs, signed_frequencies
from convscope.core.geometry import ConvGeometry

Boundary = Literal["circular", "zeros", "valid", "reflect", "replicate"]
Forced = Literal["circular", "zeros"]
Size = int | tuple[int, int]


@dataclass(frozen=True, eq=False)
class ConvOperator:
    """The linear map of a convolution, seen on a torus.

    With the transform of ``core.fourier.unitary``, a convolution with circular padding is z^(w) = T(w) a^(w) at every
    frequency w of its input grid, T(w) = sum over taps u of w[:, :, u] exp(2 pi i w u). Under a stride, an output
    frequency mixes the input frequencies that are its aliases: the block at v is the T(w) of all aliases w of v side
    by side, divided by the root of their number. Singular values of the operator are those of all its blocks.

    Zero padding is no map on a torus. Its place is taken by the circulant closest to it (Frobenius): every tap times
    the share of positions at which it does not fall on the padding. ``leak`` is the share of the squared entries
    that no circulant can hold.

    Attributes:
        kernel: [k, c / groups, q, r], the weight in its own dtype (arithmetic is in float64). Of a transposed
            convolution: that of the convolution whose adjoint it is.
        geometry: of that convolution.
        size: (h, w) of the maps that it really takes (of what a transposed convolution returns).
        grid: (h, w) of the torus in their place, a multiple of the stride.
        boundary: how its border is filled; "valid" is zero padding of width 0, where the operator has only some of
            the circulant's rows.
        transposed: whether the operator is the adjoint of the convolution.
        notes: where it deviates from the convolution, in words.
    """

    kernel: Tensor
    geometry: ConvGeometry
    size: tuple[int, int]
    grid: tuple[int, int]
    boundary: Boundary
    transposed: bool = False
    notes: tuple[str, ...] = ()

    @classmethod
    def of(cls, conv: nn.Module, size: Size, boundary: Forced | None = None) -> Self:
        """Returns the operator of a ``Conv2d`` or ``ConvTranspose2d`` on maps of a size.

        Args:
            conv: the convolution.
            size: height and width of its input in pixels, or one number for both.
            boundary: None: its own padding; "circular": its raw weights on the torus, whatever its padding;
                "zeros": as if it had zero padding.

        Raises:
            TypeError: for any other module.
            ValueError: for a size or a boundary that means nothing.
            ConvscopeError: when the weights are not finite numbers.
        """
        if not isinstance(conv, nn.Conv2d | nn.ConvTranspose2d):
            raise TypeError(
                f"expected an nn.Conv2d or nn.ConvTranspose2d, got {type(conv).__name__}: only convolutions over two "
                "axes have frequencies (ky, kx)"
            )
        if isinstance(conv, nn.Conv2d):
            return cls.of_weight(conv.weight, ConvGeometry.of(conv), size, boundary)
        shape = conv.weight.shape  # [c_in, c_out / groups, q, r]: the weight of the convolution back
        geometry = ConvGeometry.of_call(
            (shape[0], shape[1], shape[2], shape[3]), conv.stride, conv.padding, conv.dilation, conv.groups
        )
        h, w = _pair(size)
        s, t = geometry.stride
        (top, _, left, _), (down, right) = geometry.padding, (int(n) for n in conv.output_padding)
        # From the convolution's side: its input is what the transposed one returns.
        height = (h - 1) * s - 2 * top + geometry.extent[0] + down
        width = (w - 1) * t - 2 * left + geometry.extent[1] + right
        operator = cls.of_weight(conv.weight, geometry, (height, width), boundary, (h * s, w * t))
        return replace(operator, transposed=True)

    @classmethod
    def of_weight(
        cls,
        weight: Tensor,
        geometry: ConvGeometry,
        size: Size,
        boundary: Forced | None = None,
        grid: tuple[int, int] | None = None,
    ) -> Self:
        """Returns the operator of a convolution that is known by its weight and geometry; arguments as for ``of``.

        Args:
            weight: [k, c / groups, q, r].
            geometry: of the convolution.
            size: of its input, before any padding.
            boundary: as for ``of``.
            grid: of the torus; None: the size, cut to a multiple of the stride.

        Raises:
            ValueError: for a size or a boundary that means nothing.
            ConvscopeError: when the weights are not finite numbers.
        """
        if boundary is not None and boundary not in get_args(Forced):
            raise ValueError(f"boundary must be one of {', '.join(get_args(Forced))} or None, got {boundary!r}")
        height, width = _pair(size)
        w = weight.detach().cpu()
        if not w.numel():
            raise ConvscopeError(f"the convolution has no weights (shape {list(w.shape)}): nothing can be analysed")
        if not bool(torch.isfinite(w).all()):
            raise ConvscopeError(
                "the convolution holds NaN or infinite weights: the training diverged, or the file is damaged"
            )
        if grid is None:
            # A stride beyond the map reads it once.
            stride = (min(geometry.stride[0], height), min(geometry.stride[1], width))
            grid = (height // stride[0] * stride[0], width // stride[1] * stride[1])
        else:
            stride = geometry.stride
        geometry = replace(geometry, stride=stride)
        kind: Boundary = boundary or geometry.padding_mode
        if geometry.extent == (1, 1) and not any(geometry.padding):
            kind = "circular"  # nothing to fill
        elif kind == "zeros" and not any(geometry.padding) and boundary is None:
            kind = "valid"
        outputs = geometry.output_size(height, width)
        notes = []
        if kind in {"reflect", "replicate"}:
            notes.append(f"{kind} padding is taken for circular")
        rows = (grid[0] // stride[0], grid[1] // stride[1])
        if grid != (height, width):
            notes.append(f"approximate: a torus of {grid[0]}x{grid[1]} for maps of {height}x{width}")
        if kind == "valid" and outputs != rows:
            notes.append("without padding, the operator has only some of the rows of the circulant")
        elif boundary is None and outputs != rows:
            notes.append(f"approximate: {rows[0]}x{rows[1]} positions on the torus, {outputs[0]}x{outputs[1]} in truth")
        return cls(w, geometry, (height, width), grid, kind, notes=tuple(dict.fromkeys(notes)))

    def scaled(self, factor: Tensor) -> Self:
        """Returns the operator followed by a factor for each output channel, [k], as of a batch norm folded in."""
        by = factor.detach().to("cpu", torch.float64)
        where = (slice(None), None, None, None)
        if not self.transposed:
            return replace(self, kernel=self.weight * by[where])
        k = self.geometry.channels // self.geometry.groups
        of_group = by.view(-1, k).repeat_interleave(len(self.kernel) // self.geometry.groups, 0)
        return replace(self, kernel=self.weight * of_group[:, :, None, None])

    @property
    def weight(self) -> Tensor:
        """The weight in float64, [k, c / groups, q, r]."""
        return self.kernel.double()

    @property
    def coarse(self) -> tuple[int, int]:
        """(rows, columns) of the smaller grid, on which the blocks' frequencies live: the input's over the stride."""
        return self.grid[0] // self.geometry.stride[0], self.grid[1] // self.geometry.stride[1]

    @property
    def positions(self) -> int:
        """N, the number of points of that grid."""
        return self.coarse[0] * self.coarse[1]

    @property
    def groups(self) -> int:
        """g, the number of groups."""
        return self.geometry.groups

    @property
    def block_shape(self) -> tuple[int, int]:
        """(outputs, inputs) of one group's block: (k / g, aliases times c / g); transposed: the reverse."""
        s, t = self.geometry.stride
        shape = (self.kernel.shape[0] // self.groups, self.kernel.shape[1] * s * t)
        return (shape[1], shape[0]) if self.transposed else shape

    @cached_property
    def half_plane(self) -> tuple[Tensor, Tensor]:
        """Frequencies (ky, kx) in cycles per image, int64 [f, 2], and how many each stands for, int64 [f]: 2 or 1.

        One of each conjugate pair, on the coarse grid, in the order of ``core.fourier.pairs``. The second sum to N.
        """
        places, multiplicity = pairs(*self.coarse)
        return signed_frequencies(*self.coarse)[places], multiplicity

    @cached_property
    def taps(self) -> tuple[Tensor, Tensor]:
        """Offsets (uy, ux) of the taps in pixels, int64 [t, 2], and their weights, float64 [t, k, c / groups].

        For zero padding, those of the closest circulant.
        """
        weight = self.weight * self.inside
        return torch.cartesian_prod(*self._offsets), weight.flatten(2).permute(2, 0, 1)

    @cached_property
    def leak(self) -> float:
        """Share of the operator's squared entries that no circulant can hold; 0 for circular padding, NaN without any.

        For "valid", the share of the circulant's squared entries that lies in rows which the operator lacks.
        """
        if self.boundary == "valid":
            rows, columns = self.geometry.output_size(*self.size)
            return max(1 - rows * columns / self.positions, 0.0) if bool(self.kernel.any()) else float("nan")
        if self.boundary != "zeros":
            return 0.0
        whole = float((self.weight.square() * self.inside).sum())
        return 1 - float(self.wrapped.square().sum()) / whole if whole else float("nan")

    @cached_property
    def wrapped(self) -> Tensor:
        """The taps on the torus, float64 [k, c / groups, h, w]: those that fall on one point are added, none is cut."""
        h, w = self.grid
        offsets, weights = self.taps
        k, c = weights.shape[1:]
        places = offsets[:, 0] % h * w + offsets[:, 1] % w
        found = torch.zeros(h * w, k, c, dtype=torch.float64).index_add_(0, places, weights)
        return found.permute(1, 2, 0).reshape(k, c, h, w)

    def transfer(self, frequencies: Tensor) -> Tensor:
        """Returns T(w) of the convolution, without its stride, complex128 [f, k, c / groups].

        Args:
            frequencies: int64 [f, 2], in cycles per image on the input's grid.
        """
        offsets, weights = self.taps
        turns = 2 * pi * (frequencies.double() / torch.tensor(self.grid, dtype=torch.float64)) @ offsets.double().T
        flat = weights.flatten(1)
        return torch.complex(turns.cos() @ flat, turns.sin() @ flat).view(-1, *weights.shape[1:])

    def blocks(self, frequencies: Tensor) -> Tensor:
        """Returns the blocks of the operator at frequencies of the coarse grid, complex128 [f, g, outputs, inputs].

        The inputs of a strided convolution's block are its aliases (v + a (h / s, 0) + b (0, w / t)), b fastest, each
        with the channels of its group; the same holds for the outputs of a transposed one.

        Args:
            frequencies: int64 [f, 2], in cycles per image.
        """
        s, t = self.geometry.stride
        rows, columns = self.coarse
        alias = torch.cartesian_prod(torch.arange(s) * rows, torch.arange(t) * columns).view(-1, 2)
        found = self.transfer((frequencies[:, None] + alias).view(-1, 2))
        k, c = found.shape[1:]
        found = found.view(len(frequencies), s * t, self.groups, k // self.groups, c)
        found = found.permute(0, 2, 3, 1, 4).reshape(len(frequencies), self.groups, k // self.groups, s * t * c)
        found = found / (s * t) ** 0.5
        return found.mH if self.transposed else found

    @cached_property
    def _offsets(self) -> tuple[Tensor, Tensor]:
        g = self.geometry
        return tuple(  # type: ignore[return-value]
            torch.arange(k) * d - p for k, d, p in zip(g.kernel, g.dilation, (g.padding[0], g.padding[2]), strict=True)
        )

    @cached_property
    def inside(self) -> Tensor:
        """What each tap is multiplied by, float64 [q, r]: with zero padding its share of positions on the map."""
        shares = []
        for offsets, size, rows, stride in zip(
            self._offsets, self.size, self.coarse, self.geometry.stride, strict=True
        ):
            at = torch.arange(rows)[:, None] * stride + offsets
            shares.append(((at >= 0) & (at < size)).double().mean(0))
        found = shares[0][:, None] * shares[1]
        return found if self.boundary == "zeros" else torch.ones_like(found)


def _pair(size: Size) -> tuple[int, int]:
    h, w = (size, size) if isinstance(size, int) else size
    if min(h, w) < 1:
        raise ValueError(f"a map has at least one row and one column, got {h}x{w}")
    return int(h), int(w)
