import gc
import weakref

import pytest
import torch
from torch import nn
from torch.autograd.graph import get_gradient_edge

from convscope.core.accumulate import Sums
from convscope.core.batches import Batch
from convscope.core.delivery import Delivery, Stopwatch, upstream
from convscope.core.network import Network
from convscope.core.slots import Slot
from convscope.core.streams import EachOutput, Gradient, Input, OneOutput, sampled


class Total(Sums[torch.Tensor]):
    """Sum of squares of what is delivered, per channel."""

    def update(self, x, batch):
        self.add("total", x.double().square().sum((0, 2, 3)))

    def compute(self):
        return self.sums["total"]


class Net(nn.Module):
    """Two branches; the conv in front of one of them is cut off by rounding."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c, self.cut = (nn.Conv2d(3, 3, 3, padding=1) for _ in range(4))
        self.after = nn.Conv2d(3, 3, 1)

    def forward(self, x):
        y = torch.relu_(self.a(x))
        y = torch.relu_(self.b(y)) + self.c(y)
        return (y + self.after(self.cut(x).detach().round())).square().mean((2, 3))


def delivered(module, convs, x):
    network, batch = Network("net", module), Batch.of(x, None, torch.arange(len(x)))
    slots = [Slot(Gradient(network, conv, EachOutput()), Total, False, "total") for conv in convs]
    Delivery(slots, batch, None, Stopwatch())(batch)
    return {conv: slot.accumulator.state_dict().get("total") for conv, slot in zip(convs, slots, strict=True)}


def images():
    return torch.randn(4, 3, 6, 6, generator=torch.Generator().manual_seed(0))


def test_only_edges_with_none_upstream_are_kept():
    x = torch.randn(2, requires_grad=True)
    a = x * 2
    b = a.exp()
    c = x.sin()
    d = b + c
    edge = {name: get_gradient_edge(t) for name, t in {"a": a, "b": b, "c": c, "d": d}.items()}
    kept = {name for name, e in edge.items() if e in upstream(list(edge.values()))}
    assert kept == {"a", "c"}
    assert upstream([edge["d"]]) == [edge["d"]]
    assert upstream([]) == []


def test_a_layer_gets_the_same_gradients_whichever_others_are_wanted():
    torch.manual_seed(0)
    module = Net().eval()
    together = delivered(module, ["a", "b", "c", "after"], images())
    for conv, total in together.items():
        assert float(total.sum()) > 0
        assert torch.allclose(delivered(module, [conv], images())[conv], total, rtol=1e-6)


def test_a_layer_behind_a_cut_has_gradients_and_the_one_before_has_none():
    found = delivered(Net().eval(), ["cut", "after"], images())
    assert found["cut"] is None
    assert found["after"] is not None


def test_no_gradient_is_computed_before_the_first_wanted_layer():
    class Watched(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = Net()
            self.reached = 0

        def forward(self, x):
            x = x * 1
            if x.requires_grad:
                x.grad_fn.register_prehook(lambda _: setattr(self, "reached", self.reached + 1))
            return self.net(x)

    module = Watched().eval()
    assert delivered(module, ["net.a", "net.b"], images())["net.a"] is not None
    assert module.reached == 0


def test_the_graph_of_a_batch_is_freed():
    alive = []

    class Watched(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = Net()

        def forward(self, x):
            y = self.net.a(x)
            alive.append(weakref.ref(y))
            return y.mean((2, 3))

    delivered(Watched().eval(), ["net.a"], images())
    gc.collect()
    assert alive
    assert all(output() is None for output in alive)


class Flat(nn.Module):
    """Writes its maps as vectors by ``view``, which refuses maps whose channels are last in memory."""

    def __init__(self, flat):
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.linear, self.flat = nn.Conv2d(3, 4, 3), nn.Linear(64, 2), flat
        self.seen = []

    def forward(self, x):
        y = torch.relu(self.conv(x))
        self.seen.append((len(x), y.is_contiguous(memory_format=torch.channels_last)))
        return self.linear(y.view(len(y), -1) if self.flat == "view" else y.flatten(1))


@pytest.mark.parametrize(
    ("flat", "dtype", "last"),
    [("flatten", torch.float32, True), ("view", torch.float32, False), ("flatten", torch.float64, False)],
)
def test_gradients_are_the_same_whatever_the_layout_in_memory(flat, dtype, last):
    module, x = Flat(flat).to(dtype).eval(), images().to(dtype)
    found = delivered(module, ["conv"], x)["conv"]
    assert {of for n, of in module.seen if n == 4} == {last}
    kept = []
    module.conv.register_forward_hook(lambda _m, _a, out: kept.append(out))
    scores = module(x)
    expected = sum(torch.autograd.grad(s, kept, retain_graph=True)[0].double().square() for s in scores.sum(0))
    assert torch.allclose(found, expected.sum((0, 2, 3)), rtol=1e-5)


def test_inputs_are_delivered_contiguous_beside_gradients():
    class Layout(Total):
        def update(self, x, batch):
            assert x.is_contiguous()
            super().update(x, batch)

    network, batch = Network("net", Flat("flatten").eval()), Batch.of(images(), None, torch.arange(4))
    streams = Input(network, "conv"), Gradient(network, "conv", EachOutput())
    slots = [Slot(s, make, False, "total") for s, make in zip(streams, (Layout, Total), strict=True)]
    Delivery(slots, batch, None, Stopwatch())(batch)
    assert torch.allclose(slots[0].value(), images().double().square().sum((0, 2, 3)))


class Sizes(Sums[torch.Tensor]):
    """Remembers how many images each delivery held."""

    def update(self, x, batch):
        self.deliveries = [*getattr(self, "deliveries", []), len(batch)]
        self.add("index", batch.index.sum())

    def compute(self):
        return self.sums["index"]


def test_a_share_of_each_batch_is_delivered_many_images_at_a_time_and_none_is_lost():
    network = Network("net", Net())
    wanted = 300
    slot = Slot(Input(network, "a", images=wanted), Sizes, False, "sizes")
    every = Batch.of(torch.zeros(1000, 3, 6, 6), torch.arange(1000) % 2, torch.arange(1000))
    delivery = Delivery([slot], every, 1000, Stopwatch())
    for rows in torch.arange(1000).split(30):
        delivery(every[rows])
    delivery.flush()
    chosen = every[sampled(every, wanted / 1000)]
    assert sum(slot.accumulator.deliveries) == len(chosen)
    assert int(slot.accumulator.sums["index"]) == int(chosen.index.sum())
    assert min(slot.accumulator.deliveries[:-1]) >= 64
    delivery.flush()
    assert sum(slot.accumulator.deliveries) == len(chosen)


def test_images_of_another_size_do_not_wait_together():
    network = Network("net", Net())
    slot = Slot(Input(network, "a", images=100), Sizes, False, "sizes")
    delivery = Delivery([slot], Batch.of(torch.zeros(1, 3, 6, 6), None, torch.arange(1)), 100, Stopwatch())
    delivery(Batch.of(torch.zeros(5, 3, 6, 6), None, torch.arange(5)))
    delivery(Batch.of(torch.zeros(7, 3, 8, 8), None, torch.arange(5, 12)))
    delivery.flush()
    assert slot.accumulator.deliveries == [5, 7]


def test_no_more_images_are_differentiated_at_once_than_their_graph_has_memory(monkeypatch):
    network = Network("net", Net())
    batch = Batch.of(torch.zeros(10, 3, 6, 6), None, torch.arange(10))
    # Five convolutions of 3 x 6 x 6 entries, three times over, in single precision: for three images and a half.
    monkeypatch.setattr("convscope.core.delivery.GRAPH_BYTES", int(3.5 * 5 * 108 * 3 * 4))
    slots = [Slot(Gradient(network, "a", OneOutput(0)), Sizes, False, "sizes")]
    delivery = Delivery(slots, batch, None, Stopwatch())
    delivery(batch[:1])  # the first images show the size
    delivery(batch)
    assert slots[0].accumulator.deliveries == [1, 3, 3, 3, 1]
