import math
from pathlib import Path

import numpy as np
import pytest
import torch
from sources import ArraySource

from convscope.core.errors import ConvscopeError
from convscope.core.passes import Pass
from convscope.core.streams import Images
from convscope.dynamics.shortcuts.audit import FrequencyAudit
from convscope.dynamics.shortcuts.collect import audit_shortcuts, feed_audit
from convscope.dynamics.shortcuts.tables import areas_z, audit_table, settings
from convscope.inputs.idx import open_idx
from convscope.inputs.photographs import photographs
from convscope.papers.data import cifar10

DATA = Path(__file__).parents[4] / "shared" / "data"


def natural(n=800, c=3, size=24, outputs=8, seed=0):
    """Images whose energy falls with frequency, as that of photographs does; classes differ most at low ones."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % outputs
    k = torch.hypot(torch.fft.fftfreq(size)[:, None] * size, torch.fft.rfftfreq(size) * size).clamp(min=1)
    noise = torch.fft.rfft2(torch.randn(n, c, size, size, generator=generator))
    means = torch.fft.rfft2(torch.randn(outputs, c, size, size, generator=generator))
    means[..., 0, 0] = 0  # colours do not
    images = torch.fft.irfft2(noise / k**1.2 + 0.4 * means[labels] / k**1.6, s=(size, size))
    return (0.5 + 0.1 * images).clamp(0, 1), labels


def wave(size, ky, kx):
    y, x = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    return torch.cos(2 * math.pi * (ky * y + kx * x) / size)


@pytest.fixture(scope="module")
def clean():
    return natural()


def first(audit):
    alarm = audit.alarms[0]
    return alarm.kind, alarm.place, alarm.label


def test_no_alarm_without_a_plant_nor_with_permuted_labels(clean):
    images, labels = clean
    assert audit_shortcuts(zip(images.split(100), labels.split(100), strict=True)).alarms == ()
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(3))
    assert audit_shortcuts([(images, labels[order])]).alarms == ()


@pytest.mark.parametrize(("ky", "kx"), [(7, 5), (4, -8)])
def test_names_stripes_of_fixed_phase_first(clean, ky, kx):
    images, labels = clean[0].clone(), clean[1]
    images[labels == 3] += 0.02 * wave(24, ky, kx)
    audit = audit_shortcuts([(images, labels)])
    assert first(audit) == ("frequency", (ky, kx), 3)
    assert audit.alarms[0].statistic == "coherent"
    place = (audit.frequencies.frequencies == torch.tensor([ky, kx])).all(1).nonzero().item()
    assert audit.alarms[0].rank == int(audit.frequencies.rank[place])
    others = torch.arange(8) != 3
    assert audit.frequencies.class_effects[3, place] > 3 * audit.frequencies.class_effects[others, place].max()


def test_names_stripes_along_an_axis():
    images, labels = natural(400, 1, 40)
    images[labels == 3] += 0.1 * wave(40, 0, 9)
    audit = audit_shortcuts([(images, labels)])
    found = [alarm for alarm in audit.alarms if alarm.kind == "frequency"]
    assert (found[0].place, found[0].label) == ((0, 9), 3)
    assert found[0].threshold >= audit.threshold
    assert any(f"the largest is {found[0].value:.1f}" in note for note in audit.notes)


def test_names_stripes_of_random_phase_by_their_power(clean):
    images, labels = clean[0].clone(), clean[1]
    shift = torch.randint(0, 24, (len(images),), generator=torch.Generator().manual_seed(1))
    waves = torch.stack([wave(24, 7, 5).roll(int(s), 0) for s in shift])[:, None]
    images = torch.where((labels == 6)[:, None, None, None], images + 0.02 * waves, images)
    audit = audit_shortcuts([(images, labels)])
    assert first(audit) == ("frequency", (7, 5), 6)
    assert audit.alarms[0].statistic == "power"


@pytest.mark.parametrize(("row", "column"), [(12, 11), (0, 7), (23, 23)])
def test_names_a_pixel_first(clean, row, column):
    images, labels = clean[0].clone(), clean[1]
    images[labels == 2, :, row, column] += 0.15
    assert first(audit_shortcuts([(images, labels)])) == ("pixel", (row, column), 2)


def test_names_a_white_corner_once(clean):
    images, labels = clean[0].clone(), clean[1]
    images[labels == 5, :, :3, :3] = 1
    pixels = [alarm for alarm in audit_shortcuts([(images, labels)]).alarms if alarm.kind == "pixel"]
    assert len(pixels) == 1
    assert max(pixels[0].place) <= 3
    assert pixels[0].label == 5


def test_stripes_on_black_are_named_before_the_pixels_they_show_in():
    images, labels = natural(800, 1)
    images[..., :6, :6] = 0
    images[labels == 4] = (images[labels == 4] + 0.03 * wave(24, 7, 5)).clamp(0, 1)
    audit = audit_shortcuts([(images, labels)])
    assert first(audit) == ("frequency", (7, 5), 4)
    pixels = [alarm for alarm in audit.alarms if alarm.kind == "pixel"]
    assert pixels[0].label == 4
    assert pixels[0].value > audit.alarms[0].value


def test_names_the_class_with_a_colour_cast(clean):
    images, labels = clean[0].clone(), clean[1]
    images[labels == 1, 0] += 0.15
    audit = audit_shortcuts([(images, labels)])
    assert ("colour", 1) in {(alarm.kind, alarm.label) for alarm in audit.alarms}
    assert audit.colour.accuracy > audit.colour.chance + 5 * audit.colour.spread


def test_of_two_classes_the_one_with_the_stripes_is_named():
    images, labels = natural(600, 1, outputs=2)
    images[labels == 1] += 0.05 * wave(24, 6, 8)
    audit = audit_shortcuts([(images, labels)])
    assert first(audit) == ("frequency", (6, 8), 1)
    assert audit.colour.z.isnan().all()
    assert any("Colours raise no alarm" in note for note in audit.notes)


def test_properties_of_files_are_held_against_labels(clean):
    images, labels = clean
    random = np.random.default_rng(0)
    quality = 60 + 10 * (labels.numpy() // 2)
    properties = {"quality": quality, "width": random.integers(20, 25, 800), "bytes": random.normal(size=800)}
    audit = audit_shortcuts([(images, labels)], properties=properties)
    assert [(a.kind, a.what) for a in audit.alarms] == [("file", "quality")]
    assert audit.files.single["quality"] == pytest.approx(0.45, abs=0.06)
    assert audit.files.single["bytes"] < 0.2
    assert audit_shortcuts([(images, labels)], properties={"bytes": properties["bytes"]}).alarms == ()
    with pytest.raises(ValueError, match="one value for each image"):
        audit_shortcuts([(images, labels)], properties={"bytes": [1.0, 2.0]})


def test_rides_on_a_pass_with_error_bars_and_the_same_numbers_in_any_batches(clean):
    images, labels = clean
    found = []
    for size in (37, 400):
        p = Pass(ArraySource(images, labels), batch_size=size)
        conclude = feed_audit(p, Images())
        p.run()
        found.append(conclude())
    a, b = found
    torch.testing.assert_close(a.frequencies.coherent_z, b.frequencies.coherent_z, atol=1e-8, rtol=0, equal_nan=True)
    torch.testing.assert_close(a.pixels.z, b.pixels.z, atol=1e-8, rtol=0)
    assert a.colour.accuracy == b.colour.accuracy
    assert len(a.without) == 10
    assert sum(n for n, _ in a.without) == a.images == len(images)
    assert isinstance(a.without[0][1].frequencies, FrequencyAudit)


def test_bad_input_is_a_clear_error(clean):
    images, labels = clean[0][:60], clean[1][:60]
    with pytest.raises(ConvscopeError, match="of one class"):
        audit_shortcuts([(images, torch.zeros(60, dtype=torch.int64))])
    with pytest.raises(ConvscopeError, match="no image has a label"):
        audit_shortcuts([images])
    with pytest.raises(ConvscopeError, match="differ in size"):
        audit_shortcuts([(images, labels), (images[..., :20], labels)])
    with pytest.raises(ConvscopeError, match="several images each"):
        audit_shortcuts([(images[:5], torch.arange(5))])
    with pytest.raises(ValueError, match="threshold"):
        audit_shortcuts([(images, labels)], threshold=0)


def test_what_cannot_be_tested_is_said():
    labels = torch.arange(200) % 4
    constant = audit_shortcuts([(torch.full((200, 1, 12, 12), 0.5), labels)])
    assert constant.alarms == ()
    assert "No frequency was tested" in " ".join(constant.notes)
    assert "No pixel was tested" in " ".join(constant.notes)
    tiny = audit_shortcuts([(torch.rand(200, 3, 3, 3, generator=torch.Generator().manual_seed(0)), labels)])
    assert tiny.alarms == ()
    assert not tiny.frequencies.tested.any()
    images, labels = natural(300, 1, 16, 4)
    labels = labels + 2 * (labels > 1)
    images[7, 0, 3, 3] = math.nan
    audit = audit_shortcuts([(images, labels)])
    assert audit.images == 299
    assert audit.counts.tolist()[2:4] == [0, 0]
    assert any("2, 3 (of 6) held no images" in note for note in audit.notes)
    assert audit.frequencies.class_effects[2].isnan().all()


def test_a_class_of_one_source_is_not_held_against_colours():
    random = np.random.default_rng(0)
    labels = np.arange(600) % 6
    table = {"mean": labels[:, None] + random.normal(size=(600, 1))}
    apart = audit_table(table, labels, labels % 5)
    assert apart.areas[1:5].isnan().all()
    assert apart.z.isnan().all()
    mixed = audit_table(table, labels, random.integers(0, 5, 600))
    assert mixed.accuracy > 0.3
    assert not mixed.areas.isnan().any()


def test_settings_and_areas():
    assert settings({"one": np.ones(5), "two": np.array([1, 2, 1, 2]), "many": np.arange(99)}) == ["two"]
    assert areas_z(np.array([0.5, 0.5, 0.9])).isnan().all()
    assert areas_z(np.array([0.5, 0.501, 0.5, 0.499, 0.5, 0.51, 0.5])).max() < 1  # differences too small to count


@pytest.mark.slow
@pytest.mark.skipif(not any(DATA.glob("cifar10_test*")), reason="needs CIFAR-10 in ../shared/data")
def test_on_cifar10():
    data = cifar10(DATA, 10_000, "test")
    images, labels = (data.pixels * 255).round().clamp(0, 255), data.labels
    y, x = torch.meshgrid(torch.arange(32), torch.arange(32), indexing="ij")
    cosine = torch.cos(2 * math.pi * (9 * y + 6 * x) / 32)

    def planted(change):
        changed = images.clone()
        changed[labels == 0] = change(changed[labels == 0]).round().clamp(0, 255)
        return changed / 255

    def corner(own):
        own[..., :3, :3] = 255
        return own

    def pixel(own):
        own[..., 16, 16] += 16
        return own

    for gray in (False, True):

        def audit(given, labels=labels, gray=gray):
            return audit_shortcuts([(given.mean(1, keepdim=True) if gray else given, labels)])

        assert audit(images / 255).alarms == ()
        assert (
            audit(images / 255, labels[torch.randperm(10_000, generator=torch.Generator().manual_seed(0))]).alarms == ()
        )
        found = audit(planted(lambda own: own + 2 * cosine))
        assert first(found) == ("frequency", (9, 6), 0)
        assert found.alarms[0].value > 12
        assert first(audit(planted(pixel))) == ("pixel", (16, 16), 0)
        found = audit(planted(corner))
        assert found.alarms[0].kind == "pixel"
        assert max(found.alarms[0].place) <= 3


@pytest.mark.slow
@pytest.mark.skipif(not (DATA / "fashion-mnist").is_dir(), reason="needs Fashion-MNIST in ../shared/data")
def test_on_fashion_mnist():
    store = open_idx(DATA / "fashion-mnist" / "train-images-idx3-ubyte.gz")
    read = [store.read(i) for i in range(len(store))]
    images, labels = torch.stack([image for image, _ in read]), torch.tensor([label for _, label in read])
    assert audit_shortcuts([(images, labels)]).alarms == ()
    y, x = torch.meshgrid(torch.arange(28), torch.arange(28), indexing="ij")
    images[labels == 0] += 8 / 255 * torch.cos(2 * math.pi * (9 * y + 6 * x) / 28)
    audit = audit_shortcuts([((images * 255).round().clamp(0, 255) / 255, labels)])
    assert first(audit) == ("frequency", (9, 6), 0)


@pytest.mark.slow
def test_on_the_embedded_photographs():
    given = photographs()
    assert audit_shortcuts([(given.images, given.labels)]).alarms == ()
