"""The kernel of a convolutional network of infinite width between images: one function, and one chooser of its path."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from convscope.core.errors import ConvscopeError
from convscope.rfm import fused, plain, pooled
from convscope.rfm.architecture import Architecture, Kind, Padding
from convscope.rfm.jit import AVAILABLE
from convscope.rfm.maps import Filtered, Filters, Maps, Parts, identities

_log = logging.getLogger(__name__)

METHODS = ("auto", "fused", "plain")

# Pairs of images times positions of all layers that plain PyTorch does while the compiler works.
_WORTH_COMPILING = 2e7
_WORTH_SAYING = 5e9  # of these: from here on a run takes many seconds, and what it takes is measured first
_LARGEST = 256  # images on each side of a block by the compiled path; up to four times as many small ones
_CACHED = 2**24  # bytes of a block by the plain path on the CPU, beyond which its arrays leave the caches

DTYPES = {"float32": torch.float32, "float64": torch.float64}


def conv_kernel(
    X: np.ndarray | Tensor,
    Z: np.ndarray | Tensor | None = None,
    *,
    depth: int,
    patch_size: int,
    padding: Padding = "valid",
    metric_root: np.ndarray | Tensor | None = None,
    kind: Kind = "ntk",
    dtype: np.dtype | type | torch.dtype | str | None = None,
    stride: int = 1,
    pooling: bool = False,
    rank_tol: float = 0.0,
    device: torch.device | str | None = None,
    max_memory: int = 2**31,
    method: str = "auto",
    progress: bool = False,
) -> np.ndarray | Tensor:
    """Returns the kernel matrix [n_x, n_z] of images: entry (i, j) is K(x_i, z_j), not scaled.

    The network is convolution and ReLU ``depth`` times, then one linear layer, infinitely wide and without bias. The
    variance of weights is 1 over the number of channels they sum, that of the linear layer's 1 over its inputs; a ReLU
    is times sqrt(2); pixels are taken as they are given.

    Args:
        X: images [n_x, c, h, w], of any numbers.
        Z: images [n_z, c, h, w]; None: X.
        depth: number of convolutions, each with its ReLU.
        patch_size: q, side of every convolution's patches, in pixels.
        padding: "valid": none; "first": zeros around the images only; "same": zeros in every layer.
        metric_root: [m, c * q * q], A, by which first-layer patches, flattened (c, i, j), are multiplied; None: the
            identity.
        kind: "ntk": neural tangent kernel; "nngp": covariance of the outputs at initialisation.
        dtype: float32 or float64, of the arithmetic and of the result; None: of the images where it is one of these,
            else float32.
        stride: of the first convolution.
        pooling: whether the mean over positions is taken before the linear layer. Its cost grows with the square of the
            number of positions: for small images.
        rank_tol: share of the metric's trace that may be left out, to save time and memory.
        device: where to compute; None: where X is.
        max_memory: bytes that may be taken, the result included.
        method: "fused": compiled loops on the CPU; "plain": PyTorch; "auto": what is faster.
        progress: whether to show a progress bar with the time left.

    Returns:
        As X came: a NumPy array, or a tensor on X's device. Images that are equal in every pixel get their exact value,
        wherever they occur.

    Raises:
        TypeError: when X or Z are neither NumPy arrays nor tensors.
        ValueError: for images that are not finite or not [n, c, h, w], patches that do not fit, sizes that do not
            match, and unknown words.
        ConvscopeError: when not even the result fits ``max_memory``.

    Example:
        >>> import numpy as np
        >>> from convscope.rfm.kernels import conv_kernel
        >>> X = np.random.default_rng(0).normal(size=(4, 3, 8, 8))
        >>> K = conv_kernel(X, depth=2, patch_size=3)
        >>> K.shape, bool(np.allclose(conv_kernel(2 * X, X, depth=2, patch_size=3), 2 * K))
        ((4, 4), True)
    """
    architecture = Architecture(depth, patch_size, padding, stride, kind, pooling)
    sets = [as_images(X, "X"), *([] if Z is None else [as_images(Z, "Z")])]
    if len(sets) == 2 and sets[0].shape[1:] != sets[1].shape[1:]:
        raise ValueError(
            f"X and Z must hold images of one size (channels, height, width), got {list(sets[0].shape[1:])} and "
            f"{list(sets[1].shape[1:])}"
        )
    precision = precision_of(dtype, sets[0])
    place = sets[0].device if device is None else torch.device(device)
    sets = [x.to(place, precision) for x in sets]
    filters = Filters.of(None if metric_root is None else as_tensor(metric_root, "metric_root"), rank_tol)
    filters.check(sets[0].shape[1], patch_size)
    architecture.sizes(*sets[0].shape[2:])
    same = identities(*sets)
    seen = [Filtered(x, filters, architecture, of_x) for x, of_x in zip(sets, same, strict=True)]
    _announce(sets, filters, architecture, max_memory, method)
    left, right = seen[0], seen[1] if Z is not None else None
    found = kernel_matrix(left, right, max_memory=max_memory, method=method, progress=progress)
    return found.cpu().numpy() if isinstance(X, np.ndarray) else found.to(X.device)


def kernel_matrix(
    left: Filtered,
    right: Filtered | None,
    *,
    max_memory: int = 2**31,
    method: str = "auto",
    progress: bool = False,
    out: Tensor | np.ndarray | None = None,
) -> Tensor:
    """Returns the kernel of images, [n1, n2], in their precision and on their device.

    Args:
        left: n1 images.
        right: n2 images, seen through the same metric; None: the left ones, of which each pair is made once.
        max_memory: bytes beyond the images and ``out`` that may be taken.
        method: as for ``conv_kernel``.
        progress: whether to show a progress bar with the time left.
        out: [n1, n2], of any precision, to be written block by block; it may be memory-mapped. None: a new tensor.

    Returns:
        ``out`` as a tensor, which shares its memory.

    Raises:
        ValueError: for unknown words, and for an ``out`` of another shape.
        ConvscopeError: when one pair of images takes more than ``max_memory``.
    """
    symmetric = right is None
    n1, n2 = len(left), len(left if right is None else right)
    if out is None:
        needed = n1 * n2 * left.images.element_size()
        _check_memory(needed, max_memory, f"the {n1} x {n2} kernel matrix")
        max_memory -= needed
        target = left.images.new_empty(n1, n2)
    else:
        target = torch.from_numpy(out) if isinstance(out, np.ndarray) else out
    if target.shape != (n1, n2):
        raise ValueError(f"out must have shape [{n1}, {n2}], one entry for each pair, got {list(target.shape)}")
    above = Parts(left, max_memory // 4)
    beside = above if right is None else Parts(right, max_memory // 4)
    max_memory -= above.bytes + beside.bytes
    path = path_of(left[:1].maps(), left.architecture, n1, n2, max_memory, method)
    pairs = n1 * (n1 + 1) // 2 if symmetric else n1 * n2
    with tqdm(total=pairs, unit="pair", unit_scale=True, desc="kernel", disable=not progress, leave=False) as bar:
        for rows in above.slices:
            x = above[rows]
            for columns in beside.slices:
                if symmetric and columns.start < rows.start:
                    continue
                mirror = symmetric and columns == rows
                part = target[rows, columns]
                path.fill(part, x, x if mirror else beside[columns], mirror, bar.update)
                if symmetric and not mirror:
                    target[columns, rows] = part.mT
    return target


def _announce(sets: list[Tensor], filters: Filters, architecture: Architecture, max_memory: int, method: str) -> None:
    """Logs what a long run will take, before it begins."""
    from convscope.rfm.cost import estimate  # which needs this module

    positions = [
        math.prod(size) ** (2 if architecture.pooling else 1) for size in architecture.sizes(*sets[0].shape[2:])
    ]
    if len(sets[0]) * len(sets[-1]) * sum(positions) < _WORTH_SAYING:
        return
    cost = estimate(
        len(sets[0]),
        len(sets[1]) if len(sets) == 2 else None,
        architecture,
        sets[0].shape[1] if filters.weight is None else len(filters.weight),
        (sets[0].shape[2], sets[0].shape[3]),
        sets[0].dtype,
        metric=filters.weight is not None,
        method=method,
        device=sets[0].device,
        max_memory=max_memory,
    )
    _log.log(logging.WARNING if cost.seconds > 60 else logging.INFO, "this kernel takes %s", cost)


def is_fused(method: str, values: Tensor, work: float = math.inf) -> bool:
    """Returns whether the compiled path is taken.

    Args:
        method: one of ``METHODS``.
        values: the maps.
        work: pairs of images times positions; few are done before the compiler is.

    Raises:
        ValueError: for another method, and for "fused" where that cannot be.
    """
    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}, got {method!r}")
    able = AVAILABLE and values.device.type == "cpu" and values.dtype in DTYPES.values()
    if method == "fused" and not able:
        raise ValueError(
            f"the fused path needs numba and float32 or float64 on the CPU, got {values.dtype} on {values.device}"
            f"{'' if AVAILABLE else ' and numba cannot be imported'}: use method='auto'"
        )
    return able and (method == "fused" or (method == "auto" and work > _WORTH_COMPILING))


@dataclass(frozen=True)
class Path:
    """How a kernel matrix is made, block by block.

    Attributes:
        prepare: brings maps into the form that blocks are made of.
        block: makes a block from n1 and n2 images, whether these are the same, and what is told of pairs done.
        size: images on each side of a block.
        bytes: that a block takes while it is made.
        method: that leads here.
    """

    prepare: Callable[[Maps], Any]
    block: Callable[[Any, Any, bool, Callable[[int], object]], Tensor]
    size: int
    bytes: int
    method: str

    def fill(self, target: Tensor, left: Maps, right: Maps, symmetric: bool, done: Callable[[int], object]) -> None:
        """Writes a kernel matrix.

        Args:
            target: [n1, n2], of any precision.
            left: n1 images.
            right: n2 images.
            symmetric: whether these are the same; each pair of images is then made once.
            done: is told of pairs done.
        """
        n1, n2 = target.shape
        for i in range(0, n1, self.size):
            rows = slice(i, min(i + self.size, n1))
            x = self.prepare(left[rows])
            for j in range(i if symmetric else 0, n2, self.size):
                columns = slice(j, min(j + self.size, n2))
                mirror = symmetric and i == j
                part = self.block(x, x if mirror else self.prepare(right[columns]), mirror, done).to(target)
                target[rows, columns] = part
                if symmetric and not mirror:
                    target[columns, rows] = part.mT


def path_of(maps: Maps, architecture: Architecture, n1: int, n2: int, max_memory: int, method: str = "auto") -> Path:
    """Returns how the kernel of n1 with n2 images is made.

    Args:
        maps: some of the images.
        architecture: the network.
        n1: number of images on the left.
        n2: number of images on the right.
        max_memory: bytes that a block may take.
        method: as for ``conv_kernel``.

    Raises:
        ValueError: for unknown words and for what the method cannot do.
        ConvscopeError: when one pair of images takes more.
    """
    work = n1 * n2 * sum(math.prod(size) for size in architecture.after((maps.norms.shape[1], maps.norms.shape[2])))
    if architecture.pooling and method == "fused":
        raise ValueError('there is no fused path for pooling=True: use method="auto"')
    compiled = is_fused(method, maps.values, work) and not architecture.pooling
    return (_compiled if compiled else _in_torch)(maps, architecture, n1, n2, max_memory)


def _compiled(maps: Maps, architecture: Architecture, n1: int, n2: int, max_memory: int) -> Path:
    plan = fused.Plan.of(maps, architecture, n2)
    of_image, item = 2 * plan.bytes_of_image(maps.values.shape[1]), maps.values.element_size()
    _check_memory(of_image + item, max_memory, "one pair of images")
    # b images on both sides and their b x b pairs take of_image b + item b^2 bytes.
    fits = int((math.sqrt(of_image**2 + 4 * item * max_memory) - of_image) / (2 * item))
    size = min(fits, _LARGEST * min(plan.lanes, 4), max(n1, n2))

    def block(left: fused.Flat, right: fused.Flat, mirror: bool, done: Callable[[int], object]) -> Tensor:
        found = np.empty((len(left.own), len(right.own)), plan.mean.dtype)
        for pairs in plan.fill(found, left, right, mirror):
            done(pairs)
        return torch.from_numpy(found)

    return Path(plan.flat, block, size, of_image * size + item * size**2, "fused")


def _in_torch(maps: Maps, architecture: Architecture, n1: int, n2: int, max_memory: int) -> Path:
    make, of_pair = plain.kernel_block, plain.bytes_of_pair(maps, architecture)
    if architecture.pooling:
        make, of_pair = pooled.kernel_block, pooled.bytes_of_pair(maps, architecture)
    _check_memory(of_pair, max_memory, "one pair of images")
    limit = min(max_memory, _CACHED) if maps.values.device.type == "cpu" else max_memory
    size = min(max(math.isqrt(limit // of_pair), 1), max(n1, n2))

    def block(left: Maps, right: Maps, mirror: bool, done: Callable[[int], object]) -> Tensor:
        found = make(left, right, architecture)
        done(len(left) * (len(left) + 1) // 2 if mirror else found.numel())
        return found.triu() + found.triu(1).mT if mirror else found

    return Path(lambda maps: maps, block, size, of_pair * size**2, "plain")


def as_tensor(array: np.ndarray | Tensor, name: str) -> Tensor:
    """Returns an array as a tensor that shares its memory where it can.

    Args:
        array: what a user gave.
        name: of the argument.

    Raises:
        TypeError: when it is neither a NumPy array nor a tensor.
    """
    if not isinstance(array, (np.ndarray, Tensor)):
        raise TypeError(f"{name} must be a NumPy array or a PyTorch tensor, got {type(array).__name__}")
    return array.detach() if isinstance(array, Tensor) else torch.from_numpy(np.ascontiguousarray(array))


def as_images(array: np.ndarray | Tensor, name: str) -> Tensor:
    """Returns finite images [n, c, h, w] in float32, or float64 if they are.

    Args:
        array: what a user gave.
        name: of the argument.

    Raises:
        ValueError: when they are not of this form, or not finite.
    """
    images = as_tensor(array, name)
    if images.ndim != 4 or not images.numel():
        raise ValueError(f"{name} must be images [n, c, h, w], at least one of each, got shape {list(images.shape)}")
    images = images if images.dtype in DTYPES.values() else images.float()
    if not images.isfinite().all():
        raise ValueError(f"{name} must be finite, got NaN or infinite pixels: replace them, or drop those images")
    return images


def precision_of(dtype: object, images: Tensor) -> torch.dtype:
    """Returns float32 or float64.

    Args:
        dtype: of NumPy or PyTorch, or a name; None: that of the images.
        images: in float32 or float64.

    Raises:
        ValueError: for any other.
    """
    if dtype is None:
        return images.dtype
    try:
        name = str(dtype).removeprefix("torch.") if isinstance(dtype, torch.dtype) else np.dtype(dtype).name  # type: ignore[call-overload]
    except TypeError:
        name = str(dtype)
    if name not in DTYPES:
        raise ValueError(f"dtype must be float32 or float64 (of NumPy or PyTorch, or its name), got {dtype!r}")
    return DTYPES[name]


def _check_memory(needed: int, max_memory: int, what: str) -> None:
    if needed > max_memory:
        raise ConvscopeError(
            f"memory too small: {what} take {needed:,} bytes, but max_memory leaves {max(max_memory, 0):,}: raise "
            "max_memory, or take fewer or smaller images"
        )
