"""Opening networks: names, weights files, what is refused, what is assumed."""

import io
import os
import random
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from inputs.hostile import NETWORK, small_network, state_dict
from safetensors.torch import save_file
from torch import nn

from convscope.core.errors import ConvscopeError
from convscope.inputs.networks import open_network

SHARED = Path(__file__).parents[3] / "shared" / "data" / "weights"
needs_data = pytest.mark.skipif(not SHARED.is_dir(), reason="the shared weights are not here")
W = state_dict()


def file_of(folder, tensors=W, name="w.pt"):
    if name.endswith(".safetensors"):
        save_file(tensors, folder / name)
    else:
        torch.save(tensors, folder / name)
    return str(folder / name)


def same_weights(module, tensors=W):
    return all(torch.equal(v, tensors[k].to(v.dtype)) for k, v in module.state_dict().items())


@pytest.mark.parametrize(
    "wrap",
    [
        lambda w: w,
        lambda w: {"state_dict": w, "epoch": 3},
        lambda w: {"model": w, "optimizer": {"state": {"0": torch.zeros(2)}}},
        lambda w: {f"module.{k}": v for k, v in w.items()},
        lambda w: {f"_orig_mod.module.{k}": v for k, v in w.items()},
        lambda w: {"state_dict": {f"net.{k}": v for k, v in w.items()}},
        lambda w: {k: v.half() for k, v in w.items()},
        lambda w: {"anything": w},
    ],
    ids=["plain", "nested", "with-optimiser", "parallel", "compiled", "lightning", "half", "other-name"],
)
def test_state_dicts_are_found_in_their_wrappers(tmp_path, wrap):
    opened = open_network(f"{NETWORK}@{file_of(tmp_path, wrap(W))}")
    expected = (
        {k: v.half().float() for k, v in W.items()} if wrap(W).get("0.bias", W["0.bias"]).dtype == torch.half else W
    )
    assert same_weights(opened.network.module, expected)
    assert opened.network.name == "small_network@w.pt"
    assert not opened.weights_only


@pytest.mark.parametrize("name", ["w.pt", "w.safetensors"])
def test_several_networks_in_one_file(tmp_path, name):
    other = state_dict(1)
    both = {f"epoch_{n}.{k}": v for n, w in ((2, W), (10, other)) for k, v in w.items()}
    file = file_of(tmp_path, both, name)
    assert same_weights(open_network(f"{NETWORK}@{file}#epoch_2").network.module)
    alone = open_network(f"{file}#epoch_10")
    assert torch.equal(alone.network.module.get_submodule("0").weight, other["0.weight"])
    assert alone.network.name == f"{name}#epoch_10"
    with pytest.raises(ConvscopeError, match=r"holds 2 networks \(epoch_2, epoch_10\): choose one with #epoch_10"):
        open_network(file)
    with pytest.raises(ConvscopeError, match="no keys that begin with epoch_3"):
        open_network(f"{file}#epoch_3")


def test_nested_dictionaries_are_chosen_by_prefix_too(tmp_path):
    file = file_of(tmp_path, {"teacher": W, "student": state_dict(1)})
    assert same_weights(open_network(f"{NETWORK}@{file}#student").network.module, state_dict(1))
    with pytest.raises(ConvscopeError, match="several networks: choose one of #teacher, #student"):
        open_network(f"{NETWORK}@{file}")


def test_names_with_at_and_hash_are_files_first(tmp_path):
    name = file_of(tmp_path, W, "a@b#c.pt")
    assert open_network(name).weights_only
    assert same_weights(open_network(f"{NETWORK}@{name}").network.module)


def test_weights_alone_give_the_first_convolution(tmp_path):
    tensors = {
        "blocks.10.weight": torch.randn(5, 3, 7, 7),
        "blocks.9.weight": torch.randn(4, 3, 1, 1),
        "blocks.2.weight": torch.randn(8, 1, 3, 3),
        "blocks.11.weight": torch.randn(6, 3, 5, 5),
        "blocks.10.bias": torch.randn(5),
        "head.weight": torch.full((2, 2), torch.nan),
    }
    opened = open_network(file_of(tmp_path, tensors, "w.safetensors"))
    conv = opened.network.module.get_submodule("blocks.10")
    assert torch.equal(conv.weight, tensors["blocks.10.weight"])
    assert torch.equal(conv.bias, tensors["blocks.10.bias"])
    assert (conv.stride, conv.padding) == ((1, 1), (3, 3))
    assert opened.weights_only
    assert opened.fresh(0) is None
    assert any("found by its shape: blocks.10 (5x3x7x7)" in note for note in opened.network.notes)
    assert any("stride 1 and padding 3" in note for note in opened.network.notes)
    assert any("needs the network" in skip.reason for skip in opened.network.skipped)
    assert any(skip.what == "head.weight" for skip in opened.network.skipped)
    given = open_network(str(tmp_path / "w.safetensors"), layer="blocks.2", stride=2, padding=0)
    conv = given.network.module.get_submodule("blocks.2")
    assert (conv.in_channels, conv.stride, conv.padding) == (1, (2, 2), (0, 0))
    assert not any("assumed" in note for note in given.network.notes)
    with pytest.raises(ConvscopeError, match="layer 'head' has the shape 2x2"):
        open_network(str(tmp_path / "w.safetensors"), layer="head")


def test_a_forward_of_bare_weights_is_the_convolution(tmp_path):
    opened = open_network(file_of(tmp_path)).bound(torch.rand(4, 3, 9, 9))
    x = opened.network.prepare(torch.rand(2, 3, 9, 9))
    expected = nn.functional.conv2d(x, W["0.weight"], W["0.bias"], padding=1)
    assert torch.allclose(opened.network.module(x), expected)


class Strided(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 5, stride=2, padding=1, dilation=2)
        self.head = nn.Linear(4, 2)

    def forward(self, x):
        return self.head(self.conv(x).relu().mean((2, 3)))


def test_exported_program_is_read_as_data(tmp_path, monkeypatch):
    module = Strided().eval()
    torch.export.save(torch.export.export(module, (torch.zeros(1, 3, 20, 20),)), tmp_path / "m.pt2")
    monkeypatch.setattr(torch.export, "load", lambda *_: pytest.fail("a program was loaded"))
    opened = open_network(str(tmp_path / "m.pt2"))
    conv = opened.network.module.get_submodule("conv")
    assert torch.equal(conv.weight, module.conv.weight)
    assert (conv.stride, conv.padding, conv.dilation) == ((2, 2), (1, 1), (2, 2))
    assert not any("assumed" in note for note in opened.network.notes)
    factory = open_network(f"inputs.test_networks:Strided@{tmp_path / 'm.pt2'}")
    assert torch.equal(factory.network.module.head.weight, module.head.weight)


def test_exported_program_of_the_older_format(tmp_path):
    with zipfile.ZipFile(tmp_path / "m.pt2", "w") as archive:
        out = io.BytesIO()
        torch.save({"conv.weight": W["0.weight"]}, out)
        archive.writestr("serialized_exported_program.json", "{}")
        archive.writestr("serialized_state_dict.pt", out.getvalue())
    opened = open_network(str(tmp_path / "m.pt2"))
    assert torch.equal(opened.network.module.get_submodule("conv").weight, W["0.weight"])


def test_another_networks_weights_are_counted(tmp_path):
    wrong = {k: v for k, v in W.items() if k != "4.bias"} | {"0.weight": torch.zeros(4, 3, 5, 5), "x": torch.zeros(1)}
    with pytest.raises(ConvscopeError) as caught:
        open_network(f"{NETWORK}@{file_of(tmp_path, wrong)}")
    text = str(caught.value)
    assert "1 keys missing, 1 unexpected, 1 of another shape" in text
    assert "0.weight is 4x3x5x5 instead of 4x3x3x3" in text


def test_a_pickled_module_is_refused_with_what_to_do(tmp_path):
    torch.save(small_network(), tmp_path / "m.pt")
    with pytest.raises(ConvscopeError, match=r"needs torch.*Sequential.*torch.save\(model.state_dict\(\)"):
        open_network(str(tmp_path / "m.pt"))


def test_nothing_random_is_consumed_and_opening_is_deterministic():
    before = torch.random.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    first, second = open_network(NETWORK), open_network(NETWORK)
    twins = first.fresh(1), first.fresh(1), first.fresh(2)
    assert torch.equal(before[0], torch.random.get_rng_state())
    assert (before[1] == np.random.get_state()[1]).all()
    assert before[2] == random.getstate()
    assert same_weights(first.network.module, second.network.module.state_dict())
    assert same_weights(twins[0], twins[1].state_dict())
    assert not same_weights(twins[0], twins[2].state_dict())


def fixed_network():
    module = small_network()
    module.load_state_dict(W)
    return module


def test_no_twin_where_the_factory_always_gives_the_same_weights():
    assert open_network("inputs.test_networks:fixed_network").fresh(3) is None


def test_initial_weights(tmp_path):
    init = file_of(tmp_path, state_dict(1), "init.pt")
    file = file_of(tmp_path)
    opened = open_network(f"{NETWORK}@{file}", init=init)
    assert same_weights(opened.init.module, state_dict(1))
    alone = open_network(file, init=init).bound(torch.rand(4, 3, 8, 8))
    assert torch.equal(alone.init.module.get_submodule("0").weight, state_dict(1)["0.weight"])
    assert alone.init.prepare is alone.network.prepare


def test_nan_beyond_the_first_layer_is_listed(tmp_path):
    opened = open_network(f"{NETWORK}@{file_of(tmp_path, W | {'4.bias': torch.full((3,), torch.nan)})}")
    assert [skip.what for skip in opened.network.skipped] == ["4.bias"]
    with pytest.raises(ConvscopeError, match="first convolution"):
        open_network(f"{NETWORK}@{file_of(tmp_path, W | {'0.weight': torch.full((4, 3, 3, 3), torch.nan)})}")


def test_current_folder_is_a_place_to_import_from(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p != str(tmp_path)])
    (tmp_path / "my_nets.py").write_text(
        "from torch import nn\n"
        "def net(): return nn.Sequential(nn.Conv2d(1, 2, 3))\n"
        "def number(): return 3\n"
        "def needs(width): return net()\n"
        "def lazy(): return nn.Sequential(nn.LazyConv2d(2, 3))\n"
        "def meta(): return nn.Conv2d(1, 2, 3, device='meta')\n"
        "def linear(): return nn.Linear(2, 2)\n"
        "def wrapped(): return nn.DataParallel(net())\n"
        "instance = net()\n"
    )
    assert isinstance(open_network("my_nets:net").network.module, nn.Sequential)
    assert isinstance(open_network("my_nets:wrapped").network.module, nn.Sequential)
    for name, words in {
        "number": "gave a int",
        "needs": "without arguments",
        "lazy": "lazy layers",
        "meta": "device meta",
        "linear": "no two-dimensional convolution",
        "instance": "builds the network",
        "nope": "has no nope",
    }.items():
        with pytest.raises(ConvscopeError, match=words):
            open_network(f"my_nets:{name}")


@pytest.mark.parametrize("arguments", [{"stride": 0}, {"padding": -1}, {"input_size": 0}])
def test_wrong_arguments(arguments):
    with pytest.raises(ValueError, match="at least"):
        open_network(NETWORK, **arguments)


def in_a_process(code, *folders):
    path = os.pathsep.join([*map(str, folders), "src", "tests"])
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": path},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )


_OPEN_TORCHVISION = """
from convscope.core.errors import ConvscopeError
from convscope.inputs.networks import open_network
from convscope.inputs.images import open_images
assert open_network("inputs.hostile:small_network").network.module is not None
doors = open_network, open_network, open_images, open_images
for opened, name in zip(doors, ("torchvision:resnet18", "timm:resnet18", "torchvision:CIFAR10", "hf:cifar10")):
    try:
        opened(name)
    except ConvscopeError as error:
        print(error)
"""


@pytest.mark.parametrize("state", ["absent", "broken", "half-broken"])
def test_optional_libraries_absent_or_broken(tmp_path, state):
    content = {
        "absent": "raise ModuleNotFoundError(f'No module named {__name__!r}', name=__name__)",
        "broken": "raise RuntimeError('operator torchvision::nms does not exist\\nmore')",
        "half-broken": "import no_such_dependency",
    }[state]
    for library in ("torchvision", "timm", "datasets"):
        (tmp_path / library).mkdir()
        (tmp_path / library / "__init__.py").write_text(content)
    result = in_a_process(_OPEN_TORCHVISION, tmp_path)
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert len(lines) == 4
    words = "is not installed" if state == "absent" else "is installed but cannot be imported"
    assert all(words in line for line in lines[:3])
    assert "state dict" in lines[0]
    assert "datasets" in lines[3]


@needs_data
def test_shared_weights_alone():
    opened = open_network(str(SHARED / "squeezenet1_1_imagenet.safetensors"), stride=2, padding=0)
    assert tuple(opened.network.module.get_submodule("features.0").weight.shape) == (64, 3, 3, 3)
    opened = open_network(f"{SHARED / 'caffe_cifar10_full_trajectory.safetensors'}#iter_70000")
    assert tuple(opened.network.module.get_submodule("conv1").weight.shape) == (32, 3, 5, 5)


@needs_data
@pytest.mark.slow
def test_torchvision_network_with_shared_weights_recognises_images():
    pytest.importorskip("torchvision_shim")
    pytest.importorskip("torchvision", exc_type=Exception)
    from convscope.inputs.images import open_images

    opened = open_network(f"torchvision:squeezenet1_1@{SHARED / 'squeezenet1_1_imagenet.safetensors'}")
    assert opened.preprocessing.mean == (0.485, 0.456, 0.406)
    source = open_images(str(SHARED.parent / "imagenet_sample224.npz"), limit=24)
    right = total = 0
    with torch.no_grad():
        for _, batch in source.batches(8):
            right += int(
                (opened.network.module.eval()(opened.network.prepare(batch.images)).argmax(1) == batch.labels).sum()
            )
            total += len(batch)
    assert right / total > 0.4
