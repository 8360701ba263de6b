import math
from pathlib import Path

import numpy as np
import pytest
import torch
from firstlayer_runs import images, net, source_of
from sources import ArraySource
from torch import nn

from convscope.cli.compare import _of_report
from convscope.core.errors import ConvscopeError
from convscope.core.network import Network
from convscope.core.passes import Pass
from convscope.firstlayer.comparison import Comparison, Profiled, compare_profiles


def profiles(networks, source=None, data="", layer=None):
    p = Pass(source or source_of(images()), {name: Network(name, m) for name, m in networks.items()})
    finish = Comparison(data, layer).plan(p)
    p.run()
    return finish()


def test_a_network_agrees_with_itself():
    module = net()
    result = compare_profiles(profiles({"a": module, "b": module}))
    assert result.names == ("a", "b", "eigenvalue curve")
    assert np.allclose(result.matrix[:2, :2], 1.0, atol=1e-12)
    assert np.allclose(result.spread[:2, :2], 0.0, atol=1e-6)
    assert np.allclose(result.matrix, result.matrix.T, equal_nan=True)
    assert result.number(0, 1).chance[1] == pytest.approx(1.96 / math.sqrt(26))
    assert result.findings()[0].text.startswith("The two first layers, a and b, correlate 1.00")


def test_correlations_are_those_of_the_energies():
    found = profiles({"a": net(seed=1), "b": net(seed=2), "c": net(seed=3)})
    result = compare_profiles(found)
    rows = torch.stack([p.energies for p in found] + [found[0].variances.sqrt()])
    assert np.allclose(result.matrix, np.corrcoef(rows.numpy()), atol=1e-12)
    assert np.isfinite(result.spread).all()
    texts = [f.text for f in result.findings()]
    assert texts[0].startswith("The least alike")
    assert texts[1].startswith("The most alike")
    assert "bare eigenvalue curve" in texts[2]
    assert set(result.layers()) == {"a", "b", "c"}
    assert not result.notes


def test_only_filters_of_one_shape_are_compared():
    found = profiles({"a": net(seed=1), "b": net(nn.Conv2d(3, 8, 5)), "c": net(seed=3)})
    result = compare_profiles(found)
    assert math.isnan(result.matrix[0, 1])
    assert math.isnan(result.number(0, 1).value)
    assert np.isfinite(result.matrix[[0, 0, 1, 2], [0, 2, 1, 3]]).all()
    assert "different shapes" in " ".join(result.notes)
    assert "nan" not in " ".join(f.text for f in result.findings())
    assert set(result.figures()) == {"consistency", "consistency of logarithms"}


def test_as_many_entries_are_not_the_same_shape():
    found = profiles({"a": net(nn.Conv2d(3, 8, (1, 4))), "b": net(nn.Conv2d(3, 8, (4, 1)))})
    result = compare_profiles(found)
    assert math.isnan(result.matrix[0, 1])
    assert np.isfinite(result.matrix[:2, 2]).all()


def test_groups_are_compared_with_groups():
    one, two = nn.Conv2d(4, 8, 3, groups=2), nn.Conv2d(2, 8, 3)
    found = profiles({"a": net(one), "b": net(nn.Conv2d(4, 4, 3, groups=2))}, ArraySource(images(40, 4)))
    assert np.isfinite(compare_profiles(found).matrix).all()
    other = profiles({"c": net(two)}, ArraySource(images(40, 2)))
    assert math.isnan(compare_profiles([*found, *other]).matrix[0, 2])


def test_two_sets_of_images_are_compared_by_rank():
    module = net()
    found = [
        *profiles({"a": module}, data="one"),
        *profiles({"a": module}, source_of(images(seed=9)), data="two"),
    ]
    result = compare_profiles(found)
    assert result.names[:2] == ("a, one", "a, two")
    assert result.matrix[0, 1] > 0.9
    assert "rank" in " ".join(result.notes)


def test_profiles_without_folds_have_no_spread():
    found = profiles({"a": net(seed=1), "b": net(seed=2)}, ArraySource(images(1)))
    result = compare_profiles(found)
    assert np.isnan(result.spread).all()
    assert result.number(0, 1).spread is None


def test_profiles_with_different_numbers_of_folds_have_no_spread():
    few, many = profiles({"a": net(seed=1)}, source_of(images())), profiles({"b": net(seed=2)}, ArraySource(images()))
    assert 1 < len(few[0].without) < len(many[0].without)
    result = compare_profiles([*few, *many])
    assert np.isfinite(result.matrix).all()
    assert np.isnan(result.spread).all()
    assert result.number(0, 1).spread is None
    assert np.isfinite(compare_profiles([*few, *few]).spread).all()


def test_equal_names_are_told_apart():
    p = Profiled("same", (1, 1, 3), torch.tensor([1.0, 2.0, 4.0]), torch.tensor([3.0, 2.0, 1.0]), "x")
    assert compare_profiles([p, p]).names[:2] == ("same (1)", "same (2)")


def test_one_profile_is_no_comparison():
    with pytest.raises(ConvscopeError, match="at least two"):
        compare_profiles(profiles({"a": net()}))


def test_a_broken_network_is_named():
    module = net()
    with torch.no_grad():
        module[0].weight.fill_(math.nan)
    with pytest.raises(ConvscopeError, match=r"^broken: .*NaN"):
        profiles({"good": net(), "broken": module})


def test_a_flat_profile_is_not_compared():
    module = net()
    nn.init.zeros_(module[0].weight)
    result = compare_profiles(profiles({"a": net(), "zero": module, "b": net(seed=4)}))
    assert math.isnan(result.matrix[0, 1])
    assert math.isfinite(result.matrix[0, 2])
    assert "zero" not in " ".join(f.text for f in result.findings())


def test_saved_reports_are_compared(tmp_path):
    from convscope import report

    paths = []
    for seed in (1, 2):
        module = net(seed=seed)
        made = report(module, images(5), name=f"net {seed}", init=net(seed=8) if seed == 2 else None)
        paths.append(made.save(Path(tmp_path / f"{seed}.json")))
    found = [_of_report(path) for path in paths]
    assert "change from its initial weights" in found[1].name
    assert "initial" not in found[0].name
    result = compare_profiles(found)
    assert np.isfinite(result.matrix).all()
    assert "rank" in " ".join(result.notes)
    assert np.isnan(result.spread).all()
