import math

import pytest
import torch
from torch import nn

from convscope.bottleneck.fit import two_level
from convscope.bottleneck.null import gaussian_null, marchenko_pastur
from convscope.bottleneck.operators import ConvOperator
from convscope.bottleneck.rank import cbn_rank

CIRCULAR = {"padding": "same", "padding_mode": "circular"}


def operator(k, c, kernel, size=8, **options):
    return ConvOperator.of(nn.Conv2d(c, k, kernel, **options), size)


def drawn(operator, draws, seed=0):
    """Alignment and share of Gaussian kernels [draws], over all frequencies, by the definition."""
    generator = torch.Generator().manual_seed(seed)
    found = []
    for _ in range(draws):
        weight = torch.randn(operator.weight.shape, generator=generator)
        other = ConvOperator.of_weight(weight, operator.geometry, operator.size)
        frequencies, multiplicity = other.half_plane
        values = torch.linalg.svdvals(other.blocks(frequencies)).flatten(1)
        fit = two_level(values.flatten(), multiplicity[:, None].expand_as(values).flatten())
        found.append((fit.align, fit.rank / (operator.positions * values.shape[1])))
    return torch.tensor(found, dtype=torch.float64)


@pytest.mark.parametrize(
    ("aspect", "align", "share"), [(1, 0.8704, 0.632), (1 / 2, 0.8898, 0.856), (1 / 16, 0.9843, 1)]
)
def test_the_law_of_many_channels(aspect, align, share):
    found = marchenko_pastur(aspect)
    assert found == (pytest.approx(align, abs=5e-5), pytest.approx(share, abs=1e-3))


@pytest.mark.parametrize(
    ("k", "c", "kernel", "options"),
    [
        (16, 16, 3, CIRCULAR),
        (16, 16, 8, CIRCULAR),
        (24, 24, 3, {"padding": 1}),
        (32, 16, 1, {}),
        (16, 32, 3, CIRCULAR),
        (32, 32, 3, CIRCULAR | {"groups": 2}),
        (16, 16, 3, CIRCULAR | {"dilation": 2}),
    ],
)
def test_the_law_agrees_with_draws_in_mean_and_spread(k, c, kernel, options):
    layer = operator(k, c, kernel, **options)
    found, true = gaussian_null(layer), drawn(layer, 40)
    mean, sd = true.mean(0), true.std(0)
    assert found.align == pytest.approx(float(mean[0]), abs=0.005)
    assert found.share == pytest.approx(float(mean[1]), abs=0.012 + float(sd[1]) / 3)
    assert found.align_sd == pytest.approx(float(sd[0]), rel=0.35)
    assert float(sd[1]) * 0.5 < found.share_sd < float(sd[1]) * 1.35


@pytest.mark.parametrize(
    ("k", "c", "kernel", "options"),
    [(4, 4, 3, CIRCULAR), (1, 1, 3, CIRCULAR), (8, 8, 1, {}), (32, 4, 3, {"stride": 2, "padding": 1})],
)
def test_few_channels_are_drawn(k, c, kernel, options):
    layer = operator(k, c, kernel, **options)
    found, true = gaussian_null(layer, draws=60), drawn(layer, 60, seed=1)
    error = true.std(0) * math.sqrt(2 / 60)
    assert abs(found.align - float(true[:, 0].mean())) < 4 * float(error[0])
    assert abs(found.share - float(true[:, 1].mean())) < 4 * float(error[1]) + 1e-9
    assert gaussian_null(layer, draws=60) == found


def test_wide_strided_layers_are_drawn_narrower():
    layer = operator(64, 32, 3, stride=2, padding=1)
    found, true = gaussian_null(layer), drawn(layer, 8)
    assert found.align == pytest.approx(float(true[:, 0].mean()), abs=0.004)
    assert found.share == pytest.approx(float(true[:, 1].mean()), abs=0.02)
    assert 0 < found.align_sd < 0.002


def test_a_gaussian_kernel_is_within_a_few_deviations_of_its_null():
    for seed in range(3):
        torch.manual_seed(seed)
        layer = operator(20, 20, 3, **CIRCULAR)
        nn.init.normal_(layer.kernel)
        frequencies, multiplicity = layer.half_plane
        values = torch.linalg.svdvals(layer.blocks(frequencies)).flatten(1)
        found = cbn_rank(values, multiplicity, layer.weight.shape, gaussian_null(layer))
        assert abs(found.z) < 4
        assert abs(found.z_share) < 4


def test_wrong_arguments_are_refused():
    with pytest.raises(ValueError, match="draws"):
        gaussian_null(operator(4, 4, 3), draws=1)
    with pytest.raises(ValueError, match="aspect"):
        marchenko_pastur(2)
