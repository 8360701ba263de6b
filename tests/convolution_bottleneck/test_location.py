import itertools
import math

import pytest
import torch
from oracles.bottleneck_rank import conv_of, known_bottleneck
from torch import nn

from convscope.bottleneck.location import bottleneck_run, scores
from convscope.bottleneck.null import gaussian_null
from convscope.bottleneck.operators import ConvOperator
from convscope.bottleneck.rank import cbn_rank
from convscope.bottleneck.singular import singular_values
from convscope.bottleneck.spaces import chain, kept_spaces

SIZE, CHANNELS, DEPTH = 8, 8, 6
LOW = [(0, 0), (0, 1), (1, 0)]


def measured(convs):
    operators = [ConvOperator.of(conv, SIZE) for conv in convs]
    values = [singular_values(o) for o in operators]
    ranks = [
        cbn_rank(v.values, v.multiplicity, o.weight.shape, gaussian_null(o))
        for v, o in zip(values, operators, strict=True)
    ]
    spaces = [kept_spaces(o, r) for o, r in zip(operators, ranks, strict=True)]
    return ranks, [chain(a[1], b[0]) for a, b in itertools.pairwise(spaces)]


def random_convs(kind):
    torch.manual_seed(0)
    widths = [1, *[CHANNELS] * (DEPTH - 1), 1]
    convs = []
    for c, k in itertools.pairwise(widths):
        if kind == "identity":
            transfer = torch.zeros(SIZE, SIZE, k, c, dtype=torch.float64)
            transfer[...] = nn.init.orthogonal_(torch.empty(k, c, dtype=torch.float64))
            convs.append(conv_of(transfer))
            continue
        kernel = SIZE if kind == "full" else 3
        conv = nn.Conv2d(c, k, kernel, padding="same", padding_mode="circular", bias=False).double()
        nn.init.kaiming_normal_(conv.weight)
        convs.append(conv)
    return convs


def located(ranks, chains, input_rank):
    return bottleneck_run(
        [str(i) for i in range(len(ranks))], input_rank, weights=[r.rank for r in ranks], chains=chains
    )


def test_a_known_bottleneck_is_found_where_it_is_with_a_high_score():
    ranks, chains = measured(known_bottleneck(SIZE, DEPTH, CHANNELS, LOW))
    found = scores(ranks, chains, 64, activations=[5] * DEPTH, balance=0.0)
    assert found.structure > 0.98
    assert found.compression == pytest.approx(5 / 64)
    assert found.score > 0.9
    assert found.z > 5
    assert found.words == (
        "CBN structure",
        "activation bottleneck: rank 5 in the narrowest middle layer, against 64 of the input",
    )
    place = located(ranks, chains, 64)
    assert (place.kind, place.start, place.end, place.rank) == ("bottleneck", 0, DEPTH - 1, 5)


def test_a_bottleneck_between_wide_layers_is_located():
    wide = known_bottleneck(SIZE, DEPTH, CHANNELS, [(a, b) for a in range(5) for b in range(5)])
    narrow = known_bottleneck(SIZE, DEPTH, CHANNELS, LOW)
    ranks, chains = measured([wide[0], *narrow[1:4], *wide[4:]])
    place = located(ranks, chains, 64)
    assert (place.kind, place.start, place.end, place.rank) == ("bottleneck", 1, 3, 5)
    assert place.words == "The bottleneck spans 1 to 3 (3 layers), at rank 5 against 64 of the input."


@pytest.mark.parametrize("kind", ["full", "small", "identity"])
def test_networks_without_structure_score_nothing(kind):
    ranks, chains = measured(random_convs(kind))
    found = scores(ranks, chains, 60, activations=[60] * DEPTH, balance=10.0)
    assert found.score < 0.05
    assert "no CBN structure (weights)" in found.words
    assert any("not converged" in w for w in found.words)
    assert located(ranks[1:-1], chains[1:-1], 60).kind == "none"


def test_structure_without_compression_scores_nothing():
    every = [(a, b) for a in range(-3, 5) for b in range(5)]
    ranks, chains = measured(known_bottleneck(SIZE, DEPTH, CHANNELS, every))
    found = scores(ranks, chains, 60, activations=[64] * DEPTH, balance=0.0)
    assert found.structure > 0.8
    assert found.compression > 1
    assert found.score == 0
    assert found.words[0] == "no CBN structure (weights)"
    assert located(ranks, chains, 60).kind == "none"


NAMES = [f"conv{i}" for i in range(1, 7)]


def run(activations=None, weights=None, chains=None, input_rank=50):
    return bottleneck_run(NAMES, input_rank, activations=activations, weights=weights, chains=chains)


def test_the_run_needs_narrow_layers_that_are_linked():
    found = run([30, 9, 9, 8, 9, 30], [40, 12, 9, 9, 12, 40], [0.9] * 5)
    assert (found.kind, found.start, found.end, found.rank) == ("bottleneck", 1, 4, 10.5)
    broken = run([30, 9, 9, 8, 9, 30], [40, 12, 9, 9, 12, 40], [0.9, 0.9, 0.6, 0.9, 0.9])
    assert (broken.start, broken.end) == (1, 2)  # the first of two alike
    undefined = run([30, 9, 9, 8, 9, 30], None, [0.9, math.nan, math.nan, 0.9, 0.9])
    assert (undefined.start, undefined.end) == (1, 4)
    # 1.25 times the smallest plus one still belongs to it, more does not.
    assert run([8, 11, 8, 8, 11.1, 8]).end == 3
    # The activations narrow, the weights elsewhere: those of the activations are named.
    apart = run([30, 9, 30, 30, 30, 30], [40, 40, 40, 9, 40, 40])
    assert (apart.kind, apart.start, apart.rank) == ("funnel", 1, 9)


def test_a_single_narrow_layer_is_a_funnel_and_wide_ones_are_none():
    found = run([40, 29, 23, 21, 19, 14], [40, 29, 23, 21, 19, 14], [0.68] * 5)
    assert (found.kind, found.start, found.end) == ("funnel", 5, 5)
    assert found.words.startswith("A funnel: no two layers share one bottleneck; conv6 is the narrowest, at rank 14")
    none = run([30] * 6, [400] * 6, [1.0] * 5)
    assert (none.kind, none.start, none.end) == ("none", None, None)
    assert none.words == ("No bottleneck (no compression): the narrowest layers have rank 400 against 50 of the input.")
    assert run([46] * 6).kind == "none"
    assert run([44] * 6).kind == "bottleneck"


def test_a_dead_layer_is_named():
    found = run([30, 9, 0, 0, 9, 30])
    assert (found.kind, found.words) == ("collapsed", "Layer conv3 passes nothing on: the network is dead.")


def test_wrong_lengths_are_refused():
    with pytest.raises(ValueError, match="at least one layer"):
        bottleneck_run([], 5, activations=[])
    with pytest.raises(ValueError, match="at least one layer"):
        bottleneck_run(NAMES, 5)
    with pytest.raises(ValueError, match="one rank for each of 6"):
        run([1, 2])
    with pytest.raises(ValueError, match="must be numbers"):
        run([1, 2, math.nan, 4, 5, 6])
    with pytest.raises(ValueError, match="input positive"):
        run([1] * 6, input_rank=0)
    with pytest.raises(ValueError, match="one chain"):
        run([1] * 6, chains=[1.0] * 6)
    with pytest.raises(ValueError, match="one chain"):
        scores([], [1.0], 5)


def test_words_for_partial_structure_unknown_activations_and_ordinary_networks():
    ranks, chains = measured(known_bottleneck(SIZE, DEPTH, CHANNELS, LOW))
    wide = scores(ranks, [0.75] * 5, 64, balance=0.0)
    assert wide.words == ("partial CBN structure, or a funnel",)
    unbalanced = scores(ranks, chains, 64, balance=1.2)
    assert unbalanced.words[0] == "partial CBN structure, or a funnel"
    assert "balance residual 1.2" in unbalanced.words[1]
    assert scores(ranks, chains, 64).words == ("CBN structure",)  # whether it converged is not known
    ordinary, links = measured(random_convs("small"))
    reason = "zero padding, filters smaller than the maps"
    found = scores(ordinary, links, 60, activations=[60, 50, 40, 30, 20, 10], ordinary=reason)
    assert found.words == (
        "activation bottleneck only: rank 20 in the narrowest middle layer, against 60 of the input",
        f"of the weights no bottleneck is to be expected ({reason})",
    )
    flat = scores(ordinary, links, 60, activations=[60] * 6, ordinary=reason)
    assert flat.words[0].startswith("no compression of the activations: rank 60")


def test_undefined_chains_are_left_out_and_too_few_layers_have_no_structure():
    ranks, chains = measured(known_bottleneck(SIZE, DEPTH, CHANNELS, LOW))
    with_gap = scores(ranks, [math.nan, *chains[1:3], math.nan, chains[4]], 64)
    assert with_gap.structure == pytest.approx(scores(ranks, chains, 64).structure)
    assert math.isnan(scores(ranks, [math.nan] * 5, 64).structure)
    few = scores(ranks[:2], chains[:1], 64, activations=[5, 5])
    assert math.isnan(few.score)
    assert few.words == ("too few layers, or a dead one, to speak of structure",)
    dead = cbn_rank(torch.zeros(34, 8), ranks[1].multiplicity, (8, 8, 8, 8))
    assert math.isnan(scores([ranks[0], dead, ranks[2]], chains[:2], 64).score)
