"""Networks of convolutions with circular filters as large as the image, learned in the Fourier domain."""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor, nn

from convscope.core.fourier import pairs, signed_frequencies


def fourier_basis(size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Returns the real orthonormal Fourier basis of maps of a size, in rows, and each frequency's multiplicity.

    For each frequency of ``core.fourier.pairs`` a row with root(multiplicity / N) times the cosine and one with the
    negative sine: a map's products with the two are root(multiplicity) times the real and the imaginary part of its
    unitary transform. The sine is 0 where a frequency is its own conjugate. On maps of up to about 28 x 28 multiplying
    by this matrix costs less than fast transforms do.

    Args:
        size: (h, w) of the maps, N = h w.

    Returns:
        float64 [f, 2, h w], and int64 [f]: how many frequencies of the full grid each one stands for.

    Example:
        >>> basis, multiplicity = fourier_basis((4, 4))
        >>> rows = basis.flatten(0, 1)
        >>> basis.shape, torch.allclose(rows.T @ rows, torch.eye(16).double())
        (torch.Size([10, 2, 16]), True)
    """
    h, w = size
    places, multiplicity = pairs(h, w)
    positions = torch.cartesian_prod(torch.arange(h), torch.arange(w)).view(-1, 2)
    # Whole turns are taken off before there is an angle: nothing is lost to rounding.
    turns = signed_frequencies(h, w)[places][:, None] * positions % torch.tensor([h, w])
    angle = 2 * math.pi * (turns / torch.tensor([h, w], dtype=torch.float64)).sum(-1)
    basis = torch.stack([angle.cos(), -angle.sin()], 1) * (multiplicity.double() / (h * w)).sqrt()[:, None, None]
    basis[multiplicity == 1, 1] = 0
    return basis, multiplicity


class CircularConv(nn.Module):
    """A convolution with circular padding whose filters are as large as its maps, held as real Fourier coefficients.

    The coefficients are the filters' coordinates in an orthonormal basis, so their sum of squares is that of the
    filters, and weight decay on them is weight decay on the filters. At a frequency w of multiplicity m it maps the
    transform of its input by T(w) = root(N / m) (real + i imaginary coefficient).

    Adam needs this: on the taps themselves one step that moves all taps of a filter the same way moves T(0) by N times
    as much, and the network dies.

    Args:
        inputs: c.
        outputs: k.
        size: (h, w) of the maps, N = h w.

    Attributes:
        coefficients: [f, 2, k, c], the real and the imaginary part at each frequency of ``core.fourier.pairs``. The
            imaginary part of a frequency that is its own conjugate does nothing and stays 0.
        bias: [k].
    """

    def __init__(self, inputs: int, outputs: int, size: tuple[int, int]) -> None:
        super().__init__()
        self.inputs, self.outputs, self.size = inputs, outputs, size
        self._multiplicity = pairs(*size)[1]
        self.coefficients = nn.Parameter(torch.zeros(len(self._multiplicity), 2, outputs, inputs))
        self.bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, maps: Tensor, basis: Tensor) -> Tensor:
        """Returns the maps after the convolution, [N, k, n].

        Args:
            maps: [N, c, n], positions first.
            basis: [2 f, N], the rows of ``fourier_basis``.
        """
        n, c, images = maps.shape
        scale = (n / self._multiplicity.to(maps)).sqrt()
        real, imaginary = (self.coefficients * scale[:, None, None, None]).unbind(1)
        transfer = torch.cat([torch.cat([real, -imaginary], 2), torch.cat([imaginary, real], 2)], 1)
        spectrum = (basis @ maps.reshape(n, c * images)).view(-1, 2 * c, images)
        after = torch.bmm(transfer, spectrum).view(-1, self.outputs * images)
        bias = self.bias[:, None].expand(-1, images).reshape(-1)
        return torch.addmm(bias, basis.T, after).view(n, self.outputs, images)

    @torch.no_grad()
    def delta_orthogonal_(self, noise: float) -> None:
        """Draws sqrt(2) times an orthogonal matrix at the centre tap, and normal taps of Kaiming's variance, in place.

        Args:
            noise: factor on the normal taps; 1 is Kaiming's standard deviation root(2 / (c N)).
        """
        n = math.prod(self.size)
        self.coefficients.normal_(std=noise * math.sqrt(2 / (self.inputs * n)))
        self.coefficients[self._multiplicity == 1, 1] = 0
        centre = math.sqrt(2) * nn.init.orthogonal_(self.bias.new_empty(self.outputs, self.inputs))
        self.coefficients[:, 0] += (self._multiplicity.to(centre) / n).sqrt()[:, None, None] * centre
        self.bias.zero_()

    @torch.no_grad()
    def ordinary(self) -> nn.Conv2d:
        """Returns the same convolution of maps [n, c, h, w], with its taps in space."""
        h, w = self.size
        conv = nn.Conv2d(self.inputs, self.outputs, (h, w), padding="same", padding_mode="circular")
        conv.to(self.coefficients)
        # T(w) is the conjugate of the kernel's transform: the sine changes its sign.
        basis = fourier_basis(self.size)[0].to(self.coefficients) * self.coefficients.new_tensor([1, -1])[:, None]
        taps = torch.einsum("ftkc,ftp->kcp", self.coefficients, basis).view(self.outputs, self.inputs, h, w)
        # The first of the convolution's taps lies (size - 1) // 2 pixels above and to the left of its centre.
        conv.weight.copy_(taps.roll(((h - 1) // 2, (w - 1) // 2), (2, 3)))
        assert conv.bias is not None
        conv.bias.copy_(self.bias)
        return conv


class CircularCNN(nn.Module):
    """A plain chain of convolutions with circular filters as large as the image, each with bias and followed by a ReLU.

    The last convolution is linear; with ``pooled``, it has a ReLU as well, and a mean over positions and a linear
    layer follow. The same weights at every depth make it the setting of Wen & Jacot (2024, arXiv 2402.08010): the
    squared norm of a filter is a sum over frequencies, so weight decay can choose among them.

    Args:
        channels: c of the images.
        width: channels between convolutions.
        outputs: channels of the maps that it returns; with ``pooled``, classes.
        depth: number of convolutions, at least 1.
        size: (h, w) of the images, or one number for both.
        pooled: whether it returns one vector an image instead of maps.
        noise: of ``CircularConv.delta_orthogonal_``, in which it begins. Without the orthogonal part training ends in
            a constant output.
        seed: of the initial weights.

    Raises:
        ValueError: for a depth below 1.

    Example:
        >>> network = CircularCNN(1, 4, 1, 3, 8)
        >>> x = torch.randn(2, 1, 8, 8)
        >>> torch.allclose(network(x), network.ordinary()(x), atol=1e-5)
        True
    """

    def __init__(
        self,
        channels: int,
        width: int,
        outputs: int,
        depth: int,
        size: int | tuple[int, int],
        *,
        pooled: bool = False,
        noise: float = 0.3,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if depth < 1:
            raise ValueError(f"a network has at least one convolution, got depth {depth}")
        self.size = (size, size) if isinstance(size, int) else size
        widths = [channels, *[width] * (depth - 1), width if pooled else outputs]
        self.convolutions = nn.ModuleList(CircularConv(c, k, self.size) for c, k in pairwise(widths))
        self._basis = fourier_basis(self.size)[0].flatten(0, 1)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            for conv in self.convolutions:
                conv.delta_orthogonal_(noise)  # type: ignore[operator]
            self.head = nn.Linear(width, outputs) if pooled else None

    def forward(self, images: Tensor) -> Tensor:
        """Returns maps [n, k, h, w], or with ``pooled`` vectors [n, o], for images [n, c, h, w]."""
        basis = self._basis.to(images)
        maps = images.flatten(2).permute(2, 1, 0)
        last = len(self.convolutions) - 1
        for i, conv in enumerate(self.convolutions):
            maps = conv(maps, basis)
            if i < last or self.head is not None:
                maps = torch.relu(maps)
        if self.head is not None:
            return self.head(maps.mean(0).T)
        return maps.permute(2, 1, 0).unflatten(2, self.size)

    @torch.no_grad()
    def ordinary(self) -> nn.Sequential:
        """Returns the same function as ordinary layers: ``nn.Conv2d`` with circular padding, ``nn.ReLU``, the head."""
        layers: list[nn.Module] = []
        for conv in self.convolutions:
            layers += [conv.ordinary(), nn.ReLU()]  # type: ignore[operator]
        if self.head is None:
            return nn.Sequential(*layers[:-1])
        head = nn.Linear(self.head.in_features, self.head.out_features).to(self.head.weight)
        head.load_state_dict(self.head.state_dict())
        return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), head)
