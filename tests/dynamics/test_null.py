"""What permuted labels give, against labels that are permuted."""

import numpy as np
import pytest
import torch

from convscope.core.batches import Batch
from convscope.core.errors import ConvscopeError
from convscope.dynamics.collect import ClassSums, structure_of
from convscope.dynamics.null import SignSums, band, permuted
from convscope.dynamics.structure import decompose


def data(n=500, classes=4, seed=0):
    """Smooth images of classes of unequal size."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(n, 2, 7, 6, generator=generator, dtype=torch.float64).cumsum(3).cumsum(2) / 5 + 3
    return images, (torch.arange(n).sqrt() % classes).long()


def summed(images, labels, make, size=64):
    found = make(images[:5].mean(0))
    for rows in torch.arange(len(images)).split(size):
        found.update(images[rows], Batch.of(images[rows], labels[rows], rows))
    return found


@pytest.mark.parametrize("center", [True, False])
def test_bands_are_those_of_permuted_labels(center):
    images, labels = data()
    structure = structure_of(summed(images, labels, ClassSums), center=center)
    draws = permuted(structure, summed(images, labels, SignSums), 300)
    one_hot = torch.nn.functional.one_hot(labels).double()
    x, y = images.flatten(1), one_hot
    if center:
        x, y = x - x.mean(0), y - y.mean(0)
    generator = torch.Generator().manual_seed(1)
    plain = []
    for _ in range(300):
        cross = (y[torch.randperm(len(y), generator=generator)].T @ x / len(x)).unflatten(1, images.shape[1:])
        plain.append(decompose(cross, structure.power, None, structure.mean, structure.counts, center))
    numbers = {
        "singular values": lambda s: s.singular_values,
        "effective": lambda s: s.effective_singular_values,
        "participation": lambda s: s.participation_ratio,
    }
    for name, f in numbers.items():
        ours, theirs = band(draws, f, 3), band(plain, f, 3)
        for one, other in zip(ours, theirs, strict=True):
            np.testing.assert_allclose(one, other, rtol=0.3, err_msg=name)
    middle = [torch.stack([s.singular_values[:3] for s in part]).median(0).values for part in (draws, plain)]
    np.testing.assert_allclose(*middle, rtol=0.08)


def test_draws_have_the_covariance_of_permutations():
    images, labels = data(120, 3)
    structure = structure_of(summed(images, labels, ClassSums))
    signs = summed(images, labels, lambda reference: SignSums(reference, 4000))
    draws = torch.stack([s.cross.flatten(1) for s in permuted(structure, signs, 800)])
    share = structure.counts.double() / len(images)
    over_classes = torch.diag(share) - torch.outer(share, share)
    x = (images - images.mean(0)).flatten(1)
    variance = x.square().mean(0)
    expected = over_classes.diagonal()[:, None] * variance / (len(images) - 1)
    np.testing.assert_allclose(draws.square().mean(0), expected, rtol=0.35)
    np.testing.assert_allclose(draws.square().mean(0).sum(), expected.sum(), rtol=0.06)
    between = torch.einsum("nad,nbd->ab", draws, draws) / len(draws)
    np.testing.assert_allclose(
        between, over_classes * variance.sum() / (len(images) - 1), atol=float(expected.sum()) * 0.06
    )


def test_sums_do_not_depend_on_batches_or_processes():
    images, labels = data(90)
    labels[::7] = -1
    whole, other = summed(images, labels, SignSums), summed(images, labels, SignSums, size=11)
    torch.testing.assert_close(whole.sums, other.sums, rtol=1e-12, atol=1e-12)
    first, second = SignSums(whole.reference), SignSums(whole.reference)
    for part, rows in ((first, torch.arange(0, 90, 2)), (second, torch.arange(1, 90, 2))):
        part.update(images[rows], Batch.of(images[rows], labels[rows], rows))
    first.merge(second)
    torch.testing.assert_close(first.sums, whole.sums, rtol=1e-12, atol=1e-12)
    assert int(whole.sums["n"]) == int((labels >= 0).sum())


def test_signs_are_fair():
    images = torch.ones(3000, 1, 1, 1, dtype=torch.float64)
    found = SignSums(torch.zeros(1, 1, 1, dtype=torch.float64))
    found.update(images, Batch.of(images, torch.zeros(3000, dtype=torch.long), torch.arange(3000)))
    sums = found.sums["signs"]
    assert sums.abs().max() < 5 * 3000**0.5
    assert abs(float(sums.square().mean()) / 3000 - 1) < 0.3
    torch.testing.assert_close(found.sums["images"][:, 0], sums)


def test_no_labels_cannot_be_permuted():
    images, labels = data(60)
    structure = structure_of(summed(images, labels, ClassSums))
    with pytest.raises(ConvscopeError, match="there is none to permute"):
        permuted(structure, SignSums(structure.mean))


def test_bands_are_nan_for_modes_that_chance_does_not_have():
    images, labels = data(60, 3)
    structure = structure_of(summed(images, labels, ClassSums))
    low, high = band([structure], lambda s: s.singular_values, 4)
    assert low[:2].isfinite().all()
    assert high[2:].isnan().all()
