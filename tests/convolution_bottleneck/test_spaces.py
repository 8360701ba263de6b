import math

import pytest
import torch
from oracles.bottleneck_dense import circular_matrix
from oracles.bottleneck_rank import conv_of, dense_chain, known_bottleneck
from torch import nn

from convscope.bottleneck.operators import ConvOperator
from convscope.bottleneck.rank import cbn_rank
from convscope.bottleneck.spaces import chain, kept_spaces, offset_carriers, outside
from convscope.core.errors import ConvscopeError

CIRCULAR = {"padding": "same", "padding_mode": "circular"}
STRIDED = {"padding": 1, "padding_mode": "circular", "stride": 2}


def spaces_of(operator):
    frequencies, multiplicity = operator.half_plane
    values = torch.linalg.svdvals(operator.blocks(frequencies)).flatten(1)
    cbn = cbn_rank(values, multiplicity, operator.weight.shape)
    return cbn, *kept_spaces(operator, cbn)


def conv(c, k, seed=0, kernel=3, **options):
    torch.manual_seed(seed)
    return nn.Conv2d(c, k, kernel, bias=False, **options).double()


@pytest.mark.parametrize(
    ("left", "right", "sizes"),
    [
        (conv(3, 4, **CIRCULAR), conv(4, 5, 1, **CIRCULAR), ((4, 5), (4, 5))),
        (conv(4, 4, groups=2, **CIRCULAR), conv(4, 6, 1, groups=2, **CIRCULAR), ((4, 4), (4, 4))),
        (conv(3, 4, **CIRCULAR), conv(4, 5, 1, **STRIDED), ((4, 6), (4, 6))),
        (conv(4, 4, groups=4, **CIRCULAR), conv(4, 4, 1, groups=2, **STRIDED), ((4, 4), (4, 4))),
        (conv(3, 4, **STRIDED), conv(4, 2, 1, **CIRCULAR), ((4, 6), (2, 3))),
    ],
)
def test_the_chain_is_that_of_the_dense_operators(left, right, sizes):
    operators = [ConvOperator.of(c, size) for c, size in zip((left, right), sizes, strict=True)]
    (one, _, kept), (other, taken, _) = map(spaces_of, operators)
    dense = [circular_matrix(o.weight, o.geometry, o.grid) for o in operators]
    expected = dense_chain(dense[0], one.level / 2, dense[1], other.level / 2)
    assert chain(kept, taken) == pytest.approx(expected, abs=1e-9)
    assert 0.1 < expected < 1
    assert (kept.rank, taken.rank) == (one.rank, other.rank)


def test_bases_are_orthonormal_and_span_what_is_kept():
    operator = ConvOperator.of(conv(4, 6, groups=2, **STRIDED), 6)
    cbn, inputs, outputs = spaces_of(operator)
    assert (inputs.basis.shape[1:3], inputs.grid) == ((4, 4), (6, 6))
    assert (outputs.basis.shape[1:3], outputs.grid) == ((1, 6), (3, 3))
    for space in (inputs, outputs):
        flat = space.basis.flatten(1, 2)
        gram = flat.mH @ flat
        assert torch.equal(space.widths, cbn.profile)
        for k, product in zip(cbn.profile.tolist(), gram, strict=True):
            expected = torch.zeros_like(product)
            expected[:k, :k] = torch.eye(k)
            torch.testing.assert_close(product, expected, rtol=0, atol=1e-12)


def test_a_transposed_convolution_joins_from_both_sides():
    torch.manual_seed(0)
    up = nn.ConvTranspose2d(4, 3, 2, stride=2, bias=False).double()
    _, taken, given = spaces_of(ConvOperator.of(up, 3))
    assert (taken.grid, taken.basis.shape[1:3]) == ((3, 3), (1, 4))
    assert (given.grid, given.basis.shape[1:3]) == ((6, 6), (4, 3))
    down = nn.Conv2d(3, 4, 2, stride=2, bias=False).double()
    with torch.no_grad():
        down.weight.copy_(up.weight)  # its adjoint keeps the same space
    _, again, _ = spaces_of(ConvOperator.of(down, 6))
    assert chain(given, again) == pytest.approx(1)


def test_layers_of_a_known_bottleneck_join_and_others_do_not():
    one, two, three = (spaces_of(ConvOperator.of(c, 8)) for c in known_bottleneck(8, 3, 6, [(0, 0), (1, 0)]))
    other = spaces_of(ConvOperator.of(known_bottleneck(8, 3, 6, [(0, 2), (2, 1)])[1], 8))
    assert chain(one[2], two[1]) == pytest.approx(1)
    assert chain(two[2], three[1]) == pytest.approx(1)
    assert chain(two[2], other[1]) == 0
    # One space that contains the other counts as joined.
    wide = spaces_of(ConvOperator.of(conv_of(torch.eye(6).expand(8, 8, 6, 6)), 8))
    assert chain(two[2], wide[1]) == pytest.approx(1)
    assert chain(wide[2], two[1]) == pytest.approx(1)


def test_across_sizes_only_common_frequencies_are_compared():
    generator = torch.Generator().manual_seed(0)
    v = torch.nn.functional.normalize(torch.randn(5, dtype=torch.float64, generator=generator), dim=0)
    projector = torch.outer(v, v)

    def keeping(size, frequencies):
        transfer = torch.zeros(size, size, 5, 5, dtype=torch.float64)
        for ky, kx in frequencies:
            transfer[ky, kx] = transfer[-ky, -kx] = projector
        return spaces_of(ConvOperator.of(conv_of(transfer), size))

    large = keeping(8, [(0, 1), (1, 1), (3, 0)])
    small = keeping(4, [(0, 1), (1, 1), (2, 0)])
    assert chain(large[2], small[1]) == pytest.approx(1)
    assert chain(small[2], large[1]) == pytest.approx(1)
    assert chain(large[2], keeping(4, [(1, 0)])[1]) == 0
    assert math.isnan(chain(keeping(8, [(3, 0)])[2], small[1]))
    strided = spaces_of(ConvOperator.of(conv(5, 5, **STRIDED), 4))
    assert math.isnan(chain(large[2], strided[1]))


def test_a_dead_layer_has_no_chain():
    dead = conv(3, 4, **CIRCULAR)
    nn.init.zeros_(dead.weight)
    _, taken, given = spaces_of(ConvOperator.of(dead, 4))
    assert given.rank == 0
    assert math.isnan(chain(spaces_of(ConvOperator.of(conv(3, 3, **CIRCULAR), 4))[2], taken))


def latents(kept, n=400, seed=0):
    """Covariance and mean of activations that are random combinations of what a layer keeps, at each frequency."""
    generator = torch.Generator().manual_seed(seed)
    f, r = len(kept.basis), kept.basis.shape[3]
    x = torch.randn(n, f, r, dtype=torch.complex128, generator=generator)
    x[:, kept.multiplicity == 1] = x[:, kept.multiplicity == 1].real.to(x.dtype)
    return x


def moments_of(kept, x):
    z = torch.einsum("fcr,nfr->nfc", kept.basis[:, 0], x)
    mean = z.mean(0)
    return torch.einsum("nfc,nfd->fcd", z - mean, (z - mean).conj()) / len(z), mean


def test_constant_latents_of_frequency_zero_carry_offsets_in_any_basis():
    generator = torch.Generator().manual_seed(1)
    turn = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64, generator=generator)).Q
    transfer = torch.zeros(4, 4, 6, 6, dtype=torch.float64)
    basis = torch.linalg.qr(torch.randn(6, 3, dtype=torch.float64, generator=generator)).Q
    transfer[0, 0] = basis @ basis.T
    transfer[0, 1] = transfer[0, 3] = torch.outer(basis[:, 0], basis[:, 0])
    cbn, _, kept = spaces_of(ConvOperator.of(conv_of(transfer), 4))
    assert (cbn.rank, cbn.profile.tolist()[:2]) == (5, [3, 1])

    def carriers(change):
        x = latents(kept)
        change(x[:, 0])
        x[:, 0] = x[:, 0] @ turn.to(x.dtype)  # singular vectors of equal values are arbitrary
        return offset_carriers(kept, *moments_of(kept, x))

    def steady(x):
        x[:, 0] = 30 + x[:, 0]  # coefficient of variation 0.03

    def constant(x):
        x[:, 0] = 2

    def faint(x):
        x[:, 0] *= 0.01

    def both(x):
        steady(x)
        x[:, 1] *= 0.01

    assert carriers(lambda x: None) == 0
    assert [carriers(c) for c in (steady, constant, faint, both)] == [1, 1, 1, 2]
    high = spaces_of(ConvOperator.of(known_bottleneck(4, 3, 6, [(0, 1)])[1], 4))[2]
    assert offset_carriers(high, *moments_of(high, latents(high))) == 0


def test_energy_outside_the_kept_space():
    kept = spaces_of(ConvOperator.of(known_bottleneck(4, 3, 6, [(0, 0), (1, 1)])[1], 4))[2]
    moments, _ = moments_of(kept, latents(kept))
    assert outside(kept, moments) == pytest.approx(0, abs=1e-12)
    whole = float((moments.diagonal(dim1=1, dim2=2).sum(1).real * kept.multiplicity).sum())
    moments[3, 0, 0] += whole / float(kept.multiplicity[3])  # at a frequency where nothing is kept
    assert kept.widths[3] == 0
    assert outside(kept, moments) == pytest.approx(1 / 2)
    assert math.isnan(outside(kept, torch.zeros_like(moments)))


def test_wrong_arguments_are_refused():
    cbn, inputs, outputs = spaces_of(ConvOperator.of(conv(3, 4, **STRIDED), 4))
    with pytest.raises(ValueError, match="channels"):
        chain(outputs, inputs)
    with pytest.raises(ValueError, match="this operator's"):
        kept_spaces(ConvOperator.of(conv(3, 4, **STRIDED), 8), cbn)
    with pytest.raises(ValueError, match="aliases"):
        outside(inputs, torch.zeros(len(inputs.basis), 3, 3))
    with pytest.raises(ValueError, match="mean"):
        offset_carriers(outputs, torch.zeros(len(outputs.basis), 4, 4).cfloat(), torch.zeros(2, 4))


def test_bases_that_would_not_fit_are_refused():
    operator = ConvOperator.of(nn.Conv2d(512, 512, 1), 64)
    frequencies, multiplicity = operator.half_plane
    cbn = cbn_rank(torch.ones(len(frequencies), 512), multiplicity, operator.weight.shape)
    with pytest.raises(ConvscopeError, match="GiB"):
        kept_spaces(operator, cbn)
