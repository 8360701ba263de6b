"""A matplotlib figure as SVG that lives inside the page: its ink, its fonts and its ids are the page's."""

from __future__ import annotations

import io
import re
from xml.etree import ElementTree

import matplotlib as mpl
from markupsafe import Markup
from matplotlib.figure import Figure

from convscope.page.theme import CSS_OF_COLOUR, STYLE, clean

_SVG = "{http://www.w3.org/2000/svg}"
_HREF = "{http://www.w3.org/1999/xlink}href"
_COORDINATES = {"d", "x", "y", "x1", "y1", "x2", "y2", "width", "height", "points", "cx", "cy", "r"}
_LONG = re.compile(r"-?\d+\.\d{3,}")
_FONT = re.compile(r"(?:(?P<style>italic|oblique) )?(?:(?P<weight>bold|\d{3}) )?(?P<size>[\d.]+)px\b")
_KEPT_STYLES = {
    "fill", "fill-opacity", "fill-rule", "stroke", "stroke-width", "stroke-opacity", "stroke-dasharray",
    "stroke-dashoffset", "stroke-linecap", "stroke-linejoin", "stroke-miterlimit", "opacity", "text-anchor",
    "clip-path", "image-rendering", "font-size", "font-weight", "font-style",
}  # fmt: skip


def inline_svg(figure: Figure, prefix: str, alt: str) -> Markup:
    """Returns the figure as an SVG element for an HTML page; the same figure gives the same text.

    Text stays text and takes the page's font; the theme's colours become CSS variables; styles become attributes, so
    that the page's security policy need allow no inline style; ids begin with ``prefix``, so that figures do not
    collide.

    Args:
        figure: the figure; not changed.
        prefix: letters, digits and hyphens, unique on the page.
        alt: what a reader who cannot see it must know.
    """
    stream = io.StringIO()
    quiet = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    with mpl.rc_context({**STYLE, "svg.fonttype": "none", "svg.hashsalt": "convscope", "svg.image_inline": True}):
        figure.savefig(stream, format="svg", transparent=True, metadata=quiet)
    root = ElementTree.fromstring(stream.getvalue())
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag.rpartition("}")[2] in {"metadata", "style", "script", "foreignObject", "a"}:
                parent.remove(child)
    used = _used_ids(root)
    for element in root.iter():
        _adapt(element, prefix, used)
    view = root.get("viewBox", "0 0 1 1")
    root.attrib.clear()
    root.attrib.update({
        "viewBox": view,
        "class": "chart",
        "role": "img",
        "aria-label": clean(alt),
        "focusable": "false",
        "fill": "currentColor",  # matplotlib leaves out what is black
    })
    text = ElementTree.tostring(root, encoding="unicode")
    # Inside HTML the SVG element brings its own namespace.
    return Markup(re.sub(r"\s*\n\s*", " ", text))


def _used_ids(root: ElementTree.Element) -> set[str]:
    used: set[str] = set()
    for element in root.iter():
        for key, value in element.attrib.items():
            used.update(re.findall(r"url\(#([^)]+)\)", value))
            if key in {_HREF, "href"} and value.startswith("#"):
                used.add(value[1:])
    return used


def _adapt(element: ElementTree.Element, prefix: str, used: set[str]) -> None:
    element.tag = element.tag.removeprefix(_SVG)
    attributes = dict(element.attrib)
    for declaration in attributes.pop("style", "").split(";"):
        name, _, value = (part.strip() for part in declaration.partition(":"))
        if name == "font" and (font := _FONT.search(value)):
            attributes["font-size"] = font["size"]
            if font["weight"]:
                attributes["font-weight"] = font["weight"]
            if font["style"]:
                attributes["font-style"] = font["style"]
        elif name == "image-rendering":
            attributes[name] = "pixelated"
        elif name in _KEPT_STYLES:
            attributes[name] = value.removesuffix("px") if name == "font-size" else value
    element.attrib.clear()
    for name, value in attributes.items():
        kept = _adapted(name, value, prefix, used)
        if kept is not None:
            element.set(name if name != _HREF else "href", kept)
    for part in ("text", "tail"):
        content = getattr(element, part)
        if content is not None and not content.strip():
            setattr(element, part, None)


def _adapted(name: str, value: str, prefix: str, used: set[str]) -> str | None:
    """Returns an attribute's value as the page needs it, or None where the page does without."""
    if name == "id":
        return f"{prefix}-{value}" if value in used else None
    if name in {_HREF, "href"}:
        if value.startswith("#"):
            return f"#{prefix}-{value[1:]}"
        return re.sub(r"\s", "", value) if value.startswith("data:image/png;base64,") else None
    if name.startswith(("on", "{")):
        return None
    if name in {"fill", "stroke"} and value in CSS_OF_COLOUR:
        return CSS_OF_COLOUR[value]
    if name in _COORDINATES or (name == "transform" and "matrix" not in value):
        return _LONG.sub(lambda m: f"{float(m[0]):.2f}".rstrip("0").rstrip("."), value)
    return re.sub(r"url\(#([^)]+)\)", rf"url(#{prefix}-\1)", value)
