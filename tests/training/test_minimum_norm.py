"""The least norm at a given loss: against answers known in closed form."""

import math

import pytest
import torch
from torch import nn

from convscope.training import minimum_norm
from convscope.training.circular import CircularCNN
from convscope.training.minimum_norm import minimise_norm


def line(n=40):
    x = torch.randn(n, 1, 1, 1, generator=torch.Generator().manual_seed(0))
    return x, 2 * x


def scalar():
    network = nn.Conv2d(1, 1, 1, bias=False)
    nn.init.ones_(network.weight)
    return network


def test_a_fixed_penalty_ends_at_ridge_regression():
    x, y = line()
    network = scalar()
    run = minimise_norm(network, x, y, penalty=0.5, steps=300, lr=0.05, progress=False)
    m = float(x.square().mean())
    assert float(network.weight.detach()) == pytest.approx(2 * m / (m + 0.5), rel=1e-3)
    assert run.penalty == pytest.approx(0.5)
    assert run.norm == pytest.approx(float(network.weight.detach()) ** 2, rel=1e-6)
    assert run.loss == pytest.approx((2 - float(network.weight.detach())) ** 2 * m, rel=1e-3)
    assert run.share == pytest.approx(run.loss / float(y.var(correction=0)), rel=1e-5)
    assert run.complete
    assert run.steps == 300


@pytest.mark.parametrize("penalty", [0.1, 1.0])
def test_a_loss_that_is_held_gives_the_least_norm_from_either_side(penalty):
    x, y = line()
    network = scalar()
    tau = 0.2
    run = minimise_norm(network, x, y, penalty=penalty, tau=tau, steps=1000, lr=0.03, progress=False)
    m = float(x.square().mean())
    least = 2 - math.sqrt(tau / m)  # the smallest weight whose loss is tau
    assert run.loss == pytest.approx(tau, rel=0.02)
    assert float(network.weight.detach()) == pytest.approx(least, rel=0.01)
    assert run.penalty == pytest.approx((2 - least) * m / least, rel=0.05)  # the multiplier of the constraint


def test_two_layers_share_the_norm():
    """w2 w1 = w costs 2 |w| in two layers, and norms are balanced."""
    x, y = line()
    network = nn.Sequential(scalar(), scalar())
    with torch.no_grad():
        network[0].weight.fill_(3.0)
        network[1].weight.fill_(0.2)
    run = minimise_norm(network, x, y, penalty=0.2, tau=0.1, steps=1000, lr=0.03, progress=False)
    a, b = (float(layer.weight.detach()) for layer in network)
    assert abs(a) == pytest.approx(abs(b), rel=0.02)
    assert run.norm == pytest.approx(2 * abs(a * b), rel=0.001)


def test_a_convolution_network_keeps_the_mean_alone():
    random = torch.Generator().manual_seed(0)
    images = torch.rand(24, 1, 4, 4, generator=random)
    targets = images.mean((2, 3), keepdim=True).expand_as(images).contiguous()
    network = CircularCNN(1, 3, 1, 2, 4, noise=0.1)
    run = minimise_norm(network, images, targets, penalty=0.3, steps=300, lr=5e-3, progress=False)
    assert run.share < 0.05
    assert 0.8 < 16 * run.norm / 2 < 1.05  # one pair of gain 1 a layer costs 1 / N
    others = [conv.coefficients.detach()[1:].square().sum() for conv in network.convolutions]
    assert float(sum(others)) < 0.02 * run.norm


def test_cross_entropy_and_batches():
    random = torch.Generator().manual_seed(0)
    images = torch.randn(200, 1, 4, 4, generator=random)
    labels = (images.mean((1, 2, 3)) > 0).long()
    found = []
    for _ in range(2):
        network = CircularCNN(1, 4, 2, 2, 4, pooled=True)
        options = {"penalty": 0.001, "tau": 0.1, "steps": 150, "lr": 0.02, "batch_size": 50, "seed": 1}
        found.append(minimise_norm(network, images, labels, loss="cross-entropy", progress=False, **options))
    assert found[0].loss == found[1].loss < 0.3
    assert found[0].share == pytest.approx(found[0].loss / math.log(2), rel=0.02)
    network = CircularCNN(1, 4, 2, 2, 4, pooled=True)
    other = minimise_norm(network, images, labels, loss="cross-entropy", progress=False, **options | {"seed": 2})
    assert other.loss != found[0].loss


def test_an_interrupted_training_keeps_what_it_reached(monkeypatch):
    x, y = line()
    steps = []
    own = minimum_norm._Descent.step

    def step(self, *batch):
        if len(steps) == 5:
            raise KeyboardInterrupt
        steps.append(1)
        own(self, *batch)

    monkeypatch.setattr(minimum_norm._Descent, "step", step)
    network = scalar()
    run = minimise_norm(network, x, y, penalty=0.1, steps=50, lr=0.1, progress=False)
    assert not run.complete
    assert run.steps == 5
    assert math.isfinite(run.loss)
    assert run.norm == pytest.approx(float(network.weight.detach()) ** 2)
    assert network.weight.grad is None


def test_wrong_arguments_are_named():
    x, y = line(4)
    for wrong, message in (
        ({"loss": "mse"}, "got 'mse'"),
        ({"steps": 0}, "at least one step"),
        ({"penalty": -1.0}, "penalty of at least 0"),
        ({"tau": 0.1, "penalty": 0.0}, "with tau, a positive tau and penalty"),
        ({"tau": -0.1}, "tau=-0.1"),
        ({"lr": 0.0}, "positive lr"),
        ({"batch_size": 0}, "batch_size=0"),
    ):
        with pytest.raises(ValueError, match=message):
            minimise_norm(scalar(), x, y, **{"penalty": 0.1, "steps": 5, "progress": False} | wrong)
    with pytest.raises(ValueError, match="got 4 and 3"):
        minimise_norm(scalar(), x, y[:3], penalty=0.1, steps=5, progress=False)
    with pytest.raises(ValueError, match="cannot meet targets"):
        minimise_norm(scalar(), x, y[:, 0], penalty=0.1, steps=5, progress=False)


def test_tiny_numbers_are_numbers_again_after_training():
    tiny = torch.tensor(1e-40)
    minimise_norm(scalar(), *line(), penalty=0.5, steps=3, progress=False)
    assert tiny * 1
    torch.set_flush_denormal(True)
    try:
        minimise_norm(scalar(), *line(), penalty=0.5, steps=3, progress=False)
        assert not tiny * 1
    finally:
        torch.set_flush_denormal(False)


def test_plain_steps_follow_the_gradient_as_it_is():
    x, y = line()
    network, w, m = scalar(), 1.0, float(x.square().mean())
    minimise_norm(network, x, y, penalty=0.3, steps=5, lr=0.1, plain=True, progress=False)
    for _ in range(5):
        w -= 0.1 * (2 * m * (w - 2) + 2 * 0.3 * w)
    assert float(network.weight.detach()) == pytest.approx(w, rel=1e-5)
