import pytest
import torch

from convscope.dynamics.classes import one_versus_rest, pairwise
from convscope.dynamics.collect import dataset_structure


def data():
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(90, 2, 4, 5, generator=generator, dtype=torch.float64)
    labels = torch.tensor([0] * 50 + [2] * 25 + [3] * 15)
    return images + 0.1 * labels[:, None, None, None], labels


@pytest.mark.parametrize("center", [True, False])
def test_contrasts_are_the_structures_of_two_classes(center):
    images, labels = data()
    structure = dataset_structure([(images, labels)], center=center)
    found = one_versus_rest(structure)
    assert found.classes.tolist() == [[0, -1], [2, -1], [3, -1]]
    problems = [((labels == k).long(), torch.ones_like(labels, dtype=torch.bool)) for k in (0, 2, 3)]
    pairs = pairwise(structure)
    assert pairs.classes.tolist() == [[0, 2], [0, 3], [2, 3]]
    problems += [((labels == a).long(), (labels == a) | (labels == b)) for a, b in pairs.classes.tolist()]
    for i, (own, used) in enumerate(problems):
        expected = dataset_structure([(images[used], own[used])])
        contrasts, place = (found, i) if i < 3 else (pairs, i - 3)
        torch.testing.assert_close(contrasts.singular_values[place], expected.singular_values[0])
        effective = expected.effective_singular_values[0]
        torch.testing.assert_close(contrasts.effective_singular_values[place], effective)
        overlap = (contrasts.modes[place] * expected.modes[0]).sum().abs()
        torch.testing.assert_close(overlap, torch.ones_like(overlap))
        difference = images[used & (own == 1)].mean(0) - images[used & (own == 0)].mean(0)
        torch.testing.assert_close(contrasts.modes[place], difference / difference.norm())


def test_equal_means_have_no_mode():
    images, labels = data()
    images[50:75] = images[:25]
    images[25:50] = images[:25]
    found = pairwise(dataset_structure([(images, labels)]))
    assert float(found.singular_values[0]) == pytest.approx(0, abs=1e-12)
    assert found.effective_singular_values.isfinite().all()
