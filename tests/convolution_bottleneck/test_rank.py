import math

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from oracles.bottleneck_dense import circular_matrix
from oracles.bottleneck_rank import best_rank, distance_to_isometry, known_bottleneck
from torch import nn

from convscope.bottleneck.null import NullAlign
from convscope.bottleneck.operators import ConvOperator
from convscope.bottleneck.rank import cbn_rank

LOW = [(0, 0), (0, 1), (1, 0)]


def values_of(operator):
    frequencies, multiplicity = operator.half_plane
    return torch.linalg.svdvals(operator.blocks(frequencies)).flatten(1), multiplicity


def rank_of(operator, null=None):
    return cbn_rank(*values_of(operator), operator.weight.shape, null)


def spectrum(seed, f, m, kind):
    generator = torch.Generator().manual_seed(seed)
    values = torch.rand(f, m, dtype=torch.float64, generator=generator)
    if kind == "levels":
        values = (values > 0.6) * 3.0 + 0.2 * torch.rand(f, m, dtype=torch.float64, generator=generator)
    elif kind == "heavy":
        values = values**-1.5
    elif kind == "ties":
        values = (4 * values).round()
    return values, torch.randint(1, 3, (f,), generator=generator)


@settings(max_examples=150, deadline=None)
@given(
    st.integers(0, 2**31), st.integers(1, 12), st.integers(1, 5), st.sampled_from(["flat", "levels", "heavy", "ties"])
)
def test_the_rank_is_the_best_of_all_numbers_of_values_and_never_cuts_a_pair(seed, f, m, kind):
    values, multiplicity = spectrum(seed, f, m, kind)
    each = values.repeat_interleave(multiplicity, 0).flatten().tolist()
    assume(any(each))
    found = cbn_rank(values, multiplicity, (m, m, 3, 3))
    rank, level, align = best_rank(each)
    assert found.align == pytest.approx(align, rel=1e-12)
    if kind != "ties":  # where two ranks fit alike, either may be found
        assert (found.rank, found.level) == (rank, pytest.approx(level, rel=1e-12))
    assert found.rank == int((found.profile * multiplicity).sum())
    assert found.counts == {t: sum(x > t * found.level for x in each) for t in (0.25, 0.5, 0.75)}
    assert found.counts[0.5] == found.rank
    assert found.size == len(each)
    squares, needed = sorted((x * x for x in each), reverse=True), 0
    while sum(squares[:needed]) < 0.99 * sum(squares) * (1 - 1e-12):
        needed += 1
    assert needed <= found.energy_rank <= needed + 1  # a pair is not cut


def test_the_fit_is_the_nearest_multiple_of_a_partial_isometry():
    torch.manual_seed(0)
    operator = ConvOperator.of(nn.Conv2d(3, 2, 3, padding=1, padding_mode="circular").double(), (4, 3))
    dense = circular_matrix(operator.weight, operator.geometry, (4, 3))
    distances = [distance_to_isometry(dense, k) for k in range(1, 25)]
    found = rank_of(operator)
    whole = float(dense.square().sum())
    assert min(distances) == pytest.approx(whole * (1 - found.align), rel=1e-9)
    assert distances.index(min(distances)) + 1 == found.rank


@pytest.mark.parametrize(("kept", "rank", "degrees"), [(LOW, 5, {0: 1, 1: 4}), ([(0, 0), (4, 4)], 2, {0: 1, 8: 1})])
def test_the_rank_of_a_known_bottleneck_is_exact(kept, rank, degrees):
    for conv in known_bottleneck(8, 4, 6, kept)[1:-1]:
        operator = ConvOperator.of(conv, 8)
        found = rank_of(operator)
        assert (found.rank, found.confidence, found.well_defined) == (rank, "high", True)
        assert found.level == pytest.approx(1)
        assert found.align == pytest.approx(1)
        assert found.gap == math.inf
        frequencies = operator.half_plane[0]
        assert found.by_degree(frequencies) == degrees
        kept_at = {tuple(abs(k) for k in w) for w in frequencies[found.profile > 0].tolist()}
        assert kept_at == {tuple(abs(k) for k in w) for w in kept}
    assert found.by_degree(frequencies, "unordered") == {d: -(-n // 2) for d, n in degrees.items()}


def test_noise_below_the_level_does_not_change_the_rank_and_scale_does_not_matter():
    conv = known_bottleneck(8, 3, 6, LOW)[1]
    with torch.no_grad():
        conv.weight.add_(1e-3 * torch.randn(conv.weight.shape, generator=torch.Generator().manual_seed(0)))
    found = rank_of(ConvOperator.of(conv, 8))
    assert (found.rank, found.confidence) == (5, "high")
    assert 10 < found.gap < 1e3
    with torch.no_grad():
        conv.weight.mul_(1e3)
    scaled = rank_of(ConvOperator.of(conv, 8))
    assert (scaled.rank, scaled.align, scaled.gap) == (
        5, pytest.approx(found.align), pytest.approx(found.gap),
    )  # fmt: skip


def test_random_and_orthogonal_kernels_have_no_plateau():
    torch.manual_seed(0)
    conv = nn.Conv2d(16, 16, 3, padding=1, padding_mode="circular").double()
    found = rank_of(ConvOperator.of(conv, 8))
    assert found.confidence == "no plateau"
    assert found.null is not None
    with torch.no_grad():
        conv.weight.zero_()
        conv.weight[:, :, 1, 1] = nn.init.orthogonal_(torch.empty(16, 16))
    found = rank_of(ConvOperator.of(conv, 8))
    assert (found.rank, found.confidence) == (16 * 64, "no plateau")
    assert found.align == pytest.approx(1, abs=1e-6)
    assert math.isnan(found.gap)


def test_confidence_follows_gap_alignment_and_share():
    def found(low, kept=2, null=None):
        values = torch.full((10, 4), low)
        values[:kept] = 1.0
        return cbn_rank(values, torch.ones(10, dtype=torch.int64), (4, 4, 3, 3), null)

    assert found(0.0).confidence == "high"
    assert found(0.1).confidence == "high"
    assert found(0.15).confidence == "medium"  # gap 6.7, but alignment 0.92
    assert (found(0.15).align, found(0.15).gap) == (pytest.approx(8 / 8.72), pytest.approx(1 / 0.15))
    assert found(0.3).confidence == "no plateau"
    assert found(0.0, kept=5).confidence == "no plateau"  # half of all values
    wide = NullAlign(0.98, 0.01, 1.0, 0.0)
    assert found(0.0, kept=5, null=wide).confidence == "high"
    assert found(0.0, null=wide).z == pytest.approx(2)
    assert math.isnan(found(0.0, null=wide).z_share)
    assert math.isnan(found(0.0).z)


def test_a_zero_convolution_has_collapsed():
    found = cbn_rank(torch.zeros(3, 2), torch.tensor([1, 2, 2]), (2, 2, 1, 5))
    assert (found.rank, found.confidence, found.profile.tolist()) == (0, "collapsed", [0, 0, 0])
    assert math.isnan(found.align)
    assert math.isnan(found.level)
    assert math.isnan(found.gap)
    assert found.counts == {0.25: 0, 0.5: 0, 0.75: 0}
    assert (found.energy_rank, found.share, found.well_defined) == (0, 0.0, False)
    assert found.by_degree(torch.tensor([[0, 0], [0, 1], [0, 2]])) == {}


def test_thresholds_that_disagree_make_the_rank_ill_defined():
    falling = torch.arange(1.0, 41)[None] ** -0.6
    found = cbn_rank(falling, torch.tensor([1]), (40, 40, 1, 1))
    assert found.counts[0.75] < found.counts[0.25] / 2
    assert not found.well_defined


ONES, COUNTS, SHAPE = torch.ones(3, 2), torch.tensor([1, 2, 2]), (2, 2, 1, 5)


@pytest.mark.parametrize(
    ("values", "multiplicity", "shape", "words"),
    [
        (ONES[0], COUNTS, SHAPE, "shape"),
        (torch.zeros(0, 2), COUNTS[:0], SHAPE, "shape"),
        (ONES, COUNTS[:2], SHAPE, "one multiplicity for each"),
        (ONES * math.nan, COUNTS, SHAPE, "NaN"),
        (ONES * math.inf, COUNTS, SHAPE, "infinite"),
        (-ONES, COUNTS, SHAPE, "negative"),
        (ONES.to(torch.complex64), COUNTS, SHAPE, "real"),
        (ONES, COUNTS.double(), SHAPE, "whole"),
        (ONES, COUNTS - 1, SHAPE, "at least 1"),
        (ONES, COUNTS, (2, 2), "weight's"),
        (ONES, COUNTS, (2, 0, 1, 5), "weight's"),
    ],
)
def test_wrong_arguments_are_refused(values, multiplicity, shape, words):
    with pytest.raises(ValueError, match=words):
        cbn_rank(values, multiplicity, shape)


def test_degrees_need_the_frequencies_of_the_profile():
    found = cbn_rank(ONES, COUNTS, SHAPE)
    with pytest.raises(ValueError, match="shape"):
        found.by_degree(torch.zeros(2, 2))
    with pytest.raises(ValueError, match="count"):
        found.by_degree(torch.zeros(3, 2), "complex")
