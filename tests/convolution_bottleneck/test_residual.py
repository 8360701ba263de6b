from pathlib import Path

import numpy as np
import pytest
import torch
from oracles import bottleneck_patterns as oracle
from torch import nn

from convscope.bottleneck.interventions import module_outputs
from convscope.bottleneck.operators import ConvOperator
from convscope.bottleneck.residual import gate_rates, residual_map
from convscope.core.errors import ConvscopeError
from convscope.core.network import Network, following_norm
from convscope.inputs.networks import open_network
from convscope.papers.data import cifar10

DATA = Path(__file__).parents[3] / "shared" / "data"
WEIGHTS = DATA / "weights" / "resnet20_cifar10.safetensors"


def operators(k, between, side, groups=1):
    torch.manual_seed(side)
    options = {"padding": 1, "padding_mode": "circular", "bias": False}
    first = nn.Conv2d(k, between, 3, groups=groups, **options).double()
    second = nn.Conv2d(between, k, 3, groups=groups, **options).double()
    return first, second, [ConvOperator.of(c, side) for c in (first, second)]


@pytest.mark.parametrize(("k", "between", "side"), [(2, 3, 4), (3, 2, 5)])
def test_singular_values_are_those_of_the_whole_matrix(k, between, side):
    first, second, (a, b) = operators(k, between, side)
    gates = torch.rand(between).double()
    found = residual_map(a, b, gates)
    dense = [oracle.circular_matrix(c.weight.detach().numpy(), (side, side)) for c in (first, second)]
    branch = dense[1] @ np.diag(np.repeat(gates.numpy(), side**2)) @ dense[0]
    for values, matrix in [(found.branch_values, branch), (found.whole_values, branch + np.eye(len(branch)))]:
        union = values.repeat_interleave(found.multiplicity, 0).flatten().sort(descending=True).values
        np.testing.assert_allclose(union.numpy(), np.linalg.svd(matrix, compute_uv=False), atol=1e-9)


@pytest.mark.parametrize("groups", [1, 2])
def test_an_open_branch_is_the_linear_block(groups):
    first, second, (a, b) = operators(4, 6, 6, groups)
    factors = torch.rand(6).double() + 0.5, torch.rand(4).double() + 0.5
    found = residual_map(a.scaled(factors[0]), b.scaled(factors[1]), torch.ones(6))
    x = torch.randn(2, 4, 6, 6).double()
    y = x + second(first(x) * factors[0][:, None, None]).detach() * factors[1][:, None, None]
    ky, kx = (found.frequencies % 6).unbind(1)
    before, after = (torch.fft.fft2(t, norm="ortho")[:, :, ky, kx] for t in (x, y))
    torch.testing.assert_close(torch.einsum("fkc,ncf->nkf", found.whole, before), after)


def test_rates_are_shares_of_positive_entries():
    module = nn.Sequential(nn.Conv2d(1, 2, 1), nn.ReLU(inplace=True))
    with torch.no_grad():
        module[0].weight.copy_(torch.tensor([1.0, -1.0])[:, None, None, None])
        module[0].bias.zero_()
    images = torch.arange(-20.0, 80).view(100, 1, 1, 1).expand(-1, -1, 3, 3)
    assert gate_rates(Network("n", module), "0", images).tolist() == pytest.approx([0.79, 0.2])
    with pytest.raises(ConvscopeError, match="no module"):
        gate_rates(Network("n", module), "2", images)


def test_gaussian_inputs_pass_a_block_as_its_mean_rates_say():
    # The best linear prediction of a rectifier's output from Gaussian input has its mean rate as gain.
    first, second, (a, b) = operators(2, 4, 4)
    first.bias = nn.Parameter(torch.linspace(-1, 1, 4).double())
    x = torch.randn(60000, 2, 4, 4, generator=torch.Generator().manual_seed(0)).double()
    with torch.no_grad():
        h = first(x)
        y = x + second(h.relu())
    found = residual_map(a, b, (h > 0).double().mean((0, 2, 3)))
    ky, kx = (found.frequencies % 4).unbind(1)
    before, after = (torch.fft.fft2(t - t.mean(0), norm="ortho")[:, :, ky, kx] for t in (x, y))
    cross = torch.einsum("nkf,ncf->fkc", after, before.conj())
    moments = torch.einsum("nkf,ncf->fkc", before, before.conj())
    fitted = torch.linalg.solve(moments, cross, left=False)
    assert float((fitted - found.whole).abs().max()) < 0.03
    closed = residual_map(a, b, torch.zeros(4)).whole
    assert float((fitted - closed).abs().max()) > 0.2


def test_blocks_that_change_their_maps_are_refused():
    _, _, (a, b) = operators(2, 3, 4)
    with pytest.raises(ValueError, match="as many back"):
        residual_map(a, a, torch.ones(3))
    with pytest.raises(ValueError, match="a rate for each of 3 channels"):
        residual_map(a, b, torch.ones(2))
    strided = ConvOperator.of(nn.Conv2d(2, 3, 3, 2, 1, padding_mode="circular"), 4)
    with pytest.raises(ValueError, match="stride 1"):
        residual_map(strided, b, torch.ones(3))


@pytest.mark.slow
@pytest.mark.skipif(not WEIGHTS.exists(), reason="needs ResNet-20's weights and CIFAR-10 in ../shared/data")
@pytest.mark.parametrize("block", ["layer1.1", "layer2.2", "layer3.2"])
def test_mean_rates_predict_a_blocks_output_better_than_the_identity_does(block):
    network = open_network(f"convscope.training.networks:resnet20@{WEIGHTS}").network
    images = cifar10(DATA, 400, "test").pixels
    modules = dict(network.module.named_modules())

    def maps(name):
        return torch.cat([m for _, m in module_outputs(network, name, images)])

    stage, number = block.split(".")
    x, branch = maps(f"{stage}.{int(number) - 1}"), maps(f"{block}.bn2")
    operators = []
    for name in (f"{block}.conv1", f"{block}.conv2"):
        gamma, variance, eps = following_norm(network.module, name)
        operators.append(ConvOperator.of(modules[name], tuple(x.shape[2:])).scaled(gamma / (variance + eps).sqrt()))
    found = residual_map(*operators, gate_rates(network, f"{block}.bn1", images[:200]))
    ky, kx = (found.frequencies % x.shape[-1]).unbind(1)
    before, after = (torch.fft.fft2(t.double(), norm="ortho")[:, :, ky, kx] for t in (x, x + branch))
    before, after = before - before.mean(0), after - after.mean(0)

    def explained(predicted):
        left, total = ((t.abs().square() * found.multiplicity).sum() for t in (after - predicted, after))
        return 1 - float(left / total)

    assert explained(torch.einsum("fkc,ncf->nkf", found.whole, before)) > explained(before) + 0.1
    closed = residual_map(*operators, torch.ones(len(operators[0].weight)))
    assert explained(torch.einsum("fkc,ncf->nkf", closed.whole, before)) < explained(before)
