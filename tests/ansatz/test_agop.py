import copy
import math

import pytest
import torch
from oracles import patch_jacobian
from torch import nn
from zoo import ZOO, build

from convscope.ansatz.measure import patch_agop
from convscope.core.batches import Batch
from convscope.core.errors import ConvscopeError
from convscope.core.taps import left_as_found

EAGER = {"exported": "bordered", "traced": "bordered", "compiled": "residual"}


def images(n=5):
    return torch.randn(n, 3, 12, 12, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def slow(name, x, of="logits", **options):
    module = build(EAGER.get(name, name)).double()
    with left_as_found([module]):
        return patch_jacobian.patch_agop(module, x, of, **options)


@pytest.mark.parametrize("of", ["logits", "probabilities"])
@pytest.mark.parametrize("name", [name for name in ZOO if name != "exported"])
def test_exact_equals_the_jacobian_with_respect_to_unfolded_patches(name, of):
    x = images()
    fast = patch_agop(build(name).double(), [x[:2], x[2:]], exact=True, outputs=of)
    assert list(fast) == ZOO[name][1]
    for result, blocks in zip(fast.values(), slow(name, x, of), strict=True):
        expected = blocks[0] if len(blocks) == 1 else blocks
        assert result.agop.dtype == torch.float64
        assert result.agop.shape == expected.shape
        assert (result.agop - expected).norm() < 1e-9 * expected.norm()
        assert result.n_images == 5


def test_an_exported_network_gives_the_same():
    x = images()
    fast, slow = (patch_agop(build(name), x.float(), exact=True) for name in ("exported", "bordered"))
    for name, result in fast.items():
        assert (result.agop - slow[name].agop).norm() < 1e-5 * slow[name].agop.norm()


@pytest.mark.parametrize("name", [name for name in ZOO if name not in {"exported", "shared"}])
def test_centred_equals_the_jacobian_less_its_mean_over_images(name):
    x = images()
    fast = patch_agop(build(name).double(), [x[:2], x[2:]], exact=True, centred=True)
    for result, blocks, whole in zip(fast.values(), slow(name, x, centred=True), slow(name, x), strict=True):
        expected = blocks[0] if len(blocks) == 1 else blocks
        assert (result.agop - expected).norm() < 1e-9 * whole.norm()


def test_centring_leaves_out_what_is_called_several_times(caplog):
    assert list(patch_agop(build("shared"), images().float(), exact=True, centred=True)) == ["stem"]
    assert "block is left out: it is called several times" in caplog.text


def test_gradients_that_do_not_vary_between_images_have_no_centred_agop():
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.LazyLinear(2))
    result = patch_agop(module, images().float(), exact=True, centred=True)["0"]
    assert not result.agop.any()
    assert math.isnan(result.correlation())


def test_centred_folds_are_those_of_the_other_images():
    x = images(12)
    module = build("residual").double()
    whole = patch_agop(module, x, exact=True, centred=True)["conv1"]
    assert len(whole.without) > 3
    n, without = whole.without[0]
    fold = Batch.of(x, None, torch.arange(12)).fold % 10
    sizes = torch.bincount(fold, minlength=10)
    left_out = int(sizes.nonzero()[0])
    rest = patch_jacobian.patch_agop(module.eval(), x[fold != left_out], centred=True)[0]
    assert n == int(sizes[left_out])
    w = whole.weight
    assert (w.mT @ without @ w - rest).norm() < 1e-9 * rest.norm()


@pytest.mark.parametrize("options", [{"probes": 2}, {"exact": True}, {"exact": True, "centred": True}])
def test_outputs_kept_apart_are_those_of_the_jacobian(options):
    x = images()
    result = patch_agop(build("residual").double(), x, classes=[3, 1], **options)["conv2"]
    assert list(result.of_output) == [3, 1]
    for k, gram in result.of_output.items():
        expected = slow("residual", x, outputs=[k], centred="centred" in options)[1]
        w = result.weight
        assert (w.mT @ gram @ w - expected).norm() < 1e-9 * expected.norm()


def test_folding_multiplies_filters_by_the_scale_of_their_batch_norm():
    torch.manual_seed(0)
    module = build("residual").double().eval()
    module.norm.weight.data.uniform_(0.2, 3)
    module.norm.running_var.uniform_(0.2, 3)
    result = patch_agop(module, images(), exact=True)["conv1"]
    scale = module.norm.weight / (module.norm.running_var + module.norm.eps).sqrt()
    filters = (module.conv1.weight * scale[:, None, None, None]).detach().flatten(1)
    nfm = filters.T @ filters
    expected = torch.corrcoef(torch.stack([nfm.flatten(), result.agop.flatten()]))[0, 1]
    assert result.correlation(folded=True) == pytest.approx(float(expected), abs=1e-9)
    with pytest.raises(ConvscopeError, match="no batch norm follows"):
        patch_agop(module, images(), exact=True)["conv2"].correlation(folded=True)


def test_images_are_filtered_by_the_leading_eigenvectors():
    x = images(3)
    module = nn.Sequential(nn.Conv2d(3, 5, 3, stride=2, padding=1), nn.ReLU(), nn.Flatten(), nn.LazyLinear(4)).double()
    result = patch_agop(module, x, exact=True)["0"]
    values, vectors = torch.linalg.eigh(result.agop)
    patches = nn.functional.unfold(x, 3, padding=1, stride=2)
    seen = result.filtered(x, 2)
    assert seen.shape == (3, 2, 6, 6)
    for k in range(2):
        expected = torch.einsum("d,ndp->np", vectors[:, -1 - k], patches)
        assert torch.allclose(seen[:, k].flatten(1).abs(), expected.abs(), atol=1e-9)
    assert torch.allclose(result.eigenvectors(2)[0][0], values.flip(0)[:2])


def test_probes_are_right_on_average():
    # The mean of 100 independent estimates against the exact value, entry by entry of S, in units of its standard
    # error. For an unbiased, normal estimate |t| with 99 degrees of freedom exceeds 5.5 in 3 of 10^7 cases, so that
    # one of the fewer than 100 entries does in fewer than 1 of 10^4 runs.
    x = images(4)
    module = build("residual").double()
    exact = patch_agop(module, x, exact=True)
    draws = [patch_agop(module, x, probes=1, seed=seed) for seed in range(100)]
    for name, result in exact.items():
        grams = torch.stack([d[name].gram for d in draws])
        t = (grams.mean(0) - result.gram) / (grams.std(0) / len(draws) ** 0.5 + 1e-30)
        assert float(t.abs().max()) < 5.5


def test_as_many_probes_as_outputs_to_the_next_power_of_two_are_exact():
    x = images(3)
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.LazyLinear(5)).double()
    exact = patch_agop(module, x, exact=True)["0"].gram
    errors = [float((patch_agop(module, x, probes=n)["0"].gram - exact).norm() / exact.norm()) for n in (1, 3, 8)]
    assert errors[2] < 1e-12
    assert min(errors[:2]) > 1e-3


def test_loss_gradients_equal_autograd():
    x = images(4)
    labels = torch.tensor([0, 3, 1, 1])
    module = build("residual").double().eval()
    result = patch_agop(module, [(x, labels)], outputs="loss")["down"]
    total = 0.0
    for i in range(4):
        kept = []
        # The sum is a tensor of its own: the network changes it in place, not what is kept.
        handle = module.down.register_forward_hook(lambda _m, _a, out, kept=kept: kept.append(out) or out + 0)
        loss = nn.functional.cross_entropy(module(x[i : i + 1]), labels[i : i + 1])
        handle.remove()
        (gradient,) = torch.autograd.grad(loss, kept)
        g = gradient[0].flatten(1)
        total = total + g @ g.T / 4
    assert torch.allclose(result.gram[0], total, rtol=1e-9, atol=1e-12)


def test_any_batching_gives_the_same():
    x = images(7)
    module = build("residual").double()
    whole, parts = patch_agop(module, x, probes=2), patch_agop(module, [x[:1], x[1:5], x[5:]], probes=2)
    for name in whole:
        assert torch.allclose(whole[name].gram, parts[name].gram, rtol=1e-12, atol=0)


def test_the_network_is_left_as_it_was_found():
    module = build("residual").train()
    before = copy.deepcopy(module.state_dict())
    state = torch.get_rng_state()
    patch_agop(module, images().float())
    assert module.training
    assert all(torch.equal(v, before[k]) for k, v in module.state_dict().items())
    assert all(p.grad is None and p.requires_grad for p in module.parameters())
    assert torch.equal(state, torch.get_rng_state())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in module.modules())


def test_standard_errors_are_those_of_other_images():
    # Each set has probes of its own: with the same ones, much of what they err by would be common to all sets.
    # The standard deviation over 24 sets of images is known to 15 %, and the jackknife from 10 folds to about 25 %.
    module = build("residual")
    generator = torch.Generator().manual_seed(2)
    sets = [torch.randn(60, 3, 12, 12, generator=generator) for _ in range(24)]
    numbers = [patch_agop(module, x, probes=1, seed=seed)["conv1"].number() for seed, x in enumerate(sets)]
    actual = torch.tensor([n.value for n in numbers]).std()
    claimed = torch.tensor([n.spread for n in numbers]).square().mean().sqrt()
    assert 0.5 < float(claimed / actual) < 2


class NaNs(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x):
        y = self.conv(x).mean((2, 3))
        return (y - y).sqrt() * torch.ones(4)


class Cut(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.other = nn.Conv2d(3, 4, 3), nn.Conv2d(3, 4, 3)

    def forward(self, x):
        return self.conv(x).mean((2, 3)) + self.other(x).argmax(1, keepdim=True).float().mean((2, 3))


class Text(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x):
        return f"{self.conv(x).mean():.3f}"


@pytest.mark.parametrize(
    ("module", "options", "words"),
    [
        (nn.Sequential(nn.Flatten(), nn.Linear(432, 2)), {}, "no two-dimensional convolution"),
        (Text(), {}, "no \\[images, classes\\] tensor"),
        (NaNs(), {"exact": True}, "NaN or infinite"),
        (build("residual"), {"layers": ["conv9"]}, "no convolution 'conv9'"),
        (build("residual"), {"outputs": "loss"}, "needs a label"),
    ],
)
def test_what_cannot_be_analysed_says_why(module, options, words):
    with pytest.raises(ConvscopeError, match=words):
        patch_agop(module, images().float(), **options)


def test_a_layer_without_gradients_is_left_out_with_a_warning(caplog):
    assert list(patch_agop(Cut(), images().float(), exact=True)) == ["conv"]
    assert "other is left out" in caplog.text


@pytest.mark.parametrize("options", [{"exact": True, "probes": 2}, {"probes": 0}, {"outputs": "scores"}])
def test_wrong_options_raise(options):
    with pytest.raises(ValueError, match=r"exact|probes|outputs"):
        patch_agop(build("residual"), images().float(), **options)
