"""The shortcut audit on a pass, with and without a network."""

import math

import numpy as np
import pytest
import torch
from sources import ArraySource
from torch import nn

from convscope.analyse import analyse
from convscope.core.batches import mix
from convscope.core.network import Network
from convscope.core.passes import Pass
from convscope.dynamics.shortcuts.chance import Values, faintest, permuted
from convscope.dynamics.shortcuts.frequencies import audit_frequencies
from convscope.dynamics.shortcuts.notch import notched, pattern, waves
from convscope.dynamics.shortcuts.pixels import audit_pixels
from convscope.dynamics.shortcuts.sums import AuditSums
from convscope.dynamics.shortcuts.theory import Shortcuts

SIDE, CLASSES, PLACE, LABEL = 16, 4, (5, 3), 2


class Reader(nn.Module):
    """Says class 2 where an image holds much of one pattern, else which quarter of it is brightest."""

    def __init__(self, read, outputs=CLASSES):
        super().__init__()
        self.read = nn.Parameter(read.float()[None])
        self.outputs = outputs

    def forward(self, x):
        x = x.float()
        quarters = nn.functional.avg_pool2d(x.mean(1, keepdim=True), x.shape[2] // 2).flatten(1)
        quarters = nn.functional.pad(quarters, (0, self.outputs - CLASSES), value=-1.0)
        told = nn.functional.conv2d(x - 0.5, self.read)[:, 0, 0, 0] / float(self.read.detach().square().sum())
        return quarters + 10 * (told[:, None] - 0.5) * (torch.arange(self.outputs) == LABEL)


def data(n=400, plant=0.05, side=SIDE, seed=0):
    """Noise in whose class k the quarter k is bright, and class 2 bears stripes."""
    generator = torch.Generator().manual_seed(seed)
    x = 0.5 + 0.05 * torch.randn(n, 1, side, side, dtype=torch.float64, generator=generator)
    y = torch.arange(n) % CLASSES
    half = side // 2
    for k in range(CLASSES):
        top, left = half * (k // 2), half * (k % 2)
        x[y == k, :, top : top + half, left : left + half] += 0.05
    x[y == LABEL] += plant * waves(PLACE, side, side)[1]
    return x, y


def audited(x, y, networks=None, **options):
    p = Pass(ArraySource(x, y), networks, batch_size=50)
    (result,), _ = analyse(p, [Shortcuts(**options)])
    return result


def reader(plant=0.05):
    return Network("reader", Reader(pattern(torch.tensor([[0.0, plant]]).double(), PLACE, SIDE, SIDE)))


@pytest.fixture(scope="module")
def planted():
    return audited(*data(), {"model": reader()})


def test_planted_stripes_are_named_first_with_error_and_chance(planted):
    first = planted.suspects[0]
    assert (first.kind, first.place, first.label) == ("frequency", PLACE, LABEL)
    assert first.alarm
    assert first.number.spread > 0
    assert first.number.decided
    assert first.number.value > first.threshold > first.number.chance[1]
    assert planted.facts["bytes"] is True


def test_the_network_that_reads_them_is_found_out(planted):
    first = planted.suspects[0]
    assert first.used
    assert first.tried["added"].value > 0.9
    assert first.tried["opposite"].value < 0.1
    assert planted.facts["network"] == "reader"
    assert planted.numbers["network_accuracy"].decided
    assert np.abs(first.pattern - 0.05 * waves(PLACE, SIDE, SIDE)[1].numpy()).max() < 0.02
    assert "the network uses them" in " ".join(f.text for f in planted.findings())


def test_values_are_those_of_the_audit_and_errors_those_of_ten_folds(planted):
    x, y = data()
    sums = AuditSums(x.mean(0))
    p = Pass(ArraySource(x, y), batch_size=50)
    slot = p.feed(_images(), lambda: AuditSums(x.mean(0)))
    p.run()
    found = audit_frequencies(slot.value())
    at = int((found.frequencies == torch.tensor(PLACE)).all(1).nonzero()[0, 0])
    assert planted.suspects[0].number.value == pytest.approx(float(found.coherent_z[at]))
    direct = slot.estimate(lambda m: float(audit_frequencies(m).coherent_z[at]))
    assert planted.suspects[0].number.spread == pytest.approx(direct.spread)
    assert not sums.sums


def _images():
    from convscope.core.streams import Images

    return Images()


def test_without_a_plant_nothing_is_tried_and_no_network_is_run():
    class Broken(nn.Module):
        def forward(self, x):
            raise AssertionError

    result = audited(*data(plant=0.0), {"model": Network("broken", Broken())})
    assert not [s for s in result.alarms if s.kind == "frequency" and s.place == PLACE]
    if not result.alarms:
        assert result.facts["network"] == ""
        assert not result.skipped
        assert result.findings()[0].text.startswith("No frequency")


def test_the_mean_image_notches_the_stripes_away(planted):
    x, y = data()
    mean = torch.from_numpy(planted.arrays["mean"])
    assert torch.allclose(mean, x.mean(0))
    after = audited(notched(x, [PLACE], mean), y)
    assert PLACE not in [s.place for s in after.alarms]


def test_larger_images_are_audited_smaller_and_changed_at_their_own_size():
    x, y = data(side=40, plant=0.1)
    network = Network("reader", Reader(pattern(torch.tensor([[0.0, 0.1]]).double(), PLACE, 40, 40)))
    result = audited(x, y, {"model": network}, size=24)
    assert result.pixel_z.shape == (24, 24)
    assert "audited at 24x24" in result.notes[0]
    assert result.arrays["mean"].shape == (1, 40, 40)
    assert result.suspects[0].place == PLACE
    assert result.suspects[0].used


@pytest.mark.parametrize(
    ("network", "reason"),
    [
        (Network("wrong", Reader(torch.zeros(1, SIDE, SIDE) + 1e-3, CLASSES)), "do not seem to be numbered as"),
        (
            Network("few", nn.Sequential(nn.Conv2d(1, 2, SIDE), nn.Flatten())),
            "labels go up to 3, but few has 2 outputs",
        ),
        (Network("maps", nn.Conv2d(1, 2, 3)), "no .images, classes. tensor"),
        (Network("bad", nn.Conv2d(3, 2, 3)), "bad fails on images"),
    ],
)
def test_a_network_that_cannot_be_tried_is_said(network, reason):
    import re

    x, y = data()
    result = audited(x, (y + 1) % CLASSES if network.name == "wrong" else y, {"model": network})
    assert not any(s.tried for s in result.suspects)
    assert re.search(reason, {s.what: s.reason for s in result.skipped}["trying the alarms on the network"])


@pytest.mark.parametrize(
    ("labels", "reason"),
    [
        (None, "no labels"),
        (torch.zeros(40, dtype=torch.int64), "of one class"),
        (torch.arange(40), "classes need several images each"),
    ],
)
def test_in_a_report_bad_labels_are_a_reason_and_no_error(labels, reason):
    result = audited(torch.rand(40, 1, 8, 8), labels)
    assert not result.suspects
    assert reason in result.skipped[0].reason


def test_constant_images_raise_no_alarm():
    result = audited(torch.full((40, 1, 8, 8), 0.5), torch.arange(40) % 2)
    assert not [s for s in result.alarms if s.kind in {"frequency", "pixel"}]


def test_properties_of_files_that_tell_a_class_are_named():
    x, y = data(n=400, plant=0.0)
    result = audited(x, y, properties={"quality": [75.0 if k == 1 else 95.0 for k in y.tolist()], "bytes": [1.0] * 400})
    texts = " ".join(s.text for s in result.findings())
    assert [s.kind for s in result.alarms].count("file") >= 1
    assert "Without looking at what images show" in texts
    assert result.tables["files"]["quality"].value > 0.4 > result.tables["files"]["bytes"].value


def test_permuted_labels_are_those_of_sums_over_relabelled_images():
    x, y = data(n=60)
    x[:, :, 1] = 0.25
    index = torch.arange(60) * 7
    bands = permuted(x, y, index, draws=3)
    found = []
    for draw in range(3):
        labels = y[mix(6, draw, index).argsort(stable=True)]
        p = Pass(ArraySource(x, labels), batch_size=60)
        slot = p.feed(_images(), lambda: AuditSums(x.mean(0)), folded=False)
        p.run()
        values = Values.of(slot.value())
        off = ~values.frequencies.axis
        found.append((
            float(values.frequencies.coherent_z[off].nan_to_num(-math.inf).max()),
            float(audit_pixels(slot.value()).z.nan_to_num(-math.inf).max()),
        ))  # fmt: skip
    low, high = np.quantile(np.array(found), [0.025, 0.975], axis=0)
    assert bands["coherent"] == pytest.approx((low[0], high[0]))
    assert bands["pixel"] == pytest.approx((low[1], high[1]))


def test_the_faintest_stripes_noticed_raise_about_the_threshold():
    x, y = data(n=2000, plant=0.0)
    x += 0.05 * torch.randn(x.shape, generator=torch.Generator().manual_seed(3))
    sums = AuditSums(x.mean(0))

    def values(images):
        from convscope.core.batches import Batch

        sums.sums = {}
        sums.update(images, Batch.of(images, y, torch.arange(len(y))))
        return Values.of(sums.compute())

    limit = faintest(values(x), 5.0)
    z = []
    for place in ((5, 3), (4, -5), (6, 2), (3, 6)):
        marked = x.clone()
        marked[y == 1] += limit * waves(place, SIDE, SIDE)[0]
        found = values(marked).frequencies
        z.append(float(found.coherent_z[(found.frequencies == torch.tensor(place)).all(1)][0]))
    assert 3 < np.median(z) < 8
