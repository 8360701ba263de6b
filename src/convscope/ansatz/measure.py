"""The patch AGOP of every convolution, from Python."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from typing import Any

from torch import nn

from convscope.ansatz.agop import PatchAgop
from convscope.ansatz.collect import SentBack, What, feed_agop, probes_needed, with_init
from convscope.core.errors import ConvscopeError
from convscope.core.network import Network
from convscope.core.passes import Pass
from convscope.core.results import Skip
from convscope.inputs.iterables import IterableSource

log = logging.getLogger("convscope")


def patch_agop(
    model: nn.Module,
    batches: Iterable[Any],
    exact: bool = False,
    probes: int | None = None,
    *,
    outputs: What = "logits",
    centred: bool = False,
    classes: Collection[int] = (),
    layers: Collection[str] | None = None,
    init: nn.Module | None = None,
    seed: int = 0,
    progress: bool = False,
) -> Mapping[str, PatchAgop]:
    """Returns the average gradient outer product over the patches of every convolution of a network.

    AGOP = (1/n) sum over images, outputs and positions of the gradient of an output with respect to a patch, times
    itself transposed (Beaglehole et al. 2023). One forward and one backward pass for each probe, or for each output
    when exact, serve all layers; no patch is formed. The network is left as it was found.

    Args:
        model: any module that maps images [n, c, h, w] to class scores [n, o].
        batches: tensors [n, c, h, w], (images, labels) pairs, a ``DataLoader``, ....
        exact: whether to send back each output in turn; else random signs for all outputs at once, whose outer
            products are right on average.
        probes: number of draws of random signs for each image; None: as many as make the standard error of every
            layer's correlation, as far as it comes from the draws, about 0.01, and at most 16.
        outputs: "logits", "probabilities", or "loss" (cross-entropy with the batches' labels; one vector an image,
            so that it is always exact).
        centred: whether to remove from the gradients their mean over images, for each output and position; needs
            exact, and layers that are called once.
        classes: numbers of outputs whose gradients are also kept apart, in each result's ``of_output``.
        layers: names of the convolutions; None for all.
        init: the same network before training, for the change of the weights; a convolution whose weights it does
            not have in the same shape, or not finite, goes without, with a warning.
        seed: of the draws.
        progress: whether to show a progress bar.

    Returns:
        Name of each convolution to its ``PatchAgop``, in the order in which they run. A convolution whose gradients
        cannot be had is left out with a warning; when that is true of all, the error says why.

    Raises:
        ConvscopeError: when the network or the images cannot be analysed; the message says what to do.
        TypeError: when the model is no module.
        ValueError: for options that cannot go together, or fewer than one probe.

    Example:
        >>> import torch
        >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2))
        >>> result = patch_agop(net, torch.rand(16, 3, 8, 8), exact=True)["0"]
        >>> result.agop.shape, result.agop.dtype
        (torch.Size([27, 27]), torch.float64)
        >>> 0 < result.correlation() <= 1
        True
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    if exact and probes is not None:
        raise ValueError("exact sends back each output and needs no probes: give one of the two")
    sent = SentBack(outputs, exact, 1 if probes is None else probes, centred, tuple(classes), seed=seed)
    p = Pass(IterableSource(batches), progress=progress)
    network = Network(type(model).__name__, model)
    if probes is None:
        sent = replace(sent, probes=probes_needed(p, network, sent, layers))
    finish = feed_agop(p, network, sent, layers)
    starts = {} if init is None else {c.name: c for c in p.convs(Network("the network before training", init))}
    p.run()
    found: dict[str, PatchAgop] = {}
    skipped: list[Skip] = []
    for result in finish():
        if isinstance(result, Skip):
            skipped.append(result)
            continue
        found[result.layer] = result
        if init is not None:
            try:
                found[result.layer] = with_init(result, starts)
            except ConvscopeError as error:
                skipped.append(Skip(f"{result.layer} before training", str(error)))
    if not found:
        raise ConvscopeError(f"no convolution could be analysed; {skipped[0].what}: {skipped[0].reason}")
    for skip in skipped:
        log.warning("%s is left out: %s", skip.what, skip.reason)
    return found
