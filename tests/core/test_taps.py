import copy

import pytest
import torch
import torch.nn.functional as F
from zoo import ZOO, build

from convscope.core.batches import Batch
from convscope.core.delivery import Delivery, Stopwatch
from convscope.core.errors import ConvscopeError
from convscope.core.network import Network
from convscope.core.slots import Slot
from convscope.core.streams import Gradient, Input, Output, RandomLabels
from convscope.core.taps import forward, left_as_found, logits


class Collect:
    """Keeps whatever its stream delivers."""

    def __init__(self):
        self.terms = []

    def update(self, x, batch):
        self.terms.append(x.clone())

    def merge(self, other):
        self.terms += other.terms

    def state_dict(self):
        return {str(k): t for k, t in enumerate(self.terms)}

    def load_state_dict(self, state):
        self.terms = list(state.values())

    def compute(self):
        return self.terms


def images(n=3):
    return torch.rand(n, 3, 12, 12, generator=torch.Generator().manual_seed(1))


def batch(n=3):
    return Batch.of(images(n), None, torch.arange(n))


@pytest.mark.parametrize("name", ZOO)
def test_every_convolution_is_seen_with_its_name_and_arithmetic(name):
    module = build(name)
    names = []

    def see(call):
        names.append(call.name)
        g = call.geometry
        mine = F.conv2d(g.pad(call.input), call.weight, None, g.stride, 0, g.dilation, g.groups)
        bias = (call.output - mine).detach()
        assert torch.allclose(bias, bias[:1, :, :1, :1].expand_as(bias), atol=1e-5)
        assert call.output.shape[2:] == g.output_size(*call.input.shape[2:])

    with torch.no_grad(), left_as_found([module]):
        forward(module, images(), see)
    assert list(dict.fromkeys(names)) == ZOO[name][1]


@pytest.mark.parametrize("name", ZOO)
def test_gradients_equal_those_of_a_network_cut_open(name):
    module = build(name)
    network = Network(name, module)
    conv = ZOO[name][1][-1]
    cotangent = RandomLabels(3)
    slot = Slot(Gradient(network, conv, cotangent), Collect, False, "gradient")
    one = batch()
    with left_as_found([module]):
        Delivery([slot], one, None, Stopwatch())(one)
    assert slot.failure is None
    # The slow way: perturb the outputs of the layer and differentiate with respect to the perturbation.
    total = sum(slot.value())
    offsets = []

    original = F.conv2d

    def shifted(x, w, *args, **kwargs):
        y = original(x, w, *args, **kwargs)
        if y.shape == total.shape:
            offsets.append(torch.zeros_like(y, requires_grad=True))
            return y + offsets[-1]
        return y

    if name in {"exported", "compiled", "traced"}:
        return
    with left_as_found([module]):
        torch.nn.functional.conv2d = shifted
        try:
            scores = logits(module(images()), 3)
        finally:
            torch.nn.functional.conv2d = original
        vector = next(cotangent.vectors(scores, one))
        gradients = torch.autograd.grad(scores, offsets, vector, allow_unused=True)
    expected = [g for g in gradients if g is not None]
    assert any(torch.allclose(total, g, atol=1e-6) for g in [sum(expected), *expected])


@pytest.mark.parametrize("name", ZOO)
def test_a_network_is_left_as_it_was_found(name):
    module = build(name)
    for m in module.modules():
        m.training = True
    before = copy.deepcopy(module.state_dict())
    modes = [m.training for m in module.modules()]
    needed = [p.requires_grad for p in module.parameters()]
    hooks = [(len(m._forward_hooks), len(m._forward_pre_hooks)) for m in module.modules()]
    random = torch.get_rng_state()
    network = Network(name, module)
    one = batch()
    slots = [
        Slot(Gradient(network, ZOO[name][1][0], RandomLabels(0)), Collect, False, "a"),
        Slot(Output(network, ZOO[name][1][0]), Collect, False, "b"),
    ]
    with left_as_found([module]):
        torch.rand(3)
        Delivery(slots, one, None, Stopwatch())(one)
    assert all(torch.equal(before[k], v) for k, v in module.state_dict().items())
    assert modes == [m.training for m in module.modules()]
    assert needed == [p.requires_grad for p in module.parameters()]
    assert all(p.grad is None for p in module.parameters())
    assert torch.equal(random, torch.get_rng_state())
    assert hooks == [(len(m._forward_hooks), len(m._forward_pre_hooks)) for m in module.modules()]


def test_the_forward_pass_ends_after_the_last_wanted_layer():
    module = build("residual")
    reached = []
    module.head.register_forward_hook(lambda *a: reached.append(1))
    network = Network("n", module)
    slot = Slot(Input(network, "conv1"), Collect, False, "input")
    one = batch()
    with left_as_found([module]):
        delivery = Delivery([slot], one, None, Stopwatch())
        delivery(one)
        reached.clear()
        delivery(one)
    assert not reached
    assert torch.equal(slot.value()[0], one.images)


def test_a_layer_called_several_times_delivers_every_call():
    network = Network("n", build("shared"))
    slot = Slot(Input(network, "block"), Collect, False, "input")
    with left_as_found([network.module]):
        Delivery([slot], batch(), None, Stopwatch())(batch())
    assert len(slot.value()) == 3


def test_failures_are_sentences():
    network = Network("my net", build("residual"))
    with pytest.raises(ConvscopeError, match="my net fails on images of shape 1x12x12"), torch.no_grad():
        forward(network.module, torch.rand(2, 1, 12, 12), lambda _: None, "my net")
    with pytest.raises(ConvscopeError, match=r"\[images, classes\]"):
        logits(torch.zeros(2, 3, 4, 4), 2)
    slot = Slot(Input(network, "nowhere"), Collect, False, "input")
    with left_as_found([network.module]):
        Delivery([slot], batch(), None, Stopwatch())(batch())
    with pytest.raises(ConvscopeError, match="did not call the convolution 'nowhere'"):
        slot.value()


def test_a_layer_that_sees_other_numbers_of_maps_is_a_stated_failure():
    class Crops(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = torch.nn.Conv2d(3, 4, 3)

        def forward(self, x):
            return self.conv(torch.cat([x, x.flip(3)])).mean((2, 3))

    network = Network("crops", Crops())
    slot = Slot(Input(network, "conv"), Collect, False, "input")
    Delivery([slot], batch(), None, Stopwatch())(batch())
    with pytest.raises(ConvscopeError, match="6 maps for 3 images"):
        slot.value()
