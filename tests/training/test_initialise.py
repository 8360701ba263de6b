import pytest
import torch
from firstlayer_runs import images
from torch import nn
from zoo import ZOO, build

from convscope.core.network import Network
from convscope.training.initialise import calibrate_, reinitialised


def block(c, k):
    return nn.Sequential(nn.Conv2d(c, k, 3, padding=1, bias=False), nn.BatchNorm2d(k, momentum=0.3), nn.ReLU())


def deep(layers=30):
    torch.manual_seed(0)
    blocks = [block(3, 8), *(block(8, 8) for _ in range(layers))]
    return nn.Sequential(*blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4), nn.BatchNorm1d(4))


def state(module):
    return {name: t.clone() for name, t in module.state_dict().items()}


def equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def test_a_twin_has_other_weights_each_time_the_same():
    module = deep(2).train()
    with torch.no_grad():
        for p in module.parameters():
            p.add_(1.0)
    before, rng = state(module), torch.get_rng_state()
    one, two, other = reinitialised(module), reinitialised(module), reinitialised(module, seed=1)
    assert equal(state(module), before)
    assert torch.equal(torch.get_rng_state(), rng)
    assert module.training
    assert equal(state(one), state(two))
    for name, p in module.named_parameters():
        assert not torch.equal(p, one.state_dict()[name]), name
    weights = [name for name, p in module.named_parameters() if p.ndim > 1]
    assert all(not torch.equal(one.state_dict()[n], other.state_dict()[n]) for n in weights)


def test_where_weights_cannot_be_drawn_there_is_no_twin():
    for name in ("functional", "parametrised", "exported"):
        assert reinitialised(build(name)) is None, name

    class Uncopyable(nn.Conv2d):
        def __deepcopy__(self, memo):
            raise RuntimeError("no")

    assert reinitialised(Uncopyable(3, 4, 3)) is None


@pytest.mark.parametrize("name", [n for n in ZOO if n not in {"functional", "parametrised", "exported"}])
def test_twins_of_awkward_networks_run(name):
    module = build(name)
    before = state(module)
    twin = reinitialised(module)
    assert twin is not None
    assert equal(state(module), before)
    if name != "compiled":
        twin.eval()(torch.zeros(2, 3, 12, 12))


def test_calibration_tames_a_deep_network():
    module = deep().eval()
    x = images(48) * 30 + 5
    with torch.no_grad():
        wild = module(x).std(0)
        calibrate_(Network("net", module), x)
        out = module(x)
    assert bool(out.isfinite().all())
    assert torch.allclose(out.std(0), torch.ones(4), atol=0.2)
    assert not torch.allclose(wild, torch.ones(4), atol=0.2)


def test_calibrated_statistics_are_those_of_the_images():
    module = nn.Sequential(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5)).eval()
    x = images(20)
    calibrate_(Network("net", module, lambda images: images * 2), x)
    with torch.no_grad():
        y = module[0](x * 2)
    assert torch.allclose(module[1].running_mean, y.mean((0, 2, 3)), atol=1e-5)
    assert torch.allclose(module[1].running_var, y.var((0, 2, 3)), rtol=1e-4)
    again = state(module)
    calibrate_(Network("net", module, lambda images: images * 2), x)
    assert equal(state(module), again)


@pytest.mark.parametrize("training", [True, False])
def test_calibration_leaves_all_but_statistics(training):
    module = nn.Sequential(block(3, 4), nn.Dropout(0.5), block(4, 4)).train(training)
    module[1].train(not training)
    modes = [m.training for m in module.modules()]
    parameters = {n: p.clone() for n, p in module.named_parameters()}
    rng = torch.get_rng_state()
    calibrate_(Network("net", module), images(8))
    assert [m.training for m in module.modules()] == modes
    assert module[0][1].momentum == pytest.approx(0.3)
    assert equal({n: p.detach() for n, p in module.named_parameters()}, {n: p.detach() for n, p in parameters.items()})
    assert all(p.grad is None for p in module.parameters())
    assert torch.equal(torch.get_rng_state(), rng)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in module.modules())


def test_a_failure_leaves_modes_and_momenta():
    module = nn.Sequential(block(3, 4), nn.Linear(99, 2)).train()
    with pytest.raises(RuntimeError):
        calibrate_(Network("net", module), images(8))
    assert all(m.training for m in module.modules())
    assert module[0][1].momentum == pytest.approx(0.3)


def test_nothing_to_calibrate():
    module = nn.Sequential(block(3, 4), nn.BatchNorm2d(4, track_running_stats=False))
    before = state(module)
    calibrate_(Network("net", module), images(1))  # one image has no statistics of its own
    assert equal(state(module), before)
    calibrate_(Network("net", nn.Conv2d(3, 4, 3)), images(4))
