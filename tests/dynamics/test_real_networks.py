"""The exact method against PyTorch's own layers, trained on photographs by gradient descent."""

import copy
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from convscope import dataset_structure, predict_dynamics
from convscope.papers.data import cifar10

DATA = Path(__file__).parents[3] / "shared" / "data"
OUTPUTS, POINTS = 10, 20


def photographs(n, gray):
    """The first test images of CIFAR-10 and one-hot labels, both less their means; and the labels."""
    data = cifar10(DATA, n, "test")
    images = data.pixels.double()
    images = images.mean(1, keepdim=True) if gray else images
    targets = F.one_hot(data.labels, OUTPUTS).double()
    return images - images.mean(0), targets - targets.mean(0), data.labels


def layers(channels, filters, kernel, init_std):
    """A convolution and a linear layer; weights as PyTorch draws them where no standard deviation is given."""
    torch.manual_seed(0)
    conv = nn.Conv2d(channels, filters, kernel, padding="same", padding_mode="circular", bias=False).double()
    head = nn.Linear(filters * 32 * 32, OUTPUTS, bias=False).double()
    if init_std is not None:
        for layer in (conv, head):
            nn.init.normal_(layer.weight, std=init_std)
    return conv, head


def trained(start, images, targets, modes, class_vectors, lr, steps):
    """Mode strengths of a network at ``POINTS`` + 1 moments of gradient descent on all images at once."""
    conv, head = copy.deepcopy(start)
    network = nn.Sequential(conv, nn.Flatten(), head)
    rule = torch.optim.SGD(network.parameters(), lr)
    found = []
    for step in range(steps + 1):
        outputs = network(images)
        if step % (steps // POINTS) == 0:
            seen = torch.einsum("no,nchw->ochw", outputs.detach(), images) / len(images)
            found.append(torch.einsum("mo,ochw,mchw->m", class_vectors, seen, modes))
        loss = (outputs - targets).square().sum() / (2 * len(images))
        rule.zero_grad()
        loss.backward()
        rule.step()
    return torch.stack(found)


@pytest.mark.slow
@pytest.mark.skipif(not any(DATA.glob("cifar10_test*")), reason="needs CIFAR-10 in ../shared/data")
@pytest.mark.parametrize(
    ("gray", "n", "filters", "kernel", "init_std", "steps"),
    [
        pytest.param(True, 128, 1, 5, None, 400, id="gray, PyTorch's initial weights"),
        pytest.param(True, 64, 1, 8, 1e-2, 300, id="gray, a kernel with an even side"),
        pytest.param(False, 64, 3, 5, 1e-2, 300, id="colours"),
    ],
)
def test_exact_dynamics_are_those_of_a_real_network(gray, n, filters, kernel, init_std, steps):
    images, targets, labels = photographs(n, gray)
    structure = dataset_structure([(images, labels)])
    conv, head = layers(images.shape[1], filters, kernel, init_std)
    end = float(predict_dynamics(structure, conv=conv, head=head).half_times[2])
    assert 0 < end < float("inf")
    times = torch.linspace(0, end, POINTS + 1, dtype=torch.float64)
    exact = predict_dynamics(structure, conv=conv, head=head, times=times).mode_strengths
    assert float(exact[-1, 2]) == pytest.approx(float(structure.singular_values[2]) / 2, rel=1e-3)

    def descent(parts):
        how = structure.modes, structure.class_vectors, end / (parts * steps), parts * steps
        return trained((conv, head), images, targets, *how)

    def error(found):
        return float((found - exact).abs().max() / structure.singular_values[0])

    coarse, fine = descent(1), descent(2)
    print(f"step {end / steps:.2g}: error {error(coarse):.2g}, half the step {error(fine):.2g}, ", end="")
    print(f"ratio {error(coarse) / error(fine):.4f}, extrapolated {error(2 * fine - coarse):.2g}")
    assert error(coarse) / error(fine) == pytest.approx(2, abs=0.1)
    assert error(2 * fine - coarse) < 0.005
