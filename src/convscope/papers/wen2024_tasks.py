"""Tasks for networks of circular convolutions whose bottleneck is known, or was reported, and how each is trained."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from convscope.core.batches import mix
from convscope.core.errors import ConvscopeError
from convscope.papers.data import LabelledImages, fingerprint
from convscope.papers.pinson2023_data import digits
from convscope.training.minimum_norm import Loss

SIDE = 8  # of all images but those of a user's files


@dataclass(frozen=True)
class Recipe:
    """How a network is trained for a task.

    Attributes:
        depth: number of convolutions.
        width: channels between them.
        steps: of the optimiser.
        penalty: lambda at the start; with ``tau`` None, throughout.
        tau: loss to hold: squared error summed over an image's pixels, or cross-entropy in nats; None: fixed penalty.
        noise: of the initial weights, see ``CircularConv.delta_orthogonal_``.
        batch: images a step; None: all.
        seed: of the initial weights and of the batches.
    """

    depth: int
    width: int
    steps: int
    penalty: float
    tau: float | None = None
    noise: float = 0.3
    batch: int | None = None
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class Plain(Recipe):
    """How a network is trained by plain gradient descent.

    Attributes:
        rate: the learning rate.
    """

    rate: float


#: Recipes of the tasks below, by number of layers where there are several. The loss that can be held rises with depth:
#: at 12 layers Adam's steps alone leave about 0.01, and below that the penalty would fall to nothing.
LOW_PASS = {
    3: Recipe(depth=3, width=6, steps=2500, penalty=0.3, tau=0.001),
    6: Recipe(depth=6, width=6, steps=2500, penalty=0.3, tau=0.001),
    12: Recipe(depth=12, width=8, steps=2500, penalty=0.5, tau=0.015, noise=0.1),
}
MEAN = Recipe(depth=6, width=6, steps=2500, penalty=0.1, tau=0.003)
AUTOENCODER = {
    4: Recipe(depth=4, width=8, steps=3000, penalty=0.3, tau=0.8),
    8: Recipe(depth=8, width=8, steps=3000, penalty=0.3, tau=0.8),
    12: Recipe(depth=12, width=8, steps=3500, penalty=0.3, tau=0.8),
}
PRODUCT = Recipe(depth=8, width=10, steps=2500, penalty=0.2, tau=0.3)
BUMP = Recipe(depth=8, width=16, steps=2500, penalty=0.2, tau=0.25)
CLASSES = Recipe(depth=6, width=16, steps=3000, penalty=0.02, tau=0.05, batch=192)


@dataclass(frozen=True)
class Task:
    """Images and what is to be made of them.

    Attributes:
        name: in words.
        images: float32 [n, c, h, w].
        targets: float32 [n, k, h, w]; of a classifier int64 [n].
        loss: "squared" or "cross-entropy".
        factors: name to what each image was made from: float64 or complex128 [n], or a position, float64 [n, 2],
            (y, x) as shares of the image's sides.
        test: images and labels held out, of a classifier.
    """

    name: str
    images: Tensor
    targets: Tensor
    loss: Loss = "squared"
    factors: Mapping[str, Tensor] = field(default_factory=dict)
    test: tuple[Tensor, Tensor] | None = None

    @property
    def fingerprint(self) -> str:
        """Changes when images or targets change."""
        return fingerprint(self.images.numpy(), self.targets.numpy())


def low_pass(n: int) -> Task:
    """Returns the task to keep of digits the mean and the first frequency along each axis: 5 real numbers.

    Args:
        n: number of digits.

    Example:
        >>> low_pass(3).targets.shape
        torch.Size([3, 1, 8, 8])
    """
    images = _some(n)
    spectrum = torch.fft.fft2(images.double())
    cycles = (torch.fft.fftfreq(SIDE) * SIDE).abs()
    spectrum[..., cycles[:, None] + cycles > 1] = 0
    return Task("low-pass", images, torch.fft.ifft2(spectrum).real.float())


def mean(n: int) -> Task:
    """Returns the task to replace every pixel of digits by the image's mean: 1 real number.

    Args:
        n: number of digits.
    """
    images = _some(n)
    return Task("spatial mean", images, images.mean((2, 3), keepdim=True).expand_as(images).contiguous())


def autoencoder() -> Task:
    """Returns the task to reproduce scikit-learn's digits 0."""
    images, labels = digits()
    zeros = images[labels == 0].float()
    return Task("digits 0 of scikit-learn, 8x8", zeros, zeros)


def of_digits(data: LabelledImages, digit: int, n: int, side: int) -> Task:
    """Returns the task to reproduce one digit of a user's data.

    Args:
        data: images [n, 1, h, w] and labels.
        digit: which.
        n: number of images, fewer where there are fewer.
        side: in pixels, to which images are reduced by means over blocks.

    Raises:
        ConvscopeError: when there are none.
    """
    images = data.images[data.labels == digit][:n]
    if not len(images):
        raise ConvscopeError(f"none of the {len(data.labels)} images is labelled {digit}")
    images = F.avg_pool2d(images, images.shape[-1] // side)
    return Task(f"{len(images)} images of the digit {digit}, {side}x{side}", images, images)


def shape_times_pattern(n: int) -> Task:
    """Returns the task to reproduce (1 + shape) (1 + s checkerboard) / 2, where s is 1 or -1.

    The shape is a wave of one cycle along each axis, of random amplitude (0.2 to 0.5) and phase. A linear network has
    to keep 10 numbers: mean, shape, sign, and the shape moved to around half a cycle per pixel. The shape (4) and the
    sign make the image, and with ReLUs the mean that carries them. Shape times sign, around half a cycle per pixel,
    does as well as the shape itself: the sign gives one from the other.

    Args:
        n: number of images.

    Example:
        >>> sorted(shape_times_pattern(4).factors)
        ['shape across', 'shape across times sign', 'shape down', 'shape down times sign', 'sign']
    """
    random = torch.Generator().manual_seed(0)
    amplitude = 0.2 + 0.3 * torch.rand(n, 2, generator=random, dtype=torch.float64)
    phase = 2 * math.pi * torch.rand(n, 2, generator=random, dtype=torch.float64)
    sign = torch.randint(2, (n,), generator=random).double() * 2 - 1
    waves = torch.polar(amplitude, phase)
    turn = torch.polar(torch.ones(SIDE).double(), 2 * math.pi * torch.arange(SIDE).double() / SIDE)
    shape = (waves[:, :1, None] * turn[:, None] + waves[:, 1:, None] * turn).real
    checkers = 1 - 2 * (torch.arange(SIDE)[:, None] + torch.arange(SIDE)).remainder(2).double()
    images = ((1 + shape) * (1 + sign[:, None, None] * checkers) / 2)[:, None].float()
    return Task(
        "shape times pattern",
        images,
        images,
        # At half a cycle less one, where the last two are, the transform holds the conjugate.
        factors={
            "shape down": waves[:, 0],
            "shape across": waves[:, 1],
            "sign": sign,
            "shape down times sign": sign * waves[:, 0].conj(),
            "shape across times sign": sign * waves[:, 1].conj(),
        },
    )


def moving_bump(n: int) -> Task:
    """Returns the task to draw the third position of a bump that moves steadily, from frames of the first two.

    A Gaussian of height 1 and standard deviation 1 pixel on a torus, at p1, p1 + v and p1 + 2 v; p1 is uniform, v
    uniform within 1.5 pixels along each axis. The third frame depends on the third position alone: 4 real numbers,
    exp(-2 pi i p3 / 8) along each axis.

    Args:
        n: number of films.

    Example:
        >>> moving_bump(2).images.shape
        torch.Size([2, 2, 8, 8])
    """
    random = torch.Generator().manual_seed(0)
    first = SIDE * torch.rand(n, 2, generator=random, dtype=torch.float64)
    velocity = 1.5 * (2 * torch.rand(n, 2, generator=random, dtype=torch.float64) - 1)
    positions = torch.stack([first, first + velocity, first + 2 * velocity], 1)  # [n, frames, axes]
    away = torch.arange(SIDE)[:, None, None, None] - positions  # [h, n, frames, axes]
    profile = sum(torch.exp(-((away + SIDE * turn) ** 2) / 2) for turn in range(-2, 3))
    assert isinstance(profile, Tensor)
    down, across = profile.permute(1, 2, 0, 3).unbind(-1)  # [n, frames, h]
    frames = (down[..., :, None] * across[..., None, :]).float()
    factors = {f"position {t + 1}": positions[:, t] / SIDE for t in range(3)}
    return Task("moving bump", frames[:, :2], frames[:, 2:], factors=factors)


def classes() -> Task:
    """Returns the task to classify scikit-learn's digits; every fourth, drawn at random, is held out."""
    images, labels = digits()
    order = mix(0, torch.arange(len(images))).argsort()
    held, kept = order[::4], order[torch.arange(len(order)) % 4 > 0]
    images = images.float()
    return Task("digits, 10 classes", images[kept], labels[kept], "cross-entropy", test=(images[held], labels[held]))


def _some(n: int) -> Tensor:
    images = digits()[0].float()
    return images[mix(0, torch.arange(len(images))).argsort()[:n]]
