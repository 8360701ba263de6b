"""Parts of the analysis that no theorem covers, on published residual networks: linear maps and kept directions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean, median, stdev
from typing import Any

import torch
from torch import Tensor, nn

from convscope.bottleneck.ablation import RANDOM_KEPT, SAME_CHANGE, Ablation, ablate
from convscope.bottleneck.interpretation import whole_spectrum
from convscope.bottleneck.interventions import changed_outputs, module_outputs
from convscope.bottleneck.latents import Latents, latents_of
from convscope.bottleneck.layers import Layer, layers_of
from convscope.bottleneck.pairs import activation_pairs, random_pairs
from convscope.bottleneck.patterns import CHANCE, decoder_pictures, forward_patterns
from convscope.bottleneck.residual import gate_rates, residual_map
from convscope.core.delivery import run_network
from convscope.core.fourier import unitary
from convscope.core.network import Network
from convscope.core.results import Number, finite_list
from convscope.core.taps import ConvCall
from convscope.papers.beaglehole2023_networks import NOT_READ, PUBLISHED, opened
from convscope.papers.data import cifar10, needed
from convscope.papers.registry import TIE, Outcome, Row, Scale, Setup


@dataclass(frozen=True)
class Size:
    """Sizes of one scale.

    Attributes:
        images: in each of two halves: rates and pairs are of the first, what they are worth is measured on the second.
        few: of each half, for blocks and decoder pictures.
        networks: published networks.
    """

    images: int
    few: int
    networks: int


SIZES: dict[Scale, Size] = {"smoke": Size(8, 4, 1), "cpu": Size(500, 100, 2), "paper": Size(5000, 500, 2)}
NETWORKS = tuple(published for published in PUBLISHED if published.factory.startswith("resnet"))
KEPT = (5, 9, 17)  # pairs that are left when all else is held
SHOWN = 8  # pairs whose forward patterns and decoder pictures are looked at
DRAWS = 3  # of random pairs beside them
_RATES, _CLOSED, _OPEN = "gates at their mean rates", "identity alone", "all gates open"


@dataclass(frozen=True)
class Block:
    """What a linear map says of one residual block.

    Attributes:
        name: of the block.
        explained: R^2 of the sum before the last rectifier, by how the gates of the map are set.
        near: share of singular values between 0.5 and 2, by map.
    """

    name: str
    explained: Mapping[str, float]
    near: Mapping[str, float]


def identity_blocks(module: nn.Module) -> dict[str, str]:
    """Returns the residual blocks that add their input unchanged, with the module whose rectified output they take."""
    found, before = {}, "bn1"
    for name, block in module.named_modules():
        if name.startswith("layer") and name.count(".") == 1:
            conv = block.get_submodule("conv1")
            if isinstance(conv, nn.Conv2d) and conv.in_channels == conv.out_channels:
                found[name] = before
            before = name
    return found


def convolutions(network: Network, image: Tensor) -> dict[str, Layer]:
    """Returns the convolutions of a network by name.

    Args:
        network: left as it was found.
        image: [1, c, h, w], of the size for which they are wanted.
    """
    calls: list[ConvCall] = []
    with torch.no_grad():
        run_network(network, image, calls.append)
    return {layer.name: layer for layer in layers_of(network.module, calls)[0]}


def of_block(
    network: Network, layers: Mapping[str, Layer], name: str, before: str, fit: Tensor, images: Tensor
) -> Block:
    """Returns what linear maps say of a residual block.

    Args:
        network: left as it was found.
        layers: its convolutions.
        name: of a block that adds its input unchanged.
        before: the module whose rectified output the block takes.
        fit: images for the gates' rates.
        images: on which the maps are measured.
    """
    x, branch = (_outputs(network, layer, images) for layer in (before, f"{name}.bn2"))
    x = x.relu()
    rates = gate_rates(network, f"{name}.bn1", fit)
    first, second = (layers[f"{name}.{conv}"].operator for conv in ("conv1", "conv2"))
    gates = {_RATES: rates, _CLOSED: torch.zeros_like(rates), _OPEN: torch.ones_like(rates)}
    maps = {how: residual_map(first, second, rates) for how, rates in gates.items()}
    places, number = maps[_RATES].frequencies % torch.tensor(x.shape[2:]), maps[_RATES].multiplicity
    inputs, sums = (unitary(t - t.mean(0))[:, :, *places.T] for t in (x, x + branch))

    def energy(maps: Tensor) -> float:
        return float((maps.abs().square() * number).sum())

    def near(values: Tensor) -> float:
        return float(((values > 0.5) & (values < 2)).double().mean(1) @ number.double() / number.sum())

    left = {how: energy(sums - torch.einsum("fkc,ncf->nkf", of.whole, inputs)) for how, of in maps.items()}
    return Block(
        name,
        {how: 1 - value / energy(sums) for how, value in left.items()},
        {
            _RATES: near(maps[_RATES].whole_values),
            "branch alone": near(maps[_RATES].branch_values),
            _OPEN: near(maps[_OPEN].whole_values),
        },
    )


def _outputs(network: Network, name: str, images: Tensor) -> Tensor:
    return torch.cat([maps.double() for _, maps in module_outputs(network, name, images)])


def answers(network: Network, layer: str, images: Tensor, latents: Latents) -> list[tuple[float, float]]:
    """Returns how linearly a network answers to each pair; (1, 1) for a network that is linear.

    Args:
        network: left as it was found.
        layer: the convolution.
        images: those of the latents, or the first of them.
        latents: of the pairs.

    Returns:
        For each pair, with its deviation from the mean taken away or doubled: the correlation, over images and
        outputs, of one change of the outputs with minus the other, and the size of the second over that of the first.
    """
    found = []
    base = changed_outputs(network, layer, images, None)
    for pair in range(len(latents.pairs)):
        pictures = decoder_pictures(network, layer, images, latents, pair, (0.0, 2.0), base)
        less, more = pictures.change.double().flatten(1)
        found.append((float(torch.corrcoef(torch.stack([less, -more]))[0, 1]), float(more.norm() / less.norm())))
    return found


def interpretation(setup: Setup) -> Outcome:
    """Returns how well linear maps and kept directions describe published residual networks."""
    size = SIZES[setup.scale]
    data = cifar10(needed("cifar10", setup.data), 2 * size.images, "test")
    fit, images, labels = data.pixels[: size.images], data.pixels[size.images :], data.labels[size.images :]
    rows: list[Row] = []
    details: dict[str, list[dict[str, Any]]] = {}
    for published in NETWORKS[: size.networks]:
        network, name = opened(setup, published), published.name
        layers, few = convolutions(network, images[:1]), images[: size.few]
        blocks = [
            of_block(network, layers, block, before, fit[: size.few], few)
            for block, before in identity_blocks(network.module).items()
        ]
        rows += _of_blocks(name, blocks)
        details[f"{name}: blocks"] = [
            {"block": block.name}
            | {f"R², {how}": value for how, value in block.explained.items()}
            | {f"0.5 to 2, {how}": value for how, value in block.near.items()}
            for block in blocks
        ]
        layer = f"{blocks[-1].name}.conv2"
        spectrum = whole_spectrum(network, layer, fit)
        pairs = activation_pairs(spectrum, most=max(KEPT), scale=layers[layer].factor)
        latents = latents_of(network, layer, images, pairs)
        left = {m: ablate(network, layer, images, _first(latents, m), labels, first=0, draws=DRAWS) for m in KEPT}
        rows += [_left(f"{name}, {layer}", m, float(latents.share[:m].sum()), left) for m in KEPT]
        shown = _first(latents, SHOWN)
        patterns = forward_patterns(shown, images).agreement
        answered = answers(network, layer, few, shown)
        turned = [replace(shown, pairs=random_pairs(shown.pairs, seed)) for seed in range(DRAWS)]
        chance = [answer for draw in turned for answer in answers(network, layer, few, draw)]
        rows += _of_pairs(f"{name}, {layer}", patterns, answered, chance)
        details[f"{name}: pairs of {layer}"] = [
            {
                "frequency": " ".join(map(str, frequency)),
                "share of variance": share,
                "agreement of patterns": agreement.value,
                "the same of permuted images": finite_list(agreement.chance or ()),
                "correlation of answers": answer[0],
                "ratio of answers": answer[1],
            }
            for frequency, share, agreement, answer in zip(
                shown.pairs.frequencies.tolist(), shown.share.tolist(), patterns, answered, strict=True
            )
        ]
    return Outcome(tuple(rows), _settings(size), details)


def _first(latents: Latents, m: int) -> Latents:
    return replace(latents, pairs=latents.pairs[:m], values=latents.values[:, :m])


def _medians(
    quantity: str,
    values: Sequence[float],
    baselines: Mapping[str, Iterable[float]],
    ahead: str = "",
    **options: Any,
) -> Row:
    """Returns the row of a median; with ``ahead``, the claim that it is above this baseline."""
    number = Number(median(values), stdev(values))
    beside = {name: median(of) for name, of in baselines.items()}
    claim = f"above that of {ahead} (claim)" if ahead else NOT_READ
    expected = (beside[ahead], 1.0) if ahead else None
    return Row(quantity, claim, expected, number, len(values), beside, **options)


def _of_blocks(name: str, blocks: Sequence[Block]) -> list[Row]:
    def by(how: str) -> list[float]:
        return [block.explained[how] for block in blocks]

    return [
        _medians(
            f"{name}: R² of the block's output, linear map with mean rates, median over blocks",
            by(_RATES),
            {how: by(how) for how in (_CLOSED, _OPEN)},
            _CLOSED,
            better="higher",
        ),
        _medians(
            f"{name}: share of the map's singular values between 0.5 and 2, median over blocks",
            [block.near[_RATES] for block in blocks],
            {how: [block.near[how] for block in blocks] for how in ("branch alone", _OPEN)},
        ),
    ]


def _left(name: str, pairs: int, share: float, left: Mapping[int, Ablation]) -> Row:
    """Returns the row of what is lost when all but some pairs, which hold a share of the variance, are held."""
    found = left[pairs]
    lost, most = found.rest.accuracy, found.everything.accuracy
    assert lost is not None
    assert lost.chance is not None
    assert most is not None
    random = fmean(lost.chance)
    return Row(
        f"{name}: accuracy lost when all but {pairs} pairs are held at their mean",
        "below that with random pairs (claim: few directions are needed)",
        (-1.0, random - TIE),
        lost,
        found.images,
        {"everything held": most.value, RANDOM_KEPT: random},
        f"of {found.base_accuracy:.3f}, ± standard error over n images; the pairs hold "
        f"{share:.2f} of the variance; cross-entropy rises by {found.rest.loss.value:.3f}, with "
        f"everything held by {found.everything.loss.value:.3f} nats",
        "lower",
        reason=_unneeded(most.value, lost, {m: one for m, one in left.items() if m > pairs}),
    )


def _unneeded(everything: float, lost: Number, more: Mapping[int, Ablation]) -> str:
    """Returns why kept pairs may be worth no more than random ones, as far as it was measured."""
    if everything <= max(lost.spread or 0.0, TIE):
        return f"accuracy does not need this layer: with everything held at its mean, {everything:.3f} is lost"
    accuracies = {pairs: found.rest.accuracy for pairs, found in more.items()}
    words = [f"{pairs} lose {number.value:.3f}" for pairs, number in accuracies.items() if number is not None]
    return f"so few pairs are not enough: {', '.join(words)}" if words else ""


def _of_pairs(
    name: str,
    patterns: Sequence[Number],
    answered: Sequence[tuple[float, float]],
    chance: Sequence[tuple[float, float]],
) -> list[Row]:
    return [
        _medians(
            f"{name}: |cosine| of the forward patterns of two halves of the images, median over pairs",
            [number.value for number in patterns],
            {CHANCE: [fmean(number.chance) for number in patterns if number.chance is not None]},
            CHANCE,
            better="higher",
        ),
        _medians(
            f"{name}: correlation of the outputs' change with a pair's deviation gone and minus that with it doubled, "
            "median over pairs",
            [correlation for correlation, _ in answered],
            {SAME_CHANGE: [correlation for correlation, _ in chance]},
            note="1 for a linear answer, −1 for an even one",
        ),
        _medians(
            f"{name}: size of the second of these changes over that of the first, median over pairs",
            [ratio for _, ratio in answered],
            {SAME_CHANGE: [ratio for _, ratio in chance]},
            note="1 for a linear answer",
        ),
    ]


def _settings(size: Size) -> dict[str, str]:
    return {
        "images": f"at most {size.images:,} test images for rates and pairs, as many others for what these are worth; "
        f"{size.few} of each for blocks and decoder pictures",
        "linear map": "of each residual block that adds its input unchanged, at each frequency: the identity and the "
        "branch, batch norms folded in, the closest circulant for zero padding, each rectifier at the rate at which "
        "it is open. R² is of the sum before the last rectifier, less its mean over images",
        "pairs": "frequency and direction among channels: principal directions of the last convolution, the strongest",
    }
