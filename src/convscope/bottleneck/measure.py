"""The activation spectrum of every convolution, from Python."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from torch import nn

from convscope.bottleneck.collect import BUDGET, IMAGES, feed_spectra
from convscope.bottleneck.spectrum import ActivationSpectrum
from convscope.core.errors import ConvscopeError
from convscope.core.network import Network
from convscope.core.passes import Pass
from convscope.inputs.iterables import IterableSource

log = logging.getLogger("convscope")


def activation_spectrum(
    model: nn.Module,
    batches: Iterable[Any],
    *,
    layers: Collection[str] | None = None,
    images: int | None = IMAGES,
    budget: int = BUDGET,
    progress: bool = False,
) -> Mapping[str, ActivationSpectrum]:
    """Returns how what every convolution returns varies over images, frequency by frequency.

    These are the maps before any batch norm or activation function; ``scaled`` folds a batch norm in. One forward pass
    for each image serves all layers. The network is left as it was found.

    Args:
        model: any module that maps images [n, c, h, w] to something.
        batches: tensors [n, c, h, w] of one size, (images, labels) pairs, a ``DataLoader``, ....
        layers: names of the convolutions; None for all.
        images: about how many images to use, spread over the data; None, or where their number cannot be known
            beforehand, for all.
        budget: bytes that all sums may take. Layers whose covariances do not fit keep a sketch, those where that does
            not fit either the variances alone: their ``exact`` is false.
        progress: whether to show a progress bar.

    Returns:
        Name of each convolution to its ``ActivationSpectrum``, in the order in which they run. A convolution that
        cannot be analysed is left out with a warning; when that is true of all, the error says why.

    Raises:
        ConvscopeError: when the network or the images cannot be analysed; the message says what to do.
        TypeError: when the model is no module.

    Example:
        >>> import torch
        >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 1))
        >>> spectra = activation_spectrum(net, torch.rand(40, 3, 10, 12))
        >>> found = spectra["0"]
        >>> found.n, found.size, found.variance.shape, int(found.multiplicity.sum())
        (40, (8, 10), torch.Size([42]), 80)
        >>> 0 < spectra["2"].rank(0.99) <= 4 * 80
        True
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    p = Pass(IterableSource(batches), progress=progress)
    slots = feed_spectra(p, Network(type(model).__name__, model), layers, images, budget)
    p.run()
    found: dict[str, ActivationSpectrum] = {}
    reasons: dict[str, str] = {}
    for name, slot in slots.items():
        try:
            found[name] = slot.value()
        except ConvscopeError as error:
            reasons[name] = str(error)
        slot.release()
    if not found:
        name, reason = next(iter(reasons.items()))
        raise ConvscopeError(f"no convolution could be analysed; {name}: {reason}")
    for name, reason in reasons.items():
        log.warning("%s is left out: %s", name, reason)
    return found
