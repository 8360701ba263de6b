"""Reading and changing what one module of an unmodified network puts out."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from convscope.core.delivery import run_network
from convscope.core.errors import ConvscopeError
from convscope.core.network import Network
from convscope.core.taps import ConvCall, Enough, left_as_found, logits

BATCH = 64  # images at once

#: Takes what a module put out for some images, [n, ...], and where these stand in the set; returns what goes on.
Change = Callable[[Tensor, slice], Tensor]


def module_of(network: Network, name: str) -> nn.Module:
    """Returns the module of that name.

    Args:
        network: whose module.
        name: as ``named_modules`` gives it; what compiling puts before it is left out.

    Raises:
        ConvscopeError: when there is none.
    """
    known = {key.replace("_orig_mod.", ""): module for key, module in network.module.named_modules()}
    if name not in known or isinstance(known[name], torch.jit.ScriptModule):
        raise ConvscopeError(
            f"{network.name} has no module {name!r} whose output can be replaced: expected the name of an nn.Module; "
            "convolutions that are called as functions cannot be changed"
        )
    return known[name]


def convolution_of(network: Network, name: str) -> nn.Conv2d:
    """Returns the convolution of that name.

    Args:
        network: whose convolution.
        name: as ``named_modules`` gives it.

    Raises:
        ConvscopeError: when there is none.
    """
    module = module_of(network, name)
    if not isinstance(module, nn.Conv2d):
        raise ConvscopeError(f"{name!r} of {network.name} is a {type(module).__name__}: expected an nn.Conv2d")
    return module


@contextmanager
def replaced(module: nn.Module, change: Callable[[Tensor], Tensor]) -> Generator[None]:
    """Replaces what a module puts out by what ``change`` makes of it, inside the context; then all is as before.

    Args:
        module: whose output.
        change: from output to output; may raise ``Enough`` to end the forward pass.
    """
    handle = module.register_forward_hook(lambda _module, _inputs, output: change(output))
    try:
        yield
    finally:
        handle.remove()


def module_outputs(network: Network, name: str, images: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Yields what a module puts out, [n, ...], with the place of these images in the set; the rest is not computed.

    Args:
        network: left as it was found.
        name: of the module.
        images: [n, c, h, w], as the network's ``prepare`` takes them.

    Raises:
        ConvscopeError: when there is no such module, or it does not run once on all images of a batch.
    """
    module = _module_that_runs_once(network, name, images)
    found: list[Tensor] = []

    def keep(output: Tensor) -> Tensor:
        found.append(output.detach())
        raise Enough

    for rows in _batches(len(images)):
        _run(network, module, keep, images[rows])
        yield rows, found.pop()


def changed_outputs(network: Network, name: str, images: Tensor, change: Change | None) -> Tensor:
    """Returns what the network puts out when the output of one of its modules is changed, [n, ...].

    Args:
        network: left as it was found.
        name: of the module.
        images: [n, c, h, w], as the network's ``prepare`` takes them.
        change: of the module's output; None: as it is.

    Raises:
        ConvscopeError: when there is no such module, it does not run once on all images of a batch, or the network's
            output is no tensor with an entry for each image.
    """
    module = _module_that_runs_once(network, name, images)
    results = []
    for rows in _batches(len(images)):

        def altered(output: Tensor, rows: slice = rows) -> Tensor:
            return output if change is None else change(output, rows)

        output, n = _run(network, module, altered, images[rows]), rows.stop - rows.start
        whole = isinstance(output, Tensor) and output.is_floating_point() and output.shape[:1] == (n,)
        results.append((output if whole else logits(output, n)).detach())
    return torch.cat(results)


def _module_that_runs_once(network: Network, name: str, images: Tensor) -> nn.Module:
    if not len(images):
        raise ConvscopeError("no images were given: give at least one")
    module, sizes = module_of(network, name), []

    def see(output: Tensor) -> Tensor:
        sizes.append(len(output))
        return output

    _run(network, module, see, images[:1])
    if sizes != [1]:
        how = f"runs {len(sizes)} times" if len(sizes) != 1 else f"sees {sizes[0]} maps"
        raise ConvscopeError(
            f"{name!r} of {network.name} {how} for each image: only modules that run once on one map can be analysed"
        )
    return module


def _batches(n: int) -> Iterator[slice]:
    for start in range(0, n, BATCH):
        yield slice(start, min(start + BATCH, n))


def _run(network: Network, module: nn.Module, change: Callable[[Tensor], Tensor], images: Tensor) -> Any:
    with left_as_found([network.module]), torch.no_grad(), replaced(module, change):
        return run_network(network, images, _ignore)[1]


def _ignore(_call: ConvCall) -> None:
    pass
