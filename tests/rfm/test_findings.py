"""The sentences about learned features: whether it helped, by how much, and which patches."""

import numpy as np
import pytest
from rfm_results import beside, fitted, result

from convscope.rfm.findings import pattern


def texts(made):
    return [finding.text for finding in made.findings()]


def test_a_decided_gain_on_test_images_helped():
    finding = result(fitted([0.5, 0.7]), correct=[[60, 80]]).findings()[0]
    assert finding.text == (
        "80.0 % of the 100 test images are right with the learned metric, 60.0 % with the fixed kernel: feature "
        "learning helped, by +20.0 ± 4.0 percentage points."
    )
    assert finding.number.definition == "gain"


def test_a_loss_did_not_help():
    text = texts(result(fitted([0.5, 0.7]), correct=[[80, 60]]))[0]
    assert text.endswith("feature learning did not help, it cost 20.0 ± 4.0 percentage points.")


def test_without_any_difference_the_same_images_are_right():
    text = texts(result(fitted([0.5, 0.7]), correct=[[60, 60]]))[0]
    assert text.endswith("feature learning did not help, the same images are right.")


@pytest.mark.parametrize("count", [61, 59])
def test_an_undecided_difference_did_not_help_beyond_doubt(count):
    text = texts(result(fitted([0.5, 0.7]), correct=[[60, count]]))[0]
    assert "feature learning did not help beyond doubt" in text


def test_without_test_images_held_out_ones_say_it():
    finding = result(fitted([0.5, 0.7])).findings()[0]
    assert finding.text.startswith("70.0 % of held-out images are right with the learned metric, 50.0 % with the fixed")
    assert "helped, by +20.0 ± 1.0" in finding.text
    assert finding.number.definition == "gain_selection"


def test_where_the_fixed_kernel_was_kept_learning_did_not_help():
    made = result(fitted([0.7, 0.6, 0.65]), correct=[[80, 90, 90]])
    text = texts(made)[0]
    assert text == (
        "Feature learning did not help: the fixed kernel is the best on held-out images (70.0 % right); the best "
        "learned metric differs by −5.0 ± 1.0 percentage points."
    )
    assert not any("effective rank" in t or "Iteration" in t for t in texts(made))


def test_of_the_learned_metrics_the_best_is_told_where_none_was_chosen():
    for scores in ([0.7, 0.6], [0.7, 0.6, 0.5]):
        finding = result(fitted(scores)).findings()[0]
        assert finding.number.value == pytest.approx(-10)


def test_without_iterations_there_is_nothing_to_say_about_learning():
    assert all("eature learning" not in text for text in texts(result(fitted([0.7]), correct=[[80]])))


def test_the_chosen_iteration_is_told():
    made = result(fitted([0.5, 0.7, 0.6]), correct=[[60, 70, 80]])
    assert any(t.startswith("Iteration 1 was chosen without the test images") for t in texts(made))


def test_accuracy_stands_beside_chance():
    text = next(t for t in texts(result(fitted([0.5, 0.7]), correct=[[60, 80]])) if "would reach" in t)
    assert text == (
        "80.0 % of the test images are right, where always saying the most frequent class would reach 60.0 %."
    )
    text = next(t for t in texts(result(permuted=[fitted([0.3] * 3, error=0.05)])) if "would reach" in t)
    assert text.endswith("where permuted labels would reach 20.2 to 39.8 %.")


def test_leave_one_out_is_said_to_flatter_only_where_it_does():
    assert any(t.startswith("Leave-one-out") and "promises 90.0 %" in t for t in texts(result(fitted([0.5, 0.7]))))
    honest = fitted([0.5, 0.7])
    honest.history_[1]["loo_score"] = 0.72
    assert not any(t.startswith("Leave-one-out") for t in texts(result(honest)))


def test_the_chosen_layer_is_told_and_whether_depth_helped():
    first, second = fitted([0.5, 0.7]), fitted([0.5, 0.8], d=36)
    text = next(t for t in texts(result(first, second, chosen=1)) if "layers of learned" in t)
    assert text == (
        "Of 2 layers of learned features, layer 2 is the best on held-out images (80.0 % right; layer 1 70.0 %)."
    )
    text = next(t for t in texts(result(first, fitted([0.5, 0.6], d=36))) if "layers of learned" in t)
    assert text.endswith("(70.0 % right; layer 2 60.0 %): depth did not help.")


def test_the_cnn_is_told():
    agreement, accuracy = (t for t in texts(result(cnn=beside())) if "CNN" in t)
    assert "correlation of 1.00 (its filters)" in agreement
    assert accuracy.endswith("gets 90.0 % of the test images right.")
    kept = result(fitted([0.7, 0.6]), cnn=beside())
    assert [t for t in texts(kept) if "CNN" in t] == [accuracy]
    assert "no learned metric" in kept.skipped[0].reason


def unit(patch):
    patch = np.asarray(patch, float)
    return patch / np.linalg.norm(patch)


DOWN = np.repeat([[-1.0], [0.0], [1.0]], 3, 1)
DIAGONAL = DOWN + DOWN.T


@pytest.mark.parametrize(
    ("patch", "name"),
    [
        (np.ones((3, 3, 3)), "the brightness of the whole patch"),
        (-np.ones((1, 5, 5)), "the brightness of the whole patch"),
        (np.array([1.0, 0, -1])[:, None, None] * np.ones((3, 3, 3)), "a colour of the whole patch against another"),
        (np.stack([DOWN] * 3), "an edge, lying"),
        (-DOWN[None], "an edge, lying"),
        (DOWN.T[None], "an edge, upright"),
        (DIAGONAL[None], "an edge, slanting (/)"),
        (DIAGONAL[:, ::-1][None], "an edge, slanting (\\)"),
        (np.array([[[1.0, -2, 1]] * 3]), ""),
        (np.stack([DOWN, 0 * DOWN, -DOWN]), ""),
    ],
)
def test_a_patch_is_named_by_what_it_mostly_is(patch, name):
    assert pattern(unit(patch)) == name


def test_a_patch_of_half_noise_is_not_named():
    noise = np.random.default_rng(0).normal(size=(3, 5, 5))
    assert not pattern(unit(noise))
    assert pattern(unit(np.ones((3, 5, 5)) + 0.5 * noise)) == "the brightness of the whole patch"
