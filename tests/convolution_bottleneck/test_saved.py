"""Compressed networks in files: there and back, and files of strangers."""

import json

import pytest
import torch
from bottleneck_compressed import low_pass_network, low_rank_network
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from convscope.bottleneck.compress import compress
from convscope.bottleneck.factored import ChannelForm, FrequencyForm
from convscope.bottleneck.saved import load_compressed
from convscope.core.errors import ConvscopeError
from convscope.core.network import Network


@pytest.fixture(scope="module")
def channel(tmp_path_factory):
    path = tmp_path_factory.mktemp("compressed") / "channel.safetensors"
    found = compress(Network("net", low_rank_network()), torch.randn(60, 3, 12, 12), tolerance=1e-4)
    found.save(path)
    return path, found


@pytest.fixture(scope="module")
def frequency(tmp_path_factory):
    path = tmp_path_factory.mktemp("compressed") / "frequency.safetensors"
    found = compress(Network("net", low_pass_network()), torch.rand(100, 1, 8, 8), tolerance=1e-2)
    found.save(path)
    return path, found


def test_there_and_back(channel):
    path, found = channel
    model = low_rank_network().train()
    before = {key: t.clone() for key, t in model.state_dict().items()}
    loaded = load_compressed(model, path)
    assert all(torch.equal(before[key], t) for key, t in model.state_dict().items())
    assert isinstance(model[0], nn.Conv2d)
    assert [type(loaded[i]) for i in (0, 3)] == [ChannelForm, ChannelForm]
    assert loaded.training
    x = torch.randn(5, 3, 12, 12)
    assert torch.equal(loaded.eval()(x), found.network.module.eval()(x))
    # All tensors come from the file: a fresh network of the same architecture will do.
    fresh = low_rank_network()
    for p in fresh.parameters():
        nn.init.normal_(p)
    assert torch.equal(load_compressed(fresh, str(path)).eval()(x), loaded(x))
    assert sum(t.numel() for t in load_file(path).values()) == found.after.numbers
    with safe_open(path, framework="pt") as file:
        layers = json.loads(file.metadata()["layers"])
    assert layers["0"]["form"] == "channel"
    assert layers["0"]["conv"]["kernel"] == [3, 3]
    assert list(path.parent.iterdir()) == [path]


def test_the_frequency_form_there_and_back(frequency):
    path, found = frequency
    loaded = load_compressed(low_pass_network(), path)
    assert isinstance(loaded[2], FrequencyForm)
    x = torch.rand(5, 1, 8, 8)
    assert torch.equal(loaded(x), found.network.module(x))
    with pytest.raises(ConvscopeError, match="takes maps of 8x8"):
        loaded(torch.rand(1, 1, 9, 9))
    # Factors can be trained on.
    loaded(x).sum().backward()
    assert loaded[2].left.grad.abs().sum() > 0


def test_wrong_networks(channel, tmp_path):
    path, found = channel
    with pytest.raises(TypeError, match=r"torch\.nn\.Module"):
        load_compressed({}, path)
    with pytest.raises(ConvscopeError, match="does not exist"):
        load_compressed(nn.Conv2d(1, 1, 1), tmp_path / "nowhere")
    with pytest.raises(ConvscopeError, match=r"'0' is no nn\.Conv2d"):
        load_compressed(nn.Sequential(nn.Linear(3, 3)), path)
    other = low_rank_network()
    other[3] = nn.Conv2d(16, 12, 3, padding=1, bias=False)  # of another stride
    with pytest.raises(ConvscopeError, match="another geometry"):
        load_compressed(other, path)
    other = low_rank_network()
    other[7] = nn.Linear(48, 6)
    with pytest.raises(ConvscopeError, match="2 of another shape"):
        load_compressed(other, path)
    other.add_module("8", nn.Linear(6, 2))
    with pytest.raises(ConvscopeError, match="2 keys missing"):
        load_compressed(other, path)
    with pytest.raises(ConvscopeError, match="cannot be written"):
        found.save(tmp_path / "no" / "folder.safetensors")
    assert not list(tmp_path.iterdir())


def described(path):
    with safe_open(path, framework="pt") as file:
        return load_file(path), dict(file.metadata())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"format": "another"}, "no compressed network"),
        ({"format": None}, "no compressed network"),
        ({"version": "2"}, "version 2"),
        ({"version": None}, "update convscope"),
        ({"layers": None}, "damaged"),
        ({"layers": "{"}, "damaged"),
        ({"layers": "[" * 100_000}, "damaged"),
        ({"layers": "[]"}, "damaged"),
        ({"layers": "{}"}, "damaged"),
        ({"layers": '{"0": 3}'}, "damaged"),
        ({"layers": '{"0": {}}'}, "another geometry"),
        ({"layers": '{"nowhere": {}}'}, "is no nn.Conv2d"),
        ({"layers": json.dumps({"a": {}}) + " " * 2**20}, "damaged"),
    ],
)
def test_hostile_metadata(frequency, tmp_path, change, words):
    tensors, metadata = described(frequency[0])
    metadata = {k: v for k, v in (metadata | change).items() if v is not None}
    save_file(tensors, tmp_path / "bad.safetensors", metadata)
    with pytest.raises(ConvscopeError, match=words) as error:
        load_compressed(low_pass_network(), tmp_path / "bad.safetensors")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "change",
    [
        {"form": "another"},
        {"form": "channel"},
        {"form": ["frequency"]},
        {"pairs": 10**12},
        {"pairs": "6"},
        {"twofold": -1},
        {"size": [10**12, 10**12]},
        {"size": [8]},
        {"size": ["8", 8]},
        {"size": [1, 8]},  # frequencies beyond half a cycle per pixel
        {"size": None},
        {"size": [True, True]},
    ],
)
def test_hostile_descriptions(frequency, tmp_path, change):
    tensors, metadata = described(frequency[0])
    layers = json.loads(metadata["layers"])
    layers["2"] |= change
    save_file(tensors, tmp_path / "bad.safetensors", metadata | {"layers": json.dumps(layers)})
    with pytest.raises(ConvscopeError, match="does not fit its tensors"):
        load_compressed(low_pass_network(), tmp_path / "bad.safetensors")


@pytest.mark.parametrize(
    ("key", "tensor"),
    [
        ("2.frequencies", torch.full((6, 2), 10**15)),
        ("2.frequencies", torch.zeros(6, 2)),
        ("2.frequencies", torch.zeros(6, dtype=torch.int64)),
        ("2.left", torch.zeros(2, 6)),
        ("2.left", torch.zeros(0)),
        ("2.right", torch.zeros(1)),
        ("2.right", torch.zeros(9, 6, dtype=torch.int64)),
        ("2.right", None),
        ("2.more", torch.zeros(1)),
    ],
)
def test_hostile_tensors(frequency, tmp_path, key, tensor):
    tensors, metadata = described(frequency[0])
    tensors |= {key: tensor}
    save_file({k: t for k, t in tensors.items() if t is not None}, tmp_path / "bad.safetensors", metadata)
    with pytest.raises(ConvscopeError, match=r"fit its tensors|another network|expected real floating-point"):
        load_compressed(low_pass_network(), tmp_path / "bad.safetensors")


def test_files_that_are_none(tmp_path):
    for name, content in {"empty": b"", "text": b"hello, hello", "cut": b"\xff\xff\xff\xff\xff\xff\xff\x7f{}"}.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ConvscopeError, match=r"cannot be read as safetensors|is empty"):
            load_compressed(low_rank_network(), tmp_path / name)
    with pytest.raises(ConvscopeError, match="folder"):
        load_compressed(low_rank_network(), tmp_path)
