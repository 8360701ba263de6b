import pytest
import torch
from torch import nn

from convscope import dataset_structure, predict_dynamics
from convscope.dynamics.linear import LinearCNN
from convscope.dynamics.predict import suitable_method


def structure_of(n=40, c=1, h=4, w=4, outputs=3, **options):
    generator = torch.Generator().manual_seed(0)
    images, labels = torch.rand(n, c, h, w, generator=generator), torch.arange(n) % outputs
    return dataset_structure([(images + 0.3 * (labels == 1)[:, None, None, None], labels)], **options)


@pytest.mark.parametrize("method", ["exact", "stages", "closed-form", "independent"])
def test_every_method_learns_the_modes(method):
    structure = structure_of()
    found = predict_dynamics(structure, method=method, init_std=1e-6)
    assert found.method == method
    assert found.half_times.isfinite().all()
    torch.testing.assert_close(found.mode_strengths[-1, 0], structure.singular_values[0], rtol=0.1, atol=0)
    times = torch.linspace(0, 1.1 * float(found.half_times.max()), 7, dtype=torch.float64)
    again = predict_dynamics(structure, method=method, init_std=1e-6, times=times)
    torch.testing.assert_close(again.times, times)
    assert again.mode_strengths.shape == (7, len(structure.singular_values))
    assert (again.mode_strengths[0] < structure.singular_values / 2).all()
    torch.testing.assert_close(again.half_times, found.half_times, rtol=1e-4, atol=0)


def test_weights_of_layers_are_read_and_left_as_they_are():
    structure = structure_of(c=2, h=5)
    conv = nn.Conv2d(2, 3, (5, 4), padding="same", padding_mode="circular", bias=False)
    head = nn.Linear(3 * 20, 3, bias=False)
    for layer in (conv, head):
        nn.init.normal_(layer.weight, std=1e-3)
    before = conv.weight.detach().clone()
    for method in ("exact", "stages", "closed-form", "independent"):
        assert predict_dynamics(structure, method=method, conv=conv, head=head).half_times[0].isfinite()
    assert torch.equal(conv.weight, before)
    assert conv.weight.requires_grad


@pytest.mark.parametrize("change", [{"kernel_size": 3, "channels": 2}, {"padding": "zeros"}])
def test_exact_covers_other_networks(change):
    assert predict_dynamics(structure_of(), init_std=1e-2, **change).half_times[0].isfinite()


def test_exact_covers_deeper_networks():
    times = torch.linspace(0, 400, 9, dtype=torch.float64)
    found = predict_dynamics(structure_of(), init_std=0.1, depth=3, times=times)
    assert found.half_times[0].isfinite()


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"depth": 3}, "of depth 3 grows ever faster .* give times"),
        ({"method": "fast"}, "method must be one of exact, stages, closed-form, independent, got 'fast'"),
        ({"conv": nn.Conv2d(1, 1, 3)}, "conv and head go together"),
        (
            {"conv": nn.Conv2d(1, 1, 4, bias=False), "head": nn.Linear(1, 3, bias=False), "init_std": 1e-3},
            "leave it out beside conv and head",
        ),
    ],
)
def test_bad_input_is_said(change, match):
    with pytest.raises(ValueError, match=match):
        predict_dynamics(structure_of(), **change)


@pytest.mark.parametrize(
    ("options", "network", "expected"),
    [
        ({}, {}, "exact"),
        ({"covariance": False}, {}, "closed-form"),
        ({}, {"kernel_size": 3}, "exact"),
        ({"c": 3, "h": 20, "w": 20}, {"init_std": 1e-8}, "stages"),
        ({"c": 3, "h": 20, "w": 20}, {"init_std": 1e-2}, "exact"),
    ],
)
def test_which_method_suits(options, network, expected):
    structure = structure_of(**options)
    drawn = LinearCNN.drawn(structure.image_shape, 3, **({"init_std": 1e-4} | network))
    method, reason = suitable_method(structure, drawn)
    assert method == expected
    assert reason
