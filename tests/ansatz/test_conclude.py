"""Medians over convolutions, and what chance gives them."""

import numpy as np
import pytest
import torch
from ansatz_runs import deep, run
from firstlayer_runs import images
from torch import nn

from convscope.ansatz.collect import SentBack
from convscope.ansatz.conclude import medians
from convscope.ansatz.measure import patch_agop
from convscope.ansatz.measured import Measured


def depthwise(layers):
    torch.manual_seed(3)
    first = [nn.Conv2d(3, 6, 3, padding=1), nn.ReLU()]
    rest = [part for _ in range(layers) for part in (nn.Conv2d(6, 6, 3, padding=1, groups=6), nn.ReLU())]
    return nn.Sequential(*first, *rest, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 3))


@pytest.mark.parametrize("module", [deep(), depthwise(1), depthwise(2)], ids=["deep", "one of two", "two of three"])
@pytest.mark.parametrize(("key", "power"), [("correlation", 1.0), ("root", 0.5)])
def test_the_median_counts_convolutions_with_one_filter_a_group_with_their_value_in_every_draw(module, key, power):
    number = run(module, sent=SentBack(exact=True))[0].numbers[key]
    layers = patch_agop(module, images(40), exact=True).values()
    draws, values = [], []
    for layer in layers:
        values.append(layer.correlation(power=power))
        filters = layer.weight.shape[1]
        draws.append(layer.chance(power=power).numpy() if filters > 1 else np.full(100, values[-1]))
    assert any(np.ptp(d) == 0 for d in draws)
    assert number.value == pytest.approx(np.median(values), abs=1e-6)
    assert number.chance == pytest.approx(np.quantile(np.median(draws, 0), [0.025, 0.975]), abs=1e-6)
    assert number.chance_name == "gradients turned at random"


def test_where_no_gradients_can_be_turned_the_median_has_no_chance():
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(3, 3, 3, groups=3), nn.ReLU(), nn.Conv2d(3, 3, 3, groups=3), nn.Flatten())
    found, _ = run(nn.Sequential(module, nn.LazyLinear(2)), sent=SentBack(exact=True))
    assert len(found.rows) == 2
    assert all(number.chance is None for number in found.numbers.values())


def test_medians_are_over_the_convolutions_that_have_the_number():
    layers = [{"correlation": Measured(x)} | ({"change": Measured(x)} if x > 1 else {}) for x in (1.0, 2.0, 4.0)]
    found = medians(layers)
    assert set(found) == {"correlation", "change"}
    assert (found["correlation"].value, found["change"].value) == (2.0, 3.0)


def test_a_convolution_without_gradients_is_in_no_median_and_in_no_draw_of_it():
    nothing, one = Measured(float("nan")), Measured(0.5, draws=(0.1, 0.3))
    number = medians([{"correlation": nothing}, {"correlation": one}])["correlation"]
    assert number.value == pytest.approx(0.5)
    assert number.chance == pytest.approx((0.105, 0.295))
