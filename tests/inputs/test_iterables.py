"""Batches from Python: every form, identities, labels, and what cannot be done."""

import numpy as np
import pytest
import torch
from inputs.test_images import read
from torch.utils.data import DataLoader, IterableDataset, Subset, TensorDataset

from convscope.core.errors import ConvscopeError
from convscope.inputs.datasets import as_source
from convscope.inputs.iterables import IterableSource

X = torch.rand(10, 3, 4, 5)
Y = torch.arange(10) % 4


class Stream(IterableDataset):
    def __iter__(self):
        return iter([(X[i], int(Y[i])) for i in range(10)])


@pytest.mark.parametrize(
    ("given", "labelled"),
    [
        (lambda: [X[:6], X[6:]], False),
        (lambda: iter([X[:6], X[6:]]), False),
        (lambda: [(X[:6], Y[:6]), (X[6:], Y[6:])], True),
        (lambda: [[X[:6], Y[:6], "more"], [X[6:], Y[6:], "more"]], True),
        (lambda: [{"image": X[:6], "label": Y[:6]}, {"image": X[6:], "label": Y[6:]}], True),
        (lambda: ({"pixel_values": X[i : i + 5], "labels": Y[i : i + 5].numpy()} for i in (0, 5)), True),
        (lambda: DataLoader(TensorDataset(X, Y), 4), True),
        (lambda: DataLoader(Subset(TensorDataset(X, Y), range(10)), 3), True),
        (lambda: X, False),
        (X.numpy, False),
        (lambda: (X, Y), True),
        (lambda: {"images": X, "y": Y.tolist()}, True),
        (lambda: list(X), False),
        (lambda: [(X[i], int(Y[i])) for i in range(10)], True),
        (Stream, True),
    ],
)
def test_every_form_gives_the_same(given, labelled):
    source = IterableSource(given())
    found, consumed = read(source, 4)
    assert list(found) == list(range(10))
    assert consumed[-1] == 10
    for i, (image, label) in found.items():
        assert torch.equal(image, X[i])
        assert label == (int(Y[i]) if labelled else None)
    assert source.classes in {("0", "1", "2", "3") if labelled else None, None}


def test_precision_and_bytes():
    found, _ = read(IterableSource([X.double()]))
    assert found[0][0].dtype == torch.float64
    found, _ = read(IterableSource([X.half()]))
    assert found[0][0].dtype == torch.float32
    content = torch.randint(0, 256, (4, 3, 5, 5), dtype=torch.uint8)
    assert torch.equal(read(IterableSource([content]))[0][1][0], content[1] / 255)
    assert torch.equal(read(IterableSource([content.permute(0, 2, 3, 1).numpy()]))[0][1][0], content[1] / 255)


def test_identities_of_processes_differ():
    first, _ = read(IterableSource([X]), rank=0, world=2)
    second, _ = read(IterableSource([X]), rank=1, world=2)
    assert not set(first) & set(second)


def test_images_that_are_not_finite_are_left_out():
    x = X.clone()
    x[3, 0, 0, 0] = torch.nan
    source = IterableSource([(x, Y)])
    found, consumed = read(source, 4)
    assert set(found) == set(range(10)) - {3}
    assert consumed[-1] == 10
    assert [(s.what, "NaN" in s.reason) for s in source.unreadable] == [("image 3", True)]


@pytest.mark.parametrize(
    "labels",
    [
        torch.rand(10),
        torch.zeros(10, 4),
        ["a"] * 10,
        torch.tensor(1),
        -torch.ones(10).long(),
        2**60 * torch.ones(10).long(),
    ],
)
def test_labels_that_are_no_classes_are_left_out_and_noted(labels):
    source = IterableSource([(X, labels)])
    assert all(label is None for _, label in read(source)[0].values())
    assert any("left out" in note for note in source.notes)


def test_cannot_resume_and_says_so():
    with pytest.raises(ConvscopeError, match="cannot resume"):
        next(IterableSource([X]).batches(4, start=2))


@pytest.mark.parametrize(
    "given", [3, None, [], [3], [None], ["text"], [{"a": X}], [X[:, 0, 0]], [X.to(torch.complex64)], [np.array("a")]]
)
def test_no_batches(given):
    with pytest.raises(ConvscopeError) as caught:
        read(IterableSource(given))
    assert "\n" not in str(caught.value)


def test_failures_inside_the_iterable_keep_their_cause():
    def failing():
        yield X
        raise RuntimeError("worker lost")

    with pytest.raises(ConvscopeError, match="worker lost") as caught:
        read(IterableSource(failing()))
    assert isinstance(caught.value.__cause__, RuntimeError)


def test_a_source_is_passed_on():
    source = IterableSource([X])
    assert as_source(source) is source


@pytest.mark.parametrize(
    ("given", "n"),
    [
        (torch.zeros(5, 3, 4, 4), 5),
        ((torch.zeros(5, 3, 4, 4), torch.zeros(5, dtype=torch.int64)), 5),
        ([torch.zeros(5, 3, 4, 4), torch.zeros(2, 3, 4, 4)], 7),
        ([(torch.zeros(5, 3, 4, 4), None)], 5),
        ([torch.zeros(3, 4, 4)], None),
        (iter([torch.zeros(5, 3, 4, 4)]), None),
    ],
)
def test_images_in_memory_are_counted(given, n):
    assert IterableSource(given).n == n
