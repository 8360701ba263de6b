"""The average gradient outer product of a kernel machine's predictor, in closed form.

f_o(z) = sum_i alpha_io K(x_i, z) depends on an image z through its first-layer patches z_p alone. With a and b the
kernel's derivatives with respect to the first layer's covariances of x_i with z and of z with itself, and phi the
filters' responses, the gradient with respect to phi(z)_p is

    G_o[p] = sum_i alpha_io a_ip phi(x_i)_p + 2 (sum_i alpha_io b_ip) phi(z)_p.

One backward through the kernel serves all outputs, as alpha enters linearly.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import product
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from convscope.core.errors import ConvscopeError
from convscope.rfm import fused_agop, plain
from convscope.rfm.architecture import Architecture, Kind, Padding, as_double, spread_sum
from convscope.rfm.kernels import as_images, as_tensor, is_fused
from convscope.rfm.maps import Filtered, Filters, Maps, Parts, identities

WORKING = 2**27  # bytes of blocks; with more, nothing gets faster
PAIRS_OF_PLAIN = 2**19  # positions times pairs that the plain path treats at once: about what caches hold

Array = TypeVar("Array", np.ndarray, Tensor)


def conv_kernel_agop(
    X: Array,
    dual_coef: Array,
    Z: Array,
    *,
    depth: int,
    patch_size: int,
    metric_root: Array | None = None,
    padding: Padding = "valid",
    kind: Kind = "ntk",
    stride: int = 1,
    rank_tol: float = 0.0,
    sample_weight: Array | None = None,
    max_memory: int = 2**31,
    method: str = "auto",
    progress: bool = False,
    device: torch.device | str | None = None,
) -> Array:
    """Returns the average gradient outer product of f(z) = sum_i dual_coef_i K(x_i, z) over first-layer patches.

    The sum over outputs and patch positions, the mean over the images Z, of the outer product of the gradient with
    respect to a patch as it is in the image, before ``metric_root``; not centred (Beaglehole et al. 2023, section 2).
    Patches are flattened (c, i, j). K is that of ``conv_kernel``, not scaled. Where two patches are the same up to a
    factor, the infinite derivative of the kernel is left out, as neural-tangents does.

    Args:
        X: [n, c, h, w], the images that the machine was fitted to; NumPy or PyTorch.
        dual_coef: [n, o] or [n], coefficient of each of them for each output.
        Z: [s, c, h, w], the images at which gradients are taken.
        depth: number of convolutions, each with its ReLU.
        patch_size: q, side of the patches in pixels.
        metric_root: [m, c * q * q], A of the metric A^T A on first-layer patches; None for the identity.
        padding: "valid", "first" (zeros around the images) or "same" (zeros in every layer).
        kind: "ntk" or "nngp".
        stride: of the first convolution.
        rank_tol: share of the metric's trace that may be left out.
        sample_weight: [s], weight of each of Z in the mean, not negative; None: all equal.
        max_memory: bytes that may be used beside the images and their maps.
        method: "auto", "fused" (compiled, on the CPU) or "plain" (PyTorch on any device); equal in all but speed.
        progress: whether to show a progress bar.
        device: where to compute; None: where X is.

    Returns:
        float64 [c * q * q, c * q * q], a NumPy array or a tensor, as X is.

    Raises:
        TypeError: when an array is neither a NumPy array nor a tensor.
        ValueError: when shapes do not fit each other or the network, values are not finite, or a word is unknown.
        ConvscopeError: when not even one pair of images fits ``max_memory``.

    Example:
        >>> import numpy as np
        >>> X = np.random.default_rng(0).normal(size=(8, 3, 6, 6))
        >>> conv_kernel_agop(X, np.ones(8), X, depth=2, patch_size=3).shape
        (27, 27)
    """
    architecture = Architecture(depth, patch_size, padding, stride, kind)
    images, at_images = as_images(X, "X"), as_images(Z, "Z")
    if images.shape[1:] != at_images.shape[1:]:
        raise ValueError(
            f"X and Z must hold images of one size, got {list(images.shape[1:])} and {list(at_images.shape[1:])} "
            "(channels, height, width)"
        )
    dtype = torch.promote_types(images.dtype, at_images.dtype)
    images, at_images = (x.to(images.device if device is None else device, dtype) for x in (images, at_images))
    filters = Filters.of(None if metric_root is None else as_tensor(metric_root, "metric_root"), rank_tol)
    filters.check(images.shape[1], patch_size)
    architecture.sizes(*images.shape[2:])
    same, same_at = identities(images, at_images)
    found = predictor_agop(
        Filtered(images, filters, architecture, same),
        as_tensor(dual_coef, "dual_coef"),
        Filtered(at_images, filters, architecture, same_at),
        weights=None if sample_weight is None else as_tensor(sample_weight, "sample_weight"),
        max_memory=max_memory,
        method=method,
        progress=progress,
    )
    return found.numpy() if isinstance(X, np.ndarray) else found.to(X.device)


def predictor_agop(
    train: Filtered,
    dual_coef: Tensor,
    at: Filtered,
    *,
    weights: Tensor | None = None,
    max_memory: int = 2**31,
    method: str = "auto",
    progress: bool = False,
) -> Tensor:
    """Returns the AGOP of ``conv_kernel_agop``, float64 [c * q * q, c * q * q] on the CPU.

    Args:
        train: n images.
        dual_coef: [n, o] or [n], coefficient of each of them for each output.
        at: the s images at which gradients are taken, seen through the same metric.
        weights: [s], of ``at`` in the mean, not negative; None: all equal.
        max_memory: bytes that may be used beside the images.
        method: "auto", "fused" or "plain".
        progress: whether to show a progress bar.

    Raises:
        ValueError: when shapes do not fit, coefficients or weights are not finite or all weights are 0, the
            architecture pools, or the method is unknown or cannot be had.
        ConvscopeError: when not even one pair of images fits ``max_memory``.
    """
    architecture = train.architecture
    if architecture.pooling:
        raise ValueError("the AGOP needs an architecture without pooling: its kernel mixes positions")
    alpha = as_double(dual_coef)
    alpha = alpha[:, None] if alpha.ndim == 1 else alpha
    if alpha.ndim != 2 or len(alpha) != len(train) or not alpha.shape[1] or not alpha.isfinite().all():
        raise ValueError(
            f"dual_coef must be finite, with a row for each of the {len(train)} images of X, got shape "
            f"{list(dual_coef.shape)}{'' if alpha.isfinite().all() else ' with values that are not finite'}"
        )
    share = _shares(weights, len(at))
    at, share = at[share.nonzero()[:, 0]], share[share > 0]
    one = train[:1].maps()
    positions = sum(math.prod(size) for size in architecture.after((one.norms.shape[1], one.norms.shape[2])))
    # Derivatives take about four times as long as values.
    fused = is_fused(method, one.values, 4 * len(train) * len(at) * positions)
    alpha = _fewest_outputs(alpha).to(one.values)
    share = share.to(one.values)
    width = one.values.shape[1] * (architecture.patch_size**2 if one.boxed else 1)
    parts = Parts(train, max_memory // 4)
    of_pair = 2 if fused else 10 + 6 * architecture.depth
    n, s, o = _blocks(one, len(train), len(at), alpha.shape[1], width, of_pair, max_memory - parts.bytes)
    # Where maps of the training images are made anew in each pass, as many sums as memory allows are made in one.
    of_sums = s * (one.norms[0].numel() * o * (width + 1) * one.values.element_size() + at.bytes_of_image)
    together = 1 if len(parts.slices) == 1 else max(max_memory // 2 // of_sums, 1)
    of_same = _derivative_at_same(one.norms, architecture)
    gram = torch.zeros(width, width, dtype=torch.float64)
    with tqdm(total=len(train) * len(at) * -(-alpha.shape[1] // o), desc="AGOP", disable=not progress) as bar:
        for outputs, group in product(alpha.split(o, 1), _slices(len(at), s * together)):
            z, of_z = at[group], share[group]
            sums = [
                _Gradients(z[block].maps(), of_z[block], outputs.shape[1], width, architecture)
                for block in _slices(len(z), s)
            ]
            for part in parts.slices:
                maps, coefficients = parts[part], outputs[part]
                for rows in _slices(len(maps), n):
                    for block in sums:
                        block.add(maps[rows], coefficients[rows], of_same, fused)
                        bar.update(len(block.z) * (rows.stop - rows.start))
            gram += sum(block.gram() for block in sums)
    if train.filters.weight is not None:
        gram = train.filters.weight.T @ gram @ train.filters.weight
    channels = len(gram) // architecture.patch_size**2
    return (gram + gram.T) / (2 * channels)  # the kernel's covariances are over the number of channels


def sketched(dual_coef: Tensor, m: int, seed: int) -> Tensor:
    """Returns m random combinations of the outputs, [n, m], whose AGOP equals that of all outputs on average.

    Args:
        dual_coef: [n, o].
        m: number of combinations; each output enters each with a random sign, over sqrt(m).
        seed: of the signs.

    Raises:
        ValueError: when m is below 1 or ``dual_coef`` is no matrix.
    """
    if m < 1 or dual_coef.ndim != 2:
        raise ValueError(f"a sketch needs dual_coef [n, o] and m of at least 1, got {list(dual_coef.shape)} and {m}")
    signs = torch.randint(2, (dual_coef.shape[1], m), generator=torch.Generator().manual_seed(seed)) * 2 - 1
    return dual_coef @ (signs.to(dual_coef) / m**0.5)


class _Gradients:
    """G of a block of images z: [p, s * o, m] with m the patch's entries or the filters' responses."""

    def __init__(self, z: Maps, share: Tensor, outputs: int, width: int, architecture: Architecture) -> None:
        self.z, self.share, self.architecture = z, share, architecture
        self.geometry = architecture.first(1)
        self.rows, self.columns = z.norms.shape[-2:]
        positions = self.rows * self.columns
        self.of_products = z.values.new_zeros(positions, len(z) * outputs, width)
        self.of_norms = z.values.new_zeros(positions, len(z), outputs)

    def add(self, x: Maps, alpha: Tensor, of_same: Tensor, fused: bool) -> None:
        """Adds what training images x of coefficients [i, o] contribute; ``of_same``: derivative of the same image."""
        derivatives = fused_agop.derivatives if fused else _plain_derivatives
        of_product, of_norm = derivatives(x, self.z, self.architecture)  # [p, s, i]
        j, i = (x.identity[None] == self.z.identity[:, None]).nonzero(as_tuple=True)
        of_product[:, j, i], of_norm[:, j, i] = of_same[:, None], 0
        self.of_norms += of_norm @ alpha
        coefficients = alpha.T.contiguous()
        left = alpha.new_empty(self.columns, len(self.z), *coefficients.shape)
        # One matrix product per position: its few outputs, times all images z that are at hand.
        for row, responses in self._by_row(x):
            torch.mul(of_product[row][:, :, None], coefficients, out=left)
            self.of_products[row].baddbmm_(left.flatten(1, 2), responses.mT)

    def gram(self) -> Tensor:
        """Returns the sum over images (by their share), outputs and positions of G G^T, float64 [m, m]."""
        width = self.of_products.shape[-1]
        total = torch.zeros(width, width, dtype=torch.float64)
        for row, responses in self._by_row(self.z):
            g = self.of_products[row].unflatten(1, (len(self.z), -1))
            g = (g + 2 * self.of_norms[row][..., None] * responses.mT[:, :, None]) * self.share.sqrt()[:, None, None]
            total += as_double(g.flatten(0, 2).T @ g.flatten(0, 2))
        return total

    def _by_row(self, maps: Maps) -> Iterator[tuple[slice, Tensor]]:
        """Yields for each row its positions, and phi of all images there, [columns, m, n]."""
        values = maps.values.permute(2, 3, 1, 0).contiguous()
        (q, r), (down, across) = self.geometry.kernel, self.geometry.stride
        for y in range(self.rows):
            row = slice(y * self.columns, (y + 1) * self.columns)
            if maps.boxed:  # patches of one row at a time: of all, they would be q * r times the images
                strip = values[y * down : y * down + q].unfold(1, r, across)  # [q, columns, c, n, r]
                yield row, strip.permute(1, 2, 0, 4, 3).flatten(1, 3)
            else:
                yield row, values[y]


def _plain_derivatives(left: Maps, right: Maps, architecture: Architecture) -> Tensor:
    """Returns what ``fused_agop.derivatives`` does, by ``plain.derivatives`` on few pairs at a time."""
    positions = right.norms[0].numel()
    out = right.values.new_empty(2, positions, len(right), len(left))
    few = max(PAIRS_OF_PLAIN // (positions * len(right)), 1)
    for rows in _slices(len(left), few):
        for part, found in zip(out, plain.derivatives(left[rows], right, architecture), strict=True):
            part[..., rows] = found.flatten(2).permute(2, 1, 0)
    return out


def _derivative_at_same(norms: Tensor, architecture: Architecture) -> Tensor:
    """Returns of_product for an image with itself, [p]: kappa0 = 1 everywhere; of_norm is 0."""
    maps = plain.layer_norms(norms[0], architecture)
    sizes, empty = [(len(x), len(x[0])) for x in maps], torch.zeros_like(maps[-1])
    of_k = torch.full_like(empty, 1 / empty.numel())
    of_theta = of_k if architecture.kind == "ntk" else empty
    for size in reversed(sizes[:-1]):
        of_k = spread_sum(of_k + of_theta, architecture.deeper, size)
        of_theta = spread_sum(of_theta, architecture.deeper, size)
    return (of_k + of_theta).flatten()


def _fewest_outputs(alpha: Tensor) -> Tensor:
    """Returns coefficients [n, rank] of the same AGOP: only alpha alpha^T counts."""
    left, values, _ = torch.linalg.svd(alpha, full_matrices=False)
    rank = int((values > torch.finfo(alpha.dtype).eps * max(alpha.shape) * values[0]).sum())
    return alpha if rank == alpha.shape[1] else (left * values)[:, : max(rank, 1)]


def _shares(weights: Tensor | None, s: int) -> Tensor:
    """Returns each image's share of the mean, float64 [s].

    Raises:
        ValueError: when weights are too many or few, not finite, negative, or all 0, or there is no image.
    """
    if not s:
        raise ValueError("the AGOP is a mean over images: give at least one in Z")
    share = torch.ones(s, dtype=torch.float64) if weights is None else as_double(weights)
    if share.shape != (s,) or not share.isfinite().all() or (share < 0).any() or not share.any():
        raise ValueError(
            f"sample_weight must hold {s} finite numbers, one for each image of Z, none negative and not all 0, got "
            f"shape {list(share.shape)}: {share.flatten()[:4].tolist()} ..."
        )
    return share / share.sum()


def _blocks(one: Maps, n: int, s: int, o: int, width: int, of_pair: int, max_memory: int) -> tuple[int, int, int]:
    """Returns how many training images, images z and outputs are treated at once.

    Args:
        one: any image.
        n: number of training images.
        s: number of images z.
        o: number of outputs.
        width: entries of phi at a position.
        of_pair: numbers kept for a pair of images, per position.
        max_memory: bytes.

    Raises:
        ConvscopeError: when not even one pair fits.
    """
    columns, positions = one.norms.shape[-1], one.norms[0].numel()
    limit = min(max_memory, WORKING)

    def needed(n: int, s: int, o: int) -> int:
        sums = positions * s * o * (width + 1) + 2 * columns * s * o * width
        return one.values.element_size() * (sums + positions * s * n * of_pair + columns * n * (2 * s * o + width))

    n = min(n, 256)
    while needed(n, s, o) > limit:
        if max(n, s, o) == 1:
            raise ConvscopeError(
                f"memory too small: one pair of images takes {needed(1, 1, 1):,} bytes, but max_memory leaves "
                f"{max(max_memory, 0):,}: raise max_memory, or take smaller images"
            )
        # Blocks of z first, as they cost least; then outputs, for each part of which all pairs are made again.
        if s > 8:
            s = -(-s // 2)
        elif n > 16:
            n = -(-n // 2)
        elif s > 1:
            s = -(-s // 2)
        elif o > 1:
            o = -(-o // 2)
        else:
            n = -(-n // 2)
    return n, s, o


def _slices(n: int, size: int) -> Iterator[slice]:
    return (slice(start, min(start + size, n)) for start in range(0, n, size))
