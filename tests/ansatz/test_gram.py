import pytest
import torch

from convscope.ansatz.gram import GradientGram
from convscope.core.accumulate import Folded
from convscope.core.batches import Batch
from convscope.core.errors import ConvscopeError


def batch_of(n, start=0):
    return Batch.of(torch.zeros(n, 1, 1, 1), None, torch.arange(start, start + n))


def slow(x, groups):
    total = torch.zeros(groups, x.shape[1] // groups, x.shape[1] // groups, dtype=torch.float64)
    for image in x.double():
        for g, channels in enumerate(image.unflatten(0, (groups, -1))):
            for delta in channels.flatten(1).T:
                total[g] += torch.outer(delta, delta)
    return total


@pytest.mark.parametrize("groups", [1, 2, 6])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-6), (torch.float64, 1e-14), (torch.float16, 1e-6)])
def test_the_sum_equals_a_loop_over_images_and_positions(groups, layout, dtype, bound):
    x = torch.randn(150, 6, 3, 4, generator=torch.Generator().manual_seed(0)).to(dtype, memory_format=layout)
    folded = Folded(lambda: GradientGram(groups), 2)
    folded.update(x, batch_of(150))
    moment, expected = folded.compute(), slow(x, groups)
    assert moment.images == 150
    assert moment.total.dtype == torch.float64
    assert (moment.total - expected).norm() < bound * expected.norm()


def test_images_of_a_batch_count_once_however_often_it_is_delivered():
    x = torch.ones(5, 2, 1, 1)
    for make in (lambda: GradientGram(1), lambda: Folded(lambda: GradientGram(1), 3)):
        gram = make()
        for batch in (batch_of(5), batch_of(5, 5)):
            for _ in range(3):
                gram.update(x, batch)
        assert gram.compute().images == 10
        assert torch.equal(gram.compute().total, torch.full((1, 2, 2), 30.0, dtype=torch.float64))


def test_folds_count_their_own_images():
    folded = Folded(lambda: GradientGram(1), 4)
    batch = batch_of(20)
    folded.update(torch.ones(20, 2, 1, 1), batch)
    folded.update(torch.ones(20, 2, 1, 1), batch)
    sizes = torch.bincount(batch.fold % 4).tolist()
    assert [int(part.sums["images"]) for part in folded.parts] == sizes
    assert [20 - moment.images for _, moment in folded.leave_one_out()] == sizes


def test_no_batch_is_kept_alive_and_a_new_one_in_its_place_counts():
    gram = GradientGram(1)
    for start in range(0, 40, 4):
        gram.update(torch.ones(4, 2, 1, 1), batch_of(4, start))  # the batch before may have had the same address
    assert gram.compute().images == 40


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 1e30])
def test_gradients_that_are_not_finite_leave_the_sums_as_they_were(bad):
    x = torch.ones(4, 2, 2, 2)
    gram = GradientGram(1)
    gram.update(x, batch_of(4))
    x[2, 1, 0, 1] = bad
    with pytest.raises(ConvscopeError, match="NaN or infinite"):
        gram.update(x, batch_of(4, 4))
    assert gram.compute().images == 4
    assert torch.equal(gram.compute().total, torch.full((1, 2, 2), 16.0, dtype=torch.float64))
