"""ConvRFM from end to end: seconds, memory and accuracy of whole runs, each in a process of its own.

    python benchmarks/convrfm.py [CASE ...]

Wall and CPU seconds do not count imports and the compilation of loops; peak memory counts everything. CIFAR-10 and
Fashion-MNIST are read from the folder that $CONVSCOPE_DATA names, or ../shared/data.
"""

import argparse
import json
import os
import re
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import redirect_stderr
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.base import clone
from sklearn.datasets import load_digits

from convscope.core.errors import ConvscopeError
from convscope.papers.beaglehole2023_convrfm_images import CIFAR10, NOISY, STAR, Case, Draw
from convscope.papers.registry import Setup
from convscope.rfm.deep import DeepConvRFMClassifier
from convscope.rfm.estimators import ConvRFMClassifier
from convscope.rfm.kernels import conv_kernel

DATA = Path(os.environ.get("CONVSCOPE_DATA", Path(__file__).parents[2] / "shared/data"))


class Clock:
    """Wall and CPU seconds of a block."""

    def __enter__(self) -> "Clock":
        self.wall, self.cpu = -time.perf_counter(), -time.process_time()
        return self

    def __exit__(self, *_: object) -> None:
        self.wall += time.perf_counter()
        self.cpu += time.process_time()

    @property
    def seconds(self) -> dict[str, float]:
        return {"wall s": self.wall, "CPU s": self.cpu}


def drawn(case: Case, n: int, m: int) -> Draw:
    return case.draw(Setup(data={"cifar10": DATA, "fashion-mnist": DATA / "fashion-mnist"}), n, m, 0)


def compiled(machine: Any, draw: Draw) -> None:
    """Fits a few images, so that loops are compiled."""
    x, y = draw.train.images.numpy(), draw.train.labels.numpy()
    few = np.concatenate([np.flatnonzero(y == label)[:20] for label in np.unique(y)])
    clone(machine).set_params(n_iters=1, method="fused", verbose=False).fit(x[few], y[few])


def learned(machine: Any, draw: Draw) -> dict[str, Any]:
    """Seconds of learning and of predicting the test images at every iteration, and what these predictions are."""
    compiled(machine, draw)
    y = draw.test.labels.numpy()
    with Clock() as learning:
        machine.fit(draw.train.images.numpy(), draw.train.labels.numpy())
    with Clock() as predicting:
        outputs = [o.numpy() for o in machine.staged_outputs(draw.test.images.numpy())]
    targets = np.eye(len(machine.classes_))[y]
    return {
        "learning": learning.seconds,
        "predicting": predicting.seconds,
        "test accuracy": [float((o.argmax(1) == y).mean()) for o in outputs],
        "mean squared error": [float(np.square(o - targets).sum(1).mean()) for o in outputs],
    }


def star() -> dict[str, Any]:
    """50 star images, one convolution of 11 x 11 pixels, one metric, as in the authors' notebook; 2,000 test images."""
    machine = ConvRFMClassifier.official("notebook", **STAR.settings, n_iters=1)
    return learned(machine, drawn(STAR, 50, 2000))


def cifar() -> dict[str, Any]:
    """500 images of CIFAR-10, two metrics as in the authors' notebooks; 500 test images."""
    return learned(ConvRFMClassifier.official("notebook", depth=3, n_iters=2), drawn(CIFAR10[0], 500, 500))


def kernel() -> dict[str, Any]:
    """The training kernel of 1,000 images of CIFAR-10."""
    x = drawn(CIFAR10[0], 1000, 1).train.images.numpy()
    conv_kernel(x[:20], depth=3, patch_size=3, method="fused")
    with Clock() as clock:
        conv_kernel(x, depth=3, patch_size=3)
    return clock.seconds


def prime() -> dict[str, Any]:
    """Predictions for 797 digits, a prime number, by a machine of 1,000, in both precisions; the median of five."""
    found, (digits, y) = {}, load_digits(return_X_y=True)
    for precision in ("float32", "float64"):
        x = digits.astype(precision)
        machine = ConvRFMClassifier(image_shape=(1, 8, 8), n_iters=1, selection=None).fit(x[:1000], y[:1000])
        clocks = []
        for _ in range(6):  # the first is for the compiler
            with Clock() as clock:
                right = machine.predict(x[1000:]) == y[1000:]
            clocks.append(clock.seconds)
        found[precision] = {
            **{name: statistics.median(seconds[name] for seconds in clocks[1:]) for name in clocks[0]},
            "test accuracy": float(right.mean()),
        }
    return found


def deep() -> dict[str, Any]:
    """Deep ConvRFM, 500 noisy images of Fashion-MNIST: metrics whole and cut; the last kernel of the second layer."""
    draw, found = drawn(NOISY[0], 500, 500), {}
    known = {"n_layers": 2, "width": 32, "n_iters": 2, "n_splits": 3, "selection": "holdout", "agop_samples": 20}
    for name, machine in (
        ("whole", DeepConvRFMClassifier(**known, rank_tol=0.0)),
        ("cut", DeepConvRFMClassifier(**known)),
    ):
        of = learned(machine, draw)
        layer, best = machine.layers_[1], machine.layers_[machine.best_layer_].best_iteration_
        features, root = machine._features(1)(draw.train.images), layer.stages_[-1].metric_root
        case = {"depth": 2, "patch_size": 3, "metric_root": root, "rank_tol": machine.rank_tol, "method": "fused"}
        with Clock() as clock:
            conv_kernel(features, **case)
        found[name] = {
            **of,
            "selected layer and iteration": [machine.best_layer_, best],
            "its test accuracy": of["test accuracy"][3 * machine.best_layer_ + best],
            "that of the first layer": of["test accuracy"][machine.layers_[0].best_iteration_],
            "rank of the last metric": layer.history_[-1]["rank"],
            "its kernel": clock.seconds,
        }
    return found


def bound() -> dict[str, Any]:
    """4,000 noisy images of Fashion-MNIST in frames of 42 pixels, one metric, in 2 GB."""
    machine = ConvRFMClassifier(n_iters=1, selection=None, max_memory=2 * 10**9)
    return learned(machine, drawn(NOISY[0], 4000, 100))


def large() -> dict[str, Any]:
    """10,000 images of CIFAR-10, two metrics, one part held out, as the estimator does it by default; its forecast."""
    machine = ConvRFMClassifier(n_iters=2, verbose=True)
    said = StringIO()
    with redirect_stderr(said):
        found = learned(machine, drawn(CIFAR10[0], 10_000, 1_000))
    forecast = re.search(r"10000 images.*", said.getvalue())
    selection = [line["selection_score"] for line in machine.history_]
    return found | {"forecast": forecast and forecast[0], "held-out accuracy": selection}


CASES: dict[str, Callable[[], dict[str, Any]]] = {
    case.__name__: case for case in (star, cifar, kernel, prime, deep, bound, large)
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", metavar="CASE", help=f"of {', '.join(CASES)}; all but the last without any")
    parser.add_argument("--here", action="store_true", help="run the case in this process and print JSON")
    arguments = parser.parse_args()
    if unknown := set(arguments.cases) - set(CASES):
        parser.error(f"no such case: {', '.join(sorted(unknown))}")
    if arguments.here:
        try:
            found = CASES[arguments.cases[0]]()
        except ConvscopeError as error:  # data that are not at hand
            print(json.dumps({"skipped": str(error)}))
            return
        print(json.dumps(found | {"peak GiB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20}))
        return
    for name in arguments.cases or list(CASES)[:-1]:
        print(f"{name}: {CASES[name].__doc__}", flush=True)
        command = [sys.executable, __file__, "--here", name]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        for what, value in json.loads(done.stdout).items():
            print(f"    {what}: {shown(value)}", flush=True)


def shown(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {shown(part)}" for name, part in value.items())
    if isinstance(value, list):
        return " / ".join(map(shown, value))
    return f"{value:.4g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    main()
