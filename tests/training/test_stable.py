"""The learning rate follows from the curvature of the loss."""

import pytest
import torch
from torch import nn

from convscope.training.linear import dense
from convscope.training.stable import stable_lr


def test_curvature_is_the_largest_of_the_hessian():
    generator = torch.Generator().manual_seed(0)
    images, labels = torch.rand(30, 1, 8, 8, generator=generator, dtype=torch.float64), torch.arange(30) % 10
    torch.manual_seed(0)
    network = dense((1, 8, 8), 10, (2,), linear=True).double()
    weights = dict(network.named_parameters())
    sizes = [w.numel() for w in weights.values()]

    def loss(flat):
        parts = [p.view_as(w) for p, w in zip(flat.split(sizes), weights.values(), strict=True)]
        found = torch.func.functional_call(network, dict(zip(weights, parts, strict=True)), images)
        return (found - nn.functional.one_hot(labels, 10)).square().sum() / 60

    hessian = torch.autograd.functional.hessian(loss, torch.cat([w.detach().flatten() for w in weights.values()]))
    largest = float(torch.linalg.eigvalsh(hessian).abs().max())
    assert stable_lr(network, images, labels, 0.0, 1.0) == pytest.approx(1 / largest, rel=0.02)
    assert stable_lr(network, images, labels, 1e3, 0.5, momentum=0.9) == pytest.approx(0.5e-4)
    assert all(w.grad is None for w in network.parameters())
