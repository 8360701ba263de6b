import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from convscope.core.accumulate import Folded, Sums, jackknife, jackknife_bias, merged
from convscope.core.batches import Batch


class Ratio(Sums):
    """Mean square over squared mean: no linear function of the sums."""

    def update(self, x, batch):
        self.add("n", torch.tensor(len(batch)))
        self.add("first", x.double().sum(0))
        self.add("second", x.double().square().sum(0))

    def compute(self):
        s = self.sums
        return float(s["second"] / s["n"] / (s["first"] / s["n"]) ** 2)


class Shared(Ratio):
    """The same, for all folds at once."""

    calls = 0

    def update_folds(self, parts, x, batch, fold):
        Shared.calls += 1
        for k in sorted(set(fold.tolist())):
            parts[k].update(x[fold == k], batch[fold == k])


def batch_of(n, start=0):
    index = torch.arange(start, start + n)
    return Batch.of(torch.zeros(n, 1, 1, 1), None, index)


def delete_m(values, groups, estimate):
    """The delete-m jackknife for unequal m as its paper states it (Busing, Meijer and van der Leeden, 1999)."""
    n, whole = len(values), estimate(values)
    names = sorted(set(groups.tolist()))
    g = len(names)
    thetas = {j: estimate(values[groups != j]) for j in names}
    m = {j: int((groups == j).sum()) for j in names}
    centre = g * whole - sum((1 - m[j] / n) * thetas[j] for j in names)
    total = 0.0
    for j in names:
        h = n / m[j]
        pseudo = h * whole - (h - 1) * thetas[j]
        total += (pseudo - centre) ** 2 / (h - 1)
    return math.sqrt(total / g)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.integers(0, 2**31), st.integers(5, 60), st.integers(2, 10))
def test_jackknife_is_the_delete_m_jackknife(seed, n, folds):
    rng = np.random.default_rng(seed)
    values = rng.normal(2, 1, n)
    batch = batch_of(n)
    groups = (batch.fold % folds).numpy()
    if len(set(groups.tolist())) < 2:
        return
    folded = Folded(Ratio, folds)
    folded.update(torch.from_numpy(values), batch)
    without = folded.leave_one_out()
    found = jackknife(folded.compute(), [v for _, v in without], [float(m) for m, _ in without])
    expected = delete_m(values, groups, lambda v: (v**2).mean() / v.mean() ** 2)
    assert found == pytest.approx(expected, rel=1e-8, abs=1e-12)


def test_jackknife_of_single_values_is_the_standard_error_of_a_mean():
    values = np.random.default_rng(0).normal(size=30)
    without = [float(np.delete(values, i).mean()) for i in range(30)]
    assert jackknife(float(values.mean()), without, [1.0] * 30) == pytest.approx(values.std(ddof=1) / math.sqrt(30))


def test_jackknife_where_there_is_none():
    assert jackknife(1.0, [], []) is None
    assert jackknife(1.0, [1.0], [4.0]) is None
    assert math.isnan(jackknife(1.0, [1.0, math.nan], [2.0, 2.0]))
    assert math.isnan(jackknife(math.nan, [1.0, 1.0], [2.0, 2.0]))
    assert jackknife(1.0, [1.0, 1.0], [2.0, 3.0]) == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize("make", [Ratio, Shared])
@pytest.mark.parametrize("sizes", [[40], [1] * 40, [7, 33], [0, 40]])
def test_folds_do_not_depend_on_batches(make, sizes):
    x = torch.randn(40, generator=torch.Generator().manual_seed(0)).double() + 2
    folded, start = Folded(make, 4), 0
    for n in sizes:
        folded.update(x[start : start + n], batch_of(n, start))
        start += n
    whole = batch_of(40)
    assert folded.counts == torch.bincount(whole.fold % 4, minlength=4).tolist()
    for k, part in enumerate(folded.parts):
        mine = x[whole.fold % 4 == k]
        assert float(part.sums["first"]) == pytest.approx(float(mine.sum()), rel=1e-12)
    one = Ratio()
    one.update(x, whole)
    assert folded.compute() == pytest.approx(one.compute(), rel=1e-12)
    for (n, value), k in zip(folded.leave_one_out(), range(4), strict=True):
        rest = x[whole.fold % 4 != k]
        assert n == 40 - len(rest)
        assert value == pytest.approx(float((rest**2).mean() / rest.mean() ** 2), rel=1e-12)


def test_work_is_shared_between_folds_where_it_can_be():
    Shared.calls = 0
    Folded(Shared, 4).update(torch.ones(40), batch_of(40))
    assert Shared.calls == 1


def test_a_value_may_tell_more_than_the_sums_of_all_folds():
    class Halves(Ratio):
        def compute_folds(self, parts):
            return merged(parts, Ratio).compute(), merged(parts[:2], Ratio).compute()

    x, whole = torch.arange(1, 41).double(), batch_of(40)
    folded, one, half = Folded(Halves, 4), Ratio(), Ratio()
    folded.update(x, whole)
    one.update(x, whole)
    few = whole.fold % 4 < 2
    half.update(x[few], whole[few])
    assert folded.compute() == pytest.approx((one.compute(), half.compute()), rel=1e-12)


def test_merging_is_associative_and_forgets_nothing():
    x = torch.randn(30, generator=torch.Generator().manual_seed(1)).double() + 2
    pieces = []
    for start in (0, 10, 20):
        folded = Folded(Ratio, 3)
        folded.update(x[start : start + 10], batch_of(10, start))
        pieces.append(folded)
    empty = Folded(Ratio, 3)
    for piece in reversed(pieces):
        empty.merge(piece)
    whole = Folded(Ratio, 3)
    whole.update(x, batch_of(30))
    assert empty.counts == whole.counts
    for name, t in whole.state_dict().items():
        assert torch.allclose(empty.state_dict()[name], t, rtol=1e-12)
    one = merged([p for piece in pieces for p in piece.parts], Ratio)
    assert one.compute() == pytest.approx(whole.compute(), rel=1e-12)


def test_states_are_saved_and_replaced():
    folded = Folded(Ratio, 3)
    folded.update(torch.arange(1.0, 6.0), batch_of(5))
    again = Folded(Ratio, 3)
    again.update(torch.ones(50), batch_of(50))
    again.load_state_dict({name: t.clone() for name, t in folded.state_dict().items()})
    assert again.counts == folded.counts
    assert again.compute() == folded.compute()
    again.update(torch.ones(5), batch_of(5, 5))
    assert folded.counts == Folded(Ratio, 3).counts or sum(folded.counts) == 5  # the original is untouched
    again.load_state_dict(Folded(Ratio, 3).state_dict())
    assert again.counts == [0, 0, 0]
    assert all(not part.sums for part in again.parts)


def test_one_fold_with_images_leaves_nothing_out():
    folded = Folded(Ratio, 10)
    folded.update(torch.ones(1), batch_of(1))
    assert folded.leave_one_out() == []


def test_added_terms_are_copies():
    sums, term = Ratio(), torch.ones(2)
    sums.add("a", term)
    sums.add("a", term)
    assert term.tolist() == [1, 1]
    other = Ratio()
    other.merge(sums)
    other.add("a", term)
    assert sums.sums["a"].tolist() == [2, 2]


@settings(max_examples=80, deadline=None, derandomize=True)
@given(st.lists(st.tuples(st.floats(-5, 5), st.integers(1, 9)), min_size=2, max_size=8), st.floats(-5, 5))
def test_bias_is_the_distance_to_the_centre_of_the_jackknife(groups, whole):
    without, sizes = [t for t, _ in groups], [m for _, m in groups]
    n = sum(sizes)
    pseudo = [n / m * whole - (n / m - 1) * theta for theta, m in groups]
    centre = sum(m / n * p for p, m in zip(pseudo, sizes, strict=True))  # the weighted mean of pseudo-values
    bias = jackknife_bias(whole, without, sizes)
    assert bias == pytest.approx(whole - centre, abs=1e-9)
    # The standard error is the spread of the same pseudo-values around the same centre.
    spread = math.sqrt(
        sum((p - whole + bias) ** 2 / (n / m - 1) for p, m in zip(pseudo, sizes, strict=True)) / len(sizes)
    )
    assert jackknife(whole, without, sizes) == pytest.approx(spread, abs=1e-9)


def test_bias_needs_two_groups():
    assert jackknife_bias(1.0, [1.0], [3]) is None
    assert jackknife_bias(1.0, [1.0, 1.0], [3, 2]) == 0
    assert math.isnan(jackknife_bias(1.0, [math.nan, 1.0], [1, 1]))


@pytest.mark.parametrize(
    ("without", "sizes", "message"),
    [([1.0, 2.0], [1], "got 1 sizes for 2 groups"), ([1.0, 2.0], [1, 0], "must be positive")],
)
def test_bias_names_bad_input(without, sizes, message):
    with pytest.raises(ValueError, match=message):
        jackknife_bias(1.0, without, sizes)
