"""What a result holds of fitted machines, and that the page's file keeps it."""

import json
import math

import numpy as np
import pytest
import torch
from rfm_results import LABELS, TRUE, beside, fitted, metric_of, result, right

import convscope.analyse  # ruff: ignore[unused-import]  (knows all results)
from convscope.core.errors import ConvscopeError
from convscope.core.results import Result, result_from_json
from convscope.rfm.architecture import Architecture
from convscope.rfm.conclude import MAJORITY, PERMUTED, alignment
from convscope.rfm.shown import leading, pictures_of, views_of


def full():
    layers = fitted([0.5, 0.6, 0.7]), fitted([0.5, 0.65, 0.6], d=36)
    return result(*layers, correct=[[60, 70, 75], [60, 72, 74]], permuted=[fitted([0.3] * 3)] * 2, cnn=beside())


def test_it_follows_the_protocol():
    assert isinstance(full(), Result)


@pytest.mark.parametrize("made", [full(), result(), result(fitted([0.6, 0.5])), result(fitted([0.6]))])
def test_a_saved_result_is_the_same_result(made):
    text = json.dumps(made.to_json(), allow_nan=False)
    again = result_from_json(json.loads(text))
    assert json.dumps(again.to_json(), allow_nan=False) == text
    assert [f.text for f in again.findings()] == [f.text for f in made.findings()]
    assert again.figures().keys() == made.figures().keys()
    assert np.array_equal(again.views, made.views)
    assert again.to_frame().equals(made.to_frame())
    for key in {number.definition for f in made.findings() for number in [f.number]}:
        assert key in again.definitions()


def test_every_definition_is_used_by_the_fullest_result():
    from convscope.rfm.definitions import DEFINITIONS

    assert full().definitions() == DEFINITIONS


def test_the_gain_on_test_images_is_paired():
    numbers = result(fitted([0.5, 0.7]), correct=[[60, 75]]).learned
    difference = 100 * ((right(75) == TRUE).astype(float) - (right(60) == TRUE))
    assert numbers["gain"].value == pytest.approx(15)
    assert numbers["gain"].spread == pytest.approx(difference.std(ddof=1) / 10)
    assert numbers["test"].value == pytest.approx(0.75)
    assert numbers["test"].spread == pytest.approx(math.sqrt(0.75 * 0.25 / 99))
    unpaired = math.hypot(numbers["test"].spread, result(fitted([0.5]), correct=[[60]]).fixed["test"].spread)
    assert numbers["gain"].spread < 80 * unpaired
    assert numbers["gain"].chance == (0.0, 0.0)


def test_gains_of_every_layer_are_over_the_kernel_of_the_images_themselves():
    made = full()
    assert "gain" not in made.fixed
    assert "gain_selection" not in made.fixed
    deeper = made.stack[1].iterations
    assert [n["gain"].value for n in deeper] == pytest.approx([0, 12, 14])
    assert [n["gain_selection"].value for n in deeper] == pytest.approx([0, 15, 10])
    assert deeper[1]["gain_selection"].spread == pytest.approx(100 * 0.02 / 2)


def test_chance_is_the_most_frequent_class_of_the_images_in_question():
    numbers = result(fitted([0.5, 0.7]), correct=[[60, 75]]).learned
    assert numbers["selection"].chance == (0.5, 0.5) == ((LABELS == 1).mean(),) * 2
    assert numbers["test"].chance == (0.6, 0.6) == ((TRUE == 1).mean(),) * 2
    assert numbers["test"].chance_name == numbers["loo"].chance_name == MAJORITY


def test_permuted_labels_are_the_chance_of_held_out_images_at_the_same_iteration():
    numbers = result(fitted([0.5, 0.7]), permuted=[fitted([0.2, 0.3], error=0.05)]).learned
    assert numbers["selection"].chance == pytest.approx((0.3 - 0.098, 0.3 + 0.098))
    assert numbers["selection"].chance_name == PERMUTED


def test_without_selection_there_is_no_number_of_it():
    machine = fitted([0.5, 0.7])
    for step in machine.history_:
        step["selection_score"] = step["selection_error"] = None
    made = result(machine, correct=[[60, 75]])
    assert "selection" not in made.learned
    assert "gain_selection" not in made.learned
    assert made.findings()[0].number.definition == "gain"


def test_the_table_has_a_row_for_each_iteration_with_its_errors_and_chance():
    made = full()
    frame = made.to_frame()
    assert frame[["layer", "iteration"]].to_numpy().tolist() == [[i, t] for i in (1, 2) for t in range(3)]
    assert frame["chosen"].tolist() == [False, False, True, False, False, False]
    row = frame.iloc[2]
    assert row["test"] == pytest.approx(0.75)
    assert row["gain, error"] == made.learned["gain"].spread
    assert (row["selection, chance from"], row["selection, chance to"]) == made.learned["selection"].chance
    assert list(made.layers()) == [
        "layer 1, fixed kernel", "layer 1, iteration 1", "layer 1, iteration 2 (chosen)", "layer 2, iteration 0",
        "layer 2, iteration 1", "layer 2, iteration 2",
    ]  # fmt: skip
    assert made.layers()["layer 2, iteration 0"].shape == "4×3×3"
    assert list(result().layers()) == ["fixed kernel", "iteration 1", "iteration 2 (chosen)"]


def test_the_fixed_kernel_has_no_pictures_and_no_views():
    made = result(fitted([0.7, 0.6]))
    assert made.is_fixed
    assert made.layer.pictures is None
    assert not len(made.views)
    assert not any("patches" in name for name in made.figures())


def test_leading_patches_are_eigenvectors_with_their_shares_of_the_trace():
    metric = torch.from_numpy(metric_of(27))
    values, vectors = leading(metric, 3)
    assert torch.allclose(vectors @ metric, values[:, None] * vectors, atol=1e-12)
    assert float(leading(metric, 27)[0].sum()) == pytest.approx(1)
    assert (vectors.gather(1, vectors.abs().argmax(1, keepdim=True)) > 0).all()
    shown = pictures_of(7 * metric, (3, 3, 3))
    assert np.allclose(shown.patches.reshape(8, -1)[:3], vectors, atol=1e-4)
    assert shown.shares[:3] == pytest.approx(values.tolist(), abs=1e-4)
    assert np.allclose(shown.matrix, metric / metric.abs().max(), atol=1e-4)


@pytest.mark.parametrize("channels", [3, 12])
def test_of_large_metrics_the_sum_over_channels_is_shown(channels):
    d = channels * 25 + (25 if channels == 3 else 0)
    c = d // 25
    metric = torch.from_numpy(metric_of(d))
    shown = pictures_of(metric, (c, 5, 5))
    blocks = sum(metric[25 * i : 25 * i + 25, 25 * i : 25 * i + 25] for i in range(c))
    assert np.allclose(shown.matrix, blocks / blocks.abs().max(), atol=1e-4)
    assert shown.part.startswith(f"summed over the {c} channels")
    assert shown.patches.shape[1] == len(shown.channels) == min(c, 8)


def test_a_view_is_the_length_of_each_patch_in_the_metric_and_along_its_leading_patches():
    x = torch.rand(2, 3, 6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    metric = torch.from_numpy(metric_of(27))
    seen, names = views_of(x, metric, Architecture(1, 3))
    assert names == ("all", "patch 1", "patch 2", "patch 3")
    seen = seen.reshape(2, 5, 64, 64, 3)[:, 1:, 8::16, 8::16, 0] / 255.0
    patches = torch.nn.functional.unfold(x, 3).mT  # [2, 16, 27]
    lengths = torch.einsum("npd,de,npe->np", patches, metric, patches).sqrt()
    assert np.allclose(seen[:, 0].reshape(2, 16), lengths / lengths.max(), atol=2e-3)
    _, vectors = leading(metric, 3)
    for i, vector in enumerate(vectors):
        along = (patches @ vector).abs()
        assert np.allclose(seen[:, 1 + i].reshape(2, 16), along / along.max(), atol=2e-3)


def test_a_cnn_is_compared_by_correlation_whatever_its_scale():
    made = result(cnn=beside())
    assert made.numbers["metric_nfm"].value == pytest.approx(1)
    expected = np.corrcoef(metric_of(27, 0).ravel(), metric_of(27, 1).ravel())[0, 1]
    assert made.numbers["metric_agop"].value == pytest.approx(expected)
    starts = [np.corrcoef(metric_of(27, 0).ravel(), metric_of(27, seed).ravel())[0, 1] for seed in (2, 3, 4)]
    assert made.numbers["metric_nfm"].chance == pytest.approx(tuple(np.quantile(starts, [0.025, 0.975])))
    assert made.numbers["metric_agop"].chance == pytest.approx(tuple(-np.quantile(starts, [0.975, 0.025])))
    assert made.cnn.keys() == {"NFM", "AGOP"}
    assert math.isnan(alignment(torch.zeros(3, 3), torch.eye(3)))


@pytest.mark.parametrize(
    "damage",
    [
        lambda d: d.pop("stack"),
        lambda d: d.update(stack=[]),
        lambda d: d.update(chosen=2),
        lambda d: d["stack"][0].update(best=7),
        lambda d: d["stack"][0].update(shape=[3, 3]),
        lambda d: d["stack"][0].update(iterations=[]),
        lambda d: d["stack"][0]["pictures"].update(shares=[1.0]),
        lambda d: d["stack"][0]["pictures"].update(matrix=[[1.0, 2.0]]),
        lambda d: d["stack"][0]["numbers"].pop("effective_rank"),
        lambda d: d["stack"][0]["iterations"][0].pop("test"),
        lambda d: d["views"].update(names=["one"] * 6),
        lambda d: d["views"].update(shape=[1, 2]),
        lambda d: d["facts"].clear(),
        lambda d: d.update(cnn={"NFM": {}}),
    ],
)
def test_damaged_files_are_refused(damage):
    data = json.loads(json.dumps(full().to_json()))
    damage(data)
    with pytest.raises(ConvscopeError, match="rfm result in this file is damaged"):
        result_from_json(data)
