"""The monitor records what loops over images say, costs nothing but time, and says what it cannot measure."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import mode_strengths as oracle
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from convscope.core.errors import ConvscopeError
from convscope.dynamics import probes
from convscope.dynamics.collect import dataset_structure
from convscope.dynamics.halves import half_times
from convscope.dynamics.monitor import ModeMonitor
from convscope.training.loop import train


def data(n=60, c=1, h=5, w=4, outputs=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % outputs
    images = 2 + torch.randn(n, c, h, w, generator=generator)
    images[labels == 1, :, -1] += 0.7
    images[labels == 2, :, :, 0] -= 0.4
    return images, labels


def model(c=1, h=5, w=4, outputs=3, seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Conv2d(c, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(4 * h * w, outputs))


@settings(max_examples=20, deadline=None)
@given(st.data())
def test_is_what_loops_over_images_say(given):
    draw = given.draw
    c, h, w, outputs = (draw(st.integers(*ends)) for ends in ((1, 3), (1, 5), (2, 5), (2, 4)))
    n, center, extra = draw(st.integers(outputs + 2, 30)), draw(st.booleans()), draw(st.integers(0, 2))
    readout = draw(st.sampled_from(["logits", "probabilities"]))
    images, labels = data(n, c, h, w, outputs, draw(st.integers(0, 99)))
    net = model(c, h, w, outputs + extra)
    monitor = ModeMonitor(net, [(images, labels)], outputs=readout, center=center, batch_size=draw(st.integers(1, 40)))
    outputs = net(images).detach()
    structure = monitor.structure
    expected = oracle.mode_matrix(
        outputs.softmax(1) if readout == "probabilities" else outputs,
        images,
        structure.class_vectors,
        structure.modes,
        center,
    )
    np.testing.assert_allclose(monitor.mode_strengths[0], np.diag(expected), atol=1e-5)
    off = np.linalg.norm(expected - np.diag(np.diag(expected)))
    assert float(monitor.off_diagonal[0]) == pytest.approx(off, abs=1e-5)
    torch.testing.assert_close(monitor.targets, structure.singular_values)


def test_a_network_that_knows_the_labels_has_the_targets_also_on_other_images():
    images, labels = data(40, outputs=3)
    known = {tuple(image.flatten().tolist()): y for image, y in zip(images, labels, strict=True)}

    class Knows(nn.Module):
        def forward(self, x):
            return torch.stack([nn.functional.one_hot(known[tuple(i.flatten().tolist())], 3).float() for i in x])

    monitor = ModeMonitor(Knows(), (images, labels), structure=dataset_structure([data(90, seed=5)]))
    torch.testing.assert_close(monitor.mode_strengths[0], monitor.targets)
    assert not torch.allclose(monitor.targets, monitor.structure.singular_values, rtol=0.01)
    assert monitor.half_times.tolist() == [0, 0]


def test_a_loop_by_hand_and_a_callback_record_the_same():
    images, labels = data()
    net = model()
    settings = {"epochs": 5, "lr": 0.1, "batch_size": 60, "progress": False}
    monitor = ModeMonitor(net, DataLoader(TensorDataset(images, labels), 16), every=1)
    run = train(net, images, labels, **settings, callbacks=[monitor])
    other = model()
    by_hand = ModeMonitor(other, (images, labels))
    rule = torch.optim.SGD(other.parameters(), 0.1)
    for _ in range(5):
        rule.zero_grad()
        nn.functional.cross_entropy(other(images), labels).backward()
        rule.step()
        shown = by_hand()
    assert monitor.steps.tolist() == by_hand.steps.tolist() == [0, 1, 2, 3, 4, 5]
    torch.testing.assert_close(monitor.mode_strengths, by_hand.mode_strengths, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(shown, by_hand.mode_strengths[-1])
    plain = model()
    again = train(plain, images, labels, **settings)
    assert all(torch.equal(run.final[k], again.final[k]) for k in run.final)
    train(net, images, labels, **settings, callbacks=[monitor])  # a second training counts on
    assert monitor.steps.tolist() == list(range(11))


def test_records_become_rarer_unless_told_otherwise():
    images, labels = data()
    recorded = {}
    for every in (None, 7):
        net = model()
        monitor = ModeMonitor(net, (images, labels), every=every)
        train(net, images, labels, epochs=100, lr=0.01, batch_size=60, progress=False, callbacks=[monitor])
        recorded[every] = monitor.steps.tolist()
    assert recorded[7] == list(range(0, 100, 7))
    gaps = np.diff(recorded[None])
    assert recorded[None][:11] == list(range(11))
    assert (np.diff(gaps) >= 0).all()
    assert 7 <= gaps[-1] <= 9


def test_leaves_everything_as_found():
    images, labels = data()
    net = nn.Sequential(nn.BatchNorm2d(1), nn.ReLU(inplace=True), nn.Dropout(0.5), nn.Flatten(), nn.Linear(20, 3))
    net.train()
    net[4].eval()
    net(images).sum().backward()
    grads = [p.grad.clone() for p in net.parameters()]
    state = {k: v.clone() for k, v in net.state_dict().items()}
    random, before = torch.get_rng_state(), images.clone()
    monitor = ModeMonitor(net, (images, labels), jacobian=True)
    with torch.no_grad():
        assert torch.equal(monitor(), monitor())
    monitor.used_now()
    assert torch.equal(torch.get_rng_state(), random)
    assert [m.training for m in net] == [True, True, True, True, False]
    assert all(torch.equal(p.grad, g) for p, g in zip(net.parameters(), grads, strict=True))
    assert all(torch.equal(v, state[k]) for k, v in net.state_dict().items())
    assert all(p.requires_grad for p in net.parameters())
    assert torch.equal(images, before)
    assert not images.requires_grad


@given(
    st.lists(st.integers(1, 9), min_size=1, max_size=12), st.integers(0, 99), st.floats(0.1, 3.0, allow_subnormal=False)
)
@settings(max_examples=50, deadline=None)
def test_half_times_are_first_crossings(gaps, seed, target):
    steps = np.concatenate([[0], np.cumsum(gaps)])
    strengths = np.random.default_rng(seed).normal(size=(len(steps), 2)).cumsum(0)
    found = half_times(
        torch.from_numpy(steps), torch.from_numpy(strengths), torch.full((2,), target, dtype=torch.float64)
    )
    for mode in range(2):
        assert float(found[mode]) == pytest.approx(oracle.first_half(steps, strengths[:, mode], target))


def test_half_times_without_a_target_or_a_number():
    strengths = torch.tensor([[0.0, 0.0], [math.nan, math.nan], [1.0, 1.0]])
    assert half_times(torch.arange(3), strengths, torch.tensor([1.0, -1.0])).tolist() == [1, math.inf]


def test_one_row_a_record_and_mode_and_the_cost_is_told():
    monitor = ModeMonitor(model(), data())
    monitor(10)
    frame = monitor.to_frame()
    assert list(frame.columns) == ["step", "mode", "strength", "share"]
    assert frame.step.tolist() == [0, 0, 10, 10]
    assert frame["mode"].tolist() == [1, 2, 1, 2]
    assert frame.share[3] == pytest.approx(frame.strength[3] / float(monitor.targets[1]))
    assert monitor.cost.startswith("2 records of 60 images took ")
    assert monitor.cost in repr(monitor)
    assert monitor.seconds > 0
    monitor(10)  # the same step again takes the place of the last record
    assert monitor.steps.tolist() == [0, 10]
    with pytest.raises(ValueError, match="got 9 after 10"):
        monitor.record(9)


def test_images_go_through_prepare():
    images, labels = data()
    plain = ModeMonitor(model(), (images, labels))
    net = model()
    shifted = ModeMonitor(net, (images * 4 - 1, labels), prepare=lambda x: (x + 1) / 4)
    torch.testing.assert_close(shifted.mode_strengths, 4 * plain.mode_strengths, rtol=1e-4, atol=1e-5)


def test_outputs_that_are_not_finite_are_said():
    net = model()
    monitor = ModeMonitor(net, data())
    before = list(monitor.notes)
    net[3].weight.data.fill_(math.nan)
    assert monitor(5).isnan().all()
    monitor(6)
    assert math.isnan(float(monitor.off_diagonal[-1]))
    assert monitor.notes == [*before, "outputs were not finite at step 5: has the training diverged?"]
    assert "60 images are few" in monitor.notes[0]
    assert not monitor.half_times.isnan().any()


def test_images_that_do_not_serve_are_left_out_and_said():
    images, labels = data()
    images[5, 0, 0, 0] = math.nan
    monitor = ModeMonitor(model(), [(images, labels), images[:4]])
    assert monitor.images == 59
    assert monitor.notes[0] == "4 images without a label were left out"
    assert monitor.notes[1] == "1 images that hold NaN or infinite pixels were left out"


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda x, y: ModeMonitor(model(outputs=2), (x, y)), "2 outputs, but labels go up to 2"),
        (lambda x, y: ModeMonitor(model(), (x[:, :, :4], y)), "fails on images of shape 1x4x4"),
        (lambda x, y: ModeMonitor(model(), (x, y * 0)), "one class"),
        (lambda x, y: ModeMonitor(model(), x), "no image of the probe set has a label"),
        (lambda x, y: ModeMonitor(model(), [(x, y), (x[:, :, :4], y)]), "differ in size: 1x4x4 after 1x5x4"),
        (lambda x, y: ModeMonitor(nn.Identity(), (x, y)), "class scores"),
        (lambda x, y: ModeMonitor(model(), (x, y), structure=dataset_structure([data(h=6)])), "the structure is that"),
        (
            lambda x, y: ModeMonitor(model(), (x, y), structure=dataset_structure([data(outputs=2)])),
            "label 2, but the structure is that of 2 classes",
        ),
    ],
)
def test_what_cannot_be_measured_is_refused(make, match):
    with pytest.raises(ConvscopeError, match=match):
        make(*data())


def test_too_many_images_are_refused(monkeypatch):
    monkeypatch.setattr(probes, "LARGEST", 2000)
    with pytest.raises(ConvscopeError, match="a few thousand images are enough"):
        ModeMonitor(model(), data())


@pytest.mark.parametrize("change", [{"outputs": "scores"}, {"every": 0}, {"batch_size": 0}])
def test_arguments_out_of_range_are_refused(change):
    with pytest.raises(ValueError, match="must be"):
        ModeMonitor(model(), data(), **change)
