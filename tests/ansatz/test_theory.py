"""The feature ansatz on a pass: what it counts as holding, what it says, and what it leaves out."""

import json
import math
import re
from collections import OrderedDict

import pytest
import torch
from ansatz_runs import deep, run
from firstlayer_runs import images, net
from result_checks import damaged
from torch import nn
from zoo import ZOO, build

from convscope.ansatz.collect import SentBack
from convscope.ansatz.measure import patch_agop
from convscope.ansatz.measured import Measured, combined, median
from convscope.core.errors import ConvscopeError
from convscope.core.results import Skip, result_from_json
from convscope.page.charts import Chart


@pytest.fixture(scope="module")
def result():
    start, end = deep(1), deep(1)
    with torch.no_grad():
        for parameter in end.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(3)))
    sent = SentBack(exact=True, classes=(0, 2))
    return run(end, init=start, sent=sent, labels=torch.arange(40) % 3)[0]


def test_numbers_are_those_of_patch_agop(result):
    end = deep(1)
    with torch.no_grad():
        for parameter in end.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(3)))
    direct = patch_agop(end, images(40), exact=True, init=deep(1))
    assert [row.layer for row in result.rows] == list(direct) == ["0", "3", "5", "7"]
    for row in result.rows:
        one = direct[row.layer]
        assert row.numbers["correlation"].value == pytest.approx(one.correlation(), abs=1e-6)
        assert row.numbers["correlation"].spread == pytest.approx(one.number().spread, rel=1e-3)
        assert row.numbers["root"].value == pytest.approx(one.correlation(power=0.5), abs=1e-6)
        assert row.numbers["change"].value == pytest.approx(one.correlation(change=True), abs=1e-6)
    assert result.rows[0].numbers["folded"].value == pytest.approx(direct["0"].correlation(folded=True), abs=1e-6)
    assert "folded" not in result.rows[1].numbers


def test_one_filter_a_group_has_no_chance_since_nothing_can_be_turned(result):
    assert result.rows[2].groups == 6
    assert result.rows[2].numbers["correlation"].chance is None
    assert result.rows[2].verdict == ""
    assert result.rows[1].numbers["correlation"].chance is not None


def test_the_result_says_the_same_after_json(result):
    again = result_from_json(json.loads(json.dumps(result.to_json(), allow_nan=False)))
    assert [f.text for f in again.findings()] == [f.text for f in result.findings()]
    assert again.to_frame().equals(result.to_frame())
    assert list(again.figures()) == list(result.figures())
    assert again.to_json() == result.to_json()


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("rows", 0, "numbers", "correlation"), None),
        (("rows", 0, "shape"), [1, 2]),
        (("numbers",), {}),
        (("pictures", "0", "nfm"), [[1.0], [2.0]]),
        (("pictures", "0", "channels"), [1]),
        (("pictures", "nowhere"), {}),
        (("views", "layers"), ["0"]),
        (("views", "png"), "no png"),
        (("class_patches",), [[[[1.0]]]]),
        (("facts",), {}),
        (("skipped",), ["x"]),
        (("classes",), [{}]),
    ],
)
def test_a_damaged_result_ends_in_one_line(result, path, value):
    with pytest.raises(ConvscopeError) as error:
        result_from_json(damaged(result, path, value))
    assert "\n" not in str(error.value)


def test_every_number_is_defined_and_every_figure_says_what_it_shows(result):
    used = {n.definition for row in result.rows for n in row.numbers.values()} | {
        n.definition for n in result.numbers.values()
    }
    assert used <= set(result.definitions())
    figures = result.figures()
    assert {"alignment", "change of the weights", "classes", "views", "directions of 0", "matrices of 7"} <= set(
        figures
    )
    for figure in figures.values():
        assert isinstance(figure, Chart)
        assert figure.caption
        assert figure.alt


def test_an_isotropic_second_moment_agrees_by_construction_and_chance_says_so():
    # One output for every filter, position by position: S is the identity, so that turning it changes nothing.
    class Flat(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 5, 3)

        def forward(self, x):
            return self.conv(x).mean((2, 3))

    found, _ = run(Flat(), sent=SentBack(exact=True))
    number = found.rows[0].numbers["correlation"]
    assert number.value == pytest.approx(1, abs=1e-6)
    assert number.chance == pytest.approx((1, 1), abs=1e-6)
    assert not any("more than chance in 1" in f.text for f in found.findings())


def test_filters_along_the_gradients_are_more_than_chance():
    torch.manual_seed(0)
    conv, head = nn.Conv2d(3, 16, 3, bias=False), nn.Linear(16, 4, bias=False)
    with torch.no_grad():
        # The more a filter weighs, the more the outputs listen to it, and to few of them.
        scale = torch.linspace(1, 2, 16)
        nn.init.orthogonal_(conv.weight).mul_(scale.view(-1, 1, 1, 1))
        head.weight.mul_(scale**6)
    module = nn.Sequential(conv, nn.AdaptiveAvgPool2d(1), nn.Flatten(), head)
    found, _ = run(module, sent=SentBack(exact=True))
    assert found.rows[0].verdict == "above"
    assert found.numbers["correlation"].decided


def test_without_an_untrained_network_it_says_what_is_missing():
    found, _ = run(deep())
    assert "untrained" not in found.numbers
    assert [s.what for s in found.skipped] == ["the ansatz for the change of the weights"]
    assert not any("untrained" in f.text for f in found.findings())


def test_a_twin_gives_no_change_of_the_weights():
    found, _ = run(deep(), twin=deep(2))
    assert "untrained" in found.numbers
    assert "change" not in found.numbers


def test_a_network_without_scores_is_one_stated_skip():
    found, coverage = run(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 3)))
    assert coverage.images == 40
    assert found.rows == ()
    assert found.findings() == []
    assert found.figures() == {}
    assert found.skipped[0].what == "gradients of the outputs, at every convolution"
    assert result_from_json(json.loads(json.dumps(found.to_json()))).rows == ()


GRADIENTS = "its gradients hold NaN or infinite values: check the network on these images, or their scale"
WEIGHTS = "its weights hold NaN or infinite values: "


def test_weights_that_are_not_finite_are_left_out_with_their_reason():
    module = deep()
    with torch.no_grad():
        module[7].weight[0] = math.nan  # it comes last, so that its NaNs flow back through all the others
    found, _ = run(module, init=deep(2))
    assert found.rows == ()
    assert found.skipped == (Skip("0, 3, 5", GRADIENTS), Skip("7", f"{WEIGHTS}the training diverged"))


def test_weights_of_another_shape_before_training_are_a_stated_skip():
    start = deep(2)
    start[0] = nn.Conv2d(3, 8, 5, padding=2)
    found, _ = run(deep(), init=start)
    assert ["change" in row.numbers for row in found.rows] == [False, True, True, True]
    assert ["gain" in row.numbers for row in found.rows] == [True] * 4
    reason = (
        "its weights have another shape [8, 3, 5, 5] than the network's [8, 3, 3, 3]: hand in the same architecture"
    )
    assert found.skipped == (Skip("0 before training", reason),)


def test_weights_before_training_that_are_not_finite_are_a_stated_skip():
    start = deep(2)
    with torch.no_grad():
        start[3].weight[0] = math.nan
    found, _ = run(deep(), init=start)
    assert ["change" in row.numbers for row in found.rows] == [True, False, True, True]
    assert ["gain" in row.numbers for row in found.rows] == [False, False, True, True]
    assert found.skipped == (
        Skip("0 before training", GRADIENTS),
        Skip("3 before training", f"{WEIGHTS}hand in those that the training began with"),
    )


def test_convolutions_that_the_network_before_training_lacks_share_one_line():
    found, _ = run(deep(), init=nn.Sequential(OrderedDict(body=deep(2))))
    assert not any({"change", "gain"} & set(row.numbers) for row in found.rows)
    reason = "that network has no convolution of this name: hand in the same architecture"
    assert found.skipped == (Skip("every convolution before training", reason),)


def test_what_the_untrained_twin_does_not_give_is_a_stated_skip():
    twin = deep(2)
    with torch.no_grad():
        twin[3].weight[0] = math.nan
    found, _ = run(deep(), twin=twin)
    assert ["gain" in row.numbers for row in found.rows] == [False, False, True, True]
    assert [(s.what, s.reason) for s in found.skipped[:2]] == [
        ("0 of the untrained twin", GRADIENTS),
        ("3 of the untrained twin", f"{WEIGHTS}the training diverged"),
    ]


def test_a_convolution_that_cannot_be_compared_does_not_take_the_others_with_it(monkeypatch):
    from convscope.ansatz import theory

    def measures(result, untrained):
        if result.layer == "3":
            raise ValueError("gram must be finite")
        return original(result, untrained)

    original = theory.measures
    monkeypatch.setattr(theory, "measures", measures)
    found, _ = run(deep())
    assert [row.layer for row in found.rows] == ["0", "5", "7"]
    assert ("3", "gram must be finite") in [(s.what, s.reason) for s in found.skipped]


@pytest.mark.parametrize("name", ZOO)
def test_the_theory_speaks_of_every_network_of_the_zoo(name):
    x = images(12)
    found, _ = run(build(name), x=x)
    if name != "exported":
        assert [row.layer for row in found.rows] == ZOO[name][1]
    assert all(f.text.endswith(".") for f in found.findings())


def test_layers_can_be_chosen():
    found, _ = run(deep(), layers=["3"])
    assert [row.layer for row in found.rows] == ["3"]
    with pytest.raises(ConvscopeError, match="no convolution 'nowhere'"):
        run(deep(), layers=["nowhere"])


def test_classes_share_the_gradients(result):
    assert result.classes == ("0", "2")
    assert sum(n.value for n in result.class_numbers) == pytest.approx(1)
    assert result.class_patches.shape == (4, 3, 3, 3)
    with pytest.raises(ConvscopeError, match="there is no output 3"):
        run(net(), sent=SentBack(classes=(3,)))


@pytest.mark.parametrize("module", [net(), deep()], ids=["one convolution", "several"])
def test_classes_without_gradients_are_shown_as_nothing(module):
    with torch.no_grad():
        module[-1].weight.zero_()
    found, _ = run(module, twin=deep(2), sent=SentBack(exact=True, classes=(0, 1)))
    assert all(math.isnan(n.value) for n in found.class_numbers)
    assert not found.class_patches[:2].any()
    assert all(math.isnan(row.numbers["correlation"].value) for row in found.rows)
    assert found.findings() == []
    texts = [text for chart in found.figures().values() for text in (chart.caption, chart.alt, chart.how_to_read)]
    assert len(texts) >= 12
    assert not any(word in re.findall(r"\w+", text) for text in texts for word in ("nan", "undefined"))


def test_a_network_that_is_read_in_a_report_uses_a_share_of_the_images(monkeypatch):
    monkeypatch.setattr("convscope.ansatz.theory.IMAGES", (10, 10))
    found, coverage = run(deep(), x=images(200))
    assert coverage.images == 200
    assert 2 <= found.facts["images"] <= 30  # about 10 of 200, by hash


def test_differences_and_medians_keep_folds_and_draws():
    a = Measured(3.0, (2.0, 4.0), (5, 5), (1.0, 2.0))
    b = Measured(1.0, (1.0, 1.0), (5, 5), (0.0, 0.0))
    assert (a - b).value == 2
    assert (a - b).without == (1, 3)
    assert median([a, b, Measured(math.nan, (math.nan, math.nan), (5, 5), (9.0, 9.0))]).value == 2
    assert combined([a, b], lambda v: float(v.sum())).draws == (1, 2)
    assert median([a, Measured(1.0)]).number("x").spread is None
