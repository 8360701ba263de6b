"""Which convolutions can be replaced, what they put out, and how much of it the network's output depends on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from convscope.bottleneck.forms import LayerMoments, has_frequency_form
from convscope.core.batches import Batch
from convscope.core.delivery import quick_layout, run_network
from convscope.core.fourier import pairs, signed_frequencies
from convscope.core.geometry import ConvGeometry
from convscope.core.network import Network
from convscope.core.results import Skip
from convscope.core.streams import Probes
from convscope.core.taps import ConvCall, left_as_found, logits

IMAGES = 500  # whose outputs and gradients are summed, at most
_BATCH = 32  # images whose graph is held at a time
_PIECE = 2**23  # entries of an output that are looked at together
_STATE = 2**28  # bytes of moments by frequency, of one layer


def flat_output(output: Any, n: int) -> Tensor:
    """Returns what a network returned for n images as [n, o]: a tensor of any shape, or the scores in a structure.

    Raises:
        ConvscopeError: when there is neither.
    """
    if isinstance(output, Tensor) and output.ndim >= 2 and len(output) == n and output.is_floating_point():
        return output.flatten(1)
    return logits(output, n)


def replaceable(network: Network, image: Tensor) -> tuple[dict[str, nn.Conv2d], list[Skip]]:
    """Returns the convolutions that another module could stand for, by name, and the others with the reason.

    Args:
        network: not changed.
        image: [1, c, h, w], as its ``prepare`` takes it.

    Raises:
        ConvscopeError: when the network fails on the image.
    """
    module = network.module
    calls: Counter[str] = Counter()
    visits: Counter[str] = Counter()
    order: dict[str, ConvCall] = {}

    def see(call: ConvCall) -> None:
        calls[call.name] += 1
        order.setdefault(call.name, call)

    def visited(name: str) -> Any:
        return lambda *_: visits.update([name])

    plain = {name: m for name, m in module.named_modules() if type(m) is nn.Conv2d}
    hooked = {name for name, m in plain.items() if m._forward_hooks or m._forward_pre_hooks}
    handles = [m.register_forward_hook(visited(name)) for name, m in plain.items()]
    try:
        with left_as_found([module]), torch.no_grad():
            run_network(network, image, see)
    finally:
        for handle in handles:
            handle.remove()
    owners = Counter(id(p) for _, p in module.named_parameters(remove_duplicate=False))
    found, skipped = {}, []
    for name, call in order.items():
        conv = plain.get(name)
        if conv is None:
            reason = "its weights are not those of an nn.Conv2d of that name, which another module could stand for"
        elif call.geometry.groups > 1:
            reason = f"it has {call.geometry.groups} groups: only convolutions with one are factorised"
        elif calls[name] > 1 or owners[id(conv.weight)] > 1:
            reason = "its weights are used in several places, which would see different factors"
        elif visits[name] != 1:
            reason = "the network reads its weights without calling it"
        elif name in hooked:
            reason = "it carries hooks, which would be lost: remove them"
        elif not bool(torch.isfinite(conv.weight).all()) or (
            conv.bias is not None and not bool(torch.isfinite(conv.bias).all())
        ):
            reason = "it holds NaN or infinite weights: the training diverged, or the file is damaged"
        else:
            found[name] = conv
            continue
        skipped.append(Skip(name, reason))
    return found, skipped


def layer_moments(
    network: Network, images: Tensor, index: Tensor, convs: Mapping[str, nn.Conv2d]
) -> tuple[dict[str, LayerMoments], float, list[Skip], list[str]]:
    """Returns the moments of layers over images, and the variance of the network's output.

    One backward pass an image: of random signs times the outputs, so that the mean square of what it gives is the sum
    over outputs of squared derivatives.

    Args:
        network: left as it was found.
        images: [n, c, h, w], as its ``prepare`` takes them; the first ``IMAGES`` are used.
        index: int64 [n], identities of the images, to which the signs belong.
        convs: of the layers, by name.

    Returns:
        Moments by name; the sum over outputs of the variance over images; layers without finite moments; and notes.

    Raises:
        ConvscopeError: when the network fails on the images.
    """
    sums = {name: _Sums(conv) for name, conv in convs.items()}
    images, index = images[:IMAGES], index[:IMAGES]
    first, squares = torch.zeros((), dtype=torch.float64), 0.0
    notes: list[str] = []

    def see(call: ConvCall) -> None:
        if call.name in sums:
            sums[call.name].output(call)
            if call.output.requires_grad:
                call.output.register_hook(sums[call.name].gradient_arrived)

    with left_as_found([network.module]), torch.enable_grad():
        layout = quick_layout(network, images[:1])
        for rows in torch.arange(len(images)).split(_BATCH):
            x, output = run_network(network, images[rows], see, differentiate=True, layout=layout)
            flat = flat_output(output, len(rows))
            batch = Batch.of(images[rows], None, index[rows])
            try:
                torch.autograd.grad(flat, x, next(Probes().vectors(flat, batch)), allow_unused=True)
            except RuntimeError as error:
                reason = str(error).strip().splitlines()[0][:200]
                notes = [f"{network.name} gives no gradients ({reason}): what a layer loses counts by its own variance"]
            flat = flat.detach().to("cpu", torch.float64)
            first, squares = first + flat.sum(0), squares + float(flat.square().sum())
    variance = max(squares / len(images) - float((first / len(images)).square().sum()), 0.0)
    found, skipped = {}, []
    for name, own in sums.items():
        moments = own.moments(len(images), variance)
        if bool(torch.isfinite(moments.covariance).all()) and bool(torch.isfinite(moments.gradient).all()):
            found[name] = moments
        else:
            skipped.append(Skip(name, "its output or the gradients there hold NaN or infinite values"))
    return found, variance, skipped, notes


class _Sums:
    """Sums over images of one layer's output and of the gradient there."""

    def __init__(self, conv: nn.Conv2d) -> None:
        self.conv = conv
        k = conv.out_channels
        self.size = self.positions = 0, 0
        self.first = torch.zeros(k, dtype=torch.float64)
        self.second, self.gradient = torch.zeros(2, k, k, dtype=torch.float64)
        self.by_frequency: Tensor | None = None
        self.differentiable = False

    def output(self, call: ConvCall) -> None:
        """Adds the outputs of a batch."""
        if not sum(self.positions):
            self._begin(call)
        for z in _pieces(call.output):
            self.first += z.sum((0, 2))
            self.second += torch.einsum("nip,njp->ij", z, z)
            self._spectral(0, z)

    def gradient_arrived(self, gradient: Tensor) -> None:
        """Adds the gradients of a batch."""
        self.differentiable = True
        for g in _pieces(gradient):
            self.gradient += torch.einsum("nip,njp->ij", g, g)
            self._spectral(1, g)

    def moments(self, n: int, variance: float) -> LayerMoments:
        """Returns the moments of n images; without gradients, those at which all of the layer's variance counts."""
        rows, columns = self.positions
        points = rows * columns
        mean = self.first / (n * points)
        covariance = self.second / (n * points) - mean[:, None] * mean
        # One more image is counted, whose gradients are alike in all directions: what few images happen not to use
        # is not free.
        k = len(mean)
        even = float(self.gradient.trace()) / (n * k) * torch.eye(k, dtype=torch.float64)
        gradient, spectral = (self.gradient + even) / (n + 1), self.by_frequency
        whole = float(covariance.trace())
        alike = torch.eye(k, dtype=torch.float64) * (variance / whole if whole > 0 else 0.0)
        if not self.differentiable:
            gradient = alike
        if spectral is not None:
            spectral = torch.stack([spectral[0] / n, (spectral[1] + even / points) / (n + 1)])
            spectral[0, self._zero] -= points * mean[:, None] * mean
            if not self.differentiable:
                spectral[1] = alike / points
        return LayerMoments(self.size, points, mean, covariance, gradient, spectral)

    def _begin(self, call: ConvCall) -> None:
        h, w = (int(s) for s in call.input.shape[2:])
        geometry = ConvGeometry.of(self.conv)
        if geometry.padding_mode != "zeros":  # the call saw a border that was filled beforehand
            top, bottom, left, right = geometry.padding
            h, w = h - top - bottom, w - left - right
        self.size, self.positions = (h, w), (int(call.output.shape[2]), int(call.output.shape[3]))
        places, _ = pairs(h, w)
        k = self.conv.out_channels
        # Of one pixel, as many numbers in a channel form hold the directions of all frequencies.
        wide = self.conv.kernel_size != (1, 1)
        if wide and has_frequency_form(self.conv, (h, w)) and 32 * len(places) * k**2 <= _STATE:
            ky, kx = signed_frequencies(h, w)[places].unbind(1)
            self._at, self._zero = ky * w + kx % w, int(torch.nonzero((ky == 0) & (kx == 0)))
            self.by_frequency = torch.zeros(2, len(places), k, k, dtype=torch.complex128)

    def _spectral(self, which: int, values: Tensor) -> None:
        if self.by_frequency is not None:
            maps = torch.fft.rfftn(values.unflatten(2, self.size), dim=(-1, -2), norm="ortho").flatten(2)
            at = maps[..., self._at].permute(2, 1, 0)
            self.by_frequency[which] += at @ at.mH


def _pieces(values: Tensor) -> Sequence[Tensor]:
    """Returns float64 [n', k, p] on the CPU, a few images at a time."""
    step = max(_PIECE // max(values[0].numel(), 1), 1)
    return [part.detach().to("cpu", torch.float64).flatten(2) for part in values.split(step)]
