import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import linear_dynamics as oracle

from convscope.core.batches import Batch
from convscope.core.errors import ConvscopeError
from convscope.core.fourier import pairs, partners, signed_frequencies, unitary
from convscope.dynamics.collect import ClassSums, dataset_structure, structure_of
from convscope.dynamics.structure import diagnostics


def data(n=60, c=1, h=5, w=4, outputs=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    images = 3 + torch.randn(n, c, h, w, generator=generator, dtype=torch.float64)
    labels = torch.arange(n) % outputs
    images[labels == 1, :, -1] += 0.7
    images[labels == 2, :, :, 0] -= 0.4
    return images, labels


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_moments_are_those_of_loops_over_images(given):
    draw = given.draw
    c, h, w, outputs = (draw(st.integers(*ends)) for ends in ((1, 3), (1, 6), (2, 6), (2, 4)))
    n, center = draw(st.integers(outputs + 2, 40)), draw(st.booleans())
    images, labels = data(n, c, h, w, outputs, draw(st.integers(0, 99)))
    batches = list(zip(images.split(7), labels.split(7), strict=True))
    found = dataset_structure(batches, center=center)
    yx, xx = oracle.moments(images, labels, outputs, center)
    np.testing.assert_allclose(found.cross.flatten(1), yx, atol=1e-12)
    np.testing.assert_allclose(found.covariance, xx, atol=1e-11)
    transform = unitary(torch.eye(h * w, dtype=torch.float64).view(-1, h, w)).flatten(1).T
    whole = torch.kron(torch.eye(c), transform.contiguous())
    seen = (whole @ torch.from_numpy(xx).to(whole) @ whole.mH).reshape(c, h * w, c, h * w)
    blocks = seen.diagonal(dim1=1, dim2=3).permute(2, 0, 1).reshape(h, w, c, c)
    np.testing.assert_allclose(found.power, blocks, atol=1e-11)


def test_modes_are_the_singular_vectors_with_signs_fixed():
    images, labels = data(c=3)
    found = dataset_structure([(images, labels)])
    assert len(found.singular_values) == 2  # three centred classes
    again = torch.einsum("m,mo,mchw->ochw", found.singular_values, found.class_vectors, found.modes)
    torch.testing.assert_close(again, found.cross)
    assert (found.class_vectors.gather(1, found.class_vectors.abs().argmax(1, keepdim=True)) > 0).all()
    torch.testing.assert_close(found.modes.flatten(1) @ found.modes.flatten(1).T, torch.eye(2).double())


def test_transform_is_the_sum_over_pixels():
    image = np.random.default_rng(0).normal(size=(4, 5))
    np.testing.assert_allclose(unitary(torch.from_numpy(image)), oracle.transform(image), atol=1e-12)


@pytest.mark.parametrize(("h", "w"), [(1, 1), (2, 2), (4, 4), (5, 3), (4, 7), (1, 6)])
def test_each_frequency_is_in_one_pair(h, w):
    places, multiplicity = pairs(h, w)
    signed, other = signed_frequencies(h, w), partners(h, w)
    assert int(multiplicity.sum()) == h * w
    assert sorted({*places.tolist(), *other[places].tolist()}) == list(range(h * w))
    assert all(ky > 0 or (ky == 0 and kx >= 0) for ky, kx in signed[places].tolist())
    torch.testing.assert_close((signed + signed[other]) % torch.tensor([h, w]), torch.zeros(h * w, 2).long())


def test_spectra_of_a_cosine():
    h, w = 8, 10
    y, x = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
    wave = torch.cos(2 * math.pi * (2 * y / h - 3 * x / w))
    images = torch.stack([wave, -wave, torch.zeros(h, w)])[:, None].double()
    found = dataset_structure([(images, torch.arange(3))])
    assert found.dominant_frequencies[0, 0].tolist() == [2, -3]
    assert float(found.pair_energies.max()) == pytest.approx(1)
    assert float(found.participation_ratio) == pytest.approx(2)
    assert float(found.effective_singular_values / found.singular_values) == pytest.approx(math.sqrt(h * w / 2))
    assert float(found.growth_rates.max()) == pytest.approx(float(found.effective_singular_values))


def test_growth_rate_of_colours_is_that_of_the_first_direction():
    images, labels = data(c=3)
    found = dataset_structure([(images, labels)])
    block = found.coefficients[1, 1].numpy()
    assert float(found.growth_rates[1, 1]) == pytest.approx(math.sqrt(20) * np.linalg.svd(block)[1][0])
    assert float(found.strengths[1, 1]) == pytest.approx(np.linalg.norm(block))


def test_theory_holds_on_class_means_alone_and_says_how_far_on_images():
    images, labels = data(300, h=6, w=6)
    means = torch.stack([images[labels == k].mean(0) for k in range(3)])
    exact = diagnostics(dataset_structure([(means, torch.arange(3))]))
    assert exact.off_diagonal < 1e-10
    assert exact.invariance < 1e-6
    found = diagnostics(dataset_structure([(images, labels)]))
    assert 0 < found.off_diagonal < 1
    assert 0 < found.frequency_coupling < 1
    assert 0 < found.invariance < 1


@pytest.mark.parametrize("center", [True, False])
def test_power_is_the_same_with_and_without_covariances(center):
    images, labels = data(c=3)
    found, plain = (dataset_structure([(images, labels)], center=center, covariance=wanted) for wanted in (True, False))
    torch.testing.assert_close(found.power, plain.power)


def test_large_images_go_without_covariances():
    images, labels = data(8, h=9, w=9)
    found = dataset_structure([(images, labels)], covariance=False)
    assert found.covariance is None
    with pytest.raises(ConvscopeError, match="all 81 pixels with each other"):
        diagnostics(found)


def test_images_without_a_label_are_left_out():
    images, labels = data()
    some = labels.clone()
    some[::2] = -1
    reference = images[:10].mean(0)
    sums = ClassSums(reference, covariance=True)
    for part in torch.arange(60).split(11):
        sums.update(images[part], Batch.of(images[part], some[part], part))
    found = structure_of(sums.compute())
    expected = dataset_structure([(images[1::2], labels[1::2])])
    torch.testing.assert_close(found.cross, expected.cross)
    torch.testing.assert_close(found.covariance, expected.covariance)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda x, y: (x, None), "no image has a label"),
        (lambda x, y: (x, torch.zeros_like(y)), "of one class"),
        (lambda x, y: (torch.ones_like(x), y), "not correlated at all"),
    ],
)
def test_bad_input_is_said(change, match):
    images, labels = change(*data())
    with pytest.raises(ConvscopeError, match=match):
        dataset_structure(images if labels is None else [(images, labels)])


def test_images_of_several_sizes_are_refused():
    images, labels = data()
    with pytest.raises(ConvscopeError, match="differ in size"):
        dataset_structure([(images, labels), (images[..., :3], labels)])


def test_an_empty_class_is_a_row_of_zeros():
    images, labels = data()
    found = dataset_structure([(images, torch.where(labels == 2, 4, labels))])
    assert found.counts.tolist() == [20, 20, 0, 0, 20]
    torch.testing.assert_close(found.cross[2:4], torch.zeros(2, 1, 5, 4).double())
