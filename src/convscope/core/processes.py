"""Several processes that share the images: ``torchrun -m convscope ...``."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from convscope.core.accumulate import Accumulator, Folded, Sums


def start() -> None:
    """Joins the process group that ``torchrun`` describes in the environment; does nothing without one."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and dist.is_available() and not dist.is_initialized():
        nccl = torch.cuda.is_available() and dist.is_nccl_available()
        if nccl:
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
        dist.init_process_group("nccl" if nccl else "gloo", timeout=timedelta(hours=12))


def stop() -> None:
    """Leaves the process group, if any."""
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


def rank_and_world() -> tuple[int, int]:
    """Returns this process's number and how many there are; (0, 1) alone."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


def broadcast(thing: Any) -> Any:
    """Returns process 0's ``thing`` in every process."""
    if rank_and_world()[1] == 1:
        return thing
    box = [thing]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def gather(thing: Any) -> list[Any]:
    """Returns every process's ``thing``, in the order of the processes."""
    world = rank_and_world()[1]
    if world == 1:
        return [thing]
    box: list[Any] = [None] * world
    dist.all_gather_object(box, thing)
    return box


def reduce_(accumulator: Accumulator | Folded, make: Callable[[], Any]) -> None:
    """Makes the accumulator of every process hold what all of them have seen, in place.

    Sums are added by one all-reduce each, also where a process has seen no image and holds none of them yet;
    anything else is gathered and merged, with ``make`` building an empty accumulator for each other process.
    """
    if rank_and_world()[1] == 1:
        return
    additive = isinstance(accumulator, Sums) or (
        isinstance(accumulator, Folded) and all(isinstance(part, Sums) for part in accumulator.parts)
    )
    own = accumulator.state_dict()
    if additive:
        known: dict[str, tuple[torch.Size, torch.dtype]] = {}
        for described in gather({name: (t.shape, t.dtype) for name, t in own.items()}):
            known |= described
        device = torch.device("cuda") if dist.get_backend() == "nccl" else torch.device("cpu")
        total: dict[str, Tensor] = {}
        for name in sorted(known):
            shape, dtype = known[name]
            t = own[name].to(device).clone() if name in own else torch.zeros(shape, dtype=dtype, device=device)
            dist.all_reduce(t)
            total[name] = t.cpu()
        accumulator.load_state_dict(total)
        return
    states = gather({name: t.cpu() for name, t in own.items()})
    accumulator.load_state_dict(states[0])
    for state in states[1:]:
        other = make()
        other.load_state_dict(state)
        accumulator.merge(other)
