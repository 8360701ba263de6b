"""A pass in a process of its own, for the tests that kill it or run several."""

import os
import signal
import sys
from pathlib import Path

import torch
from sources import ArraySource
from zoo import build

from convscope.core import checkpoint, processes
from convscope.core.network import Network
from convscope.core.passes import Pass


def go(folder: Path, mode: str, kill: int) -> None:
    from core.test_passes import results, slots_of, source

    torch.set_num_threads(1)
    processes.start()
    module = build("residual")
    network = Network("net", module if mode == "float32" else module.double())
    data = source(2) if mode == "tiny" else source()
    assert isinstance(data, ArraySource)
    p = Pass(data, {"model": network}, batch_size=32, checkpoint_seconds=0)
    slots = slots_of(p, network)
    if kill > 0:
        saved = 0
        plain = checkpoint.save

        def save(file, state):
            nonlocal saved
            plain(file, state)
            saved += 1
            if saved == kill:
                os.kill(os.getpid(), signal.SIGKILL)

        checkpoint.save = save
    file = None if mode in {"whole", "tiny", "float32"} else folder / "pass.checkpoint"
    coverage = p.run(file, resume=mode == "resumed")
    if processes.rank_and_world()[0] == 0:
        values = results(slots)
        if mode == "resumed":
            values["was_resumed"] = coverage.resumed
        torch.save(values, folder / f"{mode}.pt")
    processes.stop()


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    go(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
