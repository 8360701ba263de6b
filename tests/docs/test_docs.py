"""What the documentation shows: its Python runs, its commands exist, and its site needs nothing from elsewhere."""

import copy
import re
import shlex
from functools import cache
from html.parser import HTMLParser
from pathlib import Path

import click
import pytest
import torch
from sybil import Sybil
from sybil.parsers.markdown import PythonCodeBlockParser, SkipParser
from torch.utils.data import DataLoader, TensorDataset

from convscope.bottleneck.compress import compress
from convscope.cli import main
from convscope.core.network import Network
from convscope.inputs.photographs import photographs
from convscope.training.loop import train
from convscope.training.networks import build

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
SLOW = {"README.md", "docs/start.md"}  # whole reports
CODE = Sybil([PythonCodeBlockParser(), SkipParser()])


def titled(pages):
    names = {str(page.relative_to(ROOT)): page for page in pages}
    return [pytest.param(page, id=name, marks=[pytest.mark.slow] * (name in SLOW)) for name, page in names.items()]


@cache
def network_and_images():
    crops = photographs(320, size=12)
    images, labels = (t[crops.labels < 3] for t in (crops.images, crops.labels))
    torch.manual_seed(0)
    untrained = build("small_resnet", classes=3, width=8)
    model = copy.deepcopy(untrained)
    train(model, images, labels, epochs=2, momentum=0.9, batch_size=20, progress=False)
    return model.eval(), untrained.eval(), images, labels


def taken_for_granted():
    """Returns what readers have already: a network, its images, and what was kept of its training."""
    model, untrained_copy, images, labels = copy.deepcopy(network_and_images())
    compress(Network("small", model), images, tolerance=0.9).save(Path("small.safetensors"))
    return {
        "model": model,
        "untrained_copy": untrained_copy,
        "first_weights": untrained_copy.conv1.weight,
        "images": images,
        "labels": labels,
        "others": images[:20],
        "loader": DataLoader(TensorDataset(images, labels), batch_size=40),
        "probes": (images, labels),
    }


@pytest.mark.parametrize("page", titled(page for page in PAGES if "```python" in page.read_text("utf-8")))
def test_python_on_the_page_runs(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    document = CODE.parse(page)
    document.namespace.update(taken_for_granted())
    for example in document.examples():
        example.evaluate()


def commands(text):
    """Returns the command lines in code blocks, and in code inside of sentences."""
    fenced = re.findall(r"^```[^\n]*\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    blocks = "\n".join([*fenced, *re.findall(r"^    +\S.*$", text, re.MULTILINE)]).replace("\\\n", " ")
    lines = [line.strip().removeprefix("$ ") for line in blocks.splitlines()]
    inside = [" ".join(code.split()) for code in re.findall(r"(?<!`)`(convscope [^`]+)`", text)]
    return [line for line in [*lines, *inside] if re.match(r"(\S*/)?convscope [a-z]|torchrun .* -m convscope ", line)]


@pytest.mark.parametrize("page", titled(page for page in PAGES if commands(page.read_text("utf-8"))))
def test_commands_on_the_page_exist(page):
    for line in commands(page.read_text("utf-8")):
        words = shlex.split(re.sub(r"[][]|\.\.\.| [|>] .*", "", line), comments=True)
        words = words[next(i for i, word in enumerate(words) if word.endswith("convscope")) + 1 :]
        with click.Context(main, info_name="convscope") as context:
            name, command, arguments = main.resolve_command(context, words)
            if arguments:  # a name alone is no command line
                command.make_context(name, arguments, parent=context)


def test_a_command_that_does_not_exist_is_noticed(tmp_path):
    page = tmp_path / "page.md"
    for line in ("convscope repport M", "convscope report M --dat I", "convscope data I --kernel three"):
        page.write_text(f"```console\n$ {line}\n```\n")
        with pytest.raises(click.UsageError):
            test_commands_on_the_page_exist(page)


class Resources(HTMLParser):
    """Collects what a page would load, those of pages inside of it included."""

    def __init__(self, page):
        super().__init__()
        self.found = []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        given = {name: value or "" for name, value in attrs}
        names = ("src", "srcset", "data", "poster", *(["href"] if tag in {"link", "image", "use"} else []))
        self.found += [given[name] for name in names if name in given]
        self.found += re.findall(r"url\(([^)]*)", given.get("style", ""))
        if "srcdoc" in given:
            self.found += Resources(given["srcdoc"]).found


def from_outside(resources):
    return [url for url in resources if re.match(r"""["']?\s*(https?:)?//""", url)]


def test_resources_from_outside_are_noticed():
    page = '<link href="https://a/b.css"><p style="background: url(//c/d.png)"><iframe srcdoc="<img src=https://e>">'
    assert from_outside(Resources(page + '<script src="a.js"></script><a href="https://fine">').found) == [
        "https://a/b.css",
        "//c/d.png",
        "https://e",
    ]


@pytest.mark.slow
def test_the_site_loads_nothing_from_outside(tmp_path):
    from mkdocs.commands.build import build as build_site
    from mkdocs.config import load_config

    build_site(load_config(str(ROOT / "mkdocs.yml"), site_dir=str(tmp_path), strict=True))
    pages, styles = list(tmp_path.rglob("*.html")), list(tmp_path.rglob("*.css"))
    assert len(pages) > 20
    assert styles
    for page in pages:
        assert not from_outside(Resources(page.read_text("utf-8")).found), page
    for style in styles:
        text = style.read_text("utf-8")
        assert not from_outside([*re.findall(r"url\(([^)]*)", text), *re.findall(r"@import\s+(\S+)", text)]), style
