"""Images beside maps of answers."""

import numpy as np
import pytest
import torch

from convscope.core.views import SIDE, views


def test_each_image_is_followed_by_its_maps_each_on_one_scale_over_all_images():
    images = torch.tensor([-1.0, 3.0]).view(2, 1, 1, 1).expand(2, 1, 4, 4)
    first, second = torch.tensor([1.0, 4.0]), torch.tensor([0.5, 0.1])
    seen = views(images, [m.view(2, 1, 1).expand(2, 2, 2) for m in (first, second)])
    assert seen.shape == (6, SIDE, SIDE, 3)
    assert seen.dtype == np.uint8
    assert (seen == seen[:, :1, :1, :1]).all()
    assert seen[:, 0, 0, 0].tolist() == [0, 64, 255, 255, 255, 51]


def test_colours_are_kept_and_other_channels_are_averaged():
    colour = torch.zeros(1, 3, 2, 2)
    colour[:, 1] = 1
    assert views(colour, [])[0, 0, 0].tolist() == [0, 255, 0]
    two = torch.stack([torch.zeros(2, 2), torch.eye(2)])[None]
    assert views(two, [])[0, :, :, 0].max() == 128


@pytest.mark.parametrize("side", [5, 200])
def test_maps_of_any_size_are_brought_to_one(side):
    image = torch.zeros(1, 1, side, side)
    image[..., side // 2 :] = 1
    seen = views(image, [image[:, 0]])
    assert seen.shape == (2, SIDE, SIDE, 3)
    assert np.array_equal(seen[0], seen[1])
    assert seen[0, :, :20].max() == 0
    assert seen[0, :, -20:].min() == 255


def test_maps_without_an_answer_are_black():
    assert views(torch.rand(2, 1, 3, 3), [torch.zeros(2, 3, 3)])[1::2].max() == 0
