"""Networks trained for the experiments of Wen & Jacot (2024): several at a time, each once."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from math import nan
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from joblib import cpu_count
from torch import Tensor, nn
from tqdm import tqdm

from convscope.core.threads import one_thread_each
from convscope.papers.kept import Scores, once
from convscope.papers.registry import Setup
from convscope.papers.wen2024_tasks import Plain, Recipe, Task
from convscope.training.circular import CircularCNN
from convscope.training.loop import accuracy
from convscope.training.minimum_norm import MinimumNorm, minimise_norm

Job = tuple[Task, Recipe]
_RUN = "run"  # a tensor of the file: what the training reached
_memory: dict[tuple[str, Recipe], Trained] = {}


@dataclass(frozen=True)
class Trained:
    """A trained network.

    Attributes:
        recipe: how it was trained.
        network: as ordinary layers, float32, in evaluation mode.
        run: what the training reached; of steps 0, a network as it begins.
        scores: shares of images classified correctly, NaN where that is not the task, and seconds of training.
    """

    recipe: Recipe
    network: nn.Sequential
    run: MinimumNorm
    scores: Scores


def begin(task: Task, recipe: Recipe) -> CircularCNN:
    """Returns the network for a task as its training begins."""
    pooled = task.loss == "cross-entropy"
    outputs = int(task.targets.max()) + 1 if pooled else task.targets.shape[1]
    h, w = task.images.shape[2:]
    return CircularCNN(
        task.images.shape[1],
        recipe.width,
        outputs,
        recipe.depth,
        (h, w),
        pooled=pooled,
        noise=recipe.noise,
        seed=recipe.seed,
    )


def trained(setup: Setup, jobs: Sequence[Job]) -> list[Trained]:
    """Returns the network of each job, trained or read back.

    As many are trained at a time as there are cores, one thread each. Only one where other experiments want the cores,
    too, and at scale smoke, where processes would cost more than they save.

    Args:
        setup: whose cache keeps them beyond this process.
        jobs: task and recipe of each.

    Raises:
        KeyboardInterrupt: when a training is interrupted.
    """
    keys = [(task.fingerprint, recipe) for task, recipe in jobs]
    wanted = {key: job for key, job in zip(keys, jobs, strict=True) if key not in _memory}
    # The longest first, so that no core is left with it at the end.
    order = sorted(wanted, key=lambda key: -_work(*wanted[key]))
    workers = min(len(order), cpu_count()) if setup.alone and setup.scale != "smoke" else 1
    bar = tqdm(total=len(order), desc="training", unit="network", disable=not setup.progress or not order, leave=False)
    with bar:
        if workers < 2:
            for key in order:
                with one_thread_each():
                    _memory[key] = _read(wanted[key], *_tensors(setup.cache, wanted[key]))
                bar.update()
        else:
            with ProcessPoolExecutor(workers, get_context("spawn"), torch.set_num_threads, (1,)) as pool:
                results = {key: pool.submit(_tensors, setup.cache, wanted[key]) for key in order}
                for key, result in results.items():
                    _memory[key] = _read(wanted[key], *result.result())
                    bar.update()
    return [_memory[key] for key in keys]


def _work(task: Task, recipe: Recipe) -> float:
    n = min(recipe.batch or len(task.images), len(task.images))
    return float(n * task.images[0, 0].numel() ** 2 * recipe.width * recipe.depth * recipe.steps)


def _tensors(cache: Path | None, job: Job) -> tuple[dict[str, Tensor], Scores]:
    task, recipe = job
    data = ["circular convolutions, least norm", task.loss, task.fingerprint]
    return once(cache, data, asdict(recipe), lambda: _train(task, recipe))


def _train(task: Task, recipe: Recipe) -> tuple[dict[str, Tensor], Scores]:
    network = begin(task, recipe)
    rule: dict[str, Any] = {"lr": recipe.rate, "plain": True} if isinstance(recipe, Plain) else {}
    run = minimise_norm(
        network,
        task.images,
        task.targets,
        tau=recipe.tau,
        penalty=recipe.penalty,
        steps=recipe.steps,
        loss=task.loss,
        batch_size=recipe.batch,
        seed=recipe.seed,
        progress=False,
        **rule,
    )
    if not run.complete:
        raise KeyboardInterrupt
    ordinary = network.ordinary()
    shares = (nan, nan)
    if task.test is not None:
        shares = accuracy(ordinary, task.images, task.targets), accuracy(ordinary, *task.test)
    reached = torch.tensor([run.loss, run.share, run.penalty, run.norm], dtype=torch.float64)
    return {**ordinary.state_dict(), _RUN: reached}, Scores(*shares, run.seconds)


def _read(job: Job, tensors: dict[str, Tensor], scores: Scores) -> Trained:
    task, recipe = job
    network = begin(task, recipe).ordinary()
    network.load_state_dict({name: t for name, t in tensors.items() if name != _RUN})
    loss, share, penalty, norm = tensors[_RUN].tolist()
    run = MinimumNorm(loss, share, penalty, norm, recipe.steps, scores.seconds, True)
    return Trained(recipe, network.eval(), run, scores)
