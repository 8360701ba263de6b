"""Networks trained on the spot: linear ones follow the prediction, others are measured."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from sklearn.datasets import load_digits
from torch import nn

from convscope.core.errors import ConvscopeError
from convscope.dynamics.collect import dataset_structure
from convscope.dynamics.exact import integrate
from convscope.dynamics.linear import LinearCNN
from convscope.dynamics.monitor import ModeMonitor
from convscope.dynamics.training import _End, train_and_measure
from convscope.training.linear import ConvLinear, dense, normal_
from convscope.training.loop import train


def digits(n=1797):
    data = load_digits()
    return torch.from_numpy(data.images[:n])[:, None] / 16, torch.from_numpy(data.target[:n])


@pytest.mark.parametrize("size", [{}, {"kernel_size": 3, "filters": 2, "padding": "zeros"}])
def test_a_linear_network_follows_the_exact_dynamics_with_an_error_as_its_learning_rate(size):
    images, labels = digits(300)
    images -= images.mean(0)
    structure, errors, exact = dataset_structure([(images, labels)]), [], None
    for lr in (0.1, 0.2):
        torch.manual_seed(0)
        network = ConvLinear((1, 8, 8), 10, **size, std=0.03).double()
        theirs = LinearCNN.of(network.conv, network.linear, (1, 8, 8))
        monitor = ModeMonitor(network, (images, labels), structure=structure, every=round(0.8 / lr))
        steps = round(9.6 / lr)
        settings = {"epochs": steps, "lr": lr, "batch_size": 300, "loss": "squared", "progress": False}
        train(network, images, labels, **settings, callbacks=[monitor])
        exact = exact or integrate(structure, theirs, times=monitor.steps * lr)
        away = (monitor.mode_strengths - exact.mode_strengths).abs().max()
        errors.append(float(away / structure.singular_values[0]))
    assert errors[0] < 0.05
    assert errors[1] / errors[0] == pytest.approx(2, rel=0.2)


@pytest.mark.parametrize("kind", ["linear-cnn", "linear-mlp"])
def test_linear_networks_beside_their_prediction(kind):
    images, labels = digits()
    found = train_and_measure(kind, images, labels, init_std=1e-2, progress=False)
    assert found.complete
    assert found.kind == kind
    assert found.loss == "squared"
    assert found.batch_size == found.images == 1797
    assert found.half_times.isfinite().all()
    torch.testing.assert_close(found.half_times, found.predicted.half_times, rtol=0.05, atol=0)
    torch.testing.assert_close(found.times, found.steps * found.lr)
    torch.testing.assert_close(found.targets, found.structure.singular_values)
    assert float(found.times[-1]) >= 1.1 * float(found.half_times.max())
    # What the network uses is what the theory's own maps use.
    maps = torch.einsum("mo,mochw->mchw", found.structure.class_vectors, found.predicted.maps)
    cosine = nn.functional.cosine_similarity(found.used.maps.flatten(1), maps.flatten(1))
    assert float(cosine.min()) > 0.98


@pytest.mark.parametrize(("kind", "loss"), [("cnn", "squared"), ("mlp", "cross-entropy")])
def test_networks_with_relus_learn_modes_in_about_their_order(kind, loss):
    images, labels = digits(500)
    found = train_and_measure(kind, images, labels, loss=loss, momentum=0.5, steps=300, progress=False)
    assert found.predicted is None
    assert found.batch_size == 128
    assert found.accuracy > 0.7
    known = found.half_times.isfinite()
    assert known.sum() >= 8
    assert spearmanr(found.half_times[known], 1 / found.structure.singular_values[known])[0] > 0.6
    torch.testing.assert_close(found.times, found.steps * found.lr / 0.5)
    assert found.used.participation_ratio[known].isfinite().all()


def test_the_same_seed_is_the_same_run():
    images, labels = digits(200)
    state = torch.get_rng_state()
    runs = [train_and_measure("mlp", images, labels, steps=4, seed=seed, progress=False) for seed in (1, 1, 2)]
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(runs[0].mode_strengths, runs[1].mode_strengths)
    assert not torch.equal(runs[0].mode_strengths, runs[2].mode_strengths)
    assert runs[0].steps.tolist() == [0, 1, 2, 3, 4]
    assert runs[0].complete


def test_an_interrupt_keeps_what_was_measured(monkeypatch):
    def interrupt(self, moment):
        if moment.step == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(_End, "stepped", interrupt)
    found = train_and_measure("mlp", *digits(200), progress=False)
    assert not found.complete
    assert found.steps.tolist() == [0, 1, 2, 3]


def test_colours_in_any_unit_have_a_stable_learning_rate():
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(200) % 3
    images = torch.randn(200, 3, 6, 6, generator=generator) + 3 * torch.randn(3, 3, 1, 1, generator=generator)[labels]
    for scale in (1e-2, 255.0):
        for kind in ("linear-cnn", "cnn"):
            found = train_and_measure(kind, scale * images, labels, init_std=1e-2 / scale, steps=60, progress=False)
            assert found.mode_strengths.isfinite().all()
            # Modes of an unfitting learning rate grow without bound.
            assert float((found.mode_strengths / found.targets).abs().max()) < 2


def test_large_images_have_the_closed_form_or_none_and_it_is_said():
    images, labels = torch.rand(12, 1, 40, 40, generator=torch.Generator().manual_seed(0)), torch.arange(12) % 2
    found = train_and_measure("linear-cnn", images, labels, steps=3, progress=False)
    assert found.predicted.method == "closed-form"
    assert any("closed form" in note for note in found.notes)
    found = train_and_measure("linear-cnn", images, labels, steps=3, kernel_size=3, progress=False)
    assert found.predicted is None
    assert any("no quick prediction" in note for note in found.notes)


def test_images_without_a_label_are_left_out():
    images, labels = digits(50)
    labels[:10] = -1
    assert train_and_measure("mlp", images, labels, steps=2, progress=False).images == 40


def test_the_network_of_a_user_is_trained_from_its_weights():
    torch.manual_seed(0)
    network = dense((1, 8, 8), 10, (4,), linear=True)
    normal_(network, 0.1)
    before = network[1].weight.detach().clone()
    found = train_and_measure(network, *digits(200), steps=3, batch_size=200, progress=False)
    assert found.kind == "Sequential"
    assert found.predicted.method == "exact"
    assert not torch.equal(network[1].weight, before)
    at = np.interp(found.times, found.predicted.times, found.predicted.mode_strengths[:, 0])
    assert float(found.mode_strengths[-1, 0]) == pytest.approx(at[-1], rel=0.1)


@pytest.mark.parametrize(
    ("arguments", "error", "match"),
    [
        (("transformer", *digits(50)), ValueError, "network must be one of cnn, linear-cnn, mlp, linear-mlp"),
        (("mlp", digits(50)[0], digits(40)[1]), ValueError, "images must be .n, c, h, w. and labels .n."),
        (("mlp", digits(50)[0], torch.zeros(50).long()), ConvscopeError, "one class"),
        ((nn.Sequential(nn.Flatten(), nn.Linear(64, 4)), *digits(50)), ConvscopeError, "4 outputs"),
    ],
)
def test_what_cannot_be_trained_is_refused(arguments, error, match):
    with pytest.raises(error, match=match):
        train_and_measure(*arguments, steps=2, progress=False)


def test_no_steps_are_refused():
    with pytest.raises(ValueError, match="steps must be at least 1"):
        train_and_measure("mlp", *digits(50), steps=0)
    assert math.isfinite(train_and_measure("mlp", *digits(50), steps=1, progress=False).lr)
