from dataclasses import replace

import pytest
import torch
from rfm.machines import data, settings

from convscope.core.errors import ConvscopeError
from convscope.rfm import machine
from convscope.rfm.architecture import Architecture
from convscope.rfm.machine import learn, metric_root, relearn, responses
from convscope.rfm.maps import Filters

FIRST = (torch.arange(30), torch.arange(30, 40))


def predictions(step, known, new, how):
    filters = Filters.of(step.metric_root, how.rank_tol)
    left, right = (x.through(filters, how.architecture) for x in (known, new))
    return responses(left, step.dual_coef / step.scale, right, how) + step.offset


def test_the_metric_is_the_agop_to_a_power_of_trace_one():
    root = torch.randn(5, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    agop = root @ root.T
    for power in (1.0, 2.0):
        found = metric_root(agop, power)
        wanted = torch.linalg.matrix_power(agop, int(power))
        assert torch.allclose(found @ found, wanted / wanted.trace(), atol=1e-12)
        assert torch.allclose(found, found.T)


def test_the_threshold_sets_that_share_of_the_smallest_eigenvalues_to_zero():
    agop = torch.diag(torch.tensor([4.0, 1.0, 3.0, 2.0], dtype=torch.float64))
    assert metric_root(agop, threshold=0.75).diagonal().count_nonzero() == 1
    assert metric_root(agop, threshold=0.5).diagonal().nonzero()[:, 0].tolist() == [0, 2]


def test_steps_predict_their_training_images_as_they_fit_them():
    known, how = data(), settings(n_iters=2)
    for step in learn(known, how):
        assert torch.allclose(predictions(step, known, known, how), step.fitted, atol=1e-9)


def test_a_small_ridge_fits_the_targets():
    known = data()
    step = next(learn(known, settings(ridge=1e-7)))
    assert (step.fitted - known.targets).abs().max() < 1e-3


def test_the_learned_metric_looks_at_the_pixels_that_tell_the_class():
    # Two channels, of which the second is noise.
    *_, step = learn(data(120, channels=2), settings(depth=1, n_iters=3, ridge=1e-2))
    share = (step.metric_root @ step.metric_root).diagonal().unflatten(0, (2, 9)).sum(1)
    assert share[0] > 2 * share[1]


@pytest.mark.parametrize("solver", ["cholesky", "cg"])
def test_a_split_learns_from_its_own_images_alone(solver):
    known, how = data(), settings(n_iters=2, solver=solver)
    shared = [parts[0] for _, parts in relearn(known, how, [FIRST])]
    alone = list(learn(known[FIRST[0]], how, known[FIRST[1]]))
    for a, b in zip(shared, alone, strict=True):
        assert torch.allclose(a.held, b.held, atol=1e-6)
        assert torch.allclose(a.dual_coef, b.dual_coef, atol=1e-5)
    changed = replace(known, targets=known.targets.clone())
    changed.targets[FIRST[1]] = known.targets[FIRST[1]].flip(1)
    again = [parts[0] for _, parts in relearn(changed, how, [FIRST])]
    assert all(torch.equal(a.held, b.held) for a, b in zip(shared, again, strict=True))


def test_the_machine_of_all_images_does_not_depend_on_the_splits():
    known, how = data(), settings()
    with_split = [step for step, _ in relearn(known, how, [FIRST])]
    without = list(learn(known, how))
    assert all(torch.allclose(a.dual_coef, b.dual_coef) for a, b in zip(with_split, without, strict=True))


def test_a_weight_of_two_counts_as_two_equal_images():
    weights = torch.ones(40, dtype=torch.float64)
    weights[:10] = 2
    weighted = data(weights=weights)
    rows = torch.cat([torch.arange(40), torch.arange(10)])
    new, how = data(seed=1), settings(n_iters=2, agop_samples=1000, rank_tol=0.0)
    pairs = zip(learn(weighted, how), learn(replace(weighted, weights=None)[rows], how), strict=True)
    for a, b in pairs:
        left = predictions(a, weighted, new, how)
        right = predictions(b, weighted[rows], new, how)
        assert torch.allclose(left, right, atol=1e-7)


def test_conjugate_gradients_from_a_file_find_what_cholesky_finds():
    known = data()
    pairs = zip(learn(known, settings(solver="cholesky")), learn(known, settings(solver="cg")), strict=True)
    for a, b in pairs:
        assert torch.allclose(a.fitted, b.fitted, atol=1e-5)


def test_kernels_go_to_a_file_where_memory_is_short(monkeypatch):
    used = []
    monkeypatch.setattr(machine, "conjugate_gradient", lambda *a, **k: used.append(a) or machine.solve(*a))
    list(learn(data(), settings(max_memory=2**24)))
    assert not used
    list(learn(data(400, side=4), settings(depth=1, n_iters=0, max_memory=2**22)))
    assert used


def test_factorising_more_than_memory_allows_is_refused():
    with pytest.raises(ConvscopeError, match=r"solver='cholesky' needs .* max_memory is .*solver='cg'"):
        next(learn(data(400, side=4), settings(depth=1, solver="cholesky", max_memory=2**20)))


def test_gradients_are_taken_at_the_images_that_are_named():
    known = data()
    *_, few = learn(known, settings(agop_samples=(3, 5)))
    *_, same = learn(known, settings(agop_samples=(5, 3, 77)))
    *_, other = learn(known, settings(agop_samples=(4, 5)))
    assert torch.equal(few.metric_root, same.metric_root)
    assert not torch.allclose(few.metric_root, other.metric_root)
    with pytest.raises(ValueError, match="agop_samples names 1 images, none of them among the 40"):
        next(learn(known, settings(agop_samples=(77,))))


def test_the_mean_of_centred_targets_is_no_part_of_the_kernel_machine():
    known, how = data(), settings(centre_targets=True)
    moved = replace(known, targets=known.targets + 100)
    for a, b in zip(learn(known, how), learn(moved, how), strict=True):
        assert torch.allclose(a.fitted + 100, b.fitted)
        assert torch.allclose(a.dual_coef, b.dual_coef)


def test_leave_one_out_chooses_another_ridge_for_noise_than_for_signal():
    signal = data(60)
    noise = replace(signal, targets=torch.randn(60, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1)))
    clear, unclear = (next(learn(x, settings(ridge="loo"))) for x in (signal, noise))
    assert clear.ridge < unclear.ridge


def test_leave_one_out_takes_a_subset_of_many_images(monkeypatch):
    monkeypatch.setattr(machine, "LEFT_OUT", 15)
    known, how = data(), settings(ridge="loo", n_iters=0)
    step = next(learn(known, how))
    assert step.left_out.shape == (15, 3)
    alone = next(learn(known[step.left_out_rows], how))
    assert torch.allclose(alone.left_out, step.left_out, atol=1e-6)


def test_many_outputs_are_sketched_and_the_metric_stays_near(monkeypatch):
    known, how = data(), settings(ridge=1e-2)
    many = replace(known, targets=torch.randn(40, 20, dtype=torch.float64, generator=torch.Generator().manual_seed(0)))
    *_, exact = learn(many, how)
    monkeypatch.setattr(machine, "OUTPUTS", 19)
    *_, sketch = learn(many, how)
    distance = (sketch.metric_root - exact.metric_root).norm()
    assert 0 < distance < 0.3


def test_black_images_predict_nothing_and_keep_the_metric():
    known = data()
    known.images[:] = 0
    steps = list(learn(known, settings()))
    assert all((step.fitted == 0).all() for step in steps)
    assert steps[1].metric_root is None


@pytest.mark.parametrize(
    "wrong",
    [
        {"n_iters": -1}, {"n_iters": 1.5}, {"ridge": 0}, {"ridge": "cv"}, {"ridge": float("nan")}, {"agop_samples": 0},
        {"metric_power": 0}, {"threshold": 1}, {"rank_tol": -1e-3}, {"solver": "lu"},
    ],
)  # fmt: skip
def test_settings_out_of_range_are_named(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        settings(**wrong)


def test_float32_images_give_the_metric_of_float64_ones():
    known, how = data(), settings(n_iters=2)
    *_, double = learn(known, how)
    *_, single = learn(replace(known, images=known.images.float()), how)
    assert torch.allclose(single.metric_root, double.metric_root, atol=1e-4)
    assert single.fitted.dtype == torch.float64


def test_the_architecture_reaches_the_kernel():
    known = data()
    scales = {
        next(learn(known, replace(settings(), architecture=a))).scale
        for a in (Architecture(2, 3), Architecture(1, 3), Architecture(2, 3, "same"), Architecture(1, 3, stride=2))
    }
    assert len(scales) == 4
