"""Kept pairs of one convolution as pictures, with what they hold and what they matter."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from convscope.bottleneck.ablation import ablate
from convscope.bottleneck.collect import SpectrumSums
from convscope.bottleneck.conclude import DECIMALS, SHARE, Weights
from convscope.bottleneck.interventions import changed_outputs, module_outputs
from convscope.bottleneck.latents import Latents, latents_of
from convscope.bottleneck.pairs import KeptPairs, activation_pairs, weight_pairs
from convscope.bottleneck.patterns import DecoderPictures, decoder_pictures, forward_patterns
from convscope.bottleneck.shown import Decoded, KeptPair
from convscope.bottleneck.spectrum import ActivationSpectrum
from convscope.core.batches import Batch
from convscope.core.errors import ConvscopeError
from convscope.core.kept import KeptImages
from convscope.core.network import Network
from convscope.core.results import Number

MOST_PAIRS = 6
FEW = 64  # images on which it is measured what a pair costs
DRAWS = 3  # random changes beside each pair
OUTPUTS = 12  # those that change most
LARGEST = 2**26  # numbers in the covariances at all frequencies
SIDE = 40  # pixels of a pattern on the page; larger ones are averaged


def kept_pairs(network: Network, weights: Weights, kept: KeptImages) -> dict[str, Any]:
    """Returns the fields of the result that show the strongest kept pairs of one convolution.

    Where its weights keep a set of directions clearly, pairs are their singular vectors, else the principal directions
    of its activations. Kept directions that hardly vary between images are left out.

    Args:
        network: left as it was found.
        weights: of the convolution.
        kept: images, as the source gives them.

    Raises:
        ConvscopeError: when the pairs of this convolution cannot be had.
    """
    pairs = _pairs(network, weights, kept)
    latents = latents_of(network, weights.layer.name, kept.x, pairs)
    best = torch.argsort(latents.share, descending=True, stable=True)
    best = best[~latents.carriers[best]][:MOST_PAIRS]
    if not len(best):
        return {}
    layer, best_pairs = weights.layer.name, pairs[best]
    latents = latents_of(network, layer, kept.x, best_pairs)
    patterns = forward_patterns(latents, kept.x, kept.index)
    few = kept.x[:FEW]  # what a pair costs takes many forward passes
    of_few = latents_of(network, layer, few, best_pairs)
    costs = ablate(network, layer, few, of_few, first=len(best), draws=DRAWS)
    rows = zip(latents.pairs.frequencies.tolist(), latents.pairs.number.tolist(), strict=True)
    shown = []
    for i, ((ky, kx), number) in enumerate(rows):
        cost = costs.each[i].loss
        numbers = {
            "share": Number(float(latents.share[i]), definition="share"),
            "importance": Number(cost.value, cost.spread, cost.chance, "importance", cost.chance_name),
        }
        if pairs.source == "weights":
            numbers["gain"] = Number(float(latents.pairs.strength[i]), definition="gain")
        shown.append(KeptPair((ky, kx), number + 1, 2 if latents.pairs.multiplicity[i] == 1 else 4, numbers))
    phases = patterns.phases(4)
    stack = torch.cat([one[:: 4 // pair.pictures] for one, pair in zip(phases, shown, strict=True)])
    return {"pairs": tuple(shown), "patterns": _pixels(stack), "decoded": _decoded(network, layer, few, of_few)}


def _pairs(network: Network, weights: Weights, kept: KeptImages) -> KeptPairs:
    layer = weights.layer
    if weights.cbn.confidence in {"high", "medium"}:
        return weight_pairs(layer.raw, weights.cbn.profile, layer.factor)
    if math.prod(layer.size) * layer.shape[0] ** 2 > LARGEST:
        raise ConvscopeError("covariances of so many channels at so many frequencies are too large: use smaller images")
    return activation_pairs(whole_spectrum(network, layer.name, kept.x), SHARE, most=2 * MOST_PAIRS, scale=layer.factor)


def whole_spectrum(network: Network, layer: str, images: Tensor) -> ActivationSpectrum:
    """Returns the spectrum of a convolution's output over images, with all of its covariances.

    Args:
        network: left as it was found.
        layer: name of the convolution.
        images: [n, c, h, w], as the network's ``prepare`` takes them.
    """
    sums = SpectrumSums()
    for rows, maps in module_outputs(network, layer, images):
        sums.update(maps, Batch.of(images[rows], None, torch.arange(len(images))[rows]))
    return sums.compute()


def _decoded(network: Network, layer: str, images: Tensor, latents: Latents) -> Decoded:
    base = changed_outputs(network, layer, images, None)
    if base.ndim not in {2, 4}:
        return Decoded()

    def pictures(pair: int, *scales: float) -> DecoderPictures:
        return decoder_pictures(network, layer, images, latents, pair, scales, base)

    if base.ndim == 2:
        sizes = torch.stack([pictures(i, 0.0).size[0] for i in range(len(latents.pairs))])
        return _answers(sizes / base.double().std(0, correction=0))
    largest = latents.deviations.abs().argmax(0).tolist()
    # Copies, so that the other images' changes can go.
    return Decoded(
        pictures=_pixels(torch.cat([pictures(i, 0.0, 2.0).change[:, n].clone() for i, n in enumerate(largest)]))
    )


def _answers(share: Tensor) -> Decoded:
    """Returns the outputs with the largest shares, [m, k], in their order."""
    share = torch.where(share.isfinite(), share, torch.nan)
    few = share.nan_to_num(0).amax(0).topk(min(OUTPUTS, share.shape[1])).indices.sort().values
    return Decoded(tuple(few.tolist()), share[:, few].cpu().numpy().round(DECIMALS))


def _pixels(flat: Tensor) -> np.ndarray:
    """Returns pictures [m, c, h, w] as bytes [m, h', w', 3], all on one scale: mid-grey is 0."""
    flat = flat.to("cpu", torch.float64)
    if max(flat.shape[2:]) > SIDE:
        rows, columns = (max(1, round(side * SIDE / max(flat.shape[2:]))) for side in flat.shape[2:])
        flat = F.adaptive_avg_pool2d(flat, (rows, columns))
    if flat.shape[1] != 3:
        flat = flat.mean(1, keepdim=True).expand(-1, 3, -1, -1)
    scale = float(flat.abs().max()) or 1.0
    return (255 * (0.5 + flat / (2 * scale))).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).numpy()
