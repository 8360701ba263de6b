"""The first-layer theory on a pass: networks, images and labels of every kind, from sums to sentences."""

import json
import math
import warnings
from dataclasses import replace

import pytest
import torch
from firstlayer_runs import analysed, images, net, source_of
from sources import ArraySource
from torch import nn

from convscope.analyse import analyse
from convscope.core.errors import ConvscopeError
from convscope.core.network import Network
from convscope.core.passes import Pass
from convscope.core.results import Skip
from convscope.firstlayer.theory import FirstLayer, Replica

EVERYWHERE = {
    "formula", "formula_log", "bump", "eigenvalue_curve", "inverse_curve", "ramp", "margin", "age",
    "whitened_dimension", "held_out", "held_out_bump", "response", "response_raw", "response_perfect", "whiteness",
    "spectral_whiteness", "per_filter", "formula_average",
}  # fmt: skip
NETWORK = {"formula_signal", "coherent_positions", "untrained"}
LABELS = {"label_first", "label_second", "label_index"}
WITHOUT_SPREAD = {"per_filter", "norm_folded", "label_second", "formula_signal"}


def sound(result, figures=False):
    """What holds of every result, however odd its network and images."""
    assert {n.definition for n in result.numbers.values()} <= set(result.definitions())
    for key, number in result.numbers.items():
        assert number.spread is None or 0 <= number.spread < math.inf, key
        assert number.chance is None or number.chance[0] <= number.chance[1], key
    for finding in result.findings():
        assert "nan" not in finding.text.replace("nant", "")
        assert "inf " not in finding.text
        assert finding.text[0].isupper() or finding.text[0].isdigit()
        assert finding.text.endswith(".")
    if figures:
        with warnings.catch_warnings():
            warnings.simplefilter("error", RuntimeWarning)
            for chart in result.figures().values():
                assert "nan" not in chart.alt.split()
    assert all(isinstance(s, Skip) and s.reason for s in result.skipped)
    json.dumps(result.to_json(), allow_nan=False)
    result.to_frame()
    result.layers()
    return result


def reasons(result):
    return {s.what: s.reason for s in result.skipped}


def test_every_number_is_there_with_spread_and_chance():
    result = sound(analysed(net(), labels=3), figures=True)
    assert set(result.numbers) == EVERYWHERE | NETWORK | LABELS
    for key, number in result.numbers.items():
        assert math.isfinite(number.value), key
        assert key in WITHOUT_SPREAD or number.spread is not None, key
    assert result.numbers["formula"].chance is not None
    assert not result.skipped
    assert result.stride == (1, 1)
    assert result.shape == (8, 3, 3, 3)
    assert {"energy profile", "fits", "filters", "principal patches", "whitening", "labels"} <= set(result.figures())


def test_without_labels_the_reason_is_told():
    result = sound(analysed(net()))
    assert set(result.numbers) == EVERYWHERE | NETWORK
    assert "no labels" in reasons(result)["dependence on the labels"]


def test_one_class_tells_nothing():
    result = sound(analysed(net(), labels=1))
    assert not LABELS & set(result.numbers)
    assert "two classes" in reasons(result)["dependence on the labels"]


def test_classes_known_but_no_labels_in_the_batches():
    source = source_of(images())
    source.classes = ("a", "b")
    result = sound(analysed(net(), source=source))
    assert set(result.numbers) == EVERYWHERE | NETWORK
    assert "none of the images" in reasons(result)["dependence on the labels"]


def test_images_without_a_label_among_labelled_ones_are_left_out_of_class_sums():
    x, labels = images(60), torch.arange(60) // 4 % 3
    some = labels.clone()
    some[::5] = -1
    result = sound(analysed(net(), source=source_of(x, some)))
    assert set(result.numbers) >= LABELS
    whole = analysed(net(), source=source_of(x, labels))
    assert result.numbers["formula"] == whole.numbers["formula"]
    assert result.numbers["label_first"].value != whole.numbers["label_first"].value


def test_labels_outside_the_known_classes_spoil_nothing_else():
    source = source_of(images(), torch.arange(48) // 4 % 3)
    source.classes = ("a", "b")
    result = sound(analysed(net(), source=source))
    assert set(result.numbers) == EVERYWHERE | NETWORK
    assert "2 known classes" in reasons(result)["dependence on the labels"]


def test_classes_that_are_folds_leave_the_value_without_an_error_bar():
    labels = torch.arange(48) % 2
    result = sound(analysed(net(), source=ArraySource(images(), labels, groups=labels)))
    assert math.isfinite(result.numbers["label_first"].value)
    assert result.numbers["label_first"].spread is None


ODD = {
    "groups": (nn.Conv2d(4, 8, 3, groups=2), 4),
    "depthwise": (nn.Conv2d(3, 6, 2, groups=3), 3),
    "stride": (nn.Conv2d(3, 8, 3, stride=2), 3),
    "stride = kernel": (nn.Conv2d(1, 8, 3, stride=3), 1),
    "reflected": (nn.Conv2d(3, 8, 3, padding=1, padding_mode="reflect"), 3),
    "padded": (nn.Conv2d(1, 8, (3, 5), padding=(1, 2)), 1),
    "dilated": (nn.Conv2d(1, 8, 3, dilation=2), 1),
    "one filter": (nn.Conv2d(1, 1, 3), 1),
    "1x1": (nn.Conv2d(3, 8, 1), 3),
    "gray 3x3": (nn.Conv2d(1, 8, 3), 1),
    "gray 1x1": (nn.Conv2d(1, 8, 1), 1),
    "gray 1x2": (nn.Conv2d(1, 8, (1, 2)), 1),
    "whole image": (nn.Conv2d(1, 8, 5), 1),
}
DRAWN = {"groups", "1x1", "gray 1x1"}


RARE = {"depthwise", "stride = kernel", "dilated", "one filter", "gray 1x2"}


@pytest.mark.parametrize("kind", [pytest.param(k, marks=pytest.mark.slow) if k in RARE else k for k in ODD])
def test_odd_first_convolutions(kind):
    conv, channels = ODD[kind]
    x = images(48, channels, 5 if kind == "whole image" else 12)
    result = sound(analysed(net(conv), source=source_of(x, torch.arange(48) // 4 % 2)), kind in DRAWN)
    d = conv.weight[0].numel() * conv.groups
    assert len(result.curves["variance"]) == len(result.curves["energy"]) == d
    if conv.groups > 1:
        assert "one group" in reasons(result)["dependence on the labels"]
        assert "groups" in result.figures()["energy profile"].caption
    if kind == "whole image":
        assert "too small" in reasons(result)["whitening"]
    if d > 2:
        assert math.isfinite(result.numbers["formula"].value)
    else:
        assert d == 2 or math.isnan(result.numbers["formula"].value)


def test_a_frozen_layer_has_learned_nothing():
    module = net()
    result = sound(analysed(module, init=module), figures=True)
    assert math.isnan(result.numbers["formula"].value)
    (finding,) = result.findings()
    assert "did not move" in finding.text


def test_filters_of_zeros():
    module = net()
    nn.init.zeros_(module[0].weight)
    (finding,) = sound(analysed(module)).findings()
    assert "all zero" in finding.text


def test_nan_weights_cannot_be_analysed():
    module = net()
    with torch.no_grad():
        module[0].weight[0, 0, 0, 0] = math.nan
    with pytest.raises(ConvscopeError, match="NaN or infinite weights"):
        analysed(module)


def test_images_without_variance_cannot_be_analysed():
    with pytest.raises(ConvscopeError, match="no variance"):
        analysed(net(nn.Conv2d(3, 8, 3)), source=ArraySource(torch.ones(20, 3, 12, 12)))


def test_when_only_one_image_varies_there_are_no_error_bars():
    x = torch.ones(20, 3, 12, 12)
    x[7] = torch.rand(3, 12, 12, generator=torch.Generator().manual_seed(0))
    result = sound(analysed(net(), source=ArraySource(x)))
    assert math.isfinite(result.numbers["formula"].value)
    assert result.numbers["formula"].spread is None
    assert "neither wins" in result.findings()[0].text


def test_one_image():
    result = sound(analysed(net(), source=ArraySource(images(1))), figures=True)
    assert all(n.spread is None for n in result.numbers.values())


def test_weights_alone_state_what_needs_the_network():
    result = sound(analysed(net(), twin=False, labels=2))
    assert set(result.numbers) == EVERYWHERE | LABELS
    assert reasons(result) == {
        "spatial autocorrelation of the back-propagated signal": "needs the network, not only its weights"
    }


def test_a_network_without_scores_has_no_signal():
    module = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU())
    result = sound(analysed(module))
    assert "gradients" in reasons(result)["spatial autocorrelation of the back-propagated signal"]
    assert set(result.numbers) == EVERYWHERE | {"untrained"}


def test_norm_that_follows_is_folded():
    module = nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), *net()[1:])
    with torch.no_grad():
        module[1].weight.copy_(torch.linspace(0.1, 3, 8))
    result = sound(analysed(module))
    assert result.numbers["norm_folded"].value != result.numbers["formula"].value


def test_the_initial_weights_are_subtracted():
    module, start = net(seed=3), net(seed=4)
    result = sound(analysed(module, init=start))
    assert result.facts["subtracted"]
    assert result.facts["untrained_is"] == "init"
    assert "its own untrained weights" in " ".join(f.text for f in result.findings())
    moved = net(seed=3)
    with torch.no_grad():
        moved[0].weight -= start[0].weight
    other = analysed(moved, twin=False)
    assert result.numbers["formula"].value == pytest.approx(other.numbers["formula"].value, rel=1e-6)


@pytest.mark.parametrize("batch_size", [1, 29])
def test_any_batching_gives_the_same_numbers(batch_size):
    module = net().double()
    one = analysed(module, labels=3, batch_size=32)
    two = analysed(module, labels=3, batch_size=batch_size)
    for key, fact in one.facts.items():
        assert two.facts[key] == (fact if isinstance(fact, str) else pytest.approx(fact, rel=1e-9)), key
    for key, a in one.numbers.items():
        b = two.numbers[key]
        # Tau is searched for until its correlation no longer changes: it is known to the root of that.
        rel = 1e-6 if key in {"age", "whitened_dimension", "response_formula"} else 1e-10
        assert a.value == pytest.approx(b.value, rel=rel, abs=1e-10), key
        if key not in {"age", "whitened_dimension"}:
            assert a.spread == (None if b.spread is None else pytest.approx(b.spread, rel=1e-5, abs=1e-10)), key


def test_a_layer_by_name_and_one_that_is_not_there():
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 6, 3), nn.Flatten(), nn.LazyLinear(3))
    module(torch.zeros(1, 3, 12, 12))
    for name in ("2", "2.weight"):
        result = sound(analysed(module, layer=name))
        assert result.layer == "2"
        assert result.shape == (6, 4, 3, 3)
    with pytest.raises(ConvscopeError, match="choose one of 0, 2"):
        analysed(module, layer="1")


def test_a_network_without_convolution():
    with pytest.raises(ConvscopeError, match="no two-dimensional convolution"):
        analysed(nn.Sequential(nn.Flatten(), nn.Linear(432, 3)))


def replica(name, labels, seed):
    return Replica(name, labels, net(seed=seed)[0].weight.detach(), net(seed=seed + 10)[0].weight.detach())


@pytest.mark.parametrize("init", [False, True])
def test_replicas_tell_consistency(init):
    replicas = [replica("another", "true", 5), replica("permuted", "permuted", 6), replica("second", "permuted", 7)]
    result = sound(analysed(net(), init=net(seed=9) if init else None, replicas=replicas), figures=init)
    assert {"seeds", "permuted_seeds", "labels", "seeds_eigenvalue_curve", "formula: permuted"} <= set(result.numbers)
    assert result.facts["labels_pairs"] == 4
    text = " ".join(f.text for f in result.findings())
    assert "shuffled labels" in text
    assert "mean of four pairs" in text
    assert "one pair of networks" in text
    assert len(result.consistency_names) == len(result.consistency)
    assert "consistency" in result.figures()


@pytest.mark.parametrize(("kind", "key"), [("permuted", "labels"), ("true", "seeds"), ("random", "labels")])
def test_replicas_of_one_kind(kind, key):
    result = sound(analysed(net(), replicas=[replica("run", kind, 20)]))
    assert {"labels", "seeds"} & set(result.numbers) == {key}
    text = " ".join(f.text for f in result.findings())
    assert ("random starts" in text) == (kind == "true")
    assert ("random labels instead" in text) == (kind == "random")


def test_replicas_of_a_grouped_convolution():
    conv = nn.Conv2d(4, 8, 3, groups=2)
    other = Replica("another", "true", torch.randn(8, 2, 3, 3))
    result = sound(analysed(net(conv), source=source_of(images(channels=4)), replicas=[other]), figures=True)
    assert math.isfinite(result.numbers["seeds"].value)


def test_images_of_two_sizes_leave_out_what_needs_one():
    class Two(ArraySource):
        def batches(self, batch_size, **kwargs):
            for done, batch in super().batches(batch_size, **kwargs):
                narrow = replace(batch, images=batch.images[..., :10])
                yield done, narrow if done > 64 else batch

    module = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3))
    source = Two(images(80), torch.arange(80) % 3)  # the first 64 are read as the pilot, together
    source.groups = torch.arange(80) % 4
    result = sound(analysed(module, source=source, batch_size=16))
    assert "different sizes" in reasons(result)["what needs single images"]
    assert math.isfinite(result.numbers["formula"].value)


def test_several_theories_share_the_pass():
    p = Pass(source_of(images()))
    p.networks = {"model": Network("net", net())}
    results, coverage = analyse(p, [FirstLayer(), FirstLayer("0")])
    assert len(results) == 2
    assert coverage.images == 48
    assert "drawing conclusions" in coverage.seconds
