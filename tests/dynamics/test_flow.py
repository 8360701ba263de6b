import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import linear_dynamics as oracle
from sklearn.datasets import load_digits
from torch import nn

from convscope.core.errors import ConvscopeError
from convscope.dynamics.collect import dataset_structure
from convscope.dynamics.exact import escape_rate, integrate
from convscope.dynamics.flow import DenseFlow, flow_of, pull, strengths_of
from convscope.dynamics.linear import Dense, LinearCNN
from convscope.dynamics.trajectory import steps_of


def problem(n=40, c=1, h=5, w=4, outputs=3, seed=0, center=True):
    """Images and one-hot labels, both as the structure's moments see them, and the structure."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(n, c, h, w, generator=generator, dtype=torch.float64)
    labels = torch.arange(n) % outputs
    images[labels == 1, :, -1] += 1
    structure = dataset_structure([(images, labels)], center=center)
    targets = torch.eye(outputs, dtype=torch.float64)[labels]
    if center:
        images, targets = images - images.mean(0), targets - targets.mean(0)
    return images, targets, structure


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_velocity_is_minus_the_gradient_of_a_real_network(given):
    draw = given.draw
    c, h, w, k, outputs = (draw(st.integers(*ends)) for ends in ((1, 3), (3, 6), (3, 6), (1, 3), (2, 4)))
    padding, full = draw(st.sampled_from(["circular", "zeros"])), draw(st.booleans())
    depth = draw(st.integers(2, 4)) if padding == "circular" else 2
    images, targets, structure = problem(20, c, h, w, outputs, draw(st.integers(0, 99)))
    size = None if full else draw(st.integers(1, 3))
    network = LinearCNN.drawn(
        (c, h, w), outputs, 1.0, channels=k, kernel_size=size, padding=padding, depth=depth, seed=1
    )
    flow = flow_of(network, (c, h, w))
    effective = flow.effective(network.weights)
    found = flow.velocity(network.weights, pull(structure, effective))
    expected = oracle.loss_gradients(network.weights, images, targets, padding, network.before)
    scale = max(float(x.abs().max()) for x in expected)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, -theirs, rtol=1e-10, atol=1e-10 * scale)
    outputs_ = oracle.outputs_of(network.weights, images, padding, network.before)
    torch.testing.assert_close(images.flatten(1) @ effective.flatten(1).T, outputs_, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("size", [3, 4, (2, 5), None])
@pytest.mark.parametrize(("mode", "padding"), [("circular", "same"), ("zeros", "same"), ("zeros", 0), ("zeros", 2)])
def test_layers_of_pytorch_are_read_with_their_anchor(size, mode, padding):
    shape = (2, 6, 7)
    conv = nn.Conv2d(2, 3, size or (6, 7), padding=padding, padding_mode=mode, bias=False)
    images = torch.randn(4, *shape)
    out = conv(images)
    head = nn.Linear(out[0].numel(), 5, bias=False)
    network = LinearCNN.of(conv, head, shape)
    effective = flow_of(network, shape).effective(network.weights)
    expected = head(out.flatten(1)).detach()
    torch.testing.assert_close((images.flatten(1).double() @ effective.flatten(1).T).float(), expected)


@pytest.mark.parametrize(
    ("conv", "match"),
    [
        (nn.Conv2d(1, 1, 3), "without bias"),
        (nn.Conv2d(1, 1, 3, stride=2, bias=False), "stride 1, got"),
        (nn.Conv2d(1, 1, 3, dilation=2, bias=False), "dilation 1, got"),
        (nn.Conv2d(2, 2, 3, groups=2, bias=False), "groups 1, got 2"),
        (nn.Conv2d(3, 1, 3, bias=False), "takes 3 channels, but images have 1"),
        (nn.Conv2d(1, 1, 3, padding=1, padding_mode="reflect", bias=False), "got reflect"),
        (nn.Conv2d(1, 1, 3, padding=2, padding_mode="circular", bias=False), "must keep the images' size"),
        (nn.Conv2d(1, 1, 9, bias=False), "does not fit"),
        (nn.Conv2d(1, 1, 3, bias=False), "takes 7 numbers, but the convolution returns 1x4x4"),
    ],
)
def test_other_layers_are_refused(conv, match):
    with pytest.raises(ValueError, match=match):
        LinearCNN.of(conv, nn.Linear(7, 2, bias=False), (1, 6, 6))


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"init_std": 0.0}, "init_std must be positive"),
        ({"channels": 0}, "channels must be at least 1"),
        ({"kernel_size": 9}, "larger than the images"),
        ({"depth": 1}, "depth must be at least 2"),
        ({"padding": "reflect"}, "padding must be"),
        ({"padding": "zeros", "depth": 3}, "use circular padding"),
    ],
)
def test_networks_that_cannot_be_drawn_are_refused(change, match):
    with pytest.raises(ValueError, match=match):
        LinearCNN.drawn((1, 6, 6), 2, **({"init_std": 0.1} | change))


def test_error_of_gradient_descent_is_of_first_order():
    """So the dynamics are exact: what differs from them is proportional to the learning rate."""
    data = load_digits()
    images, labels = torch.from_numpy(data.images[:150])[:, None] / 16, torch.from_numpy(data.target[:150])
    structure = dataset_structure([(images, labels)])
    targets = F.one_hot(labels).double()
    images, targets = images - images.mean(0), targets - targets.mean(0)
    network = LinearCNN.drawn((1, 8, 8), 10, 0.03, channels=2, seed=3)
    end, found = 12.0, {}
    for lr in (0.04, 0.02):
        steps = round(end / lr)
        run = [
            strengths_of(structure, (out.T @ images.flatten(1) / len(images)).view_as(structure.cross))
            for out in oracle.descend(network.weights, images, targets, "circular", network.before, lr, steps)
        ]
        found[lr] = torch.stack(run)[:: round(1 / lr / 5)]
    exact = integrate(structure, network, times=torch.arange(len(found[0.02])) * 0.2).mode_strengths
    scale = structure.singular_values[0]
    errors = {lr: float((found[lr] - exact).abs().max() / scale) for lr in found}
    assert 1.9 < errors[0.04] / errors[0.02] < 2.1
    assert float((2 * found[0.02] - found[0.04] - exact).abs().max() / scale) < 1e-3


@pytest.mark.parametrize("channels", [1, 3])
def test_what_the_theory_says_is_conserved_is(channels):
    """conj(R_j) R_j^T - W_j^H W_j at each frequency j, for the filters' and the linear layer's transforms."""
    _, _, structure = problem(c=1, h=4, w=4)
    network = LinearCNN.drawn((1, 4, 4), 3, 1e-2, channels=channels)
    flow = flow_of(network, (1, 4, 4))

    def invariant(weights):
        r, w = (torch.fft.fft2(x).permute(2, 3, 0, 1) for x in weights)
        return r @ r.mH - (w.mH @ w)

    weights, before = network.weights, invariant(network.weights)

    def rate(weights):
        return flow.velocity(weights, pull(structure, flow.effective(weights)))

    def along(weights, moved, step):
        return tuple(w + step * v for w, v in zip(weights, moved, strict=True))

    for _ in range(1000):  # the classical method of Runge and Kutta
        first = rate(weights)
        second = rate(along(weights, first, 0.01))
        third = rate(along(weights, second, 0.01))
        fourth = rate(along(weights, third, 0.02))
        for moved, share in ((first, 1), (second, 2), (third, 2), (fourth, 1)):
            weights = along(weights, moved, 0.02 * share / 6)
    assert float(flow.effective(weights).norm()) > 10 * float(flow.effective(network.weights).norm())
    assert float((invariant(weights) - before).abs().max()) < 1e-6


def test_half_times_are_where_strengths_cross_and_maps_are_those_of_then():
    _, _, structure = problem(h=4, w=4)
    network = LinearCNN.drawn((1, 4, 4), 3, 1e-2)
    found = integrate(structure, network)
    assert found.half_times.isfinite().all()
    at = integrate(structure, network, times=found.half_times.sort().values).mode_strengths
    order = found.half_times.argsort()
    half = torch.stack([at[i, order[i]] for i in range(len(order))])
    torch.testing.assert_close(half, structure.singular_values[order] / 2, rtol=1e-5, atol=1e-8)
    for m, map_ in enumerate(found.maps):
        correlation = (map_.flatten(1) @ structure.covariance).view_as(structure.cross)
        assert float(strengths_of(structure, correlation)[m]) == pytest.approx(float(structure.singular_values[m]) / 2)


def test_a_network_that_cannot_learn_all_modes_stops():
    images, labels = torch.randn(60, 3, 3, 3, generator=torch.Generator().manual_seed(1)), torch.arange(60) % 4
    structure = dataset_structure([(images, labels)])
    found = integrate(structure, LinearCNN.drawn((3, 3, 3), 4, 1e-3, channels=1, kernel_size=1))
    assert found.half_times[0].isfinite()
    assert found.half_times.isinf().any()


def test_dense_network_learns_a_lone_mode_along_saxes_logistic():
    images = torch.stack([torch.ones(3, 3), -torch.ones(3, 3)])[:, None].double()
    images[:, :, 0, 0] *= 2
    structure = dataset_structure([(images, torch.arange(2))], center=False)
    s, u, v = structure.singular_values[0], structure.class_vectors[0], structure.modes[0].flatten()
    lam = float(v @ structure.covariance @ v)
    start = 1e-3
    found = integrate(structure, Dense(start * v[None], start * u[:, None]), times=torch.linspace(0, 12, 25))
    strength = lam * start**2
    expected = s / (1 + (s / strength - 1) * torch.exp(-2 * s * found.times))
    torch.testing.assert_close(found.mode_strengths[:, 0], expected, rtol=1e-4, atol=1e-8)


@pytest.mark.parametrize("padding", ["circular", "zeros"])
@pytest.mark.parametrize("size", [1, 2, 3, None])
def test_escape_rate_is_the_root_of_the_patches_second_moment(size, padding):
    """Of the class images, as the convolution sees them: summed over classes and positions."""
    _, _, structure = problem(c=2, h=4, w=4)
    network = LinearCNN.drawn((2, 4, 4), 3, 1.0, kernel_size=size, padding=padding)
    q, (top, left), side = network.kernels[0].shape[2], network.before, (4, 4)
    pad = (left, q - 1 - left, top, q - 1 - top)
    mode = {"mode": "circular"} if padding == "circular" else {}
    patches = nn.functional.unfold(nn.functional.pad(structure.cross, pad, **mode), q)
    moment = torch.einsum("opx,oqx->pq", patches, patches)
    expected = math.sqrt(float(torch.linalg.eigvalsh(moment)[-1]))
    found = escape_rate(flow_of(network, (2, *side)), [w.shape for w in network.weights], structure.cross, 400)
    assert found == pytest.approx(expected, rel=1e-6)
    if size is None and padding == "circular":
        assert found == pytest.approx(float(structure.growth_rates.max()), rel=1e-6)


def test_time_in_steps():
    assert float(steps_of(torch.tensor(3.0), 0.1)) == pytest.approx(30)
    assert float(steps_of(torch.tensor(3.0), 0.1, momentum=0.9, outputs=10)) == pytest.approx(15)
    for bad, match in (
        ({"lr": 0}, "positive"),
        ({"lr": 1, "momentum": 1}, "momentum"),
        ({"lr": 1, "outputs": 0}, "outp"),
    ):
        with pytest.raises(ValueError, match=match):
            steps_of(torch.tensor(1.0), **bad)


def test_bad_input_is_said():
    _, _, structure = problem()
    network = LinearCNN.drawn((1, 5, 4), 3, 0.1)
    with pytest.raises(ValueError, match="but classes and images are"):
        integrate(structure, LinearCNN.drawn((1, 5, 4), 4, 0.1))
    for times in ([2.0, 1.0], [-1.0], []):
        with pytest.raises(ValueError, match="times must be a rising list"):
            integrate(structure, network, times=torch.tensor(times))
    images, labels = torch.rand(9, 1, 5, 4), torch.arange(9) % 3
    with pytest.raises(ConvscopeError, match="the exact dynamics needs the covariance"):
        integrate(dataset_structure([(images, labels)], covariance=False), network)
    assert isinstance(flow_of(Dense.drawn((1, 5, 4), 3, 0.1, hidden=4), (1, 5, 4)), DenseFlow)
