import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles.bottleneck_cost import jacobian, norm_of, schatten_bound
from oracles.bottleneck_rank import conv_of, known_bottleneck
from torch import nn

from convscope.bottleneck.cost import balance_residual, lower_bound, norm_cost
from convscope.bottleneck.jacobian import FULL, Jacobian, JacobianValues, jacobian_values
from convscope.bottleneck.operators import ConvOperator
from convscope.bottleneck.singular import singular_values
from convscope.bottleneck.wiring import plain_chain
from convscope.core.errors import ConvscopeError

LOW = [(0, 0), (0, 1), (1, 0)]


def circular(c, k, kernel=3, **options):
    return nn.Conv2d(c, k, kernel, padding=kernel // 2, padding_mode="circular", **options)


def stack(convs, gate=nn.ReLU):
    """Convolutions with gates between them."""
    parts = [part for conv in convs for part in (conv, gate())]
    return nn.Sequential(*parts[:-1]).double()


KINDS = {
    "one": lambda k: stack([circular(2, 2)]),
    "circular": lambda k: stack([circular(2, k), circular(k, k, bias=False), circular(k, k), circular(k, 1)]),
    "leaky": lambda k: stack([circular(2, k), circular(k, k), circular(k, 2)], lambda: nn.LeakyReLU(0.1)),
    "wrapped": lambda k: stack([circular(2, k, 7), circular(k, k, 9), circular(k, 1)]),
    "zeros": lambda k: stack([nn.Conv2d(2, k, 3, padding=1), nn.Conv2d(k, k, 3), nn.Conv2d(k, 1, 1)]),
    "strided": lambda k: stack([circular(2, k), circular(k, k, stride=2), circular(k, k), circular(k, 4)]),
    "pooled": lambda k: nn.Sequential(
        circular(2, k), nn.ReLU(), nn.AvgPool2d(2), circular(k, k), nn.ReLU6(), nn.AvgPool2d(3, 1, 1),
        circular(k, k), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(k, 3),
    ).double(),
    "flat": lambda k: nn.Sequential(circular(2, k), nn.ReLU(), nn.Flatten(), nn.Linear(16 * k, 5)).double(),
    "batch norm": lambda k: nn.Sequential(circular(2, k), nn.BatchNorm2d(k), nn.ReLU(), circular(k, 2)).double(),
}  # fmt: skip


def made(kind, seed, k=3, scale=1.0):
    torch.manual_seed(seed)
    module = KINDS[kind](k).eval()
    with torch.no_grad():
        for p in module.parameters():
            p.mul_(scale)
    return module, torch.randn(9, 2, 4, 4, dtype=torch.float64)


@settings(max_examples=12, deadline=None)
@given(
    st.sampled_from([k for k in KINDS if k != "batch norm"]), st.integers(0, 2**31), st.sampled_from([0.3, 1.0, 3.0])
)
def test_no_network_is_cheaper_than_the_lower_bound_at_nine_images(kind, seed, scale):
    module, images = made(kind, seed, scale=scale)
    chain = plain_chain(module, images)
    found = norm_cost(chain, images)
    assert found.actual == pytest.approx(norm_of(module), rel=1e-12)
    assert found.bounds.shape == (9,)
    assert bool((found.bounds <= found.actual).all())
    for image, bound in zip(images[:1], found.bounds[:1], strict=True):
        values = torch.linalg.svdvals(jacobian(module, image))
        kept = values[values > 1e-3 * values[0]].tolist()
        expected = schatten_bound(kept, len(chain.steps), [step.factor for step in chain.steps])
        assert float(bound) == pytest.approx(expected, rel=1e-9)


def test_the_bound_is_attained_by_a_linear_chain_of_isometries():
    module = nn.Sequential(*known_bottleneck(8, 5, 4, LOW))
    chain = plain_chain(module, torch.randn(1, 1, 8, 8))
    found = norm_cost(chain, torch.randn(2, 1, 8, 8), rank=5)
    assert found.efficiency == pytest.approx(1, rel=1e-9)
    assert found.actual == pytest.approx(5 * 5 / 64)
    assert found.ideal == pytest.approx(found.actual)
    assert found.regularity == pytest.approx(0, abs=1e-9)
    assert (found.rank, found.balance, found.converged) == (5, pytest.approx(0, abs=1e-9), True)
    assert [j.rank for j in found.jacobians] == [5, 5]


def test_the_bound_is_attained_behind_a_mean_and_under_gain():
    # z = a times the mean of channel 1, then b times it: 2 a b / sqrt(N) at the least, where b = a / sqrt(N).
    transfer = torch.zeros(4, 4, 3, 3, dtype=torch.float64)
    transfer[0, 0, 0, 0] = 2.0
    head = nn.Linear(3, 2, bias=False).double()
    with torch.no_grad():
        head.weight.zero_()
        head.weight[1, 0] = 2.0 / 4
    module = nn.Sequential(conv_of(transfer), nn.AdaptiveAvgPool2d(1), nn.Flatten(), head)
    images = torch.randn(1, 3, 4, 4, dtype=torch.float64)
    found = norm_cost(plain_chain(module, images), images)
    assert found.actual == pytest.approx(2 * 2.0 * 0.5 / 4)
    assert found.efficiency == pytest.approx(1, rel=1e-9)
    assert found.rank == 1


def test_small_singular_values_are_rounding_errors_and_do_not_count():
    # Roots turn 1e-8 into 0.05 at depth 12: bounds from untruncated values exceed the norm.
    values = torch.cat([torch.ones(5), torch.full((59,), 1e-8)])
    assert lower_bound(values, 12, 64) > 1.5 * lower_bound(values[:5], 12, 64)
    transfer = torch.full((8, 8, 1, 1), 1e-8, dtype=torch.float64)
    transfer[0, 0] = transfer[0, 1] = transfer[0, -1] = 1
    chain = plain_chain(nn.Sequential(conv_of(transfer)), torch.zeros(1, 1, 8, 8))
    assert jacobian_values(Jacobian(chain, torch.zeros(1, 8, 8))).rank == 3


@pytest.mark.parametrize("kind", ["one", "circular", "leaky", "strided"])
def test_the_norm_is_the_sum_of_squared_singular_values_over_positions(kind):
    module, _ = made(kind, 0)
    images = torch.randn(1, 2, 8, 8)  # large enough that no kernel wraps
    chain = plain_chain(module, images)
    total = 0.0
    for step in chain.steps:
        values = singular_values(ConvOperator.of_weight(step.weight, step.geometry, step.size))
        total += float(values.full().square().sum()) / step.positions
        total += 0.0 if step.bias is None else float(step.bias.square().sum())
    assert total == pytest.approx(norm_cost(chain, images).actual, rel=1e-9)


def test_the_norm_of_a_wrapped_kernel_is_that_of_the_kernel_on_the_torus():
    torch.manual_seed(0)
    conv = circular(2, 3, 5).double()
    operator = ConvOperator.of(conv, 4)
    squares = float(singular_values(operator).full().square().sum())
    assert squares == pytest.approx(16 * float(operator.wrapped.square().sum()), rel=1e-9)
    assert abs(squares / (16 * float(conv.weight.detach().square().sum())) - 1) > 0.01


@pytest.mark.parametrize("kind", KINDS)
def test_the_jacobian_is_that_of_autograd(kind):
    module, images = made(kind, 1)
    chain = plain_chain(module, images)
    for image in images[:2]:
        found, true = Jacobian(chain, image), jacobian(module, image)
        torch.testing.assert_close(found.dense(), true, rtol=1e-9, atol=1e-12)
        u = torch.randn(3, *found.outputs, dtype=torch.float64)
        torch.testing.assert_close(found.adjoint(u).flatten(1), u.flatten(1) @ true, rtol=1e-9, atol=1e-12)


def test_large_jacobians_are_sampled():
    torch.manual_seed(0)
    module = nn.Sequential(nn.Flatten(), nn.Linear(34 * 34, 20), nn.ReLU(), nn.Linear(20, 1030)).double()
    image = torch.randn(1, 34, 34, dtype=torch.float64)
    jacobian = Jacobian(plain_chain(module, image[None]), image)
    assert min(math.prod(jacobian.inputs), math.prod(jacobian.outputs)) > FULL
    found = jacobian_values(jacobian, expected=3)  # fewer than there are
    active = module[1](module[0](image[None])) > 0
    true = torch.linalg.svdvals(module[3].weight[:, active[0]] @ module[1].weight[active[0]])[: int(active.sum())]
    assert (found.rank, found.complete) == (int(active.sum()), True)
    torch.testing.assert_close(found.values, true.detach(), rtol=1e-9, atol=0)


def test_sampled_values_never_exceed_the_true_ones(monkeypatch):
    module, images = made("circular", 3, k=6)
    jacobian = Jacobian(plain_chain(module, images), images[0])
    true = jacobian_values(jacobian).values
    monkeypatch.setattr("convscope.bottleneck.jacobian.FULL", 0)
    monkeypatch.setattr("convscope.bottleneck.jacobian._MOST", 6)
    found = jacobian_values(jacobian, expected=2)
    assert not found.complete
    assert found.rank == 6
    assert bool((found.values <= true[:6] * (1 + 1e-9)).all())
    torch.testing.assert_close(found.values, true[:6], rtol=0.02, atol=0)


def test_scaled_layers_and_trained_ones_tell_convergence():
    module, images = made("circular", 0)
    random = norm_cost(plain_chain(module, images), images[:1])
    assert not random.converged
    assert any("Not converged" in note for note in random.notes)
    trained, images, targets = fitted()
    found = norm_cost(plain_chain(trained, images), images)
    assert found.balance < 1e-4
    assert found.converged
    assert not found.notes
    weights = [float(m.weight.detach().square().sum()) for m in trained if isinstance(m, nn.Conv2d)]
    assert max(weights) / min(weights) > 1.02  # biases matter: the weights alone are not balanced
    assert float((trained(images) - targets).detach().square().mean()) < 0.9 * float(targets.square().mean())


def fitted():
    """A small network at a stationary point of its loss with a penalty on the norm."""
    torch.manual_seed(0)
    module = stack([circular(1, 3, 1), circular(3, 3, 1), circular(3, 1, 1)], lambda: nn.LeakyReLU(0.2))
    images = torch.randn(8, 1, 1, 1, dtype=torch.float64) + 1
    targets = images.clamp(min=0.5) + 1
    optimiser = torch.optim.LBFGS(
        module.parameters(), max_iter=100, tolerance_grad=1e-11, tolerance_change=0, line_search_fn="strong_wolfe"
    )

    def closure():
        optimiser.zero_grad()
        loss = (module(images) - targets).square().mean()
        loss = loss + 0.02 * sum(p.square().sum() for p in module.parameters())
        loss.backward()
        return loss

    optimiser.step(closure)
    return module, images, targets


def test_balance_is_the_largest_mismatch_of_neighbours():
    chain = plain_chain(stack([circular(1, 1, 1), circular(1, 1, 1), circular(1, 1, 1)]), torch.zeros(1, 1, 2, 2))
    for step, (w, b) in zip(chain.steps, [(2, 1), (3, 2), (1, 5)], strict=True):
        step.weight.fill_(w)
        step.bias.fill_(b)
    # |4 + 1 - 9| / 9 and |9 + 4 - 1| / 1; the last bias takes no part.
    assert balance_residual(chain) == pytest.approx(12)
    chain.steps[2].weight.zero_()
    assert math.isnan(balance_residual(chain))


def test_what_limits_the_numbers_is_said():
    module, images = made("batch norm", 0)
    assert any("Batch norms" in note for note in norm_cost(plain_chain(module, images), images[:1]).notes)
    module, images = made("pooled", 0)  # it holds a gate that saturates
    found = norm_cost(plain_chain(module, images), images[:1])
    assert math.isnan(found.balance)
    assert not found.converged
    assert any("unknown" in note for note in found.notes)


def test_a_dead_network_costs_nothing_it_must():
    chain = plain_chain(stack([circular(1, 2), circular(2, 1)]), torch.zeros(1, 1, 4, 4))
    for step in chain.steps:
        step.weight.zero_()
    found = norm_cost(chain, torch.randn(1, 1, 4, 4))
    assert (found.lower_bound, found.rank, found.efficiency) == (0, 0, 0)
    assert math.isnan(found.regularity)
    assert JacobianValues(torch.zeros(0), True).rank == 0


def test_large_networks_take_fewer_images_and_then_none(monkeypatch):
    module, images = made("circular", 0)
    chain = plain_chain(module, images)
    whole = norm_cost(chain, images)
    assert len(whole.bounds) == 9
    # 16 products of each image, as many as outputs.
    assert Jacobian(chain, images[0]).work == 16 * chain.multiply_adds == 16 * 16 * 9 * (6 + 9 + 9 + 3)
    monkeypatch.setattr("convscope.bottleneck.cost.MOST_WORK", 5 * Jacobian(chain, images[0]).work)
    found = norm_cost(chain, images)
    assert torch.equal(found.bounds, whole.bounds[:5])
    assert any("5 of 9 images" in note for note in found.notes)
    monkeypatch.setattr("convscope.bottleneck.cost.MOST_WORK", 1)
    with pytest.raises(ConvscopeError, match="smaller images"):
        norm_cost(chain, images)


def test_wrong_images_are_refused():
    chain = plain_chain(stack([circular(1, 1)]), torch.zeros(1, 1, 4, 4))
    with pytest.raises(ValueError, match="at least one"):
        norm_cost(chain, torch.zeros(0, 1, 4, 4))
    with pytest.raises(ConvscopeError, match="NaN"):
        norm_cost(chain, torch.full((1, 1, 4, 4), math.nan))
