"""The embedded default: small networks trained on photographs that ship with scikit-image, and the report on them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from torch import Tensor

from convscope.analyse import analyse, head_of, main_job, provenance
from convscope.core.network import Network
from convscope.core.passes import Pass
from convscope.firstlayer.theory import Replica
from convscope.inputs.arrays import ArrayStore
from convscope.inputs.photographs import photographs
from convscope.inputs.preprocessing import Preprocessing
from convscope.inputs.stores import StoredSource
from convscope.page.report import Report
from convscope.training.reference import ReferenceRun, reference_runs


def embedded_report(
    start: float,
    *,
    progress: bool = False,
    resume: bool = False,
    checkpoint: Path | None = None,
    announce: Callable[[str], None] = lambda _: None,
) -> Report:
    """Returns the report on a small CNN trained on crops of photographs, beside its twins on permuted labels.

    Two seeds each learn the true labels (which photograph a crop is from) and permuted ones. The analysis is of the
    first; the others say how much of it repeats.

    Args:
        start: ``time.perf_counter()`` when the run began.
        progress: whether to show progress bars.
        resume: whether to continue from the checkpoint (training is repeated: it is short).
        checkpoint: where the pass saves its sums.
        announce: told what happens.

    Raises:
        ConvscopeError: when scikit-image is not installed.
    """
    train, test = photographs(split="train"), photographs(400, split="test")
    announce(f"{len(train.images)} crops of {len(train.classes)} photographs; training four small networks on them")
    runs = reference_runs(train.images, train.labels, test.images, test.labels, progress=progress)
    first = runs[0]
    store = ArrayStore(
        "crops of eight photographs",
        train.images.numpy(),
        train.labels.numpy(),
        names=train.classes,
        groups=train.labels.numpy(),
        fingerprint="photographs of scikit-image, seed 0",
    )
    p = Pass(StoredSource(store), progress=progress, announce=announce if progress else None)
    prepare = Preprocessing(
        3, None, tuple(first.mean.tolist()), tuple(first.std.tolist()), "measured on the training crops"
    )
    name = "small VGG-like network"
    network = Network(name, first.network, prepare, notes=(*_accuracies(runs), *prepare.notes(p.pilot.images)))
    p.networks = {"model": network, "init": Network(f"{name} before training", first.untrained, prepare)}
    replicas = [Replica(run.name, run.kind, _first(run.network), _first(run.untrained)) for run in runs[1:]]
    results, coverage = analyse(p, main_job(replicas=replicas), checkpoint, resume)
    seeds = {run.name: run.seed for run in runs}
    return Report(head_of(p, network), results, coverage, provenance(None, start, seeds))


def _first(network: object) -> Tensor:
    from torch import nn

    assert isinstance(network, nn.Module)
    conv = next(m for m in network.modules() if isinstance(m, nn.Conv2d))
    return conv.weight.detach().clone()


def _accuracies(runs: list[ReferenceRun]) -> tuple[str, ...]:
    return tuple(
        f"{run.name}: {100 * run.train_accuracy:.0f} % of the training crops as trained, "
        f"{100 * run.test_accuracy:.0f} % of the test crops by photograph"
        for run in runs
    )
