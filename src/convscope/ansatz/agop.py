"""What is known of one convolution: its filters, and the gradients with respect to its patches."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property

import torch.nn.functional as F
from torch import Tensor

from convscope.ansatz.compare import Comparison, Kind
from convscope.ansatz.forms import NullKind
from convscope.ansatz.measured import Measured
from convscope.ansatz.subspaces import principal_cosines, top_eigenvectors
from convscope.core.errors import ConvscopeError
from convscope.core.geometry import ConvGeometry
from convscope.core.results import Number


@dataclass(frozen=True, eq=False)
class PatchAgop:
    """One convolution's filters, and the gradients with respect to its patches, averaged over images.

    With one group matrices are [d, d], with g groups [g, d, d]: the blocks within the groups. A patch has d entries
    in the order of ``weight.flatten(1)``: channel, row, column.

    Attributes:
        layer: the convolution's name.
        geometry: as called.
        weight: float64 [g, k / g, d], the weight that was used.
        gram: float64 [g, k / g, k / g], S = (1/n) sum over images, outputs and positions of delta delta^T, with delta
            the gradient at a position of the convolution's output; centred: less the outer product of its mean over
            images, for each output and position.
        n_images: n.
        init: float64 [g, k / g, d], the weight before training, or None.
        norm: float64 [g, k / g], by what a batch norm right after the convolution multiplies its outputs, or None.
        of_output: number of an output to S of its gradients alone, for the outputs that were asked for.
        without: (images left out, gram of the others) for each fold.
    """

    layer: str
    geometry: ConvGeometry
    weight: Tensor
    gram: Tensor
    n_images: int
    init: Tensor | None = None
    norm: Tensor | None = None
    of_output: Mapping[int, Tensor] = field(default_factory=dict, repr=False)
    without: tuple[tuple[int, Tensor], ...] = field(default=(), repr=False)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(k, c / g, q, r) of the filters."""
        g, k, _ = self.weight.shape
        return g * k, self.geometry.channels // g, *self.geometry.kernel

    @property
    def agop(self) -> Tensor:
        """(1/n) sum over images, outputs and positions of the gradient's outer product: W^T S W, float64.

        Beaglehole et al. 2023, abstract; the identity holds since an output depends on a patch through W alone.
        """
        return self._plain(self.weight.mT @ self.gram @ self.weight)

    @property
    def nfm(self) -> Tensor:
        """Neural feature matrix W^T W, float64."""
        return self._plain(self.weight.mT @ self.weight)

    def correlation(
        self,
        kind: Kind = "pearson",
        power: float = 1.0,
        *,
        change: bool = False,
        folded: bool = False,
    ) -> float:
        """Returns how alike the neural feature matrix and a power of the AGOP are, in [-1, 1].

        Args:
            kind: "pearson": over the matrices' entries, less their mean; "cosine": their means are left in.
            power: of the AGOP; the paper compares with 1, later work with 1/2.
            change: whether to compare the change of the weights since ``init`` instead of the weights.
            folded: whether to multiply each filter by the scale of the batch norm that follows.

        Raises:
            ConvscopeError: when the change is asked for and the weights before training are not known, or folding
                and no batch norm follows.
            ValueError: when both change and folding are asked for, or the kind or power is none.
        """
        return self.comparison.correlation(self.gram, kind, power, self.place(change=change, folded=folded))

    def number(
        self,
        kind: Kind = "pearson",
        power: float = 1.0,
        *,
        change: bool = False,
        folded: bool = False,
    ) -> Number:
        """Returns ``correlation`` with its error: jackknife standard error and bias over the folds of images.

        Args:
            kind: as for ``correlation``.
            power: as for ``correlation``.
            change: as for ``correlation``.
            folded: as for ``correlation``.
        """
        compare, place = self.comparison.correlation, self.place(change=change, folded=folded)
        return self.measured(lambda gram: compare(gram, kind, power, place)).number("")

    def measured(self, f: Callable[[Tensor], float]) -> Measured:
        """Returns a function of ``gram`` with what its standard error and its small-sample bias follow from.

        Args:
            f: takes a tensor like ``gram``.
        """
        return Measured(f(self.gram), tuple(f(gram) for _, gram in self.without), tuple(n for n, _ in self.without))

    def chance(
        self,
        null: NullKind = "haar",
        *,
        kind: Kind = "pearson",
        power: float = 1.0,
        change: bool = False,
        draws: int = 100,
        seed: int = 0,
    ) -> Tensor:
        """Returns correlations when the gradients' directions have nothing to do with the filters, float64 [draws].

        Args:
            null: "haar": S is turned at random; "permuted": its output channels change places at random.
            kind: as for ``correlation``.
            power: as for ``correlation``.
            change: as for ``correlation``.
            draws: number of random turns.
            seed: of the draws.
        """
        place = self.place(change=change)
        return self.comparison.null(self.gram, kind=kind, power=power, of=place, null=null, draws=draws, seed=seed)

    def eigenvectors(self, r: int = 1, *, of: Tensor | None = None, nfm: bool = False) -> tuple[Tensor, Tensor]:
        """Returns the leading eigenvalues and eigenvectors, the latter as patches.

        Args:
            r: how many for each group, cut to the largest possible rank.
            of: a tensor like ``gram`` to take instead of it, such as an entry of ``of_output``.
            nfm: whether to take those of the neural feature matrix instead of the AGOP.

        Returns:
            values: float64 [g, r], descending in each group.
            patches: float64 [g, r, c / g, q, r'], of unit norm; the entry of largest magnitude is positive.
        """
        gram = None if nfm else self.gram if of is None else of
        values, vectors = top_eigenvectors(self.weight, gram, r)
        return values, vectors.mT.unflatten(2, (-1, *self.geometry.kernel))

    def principal_cosines(self, r: int) -> Tensor:
        """Returns the cosines of the principal angles between the leading r directions of filters and of gradients.

        Args:
            r: how many directions of each, cut to the largest possible rank.

        Returns:
            float64 [g, r], in [0, 1], descending; 1 for a shared direction.
        """
        bases = [top_eigenvectors(self.weight, gram, r)[1] for gram in (None, self.gram)]
        return principal_cosines(*bases)

    def filtered(self, x: Tensor, r: int = 1) -> Tensor:
        """Returns what the layer's input looks like through the leading eigenvectors of the AGOP.

        The paper's edge detectors: inner product of every patch with an eigenvector.

        Args:
            x: [n, c, h, w], the convolution's input (images, for the first layer).
            r: number of eigenvectors of each group.

        Returns:
            float64 [n, g * r, h', w'], signed; the sign of an eigenvector is a convention.
        """
        g = self.geometry
        _, patches = self.eigenvectors(r)
        padded = g.pad(x.detach().cpu().double())
        return F.conv2d(padded, patches.flatten(0, 1), None, g.stride, 0, g.dilation, g.groups)

    @cached_property
    def comparison(self) -> Comparison:
        """The filters, and where known their change and the filters with batch norm folded in, prepared for any S."""
        return Comparison(self.weight, *self._others.values())

    def place(self, *, change: bool = False, folded: bool = False) -> int:
        """Returns the place in ``comparison`` of what stands for the filters.

        Args:
            change: as for ``correlation``.
            folded: as for ``correlation``.

        Raises:
            ConvscopeError: as for ``correlation``.
            ValueError: when both are asked for.
        """
        if change and folded:
            raise ValueError("change and folded cannot go together: the batch norm before training is not known")
        if change and self.init is None:
            raise ConvscopeError(f"the weights of {self.layer} before training are not known: hand them in as init")
        if folded and self.norm is None:
            raise ConvscopeError(f"no batch norm follows {self.layer}: leave folded out")
        return 1 + list(self._others).index("change" if change else "folded") if change or folded else 0

    @property
    def _others(self) -> dict[str, Tensor]:
        found = {}
        if self.init is not None:
            found["change"] = self.weight - self.init
        if self.norm is not None:
            found["folded"] = self.weight * self.norm[..., None]
        return found

    def _plain(self, matrix: Tensor) -> Tensor:
        return matrix[0] if self.geometry.groups == 1 else matrix


def grouped(weight: Tensor, groups: int) -> Tensor:
    """Returns a weight [k, c / g, q, r] as float64 [g, k / g, d] on the CPU, detached."""
    return weight.detach().cpu().double().flatten(1).unflatten(0, (groups, -1))
