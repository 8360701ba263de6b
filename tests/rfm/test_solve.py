import logging
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles.kernel_ridge import dual_coefficients, refitted

from convscope.core.errors import ConvscopeError
from convscope.rfm import rows, solve
from convscope.rfm.conjugate import conjugate_gradient, descend, pivoted_cholesky, woodbury
from convscope.rfm.rows import Rows
from convscope.rfm.solve import RIDGES, best_ridge, leave_one_out


def problem(n=40, o=3, seed=0, decay=1.0, repeated=0):
    """Returns a kernel whose eigenvalues fall like k^-decay, targets and weights; the first images may come twice."""
    g = torch.Generator().manual_seed(seed)
    vectors = torch.linalg.qr(torch.randn(n, n, generator=g, dtype=torch.float64)).Q
    kernel = n * (vectors / torch.arange(1, n + 1) ** decay) @ vectors.T
    index = torch.cat([torch.arange(n), torch.arange(repeated)])
    kernel = ((kernel + kernel.T) / 2)[index][:, index]
    targets = torch.randn(len(index), o, generator=g, dtype=torch.float64)
    return kernel, targets, 0.1 + torch.rand(len(index), generator=g, dtype=torch.float64)


def relative(a, b):
    return float((torch.as_tensor(a) - torch.as_tensor(b)).norm() / torch.as_tensor(b).norm())


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 30), st.integers(1, 4), st.integers(0, 99), st.sampled_from([1e-6, 1e-2, 10.0]), st.booleans())
def test_solve_equals_the_explicit_inverse(n, o, seed, ridge, weighted):
    kernel, targets, weights = problem(n, o, seed)
    w = weights if weighted else torch.ones_like(weights)
    expected = dual_coefficients(kernel.numpy(), targets.numpy(), ridge, w.numpy())
    found = solve.solve(kernel, targets, ridge, weights if weighted else None)
    assert found.dtype == torch.float64
    assert relative(found, expected) < 1e-8


def test_the_float32_factor_is_refined_to_the_float64_solution(monkeypatch):
    kernel, targets, weights = problem(300, decay=1.5)
    expected = solve.solve(kernel, targets, 1e-4, weights)
    plain = torch.cholesky_solve(targets.float(), torch.linalg.cholesky((kernel + (1e-4 / weights).diag()).float()))
    assert relative(plain.double(), expected) > 1e-6
    monkeypatch.setattr(solve, "_DOUBLE_UP_TO", 100)
    dtypes = []
    dense = Rows.dense
    monkeypatch.setattr(Rows, "dense", lambda *args: dtypes.append(args[-1]) or dense(*args))
    assert relative(solve.solve(kernel, targets, 1e-4, weights), expected) < 1e-8
    assert dtypes == [torch.float32]


def test_what_float32_cannot_factorise_is_solved_in_float64(monkeypatch):
    kernel, targets, _ = problem(200, repeated=20)
    expected = solve.solve(kernel, targets, 1e-7)
    assert torch.linalg.cholesky_ex((kernel + 1e-7 * torch.eye(220)).float()).info > 0
    monkeypatch.setattr(solve, "_DOUBLE_UP_TO", 100)
    assert relative(solve.solve(kernel, targets, 1e-7), expected) < 1e-8


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_a_memory_mapped_kernel_is_solved_as_if_in_memory(tmp_path, dtype, monkeypatch):
    monkeypatch.setattr(rows, "BLOCK", 8 * 50 * 7)
    kernel, targets, weights = problem(50)
    np.save(tmp_path / "kernel.npy", kernel.numpy().astype(dtype))
    mapped = np.load(tmp_path / "kernel.npy", mmap_mode="r")
    known = torch.from_numpy(np.array(mapped)).double()
    assert relative(solve.solve(mapped, targets, 0.5, weights), solve.solve(known, targets, 0.5, weights)) < 1e-12
    found = conjugate_gradient(mapped, targets, 0.5, weights, tolerance=1e-12)
    assert relative(found, solve.solve(known, targets, 0.5, weights)) < 1e-10


def test_a_singular_system_is_refused_with_its_smallest_eigenvalue():
    kernel, targets, _ = problem(30, repeated=5)
    for attempt in (
        lambda: solve.solve(kernel, targets, 0.0),
        lambda: leave_one_out(kernel, targets, [1.0, 0.0]),
        lambda: best_ridge(kernel, targets, [0.0]),
    ):
        with pytest.raises(ConvscopeError, match=r"smallest eigenvalue is about -?\d.*raise the ridge"):
            attempt()
    indefinite = kernel - 0.5 * torch.eye(35)
    for attempt in (
        lambda: solve.solve(indefinite, targets, 0.1),
        lambda: leave_one_out(indefinite, targets, [0.1]),
    ):
        with pytest.raises(
            ConvscopeError, match=r"ridge of 0\.1 .* smallest eigenvalue is about -0\.5 .* to 5 or more"
        ):
            attempt()
    with pytest.raises(ConvscopeError, match=r"smallest eigenvalue is about -0\."):
        conjugate_gradient(indefinite, targets, 0.1, preconditioner_rank=0)


@pytest.mark.parametrize("seed", range(8))
def test_one_repeated_image_is_singular_whatever_the_rounding(seed):
    kernel, targets, _ = problem(30, seed=seed, repeated=1)
    for attempt in (lambda: solve.solve(kernel, targets, 0.0), lambda: leave_one_out(kernel, targets, [0.0])):
        with pytest.raises(ConvscopeError, match="not positive definite"):
            attempt()


def test_the_smallest_eigenvalue_of_many_images_is_estimated(monkeypatch):
    monkeypatch.setattr(solve, "_EXACT_UP_TO", 10)
    kernel, targets, _ = problem(60)
    with pytest.raises(ConvscopeError, match=r"smallest eigenvalue is about -2 "):
        solve.solve(kernel - 3 * torch.eye(60), targets, 0.1)


def test_equal_images_with_different_targets_are_averaged_at_a_small_ridge():
    kernel, targets, _ = problem(30, repeated=5)
    fitted = kernel @ solve.solve(kernel, targets, 1e-7)
    mean = (targets[:5] + targets[30:]) / 2
    assert relative(fitted[:5], mean) < 1e-6
    assert relative(fitted[30:], mean) < 1e-6


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("repeated", [0, 6])
def test_leave_one_out_equals_refitting_without_each_image(weighted, repeated):
    kernel, targets, weights = problem(25, repeated=repeated)
    ridges = [1e-6, 1e-2, 3.0]
    w = weights if weighted else torch.ones_like(weights)
    found = leave_one_out(kernel, targets, ridges, weights if weighted else None)
    for i, ridge in enumerate(ridges):
        expected = refitted(kernel.numpy(), targets.numpy(), ridge, w.numpy())
        assert relative(found[i], expected) < 1e-8


def test_an_integer_weight_counts_as_so_many_equal_images():
    kernel, targets, _ = problem(20)
    targets = torch.cat([targets, targets[:4]])
    index = torch.cat([torch.arange(20), torch.arange(4)])
    twice = solve.solve(kernel[index][:, index], targets, 0.1)
    weights = torch.ones(20)
    weights[:4] = 2
    once = solve.solve(kernel, targets[:20], 0.1, weights)
    assert relative(kernel @ once, kernel[:, index] @ twice) < 1e-10


def test_tiny_weights_leave_the_rest_as_if_those_images_were_not_there():
    kernel, targets, _ = problem(30)
    weights = torch.ones(30, dtype=torch.float64)
    weights[20:] = 1e-13
    found = solve.solve(kernel, targets, 0.1, weights)
    assert relative(found[:20], solve.solve(kernel[:20, :20], targets[:20], 0.1)) < 1e-9


def test_the_best_ridge_has_the_smallest_weighted_squared_error():
    kernel, targets, weights = problem(60, decay=2.0)
    ridges = [r * float(kernel.max()) for r in RIDGES]
    found = best_ridge(kernel, targets, ridges, weights)
    predictions = leave_one_out(kernel, targets, ridges, weights)
    errors = ((predictions - targets).square().sum(2) * weights).sum(1) / weights.sum()
    assert torch.allclose(found.errors, errors, rtol=1e-12)
    assert found.ridge == ridges[int(errors.argmin())]
    assert torch.equal(found.predictions, predictions[int(errors.argmin())])


def test_ridges_too_small_for_the_kernel_are_passed_over():
    kernel, targets, _ = problem(30, repeated=5)
    found = best_ridge(kernel, targets, [0.0, 1e-3, 1.0])
    assert found.errors.isnan().tolist() == [True, False, False]
    assert found.ridge > 0


@pytest.mark.parametrize("rank", [0, 20, 1000])
@pytest.mark.parametrize("weighted", [False, True])
def test_conjugate_gradients_equal_the_explicit_inverse(rank, weighted):
    kernel, targets, weights = problem(150, decay=1.5)
    w = weights if weighted else torch.ones_like(weights)
    expected = dual_coefficients(kernel.numpy(), targets.numpy(), 0.01, w.numpy())
    found = conjugate_gradient(
        kernel, targets, 0.01, weights if weighted else None, preconditioner_rank=rank, tolerance=1e-11
    )
    assert relative(found, expected) < 1e-8


def test_each_column_reaches_its_own_tolerance_also_a_column_of_zeros():
    kernel, targets, _ = problem(100, o=3)
    targets[:, 1] = 0
    targets[:, 2] *= 1e-9
    found = conjugate_gradient(kernel, targets, 0.1, tolerance=1e-8)
    assert torch.equal(found[:, 1], torch.zeros(100, dtype=torch.float64))
    residual = (targets - kernel @ found - 0.1 * found).norm(dim=0)
    assert (residual <= 1e-8 * targets.norm(dim=0)).all()


def steps(kernel, targets, rank, start=None, ridge=0.01):
    system = Rows(kernel, targets, None)
    factor = pivoted_cholesky(system, rank, 0)
    rest = float((system.diagonal() - factor.square().sum(1)).mean())
    inverse, used = woodbury(factor, ridge + rest), []
    descend(system, ridge, lambda v: used.append(1) or inverse(v), start, 1e-6, 1000)
    return len(used)


def test_the_preconditioner_and_a_warm_start_save_steps():
    kernel, targets, _ = problem(400, decay=1.5)
    none, some, many = (steps(kernel, targets, rank) for rank in (0, 30, 100))
    assert many < some < none / 2
    near = solve.solve(kernel, targets, 0.01) * 1.0001
    assert steps(kernel, targets, 30, near) < 0.8 * some
    assert steps(kernel, targets, 30, solve.solve(kernel, targets, 0.01)) == 0


def test_a_warm_start_is_in_the_unit_of_the_answer():
    kernel, targets, weights = problem(80)
    alpha = solve.solve(kernel, targets, 0.1, weights)
    found = conjugate_gradient(kernel, targets, 0.1, weights, start=alpha, preconditioner_rank=0, max_steps=1)
    assert relative(found, alpha) < 1e-12


def test_pivoted_cholesky_is_exact_at_full_rank_and_stops_at_the_rank_of_the_kernel():
    g = torch.Generator().manual_seed(0)
    x = torch.randn(60, 7, generator=g, dtype=torch.float64)
    kernel = x @ x.T
    weights = 0.5 + torch.rand(60, generator=g, dtype=torch.float64)
    factor = pivoted_cholesky(Rows(kernel, torch.ones(60, 1), weights), 50, 0)
    assert factor.shape == (60, 7)
    assert relative(factor @ factor.T, kernel * weights.sqrt() * weights.sqrt()[:, None]) < 1e-10


def test_pivoted_cholesky_comes_near_the_best_approximation_of_its_rank():
    kernel, targets, _ = problem(300, decay=2.0)
    best = torch.linalg.eigvalsh(kernel)[:-20].sum()
    left = [
        float((kernel.diagonal() - pivoted_cholesky(Rows(kernel, targets, None), 30, seed).square().sum(1)).sum())
        for seed in range(5)
    ]
    assert max(left) < 2 * best


def test_woodbury_is_the_inverse():
    factor = torch.randn(30, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    v = torch.randn(30, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    expected = 0.3 * torch.linalg.inv(factor @ factor.T + 0.3 * torch.eye(30, dtype=torch.float64)) @ v
    assert relative(woodbury(factor, 0.3)(v), expected) < 1e-12


def test_too_few_steps_are_reported_with_the_residual_reached(caplog):
    kernel, targets, _ = problem(200, decay=1.5)
    with caplog.at_level(logging.WARNING):
        conjugate_gradient(kernel, targets, 1e-3, preconditioner_rank=2, max_steps=3)
    found = caplog.records[0].getMessage()
    assert "in 3 steps, not 1e-06" in found
    error = float(found.split("residual of ")[1].split()[0])
    alpha = conjugate_gradient(kernel, targets, 1e-3, preconditioner_rank=2, max_steps=3)
    residual = (targets - kernel @ alpha - 1e-3 * alpha).norm(dim=0) / targets.norm(dim=0)
    assert error == pytest.approx(float(residual.max()), rel=0.1)
    caplog.clear()
    conjugate_gradient(kernel, targets, 1e-3)
    assert not caplog.records


def test_drift_of_the_carried_residual_is_made_good():
    kernel, targets, _ = problem(100)
    far = 1e9 * torch.randn(100, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    alpha = conjugate_gradient(kernel, targets, 0.1, start=far, preconditioner_rank=0, tolerance=1e-11)
    assert float(((targets - kernel @ alpha - 0.1 * alpha).norm(dim=0) / targets.norm(dim=0)).max()) <= 1.1e-11


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weights": torch.tensor([1.0, 0, 1, 1])}, "weights must be 4 positive finite numbers.*smallest 0.*leave out"),
        ({"weights": torch.tensor([1.0, -1, 1, 1])}, "smallest -1"),
        ({"weights": torch.tensor([1.0, torch.nan, 1, 1])}, "positive finite"),
        ({"weights": torch.ones(3)}, r"got shape \[3\]"),
        ({"targets": torch.ones(3, 1)}, r"each of the 4 images.*got shape \[3, 1\]"),
        ({"targets": torch.ones(4)}, r"got shape \[4\]"),
        ({"targets": torch.full((4, 1), torch.nan)}, "NaN"),
        ({"kernel": torch.ones(4, 3)}, "square"),
        ({"kernel": torch.ones(0, 0), "targets": torch.ones(0, 1)}, "not empty"),
        ({"kernel": torch.ones(4)}, "must be a matrix"),
        ({"kernel": torch.full((4, 4), torch.nan)}, "kernel holds NaN or infinity"),
        ({"ridge": -1.0}, "ridge must be finite and not negative, got -1"),
        ({"ridge": float("nan")}, "got nan"),
    ],
)
def test_bad_arguments_say_what_is_wrong(change, message):
    good = {"kernel": torch.eye(4), "targets": torch.ones(4, 1), "ridge": 1.0, "weights": None} | change
    for function in (solve.solve, conjugate_gradient):
        with pytest.raises(ValueError, match=message):
            function(**good)
    good["ridges"] = [good.pop("ridge")]
    for function in (leave_one_out, best_ridge):
        with pytest.raises(ValueError, match=message):
            function(**good)


def test_further_bad_arguments_of_conjugate_gradients_and_the_choice():
    kernel, targets = torch.eye(4), torch.ones(4, 1)
    for change in ({"ridge": 0.0}, {"tolerance": 0.0}, {"max_steps": 0}, {"preconditioner_rank": -1}):
        with pytest.raises(ValueError, match="must be positive"):
            conjugate_gradient(kernel, targets, **({"ridge": 1.0} | change))
    for start in (torch.ones(4), torch.full((4, 1), torch.nan)):
        with pytest.raises(ValueError, match="start must be finite"):
            conjugate_gradient(kernel, targets, 1.0, start=start)
    with pytest.raises(ValueError, match="at least one ridge"):
        best_ridge(kernel, targets, [])


def shared_problem():
    return problem(101, decay=1.5)


def child(folder, rank, world):
    """Solves in one of several processes, from a mapped kernel, from its own rows alone, and an indefinite one."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=world)
    kernel, targets, weights = shared_problem()
    mapped = np.load(folder / "kernel.npy", mmap_mode="r")
    own = kernel[101 * rank // world : 101 * (rank + 1) // world]
    found = [
        conjugate_gradient(k, targets, 0.01, weights, preconditioner_rank=20, tolerance=1e-10) for k in (mapped, own)
    ]
    try:
        conjugate_gradient(own - 5 * torch.eye(101)[101 * rank // world : 101 * (rank + 1) // world], targets, 0.01)
    except ConvscopeError as error:
        torch.save((found, str(error)), folder / f"{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize("world", [2, 3])
def test_processes_with_their_own_rows_agree_with_one(tmp_path, world):
    kernel, targets, weights = shared_problem()
    np.save(tmp_path / "kernel.npy", kernel.numpy())
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[1]), *sys.path])}
    started = [
        subprocess.Popen(
            [sys.executable, __file__, str(tmp_path), str(rank), str(world)],
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(world)
    ]
    for process in started:
        _, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors
    results = [torch.load(tmp_path / f"{rank}.pt") for rank in range(world)]
    expected = solve.solve(kernel, targets, 0.01, weights)
    for found, message in results:
        assert torch.equal(found[0], results[0][0][0])
        assert relative(found[0], found[1]) < 1e-9
        assert relative(found[0], expected) < 1e-8
        assert "not positive definite" in message


def test_a_process_with_other_rows_than_its_own_is_told_which_it_needs(monkeypatch):
    monkeypatch.setattr(rows.processes, "rank_and_world", lambda: (1, 2))
    with pytest.raises(ValueError, match="rows 5 to 10 of 10, got shape"):
        Rows(torch.ones(4, 10), torch.ones(10, 1), None, shared=True)


if __name__ == "__main__":
    child(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
