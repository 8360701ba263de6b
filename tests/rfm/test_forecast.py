"""What a run will take is said of the run that comes."""

from dataclasses import replace

import pytest
import torch
from rfm.machines import data, settings

from convscope.rfm import forecast as module
from convscope.rfm.forecast import forecast
from convscope.rfm.machine import learn

SPLITS = [(torch.arange(20), torch.arange(20, 30))]


def test_ranks_are_those_that_learning_finds(monkeypatch):
    monkeypatch.setattr(module, "_AT", 32)
    known = data(32, channels=2)
    how = settings(n_iters=2, rank_tol=0.05, agop_samples=32)
    ranks = [step.rank for step in learn(known, how)][1:]
    assert module._ranks(known, how) == ranks
    assert max(ranks) < 18


def test_each_iteration_counts_at_its_own_rank(monkeypatch):
    seen = []

    def estimate(n1, n2, architecture, rank, *rest, metric, **options):
        seen.append((n1, rank, metric))
        return module.Cost(rank, n1 * n1 * 8)

    monkeypatch.setattr(module, "estimate", estimate)
    monkeypatch.setattr(module, "_ranks", lambda *_: [7, 3])
    monkeypatch.setattr(module, "_seconds", lambda _: 0.0)
    known, how = data(30, channels=2), settings(n_iters=2)
    alone, split = forecast(known, how, []), forecast(known, how, SPLITS)
    assert set(seen) == {(30, 2, False), (30, 7, True), (30, 3, True)}
    assert alone.seconds == 2 + 7 + 3
    # 20 images among themselves, and 10 with 20, of the 30 x 30 / 2 pairs; the fixed kernel is shared.
    of_split = (20 * 20 + 2 * 20 * 10) / 30**2
    assert split.seconds == pytest.approx(2 + (7 + 3) * (1 + of_split))
    unshared = forecast(known, how, SPLITS, shared=False)
    assert unshared.seconds == pytest.approx((2 + 7 + 3) * (1 + of_split))


def test_memory_grows_with_images_up_to_the_bound():
    how = replace(settings(n_iters=1), max_memory=2**22)
    small, large = (forecast(data(n), how, []).bytes for n in (10, 40))
    assert small < large < 2**22
