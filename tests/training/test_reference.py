"""The reference runs of the default report, on a few small images."""

import torch

from convscope.training.networks import SmallVGG
from convscope.training.reference import channel_statistics, reference_runs, standardise


def images(n, seed):
    return torch.rand(n, 3, 8, 8, generator=torch.Generator().manual_seed(seed)).cumsum(2) / 8


def test_channel_statistics():
    x = images(20, 0)
    x[:, 2] = 0.25
    mean, std = channel_statistics(x)
    y = standardise(x, mean, std)
    assert y.dtype == x.dtype
    assert torch.allclose(y.mean((0, 2, 3)), torch.zeros(3), atol=1e-6)
    assert torch.allclose(y[:, :2].std((0, 2, 3), unbiased=False), torch.ones(2), atol=1e-6)
    assert std[2] == 1


def test_runs():
    x, y = images(40, 1), torch.arange(40) % 4
    runs = reference_runs(x, y, x, y, seeds=(0, 1), epochs=2, batch_size=10, progress=False)
    assert [run.name for run in runs] == [
        "true labels, seed 0", "true labels, seed 1", "permuted labels, seed 0", "permuted labels, seed 1",
    ]  # fmt: skip
    weights = [run.training.initial["features.0.weight"] for run in runs]
    assert all(not torch.equal(a, b) for i, a in enumerate(weights) for b in weights[:i])
    for run in runs:
        assert isinstance(run.network, SmallVGG)
        assert not run.network.training
        assert torch.equal(run.untrained.features[0].weight, run.training.initial["features.0.weight"])
        assert torch.equal(run.network.features[0].weight, run.training.final["features.0.weight"])
        assert 0 <= run.train_accuracy <= 1
        assert 0 <= run.test_accuracy <= 1
    again = reference_runs(x, y, x, y, seeds=(1,), kinds=("true",), epochs=2, batch_size=10, progress=False)
    assert torch.equal(again[0].network.linear.weight, runs[1].network.linear.weight)


def test_nothing_outside_changes():
    x, y = images(20, 1), torch.arange(20) % 4
    torch.manual_seed(0)
    before = torch.get_rng_state(), torch.get_num_threads()
    reference_runs(x, y, x, y, epochs=1, batch_size=10, progress=False)
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1] == torch.get_num_threads()


def test_interrupt_keeps_what_was_reached(monkeypatch):
    import convscope.training.reference as module

    def interrupted(jobs):
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "wait", interrupted)
    monkeypatch.setattr(module.os, "cpu_count", lambda: 1)
    x, y = images(20, 1), torch.arange(20) % 4
    runs = reference_runs(x, y, x, y, epochs=500, batch_size=10, progress=False)
    assert 1 <= len(runs) <= 2
    assert not any(run.training.complete for run in runs)
    assert torch.equal(runs[0].network.linear.weight, runs[0].training.final["linear.weight"])
