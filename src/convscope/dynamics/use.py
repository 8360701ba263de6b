"""Which frequencies of the images a report's network uses, on a few images that the pass kept."""

from __future__ import annotations

from dataclasses import replace

import torch

from convscope.core.errors import ConvscopeError
from convscope.core.kept import KeptImages
from convscope.core.network import Network
from convscope.core.results import Skip
from convscope.dynamics.bias import dominant_frequency_bias
from convscope.dynamics.classified import PERMUTED, classifying, permuted, share
from convscope.dynamics.parts import FrequencyUse
from convscope.dynamics.result import DynamicsResult
from convscope.dynamics.structure import DatasetStructure
from convscope.dynamics.swap import swap_spectra

IMAGES = 256  # that are filtered
DRAWS = 3  # random rankings of frequencies
WHAT = "which frequencies the network uses"


def with_use(result: DynamicsResult, network: Network, kept: KeptImages, structure: DatasetStructure) -> DynamicsResult:
    """Returns the result with what a trained network makes of images with few frequencies; or why that is not known.

    Args:
        result: of the data set.
        network: trained on these classes.
        kept: images as the structure has them.
        structure: of the data set.
    """
    try:
        return replace(result, use=frequency_use(network, kept, structure))
    except ConvscopeError as error:
        return replace(result, skipped=(*result.skipped, Skip(WHAT, str(error))))


def frequency_use(network: Network, kept: KeptImages, structure: DatasetStructure) -> FrequencyUse:
    """Returns how right a network stays when images keep few frequencies, or other images' amplitudes.

    Args:
        network: as for ``with_use``.
        kept: likewise.
        structure: likewise.

    Raises:
        ConvscopeError: when the network does not fit the labels, or is no more right than chance.
    """
    images, labels = kept.labelled()
    images, labels = images[:IMAGES], labels[:IMAGES]
    if not len(images):
        raise ConvscopeError("none of the images that were kept has a label")
    with classifying(network, images, labels) as scores:
        guess = torch.cat([scores(x).argmax(1) for x in images.split(64)])
    clean = share(guess == labels, "clean_accuracy", permuted(guess, labels, 0), PERMUTED)
    if not clean.decided or clean.chance is None or clean.value < clean.chance[1]:
        raise ConvscopeError(
            f"{network.name} gives {clean.value:.0%} of {len(images)} images their label, no more than chance: it was "
            "trained on other classes, or not at all"
        )
    bias = dominant_frequency_bias(network, images, labels, structure, draws=DRAWS)
    numbers = {"clean_accuracy": clean}
    try:
        swap = swap_spectra(network, images, labels)
    except ConvscopeError:  # images of one class alone
        pass
    else:
        for number in (swap.follows_phase, swap.follows_amplitude, swap.preference, swap.same_class):
            numbers[number.definition] = number
    return FrequencyUse(
        numbers=numbers,
        counts=bias.counts,
        kept={str(name): curve for name, curve in bias.kept.items()} | {"random": bias.random_kept},
        facts={"network": network.name, "images": float(len(images)), "frequencies": float(bias.frequencies)},
    )
