import math

import pytest
import torch

from convscope.dynamics.halves import crossings, half_times


def test_known_curves_are_crossed_where_their_formulas_say():
    times = torch.linspace(0, 50, 50_001, dtype=torch.float64)
    relaxing = 1 - (-times).exp()
    logistic = 1 / (1 + (1e6 - 1) * (-times).exp())
    curves = torch.stack([relaxing, logistic, 3 * logistic], 1)
    targets = torch.tensor([1.0, 1.0, 3.0])
    for share in (0.1, 0.5, 0.9):
        late = math.log(share / (1 - share)) + math.log(1e6 - 1)
        expected = torch.tensor([-math.log(1 - share), late, late])
        torch.testing.assert_close(crossings(times, curves, share * targets).float(), expected, rtol=1e-5, atol=1e-5)
    assert torch.equal(half_times(times, curves, targets), crossings(times, curves, targets / 2))


def test_gaps_in_the_records_are_bridged_and_what_is_not_reached_is_infinite():
    steps = torch.tensor([0, 2, 4])
    strengths = torch.tensor([[0.0, 0.0, 1.0], [math.nan, 0.1, 1.0], [1.0, 0.2, 1.0]])
    found = crossings(steps, strengths, torch.tensor([0.5, 0.5, 0.5]))
    assert found.tolist() == [pytest.approx(2), math.inf, 0]
    assert crossings(steps, strengths, torch.tensor([-1.0, 0.0, 0.5])).tolist() == [math.inf, math.inf, 0]
