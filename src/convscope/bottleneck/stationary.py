"""What holds layer by layer: near-isometries at small norm, and the size of gradients at each frequency."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from convscope.bottleneck.jacobian import CUT, Jacobian
from convscope.bottleneck.operators import ConvOperator
from convscope.bottleneck.steps import Chain, Step
from convscope.core.errors import ConvscopeError
from convscope.core.fourier import pairs, signed_frequencies, unitary

LARGEST = 4096  # rows or columns of a dense operator


@dataclass(frozen=True, eq=False)
class NearIsometries:
    """Theorem C at an image: how far the layers are from partial isometries, against what their norm allows.

    Attributes:
        distances: float64 [L], ||W_l - V_l V_(l-1)^T||_F^2 of each layer.
        biases: sum over layers of M_l ||b_l||^2.
        allowed: c_1 - 2 log |J|_+ with c_1 = sum_l (||W_l||_F^2 + M_l ||b_l||^2) - L K. Distances and biases together
            are at most this.
        rank: K, number of singular values of the Jacobian.
    """

    distances: Tensor
    biases: float
    allowed: float
    rank: int

    @property
    def found(self) -> float:
        """Sum of the distances, with the biases."""
        return float(self.distances.sum()) + self.biases

    def within(self, share: float) -> float:
        """Returns a distance that at least a share (1 - p) of the layers keep: allowed / (p L), p = 1 - share.

        In such a layer, by Mirsky's inequality, K singular values are near 1 and the others near 0: the squares of
        s_i - 1 over the first K and of s_i over the others sum to at most this.

        Raises:
            ValueError: when the share is not in [0, 1).
        """
        if not 0 <= share < 1:
            raise ValueError(f"share must lie in [0, 1), got {share}")
        return self.allowed / ((1 - share) * len(self.distances))


def theorem_c(chain: Chain, image: Tensor) -> NearIsometries:
    """Returns how far the layers of a chain are from partial isometries, against the bound that their norm implies.

    V_0 is the basis of right singular vectors of J = W_L D_(L-1) ... W_1, and V_l the polar factor of D_l W_l V_(l-1),
    D_l the gates at the image. Since the determinants of V_l^T D_l W_l V_(l-1) multiply to |J|_+,

        sum_l ||W_l - V_l V_(l-1)^T||_F^2 + M_l ||b_l||^2 <= c_1 - 2 log |J|_+

    (ours, after Wen & Jacot 2024, arXiv:2402.08010). Operators are formed densely: for small maps only.

    Args:
        chain: whose gates have slopes 0 or 1.
        image: [c, h, w], prepared.

    Raises:
        ConvscopeError: for other gates, for maps too large to form operators of, or where the Jacobian is zero.
    """
    if not all(step.binary for step in chain.steps):
        raise ConvscopeError("Theorem C is for gates of slope 0 or 1, such as ReLU: this network has others")
    jacobian = Jacobian(chain, image)
    sizes = [math.prod(jacobian.inputs), *(slope.numel() for slope in jacobian.slopes)]
    if max(sizes) > LARGEST:
        raise ConvscopeError(
            f"a representation has {max(sizes)} values, more than the {LARGEST} up to which operators are formed "
            "densely: use smaller images"
        )
    dense = jacobian.dense()
    _, s, right = torch.linalg.svd(dense, full_matrices=False)
    rank = int((s > CUT * s[0]).sum())
    if not rank:
        raise ConvscopeError("the Jacobian is zero at this image: no path of the network is active")
    v, shape = right[:rank].T, jacobian.inputs
    distances, biases, norm = [], 0.0, 0.0
    for step, slope in zip(chain.steps, jacobian.slopes, strict=True):
        operator = step.linear(torch.eye(math.prod(shape), dtype=torch.float64).reshape(-1, *shape)).flatten(1).T
        left, _, other = torch.linalg.svd(slope.flatten()[:, None] * (operator @ v), full_matrices=False)
        polar = left @ other
        distances.append(float((operator - polar @ v.T).square().sum()))
        norm += float(operator.square().sum())
        if step.bias is not None:
            biases += step.positions * float(step.bias.square().sum())
        v, shape = polar, slope.shape[1:]
    excess = norm + biases - len(chain.steps) * rank
    allowed = excess - 2 * float(s[:rank].log().sum())
    return NearIsometries(torch.tensor(distances, dtype=torch.float64), biases, allowed, rank)


def circular(step: Step) -> ConvOperator:
    """Returns the operator of a step that is a circular convolution of stride 1 without pooling.

    Raises:
        ConvscopeError: for any other step.
    """
    g = step.geometry
    if g is not None and g.stride == (1, 1) and not step.before and not step.after:
        operator = ConvOperator.of_weight(step.weight, g, step.size)
        if operator.boundary == "circular" and g.output_size(*step.size) == step.size:
            return operator
    raise ConvscopeError(f"{step.name} is no circular convolution of stride 1 on maps of one size, without pooling")


@dataclass(frozen=True, eq=False)
class GradientByFrequency:
    """The squared length of gradients with respect to a layer's weight, split over frequencies.

    Attributes:
        contribution: float64 [f], multiplicity * N * ||g(w)||^2 ||a(w)||^2, summed over directions.
        frequencies: int64 [f, 2], (ky, kx) in cycles per image.
        multiplicity: int64 [f].
        gradient: sum over directions of ||d f_v / d w_l||^2 with respect to the weight as it is.
        exact: whether the filters are as large as the maps; the contributions then sum to ``gradient``. For smaller
            filters they sum to what it would be for filters of that size, which is no less.
    """

    contribution: Tensor
    frequencies: Tensor
    multiplicity: Tensor
    gradient: float
    exact: bool

    @property
    def total(self) -> float:
        """Sum of the contributions."""
        return float(self.contribution.sum())


def ntk_by_frequency(chain: Chain, layer: str, image: Tensor, directions: Tensor) -> GradientByFrequency:
    """Returns which frequencies a layer's part of the neural tangent kernel at an image comes from.

    For filters as large as the map, with g the gradient of f_v = <v, f> at the layer's output, which is J_l^T v for the
    Jacobian J_l of what follows, and a its input, d f_v / d w_l is their correlation over the torus, so that

        ||d f_v / d w_l||^2 = N sum_w ||g(w)||^2 ||a(w)||^2

    over the whole grid (ours; unitary transforms). It holds wherever f is differentiable, whatever comes before and
    after the layer; a layer with groups has no such product.

    Args:
        chain: the network.
        layer: name of a circular convolution of stride 1 and one group, with a kernel no larger than the map.
        image: [c, h, w], prepared.
        directions: [m, ...], one v for each, of the output's shape.

    Raises:
        ValueError: for an unknown layer, or directions of another shape.
        ConvscopeError: when the layer is of another kind.
    """
    names = [step.name for step in chain.steps]
    if layer not in names:
        raise ValueError(f"layer must be one of {', '.join(names)}, got {layer!r}")
    place = names.index(layer)
    step = chain.steps[place]
    operator = circular(step)
    if operator.groups > 1:
        raise ConvscopeError(f"{layer} has {operator.groups} groups: its gradient is no product over frequencies")
    if any(map(int.__gt__, operator.geometry.extent, step.size)):
        raise ConvscopeError(f"the filters of {layer} are larger than its maps: some of their taps are the same")
    a = image.detach().double().cpu()[None]
    for earlier in chain.steps[:place]:
        a = earlier.gate(earlier.linear(a, bias=True))
    with torch.enable_grad():
        weight = step.weight.clone().requires_grad_()
        z = replace(step, weight=weight).linear(a, bias=True)
        out = Chain(chain.steps[place + 1 :])(step.gate(z))[0]
        if directions.shape[1:] != out.shape:
            raise ValueError(f"expected directions of shape {['m', *out.shape]}, got {list(directions.shape)}")
        of_z, of_weight = [], 0.0
        for v in directions.double():
            by_z, by_weight = torch.autograd.grad((v * out).sum(), (z, weight), retain_graph=True)
            of_z.append(by_z[0])
            of_weight += float(by_weight.square().sum())
    h, w = step.size
    places, multiplicity = pairs(h, w)

    def power(x: Tensor) -> Tensor:
        return unitary(x).abs().square().sum(-3).flatten(-2)[..., places]

    contribution = multiplicity * h * w * (power(torch.stack(of_z)) * power(a.detach())).sum(0)
    return GradientByFrequency(
        contribution,
        signed_frequencies(h, w)[places],
        multiplicity,
        of_weight,
        step.weight.shape[2:] == step.size and set(operator.geometry.dilation) == {1},
    )
