"""What is told of one convolution, beside slow ways to the same numbers."""

import math

import numpy as np
import pytest
import torch
from bottleneck_runs import SIDE, circular
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles.bottleneck_maps import slow_map
from torch import nn

from convscope.bottleneck.conclude import LARGEST_GAP, Activations, Weights, frequency_map, maps_of, spread_out
from convscope.bottleneck.layers import Layer, bare_layers, layers_of
from convscope.bottleneck.operators import ConvOperator
from convscope.core.fourier import pairs, signed_frequencies

SIZES = st.integers(1, 9)


def layer_of(conv, size=SIDE):
    return Layer("conv", ConvOperator.of(conv, size), None, conv.stride, (size, size))


@settings(deadline=None, max_examples=30)
@given(SIZES, SIZES, st.integers(0, 99))
def test_a_map_over_frequencies_has_zero_in_the_middle_and_both_of_each_pair(h, w, seed):
    places, _ = pairs(h, w)
    frequencies = signed_frequencies(h, w)[places]
    values = torch.rand(len(places), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    found = frequency_map(values, frequencies, (h, w))
    assert np.array_equal(found, slow_map(values.tolist(), frequencies.tolist(), h, w))


def test_large_maps_are_averaged():
    places, multiplicity = pairs(64, 40)
    values = torch.rand(len(places), dtype=torch.float64)
    found = frequency_map(values, signed_frequencies(64, 40)[places], (64, 40))
    assert found.shape == (32, 32)
    assert found.min() > 0
    whole = float((values * multiplicity).sum() / multiplicity.sum())
    assert float(found.mean()) == pytest.approx(whole, rel=0.05)


def test_numbers_of_weights_are_those_of_their_parts():
    torch.manual_seed(0)
    conv = circular(3, 4)
    known = Weights.of(layer_of(conv))
    dense = torch.linalg.svdvals(ConvOperator.of(conv, SIDE).blocks(ConvOperator.of(conv, SIDE).half_plane[0]))
    numbers = known.numbers()
    assert numbers["norm"].value == pytest.approx(float(dense.max()))
    assert numbers["norm_bound"].value == numbers["norm"].value  # exact for a circular border
    assert numbers["leak"].value == 0
    assert numbers["cbn_share"].value == pytest.approx(numbers["cbn_rank"].value / (3 * SIDE * SIDE))
    low, high = numbers["align"].chance
    assert low < high <= 1
    assert all(n.definition == key for key, n in numbers.items())


def test_an_exact_plateau_has_a_gap_that_is_a_number():
    conv = circular(3, 3)
    with torch.no_grad():
        conv.weight.zero_()
        conv.weight[0, 0, SIDE // 2, SIDE // 2] = 1  # one channel passes, at every frequency
    known = Weights.of(layer_of(conv))
    assert known.numbers()["gap"].value == LARGEST_GAP
    assert known.numbers()["cbn_rank"].value == SIDE * SIDE
    assert np.array_equal(maps_of(known, None).kept, np.full((SIDE, SIDE), round(1 / 3, 3)))
    assert maps_of(known, None).variance.size == 0


def test_where_all_is_kept_there_is_no_gap():
    conv = circular(2, 2)
    with torch.no_grad():
        conv.weight.zero_()
        conv.weight[[0, 1], [0, 1], SIDE // 2, SIDE // 2] = 1
    assert "gap" not in Weights.of(layer_of(conv)).numbers()


def test_zero_weights_have_only_what_is_defined():
    conv = circular(2, 2)
    nn.init.zeros_(conv.weight)
    known = Weights.of(layer_of(conv))
    assert {key: n.value for key, n in known.numbers().items()} == {"cbn_rank": 0, "norm": 0, "norm_bound": 0}
    assert maps_of(known, None).largest.size == 0


def test_bare_weights_are_circular_of_stride_one():
    torch.manual_seed(0)
    weight, factor = torch.randn(4, 3, 3, 3), torch.tensor([1.0, 2.0, 0.5, 1.0])
    conv = nn.Conv2d(3, 4, 3, padding=1, padding_mode="circular", bias=False)
    with torch.no_grad():
        conv.weight.copy_(weight * factor[:, None, None, None])
    (found,), skipped = bare_layers([("a", weight, factor)], (8, 8))
    assert not skipped
    expected = Weights.of(layer_of(conv, 8)).numbers()
    assert {k: n.value for k, n in Weights.of(found).numbers().items()} == pytest.approx({
        k: n.value for k, n in expected.items()
    })


def test_bare_weights_that_are_not_finite_are_stated():
    bad, nan = torch.full((2, 2, 3, 3), math.nan), torch.tensor([1.0, math.nan])
    found, skipped = bare_layers([("a", bad, None), ("b", torch.ones(2, 2, 3, 3), nan)], (4, 4))
    assert not found
    assert [s.what for s in skipped] == ["a", "b"]
    assert "NaN" in skipped[0].reason
    assert "batch norm" in skipped[1].reason


def test_a_layer_that_never_varies_has_no_numbers():
    from convscope.bottleneck.collect import SpectrumSums
    from convscope.core.batches import Batch
    from convscope.core.slots import Slot
    from convscope.core.streams import Images

    slot = Slot(Images(), SpectrumSums, True, "")
    slot.accumulator.update(torch.ones(5, 2, 4, 4), Batch.of(torch.ones(5, 2, 4, 4), None, torch.arange(5)))
    known = Activations.of(slot)
    assert not known.varies
    assert known.numbers() == {}
    assert known.notes == ("nothing varies between images",)


def test_spread_out_keeps_the_ends():
    assert spread_out(list(range(20)), 4) == [0, 6, 13, 19]
    assert spread_out([1, 2], 4) == [1, 2]


def test_layers_of_a_network_have_their_batch_norm():
    from convscope.core.network import Network
    from convscope.core.passes import Pass
    from convscope.inputs.iterables import IterableSource

    module = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1)).eval()
    with torch.no_grad():
        module[1].weight.copy_(torch.tensor([1.0, 2.0, 3.0, 4.0]))
    network = Network("net", module)
    found, _ = layers_of(module, Pass(IterableSource(torch.rand(1, 3, 6, 6))).chosen(network))
    assert found[0].factor == pytest.approx(torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=torch.float64), rel=1e-4)
    assert found[1].factor is None
    assert torch.allclose(found[0].operator.weight, found[0].raw.weight * found[0].factor[:, None, None, None])
