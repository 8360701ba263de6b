"""Data sets for demonstrations: what is in the images, and what it depends on."""

import numpy as np
import pytest

from convscope.rfm.tasks import local_signal, noisy_digits, star


def marked(n=12, classes=3, side=4):
    """Images of one value each, so that a digit can be told from the frame; their labels."""
    images = np.arange(1.0, n + 1)[:, None, None] * np.ones((side, side)) * 100
    return images, np.arange(n) % classes


@pytest.mark.parametrize("make", [noisy_digits, star, local_signal])
def test_a_seed_decides_everything(make):
    first, again, other = make(n=20, seed=3), make(n=20, seed=3), make(n=20, seed=4)
    assert np.array_equal(first.images, again.images)
    assert np.array_equal(first.offsets, again.offsets)
    assert not np.array_equal(first.images, other.images)


@pytest.mark.parametrize("make", [noisy_digits, star, local_signal])
def test_fewer_images_are_the_first_of_more(make):
    few, many = make(n=9), make(n=30)
    assert np.array_equal(few.images, many.images[:9])
    assert np.array_equal(few.labels, many.labels[:9])


@pytest.mark.parametrize(("make", "classes"), [(noisy_digits, 10), (star, 2), (local_signal, 2)])
def test_classes_are_as_even_as_can_be(make, classes):
    task = make(n=10 * classes + 1)
    counts = np.bincount(task.labels, minlength=classes)
    assert counts.max() - counts.min() == 1
    assert len(task.classes) == classes
    assert task.images.dtype == np.float32
    assert task.labels.dtype == np.int64
    assert len(task) == len(task.images) == 10 * classes + 1


def test_a_digit_is_where_its_offset_says_and_nothing_is_elsewhere_without_noise():
    images, labels = marked()
    task = noisy_digits(images, labels, 12, sigma=0, frame=9)
    assert task.images.shape == (12, 1, 9, 9)
    values = []
    for image, (row, column), label in zip(task.images[:, 0], task.offsets, task.labels, strict=True):
        inside = image[row : row + 4, column : column + 4]
        assert len(set(inside.ravel())) == 1
        assert image.sum() == inside.sum() > 0
        values.append(inside[0, 0])
        assert (values[-1] / 100 - 1) % 3 == label
    assert len(set(values)) == 12  # no image twice


def test_every_place_in_the_frame_is_taken():
    images, labels = marked(300, 1, 2)
    offsets = {tuple(offset) for offset in noisy_digits(images, labels, 300, frame=4).offsets}
    assert offsets == {(row, column) for row in range(3) for column in range(3)}


@pytest.mark.parametrize("sigma", [0.25, 1.0])
def test_noise_has_half_the_root_of_sigma_as_its_standard_deviation(sigma):
    noise = noisy_digits(np.zeros((50, 8, 8)), np.zeros(50, int), 50, sigma=sigma).images
    assert noise.std() == pytest.approx(0.5 * sigma**0.5, rel=0.03)
    assert abs(noise.mean()) < 0.02


def test_noise_belongs_to_the_image_and_not_to_its_place_in_the_list():
    images, labels = marked()
    task = noisy_digits(images, labels, 12)
    fewer = np.flatnonzero(labels != 1)
    part = noisy_digits(images * (labels != 1)[:, None, None], labels, 12)
    same = task.labels != 1
    assert len(fewer) == same.sum()
    assert np.array_equal(task.images[same], part.images[same])
    assert not np.array_equal(task.images[0], task.images[3])


def test_a_small_class_is_used_up_and_the_others_fill():
    images, _ = marked(12)
    task = noisy_digits(images, np.array([0, 0] + [1] * 10), 8)
    assert np.bincount(task.labels).tolist() == [2, 6]


def test_bytes_are_brought_to_one_and_channels_are_kept():
    task = noisy_digits(np.full((4, 3, 5, 6), 255, np.uint8), np.arange(4), 4, sigma=0)
    assert task.images.shape == (4, 3, 9, 9)
    assert task.images.max() == 1


def test_only_every_other_image_holds_a_star_and_it_is_yellow():
    task = star(60, noise=0.3)
    for image, label, (row, column) in zip(task.images, task.labels, task.offsets, strict=True):
        ones = image == 1
        assert ones.any() == bool(label)
        if label:
            assert not ones[2].any()
            assert np.array_equal(ones[0], ones[1])
            rows, columns = np.nonzero(ones[0])
            assert rows.min() >= row
            assert rows.max() < row + 11
            assert columns.min() >= column
            assert columns.max() < column + 11
    assert (task.offsets[0] == -1).all()
    assert task.images[::2].std() == pytest.approx(0.3, rel=0.02)


@pytest.mark.parametrize("side", [25, 45])
def test_a_star_is_upright_has_five_arms_and_the_area_of_a_pentagram(side):
    task = star(2, size=side, side=side, noise=0)
    shape = task.images[1, 0] == 1
    assert np.array_equal(shape, shape[:, ::-1])
    assert shape[0, side // 2]  # a tip above
    assert not shape[-1, side // 2]
    y, x = np.mgrid[:side, :side] - (side - 1) / 2
    turn = np.arctan2(x, -y) / (2 * np.pi) * 5
    tip = np.abs(turn - turn.round()) < 0.25
    assert shape[tip].mean() > 2 * shape[~tip].mean()
    # Ten triangles of two sides 1 and 0.382 (in radii) and 36 degrees between them.
    area = 10 * 0.5 * 0.381966 * np.sin(np.pi / 5) * (side / 2) ** 2
    assert shape.sum() == pytest.approx(area, rel=0.06)


def test_one_row_says_the_class_by_its_sign():
    task = local_signal(80, sigma=2.0)
    assert task.images.shape == (80, 1, 16, 32)
    for image, label, (row, _) in zip(task.images[:, 0], task.labels, task.offsets, strict=True):
        assert np.allclose(image[row], (1 if label else -1) / 32**0.5)
        assert np.linalg.norm(image[row]) == pytest.approx(1, rel=1e-6)
    rest = np.array([np.delete(image, row, 0) for image, (row, _) in zip(task.images[:, 0], task.offsets, strict=True)])
    assert rest.var() == pytest.approx(2 / 32, rel=0.03)
    assert len(set(task.offsets[:, 0])) > 10


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: noisy_digits(n=5000), "1797 images"),
        (lambda: noisy_digits(n=0), "n must be from 1"),
        (lambda: noisy_digits(np.ones((3, 4, 4))), "images and labels together"),
        (lambda: noisy_digits(np.ones((3, 4, 4)), [0, 1], 2), "one for each of the 3 images"),
        (lambda: noisy_digits(np.ones((3, 4, 4)), [0.0, 1.5, 1.0], 2), "whole numbers"),
        (lambda: noisy_digits(np.ones((3, 4, 4)), [0, 1, -1], 2), "at least 0"),
        (lambda: noisy_digits(np.ones((3, 16)), [0, 1, 0], 2), "shape"),
        (lambda: noisy_digits(np.full((2, 4, 4), np.nan), [0, 1], 2), "NaN"),
        (lambda: noisy_digits(n=5, frame=7), "at least as large"),
        (lambda: noisy_digits(n=5, sigma=-1), "sigma"),
        (lambda: star(0), "at least one image"),
        (lambda: star(2, side=40), "3 pixels to the images' 32"),
        (lambda: star(2, noise=float("inf")), "finite"),
        (lambda: local_signal(2, rows=0), "rows and columns"),
        (lambda: local_signal(2, sigma=float("nan")), "sigma"),
    ],
)
def test_wrong_arguments_say_what_is_wrong(call, message):
    with pytest.raises(ValueError, match=message):
        call()
