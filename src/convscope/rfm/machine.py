"""ConvRFM: a kernel machine, the gradients of its predictor, a metric made of them, and again.

Beaglehole et al. 2023; Radhakrishnan et al. 2022 for the recursion. The metric M = A^T A acts on the patches of the
first layer; A is symmetric here.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from convscope.rfm.agop import predictor_agop, sketched
from convscope.rfm.architecture import Architecture
from convscope.rfm.conjugate import conjugate_gradient
from convscope.rfm.maps import Features, Filtered, Filters, seen
from convscope.rfm.settings import Settings
from convscope.rfm.solve import RIDGES, best_ridge, solve
from convscope.rfm.space import Share, Space, is_dense, kernel_of, room, share_of, submatrix, times

Split = tuple[Tensor, Tensor]  # numbers of images to learn from, and of those held out
Kernels = Callable[[Space], tuple[Tensor, Tensor | None]]
# Leave-one-out needs an eigendecomposition, ten times a Cholesky factorisation: beyond so many images, a subset's.
LEFT_OUT = 4000
OUTPUTS = 32  # beyond, gradients are those of so many random combinations of outputs


@dataclass(frozen=True, eq=False)
class Data:
    """Images to learn from.

    Attributes:
        images: [n, c, h, w], floating point.
        targets: float64 [n, o].
        weights: float64 [n], positive, or None for equal ones.
        identity: int64 [n], equal for images that are equal in every pixel.
        rows: int64 [n], the number by which ``agop_samples`` may name each image.
        features: gives what the machine sees of images, as ``Filtered`` takes it.
    """

    images: Tensor
    targets: Tensor
    weights: Tensor | None
    identity: Tensor
    rows: Tensor
    features: Features | None = None

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, rows: Tensor) -> Data:
        weights = None if self.weights is None else self.weights[rows]
        images = self.images[rows.to(self.images.device)]
        return Data(images, self.targets[rows], weights, self.identity[rows], self.rows[rows], self.features)

    def through(self, filters: Filters, architecture: Architecture) -> Filtered:
        """Returns the images as a kernel sees them."""
        return Filtered(self.images, filters, architecture, self.identity, self.features)

    @property
    def example(self) -> Tensor:
        """What the machine sees of the first image, [1, c, h, w]."""
        return seen(self.images[:1], self.features)


@dataclass(frozen=True, eq=False)
class Step:
    """The machine at one metric.

    Attributes:
        iteration: 0 for the fixed kernel.
        metric_root: float64 [d, d], A, of Frobenius norm 1; None for the identity.
        dual_coef: float64 [n, o], alpha, for the kernel divided by ``scale``.
        offset: float64 [o], added to predictions.
        ridge: in units of ``scale``.
        scale: largest entry of the kernel.
        rank: of the metric, as the kernel uses it; d for the identity.
        fitted: float64 [n, o], predictions for the training images.
        left_out: float64 [m, o], predictions by leave-one-out for the images ``left_out_rows``.
        left_out_rows: int64 [m].
        held: float64 [m, o], predictions for the held-out images, or None without any.
        seconds: that it took.
    """

    iteration: int
    metric_root: Tensor | None
    dual_coef: Tensor
    offset: Tensor
    ridge: float
    scale: float
    rank: int
    fitted: Tensor
    left_out: Tensor
    left_out_rows: Tensor
    held: Tensor | None
    seconds: float


def learn(data: Data, settings: Settings, held: Data | None = None, first: Kernels | None = None) -> Iterator[Step]:
    """Gives the machine at the fixed kernel and at each learned metric, ``settings.n_iters + 1`` steps.

    Under ``torchrun``, with conjugate gradients, every process computes its own rows of the kernel and its share of
    predictions and gradients; all call this with the same arguments and get the same steps.

    Args:
        data: the training images.
        settings: how.
        held: images whose predictions each step keeps; nothing is learned from them.
        first: gives the kernels of the fixed metric, of training images and of held-out with training images, where
            they are known.

    Raises:
        ConvscopeError: when memory does not suffice.
        ValueError: when ``settings.agop_samples`` names no image of the data.
    """
    architecture = settings.architecture
    chosen = _gradient_images(data, settings)
    rows = _left_out_rows(len(data), settings.seed)
    offset = _mean(data) if settings.centre_targets else data.targets.new_zeros(data.targets.shape[1])
    targets = data.targets - offset
    share = share_of(len(data), data.images, settings)
    root: Tensor | None = None
    dual: Tensor | None = None
    for t in range(settings.n_iters + 1):
        start = time.perf_counter()
        filters = Filters.of(root, settings.rank_tol)
        known = data.through(filters, architecture)
        with room(len(data), data.images, settings) as space:
            if first is not None and t == 0:
                kernel, across = first(space)
            else:
                kernel, across = share.kernel(known, settings, space), None
            # A kernel of zeros (black images) predicts 0 at any scale.
            scale = max(share.gather(float(kernel.max()))) or 1.0
            own = kernel if share.all else kernel_of(known[rows], None, settings)
            part = submatrix(own, rows, rows) if len(own) > len(rows) else own
            ridge, left_out = share.agreed(_leave_out(part, targets, data.weights, scale, rows, settings))
            del own, part
            before = None if dual is None else dual / scale
            alpha = _solve(kernel, targets, ridge * scale, data.weights, before, settings)
            dual = alpha * scale
            fitted = torch.cat(share.gather(times(kernel, alpha)))
            predicted = None
            if held is not None and across is not None:
                predicted = times(across, alpha) + offset
            elif held is not None:
                new = held.through(filters, architecture)[share.of(len(held))]
                predicted = torch.cat(share.gather(responses(known, alpha, new, settings))) + offset
            del kernel, across  # before the file that they may lie in
        gram = _gradients(data, known, alpha, chosen, settings, share) if t < settings.n_iters else None
        rank = architecture.first(data.example.shape[1]).patch_dim if filters.weight is None else len(filters.weight)
        yield Step(
            iteration=t,
            metric_root=root,
            dual_coef=dual,
            offset=offset,
            ridge=ridge,
            scale=scale,
            rank=rank,
            fitted=fitted + offset,
            left_out=left_out + offset,
            left_out_rows=rows,
            held=predicted,
            seconds=time.perf_counter() - start,
        )
        if gram is not None and gram.any():  # else the predictor is constant, and the metric stays
            root = metric_root(gram, settings.metric_power, settings.threshold)


def metric_root(agop: Tensor, power: float = 1.0, threshold: float = 0.0) -> Tensor:
    """Returns A, float64 [d, d], symmetric, with A A = agop^power, its smallest eigenvalues set to 0, over its trace.

    Args:
        agop: float64 [d, d], symmetric, positive semidefinite up to rounding.
        power: of the metric.
        threshold: share of the eigenvalues that are set to 0.
    """
    values, vectors = torch.linalg.eigh(agop)
    values = (values.clamp(min=0) / values[-1]) ** (power / 2)
    values[: int(threshold * len(values))] = 0
    return (vectors * (values / values.norm())) @ vectors.T


def responses(known: Filtered, alpha: Tensor, new: Filtered, settings: Settings) -> Tensor:
    """Returns sum_i alpha_i K(x_i, z), float64 [m, o], by blocks of images that take a quarter of the memory at most.

    Args:
        known: x, n images.
        alpha: float64 [n, o].
        new: z, m images.
        settings: as the machine learned.
    """
    size = max(settings.max_memory // (4 * len(known) * known.images.element_size()), 1)
    blocks = (new[start : start + size] for start in range(0, len(new), size))
    found = [times(kernel_of(block, known, settings), alpha) for block in blocks]
    return torch.cat([alpha.new_zeros(0, alpha.shape[1]).cpu(), *found])


def relearn(
    data: Data, settings: Settings, splits: Sequence[Split], features: Mapping[int | None, Features] | None = None
) -> Iterator[tuple[Step, list[Step]]]:
    """Gives, one iteration after the other, the machine of all images and that of each split.

    A split's machine learned its metric without the images that are held out, and predicts these.

    Args:
        data: all images.
        settings: how.
        splits: numbers of the images to train on, and of those held out.
        features: gives what the machine of a split (None: of all images) sees of images, where they differ; else the
            kernel of the fixed metric is computed once for all of them.
    """
    with ExitStack() as stack:
        if features is None and share_of(len(data), data.images, settings).all:
            space = stack.enter_context(room(len(data), data.images, settings))
            kernel = [kernel_of(data.through(Filters(), settings.architecture), None, settings, space(len(data)))]

            def shared(train: Tensor, out: Tensor, part: Space) -> tuple[Tensor, Tensor]:
                inner, across = part(len(train)), part(len(out))
                return submatrix(kernel[0], train, train, inner), submatrix(kernel[0], out, train, across)

            whole = learn(data, settings, first=lambda _: (kernel[0], None))
            parts = [learn(data[train], settings, data[out], partial(shared, train, out)) for train, out in splits]
            found = _round(whole, parts)
            kernel.clear()  # for the machines still know it
        else:
            seen_by = dict.fromkeys((None, *range(len(splits)))) if features is None else features
            whole = learn(replace(data, features=seen_by[None]), settings)
            parts = []
            for i, (train, out) in enumerate(splits):
                own = replace(data, features=seen_by[i])
                parts.append(learn(own[train], settings, own[out]))
            found = _round(whole, parts)
    yield found
    for _ in range(settings.n_iters):
        yield _round(whole, parts)


def _round(whole: Iterator[Step], parts: Sequence[Iterator[Step]]) -> tuple[Step, list[Step]]:
    outside = [next(part) for part in parts]
    return next(whole), outside


def _gradient_images(data: Data, settings: Settings) -> Tensor:
    wanted = settings.agop_samples
    if isinstance(wanted, int):
        draw = torch.randperm(len(data), generator=torch.Generator().manual_seed(settings.seed))
        return draw[:wanted].sort().values
    found = torch.isin(data.rows, torch.tensor(wanted, dtype=torch.int64)).nonzero()[:, 0]
    if settings.n_iters and not len(found):
        raise ValueError(
            f"agop_samples names {len(wanted)} images, none of them among the {len(data)} that are trained on: name "
            "more images, or say how many are to be drawn"
        )
    return found


def _gradients(data: Data, known: Filtered, alpha: Tensor, chosen: Tensor, settings: Settings, share: Share) -> Tensor:
    """Returns the average gradient outer product, float64 [d, d]."""
    weights = torch.ones(len(chosen), dtype=torch.float64) if data.weights is None else data.weights[chosen]
    own, total = share.of(len(chosen)), weights.sum()
    gram = alpha.new_zeros(())
    if len(chosen[own]):
        gram = predictor_agop(
            known,
            alpha if alpha.shape[1] <= OUTPUTS else sketched(alpha, OUTPUTS, settings.seed),
            known[chosen[own]],
            weights=weights[own],
            max_memory=settings.max_memory // 2,
            method=settings.method,
            progress=settings.verbose,
        )
    return sum(share.gather(gram * (weights[own].sum() / total)), alpha.new_zeros(()))


def _mean(data: Data) -> Tensor:
    w = data.targets.new_ones(len(data)) if data.weights is None else data.weights
    return (w[:, None] * data.targets).sum(0) / w.sum()


def _left_out_rows(n: int, seed: int) -> Tensor:
    draw = torch.randperm(n, generator=torch.Generator().manual_seed(seed + 1))
    return draw[:LEFT_OUT].sort().values


def _leave_out(
    kernel: Tensor, targets: Tensor, weights: Tensor | None, scale: float, rows: Tensor, settings: Settings
) -> tuple[float, Tensor]:
    """Returns the ridge, in units of the scale, and the predictions [m, o] of the rows left out one at a time.

    Args:
        kernel: [m, m], of these rows.
        targets: [n, o].
        weights: [n] or None.
        scale: largest entry of the kernel of all rows.
        rows: [m].
        settings: how the machine learns.
    """
    ridges = RIDGES if settings.ridge == "loo" else (float(settings.ridge),)
    found = best_ridge(
        kernel, targets[rows], [ridge * scale for ridge in ridges], None if weights is None else weights[rows]
    )
    return found.ridge / scale, found.predictions.cpu()


def _solve(
    kernel: Tensor, targets: Tensor, ridge: float, weights: Tensor | None, start: Tensor | None, settings: Settings
) -> Tensor:
    """Returns alpha of (K + ridge diag(1 / w)) alpha = Y, the ridge in units of the kernel."""
    if is_dense(kernel.shape[1], kernel, settings):  # of a process, the kernel may hold some rows alone
        return solve(kernel, targets, ridge, weights).cpu()
    return conjugate_gradient(kernel, targets, ridge, weights, start=start, progress=settings.verbose).cpu()
