import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import shortcuts as oracle

from convscope.core.accumulate import Folded
from convscope.core.batches import Batch
from convscope.core.errors import ConvscopeError
from convscope.dynamics.shortcuts import frequencies as fast
from convscope.dynamics.shortcuts import pixels
from convscope.dynamics.shortcuts.contrast import FEWEST, effects, log_ratio, robust_z
from convscope.dynamics.shortcuts.frequencies import audit_frequencies, axis_threshold
from convscope.dynamics.shortcuts.pixels import audit_pixels
from convscope.dynamics.shortcuts.sums import AuditSums


def data(n=40, c=1, h=6, w=5, outputs=3, seed=0):
    images = 2 + torch.randn(n, c, h, w, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    labels = torch.arange(n) % outputs
    images[labels == 1, :, -1] += 0.7
    return images, labels


def moments(images, labels, step=7, reference=None):
    sums = AuditSums(images[0] if reference is None else reference)
    for rows in torch.arange(len(images)).split(step):
        sums.update(images[rows], Batch.of(images[rows], labels[rows], rows))
    return sums.compute()


@settings(max_examples=8, deadline=None)
@given(st.data())
def test_statistics_are_those_of_loops_over_images(given):
    draw = given.draw
    c, h, w, outputs = (draw(st.integers(*ends)) for ends in ((1, 2), (2, 6), (2, 6), (2, 4)))
    images, labels = data(draw(st.integers(outputs + 3, 20)), c, h, w, outputs, draw(st.integers(0, 99)))
    found = moments(images, labels)
    audit, grid = audit_frequencies(found), audit_pixels(found)
    expected = oracle.frequency_statistics(images.numpy(), labels.tolist(), audit.frequencies.tolist())
    np.testing.assert_allclose(torch.stack([audit.coherent, audit.power], 1), expected, rtol=1e-7, atol=1e-7)
    statistic = oracle.pixel_statistic(images.numpy(), labels.tolist())
    np.testing.assert_allclose(grid.statistic, statistic, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize(("h", "w"), [(24, 20), (15, 21)])
def test_z_is_that_of_loops_over_neighbours(h, w):
    images, labels = data(30, 1, h, w)
    found = moments(images, labels)
    audit, grid = audit_frequencies(found), audit_pixels(found)
    places = audit.frequencies.tolist()
    alone = [(ky * 2 % h, kx * 2 % w) == (0, 0) for ky, kx in places]
    for statistic, z in ((audit.coherent, audit.coherent_z), (audit.power, audit.power_z)):
        values = [math.nan if real else v for v, real in zip(statistic.tolist(), alone, strict=True)]
        expected = oracle.off_axis_z(values, places, fast.LOWEST, fast.REACH, FEWEST)
        for axis, side in ((0, h), (1, w)):
            on = sorted((abs(k[axis]), i) for i, k in enumerate(places) if k[1 - axis] == 0)
            line = [values[i] for _, i in on]
            for k, value in oracle.axis_z(line, fast.LOWEST, side, fast.FEWEST_ON_AXIS).items():
                expected[on[k][1]] = value
        np.testing.assert_allclose(z, expected, rtol=1e-9, atol=1e-9)
    expected = oracle.pixel_z(grid.statistic.numpy(), pixels.REACH, pixels.REACH_ON_BORDER, FEWEST)
    np.testing.assert_allclose(grid.z, expected, rtol=1e-9, atol=1e-9)


def test_sums_do_not_depend_on_batches_folds_or_reference():
    images, labels = data(60, 3, 8, 7)
    whole = moments(images, labels, 60)
    folded = Folded(lambda: AuditSums(images.mean(0)), 4)
    for rows in torch.arange(60).split(11):
        folded.update(images[rows], Batch.of(images[rows], labels[rows], rows))
    other = folded.compute()
    for name in ("counts", "logged", "logs", "log_squares", "energies"):
        torch.testing.assert_close(getattr(whole, name), getattr(other, name), rtol=1e-12, atol=0)
    for f in ("coherent", "power", "coherent_z", "strengths", "class_effects"):
        a, b = getattr(audit_frequencies(whole), f), getattr(audit_frequencies(other), f)
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-10, equal_nan=True)


def test_strength_is_the_norm_of_the_correlation_of_labels_with_pixels():
    from convscope import dataset_structure

    images, labels = data(50, 3, 6, 7)
    audit = audit_frequencies(moments(images, labels))
    strengths = dataset_structure([(images, labels)]).strengths
    ky, kx = audit.frequencies.unbind(1)
    torch.testing.assert_close(audit.strengths, strengths[ky % 6, kx % 7])
    assert sorted(audit.rank.tolist()) == list(range(1, len(audit.rank) + 1))
    assert audit.strengths[audit.rank.argmin()] == audit.strengths.max()


def test_a_large_offset_loses_no_digits():
    images, labels = data(60, 1, 12, 12)
    near, far = moments(images, labels), moments(images + 1e4, labels, reference=(images + 1e4).mean(0))
    torch.testing.assert_close(audit_pixels(near).z, audit_pixels(far).z, rtol=1e-6, atol=1e-6)
    a, b = audit_frequencies(near), audit_frequencies(far)
    torch.testing.assert_close(a.coherent_z, b.coherent_z, rtol=1e-5, atol=1e-5, equal_nan=True)


def test_where_nothing_varies_there_is_no_statistic():
    counts = torch.tensor([2, 0, 3])
    same = torch.tensor([[4.0], [0.0], [6.0]], dtype=torch.float64)  # the value 2 in all five images
    assert log_ratio(counts, same, torch.tensor(20.0, dtype=torch.float64)).isnan()
    apart = torch.tensor([[4.0], [0.0], [9.0]], dtype=torch.float64)  # 2, and 3 in the last class
    assert log_ratio(counts, apart, torch.tensor(35.0, dtype=torch.float64)) == math.inf
    off, which = effects(counts, apart)
    assert off[1].isnan().all()
    assert int(which) == 2


def test_robust_z_leaves_out_what_is_missing_and_gives_none_where_all_are_alike():
    values = torch.tensor([10.0, *range(1, 13), math.nan, math.inf], dtype=torch.float64)
    around = torch.tensor([[*range(1, 15), -1]])
    z = robust_z(values, torch.tensor([0]), around)
    assert float(z) == pytest.approx(oracle.robust_z(10.0, [*range(1, 13), math.inf]))
    assert robust_z(values, torch.tensor([0]), around[:, :5]).isnan().all()
    assert robust_z(torch.ones(20).double(), torch.tensor([0]), torch.arange(1, 20)[None]).isnan().all()


def test_images_of_one_colour_count_for_no_energy():
    images, labels = data(40, 1, 12, 12)
    images[::4] = 0.3
    found = moments(images, labels)
    assert int(found.logged.sum()) == 30
    rest = images[torch.arange(40) % 4 != 0], labels[torch.arange(40) % 4 != 0]
    torch.testing.assert_close(audit_frequencies(found).power, audit_frequencies(moments(*rest)).power)


def test_noise_crosses_the_threshold_of_an_axis_once_in_four_hundred():
    limit = axis_threshold(14, 2.0)
    noise = torch.randn(1200, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    excess = (noise[:, 1:-1] - (noise[:, :-2] + noise[:, 2:]) / 2).numpy()
    crossed = [max(oracle.robust_z(row[k], np.delete(row, k)) for k in range(14)) > limit for row in excess]
    assert 0 < np.mean(crossed) < 0.0075


def test_implausible_labels_are_an_error():
    images = torch.zeros(2, 1, 4, 4)
    with pytest.raises(ConvscopeError, match="a label is 1000000000"):
        moments(images, torch.tensor([0, 10**9]), reference=images[0].double())
