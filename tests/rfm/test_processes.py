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
from convscope.rfm import machine

SPLIT = (torch.arange(30), torch.arange(30, 41))
LEFT_OUT = 20  # images that choose the ridge
WEIGHTS = torch.linspace(0.5, 2, 41, dtype=torch.float64)


def rounds():
    known = replace(data(41), weights=WEIGHTS)
    how = settings(n_iters=2, solver="cg", agop_samples=7)
    return [[step, *parts] for step, parts in machine.relearn(known, how, [SPLIT])]


def child(folder):
    torch.set_num_threads(1)
    machine.LEFT_OUT = LEFT_OUT
    processes.start()
    rank = processes.rank_and_world()[0]
    computed, kernel_of = [], machine.kernel_of
    machine.kernel_of = lambda left, *rest: computed.append(len(left)) or kernel_of(left, *rest)
    found = [[vars(step) for step in steps] for steps in rounds()]
    torch.save((found, max(computed)), folder / f"{rank}.pt")
    processes.stop()


@pytest.mark.parametrize("world", [2, 3])
def test_processes_learn_together_what_one_learns_alone(tmp_path, world, monkeypatch):
    monkeypatch.setattr(machine, "LEFT_OUT", LEFT_OUT)
    path = os.pathsep.join([str(Path(__file__).parents[1]), *sys.path])
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(world)]
    done = subprocess.run(
        [*command, __file__, str(tmp_path)],
        env=os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    expected = rounds()
    first = None
    for rank in range(world):
        found, rows = torch.load(tmp_path / f"{rank}.pt")
        assert rows <= max(-(-41 // world), LEFT_OUT)
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
    child(Path(sys.argv[1]))
