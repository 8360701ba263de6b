"""Taps: what flows through every convolution of an unmodified network.

Taps see *calls* of ``conv2d``, not modules: functional, weight-standardised, traced and exported networks look alike.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from convscope.core.errors import ConvscopeError
from convscope.core.geometry import ConvGeometry

_CONV2D = {torch.conv2d, torch.ops.aten.conv2d.default, torch.ops.aten.conv2d.padding}
_CONVOLUTION = {torch.convolution, torch.ops.aten.convolution.default}
_CONV2D_ARGUMENTS = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")
_CONVOLUTION_ARGUMENTS = (*_CONV2D_ARGUMENTS[:6], "transposed", "output_padding", "groups")


@dataclass(frozen=True, eq=False)
class ConvCall:
    """One call of a two-dimensional convolution.

    Attributes:
        name: the layer's name; calls with one weight share it.
        input: [n, c, h, w], what the convolution saw, before its zero padding.
        weight: [k, c / groups, q, r], the weight that was used (after any parametrisation).
        output: [n, k, h', w'].
        geometry: as called; a border that was filled beforehand (reflect, circular) is part of ``input``.
    """

    name: str
    input: Tensor
    weight: Tensor
    output: Tensor
    geometry: ConvGeometry


class Enough(BaseException):
    """Raised by a tap's callback to end a forward pass whose rest nobody needs."""


class _Tap(TorchFunctionMode):
    def __init__(self, module: nn.Module, seen: Callable[[ConvCall], None]) -> None:
        super().__init__()
        self.seen = seen
        self.inside: list[str] = []  # names of the modules that are running, innermost last
        self.anonymous: list[int] = []  # convolutions without a named weight that each of them has called
        self.names: dict[int, str] = {}
        for name, parameter in module.named_parameters(remove_duplicate=False):
            self.names.setdefault(id(parameter), _plain(name).removesuffix(".weight"))

    def __torch_function__(
        self, func: Callable, types: Sequence[type], args: tuple = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        output = func(*args, **kwargs)
        order = _CONV2D_ARGUMENTS if func in _CONV2D else _CONVOLUTION_ARGUMENTS if func in _CONVOLUTION else None
        if order is None:
            return output
        call = dict(zip(order, args, strict=False)) | dict(kwargs)
        if call["weight"].ndim == 4 and not call.get("transposed", False):
            self._report(call, output)
        return output

    def _report(self, call: dict[str, Any], output: Tensor) -> None:
        weight, x = call["weight"], call["input"]
        geometry = ConvGeometry.of_call(
            weight.shape, call.get("stride", 1), call.get("padding", 0), call.get("dilation", 1), call.get("groups", 1)
        )
        with torch._C.DisableTorchFunction():
            batched = x if x.ndim == 4 else x[None]
            self.seen(ConvCall(self._name(weight), batched, weight, output if x.ndim == 4 else output[None], geometry))

    def _name(self, weight: Tensor) -> str:
        if id(weight) in self.names:
            return self.names[id(weight)] or "weight"
        # A weight computed on the fly belongs to the module that is running; a second one there gets a number.
        self.anonymous[-1] += 1
        where, number = self.inside[-1] or "conv", self.anonymous[-1]
        return where if number == 1 else f"{where}#{number}"


def _plain(name: str) -> str:
    # torch.compile wraps modules; users know them by their own names.
    return ".".join(part for part in name.split(".") if part != "_orig_mod")


@contextmanager
def tapped(module: nn.Module, seen: Callable[[ConvCall], None]) -> Generator[None]:
    """Calls ``seen`` at every two-dimensional convolution of ``module`` that runs inside the context.

    The callback may raise ``Enough`` to end the forward pass. Only names rest on hooks, which are gone afterwards.

    Args:
        module: the network.
        seen: called after each convolution, in order, with torch functions untapped.
    """
    tap = _Tap(module, seen)

    def enter(name: str) -> Callable:
        def hook(_module: nn.Module, _args: Any) -> None:
            tap.inside.append(name)
            tap.anonymous.append(0)

        return hook

    def leave(_module: nn.Module, _args: Any, _output: Any) -> None:
        if tap.inside:  # another hook may have failed before ours entered
            tap.inside.pop()
            tap.anonymous.pop()

    handles = []
    # Compiled modules would hide their convolutions. Where nothing was compiled, asking would take seconds.
    stance = getattr(torch.compiler, "set_stance", None) if "torch._dynamo" in sys.modules else None
    try:
        for name, child in module.named_modules():
            if not isinstance(child, torch.jit.ScriptModule):
                handles += [
                    child.register_forward_pre_hook(enter(_plain(name))),
                    child.register_forward_hook(leave, always_call=True),
                ]
        with stance("force_eager") if stance else nullcontext(), tap:
            yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def left_as_found(modules: Sequence[nn.Module]) -> Generator[None]:
    """Puts modules into evaluation mode; afterwards their modes, buffers and the random state are as before."""
    training = [(m, m.training) for module in modules for m in module.modules()]
    buffers = [(b, b.detach().clone()) for module in modules for b in module.buffers()]
    try:
        with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
            # Exported modules refuse eval(); the flag is what counts.
            for m, _ in training:
                m.training = False
            yield
    finally:
        for module, mode in training:
            module.training = mode
        with torch.no_grad():
            for buffer, before in buffers:
                if not torch.equal(buffer, before):
                    buffer.copy_(before)


def device_and_dtype(module: nn.Module) -> tuple[torch.device, torch.dtype]:
    """Returns where a module's first floating-point parameter or buffer lies, and its dtype (CPU, float32 without)."""
    for tensor in (*module.parameters(), *module.buffers()):
        if tensor.is_floating_point():
            return tensor.device, tensor.dtype
    return torch.device("cpu"), torch.float32


def forward(module: nn.Module, images: Tensor, seen: Callable[[ConvCall], None], name: str = "the network") -> Any:
    """Returns what the network returns for prepared images, with its convolutions tapped.

    Args:
        module: the network, in evaluation mode.
        images: [n, c, h, w], on the module's device and in its dtype.
        seen: called at every convolution; may raise ``Enough``, then None is returned.
        name: how errors call the network.

    Raises:
        ConvscopeError: when the network cannot take such images.
    """
    try:
        with tapped(module, seen), warnings.catch_warnings():
            warnings.simplefilter("ignore", category=FutureWarning)
            return module(images)
    except Enough:
        return None
    except ConvscopeError:
        raise
    except Exception as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        shape = "x".join(map(str, images.shape[1:]))
        raise ConvscopeError(
            f"{name} fails on images of shape {shape} ({reason[:200]}): check channels and size, "
            "or resize the images to what the network was trained on"
        ) from error


def logits(output: Any, n: int) -> Tensor:
    """Returns the class scores [n, o] in what a network returned.

    Networks with auxiliary outputs return a tuple or a mapping; the scores are the first tensor of shape [n, o] in it.

    Raises:
        ConvscopeError: when there is none.
    """
    candidates = [output]
    if isinstance(output, Mapping):
        candidates = [output[k] for k in ("logits", "out") if k in output] + list(output.values())
    elif isinstance(output, tuple | list):
        candidates = list(output)
    elif hasattr(output, "logits"):
        candidates = [output.logits]
    for tensor in candidates:
        if isinstance(tensor, Tensor) and tensor.ndim == 2 and tensor.shape[0] == n and tensor.is_floating_point():
            return tensor
    raise ConvscopeError(
        f"the network's output is no [images, classes] tensor of numbers but {_describe(output)}: "
        "wrap the network so that it returns class scores"
    )


def _describe(output: Any) -> str:
    if isinstance(output, Tensor):
        return f"a tensor of shape {list(output.shape)} and {output.dtype}"
    return type(output).__name__
