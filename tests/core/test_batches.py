import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from convscope.core.batches import Batch, mix

MASK = (1 << 64) - 1
INT64 = st.integers(-(1 << 63), (1 << 63) - 1)


def slow_mix(*values):
    """SplitMix64 in Python's unbounded integers."""
    state = 0
    for value in values:
        x = ((state ^ (value & MASK)) + 0x9E3779B97F4A7C15) & MASK
        x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & MASK
        x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & MASK
        state = x ^ (x >> 31)
    return state & (MASK >> 1)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.lists(INT64, min_size=1, max_size=4))
def test_mix_is_splitmix64_whatever_overflows(values):
    assert int(mix(*values)) == slow_mix(*values)
    assert int(mix(*[torch.tensor([v]) for v in values])) == slow_mix(*values)


def test_mix_lies_in_63_bits_and_keeps_to_its_element():
    index = torch.tensor([0, 1, -1, (1 << 63) - 1, -(1 << 63), 1 << 40])
    hashed = mix(7, index, 2)
    assert hashed.dtype == torch.int64
    assert int(hashed.min()) >= 0
    assert hashed.tolist() == [int(mix(7, i, 2)) for i in index.tolist()]
    assert torch.equal(mix(7, index[:, None], torch.arange(3))[2, 1], mix(7, -1, 1))


def test_mix_depends_on_order_and_on_every_value():
    assert int(mix(1, 2)) != int(mix(2, 1))
    assert len({int(mix(*v)) for v in [(0,), (0, 0), (0, 0, 0), (1,), (0, 1)]}) == 5


@pytest.mark.parametrize("modulus", [2, 7, 10])
def test_consecutive_identities_spread_evenly(modulus):
    # Chi-squared with modulus - 1 degrees of freedom exceeds its mean by 5 standard deviations with a chance below
    # 1e-3 for one degree of freedom and below 1e-5 for nine; the draws are fixed, so the test is not flaky.
    n = 20_000
    for seed in range(5):
        counts = torch.bincount(mix(seed, torch.arange(n)) % modulus, minlength=modulus).double()
        expected = n / modulus
        chi2 = float(((counts - expected) ** 2 / expected).sum())
        assert chi2 < modulus - 1 + 5 * (2 * (modulus - 1)) ** 0.5


def test_one_bit_changes_about_half_of_all_bits():
    index = torch.arange(2000)
    flipped = torch.stack([mix(index) ^ mix(index ^ (1 << bit)) for bit in range(0, 62, 7)])
    changed = torch.stack([(flipped >> b) & 1 for b in range(63)]).double().mean()
    assert float(changed) == pytest.approx(0.5, abs=0.005)  # 1.1 million bits: ten standard deviations


def test_a_batch_selects_and_hashes_groups():
    images = torch.arange(4.0).view(4, 1, 1, 1)
    group = torch.tensor([5, 5, 6, 6])
    batch = Batch.of(images, torch.tensor([0, 1, 2, 3]), torch.tensor([10, 11, 12, 13]), group)
    assert torch.equal(batch.fold, mix(1, group))
    assert len(batch) == 4
    for where in (torch.tensor([1, 3]), torch.tensor([False, True, False, True])):
        part = batch[where]
        assert part.images.flatten().tolist() == [1, 3]
        assert part.labels.tolist() == [1, 3]
        assert part.index.tolist() == [11, 13]
        assert torch.equal(part.fold, batch.fold[where])
    alone = Batch.of(images, None, torch.arange(4))
    assert torch.equal(alone.fold, mix(1, torch.arange(4)))
    assert alone[torch.tensor([0])].labels is None
