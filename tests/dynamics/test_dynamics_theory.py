"""The theory of learning dynamics on a pass."""

import math

import pytest
import torch
from dynamics_runs import run, waves
from torch import nn

from convscope.core.errors import ConvscopeError
from convscope.core.network import Network
from convscope.dynamics.collect import dataset_structure
from convscope.dynamics.parts import Trained
from convscope.dynamics.predict import predict_dynamics
from convscope.dynamics.setting import Setting, predicted
from convscope.dynamics.trajectory import steps_of

IMAGES, LABELS = waves()


@pytest.fixture(scope="module")
def found():
    return run(IMAGES, LABELS, setting=Setting(), draws=(60, 30))


def test_modes_are_what_was_put_in(found):
    first, second = found.modes
    assert first.frequencies[0] == (0, 0)
    assert first.high == ("bright",)
    assert set(first.low) == {"striped", "plain"}
    assert second.frequencies[0] == (0, 2)
    assert "striped" in (*second.high, *second.low)
    assert {"plain", "striped"} <= {*second.high, *second.low}
    assert found.numbers["beyond"].value == 2
    text = found.findings()[0].text
    assert "sets bright apart from" in text
    assert "overall brightness" in text


def test_numbers_are_those_of_the_structure_and_its_prediction(found):
    structure = dataset_structure([(IMAGES, LABELS)])
    expected = predict_dynamics(structure, init_std=1e-4)
    assert found.facts["method"] == "exact"
    assert found.facts["lr_chosen"]
    rate = float(structure.growth_rates.max()) * found.facts["lr"] / 0.1
    assert rate == pytest.approx(0.02, rel=0.5)  # e-folds a step, but for rounding
    for i, mode in enumerate(found.modes):
        n = mode.numbers
        assert n["singular_value"].value == pytest.approx(float(structure.singular_values[i]), rel=1e-9)
        assert n["effective"].value == pytest.approx(float(structure.effective_singular_values[i]), rel=1e-9)
        steps = steps_of(expected.half_times[i], found.facts["lr"], momentum=0.9)
        assert n["steps"].value == pytest.approx(float(steps), rel=1e-4)
        assert n["used_energy"].value >= n["dominant_energy"].value - 0.02
        for key in ("singular_value", "effective", "steps", "dense_steps"):
            assert n[key].spread > 0
            assert n[key].chance[0] < n[key].chance[1]
            assert n[key].decided
    apart = found.modes[0].numbers["dense_steps"].value / found.modes[0].numbers["steps"].value
    assert found.numbers["speed_up"].value == pytest.approx(apart)
    assert 1 < apart < 8


def test_batches_do_not_matter(found):
    other = run(IMAGES, LABELS, setting=Setting(), batch_size=17, draws=(60, 30))
    for one, two in zip(found.modes, other.modes, strict=True):
        for key, number in one.numbers.items():
            assert number.value == pytest.approx(two.numbers[key].value, rel=1e-6), key
            if number.spread is not None:
                assert number.spread == pytest.approx(two.numbers[key].spread, rel=1e-4), key
                assert number.chance == pytest.approx(two.numbers[key].chance, rel=1e-6), key


def test_permuted_labels_are_no_more_than_chance():
    labels = LABELS[torch.randperm(len(LABELS), generator=torch.Generator().manual_seed(3))]
    found = run(IMAGES, labels, draws=(60, 30))
    assert found.numbers["beyond"].value <= found.numbers["beyond"].chance[1]
    assert not any(mode.numbers["steps"].decided for mode in found.modes)


def test_images_without_labels_are_a_skip_or_an_error():
    found = run(IMAGES, None, classes=None)
    assert not found.modes
    assert "no labels" in found.skipped[0].reason
    assert found.findings() == []
    assert found.figures() == {}
    with pytest.raises(ConvscopeError, match="no labels"):
        run(IMAGES, None, classes=None, required=True)


def test_one_class_or_constant_images_are_a_skip_or_an_error():
    for images, labels, reason in (
        (IMAGES, torch.zeros_like(LABELS), "one class"),
        (torch.zeros_like(IMAGES), LABELS, "not correlated"),
    ):
        assert reason in run(images, labels).skipped[0].reason
        with pytest.raises(ConvscopeError, match=reason):
            run(images, labels, required=True)


def test_an_empty_class_is_told():
    found = run(IMAGES, LABELS, classes=("bright", "striped", "plain", "none"))
    assert found.classes == ("bright", "striped", "plain")
    assert len(found.modes) == 2
    assert any("Without any image: none" in finding.text for finding in found.findings())


def test_unequal_classes_are_told():
    keep = (LABELS != 0) | (torch.arange(len(LABELS)) % 4 == 0)
    found = run(IMAGES[keep], LABELS[keep])
    assert found.numbers["imbalance"].value > 2
    assert any("unequal numbers" in finding.text for finding in found.findings())


def test_groups_that_are_classes_leave_no_error_bars():
    found = run(IMAGES, LABELS, groups=LABELS)
    assert found.modes[0].numbers["singular_value"].spread is None
    assert any(skip.what == "error bars of the modes" for skip in found.skipped)


def test_large_images_are_brought_to_64_pixels():
    images = torch.rand(40, 1, 96, 48, generator=torch.Generator().manual_seed(0))
    found = run(images, torch.arange(40) % 3)
    assert found.facts["size"] == "64×32"
    assert found.facts["brought"] == "96×48"
    assert "brought to this size from 96×48" in found.figures()["learning"].caption


def test_colours_are_averaged_where_asked_for():
    images, labels = waves(channels=3)
    gray = run(images, labels, gray=True)
    same = run(images.mean(1, keepdim=True), labels)
    assert gray.facts["gray"]
    assert gray.modes[0].numbers["singular_value"].value == pytest.approx(same.modes[0].numbers["singular_value"].value)
    colour = run(images, labels)
    assert colour.shown["modes"].shape[1] == 3
    assert colour.facts["filters"] == 3


def test_uncentred_data_begins_with_its_mean():
    found = run(IMAGES + 1, LABELS, center=False)
    assert found.modes[0].low == ()
    assert "what bright" in found.findings()[0].text
    assert "have in common" in found.findings()[0].text


def brightness():
    """A network that tells bright images from plain ones."""
    net = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(1, 3))
    with torch.no_grad():
        net[2].weight.copy_(torch.tensor([[8.0], [0.0], [-8.0]]))
        net[2].bias.copy_(torch.tensor([-2.0, -1.0, 0.0]))
    return net


def test_a_network_is_asked_which_frequencies_it_uses():
    found = run(IMAGES, LABELS, networks={"model": Network("brightness", brightness())})
    use = found.use
    assert use.numbers["clean_accuracy"].value > 0.55
    # It sees frequency 0 alone, which classes' means differ in most.
    assert use.kept["strength"][0].value == use.numbers["clean_accuracy"].value
    assert any("frequencies in which the classes' mean images differ most" in f.text for f in found.findings())


@pytest.mark.parametrize(
    ("network", "reason"),
    [
        (nn.Sequential(nn.Flatten(), nn.Linear(64, 2)), "classes apart"),
        (nn.Sequential(nn.Flatten(), nn.Linear(64, 3), nn.Softmax(1), nn.Threshold(2, 0)), "no more than chance"),
    ],
)
def test_networks_of_other_classes_are_a_skip(network, reason):
    found = run(IMAGES, LABELS, networks={"model": Network("another", network)})
    assert found.use is None
    assert any(reason in skip.reason for skip in found.skipped)


def test_a_network_is_not_asked_about_images_that_were_changed():
    found = run(IMAGES, LABELS, networks={"model": Network("brightness", brightness())}, gray=False)
    assert found.use is not None
    images, labels = waves(channels=3)
    found = run(images, labels, networks={"model": Network("brightness", brightness())}, gray=True)
    assert found.use is None
    assert any("smaller or gray" in skip.reason for skip in found.skipped)


def test_labelled_images_are_handed_to_a_training():
    seen = {}

    def train(x, y):
        seen.update(x=x, y=y)
        return Trained({}, (), {}, {})

    labels = LABELS.clone()
    labels[:50] = -1
    found = run(IMAGES, labels, train=train, train_images=100)
    assert found.trained is not None
    assert len(seen["x"]) == len(seen["y"]) <= 100
    assert (seen["y"] >= 0).all()


@pytest.mark.parametrize(
    ("setting", "shape", "reason"),
    [
        (Setting(method="stages", kernel_size=3), (1, 8, 8), "is for two layers"),
        (Setting(method="closed-form", padding="zeros"), (1, 8, 8), "is for two layers"),
        (Setting(method="exact"), (3, 64, 64), "hold the covariances"),
        (Setting(kernel_size=3), (3, 64, 64), "hold the covariances"),
    ],
)
def test_settings_that_no_method_covers(setting, shape, reason):
    with pytest.raises(ConvscopeError, match=reason):
        setting.check(shape)


@pytest.mark.parametrize(
    "setting",
    [Setting(kernel_size=9), Setting(depth=1), Setting(init_std=0.0), Setting(lr=0.0), Setting(momentum=1.0)],
)
def test_settings_out_of_range(setting):
    with pytest.raises(ValueError, match=r"got|larger"):
        setting.check((1, 8, 8))


@pytest.mark.parametrize(
    "setting",
    [
        Setting(kernel_size=3, channels=2),
        Setting(kernel_size=3, padding="zeros"),
        Setting(depth=3, init_std=3e-2),
        Setting(method="stages", init_std=1e-8),
        Setting(method="independent"),
    ],
)
def test_other_networks_and_methods_keep_the_order(setting):
    found = run(IMAGES, LABELS, setting=setting)
    first, second = (mode.numbers["steps"].value for mode in found.modes)
    assert first < second or math.isinf(second)
    assert math.isfinite(first)
    assert found.figures()
    assert (found.modes[0].numbers["steps"].spread is None) == (not setting.plain)


def test_a_deep_network_that_learns_nothing_says_so(monkeypatch):
    monkeypatch.setattr("convscope.dynamics.setting.DOUBLINGS", 2)
    with pytest.raises(ConvscopeError, match="larger --init-std"):
        predicted(dataset_structure([(IMAGES, LABELS)]), Setting(depth=4, init_std=1e-5))


def test_many_classes_without_images_cost_nothing():
    generator = torch.Generator().manual_seed(0)
    images, labels = torch.rand(40, 3, 64, 64, generator=generator), torch.randint(0, 2000, (40,), generator=generator)
    labels[0], labels[:20:2] = 1999, 7
    names = tuple(f"class {i}" for i in range(2000))
    found = run(images, labels, classes=names)
    assert sum(found.counts) == 40
    assert len(found.classes) == len(labels.unique())
    assert "class 7" in found.classes
    assert found.shown["class_vectors"].shape[1] == len(found.classes)
    text = " ".join(finding.text for finding in found.findings())
    assert "Without any image: class 0" in text
    assert f"and {2000 - len(found.classes) - 8:,} more" in text
