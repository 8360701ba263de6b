"""The bottleneck on a pass: what it measures, what it says, and what it leaves out."""

import json
import math

import numpy as np
import pytest
import torch
from bottleneck_runs import SIDE, circular, low_pass, ordinary, run
from firstlayer_runs import images
from torch import nn
from zoo import ZOO, build

from convscope.bottleneck import compose, theory
from convscope.core.errors import ConvscopeError
from convscope.core.results import result_from_json


@pytest.fixture(autouse=True)
def few(monkeypatch):
    """Fewer images and changes where it matters only that something is measured."""
    for name, value in (("FEW", 6), ("DRAWS", 2), ("MOST_PAIRS", 2)):
        monkeypatch.setattr(f"convscope.bottleneck.interpretation.{name}", value)
    monkeypatch.setattr(theory, "COST_IMAGES", 2)


def same_after_json(result):
    data = json.loads(json.dumps(result.to_json(), allow_nan=False))
    again = result_from_json(data)
    assert again.to_json() == data
    return [f.text for f in again.findings()] == [f.text for f in result.findings()]


@pytest.fixture(scope="module")
def kept():
    """A chain of low-pass filters on images that are positive and in every frequency."""
    g = torch.Generator().manual_seed(0)
    return run(low_pass(), x=torch.rand(400, 3, SIDE, SIDE, generator=g) + 3)


@pytest.fixture(scope="module")
def plain():
    return run(ordinary())


def test_a_chain_of_low_pass_filters_is_a_bottleneck_of_known_rank(kept):
    # Waves of at most 1 cycle each way are 9 real ones, in 3 channels; all of them vary.
    assert [row.numbers["cbn_rank"].value for row in kept.rows] == [27] * 4
    assert [row.numbers["rank"].value for row in kept.rows] == [27] * 4
    assert [row.confidence for row in kept.rows] == ["high"] * 4
    assert kept.numbers["input_rank"].value > 90
    assert kept.numbers["narrowing"].value == pytest.approx(27 / kept.numbers["input_rank"].value)
    assert (kept.facts["location"], kept.facts["start"], kept.facts["end"]) == ("bottleneck", "0", "6")
    assert kept.numbers["structure"].value == pytest.approx(1 - 27 / 147, abs=1e-3)
    assert kept.numbers["compression"].value == pytest.approx(kept.numbers["narrowing"].value)
    assert [row.numbers["chain"].value for row in kept.rows[:-1]] == pytest.approx([1] * 3)
    assert "CBN structure" in kept.facts["score"]


def test_its_cost_is_the_least_there_is(kept):
    # Projections, each a sum of squares 27 / 49: no network of four layers with this Jacobian costs less.
    assert kept.numbers["cost"].value == pytest.approx(4 * 27 / 49)
    assert kept.numbers["efficiency"].value == pytest.approx(1, abs=1e-3)
    assert kept.numbers["balance"].value == pytest.approx(0, abs=1e-3)


def test_its_maps_show_the_low_frequencies_in_the_middle(kept):
    shown = kept.maps["2"]
    assert shown.variance.shape == (7, 7)
    inside = np.zeros((7, 7), bool)
    inside[2:5, 2:5] = True
    assert (shown.variance[inside] > 0.3).all()
    assert (shown.variance[~inside] < -3).all()
    assert (shown.kept == inside).all()
    assert (shown.largest[inside] > 0).all()


def test_its_kept_pairs_are_the_low_frequencies(kept):
    assert kept.facts["pairs"] == kept.facts["narrowest"]
    assert all(max(map(abs, pair.frequency)) <= 1 for pair in kept.pairs)
    assert all("gain" in pair.numbers for pair in kept.pairs)
    assert len(kept.patterns) == sum(pair.pictures for pair in kept.pairs)
    assert kept.patterns.shape[1:] == (7, 7, 3)


def test_what_the_outputs_make_of_its_pairs(kept, plain):
    # Maps that are nowhere cut off: what is missing without a pair is there twice when it is doubled.
    changes = kept.decoded.pictures.astype(int)
    assert changes.shape == (2 * len(kept.pairs), 7, 7, 3)
    assert np.abs(changes[::2] + changes[1::2] - 255).max() <= 1
    assert changes.std() > 10
    # Class scores: the mean of squares, weighted by the scores' variances, is what a pair costs.
    answers = np.square(plain.decoded.answers)
    assert answers.shape == (len(plain.pairs), len(plain.decoded.outputs))
    for row, pair in zip(answers, plain.pairs, strict=True):
        assert row.min() <= pair.numbers["importance"].value <= row.max()


def test_the_grid_is_that_of_the_frequencies(kept):
    assert [row.numbers["grid"].value for row in kept.rows] == [3] * 4
    assert any("7×7 pixels, yet 3×3 would hold" in f.text for f in kept.findings())


def test_figures_are_the_same_after_json(kept):
    charts = kept.figures()
    assert all(chart.caption and chart.alt for chart in charts.values())
    again = result_from_json(json.loads(json.dumps(kept.to_json()))).figures()
    assert {name: chart.data for name, chart in again.items()} == {name: c.data for name, c in charts.items()}


def test_every_number_is_defined_and_told(kept, plain):
    for result in (kept, plain):
        tables = [result.numbers, *(row.numbers for row in result.rows), *(pair.numbers for pair in result.pairs)]
        assert {n.definition for table in tables for n in table.values()} <= set(result.definitions())
        assert all(n.definition == key for table in tables for key, n in table.items())
        assert all(f.text.endswith(".") and "nan" not in f.text for f in result.findings())
        assert same_after_json(result)


def test_an_ordinary_network_gives_ranks_errors_and_chance(plain):
    assert [row.layer for row in plain.rows] == ["0", "3"]
    for row in plain.rows:
        number = row.numbers["rank"]
        assert 1 <= number.value <= math.prod(row.size) * row.shape[0]
        assert number.spread is not None
        assert number.chance[0] == number.chance[1]
        assert row.numbers["align"].chance is not None
        assert 0 < row.numbers["leak"].value < 1
    assert plain.rows[1].size == (4, 4)
    assert plain.facts["images"] == 40
    assert plain.facts["untrained_is"] == "twin"


def test_a_batch_norm_is_folded_into_weights_and_activations():
    module = ordinary()
    with torch.no_grad():
        module[1].weight.copy_(torch.linspace(0, 2, 6))
        module[1].running_var.copy_(torch.linspace(0.5, 3, 6))
    folded = ordinary()
    folded.load_state_dict(module.state_dict())
    factor = module[1].weight / (module[1].running_var + module[1].eps).sqrt()
    with torch.no_grad():
        folded[0].weight *= factor[:, None, None, None]
    folded[1] = nn.Identity()
    one, other = (run(m, twin=False).rows[0].numbers for m in (module, folded))
    for key in ("rank", "participation", "dc", "cbn_rank", "align", "level", "norm", "stable_rank"):
        assert one[key].value == pytest.approx(other[key].value, rel=1e-5)


def test_a_residual_network_has_its_sums_apart_and_says_why_there_is_no_chain():
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv1, self.conv2, self.conv3 = (nn.Conv2d(4, 4, 3, padding=1) for _ in range(3))

        def forward(self, x):
            x = torch.relu(x + self.conv2(torch.relu(self.conv1(x))))
            return self.conv3(x)

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.block = nn.Conv2d(3, 4, 1), Block()

        def forward(self, x):
            return self.block(self.stem(x)).mean((2, 3))

    result = run(Net())
    assert [row.layer for row in result.rows if "sum" in row.numbers] == ["block.conv3"]
    assert "structure" not in result.numbers
    assert result.facts["chain"]
    assert any(s.what == "chain of layers, structure, cost and balance" for s in result.skipped)
    assert any("where branches are added" in f.text for f in result.findings())


def test_weights_alone_need_no_image(plain):
    from convscope.core.network import Network
    from convscope.core.passes import Pass
    from convscope.inputs.iterables import IterableSource

    network = Network("net", ordinary())
    p = Pass(IterableSource(torch.rand(1, 3, SIDE, SIDE)))
    result = compose.weights_alone(network, p.chosen(network))
    for one, other in zip(result.rows, plain.rows, strict=True):
        assert "rank" not in one.numbers
        assert one.numbers["cbn_rank"] == other.numbers["cbn_rank"]
        assert one.numbers["norm"] == other.numbers["norm"]
    assert not result.facts["data"]
    assert [s.what for s in result.skipped] == ["activations, kept pairs, and where the bottleneck lies"]
    assert next(iter(result.figures())) == "singular values by frequency"
    assert same_after_json(result)


@pytest.mark.parametrize("name", sorted(set(ZOO) - {"compiled", "traced", "frozen"}))
def test_the_theory_speaks_of_every_network_of_the_zoo(name):
    result = run(build(name), x=images(12), twin=False)
    if name != "exported":
        assert [row.layer for row in result.rows] == ZOO[name][1]
    assert all(f.text.endswith(".") for f in result.findings())
    assert same_after_json(result)


def test_a_circular_border_that_was_filled_beforehand_is_no_part_of_the_maps():
    result = run(build("bordered"), x=images(12))
    assert result.rows[1].shape == (4, 4, 3, 3)
    assert not any("approximate" in note for note in result.rows[1].notes)


def test_layers_can_be_chosen():
    assert [row.layer for row in run(ordinary(), layers=["3"]).rows] == ["3"]
    with pytest.raises(ConvscopeError, match="no convolution 'nowhere'"):
        run(ordinary(), layers=["nowhere"])


def test_a_network_without_convolutions_is_an_error():
    with pytest.raises(ConvscopeError, match="no two-dimensional convolution"):
        run(nn.Sequential(nn.Flatten(), nn.Linear(3 * SIDE * SIDE, 3)), twin=False)


def test_zero_weights_are_collapsed_and_what_follows_does_not_vary():
    module = low_pass(3)
    with torch.no_grad():
        module[2].weight.zero_()
    result = run(module)
    assert [row.confidence for row in result.rows] == ["high", "collapsed", "high"]
    assert result.rows[1].numbers["cbn_rank"].value == 0
    assert "align" not in result.rows[1].numbers
    assert "rank" not in result.rows[1].numbers
    assert "nothing varies between images" in result.rows[2].notes
    assert (result.facts["location"], result.facts["start"]) == ("collapsed", "2")
    texts = " ".join(f.text for f in result.findings())
    assert "2 passes nothing on" in texts
    assert "no weight other than 0" in texts
    assert same_after_json(result)


def test_dead_filters_are_counted_as_what_they_are():
    module = low_pass(3)
    with torch.no_grad():
        module[2].weight[0] = 0
    result = run(module, x=torch.rand(200, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0)) + 3)
    assert [row.numbers["cbn_rank"].value for row in result.rows] == [27, 18, 27]
    assert [row.numbers["rank"].value for row in result.rows] == [27, 18, 18]


def test_weights_that_are_not_finite_are_left_out_with_their_reason():
    module = ordinary()
    with torch.no_grad():
        module[3].weight[0] = math.nan
    result = run(module, twin=False)
    assert [row.layer for row in result.rows] == ["0"]
    assert [(s.what, "NaN" in s.reason) for s in result.skipped if s.what == "3"] == [("3", True)]


def test_a_batch_norm_that_is_not_finite_is_left_out_with_its_reason():
    module = ordinary()
    with torch.no_grad():
        module[1].weight[0] = math.nan
    result = run(module, twin=False)
    assert "0" not in [row.layer for row in result.rows]
    assert any(s.what == "0" and "batch norm" in s.reason for s in result.skipped)


def test_activations_that_are_not_finite_leave_the_weights():
    class Diverging(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)

        def forward(self, x):
            return self.two(self.one(x) * 1e38 * 1e38).mean((2, 3))

    result = run(Diverging(), twin=False)
    assert [row.layer for row in result.rows] == ["one", "two"]
    assert "rank" in result.rows[0].numbers
    assert "rank" not in result.rows[1].numbers
    assert "norm" in result.rows[1].numbers
    assert any(s.what == "activations of two" for s in result.skipped)


def test_maps_of_one_pixel_and_kernels_larger_than_the_map():
    module = nn.Sequential(
        circular(3, 4, 9), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Conv2d(4, 5, 3, padding=1), nn.ReLU(),
        nn.Conv2d(5, 2, 1), nn.Flatten(),
    )  # fmt: skip
    result = run(module)
    assert [row.size for row in result.rows] == [(7, 7), (1, 1), (1, 1)]
    assert [row.numbers["frequencies"].value for row in result.rows[1:]] == [1, 1]
    assert result.maps["5"].variance.shape == (1, 1)
    assert same_after_json(result)


def test_other_convolutions_are_stated():
    class Mixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.flat, self.up = nn.Conv1d(3, 3, 3, padding=1), nn.ConvTranspose2d(4, 4, 2, stride=2)
            self.deep, self.conv = nn.Conv3d(1, 1, 1), nn.Conv2d(3, 4, 3, padding=1)

        def forward(self, x):
            x = self.flat(x.flatten(2)).view_as(x)
            return self.up(self.conv(self.deep(x[:, None])[:, 0])).mean((2, 3))

    result = run(Mixed(), twin=False)
    assert [row.layer for row in result.rows] == ["conv"]
    reasons = {s.what: s.reason for s in result.skipped}
    assert "two axes" in reasons["flat"]
    assert "two axes" in reasons["deep"]
    assert "frequency_singular_values" in reasons["up"]


def test_images_of_several_sizes_leave_the_weights():
    from convscope.inputs.iterables import IterableSource

    batches = [torch.rand(8, 3, 6, 6), torch.rand(8, 3, 8, 8)]
    result = run(ordinary(), x=IterableSource(batches), twin=False)
    assert [row.layer for row in result.rows] == ["0", "3"]
    assert all("rank" not in row.numbers and "norm" in row.numbers for row in result.rows)
    assert all("several sizes" in s.reason for s in result.skipped if s.what.startswith("activations of"))
    assert sum(s.what.startswith("activations of") for s in result.skipped) == 2
    assert any("different sizes" in s.reason for s in result.skipped)
    assert same_after_json(result)


def test_images_that_are_all_alike_vary_nowhere():
    result = run(ordinary(), x=torch.ones(20, 3, SIDE, SIDE), twin=False)
    assert all(row.notes[0] == "nothing varies between images" for row in result.rows)
    assert "narrowest" not in result.numbers
    assert same_after_json(result)


def test_one_image_has_no_spread_and_no_variance():
    result = run(ordinary(), x=images(1, side=SIDE), twin=False)
    assert all("rank" not in row.numbers for row in result.rows)
    assert result.figures()


def test_numbers_are_the_same_for_any_batch_size():
    from sources import ArraySource

    from convscope.analyse import analyse
    from convscope.core.network import Network
    from convscope.core.passes import Pass

    x, found = images(50, side=SIDE), []
    for size in (7, 50):
        p = Pass(ArraySource(x), {"model": Network("net", ordinary().double())}, batch_size=size)
        (result,), _ = analyse(p, [theory.Bottleneck()])
        found.append([n.value for row in result.rows for n in row.numbers.values()])
    assert found[0] == pytest.approx(found[1], rel=1e-9)


def test_a_network_before_training_is_named_so():
    result = run(ordinary(), init=ordinary(2))
    assert result.rows[0].numbers["rank"].chance_name == "before training"
    assert any("Before training" in f.text for f in result.findings())


def test_an_untrained_network_of_another_shape_gives_no_chance():
    start = ordinary(2)
    start[0] = nn.Conv2d(3, 6, 5, padding=2)
    result = run(ordinary(), init=start)
    assert [row.numbers["rank"].chance is None for row in result.rows] == [True, False]


def test_a_report_uses_fewer_images_of_heavy_networks():
    class Call:
        output = torch.empty(1, 64, 112, 112, device="meta")

        class geometry:
            patch_dim = 64 * 9 * 1000

    assert theory._enough([Call()]) == theory.IMAGES[0]
