"""The reference networks: shapes, published weights, and functions that they must compute."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from convscope.core.errors import ConvscopeError
from convscope.training.networks import FACTORIES, Cifar10Full, LinearCNN, SmallVGG, build, cifar10_full

DATA = Path(__file__).parents[3] / "shared" / "data"
needs_data = pytest.mark.skipif(not (DATA / "weights").is_dir(), reason="needs the weights in ../shared/data")


@pytest.mark.parametrize("name", FACTORIES)
def test_every_factory_gives_logits_that_depend_on_every_parameter(name):
    net = build(name)
    output = net(torch.randn(3, 3, 32, 32))
    assert output.shape == (3, 1000 if name == "squeezenet1_1" else 10)
    output.square().sum().backward()
    assert all(p.grad is not None for p in net.parameters())


def test_unknown_name():
    with pytest.raises(ConvscopeError, match="small_vgg"):
        build("vgg19")


def test_other_sizes():
    assert build("small_vgg", classes=4, channels=1, widths=(3, 5), size=12)(torch.zeros(2, 1, 12, 12)).shape == (2, 4)
    assert build("linear_flatten", classes=2, size=9, kernel=5)(torch.zeros(2, 3, 9, 9)).shape == (2, 2)
    assert build("small_resnet", classes=2, width=5)(torch.zeros(2, 3, 15, 15)).shape == (2, 2)
    with pytest.raises(ValueError, match="size"):
        SmallVGG(10, 3, (4, 4, 4), 4)
    with pytest.raises(ValueError, match="head"):
        LinearCNN(10, head="max")
    with pytest.raises(ValueError, match="mean_image"):
        cifar10_full(torch.zeros(32, 32, 3))


def test_linear_networks_are_linear():
    for name in ("linear_gap", "linear_flatten"):
        net = build(name).double()
        a, b, zero = (
            torch.randn(2, 3, 32, 32).double(),
            torch.randn(2, 3, 32, 32).double(),
            torch.zeros(2, 3, 32, 32).double(),
        )
        assert torch.allclose(net(a + b) + net(zero), net(a) + net(b), atol=1e-12)


def test_pooling_first_changes_nothing_but_the_statistics():
    net = build("small_vgg").eval()
    conv, _, norm, _ = net.features[:4]
    norm.weight.data.uniform_(0.5, 2)
    norm.bias.data.normal_()
    x = torch.randn(2, 3, 32, 32)
    usual = F.max_pool2d(F.relu(norm(conv(x))), 2)
    assert torch.allclose(net.features[:4](x), usual, atol=1e-6)


@needs_data
@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("resnet20", "resnet20_cifar10"),
        ("resnet56", "resnet56_cifar10"),
        ("squeezenet1_1", "squeezenet1_1_imagenet"),
    ],
)
def test_published_weights_load(name, file):
    build(name).load_state_dict(load_file(DATA / "weights" / f"{file}.safetensors"), strict=True)


def test_myrtle_max_computes_its_formula():
    net = build("myrtle_max", classes=3, channels=2, width=5).double()
    images = torch.randn(2, 2, 12, 9, dtype=torch.float64)
    w = [p.detach() for p in net.parameters()]
    assert [tuple(p.shape) for p in w] == [(5, 2, 3, 3), (5, 5, 3, 3), (5, 5, 3, 3), (5, 5, 3, 3), (3, 5)]
    x = F.conv2d(images, w[0], padding=1).clamp(min=0)
    x = F.conv2d(x, w[1], padding=1).clamp(min=0)
    x = F.conv2d(F.max_pool2d(x, 2), w[2], padding=1).clamp(min=0)
    x = F.conv2d(F.max_pool2d(x, 2), w[3], padding=1).clamp(min=0)
    assert torch.allclose(net(images), F.adaptive_max_pool2d(x, 1).flatten(1) @ w[4].T, atol=1e-12)


def test_myrtle_max_starts_as_asked():
    torch.manual_seed(0)
    for conv in (m for m in build("myrtle_max", std=0.01).modules() if isinstance(m, torch.nn.Conv2d)):
        # The standard deviation of m normal values is off by more than 5 / sqrt(2 m) once in 1.7 million.
        assert abs(float(conv.weight.detach().std()) / 0.01 - 1) < 5 / (2 * conv.weight.numel()) ** 0.5


@needs_data
def test_squeezenet_recognises_images():
    net = build("squeezenet1_1").eval()
    net.load_state_dict(load_file(DATA / "weights" / "squeezenet1_1_imagenet.safetensors"), strict=True)
    with np.load(DATA / "imagenet_sample224.npz") as arrays:
        images, labels = torch.from_numpy(arrays["images"][:20]), torch.from_numpy(arrays["labels"][:20])
    mean, std = (torch.tensor(net.default_cfg[key])[:, None, None] for key in ("mean", "std"))
    with torch.no_grad():
        top5 = net((images.permute(0, 3, 1, 2) / 255 - mean) / std).topk(5).indices
    # 86.4 % on the 1,000 images of the source: fewer than 13 of 20 has a chance of 0.3 %. Guessing gives 0.1.
    assert int((top5 == labels[:, None]).sum()) >= 13


@needs_data
@pytest.mark.slow
def test_published_accuracies():
    with np.load(DATA / "cifar10_test.npz") as arrays:
        images, labels = torch.from_numpy(arrays["x_test"][:1000]), torch.from_numpy(arrays["y_test"][:1000])
    with np.load(DATA / "cifar10_train_a.npz") as arrays:
        mean_image = torch.from_numpy(arrays["x_train"].mean(0)).permute(2, 0, 1)
    images = images.permute(0, 3, 1, 2).float() / 255
    caffe = load_file(DATA / "weights" / "caffe_cifar10_full_trajectory.safetensors")
    caffe = {k.removeprefix("iter_70000."): v for k, v in caffe.items() if k.startswith("iter_70000.")}
    # Accuracy on all 10,000 test images, as published.
    cases = [
        (cifar10_full(mean_image), caffe, 0.8211),
        (cifar10_full(), caffe, 0.8211),
        (build("resnet20"), load_file(DATA / "weights" / "resnet20_cifar10.safetensors"), 0.9173),
    ]
    for net, weights, published in cases:
        net.load_state_dict(weights, strict=True)
        mean, std = (torch.tensor(net.default_cfg[key])[:, None, None] for key in ("mean", "std"))
        with torch.no_grad():
            right = (net.eval()((images - mean) / std).argmax(1) == labels).float().mean()
        assert abs(float(right) - published) < 0.03  # two and a half standard errors of 1,000 images


def test_mean_image_is_subtracted_in_full():
    net, plain = Cifar10Full(torch.full((3, 32, 32), 100.0)), Cifar10Full()
    plain.load_state_dict(net.state_dict(), strict=True)
    images = torch.rand(2, 3, 32, 32)
    mean, std = (torch.tensor(net.default_cfg[key])[:, None, None] for key in ("mean", "std"))
    assert torch.allclose(net((images - mean) / std), plain(images * 255 - 100), atol=1e-4)
