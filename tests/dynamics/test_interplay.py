import pytest
import torch
import torch.nn.functional as F
from torch import nn

from convscope.dynamics.collect import dataset_structure
from convscope.dynamics.interplay import convolution_matrix, interplay
from convscope.dynamics.linear import LinearCNN


def structure_of(c=2, h=4, w=5):
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(40, c, h, w, generator=generator, dtype=torch.float64)
    return dataset_structure([(images, torch.arange(40) % 3)])


@pytest.mark.parametrize(
    ("mode", "padding", "kernel", "filters"),
    [
        ("circular", "same", 3, 1),
        ("circular", "same", 4, 3),
        ("zeros", "same", 3, 2),
        ("zeros", 0, 2, 1),
        ("zeros", 2, 3, 3),
    ],
)
def test_it_is_the_decomposition_of_the_layer_itself(mode, padding, kernel, filters):
    structure = structure_of()
    conv = nn.Conv2d(2, filters, kernel, padding=padding, padding_mode=mode, bias=False).double()
    images = torch.eye(40, dtype=torch.float64).view(40, 2, 4, 5)
    with torch.no_grad():
        answers = conv(images).flatten(1).T  # [out, in]
        passed = conv(structure.modes).flatten(1).norm(dim=1)
    head = nn.Linear(len(answers), 3, bias=False).double()
    network = LinearCNN.of(conv, head, (2, 4, 5))
    torch.testing.assert_close(convolution_matrix(network, (2, 4, 5)), answers)
    found = interplay(structure, network)
    values = found.singular_values.repeat_interleave(found.multiplicity)
    expected = torch.linalg.svdvals(answers)
    torch.testing.assert_close(values, expected[: len(values)])
    torch.testing.assert_close(found.gains, passed)
    assert float(found.overlap.sum(1).max()) <= 1 + 1e-9
    if filters >= 2:
        torch.testing.assert_close(found.captured[:, -1], torch.ones(2, dtype=torch.float64))


def test_layers_in_a_row_are_one_map():
    structure = structure_of()
    network = LinearCNN.drawn((2, 4, 5), 3, 1.0, channels=3, kernel_size=3, depth=3)
    found = interplay(structure, network)
    x = structure.modes
    for kernel in network.kernels:
        x = F.conv2d(F.pad(x, (1, 1, 1, 1), mode="circular"), kernel)
    torch.testing.assert_close(found.gains, x.flatten(1).norm(dim=1))


def test_a_mode_of_one_frequency_lies_in_one_direction():
    y = torch.arange(6, dtype=torch.float64)
    wave = torch.cos(2 * torch.pi * 2 * y / 6)[None, :, None].expand(1, 6, 5)
    structure = dataset_structure([(torch.stack([wave, -wave]), torch.tensor([0, 1]))])
    found = interplay(structure, LinearCNN.drawn((1, 6, 5), 2, 1.0))
    best = found.overlap[0].argmax()
    assert found.frequencies[best].tolist() == [2, 0]
    assert float(found.overlap[0, best]) == pytest.approx(1)


def test_bad_input_is_said():
    structure = structure_of()
    with pytest.raises(ValueError, match="takes 1 channels, but images have 2"):
        interplay(structure, LinearCNN.drawn((1, 4, 5), 3, 1.0))
    large = dataset_structure([(torch.rand(4, 1, 65, 65), torch.arange(4) % 2)], covariance=False)
    with pytest.raises(ValueError, match="too large to decompose"):
        interplay(large, LinearCNN.drawn((1, 65, 65), 2, 1.0, kernel_size=3, padding="zeros"))
