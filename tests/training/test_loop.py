"""The training loop: reproducible, remembers its start, leaves the caller's world as it was."""

import math

import pytest
import torch
from torch import nn

from convscope.training.loop import Moment, Snapshots, accuracy, relabel, train
from convscope.training.networks import SmallVGG


def data(n=60, seed=0):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % 3
    images = torch.randn(n, 2, 8, 8, generator=generator)
    images[:, 0] += 2.0 * labels[:, None, None] - 2.0
    return images, labels


def network(seed=0, dropout=False):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = SmallVGG(3, 2, (4, 6), 8)
    return nn.Sequential(net, nn.Dropout(0.2)) if dropout else net


def equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


@pytest.mark.parametrize("optimiser", ["sgd", "adam"])
def test_learns(optimiser):
    images, labels = data()
    net = network()
    run = train(
        net, images, labels, epochs=12, lr=0.02, momentum=0.9, batch_size=10, optimiser=optimiser, progress=False
    )
    assert run.complete
    assert run.steps == 12 * 6
    assert len(run.history) == 12
    assert run.history[-1].loss < run.history[0].loss
    assert accuracy(net, images, labels) > 0.9


def test_same_seed_same_run_and_other_seed_another():
    images, labels = data()
    settings = {"epochs": 2, "batch_size": 10, "progress": False}
    runs = [train(network(dropout=True), images, labels, seed=s, **settings) for s in (5, 5, 6)]
    assert equal(runs[0].final, runs[1].final)
    assert [e.loss for e in runs[0].history] == [e.loss for e in runs[1].history]
    assert not equal(runs[0].final, runs[2].final)


def test_initial_and_final_are_copies_of_what_the_network_was_and_is():
    images, labels = data()
    net = network()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    run = train(net, images, labels, epochs=1, batch_size=10, progress=False)
    assert equal(run.initial, before)
    assert equal(run.final, net.state_dict())
    assert not torch.equal(run.initial["features.0.weight"], run.final["features.0.weight"])
    assert all(v.is_contiguous() for v in (*run.initial.values(), *run.final.values(), *net.state_dict().values()))
    net.features[0].weight.data.zero_()
    assert run.final["features.0.weight"].any()


def test_restores_random_state_mode_and_gradients():
    images, labels = data()
    net = network(dropout=True).eval()
    torch.manual_seed(3)
    state = torch.get_rng_state()

    class Draws:
        def started(self, moment):
            torch.rand(5)

        stepped = finished_epoch = started

    run = train(net, images, labels, epochs=1, batch_size=10, progress=False, callbacks=[Draws()])
    assert torch.equal(torch.get_rng_state(), state)
    assert not net.training
    assert all(p.grad is None for p in net.parameters())
    assert equal(run.final, train(network(dropout=True), images, labels, epochs=1, batch_size=10, progress=False).final)


def test_callbacks_hear_of_everything_in_order():
    images, labels = data()
    heard = []

    class Ear:
        def started(self, moment: Moment):
            assert math.isnan(moment.loss)
            heard.append(("start", moment.step, moment.epoch))

        def stepped(self, moment: Moment):
            heard.append(("step", moment.step, moment.epoch))

        def finished_epoch(self, moment: Moment):
            heard.append(("epoch", moment.step, moment.epoch))

    train(network(), images, labels, epochs=2, batch_size=25, progress=False, callbacks=[Ear()])
    assert heard == [
        ("start", 0, 0),
        ("step", 1, 0), ("step", 2, 0), ("epoch", 2, 1),
        ("step", 3, 1), ("step", 4, 1), ("epoch", 4, 2),
    ]  # fmt: skip


def test_interrupt_returns_what_was_reached():
    images, labels = data()

    class Interrupt(Snapshots):
        def stepped(self, moment):
            if moment.step == 8:
                raise KeyboardInterrupt

    net = network()
    run = train(net, images, labels, epochs=5, batch_size=10, progress=False, callbacks=[Interrupt([], [])])
    assert not run.complete
    assert run.steps == 8
    assert len(run.history) == 1
    assert equal(run.final, net.state_dict())


def test_snapshots_keep_copies():
    images, labels = data()
    kept = Snapshots(["features.0.weight"], [0, 2])
    run = train(network(), images, labels, epochs=3, batch_size=10, progress=False, callbacks=[kept])
    assert sorted(kept.kept) == [0, 2]
    assert torch.equal(kept.kept[0]["features.0.weight"], run.initial["features.0.weight"])
    assert not torch.equal(kept.kept[2]["features.0.weight"], run.final["features.0.weight"])


def test_relabel():
    labels = torch.tensor([0] * 50 + [1] * 30 + [2] * 20)
    permuted = relabel(labels, "permuted", 1)
    assert torch.equal(permuted.bincount(), labels.bincount())
    assert not torch.equal(permuted, labels)
    assert torch.equal(permuted, relabel(labels, "permuted", 1))
    assert torch.equal(relabel(labels, "true"), labels)
    random = relabel(labels, "random", 1)
    assert set(random.tolist()) == {0, 1, 2}
    assert not torch.equal(random.bincount(), labels.bincount())
    with pytest.raises(ValueError, match="kind"):
        relabel(labels, "other")


def test_accuracy_keeps_the_mode_and_is_nan_without_images():
    images, labels = data()
    net = network().train()
    assert 0 <= accuracy(net, images, labels, batch_size=7) <= 1
    assert net.training
    assert math.isnan(accuracy(net, images[:0], labels[:0]))


@pytest.mark.parametrize(
    "change", [{"labels": torch.zeros(3)}, {"epochs": -1}, {"lr": 0.0}, {"batch_size": 0}, {"optimiser": "lbfgs"}]
)
def test_refuses(change):
    images, labels = data()
    arguments = {"images": images, "labels": labels, "epochs": 1, "progress": False} | change
    with pytest.raises(ValueError, match=r"must|need at least"):
        train(network(), **arguments)


def test_squared_loss_is_gradient_descent_on_half_the_squared_error():
    images, labels = data(n=12)
    images, weight = images.double(), torch.randn(3, 128, generator=torch.Generator().manual_seed(1)).double()
    net = nn.Sequential(nn.Flatten(), nn.Linear(128, 3, bias=False)).double()
    net[1].weight.data.copy_(weight)
    run = train(net, images, labels, epochs=3, lr=0.01, batch_size=12, loss="squared", progress=False)
    x, y = images.flatten(1), nn.functional.one_hot(labels).double()
    for epoch in run.history:
        error = x @ weight.T - y
        assert epoch.loss == pytest.approx(float(error.square().sum()) / 24, rel=1e-12)
        weight = weight - 0.01 * error.T @ x / 12
    torch.testing.assert_close(net[1].weight.detach(), weight, rtol=1e-12, atol=1e-12)
    assert run.steps == 3


def test_an_unknown_loss_is_refused():
    with pytest.raises(ValueError, match="'cross-entropy' or 'squared', got 'hinge'"):
        train(network(), *data(), epochs=1, loss="hinge")
