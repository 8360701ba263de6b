"""A machine that several processes learn together is the one that a single process learns."""

import os
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch
from rfm.machines import data, settings

from convscope.core import processes
from convscope.rfm import machine, space

SPLIT = (torch.arange(30), torch.arange(30, 41))
WEIGHTS = torch.linspace(0.5, 2, 41, dtype=torch.float64)


# Images that choose the ridge: some of them, or all; and a solver that is asked for, or that memory asks for.
CASES = {"some": (20, {"solver": "cg"}), "all": (100, {"solver": "cg"}), "memory": (20, {"max_memory": 25_000})}


def rounds(changes):
    known = replace(data(41), weights=WEIGHTS)
    how = settings(n_iters=2, agop_samples=7, **changes)
    return [[step, *parts] for step, parts in machine.relearn(known, how, [SPLIT])]


def child(folder, case):
    torch.set_num_threads(1)
    machine.LEFT_OUT, changes = CASES[case]
    processes.start()
    rank = processes.rank_and_world()[0]
    computed, matrix = [], space.kernel_matrix
    space.kernel_matrix = lambda left, right, **rest: computed.append(len(left)) or matrix(left, right, **rest)
    found = [[vars(step) for step in steps] for steps in rounds(changes)]
    torch.save((found, max(computed)), folder / f"{rank}.pt")
    processes.stop()


@pytest.mark.parametrize(
    ("world", "case"),
    [
        (2, "some"),
        (2, "all"),
        pytest.param(2, "memory", marks=pytest.mark.slow),
        pytest.param(3, "some", marks=pytest.mark.slow),
    ],
)
def test_processes_learn_together_what_one_learns_alone(tmp_path, world, case, monkeypatch):
    left_out, changes = CASES[case]
    monkeypatch.setattr(machine, "LEFT_OUT", left_out)
    path = os.pathsep.join([str(Path(__file__).parents[1]), *sys.path])
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(world)]
    done = subprocess.run(
        [*command, __file__, str(tmp_path), case],
        env=os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    expected = rounds(changes)
    first = None
    for rank in range(world):
        found, rows = torch.load(tmp_path / f"{rank}.pt")
        assert rows <= max(-(-41 // world), min(left_out, 41))
        first = found if first is None else first
        for steps, others, alone in zip(found, first, expected, strict=True):
            for step, other, wanted in zip(steps, others, alone, strict=True):
                for name in (field.name for field in fields(wanted) if field.name != "seconds"):
                    value, target = step[name], getattr(wanted, name)
                    if isinstance(target, torch.Tensor):
                        assert torch.equal(value, other[name]), name
                        torch.testing.assert_close(value, target, rtol=1e-4, atol=1e-5)
                    else:
                        assert value == pytest.approx(target), name


if __name__ == "__main__":
    child(Path(sys.argv[1]), sys.argv[2])
