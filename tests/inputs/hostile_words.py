"""Hostile command lines: names, options, and saved pages."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

from inputs.hostile import NETWORK, Command, Hostile, good_images, good_weights, kind, with_images, with_model


@kind
def missing_files() -> Iterator[Hostile]:
    names = (
        "nowhere.npz",
        "nowhere.npy",
        "nowhere/",
        "no/where/at/all.npz",
        "nowhere_*.npz",
        "a.npz,b.npz",
        ",",
        "*",
        "~nobody/x.npz",
        "x" * 300 + ".npz",
    )
    for number, name in enumerate(names):

        def images(folder: Path, name=name) -> Command:
            return with_images(folder, str(folder / name) if not name.startswith((",", "*")) else name)

        yield Hostile("missing-file", f"images-{number}", images, None if name == "*" else True)

        def model(folder: Path, name=name) -> Command:
            return with_model(folder, str(folder / name.replace("npz", "pt")))

        yield Hostile("missing-file", f"model-{number}", model, True)


@kind
def wrong_files() -> Iterator[Hostile]:
    def swapped(folder: Path) -> Command:
        return Command("report", (good_images(folder),), good_weights(folder))

    def inside_file(folder: Path) -> Command:
        return with_images(folder, good_images(folder) + "/inside")

    def model_is_folder(folder: Path) -> Command:
        return with_model(folder, str(folder))

    def images_are_weights(folder: Path) -> Command:
        return with_images(folder, good_weights(folder))

    def single_picture(folder: Path) -> Command:
        (folder / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n")
        return with_images(folder, str(folder / "a.png"))

    def special(folder: Path, name: str = "/dev/zero") -> Command:
        return with_images(folder, name)

    def pipe(folder: Path) -> Command:
        os.mkfifo(folder / "pipe.npz")
        return with_images(folder, str(folder / "pipe.npz"))

    def pipe_model(folder: Path) -> Command:
        os.mkfifo(folder / "pipe.pt")
        return with_model(folder, str(folder / "pipe.pt"))

    def locked(folder: Path) -> Command:
        (folder / "locked").mkdir()
        (folder / "locked" / "x.npz").write_bytes(b"PK")
        (folder / "locked").chmod(0)
        return with_images(folder, str(folder / "locked"))

    def archive(folder: Path, name: str = "images.tar") -> Command:
        (folder / name).write_bytes(b"ustar" + bytes(600))
        return with_images(folder, str(folder / name))

    makers: dict[str, Callable[[Path], Command]] = {
        "swapped": swapped,
        "inside-file": inside_file,
        "model-is-folder": model_is_folder,
        "images-are-weights": images_are_weights,
        "single-picture": single_picture,
        "dev-zero": special,
        "dev-null": lambda folder: special(folder, "/dev/null"),
        "proc-mem": lambda folder: special(folder, "/proc/self/mem"),
        "pipe": pipe,
        "pipe-model": pipe_model,
        "locked-folder": locked,
        "tar": archive,
        "csv": lambda folder: archive(folder, "images.csv"),
        "parquet": lambda folder: archive(folder, "images.parquet"),
    }
    for variant, make in makers.items():
        yield Hostile("wrong-file", variant, make, True)


@kind
def unknown_names() -> Iterator[Hostile]:
    for name in (
        "torchvision:nope",
        "torchvision:resnet18;ls",
        "torchvision:../../x",
        "timm:nope",
        "timm:nope/x",
        "timm:hf-hub:no/where",
        "nowhere:factory",
        "os:nope",
        "os.path:join",
        "json:dumps",
        "math:pi",
        "builtins:print",
        "inputs.hostile:NETWORK",
        "inputs.hostile:small_network@nope",
        "inputs.hostile:small_network#prefix",
        "torchvision:resnet18@",
        "sys:modules",
    ):

        def model(folder: Path, name=name) -> Command:
            return with_model(folder, name)

        yield Hostile("unknown-name", f"model-{name}", model, True)
    for name in (
        "torchvision:nope",
        "torchvision:CIFAR10",
        "torchvision:CIFAR10:/nowhere",
        "hf:nope/nope",
        "hf:",
        "hf:../x",
        "nowhere:loader",
        "os:getcwd",
        "math:pi",
        "json:dumps",
        "builtins:dict",
        "builtins:list",
        "time:time",
    ):

        def images(folder: Path, name=name) -> Command:
            return with_images(folder, name)

        yield Hostile("unknown-name", f"images-{name}", images, True)


@kind
def bad_words() -> Iterator[Hostile]:
    words = (
        "",
        " ",
        ":",
        "@",
        "#",
        "::",
        "a:b:c",
        "@none",
        "#x",
        "a@b",
        "a#b",
        ":x",
        "x:",
        "\n",
        "-",
        "%s",
        "a:b@c#d@e#f",
        "http://example.org/x.npz",
        "C:\\images",
        "é:è",
        "x" * 5000,
    )
    for number, word in enumerate(words):

        def model(folder: Path, word=word) -> Command:
            return with_model(folder, word)

        def images(folder: Path, word=word) -> Command:
            return with_images(folder, word)

        yield Hostile("bad-word", f"model-{number}", model, True)
        yield Hostile("bad-word", f"images-{number}", images, True)


@kind
def bad_options() -> Iterator[Hostile]:
    options = (
        ("--limit", "0"),
        ("--limit", "-1"),
        ("--limit", "many"),
        ("--limit", "1e3"),
        ("--limit", "99999999999999999999"),
        ("--mean", "0.5,0.5"),
        ("--mean", ""),
        ("--mean", "nan"),
        ("--mean", "a,b,c"),
        ("--mean", "1,2,3,4"),
        ("--mean", "inf"),
        ("--std", "0"),
        ("--std", "-1"),
        ("--std", "0,0,0"),
        ("--std", "nan"),
        ("--std", "1,1"),
        ("--std", "1e-320"),
        ("--stride", "0"),
        ("--stride", "-1"),
        ("--stride", "x"),
        ("--stride", "1000"),
        ("--stride", "99999999999999999999"),
        ("--padding", "-1"),
        ("--padding", "x"),
        ("--padding", "100000"),
        ("--padding", "0"),
        ("--layer", ""),
        ("--layer", "nope"),
        ("--layer", "4"),
        ("--layer", "<b>"),
        ("--layer", "0.bias"),
        ("--device", "nope"),
        ("--device", "cuda:99"),
        ("--device", ""),
        ("--nonsense",),
        ("--limit",),
        ("-o", "/nowhere/x.html"),
        ("-o", "/dev/full"),
        ("-o", "."),
        ("--json", "/nowhere/x.json"),
        ("--init", ""),
    )
    may_work = {
        ("--padding", "0"),
        ("--stride", "1000"),
        ("--std", "1e-320"),
        ("--limit", "99999999999999999999"),
        ("--padding", "100000"),
    }
    for option in options:

        def make(folder: Path, option=option) -> Command:
            return with_model(folder, good_weights(folder), *option)

        yield Hostile("bad-option", "=".join(option), make, None if option in may_work else True)


@kind
def too_small_images() -> Iterator[Hostile]:
    import numpy as np

    for kernel in (5, 7, 11):
        for h, w in ((1, 1), (4, 4), (1, 30), (30, 1)):

            def make(folder: Path, kernel=kernel, h=h, w=w) -> Command:
                import torch
                from safetensors.torch import save_file

                save_file({"conv.weight": torch.randn(2, 3, kernel, kernel)}, folder / "w.safetensors")
                np.savez(
                    folder / "x.npz",
                    images=np.random.default_rng(0).integers(0, 256, (6, 3, h, w, 1))[..., 0].astype("uint8"),
                )
                return Command("report", (str(folder / "w.safetensors"),), str(folder / "x.npz"), ("--padding", "0"))

            yield Hostile("too-small-images", f"{h}x{w}-kernel-{kernel}", make, True)


_PAGES = {
    "empty": b"",
    "not-json": b"<html></html>",
    "truncated": b'{"schema": 1, "results": [',
    "list": b"[]",
    "null": b"null",
    "number": b"3",
    "text": b'"report"',
    "empty-object": b"{}",
    "not-a-number": b"NaN",
    "infinite": b'{"schema": Infinity}',
    "other-schema": b'{"schema": 999999}',
    "schema-text": b'{"schema": "<script>alert(1)</script>", "schema_version": "<b>"}',
    "html": b'{"schema": 1, "schema_version": 1, "title": "<script>alert(1)</script>", "results": [{"kind": "<b>"}]}',
    "unknown-kind": b'{"schema": 1, "schema_version": 1, "results": [{"kind": "os.system"}]}',
    "kind-list": b'{"schema": 1, "schema_version": 1, "results": [{"kind": ["a"]}]}',
    "deep": b"[" * 100000,
    "deep-closed": b'{"results":' * 500 + b"1" + b"}" * 500,
    "not-utf8": b"\xff\xfe\x00",
    "huge-number": b'{"schema": 1' + b"0" * 5000 + b"}",
    "pickle": b"\x80\x04cos\nsystem\n.",
    "repeated": b'{"results": 1, "results": []}',
}


@kind
def broken_pages() -> Iterator[Hostile]:
    for variant, content in _PAGES.items():

        def render(folder: Path, content=content) -> Command:
            (folder / "report.json").write_bytes(content)
            return Command("render", (str(folder / "report.json"),), options=("-o", str(folder / "out.html")))

        def compare(folder: Path, content=content) -> Command:
            (folder / "report.json").write_bytes(content)
            return Command("compare", (str(folder / "report.json"), str(folder / "report.json")))

        yield Hostile("broken-page", variant, render, True)
        yield Hostile("broken-page", f"{variant}-compare", compare, True)

    def missing(folder: Path) -> Command:
        return Command("render", (str(folder / "nowhere.json"),))

    yield Hostile("broken-page", "missing", missing, True)


@kind
def odd_comparisons() -> Iterator[Hostile]:
    import torch
    from safetensors.torch import save_file

    shapes = {
        "same-kernel": ((4, 3, 3, 3), (6, 3, 3, 3)),
        "other-kernel": ((4, 3, 3, 3), (4, 3, 5, 5)),
        "other-channels": ((4, 3, 3, 3), (4, 1, 3, 3)),
        "one-filter": ((1, 3, 3, 3), (1, 3, 3, 3)),
        "no-filter": ((4, 3, 3, 3), (0, 3, 3, 3)),
        "wide": ((4, 3, 3, 3), (4, 64, 3, 3)),
    }
    for variant, pair in shapes.items():
        for twice in (False, True):

            def make(folder: Path, pair=pair, twice=twice) -> Command:
                files = []
                for k, shape in enumerate(pair):
                    files.append(str(folder / f"{k}.safetensors"))
                    save_file({"conv.weight": torch.randn(shape)}, files[-1])
                return Command("compare", tuple(files * (2 if twice else 1)), good_images(folder))

            yield Hostile("odd-comparison", f"{variant}{'-twice' if twice else ''}", make)

    def alone(folder: Path) -> Command:
        return Command("compare", (good_weights(folder),), good_images(folder))

    def no_images(folder: Path) -> Command:
        return Command("compare", (good_weights(folder), NETWORK))

    def nothing(folder: Path) -> Command:
        return Command("compare")

    yield Hostile("odd-comparison", "alone", alone)
    yield Hostile("odd-comparison", "no-images", no_images, True)
    yield Hostile("odd-comparison", "nothing", nothing, True)
