"""Hostile folders of pictures."""

from __future__ import annotations

import io
import os
import struct
import zlib
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
from inputs.hostile import Command, Hostile, good_picture, kind, pixels, shuffled_bytes, with_images
from PIL import Image


def _data(folder: Path) -> Command:
    return Command("data", images=str(folder))


def _encoded(form: str, size: tuple[int, int] = (24, 24), mode: str = "RGB") -> bytes:
    out = io.BytesIO()
    Image.fromarray(pixels(1, *size)[0]).convert(mode).save(out, form)
    return out.getvalue()


def _write(file: Path, content: bytes) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content)
    return file


@kind
def truncated_picture() -> Iterator[Hostile]:
    for form, ending in (
        ("PNG", "png"),
        ("JPEG", "jpg"),
        ("BMP", "bmp"),
        ("GIF", "gif"),
        ("TIFF", "tif"),
        ("WEBP", "webp"),
    ):
        for share in (0.03, 0.5, 0.95):
            for company in (False, True):

                def make(folder: Path, form=form, ending=ending, share=share, company=company) -> Command:
                    content = _encoded(form)
                    _write(folder / "pictures" / f"bad.{ending}", content[: max(1, int(share * len(content)))])
                    if company:
                        for k in range(5):
                            good_picture(folder / "pictures" / f"{k}.png", (24, 24), k)
                    return with_images(folder, str(folder / "pictures"))

                # What is missing at the end may be a trailer that the pixels can do without.
                fails = False if company else True if share < 0.9 else None
                yield Hostile("truncated-picture", f"{ending}-{share}-{'with' if company else 'alone'}", make, fails)


@kind
def damaged_picture() -> Iterator[Hostile]:
    for seed in range(12):

        def make(folder: Path, seed=seed) -> Command:
            for k in range(4):
                content = bytearray(_encoded(("PNG", "JPEG", "GIF", "TIFF")[k]))
                for place in np.random.default_rng([seed, k]).integers(8, len(content), 6):
                    content[place] ^= 0x5A
                _write(folder / "pictures" / f"{k}.{('png', 'jpg', 'gif', 'tif')[k]}", bytes(content))
            good_picture(folder / "pictures" / "good.png", (24, 24))
            return with_images(folder, str(folder / "pictures"))

        yield Hostile("damaged-picture", str(seed), make, False)


@kind
def empty_folder() -> Iterator[Hostile]:
    def nothing(root: Path) -> None:
        root.mkdir()

    def nested(root: Path, depth: int = 3) -> None:
        (root / "/".join("abcdefgh"[:depth])).mkdir(parents=True)

    def one(root: Path, name: str = ".hidden.png", content: bytes = b"") -> None:
        _write(root / name, content)

    def dead_link(root: Path) -> None:
        root.mkdir()
        (root / "a.png").symlink_to(root / "nowhere.png")

    makers = {
        "bare": nothing,
        "nested": nested,
        "deep": partial(nested, depth=8),
        "hidden": partial(one, content=_encoded("PNG")),
        "hidden-folder": partial(one, name=".git/a.png", content=_encoded("PNG")),
        "text": partial(one, name="readme.txt", content=b"hello"),
        "zero-bytes": partial(one, name="a.png"),
        "no-ending": partial(one, name="picture", content=_encoded("PNG")),
        "unknown-ending": partial(one, name="a.heic", content=b"\0\0\0\x18ftypheic"),
        "dead-link": dead_link,
        "thumbs": partial(one, name="Thumbs.db", content=b"\xd0\xcf"),
        "empty-class": partial(one, name="class/notes.md", content=b"#"),
    }
    for variant, fill in makers.items():

        def make(folder: Path, fill=fill) -> Command:
            fill(folder / "pictures")
            return _data(folder / "pictures")

        yield Hostile("empty-folder", variant, make, True)


@kind
def few_pictures() -> Iterator[Hostile]:
    for classes in (0, 1, 2, 3, 5):
        for each in (1, 2, 3):

            def make(folder: Path, classes=classes, each=each) -> Command:
                for c in range(max(classes, 1)):
                    for k in range(each):
                        good_picture(
                            folder / "pictures" / (f"class{c}" if classes else "") / f"{k}.png", seed=7 * c + k
                        )
                return with_images(folder, str(folder / "pictures"))

            yield Hostile("few-pictures", f"{classes}-classes-{each}-each", make)


@kind
def tiny_pictures() -> Iterator[Hostile]:
    for h, w in (
        (1, 1),
        (1, 2),
        (2, 1),
        (2, 2),
        (1, 40),
        (40, 1),
        (3, 3),
        (2, 3),
        (1, 3000),
        (3000, 1),
        (4, 1),
        (1, 5),
    ):

        def make(folder: Path, h=h, w=w) -> Command:
            for k in range(6):
                good_picture(folder / "pictures" / f"{k}.png", (h, w), k)
            command = with_images(folder, str(folder / "pictures"))
            return Command(command.command, command.models, command.images, ("--padding", "0"))

        yield Hostile("tiny-pictures", f"{h}x{w}", make)


def _png_header(w: int, h: int, depth: int = 8, colour: int = 2, data: bytes = b"") -> bytes:
    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", w, h, depth, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def _bmp_header(w: int, h: int) -> bytes:
    return (
        b"BM"
        + struct.pack("<IHHI", 60, 0, 0, 54)
        + struct.pack("<IiiHHIIiiII", 40, w, h, 1, 24, 0, 6, 0, 0, 0, 0)
        + b"\0" * 6
    )


def _tiff_header(w: int, h: int) -> bytes:
    tags = (
        (256, 4, w),
        (257, 4, h),
        (258, 3, 8),
        (259, 3, 1),
        (262, 3, 1),
        (273, 4, 8),
        (277, 3, 1),
        (278, 4, h),
        (279, 4, 4),
    )
    entries = b"".join(struct.pack("<HHII", tag, kind_, 1, value & 0xFFFFFFFF) for tag, kind_, value in tags)
    return b"II*\0" + struct.pack("<I", 8) + struct.pack("<H", len(tags)) + entries + b"\0\0\0\0"


@kind
def decompression_bomb() -> Iterator[Hostile]:
    def zeros(n: int) -> bytes:
        return zlib.compress(b"\0" * n, 9)

    bombs: dict[str, tuple[str, bytes]] = {
        "png-50000x50000": ("a.png", _png_header(50000, 50000, data=zeros(10**6))),
        "png-2e9x1": ("a.png", _png_header(2**31 - 1, 1, data=zeros(1000))),
        "png-1x2e9": ("a.png", _png_header(1, 2**31 - 1, data=zeros(1000))),
        "png-0x0": ("a.png", _png_header(0, 0)),
        "png-one-bit": ("a.png", _png_header(200000, 200000, 1, 0, zeros(10**6))),
        "png-16-bit": ("a.png", _png_header(30000, 30000, 16, 2, zeros(10**6))),
        "png-just-below": ("a.png", _png_header(9400, 9400, data=zeros(1000))),
        "bmp": ("a.bmp", _bmp_header(100000, 100000)),
        "bmp-negative": ("a.bmp", _bmp_header(100000, -100000)),
        "bmp-2e9": ("a.bmp", _bmp_header(2**31 - 1, 2**31 - 1)),
        "gif": (
            "a.gif",
            b"GIF89a" + struct.pack("<HHBBB", 65535, 65535, 0, 0, 0) + b",\0\0\0\0\xff\xff\xff\xff\0\x02\x00;",
        ),
        "ppm": ("a.ppm", b"P6 100000 100000 255\n\0\0\0"),
        "ppm-digits": ("a.ppm", b"P6 " + b"9" * 40 + b" 9 255\n\0"),
        "tiff": ("a.tif", _tiff_header(100000, 100000)),
        "tiff-2e9": ("a.tif", _tiff_header(2**31 - 1, 2**31 - 1)),
    }
    for variant, (name, content) in bombs.items():

        def make(folder: Path, name=name, content=content) -> Command:
            _write(folder / "pictures" / name, content)
            return _data(folder / "pictures")

        yield Hostile("decompression-bomb", variant, make, True)

        def make_with(folder: Path, name=name, content=content) -> Command:
            _write(folder / "pictures" / name, content)
            for k in range(4):
                good_picture(folder / "pictures" / f"good{k}.png", seed=k)
            return _data(folder / "pictures")

        yield Hostile("decompression-bomb", f"{variant}-among-good", make_with, False)


_NAMES = (
    "<script>alert(1)<script>",
    "<img src=x onerror=alert(1)>",
    "a&b\"c'd",
    "two\nlines",
    "tab\tand\rreturn",
    "  spaces  ",
    "-rf",
    "--help",
    "ünïcödé-日本語-🎉",
    "\u202egnp.exe",
    "{{7*7}}${7*7}%s%n",
    "javascript:alert(1)",
    "a" * 200,
    "\x1b[31mred",
)


@kind
def strange_file_names() -> Iterator[Hostile]:
    for number, name in enumerate(_NAMES):

        def make(folder: Path, name=name) -> Command:
            for k in range(3):
                good_picture(folder / "pictures" / f"{name}{k}.png", seed=k)
            _write(folder / "pictures" / f"{name}.jpg", b"no picture")
            return _data(folder / "pictures")

        yield Hostile("strange-file-name", str(number), make, False)

    def not_utf8(folder: Path) -> Command:
        good_picture(folder / "pictures" / "good.png")
        Path(os.fsdecode(os.fsencode(folder / "pictures") + b"/\xff\xfe.png")).write_bytes(b"no picture")
        return _data(folder / "pictures")

    yield Hostile("strange-file-name", "not-utf8", not_utf8, False)


@kind
def strange_class_names() -> Iterator[Hostile]:
    for number, name in enumerate(_NAMES):

        def make(folder: Path, name=name) -> Command:
            for c in (name, "plain"):
                for k in range(3):
                    good_picture(folder / "pictures" / c / f"{k}.png", seed=k)
            return with_images(folder, str(folder / "pictures"))

        yield Hostile("strange-class-name", str(number), make, False)


@kind
def links_and_pipes() -> Iterator[Hostile]:
    def loop(root: Path) -> None:
        (root / "a").mkdir()
        (root / "a" / "again").symlink_to(root)

    def mutual(root: Path) -> None:
        (root / "a").symlink_to(root / "b")
        (root / "b").symlink_to(root / "a")

    def parent(root: Path) -> None:
        (root / "up").symlink_to("..")

    def itself(root: Path) -> None:
        (root / "self.png").symlink_to("self.png")

    def device(root: Path, name: str = "/dev/zero") -> None:
        (root / "device.png").symlink_to(name)

    def pipe(root: Path) -> None:
        os.mkfifo(root / "pipe.png")

    def directory(root: Path, name: str = "folder.png") -> None:
        good_picture(root / name / "inside.png")

    def twice(root: Path) -> None:
        good_picture(root / "a" / "x.png")
        (root / "b").symlink_to(root / "a")

    def chain(root: Path) -> None:
        for k in range(60):
            (root / f"l{k}.png").symlink_to(root / f"l{k + 1}.png")

    makers = {
        "loop": loop,
        "mutual": mutual,
        "parent": parent,
        "self": itself,
        "zero": device,
        "random": partial(device, name="/dev/urandom"),
        "null": partial(device, name="/dev/null"),
        "proc": partial(device, name="/proc/self/mem"),
        "pipe": pipe,
        "folder.png": directory,
        "folder.npz": partial(directory, name="folder.npz"),
        "folder-twice": twice,
        "chain": chain,
    }
    for variant, fill in makers.items():

        def make(folder: Path, fill=fill) -> Command:
            good_picture(folder / "pictures" / "good.png")
            fill(folder / "pictures")
            return _data(folder / "pictures")

        yield Hostile("link-or-pipe", variant, make, False)


@kind
def not_pictures() -> Iterator[Hostile]:
    eps = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(EXECUTED) (w) file closefile\n"
    contents = {
        "zero-bytes": b"",
        "text": b"this is no picture",
        "html": b"<html><script>alert(1)</script></html>",
        "random": shuffled_bytes(5000, 1),
        "svg": b'<svg xmlns="http://www.w3.org/2000/svg"/>',
        "eps": eps,
        "pdf": b"%PDF-1.4\n%%EOF",
        "elf": b"\x7fELF" + bytes(100),
        "zip": b"PK\x03\x04" + bytes(50),
        "pickle": b"\x80\x04cos\nsystem\n",
        "png-magic": b"\x89PNG\r\n\x1a\n",
        "jpeg-magic": b"\xff\xd8\xff\xe0",
        "gif-magic": b"GIF89a",
        "tiff-magic": b"II*\0\xff\xff\xff\xff",
        "nulls": bytes(1000),
    }
    for variant, content in contents.items():

        def make(folder: Path, content=content) -> Command:
            _write(folder / "pictures" / "a.png", content)
            return _data(folder / "pictures")

        yield Hostile("no-picture", variant, make, True)


@kind
def mixed_sizes() -> Iterator[Hostile]:
    sizes = ((8, 8), (9, 7), (1, 1), (64, 3), (3, 64), (30, 30), (1, 200), (17, 16))
    for seed in range(12):

        def make(folder: Path, seed=seed) -> Command:
            for k in range(6):
                good_picture(folder / "pictures" / f"{k}.png", sizes[(seed * (k + 1) + k) % len(sizes)], k)
            return with_images(folder, str(folder / "pictures"))

        yield Hostile("mixed-sizes", str(seed), make)


@kind
def mixed_modes() -> Iterator[Hostile]:
    forms = (
        ("1", "png"),
        ("L", "png"),
        ("LA", "png"),
        ("P", "png"),
        ("RGBA", "png"),
        ("I;16", "png"),
        ("CMYK", "jpg"),
        ("L", "jpg"),
        ("F", "tif"),
        ("I", "tif"),
        ("P", "gif"),
        ("YCbCr", "jpg"),
        ("LAB", "tif"),
        ("I;16", "tif"),
        ("RGB", "webp"),
        ("L", "pgm"),
    )
    for k in range(len(forms)):

        def make(folder: Path, k=k) -> Command:
            for j in range(3):
                mode, ending = forms[(k + 5 * j) % len(forms)]
                (folder / "pictures").mkdir(exist_ok=True)
                picture = Image.fromarray(pixels(1)[0])
                if mode == "LAB":
                    picture = Image.frombytes("LAB", (8, 8), bytes(192))
                elif mode == "I;16":
                    picture = Image.fromarray(pixels(1, c=1)[0, ..., 0].astype(np.uint16) * 257)
                else:
                    picture = picture.convert("L" if mode in {"F", "I"} else "RGB").convert(mode)
                picture.save(folder / "pictures" / f"{j}.{ending}")
            return with_images(folder, str(folder / "pictures"))

        yield Hostile("mixed-modes", str(k), make)


@kind
def constant_pictures() -> Iterator[Hostile]:
    for value in (0, 1, 127, 254, 255):
        for each in (False, True):
            for c in (1, 3):

                def make(folder: Path, value=value, each=each, c=c) -> Command:
                    images = np.full((10, 8, 8, c), value, np.uint8)
                    if each:
                        images += np.arange(10, dtype=np.uint8)[:, None, None, None]
                    np.save(folder / "flat.npy", images)
                    return with_images(folder, str(folder / "flat.npy"))

                yield Hostile("constant-pictures", f"{value}-{'each' if each else 'all'}-{c}", make)
