"""Hostile weights files."""

from __future__ import annotations

import io
import json
import pickle
import struct
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from inputs.hostile import (
    NETWORK,
    Command,
    Hostile,
    Touch,
    good_weights,
    kind,
    shuffled_bytes,
    small_network,
    state_dict,
    with_model,
)
from safetensors.torch import save, save_file
from torch import Tensor, nn


def _torch_bytes(content: Any, **options: Any) -> bytes:
    out = io.BytesIO()
    torch.save(content, out, **options)
    return out.getvalue()


def _file(folder: Path, name: str, content: bytes, network: str = "") -> Command:
    (folder / name).write_bytes(content)
    return with_model(folder, f"{network}{'@' if network else ''}{folder / name}")


@kind
def wrong_state_dict() -> Iterator[Hostile]:
    good = state_dict()
    dicts: dict[str, Any] = {
        "missing-bias": {k: v for k, v in good.items() if k != "4.bias"},
        "missing-first": {k: v for k, v in good.items() if k != "0.weight"},
        "extra": good | {"9.weight": torch.zeros(2)},
        "other-width": good | {"0.weight": torch.zeros(8, 3, 3, 3)},
        "other-kernel": good | {"0.weight": torch.zeros(4, 3, 5, 5)},
        "gray": good | {"0.weight": torch.zeros(4, 1, 3, 3)},
        "transposed": good | {"4.weight": good["4.weight"].T.contiguous()},
        "all-other": {f"layer{k}.weight": torch.zeros(3) for k in range(5)},
        "empty": {},
        "no-tensors": {"a": 1, "b": "text"},
        "optimiser": {"optimizer": {"state": {"0": torch.zeros(2)}}},
        "list": [torch.zeros(3)],
        "tensor": torch.zeros(3),
        "none": None,
        "number": 3,
        "two-dicts": {"a": dict(good), "b": dict(good)},
        "numbered-keys": {0: torch.zeros(3), 1: torch.zeros(2)},
    }
    for variant, content in dicts.items():

        def make(folder: Path, content=content) -> Command:
            return _file(folder, "w.pt", _torch_bytes(content), NETWORK)

        yield Hostile("wrong-state-dict", variant, make, True)


@kind
def pickled_code() -> Iterator[Hostile]:
    makers: dict[str, Callable[[Path], Any]] = {
        "bare": Touch,
        "beside-weights": lambda folder: {**state_dict(), "x": Touch(folder)},
        "nested": lambda folder: {"state_dict": state_dict(), "args": {"a": [Touch(folder)]}},
        "as-tensor": lambda folder: {"0.weight": Touch(folder)},
        "module": lambda folder: small_network(),
        "module-in-dictionary": lambda folder: {"model": small_network()},
        "path": lambda folder: {"file": folder},
        "class": lambda folder: {"class": nn.Conv2d},
    }
    for variant, content in makers.items():
        for form in ("zip", "legacy", "bare-pickle"):
            for network in ("", NETWORK):

                def make(folder: Path, content=content, form=form, network=network) -> Command:
                    made = content(folder)
                    if form == "bare-pickle":
                        return _file(folder, "w.pt", pickle.dumps(made), network)
                    return _file(
                        folder, "w.pth", _torch_bytes(made, _use_new_zipfile_serialization=form == "zip"), network
                    )

                yield Hostile("pickled-code", f"{variant}-{form}-{'network' if network else 'alone'}", make, True)


def _exported(change: Callable[[Path, str, bytes], bytes | None], folder: Path) -> bytes:
    """Returns an exported program of which each member was changed (None: left out)."""
    out, changed = io.BytesIO(), io.BytesIO()
    program = torch.export.export(small_network().eval(), (torch.zeros(1, 3, 8, 8),))
    torch.export.save(program, out)
    with zipfile.ZipFile(out) as archive, zipfile.ZipFile(changed, "w") as target:
        for name in archive.namelist():
            content = change(folder, name, archive.read(name))
            if content is not None:
                target.writestr(name, content)
    return changed.getvalue()


@kind
def exported_programs() -> Iterator[Hostile]:
    def replaced(ending: str, content: Callable[[Path, bytes], bytes | None]) -> Callable:
        return lambda folder, name, old: content(folder, old) if name.endswith(ending) else old

    def config(change: Callable[[dict], Any]) -> Callable:
        def changed(_folder: Path, old: bytes) -> bytes:
            content = json.loads(old)
            change(content["config"])
            return json.dumps(content).encode()

        return replaced("weights_config.json", changed)

    def graph(change: Callable[[dict], Any]) -> Callable:
        def changed(_folder: Path, old: bytes) -> bytes:
            content = json.loads(old)
            change(content["graph_module"]["graph"]["nodes"][0])
            return json.dumps(content).encode()

        return replaced("models/model.json", changed)

    def code(folder: Path, _old: bytes) -> bytes:
        return _torch_bytes(Touch(folder))

    def expression(folder: Path, old: bytes) -> bytes:
        text = f"__import__('pathlib').Path({str(folder / 'EXECUTED')!r}).touch()"
        return old.replace(b'{"as_int": 8}', json.dumps({"as_expr": {"expr_str": text}}).encode())

    first = "0.weight"
    changes: dict[str, tuple[Callable, bool | None]] = {
        "unchanged": (lambda _folder, _name, old: old, False),
        "code-in-inputs": (replaced("sample_inputs/model.pt", code), False),
        "code-in-weights": (replaced("weight_0", code), None),
        "code-marked": (config(lambda c: c[first].update(use_pickle=True)), True),
        "expression": (replaced("models/model.json", expression), False),
        "no-config": (replaced("weights_config.json", lambda *_: None), True),
        "no-weight": (replaced("weight_0", lambda *_: None), True),
        "short-weight": (replaced("weight_0", lambda _folder, old: old[:-8]), True),
        "odd-weight": (replaced("weight_0", lambda _folder, old: old[:-1]), True),
        "huge-sizes": (config(lambda c: c[first]["tensor_meta"].update(sizes=[{"as_int": 10**9}] * 4)), True),
        "repeated": (config(lambda c: c[first]["tensor_meta"].update(strides=[{"as_int": 0}] * 4)), None),
        "huge-repeated": (
            config(
                lambda c: c[first]["tensor_meta"].update(
                    strides=[{"as_int": 0}] * 4,
                    sizes=[{"as_int": 10**6}, {"as_int": 3}, {"as_int": 10**3}, {"as_int": 10**3}],
                )
            ),
            True,
        ),
        "negative-offset": (config(lambda c: c[first]["tensor_meta"].update(storage_offset={"as_int": -4})), True),
        "unknown-type": (config(lambda c: c[first]["tensor_meta"].update(dtype=99)), True),
        "config-is-list": (replaced("weights_config.json", lambda *_: b"[]"), True),
        "config-is-text": (replaced("weights_config.json", lambda *_: b"hello"), True),
        "deep-config": (replaced("weights_config.json", lambda *_: b"[" * 10**5), True),
        "no-graph": (replaced("models/model.json", lambda *_: None), False),
        "graph-is-text": (replaced("models/model.json", lambda *_: b"hello"), False),
        "stride-0": (graph(lambda n: n["inputs"].append({"name": "stride", "arg": {"as_ints": [0, 0]}})), None),
        "groups-0": (graph(lambda n: n["inputs"].append({"name": "groups", "arg": {"as_int": 0}})), None),
        "padding-words": (graph(lambda n: n["inputs"].append({"name": "padding", "arg": {"as_string": "<b>"}})), None),
        "climbing": (config(lambda c: c[first].update(path_name="../../../../etc/passwd")), True),
    }
    for variant, (change, fails) in changes.items():

        def make(folder: Path, change=change) -> Command:
            return _file(folder, "m.pt2", _exported(change, folder))

        yield Hostile("exported-program", variant, make, fails)


@kind
def other_containers() -> Iterator[Hostile]:
    def script(folder: Path) -> bytes:
        out = io.BytesIO()
        torch.jit.save(torch.jit.script(nn.Conv2d(3, 4, 3)), out)
        return out.getvalue()

    def tar(folder: Path) -> bytes:
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w") as archive:
            archive.addfile(tarfile.TarInfo("pickle"))
        return out.getvalue()

    def zipped(folder: Path, name: str = "a/data.pkl", content: bytes = b"") -> bytes:
        out = io.BytesIO()
        with zipfile.ZipFile(out, "w") as archive:
            archive.writestr(name, content)
        return out.getvalue()

    contents: dict[str, Callable[[Path], bytes]] = {
        "torchscript": script,
        "tar": tar,
        "empty": lambda _: b"",
        "text": lambda _: b"weights",
        "random": lambda _: shuffled_bytes(3000, 5),
        "hdf5": lambda _: b"\x89HDF\r\n\x1a\n" + bytes(100),
        "onnx": lambda _: b"\x08\x07\x12\x07pytorch",
        "gguf": lambda _: b"GGUF\x03\0\0\0" + bytes(50),
        "zip-of-nothing": lambda _: b"PK\x05\x06" + bytes(18),
        "zip-empty-pickle": zipped,
        "zip-code": lambda _: zipped(_, content=b"\x80\x02cos\nsystem\nX\x01\x00\x00\x00a\x85R."),
        "zip-of-text": lambda _: zipped(_, "readme.txt"),
        "pickle-stop": lambda _: b"\x80\x02.",
        "pickle-of-nothing": lambda _: b"\x80",
        "gzip": lambda _: b"\x1f\x8b\x08\0",
    }
    for variant, content in contents.items():

        def make(folder: Path, content=content) -> Command:
            return _file(folder, "w.pt", content(folder))

        yield Hostile("other-container", variant, make, True)


@kind
def truncated_weights() -> Iterator[Hostile]:
    for form in ("zip", "legacy", "safetensors"):
        for share in (0.001, 0.02, 0.1, 0.4, 0.7, 0.9, 0.99):

            def make(folder: Path, form=form, share=share) -> Command:
                tensors = state_dict()
                content = (
                    save(tensors)
                    if form == "safetensors"
                    else _torch_bytes(tensors, _use_new_zipfile_serialization=form == "zip")
                )
                name = "w.safetensors" if form == "safetensors" else "w.pt"
                return _file(folder, name, content[: max(1, int(share * len(content)))])

            yield Hostile("truncated-weights", f"{form}-{share}", make, True)


@kind
def lying_safetensors() -> Iterator[Hostile]:
    def packed(header: Any, body: bytes = bytes(432), length: int | None = None) -> bytes:
        text = header if isinstance(header, bytes) else json.dumps(header).encode()
        return struct.pack("<Q", len(text) if length is None else length) + text + body

    def entry(**changes: Any) -> dict:
        return {"conv.weight": {"dtype": "F32", "shape": [4, 3, 3, 3], "data_offsets": [0, 432]} | changes}

    contents = {
        "length-huge": packed(entry(), length=2**63),
        "length-beyond": packed(entry(), length=10**6),
        "length-0": packed(entry(), length=0),
        "not-json": packed(b"{hello"),
        "list": packed([]),
        "no-shape": packed({"conv.weight": {"dtype": "F32"}}),
        "shape-huge": packed(entry(shape=[2**40, 3, 3, 3])),
        "shape-negative": packed(entry(shape=[-4, 3, 3, 3])),
        "shape-overflow": packed(entry(shape=[2**32, 2**32, 2**32, 1])),
        "offsets-beyond": packed(entry(data_offsets=[0, 10**9])),
        "offsets-backwards": packed(entry(data_offsets=[432, 0])),
        "type-unknown": packed(entry(dtype="F99")),
        "overlap": packed(entry() | {"b": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}),
        "bytes-after": packed(entry(), bytes(500)),
        "deep": packed(b'{"a":' * 5000),
        "repeated-key": packed(b'{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"a":1}', b"x"),
    }
    for variant, content in contents.items():

        def make(folder: Path, content=content) -> Command:
            return _file(folder, "w.safetensors", content)

        yield Hostile("lying-safetensors", variant, make, True)


@kind
def strange_weights() -> Iterator[Hostile]:
    w = state_dict()["0.weight"]

    def changed(place: Any, value: float) -> Tensor:
        out = w.clone()
        out[place] = value
        return out

    weights: dict[str, tuple[Tensor, bool | None]] = {
        "nan": (changed((0, 0, 0, 0), torch.nan), True),
        "inf": (changed((0, 0, 0, 0), torch.inf), True),
        "all-nan": (torch.full_like(w, torch.nan), True),
        "zero": (torch.zeros_like(w), None),
        "one-dead-filter": (changed(1, 0.0), None),
        "huge": (w * 1e38, None),
        "tiny": (w * 1e-38, None),
        "complex": (w.to(torch.complex64), True),
        "int8": ((w * 30).to(torch.int8), True),
        "bool": (w > 0, True),
        "half": (w.half(), False),
        "bfloat16": (w.bfloat16(), False),
        "double": (w.double(), False),
        "float8": (w.to(torch.float8_e4m3fn), None),
        "no-filters": (w[:0], True),
        "no-kernel": (w[..., :0], True),
        "one-filter": (w[:1], None),
        "1x1": (torch.randn(4, 3, 1, 1), None),
        "41x41": (torch.randn(2, 3, 41, 41), None),
        "1x7": (torch.randn(4, 3, 1, 7), None),
        "even": (torch.randn(4, 3, 4, 4), None),
        "gray": (torch.randn(4, 1, 3, 3), None),
        "four-channels": (torch.randn(4, 4, 3, 3), True),
        "no-channels": (torch.randn(4, 0, 3, 3), True),
        "vector": (torch.randn(4), True),
        "volume": (torch.randn(4, 3, 3, 3, 3), True),
        "sequence": (torch.randn(4, 3, 3), True),
    }
    for variant, (value, fails) in weights.items():

        def make(folder: Path, value=value) -> Command:
            (folder / "w.pt").write_bytes(_torch_bytes({"conv.weight": value, "fc.weight": torch.zeros(2, 2)}))
            return with_model(folder, str(folder / "w.pt"))

        yield Hostile("strange-weights", variant, make, fails)

    unusual: dict[str, Callable[[], Tensor]] = {
        "sparse": w.to_sparse,
        "expanded": lambda: torch.zeros(1).expand(10**6, 3, 1000, 1000),
        "transposed": lambda: w.transpose(2, 3),
        "parameter": lambda: nn.Parameter(w),
    }
    for variant, build in unusual.items():

        def make_unusual(folder: Path, build=build) -> Command:
            (folder / "w.pt").write_bytes(_torch_bytes({"conv.weight": build()}))
            return with_model(folder, str(folder / "w.pt"))

        yield Hostile("strange-weights", variant, make_unusual, variant in {"sparse", "expanded"})


@kind
def strange_keys() -> Iterator[Hostile]:
    w = state_dict()["0.weight"]
    keys = (
        "weight",
        "forward.weight",
        "<script>alert(1)</script>.weight",
        "a\nb.weight",
        "..weight",
        "",
        ".",
        "training",
        "_modules.weight",
        "日本.weight",
        "a" * 500 + ".weight",
        "conv1/kernel:0",
        "T_destination.weight",
    )
    for number, key in enumerate(keys):

        def make(folder: Path, key=key) -> Command:
            save_file({key: w}, folder / "w.safetensors")
            return with_model(folder, str(folder / "w.safetensors"))

        yield Hostile("strange-key", str(number), make, False)


@kind
def bad_initial_weights() -> Iterator[Hostile]:
    def init(folder: Path, tensors: Any, network: bool = False) -> Command:
        (folder / "init.pt").write_bytes(_torch_bytes(tensors))
        model = f"{NETWORK}@{good_weights(folder)}" if network else good_weights(folder)
        return with_model(folder, model, "--init", str(folder / "init.pt"))

    good = state_dict(1)
    cases: dict[str, tuple[Any, bool | None]] = {
        "good": (good, False),
        "other-shape": (good | {"0.weight": torch.zeros(4, 3, 5, 5)}, True),
        "other-width": (good | {"0.weight": torch.zeros(9, 3, 3, 3)}, True),
        "other-name": ({f"x.{k}": v for k, v in good.items()}, None),
        "nan": (good | {"0.weight": torch.full((4, 3, 3, 3), torch.nan)}, True),
        "empty": ({}, True),
        "list": ([], True),
    }
    for variant, (tensors, fails) in cases.items():
        for network in (False, True):
            make = partial(init, tensors=tensors, network=network)
            yield Hostile("bad-initial-weights", f"{variant}-{'network' if network else 'alone'}", make, fails)

    def missing(folder: Path) -> Command:
        return with_model(folder, good_weights(folder), "--init", str(folder / "nowhere.pt"))

    yield Hostile("bad-initial-weights", "missing", missing, True)
