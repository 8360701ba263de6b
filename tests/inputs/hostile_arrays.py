"""Hostile arrays: npy, npz, idx and CIFAR files."""

from __future__ import annotations

import gzip
import io
import pickle
import struct
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from inputs.hostile import Command, Hostile, Touch, kind, pixels, shuffled_bytes, with_images


def _saved(folder: Path, name: str, *arrays: Any, **named: Any) -> Command:
    file = folder / name
    if name.endswith(".npy"):
        np.save(file, *arrays, allow_pickle=True)
    else:
        np.savez(file, *arrays, **named)
    return with_images(folder, str(file))


def _raw(folder: Path, name: str, content: bytes) -> Command:
    (folder / name).write_bytes(content)
    return with_images(folder, str(folder / name))


@kind
def not_finite_pixels() -> Iterator[Hostile]:
    for value in (np.nan, np.inf, -np.inf):
        for share in ("one", "some", "all"):
            for dtype in (np.float32, np.float16):

                def make(folder: Path, value=value, share=share, dtype=dtype) -> Command:
                    images = (pixels(10) / 255).astype(dtype)
                    images[{"one": (3, 0, 0, 0), "some": slice(0, 6), "all": ...}[share]] = value
                    return _saved(folder, "x.npy", images)

                yield Hostile("not-finite-pixels", f"{value}-{share}-{np.dtype(dtype)}", make, share == "all")


@kind
def wrong_channels() -> Iterator[Hostile]:
    for c in (0, 2, 4, 5, 6, 16):
        for last in (True, False):

            def make(folder: Path, c=c, last=last) -> Command:
                return _saved(folder, "x.npy", np.zeros((6, 8, 8, c) if last else (6, c, 8, 8), np.uint8))

            yield Hostile("wrong-channels", f"{c}-{'last' if last else 'first'}", make, True)


@kind
def strange_arrays() -> Iterator[Hostile]:
    good = pixels(8)
    arrays: dict[str, tuple[np.ndarray, bool | None]] = {
        "complex": (good.astype(complex), True),
        "text": (np.array(["a", "b"]), True),
        "bytes": (np.array([b"a", b"b"]), True),
        "dates": (np.zeros((4, 8, 8), "datetime64[s]"), True),
        "records": (np.zeros((4, 8, 8), [("r", "u1"), ("g", "u1")]), True),
        "void": (np.zeros((4, 8, 8), "V3"), True),
        "scalar": (np.array(3), True),
        "one-axis": (np.zeros(30, np.uint8), True),
        "two-axes": (np.zeros((8, 784), np.uint8), True),
        "five-axes": (np.zeros((2, 2, 8, 8, 3), np.uint8), True),
        "no-image": (np.zeros((0, 8, 8, 3), np.uint8), True),
        "no-rows": (np.zeros((4, 0, 8, 3), np.uint8), True),
        "ambiguous": (np.zeros((4, 3, 8, 3), np.uint8), True),
        "one-image": (good[0], True),
        "big-endian": (good.astype(">i4"), False),
        "fortran": (np.asfortranarray(good), False),
        "negative": (good.astype(float) - 100, True),
        "huge-floats": (good.astype(float) * 1e30, True),
        "huge-integers": (good.astype(np.int64) * 10**15, True),
        "16-bit": (good.astype(np.uint16) * 257, False),
        "bool": (good > 99, False),
        "float64": (good / 255.0, False),
        "up-to-255": (good.astype(np.float32), False),
        "subnormal": (np.full((4, 8, 8, 3), 1e-310), None),
    }
    for variant, (array, fails) in arrays.items():

        def make(folder: Path, array=array) -> Command:
            return _saved(folder, "x.npy", array)

        yield Hostile("strange-array", variant, make, fails)


@kind
def strange_npz() -> Iterator[Hostile]:
    x = pixels(6)

    def member(name: str, content: bytes) -> bytes:
        out = io.BytesIO()
        with zipfile.ZipFile(out, "w") as archive:
            archive.writestr(name, content)
        return out.getvalue()

    def npy(array: np.ndarray) -> bytes:
        out = io.BytesIO()
        np.save(out, array)
        return out.getvalue()

    contents: dict[str, tuple[bytes, bool | None]] = {
        "no-members": (member("x", b"")[:0] + b"PK\x05\x06" + bytes(18), True),
        "text-member": (member("readme.txt", b"hello"), True),
        "garbage-member": (member("images.npy", b"garbage"), True),
        "empty-member": (member("images.npy", b""), True),
        "absolute-name": (member("/etc/images.npy", npy(x)), None),
        "climbing-name": (member("../../images.npy", npy(x)), None),
        "html-name": (member("<b>images</b>.npy", npy(x)), False),
        "newline-name": (member("a\nb.npy", npy(x)), False),
        "python2-header": (member("images.npy", npy(x).replace(b"'shape'", b"'shapf'")), True),
        "code-in-header": (member("images.npy", npy(x).replace(b"False", b"exit(")), True),
        "version-9": (member("images.npy", npy(x).replace(b"\x93NUMPY\x01", b"\x93NUMPY\x09")), True),
        "not-a-zip": (b"PK\x03\x04" + shuffled_bytes(500, 3), True),
        "npy-as-npz": (npy(x), False),
    }
    for variant, (content, fails) in contents.items():

        def make(folder: Path, content=content) -> Command:
            return _raw(folder, "x.npz", content)

        yield Hostile("strange-npz", variant, make, fails)

    def several(folder: Path) -> Command:
        return _saved(folder, "x.npz", a=x, b=x)

    yield Hostile("strange-npz", "several", several, True)

    def only_labels(folder: Path) -> Command:
        return _saved(folder, "x.npz", labels=np.arange(4))

    yield Hostile("strange-npz", "only-labels", only_labels, True)


@kind
def truncated_arrays() -> Iterator[Hostile]:
    for ending in ("npy", "npz"):
        for share in (0.001, 0.01, 0.1, 0.3, 0.6, 0.9, 0.99):

            def make(folder: Path, ending=ending, share=share) -> Command:
                out = io.BytesIO()
                if ending == "npy":
                    np.save(out, pixels(8))
                else:
                    np.savez_compressed(out, images=pixels(8))
                content = out.getvalue()
                return _raw(folder, f"x.{ending}", content[: max(1, int(share * len(content)))])

            yield Hostile("truncated-array", f"{ending}-{share}", make, True)


@kind
def lying_headers() -> Iterator[Hostile]:
    shapes = (
        "(10**9, 32, 32, 3)",
        "(1000000000000, 3, 3, 3)",
        "(-1, 8, 8, 3)",
        "(6, 8, 8, 3, )*9",
        "(6.5, 8, 8, 3)",
        "(99, 8, 8, 3)",
        "(9223372036854775807, 9223372036854775807, 3)",
        "()",
        "(True, 8, 8, 3)",
        "([6], 8, 8, 3)",
    )
    for number, shape in enumerate(shapes):
        for ending in ("npy", "npz"):

            def make(folder: Path, shape=shape, ending=ending) -> Command:
                text = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}, }}"
                header = text.ljust(117) + "\n"
                content = b"\x93NUMPY\x01\0" + struct.pack("<H", len(header)) + header.encode() + pixels(6).tobytes()
                if ending == "npz":
                    with zipfile.ZipFile(folder / "x.npz", "w") as archive:
                        archive.writestr("images.npy", content)
                    return with_images(folder, str(folder / "x.npz"))
                return _raw(folder, "x.npy", content)

            yield Hostile("lying-header", f"{number}-{ending}", make, True)


@kind
def zip_bombs() -> Iterator[Hostile]:
    def patched(content: bytes, size: int) -> bytes:
        # The central directory is what readers believe; its entry holds the uncompressed size at offset 24.
        place = content.rindex(b"PK\x01\x02")
        return content[: place + 24] + struct.pack("<I", size) + content[place + 28 :]

    for size in (2**32 - 2, 2**31, 10**9, 10**6, 1, 0):
        for deflated in (True, False):

            def make(folder: Path, size=size, deflated=deflated) -> Command:
                out = io.BytesIO()
                (np.savez_compressed if deflated else np.savez)(out, images=pixels(6))
                return _raw(folder, "x.npz", patched(out.getvalue(), size))

            yield Hostile("zip-bomb", f"{size}-{'deflated' if deflated else 'stored'}", make)

    for method in (zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):

        def bomb(folder: Path, method=method) -> Command:
            with zipfile.ZipFile(folder / "x.npz", "w", method) as archive, archive.open("images.npy", "w") as file:
                header = io.BytesIO()
                np.lib.format.write_array_header_1_0(
                    header, {"descr": "|u1", "fortran_order": False, "shape": (10**7, 1000, 1000, 3)}
                )
                file.write(header.getvalue() + bytes(10**7))
            return with_images(folder, str(folder / "x.npz"))

        yield Hostile("zip-bomb", f"real-{method}", bomb, True)


def _idx(*shape: int, content: bytes | None = None, code: int = 8) -> bytes:
    size = int(np.prod(shape)) if content is None else 0
    body = pixels(size, 1, 1, 1).tobytes() if content is None else content
    return bytes([0, 0, code, len(shape)]) + b"".join(struct.pack(">I", s) for s in shape) + body


@kind
def broken_idx() -> Iterator[Hostile]:
    good = _idx(6, 8, 8)
    contents: dict[str, tuple[bytes, bool | None]] = {
        "huge": (_idx(2**32 - 1, 2**32 - 1, 2**32 - 1, content=b"abc"), True),
        "large": (_idx(60000, 28, 28, content=bytes(1000)), True),
        "short": (good[:-1], True),
        "long": (good + b"x", True),
        "header-cut": (good[:9], True),
        "magic-cut": (good[:3], True),
        "floats": (_idx(6, 8, 8, code=0x0D), True),
        "labels": (_idx(12), True),
        "nine-axes": (_idx(1, 1, 1, 1, 1, 1, 1, 1, 1), True),
        "no-images": (_idx(0, 28, 28), True),
        "no-rows": (_idx(6, 0, 28), True),
        "good": (good, False),
    }
    for variant, (content, fails) in contents.items():
        for zipped in (False, True):

            def make(folder: Path, content=content, zipped=zipped) -> Command:
                name = "train-images-idx3-ubyte" + (".gz" if zipped else "")
                return _raw(folder, name, gzip.compress(content) if zipped else content)

            yield Hostile("broken-idx", f"{variant}{'-gz' if zipped else ''}", make, fails)

    def bomb(folder: Path) -> Command:
        return _raw(folder, "train-images-idx3-ubyte.gz", gzip.compress(_idx(6, 8, 8) + bytes(10**7)))

    yield Hostile("broken-idx", "gz-bomb", bomb, True)

    def cut(folder: Path) -> Command:
        return _raw(folder, "train-images-idx3-ubyte.gz", gzip.compress(good)[:-12])

    yield Hostile("broken-idx", "gz-cut", cut, True)

    def labels_missing(folder: Path) -> Command:
        (folder / "train-labels-idx1-ubyte").write_bytes(_idx(5))
        return _raw(folder, "train-images-idx3-ubyte", good)

    yield Hostile("broken-idx", "too-few-labels", labels_missing, True)


@kind
def bad_labels() -> Iterator[Hostile]:
    n = 10
    ragged = np.empty(n, object)
    labels: dict[str, tuple[Any, bool | None]] = {
        "short": (np.arange(n - 1), True),
        "long": (np.arange(n + 1), True),
        "empty": (np.zeros(0, int), True),
        "scalar": (np.array(3), True),
        "two-columns": (np.zeros((n, 2), int), True),
        "objects": (ragged, True),
        "floats": (np.linspace(0, 1, n), False),
        "nan": (np.full(n, np.nan), False),
        "inf": (np.full(n, np.inf), False),
        "text": (np.array(["<b>cat</b>", "dog"] * 5), False),
        "bytes": (np.array([b"cat", b"\xff"] * 5), False),
        "negative": (np.arange(n) - 5, False),
        "huge": (np.arange(n) * 2**59, False),
        "unsigned-huge": (np.full(n, 2**64 - 1, np.uint64), False),
        "complex": (np.arange(n) * 1j, False),
        "bool": (np.arange(n) % 2 == 0, False),
        "one-hot": (np.eye(n), False),
        "column": (np.arange(n)[:, None] % 3, False),
        "all-different": (np.arange(n), False),
        "all-equal": (np.zeros(n, int), False),
    }
    for variant, (value, fails) in labels.items():

        def make(folder: Path, value=value) -> Command:
            return _saved(folder, "x.npz", images=pixels(n), labels=value)

        yield Hostile("bad-labels", variant, make, fails)


@kind
def objects_in_arrays() -> Iterator[Hostile]:
    def objects(folder: Path, n: int = 4) -> np.ndarray:
        array = np.empty(n, object)
        array[:] = [Touch(folder)] * n
        return array

    for n in (1, 2, 4, 8, 16):

        def npy(folder: Path, n=n) -> Command:
            return _saved(folder, "x.npy", objects(folder, n))

        yield Hostile("objects-in-array", f"npy-{n}", npy, True)
    for name in ("images", "x", "data", "labels", "y", "names", "groups", "wnids"):

        def npz(folder: Path, name=name) -> Command:
            named = {"images": pixels(4)} | {name: objects(folder)}
            return _saved(folder, "x.npz", **named)

        yield Hostile("objects-in-array", f"npz-{name}", npz, None if name in {"x", "data", "y", "wnids"} else True)


@kind
def pickles_as_images() -> Iterator[Hostile]:
    data = {b"data": np.zeros((6, 3072), np.uint8), b"labels": [0, 1, 2, 0, 1, 2]}

    def with_code(folder: Path) -> dict:
        return {**data, b"extra": Touch(folder)}

    contents = {
        "bare": Touch,
        "in-dictionary": with_code,
        "as-data": lambda folder: {b"data": Touch(folder)},
        "as-labels": lambda folder: {**data, b"labels": Touch(folder)},
        "in-array": lambda folder: {**data, b"data": np.array([Touch(folder)], dtype=object)},
        "list": lambda folder: [1, 2, 3],
        "no-data": lambda folder: {b"labels": [1]},
        "wrong-width": lambda folder: {b"data": np.zeros((6, 3000), np.uint8)},
        "wrong-type": lambda folder: {b"data": np.zeros((6, 3072), np.float32)},
        "set": lambda folder: {**data, b"extra": {1, 2}},
        "class": lambda folder: {**data, b"extra": Path},
        "short-labels": lambda folder: {**data, b"labels": [0, 1]},
        "ragged-labels": lambda folder: {**data, b"labels": [[0], [1, 2]]},
    }
    for variant, content in contents.items():
        for protocol in (2, 4):

            def make(folder: Path, content=content, protocol=protocol) -> Command:
                return _raw(folder, "data_batch_1", pickle.dumps(content(folder), protocol))

            # Sets are plain in protocol 4; labels that cannot be read are left out.
            fails = None if variant in {"set", "ragged-labels"} else True
            yield Hostile("pickle-as-images", f"{variant}-{protocol}", make, fails)
    raw = {
        "system": b"\x80\x02cos\nsystem\nX\x0e\x00\x00\x00touch EXECUTEDq\x00\x85R.",
        "eval": b"\x80\x02c__builtin__\neval\nX\x03\x00\x00\x001+1\x85R.",
        "extension": b"\x80\x02\x82\x01.",
        "persistent": b"\x80\x02X\x01\x00\x00\x00aQ.",
        "codec": b"\x80\x02c_codecs\nencode\nX\x01\x00\x00\x00aX\x04\x00\x00\x00zlib\x86R.",
        "cut": b"\x80\x02}q\x00(U\x04data",
        "memo": b"\x80\x02h\xff.",
        "long": b"\x80\x02\x8b\xff\xff\xff\x7f.",
    }
    for variant, content in raw.items():

        def make_raw(folder: Path, content=content) -> Command:
            return _raw(folder, "data_batch_1", content)

        yield Hostile("pickle-as-images", variant, make_raw, True)
