import logging
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sources import ArraySource
from torch import nn
from zoo import build

from convscope.bottleneck.collect import SpectrumSums, feed_spectra, kept_columns
from convscope.bottleneck.measure import activation_spectrum
from convscope.core.accumulate import Folded
from convscope.core.batches import Batch
from convscope.core.errors import ConvscopeError
from convscope.core.fourier import unitary
from convscope.core.network import Network
from convscope.core.passes import Pass

KEPT = [None, 3, 0]


def maps_of(n=60, k=8, h=5, w=6, dtype=torch.float64, seed=0):
    g = torch.Generator().manual_seed(seed)
    x = torch.einsum(
        "ij,njhw->nihw",
        torch.randn(k, k, generator=g, dtype=torch.float64),
        torch.randn(n, k, h, w, generator=g, dtype=torch.float64),
    )
    return (x + torch.rand(k, h, w, generator=g, dtype=torch.float64)).to(dtype)


def batch_of(x, start=0):
    return Batch.of(x, None, torch.arange(start, start + len(x)))


def collected(x, columns=None, step=None, sums=None):
    sums = SpectrumSums(columns) if sums is None else sums
    start = 0
    for part in x.split(step or len(x)):
        sums.update(part, batch_of(part, start))
        start += len(part)
    return sums


def same(a, b, tolerance=1e-12):
    assert (a.n, a.size, a.exact) == (b.n, b.size, b.exact)
    scale = float(b.variance.max()) + 1e-300
    assert torch.allclose(a.variance, b.variance, rtol=tolerance, atol=tolerance * scale)
    assert torch.allclose(a.mean, b.mean, rtol=tolerance, atol=tolerance * scale**0.5)
    for left, right in ((a.packed, b.packed), (a.sketch and a.sketch.columns, b.sketch and b.sketch.columns)):
        assert (left is None) == (right is None)
        if left is not None:
            assert torch.allclose(left, right, rtol=tolerance, atol=tolerance * scale)


def test_one_pass_agrees_with_two():
    x = maps_of(300) * 3 + 5
    found = collected(x, step=7).compute()
    z = unitary(x).flatten(2)  # [n, k, h w]
    centred = z - z.mean(0)
    grid = found.frequencies % torch.tensor(found.size)
    for i, (ky, kx) in enumerate(grid.tolist()):
        c = centred[..., ky * 6 + kx]
        wanted = c.T @ c.conj() / len(x)
        assert torch.allclose(found.moments[i], wanted, rtol=1e-12, atol=1e-12 * float(wanted.abs().max()))


@pytest.mark.parametrize("columns", KEPT)
def test_any_batching_order_and_split_gives_the_same(columns):
    x = maps_of()
    whole = collected(x, columns).compute()
    for step in (1, 13, 60):
        same(collected(x, columns, step).compute(), whole)
    same(collected(x[torch.randperm(60, generator=torch.Generator().manual_seed(0))], columns).compute(), whole)
    first, second = collected(x[:17], columns), collected(x[17:], columns)
    second.merge(first)
    same(second.compute(), whole)
    empty = SpectrumSums(columns)
    empty.merge(second)
    same(empty.compute(), whole)


@pytest.mark.parametrize("columns", KEPT)
def test_folds_add_up_and_survive_a_checkpoint(columns):
    x = maps_of()
    folded = collected(x, step=11, sums=Folded(lambda: SpectrumSums(columns), 4))
    same(folded.compute(), collected(x, columns).compute())
    again = Folded(lambda: SpectrumSums(columns), 4)
    again.load_state_dict({name: t.clone() for name, t in folded.state_dict().items()})
    same(again.compute(), folded.compute(), 0)
    assert again.compute().half.n == folded.compute().half.n
    fold = batch_of(x).fold % 4
    for (size, without), k in zip(folded.leave_one_out(), range(4), strict=True):
        assert size == int((fold == k).sum())
        same(without, collected(x[fold != k], columns).compute())
    few = x[fold < 2]
    same(folded.compute().half, collected(few, columns).compute())


@settings(max_examples=20, deadline=None)
@given(
    n=st.integers(1, 80),
    k=st.integers(1, 9),
    h=st.integers(1, 18),
    w=st.integers(1, 18),
    columns=st.sampled_from(KEPT),
)
def test_single_precision_agrees_with_double(n, k, h, w, columns):
    x = maps_of(n, k, h, w, torch.float32)
    rough, fine = collected(x, columns).compute(), collected(x.double(), columns).compute()
    scale = float(fine.variance.sum() + fine.mean_power.sum())
    assert torch.allclose(rough.variance, fine.variance, atol=1e-5 * scale)
    assert rough.mean.dtype == torch.complex128


def test_half_precision_is_taken_for_single():
    x = maps_of(dtype=torch.float16)
    same(collected(x).compute(), collected(x.float()).compute(), 0)


def test_many_images_of_large_maps_go_in_pieces():
    x = torch.randn(70, 3, 80, 90, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = collected(x).compute()
    assert found.n == 70
    assert float(found.variance.sum()) == pytest.approx(float(x.var(0, correction=0).sum()), rel=1e-10)


def test_a_border_can_be_left_out():
    x = maps_of(h=9, w=8)
    sums = SpectrumSums(crop=(1, 3, 2, 0))
    same(collected(x, sums=sums).compute(), collected(x[:, :, 1:6, 2:]).compute())
    with pytest.raises(ConvscopeError, match="no pixel inside"):
        collected(x, sums=SpectrumSums(crop=(5, 4, 0, 0)))


def test_maps_of_several_sizes_are_refused():
    x, y = maps_of(), maps_of(h=6, w=5)
    sums = collected(x)
    with pytest.raises(ConvscopeError, match=r"several sizes \(8x5x6, 8x6x5\).*resize the images to one size"):
        collected(y, sums=sums)
    same(sums.compute(), collected(x).compute())
    sums.merge(collected(y))
    with pytest.raises(ConvscopeError, match="several sizes"):
        sums.compute()


def test_what_cannot_be_is_an_error():
    x = maps_of()
    x[3, 2, 1, 1] = math.nan
    with pytest.raises(ConvscopeError, match="NaN or infinite values"):
        collected(x)
    with pytest.raises(ConvscopeError, match="at least one image"):
        SpectrumSums().compute()
    with pytest.raises(ConvscopeError, match="needs maps"):
        collected(torch.rand(3, 4, 5))
    with pytest.raises(ValueError, match="same of their maps"):
        SpectrumSums().merge(SpectrumSums(3))
    sums = SpectrumSums()
    sums.update(x[:0], batch_of(x[:0]))
    assert not sums.state_dict()


def state_bytes(size, columns):
    x = torch.rand(1, *size)
    sums = collected(x, columns)
    return sum(t.numel() * t.element_size() for name, t in sums.state_dict().items() if "images" not in name)


@pytest.mark.parametrize("budget", [10**5, 10**6, 3 * 10**6, 10**7, 10**8])
def test_what_is_kept_fits_the_budget_and_narrow_layers_come_first(budget):
    sizes = {"a": (64, 13, 13), "b": (16, 12, 8), "c": (300, 4, 5), "d": (64, 13, 13), "e": (128, 1, 1)}
    columns = kept_columns(sizes, budget, 4)
    total = 4 * sum(state_bytes(sizes[name], columns[name]) for name in sizes)
    assert list(columns) == list(sizes)
    assert total <= budget or set(columns.values()) == {0}
    order = sorted(sizes, key=lambda name: state_bytes(sizes[name], None))
    full = [columns[name] is None for name in order]
    assert full == sorted(full, reverse=True)
    assert all(c in {None, 0, 8, 16, 32} for c in columns.values())
    sketched = [columns[name] != 0 for name in order]
    assert sketched == sorted(sketched, reverse=True)
    if budget == 10**8:
        assert all(full)


def test_a_pass_collects_every_layer_in_four_folds():
    network = Network("net", build("residual").double())
    g = torch.Generator().manual_seed(0)
    source = ArraySource(torch.rand(150, 3, 12, 12, generator=g), torch.randint(0, 4, (150,), generator=g))
    p = Pass(source, {"model": network})
    slots = feed_spectra(p, network, images=None)
    some = feed_spectra(p, network, ["conv2.weight"], images=60)
    p.run()
    alone = activation_spectrum(network.module, source.images.double())
    assert list(slots) == list(alone) == ["conv1", "conv2", "down"]
    for name, slot in slots.items():
        assert slot.folds == 4
        same(slot.value(), alone[name], 1e-9)
        assert slot.value().half.n == alone[name].half.n
    module = network.module.eval()
    assert torch.allclose(
        alone["conv1"].variance.sum(), module.conv1(source.images.double()).var(0, correction=0).sum(), rtol=1e-9
    )
    number = slots["conv2"].estimate(lambda spectrum: spectrum.dc_share)
    assert number.value == slots["conv2"].value().dc_share
    assert number.spread > 0
    (few,) = some.values()
    assert 30 < few.value().n < 90


def test_it_leaves_the_network_as_it_was():
    module = build("residual").train()
    before = {name: t.clone() for name, t in module.state_dict().items()}
    activation_spectrum(module, torch.rand(20, 3, 12, 12), layers=["down"])
    assert module.training
    assert all(torch.equal(before[name], t) for name, t in module.state_dict().items())


@pytest.mark.parametrize("name", ["functional", "standardised", "parametrised", "shared"])
def test_awkward_networks(name):
    found = activation_spectrum(build(name), torch.rand(12, 3, 12, 12))
    assert found
    assert all(s.n >= 12 and s.variance.sum() > 0 for s in found.values())


def test_a_budget_of_nothing_leaves_the_variances():
    net = nn.Sequential(nn.Conv2d(3, 40, 3), nn.ReLU(), nn.Conv2d(40, 20, 3))
    x = torch.rand(30, 3, 10, 10)
    full, bare = activation_spectrum(net, x), activation_spectrum(net, x, budget=0)
    for name in full:
        assert full[name].exact
        assert not bare[name].exact
        assert math.isnan(bare[name].rank())
        assert torch.allclose(full[name].variance, bare[name].variance, rtol=1e-4)


def test_what_cannot_be_analysed_is_said(caplog):
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 1))
    with pytest.raises(TypeError, match=r"must be a torch\.nn\.Module"):
        activation_spectrum("net", torch.rand(4, 3, 8, 8))
    with pytest.raises(ConvscopeError, match="no convolution 'x'"):
        activation_spectrum(net, torch.rand(4, 3, 8, 8), layers=["x"])
    with pytest.raises(ConvscopeError, match=r"no convolution could be analysed; 0: maps of several sizes"):
        activation_spectrum(net, [torch.rand(4, 3, 8, 8), torch.rand(4, 3, 9, 9)])

    class Dims(nn.Module):
        def __init__(self):
            super().__init__()
            self.good, self.bad = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 1)

        def forward(self, x):
            y = self.good(x)
            return self.bad(y[:, :, : 3 + int(len(x) > 4)])

    with caplog.at_level(logging.WARNING, logger="convscope"):
        found = activation_spectrum(Dims(), iter([torch.rand(5, 3, 8, 8), torch.rand(4, 3, 8, 8)]))
    assert list(found) == ["good"]
    assert "bad is left out: maps of several sizes" in caplog.text
