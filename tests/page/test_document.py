import base64
import hashlib
import re
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
from page.fakes import HOSTILE, Bare, FakeResult, report, strip

from convscope.core.coverage import Coverage
from convscope.core.results import Definition, Finding, Number
from convscope.page.charts import Chart
from convscope.page.document import LARGEST_PAGE

VOID = {"meta", "img", "br", "hr", "link", "input"}


class Page(HTMLParser):
    """What a browser would see: elements, ids, links, text; tags must nest."""

    def __init__(self, html):
        super().__init__()
        self.ids, self.elements, self.open, self.text = [], [], [], []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.elements.append((tag, attrs))
        if "id" in attrs:
            self.ids.append(attrs["id"])
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] not in {"style", "script"}:
            self.text.append(data)

    def all(self, tag):
        return [attrs for name, attrs in self.elements if name == tag]


@pytest.fixture(scope="module")
def html():
    return report().html()


@pytest.fixture(scope="module")
def page(html):
    return Page(html)


@pytest.fixture(scope="module")
def hostile():
    return report(hostile=True).html()


def test_document_is_well_formed(html, page):
    assert html.startswith("<!doctype html>")
    assert not page.open
    assert len(page.ids) == len(set(page.ids))
    assert page.all("html") == [{"lang": "en"}]
    assert "<title>small CNN · convscope</title>" in html


def test_all_links_inside_the_page_resolve(page):
    targets = [a["href"][1:] for a in page.all("a") if a["href"].startswith("#")]
    assert len(targets) > 10
    assert set(targets) <= set(page.ids)
    for _, attrs in page.elements:
        for value in attrs.values():
            for used in re.findall(r"url\(#([^)]*)\)", value or ""):
                assert used in page.ids


@pytest.mark.parametrize("which", ["html", "hostile"])
def test_nothing_is_loaded_from_outside(which, request):
    for tag, attrs in Page(request.getfixturevalue(which)).elements:
        for name in ("src", "href", "srcset", "poster", "data", "action"):
            value = attrs.get(name)
            if value is None:
                continue
            if tag == "a" and value.startswith("https://arxiv.org/abs/"):
                assert attrs["rel"] == "noopener noreferrer"
            else:
                assert value.startswith(("#", "data:image/png;base64,")), (tag, name, value[:60])
        assert tag not in {"link", "iframe", "object", "embed", "base", "form"}
        assert not [a for a in attrs if a.startswith("on") or a == "style"]


def test_policy_forbids_everything_but_this_page(html, page):
    policy = next(m["content"] for m in page.all("meta") if m.get("http-equiv") == "Content-Security-Policy")
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == "'none'"
    assert rules["img-src"] == "data:"
    for element, rule in (("style", "style-src"), ("script", "script-src")):
        (content,) = re.findall(rf"<{element}>(.*?)</{element}>", html, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert rules[rule] == f"'sha256-{digest}'"
    # The policy must come before anything that it is to govern.
    assert html.index("Content-Security-Policy") < html.index("<title>")


def test_everything_from_strangers_is_escaped(hostile):
    page = Page(hostile)
    assert not page.open
    assert "evil.example" in "".join(page.text)
    assert len(page.all("script")) == 1
    assert all(attrs["src"].startswith("data:") for attrs in page.all("img"))
    assert HOSTILE not in hostile
    assert len(page.ids) == len(set(page.ids))


def test_order_of_the_page(html):
    marks = [
        "<h1>small CNN</h1>",
        'alt="Image 1 as',
        "In five sentences",
        '<h2 id="s1">',
        "more figures",
        '<h2 id="layers">',
        '<h2 id="skipped">',
        '<h2 id="definitions">',
        '<h2 id="provenance">',
    ]
    places = [html.index(mark) for mark in marks]
    assert places == sorted(places)


def test_numbers_link_to_their_definitions(page, html):
    links = [a["href"] for a in page.all("a") if a.get("class") == "value"]
    assert {"#d1-1", "#d1-2", "#d1-3"} == set(links)
    assert "0.941 ± 0.012" in html
    assert "chance 0.1 to 0.5 (random filters)" in html


def test_every_figure_has_caption_and_alt(page):
    charts = [a for a in page.all("svg") if a.get("class", "").startswith("chart")]
    assert len(charts) == len(FakeResult().figures())
    assert all(chart["role"] == "img" and chart["aria-label"] for chart in charts)
    assert len(page.all("figcaption")) == len(charts) + 1


def test_page_needs_no_javascript(html):
    without = re.sub(r"<script>.*?</script>", "", html, flags=re.DOTALL)
    assert "<button" not in without
    assert without.count("<details") == without.count("<summary") > 5


def test_skips_and_coverage_are_told(page):
    text = " ".join("".join(page.text).split())
    assert "head.fc" in text
    assert "its weights are all zero: train it first" in text
    assert "1,200 of 1,203 read, 1 unreadable" in text
    assert "1 image could not be read" in text
    assert "convscope report small CNN" in text


def test_an_interrupted_run_says_so():
    whole = report(Bare())
    cut = type(whole)(whole.head, whole.results, Coverage(300, 1000, complete=False), whole.provenance)
    assert "every number here rests on 300 of 1,000 images" in cut.html()


def test_same_report_gives_the_same_bytes(html):
    assert report().html() == html


def test_two_results_share_a_page():
    page = Page(report(FakeResult(), FakeResult(name="conv2", seed=3)).html())
    assert len(page.ids) == len(set(page.ids))
    assert {"s1", "s2", "d1-1", "d2-1"} <= set(page.ids)


def test_a_page_of_almost_nothing(tmp_path):
    empty = report(Bare(), network="", classes=(), strip=strip(0), notes=(), skipped=())
    path = empty.save(tmp_path / "report.html")
    page = Page(path.read_text("utf-8"))
    assert set(re.findall(r"#([\w-]+)", " ".join(a["href"] for a in page.all("a")))) <= set(page.ids)
    assert "No theory had anything to say" in "".join(page.text)


class Broken(Bare):
    def figures(self):
        chart = Chart(caption="c", alt="a")
        chart.savefig = None
        return {"broken": chart}

    def findings(self):
        return [Finding("A sentence.", Number(0.5, definition="nowhere"))]


class MoreBroken(Bare):
    def figures(self):
        raise RuntimeError("<b>no</b>")


def test_a_figure_that_fails_does_not_take_the_page_along():
    html = report(Broken(), MoreBroken()).html()
    assert "This figure could not be drawn (TypeError" in html
    assert "The figures could not be drawn (RuntimeError: &lt;b&gt;no&lt;/b&gt;)" in html
    assert "A sentence." in html


class Heavy(Bare):
    def to_frame(self):
        rng = np.random.default_rng(0)
        return pd.DataFrame({f"column {j}": rng.normal(size=3000) for j in range(60)})

    def figures(self):
        rng = np.random.default_rng(0)
        charts = {}
        for i in range(8):
            data = {f"curve {j}": rng.normal(size=3000).tolist() for j in range(60)}
            charts[f"figure {i}"] = chart = Chart(caption=f"figure {i}", alt="a", data=data)
            chart.add_subplot().plot(rng.normal(size=900))
        return charts


def test_a_page_stays_small_and_says_what_gave_way():
    html = report(Heavy()).html()
    assert len(html.encode()) < LARGEST_PAGE
    assert "To keep this page small" in html
    assert "figure 0" in html


def test_large_images_are_reduced_in_the_strip():
    rng = np.random.default_rng(0)
    html = report(Bare(), strip=rng.integers(0, 255, (8, 512, 384, 3), dtype=np.uint8)).html()
    assert len(html.encode()) < LARGEST_PAGE


def test_sources_link_only_to_papers():
    class Sources(Bare):
        def definitions(self):
            source = "https://evil.example/x <a href=x> https://arxiv.org/abs/2303.00001. arXiv:2303.02034, javascript:"
            return {"a": Definition("n", "f\ng", source)}

    html = report(Sources()).html()
    links = [a["href"] for a in Page(html).all("a") if not a["href"].startswith("#")]
    assert links == ["https://arxiv.org/abs/2303.00001", "https://arxiv.org/abs/2303.02034"]
    assert "f\ng" in html


def test_notebook_shows_the_page_in_a_frame():
    shown = report(Bare())._repr_html_()
    frame = Page(shown)
    (attrs,) = frame.all("iframe")
    assert attrs["srcdoc"].startswith("<!doctype html>")
    assert "allow-same-origin" not in attrs["sandbox"]
