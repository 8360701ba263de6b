import pytest
import torch
import torch.nn.functional as F
import zoo
from torch import nn

from convscope.bottleneck.steps import Chain
from convscope.bottleneck.wiring import plain_chain
from convscope.training.networks import CifarResNet, LinearCNN, SmallVGG

CIRCULAR = {"padding": "same", "padding_mode": "circular"}


class Functional(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(2, 4, 3, padding=1)
        self.kernel = nn.Parameter(torch.randn(3, 4, 3, 3))
        self.head = nn.Linear(12, 2)

    def forward(self, x):
        x = F.dropout(F.leaky_relu(self.first(x), 0.2), training=self.training)
        x = torch.relu(F.conv2d(x, self.kernel, stride=2, padding=1))
        x = F.adaptive_avg_pool2d(x, (2, 2))
        return F.linear(x.view(x.size(0), -1), self.head.weight, self.head.bias)


def normed():
    norm = nn.BatchNorm2d(4)
    with torch.no_grad():
        for p in (norm.weight, norm.running_var):
            p.uniform_(0.5, 2)
        for p in (norm.bias, norm.running_mean):
            p.normal_()
    return nn.Sequential(nn.Conv2d(2, 4, 3, bias=False), norm, nn.Hardtanh(0, 2), nn.Dropout(), nn.Conv2d(4, 1, 1))


# What is built, the names of its layers, and by how much each operator's squared norm exceeds that of its weight.
PLAIN = {
    "circular": (
        lambda: nn.Sequential(nn.Conv2d(2, 4, 3, **CIRCULAR), nn.ReLU(), nn.Conv2d(4, 1, 8, **CIRCULAR)),
        ["0", "2"],
        [64, 64],
    ),
    "strided": (
        lambda: nn.Sequential(nn.Conv2d(2, 4, 3, padding=1, stride=2), nn.ReLU6(), nn.Conv2d(4, 3, 3)),
        ["0", "2"],
        [16, 4],
    ),
    "pooled": (
        lambda: nn.Sequential(
            nn.Conv2d(2, 4, 3, padding=1), nn.ReLU(), nn.AvgPool2d(2), nn.Conv2d(4, 4, 1), nn.ReLU(),
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3),
        ),
        ["0", "3", "7"],
        [64, 4, 1 / 16],
    ),
    "pooled before the gate": (
        lambda: nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.AvgPool2d(4), nn.ReLU(), nn.Conv2d(4, 4, 1)),
        ["0", "3"],
        [4, 4],
    ),
    "overlapping pools": (
        lambda: nn.Sequential(nn.Conv2d(2, 4, 1), nn.ReLU(), nn.AvgPool2d(3, 1, 1), nn.Conv2d(4, 4, 1)),
        ["0", "3"],
        [64, 64],
    ),
    "wrapped": (
        lambda: nn.Sequential(nn.AvgPool2d(2), nn.Conv2d(2, 3, 5, padding=2, padding_mode="circular")),
        ["1"],
        [64 / 4],
    ),
    "linear": (lambda: LinearCNN(3, 2, 5, 3), ["conv1", "linear"], [1, 1]),
    "lone": (lambda: nn.Conv2d(2, 3, 3, **CIRCULAR), ["weight"], [64]),
    "functional": (Functional, ["first", "kernel", "head"], [64, 16, 1 / 4]),
    "batch norm": (normed, ["0", "4"], [36, 36]),
    "traced": (lambda: torch.fx.symbolic_trace(Functional().eval()), ["first", "kernel", "head"], [64, 16, 1 / 4]),
    "parametrised": (
        lambda: nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Conv2d(2, 4, 3)), nn.ReLU()), ["0"], [36],
    ),
}  # fmt: skip


def built(make):
    torch.manual_seed(0)
    return make(), torch.randn(3, 2, 8, 8)


@pytest.mark.parametrize("name", PLAIN)
def test_plain_chains_are_read_layer_by_layer(name):
    make, names, factors = PLAIN[name]
    module, images = built(make)
    mode = module.training
    chain = plain_chain(module, images)
    assert isinstance(chain, Chain), chain
    assert [step.name for step in chain.steps] == names
    assert [step.factor for step in chain.steps] == pytest.approx(factors)
    assert chain.folded == (name == "batch norm")
    assert module.training == mode
    with torch.no_grad():
        expected = module.eval()(images)
    torch.testing.assert_close(chain(images).float(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", [name for name in PLAIN if name != "batch norm"])
def test_factors_bound_the_norm_of_each_operator(name):
    module, images = built(PLAIN[name][0])
    chain = plain_chain(module, images)
    shape = images.shape[1:]
    for step in chain.steps:
        unit = torch.eye(shape.numel(), dtype=torch.float64).view(-1, *shape)
        dense = step.linear(unit)
        whole, shape = float(dense.square().sum()), dense.shape[1:]
        bound = step.factor * float(step.weight.square().sum())
        assert whole <= bound * (1 + 1e-12)
        if name == "circular":
            assert whole == pytest.approx(bound)


def test_gates_say_what_theorems_may_use_them():
    def flags(gate):
        step = plain_chain(nn.Sequential(nn.Conv2d(2, 2, 1), gate), torch.zeros(1, 2, 4, 4)).steps[0]
        return step.homogeneous, step.binary

    assert flags(nn.ReLU()) == (True, True)
    assert flags(nn.LeakyReLU(0.1)) == (True, False)
    assert flags(nn.Hardtanh()) == flags(nn.ReLU6()) == (False, True)


class Branching(nn.Module):
    def forward(self, x):
        return x if x.sum() > 0 else -x


class Pair(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 2, 1)

    def forward(self, x):
        x = self.conv(x)
        return x, x


class Attention(nn.Module):
    def forward(self, x):
        return F.conv2d(x, x)


class Dropping(Pair):
    def forward(self, x):
        return F.dropout(self.conv(x), training=True)


class Mixing(Pair):
    def forward(self, x):
        return self.conv(x).mean(0, keepdim=True)


REASONS = {
    "residual": (zoo.residual, "a sum of two paths, such as a residual block's (add)"),
    "option-A shortcuts": (lambda: CifarResNet(1), "its path forks, as at a shortcut (getitem)"),
    "maximum": (lambda: SmallVGG(10, size=12), "it holds a maximum pooling (features.1)"),
    "shared": (zoo.shared, "it uses the weight of block more than once"),
    "smooth gate": (lambda: nn.Sequential(nn.Conv2d(3, 2, 1), nn.GELU()), "it holds the operation GELU (1)"),
    "steep": (lambda: nn.Sequential(nn.Conv2d(3, 2, 1), nn.LeakyReLU(-0.1)), "not between 0 and 1"),
    "transposed": (lambda: nn.Sequential(nn.ConvTranspose2d(3, 2, 1)), "ConvTranspose2d"),
    "group norm": (lambda: nn.Sequential(nn.Conv2d(3, 2, 1), nn.GroupNorm(1, 2)), "depends on the image"),
    "norm first": (lambda: nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 2, 1)), "follows no convolution (0)"),
    "gate first": (lambda: nn.Sequential(nn.ReLU(), nn.Conv2d(3, 2, 1)), "a gate that follows no layer"),
    "no statistics": (
        lambda: nn.Sequential(nn.Conv2d(3, 2, 1), nn.BatchNorm2d(2, track_running_stats=False)),
        "without running statistics",
    ),
    "pooled at the end": (
        lambda: nn.Sequential(nn.Conv2d(3, 2, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1)),
        "ends in a pooling",
    ),
    "no layer": (nn.Identity, "no convolution"),
    "too small": (lambda: nn.Conv2d(3, 2, 15), "cannot be traced"),
    "branches": (Branching, "cannot be traced"),
    "several": (Pair, "returns something else"),
    "its own input": (Attention, "the weight of conv2d depends on the image"),
    "dropout for ever": (Dropping, "its layers in a row do not give what it returns"),
    "sums over images": (Mixing, "a mean over images"),
}


@pytest.mark.parametrize("name", REASONS)
def test_other_networks_are_named_for_what_they_hold(name):
    make, reason = REASONS[name]
    found = plain_chain(make(), torch.randn(2, 3, 12, 12))
    assert isinstance(found, str)
    assert reason in found


def test_a_network_that_changes_with_its_mode_is_read_in_evaluation_mode():
    module = normed().train()
    before = {k: v.clone() for k, v in module.state_dict().items()}
    chain = plain_chain(module, torch.randn(2, 2, 8, 8))
    assert isinstance(chain, Chain)
    assert module.training
    assert all(torch.equal(before[k], v) for k, v in module.state_dict().items())
