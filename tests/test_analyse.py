"""The public function: any module, any iterable of batches, and nothing of the user's is changed."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from firstlayer_runs import images, net
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import convscope
from convscope import ConvscopeError, read_report, report
from convscope.analyse import provenance, save_arrays

X, LABELS = images(6, side=8), torch.arange(6) % 2


def pooled(channels=3, seed=0, outputs=2):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(channels, 6, 3, bias=False), nn.BatchNorm2d(6), nn.ReLU(), nn.Dropout(0.5),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, outputs),
    )  # fmt: skip


@pytest.fixture(scope="module")
def made():
    return report(pooled(), [(X, LABELS)], data="noise", name="a network")


WAYS = {
    "a tensor": (X, None),
    "an array": (X.numpy(), None),
    "a pair": ((X, LABELS), 2),
    "a list of tensors": ([X[:4], X[4:]], None),
    "a list of pairs": ([(X[:4], LABELS[:4]), (X[4:], LABELS[4:])], 2),
    "a loader": (DataLoader(TensorDataset(X, LABELS), batch_size=4), 2),
    "a loader without labels": (DataLoader(TensorDataset(X), batch_size=4), None),
    "dictionaries": ([{"image": X[:4], "label": LABELS[:4]}, {"image": X[4:], "label": LABELS[4:]}], 2),
    "single images": (TensorDataset(X, LABELS), 2),
}


@pytest.mark.parametrize("way", WAYS)
def test_any_iterable_gives_the_same_numbers(made, way):
    batches, classes = WAYS[way]
    found = report(pooled(), batches)
    assert found.coverage.images == 6
    assert found.head.classes == (() if classes is None else ("0", "1"))
    ours, theirs = found.results[0].numbers, made.results[0].numbers
    assert ("label_first" in ours) == (classes is not None)
    for key in ("formula", "bump", "response", "untrained"):
        assert ours[key].value == pytest.approx(theirs[key].value, rel=1e-4, abs=1e-5), key


def test_a_generator_is_read_once(made):
    reads = []

    def generator():
        for start in (0, 3):
            reads.append(start)
            yield X[start : start + 3], LABELS[start : start + 3]

    found = report(pooled(), generator())
    assert reads == [0, 3]
    assert found.coverage.images == 6
    assert found.results[0].numbers["formula"].value == pytest.approx(
        made.results[0].numbers["formula"].value, rel=1e-6
    )


@pytest.mark.parametrize("model", [None, "resnet18", 3, pooled, nn.Conv2d])
def test_what_is_no_module_is_a_type_error(model):
    with pytest.raises(TypeError, match=r"torch\.nn\.Module"):
        report(model, X)


@pytest.mark.parametrize(
    ("batches", "says"),
    [
        (3, "expected an iterable"),
        ([], "no batches"),
        (X[:0], "no readable image"),
        (["a", "b"], "where images are expected"),
        (X[0, 0], "shape"),
        ([{"pixels": X}], "keys"),
        (images(8, channels=5, side=8), "check channels"),
        (torch.zeros(8, 3, 2, 2), "fails on"),
        (torch.full((8, 3, 8, 8), float("nan")), "NaN|no readable"),
        (torch.zeros(8, 3, 8, 8), "no variance"),
    ],
)
def test_images_that_cannot_be_analysed_end_in_one_line(batches, says):
    with pytest.raises(ConvscopeError, match=says) as error:
        report(pooled(), batches)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("training", [True, False])
def test_the_network_is_left_as_found(training):
    start, module = pooled(seed=3), pooled().train(training)
    module[1].train(not training)
    module[0].weight.grad = torch.ones_like(module[0].weight)
    module[6].requires_grad_(False)
    calls = []
    handle = module[0].register_forward_hook(lambda *_: calls.append(1))
    modes = [m.training for m in module.modules()]
    before = {n: t.clone() for n, t in module.state_dict().items()}
    grads = [p.requires_grad for p in module.parameters()]
    rng, enabled = torch.get_rng_state(), torch.is_grad_enabled()
    report(module, X, init=start)
    assert [m.training for m in module.modules()] == modes
    assert all(torch.equal(t, before[n]) for n, t in module.state_dict().items())
    assert [p.requires_grad for p in module.parameters()] == grads
    assert bool((module[0].weight.grad == 1).all())
    assert module[1].weight.grad is None
    assert torch.equal(torch.get_rng_state(), rng)
    assert torch.is_grad_enabled() == enabled
    hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in module.modules()]
    assert sum(hooks) == 1
    handle.remove()


def test_a_failure_leaves_the_network_as_found():
    module = pooled().train()
    with pytest.raises(ConvscopeError):
        report(module, images(8, channels=5, side=8))
    assert all(m.training for m in module.modules())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in module.modules())


def test_labels_beyond_the_outputs_of_a_sorted_loader():
    # The first batch shows class 0 alone, and the network has one output: how many classes there are comes later.
    order = LABELS.sort().indices
    found = report(pooled(outputs=1), iter([(X[order[:3]], LABELS[order[:3]]), (X[order[3:]], LABELS[order[3:]])]))
    reasons = {s.what: s.reason for s in found.results[0].skipped}
    assert "name all classes" in reasons["dependence on the labels"]
    named = report(
        pooled(outputs=1),
        iter([(X[order[:3]], LABELS[order[:3]]), (X[order[3:]], LABELS[order[3:]])]),
        classes=("cat", "dog"),
    )
    assert "label_first" in named.results[0].numbers


def test_names_classes_and_layer(made):
    found = report(net(), (images(6), LABELS), classes=["cat", "dog"], layer="0", name="mine", data="pets")
    assert (found.head.network, found.head.data, found.head.classes) == ("mine", "pets", ("cat", "dog"))
    assert report(pooled(), X).head.network == "Sequential"
    assert made.provenance.command == "convscope.report(a network, noise)"
    with pytest.raises(ConvscopeError, match="no convolution 'nowhere'"):
        report(net(), images(6), layer="nowhere")


def test_reports_are_saved_and_read(made, tmp_path):
    page, saved = made.save(tmp_path / "report.html"), made.save(tmp_path / "report.json")
    html = page.read_text(encoding="utf-8")
    assert "a network" in html
    assert len(html) < 2 * 2**20
    assert "http://" not in html.replace("http://www.w3.org", "")
    data = json.loads(saved.read_text())
    assert data["schema"] == 1
    again = read_report(saved)
    assert [f.text for f in again.findings()] == [f.text for f in made.findings()]
    assert again.html() == html
    assert "a network" in str(made)
    with pytest.raises(ValueError, match=r"\.html or \.json"):
        made.save(tmp_path / "report.pdf")


def test_a_report_is_read_in_a_fresh_process(made, tmp_path):
    saved = made.save(tmp_path / "report.json")
    code = f"import convscope; print(convscope.read_report({str(saved)!r}).coverage.images)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "6"


def test_large_matrices_are_written_apart(made, tmp_path):
    save_arrays(made.results, tmp_path / "arrays.npz")
    with np.load(tmp_path / "arrays.npz") as arrays:
        assert arrays["firstlayer/patch_covariance"].shape == (27, 27)
    with pytest.raises(ConvscopeError, match="cannot be written"):
        save_arrays(made.results, tmp_path / "nowhere" / "arrays.npz")


def test_provenance_tells_versions():
    found = provenance("call", 0.0, {"weights": 3})
    assert found.versions["torch"] == torch.__version__
    assert found.seeds["weights"] == 3


def test_the_package_tells_its_names():
    assert set(convscope.__all__) <= set(dir(convscope))
    for name in convscope.__all__:
        assert getattr(convscope, name) is not None
    with pytest.raises(AttributeError, match="nothing"):
        _ = convscope.nothing
