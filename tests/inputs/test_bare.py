"""All convolutions of a state dict, known by their weights alone."""

import pytest
import torch
from torch import nn

from convscope.core.errors import ConvscopeError
from convscope.core.network import following_norm
from convscope.inputs.bare import bare_convolutions
from convscope.inputs.checkpoints import Weights
from convscope.inputs.networks import open_weights
from convscope.training.networks import build


def trained_norms(module):
    torch.manual_seed(0)
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.running_var.uniform_(0.5, 2)
            nn.init.uniform_(part.weight, 0.5, 2)
    return module


def test_every_convolution_is_found_in_order_with_its_batch_norm():
    module = trained_norms(build("resnet20"))
    found = bare_convolutions(Weights(module.state_dict()))
    convs = {name: part for name, part in module.named_modules() if isinstance(part, nn.Conv2d)}
    assert [bare.name for bare in found] == list(convs)
    for bare in found:
        gamma, variance, eps = following_norm(module, bare.name)
        torch.testing.assert_close(bare.factor, gamma.double() / (variance.double() + eps).sqrt(), rtol=1e-6, atol=0)
        assert torch.equal(bare.weight, convs[bare.name].weight)


def test_numbers_in_names_count_where_the_file_is_sorted_by_letters():
    tensors = {f"features.{i}.weight": torch.ones(2, 2, 3, 3) for i in (0, 2, 10)}
    assert [b.name for b in bare_convolutions(Weights(dict(sorted(tensors.items()))))] == [
        "features.0",
        "features.2",
        "features.10",
    ]


def test_a_batch_norm_is_found_by_the_next_number_and_only_where_it_fits():
    tensors = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 5, 3), nn.Conv2d(5, 4, 1)).state_dict()
    first, second, third = bare_convolutions(Weights(tensors))
    assert first.factor is not None
    assert second.factor is third.factor is None
    wrong = dict(tensors) | {"1.running_var": torch.ones(7)}
    assert bare_convolutions(Weights(wrong))[0].factor is None


def test_other_tensors_are_no_convolutions():
    with pytest.raises(ConvscopeError, match="expected weights with four axes"):
        bare_convolutions(Weights(nn.Sequential(nn.Linear(2, 2), nn.Conv1d(2, 2, 3)).state_dict()))
    integers = {"codes": torch.ones(2, 2, 3, 3, dtype=torch.int64), "conv.weight": torch.ones(2, 2, 3, 3)}
    assert [b.name for b in bare_convolutions(Weights(integers))] == ["conv"]


def test_a_weights_file_is_told_from_a_network(tmp_path):
    torch.save({"conv.weight": torch.ones(2, 2, 3, 3)}, tmp_path / "w.pt")
    name, weights = open_weights(str(tmp_path / "w.pt"))
    assert name == "w.pt"
    assert list(weights.tensors) == ["conv.weight"]
    assert open_weights("convscope.training.networks:resnet20") is None
