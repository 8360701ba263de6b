"""Reference CNNs: small ones that train on two cores, and networks whose published weights load.

Every class is an ordinary ``nn.Module`` whose first convolution has at most 3 x 3 or 5 x 5 pixels. The factories can
be named on the command line, such as ``convscope.training.networks:resnet20``. A network with published weights
carries the input normalisation that these expect in ``default_cfg`` (the attribute that timm's networks use):
``mean`` and ``std`` per channel for RGB in [0, 1], and ``input_size``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from convscope.core.errors import ConvscopeError

# Mean of CIFAR-10's training images per channel, in 0..255.
_CIFAR10_MEAN = (125.307, 122.950, 113.865)
# Mean and standard deviation of ImageNet per channel, for RGB in [0, 1], as published weights usually expect.
_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


class LinearCNN(nn.Module):
    """One convolution and a linear head, without any non-linearity: the model of Chowers & Weiss 2023, section 4.

    Args:
        classes: o, number of outputs.
        channels: c, input channels.
        width: k, number of filters.
        kernel: side of the filters in pixels.
        head: "gap" averages the responses over space before the linear head, "flatten" keeps every position.
        size: side of the images in pixels; only the "flatten" head depends on it.
    """

    def __init__(
        self,
        classes: int,
        channels: int = 3,
        width: int = 32,
        kernel: int = 3,
        head: Literal["gap", "flatten"] = "gap",
        size: int = 32,
    ) -> None:
        super().__init__()
        if head not in {"gap", "flatten"}:
            raise ValueError(f"head must be 'gap' or 'flatten', got {head!r}")
        self.conv1 = nn.Conv2d(channels, width, kernel, bias=False)
        self.gap = head == "gap"
        self.linear = nn.Linear(width if self.gap else width * (size - kernel + 1) ** 2, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Returns logits [n, o] for images [n, c, h, w]."""
        responses = self.conv1(images)
        return self.linear(responses.mean((2, 3)) if self.gap else responses.flatten(1))


class SmallVGG(nn.Module):
    """A small network of VGG's kind: stages of conv-maxpool-BN-ReLU, then a linear head on what is left of space.

    Pooling comes before normalisation, which makes a training step about a third cheaper: taking the maximum and a
    rising function of each entry can change places.

    Args:
        classes: o, number of outputs.
        channels: c, input channels.
        widths: filters of each stage; a stage halves the image.
        size: side of the images in pixels.
    """

    def __init__(self, classes: int, channels: int = 3, widths: Sequence[int] = (24, 32, 32), size: int = 32) -> None:
        super().__init__()
        if not widths or size < 2 ** len(widths):
            raise ValueError(f"need at least one stage and a size of at least 2 per stage, got {widths}, size {size}")
        stages: list[nn.Module] = []
        for c, k in zip((channels, *widths), widths, strict=False):
            stages += [nn.Conv2d(c, k, 3, padding=1, bias=False), nn.MaxPool2d(2), nn.BatchNorm2d(k), nn.ReLU()]
        self.features = nn.Sequential(*stages)
        self.linear = nn.Linear(widths[-1] * (size >> len(widths)) ** 2, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Returns logits [n, o] for images [n, c, h, w]."""
        return self.linear(self.features(images).flatten(1))


class _Block(nn.Module):
    """Two 3 x 3 convolutions and a shortcut of the option-A kind: subsampled, with zeros for the new channels."""

    def __init__(self, c: int, k: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(c, k, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(k)
        self.conv2 = nn.Conv2d(k, k, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(k)
        self.stride = stride
        self.new = k - c

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        x = x[:, :, :: self.stride, :: self.stride]
        # With an odd number of new channels the extra one comes after the old ones.
        return F.relu(y + F.pad(x, (0, 0, 0, 0, self.new // 2, self.new - self.new // 2)))


class CifarResNet(nn.Module):
    """The residual network for CIFAR-10 of He et al. 2016, section 4.2, with option-A shortcuts.

    Args:
        blocks: residual blocks in each of the three stages; depth is ``6 * blocks + 2``.
        classes: o, number of outputs.
        channels: c, input channels.
        width: filters of the first stage; they double in each of the next two.
    """

    def __init__(self, blocks: int, classes: int = 10, channels: int = 3, width: int = 16) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.layer1 = self._stage(width, width, blocks, 1)
        self.layer2 = self._stage(width, 2 * width, blocks, 2)
        self.layer3 = self._stage(2 * width, 4 * width, blocks, 2)
        self.linear = nn.Linear(4 * width, classes)

    @staticmethod
    def _stage(c: int, k: int, blocks: int, stride: int) -> nn.Sequential:
        return nn.Sequential(_Block(c, k, stride), *(_Block(k, k, 1) for _ in range(blocks - 1)))

    def forward(self, images: Tensor) -> Tensor:
        """Returns logits [n, o] for images [n, c, h, w]."""
        x = F.relu(self.bn1(self.conv1(images)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.linear(x.mean((2, 3)))


class Cifar10Full(nn.Module):
    """Caffe's ``cifar10_full``: three 5 x 5 convolutions with pooling and response normalisation within channels.

    Args:
        mean_image: [3, 32, 32], the mean of the training images in 0..255, or None.

    Its weights expect RGB in 0..255 minus the mean *image* of the training set. ``default_cfg`` describes the part
    of this that is the same at every pixel (the channel's mean, and no division: ``std = 1/255`` of images in
    [0, 1]); given ``mean_image``, the network itself subtracts the rest. Without it the input is off by at most a few
    of 255 grey levels, smoothly in space, which the first layer's patch statistics hardly notice.
    """

    rest: Tensor

    def __init__(self, mean_image: Tensor | None = None) -> None:
        super().__init__()
        rest = torch.zeros(3, 1, 1)
        if mean_image is not None:
            if mean_image.shape != (3, 32, 32):
                raise ValueError(f"mean_image must have shape [3, 32, 32], got {list(mean_image.shape)}")
            rest = mean_image.float() - torch.tensor(_CIFAR10_MEAN)[:, None, None]
        self.register_buffer("rest", rest, persistent=False)
        self.conv1 = nn.Conv2d(3, 32, 5, padding=2)
        self.conv2 = nn.Conv2d(32, 32, 5, padding=2)
        self.conv3 = nn.Conv2d(32, 64, 5, padding=2)
        self.ip1 = nn.Linear(1024, 10)
        self.default_cfg = _input(tuple(m / 255 for m in _CIFAR10_MEAN), (1 / 255,) * 3)

    def forward(self, images: Tensor) -> Tensor:
        """Returns logits [n, 10] for images [n, 3, 32, 32]."""
        x = F.relu(F.max_pool2d(self.conv1(images - self.rest), 3, 2, ceil_mode=True))
        x = F.relu(self.conv2(_within_channel(x)))
        x = _within_channel(F.avg_pool2d(x, 3, 2, ceil_mode=True))
        x = F.avg_pool2d(F.relu(self.conv3(x)), 3, 2, ceil_mode=True)
        return self.ip1(x.flatten(1))


class MyrtleMax(nn.Module):
    """Four 3 x 3 convolutions, with maxima for pooling and no bias: a network of Beaglehole et al.'s study of the CNFA.

    Conv-ReLU-conv-ReLU-maxpool-conv-ReLU-maxpool-conv-ReLU, the largest response of each filter, and a linear layer.

    Args:
        classes: o, number of outputs.
        channels: c, input channels.
        width: k, number of filters of each convolution.
        std: standard deviation of the convolutions' initial weights, which are then normal; None: PyTorch's own,
            which follow He et al. 2015.
    """

    def __init__(self, classes: int = 10, channels: int = 3, width: int = 64, std: float | None = None) -> None:
        super().__init__()
        first, *others = (nn.Conv2d(c, width, 3, padding=1, bias=False) for c in (channels, width, width, width))
        self.conv1 = first
        self.conv2, self.conv3, self.conv4 = others
        self.linear = nn.Linear(width, classes, bias=False)
        if std is not None:
            for conv in (first, *others):
                nn.init.normal_(conv.weight, std=std)

    def forward(self, images: Tensor) -> Tensor:
        """Returns logits [n, o] for images [n, c, h, w]; the sides are at least 4 pixels."""
        x = F.max_pool2d(F.relu(self.conv2(F.relu(self.conv1(images)))), 2)
        x = F.relu(self.conv4(F.max_pool2d(F.relu(self.conv3(x)), 2)))
        return self.linear(x.amax((2, 3)))


class _Fire(nn.Module):
    """A 1 x 1 convolution to few channels, then 1 x 1 and 3 x 3 convolutions side by side."""

    def __init__(self, c: int, squeezed: int, k: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(c, squeezed, 1)
        self.expand1x1 = nn.Conv2d(squeezed, k, 1)
        self.expand3x3 = nn.Conv2d(squeezed, k, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.squeeze(x))
        return F.relu(torch.cat([self.expand1x1(x), self.expand3x3(x)], 1))


class SqueezeNet(nn.Module):
    """SqueezeNet 1.1 (Iandola et al. 2016 and their later release), with the names that torchvision's weights have.

    Args:
        classes: o, number of outputs.
    """

    def __init__(self, classes: int = 1000) -> None:
        super().__init__()
        pool = nn.MaxPool2d(3, 2, ceil_mode=True)
        self.features = nn.Sequential(
            *(nn.Conv2d(3, 64, 3, 2), nn.ReLU(), pool),
            *(_Fire(64, 16, 64), _Fire(128, 16, 64), pool),
            *(_Fire(128, 32, 128), _Fire(256, 32, 128), pool),
            *(_Fire(256, 48, 192), _Fire(384, 48, 192), _Fire(384, 64, 256), _Fire(512, 64, 256)),
        )
        self.classifier = nn.Sequential(nn.Dropout(), nn.Conv2d(512, classes, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1))
        self.default_cfg = _input(*_IMAGENET, 224)

    def forward(self, images: Tensor) -> Tensor:
        """Returns logits [n, o] for images [n, 3, h, w]; the sides are at least 17 pixels."""
        return self.classifier(self.features(images)).flatten(1)


def _within_channel(x: Tensor) -> Tensor:
    # Caffe's local response normalisation "within channel": size 3, alpha 5e-5, beta 0.75.
    return x * (1 + 5e-5 * F.avg_pool2d(x.square(), 3, 1, 1)) ** -0.75


def _input(mean: tuple[float, ...], std: tuple[float, ...], size: int = 32) -> dict[str, Any]:
    return {"mean": mean, "std": std, "input_size": (3, size, size)}


def linear_gap(classes: int = 10, channels: int = 3, width: int = 32, kernel: int = 3) -> LinearCNN:
    """Returns a linear CNN whose responses are averaged over space."""
    return LinearCNN(classes, channels, width, kernel, "gap")


def linear_flatten(classes: int = 10, channels: int = 3, width: int = 32, kernel: int = 3, size: int = 32) -> LinearCNN:
    """Returns a linear CNN whose head sees every position of images ``size`` pixels wide."""
    return LinearCNN(classes, channels, width, kernel, "flatten", size)


def small_vgg(classes: int = 10, channels: int = 3, widths: Sequence[int] = (24, 32, 32), size: int = 32) -> SmallVGG:
    """Returns a network of conv-maxpool-BN-ReLU stages for images ``size`` pixels wide."""
    return SmallVGG(classes, channels, widths, size)


def small_resnet(classes: int = 10, channels: int = 3, width: int = 16) -> CifarResNet:
    """Returns a residual network of eight layers."""
    return CifarResNet(1, classes, channels, width)


def resnet20(classes: int = 10) -> CifarResNet:
    """Returns the CIFAR-10 ResNet of 20 layers, for RGB normalised by ImageNet's mean and standard deviation."""
    return _with_imagenet_input(CifarResNet(3, classes))


def resnet56(classes: int = 10) -> CifarResNet:
    """Returns the CIFAR-10 ResNet of 56 layers, for RGB normalised by ImageNet's mean and standard deviation."""
    return _with_imagenet_input(CifarResNet(9, classes))


def cifar10_full(mean_image: Tensor | None = None) -> Cifar10Full:
    """Returns Caffe's ``cifar10_full`` (see ``Cifar10Full`` for what its input must be)."""
    return Cifar10Full(mean_image)


def myrtle_max(classes: int = 10, channels: int = 3, width: int = 64, std: float | None = None) -> MyrtleMax:
    """Returns four convolutions with maxima for pooling (see ``MyrtleMax``)."""
    return MyrtleMax(classes, channels, width, std)


def squeezenet1_1(classes: int = 1000) -> SqueezeNet:
    """Returns SqueezeNet 1.1, for RGB normalised by ImageNet's mean and standard deviation."""
    return SqueezeNet(classes)


def _with_imagenet_input(network: CifarResNet) -> CifarResNet:
    network.default_cfg = _input(*_IMAGENET)  # type: ignore[assignment]
    return network


FACTORIES: dict[str, Callable[..., nn.Module]] = {
    f.__name__: f
    for f in (
        linear_gap,
        linear_flatten,
        small_vgg,
        small_resnet,
        resnet20,
        resnet56,
        cifar10_full,
        myrtle_max,
        squeezenet1_1,
    )
}


def build(name: str, **options: Any) -> nn.Module:
    """Returns a fresh network by the name of its factory.

    Args:
        name: a key of ``FACTORIES``.
        options: arguments of that factory.

    Raises:
        ConvscopeError: for an unknown name.

    Example:
        >>> build("small_vgg", classes=8)(torch.zeros(2, 3, 32, 32)).shape
        torch.Size([2, 8])
    """
    if name not in FACTORIES:
        raise ConvscopeError(f"there is no reference network {name!r}; the names are {', '.join(FACTORIES)}")
    return FACTORIES[name](**options)
