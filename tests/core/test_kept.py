import itertools

import pytest
import torch

from convscope.core.batches import Batch, mix
from convscope.core.errors import ConvscopeError
from convscope.core.kept import Kept

X = torch.randn(50, 1, 2, 2, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(50) % 3


def batch_of(where, labels=LABELS):
    where = torch.as_tensor(where, dtype=torch.int64)
    return Batch.of(X[where], None if labels is None else labels[where], where)


def kept(pieces, k=8, **kwargs):
    accumulator = Kept(k, **kwargs)
    for where in pieces:
        accumulator.update(X[torch.as_tensor(where)], batch_of(where))
    return accumulator


def expected(k=8):
    return torch.argsort(mix(5, torch.arange(50)))[:k].sort().values


@pytest.mark.parametrize(
    "pieces", [[range(50)], [[i] for i in range(50)], [range(30, 50), range(30)], [list(range(49, -1, -1))]]
)
def test_any_order_and_batching_keeps_the_same_images(pieces):
    found = kept([list(p) for p in pieces]).compute()
    assert torch.equal(found.index, expected())
    assert torch.equal(found.x, X[expected()])
    assert torch.equal(found.labels, LABELS[expected()])


def test_merging_keeps_the_same_images():
    parts = [list(range(20)), list(range(20, 45)), list(range(45, 50)), []]
    for order in itertools.permutations(parts):
        total = Kept(8)
        for where in order:
            total.merge(kept([where]) if where else Kept(8))
        assert torch.equal(total.compute().index, expected())


def test_fewer_images_than_wanted_are_all_kept():
    assert len(kept([list(range(5))], k=8).compute().index) == 5


def test_memory_is_bounded():
    found = kept([list(range(50))], max_bytes=3 * X[0].numel() * 4 + 1).compute()
    assert torch.equal(found.index, expected(3))
    assert len(kept([list(range(50))], max_bytes=1).compute().index) == 1  # one at least


def test_labels_that_some_or_all_lack():
    none = Kept(8)
    none.update(X, Batch.of(X, None, torch.arange(50)))
    assert none.compute().labels is None
    assert none.compute().labelled()[0].shape == (0, 1, 2, 2)
    some = LABELS.clone()
    some[::2] = -1
    mixed = Kept(50)
    mixed.update(X, batch_of(range(50), some))
    assert torch.equal(mixed.compute().labels, some)
    x, labels = mixed.compute().labelled()
    assert torch.equal(x, X[1::2])
    assert torch.equal(labels, LABELS[1::2])


def test_states_are_saved_and_replaced():
    one, two = kept([list(range(50))]), kept([list(range(3))])
    two.load_state_dict(one.state_dict())
    assert torch.equal(two.compute().index, expected())
    two.load_state_dict(Kept().state_dict())
    with pytest.raises(ValueError, match="no image"):
        two.compute()
    two.update(X[:2], batch_of([0, 1]))
    assert two.compute().index.tolist() == [0, 1]


def test_images_of_two_sizes_are_refused():
    accumulator = kept([[0, 1]])
    with pytest.raises(ConvscopeError, match="different sizes"):
        accumulator.update(torch.zeros(1, 1, 3, 2), batch_of([2]))
    assert accumulator.compute().index.tolist() == [0, 1]


def test_an_empty_batch_changes_nothing():
    accumulator = Kept()
    accumulator.update(X[:0], batch_of([]))
    with pytest.raises(ValueError, match="no image"):
        accumulator.compute()
